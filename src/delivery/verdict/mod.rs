//! What an SMTP reply means for this mail, this provider and this relay.
//!
//! The first digit of a reply is not enough (RFC 5321 section 4.2.1 lets it decide for unknown codes
//! only): QQ and NetEase answer 550 to say "slower", Yahoo calls a deferral permanent, and a 550 to MAIL
//! is about us, not about the person. The rules are data (`data/replies.toml`), tried in their order.

pub mod back_off;

use std::sync::LazyLock;

use serde::Deserialize;

use super::smtp::Stage;
use crate::clock::SECOND;

pub use back_off::{Allowance, Throttle};

/// The shipped rules, checked by the tests below.
const SHIPPED: &str = include_str!("../../../data/replies.toml");

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let file: File = toml::from_str(SHIPPED).expect("data/replies.toml is part of this program and tested");
    file.rule.into_iter().map(Rule::from).collect()
});

/// What becomes of a mail that was refused, and of those like it. `rule` names the rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This mail will not be taken: not tried again.
    Bounce {
        /// Why.
        class: BounceClass,
        /// Its name in `data/replies.toml`.
        rule: &'static str,
    },
    /// This mail is tried again on its schedule; others are not affected.
    Later {
        /// Its name in `data/replies.toml`.
        rule: &'static str,
    },
    /// Too much at once: this mail is tried again after the pause, and its group waits as well.
    SlowDown(SlowDown),
    /// Something on our side is refused (login, sender, relaying): never counted against the person.
    SenderProblem {
        /// Its name in `data/replies.toml`.
        rule: &'static str,
    },
}

impl Verdict {
    /// The name of the rule that decided.
    pub fn rule(&self) -> &'static str {
        match self {
            Verdict::Bounce { rule, .. } | Verdict::Later { rule } | Verdict::SenderProblem { rule } => rule,
            Verdict::SlowDown(signal) => signal.rule,
        }
    }
}

/// A request to send less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowDown {
    /// Whose mails wait.
    pub scope: Scope,
    /// Nothing is sent for so long, in milliseconds.
    pub pause_ms: i64,
    /// After the pause at most so many mails an hour, where the rule says so.
    pub per_hour: Option<u64>,
    /// How long after the pause the rate does not grow, in milliseconds.
    pub hold_ms: i64,
    /// Its name in `data/replies.toml`.
    pub rule: &'static str,
}

/// Whose mails a [`SlowDown`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Mails for this provider through this relay.
    Provider,
    /// All mails through this relay.
    Relay,
}

/// Why a mail bounced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BounceClass {
    /// Nobody has this address.
    NoSuchAddress,
    /// The domain takes no mail.
    NoSuchDomain,
    /// The mailbox was closed, disabled or abandoned.
    Disabled,
    /// No room left.
    MailboxFull,
    /// This mail is too large for it.
    TooLarge,
    /// Policy or reputation: says nothing about the address.
    Blocked,
    /// What the mail says or contains.
    Content,
    /// Refused without a reason that we know.
    Other,
}

impl BounceClass {
    /// The word in reports and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            BounceClass::NoSuchAddress => "no-such-address",
            BounceClass::NoSuchDomain => "no-such-domain",
            BounceClass::Disabled => "disabled",
            BounceClass::MailboxFull => "mailbox-full",
            BounceClass::TooLarge => "too-large",
            BounceClass::Blocked => "blocked",
            BounceClass::Content => "content",
            BounceClass::Other => "other",
        }
    }

    /// Whether the address itself is dead, so that nothing should be sent to it again.
    pub fn address_is_dead(self) -> bool {
        matches!(self, BounceClass::NoSuchAddress | BounceClass::NoSuchDomain | BounceClass::Disabled)
    }
}

/// Reads a refusal (4yz or 5yz) of `provider`'s mail. `text` is what followed the code, on one line.
/// Any other code is no refusal and means [`Verdict::Later`]: the session is out of step.
pub fn read_reply(code: u16, text: &str, stage: Stage, provider: &str) -> Verdict {
    let reply = Folded::new(code, text);
    let Some(rule) = RULES.iter().find(|rule| rule.fits(&reply, stage, provider)) else {
        return Verdict::Later { rule: "unexpected" };
    };
    match rule.means {
        Means::Bounce(class) => Verdict::Bounce { class, rule: &rule.name },
        Means::Later => Verdict::Later { rule: &rule.name },
        Means::SenderProblem => Verdict::SenderProblem { rule: &rule.name },
        Means::SlowDown { scope, pause_ms, per_hour, hold_ms } => {
            // Before RCPT the server does not know whom the mail is for: it speaks about all of them.
            let scope = if matches!(stage, Stage::Connect | Stage::Mail) { Scope::Relay } else { scope };
            Verdict::SlowDown(SlowDown { scope, pause_ms, per_hour, hold_ms, rule: &rule.name })
        }
    }
}

/// A reply as the rules see it.
struct Folded {
    code: String,
    /// As `4.7.28`; its first digit is the basic code's, which counts where they differ (RFC 5321
    /// section 4.2.1).
    enhanced: Option<String>,
    /// Lower case, one blank between words.
    text: String,
}

impl Folded {
    fn new(code: u16, text: &str) -> Self {
        let text = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        let enhanced = enhanced_code(&text).map(|(subject, detail)| format!("{}.{subject}.{detail}", code / 100));
        Folded { code: code.to_string(), enhanced, text }
    }
}

/// Subject and detail of the enhanced code (RFC 3463 section 2): the first word, or one marked with `#`
/// as Cisco and qmail write it.
fn enhanced_code(text: &str) -> Option<(u16, u16)> {
    let parse = |word: &str| {
        let mut parts = word.trim_matches(|c: char| !c.is_ascii_digit()).split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let known = matches!(class, "2" | "4" | "5") && parts.next().is_none() && subject.len() <= 3 && detail.len() <= 3;
        if known { Some((subject.parse().ok()?, detail.parse().ok()?)) } else { None }
    };
    let mut words = text.split(' ');
    parse(words.next()?).or_else(|| words.filter(|word| word.trim_start_matches('(').starts_with('#')).find_map(parse))
}

struct Rule {
    name: String,
    provider: Option<String>,
    code: Vec<String>,
    enhanced: Vec<String>,
    stage: Vec<StageWord>,
    text: Vec<String>,
    means: Means,
}

enum Means {
    Bounce(BounceClass),
    Later,
    SlowDown { scope: Scope, pause_ms: i64, per_hour: Option<u64>, hold_ms: i64 },
    SenderProblem,
}

impl Rule {
    fn fits(&self, reply: &Folded, stage: Stage, provider: &str) -> bool {
        let refusal = reply.code.len() == 3 && reply.code.starts_with(['4', '5']);
        refusal
            && self.provider.as_ref().is_none_or(|only| only == provider)
            && (self.code.is_empty() || self.code.iter().any(|start| reply.code.starts_with(start.as_str())))
            && (self.stage.is_empty() || self.stage.iter().any(|word| word.is(stage)))
            && (self.enhanced.is_empty()
                || reply.enhanced.as_ref().is_some_and(|code| self.enhanced.iter().any(|start| starts(code, start))))
            && (self.text.is_empty() || self.text.iter().any(|phrase| holds(&reply.text, phrase)))
    }
}

/// `4.7` starts `4.7.28`, and not `4.70.1`.
fn starts(code: &str, start: &str) -> bool {
    code.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether the pieces of `phrase` between `*` stand in `text` one after the other.
fn holds(text: &str, phrase: &str) -> bool {
    let mut rest = text;
    phrase.split('*').all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rule: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    name: String,
    provider: Option<String>,
    #[serde(default)]
    code: Vec<String>,
    #[serde(default)]
    enhanced: Vec<String>,
    #[serde(default)]
    stage: Vec<StageWord>,
    #[serde(default)]
    text: Vec<String>,
    means: MeansWord,
    class: Option<BounceClass>,
    scope: Option<Scope>,
    pause_seconds: Option<u32>,
    per_hour: Option<u64>,
    hold_seconds: Option<u32>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader of the file and for its test"))]
    example: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MeansWord {
    Bounce,
    Later,
    SlowDown,
    SenderProblem,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum StageWord {
    Connect,
    Mail,
    Rcpt,
    Data,
    Final,
}

impl StageWord {
    fn is(self, stage: Stage) -> bool {
        stage
            == match self {
                StageWord::Connect => Stage::Connect,
                StageWord::Mail => Stage::Mail,
                StageWord::Rcpt => Stage::Rcpt,
                StageWord::Data => Stage::Data,
                StageWord::Final => Stage::Final,
            }
    }
}

impl From<RuleEntry> for Rule {
    fn from(entry: RuleEntry) -> Self {
        let milliseconds = |seconds: Option<u32>| i64::from(seconds.unwrap_or(0)) * SECOND;
        let means = match entry.means {
            MeansWord::Bounce => Means::Bounce(entry.class.unwrap_or(BounceClass::Other)),
            MeansWord::Later => Means::Later,
            MeansWord::SenderProblem => Means::SenderProblem,
            MeansWord::SlowDown => Means::SlowDown {
                scope: entry.scope.unwrap_or(Scope::Provider),
                pause_ms: milliseconds(entry.pause_seconds),
                per_hour: entry.per_hour,
                hold_ms: milliseconds(entry.hold_seconds),
            },
        };
        Rule {
            name: entry.name,
            provider: entry.provider,
            code: entry.code,
            enhanced: entry.enhanced,
            stage: entry.stage,
            text: entry.text,
            means,
        }
    }
}

#[cfg(test)]
mod tests;
