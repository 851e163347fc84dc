//! Limits under a simulated clock.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clock::{DAY, HOUR, MINUTE, SECOND};

fn at(text: &str) -> Time {
    Time::parse(text).unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn limit(rate: &str, per_day: Option<u64>) -> Limit {
    Limit { rate: (!rate.is_empty()).then(|| rate.parse().unwrap()), per_day }
}

/// A bucket and its limit under one clock.
struct Tap {
    bucket: Bucket,
    limit: Limit,
    zone: TimeZone,
    now: Time,
    /// What left, and when.
    taken: Vec<(Time, u64)>,
}

impl Tap {
    fn new(limit: Limit, zone: TimeZone, now: Time) -> Self {
        Tap { bucket: Bucket::default(), limit, zone, now, taken: Vec::new() }
    }

    fn today(&self) -> Today {
        Today::new(self.now, &self.zone)
    }

    fn take(&mut self, wanted: u64) -> u64 {
        let mails = self.bucket.available(&self.limit, self.now, &self.today()).min(wanted);
        if mails > 0 {
            self.bucket.take(&self.limit, mails, self.now, &self.today());
            self.taken.push((self.now, mails));
        }
        mails
    }

    fn next_at(&self, mails: u64) -> Time {
        self.bucket.next_at(&self.limit, mails, self.now, &self.today())
    }

    /// No window holds more than its share and a burst, to the microsecond.
    fn assert_rate(&self) {
        let rate = self.limit.rate.unwrap();
        for (first, (start, _)) in self.taken.iter().enumerate() {
            let mut sum = 0;
            for (end, mails) in &self.taken[first..] {
                sum += i128::from(*mails);
                let window_us = i128::from(end.since(*start) * MILLI_US + TOLERANCE_US + 1);
                assert!(
                    sum * micros(rate) <= window_us * i128::from(rate.mails) + micros(rate),
                    "{sum} mails from {start} to {end} at {rate}"
                );
            }
        }
    }

    fn per_day(&self) -> BTreeMap<Date, u64> {
        self.taken.iter().fold(BTreeMap::new(), |mut days, (time, mails)| {
            *days.entry(Today::new(*time, &self.zone).date).or_default() += mails;
            days
        })
    }
}

fn rates() -> impl Strategy<Value = Rate> {
    (1..3_000_u64, proptest::sample::select(vec![1_u64, 60, 3_600])).prop_map(|(mails, per_seconds)| Rate { mails, per_seconds })
}

#[test]
fn a_burst_is_a_quarter_of_a_second_and_one() {
    for (rate, mails) in [("100/s", 26), ("3/s", 1), ("1/h", 1), ("20/min", 1), ("1000/h", 1), ("1000000/s", 250_001), ("4/s", 2)] {
        assert_eq!(burst(rate.parse().unwrap()), mails, "{rate}");
        let mut tap = Tap::new(limit(rate, None), TimeZone::UTC, at("2026-12-01T09:00:00Z"));
        assert_eq!(tap.take(u64::MAX), mails, "{rate}");
        assert_eq!(tap.take(1), 0, "{rate}");
    }
}

#[test]
fn nothing_limited_is_nothing_counted() {
    let mut tap = Tap::new(Limit::default(), TimeZone::UTC, at("2026-12-01T09:00:00Z"));
    assert_eq!(tap.take(u64::MAX), u64::MAX);
    assert_eq!(tap.next_at(1), tap.now);
}

#[test]
fn a_slow_rate_says_when_the_next_one_may_leave() {
    let start = at("2026-12-01T09:00:00Z");
    let mut tap = Tap::new(limit("20/min", None), TimeZone::UTC, start);
    assert_eq!((tap.take(5), tap.take(5)), (1, 0));
    assert_eq!(tap.next_at(1), start.plus(3 * SECOND - 250));
    tap.now = start.plus(3 * SECOND - 251);
    assert_eq!(tap.take(1), 0);
    tap.now = start.plus(3 * SECOND - 250);
    assert_eq!(tap.take(1), 1);
    // At a fast rate a worker may ask for the moment of a whole batch.
    let mut tap = Tap::new(limit("100/s", None), TimeZone::UTC, start);
    tap.take(26);
    assert_eq!((tap.next_at(1), tap.next_at(10), tap.next_at(1_000)), (start.plus(10), start.plus(100), start.plus(260)));
    tap.now = start.plus(100);
    assert_eq!(tap.take(100), 10);
}

#[test]
fn a_day_ends_at_midnight_of_the_zone_however_long_it_is() {
    for (name, moment, hours) in [
        ("America/New_York", "2026-03-08T17:00:00Z", 23),
        ("America/New_York", "2026-11-01T17:00:00Z", 25),
        ("Europe/Berlin", "2026-10-25T12:00:00Z", 25),
        ("Asia/Taipei", "2026-10-25T12:00:00Z", 24),
        ("America/Santiago", "2026-09-05T12:00:00Z", 24),
        // This day begins at one o'clock: its midnight was skipped.
        ("America/Santiago", "2026-09-06T12:00:00Z", 23),
    ] {
        let zone = zone(name);
        let today = Today::new(at(moment), &zone);
        let start = start_of(today.date, &zone);
        assert_eq!(today.ends_at.since(start), hours * HOUR, "{name} {moment}");
        for (time, number) in [(start, today.number), (start.plus(-1), today.number - 1), (today.ends_at.plus(-1), today.number)] {
            assert_eq!(Today::new(time, &zone).number, number, "{name} {time}");
        }
        assert_eq!(Today::new(today.ends_at, &zone).number, today.number + 1, "{name}");
    }
    assert_eq!(Today::new(Time::from_millis(-1), &TimeZone::UTC).number, -1);
}

#[test]
fn what_is_over_goes_on_the_next_day() {
    let mut tap = Tap::new(limit("", Some(100)), zone("Asia/Taipei"), at("2026-12-01T09:00:00Z"));
    assert_eq!((tap.take(60), tap.take(60), tap.take(60)), (60, 40, 0));
    assert_eq!(tap.next_at(1), at("2026-12-01T16:00:00Z"));
    tap.now = at("2026-12-01T16:00:00Z");
    assert_eq!(tap.take(500), 100);
    // A node whose clock is a minute behind does not get yesterday's number again.
    tap.now = at("2026-12-01T15:59:00Z");
    assert_eq!(tap.take(1), 0);
}

#[test]
fn a_plan_caps_nothing_before_it_starts_a_number_a_day_and_then_no_more() {
    let plan = WarmUp { start: Date::constant(2026, 12, 1), per_day: vec![50, 100] };
    let caps = [(30, 11, Some(0)), (1, 12, Some(50)), (2, 12, Some(100)), (3, 12, None), (31, 12, None)];
    for (day, month, expected) in caps {
        assert_eq!(cap(&plan, Date::constant(2026, month, day)), expected, "{month}-{day}");
    }
    assert_eq!(over_on(&plan), Some(Date::constant(2026, 12, 3)));
}

#[test]
fn what_comes_back_is_there_again_and_never_more() {
    let start = at("2026-12-01T09:00:00Z");
    let mut tap = Tap::new(limit("100/s", Some(50)), TimeZone::UTC, start);
    let (limit, today) = (tap.limit, tap.today());
    tap.take(20);
    tap.bucket.give_back(&limit, 20, start, &today);
    assert_eq!((tap.bucket.used, tap.bucket.available(&limit, start, &today)), (0, 26));
    tap.take(20);
    // Somebody took since: the day gets them back, the rate does not.
    tap.now = start.plus(100);
    assert_eq!(tap.take(5), 5);
    let before = tap.bucket.spent_until;
    tap.bucket.give_back(&limit, 20, start, &today);
    assert_eq!((tap.bucket.used, tap.bucket.spent_until), (5, before));
    // Yesterday's claims are none of today's.
    tap.now = start.plus(DAY);
    tap.take(3);
    tap.bucket.give_back(&limit, 5, start, &today);
    assert_eq!(tap.bucket.used, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Takers with any appetite at any time, some of which return what they took.
    #[test]
    fn no_window_holds_more_than_the_rate_and_a_burst(
        rate in rates(),
        steps in proptest::collection::vec((prop_oneof![Just(0_i64), 0..50_i64, 0..5_000_i64], 1..200_u64, 0..8_u64), 1..120),
    ) {
        let mut tap = Tap::new(Limit { rate: Some(rate), per_day: None }, TimeZone::UTC, at("2026-12-01T09:00:00Z"));
        for (gap, wanted, back) in steps {
            tap.now = tap.now.plus(gap);
            tap.take(wanted);
            // One of the last claims comes back, in whole or in part.
            let count = tap.taken.len();
            let today = tap.today();
            if back < 4 && let Some((claimed_at, mails)) = count.checked_sub(1 + back as usize).and_then(|n| tap.taken.get_mut(n)) {
                let returned = (*mails).min(wanted);
                *mails -= returned;
                tap.bucket.give_back(&tap.limit, returned, *claimed_at, &today);
            }
        }
        tap.assert_rate();
    }

    /// Workers that come up to 200 ms late, several of them, get at least 99 % of the rate.
    #[test]
    fn a_rate_is_reached(rate in rates(), late in proptest::collection::vec(0..200_i64, 7), batch in 1..300_u64) {
        let start = at("2026-12-01T09:00:00Z");
        let mut tap = Tap::new(Limit { rate: Some(rate), per_day: None }, TimeZone::UTC, start);
        let enough = 300.max(rate.mails / rate.per_seconds * 2);
        // The burst of a fresh bucket is not counted: it would hide what is lost later.
        tap.take(u64::MAX);
        let mut sum = 0;
        for round in 0.. {
            // Small batches come one after the other, as from several workers, until nothing is left.
            tap.now = tap.next_at(1).plus(late[round % late.len()]);
            while let mails @ 1.. = tap.take(batch) {
                sum += mails;
            }
            if sum >= enough {
                break;
            }
        }
        let expected = tap.now.since(start) as f64 / 1000.0 * rate.mails as f64 / rate.per_seconds as f64;
        prop_assert!(sum as f64 >= 0.99 * expected - 1.0, "{sum} of {expected} at {rate}");
    }

    /// With demand, each day gets its number exactly, also where the zone's days are longer or shorter.
    #[test]
    fn a_day_gets_exactly_its_number(
        per_day in 1..500_u64,
        name in proptest::sample::select(vec!["UTC", "Asia/Taipei", "America/New_York", "Europe/Berlin", "America/Santiago"]),
        steps in proptest::collection::vec((1..90_i64, 1..60_u64, 0..3_u64), 200..400),
        some_come_back in any::<bool>(),
    ) {
        let mut tap = Tap::new(limit("", Some(per_day)), zone(name), at("2026-10-23T00:00:00Z"));
        let mut wanted_on: BTreeMap<Date, u64> = BTreeMap::new();
        for (minutes, wanted, back) in steps {
            tap.now = tap.now.plus(minutes * MINUTE);
            let today = tap.today();
            let taken = tap.take(wanted);
            let returned = if some_come_back { taken * back / 3 } else { 0 };
            if let Some((claimed_at, mails)) = tap.taken.last_mut().filter(|_| returned > 0) {
                *mails -= returned;
                tap.bucket.give_back(&tap.limit, returned, *claimed_at, &today);
            }
            *wanted_on.entry(today.date).or_default() += wanted;
            prop_assert_eq!(tap.bucket.used_on(&today), tap.per_day().get(&today.date).copied().unwrap_or(0));
        }
        for (date, sum) in tap.per_day() {
            let most = per_day.min(wanted_on[&date]);
            prop_assert!(sum == most || (some_come_back && sum < most), "{date}: {sum} of {most}");
        }
    }

    /// Twenty days of a new relay in a month with a change of the clocks: no provider gets more than the
    /// day's cap, and each cap is used while there is demand.
    #[test]
    fn twenty_days_of_warming_up_keep_the_cap_of_each_provider(
        demand in proptest::collection::vec((1..40_u64, 0..3_usize), 400..600),
        first in 1..60_u64,
    ) {
        let plan: Vec<u64> = (0..20).map(|day| first + day * first / 2).collect();
        let warm_up = WarmUp { start: Date::constant(2026, 10, 15), per_day: plan.clone() };
        let limits = Limits {
            zone: zone("Europe/Berlin"),
            all: Limit::default(),
            relays: BTreeMap::from([("new".to_owned(), (Limit::default(), Some(warm_up)))]),
            providers: BTreeMap::new(),
        };
        let providers = ["gmail", "qq", "other"];
        let mut buckets = Buckets::default();
        let mut now = at("2026-10-14T12:00:00Z");
        let mut sent: BTreeMap<(Date, &str), u64> = BTreeMap::new();
        let mut wanted: BTreeMap<(Date, &str), u64> = BTreeMap::new();
        for (mails, provider) in demand {
            now = now.plus(HOUR + 7 * SECOND);
            let wish = Wish { run: None, provider: providers[provider], relay: "new", asked: None };
            let key = (limits.today(now).date, providers[provider]);
            *wanted.entry(key).or_default() += mails;
            *sent.entry(key).or_default() += limits.take(&mut buckets, &wish, mails, now);
        }
        for (key, sent) in sent {
            let cap = match day_number(key.0) - day_number(Date::constant(2026, 10, 15)) {
                day if day < 0 => 0,
                day => plan.get(day as usize).copied().unwrap_or(u64::MAX),
            };
            prop_assert_eq!(sent, cap.min(wanted[&key]), "{:?}", key);
        }
    }
}

#[test]
fn a_mail_counts_in_every_limit_it_falls_under_or_in_none() {
    let limits = Limits {
        zone: TimeZone::UTC,
        all: limit("", Some(100)),
        relays: BTreeMap::from([("default".to_owned(), (limit("", Some(80)), None)), ("free".to_owned(), Default::default())]),
        providers: BTreeMap::from([("gmail".to_owned(), limit("20/min", None))]),
    };
    let now = at("2026-12-01T09:00:00Z");
    let wish = |provider, relay, run| Wish { run, provider, relay, asked: None };
    let gmail = wish("gmail", "default", Some((7, limit("", Some(10)))));
    let qq = wish("qq", "default", Some((7, limit("", Some(10)))));
    let names = |wish: Wish<'_>| limits.names(&[wish], now).into_iter().collect::<Vec<_>>();
    assert_eq!(names(gmail), ["all", "campaign:7", "provider:gmail", "relay:default"]);
    assert_eq!(names(wish("qq", "free", None)), ["all"]);
    assert_eq!(names(Wish { asked: Some("5/h".parse().unwrap()), ..wish("qq", "free", None) }), ["all", "relay:free/provider:qq"]);

    let mut buckets = Buckets::default();
    assert_eq!(limits.take(&mut buckets, &gmail, 5, now), 1);
    assert_eq!(limits.take(&mut buckets, &gmail, 5, now), 0);
    assert_eq!((buckets.get("all").used, buckets.get("relay:default").used, buckets.get("campaign:7").used), (1, 1, 1));
    // The one that asks gmail to wait holds up nobody else; the run has its own end.
    assert_eq!(limits.take(&mut buckets, &qq, 50, now), 9);
    assert_eq!(limits.take(&mut buckets, &wish("qq", "default", None), 500, now), 70);
    assert_eq!(limits.take(&mut buckets, &wish("qq", "free", None), 500, now), 20);
    let shown: Vec<String> = limits.waits(&buckets, &[gmail, qq], now).iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "all mail: 100 a day reached, goes on at 00:00 UTC",
            "this campaign: 10 a day reached, goes on at 00:00 UTC",
            "gmail at 20/min",
            "relay default: 80 a day reached, goes on at 00:00 UTC"
        ]
    );
    assert_eq!(limits.next_at(&buckets, &gmail, 1, now), at("2026-12-02T00:00:00Z"));
    let json = serde_json::to_value(&limits.waits(&buckets, &[gmail], now)[2]).unwrap();
    assert_eq!((&json["scope"], &json["reason"], &json["rate"]), (&"provider:gmail".into(), &"rate".into(), &"20/min".into()));
}

#[test]
fn waiting_for_a_warm_up_names_the_day() {
    let plan = WarmUp { start: Date::constant(2026, 12, 3), per_day: vec![50_000] };
    let limits = Limits {
        zone: zone("Asia/Taipei"),
        all: Limit::default(),
        relays: BTreeMap::from([("new".to_owned(), (Limit::default(), Some(plan)))]),
        providers: BTreeMap::new(),
    };
    let wish = Wish { run: None, provider: "gmail", relay: "new", asked: None };
    let mut buckets = Buckets::default();
    let shown = |buckets: &Buckets, now| limits.waits(buckets, &[wish], at(now)).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&buckets, "2026-12-01T09:00:00Z"), ["gmail through new: its warm-up begins at 2026-12-03 00:00 Asia/Taipei"]);
    let day = at("2026-12-03T09:00:00Z");
    assert_eq!(limits.take(&mut buckets, &wish, 60_000, day), 50_000);
    assert_eq!(
        shown(&buckets, "2026-12-03T09:00:00Z"),
        ["gmail through new: 50,000 a day of its warm-up reached, goes on at 00:00 Asia/Taipei"]
    );
    assert_eq!(limits.warm_until("new"), Some(Date::constant(2026, 12, 4)));
    assert!(limits.names(&[wish], at("2026-12-05T09:00:00Z")).is_empty());
}
