//! What a relay answers, and how handing over fails.

use std::fmt;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::response::Response;

/// Longest reply text we keep, in characters: enough for every provider's explanation.
const MAX_REPLY_CHARS: usize = 500;

/// A server's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// The enhanced status code at the start of the text (RFC 2034), where its class agrees with the
    /// code's first digit: class, subject, detail (RFC 3463).
    pub enhanced: Option<(u8, u16, u16)>,
    /// Text as received, on one line, with the enhanced code.
    pub text: String,
}

impl Reply {
    /// A reply from its code and text.
    pub fn new(code: u16, text: &str) -> Reply {
        let text: String = crate::delivery::mime::clean_line(text).chars().take(MAX_REPLY_CHARS).collect();
        Reply { code, enhanced: enhanced(code, &text), text }
    }

    pub(super) fn from_response(response: &Response) -> Reply {
        Reply::new(response.code().into(), &response.message().collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() { self.code.fmt(f) } else { write!(f, "{} {}", self.code, self.text) }
    }
}

fn enhanced(code: u16, text: &str) -> Option<(u8, u16, u16)> {
    let number = |part: &str| (part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse::<u16>().ok())?;
    let word = text.split([' ', '-', ':', ';']).next()?;
    let mut parts = word.split('.');
    let (class, subject, detail) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    (parts.next().is_none() && class == code / 100 && matches!(class, 2 | 4 | 5)).then_some((class as u8, subject, detail))
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

impl Stage {
    fn command(self) -> &'static str {
        match self {
            Stage::Connect => "the greeting",
            Stage::Mail => "MAIL",
            Stage::Rcpt => "RCPT",
            Stage::Data => "DATA",
            Stage::Final => "the message",
        }
    }
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
    /// The session broke: closed, timed out, or answered nonsense. At [`Stage::Final`] the mail may
    /// or may not have been taken; at every other stage it surely was not.
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

    pub(super) fn broken(stage: Stage, reason: impl Into<String>) -> Failure {
        Failure::Broken { stage, reason: reason.into() }
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

/// Judges what lettre read as the answer at `stage`: on the first digit alone where the code is
/// unknown (RFC 5321 section 4.2.1).
pub(super) fn judge(stage: Stage, answer: Result<Response, Error>) -> Result<Reply, Failure> {
    let expected = if stage == Stage::Data { 3 } else { 2 };
    match answer {
        Ok(response) => {
            let reply = Reply::from_response(&response);
            if reply.code / 100 == expected {
                return Ok(reply);
            }
            Err(Failure::broken(stage, format!("the relay answered {} with `{reply}`, which makes no sense there", stage.command())))
        }
        Err(error) => {
            let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            match error.status() {
                Some(code) => Err(Failure::Refused { stage, reply: Reply::new(code.into(), &text) }),
                None => Err(Failure::broken(stage, Reply::new(0, &error.to_string()).text)),
            }
        }
    }
}
