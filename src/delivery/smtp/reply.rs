//! What a relay answers, and how handing over fails.

use std::fmt;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::response::Response;

/// Longest reply text we keep, in characters: enough for every provider's explanation.
const MAX_REPLY_CHARS: usize = 500;

/// Opens a text that holds what lettre could not read of its code (see `wire`).
pub(super) const MARK: char = '\u{1}';

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
        Reply::read(response.code().into(), &response.message().collect::<Vec<_>>().join(" "))
    }

    /// A reply as lettre read it.
    fn read(code: u16, text: &str) -> Reply {
        let marked = text.strip_prefix(MARK).and_then(|rest| Some((rest.get(..3)?.parse().ok()?, rest.get(3..)?)));
        let (code, text) = marked.unwrap_or((code, text));
        Reply::new(code, text)
    }

    /// Whether it says that we must sign in or encrypt before anything else (RFC 4954 section 6,
    /// RFC 3207 section 4): that is between us and the relay, no judgement on a mail. Refusals of
    /// recipients use these codes too, but not with a security code (RFC 3463 section 3.8).
    fn wants_login(&self, stage: Stage) -> bool {
        let about_security = self.enhanced.is_some_and(|(_, subject, _)| subject == 7);
        matches!(self.code, 530 | 534 | 535 | 538) && (stage == Stage::Mail || about_security)
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
            let Some(code) = error.status() else { return Err(Failure::broken(stage, Reply::new(0, &text).text)) };
            let reply = Reply::read(code.into(), &text);
            if stage != Stage::Connect && reply.wants_login(stage) {
                let hint = "give its URL a user and password, or `?tls=required`";
                return Err(Failure::broken(stage, format!("the relay wants a login or TLS first: {reply}; {hint}")));
            }
            Err(Failure::Refused { stage, reply })
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
mod tests {
    use super::*;

    #[test]
    fn enhanced_codes_are_read_where_their_class_agrees() {
        for (code, text, enhanced) in [
            (550, "5.1.1 no such user", Some((5, 1, 1))),
            (550, "5.7.26 x", Some((5, 7, 26))),
            (550, "5.1.1", Some((5, 1, 1))),
            (550, "5.1.1: x", Some((5, 1, 1))),
            (250, "2.0.0 ok", Some((2, 0, 0))),
            (550, "4.1.1 x", None),
            (550, "x 5.1.1", None),
            (550, "5.1 x", None),
            (550, "5.1.1.1 x", None),
            (550, "5.1234.1 x", None),
            (550, "5..1 x", None),
            (354, "3.0.0 x", None),
            (550, "", None),
            (550, "5.١.1 x", None),
        ] {
            assert_eq!(Reply::new(code, text).enhanced, enhanced, "{code} {text}");
        }
    }

    fn judged(stage: Stage, reply: &str) -> Result<Reply, Failure> {
        judge(stage, Ok(format!("{reply}\r\n").parse().unwrap()))
    }

    #[test]
    fn unknown_codes_are_decided_on_the_first_digit() {
        assert_eq!(judged(Stage::Rcpt, "259 fine").unwrap().code, 259);
        assert_eq!(judged(Stage::Data, "359 go").unwrap().code, 359);
        assert!(matches!(judged(Stage::Data, "250 ok"), Err(Failure::Broken { stage: Stage::Data, .. })));
        assert!(matches!(judged(Stage::Final, "354 ok"), Err(Failure::Broken { stage: Stage::Final, .. })));
        assert_eq!(judged(Stage::Mail, "250 \u{1}279 yes").unwrap(), Reply::new(279, "yes"));
    }
}
