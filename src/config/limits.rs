//! How much may leave in a time: `[limits]`, `[provider.NAME]`, and the same keys of relays and
//! campaigns.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::Place;
use super::check::{self, Complaint};
use super::reader::{Overrides, Report, Section};
use super::relays::MAX_CONNECTIONS;
use super::settings::{number_if, pass, texts};

/// Mails of one rate, in its own unit: beyond this a limit limits nothing that one instance could do.
const MAX_RATE_MAILS: u64 = 1_000_000;
/// Mails a day: more than any one instance sends, and small enough for every sum of them.
const MAX_PER_DAY: u32 = 1_000_000_000;
/// Days of a warm-up plan: published plans take three to eight weeks.
const MAX_WARM_UP_DAYS: usize = 366;
/// The provider that stands for everything we know no name of.
pub(super) const OTHER_PROVIDER: &str = "other";

/// So many mails in so much time: `100/s`, `20/min`, `1000/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// At least 1.
    pub mails: u64,
    /// 1, 60 or 3600.
    pub per_seconds: u64,
}

/// What bounds a flow of mails; without either it is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limit {
    /// Mails in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Mails in a calendar day of [`super::Delivery::timezone`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_day: Option<u64>,
}

impl Limit {
    /// Nothing is limited.
    pub fn is_none(&self) -> bool {
        self.rate.is_none() && self.per_day.is_none()
    }
}

/// How a new relay earns its name: a cap for each provider on each day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmUp {
    /// Day 1, in [`super::Delivery::timezone`].
    pub start: jiff::civil::Date,
    /// The most mails to one provider on day 1, 2, ..; after the last one there is no cap.
    pub per_day: Vec<u64>,
}

/// `[provider.NAME]`: a mailbox provider, and how fast it takes mail.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProviderSettings {
    /// Where its table starts.
    pub place: Option<Place>,
    /// Domains of its addresses, lower case, in the form of the wire (`xn--..`).
    pub domains: Vec<String>,
    /// Its mail exchangers: a host of this name or below it.
    pub mx: Vec<String>,
    /// Sessions at a time that may serve it.
    pub connections: Option<u32>,
    /// Mails in a time, to all of its addresses.
    pub limit: Limit,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per_seconds {
            1 => "s",
            60 => "min",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.mails)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        rate(text).map_err(|(message, _)| message)
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

/// `100/s`, `20/min`, `1000/h`
pub(super) fn rate(text: &str) -> Result<Rate, Complaint> {
    let hint = || "write `100/s`, `20/min` or `1000/h`".to_owned();
    let wrong = |hint: String| Err((format!("`{text}` is not a rate"), hint));
    let Some((mails, unit)) = text.split_once('/') else { return wrong(hint()) };
    let (mails, unit) = (mails.trim(), unit.trim());
    let per_seconds = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "d" | "day" => return wrong(format!("a day's number of mails has its own key: `per_day = {mails}`")),
        "m" => return wrong(format!("did you mean `{mails}/min`?")),
        "sec" | "second" => return wrong(format!("did you mean `{mails}/s`?")),
        "minute" => return wrong(format!("did you mean `{mails}/min`?")),
        "hour" => return wrong(format!("did you mean `{mails}/h`?")),
        _ => return wrong(hint()),
    };
    let digits = !mails.is_empty() && mails.chars().all(|c| c.is_ascii_digit() || c == '_');
    let Some(mails) = digits.then(|| mails.replace('_', "").parse::<u64>().ok()).flatten() else {
        let slower =
            if mails.contains('.') { "a rate is a whole number: write `30/min` for one every two seconds".to_owned() } else { hint() };
        return wrong(slower);
    };
    if mails == 0 {
        return Err((format!("at `{text}` nothing would ever leave"), "remove this line, or pause the run instead".to_owned()));
    }
    if mails > MAX_RATE_MAILS {
        return wrong(format!("at most {MAX_RATE_MAILS}, which limits nothing; remove this line for no limit"));
    }
    Ok(Rate { mails, per_seconds })
}

/// The keys `rate` and `per_day`.
pub(super) fn limit(section: &mut Section<'_>, mut overrides: Option<&mut Overrides<'_>>, report: &mut Report) -> Limit {
    let text = section.raw("rate", overrides.as_deref_mut()).and_then(|raw| raw.text(report));
    let rate = text.and_then(|text| pass(rate(&text.value), &text, report));
    let per_day = number_if(section, "per_day", overrides, 1..=MAX_PER_DAY, report).map(u64::from);
    Limit { rate, per_day }
}

/// `[limits]`
pub(super) fn limits(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Limit {
    let limit = limit(&mut section, Some(overrides), report);
    section.finish(report);
    limit
}

/// `warm_up = { start = 2026-12-01, per_day = [50, 100] }`
pub(super) fn warm_up(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Option<WarmUp> {
    let start_raw = section.raw("start", Some(overrides));
    let per_day_raw = section.raw("per_day", Some(overrides));
    if !section.exists() && start_raw.is_none() && per_day_raw.is_none() {
        return None;
    }
    let start = match &start_raw {
        Some(raw) => raw.text_or_time(report).and_then(|text| pass(date(&text.value), &text, report)),
        None => {
            section.missing("start", "say on which day the plan begins: `start = 2026-12-01`", report);
            None
        }
    };
    let Some(raw) = per_day_raw else {
        section.missing("per_day", "say how many mails a provider may get on day 1, 2, ..: `per_day = [50, 100, 250]`", report);
        section.finish(report);
        return None;
    };
    section.finish(report);
    let members = raw.members(report)?;
    if members.is_empty() || members.len() > MAX_WARM_UP_DAYS {
        let message = format!("a warm-up has 1 to {MAX_WARM_UP_DAYS} days, not {}", members.len());
        report.value(&raw.origin(), message, "one number a day: `per_day = [50, 100, 250]`");
        return None;
    }
    let mut per_day: Vec<u64> = Vec::new();
    for member in &members {
        let mails = u64::from(member.number(1..=MAX_PER_DAY, report)?);
        if let Some(before) = per_day.last().filter(|before| **before > mails) {
            let message = format!("the plan goes down, from {before} to {mails} mails a day");
            report.value(
                &member.origin(),
                message,
                "a warm-up stays or grows from day to day; for a lasting cap use `per_day` of the relay",
            );
            return None;
        }
        per_day.push(mails);
    }
    Some(WarmUp { start: start?, per_day })
}

fn date(text: &str) -> Result<jiff::civil::Date, Complaint> {
    let wrong = |_| (format!("`{text}` is not a day"), "write `start = 2026-12-01`".to_owned());
    if text.len() != "2026-12-01".len() {
        return Err(wrong(()));
    }
    text.parse().map_err(|_| wrong(()))
}

/// `[provider.NAME]`, all of them.
pub(super) fn providers(
    mut section: Section<'_>,
    overrides: &mut Overrides<'_>,
    report: &mut Report,
) -> BTreeMap<String, ProviderSettings> {
    let mut providers = BTreeMap::new();
    let mut taken: BTreeMap<(&str, String), String> = BTreeMap::new();
    for (name, place) in section.keys() {
        if let Err((message, hint)) = check::name("provider", &name) {
            report.at(&place.file, place.span.clone(), message, hint);
        }
        let mut table = section.section(&name, report);
        if !table.exists() {
            continue;
        }
        let settings = ProviderSettings {
            place: table.place(),
            domains: texts(&mut table, "domains", Some(overrides), check::domain, report).unwrap_or_default(),
            mx: texts(&mut table, "mx", Some(overrides), check::domain, report).unwrap_or_default(),
            connections: number_if(&mut table, "connections", Some(overrides), 1..=MAX_CONNECTIONS, report),
            limit: limit(&mut table, Some(overrides), report),
        };
        table.finish(report);
        if name == OTHER_PROVIDER && !(settings.domains.is_empty() && settings.mx.is_empty()) {
            let hint = "give the domains to a provider of another name; here only limits make sense";
            report.at(&place.file, place.span.clone(), "`other` is every domain that belongs to no provider", hint);
        }
        for (key, values) in [("domains", &settings.domains), ("mx", &settings.mx)] {
            for value in values {
                if let Some(first) = taken.insert((key, value.clone()), name.clone()).filter(|first| *first != name) {
                    let message = format!("`{value}` stands in `{key}` of two providers, `{first}` and `{name}`");
                    report.at(&place.file, place.span.clone(), message, "remove it from one of them");
                }
            }
        }
        providers.insert(name, settings);
    }
    section.finish(report);
    providers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_show_alike() {
        for text in ["100/s", "20/min", "1000/h", "1/h", "1000000/s"] {
            assert_eq!(text.parse::<Rate>().map(|rate| rate.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("1_000 / min".parse(), Ok(Rate { mails: 1_000, per_seconds: 60 }));
        assert_eq!(serde_json::to_string(&Rate { mails: 5, per_seconds: 60 }).expect("plain data"), "\"5/min\"");
        for (text, expected) in [
            ("100", "write `100/s`"),
            ("", "write `100/s`"),
            ("/s", "write `100/s`"),
            ("-1/s", "write `100/s`"),
            ("5/fortnight", "write `100/s`"),
            ("0.5/s", "whole number"),
            ("5/d", "`per_day = 5`"),
            ("5/m", "did you mean `5/min`?"),
            ("5/hour", "did you mean `5/h`?"),
            ("0/s", "pause the run"),
            ("1000001/s", "no limit"),
            ("99999999999999999999/s", "write `100/s`"),
        ] {
            let (_, hint) = rate(text).expect_err(text);
            assert!(hint.contains(expected), "{text}: {hint}");
        }
    }
}
