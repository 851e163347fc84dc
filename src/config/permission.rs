//! What the instance promises about permission and privacy: `[consent]`, `[forms]`, `[retention]`,
//! `[rights]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::check;
use super::limits::Rate;
use super::reader::{Overrides, Report, Section, Value};
use super::settings::{checked, number, pass};
use super::{AttributeType, Located};

/// How opens and clicks are recorded. (`consent::Tracking` is the same with what it means.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackingDefault {
    /// With the person.
    Full,
    /// Counted, without a trace of whose they are.
    Anonymous,
    /// Not at all.
    None,
}

const TRACKING: &[(&str, TrackingDefault)] =
    &[("full", TrackingDefault::Full), ("anonymous", TrackingDefault::Anonymous), ("none", TrackingDefault::None)];

/// `[consent]`
#[derive(Debug, Clone, PartialEq)]
pub struct Consent {
    /// How people are tracked who chose nothing.
    pub tracking: TrackingDefault,
    /// The same for people of a country (two letters, upper case).
    pub tracking_by_country: BTreeMap<String, TrackingDefault>,
    /// The declared text attribute that holds a person's country (ISO 3166-1 alpha-2).
    pub country_attribute: Option<Located<String>>,
    /// Days that the link of a confirmation mail works.
    pub confirm_days: u32,
    /// Hours after a confirmation mail that is not answered until its one reminder; 0: none.
    pub reminder_hours: u32,
    /// Hours between two signed checkpoints of the ledger; 0: none.
    pub checkpoint_hours: u32,
    /// Where checkpoints are also written as files, for somebody else to keep.
    pub checkpoint_dir: Option<PathBuf>,
}

/// `[forms]`: what a form bears, whoever fills it in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FormLimits {
    /// Requests of one client address (IPv6: of its /64).
    pub per_client: Rate,
    /// Requests for one email address.
    pub per_address: Rate,
    /// Requests of all forms together.
    pub all: Rate,
    /// Requests a client may make at once.
    pub burst: u32,
    /// When forms ask for a proof of work.
    pub challenge: Challenge,
    /// Leading zero bits of a proof of work: each one more doubles it.
    pub challenge_bits: u32,
}

/// See [`FormLimits::challenge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// Never.
    Off,
    /// Once a client or all together ask for more than is usual.
    Auto,
    /// Always.
    Always,
}

/// `[retention]`: how long what is kept. 0: for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Days that addresses and agents of clients are kept, in hits and in the ledger.
    pub client_days: u32,
    /// Days after which opens and clicks of one mail are put together: their number, first and last stay.
    pub compact_days: u32,
    /// Days that opens and clicks are kept.
    pub hit_days: u32,
    /// Days that the data of messages is kept.
    pub message_days: u32,
    /// Days that events are kept.
    pub event_days: u32,
    /// Months without a sign of life (a click, an open by a human, a consent event, an order, an event) after which a
    /// contact is erased.
    pub inactive_months: u32,
    /// Days after which a contact who never confirmed is erased.
    pub unconfirmed_days: u32,
}

/// `[rights]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Days within which a request has to be answered (GDPR 12(3): a month; Taiwan's PDPA 13: 15 days for
    /// access).
    pub days: u32,
    /// A request that the person confirmed by mail is carried out at once; else an operator does it.
    pub automatic: bool,
}

pub(super) struct Permission {
    pub(super) consent: Consent,
    pub(super) forms: FormLimits,
    pub(super) retention: Retention,
    pub(super) rights: Rights,
}

/// Ten years, for whatever is counted in days.
const MAX_DAYS: u32 = 3_660;

pub(super) fn read(
    root: &mut Section<'_>,
    attributes: &BTreeMap<String, AttributeType>,
    overrides: &mut Overrides<'_>,
    report: &mut Report,
) -> Permission {
    Permission {
        consent: consent(root.section("consent", report), attributes, overrides, report),
        forms: forms(root.section("forms", report), overrides, report),
        retention: retention(root.section("retention", report), overrides, report),
        rights: rights(root.section("rights", report), overrides, report),
    }
}

fn consent(
    mut section: Section<'_>,
    attributes: &BTreeMap<String, AttributeType>,
    overrides: &mut Overrides<'_>,
    report: &mut Report,
) -> Consent {
    let tracking = checked(&mut section, "tracking", Some(overrides), |text| check::one_of(text, TRACKING), report);
    let mut by_country = section.section("tracking_by_country", report);
    let mut tracking_by_country = BTreeMap::new();
    for (country, place) in by_country.keys() {
        let value = by_country.raw(&country, None).and_then(|raw| raw.text(report));
        if let Err((message, hint)) = check::country(&country) {
            report.at(&place.file, place.span, message, hint);
            continue;
        }
        let value = value.and_then(|value| pass(check::one_of(&value.value, TRACKING), &value, report));
        tracking_by_country.extend(value.map(|value| (country, value)));
    }
    by_country.finish(report);
    let text_attribute = |name: &str| match attributes.get(name) {
        Some(AttributeType::Text) => Ok(()),
        _ => Err((
            format!("`{name}` is no declared attribute of type text"),
            format!("declare it: `[attributes]`, then `{name} = \"text\"`"),
        )),
    };
    let country_attribute = checked(&mut section, "country_attribute", Some(overrides), text_attribute, report).map(Value::located);
    let consent = Consent {
        tracking: tracking.and_then(|text| check::one_of(&text.value, TRACKING).ok()).unwrap_or(TrackingDefault::Full),
        tracking_by_country,
        country_attribute,
        confirm_days: number(&mut section, "confirm_days", overrides, 1..=90, 7, report),
        reminder_hours: number(&mut section, "reminder_hours", overrides, 0..=720, 48, report),
        checkpoint_hours: number(&mut section, "checkpoint_hours", overrides, 0..=8_760, 24, report),
        checkpoint_dir: checked(&mut section, "checkpoint_dir", Some(overrides), check::line, report).map(|dir| PathBuf::from(dir.value)),
    };
    section.finish(report);
    consent
}

fn forms(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> FormLimits {
    let mut rate = |key: &str, default: Rate, section: &mut Section<'_>, report: &mut Report| {
        checked(section, key, Some(overrides), super::limits::rate, report).and_then(|text| text.value.parse().ok()).unwrap_or(default)
    };
    let per_hour = |mails| Rate { mails, per_seconds: 3_600 };
    let per_client = rate("per_client", per_hour(20), &mut section, report);
    let per_address = rate("per_address", per_hour(5), &mut section, report);
    let all = rate("all", per_hour(20_000), &mut section, report);
    let challenges = [("off", Challenge::Off), ("auto", Challenge::Auto), ("always", Challenge::Always)];
    let challenge = checked(&mut section, "challenge", Some(overrides), |text| check::one_of(text, &challenges), report);
    let limits = FormLimits {
        per_client,
        per_address,
        all,
        burst: number(&mut section, "burst", overrides, 1..=1_000, 10, report),
        challenge: challenge.and_then(|text| check::one_of(&text.value, &challenges).ok()).unwrap_or(Challenge::Auto),
        challenge_bits: number(&mut section, "challenge_bits", overrides, 8..=24, 16, report),
    };
    section.finish(report);
    limits
}

fn retention(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Retention {
    let retention = Retention {
        client_days: number(&mut section, "client_days", overrides, 0..=MAX_DAYS, 90, report),
        compact_days: number(&mut section, "compact_days", overrides, 0..=MAX_DAYS, 180, report),
        hit_days: number(&mut section, "hit_days", overrides, 0..=MAX_DAYS, 760, report),
        message_days: number(&mut section, "message_days", overrides, 0..=MAX_DAYS, 90, report),
        event_days: number(&mut section, "event_days", overrides, 0..=MAX_DAYS, 0, report),
        inactive_months: number(&mut section, "inactive_months", overrides, 0..=120, 0, report),
        unconfirmed_days: number(&mut section, "unconfirmed_days", overrides, 0..=MAX_DAYS, 30, report),
    };
    section.finish(report);
    retention
}

fn rights(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Rights {
    let rights = Rights {
        days: number(&mut section, "days", overrides, 1..=90, 30, report),
        automatic: super::settings::boolean(&mut section, "automatic", overrides, true, report),
    };
    section.finish(report);
    rights
}
