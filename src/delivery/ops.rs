//! Use cases: writing deliveries, workers and their leases, recovery after a crash, settling what
//! is in doubt.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::engine::Status;
use super::sql;
use super::state::{Entry, Outcome, State, read_entries};
use crate::clock::Time;
use crate::config::InDoubt;
use crate::db::{Connection, Db, DbError, Tx};
use crate::entropy::Entropy;

pub use super::collected::{Collected, collected};
pub use super::counts::{counts, store as store_counts, to_store as counts_to_store, tracked_less};
pub use super::sql::{about, counts_by_provider, in_state, of_contact};

/// Writes deliveries for these contacts, each with its mailbox provider, due at `due_at`. A contact
/// that has one in this run keeps it. Answers how many are new.
pub async fn enqueue(
    tx: &mut Tx,
    run_id: i64,
    contacts: &[(i64, Arc<str>)],
    due_at: Time,
    entropy: &Entropy,
    now: Time,
) -> Result<u64, DbError> {
    let ids = entropy.ids(now, contacts.len());
    let rows: Vec<(i64, i64, Arc<str>)> =
        ids.zip(contacts).map(|(id, (contact_id, provider))| (id, *contact_id, provider.clone())).collect();
    super::counts::open(tx, run_id).await?;
    sql::enqueue(tx, run_id, &rows, due_at, now).await
}

/// Enters a worker. `name` says which process on which machine it is (see [`process_name`]).
pub async fn register(db: &Db, name: &str, lease_ms: i64, entropy: &Entropy, now: Time) -> Result<i64, DbError> {
    let id = entropy.id(now);
    let mut tx = db.begin().await?;
    sql::insert_worker(&mut tx, id, name, now, now.plus(lease_ms)).await?;
    tx.commit().await?;
    Ok(id)
}

/// Prolongs a worker's lease and says what it does now; false when it was declared dead.
pub async fn renew(db: &Db, worker: i64, lease_ms: i64, status: Option<&str>, now: Time) -> Result<bool, DbError> {
    let mut tx = db.begin().await?;
    let alive = sql::renew(&mut tx, worker, now.plus(lease_ms)).await?;
    if let Some(status) = status {
        sql::set_status(&mut tx, worker, status).await?;
    }
    tx.commit().await?;
    Ok(alive)
}

/// What the living workers say of themselves, those that can be read.
pub async fn statuses(db: &mut impl Connection, now: Time) -> Result<Vec<(i64, Status)>, DbError> {
    let found = sql::statuses(db, now).await?;
    Ok(found.into_iter().filter_map(|(id, text)| Some((id, serde_json::from_str(&text).ok()?))).collect())
}

/// A worker goes: its claims are returned, its journal is settled.
pub async fn retire(db: &Db, worker: i64, in_doubt: InDoubt, now: Time) -> Result<Recovered, DbError> {
    let mut tx = db.begin().await?;
    sql::remove_worker(&mut tx, worker, None).await?;
    let recovered = settle(&mut tx, worker, in_doubt, now).await?;
    tx.commit().await?;
    Ok(recovered)
}

/// Like [`retire`], if the worker's lease is still over: one that was only slow may have renewed it
/// since we looked, and would send on in good faith what we found in doubt.
async fn expire(db: &Db, worker: i64, in_doubt: InDoubt, now: Time) -> Result<Option<Recovered>, DbError> {
    let mut tx = db.begin().await?;
    if !sql::remove_worker(&mut tx, worker, Some(now)).await? {
        tx.rollback().await?;
        return Ok(None);
    }
    let recovered = settle(&mut tx, worker, in_doubt, now).await?;
    tx.commit().await?;
    Ok(Some(recovered))
}

/// What a recovery found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Outcomes that were in the journal only.
    pub settled: u64,
    /// Mails whose reply was pending.
    pub in_doubt: u64,
    /// Claims that were given back.
    pub returned: u64,
}

/// Finds workers that are gone (lease over, or their process on this machine no longer there) and
/// settles what they left. `here` is this machine's part of a worker's name; `alive` tells whether
/// a process of that name still runs.
pub async fn recover(db: &Db, in_doubt: InDoubt, alive: &(dyn Fn(&str) -> Option<bool> + Sync), now: Time) -> Result<Recovered, DbError> {
    let mut total = Recovered::default();
    let mut gone: Vec<(i64, bool)> = sql::orphans(&mut db.clone()).await?.into_iter().map(|id| (id, true)).collect();
    for (id, name, lease_until) in sql::workers(&mut db.clone()).await? {
        let is_dead = alive(&name) == Some(false);
        if is_dead || lease_until < now {
            gone.push((id, is_dead));
        }
    }
    for (worker, is_dead) in gone {
        let found = if is_dead { Some(retire(db, worker, in_doubt, now).await?) } else { expire(db, worker, in_doubt, now).await? };
        let Some(found) = found else { continue };
        tracing::info!(
            worker,
            settled = found.settled,
            in_doubt = found.in_doubt,
            returned = found.returned,
            "settled what a stopped worker left"
        );
        total.settled += found.settled;
        total.in_doubt += found.in_doubt;
        total.returned += found.returned;
    }
    Ok(total)
}

/// Reads a dead worker's journal: outcomes are written; a handover of the current attempt without an
/// outcome is in doubt; every other claim was never handed over and is due again.
async fn settle(tx: &mut Tx, worker: i64, in_doubt: InDoubt, now: Time) -> Result<Recovered, DbError> {
    let claimed = sql::claimed_by(tx, worker).await?;
    let mut outcomes: HashMap<i64, Outcome> = HashMap::new();
    let mut handed: HashSet<i64> = HashSet::new();
    // Entries of earlier attempts may still stand in the journal; only the current one counts.
    for entry in sql::journal_of(tx, worker).await?.iter().flat_map(|entries| read_entries(entries)) {
        match entry {
            Entry::HandedOver { delivery_id, attempt } if claimed.get(&delivery_id) == Some(&attempt) => {
                handed.insert(delivery_id);
            }
            Entry::Outcome(outcome) if claimed.get(&outcome.delivery_id) == Some(&outcome.attempt) => {
                outcomes.insert(outcome.delivery_id, outcome);
            }
            Entry::TakenBack { delivery_id, attempt } if claimed.get(&delivery_id) == Some(&attempt) => {
                handed.remove(&delivery_id);
            }
            Entry::HandedOver { .. } | Entry::TakenBack { .. } | Entry::Outcome(_) => {}
        }
    }
    let doubtful: Vec<Outcome> = handed
        .iter()
        .filter(|id| !outcomes.contains_key(id))
        .map(|id| doubtful(*id, claimed[id], in_doubt, "the engine stopped while the relay's reply was pending", now))
        .collect();
    let outcomes: Vec<Outcome> = outcomes.into_values().collect();
    let settled = sql::apply_outcomes(tx, worker, &outcomes).await?;
    let in_doubt_count = sql::apply_outcomes(tx, worker, &doubtful).await?;
    let returned = sql::return_claims(tx, worker, None, now).await?;
    sql::drop_journal(tx, worker, i64::MAX).await?;
    Ok(Recovered { settled, in_doubt: in_doubt_count, returned })
}

/// A delivery whose reply was lost, as the setting wants it.
pub fn doubtful(delivery_id: i64, attempt: i64, in_doubt: InDoubt, what: &str, now: Time) -> Outcome {
    let (state, reason) = match in_doubt {
        InDoubt::Hold => (State::InDoubt, "reply_lost"),
        InDoubt::Resend => (State::Deferred, "resend"),
    };
    Outcome { delivery_id, attempt, state, due_at: now, reason: Some(reason.to_owned()), reply: Some(what.to_owned()), at: now }
}

/// Settles a run's doubtful deliveries: sends them again (same Message-ID), or takes them as sent.
/// Answers how many there were.
pub async fn release_doubtful(tx: &mut Tx, run_id: i64, resend: bool, now: Time) -> Result<u64, DbError> {
    sql::settle_doubtful(tx, run_id, if resend { State::Due } else { State::Sent }, now).await
}

/// Whether a run has nothing left to do.
pub async fn is_finished(db: &mut impl Connection, run_id: i64) -> Result<bool, DbError> {
    Ok(!sql::any_open(db, run_id).await?)
}

/// Whether a worker holds deliveries of a run.
pub async fn any_claimed(db: &mut impl Connection, run_id: i64) -> Result<bool, DbError> {
    sql::any_claimed(db, run_id).await
}

/// When the next delivery of a run is due.
pub async fn next_due(db: &mut impl Connection, run_id: i64) -> Result<Option<Time>, DbError> {
    sql::next_due(db, run_id).await
}

/// Contacts of the next few deliveries, for a look before the first mail.
pub async fn sample_contacts(db: &mut impl Connection, run_id: i64, limit: i64) -> Result<Vec<i64>, DbError> {
    sql::sample_contacts(db, run_id, limit).await
}
