//! What a template sees of one person and one campaign.
//!
//! A declared field that is not set is minijinja's silent undefined: it prints nothing, is false in
//! `{% if %}` and takes `default(..)`, while a field that does not exist is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::fmt::strtime::BrokenDownTime;
use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr};
use minijinja::{Environment, Value};

use super::frame::Language;
use super::{LinkMaker, Recipient};
use crate::campaign::Definition;
use crate::clock::Time;
use crate::config::AttributeType;
use crate::contact::{AttributeValue, BUILT_IN_FIELDS, Contact, Date, Schema};

/// The fields a contact may have.
type Declared = BTreeMap<String, AttributeType>;

/// What is the same for all recipients of a campaign.
#[derive(Debug)]
pub(super) struct Shared {
    campaign: Value,
    sender: Value,
    topic: Value,
    fields: Arc<Declared>,
}

impl Shared {
    pub fn new(definition: &Definition, schema: &Schema) -> Self {
        let object = |pairs: &[(&'static str, &str)]| {
            Value::from(pairs.iter().map(|(key, text)| (*key, without_controls(text))).collect::<BTreeMap<_, _>>())
        };
        let sender = &definition.sender;
        Shared {
            campaign: object(&[("name", &definition.campaign)]),
            sender: object(&[("name", &sender.name), ("email", &sender.email), ("postal_address", &sender.postal_address)]),
            topic: object(&[("name", &definition.topic_name)]),
            fields: Arc::new(
                BUILT_IN_FIELDS
                    .iter()
                    .map(|name| ((*name).to_owned(), AttributeType::Text))
                    .chain(schema.attributes().map(|(name, kind)| (name.to_owned(), kind)))
                    .collect(),
            ),
        }
    }

    /// The variables of one person's mail.
    pub fn root(&self, recipient: &Recipient<'_>) -> Root {
        Root {
            campaign: self.campaign.clone(),
            topic: self.topic.clone(),
            links: links(recipient.links),
            ..self.about(recipient.contact, recipient.now)
        }
    }

    /// The variables of one message. One that people subscribed to has links, and the topic's name in
    /// their language in its `data`.
    pub fn message_root(&self, contact: &Contact, data: Value, maker: Option<&dyn LinkMaker>, now: Time) -> Root {
        let about = self.about(contact, now);
        let Some(maker) = maker else { return Root { data, ..about } };
        let name = data.get_attr("topic").ok().and_then(|name| name.as_str().map(without_controls)).unwrap_or_default();
        Root { topic: Value::from(BTreeMap::from([("name", name)])), links: links(maker), data, ..about }
    }

    fn about(&self, contact: &Contact, now: Time) -> Root {
        Root {
            contact: Value::from_object(Fields::new(contact, self.fields.clone())),
            campaign: Value::UNDEFINED,
            sender: self.sender.clone(),
            topic: Value::UNDEFINED,
            links: Value::UNDEFINED,
            now: Value::from_object(Moment { time: now, zone: contact.timezone.clone() }),
            frame: Language::of(contact.locale.as_deref()).words(),
            subject: Value::UNDEFINED,
            preheader: Value::UNDEFINED,
            data: Value::UNDEFINED,
        }
    }
}

fn links(maker: &dyn LinkMaker) -> Value {
    Value::from(BTreeMap::from([("unsubscribe", maker.unsubscribe()), ("preferences", maker.preferences()), ("view", maker.view())]))
}

/// The top of what a template sees.
#[derive(Debug, Clone)]
pub(super) struct Root {
    contact: Value,
    campaign: Value,
    sender: Value,
    topic: Value,
    links: Value,
    now: Value,
    frame: Value,
    data: Value,
    pub subject: Value,
    pub preheader: Value,
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let value = match key {
            "contact" => &self.contact,
            "campaign" => &self.campaign,
            "sender" => &self.sender,
            "topic" => &self.topic,
            "links" => &self.links,
            "now" => &self.now,
            "frame" => &self.frame,
            "data" => &self.data,
            "subject" => &self.subject,
            "preheader" => &self.preheader,
            _ => return None,
        };
        Some(value.clone())
    }
}

/// The fields of a contact. Those that are declared and not set answer [`unset`].
#[derive(Debug)]
struct Fields {
    values: BTreeMap<String, Value>,
    declared: Arc<Declared>,
}

impl Fields {
    fn new(contact: &Contact, declared: Arc<Declared>) -> Self {
        let built_in = [
            ("email", Some(&contact.email)),
            ("first_name", contact.first_name.as_ref()),
            ("last_name", contact.last_name.as_ref()),
            ("locale", contact.locale.as_ref()),
            ("timezone", contact.timezone.as_ref()),
            ("phone", contact.phone.as_ref()),
            ("external_id", contact.external_id.as_ref()),
        ];
        let mut values: BTreeMap<String, Value> = built_in
            .into_iter()
            .filter_map(|(name, text)| text.map(|text| (name.to_owned(), Value::from(without_controls(text)))))
            .collect();
        for (name, value) in contact.attributes.iter().filter(|(name, _)| declared.contains_key(*name)) {
            values.insert(name.clone(), attribute_value(value));
        }
        Fields { values, declared }
    }
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.values.get(key).cloned().or_else(|| match self.declared.get(key)? {
            AttributeType::Date => Some(Value::from_object(NoDay)),
            _ => Some(unset()),
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.declared.keys().map(|name| Value::from(name.as_str())).collect())
    }
}

fn attribute_value(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => Value::from(without_controls(text)),
        AttributeValue::Number(number) => number_value(*number),
        AttributeValue::Boolean(yes) => Value::from(*yes),
        AttributeValue::Date(date) => Value::from_object(Day(*date)),
        AttributeValue::List(texts) => texts.iter().map(|text| Value::from(without_controls(text))).collect(),
    }
}

/// Whole numbers print without a fraction.
fn number_value(number: f64) -> Value {
    /// 2^53: up to here every whole number has its own `f64`.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT { Value::from(number as i64) } else { Value::from(number) }
}

/// Line ends become `\n`; other control characters vanish. Two of them mark the links in a rendered
/// part, so no value may bring them along.
pub(super) fn without_controls(text: &str) -> String {
    if !text.bytes().any(|byte| byte < 0x20 && byte != b'\n' && byte != b'\t') {
        return text.to_owned();
    }
    text.replace("\r\n", "\n").replace('\r', "\n").chars().filter(|c| *c >= ' ' || *c == '\n' || *c == '\t').collect()
}

/// The undefined value that strict templates do not mind. minijinja makes it only as the missing
/// branch of a condition.
pub(super) fn unset() -> Value {
    static UNSET: OnceLock<Value> = OnceLock::new();
    UNSET
        .get_or_init(|| {
            let environment = Environment::new();
            environment.compile_expression("1 if false").and_then(|expression| expression.eval(())).unwrap_or(Value::UNDEFINED)
        })
        .clone()
}

/// A calendar date: prints as ISO 8601, compares with other dates, has `year`, `month` and `day`.
#[derive(Debug, Clone, Copy)]
struct Day(Date);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Object for Day {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        date_part(self.0.civil(), key.as_str()?)
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<std::cmp::Ordering> {
        other.downcast_ref::<Day>().map(|other| self.0.cmp(&other.0)).or_else(|| {
            let moment = other.downcast_ref::<Moment>()?;
            Some(self.0.civil().cmp(&moment.local().date()))
        })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A date that is not set. Unlike [`unset`] it has parts, so that
/// `contact.birthday.month == now.month` is false for people whose birthday is not known, and not
/// an error.
#[derive(Debug)]
struct NoDay;

impl Object for NoDay {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        matches!(key.as_str()?, "year" | "month" | "day").then(unset)
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Whether a value stands for nothing: a field that is not set, or `none`.
pub(super) fn is_nothing(value: &Value) -> bool {
    value.is_undefined() || value.is_none() || value.downcast_object_ref::<NoDay>().is_some()
}

/// A moment, in the recipient's zone where that is known, otherwise in UTC.
#[derive(Debug)]
struct Moment {
    time: Time,
    zone: Option<String>,
}

impl Moment {
    fn local(&self) -> jiff::Zoned {
        let zone = self.zone.as_deref().and_then(|name| jiff::tz::TimeZone::get(name).ok()).unwrap_or(jiff::tz::TimeZone::UTC);
        self.time.timestamp().to_zoned(zone)
    }
}

impl Object for Moment {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let local = self.local();
        match key.as_str()? {
            "hour" => Some(Value::from(local.hour())),
            "minute" => Some(Value::from(local.minute())),
            part => date_part(local.date(), part),
        }
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<std::cmp::Ordering> {
        other.downcast_ref::<Moment>().map(|other| self.time.cmp(&other.time)).or_else(|| {
            let day = other.downcast_ref::<Day>()?;
            Some(self.local().date().cmp(&day.0.civil()))
        })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.local().strftime("%Y-%m-%dT%H:%M:%S%:z"))
    }
}

fn date_part(date: jiff::civil::Date, part: &str) -> Option<Value> {
    match part {
        "year" => Some(Value::from(date.year())),
        "month" => Some(Value::from(date.month())),
        "day" => Some(Value::from(date.day())),
        _ => None,
    }
}

/// What the `date` filter prints from: a date, a moment, or a text that is a date.
pub(super) fn broken_down_time(value: &Value) -> Option<BrokenDownTime> {
    if let Some(day) = value.downcast_object_ref::<Day>() {
        return Some(BrokenDownTime::from(day.0.civil()));
    }
    if let Some(moment) = value.downcast_object_ref::<Moment>() {
        return Some(BrokenDownTime::from(&moment.local()));
    }
    value.as_str().and_then(Date::parse).map(|date| BrokenDownTime::from(date.civil()))
}
