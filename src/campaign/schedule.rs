//! When a campaign fires: the `cron` crate made to mean what crontab means.
//!
//! The crate wants a seconds field, numbers weekdays from Sunday = 1, joins day-of-month and
//! day-of-week with *and*, skips local times lost in spring and fires twice in autumn. This wrapper
//! takes five or six fields, numbers weekdays as crontab does (0 and 7 are Sunday), fires on either
//! day field when both are restricted (POSIX crontab), and treats daylight saving as Debian's cron
//! does: a fixed time inside the skipped hour fires right after the jump, inside the repeated hour
//! once; a schedule with `*` in minute or hour follows real time.

use std::ops::Range;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::clock::{DAY, Time};

/// How far ahead we look for a firing: `29 2 * MON`-like dates need up to 28 years, but nobody
/// plans mail that far; eight years cover every leap day.
const HORIZON_DAYS: i64 = 8 * 366;
/// Longest expression we read, in bytes.
const MAX_EXPRESSION_BYTES: usize = 200;

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronError {
    /// Byte range in the expression.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub hint: String,
}

/// A checked cron expression.
#[derive(Debug, Clone)]
pub struct Cron {
    /// One schedule, or two when both day fields are restricted (either may fire).
    schedules: Vec<cron::Schedule>,
    /// `*` in minute or hour: follows real time through daylight-saving changes.
    follows_real_time: bool,
}

impl Cron {
    /// Parses five fields (minute, hour, day of month, month, day of week), six (seconds first),
    /// or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub fn parse(expression: &str) -> Result<Cron, CronError> {
        let whole = 0..expression.len();
        let fail = |span: Range<usize>, message: String, hint: &str| CronError { span, message, hint: hint.to_owned() };
        const EXAMPLE: &str = "write five fields: minute, hour, day of month, month, day of week, such as `0 9 * * TUE`";
        if expression.len() > MAX_EXPRESSION_BYTES {
            return Err(fail(whole, "the expression is too long".to_owned(), EXAMPLE));
        }
        let expanded = match expression.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other if other.starts_with('@') => {
                return Err(fail(whole, format!("`{other}` is not a schedule"), "use @hourly, @daily, @weekly, @monthly or @yearly"));
            }
            _ => expression,
        };
        let fields = fields_with_spans(expanded);
        let (seconds, rest) = match fields.len() {
            5 => (("0", 0..0), &fields[..]),
            6 => (fields[0].clone(), &fields[1..]),
            count => return Err(fail(whole, format!("a cron expression has five or six fields, this one has {count}"), EXAMPLE)),
        };
        for ((field, span), (name, lowest, highest, names)) in std::iter::once(&seconds).chain(rest).zip(FIELDS) {
            check_field(field, name, lowest, highest, names).map_err(|message| fail(span.clone(), message, EXAMPLE))?;
        }
        let [minute, hour, day, month, weekday] = [0, 1, 2, 3, 4].map(|i| rest[i].0);
        let weekday = crontab_weekdays(weekday);
        let restricted = |field: &str| !field.starts_with('*');
        let lines = if restricted(day) && restricted(&weekday) {
            vec![format!("{} {minute} {hour} {day} {month} *", seconds.0), format!("{} {minute} {hour} * {month} {weekday}", seconds.0)]
        } else {
            vec![format!("{} {minute} {hour} {day} {month} {weekday}", seconds.0)]
        };
        let schedules = lines
            .iter()
            .map(|line| {
                cron::Schedule::from_str(line).map_err(|error| fail(whole.clone(), format!("not a cron expression: {error}"), EXAMPLE))
            })
            .collect::<Result<_, _>>()?;
        let cron = Cron { schedules, follows_real_time: minute.starts_with('*') || hour.starts_with('*') };
        if cron.next_local(jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0)).is_none() {
            return Err(fail(whole, "this date never comes".to_owned(), "check day and month: February has at most 29 days"));
        }
        Ok(cron)
    }

    /// The first firing after `after` in `zone`.
    pub fn next_after(&self, after: Time, zone: &TimeZone) -> Option<Time> {
        if self.follows_real_time { self.next_by_real_time(after, zone) } else { self.next_fixed(after, zone) }
    }

    /// Fixed times of day: found on the wall clock and mapped to real time; a time inside a gap
    /// fires right after it, inside an overlap at its first occurrence.
    fn next_fixed(&self, after: Time, zone: &TimeZone) -> Option<Time> {
        // One day back: a local time before `after` on the wall may still be ahead in real time.
        let mut local = zone.to_datetime(after.plus(-DAY).timestamp());
        let limit = after.plus(HORIZON_DAYS * DAY);
        loop {
            local = self.next_local(local)?;
            let moment = first_real_moment(local, zone)?;
            if moment > after {
                return Some(moment);
            }
            if moment > limit {
                return None;
            }
        }
    }

    /// Schedules with `*` in minute or hour: every real moment whose wall clock matches.
    fn next_by_real_time(&self, after: Time, zone: &TimeZone) -> Option<Time> {
        let limit = after.plus(HORIZON_DAYS * DAY);
        let mut from = after;
        while from < limit {
            // Between two changes of offset, wall clock and real time move together.
            let offset = zone.to_offset(from.timestamp());
            let until = zone.following(from.timestamp()).next().map_or(limit, |transition| Time::from(transition.timestamp()));
            let local = offset.to_datetime(from.timestamp());
            if let Some(next) = self.next_local(local) {
                let moment = Time::from(offset.to_timestamp(next).ok()?);
                if moment < until {
                    return Some(moment);
                }
            }
            // The stretch after the change starts one second earlier, so that its first moment counts.
            let offset_after = zone.to_offset(until.timestamp());
            let local = offset_after.to_datetime(until.timestamp()).checked_sub(jiff::Span::new().seconds(1)).ok()?;
            if let Some(next) = self.next_local(local)
                && Time::from(offset_after.to_timestamp(next).ok()?) == until
            {
                return Some(until);
            }
            from = until;
        }
        None
    }

    /// The next match on a wall clock without daylight saving.
    fn next_local(&self, after: DateTime) -> Option<DateTime> {
        let disguised = chrono::DateTime::from_timestamp(after.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second(), 0)?;
        self.schedules
            .iter()
            .filter_map(|schedule| schedule.after(&disguised).next())
            .min()
            .and_then(|found| jiff::Timestamp::from_second(found.timestamp()).ok())
            .map(|timestamp| TimeZone::UTC.to_datetime(timestamp))
    }
}

/// Maps a wall-clock time to real time: in a gap the end of the gap, in an overlap the first.
fn first_real_moment(local: DateTime, zone: &TimeZone) -> Option<Time> {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    match ambiguous.offset() {
        AmbiguousOffset::Gap { before, .. } => {
            let inside = before.to_timestamp(local).ok()?;
            // The first moment of a gap (midnight in Santiago) is the jump itself: look from just after.
            let jump = zone.preceding(inside.checked_add(jiff::Span::new().seconds(1)).ok()?).next()?;
            Some(Time::from(jump.timestamp()))
        }
        _ => ambiguous.compatible().ok().map(Time::from),
    }
}

const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// Name, lowest, highest, names of each field.
const FIELDS: [(&str, u32, u32, &[&str]); 6] = [
    ("seconds", 0, 59, &[]),
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, MONTHS),
    ("day of week", 0, 7, WEEKDAYS),
];

fn fields_with_spans(text: &str) -> Vec<(&str, Range<usize>)> {
    text.split_whitespace()
        .map(|field| {
            let start = field.as_ptr() as usize - text.as_ptr() as usize;
            (field, start..start + field.len())
        })
        .collect()
}

fn check_field(field: &str, name: &str, lowest: u32, highest: u32, names: &[&str]) -> Result<(), String> {
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        if let Some(step) = step
            && step.parse::<u32>().ok().filter(|step| (1..=highest.max(1)).contains(step)).is_none()
        {
            return Err(format!("`{step}` is not a step for the {name} field"));
        }
        if range == "*" || range == "?" {
            continue;
        }
        let mut ends = Vec::new();
        for end in range.splitn(2, '-') {
            ends.push(field_value(end, lowest, highest, names).ok_or_else(|| {
                if end.contains(['L', 'W', '#']) {
                    format!("`{end}`: `L`, `W` and `#` are not supported in the {name} field")
                } else {
                    format!(
                        "`{end}` does not fit the {name} field ({lowest} to {highest}{})",
                        if names.is_empty() { "" } else { ", or a name" }
                    )
                }
            })?);
        }
        if ends.len() == 2 && ends[0] > ends[1] && !(name == "day of week" && ends[1] == 0) {
            return Err(format!("`{range}` runs backwards in the {name} field"));
        }
    }
    Ok(())
}

fn field_value(text: &str, lowest: u32, highest: u32, names: &[&str]) -> Option<u32> {
    if let Some(position) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Some(position as u32 + lowest);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|value| (lowest..=highest).contains(value))
}

/// Writes crontab's weekdays (0 and 7 = Sunday) as a list of the crate's (Sunday = 1).
fn crontab_weekdays(field: &str) -> String {
    if field == "*" || field == "?" {
        return "*".to_owned();
    }
    let mut days: Vec<u32> = Vec::new();
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, 1), |(range, step)| (range, step.parse().unwrap_or(1)));
        let value = |text: &str| field_value(text, 0, 7, WEEKDAYS).unwrap_or(0);
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (0, 6),
            Some((from, to)) => (value(from), if value(to) == 0 { 7 } else { value(to) }),
            None if part.contains('/') => (value(range), 7),
            None => (value(range), value(range)),
        };
        days.extend((from..=to).step_by(step).map(|day| day % 7 + 1));
    }
    days.sort_unstable();
    days.dedup();
    days.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// A local date and time (`2026-12-01T09:00`, seconds optional) in a zone.
pub fn parse_local(text: &str, zone: &TimeZone) -> Result<Time, String> {
    let text = text.trim().replace(' ', "T");
    if let Ok(time) = Time::parse(&text) {
        return Ok(time);
    }
    let local: DateTime = text.parse().map_err(|_| format!("`{text}` is not a date and time such as `2026-12-01T09:00`"))?;
    first_real_moment(local, zone).ok_or_else(|| format!("`{text}` is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firings(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(expression).expect(expression);
        let zone = TimeZone::get(zone).expect("zone");
        let mut now = Time::parse(after).expect("time");
        (0..count)
            .map(|_| {
                now = cron.next_after(now, &zone).expect("a next firing");
                now.timestamp().to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M%:z").to_string()
            })
            .collect()
    }

    #[test]
    fn tuesday_is_tuesday() {
        assert_eq!(firings("0 9 * * TUE", "Asia/Taipei", "2026-11-22T00:00:00Z", 1), ["2026-11-24T09:00+08:00"]);
        assert_eq!(firings("0 9 * * 2", "Asia/Taipei", "2026-11-22T00:00:00Z", 1), ["2026-11-24T09:00+08:00"]);
        assert_eq!(firings("0 9 * * 7", "UTC", "2026-11-23T00:00:00Z", 1), firings("0 9 * * 0", "UTC", "2026-11-23T00:00:00Z", 1));
        assert_eq!(
            firings("0 9 * * FRI-SUN", "UTC", "2026-11-23T00:00:00Z", 3),
            ["2026-11-27T09:00+00:00", "2026-11-28T09:00+00:00", "2026-11-29T09:00+00:00"]
        );
    }

    #[test]
    fn a_time_in_the_skipped_hour_fires_after_the_jump_and_in_the_repeated_hour_once() {
        assert_eq!(firings("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2), ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]);
        assert_eq!(firings("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2), ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]);
    }

    #[test]
    fn a_star_follows_real_time_through_the_repeated_hour() {
        assert_eq!(
            firings("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:10:00Z", 3),
            ["2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"]
        );
    }

    #[test]
    fn mistakes_are_pointed_at() {
        for (expression, span, part) in [
            ("0 25 * * *", 2..4, "hour"),
            ("0 9 * *", 0..7, "four"),
            ("0 9 L * *", 4..5, "not supported"),
            ("0 9 31 2 *", 0..10, "never comes"),
            ("0 9 * * XYZ", 8..11, "day of week"),
            ("@fortnightly", 0..12, "not a schedule"),
        ] {
            let error = Cron::parse(expression).expect_err(expression);
            assert_eq!(error.span, span, "{expression}: {}", error.message);
            assert!(part == "four" || error.message.contains(part), "{expression}: {}", error.message);
        }
    }

    #[test]
    fn either_day_field_fires_when_both_are_given() {
        assert_eq!(
            firings("0 0 13 * FRI", "UTC", "2026-11-09T00:00:00Z", 3),
            ["2026-11-13T00:00+00:00", "2026-11-20T00:00+00:00", "2026-11-27T00:00+00:00"]
        );
    }
}
