//! Use cases: granting, withdrawing, confirming, suppressing, asking.

use std::collections::HashMap;

use super::ledger::{self, Change};
use super::suppression::{self, Digests, Entry, Kind, NewEntry};
use super::{ALL_TOPICS, Action, Basis, Event, KeptWording, NewEvent, Standing, State, Wording, sql, standing_sql};
use crate::clock::Time;
use crate::contact::ops::Upserted;
use crate::contact::{self, Address, AttributeValue, Schema};
use crate::db::{Connection, Db, DbError, Tx};
use crate::entropy::Entropy;

pub use super::choose::{anything_over, catch_up, choices, pause, refresh, resume, set_frequency, set_profiling, set_tracking, states};
pub use super::erase::{erase, expire_origins};
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

/// Standings of these topics and people; pairs never touched are left out.
pub(super) async fn standings_of(tx: &mut Tx, pairs: &[(i64, i64)]) -> Result<HashMap<(i64, i64), Standing>, DbError> {
    Ok(standing_sql::rows(tx, pairs).await?.into_iter().map(|(pair, row)| (pair, row.state.standing)).collect())
}

/// What a withdrawal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// False when nothing was left to withdraw.
    pub changed: bool,
}

/// Withdraws `contact_id` from a topic, or from everything with [`ALL_TOPICS`]. Repeating it is
/// harmless and keeps the first time; an event is written only where something changed. Whoever was merged into
/// somebody leaves as that person, too: an old mail to the other address ends them all.
pub async fn withdraw(tx: &mut Tx, request: &NewEvent, now: Time) -> Result<Withdrawal, DbError> {
    let mut changed = withdraw_one(tx, request, now).await?.changed;
    for contact_id in contact::merge::above(tx, request.contact_id).await? {
        changed |= withdraw_one(tx, &NewEvent { contact_id, ..request.clone() }, now).await?.changed;
    }
    Ok(Withdrawal { changed })
}

async fn withdraw_one(tx: &mut Tx, request: &NewEvent, now: Time) -> Result<Withdrawal, DbError> {
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
    let standings = standings_of(tx, &pairs).await?;
    // Whoever left, asked to come back and thinks better of it: nothing may be left to confirm.
    let open = super::invitation::open_topics(tx, request.contact_id).await?;
    let events: Vec<NewEvent> = topics
        .into_iter()
        .filter(|topic| match standings.get(&(*topic, request.contact_id)) {
            Some(standing) => *standing != Standing::Unsubscribed || open.contains(topic),
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

/// What an import declares about everybody in it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// How far they agreed.
    pub consent: DeclaredConsent,
    /// Where they agreed, in the operator's words; nothing personal, it is never erased.
    pub source: String,
    /// On what ground they are mailed.
    pub basis: Basis,
    /// When an implied consent ends.
    pub until: Option<Time>,
}

/// Consent events for imported contacts, `(contact id, line, newly added)` each, on topics: id and purpose each.
pub async fn record_import(
    tx: &mut Tx,
    rows: &[(i64, u64, bool)],
    topics: &[(i64, String)],
    declared: &Declared,
    now: Time,
) -> Result<(), DbError> {
    let action = match declared.consent {
        DeclaredConsent::Confirmed => Action::Granted,
        DeclaredConsent::Pending => Action::Requested,
        DeclaredConsent::None => return Ok(()),
    };
    // Nearly everybody who gets an event here was nothing or pending before, so they end at the same standing.
    let after = super::fold(Standing::None, action);
    for (topic_id, purpose) in topics {
        let alike = ledger::Alike {
            topic_id: *topic_id,
            action,
            source: declared.source.clone(),
            purpose: Some(purpose.clone()),
            basis: Some(declared.basis),
            until: declared.until,
            after,
        };
        // Somebody we know: an event only where it changes something, so that importing a file
        // again leaves the ledger alone.
        let known: Vec<i64> = rows.iter().filter(|(_, _, added)| !added).map(|(contact_id, _, _)| *contact_id).collect();
        let pairs: Vec<(i64, i64)> = known.iter().flat_map(|contact_id| [(*topic_id, *contact_id), (ALL_TOPICS, *contact_id)]).collect();
        let states = standing_sql::rows(tx, &pairs).await?;
        let state_of = |topic_id: i64, contact_id: i64| states.get(&(topic_id, contact_id)).map_or(State::NONE, |row| row.state);
        let (mut people, mut others) = (Vec::new(), Vec::new());
        for (contact_id, line, added) in rows {
            let line = i64::try_from(*line).ok();
            let own = if *added { State::NONE } else { state_of(*topic_id, *contact_id) };
            let everything = if *added { Standing::None } else { state_of(ALL_TOPICS, *contact_id).standing };
            let event = alike.event(*contact_id, line);
            let becomes = super::step(own, everything, &event.fact());
            let left = own.standing == Standing::None && becomes.standing == Standing::Unsubscribed;
            if becomes == own || left {
                continue;
            }
            // Whose implied consent is prolonged keeps standing, pause and frequency.
            if becomes.standing == after && becomes.standing != own.standing {
                people.push((*contact_id, line));
            } else {
                others.push(event);
            }
        }
        if declared.consent == DeclaredConsent::Pending {
            let asked: Vec<i64> = people.iter().map(|(contact_id, _)| *contact_id).collect();
            super::invitation::ask_many(tx, *topic_id, &asked, now).await?;
        }
        ledger::append_alike(tx, &alike, people, now).await?;
        ledger::append(tx, &others, now).await?;
    }
    Ok(())
}

/// Keeps a wording and answers its hash, for [`NewEvent::wording_hash`].
pub async fn keep_wording(tx: &mut Tx, wording: &Wording<'_>, now: Time) -> Result<String, DbError> {
    let hash = wording.hash();
    sql::keep_wording(tx, &hash, wording, now).await?;
    Ok(hash)
}

/// Whether nothing may be sent to an address, be it known or not, or of somebody who was erased.
pub async fn is_suppressed(tx: &mut Tx, digests: &Digests, address: &Address) -> Result<bool, DbError> {
    Ok(!suppression::look_up(tx, &[address.key()]).await?.is_empty() || suppression::were_erased(tx, digests, address.key()).await?)
}

/// The wording behind a hash.
pub async fn wording(db: &mut impl Connection, hash: &str) -> Result<Option<KeptWording>, DbError> {
    sql::wording(db, hash).await
}

/// A person's ledger, oldest first.
pub async fn history(db: &mut impl Connection, contact_id: i64) -> Result<Vec<Event>, DbError> {
    sql::events_of(db, contact_id).await
}

/// A person's standings: topic name, standing, since.
pub async fn standings(db: &mut impl Connection, contact_id: i64) -> Result<Vec<(String, Standing, Time)>, DbError> {
    let mut rows: Vec<(String, Standing, Time)> = standing_sql::of_contact(db, contact_id)
        .await?
        .into_iter()
        .filter(|(topic_id, _, _)| *topic_id != ALL_TOPICS)
        .map(|(_, topic, row)| (topic, row.state.standing, row.since))
        .collect();
    rows.sort();
    Ok(rows)
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
    // A merged address gets nothing, whatever it had: only its owner's confirmation changes that.
    let merged = contact::merge::merged_into(tx, event.contact_id).await?.is_some();
    if !merged && standings_of(tx, &[key]).await?.get(&key) == Some(&Standing::Subscribed) {
        return Ok(Request::Already);
    }
    let locale = event.detail.as_deref().and_then(|detail| detail.split(' ').find_map(|word| word.strip_prefix("locale=")));
    if super::invitation::ask(tx, event.contact_id, event.topic_id, locale, now).await?
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

/// Confirms a topic for the owner of the address, if the last word about it was a request. A link that was made
/// (`made_at`) before they left does not count, whoever asked since: that needs a mail of its own.
pub async fn confirm(tx: &mut Tx, event: NewEvent, made_at: Time, now: Time) -> Result<Confirmation, DbError> {
    let known = tx.fetch_optional("SELECT merged_into FROM contact WHERE id = $1", crate::args![event.contact_id]).await?;
    let Some(known) = known else { return Ok(Confirmation::Gone) };
    let merged = known.get::<Option<i64>>(0)?.is_some();
    let key = (event.topic_id, event.contact_id);
    if !merged && standings_of(tx, &[key]).await?.get(&key) == Some(&Standing::Subscribed) {
        return Ok(Confirmation::Already);
    }
    if sql::last_action(tx, event.contact_id, event.topic_id).await?.as_deref() != Some(Action::Requested.as_str()) {
        return Ok(Confirmation::NotAsked);
    }
    if sql::closed_since(tx, event.contact_id, event.topic_id, made_at).await?.contains(&Action::Withdrawn) {
        return Ok(Confirmation::NotAsked);
    }
    let asked = sql::question(tx, event.contact_id, event.topic_id).await?;
    let evidence = asked.and_then(|asked| with_trail(event.evidence.as_deref()?, &asked)).or(event.evidence);
    ledger::append(tx, &[NewEvent { action: Action::Confirmed, evidence, ..event }], now).await?;
    Ok(Confirmation::Confirmed)
}

/// The trail of a double opt-in: when they asked, when the question went out, and the left side of its Message-ID;
/// added to the proof that the caller made (with its salt).
fn with_trail(evidence: &str, question: &sql::Question) -> Option<String> {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(evidence).ok()?;
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            fields.entry(name).or_insert_with(|| value.into());
        }
    };
    add("asked_at", Some(question.asked_at.to_string()));
    add("mailed_at", question.mailed_at.map(|at| at.to_string()));
    add("mail", question.delivery_id.map(|id| format!("{id:x}.optin")));
    Some(serde_json::Value::Object(fields).to_string())
}

/// The digest of a link's token, for the proof: it shows which link was used, and lets nobody use it.
pub fn token_digest(token: &str) -> String {
    ledger::evidence_digest(token)
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
