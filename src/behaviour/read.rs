//! Events, orders and refunds as JSON, checked against what is declared. All that is wrong comes at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::money::{self, Money};
use super::{
    EventSchema, GivenBack, Item, MAX_AHEAD_MS, MAX_KEY_CHARACTERS, MAX_ORDER_LINES, MAX_PRODUCT_CHARACTERS, MAX_TEXT_CHARACTERS, NewEvent,
    NewLine, NewOrder, NewRefund, ORDER, REFUND, Who,
};
use crate::clock::Time;
use crate::config::AttributeType;
use crate::config::diagnostics::did_you_mean;
use crate::contact::import::{Cell, Domains};
use crate::contact::{Address, Date, sql};

/// Fields of every event.
const EVENT: &[&str] = &["id", "type", "email", "external_id", "at", "properties", "revision", "retracted"];
const ORDER_FIELDS: &[&str] = &[
    "id",
    "type",
    "email",
    "external_id",
    "at",
    "revision",
    "currency",
    "lines",
    "amount",
    "product_id",
    "product",
    "category",
    "quantity",
    "refunded",
];
const LINE_FIELDS: &[&str] = &["amount", "product_id", "product", "category", "quantity", "refunded"];
const REFUND_FIELDS: &[&str] =
    &["id", "type", "email", "external_id", "at", "revision", "order", "currency", "amount", "product_id", "product"];

/// One thing that is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The field, with those around it: `properties.page`.
    pub field: String,
    /// Why.
    pub reason: String,
}

fn wrong(field: impl Into<String>, reason: impl Into<String>) -> Wrong {
    Wrong { field: field.into(), reason: reason.into() }
}

/// Reads events. Remembers the domains it has seen.
#[derive(Debug)]
pub struct Reader<'a> {
    events: &'a BTreeMap<String, EventSchema>,
    money: &'a Money,
    /// Leave out what is not declared instead of refusing the event.
    ignore_unknown: bool,
    now: Time,
    domains: Domains,
}

impl<'a> Reader<'a> {
    /// For the declared kinds of events.
    pub fn new(events: &'a BTreeMap<String, EventSchema>, money: &'a Money, ignore_unknown: bool, now: Time) -> Self {
        Reader { events, money, ignore_unknown, now, domains: Domains::default() }
    }

    /// What one JSON object says.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(&mut self, value: Value) -> Result<Item, Vec<Wrong>> {
        let Value::Object(mut object) = value else { return Err(vec![wrong("", "an event is a JSON object")]) };
        let mut faults = Vec::new();
        let Some(kind) = self.kind(&object, &mut faults) else { return Err(faults) };
        let item = match kind.as_str() {
            ORDER => self.order(&object, &mut faults).map(Item::Order),
            REFUND => self.refund(&object, &mut faults).map(Item::Refund),
            _ => self.event(&kind, &mut object, &mut faults).map(|event| Item::Event { kind, event }),
        };
        match item {
            Some(item) if faults.is_empty() => Ok(item),
            _ => Err(faults),
        }
    }

    fn kind(&self, object: &Map<String, Value>, faults: &mut Vec<Wrong>) -> Option<String> {
        let Some(Value::String(kind)) = object.get("type") else {
            faults.push(wrong("type", "`type` is missing: a kind of events.toml, `order` or `refund`"));
            return None;
        };
        let known = || self.events.keys().map(String::as_str).chain([ORDER, REFUND]);
        if known().any(|known| known == kind) {
            return Some(kind.clone());
        }
        let cut: String = kind.chars().take(60).collect();
        let hint = match did_you_mean(kind, known()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "declare it in events.toml".to_owned(),
        };
        faults.push(wrong("type", format!("there is no kind of events `{cut}`; {hint}")));
        None
    }

    fn known(&self, object: &Map<String, Value>, fields: &[&str], within: &str, faults: &mut Vec<Wrong>) {
        for name in object.keys().filter(|name| !self.ignore_unknown && !fields.contains(&name.as_str())) {
            let cut: String = name.chars().take(60).collect();
            let hint = match did_you_mean(name, fields.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("fields are {}", fields.join(", ")),
            };
            faults.push(wrong(format!("{within}{cut}"), format!("there is no field `{cut}`; {hint}")));
        }
    }

    fn event(&mut self, kind: &str, object: &mut Map<String, Value>, faults: &mut Vec<Wrong>) -> Option<NewEvent> {
        self.known(object, EVENT, "", faults);
        let retracted = match object.get("retracted") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                faults.push(wrong("retracted", "`retracted` is true or false"));
                false
            }
        };
        let key = key(object, "id", faults);
        let revision = revision(object, faults);
        let values = object.remove("properties").unwrap_or(Value::Null);
        if retracted {
            // What is taken back needs no more than its id.
            return Some(NewEvent { key: key?, who: Who::default(), at: self.now, revision, retracted, values: Vec::new() });
        }
        let (who, at) = (self.who(object, faults), self.at(object, faults));
        let schema = self.events.get(kind)?;
        let values = self.properties(schema, values, faults)?;
        Some(NewEvent { key: key?, who: who?, at: at?, revision, retracted, values })
    }

    fn properties(&self, schema: &EventSchema, value: Value, faults: &mut Vec<Wrong>) -> Option<Vec<Option<Cell>>> {
        let mut given = match value {
            Value::Null => Map::new(),
            Value::Object(given) => given,
            _ => {
                faults.push(wrong("properties", "`properties` is an object"));
                return None;
            }
        };
        let mut values = Vec::with_capacity(schema.properties.len());
        for (name, kind) in &schema.properties {
            match given.remove(name).map_or(Ok(None), |value| cell(*kind, value)) {
                Ok(value) => values.push(value),
                Err(reason) => {
                    faults.push(wrong(format!("properties.{name}"), format!("`{name}`: {reason}")));
                    values.push(None);
                }
            }
        }
        if !self.ignore_unknown {
            for name in given.keys() {
                let cut: String = name.chars().take(60).collect();
                let hint = match did_you_mean(name, schema.properties.keys().map(String::as_str)) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "declare it in events.toml".to_owned(),
                };
                faults.push(wrong(format!("properties.{cut}"), format!("`{}` has no property `{cut}`; {hint}", schema.name)));
            }
        }
        Some(values)
    }

    fn order(&mut self, object: &Map<String, Value>, faults: &mut Vec<Wrong>) -> Option<NewOrder> {
        self.known(object, ORDER_FIELDS, "", faults);
        let (key, who, at) = (key(object, "id", faults), self.who(object, faults), self.at(object, faults));
        let revision = revision(object, faults);
        let currency = self.currency(object, faults);
        let lines = match object.get("lines") {
            None | Some(Value::Null) => vec![self.line(object, "", faults)],
            Some(Value::Array(lines)) if (1..=MAX_ORDER_LINES).contains(&lines.len()) => lines
                .iter()
                .enumerate()
                .map(|(index, line)| {
                    let within = format!("lines.{index}.");
                    match line {
                        Value::Object(line) => {
                            self.known(line, LINE_FIELDS, &within, faults);
                            self.line(line, &within, faults)
                        }
                        _ => {
                            faults
                                .push(wrong(format!("lines.{index}"), "a line is an object: `{\"product_id\": \"p1\", \"amount\": 12.5}`"));
                            None
                        }
                    }
                })
                .collect(),
            Some(_) => {
                faults.push(wrong("lines", format!("`lines` is a list of 1 to {MAX_ORDER_LINES} lines")));
                return None;
            }
        };
        let lines: Vec<NewLine> = lines.into_iter().collect::<Option<_>>()?;
        if lines.iter().all(NewLine::is_return) {
            faults.push(wrong("lines", "nothing was bought; send what only gives back as `refund`"));
            return None;
        }
        let (currency, rate) = currency?;
        Some(NewOrder { key: key?, who: who?, at: at?, currency, rate, revision, lines })
    }

    fn line(&self, object: &Map<String, Value>, within: &str, faults: &mut Vec<Wrong>) -> Option<NewLine> {
        let place = |field: &str| format!("{within}{field}");
        let paid = match object.get("amount").filter(|value| !value.is_null()).map(amount) {
            Some(Ok(paid)) => Some(paid),
            Some(Err(reason)) => {
                faults.push(wrong(place("amount"), reason));
                None
            }
            None => {
                faults.push(wrong(place("amount"), "`amount` is missing: what was paid for the line"));
                None
            }
        };
        let quantity = match object.get("quantity") {
            None | Some(Value::Null) => 1.0,
            Some(value) => value.as_f64().filter(|number| number.is_finite()).unwrap_or_else(|| {
                faults.push(wrong(place("quantity"), "`quantity` is a number"));
                1.0
            }),
        };
        let given_back = match object.get("refunded") {
            None | Some(Value::Null | Value::Bool(false)) => GivenBack::Nothing,
            Some(Value::Bool(true)) => GivenBack::All,
            Some(value) => match amount(value) {
                Ok(0) => GivenBack::Nothing,
                Ok(part) if part > 0 => GivenBack::Part(part),
                Ok(_) => {
                    faults.push(wrong(place("refunded"), "`refunded` is true, false or an amount from 0 up"));
                    GivenBack::Nothing
                }
                Err(reason) => {
                    faults.push(wrong(place("refunded"), reason));
                    GivenBack::Nothing
                }
            },
        };
        let product_id = text(object, "product_id", within, MAX_KEY_CHARACTERS, faults);
        let product = text(object, "product", within, MAX_PRODUCT_CHARACTERS, faults);
        let category = text(object, "category", within, MAX_KEY_CHARACTERS, faults);
        Some(NewLine { product_id, product, category, quantity, paid: paid?, given_back })
    }

    fn refund(&mut self, object: &Map<String, Value>, faults: &mut Vec<Wrong>) -> Option<NewRefund> {
        self.known(object, REFUND_FIELDS, "", faults);
        let (key, order, at) = (key(object, "id", faults), key(object, "order", faults), self.at(object, faults));
        let named = ["email", "external_id"].iter().any(|field| object.get(*field).is_some_and(|value| !value.is_null()));
        let who = if named { self.who(object, faults) } else { Some(Who::default()) };
        let revision = revision(object, faults);
        // Without one, in that of the order, which may not have come.
        let currency =
            if object.get("currency").is_none_or(Value::is_null) { Some((Arc::from(""), 1.0)) } else { self.currency(object, faults) };
        let amount = match object.get("amount").filter(|value| !value.is_null()).map(amount).transpose() {
            Ok(Some(amount)) if amount <= 0 => {
                faults.push(wrong("amount", "a refund is more than 0; without `amount` it is all of the order"));
                None
            }
            Ok(amount) => amount,
            Err(reason) => {
                faults.push(wrong("amount", reason));
                None
            }
        };
        let product_id = text(object, "product_id", "", MAX_KEY_CHARACTERS, faults);
        let product = text(object, "product", "", MAX_PRODUCT_CHARACTERS, faults);
        let (currency, rate) = currency?;
        Some(NewRefund { key: key?, order: order?, who: who?, at: at?, product_id, product, amount, currency, rate, revision })
    }

    fn currency(&self, object: &Map<String, Value>, faults: &mut Vec<Wrong>) -> Option<(Arc<str>, f64)> {
        let currency = match object.get("currency") {
            None | Some(Value::Null) => return Some((Arc::from(self.money.currency.as_str()), 1.0)),
            Some(Value::String(currency)) => self.money.rate(currency),
            Some(_) => Err("`currency` is a text of three letters".to_owned()),
        };
        match currency {
            Ok((code, rate)) => Some((code.into(), rate)),
            Err(reason) => {
                faults.push(wrong("currency", reason));
                None
            }
        }
    }

    fn who(&mut self, object: &Map<String, Value>, faults: &mut Vec<Wrong>) -> Option<Who> {
        let before = faults.len();
        let mut who = Who::default();
        match object.get("email") {
            None | Some(Value::Null) => {}
            Some(Value::String(email)) => match self.address(email) {
                Ok(address) => who.address = address,
                Err(reason) => faults.push(wrong("email", reason)),
            },
            Some(_) => faults.push(wrong("email", "`email` is a text")),
        }
        match object.get("external_id") {
            None | Some(Value::Null) => {}
            Some(Value::String(_) | Value::Number(_)) => who.external_id = key(object, "external_id", faults),
            Some(_) => faults.push(wrong("external_id", "`external_id` is a text")),
        }
        if who.is_empty() && faults.len() == before {
            faults.push(wrong("email", "no person is named: `email` or `external_id`"));
        }
        (faults.len() == before).then_some(who)
    }

    /// An address; nothing where the text is empty.
    pub fn address(&mut self, text: &str) -> Result<Option<Address>, String> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let domains = &mut self.domains;
        Address::parse_with(text, |text| domains.get(text)).map(Some).map_err(|error| error.to_string())
    }

    fn at(&self, object: &Map<String, Value>, faults: &mut Vec<Wrong>) -> Option<Time> {
        let at = match object.get("at") {
            Some(Value::String(text)) => moment(text, &jiff::tz::TimeZone::UTC, self.now),
            _ => Err("`at` is missing: when it happened, such as `2026-12-01T09:00:00+08:00`".to_owned()),
        };
        at.map_err(|reason| faults.push(wrong("at", reason))).ok()
    }
}

/// When something happened: RFC 3339, or a date or time without an offset, which is of `zone`.
///
/// # Errors
/// What is wrong, also where it is more than a day ahead.
pub fn moment(text: &str, zone: &jiff::tz::TimeZone, now: Time) -> Result<Time, String> {
    let text = text.trim();
    let local = |text: &str| {
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        civil.to_zoned(zone.clone()).ok().map(|zoned| Time::from(zoned.timestamp()))
    };
    // A time with an offset ends in `Z` or `+hh:mm`; a date is read as its first moment.
    let has_offset = text.get(10..).is_some_and(|rest| rest.ends_with(['Z', 'z']) || rest.contains(['+', '-']));
    let at = if has_offset { Time::parse(text).ok() } else { local(text) };
    let Some(at) = at else {
        let cut: String = text.chars().take(40).collect();
        return Err(format!("`{cut}` is no time such as `2026-12-01`, `2026-12-01 09:00` or `2026-12-01T09:00:00+08:00`"));
    };
    if at > now.plus(MAX_AHEAD_MS) {
        return Err(format!("`{at}` is more than a day in the future"));
    }
    Ok(at)
}

/// A sender's id: a text or a whole number.
fn key(object: &Map<String, Value>, field: &str, faults: &mut Vec<Wrong>) -> Option<Arc<str>> {
    let key = match object.get(field) {
        Some(Value::String(text)) => plain_key(text),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(Arc::from(number.to_string())),
        None | Some(Value::Null) => Err(format!("`{field}` is missing")),
        Some(_) => Err(format!("`{field}` is a text or a whole number")),
    };
    key.map_err(|reason| faults.push(wrong(field, reason))).ok()
}

/// A text that may be an id.
///
/// # Errors
/// Where it is empty or too long, or holds control characters.
pub fn plain_key(text: &str) -> Result<Arc<str>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > MAX_KEY_CHARACTERS && text.chars().count() > MAX_KEY_CHARACTERS {
        return Err(format!("it is longer than {MAX_KEY_CHARACTERS} characters"));
    }
    if text.chars().any(char::is_control) {
        return Err("it holds control characters".to_owned());
    }
    Ok(Arc::from(text))
}

fn revision(object: &Map<String, Value>, faults: &mut Vec<Wrong>) -> i64 {
    match object.get("revision") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().filter(|revision| *revision >= 0).unwrap_or_else(|| {
            faults.push(wrong("revision", "`revision` is a whole number from 0 up"));
            0
        }),
    }
}

/// An amount, as a number or, exactly, as text.
fn amount(value: &Value) -> Result<i64, String> {
    match value {
        // As written: so that 0.1 is 0.1.
        Value::Number(number) => money::amount(&number.to_string()),
        Value::String(text) => money::amount(text),
        _ => Err("an amount is a number, or a text such as \"12.50\"".to_owned()),
    }
}

fn text(object: &Map<String, Value>, field: &str, within: &str, characters: usize, faults: &mut Vec<Wrong>) -> Option<Arc<str>> {
    let found = match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => plain_text(text, characters),
        Some(Value::Number(number)) => Ok(Some(Arc::from(number.to_string()))),
        Some(_) => Err(format!("`{field}` is a text")),
    };
    found.unwrap_or_else(|reason| {
        faults.push(wrong(format!("{within}{field}"), reason));
        None
    })
}

/// A text of so many characters at most; nothing where it is empty.
///
/// # Errors
/// Where it is longer, or holds a NUL.
pub fn plain_text(text: &str, characters: usize) -> Result<Option<Arc<str>>, String> {
    let text = text.trim();
    if text.len() > characters && text.chars().count() > characters {
        return Err(format!("it is longer than {characters} characters"));
    }
    if text.contains('\0') {
        return Err("it holds a NUL".to_owned());
    }
    Ok((!text.is_empty()).then(|| Arc::from(text)))
}

/// A property's value; the error goes on from its name.
fn cell(kind: AttributeType, value: Value) -> Result<Option<Cell>, String> {
    match (kind, value) {
        (_, Value::Null) => Ok(None),
        (AttributeType::Text, Value::String(text)) => Ok(plain_text(&text, MAX_TEXT_CHARACTERS)?.map(Cell::Text)),
        (AttributeType::Number, Value::Number(number)) => number
            .as_f64()
            .filter(|number| number.is_finite())
            .map(|number| Some(Cell::Number(number)))
            .ok_or_else(|| "is too large".to_owned()),
        (AttributeType::Boolean, Value::Bool(flag)) => Ok(Some(Cell::Boolean(flag))),
        (AttributeType::Date, Value::String(text)) => {
            Date::parse(&text).map(|date| Some(Cell::Date(date.number()))).ok_or_else(|| "is not a date such as `2026-12-01`".to_owned())
        }
        (AttributeType::List, Value::Array(values)) => {
            let texts: Option<Vec<String>> =
                values.into_iter().map(|value| if let Value::String(text) = value { Some(text) } else { None }).collect();
            let texts = texts.ok_or_else(|| "has to be a list of texts".to_owned())?;
            if texts.iter().map(|text| text.chars().count()).sum::<usize>() > MAX_TEXT_CHARACTERS
                || texts.iter().any(|text| text.contains('\0'))
            {
                return Err(format!("has more than {MAX_TEXT_CHARACTERS} characters, or a NUL"));
            }
            let texts: Vec<String> = texts.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
            Ok((!texts.is_empty()).then(|| Cell::Text(sql::join_list(&texts).into())))
        }
        (AttributeType::Text, _) => Err("has to be a text".to_owned()),
        (AttributeType::Number, _) => Err("has to be a number".to_owned()),
        (AttributeType::Boolean, _) => Err("has to be true or false".to_owned()),
        (AttributeType::Date, _) => Err("has to be a date as text, such as \"2026-12-01\"".to_owned()),
        (AttributeType::List, _) => Err("has to be a list of texts".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = Time::parse("2026-12-01T00:00:00Z").unwrap();
        let taipei = jiff::tz::TimeZone::get("Asia/Taipei").unwrap();
        for (text, zone, at) in [
            ("2026-11-01", &jiff::tz::TimeZone::UTC, "2026-11-01T00:00:00.000Z"),
            ("2026-11-01 09:30", &taipei, "2026-11-01T01:30:00.000Z"),
            ("2026-11-01T09:30:00", &jiff::tz::TimeZone::UTC, "2026-11-01T09:30:00.000Z"),
            ("2026-11-01T09:30:00+08:00", &jiff::tz::TimeZone::UTC, "2026-11-01T01:30:00.000Z"),
            ("2026-12-01T23:00:00Z", &taipei, "2026-12-01T23:00:00.000Z"),
        ] {
            assert_eq!(moment(text, zone, now).unwrap().to_string(), at, "{text}");
        }
        for text in ["", "x", "01.11.2026", "2026-02-30", "2026-12-03", "12-01-2026 09:00"] {
            assert!(moment(text, &taipei, now).is_err(), "{text}");
        }
    }
}
