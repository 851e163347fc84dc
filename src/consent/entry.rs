//! The way in: somebody asks for topics by a form or a program.
//!
//! Who asks by a form is a stranger until they confirm: what they typed about an address we know waits with
//! the request, and after the confirmation fills in only what was empty. So nobody changes another's name.

use serde_json::{Map, Value};

use super::suppression::Digests;
use super::{ALL_TOPICS, Action, Basis, NewEvent, Standing, ledger, ops, sql};
use crate::args;
use crate::clock::Time;
use crate::contact::{self, Address, AttributeValue, Schema, field};
use crate::db::{Connection, DbError, Tx};
use crate::entropy::Entropy;

/// A topic that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its id.
    pub topic_id: i64,
    /// It needs a confirmation from everybody.
    pub double: bool,
    /// What its mails are for.
    pub purpose: String,
}

/// Somebody asks.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// The address, as given.
    pub address: &'a Address,
    /// For what.
    pub topics: &'a [Wanted],
    /// What they said about themselves.
    pub fields: &'a [(String, AttributeValue)],
    /// The language they read.
    pub locale: Option<&'a str>,
    /// As in the ledger, such as `form tea`.
    pub source: &'a str,
    /// The form, where it was one.
    pub form: Option<&'a str>,
    /// On what ground; consent where nothing else is said.
    pub basis: Basis,
    /// Hash of the wording they saw.
    pub wording_hash: Option<&'a str>,
    /// Further proof: members of the evidence, an object.
    pub proof: Value,
    /// The client's address.
    pub ip: Option<&'a str>,
    /// The client's agent.
    pub agent: Option<&'a str>,
}

/// What asking did, for one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answered {
    /// Subscribed by this.
    Subscribed,
    /// Subscribed before.
    Already,
    /// A mail asks for a confirmation.
    ConfirmationSent,
}

/// What asking did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// The contact; none where the address is suppressed and was not known.
    pub contact_id: Option<i64>,
    /// By topic, as asked; empty where the address is suppressed.
    pub topics: Vec<(i64, Answered)>,
}

/// Takes a request. A topic with single opt-in is granted at once to who never left anything; everybody else
/// gets a confirmation mail, one an address, topic and window. Suppressed addresses: nothing at all.
pub async fn enter(
    tx: &mut Tx,
    schema: &Schema,
    entropy: &Entropy,
    digests: &Digests,
    entry: &Entry<'_>,
    now: Time,
) -> Result<Entered, DbError> {
    let known = contact::sql::by_email_key(tx, schema, entry.address.key()).await?.map(|contact| contact.id);
    if ops::is_suppressed(tx, digests, entry.address).await? {
        return Ok(Entered { contact_id: known, topics: Vec::new() });
    }
    let at_once = entry.topics.iter().any(|topic| !topic.double);
    let contact_id = match known {
        Some(id) => id,
        None => {
            let mut fields: Vec<(&str, AttributeValue)> = Vec::new();
            if at_once {
                fields.extend(entry.fields.iter().map(|(name, value)| (name.as_str(), value.clone())));
            }
            if let Some(locale) = entry.locale.filter(|_| !fields.iter().any(|(name, _)| *name == "locale")) {
                fields.push(("locale", AttributeValue::Text(locale.to_owned())));
            }
            ops::make_known(tx, schema, entropy, digests, now, entry.address, &fields).await?.id
        }
    };
    let ids: Vec<i64> = sql::topics(tx).await?.into_keys().chain([ALL_TOPICS]).collect();
    let pairs: Vec<(i64, i64)> = ids.iter().map(|topic| (*topic, contact_id)).collect();
    let standings = ops::standings_of(tx, &pairs).await?;
    // Whoever withdrew from anything is asked by mail first, also about a topic they never touched.
    let left = standings.values().any(|standing| *standing == Standing::Unsubscribed);
    // So is the owner of an address that was merged into somebody: what it had is worth nothing now.
    let merged = contact::merge::merged_into(tx, contact_id).await?.is_some();
    let mut topics = Vec::with_capacity(entry.topics.len());
    for topic in entry.topics {
        let standing = standings.get(&(topic.topic_id, contact_id)).copied().unwrap_or(Standing::None);
        let event = event(entropy, entry, topic, contact_id);
        let answered = if standing == Standing::Subscribed && !merged {
            Answered::Already
        } else if !topic.double && !left && !merged && standing != Standing::Paused {
            ledger::append(tx, &[NewEvent { action: Action::Granted, ..event }], now).await?;
            Answered::Subscribed
        } else {
            ops::request(tx, event, now).await?;
            let profile = (!entry.fields.is_empty()).then(|| to_json(entry.fields));
            tx.execute(
                // A later request that says nothing about these leaves what an earlier one said.
                "UPDATE confirmation
                 SET locale = COALESCE(CAST($1 AS TEXT), locale), form = COALESCE(CAST($2 AS TEXT), form),
                   profile = COALESCE(CAST($3 AS TEXT), profile)
                 WHERE topic_id = $4 AND contact_id = $5",
                args![entry.locale, entry.form, profile, topic.topic_id, contact_id],
            )
            .await?;
            Answered::ConfirmationSent
        };
        topics.push((topic.topic_id, answered));
    }
    Ok(Entered { contact_id: Some(contact_id), topics })
}

/// The event of an entry, for whatever action.
pub fn event(entropy: &Entropy, entry: &Entry<'_>, topic: &Wanted, contact_id: i64) -> NewEvent {
    let mut proof: Map<String, Value> = entry.proof.as_object().cloned().unwrap_or_default();
    proof.insert("address".to_owned(), entry.address.as_str().into());
    NewEvent {
        purpose: Some(topic.purpose.clone()),
        basis: Some(entry.basis),
        wording_hash: entry.wording_hash.map(str::to_owned),
        evidence: Some(ops::evidence(entropy, Value::Object(proof))),
        origin: ops::origin(entropy, entry.ip, entry.agent),
        ..NewEvent::new(contact_id, topic.topic_id, Action::Requested, entry.source)
    }
}

fn to_json(fields: &[(String, AttributeValue)]) -> String {
    let object: Map<String, Value> = fields.iter().map(|(name, value)| (name.clone(), field::to_json(value))).collect();
    Value::Object(object).to_string()
}

/// After a confirmation: what was typed with the request fills in what is still empty, and waits no longer.
pub async fn apply_profile(
    tx: &mut Tx,
    schema: &Schema,
    entropy: &Entropy,
    contact_id: i64,
    topics: &[i64],
    now: Time,
) -> Result<(), DbError> {
    let Some(contact) = contact::sql::by_ids(tx, schema, &[contact_id]).await?.pop() else { return Ok(()) };
    let rows = tx
        .rows(
            "SELECT topic_id, profile FROM confirmation WHERE contact_id = $1 AND profile IS NOT NULL ORDER BY asked_at, topic_id",
            args![contact_id],
        )
        .await?;
    let mut typed: Map<String, Value> = Map::new();
    for row in rows {
        let (topic_id, profile): (i64, String) = (row.get(0)?, row.get(1)?);
        if topics.contains(&topic_id)
            && let Ok(Value::Object(fields)) = serde_json::from_str(&profile)
        {
            typed.extend(fields);
        }
    }
    // A field that was declared otherwise since, or is known by now, stays as it is.
    let values: Vec<(&str, AttributeValue)> = typed
        .iter()
        .filter(|(name, _)| name.as_str() == "locale" || field::of_contact(&contact, name).is_none())
        .filter_map(|(name, value)| Some((name.as_str(), field::from_json(schema, name, value).ok()??)))
        .collect();
    if let (false, Ok(address)) = (values.is_empty(), Address::parse(&contact.email)) {
        contact::ops::upsert(tx, schema, entropy, now, &address, &values).await?;
    }
    for topic_id in topics {
        tx.execute("UPDATE confirmation SET profile = NULL WHERE topic_id = $1 AND contact_id = $2", args![*topic_id, contact_id]).await?;
    }
    Ok(())
}
