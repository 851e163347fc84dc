//! How many mails may leave now: rates, days, warming up. Pure values here; their rows are read and
//! written in `limit/sql.rs`, inside the transaction that claims the mails, so the limits hold for all
//! nodes together.
//!
//! A rate is kept by the virtual scheduling form of GCRA, the generic cell rate algorithm (ITU-T I.371,
//! annex A; the ATM Forum's Traffic Management 4.0, 4.4.2; the same thing as a leaky bucket used as a
//! meter). With `T` the time of one mail at the rate and `TAT` the theoretical arrival time of the
//! next, a mail may leave at `now` when `TAT <= now + TOLERANCE`, and then `TAT = max(now, TAT) + T`. It
//! is one number a bucket, and it follows that any window holds at most
//! `window / T + 1 + TOLERANCE / T` mails.

mod scope;
mod sql;

use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::clock::Time;
use crate::config::{Limit, Rate, WarmUp};

pub use scope::{Limits, Returned, Scope, Wait, Wish};
pub use sql::{Buckets, forget, load, read};

/// How far mails may run ahead of their rate, in microseconds. A quarter of a second is longer than a
/// worker needs to come back for more, so a rate is reached and not only kept; and short enough that
/// no other side counts in smaller windows.
pub const TOLERANCE_US: i64 = 250_000;

/// Microseconds of a millisecond.
const MILLI_US: i64 = 1_000;

/// The most mails that may leave at one moment after a pause.
pub fn burst(rate: Rate) -> u64 {
    mails_in(rate, TOLERANCE_US + cost(rate, 1))
}

/// Microseconds that so many mails take at a rate, rounded up: rounding never lets more through.
fn cost(rate: Rate, mails: u64) -> i64 {
    clamp((i128::from(mails) * micros(rate)).div_euclid(i128::from(rate.mails)) + i128::from(!exact(rate, mails)))
}

/// The same, rounded down: rounding never gives back more than was taken.
fn refund(rate: Rate, mails: u64) -> i64 {
    clamp((i128::from(mails) * micros(rate)).div_euclid(i128::from(rate.mails)))
}

fn exact(rate: Rate, mails: u64) -> bool {
    (i128::from(mails) * micros(rate)) % i128::from(rate.mails) == 0
}

/// Mails that a rate allows in so many microseconds.
fn mails_in(rate: Rate, space_us: i64) -> u64 {
    u64::try_from((i128::from(space_us) * i128::from(rate.mails)).div_euclid(micros(rate))).unwrap_or(0)
}

fn micros(rate: Rate) -> i128 {
    i128::from(rate.per_seconds) * 1_000_000
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn now_us(now: Time) -> i64 {
    now.millis().saturating_mul(MILLI_US)
}

/// What was taken from one limit. An empty one has let nothing through for long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// GCRA's theoretical arrival time, microseconds since 1970 UTC.
    pub spent_until: i64,
    /// The day of `used`, counted from 1970-01-01 in the instance's zone.
    pub day: i64,
    /// Mails taken on that day.
    pub used: u64,
    /// When mails were last taken.
    pub taken_at: Time,
}

impl Bucket {
    /// How many mails may leave now; [`u64::MAX`] without a limit.
    pub fn available(&self, limit: &Limit, now: Time, today: &Today) -> u64 {
        let by_rate = limit.rate.map_or(u64::MAX, |rate| {
            let ahead = self.spent_until.max(now_us(now)) - now_us(now);
            mails_in(rate, TOLERANCE_US + cost(rate, 1) - ahead)
        });
        let by_day = limit.per_day.map_or(u64::MAX, |per_day| per_day.saturating_sub(self.used_on(today)));
        by_rate.min(by_day)
    }

    /// Debits mails that [`Bucket::available`] allowed.
    pub fn take(&mut self, limit: &Limit, mails: u64, now: Time, today: &Today) {
        if let Some(rate) = limit.rate {
            self.spent_until = self.spent_until.max(now_us(now)).saturating_add(cost(rate, mails));
        }
        self.used = self.used_on(today).saturating_add(mails);
        // A node whose clock is behind does not open yesterday again.
        self.day = self.day.max(today.number);
        self.taken_at = self.taken_at.max(now);
    }

    /// Undoes [`Bucket::take`] for mails that did not leave. The day gets all of them back while it
    /// lasts. The rate gets them back while nobody has taken any since: later the time they stood for
    /// may have passed, and giving it back would let more through than the rate. That is at most a
    /// burst.
    pub fn give_back(&mut self, limit: &Limit, mails: u64, claimed_at: Time, claimed_on: &Today) {
        if let Some(rate) = limit.rate.filter(|_| self.taken_at == claimed_at) {
            self.spent_until -= refund(rate, mails);
        }
        if self.day == claimed_on.number {
            self.used = self.used.saturating_sub(mails);
        }
    }

    /// When so many mails (of a burst at most) may leave at once, as far as it is known now: `now` if
    /// they may already.
    pub fn next_at(&self, limit: &Limit, mails: u64, now: Time, today: &Today) -> Time {
        if limit.per_day.is_some_and(|per_day| per_day <= self.used_on(today)) {
            return today.ends_at;
        }
        let Some(rate) = limit.rate else { return now };
        let more = mails.clamp(1, burst(rate)) - 1;
        let at = self.spent_until.max(now_us(now)).saturating_add(cost(rate, more)).saturating_sub(TOLERANCE_US);
        now.max(Time::from_millis(at.div_euclid(MILLI_US) + i64::from(at.rem_euclid(MILLI_US) > 0)))
    }

    /// Mails of today. A day that lies ahead (a node's clock, or the zone was changed) counts as today.
    pub fn used_on(&self, today: &Today) -> u64 {
        if self.day < today.number { 0 } else { self.used }
    }
}

/// The day of a moment in the instance's zone, from its midnight to the next, however long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Today {
    /// Its date.
    pub date: Date,
    /// Days since 1970-01-01.
    pub number: i64,
    /// Its end: when the next one begins.
    pub ends_at: Time,
}

impl Today {
    /// The day in which `now` lies.
    pub fn new(now: Time, zone: &TimeZone) -> Self {
        let date = zone.to_datetime(now.timestamp()).date();
        Today { date, number: day_number(date), ends_at: date.tomorrow().map_or(now, |next| start_of(next, zone)) }
    }
}

fn day_number(date: Date) -> i64 {
    date.duration_since(Date::constant(1970, 1, 1)).as_hours() / 24
}

/// When a day begins. Where a zone skips midnight, it begins after the gap.
fn start_of(date: Date, zone: &TimeZone) -> Time {
    zone.to_zoned(date.at(0, 0, 0, 0)).map_or_else(|_| Time::default(), |start| start.timestamp().into())
}

/// The most mails to one provider on a day of a warm-up. Nothing before it starts: the address is not
/// to be used yet. `None` once the plan is over.
pub fn cap(plan: &WarmUp, today: Date) -> Option<u64> {
    match usize::try_from(day_number(today) - day_number(plan.start)) {
        Ok(day) => plan.per_day.get(day).copied(),
        Err(_) => Some(0),
    }
}

/// The day after the plan's last one; `None` at the end of the calendar.
fn over_on(plan: &WarmUp) -> Option<Date> {
    plan.start.checked_add(i64::try_from(plan.per_day.len()).ok()?.days()).ok()
}

#[cfg(test)]
mod tests;
