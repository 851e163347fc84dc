//! How a relay is reached, from its URL.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use super::tls;
use crate::config::{AuthMechanism, Place, Relay};

/// How a relay is reached.
#[derive(Clone)]
pub struct SmtpSettings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Tls,
    pub(super) pipelining: Pipelining,
    pub(super) login: Option<Login>,
    pub(super) auth: Option<AuthMechanism>,
    pub(super) timeout: Duration,
    authorities: Vec<CertificateDer<'static>>,
    /// Made at the first session that needs it; clones share it.
    client: Arc<OnceLock<Result<Arc<ClientConfig>, String>>>,
}

/// User and password (or token).
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Why a relay's settings cannot be used.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingsProblem {
    /// Where the mistake stands, if in a file.
    pub place: Option<Place>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for SettingsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// Never.
    None,
    /// STARTTLS where offered, without checking the certificate: against listeners only (RFC 7435).
    /// Where the handshake fails, a new session goes on in clear text, as mail servers do among
    /// themselves; never with a login.
    Opportunistic,
    /// STARTTLS or nothing, certificate checked.
    Required,
    /// TLS from the first byte, certificate checked.
    Implicit,
}

/// How much is written before a reply is read, where the server offers PIPELINING.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pipelining {
    /// The next envelope travels with a message.
    Chain,
    /// The three commands of an envelope go together.
    Group,
    /// One command at a time, for servers that offer more than they can.
    Off,
}

impl fmt::Debug for SmtpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({:?})", self.host, self.port, self.tls)
    }
}

impl fmt::Display for SmtpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl SmtpSettings {
    /// Parses `smtp://user:password@host:port?tls=required|opportunistic|none` or `smtps://..`;
    /// `pipelining=chain|group|off` holds back for servers that offer more than they can.
    /// `timeout` bounds every wait but the one for the final reply.
    pub fn parse(text: &str, timeout: Duration) -> Result<SmtpSettings, String> {
        let url = url::Url::parse(text).map_err(|error| format!("not an SMTP address: {error}"))?;
        let mut tls = match url.scheme() {
            "smtp" => Tls::Opportunistic,
            "smtps" => Tls::Implicit,
            other => return Err(format!("`{other}://` is not an SMTP address; write `smtp://host:port` or `smtps://host`")),
        };
        let mut pipelining = Pipelining::Chain;
        for (key, value) in url.query_pairs() {
            match (key.as_ref(), value.as_ref()) {
                ("tls", "required") if tls != Tls::Implicit => tls = Tls::Required,
                ("tls", "opportunistic") if tls != Tls::Implicit => tls = Tls::Opportunistic,
                ("tls", "none") if tls != Tls::Implicit => tls = Tls::None,
                ("tls", "required") => {}
                ("tls", other) => return Err(format!("`tls={other}` is not known; write `required`, `opportunistic` or `none`")),
                ("pipelining", "chain") => pipelining = Pipelining::Chain,
                ("pipelining", "group") => pipelining = Pipelining::Group,
                ("pipelining", "off") => pipelining = Pipelining::Off,
                ("pipelining", other) => return Err(format!("`pipelining={other}` is not known; write `chain`, `group` or `off`")),
                (other, _) => return Err(format!("`{other}` is not an option of an SMTP address; there are `tls` and `pipelining`")),
            }
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("the SMTP address names no host")?;
        let decode = |text: &str| percent_decode(text);
        let login = (!url.username().is_empty())
            .then(|| Login { user: decode(url.username()), password: decode(url.password().unwrap_or_default()) });
        let port = url.port().unwrap_or(match tls {
            Tls::Implicit => 465,
            _ if login.is_some() => 587,
            _ => 25,
        });
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(SmtpSettings { host, port, tls, pipelining, login, auth: None, timeout, authorities: Vec::new(), client: Arc::default() })
    }

    /// The settings of a relay of the configuration in `config_dir`, where a relative `ca_file` starts.
    ///
    /// # Errors
    /// What is wrong with its URL, its `ca_file` or its `auth`.
    pub fn from_relay(relay: &Relay, config_dir: &Path) -> Result<SmtpSettings, SettingsProblem> {
        let at = |place: &Option<Place>, message: String| SettingsProblem { place: place.clone(), message };
        let timeout = Duration::from_secs(u64::from(relay.timeout_seconds));
        let mut settings = SmtpSettings::parse(&relay.url.value, timeout).map_err(|message| at(&relay.url.place, message))?;
        if let Some(file) = &relay.ca_file {
            let path = config_dir.join(&file.value);
            let pem = std::fs::read(&path).map_err(|error| at(&file.place, format!("cannot read `{}`: {error}", path.display())))?;
            let named = |message| at(&file.place, format!("`{}`: {message}", file.value));
            settings = settings.with_ca(&pem).map_err(named)?;
        }
        if let Some(mechanism) = relay.auth {
            settings = settings.with_auth(mechanism).map_err(|message| at(&relay.url.place, message))?;
        }
        Ok(settings)
    }

    /// Trusts the authorities of a PEM file besides the web's.
    ///
    /// # Errors
    /// What is wrong with the file, or that nothing would be checked against it.
    pub fn with_ca(mut self, pem: &[u8]) -> Result<SmtpSettings, String> {
        if !matches!(self.tls, Tls::Required | Tls::Implicit) {
            return Err(
                "`ca_file` has no effect unless certificates are checked: write `smtp://..?tls=required` or `smtps://..`".to_owned()
            );
        }
        self.authorities = tls::certificates(pem)?;
        self.client = Arc::default();
        Ok(self)
    }

    /// Signs in this way only; with XOAUTH2 the password is the token.
    ///
    /// # Errors
    /// There is nobody to sign in as.
    pub fn with_auth(mut self, mechanism: AuthMechanism) -> Result<SmtpSettings, String> {
        if self.login.is_none() {
            return Err("`auth` needs a user and a password in the URL: `smtp://user:password@host`".to_owned());
        }
        self.auth = Some(mechanism);
        Ok(self)
    }

    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, String> {
        let check = self.tls != Tls::Opportunistic;
        self.client.get_or_init(|| tls::client(check, &self.authorities)).clone()
    }
}

fn percent_decode(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
