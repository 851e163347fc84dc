//! The lane of messages: its own claims, its own sessions. What somebody waits for goes before the engine's
//! own mails, which take what room is left. A campaign in full swing
//! does not delay it, and limits do not hold it back: what it sends counts against them, so that
//! campaigns make room.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use super::claim::{Refused, record_refused};
use super::job::{Job, Ticket, What, sender_domain};
use super::lane::Lane;
use crate::clock::Time;
use crate::consent::{Permit, Refusal};
use crate::contact::Contact;
use crate::db::{DbError, Tx};
use crate::delivery::journal::skipped;
use crate::delivery::messages::{self, Message};
use crate::delivery::sql;
use crate::delivery::state::{Outcome, State};

/// How often new messages are looked for; a message accepted by this process is seen at once.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it rests when the database fails.
const REST: Duration = Duration::from_millis(500);
/// Most messages claimed at a time: few, so that several nodes share a burst.
const CLAIM_BATCH: i64 = 100;
/// Messages waiting for a session, for each session.
const QUEUE_PER_SESSION: usize = 8;

/// The same for those that let others go first: what somebody waits for never stands behind more than these.
const PATIENT_PER_SESSION: usize = 2;

/// Feeds the lane until the engine ends.
pub(super) async fn feed(shared: Arc<Shared>) {
    let mut said = false;
    while !shared.is_over() {
        let rest = match round(&shared).await {
            Ok(true) => continue,
            Ok(false) => LOOK_EVERY,
            Err(error) => {
                if !said {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no messages can be claimed for now");
                }
                shared.strays.store(true, Ordering::Release);
                REST
            }
        };
        said = rest == REST;
        tokio::select! {
            () = shared.message_wake.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Claims what is due; answers whether there may be more at once.
async fn round(shared: &Arc<Shared>) -> Result<bool, DbError> {
    let now = shared.sender.clock.now();
    for lane in shared.messages.iter().filter(|lane| lane.is_down()) {
        let left = lane.pool.remove(|_| true);
        shared.give_back(left).await;
    }
    shared.messages.iter().for_each(|lane| lane.staff(shared, 0));
    let _claiming = shared.claiming.read().await;
    if shared.strays.load(Ordering::Acquire) {
        return Ok(false);
    }
    let db = &mut shared.sender.db.clone();
    let urgent = sql::messages_due(db, false, CLAIM_BATCH, now).await?;
    let patient = if urgent < CLAIM_BATCH { sql::messages_due(db, true, CLAIM_BATCH, now).await? } else { 0 };
    let due = urgent + patient;
    if due == 0 {
        return Ok(false);
    }
    let lanes = usable(shared, due as usize);
    let room = |each: usize| -> i64 { lanes.iter().map(|lane| (lane.most * each).saturating_sub(lane.pool.load().0) as i64).sum() };
    let urgent = urgent.min(room(QUEUE_PER_SESSION));
    let wish = Wish { urgent, patient: patient.min(room(PATIENT_PER_SESSION) - urgent).max(0) };
    if wish.urgent + wish.patient == 0 {
        return Ok(false);
    }
    let Some((jobs, refused)) = claim(shared, &lanes, wish, now).await? else {
        shared.fence();
        return Ok(false);
    };
    let claimed = jobs.len() + refused.len();
    for (lane, job) in jobs {
        lane.pool.fill([job]);
    }
    record_refused(shared, refused).await;
    for lane in &lanes {
        lane.staff(shared, 0);
    }
    Ok(claimed > 0 && claimed as i64 >= due)
}

/// The relays that are open now: those that are not reserves, or the reserves while all others are
/// down.
fn usable(shared: &Arc<Shared>, demand: usize) -> Vec<Arc<Lane>> {
    for reserve in [false, true] {
        let tier = shared.messages.iter().filter(|lane| lane.relay.config.backup == reserve);
        let mut ready = Vec::new();
        let mut opening = false;
        for lane in tier {
            lane.staff(shared, demand);
            if lane.is_ready() {
                ready.push(lane.clone());
            } else {
                opening |= !lane.is_down();
            }
        }
        if !ready.is_empty() || opening {
            return ready;
        }
    }
    Vec::new()
}

/// The relay for a message: among those that serve its sender's domain the one furthest behind its
/// weight, or of all where none does.
fn choose(lanes: &[Arc<Lane>], message: &Message) -> Option<Arc<Lane>> {
    let domain = sender_domain(message);
    let serving: Vec<&Arc<Lane>> = lanes.iter().filter(|lane| lane.relay.config.serves(domain)).collect();
    let from = if serving.is_empty() { lanes.iter().collect() } else { serving };
    let chosen = from.into_iter().min_by(|a, b| a.given().total_cmp(&b.given())).cloned()?;
    chosen.give(1);
    Some(chosen)
}

/// How many messages there is room for.
#[derive(Clone, Copy)]
struct Wish {
    urgent: i64,
    patient: i64,
}

type Batch = (Vec<(Arc<Lane>, Job)>, Vec<Refused>);

/// One transaction: claims messages with their permits. `None` when this worker was declared dead.
async fn claim(shared: &Shared, lanes: &[Arc<Lane>], wish: Wish, now: Time) -> Result<Option<Batch>, DbError> {
    let sender = &shared.sender;
    let mut tx = sender.db.begin().await?;
    if !sql::holds_place(&mut tx, shared.worker).await? {
        tx.rollback().await?;
        return Ok(None);
    }
    let mut rows = sql::claim_messages(&mut tx, shared.worker, false, wish.urgent, now).await?;
    rows.extend(sql::claim_messages(&mut tx, shared.worker, true, wish.patient, now).await?);
    if rows.is_empty() {
        tx.rollback().await?;
        return Ok(Some((Vec::new(), Vec::new())));
    }
    let ids: Vec<i64> = rows.iter().map(|(_, message_id, _)| *message_id).collect();
    let mut found = messages::load(&mut tx, &ids).await?;
    let people: Vec<i64> = rows.iter().map(|(row, _, _)| row.contact_id).collect();
    let contacts: HashMap<i64, Contact> =
        crate::contact::sql::by_ids(&mut tx, &sender.schema, &people).await?.into_iter().map(|contact| (contact.id, contact)).collect();
    let permits = take_permits(&mut tx, &found).await?;
    let mut chosen: HashMap<i64, Arc<Lane>> = HashMap::new();
    let mut counts: BTreeMap<(String, Arc<str>), u64> = BTreeMap::new();
    for (_, message_id, provider) in &rows {
        if let Some(lane) = found.get(message_id).and_then(|message| choose(lanes, message)) {
            *counts.entry((lane.relay.name.clone(), provider.as_str().into())).or_default() += 1;
            chosen.insert(*message_id, lane);
        }
    }
    shared.governor.count_messages(&mut tx, sender, &counts, now).await?;
    tx.commit().await?;
    crate::fault::point("claimed");
    let mut jobs = Vec::with_capacity(rows.len());
    let mut refused = Vec::new();
    for (row, message_id, provider) in rows {
        let ticket = Ticket::new(&shared.message_progress);
        let provider: Arc<str> = provider.into();
        let no = |reason: &str, detail: Option<String>| skipped(row.id, row.attempt, reason, detail, now);
        let lane = chosen.remove(&message_id);
        let outcome = match (found.remove(&message_id).zip(lane), permits.get(&message_id), contacts.get(&row.contact_id)) {
            (Some((message, _)), _, _) if message.expires_at <= now => {
                Outcome { state: State::Failed, ..no("expired", Some(format!("not sent before {}", message.expires_at))) }
            }
            (Some((message, lane)), Some(Ok(permit)), Some(contact)) => {
                let job = Job {
                    id: row.id,
                    attempt: row.attempt,
                    provider,
                    permit: permit.clone(),
                    contact: contact.clone(),
                    what: What::Message(Arc::new(message)),
                    relay: lane.relay.clone(),
                    claimed_at: now,
                    ticket,
                    slot: None,
                };
                jobs.push((lane, job));
                continue;
            }
            (Some(_), Some(Err(refusal)), _) => no(refusal.code(), Some(refusal.to_string())),
            (Some(_), _, _) => no("erased", None),
            (None, _, _) => no("no_message", Some("the row of this message is gone".to_owned())),
        };
        refused.push(Refused { provider, outcome, ticket });
    }
    Ok(Some((jobs, refused)))
}

/// The permits of messages, by message: each as its kind needs it.
async fn take_permits(tx: &mut Tx, found: &HashMap<i64, Message>) -> Result<HashMap<i64, Result<Arc<Permit>, Refusal>>, DbError> {
    let mut out = HashMap::with_capacity(found.len());
    let mut groups: BTreeMap<Option<i64>, Vec<&Message>> = BTreeMap::new();
    for message in found.values() {
        if message.kind.asks() {
            let permit = Permit::take_for_question(tx, message.id, message.contact_id).await?;
            out.insert(message.id, permit.map(Arc::new));
        } else {
            groups.entry(message.topic_id.filter(|_| message.kind.is_subscribed())).or_default().push(message);
        }
    }
    for (topic_id, messages) in groups {
        let people: Vec<i64> = messages.iter().map(|message| message.contact_id).collect();
        let taken = match topic_id {
            Some(topic_id) => Permit::take(tx, topic_id, &people).await?,
            None => Permit::take_for_messages(tx, &people).await?,
        };
        let taken: HashMap<i64, Result<Arc<Permit>, Refusal>> =
            taken.into_iter().map(|(contact_id, permit)| (contact_id, permit.map(Arc::new))).collect();
        out.extend(messages.iter().filter_map(|message| Some((message.id, taken.get(&message.contact_id)?.clone()))));
    }
    Ok(out)
}
