//! An open session: envelopes, bodies, and both in one write.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::response::Response;
use tokio::time::error::Elapsed;

use super::reply::{Failure, Reply, Stage, judge};
use super::settings::{Pipelining, SmtpSettings};
use super::wire::Heard;

/// The final reply may take this long (RFC 5321 section 4.5.3.2.6: 10 minutes).
const FINAL_REPLY_TIMEOUT: Duration = Duration::from_secs(600);

/// An open session.
pub struct Session {
    pub(super) connection: AsyncSmtpConnection,
    /// The same socket, to look at while lettre holds its own.
    pub(super) socket: std::net::TcpStream,
    pub(super) heard: Arc<Heard>,
    pub(super) pipelining: Pipelining,
    pub(super) smtputf8: bool,
    /// The longest message the relay takes (RFC 1870), in octets.
    pub(super) size_limit: Option<u64>,
    pub(super) timeout: Duration,
    /// Nothing more can be said: it broke, the relay announced its end, or a wait was given up
    /// half-way, so that the next reply would answer an old command.
    pub(super) over: bool,
}

impl Session {
    /// Connects, greets with `hello`, encrypts and logs in as the settings say.
    ///
    /// # Errors
    /// What was wrong and what to do; none of it is about a mail.
    pub async fn open(settings: &SmtpSettings, hello: &str) -> Result<Session, Failure> {
        super::open::open(settings, hello).await
    }

    /// Whether the relay still listens, as far as can be told without asking: an idle session that it
    /// closed, or to which it said goodbye unasked, is not.
    pub fn is_alive(&self) -> bool {
        !self.over && !self.heard.unread() && self.socket.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Asks the relay whether it is there.
    ///
    /// # Errors
    /// The session is of no more use.
    pub async fn noop(&mut self) -> Result<(), Failure> {
        if self.over {
            return Err(not_begun());
        }
        self.ask(Stage::Mail, self.timeout, "NOOP\r\n").await.map(drop)
    }

    /// Whether the relay takes a message of so many octets, by what it offered (RFC 1870). Ask before
    /// [`Session::envelope`]: [`Session::body`] refuses as well, but then DATA is open and the session
    /// is over.
    ///
    /// # Errors
    /// The refusal the relay would have answered MAIL with.
    pub fn fits(&self, message_bytes: usize) -> Result<(), Failure> {
        match self.size_limit {
            Some(limit) if message_bytes as u64 > limit => {
                let text = format!("5.3.4 the message has {message_bytes} octets and the relay takes at most {limit}");
                Err(Failure::Refused { stage: Stage::Mail, reply: Reply::new(552, &text) })
            }
            _ => Ok(()),
        }
    }

    /// A session with the first of these relays that is there.
    ///
    /// # Errors
    /// What the last one said, or that there is none.
    pub async fn open_first(relays: &[SmtpSettings], hello: &str) -> Result<Session, Failure> {
        let mut last = Failure::broken(Stage::Connect, "there is no relay; write `[smtp]` in optin.toml");
        for relay in relays {
            match Self::open(relay, hello).await {
                Ok(session) => return Ok(session),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Whether [`Session::body_then_envelope`] saves a round trip.
    pub fn can_chain(&self) -> bool {
        self.pipelining == Pipelining::Chain && !self.over
    }

    /// MAIL, RCPT and DATA up to the server's 354. After `Refused` the session is ready for the next
    /// message, unless [`Failure::ends_session`].
    pub async fn envelope(&mut self, from: &str, to: &str) -> Result<(), Failure> {
        let envelope = self.commands(from, to)?;
        if self.over {
            return Err(not_begun());
        }
        if self.pipelining == Pipelining::Off {
            return self.envelope_step_by_step(&envelope).await;
        }
        let mail = self.ask(Stage::Mail, self.timeout, &envelope).await;
        self.rest_of_envelope(mail).await
    }

    /// The message and the final dot, after [`Session::envelope`] said yes.
    ///
    /// # Errors
    /// `Broken` means that nobody knows whether the mail was taken.
    pub async fn body(&mut self, message: &[u8]) -> Result<Reply, Failure> {
        if self.over {
            return Err(not_begun());
        }
        if let Err(too_large) = self.fits(message.len()) {
            self.over = true;
            return Err(too_large);
        }
        match std::str::from_utf8(message) {
            Ok(text) => self.ask(Stage::Final, FINAL_REPLY_TIMEOUT, Body(text)).await,
            // lettre's commands are text; its own way for bytes writes the final dot by itself.
            Err(_) => {
                self.over = true;
                let answer = tokio::time::timeout(FINAL_REPLY_TIMEOUT, self.connection.message(message)).await;
                self.settle(Stage::Final, FINAL_REPLY_TIMEOUT, answer)
            }
        }
    }

    /// A message, its final dot and the next mail's envelope in one write (RFC 2920 section 3.1
    /// lets MAIL follow a message in its group); [`Session::body`] and [`Session::envelope`] one
    /// after the other where [`Session::can_chain`] says no.
    ///
    /// The first answer is the old mail's, as of `body`; the second is the next mail's, as of
    /// `envelope`. Of the next mail nothing but the envelope was written: whatever its answer, it
    /// surely did not go out.
    pub async fn body_then_envelope(&mut self, message: &[u8], from: &str, to: &str) -> (Result<Reply, Failure>, Result<(), Failure>) {
        let (true, Ok(text), Ok(envelope)) =
            (self.can_chain() && self.fits(message.len()).is_ok(), std::str::from_utf8(message), self.commands(from, to))
        else {
            let old = self.body(message).await;
            return (old, self.envelope(from, to).await);
        };
        let old = self.ask(Stage::Final, FINAL_REPLY_TIMEOUT, Chained(text, &envelope)).await;
        if self.over {
            return (old, Err(not_begun()));
        }
        let mail = self.answer(Stage::Mail).await;
        (old, self.rest_of_envelope(mail).await)
    }

    /// Gives up a mail whose body was asked for: without the final dot it does not exist (RFC 5321
    /// section 4.1.1.4), and nothing but closing the connection takes DATA back.
    pub fn abandon(self) {
        drop(self);
    }

    /// Says goodbye; does not wait for long.
    pub async fn quit(mut self) {
        if !self.over {
            let _ = tokio::time::timeout(Duration::from_secs(2), self.connection.quit()).await;
        }
    }

    /// The three commands of an envelope.
    fn commands(&self, from: &str, to: &str) -> Result<Envelope, Failure> {
        // With SMTPUTF8 the address stands in our headers as UTF-8, which is 8-bit data (RFC 6531
        // section 3.6: then BODY=8BITMIME must be given; a server that offers one offers the other).
        let utf8 = !to.is_ascii() || !from.is_ascii();
        if utf8 && !self.smtputf8 {
            return Err(Failure::NeedsSmtpUtf8);
        }
        let parameters = if utf8 { " BODY=8BITMIME SMTPUTF8" } else { "" };
        Ok(Envelope { mail: format!("MAIL FROM:<{from}>{parameters}\r\n"), rcpt: format!("RCPT TO:<{to}>\r\n") })
    }

    /// After the answer to MAIL: those to RCPT and DATA.
    async fn rest_of_envelope(&mut self, mail: Result<Reply, Failure>) -> Result<(), Failure> {
        if self.over {
            return mail.map(drop);
        }
        let rcpt = self.answer(Stage::Rcpt).await;
        // A relay that refused and hung up has still refused: that tells more.
        let refused = mail.and(rcpt).map(drop);
        if self.over {
            return refused;
        }
        let data = self.answer(Stage::Data).await;
        match (refused, data) {
            (Ok(()), Ok(_)) => Ok(()),
            (Ok(()), Err(failure)) | (Err(failure), Err(_)) => self.reset_after(failure).await,
            (Err(refusal), Ok(_)) => {
                // RFC 2920 section 3.1: DATA was accepted without a recipient; an empty message is
                // refused or goes nowhere.
                let _ = self.ask(Stage::Final, self.timeout, ".\r\n").await;
                Err(refusal)
            }
        }
    }

    async fn envelope_step_by_step(&mut self, envelope: &Envelope) -> Result<(), Failure> {
        for (stage, command) in [(Stage::Mail, envelope.mail.as_str()), (Stage::Rcpt, &envelope.rcpt), (Stage::Data, "DATA\r\n")] {
            if let Err(failure) = self.ask(stage, self.timeout, command).await {
                return self.reset_after(failure).await;
            }
        }
        Ok(())
    }

    /// Clears the table for the next message. The refusal is the answer whatever becomes of that: a
    /// relay that hangs up after a `550` has still said `550`.
    async fn reset_after(&mut self, failure: Failure) -> Result<(), Failure> {
        if !self.over {
            let _ = self.ask(Stage::Mail, self.timeout, "RSET\r\n").await;
        }
        Err(failure)
    }

    /// Writes a command and reads one reply.
    async fn ask(&mut self, stage: Stage, patience: Duration, command: impl fmt::Display) -> Result<Reply, Failure> {
        self.over = true;
        let answer = tokio::time::timeout(patience, self.connection.command(command)).await;
        self.settle(stage, patience, answer)
    }

    /// Reads the next reply of a group.
    async fn answer(&mut self, stage: Stage) -> Result<Reply, Failure> {
        self.over = true;
        let patience = self.timeout;
        let answer = tokio::time::timeout(patience, self.connection.read_response()).await;
        self.settle(stage, patience, answer)
    }

    fn settle(&mut self, stage: Stage, patience: Duration, answer: Result<Result<Response, Error>, Elapsed>) -> Result<Reply, Failure> {
        let result = match answer {
            Ok(answer) => judge(stage, answer),
            Err(_) => Err(Failure::broken(stage, format!("the relay did not answer within {} s", patience.as_secs()))),
        };
        self.over = result.as_ref().is_err_and(Failure::ends_session);
        result
    }
}

/// The session ended before this mail was begun.
fn not_begun() -> Failure {
    Failure::broken(Stage::Mail, "the relay closed the session before this mail")
}

/// MAIL, RCPT and DATA as one group.
struct Envelope {
    mail: String,
    rcpt: String,
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mail)?;
        f.write_str(&self.rcpt)?;
        f.write_str("DATA\r\n")
    }
}

/// A message, its final dot and the next mail's envelope.
struct Chained<'a>(&'a str, &'a Envelope);

impl fmt::Display for Chained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Body(self.0).fmt(f)?;
        self.1.fmt(f)
    }
}

/// A message with its leading dots doubled (RFC 5321 section 4.5.2), and the final dot.
struct Body<'a>(&'a str);

impl fmt::Display for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest.starts_with('.') {
            f.write_str(".")?;
        }
        // Our own mails have no leading dots (see `mime`), and `contains` looks at 16 bytes at a time.
        // A bare LF counts as a line's end: what a lenient server unstuffs cannot end a mail early.
        if rest.contains("\n.") {
            while let Some(at) = rest.find("\n.") {
                f.write_str(&rest[..=at])?;
                f.write_str(".")?;
                rest = &rest[at + 1..];
            }
        }
        f.write_str(rest)?;
        f.write_str(if self.0.ends_with("\r\n") { ".\r\n" } else { "\r\n.\r\n" })
    }
}

#[cfg(test)]
mod tests {
    use super::Body;

    #[test]
    fn leading_dots_are_doubled_and_the_final_dot_stands_alone() {
        for (message, wire) in [
            ("", "\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a\r\n\r\n", "a\r\n\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            (".\r\n..\r\n.x\r\na.b", "..\r\n...\r\n..x\r\na.b\r\n.\r\n"),
            ("a\r\n.\r\nMAIL", "a\r\n..\r\nMAIL\r\n.\r\n"),
            ("a\n.\nb\r\n", "a\n..\nb\r\n.\r\n"),
        ] {
            assert_eq!(Body(message).to_string(), wire, "{message:?}");
        }
    }
}
