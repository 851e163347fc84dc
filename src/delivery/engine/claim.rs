//! The transaction that claims: rows, limits and permits together.

use std::collections::HashMap;
use std::sync::Arc;

use super::feeder::Held;
use super::job::{Job, Progress, Ticket, What};
use super::lane::Lane;
use super::status::Wait;
use super::{RunContext, Shared};
use crate::clock::{SECOND, Time};
use crate::consent::{Permit, Tracking, grounds, tracking};
use crate::contact::Contact;
use crate::db::{DbError, Tx};
use crate::delivery::journal::{Go, skipped};
use crate::delivery::provider::OTHER;
use crate::delivery::sql::{self, ClaimedRow};
use crate::delivery::state::Outcome;

/// A limit that allows nothing is looked at again after this time at the latest: what another node
/// claimed may come back unsent.
const ASK_AT_LEAST_MS: i64 = SECOND;

/// Up to so many mails of one run and provider, for one relay.
pub(super) struct Wish {
    pub(super) context: Arc<RunContext>,
    pub(super) progress: Arc<Progress>,
    pub(super) provider: Arc<str>,
    pub(super) lane: Arc<Lane>,
    pub(super) want: usize,
    /// Mails of this provider in the relay's sessions at a time.
    pub(super) most: usize,
}

impl Wish {
    pub(super) fn run_id(&self) -> i64 {
        self.context.run.id
    }
}

/// How a wish fared.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Got {
    /// So many rows were claimed, those without a permit included.
    pub(super) claimed: usize,
    /// Fewer rows were due than wished for and allowed.
    pub(super) dry: bool,
    /// A limit allowed less than was wished for.
    pub(super) held: Option<Held>,
}

/// What a claim brought.
pub(super) struct Claimed {
    /// For each wish.
    pub(super) got: Vec<Got>,
    /// Mails for each wish.
    pub(super) jobs: Vec<Vec<Job>>,
    /// Those without a permit.
    pub(super) refused: Vec<Refused>,
}

/// A claimed delivery that must not be sent.
pub(super) struct Refused {
    pub(super) provider: Arc<str>,
    pub(super) outcome: Outcome,
    pub(super) ticket: Ticket,
}

/// One transaction: claims due deliveries as far as limits allow, and takes their permits. `None` when
/// this worker was declared dead: nobody would ever return what it claimed.
pub(super) async fn claim(shared: &Shared, wishes: &[Wish], now: Time) -> Result<Option<Claimed>, DbError> {
    let sender = &shared.sender;
    let mut tx = sender.db.begin().await?;
    if !sql::holds_place(&mut tx, shared.worker).await? {
        tx.rollback().await?;
        return Ok(None);
    }
    let mut limits = shared.governor.open(&mut tx, sender, wishes, now).await?;
    let mut got = vec![Got::default(); wishes.len()];
    let mut rows: Vec<Vec<ClaimedRow>> = Vec::with_capacity(wishes.len());
    for (at, (wish, got)) in wishes.iter().zip(&mut got).enumerate() {
        let allowed = limits.allowed(at, wish, now);
        let mut claimed = Vec::new();
        if allowed > 0 {
            claimed = sql::claim(&mut tx, wish.run_id(), shared.worker, &wish.provider, allowed as i64, now).await?;
            got.claimed = claimed.len();
            got.dry = claimed.len() < allowed;
            limits.take(at, wish, claimed.len(), now);
        }
        if allowed < wish.want && !got.dry {
            let waits = limits.waits(at, wish, now);
            // A rate lets the next ones go in a moment.
            let until = waits.iter().filter_map(|wait| wait.until).max().map(Time::from_millis);
            got.held = Some(Held { ask_at: limits.next_at(at, wish, now).min(now.plus(ASK_AT_LEAST_MS)), until });
            for wait in waits {
                shared.note_wait(wish.run_id(), wait, now);
            }
        }
        rows.push(claimed);
    }
    let mut claimed = Claimed { got, jobs: Vec::with_capacity(wishes.len()), refused: Vec::new() };
    if rows.iter().all(Vec::is_empty) {
        tx.rollback().await?;
        claimed.jobs.resize_with(wishes.len(), Vec::new);
        return Ok(Some(claimed));
    }
    let all: Vec<i64> = rows.iter().flatten().map(|row| row.contact_id).collect();
    let mut contacts: HashMap<i64, Contact> = HashMap::with_capacity(all.len());
    for contact in crate::contact::sql::by_ids(&mut tx, &sender.schema, &all).await? {
        contacts.insert(contact.id, contact);
    }
    for (at, (wish, rows)) in wishes.iter().zip(&mut rows).enumerate() {
        let claimed = rows.len();
        let patient = postpone(shared, &mut tx, wish, rows, &contacts, now).await?;
        limits.give_back(at, wish, claimed - rows.len(), now);
        for wait in patient {
            shared.note_wait(wish.run_id(), wait, now);
        }
    }
    limits.store(&mut tx).await?;
    let mut permits = HashMap::new();
    for (wish, rows) in wishes.iter().zip(&rows).filter(|(_, rows)| !rows.is_empty()) {
        let topic_id = wish.context.run.topic_id;
        let people: Vec<i64> = rows.iter().map(|row| row.contact_id).collect();
        let taken = Permit::take(&mut tx, topic_id, &people).await?;
        permits.extend(taken.into_iter().map(|(contact_id, permit)| ((wish.run_id(), contact_id), permit)));
    }
    // Why each of them gets the mail, as the mail will say.
    let mut reasons = HashMap::new();
    for (wish, rows) in wishes.iter().zip(&rows).filter(|(_, rows)| !rows.is_empty()) {
        let people: Vec<i64> = rows.iter().map(|row| row.contact_id).collect();
        let found = grounds(&mut tx, wish.context.run.topic_id, &people).await?;
        reasons.extend(found.into_iter().map(|(contact_id, grounds)| ((wish.run_id(), contact_id), grounds)));
    }
    let people: Vec<i64> = rows.iter().flatten().map(|row| row.contact_id).collect();
    let chosen = tracking::choices(&mut tx, &people).await?;
    let tracked = |contact: &Contact| sender.tracking.of(chosen.get(&contact.id).copied(), contact).0;
    let mut noted = Vec::new();
    for (_, rows) in wishes.iter().zip(&rows).filter(|(wish, _)| wish.context.definition.tracks()) {
        let of_rows = rows.iter().filter_map(|row| Some((row, tracked(contacts.get(&row.contact_id)?))));
        // Whoever is tracked in full needs no note, unless an earlier attempt left one.
        let differ = of_rows.filter(|(row, tracking)| *tracking != Tracking::Full || row.attempt > 1);
        noted.extend(differ.map(|(row, tracking)| (row.id, tracking)));
    }
    sql::note_tracking(&mut tx, &noted).await?;
    tx.commit().await?;
    crate::fault::point("claimed");
    for (wish, rows) in wishes.iter().zip(rows) {
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            let ticket = Ticket::new(&wish.progress);
            // Two runs may mail one person in the same claim.
            let contact = contacts.get(&row.contact_id).cloned();
            match (permits.remove(&(wish.run_id(), row.contact_id)), contact) {
                (Some(Ok(permit)), Some(contact)) => jobs.push(Job {
                    id: row.id,
                    attempt: row.attempt,
                    provider: wish.provider.clone(),
                    permit: Arc::new(permit),
                    grounds: reasons.remove(&(wish.run_id(), row.contact_id)),
                    tracking: tracked(&contact),
                    contact,
                    what: What::Campaign(wish.context.clone()),
                    relay: wish.lane.relay.clone(),
                    claimed_at: now,
                    ticket,
                    slot: None,
                }),
                (Some(Err(refusal)), _) => {
                    let outcome = skipped(row.id, row.attempt, refusal.code(), Some(refusal.to_string()), now);
                    claimed.refused.push(Refused { provider: wish.provider.clone(), outcome, ticket });
                }
                (Some(Ok(_)) | None, _) => {
                    let outcome = skipped(row.id, row.attempt, "erased", None, now);
                    claimed.refused.push(Refused { provider: wish.provider.clone(), outcome, ticket });
                }
            }
        }
        claimed.jobs.push(jobs);
    }
    Ok(Some(claimed))
}

/// Takes those out of `rows` whose domain asked for patience, and puts them off until it may be asked
/// again. Only among mails whose provider nobody knows: others wait as a group.
async fn postpone(
    shared: &Shared,
    tx: &mut Tx,
    wish: &Wish,
    rows: &mut Vec<ClaimedRow>,
    contacts: &HashMap<i64, Contact>,
    now: Time,
) -> Result<Vec<Wait>, DbError> {
    let relay = &wish.lane.relay.name;
    if &*wish.provider != OTHER || !shared.governor.slows_domains(relay) {
        return Ok(Vec::new());
    }
    let mut waits = Vec::new();
    let mut later = Vec::new();
    rows.retain(|row| {
        let held = contacts.get(&row.contact_id).and_then(|contact| shared.governor.not_before(relay, &contact.email, now));
        let Some((until, wait)) = held else { return true };
        later.push((row.id, until));
        waits.push(wait);
        false
    });
    sql::postpone(tx, shared.worker, &later, now).await?;
    Ok(waits)
}

/// Makes it durable that these are not sent.
pub(super) async fn record_refused(shared: &Shared, refused: Vec<Refused>) {
    if refused.is_empty() {
        return;
    }
    let mut tickets = Vec::with_capacity(refused.len());
    let mut outcomes = Vec::with_capacity(refused.len());
    for Refused { provider, outcome, ticket } in refused {
        ticket.progress().count(&provider, &outcome);
        outcomes.push(outcome);
        tickets.push(ticket);
    }
    if shared.journal.record_all(outcomes).await == Go::Fenced {
        shared.fence();
    }
    drop(tickets);
}
