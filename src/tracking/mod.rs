//! What came back by link: opens and clicks, each judged human or machine. A hit is written to a log of
//! its process before it is answered, and folded into the database from there ([`Recorder`]).

pub mod attribution;
mod attribution_sql;
pub mod engagement;
pub mod engagement_ops;
mod engagement_refresh;
mod engagement_sql;
pub mod forget;
pub mod judge;
pub mod judge_again;
mod judge_gather;
mod judge_machines;
mod judge_networks;
mod judge_sequence;
mod log;
mod log_files;
mod log_fold;
pub mod ops;
mod position;
mod recorder;
pub mod rollup;
pub mod rollup_verify;
mod sql;
mod traits;

use crate::clock::Time;

pub use judge::{Policy, Verdict};
pub use position::Mark;
pub use recorder::{Figures, Recorded, Recorder, RecorderSettings};

/// Longest user agent kept, in characters: real ones stay under 300, the rest is noise.
const MAX_AGENT_CHARS: usize = 300;
/// Longest address text kept: an IPv6 address with a zone has at most 45 characters and the zone.
const MAX_IP_CHARS: usize = 64;
/// Longest text of traits: ours stay under 90.
const MAX_TRAITS_CHARS: usize = 100;

/// What a hit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The image was loaded.
    Open,
    /// A tracked link was followed.
    Click,
    /// An address that no person sees was fetched: that of the header's one-click, or a hidden link.
    Trap,
}

impl Kind {
    /// As stored.
    pub fn text(self) -> &'static str {
        match self {
            Kind::Open => "open",
            Kind::Click => "click",
            Kind::Trap => "trap",
        }
    }

    /// From what is stored.
    fn from_stored(text: &str) -> Kind {
        match text {
            "open" => Kind::Open,
            "click" => Kind::Click,
            _ => Kind::Trap,
        }
    }
}

/// One open, click or trap as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Of its row; made when the hit is taken, so that it is the same however often its log is read. 0 before.
    pub id: i64,
    /// Open, click or trap.
    pub kind: Kind,
    /// From the token; 0 where it names no delivery.
    pub delivery_id: i64,
    /// The run of a mail whose links lead to nobody in it; `None` for all others, whose run their delivery
    /// tells.
    pub anonymous_run: Option<i64>,
    /// Position of the link in its run; `None` for an open or a trap.
    pub link: Option<i64>,
    /// When it arrived.
    pub at: Time,
    /// Where it came from.
    pub ip: Option<String>,
    /// The user agent as sent; empty or missing are the same.
    pub agent: Option<String>,
    /// Only the head was asked for (HEAD): nothing was shown to anybody.
    pub looked: bool,
    /// What else the request told of its client, in words separated by commas: `lang` (names languages), `html`,
    /// `image` or `any` (what it takes), `site=`, `mode=`, `dest=` and `user` (Fetch Metadata), `prefetch`, `ref`
    /// (says where it came from), `via` (a proxy says so); of a trap `trap=header` or `trap=link`.
    pub traits: Option<String>,
}

impl Hit {
    /// The image of `delivery_id` was loaded.
    pub fn open(delivery_id: i64, at: Time, ip: Option<String>, agent: Option<String>) -> Self {
        Hit {
            id: 0,
            kind: Kind::Open,
            delivery_id,
            anonymous_run: None,
            link: None,
            at,
            ip: clean(ip, MAX_IP_CHARS),
            agent: clean(agent, MAX_AGENT_CHARS),
            looked: false,
            traits: None,
        }
    }

    /// An address of `delivery_id` that no person sees was fetched.
    pub fn trap(delivery_id: i64, at: Time, ip: Option<String>, agent: Option<String>) -> Self {
        Hit { kind: Kind::Trap, ..Hit::open(delivery_id, at, ip, agent) }
    }

    /// The same hit with what its request told beside address and agent.
    pub fn seen_as(self, looked: bool, traits: Option<String>) -> Self {
        Hit { looked, traits: clean(traits, MAX_TRAITS_CHARS), ..self }
    }

    /// Link `link` of `delivery_id` was followed.
    pub fn click(delivery_id: i64, link: i64, at: Time, ip: Option<String>, agent: Option<String>) -> Self {
        Hit { kind: Kind::Click, link: Some(link), ..Hit::open(delivery_id, at, ip, agent) }
    }

    /// Somebody's mail of `run_id` was opened (no `link`), or its link `link` followed; nobody knows whose.
    pub fn anonymous(run_id: i64, link: Option<i64>, at: Time, ip: Option<String>, agent: Option<String>) -> Self {
        let kind = if link.is_some() { Kind::Click } else { Kind::Open };
        Hit { kind, link, anonymous_run: Some(run_id), ..Hit::open(0, at, ip, agent) }
    }

    /// The same hit without a trace of whose it is: address and agent have served to judge it.
    fn forgetful(self) -> Self {
        Hit { delivery_id: 0, ip: None, agent: None, traits: None, ..self }
    }
}

/// Strangers choose these texts: no control characters (PostgreSQL refuses NUL), bounded, not empty.
fn clean(text: Option<String>, limit: usize) -> Option<String> {
    let kept: String = text?.chars().filter(|c| !c.is_control()).take(limit).collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_strangers_are_bounded_and_hold_no_control_characters() {
        let hit = Hit::open(1, Time::default(), Some("  ".into()), Some(format!("a\0b\r\n{}", "x".repeat(9_000))));
        assert_eq!(hit.ip, None);
        let agent = hit.agent.expect("an agent");
        assert!(agent.starts_with("abxxx") && agent.len() == MAX_AGENT_CHARS);
    }
}
