//! What the course of things tells: the hits of one mail beside each other.

use super::Kind;
use super::judge::{
    ALL_LINKS, BURST, DATACENTRE, EARLY, GATEWAY, IMAGE_BEFORE, MANY_MORE_RECIPIENTS, MANY_RECIPIENTS, Mail, NO_IMAGE, PAIR, PAIR_FOLLOWED,
    PREFETCH, QUIET_DOMAIN, SCANNED_DOMAIN, SCANNER_NETWORK, SOON, Seen, Signal, TOO_SOON, TRAP_HEADER, TRAP_LINK, Taken,
};
use crate::clock::{MINUTE, SECOND, Time};

/// Nobody has read a mail and found a link so soon after the receiving server took it.
const TOO_SOON_MS: i64 = 2 * SECOND;
/// Hardly anybody: a notice, a tap, a link.
const SOON_MS: i64 = 5 * SECOND;
/// Few people.
const EARLY_MS: i64 = 15 * SECOND;
/// The window in which a person does not follow [`BURST_LINKS`] different links of one mail.
const BURST_MS: i64 = 5 * SECOND;
/// So many different links of one mail within [`BURST_MS`] are a scanner's.
const BURST_LINKS: usize = 3;
/// A gateway that looks when somebody clicks does so within this time of them.
const PAIR_MS: i64 = 10 * SECOND;
/// A trap speaks for what happened to its mail so near to it, from anywhere.
const TRAP_MS: i64 = 5 * SECOND;
/// How far apart two hits may be that still say something about each other: a trap, from the same network.
pub(super) const WINDOW_MS: i64 = MINUTE;
/// A network that touches mails of so many people within seconds may be a scanner; an office may do it, too.
pub(super) const MANY: usize = 5;
/// So many are hardly an office.
pub(super) const MANY_MORE: usize = 20;
/// Clicks of a domain that are taken for granted, a tenth of them by machines, before its own say much.
const PRIOR_CLICKS: i64 = 20;
const PRIOR_MACHINE: i64 = 2;
/// Percent of a domain's clicks by machines, from which it is one that scans.
const SCANNED_PERCENT: i64 = 50;
/// Percent below which nothing there scans.
const QUIET_PERCENT: i64 = 5;

/// The hits of one mail, by time, with what belongs together found.
pub(super) struct Sequence<'a> {
    mail: &'a Mail,
    hits: &'a [Seen],
    burst: Vec<bool>,
    all_links: Vec<bool>,
}

impl<'a> Sequence<'a> {
    pub(super) fn new(mail: &'a Mail, hits: &'a [Seen]) -> Self {
        let clicks: Vec<usize> = (0..hits.len()).filter(|at| hits[*at].kind == Kind::Click).collect();
        let (mut burst, mut all_links) = (vec![false; hits.len()], vec![false; hits.len()]);
        let mut start = 0;
        for end in 0..clicks.len() {
            while hits[clicks[end]].at.since(hits[clicks[start]].at) > BURST_MS {
                start += 1;
            }
            let mut links: Vec<i64> = clicks[start..=end].iter().filter_map(|at| hits[*at].link).collect();
            links.sort_unstable();
            links.dedup();
            let all = links.len() > 1 && links.len() as i64 == mail.links;
            for at in clicks[start..=end].iter().filter(|_| all || links.len() >= BURST_LINKS) {
                burst[*at] |= links.len() >= BURST_LINKS;
                all_links[*at] |= all;
            }
        }
        Sequence { mail, hits, burst, all_links }
    }

    /// Adds what the course of things says of hit `at`.
    pub(super) fn signals(&self, at: usize, out: &mut Vec<Signal>) {
        let hit = &self.hits[at];
        match hit.kind {
            Kind::Click => {
                out.extend(self.since_taken(hit.at));
                out.extend(self.burst[at].then_some(BURST));
                out.extend(self.all_links[at].then_some(ALL_LINKS));
                out.extend(self.pair(at));
                out.extend(self.image(at));
                out.extend(match hit.recipients {
                    MANY_MORE.. => Some(MANY_MORE_RECIPIENTS),
                    MANY.. => Some(MANY_RECIPIENTS),
                    _ => None,
                });
                out.extend(self.mail.gateway.then_some(GATEWAY));
                out.extend(self.domain());
            }
            Kind::Open | Kind::Trap => {}
        }
        out.extend(self.trap(at));
    }

    fn since_taken(&self, at: Time) -> Option<Signal> {
        let since = match self.mail.taken {
            Taken::At(taken) => at.since(taken),
            Taken::JustNow => 0,
            Taken::Unknown => return None,
        };
        let limits = [(TOO_SOON_MS, TOO_SOON), (SOON_MS, SOON), (EARLY_MS, EARLY)];
        limits.into_iter().find(|(limit, _)| since < *limit).map(|(_, signal)| signal)
    }

    /// The others within `window` of hit `at`.
    fn near(&self, at: usize, window: i64) -> impl Iterator<Item = (usize, &Seen)> {
        let moment = self.hits[at].at;
        let from = self.hits.partition_point(|hit| moment.since(hit.at) > window);
        let near = self.hits[from..].iter().take_while(move |hit| hit.at.since(moment) <= window);
        near.enumerate().map(move |(index, hit)| (from + index, hit)).filter(move |(index, _)| *index != at)
    }

    fn same_network(one: &Seen, other: &Seen) -> bool {
        one.client.network.is_some() && one.client.network == other.client.network
    }

    /// A gateway that looks at a link while somebody follows it: two hits on one link from two networks.
    fn pair(&self, at: usize) -> Option<Signal> {
        let hit = &self.hits[at];
        let scans = |hit: &Seen| hit.looked || hit.client.has(DATACENTRE) || hit.client.has(SCANNER_NETWORK);
        let mut found = None;
        for (index, other) in self.near(at, PAIR_MS) {
            let elsewhere = hit.client.network.is_some() && other.client.network.is_some() && !Self::same_network(hit, other);
            if other.kind != Kind::Click || other.link != hit.link || !elsewhere || self.burst[index] {
                continue;
            }
            match (scans(hit), scans(other)) {
                (true, false) => return Some(PAIR),
                (false, true) => return Some(PAIR_FOLLOWED),
                // Nothing tells which one is the gateway, but that it looks first.
                (false, false) if index < at => found = Some(PAIR_FOLLOWED),
                _ => {}
            }
        }
        found
    }

    /// People see a mail before they click, and most programs load its images then.
    fn image(&self, at: usize) -> Option<Signal> {
        let hit = &self.hits[at];
        let seen = |(index, other): (usize, &Seen)| {
            let scanned = other.client.has(PREFETCH) || self.beside(index, &self.burst);
            other.kind == Kind::Open && other.at < hit.at && !other.looked && !scanned && Self::same_network(hit, other)
        };
        if self.near(at, WINDOW_MS).any(seen) && !self.burst[at] {
            return Some(IMAGE_BEFORE);
        }
        (!self.mail.opened && !self.hits.iter().any(|other| other.kind == Kind::Open && !other.looked)).then_some(NO_IMAGE)
    }

    /// Whether the same network did one of `these` within seconds of hit `at`.
    pub(super) fn beside(&self, at: usize, these: &[bool]) -> bool {
        self.near(at, BURST_MS).any(|(index, other)| these[index] && Self::same_network(&self.hits[at], other))
    }

    fn trap(&self, at: usize) -> Option<Signal> {
        let hit = &self.hits[at];
        let speaks = |other: &Seen| other.kind == Kind::Trap && (hit.at.since(other.at).abs() <= TRAP_MS || Self::same_network(hit, other));
        let mut traps = self.near(at, WINDOW_MS).map(|near| near.1).filter(|other| speaks(other)).peekable();
        traps.peek()?;
        Some(if traps.any(|trap| !trap.header_trap) { TRAP_LINK } else { TRAP_HEADER })
    }

    /// How much of a domain's clicks are by machines, drawn towards what is usual while little is known of it.
    fn domain(&self) -> Option<Signal> {
        let (machine, human) = self.mail.domain;
        let percent = (machine + PRIOR_MACHINE) * 100 / (machine + human + PRIOR_CLICKS);
        match percent {
            SCANNED_PERCENT.. => Some(SCANNED_DOMAIN),
            ..QUIET_PERCENT => Some(QUIET_DOMAIN),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::{Client, Judgement, Verdict, judge};
    use super::*;

    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";

    fn seen(kind: Kind, seconds: f64, link: i64, ip: &str) -> Seen {
        Seen {
            id: 0,
            kind,
            link: (kind == Kind::Click).then_some(link),
            at: Time::from_millis(1_764_579_600_000 + (seconds * 1_000.0) as i64),
            looked: false,
            header_trap: false,
            client: Client::of(kind, Some(ip), Some(CHROME), false, None),
            recipients: 0,
        }
    }

    fn click(seconds: f64, link: i64) -> Seen {
        seen(Kind::Click, seconds, link, "198.51.100.1")
    }

    fn judged(mail: Mail, hits: &[Seen]) -> Vec<Judgement> {
        judge(100, &Mail { opened: true, ..mail }, hits)
    }

    fn signals(mail: Mail, hits: &[Seen]) -> Vec<String> {
        judged(mail, hits).into_iter().map(|judged| judged.signals).collect()
    }

    fn bursts(hits: &[(f64, i64)]) -> Vec<bool> {
        let hits: Vec<Seen> = hits.iter().map(|(seconds, link)| click(*seconds, *link)).collect();
        judged(Mail::default(), &hits).iter().map(|judged| judged.verdict == Verdict::Machine).collect()
    }

    #[test]
    fn three_links_within_five_seconds_are_a_burst_and_one_link_clicked_often_is_not() {
        assert_eq!(bursts(&[(0.0, 1), (0.1, 2), (4.999, 3)]), [true; 3]);
        assert_eq!(bursts(&[(0.0, 1), (0.1, 2), (5.001, 3)]), [false; 3]);
        assert_eq!(bursts(&[(0.0, 1), (0.1, 1), (0.2, 1), (0.3, 2)]), [false; 4]);
        assert_eq!(bursts(&[(0.0, 9), (6.0, 1), (7.0, 2), (8.0, 3), (60.0, 1)]), [false, true, true, true, false]);
    }

    #[test]
    fn all_links_of_a_short_mail_are_told_from_two_of_many() {
        let two = [click(0.0, 0), click(1.0, 1)];
        assert_eq!(signals(Mail { links: 2, ..Mail::default() }, &two), ["all_links:60", "all_links:60"]);
        assert_eq!(signals(Mail { links: 3, ..Mail::default() }, &two), ["", ""]);
        assert_eq!(signals(Mail { links: 1, ..Mail::default() }, &two[..1]), [""]);
    }

    #[test]
    fn of_a_pair_the_one_from_a_computing_centre_is_the_gateway() {
        let gateway = |seconds| seen(Kind::Click, seconds, 0, "40.94.1.1");
        assert_eq!(signals(Mail::default(), &[gateway(0.0), click(1.0, 0)]), ["datacentre:40,pair:60", "pair_followed:-30"]);
        assert_eq!(signals(Mail::default(), &[click(0.0, 0), gateway(1.0)]), ["pair_followed:-30", "datacentre:40,pair:60"]);
        assert_eq!(signals(Mail::default(), &[gateway(0.0), click(11.0, 0)]), ["datacentre:40", ""]);
        assert_eq!(signals(Mail::default(), &[click(0.0, 0), click(1.0, 0)]), ["", ""], "a double click");
    }

    #[test]
    fn a_trap_speaks_for_what_is_near_it() {
        let trap = |seconds, header_trap| Seen { header_trap, ..seen(Kind::Trap, seconds, 0, "203.0.113.1") };
        assert_eq!(signals(Mail::default(), &[trap(0.0, true), click(4.0, 0), click(9.0, 0)]), ["", "trap_header:70", ""]);
        assert_eq!(signals(Mail::default(), &[click(0.0, 0), trap(4.0, false)]), ["trap_link:120", ""]);
        let same = seen(Kind::Click, 59.0, 0, "203.0.113.77");
        assert_eq!(signals(Mail::default(), &[trap(0.0, false), same])[1], "trap_link:120");
        assert_eq!(judged(Mail::default(), &[trap(0.0, false)])[0].verdict, Verdict::Machine);
    }

    #[test]
    fn images_that_a_scanner_loads_are_told_from_those_a_person_sees() {
        let open = |seconds| seen(Kind::Open, seconds, 0, "198.51.100.9");
        assert_eq!(signals(Mail::default(), &[open(0.0), click(3.0, 0)]), ["", "image_before:-20"]);
        let scan = [open(0.0), click(1.0, 0), click(1.5, 1), click(2.0, 2)];
        assert_eq!(signals(Mail::default(), &scan), ["with_scan:110", "burst:120", "burst:120", "burst:120"]);
        let unseen = judge(100, &Mail::default(), &[click(0.0, 0)]);
        assert_eq!(unseen[0].signals, "no_image:15");
    }

    #[test]
    fn a_domain_is_judged_by_its_past_once_there_is_some() {
        let of = |machine, human| signals(Mail { domain: (machine, human), ..Mail::default() }, &[click(0.0, 0)]).remove(0);
        assert_eq!((of(0, 0).as_str(), of(10, 0).as_str(), of(0, 10).as_str()), ("", "", ""));
        assert_eq!((of(40, 10).as_str(), of(0, 100).as_str()), ("scanned_domain:30", "quiet_domain:-15"));
    }

    #[test]
    fn a_network_that_touches_many_people_is_noticed() {
        let of = |recipients| signals(Mail::default(), &[Seen { recipients, ..click(0.0, 0) }]).remove(0);
        assert_eq!((of(4).as_str(), of(5).as_str(), of(20).as_str()), ("", "many_recipients:50", "many_more_recipients:80"));
    }
}
