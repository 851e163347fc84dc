//! Human or machine? Signals with weights, added up; each one that speaks is kept beside the verdict, so that raw
//! hits can be judged again when the rules get better, or when more is known.
//!
//! Nothing here reads or writes: [`judge`] gets what one mail saw and says what it thinks of each hit.
//! `docs/tracking.md` gives the reasons of the weights. Sources: Apple's relays load every image and show the bare
//! agent `Mozilla/5.0`; Gmail's image proxy acts when a person opens, its prefetch (another agent) does not;
//! gateways follow links with the agents of browsers, within seconds of delivery or minutes later, several of one
//! mail at once, often from computing centres.

use std::net::IpAddr;

use super::judge_machines::{Agent, Owner, machines, neighbourhood};
use super::judge_sequence::Sequence;
use super::traits::Traits;
use super::{Hit, Kind};
use crate::clock::Time;
use crate::config::TrackingSettings;
use crate::consent::tracking::TrackingRules;

/// What a hit was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Probably a person.
    Human,
    /// A program.
    Machine,
    /// An image loaded by a relay that does so whether the mail is read or not: nobody can tell.
    Unknowable,
}

impl Verdict {
    /// In the order in which they are shown.
    pub const ALL: [Verdict; 3] = [Verdict::Human, Verdict::Machine, Verdict::Unknowable];

    /// As stored.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Human => "human",
            Verdict::Machine => "machine",
            Verdict::Unknowable => "unknowable",
        }
    }

    /// From what is stored; what nobody knows any more is a machine's.
    pub fn from_stored(text: &str) -> Verdict {
        Verdict::ALL.into_iter().find(|verdict| verdict.text() == text).unwrap_or(Verdict::Machine)
    }
}

/// A signal: its name, and what it weighs in hundredths. Above 0 it speaks for a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// As kept in `hit.signals`.
    pub name: &'static str,
    /// In hundredths; 100 are enough by themselves where `machine_from` is 100.
    pub weight: i64,
    /// It is told by the request alone, and stays when address and agent are forgotten.
    pub of_client: bool,
}

const fn client(name: &'static str, weight: i64) -> Signal {
    Signal { name, weight, of_client: true }
}

const fn course(name: &'static str, weight: i64) -> Signal {
    Signal { name, weight, of_client: false }
}

// Of the request.
pub(super) const NO_AGENT: Signal = client("no_agent", 120);
pub(super) const MACHINE_AGENT: Signal = client("machine_agent", 200);
pub(super) const SCANNER_AGENT: Signal = client("scanner_agent", 200);
pub(super) const ODD_AGENT: Signal = client("odd_agent", 40);
pub(super) const PERSON_PROXY: Signal = client("person_proxy", -200);
pub(super) const PREFETCH: Signal = client("prefetch", 150);
pub(super) const APPLE_RELAY: Signal = client("apple_relay", 0);
pub(super) const LOOKED: Signal = client("looked", 200);
pub(super) const NO_LANGUAGE: Signal = client("no_language", 30);
pub(super) const NO_FETCH_METADATA: Signal = client("no_fetch_metadata", 20);
pub(super) const BY_HAND: Signal = client("by_hand", -20);
pub(super) const SCANNER_NETWORK: Signal = client("scanner_network", 150);
pub(super) const DATACENTRE: Signal = client("datacentre", 40);
// Of the course of things.
pub(super) const TOO_SOON: Signal = course("too_soon", 120);
pub(super) const SOON: Signal = course("soon", 60);
pub(super) const EARLY: Signal = course("early", 30);
pub(super) const BURST: Signal = course("burst", 120);
pub(super) const ALL_LINKS: Signal = course("all_links", 60);
pub(super) const WITH_SCAN: Signal = course("with_scan", 110);
pub(super) const TRAP_LINK: Signal = course("trap_link", 120);
pub(super) const TRAP_HEADER: Signal = course("trap_header", 70);
pub(super) const PAIR: Signal = course("pair", 60);
pub(super) const PAIR_FOLLOWED: Signal = course("pair_followed", -30);
pub(super) const NO_IMAGE: Signal = course("no_image", 15);
pub(super) const IMAGE_BEFORE: Signal = course("image_before", -20);
pub(super) const MANY_RECIPIENTS: Signal = course("many_recipients", 50);
pub(super) const MANY_MORE_RECIPIENTS: Signal = course("many_more_recipients", 80);
pub(super) const GATEWAY: Signal = course("gateway", 20);
pub(super) const SCANNED_DOMAIN: Signal = course("scanned_domain", 30);
pub(super) const QUIET_DOMAIN: Signal = course("quiet_domain", -15);

/// Every signal, for documentation and for what is read back.
pub const SIGNALS: &[Signal] = &[
    NO_AGENT,
    MACHINE_AGENT,
    SCANNER_AGENT,
    ODD_AGENT,
    PERSON_PROXY,
    PREFETCH,
    APPLE_RELAY,
    LOOKED,
    NO_LANGUAGE,
    NO_FETCH_METADATA,
    BY_HAND,
    SCANNER_NETWORK,
    DATACENTRE,
    TOO_SOON,
    SOON,
    EARLY,
    BURST,
    ALL_LINKS,
    WITH_SCAN,
    TRAP_LINK,
    TRAP_HEADER,
    PAIR,
    PAIR_FOLLOWED,
    NO_IMAGE,
    IMAGE_BEFORE,
    MANY_RECIPIENTS,
    MANY_MORE_RECIPIENTS,
    GATEWAY,
    SCANNED_DOMAIN,
    QUIET_DOMAIN,
];

/// What hits are written with: who may be tracked how, and from which score a hit is a machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Who may be tracked.
    pub rules: TrackingRules,
    /// In hundredths.
    pub machine_from: i64,
}

impl Policy {
    /// From the configuration.
    pub fn new(rules: TrackingRules, settings: &TrackingSettings) -> Policy {
        Policy { rules, machine_from: i64::from(settings.machine_from) }
    }
}

/// With the threshold that holds where none is configured.
impl From<TrackingRules> for Policy {
    fn from(rules: TrackingRules) -> Policy {
        Policy { rules, machine_from: 100 }
    }
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Human unless the score reaches the threshold.
    pub verdict: Verdict,
    /// The sum of the weights, in hundredths.
    pub score: i64,
    /// Names and weights of what spoke: `too_soon:120,datacentre:40`.
    pub signals: String,
}

/// What the request of a hit says by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    signals: Vec<Signal>,
    /// Its /24 or /64, where the address is known and is one of the internet.
    pub network: Option<String>,
}

impl Client {
    /// Looks at a request.
    pub fn of(kind: Kind, ip: Option<&str>, agent: Option<&str>, looked: bool, traits: Option<&str>) -> Client {
        let address: Option<IpAddr> = ip.and_then(|ip| ip.parse().ok());
        let owner = address.and_then(|address| machines().network(address));
        let agent = agent.unwrap_or_default();
        let said = machines().agent(agent);
        let mut signals = Vec::new();
        match said {
            Agent::Missing => signals.push(NO_AGENT),
            Agent::PersonProxy if kind == Kind::Open => signals.push(PERSON_PROXY),
            Agent::Prefetch => signals.push(PREFETCH),
            Agent::Scanner => signals.push(SCANNER_AGENT),
            Agent::Machine => signals.push(MACHINE_AGENT),
            Agent::Odd => signals.push(ODD_AGENT),
            Agent::Relay | Agent::PersonProxy | Agent::Ordinary => {}
        }
        if kind == Kind::Open && (said == Agent::Relay || (owner == Some(Owner::Relay) && is_apples(agent))) {
            signals.push(APPLE_RELAY);
        }
        match owner {
            Some(Owner::Scanner) => signals.push(SCANNER_NETWORK),
            // Gmail's and Yahoo's proxies stand in one.
            Some(Owner::Datacentre) if said != Agent::PersonProxy => signals.push(DATACENTRE),
            Some(Owner::Datacentre | Owner::Relay) | None => {}
        }
        if looked {
            signals.push(LOOKED);
        }
        if kind == Kind::Click
            && said == Agent::Ordinary
            && let Some(traits) = traits.map(Traits::read)
        {
            signals.extend(traits.signals(agent));
        }
        Client { signals, network: address.filter(|address| !is_in_house(*address)).map(neighbourhood) }
    }

    /// What is known of a client whose address and agent are forgotten: the signals that were kept.
    pub fn remembered(signals: &str) -> Client {
        let named = |name: &str| SIGNALS.iter().find(|signal| signal.of_client && signal.name == name).copied();
        let signals = signals.split(',').filter_map(|text| named(text.split_once(':').map_or(text, |pair| pair.0))).collect();
        Client { signals, network: None }
    }

    pub(super) fn has(&self, signal: Signal) -> bool {
        self.signals.contains(&signal)
    }
}

/// Of this machine or a private network: a proxy that hides who comes, or a rehearsal. Everybody has it.
fn is_in_house(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

/// Apple's programs show WebKit and nothing of Chrome.
fn is_apples(agent: &str) -> bool {
    let agent = agent.to_lowercase();
    agent.contains("applewebkit") && !agent.contains("chrome")
}

/// A hit as the judge sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its row.
    pub id: i64,
    /// Open, click or trap.
    pub kind: Kind,
    /// Position of the link.
    pub link: Option<i64>,
    /// When.
    pub at: Time,
    /// Only the head was asked for.
    pub looked: bool,
    /// A trap of the header, not of a hidden link.
    pub header_trap: bool,
    /// What its request says.
    pub client: Client,
    /// Mails of how many people its network touched within seconds.
    pub recipients: usize,
}

impl Seen {
    /// A hit that has just come.
    pub fn new(hit: &Hit) -> Seen {
        let client = Client::of(hit.kind, hit.ip.as_deref(), hit.agent.as_deref(), hit.looked, hit.traits.as_deref());
        let header_trap = hit.traits.as_deref().is_some_and(super::traits::is_header_trap);
        Seen { id: hit.id, kind: hit.kind, link: hit.link, at: hit.at, looked: hit.looked, header_trap, client, recipients: 0 }
    }
}

/// When a mail was taken by the receiving server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Taken {
    /// Then.
    At(Time),
    /// It is on its way: our books are some moments behind.
    JustNow,
    /// Nobody knows.
    #[default]
    Unknown,
}

/// What is known of a mail, beside its hits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mail {
    /// When the receiving server took it.
    pub taken: Taken,
    /// A known gateway stands before the mailbox.
    pub gateway: bool,
    /// Clicks of machines, and of people, at its domain so far.
    pub domain: (i64, i64),
    /// Its image was loaded at some time.
    pub opened: bool,
    /// Links that its run has.
    pub links: i64,
}

/// Judges the hits of one mail together; `hits` are by time. The answer is in their order.
pub fn judge(machine_from: i64, mail: &Mail, hits: &[Seen]) -> Vec<Judgement> {
    let sequence = Sequence::new(mail, hits);
    let weighed = |at: usize, more: Option<Signal>| {
        let mut signals = hits[at].client.signals.clone();
        sequence.signals(at, &mut signals);
        signals.extend(more);
        weigh(machine_from, &hits[at], &signals)
    };
    let mut judged: Vec<Judgement> = (0..hits.len()).map(|at| weighed(at, None)).collect();
    // Whoever followed links like a machine has loaded the image as one.
    let scans: Vec<bool> =
        hits.iter().zip(&judged).map(|(hit, judged)| hit.kind == Kind::Click && judged.verdict == Verdict::Machine).collect();
    for at in (0..hits.len()).filter(|at| hits[*at].kind == Kind::Open && sequence.beside(*at, &scans)) {
        judged[at] = weighed(at, Some(WITH_SCAN));
    }
    judged
}

fn weigh(machine_from: i64, hit: &Seen, signals: &[Signal]) -> Judgement {
    let score = signals.iter().map(|signal| signal.weight).sum();
    let verdict = if hit.kind == Kind::Trap || hit.looked || score >= machine_from {
        Verdict::Machine
    } else if hit.client.has(APPLE_RELAY) {
        Verdict::Unknowable
    } else {
        Verdict::Human
    };
    let signals: Vec<String> = signals.iter().map(|signal| format!("{}:{}", signal.name, signal.weight)).collect();
    Judgement { verdict, score, signals: signals.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148";
    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";
    const PROXY: &str = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";
    const BEFORE: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0";

    fn at(ms: i64) -> Time {
        Time::from_millis(1_764_579_600_000 + ms)
    }

    fn hit(kind: Kind, ms: i64, agent: &str) -> Hit {
        let agent = Some(agent.to_owned());
        match kind {
            Kind::Open => Hit::open(1, at(ms), None, agent),
            Kind::Click | Kind::Trap => Hit::click(1, 0, at(ms), None, agent),
        }
    }

    #[track_caller]
    fn check(hit: Hit, verdict: Verdict, signals: &str) {
        let mail = Mail { taken: Taken::At(at(0)), opened: true, links: 9, ..Mail::default() };
        let judged = judge(100, &mail, &[Seen::new(&hit)]).remove(0);
        assert_eq!((judged.verdict, judged.signals.as_str()), (verdict, signals), "{hit:?}");
    }

    #[test]
    fn every_signal_of_a_request_is_named_when_it_speaks() {
        let open = |agent: &str| hit(Kind::Open, 60_000, agent);
        let click = |agent: &str, ms| hit(Kind::Click, ms, agent);
        check(open(PHONE), Verdict::Human, "");
        check(open(PROXY), Verdict::Human, "person_proxy:-200");
        check(open("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html"), Verdict::Human, "person_proxy:-200");
        check(open(BEFORE), Verdict::Machine, "prefetch:150");
        check(open("Mozilla/5.0"), Verdict::Unknowable, "apple_relay:0");
        check(Hit { ip: Some("17.58.0.9".into()), ..open(PHONE) }, Verdict::Unknowable, "apple_relay:0");
        check(Hit { ip: Some("17.58.0.9".into()), ..open(CHROME) }, Verdict::Human, "");
        check(open(""), Verdict::Machine, "no_agent:120");
        check(open("Googlebot/2.1"), Verdict::Machine, "machine_agent:200");
        check(open("TeaReader"), Verdict::Human, "odd_agent:40");
        check(click("Barracuda Sentinel (EE)", 60_000), Verdict::Machine, "scanner_agent:200");
        check(click("Microsoft Office Existence Discovery", 60_000), Verdict::Machine, "scanner_agent:200");
        check(Hit { ip: Some("209.222.81.3".into()), ..click(CHROME, 60_000) }, Verdict::Machine, "scanner_network:150");
        check(Hit { ip: Some("40.94.1.3".into()), ..click(CHROME, 60_000) }, Verdict::Human, "datacentre:40");
        check(Hit { looked: true, ..click(PHONE, 60_000) }, Verdict::Machine, "looked:200");
        check(Hit { traits: Some("html".into()), ..click(CHROME, 60_000) }, Verdict::Human, "no_language:30,no_fetch_metadata:20");
        check(
            Hit { traits: Some("lang,html,site=cross-site,mode=navigate,user".into()), ..click(CHROME, 60_000) },
            Verdict::Human,
            "by_hand:-20",
        );
        check(Hit { traits: Some("lang,prefetch,mode=navigate".into()), ..click(CHROME, 60_000) }, Verdict::Machine, "prefetch:150");
        // An image loaded at once may be a person with the mailbox open; a bare agent clicks too.
        check(hit(Kind::Open, 100, PHONE), Verdict::Human, "");
        check(click("Mozilla/5.0", 60_000), Verdict::Human, "");
    }

    #[test]
    fn time_since_the_receiving_server_took_it_weighs_by_steps() {
        for (ms, signals, verdict) in [
            (-500, "too_soon:120", Verdict::Machine),
            (1_999, "too_soon:120", Verdict::Machine),
            (2_000, "soon:60", Verdict::Human),
            (4_999, "soon:60", Verdict::Human),
            (5_000, "early:30", Verdict::Human),
            (14_999, "early:30", Verdict::Human),
            (15_000, "", Verdict::Human),
        ] {
            check(hit(Kind::Click, ms, PHONE), verdict, signals);
        }
        let judged = |taken| {
            let mail = Mail { taken, opened: true, ..Mail::default() };
            judge(100, &mail, &[Seen::new(&hit(Kind::Click, 0, PHONE))]).remove(0).signals
        };
        assert_eq!((judged(Taken::Unknown).as_str(), judged(Taken::JustNow).as_str()), ("", "too_soon:120"));
    }

    #[test]
    fn a_forgotten_client_keeps_what_was_said_of_it_with_the_weights_of_today() {
        let client = Client::remembered("datacentre:999,too_soon:120,no_language:1,unheard_of:7");
        assert_eq!(client.signals, [DATACENTRE, NO_LANGUAGE]);
        assert!(Client::remembered("").signals.is_empty());
        assert_eq!(Client::remembered("machine_agent,burst").signals, [MACHINE_AGENT], "as written before there were weights");
    }

    #[test]
    fn addresses_of_the_house_are_no_network() {
        let network = |ip: &str| Client::of(Kind::Click, Some(ip), Some(PHONE), false, None).network;
        for ip in ["127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd00::1", "fe80::1", "::ffff:127.0.0.1", "nonsense"] {
            assert_eq!(network(ip), None, "{ip}");
        }
        assert_eq!(network("198.51.100.7").as_deref(), Some("198.51.100"));
    }

    #[test]
    fn every_signal_has_a_name_of_its_own() {
        let mut names: Vec<&str> = SIGNALS.iter().map(|signal| signal.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SIGNALS.len());
    }
}
