//! What came back by link: opens and clicks, each judged human or machine. Recipients wait for
//! nothing here: hits are queued and written in groups ([`Recorder`]).

pub mod attribution;
mod attribution_sql;
pub mod engagement;
pub mod engagement_ops;
mod engagement_refresh;
mod engagement_sql;
pub mod forget;
pub mod judge;
pub mod ops;
mod recorder;
mod sql;

use crate::clock::Time;

pub use judge::Verdict;
pub use recorder::{Recorded, Recorder};

/// Longest user agent kept, in characters: real ones stay under 300, the rest is noise.
const MAX_AGENT_CHARS: usize = 300;
/// Longest address text kept: an IPv6 address with a zone has at most 45 characters and the zone.
const MAX_IP_CHARS: usize = 64;

/// What a hit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The image was loaded.
    Open,
    /// A tracked link was followed.
    Click,
}

impl Kind {
    /// As stored.
    pub fn text(self) -> &'static str {
        match self {
            Kind::Open => "open",
            Kind::Click => "click",
        }
    }
}

/// One open or click as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Open or click.
    pub kind: Kind,
    /// From the token; 0 where it names no delivery.
    pub delivery_id: i64,
    /// The run of a mail whose links lead to nobody in it; `None` for all others, whose run their delivery
    /// tells.
    pub anonymous_run: Option<i64>,
    /// Position of the link in its run; `None` for an open.
    pub link: Option<i64>,
    /// When it arrived.
    pub at: Time,
    /// Where it came from.
    pub ip: Option<String>,
    /// The user agent as sent; empty or missing are the same.
    pub agent: Option<String>,
}

impl Hit {
    /// The image of `delivery_id` was loaded.
    pub fn open(delivery_id: i64, at: Time, ip: Option<String>, agent: Option<String>) -> Self {
        Hit {
            kind: Kind::Open,
            delivery_id,
            anonymous_run: None,
            link: None,
            at,
            ip: clean(ip, MAX_IP_CHARS),
            agent: clean(agent, MAX_AGENT_CHARS),
        }
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
        Hit { delivery_id: 0, ip: None, agent: None, ..self }
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
