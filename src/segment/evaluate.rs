//! A rule judged for one person in memory: the same answer as [`super::compile`] gives in SQL, and
//! the reasons.

use std::collections::BTreeSet;

use super::compile::{ago, day};
use super::random::bucket;
use super::rule::{Field, HitKind, Leaf, Node, Rule, Source, Value};
use crate::clock::Time;
use crate::contact::{AttributeValue, Contact};

/// A contact with all that rules ask about.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Who.
    pub contact: Contact,
    /// Keys of the topics whose standing is `subscribed`.
    pub subscriptions: BTreeSet<String>,
    /// Mails sent to them.
    pub sent: Vec<SentFact>,
    /// What came back from them.
    pub hits: Vec<HitFact>,
}

/// A mail that was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct SentFact {
    /// The run's campaign; `None` where the run is gone.
    pub campaign: Option<String>,
    /// The run's topic.
    pub topic: Option<String>,
    /// When the delivery became `sent`.
    pub at: Time,
}

/// An open or a click.
#[derive(Debug, Clone, PartialEq)]
pub struct HitFact {
    /// Which of both.
    pub kind: HitKind,
    /// The run's campaign; `None` where the run is gone.
    pub campaign: Option<String>,
    /// The run's topic.
    pub topic: Option<String>,
    /// The address behind the link clicked.
    pub url: Option<String>,
    /// When.
    pub at: Time,
    /// Judged to come from a human.
    pub human: bool,
}

/// One condition of a rule and whether it held.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Clause {
    /// The condition in canonical form, with its `not`.
    pub text: String,
    /// Whether it held.
    pub held: bool,
    /// The segment it was written in, where that is not the rule itself.
    pub segment: Option<String>,
}

/// Whether the rule picks this person at the moment `now`.
pub fn evaluate(rule: &Rule, person: &Person, now: Time) -> bool {
    node_holds(&rule.root, person, now)
}

/// What each condition of the rule says of this person, in the order of the source, also where the
/// answer was clear before.
pub fn explain(rule: &Rule, person: &Person, now: Time) -> Vec<Clause> {
    let mut clauses = Vec::new();
    collect(&rule.root, person, now, &mut clauses);
    clauses
}

fn node_holds(node: &Node, person: &Person, now: Time) -> bool {
    match node {
        Node::All(nodes) => nodes.iter().all(|node| node_holds(node, person, now)),
        Node::Any(nodes) => nodes.iter().any(|node| node_holds(node, person, now)),
        Node::Leaf { leaf, negated, .. } => leaf_holds(leaf, person, now) != *negated,
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
            held: leaf_holds(leaf, person, now) != *negated,
            segment: within.clone(),
        }),
    }
}

fn leaf_holds(leaf: &Leaf, person: &Person, now: Time) -> bool {
    match leaf {
        Leaf::Compare(field, op, value) => compared(&person.contact, field, value, now).is_some_and(|ordering| op.holds(ordering)),
        Leaf::OneOf(field, values) => {
            values.iter().any(|value| compared(&person.contact, field, value, now).is_some_and(std::cmp::Ordering::is_eq))
        }
        Leaf::Contains(field, text) => match value_of(&person.contact, field) {
            Some(Held::Text(held)) => held.contains(text.as_str()),
            Some(Held::Other(AttributeValue::List(values))) => values.contains(text),
            _ => false,
        },
        Leaf::IsSet(field) => match value_of(&person.contact, field) {
            Some(Held::Text(text)) => !text.is_empty(),
            Some(Held::Other(AttributeValue::List(values))) => values.iter().any(|value| !value.is_empty()),
            Some(Held::Other(_)) => true,
            None => false,
        },
        Leaf::Subscribed(topic) => person.subscriptions.contains(topic),
        Leaf::Recurs { .. }
        | Leaf::Standing { .. }
        | Leaf::Did { .. }
        | Leaf::Ordered { .. }
        | Leaf::Engagement { .. }
        | Leaf::Frozen(_) => false,
        Leaf::Mail { source, at_least, .. } => {
            let counts = |fact: &&SentFact| of_source(source, fact.campaign.as_deref(), fact.topic.as_deref(), fact.at, now);
            enough(person.sent.iter().filter(counts).count(), *at_least)
        }
        Leaf::Hit { kind, source, link, any, at_least } => {
            let counts = |fact: &&HitFact| {
                fact.kind == *kind
                    && (*any || fact.human)
                    && (link.is_none() || fact.url == *link)
                    && of_source(source, fact.campaign.as_deref(), fact.topic.as_deref(), fact.at, now)
            };
            enough(person.hits.iter().filter(counts).count(), *at_least)
        }
        Leaf::Random { millionths, seed } => bucket(person.contact.id, seed) < i64::from(*millionths),
    }
}

fn enough(found: usize, at_least: u32) -> bool {
    u32::try_from(found).map_or(true, |found| found >= at_least)
}

fn of_source(source: &Source, campaign: Option<&str>, topic: Option<&str>, at: Time, now: Time) -> bool {
    (source.campaign.is_none() || source.campaign.as_deref() == campaign)
        && (source.topic.is_none() || source.topic.as_deref() == topic)
        && source.within.is_none_or(|period| at >= ago(now, period))
}

/// What a contact has in a field.
enum Held<'a> {
    Text(&'a str),
    Other(&'a AttributeValue),
}

fn value_of<'a>(contact: &'a Contact, field: &Field) -> Option<Held<'a>> {
    if !field.built_in {
        return match contact.attributes.get(&field.name)? {
            AttributeValue::Text(text) => Some(Held::Text(text)),
            other => Some(Held::Other(other)),
        };
    }
    let text = match field.name.as_str() {
        "email" => Some(&contact.email_key),
        "first_name" => contact.first_name.as_ref(),
        "last_name" => contact.last_name.as_ref(),
        "locale" => contact.locale.as_ref(),
        "timezone" => contact.timezone.as_ref(),
        "phone" => contact.phone.as_ref(),
        "external_id" => contact.external_id.as_ref(),
        _ => None,
    };
    text.map(|text| Held::Text(text))
}

/// How the contact's value stands to `value`; `None` where there is no value.
fn compared(contact: &Contact, field: &Field, value: &Value, now: Time) -> Option<std::cmp::Ordering> {
    match (value_of(contact, field)?, value) {
        (Held::Text(held), Value::Text(wanted)) => Some(held.cmp(wanted.as_str())),
        (Held::Other(AttributeValue::Number(held)), Value::Number(wanted)) => held.partial_cmp(wanted),
        (Held::Other(AttributeValue::Boolean(held)), Value::Boolean(wanted)) => Some(held.cmp(wanted)),
        (Held::Other(AttributeValue::Date(held)), Value::Date(moment)) => Some(held.cmp(&day(*moment, now))),
        _ => None,
    }
}
