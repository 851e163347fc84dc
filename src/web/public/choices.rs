//! What the pages of ways out and down have in common: spans of pauses, days, and their words.

use jiff::tz::TimeZone;

use crate::clock::{DAY, Time};
use crate::consent::{Frequency, Tracking};
use crate::contact::Contact;
use crate::text::i18n::{Lang, Words};
use crate::web::App;

/// Days that a pause may last at most: whoever wants longer leaves.
const MAX_PAUSE_DAYS: i64 = 731;

/// A pause of some days, as sent by a button or choice.
const SPANS: [i64; 3] = [14, 30, 91];

/// One entry of a `<select>` or row of buttons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// As sent.
    pub value: String,
    /// As read.
    pub label: String,
    /// It stands so now.
    pub chosen: bool,
}

impl Choice {
    pub fn new(value: impl Into<String>, label: impl Into<String>, chosen: bool) -> Choice {
        Choice { value: value.into(), label: label.into(), chosen }
    }
}

/// The spans with their words.
pub(super) fn spans(words: &Words) -> Vec<Choice> {
    let labels = [words.less_two_weeks, words.less_one_month, words.less_three_months];
    SPANS.iter().zip(labels).map(|(days, label)| Choice::new(days.to_string(), label, false)).collect()
}

/// The frequencies with their words.
pub(super) fn frequencies(words: &Words) -> Vec<Choice> {
    Frequency::ALL.iter().map(|frequency| Choice::new(frequency.as_str(), often(words, Some(*frequency)), false)).collect()
}

/// How often, in words.
pub(super) fn often(words: &Words, frequency: Option<Frequency>) -> &'static str {
    match frequency {
        None => words.often_every,
        Some(Frequency::Daily) => words.less_daily,
        Some(Frequency::Weekly) => words.less_weekly,
        Some(Frequency::Monthly) => words.less_monthly,
    }
}

/// How somebody is tracked: in words, and what that means.
pub(super) fn tracked(words: &Words, tracking: Tracking) -> (&'static str, &'static str) {
    match tracking {
        Tracking::Full => (words.tracking_full, words.tracking_full_help),
        Tracking::Anonymous => (words.tracking_anonymous, words.tracking_anonymous_help),
        Tracking::None => (words.tracking_none, words.tracking_none_help),
    }
}

/// When a pause of `span` (days, or `day` for the day beside it) ends; `None` where that is no pause we offer.
pub(super) fn pause_end(span: &str, day: &str, contact: &Contact, now: Time) -> Option<Time> {
    match span {
        "day" => end_of_day_before(day, contact, now),
        days => days.parse().ok().filter(|days| SPANS.contains(days)).map(|days| now.plus(days * DAY)),
    }
}

/// The first moment of a day where the person lives: a pause until Monday lets Monday's mail through.
fn end_of_day_before(day: &str, contact: &Contact, now: Time) -> Option<Time> {
    let day: jiff::civil::Date = day.trim().parse().ok()?;
    let until = Time::from(day.to_zoned(zone(contact)).ok()?.timestamp());
    (until > now && until.since(now) <= MAX_PAUSE_DAYS * DAY).then_some(until)
}

/// The day of a moment where the person lives, as `2026-12-01`: read alike in every language.
pub(super) fn day(at: Time, contact: &Contact) -> String {
    at.timestamp().to_zoned(zone(contact)).date().to_string()
}

/// The first day that a pause can end on.
pub(super) fn tomorrow(now: Time, contact: &Contact) -> String {
    day(now.plus(DAY), contact)
}

fn zone(contact: &Contact) -> TimeZone {
    contact.timezone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC)
}

/// The name of a topic for people, in the language of the page: as configured, else its key.
pub(super) fn title<'a>(app: &'a App, lang: Lang, key: &'a str) -> &'a str {
    app.topics.get(key).map_or(key, |topic| topic.name_in(lang.tag()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn contact(zone: Option<&str>) -> Contact {
        Contact {
            id: 1,
            email: "mei@tea.example".to_owned(),
            email_key: "mei@tea.example".to_owned(),
            first_name: None,
            last_name: None,
            locale: None,
            timezone: zone.map(str::to_owned),
            phone: None,
            external_id: None,
            attributes: BTreeMap::new(),
        }
    }

    #[test]
    fn pauses_end_on_the_day_where_the_person_lives() {
        let now = Time::parse("2026-12-01T20:00:00Z").expect("a time");
        let taipei = contact(Some("Asia/Taipei"));
        assert_eq!(pause_end("day", "2026-12-25", &taipei, now), Time::parse("2026-12-24T16:00:00Z").ok());
        assert_eq!(pause_end("day", "2026-12-25", &contact(Some("Moon/Base")), now), Time::parse("2026-12-25T00:00:00Z").ok());
        assert_eq!(day(Time::parse("2026-12-24T16:00:00Z").expect("a time"), &taipei), "2026-12-25");
        assert_eq!(pause_end("14", "", &taipei, now), Some(now.plus(14 * DAY)));
        for (span, day) in
            [("day", "2026-12-02"), ("day", ""), ("day", "2029-01-01"), ("day", "x"), ("13", "2026-12-25"), ("", ""), ("-14", "")]
        {
            assert_eq!(pause_end(span, day, &taipei, now), None, "{span} {day}");
        }
    }
}
