//! The only reader of the clock. Everything else receives `now` as a parameter, so that one
//! operation sees one moment, and a year can be simulated in seconds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A moment: milliseconds since 1970-01-01T00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Time(i64);

/// Milliseconds of one second.
pub const SECOND: i64 = 1_000;
/// Milliseconds of one minute.
pub const MINUTE: i64 = 60 * SECOND;
/// Milliseconds of one hour.
pub const HOUR: i64 = 60 * MINUTE;
/// Milliseconds of 24 hours.
pub const DAY: i64 = 24 * HOUR;

impl Time {
    /// From milliseconds since 1970 UTC.
    pub const fn from_millis(millis: i64) -> Self {
        Time(millis)
    }

    /// Milliseconds since 1970 UTC.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This moment moved by `millis` (saturating).
    pub const fn plus(self, millis: i64) -> Self {
        Time(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this moment.
    pub const fn since(self, earlier: Time) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Parses `2026-12-01T09:00:00Z` or any RFC 3339 time with an offset.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.trim().parse::<jiff::Timestamp>().map(Time::from).map_err(|error| error.to_string())
    }

    /// As a jiff timestamp, for zones and calendars.
    pub fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX })
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(timestamp: jiff::Timestamp) -> Self {
        Time(timestamp.as_millisecond())
    }
}

/// RFC 3339 in UTC, to the millisecond.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.timestamp())
    }
}

/// Where `now` comes from.
#[derive(Debug, Clone)]
pub struct Clock(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// The system's clock, shifted by so many milliseconds.
    System { shift_ms: Arc<AtomicI64> },
    /// Stands still until somebody moves it.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Clock(Kind::System { shift_ms: Arc::default() })
    }

    /// A clock that shows `start` now and runs on from there: for tests and rehearsals.
    pub fn starting_at(start: Time) -> Self {
        Clock(Kind::System { shift_ms: Arc::new(AtomicI64::new(start.since(system_now()))) })
    }

    /// A clock that stands at `start` until [`Clock::advance`].
    pub fn manual(start: Time) -> Self {
        Clock(Kind::Manual(Arc::new(AtomicI64::new(start.millis()))))
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        match &self.0 {
            Kind::System { shift_ms } => system_now().plus(shift_ms.load(Ordering::Acquire)),
            Kind::Manual(millis) => Time(millis.load(Ordering::Acquire)),
        }
    }

    /// Moves the clock forward, for all who share it: a rehearsal lets hours pass in a moment.
    pub fn advance(&self, millis: i64) {
        let counter = match &self.0 {
            Kind::System { shift_ms } => shift_ms,
            Kind::Manual(now) => now,
        };
        counter.fetch_add(millis, Ordering::AcqRel);
    }
}

fn system_now() -> Time {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    let now = jiff::Timestamp::now();
    Time(now.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_rfc_3339_and_parse_back() {
        let time = Time::from_millis(1_764_579_600_123);
        assert_eq!(time.to_string(), "2025-12-01T09:00:00.123Z");
        assert_eq!(Time::parse(&time.to_string()), Ok(time));
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Time::from_millis(5));
        assert_eq!(clock.now(), Time::from_millis(5));
        clock.advance(DAY);
        assert_eq!(clock.now(), Time::from_millis(5 + DAY));
    }
}
