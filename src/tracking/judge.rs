//! Human or machine? A table of named rules; every rule that fires is kept beside the verdict, so
//! that the raw hits can be judged again when the rules get better.
//!
//! Sources: Apple's relays load every image and show the bare agent `Mozilla/5.0`; Gmail's image
//! proxy acts when a person opens, its prefetch (another string) does not; mail gateways follow
//! links within seconds of delivery, several of one mail at once. Public bot lists call the image
//! proxies of Gmail and Yahoo bots and would lose all their opens: they are not used.

use super::{Hit, Kind};
use crate::clock::{SECOND, Time};

/// A click sooner than this after the receiving server took the mail is a gateway's.
pub const TOO_SOON_MS: i64 = 2 * SECOND;
/// The window in which a person does not follow [`BURST_LINKS`] different links of one mail.
pub const BURST_MS: i64 = 5 * SECOND;
/// So many different links of one mail within [`BURST_MS`] are a scanner's.
pub const BURST_LINKS: usize = 3;
/// Signal of a hit that belongs to a burst.
pub const BURST: &str = "burst";

/// The agent of Gmail's prefetch, which runs before a person opens (and is not the image proxy).
const GMAIL_PREFETCH: &str = "chrome/42.0.2311.135 safari/537.36 edge/12.246 mozilla/5.0";
/// Parts of agents (lower case) that name a program nobody reads mail with.
const MACHINE_AGENTS: &[&str] = &[
    "bot",
    "crawler",
    "spider",
    "scanner",
    "preview",
    "facebookexternalhit",
    "headlesschrome",
    "phantomjs",
    "curl/",
    "wget/",
    "libwww-perl",
    "python-requests",
    "python-urllib",
    "aiohttp",
    "go-http-client",
    "okhttp",
    "java/",
    "apache-httpclient",
    "node-fetch",
    "axios/",
    "barracuda",
    "proofpoint",
    "mimecast",
    "safelinks",
    "microsoft office existence discovery",
];
/// Image proxies that act for a person.
const PERSONS_PROXIES: &[&str] = &["googleimageproxy", "yahoomailproxy"];

/// What a hit was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Probably a person.
    Human,
    /// A program, or something a person cannot be told from (Apple's relays).
    Machine,
}

impl Verdict {
    /// As stored.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Human => "human",
            Verdict::Machine => "machine",
        }
    }
}

/// What is known about the delivery a hit belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// When the receiving server took the mail, where that is recorded.
    pub sent_at: Option<Time>,
    /// It is one of several links of its mail followed at once.
    pub burst: bool,
}

/// A verdict and the rules behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Human unless a rule says machine.
    pub verdict: Verdict,
    /// Names of the rules that fired, in the order of the table, separated by commas.
    pub signals: String,
}

struct Rule {
    name: &'static str,
    /// What it speaks for.
    says: Verdict,
    fires: fn(&Hit, &str, &Facts) -> bool,
}

const RULES: &[Rule] = &[
    Rule { name: "no_agent", says: Verdict::Machine, fires: |_, agent, _| agent.is_empty() },
    Rule { name: "apple_relay", says: Verdict::Machine, fires: |hit, agent, _| hit.kind == Kind::Open && agent == "mozilla/5.0" },
    Rule { name: "gmail_prefetch", says: Verdict::Machine, fires: |_, agent, _| agent.ends_with(GMAIL_PREFETCH) },
    Rule {
        name: "machine_agent",
        says: Verdict::Machine,
        fires: |_, agent, _| !is_persons_proxy(agent) && MACHINE_AGENTS.iter().any(|part| agent.contains(part)),
    },
    Rule {
        name: "too_soon",
        says: Verdict::Machine,
        fires: |hit, _, facts| hit.kind == Kind::Click && facts.sent_at.is_some_and(|sent| hit.at.since(sent) < TOO_SOON_MS),
    },
    Rule { name: BURST, says: Verdict::Machine, fires: |_, _, facts| facts.burst },
    Rule { name: "persons_proxy", says: Verdict::Human, fires: |_, agent, _| is_persons_proxy(agent) },
];

fn is_persons_proxy(agent: &str) -> bool {
    PERSONS_PROXIES.iter().any(|part| agent.contains(part))
}

/// Judges one hit. Any rule for a machine outweighs those for a person.
pub fn judge(hit: &Hit, facts: &Facts) -> Judgement {
    let agent = hit.agent.as_deref().unwrap_or_default().trim().to_lowercase();
    let fired: Vec<&Rule> = RULES.iter().filter(|rule| (rule.fires)(hit, &agent, facts)).collect();
    let machine = fired.iter().any(|rule| rule.says == Verdict::Machine);
    Judgement {
        verdict: if machine { Verdict::Machine } else { Verdict::Human },
        signals: fired.iter().map(|rule| rule.name).collect::<Vec<_>>().join(","),
    }
}

/// `signals` with [`BURST`] added, for a hit recorded before its burst was seen.
pub fn with_burst(signals: &str) -> String {
    if signals.is_empty() { BURST.to_owned() } else { format!("{signals},{BURST}") }
}

/// Which of these clicks of one delivery belong to a burst. `clicks` are time and link, by time.
pub fn bursts(clicks: &[(Time, i64)]) -> Vec<bool> {
    let mut out = vec![false; clicks.len()];
    let mut start = 0;
    for end in 0..clicks.len() {
        while clicks[end].0.since(clicks[start].0) > BURST_MS {
            start += 1;
        }
        let mut links: Vec<i64> = clicks[start..=end].iter().map(|click| click.1).collect();
        links.sort_unstable();
        links.dedup();
        if links.len() >= BURST_LINKS {
            out[start..=end].fill(true);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148";
    const PROXY: &str = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";
    const PREFETCH: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0";

    fn at(ms: i64) -> Time {
        Time::from_millis(1_764_579_600_000 + ms)
    }

    fn check(hit: Hit, sent_ms: i64, verdict: Verdict, signals: &str) {
        let judged = judge(&hit, &Facts { sent_at: Some(at(sent_ms)), burst: false });
        assert_eq!((judged.verdict, judged.signals.as_str()), (verdict, signals), "{hit:?}");
    }

    #[test]
    fn every_rule_is_named_when_it_fires() {
        let open = |agent: &str| Hit::open(1, at(60_000), None, Some(agent.to_owned()));
        let click = |agent: &str, ms| Hit::click(1, 0, at(ms), None, Some(agent.to_owned()));
        check(open(PHONE), 0, Verdict::Human, "");
        check(open(PROXY), 0, Verdict::Human, "persons_proxy");
        check(open("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html"), 0, Verdict::Human, "persons_proxy");
        check(open(PREFETCH), 0, Verdict::Machine, "gmail_prefetch");
        check(open("Mozilla/5.0"), 0, Verdict::Machine, "apple_relay");
        check(open(""), 0, Verdict::Machine, "no_agent");
        check(open("Googlebot/2.1"), 0, Verdict::Machine, "machine_agent");
        check(click("Barracuda Sentinel (EE)", 60_000), 0, Verdict::Machine, "machine_agent");
        check(click("Microsoft Office Existence Discovery", 60_000), 0, Verdict::Machine, "machine_agent");
        check(click(PHONE, 1_999), 0, Verdict::Machine, "too_soon");
        check(click(PHONE, 2_000), 0, Verdict::Human, "");
        check(click("curl/8.5.0", 100), 0, Verdict::Machine, "machine_agent,too_soon");
        // An image loaded at once may be a person with the mailbox open; a bare agent clicks too.
        check(Hit { at: at(100), ..open(PHONE) }, 0, Verdict::Human, "");
        check(click("Mozilla/5.0", 60_000), 0, Verdict::Human, "");
    }

    #[test]
    fn without_a_recorded_sending_time_nothing_is_too_soon() {
        let judged = judge(&Hit::click(1, 0, at(0), None, Some(PHONE.into())), &Facts::default());
        assert_eq!(judged, Judgement { verdict: Verdict::Human, signals: String::new() });
    }

    #[test]
    fn three_links_within_five_seconds_are_a_burst_and_one_link_clicked_often_is_not() {
        assert_eq!(bursts(&[(at(0), 1), (at(100), 2), (at(4_999), 3)]), [true; 3]);
        assert_eq!(bursts(&[(at(0), 1), (at(100), 2), (at(5_001), 3)]), [false; 3]);
        assert_eq!(bursts(&[(at(0), 1), (at(100), 1), (at(200), 1), (at(300), 2)]), [false; 4]);
        assert_eq!(
            bursts(&[(at(0), 9), (at(6_000), 1), (at(7_000), 2), (at(8_000), 3), (at(60_000), 1)]),
            [false, true, true, true, false]
        );
    }
}
