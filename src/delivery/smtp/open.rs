//! From an address to an open session: connection, greeting, TLS, login.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::extension::ClientId;
use tokio::net::TcpStream;

use super::auth;
use super::reply::{Failure, Stage, judge};
use super::session::Session;
use super::settings::{Pipelining, SmtpSettings, Tls};
use super::tls::handshake;
use super::wire::{Answer, Heard, Wire};

/// Each wait has the relay's timeout; all of them together have this many: connection, greeting,
/// EHLO and the rest.
const WAITS: u32 = 4;

/// Why an attempt failed.
enum Problem {
    /// While TLS was set up: clear text may still work.
    Tls(Failure),
    Other(Failure),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Problem::Other(failure)
    }
}

pub(super) async fn open(settings: &SmtpSettings, hello: &str) -> Result<Session, Failure> {
    let bound = settings.timeout * WAITS;
    let opening = async {
        match attempt(settings, hello, settings.tls).await {
            Ok(session) => Ok(session),
            Err(Problem::Tls(failure)) if settings.tls == Tls::Opportunistic && settings.login.is_none() => {
                tracing::info!(relay = %settings, problem = %failure, "no TLS with the relay; going on in clear text");
                attempt(settings, hello, Tls::None).await
            }
            failed => failed,
        }
    };
    match tokio::time::timeout(bound, opening).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(Problem::Tls(failure) | Problem::Other(failure))) => Err(failure),
        Err(_) => Err(broken(format!("{settings} did not let us in within {} s", bound.as_secs()))),
    }
}

async fn attempt(settings: &SmtpSettings, hello: &str, tls: Tls) -> Result<Session, Problem> {
    let patience = settings.timeout;
    let silent = |what: &str| broken(format!("{settings} did not {what} within {} s", patience.as_secs()));
    let connecting = TcpStream::connect((settings.host.as_str(), settings.port));
    let socket = within(patience, connecting)
        .await
        .ok_or_else(|| silent("take a connection"))?
        .map_err(|error| broken(format!("cannot connect to {settings}: {error}")))?;
    let (socket, twin, peer) = twins(socket).map_err(|error| broken(format!("{settings}: {error}")))?;
    let heard = Arc::new(Heard::default());
    let lost = |error: std::io::Error| broken(format!("{settings}: {error}"));
    let no_greeting = || {
        let hint = if tls == Tls::Implicit { "" } else { "; if it expects TLS from the first byte, as port 465 does, write `smtps://`" };
        broken(format!("{settings} did not greet within {} s{hint}", patience.as_secs()))
    };
    let mut encrypted = tls == Tls::Implicit;
    let stream: Box<dyn AsyncTokioStream> = if tls == Tls::Implicit {
        let client = settings.client().map_err(broken)?;
        let stream = within(patience, handshake(client, &settings.host, socket)).await.ok_or_else(|| silent("answer in TLS"))?;
        let mut wire = Wire::new(stream.map_err(broken)?, peer, heard.clone());
        let greeting = within(patience, wire.ask(None)).await.ok_or_else(no_greeting)?.map_err(lost)?;
        wire.replay(&welcome(greeting)?);
        Box::new(wire)
    } else {
        let mut wire = Wire::new(socket, peer, heard.clone());
        let greeting = within(patience, wire.ask(None)).await.ok_or_else(no_greeting)?.map_err(lost)?;
        let greeting = welcome(greeting)?;
        if tls != Tls::None && starts_tls(settings, hello, &mut wire).await? {
            let (socket, more) = wire.into_inner();
            // What came with the reply came in clear text, from whoever: it must not look encrypted.
            if more {
                return Err(broken(format!("{settings} went on in clear text after STARTTLS")).into());
            }
            let client = settings.client().map_err(broken)?;
            let stream = within(patience, handshake(client, &settings.host, socket)).await;
            let stream = stream.ok_or_else(|| Problem::Tls(silent("answer in TLS")))?;
            let mut wire = Wire::new(stream.map_err(|problem| Problem::Tls(broken(problem)))?, peer, heard.clone());
            encrypted = true;
            // TLS sessions have no second greeting (RFC 3207 section 4.2), but lettre reads one.
            wire.replay(&greeting);
            Box::new(wire)
        } else {
            wire.replay(&greeting);
            Box::new(wire)
        }
    };
    let name = ClientId::Domain(hello.to_owned());
    let connecting = within(patience, AsyncSmtpConnection::connect_with_transport(stream, &name)).await;
    let mut connection = connecting
        .ok_or_else(|| silent("answer EHLO"))?
        .map_err(|error| judge(Stage::Connect, Err(error)).err().unwrap_or_else(|| silent("answer EHLO")))?;
    // lettre keeps few of the relay's offers.
    let offers = heard.lines();
    if let Some(login) = &settings.login {
        let confidential = encrypted || tls == Tls::None || peer.ip().is_loopback();
        if !confidential {
            return Err(broken(format!(
                "the password is not sent to {settings} in clear text, and it offers no STARTTLS; write `smtps://`, a port that has it, or `?tls=none` if the network is yours"
            ))
            .into());
        }
        let mechanism = auth::choose(settings.auth, &offers, encrypted).map_err(|problem| broken(format!("{settings}: {problem}")))?;
        auth::log_in(&mut connection, mechanism, login).await?;
    }
    Ok(Session {
        connection,
        socket: twin,
        heard,
        pipelining: if offer(&offers, "PIPELINING").is_some() { settings.pipelining } else { Pipelining::Off },
        smtputf8: offer(&offers, "SMTPUTF8").is_some(),
        // 0 stands for no fixed limit (RFC 1870 section 4).
        size_limit: offer(&offers, "SIZE").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0),
        timeout: settings.timeout,
        over: false,
    })
}

/// Asks for STARTTLS, if it is offered. Answers whether the handshake comes next.
async fn starts_tls(settings: &SmtpSettings, hello: &str, wire: &mut Wire<TcpStream>) -> Result<bool, Failure> {
    let offers = talk(settings, wire, &format!("EHLO {hello}\r\n")).await?;
    let offered = offers.code / 100 == 2 && offer(&offers.lines, "STARTTLS").is_some();
    if !offered {
        if settings.tls == Tls::Required {
            return Err(broken(format!(
                "{settings} does not offer STARTTLS, and `tls=required` is set; use a port that has it, such as 587, or `smtps://`"
            )));
        }
        return Ok(false);
    }
    let answer = talk(settings, wire, "STARTTLS\r\n").await?;
    let begins = answer.code / 100 == 2;
    if !begins && settings.tls == Tls::Required {
        return Err(broken(format!("{settings} offers STARTTLS and refuses it: {}", answer.reply())));
    }
    Ok(begins)
}

async fn talk(settings: &SmtpSettings, wire: &mut Wire<TcpStream>, command: &str) -> Result<Answer, Failure> {
    let verb = command.split_ascii_whitespace().next().unwrap_or(command);
    let answer = within(settings.timeout, wire.ask(Some(command))).await;
    answer
        .ok_or_else(|| broken(format!("{settings} did not answer {verb} within {} s", settings.timeout.as_secs())))?
        .map_err(|error| broken(format!("{settings}: {error}")))
}

/// What follows a keyword among a relay's offers (RFC 5321 section 4.1.1.1).
fn offer<'a>(lines: &'a [String], keyword: &str) -> Option<&'a str> {
    let mut lines = lines.iter().map(|line| line.trim().split_once(' ').unwrap_or((line.trim(), "")));
    lines.find(|(word, _)| word.eq_ignore_ascii_case(keyword)).map(|(_, rest)| rest.trim())
}

/// A greeting that lets us in.
fn welcome(greeting: Answer) -> Result<Answer, Failure> {
    if greeting.code / 100 == 2 { Ok(greeting) } else { Err(Failure::Refused { stage: Stage::Connect, reply: greeting.reply() }) }
}

/// The socket twice: one to talk over, one to look at.
fn twins(socket: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream, std::net::SocketAddr)> {
    socket.set_nodelay(true)?;
    let peer = socket.peer_addr()?;
    let socket = socket.into_std()?;
    let twin = socket.try_clone()?;
    Ok((TcpStream::from_std(socket)?, twin, peer))
}

async fn within<T>(patience: Duration, wait: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(patience, wait).await.ok()
}

fn broken(reason: impl Into<String>) -> Failure {
    Failure::broken(Stage::Connect, reason)
}
