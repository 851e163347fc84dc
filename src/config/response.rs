//! What comes back, and what it means: `[behaviour]` and `events.toml`, `[tracking]`, `[engagement]`,
//! `[attribution]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::check;
use super::load::each_table;
use super::reader::{Overrides, Raw, Report, Section};
use super::settings::{checked, number, pass};
use super::{AttributeType, Place};

/// Kinds of events of one instance: each is a table.
const MAX_EVENT_TYPES: usize = 100;
/// Properties of one kind of events: each is a column.
const MAX_PROPERTIES: usize = 50;
/// The kind of event that the beacon records.
pub const VISIT: &str = "visit";

/// `[behaviour]`
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// The currency in which amounts are added up (ISO 4217).
    pub currency: String,
    /// What one unit of another currency is worth in it.
    pub rates: BTreeMap<String, f64>,
    /// Serve the beacon, and take its visits.
    pub beacon: bool,
    /// Origins (`https://shop.example`) whose pages may send visits.
    pub beacon_origins: Vec<String>,
}

/// One kind of event of `events.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct EventType {
    /// Where its table starts.
    pub place: Option<Place>,
    /// For people.
    pub description: Option<String>,
    /// Its properties, typed.
    pub properties: BTreeMap<String, AttributeType>,
}

/// `[tracking]` of the instance.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackingSettings {
    /// The folder in which hits are logged before they are answered; `None`: beside the database file, or the
    /// working directory.
    pub log_dir: Option<PathBuf>,
    /// Put a link that no person sees into mails.
    pub honeypot: bool,
    /// A score from which a hit counts as a machine's, in hundredths.
    pub machine_from: u32,
}

/// `[engagement]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngagementSettings {
    /// Days after which a response weighs half.
    pub half_life_days: u32,
    /// Days without a response after which somebody is cooling.
    pub cooling_days: u32,
    /// Days without a response after which somebody is dormant.
    pub dormant_days: u32,
}

/// How an order is shared among the mails that came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributionModel {
    /// All of it to the last one clicked.
    LastClick,
    /// All of it to the first one clicked.
    FirstClick,
    /// Alike to all that were clicked.
    Linear,
}

/// `[attribution]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribution {
    /// Who gets what.
    pub model: AttributionModel,
    /// Days from a click to an order within which the click counts.
    pub within_days: u32,
}

/// The sections of `optin.toml`.
pub(super) struct Response {
    pub(super) behaviour: Behaviour,
    pub(super) tracking: TrackingSettings,
    pub(super) engagement: EngagementSettings,
    pub(super) attribution: Attribution,
}

pub(super) fn read(root: &mut Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Response {
    Response {
        behaviour: behaviour(root.section("behaviour", report), overrides, report),
        tracking: tracking(root.section("tracking", report), overrides, report),
        engagement: engagement(root.section("engagement", report), overrides, report),
        attribution: attribution(root.section("attribution", report), overrides, report),
    }
}

fn behaviour(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Behaviour {
    let currency = checked(&mut section, "currency", Some(overrides), check::currency, report);
    let mut table = section.section("rates", report);
    let mut rates = BTreeMap::new();
    for (currency, place) in table.keys() {
        let rate = table.raw(&currency, None).and_then(|raw| raw.decimal(report));
        match check::currency(&currency) {
            Err((message, hint)) => report.at(&place.file, place.span, message, hint),
            Ok(()) => match rate {
                Some(rate) if rate > 0.0 => drop(rates.insert(currency, rate)),
                Some(_) => report.at(&place.file, place.span, "a rate is more than 0", "what one unit of it is worth: `USD = 32.1`"),
                None => {}
            },
        }
    }
    table.finish(report);
    let behaviour = Behaviour {
        currency: currency.map_or_else(|| "EUR".to_owned(), |currency| currency.value),
        rates,
        beacon: super::settings::boolean(&mut section, "beacon", overrides, false, report),
        beacon_origins: super::settings::texts(&mut section, "beacon_origins", Some(overrides), check::origin, report).unwrap_or_default(),
    };
    section.finish(report);
    behaviour
}

fn tracking(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> TrackingSettings {
    let tracking = TrackingSettings {
        log_dir: checked(&mut section, "log_dir", Some(overrides), check::line, report).map(|dir| PathBuf::from(dir.value)),
        honeypot: super::settings::boolean(&mut section, "honeypot", overrides, false, report),
        machine_from: number(&mut section, "machine_from", overrides, 10..=1_000, 100, report),
    };
    section.finish(report);
    tracking
}

fn engagement(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> EngagementSettings {
    let place = section.place();
    let engagement = EngagementSettings {
        half_life_days: number(&mut section, "half_life_days", overrides, 1..=3_650, 30, report),
        cooling_days: number(&mut section, "cooling_days", overrides, 1..=3_650, 90, report),
        dormant_days: number(&mut section, "dormant_days", overrides, 1..=3_650, 180, report),
    };
    if engagement.dormant_days <= engagement.cooling_days
        && let Some(Place { file, span }) = place
    {
        let message = format!("`dormant_days` ({}) is not after `cooling_days` ({})", engagement.dormant_days, engagement.cooling_days);
        report.at(&file, span, message, "somebody cools before they are dormant: `cooling_days = 90`, `dormant_days = 180`");
    }
    section.finish(report);
    engagement
}

fn attribution(mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Attribution {
    let models =
        [("last_click", AttributionModel::LastClick), ("first_click", AttributionModel::FirstClick), ("linear", AttributionModel::Linear)];
    let model = checked(&mut section, "model", Some(overrides), |text| check::one_of(text, &models), report);
    let attribution = Attribution {
        model: model.and_then(|text| check::one_of(&text.value, &models).ok()).unwrap_or(AttributionModel::LastClick),
        within_days: number(&mut section, "within_days", overrides, 1..=365, 7, report),
    };
    section.finish(report);
    attribution
}

/// `events.toml`; `visit` is there by itself where the beacon is on.
pub(super) fn events(dir: &Path, behaviour: &Behaviour, report: &mut Report) -> BTreeMap<String, EventType> {
    let mut events = BTreeMap::new();
    let _ = each_table(&dir.join("events.toml"), "event", report, |key, section, report| {
        let place = section.place();
        if let (Err((message, hint)), Some(place)) = (check::attribute_name(key), &place) {
            report.at(&place.file, place.span.clone(), message, hint);
        }
        if let Some(place) = place.as_ref().filter(|_| matches!(key, "order" | "refund")) {
            let message = format!("`{key}` is no kind of your own");
            report.at(&place.file, place.span.clone(), message, "orders and refunds are known by themselves: see docs/behaviour.md");
        }
        if let Some(place) = place.as_ref().filter(|_| events.len() == MAX_EVENT_TYPES) {
            let hint = "each one is a table of the database: tell them apart by a property instead";
            report.at(&place.file, place.span.clone(), format!("more than {MAX_EVENT_TYPES} kinds of events"), hint);
        }
        let description = checked(section, "description", None, check::lines, report).map(|description| description.value);
        let properties = properties(section.section("properties", report), report);
        events.insert(key.to_owned(), EventType { place, description, properties });
    });
    if behaviour.beacon {
        let visit = events.entry(VISIT.to_owned()).or_insert(EventType { place: None, description: None, properties: BTreeMap::new() });
        for name in ["page", "title", "referrer"] {
            visit.properties.entry(name.to_owned()).or_insert(AttributeType::Text);
        }
    }
    events
}

fn properties(mut section: Section<'_>, report: &mut Report) -> BTreeMap<String, AttributeType> {
    use AttributeType::{Boolean, Date, List, Number, Text};
    let types = [("text", Text), ("number", Number), ("boolean", Boolean), ("date", Date), ("list", List)];
    let mut properties = BTreeMap::new();
    for (at, (name, place)) in section.keys().into_iter().enumerate() {
        if at == MAX_PROPERTIES {
            report.at(&place.file, place.span.clone(), format!("more than {MAX_PROPERTIES} properties"), "keep those that segments use");
        }
        let kind = section.raw(&name, None).and_then(|raw: Raw<'_>| raw.text(report));
        if let Err((message, hint)) = check::attribute_name(&name) {
            report.at(&place.file, place.span, message, hint);
            continue;
        }
        let kind = kind.and_then(|text| pass(check::one_of(&text.value, &types), &text, report));
        properties.extend(kind.map(|kind| (name, kind)));
    }
    section.finish(report);
    properties
}
