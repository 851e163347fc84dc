//! Use cases: granting, withdrawing, confirming, suppressing, asking.

use super::ledger::{self, Change};
use super::suppression::{self, Digests, Entry, Kind, NewEntry};
use super::{ALL_TOPICS, Action, Event, NewEvent, Standing, sql};
use crate::clock::Time;
use crate::contact::ops::Upserted;
use crate::contact::{self, Address, AttributeValue, Schema};
use crate::db::{Connection, Db, DbError, Tx};
use crate::entropy::Entropy;

pub use super::sql::topics;

/// The id of a topic's name, made when it is new.
pub async fn topic_id(tx: &mut Tx, name: &str, entropy: &Entropy, now: Time) -> Result<i64, DbError> {
    sql::topic_id(tx, name, entropy.id(now)).await
}

/// The id of a topic's name in a transaction of its own.
pub async fn ensure_topic(db: &Db, name: &str, entropy: &Entropy, now: Time) -> Result<i64, DbError> {
    let known = sql::topics(&mut db.clone()).await?;
    if let Some(id) = known.iter().find(|(_, known)| known.as_str() == name).map(|(id, _)| *id) {
        return Ok(id);
    }
    let mut tx = db.begin().await?;
    let id = topic_id(&mut tx, name, entropy, now).await?;
    tx.commit().await?;
    Ok(id)
}

/// Appends one event in a transaction of its own.
pub async fn record(db: &Db, event: NewEvent, now: Time) -> Result<Change, DbError> {
    let mut tx = db.begin().await?;
    let change = ledger::append(&mut tx, &[event], now).await?.remove(0);
    tx.commit().await?;
    Ok(change)
}

/// What a withdrawal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// False when nothing was left to withdraw.
    pub changed: bool,
}

/// Withdraws `contact_id` from a topic, or from everything with [`ALL_TOPICS`]. Repeating it is
/// harmless and keeps the first time; an event is written only where something changed.
pub async fn withdraw(tx: &mut Tx, request: &NewEvent, now: Time) -> Result<Withdrawal, DbError> {
    let topics: Vec<i64> = if request.topic_id == ALL_TOPICS {
        let mut all: Vec<i64> = sql::topics(tx).await?.into_keys().collect();
        all.sort_unstable();
        // The row for everything keeps later topics and imports out.
        all.insert(0, ALL_TOPICS);
        all
    } else {
        vec![request.topic_id]
    };
    let pairs: Vec<(i64, i64)> = topics.iter().map(|topic| (*topic, request.contact_id)).collect();
    let standings = sql::standings(tx, &pairs).await?;
    let events: Vec<NewEvent> = topics
        .into_iter()
        .filter(|topic| match standings.get(&(*topic, request.contact_id)) {
            Some(standing) => *standing != Standing::Unsubscribed,
            // Topics never touched need no event of their own: the row for everything covers them.
            None => *topic == request.topic_id,
        })
        .map(|topic_id| NewEvent { topic_id, ..request.clone() })
        .collect();
    let changes = ledger::append(tx, &events, now).await?;
    Ok(Withdrawal { changed: changes.iter().any(|change| change.before != change.after) })
}

/// How an import declares consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclaredConsent {
    /// They agreed; the source says how.
    Confirmed,
    /// They asked, a confirmation is still due.
    Pending,
    /// Only their data is imported.
    None,
}

/// Consent events for imported contacts: `(contact id, line, newly added)` each.
pub async fn record_import(
    tx: &mut Tx,
    rows: &[(i64, u64, bool)],
    topics: &[i64],
    consent: DeclaredConsent,
    source: &str,
    now: Time,
) -> Result<(), DbError> {
    let action = match consent {
        DeclaredConsent::Confirmed => Action::Granted,
        DeclaredConsent::Pending => Action::Requested,
        DeclaredConsent::None => return Ok(()),
    };
    // Whoever gets an event here was nothing or pending before, so all end at the same standing.
    let after = super::fold(Standing::None, action);
    for topic_id in topics {
        let alike = ledger::Alike { topic_id: *topic_id, action, source: source.to_owned(), after };
        // Somebody we know: an event only where it changes something, so that importing a file
        // again leaves the ledger alone.
        let known: Vec<i64> = rows.iter().filter(|(_, _, added)| !added).map(|(contact_id, _, _)| *contact_id).collect();
        let pairs: Vec<(i64, i64)> = known.iter().flat_map(|contact_id| [(*topic_id, *contact_id), (ALL_TOPICS, *contact_id)]).collect();
        let standings = sql::standings(tx, &pairs).await?;
        let changes = |contact_id: i64| {
            let own = standings.get(&(*topic_id, contact_id)).copied();
            let left_everything = standings.get(&(ALL_TOPICS, contact_id)) == Some(&Standing::Unsubscribed);
            let before = own.unwrap_or(if left_everything { Standing::Unsubscribed } else { Standing::None });
            super::fold(before, action) != before
        };
        let people = rows
            .iter()
            .filter(|(contact_id, _, added)| *added || changes(*contact_id))
            .map(|(contact_id, line, _)| (*contact_id, i64::try_from(*line).ok()))
            .collect();
        ledger::append_alike(tx, &alike, people, now).await?;
    }
    Ok(())
}

/// Keeps a wording and answers its hash.
pub async fn keep_wording(tx: &mut Tx, wording: &str, locale: Option<&str>) -> Result<String, DbError> {
    let hash = ledger::evidence_digest(wording);
    sql::keep_wording(tx, &hash, wording, locale).await?;
    Ok(hash)
}

/// The wording behind a hash.
pub async fn wording(db: &mut impl Connection, hash: &str) -> Result<Option<String>, DbError> {
    sql::wording(db, hash).await
}

/// A person's ledger, oldest first.
pub async fn history(db: &mut impl Connection, contact_id: i64) -> Result<Vec<Event>, DbError> {
    sql::events_of(db, contact_id).await
}

/// A person's standings: topic name, standing, since.
pub async fn standings(db: &mut impl Connection, contact_id: i64) -> Result<Vec<(String, Standing, Time)>, DbError> {
    sql::standings_of(db, contact_id).await
}

/// Why an address (as compared) gets nothing; `None` where it may.
pub async fn suppression(db: &Db, email_key: &str) -> Result<Option<Entry>, DbError> {
    let mut tx = db.begin_read().await?;
    let found = suppression::look_up(&mut tx, &[email_key]).await?.remove(email_key);
    tx.rollback().await?;
    Ok(found)
}

/// Suppresses addresses (comparison key and reason each) for good; those already there stay as they are.
/// Answers how many were new.
pub async fn suppress(tx: &mut Tx, addresses: Vec<(String, String)>, source: &str, now: Time) -> Result<u64, DbError> {
    let entry = |(value, reason)| NewEntry { kind: Kind::Address, value, reason, expires_at: None };
    suppression::add(tx, addresses.into_iter().map(entry).collect(), source, now).await
}

/// Adds a contact or changes the one with this address (see [`contact::ops::upsert`]), and suppresses the address
/// again where its owner was erased before: what every way in calls.
pub async fn make_known(
    tx: &mut Tx,
    schema: &Schema,
    entropy: &Entropy,
    digests: &Digests,
    now: Time,
    address: &Address,
    fields: &[(&str, AttributeValue)],
) -> Result<Upserted, DbError> {
    let upserted = contact::ops::upsert(tx, schema, entropy, now, address, fields).await?;
    if upserted.added {
        suppression::recall(tx, digests, &[address.key()], now).await?;
    }
    Ok(upserted)
}

/// What asking for a subscription did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Subscribed before: nothing to do.
    Already,
    /// A confirmation mail is on its way, or went out within the last day.
    Asked,
}

/// Somebody asks for a topic over a page or form: a `requested` event, and one confirmation mail a
/// day at most. Asking brings nobody back who withdrew; the confirmation does.
pub async fn request(tx: &mut Tx, event: NewEvent, now: Time) -> Result<Request, DbError> {
    let key = (event.topic_id, event.contact_id);
    if sql::standings(tx, &[key]).await?.get(&key) == Some(&Standing::Subscribed) {
        return Ok(Request::Already);
    }
    if super::invitation::ask(tx, event.contact_id, event.topic_id, now).await?
        || sql::last_action(tx, event.contact_id, event.topic_id).await?.as_deref() != Some(Action::Requested.as_str())
    {
        ledger::append(tx, &[NewEvent { action: Action::Requested, ..event }], now).await?;
    }
    Ok(Request::Asked)
}

/// What a double opt-in link did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// Now subscribed.
    Confirmed,
    /// Was already.
    Already,
    /// Nothing is waiting for a confirmation: never asked, or withdrawn since. A link from before a
    /// withdrawal does not undo it.
    NotAsked,
    /// The contact is gone.
    Gone,
}

/// Confirms a topic for the owner of the address, if the last word about it was a request.
pub async fn confirm(tx: &mut Tx, event: NewEvent, now: Time) -> Result<Confirmation, DbError> {
    let known = tx.fetch_optional("SELECT id FROM contact WHERE id = $1", crate::args![event.contact_id]).await?;
    if known.is_none() {
        return Ok(Confirmation::Gone);
    }
    let key = (event.topic_id, event.contact_id);
    if sql::standings(tx, &[key]).await?.get(&key) == Some(&Standing::Subscribed) {
        return Ok(Confirmation::Already);
    }
    if sql::last_action(tx, event.contact_id, event.topic_id).await?.as_deref() != Some(Action::Requested.as_str()) {
        return Ok(Confirmation::NotAsked);
    }
    ledger::append(tx, &[NewEvent { action: Action::Confirmed, ..event }], now).await?;
    Ok(Confirmation::Confirmed)
}

/// Personal proof as kept with an event: `fields` (an object; members that are null are left out) and a
/// salt, which keeps the digest from telling anything once the proof is erased.
pub fn evidence(entropy: &Entropy, fields: serde_json::Value) -> String {
    let mut object: serde_json::Map<String, serde_json::Value> = match fields {
        serde_json::Value::Object(object) => object.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => [("value".to_owned(), other)].into_iter().collect(),
    };
    object.insert("salt".to_owned(), format!("{:016x}{:016x}", entropy.u64(), entropy.u64()).into());
    serde_json::Value::Object(object).to_string()
}

/// Address and agent of a client, salted in the same way; nothing where neither is known.
pub fn origin(entropy: &Entropy, ip: Option<&str>, agent: Option<&str>) -> Option<String> {
    (ip.is_some() || agent.is_some()).then(|| evidence(entropy, serde_json::json!({ "ip": ip, "agent": agent })))
}
