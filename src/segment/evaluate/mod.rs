//! A rule judged for one person in memory: the same answer as [`super::compile`] gives in SQL, and
//! the reasons.

use std::cmp::Ordering;

use super::ast::{Op, Period};
use super::compile::{ago, asks_totals, day, days_from, stages_that};
use super::random::bucket;
use super::rule::{Engagement, Field, HitKind, Home, Leaf, Mailed, Moment, Node, Rule, Source, Together, Value};
use crate::behaviour::decay;
use crate::behaviour::stage::Stage;
use crate::clock::Time;
use crate::config::EngagementSettings;
use crate::consent::Standing;
use crate::contact::{AttributeValue, Date};

mod person;
mod words;

pub use person::{EngagementFact, EventFact, HitFact, LineFact, MailFact, OrderFact, OrderTotal, Person, TotalFact};

/// One condition of a rule and whether it held.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Clause {
    /// The condition in canonical form, with its `not`.
    pub text: String,
    /// Whether it held.
    pub held: bool,
    /// What is known of the person about it, in words: `city is 'Kaohsiung'`.
    pub facts: String,
    /// The segment it was written in, where that is not the rule itself.
    pub segment: Option<String>,
}

/// Whether the rule picks this person at the moment `now`.
pub fn evaluate(rule: &Rule, person: &Person, now: Time) -> bool {
    !person.merged && node_holds(&rule.root, On::Person(person), now)
}

/// What each condition of the rule says of this person, in the order of the source, also where the
/// answer was clear before. A contact that was merged into another is in no segment, whatever they say.
pub fn explain(rule: &Rule, person: &Person, now: Time) -> Vec<Clause> {
    let mut clauses = Vec::new();
    collect(&rule.root, person, now, &mut clauses);
    clauses
}

/// Of what conditions speak.
#[derive(Clone, Copy)]
enum On<'a> {
    Person(&'a Person),
    Event(&'a EventFact),
}

fn node_holds(node: &Node, on: On<'_>, now: Time) -> bool {
    match node {
        Node::All(nodes) => nodes.iter().all(|node| node_holds(node, on, now)),
        Node::Any(nodes) => nodes.iter().any(|node| node_holds(node, on, now)),
        Node::Leaf { leaf, negated, .. } => leaf_holds(leaf, on, now) != *negated,
    }
}

fn collect(node: &Node, person: &Person, now: Time, clauses: &mut Vec<Clause>) {
    match node {
        Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|node| collect(node, person, now, clauses)),
        Node::Leaf { leaf, negated, text, within } => clauses.push(Clause {
            text: match (leaf, negated) {
                (_, false) => text.clone(),
                (Leaf::IsSet(field), true) => format!("{} is not set", field.name),
                (_, true) => format!("not {text}"),
            },
            held: leaf_holds(leaf, On::Person(person), now) != *negated,
            facts: words::facts(leaf, person, now),
            segment: within.clone(),
        }),
    }
}

fn leaf_holds(leaf: &Leaf, on: On<'_>, now: Time) -> bool {
    match leaf {
        Leaf::Compare(field, op, value) => compared(on, field, value, now).is_some_and(|ordering| op.holds(ordering)),
        Leaf::OneOf(field, values) => values.iter().any(|value| compared(on, field, value, now).is_some_and(Ordering::is_eq)),
        Leaf::Contains(field, text) => match value_of(on, field) {
            Some(Held::Text(held)) => held.contains(text.as_str()),
            Some(Held::Other(AttributeValue::List(values))) => values.contains(text),
            _ => false,
        },
        Leaf::IsSet(field) => match value_of(on, field) {
            Some(Held::Text(text)) => !text.is_empty(),
            Some(Held::Other(AttributeValue::List(values))) => values.iter().any(|value| !value.is_empty()),
            Some(Held::Other(_)) => true,
            None => false,
        },
        Leaf::Recurs { field, from, until } => match value_of(on, field) {
            Some(Held::Other(AttributeValue::Date(date))) => recurs(*date, days_from(now, *from), days_from(now, *until)),
            _ => false,
        },
        _ => match on {
            On::Person(person) => person_holds(leaf, person, now),
            // An event has fields and nothing else.
            On::Event(_) => false,
        },
    }
}

fn person_holds(leaf: &Leaf, person: &Person, now: Time) -> bool {
    match leaf {
        Leaf::Subscribed(topic) => stands(person, topic, Standing::Subscribed).is_some(),
        Leaf::Standing { topic, standing, since, within } => stands(person, topic, *standing).is_some_and(|at| {
            since.iter().all(|(op, moment)| on_day(at, *op, *moment, now)) && within.is_none_or(|period| at >= ago(now, period))
        }),
        Leaf::Mail { what, source, at_least } => mails(person, *what, source, now).count() >= *at_least as usize,
        Leaf::Hit { kind, source, link, any, at_least } => {
            let found = Hits { kind: *kind, source, link: link.as_deref(), any: *any };
            if asks_totals(source, *any, *at_least) {
                totals_hold(person, &found, *at_least, now)
            } else {
                hits(person, &found, now).map(|hit| hit.times).sum::<i64>() >= i64::from(*at_least)
            }
        }
        Leaf::Did { event, filter, within, at_least } => {
            did(person, &event.name, filter.as_deref(), *within, now).count() >= *at_least as usize
        }
        Leaf::Ordered { within, product, category, at_least, together } => {
            let sums = ordered(person, *within, product.as_deref(), category.as_deref(), now);
            sums.is_some_and(|sums| {
                sums.count >= i64::from(*at_least) && together.iter().all(|condition| together_holds(condition, &sums, now))
            })
        }
        Leaf::Engagement { topic, what: Engagement::Stage, op, value, settings } => stage(person, topic.as_deref(), settings, now)
            .is_some_and(|stage| Stage::NAMES.iter().zip(stages_that(*op, value)).any(|(name, wanted)| wanted && *name == stage)),
        Leaf::Engagement { topic, what, op, value, settings } => {
            person.engagement.get(topic).is_some_and(|fact| responds(fact, *what, *op, value, settings, now))
        }
        Leaf::Frozen(list) => person.frozen.contains(list),
        Leaf::Random { millionths, seed } => bucket(person.contact.id, seed) < i64::from(*millionths),
        _ => false,
    }
}

// Standing ---------------------------------------------------------------------------------------

/// Since when they stand so.
fn stands(person: &Person, topic: &str, standing: Standing) -> Option<Time> {
    person.standings.get(topic).filter(|(held, _)| *held == standing).map(|(_, since)| *since)
}

fn civil(at: Time) -> Date {
    Date::from(at.timestamp().to_zoned(jiff::tz::TimeZone::UTC).date())
}

fn on_day(at: Time, op: Op, moment: Moment, now: Time) -> bool {
    op.holds(civil(at).cmp(&day(moment, now)))
}

/// Whether the date or one of its anniversaries is one of these days.
fn recurs(date: Date, from: Date, until: Date) -> bool {
    let civil = date.civil();
    (from.civil().year()..=until.civil().year()).filter(|year| *year >= civil.year()).any(|year| {
        let kept = jiff::civil::Date::new(year, civil.month(), civil.day()).or_else(|_| jiff::civil::Date::new(year, 2, 28));
        kept.is_ok_and(|kept| (from..=until).contains(&Date::from(kept)))
    })
}

// Mails and what came back -----------------------------------------------------------------------

fn of_source(source: &Source, campaign: Option<&str>, topic: Option<&str>) -> bool {
    (source.campaign.is_none() || source.campaign.as_deref() == campaign) && (source.topic.is_none() || source.topic.as_deref() == topic)
}

fn recent(within: Option<Period>, at: Time, now: Time) -> bool {
    within.is_none_or(|period| at >= ago(now, period))
}

fn mails<'a>(person: &'a Person, what: Mailed, source: &'a Source, now: Time) -> impl Iterator<Item = &'a MailFact> {
    person.mails.iter().filter(move |mail| {
        mail.bounced == (what == Mailed::Bounced)
            && of_source(source, mail.campaign.as_deref(), mail.topic.as_deref())
            && recent(source.within, mail.at, now)
    })
}

/// Which hits are asked for.
struct Hits<'a> {
    kind: HitKind,
    source: &'a Source,
    link: Option<&'a str>,
    any: bool,
}

fn hits<'a>(person: &'a Person, wanted: &'a Hits<'a>, now: Time) -> impl Iterator<Item = &'a HitFact> {
    person.hits.iter().filter(move |hit| {
        hit.kind == wanted.kind
            && (wanted.any || hit.human)
            && (wanted.link.is_none() || hit.url.as_deref() == wanted.link)
            && of_source(wanted.source, hit.campaign.as_deref(), hit.topic.as_deref())
            && recent(wanted.source.within, hit.at, now)
    })
}

fn totals<'a>(person: &'a Person, wanted: &'a Hits<'a>) -> impl Iterator<Item = &'a TotalFact> {
    person.totals.iter().filter(move |total| {
        let link = match (wanted.kind, wanted.link) {
            (HitKind::Open, None) => total.link == -1,
            // Opens are of no link.
            (HitKind::Open, Some(_)) => false,
            (HitKind::Click, None) => total.link == -2,
            (HitKind::Click, Some(url)) => total.link >= 0 && total.url.as_deref() == Some(url),
        };
        link && of_source(wanted.source, total.campaign.as_deref(), total.topic.as_deref())
    })
}

fn totals_hold(person: &Person, wanted: &Hits<'_>, at_least: u32, now: Time) -> bool {
    let mut found = totals(person, wanted);
    if wanted.any {
        return found.map(|total| total.any).sum::<i64>() >= i64::from(at_least.max(1));
    }
    if at_least <= 1 {
        return found.any(|total| total.last_at.is_some_and(|at| recent(wanted.source.within, at, now)));
    }
    found.filter(|total| total.last_at.is_some()).map(|total| total.human).sum::<i64>() >= i64::from(at_least)
}

// Behaviour --------------------------------------------------------------------------------------

fn did<'a>(
    person: &'a Person,
    event: &str,
    filter: Option<&'a Node>,
    within: Option<Period>,
    now: Time,
) -> impl Iterator<Item = &'a EventFact> {
    person
        .events
        .get(event)
        .into_iter()
        .flatten()
        .filter(move |event| recent(within, event.at, now) && filter.is_none_or(|filter| node_holds(filter, On::Event(event), now)))
}

/// Orders added up.
struct Sums {
    count: i64,
    amount: i128,
    first: Time,
    last: Time,
}

/// The orders that are asked for, added up; `None` where there are none.
fn ordered(person: &Person, within: Option<Period>, product: Option<&str>, category: Option<&str>, now: Time) -> Option<Sums> {
    if within.is_none() && product.is_none() && category.is_none() {
        let total = person.order_total.as_ref()?;
        return Some(Sums { count: total.orders, amount: i128::from(total.amount), first: total.first_at, last: total.last_at });
    }
    let (mut times, mut amount, mut orders) = (Vec::new(), 0, std::collections::BTreeSet::new());
    if product.is_none() && category.is_none() {
        for (index, order) in person.orders.iter().enumerate().filter(|(_, order)| recent(within, order.at, now)) {
            times.push(order.at);
            orders.insert(index as i64);
            amount += i128::from(order.amount);
        }
    } else {
        let wanted = |held: &Option<String>, wanted: Option<&str>| wanted.is_none() || held.as_deref() == wanted;
        for line in person.lines.iter().filter(|line| recent(within, line.at, now)) {
            if wanted(&line.product, product) && wanted(&line.category, category) {
                times.push(line.at);
                orders.insert(line.order);
                amount += i128::from(line.amount);
            }
        }
    }
    Some(Sums { count: orders.len() as i64, amount, first: *times.iter().min()?, last: *times.iter().max()? })
}

fn together_holds(condition: &Together, sums: &Sums, now: Time) -> bool {
    match condition {
        Together::Count(op, value) => op.holds(sums.count.cmp(value)),
        Together::Sum(op, value) => op.holds(sums.amount.cmp(&i128::from(*value))),
        Together::Average(op, value) => op.holds(sums.amount.cmp(&(i128::from(*value) * i128::from(sums.count)))),
        Together::First(op, moment) => on_day(sums.first, *op, *moment, now),
        Together::Last(op, moment) => on_day(sums.last, *op, *moment, now),
    }
}

// Engagement -------------------------------------------------------------------------------------

fn responds(fact: &EngagementFact, what: Engagement, op: Op, value: &Value, settings: &EngagementSettings, now: Time) -> bool {
    let number = |held: Option<i64>, wanted: f64| held.and_then(|held| (held as f64).partial_cmp(&wanted)).is_some_and(|o| op.holds(o));
    let time = |held: Option<Time>, moment: Moment| held.is_some_and(|at| on_day(at, op, moment, now));
    match (what, value) {
        (Engagement::Score, Value::Number(score)) => {
            fact.weight.partial_cmp(&decay::weight_of(*score, settings.half_life_days, now)).is_some_and(|ordering| op.holds(ordering))
        }
        (Engagement::BestHour, Value::Number(wanted)) => number(fact.best_hour, *wanted),
        (Engagement::BestWeekday, Value::Number(wanted)) => number(fact.best_weekday, *wanted),
        (Engagement::LastOpen, Value::Date(moment)) => time(fact.last_open_at, *moment),
        (Engagement::LastClick, Value::Date(moment)) => time(fact.last_click_at, *moment),
        _ => false,
    }
}

/// The last sign of life.
fn sign(person: &Person, topic: Option<&str>) -> Option<Time> {
    let fact = person.engagement.get(&topic.map(str::to_owned));
    let hits = fact.and_then(|fact| fact.last_open_at.max(fact.last_click_at));
    let bought = person.order_total.as_ref().filter(|total| topic.is_none() && total.orders > 0).map(|total| total.last_at);
    let begun = || {
        let of_topic = person.standings.iter().filter(|(name, _)| topic.is_none_or(|topic| topic == name.as_str()));
        of_topic.filter(|(_, (standing, _))| *standing == Standing::Subscribed).map(|(_, (_, since))| *since).max()
    };
    hits.max(bought).or_else(begun)
}

fn stage(person: &Person, topic: Option<&str>, settings: &EngagementSettings, now: Time) -> Option<&'static str> {
    Stage::of(sign(person, topic), now, settings).map(Stage::as_str)
}

// Fields -----------------------------------------------------------------------------------------

/// What somebody has in a field.
enum Held<'a> {
    Text(&'a str),
    Other(&'a AttributeValue),
}

fn value_of<'a>(on: On<'a>, field: &Field) -> Option<Held<'a>> {
    let stored = match (on, field.home) {
        (On::Person(person), Home::Contact) if field.built_in => return built_in(person, &field.name).map(|text| Held::Text(text)),
        (On::Person(person), Home::Contact) => person.contact.attributes.get(&field.name)?,
        (On::Person(person), Home::Score) => person.scores.get(&field.column)?,
        (On::Event(event), Home::Event) => event.properties.get(&field.column)?,
        _ => return None,
    };
    Some(match stored {
        AttributeValue::Text(text) => Held::Text(text),
        other => Held::Other(other),
    })
}

fn built_in<'a>(person: &'a Person, name: &str) -> Option<&'a String> {
    let contact = &person.contact;
    match name {
        "email" => Some(&contact.email_key),
        "first_name" => contact.first_name.as_ref(),
        "last_name" => contact.last_name.as_ref(),
        "locale" => contact.locale.as_ref(),
        "timezone" => contact.timezone.as_ref(),
        "phone" => contact.phone.as_ref(),
        "external_id" => contact.external_id.as_ref(),
        _ => None,
    }
}

/// How the value stands to `value`; `None` where there is no value.
fn compared(on: On<'_>, field: &Field, value: &Value, now: Time) -> Option<Ordering> {
    match (value_of(on, field)?, value) {
        (Held::Text(held), Value::Text(wanted)) => Some(held.cmp(wanted.as_str())),
        (Held::Other(AttributeValue::Number(held)), Value::Number(wanted)) => held.partial_cmp(wanted),
        (Held::Other(AttributeValue::Boolean(held)), Value::Boolean(wanted)) => Some(held.cmp(wanted)),
        (Held::Other(AttributeValue::Date(held)), Value::Date(moment)) => Some(held.cmp(&day(*moment, now))),
        _ => None,
    }
}
