//! One SMTP session: lettre's connection over a socket of our own.
//!
//! lettre's pool never sets TCP_NODELAY (44 ms a message on loopback) and closes a connection on any
//! 4xx or 5xx, so sessions are driven command by command here, with MAIL, RCPT and DATA in one write
//! where the server offers PIPELINING (RFC 2920).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, TlsParameters};
use lettre::transport::smtp::commands::Ehlo;
use lettre::transport::smtp::extension::ClientId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The final reply may take this long (RFC 5321 section 4.5.3.2.6: 10 minutes).
const FINAL_REPLY_TIMEOUT: Duration = Duration::from_secs(600);

/// How a relay is reached, from its URL.
#[derive(Clone)]
pub struct SmtpSettings {
    host: String,
    port: u16,
    tls: Tls,
    credentials: Option<Credentials>,
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// Never.
    None,
    /// STARTTLS where offered, without checking the certificate (it protects against listeners only).
    Opportunistic,
    /// STARTTLS or nothing, certificate checked.
    Required,
    /// TLS from the first byte, certificate checked.
    Implicit,
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
    /// Parses `smtp://user:password@host:port?tls=required|opportunistic|none` or `smtps://..`.
    /// `timeout` bounds every wait but the one for the final reply.
    pub fn parse(text: &str, timeout: Duration) -> Result<SmtpSettings, String> {
        let url = url::Url::parse(text).map_err(|error| format!("not an SMTP address: {error}"))?;
        let mut tls = match url.scheme() {
            "smtp" => Tls::Opportunistic,
            "smtps" => Tls::Implicit,
            other => return Err(format!("`{other}://` is not an SMTP address; write `smtp://host:port` or `smtps://host`")),
        };
        for (key, value) in url.query_pairs() {
            match (key.as_ref(), value.as_ref()) {
                ("tls", "required") if tls != Tls::Implicit => tls = Tls::Required,
                ("tls", "opportunistic") if tls != Tls::Implicit => tls = Tls::Opportunistic,
                ("tls", "none") if tls != Tls::Implicit => tls = Tls::None,
                ("tls", "required") => {}
                ("tls", other) => return Err(format!("`tls={other}` is not known; write `required`, `opportunistic` or `none`")),
                (other, _) => return Err(format!("`{other}` is not an option of an SMTP address; there is `tls`")),
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
        Ok(SmtpSettings { host, port, tls, credentials, timeout })
    }
}

fn percent_decode(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

/// A server's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// Text as received, on one line.
    pub text: String,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code == 0 { f.write_str(&self.text) } else { write!(f, "{} {}", self.code, self.text) }
    }
}

/// Which command a reply answers: a refused sender says nothing about the recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Connecting, EHLO, STARTTLS, AUTH.
    Connect,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// The reply after the final dot.
    Final,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server said no; the session can go on.
    Refused {
        /// To which command.
        stage: Stage,
        /// What it said.
        reply: Reply,
    },
    /// The session broke: closed, timed out, or answered nonsense.
    Broken {
        /// Where.
        stage: Stage,
        /// What happened.
        reason: String,
    },
    /// The server cannot take this address (no SMTPUTF8).
    NeedsSmtpUtf8,
}

impl Failure {
    /// Whether the session is over: it broke, or the relay announced that it closes it (421, RFC 5321
    /// section 3.8).
    pub fn ends_session(&self) -> bool {
        match self {
            Failure::Refused { reply, .. } => reply.code == 421,
            Failure::Broken { .. } => true,
            Failure::NeedsSmtpUtf8 => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused { reply, .. } => reply.fmt(f),
            Failure::Broken { reason, .. } => f.write_str(reason),
            Failure::NeedsSmtpUtf8 => f.write_str("the relay does not offer SMTPUTF8, which this address needs"),
        }
    }
}

/// An open session.
pub struct Session {
    connection: AsyncSmtpConnection,
    pipelining: bool,
    smtputf8: bool,
    timeout: Duration,
}

impl Session {
    /// Connects, greets, encrypts and logs in as the settings say.
    pub async fn open(settings: &SmtpSettings, hello: &str) -> Result<Session, Failure> {
        let broken = |reason: String| Failure::Broken { stage: Stage::Connect, reason };
        tokio::time::timeout(settings.timeout, Self::open_inner(settings, hello))
            .await
            .unwrap_or_else(|_| Err(broken(format!("{settings} did not answer within {} s", settings.timeout.as_secs()))))
    }

    async fn open_inner(settings: &SmtpSettings, hello: &str) -> Result<Session, Failure> {
        let broken = |reason: String| Failure::Broken { stage: Stage::Connect, reason };
        let socket = TcpStream::connect((settings.host.as_str(), settings.port))
            .await
            .map_err(|error| broken(format!("cannot connect to {settings}: {error}")))?;
        socket.set_nodelay(true).map_err(|error| broken(error.to_string()))?;
        let peer = socket.peer_addr().map_err(|error| broken(error.to_string()))?;
        let stream: Box<dyn AsyncTokioStream> = if settings.tls == Tls::Implicit {
            Box::new(Wire { inner: implicit_tls(&settings.host, socket).await.map_err(broken)?, peer })
        } else {
            Box::new(Wire { inner: socket, peer })
        };
        let name = ClientId::Domain(hello.to_owned());
        let failed = |error: lettre::transport::smtp::Error| failure(Stage::Connect, error);
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &name).await.map_err(failed)?;
        match settings.tls {
            Tls::Required if !connection.can_starttls() => {
                return Err(broken(format!("{settings} does not offer STARTTLS, and `tls=required` is set")));
            }
            Tls::Required | Tls::Opportunistic if connection.can_starttls() => {
                let parameters = TlsParameters::builder(settings.host.clone())
                    .dangerous_accept_invalid_certs(settings.tls == Tls::Opportunistic)
                    .build()
                    .map_err(failed)?;
                connection.starttls(parameters, &name).await.map_err(failed)?;
            }
            _ => {}
        }
        if let Some(credentials) = &settings.credentials {
            let mechanisms = [Mechanism::Plain, Mechanism::Login, Mechanism::Xoauth2];
            connection.auth(&mechanisms, credentials).await.map_err(failed)?;
        }
        // lettre keeps few of the server's offers; a second EHLO tells the rest.
        let offers = connection.command(Ehlo::new(name)).await.map_err(failed)?;
        let offers: Vec<String> = offers.message().map(|line| line.trim().to_ascii_uppercase()).collect();
        let offered = |word: &str| offers.iter().any(|line| line.split_ascii_whitespace().next() == Some(word));
        Ok(Session { pipelining: offered("PIPELINING"), smtputf8: offered("SMTPUTF8"), connection, timeout: settings.timeout })
    }

    /// MAIL, RCPT and DATA up to the server's 354. After `Refused` the session is ready for the next
    /// message.
    pub async fn envelope(&mut self, from: &str, to: &str) -> Result<(), Failure> {
        // With SMTPUTF8 the address stands in our headers as UTF-8, which is 8-bit data (RFC 6531
        // section 3.6: then BODY=8BITMIME must be given; a server that offers one offers the other).
        let utf8 = !to.is_ascii() || !from.is_ascii();
        if utf8 && !self.smtputf8 {
            return Err(Failure::NeedsSmtpUtf8);
        }
        let mail = format!("MAIL FROM:<{from}>{}\r\n", if utf8 { " BODY=8BITMIME SMTPUTF8" } else { "" });
        let rcpt = format!("RCPT TO:<{to}>\r\n");
        let timeout = self.timeout;
        let talk = async {
            if self.pipelining { self.envelope_in_one(&mail, &rcpt).await } else { self.envelope_step_by_step(&mail, &rcpt).await }
        };
        tokio::time::timeout(timeout, talk).await.unwrap_or_else(|_| {
            Err(Failure::Broken { stage: Stage::Mail, reason: format!("the relay did not answer within {} s", timeout.as_secs()) })
        })
    }

    async fn envelope_in_one(&mut self, mail: &str, rcpt: &str) -> Result<(), Failure> {
        let first = self.connection.command(format!("{mail}{rcpt}DATA\r\n")).await.map_err(|error| failure(Stage::Mail, error));
        if let Err(broken @ Failure::Broken { .. }) = first {
            return Err(broken);
        }
        let second = self.connection.read_response().await.map_err(|error| failure(Stage::Rcpt, error));
        if let Err(broken @ Failure::Broken { .. }) = second {
            return Err(hung_up_after(first.err(), broken));
        }
        let third = self.connection.read_response().await.map_err(|error| failure(Stage::Data, error));
        if let Err(broken @ Failure::Broken { .. }) = third {
            return Err(hung_up_after(first.err().or(second.err()), broken));
        }
        let refused = first.and(second).map(drop);
        match (refused, third) {
            (Ok(()), Ok(reply)) if reply.has_code(354) => Ok(()),
            (Ok(()), Ok(reply)) => {
                Err(Failure::Broken { stage: Stage::Data, reason: format!("the relay answered DATA with {} instead of 354", reply.code()) })
            }
            (Ok(()), Err(refused)) | (Err(refused), Err(_)) => self.reset_after(refused).await,
            (Err(refused), Ok(_)) => {
                // RFC 2920 section 3.1: DATA was accepted without a recipient; an empty message is
                // refused or goes nowhere.
                let _ = self.connection.message(b"").await;
                Err(refused)
            }
        }
    }

    async fn envelope_step_by_step(&mut self, mail: &str, rcpt: &str) -> Result<(), Failure> {
        for (stage, command) in [(Stage::Mail, mail), (Stage::Rcpt, rcpt), (Stage::Data, "DATA\r\n")] {
            match self.connection.command(command).await.map_err(|error| failure(stage, error)) {
                Ok(reply) if stage == Stage::Data && !reply.has_code(354) => {
                    let reason = format!("the relay answered DATA with {} instead of 354", reply.code());
                    return Err(Failure::Broken { stage, reason });
                }
                Ok(_) => {}
                Err(refused @ Failure::Refused { .. }) => return self.reset_after(refused).await,
                Err(broken) => return Err(broken),
            }
        }
        Ok(())
    }

    /// Clears the table for the next message. The refusal is the answer whatever becomes of that: a
    /// relay that hangs up after a `550` has still said `550`.
    async fn reset_after(&mut self, refused: Failure) -> Result<(), Failure> {
        let closing = matches!(&refused, Failure::Refused { reply, .. } if reply.code == 421);
        if !closing {
            let _ = self.connection.command("RSET\r\n").await;
        }
        Err(refused)
    }

    /// The message and the final dot, after [`Session::envelope`] said yes.
    pub async fn body(&mut self, message: &[u8]) -> Result<Reply, Failure> {
        let talk = async {
            match std::str::from_utf8(message) {
                // lettre doubles leading dots byte by byte, and writes the final dot by itself: one more
                // packet a mail. Ours has no leading dots (see `mime`), so it goes out as it is.
                Ok(text) if !text.starts_with('.') && !text.contains("\n.") => self.connection.command(Body(text)).await,
                _ => self.connection.message(message).await,
            }
        };
        let reply = tokio::time::timeout(FINAL_REPLY_TIMEOUT, talk).await.map_err(|_| Failure::Broken {
            stage: Stage::Final,
            reason: format!("the relay did not confirm the message within {} s", FINAL_REPLY_TIMEOUT.as_secs()),
        })?;
        let reply = reply.map_err(|error| failure(Stage::Final, error))?;
        Ok(Reply { code: reply.code().into(), text: one_line(reply.message()) })
    }

    /// Says goodbye; does not wait for long.
    pub async fn quit(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.connection.quit()).await;
    }
}

/// A message without leading dots, and the final dot.
struct Body<'a>(&'a str);

impl fmt::Display for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        f.write_str("\r\n.\r\n")
    }
}

/// Longest reply text we keep, in characters: enough for every provider's explanation.
const MAX_REPLY_CHARS: usize = 500;

/// The relay refused and hung up: what it said tells more than that the connection is gone.
/// The next command on this session finds out that it is over.
fn hung_up_after(refused: Option<Failure>, broken: Failure) -> Failure {
    refused.unwrap_or(broken)
}

fn one_line<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let joined = lines.collect::<Vec<_>>().join(" ");
    super::mime::clean_line(&joined).chars().take(MAX_REPLY_CHARS).collect()
}

fn failure(stage: Stage, error: lettre::transport::smtp::Error) -> Failure {
    let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    match error.status() {
        Some(code) => Failure::Refused { stage, reply: Reply { code: code.into(), text: one_line(text.lines()) } },
        None => Failure::Broken { stage, reason: one_line(format!("{error}").lines()) },
    }
}

async fn implicit_tls(host: &str, socket: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| format!("`{host}`: {error}"))?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .map_err(|error| format!("TLS with {host} failed: {error}"))
}

/// Our socket as lettre sees it. Reply bytes that are not ASCII become `?`: lettre reads replies as
/// UTF-8, and a relay that answers in GBK or Latin-1 must not look broken (RFC 5321 section 4.2.1).
#[derive(Debug)]
struct Wire<S> {
    inner: S,
    peer: SocketAddr,
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        // During TLS inside lettre (STARTTLS) the bytes are cipher text and must not be touched; the
        // first byte of every TLS record is a content type below 0x20, never a digit.
        let fresh = &mut buffer.filled_mut()[before..];
        if fresh.first().is_some_and(|first| first.is_ascii_digit()) && looks_like_a_reply(fresh) {
            fresh.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
        }
        polled
    }
}

/// Three digits and a separator: the start of a reply line.
fn looks_like_a_reply(bytes: &[u8]) -> bool {
    bytes.len() >= 4 && bytes[..3].iter().all(u8::is_ascii_digit) && matches!(bytes[3], b' ' | b'-' | b'\r')
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug> AsyncTokioStream for Wire<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}
