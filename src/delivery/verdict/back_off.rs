//! What is learned from "slow down": a pause, then a rate that grows until nobody speaks of it again.
//!
//! Pure: the caller keeps one [`Throttle`] for each relay and provider (and one for a relay as a whole)
//! and says what happened and when.

use super::SlowDown;
use crate::clock::{HOUR, MINUTE, Time};

/// A pause that doubles with every strike stops growing here, in milliseconds. Two hours is the longest
/// that providers ask for in general; a rule that asks for more gets what it asks for.
const MAX_PAUSE_MS: i64 = 2 * HOUR;
/// Never slower than this, in mails an hour: one probe every six minutes finds out within minutes that a
/// limit is gone, and ten mails an hour get nobody listed.
const MIN_PER_HOUR: u64 = 10;
/// Where a provider refused before we knew how fast we are: one mail a minute to start with.
const START_PER_HOUR: u64 = 60;
/// A rate above this limits nobody (10,000 mails a second, more than a relay takes): the throttle is over.
const LIFTED_PER_HOUR: u64 = 36_000_000;
/// A minute without a signal raises the rate by so many percent, divided by the strikes: who was refused
/// again and again comes closer to the limit with smaller steps.
const GROWTH_PERCENT: u64 = 25;
/// More strikes than this change nothing: the pause has reached its end, and steps of 2 % are the smallest.
const MAX_STRIKES: u32 = 10;
/// So long after a pause one strike is forgotten, in milliseconds.
const STRIKE_FORGOTTEN_MS: i64 = 30 * MINUTE;

/// What one group of mails may do. The default is: anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttle {
    /// Nothing is sent before this moment.
    pub paused_until: Time,
    /// From then on at most so many mails an hour; 0: no limit of its own.
    pub per_hour: u64,
    /// Signals in a row, as remembered at the last one.
    pub strikes: u32,
    /// The rate has its value since this moment; it lies ahead while a rule holds the rate.
    pub changed_at: Time,
}

/// The answer to "may I?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// Not before this moment.
    NotBefore(Time),
    /// At most so many mails an hour.
    AtMost {
        /// Mails an hour, at least 1.
        per_hour: u64,
    },
    /// No limit from here.
    Free,
}

impl Throttle {
    /// A provider asked us to slow down at `now`, while mails went out to it at `measured_per_hour` (0:
    /// not known). Sessions that were under way when the pause began report the same signal again: that is
    /// one strike.
    #[must_use]
    pub fn after_signal(self, signal: &SlowDown, measured_per_hour: u64, now: Time) -> Throttle {
        let same_incident = now < self.paused_until;
        let strikes = if same_incident { self.strikes.max(1) } else { (self.strikes_at(now) + 1).min(MAX_STRIKES) };
        let asked_ms = signal.pause_ms.max(0);
        let pause_ms = asked_ms.saturating_mul(1 << (strikes - 1)).min(MAX_PAUSE_MS.max(asked_ms));
        let paused_until = self.paused_until.max(now.plus(pause_ms));
        let per_hour = if same_incident && self.per_hour > 0 { self.per_hour } else { self.halved(measured_per_hour) };
        let per_hour = signal.per_hour.map_or(per_hour, |asked| per_hour.min(asked.max(1)));
        let changed_at = self.changed_at.max(paused_until.plus(signal.hold_ms.max(0)));
        Throttle { paused_until, per_hour, strikes, changed_at }
    }

    /// Half of what was refused.
    fn halved(self, measured_per_hour: u64) -> u64 {
        match (self.per_hour, measured_per_hour) {
            (0, 0) => START_PER_HOUR,
            (0, rate) | (rate, 0) => (rate / 2).max(MIN_PER_HOUR),
            // Measured over less than the limit allows says little about the limit, and the reverse.
            (limit, measured) => (limit.min(measured) / 2).max(MIN_PER_HOUR),
        }
    }

    /// `mails` were taken up to `now`: every whole minute since the last change raises the rate, each with
    /// a mail of its own (hours in which nothing was sent say nothing about the limit). Nothing changes
    /// without mails, in a pause, or while a rule holds the rate.
    #[must_use]
    pub fn after_success(self, mails: u64, now: Time) -> Throttle {
        let minutes = now.since(self.changed_at.max(self.paused_until)) / MINUTE;
        if mails == 0 || minutes <= 0 {
            return self;
        }
        let mut next = Throttle { changed_at: self.changed_at.max(self.paused_until).plus(minutes * MINUTE), ..self };
        let growth = GROWTH_PERCENT / u64::from(self.strikes_at(now).max(1));
        // Bounded: from 1 an hour, 2 % a minute reaches the end within 900 steps.
        for _ in 0..minutes.min(i64::try_from(mails).unwrap_or(i64::MAX)).min(1_000) {
            if next.per_hour == 0 {
                break;
            }
            next.per_hour = next.per_hour.saturating_add((next.per_hour * growth / 100).max(1));
            if next.per_hour >= LIFTED_PER_HOUR {
                next.per_hour = 0;
            }
        }
        next
    }

    /// What may be sent at `now`.
    pub fn allowed(&self, now: Time) -> Allowance {
        match self.per_hour {
            _ if now < self.paused_until => Allowance::NotBefore(self.paused_until),
            0 => Allowance::Free,
            per_hour => Allowance::AtMost { per_hour },
        }
    }

    /// Whether nothing is left to remember: the row may go.
    pub fn is_over(&self, now: Time) -> bool {
        self.allowed(now) == Allowance::Free && self.strikes_at(now) == 0
    }

    /// Strikes that are not forgotten yet.
    pub fn strikes_at(&self, now: Time) -> u32 {
        let forgotten = now.since(self.paused_until).max(0) / STRIKE_FORGOTTEN_MS;
        self.strikes.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Scope;
    use super::*;

    const START: Time = Time::from_millis(1_800_000_000_000);

    fn signal(pause_ms: i64, per_hour: Option<u64>, hold_ms: i64) -> SlowDown {
        SlowDown { scope: Scope::Provider, pause_ms, per_hour, hold_ms, rule: "test" }
    }

    /// One mail a minute from `now` on, until the throttle is over; how long that took.
    fn recover(mut throttle: Throttle, now: Time) -> i64 {
        for minute in 0..7 * 24 * 60 {
            let at = now.plus(minute * MINUTE);
            if !matches!(throttle.allowed(at), Allowance::NotBefore(_)) {
                throttle = throttle.after_success(1, at);
            }
            if throttle.is_over(at) {
                return minute;
            }
        }
        panic!("{throttle:?} did not recover within a week");
    }

    #[test]
    fn a_first_signal_pauses_and_halves() {
        let throttle = Throttle::default().after_signal(&signal(10 * MINUTE, None, 0), 6_000, START);
        assert_eq!(throttle.allowed(START.plus(10 * MINUTE - 1)), Allowance::NotBefore(START.plus(10 * MINUTE)));
        assert_eq!(throttle.allowed(START.plus(10 * MINUTE)), Allowance::AtMost { per_hour: 3_000 });
    }

    #[test]
    fn sessions_that_report_the_same_signal_are_one_strike() {
        let once = Throttle::default().after_signal(&signal(10 * MINUTE, None, 0), 6_000, START);
        let again = once.after_signal(&signal(10 * MINUTE, None, 0), 6_000, START.plus(500));
        assert_eq!((again.strikes, again.per_hour), (1, 3_000));
        assert_eq!(again.paused_until, START.plus(500 + 10 * MINUTE));
    }

    #[test]
    fn pauses_double_up_to_two_hours_or_what_was_asked() {
        let mut throttle = Throttle::default();
        let mut now = START;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            throttle = throttle.after_signal(&signal(10 * MINUTE, None, 0), 6_000, now);
            pauses.push(throttle.paused_until.since(now) / MINUTE);
            now = throttle.paused_until;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 120, 120]);
        let asked = Throttle::default().after_signal(&signal(4 * HOUR, None, 0), 0, START);
        assert_eq!(asked.paused_until, START.plus(4 * HOUR));
        assert_eq!(asked.allowed(asked.paused_until), Allowance::AtMost { per_hour: START_PER_HOUR });
    }

    #[test]
    fn a_minute_without_a_signal_is_a_quarter_more_and_less_after_more_strikes() {
        let once = Throttle::default().after_signal(&signal(MINUTE, None, 0), 2_000, START);
        let later = |throttle: Throttle, minutes: i64| throttle.after_success(5, throttle.paused_until.plus(minutes * MINUTE)).per_hour;
        assert_eq!([later(once, 0), later(once, 1), later(once, 2)], [1_000, 1_250, 1_562]);
        let twice = once.after_signal(&signal(MINUTE, None, 0), 2_000, once.paused_until);
        assert_eq!([later(twice, 0), later(twice, 1)], [500, 560]);
    }

    #[test]
    fn hours_without_mail_raise_nothing() {
        let once = Throttle::default().after_signal(&signal(MINUTE, None, 0), 2_000, START);
        let later = once.after_success(1, once.paused_until.plus(5 * HOUR));
        assert_eq!((later.per_hour, later.after_success(9, once.paused_until.plus(5 * HOUR + 1))), (1_250, later));
    }

    #[test]
    fn a_strike_is_forgotten_every_half_hour() {
        let mut throttle = Throttle::default();
        for _ in 0..3 {
            throttle = throttle.after_signal(&signal(MINUTE, None, 0), 2_000, throttle.paused_until.max(START));
        }
        let strikes = |minutes: i64| throttle.strikes_at(throttle.paused_until.plus(minutes * MINUTE));
        assert_eq!([strikes(0), strikes(29), strikes(30), strikes(60), strikes(90), strikes(500)], [3, 3, 2, 1, 0, 0]);
    }

    #[test]
    fn gmail_gets_its_ten_minutes_and_a_slow_start() {
        let verdict = super::super::read_reply(421, "4.7.28 unusual rate of mail", crate::delivery::smtp::Stage::Final, "gmail");
        let super::super::Verdict::SlowDown(signal) = verdict else { panic!("{verdict:?}") };
        let throttle = Throttle::default().after_signal(&signal, 40_000, START);
        assert!(throttle.paused_until.since(START) >= 10 * MINUTE);
        assert_eq!(throttle.allowed(throttle.paused_until), Allowance::AtMost { per_hour: 600 });
    }

    proptest! {
        /// Whatever was signalled: it ends, and within a day.
        #[test]
        fn it_always_recovers(
            signals in proptest::collection::vec((0_i64..4 * HOUR, proptest::option::of(1_u64..10_000), 0_i64..2 * HOUR, 0_u64..1_000_000, 0_i64..3 * HOUR), 1..30),
        ) {
            let (mut throttle, mut now) = (Throttle::default(), START);
            for (pause_ms, per_hour, hold_ms, measured, gap_ms) in signals {
                now = now.plus(gap_ms);
                let signal = signal(pause_ms, per_hour, hold_ms);
                throttle = throttle.after_signal(&signal, measured, now);
                // Nobody is blocked for longer than the rule or the bound says.
                prop_assert!(throttle.paused_until.since(now) <= 4 * HOUR);
                prop_assert!(throttle.strikes <= MAX_STRIKES);
            }
            let minutes = recover(throttle, now);
            prop_assert!(minutes <= 24 * 60, "{minutes} minutes");
        }

        /// While a rule holds a rate, it is kept.
        #[test]
        fn the_asked_rate_is_kept_for_its_time(
            pause_ms in 0_i64..2 * HOUR, asked in 1_u64..100_000, hold_ms in 0_i64..2 * HOUR, measured in 0_u64..10_000_000, step_ms in 1_i64..10 * MINUTE,
        ) {
            let mut throttle = Throttle::default().after_signal(&signal(pause_ms, Some(asked), hold_ms), measured, START);
            let mut at_ms = 0;
            while at_ms < pause_ms + hold_ms {
                let now = START.plus(at_ms);
                match throttle.allowed(now) {
                    Allowance::NotBefore(until) => prop_assert!(until == START.plus(pause_ms) && at_ms < pause_ms),
                    Allowance::AtMost { per_hour } => {
                        prop_assert!(at_ms >= pause_ms && per_hour <= asked);
                        throttle = throttle.after_success(3, now);
                    }
                    Allowance::Free => prop_assert!(false, "free at {at_ms} ms"),
                }
                at_ms += step_ms;
            }
        }

        /// A signal never makes things faster, and never stops them for good.
        #[test]
        fn a_signal_never_raises_the_rate(per_hour in 0_u64..LIFTED_PER_HOUR, strikes in 0_u32..MAX_STRIKES, measured in 1_u64..10_000_000) {
            let before = Throttle { paused_until: START, per_hour, strikes, changed_at: START };
            let after = before.after_signal(&signal(MINUTE, None, 0), measured, START.plus(HOUR));
            prop_assert!(after.per_hour > 0);
            prop_assert!(after.per_hour <= measured.max(MIN_PER_HOUR));
            prop_assert!(per_hour < MIN_PER_HOUR || after.per_hour <= per_hour);
        }
    }
}
