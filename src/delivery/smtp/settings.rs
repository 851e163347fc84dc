//! How a relay is reached, from its URL.

use std::fmt;
use std::time::Duration;

use lettre::transport::smtp::authentication::Credentials;

/// How a relay is reached, from its URL.
#[derive(Clone)]
pub struct SmtpSettings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Tls,
    pub(super) pipelining: Pipelining,
    pub(super) credentials: Option<Credentials>,
    pub(super) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// Never.
    None,
    /// STARTTLS where offered, without checking the certificate (it protects against listeners only).
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
        let credentials =
            (!url.username().is_empty()).then(|| Credentials::new(decode(url.username()), decode(url.password().unwrap_or_default())));
        let port = url.port().unwrap_or(match tls {
            Tls::Implicit => 465,
            _ if credentials.is_some() => 587,
            _ => 25,
        });
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(SmtpSettings { host, port, tls, pipelining, credentials, timeout })
    }
}

fn percent_decode(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
