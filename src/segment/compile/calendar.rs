//! Days and periods of rules as numbers that columns compare with.

use super::Compiler;
use crate::clock::{DAY, HOUR, Time};
use crate::contact::Date;
use crate::segment::ast::{Op, Period, Unit};
use crate::segment::rule::Moment;

impl Compiler<'_> {
    /// Whether the calendar day (UTC) of `column`, in milliseconds, compares so.
    pub(super) fn on_day(&mut self, column: &str, op: Op, moment: Moment) -> String {
        let (start, end) = bounds(day(moment, self.now));
        let (start, end) = match op {
            Op::Equal | Op::NotEqual => (self.bind(start), self.bind(end)),
            Op::Less | Op::AtLeast => (self.bind(start), String::new()),
            Op::AtMost | Op::More => (String::new(), self.bind(end)),
        };
        match op {
            Op::Equal => format!("({column} >= {start} AND {column} < {end})"),
            Op::NotEqual => format!("({column} < {start} OR {column} >= {end})"),
            Op::Less => format!("{column} < {start}"),
            Op::AtMost => format!("{column} < {end}"),
            Op::More => format!("{column} >= {end}"),
            Op::AtLeast => format!("{column} >= {start}"),
        }
    }

    /// Whether the date in `column` or an anniversary of it falls between two days: ranges of month and day, one a
    /// year. Nobody has an anniversary before the date itself.
    pub(super) fn recurs(&mut self, column: &str, from: i32, until: i32) -> String {
        let ranges = anniversaries(days_from(self.now, from), days_from(self.now, until));
        let parts: Vec<String> = ranges
            .into_iter()
            .map(|(first, last, before)| {
                let (first, last, before) = (self.bind(first), self.bind(last), self.bind(before));
                format!("({column} % 10000 BETWEEN {first} AND {last} AND {column} < {before})")
            })
            .collect();
        super::joined(parts, " OR ", "FALSE")
    }
}

/// For each year from `from` to `until`: the first and the last month and day (`mmdd`) whose anniversaries fall into
/// it, and the number (`yyyymmdd`) before which the date itself must be.
fn anniversaries(from: Date, until: Date) -> Vec<(i64, i64, i64)> {
    let (from, until) = (from.number(), until.number());
    let mut ranges = Vec::new();
    if from > until {
        return ranges;
    }
    for year in (from / 10_000..=until / 10_000).rev() {
        let first = if year == from / 10_000 { from % 10_000 } else { 101 };
        let last = if year == until / 10_000 { until % 10_000 } else { 1231 };
        // Who was born on 29 February has their day on the 28th of other years.
        let last = if last == 228 && !is_leap(year) { 229 } else { last };
        ranges.push((first, last, (year + 1) * 10_000));
        // Whoever has an anniversary in an earlier year has one in a whole year after it.
        if (first, last) == (101, 1231) {
            break;
        }
    }
    ranges
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// First millisecond of a day (UTC), and of the next one.
fn bounds(day: Date) -> (i64, i64) {
    // Counted, not by a timestamp: the last day of the calendar has none, which was before all others then.
    let start = jiff::civil::date(1970, 1, 1).duration_until(day.civil()).as_secs() * 1000;
    (start, start.saturating_add(DAY))
}

/// Today (UTC) moved by days; saturating at the ends of the calendar.
pub(in crate::segment) fn days_from(now: Time, days: i32) -> Date {
    day(Moment::Today(Period { amount: i64::from(days), unit: Unit::Day }), now)
}

/// The day that is meant, in UTC; saturating at the ends of the calendar.
pub(in crate::segment) fn day(moment: Moment, now: Time) -> Date {
    let period = match moment {
        Moment::Fixed(date) => return date,
        Moment::Today(period) => period,
    };
    let today = now.timestamp().to_zoned(jiff::tz::TimeZone::UTC).date();
    let end = if period.amount < 0 { jiff::civil::date(1, 1, 1) } else { jiff::civil::date(9999, 12, 31) };
    let moved = span(period).and_then(|span| today.checked_add(span).ok()).unwrap_or(end);
    Date::from(if moved.year() < 1 { end } else { moved })
}

/// The moment `period` before `now`.
pub(in crate::segment) fn ago(now: Time, period: Period) -> Time {
    match period.unit {
        Unit::Hour => now.plus(-period.amount * HOUR),
        Unit::Day => now.plus(-period.amount * DAY),
        Unit::Week => now.plus(-period.amount * 7 * DAY),
        Unit::Month | Unit::Year => {
            let zoned = now.timestamp().to_zoned(jiff::tz::TimeZone::UTC);
            let moved = span(period).and_then(|span| zoned.checked_sub(span).ok());
            moved.map_or(Time::from_millis(i64::MIN), |moved| Time::from(moved.timestamp()))
        }
    }
}

fn span(period: Period) -> Option<jiff::Span> {
    let span = jiff::Span::new();
    match period.unit {
        Unit::Hour => span.try_hours(period.amount),
        Unit::Day => span.try_days(period.amount),
        Unit::Week => span.try_weeks(period.amount),
        Unit::Month => span.try_months(period.amount),
        Unit::Year => span.try_years(period.amount),
    }
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(from: &str, until: &str) -> Vec<(i64, i64, i64)> {
        let day = |text| Date::parse(text).expect("a date");
        anniversaries(day(from), day(until))
    }

    #[test]
    fn anniversaries_are_ranges_of_month_and_day() {
        assert_eq!(ranges("2026-05-04", "2026-05-10"), [(504, 510, 20_270_000)]);
        assert_eq!(ranges("2026-12-28", "2027-01-03"), [(101, 103, 20_280_000), (1228, 1231, 20_270_000)]);
        // A whole year says all that earlier ones could.
        assert_eq!(ranges("2020-05-04", "2026-01-01").len(), 2);
        assert_eq!(ranges("2026-05-04", "2026-05-03"), []);
    }

    #[test]
    fn leap_days_are_kept_on_the_28th_of_other_years() {
        assert_eq!(ranges("2026-02-22", "2026-02-28"), [(222, 229, 20_270_000)]);
        assert_eq!(ranges("2028-02-22", "2028-02-28"), [(222, 228, 20_290_000)]);
        assert_eq!(ranges("2026-03-01", "2026-03-02"), [(301, 302, 20_270_000)]);
    }
}
