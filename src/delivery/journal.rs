//! `handed over` before the final dot, the outcome soon after: one row a group commit.
//!
//! Sessions ask here before they send the body of a message. The task below gathers whatever all
//! sessions asked since the last commit, looks at their permits once more, and writes one row. A
//! session's previous outcome travels with its next question, so a session never has more than one
//! message whose outcome is not durable: after a crash, at most the open sessions are in doubt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::engine::LeaseClock;
use super::sql;
use super::state::{Entry, Outcome, State, write_entries};
use crate::clock::{Clock, Time};
use crate::config::InDoubt;
use crate::consent::Permit;
use crate::db::{Db, DbError};
use crate::entropy::Entropy;

/// Most entries of one group commit.
const GROUP_ENTRIES: usize = 2_000;
/// The journal is folded into `delivery` when so many outcomes wait, or after this time.
const FOLD_OUTCOMES: usize = 2_000;
const FOLD_EVERY: Duration = Duration::from_millis(400);
/// How long a failing database is given before the worker stops: it heals by itself or not at all.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// The answer to "may I send the final dot?".
#[derive(Debug, PartialEq, Eq)]
pub enum Go {
    /// Durable: send it.
    Send,
    /// Permission was lost since the claim; the delivery is recorded as skipped.
    Refused,
    /// This worker was declared dead: send nothing more.
    Fenced,
}

struct Request {
    outcomes: Vec<Outcome>,
    handover: Option<(i64, i64, Arc<Permit>)>,
    taken_back: Option<(i64, i64)>,
    answer: oneshot::Sender<Go>,
}

enum Ask {
    Commit(Request),
    /// Write all outcomes so far into `delivery`; with the setting, also settle claims that no
    /// session holds any more. Answers whether it is done.
    Fold {
        strays: Option<InDoubt>,
        answer: oneshot::Sender<bool>,
    },
}

/// Handle of the journal task; one a worker, cloned for its sessions.
#[derive(Clone)]
pub struct Journal {
    asks: mpsc::Sender<Ask>,
}

impl Journal {
    /// Starts the task for `worker`. It ends when all handles are dropped, after a last fold.
    pub fn start(db: Db, clock: Clock, entropy: Entropy, worker: i64, lease: Arc<LeaseClock>) -> (Journal, tokio::task::JoinHandle<()>) {
        let (asks, inbox) = mpsc::channel(GROUP_ENTRIES);
        let task = Task { db, clock, entropy, worker, lease, rows: Vec::new(), waiting: Vec::new(), open: HashMap::new(), fenced: false };
        (Journal { asks }, tokio::spawn(task.run(inbox)))
    }

    /// Makes the previous outcome and this handover durable, in one commit with other sessions'.
    pub async fn hand_over(&self, previous: Option<Outcome>, delivery_id: i64, attempt: i64, permit: Arc<Permit>) -> Go {
        self.ask(previous.into_iter().collect(), Some((delivery_id, attempt, permit))).await
    }

    /// Makes durable that of this handover nothing went out. Without it, a crash would find the mail
    /// in doubt also when it is only claimed again, and its journal row would stay.
    pub async fn take_back(&self, delivery_id: i64, attempt: i64) -> Go {
        self.send(Vec::new(), None, Some((delivery_id, attempt))).await
    }

    /// Makes an outcome durable.
    pub async fn record(&self, outcome: Outcome) -> Go {
        self.ask(vec![outcome], None).await
    }

    /// Makes outcomes durable, in one commit.
    pub async fn record_all(&self, outcomes: Vec<Outcome>) -> Go {
        self.ask(outcomes, None).await
    }

    async fn ask(&self, outcomes: Vec<Outcome>, handover: Option<(i64, i64, Arc<Permit>)>) -> Go {
        self.send(outcomes, handover, None).await
    }

    async fn send(&self, outcomes: Vec<Outcome>, handover: Option<(i64, i64, Arc<Permit>)>, taken_back: Option<(i64, i64)>) -> Go {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Commit(Request { outcomes, handover, taken_back, answer })).await.is_err() {
            return Go::Fenced;
        }
        answered.await.unwrap_or(Go::Fenced)
    }

    /// Writes all outcomes so far into `delivery`. False when that was not possible (database away,
    /// worker declared dead); they stay in the journal then.
    pub async fn fold(&self) -> bool {
        self.ask_fold(None).await
    }

    /// Like [`Journal::fold`], and settles what a pass that was cut short left claimed. Only while no
    /// session of this worker is open.
    pub async fn settle_strays(&self, in_doubt: InDoubt) -> bool {
        self.ask_fold(Some(in_doubt)).await
    }

    async fn ask_fold(&self, strays: Option<InDoubt>) -> bool {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Fold { strays, answer }).await.is_ok() && answered.await.unwrap_or(false)
    }
}

struct Task {
    db: Db,
    clock: Clock,
    entropy: Entropy,
    worker: i64,
    lease: Arc<LeaseClock>,
    /// Journal rows not yet dropped: id, and the deliveries handed over in them.
    rows: Vec<(i64, Vec<i64>)>,
    /// Outcomes that are durable in the journal but not yet in `delivery`.
    waiting: Vec<Outcome>,
    /// Handed over, outcome unknown: delivery, and the journal row that says so with the attempt.
    open: HashMap<i64, (i64, i64)>,
    fenced: bool,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        let mut fold_at = tokio::time::Instant::now() + FOLD_EVERY;
        loop {
            let first = tokio::select! {
                request = inbox.recv() => match request { Some(request) => Some(request), None => break },
                () = tokio::time::sleep_until(fold_at), if !self.waiting.is_empty() => None,
            };
            if let Some(first) = first {
                let mut group = Vec::new();
                let mut next = Some(first);
                let mut fold = None;
                while let Some(ask) = next {
                    match ask {
                        Ask::Commit(request) => group.push(request),
                        Ask::Fold { strays, answer } => {
                            fold = Some((strays, answer));
                            break;
                        }
                    }
                    next = if group.len() < GROUP_ENTRIES { inbox.try_recv().ok() } else { None };
                }
                if !group.is_empty() {
                    self.commit(group).await;
                }
                if let Some((strays, answer)) = fold {
                    let done = self.fold_all(strays).await;
                    // Nobody waits any more: then nobody needs to know.
                    let _ = answer.send(done);
                }
            }
            if self.waiting.len() >= FOLD_OUTCOMES || tokio::time::Instant::now() >= fold_at {
                self.fold().await;
                fold_at = tokio::time::Instant::now() + FOLD_EVERY;
            }
        }
        self.fold().await;
    }

    /// Writes a group; keeps trying while the database is away (nobody sends meanwhile).
    async fn commit(&mut self, group: Vec<Request>) {
        loop {
            if self.fenced {
                self.testify(&group).await;
                group.into_iter().for_each(|request| drop(request.answer.send(Go::Fenced)));
                return;
            }
            match self.try_commit(&group).await {
                Ok(Some((row, entries, refused))) => {
                    if entries.iter().any(|entry| matches!(entry, Entry::Outcome(_))) {
                        crate::fault::point("outcome_committed");
                    }
                    self.note(row, entries);
                    for request in group {
                        let lost = request.handover.as_ref().is_some_and(|(id, _, _)| refused.contains(id));
                        drop(request.answer.send(if lost { Go::Refused } else { Go::Send }));
                    }
                    return;
                }
                Ok(None) => {
                    tracing::error!(worker = self.worker, "another node declared this worker dead; it stops sending");
                    self.fenced = true;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the delivery journal cannot be written; sending waits");
                    tokio::time::sleep(RETRY_EVERY).await;
                }
            }
        }
    }

    /// Our place is gone, and whoever took it found these mails in doubt. We know what became of them.
    async fn testify(&self, group: &[Request]) {
        let known: Vec<Outcome> = group.iter().flat_map(|request| request.outcomes.iter().cloned()).collect();
        if known.is_empty() {
            return;
        }
        let written = async {
            let mut tx = self.db.begin().await?;
            let settled = sql::testify(&mut tx, &known).await?;
            tx.commit().await?;
            Ok::<u64, DbError>(settled)
        };
        match written.await {
            Ok(settled) => tracing::info!(worker = self.worker, settled, "told what became of mails that were in doubt"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "what became of the last mails cannot be told; they stay in doubt")
            }
        }
    }

    async fn try_commit(&self, group: &[Request]) -> Result<Option<(i64, Vec<Entry>, Vec<i64>)>, DbError> {
        let now = self.clock.now();
        let mark = self.lease.mark();
        let mut tx = self.db.begin().await?;
        // Whoever is told to go on must hold a lease that lasts; busy workers renew it here.
        let renewed = self.lease.is_stale();
        if renewed && !sql::renew(&mut tx, self.worker, now.plus(self.lease.length_ms())).await? {
            return Ok(None);
        }
        let permits: Vec<&Permit> =
            group.iter().filter_map(|request| request.handover.as_ref().map(|(_, _, permit)| permit.as_ref())).collect();
        let mut lost = if permits.is_empty() { Vec::new() } else { Permit::recheck(&mut tx, &permits).await? }.into_iter();
        let mut entries = Vec::with_capacity(group.len() * 2);
        let mut refused = Vec::new();
        for request in group {
            entries.extend(request.outcomes.iter().cloned().map(Entry::Outcome));
            entries.extend(request.taken_back.map(|(delivery_id, attempt)| Entry::TakenBack { delivery_id, attempt }));
            if let Some((delivery_id, attempt, _)) = &request.handover {
                match lost.next().flatten() {
                    None => entries.push(Entry::HandedOver { delivery_id: *delivery_id, attempt: *attempt }),
                    Some(refusal) => {
                        refused.push(*delivery_id);
                        entries.push(Entry::Outcome(skipped(*delivery_id, *attempt, refusal.code(), None, now)));
                    }
                }
            }
        }
        let row = self.entropy.id(now);
        if !sql::journal(&mut tx, row, self.worker, &write_entries(&entries), now).await? {
            return Ok(None);
        }
        tx.commit().await?;
        if renewed {
            self.lease.renewed(mark);
        }
        Ok(Some((row, entries, refused)))
    }

    fn note(&mut self, row: i64, entries: Vec<Entry>) {
        let mut handed = Vec::new();
        for entry in entries {
            match entry {
                Entry::HandedOver { delivery_id, attempt } => {
                    handed.push(delivery_id);
                    self.open.insert(delivery_id, (row, attempt));
                }
                Entry::TakenBack { delivery_id, .. } => drop(self.open.remove(&delivery_id)),
                Entry::Outcome(outcome) => {
                    self.open.remove(&outcome.delivery_id);
                    self.waiting.push(outcome);
                }
            }
        }
        self.rows.push((row, handed));
    }

    /// Writes the waiting outcomes into `delivery` and drops the journal rows that are settled: all
    /// rows before the first one that still has an open handover.
    async fn fold(&mut self) -> bool {
        if self.fenced {
            return false;
        }
        if self.waiting.is_empty() && self.rows.is_empty() {
            return true;
        }
        let is_open = |id: &i64, row: i64| self.open.get(id).is_some_and(|(open_row, _)| *open_row == row);
        let settled = self.rows.iter().take_while(|(row, handed)| handed.iter().all(|id| !is_open(id, *row))).count();
        let up_to = settled.checked_sub(1).map(|last| self.rows[last].0);
        match self.try_fold(up_to).await {
            Ok(()) => {
                crate::fault::point("folded");
                self.waiting.clear();
                self.rows.drain(..settled);
                true
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "outcomes cannot be recorded yet; they are kept in the journal");
                false
            }
        }
    }

    async fn fold_all(&mut self, strays: Option<InDoubt>) -> bool {
        let Some(in_doubt) = strays else { return self.fold().await };
        let now = self.clock.now();
        // A session that ended without a word (a panic) left its reply unread.
        for (delivery_id, (_, attempt)) in std::mem::take(&mut self.open) {
            self.waiting.push(super::ops::doubtful(delivery_id, attempt, in_doubt, "the session ended while the reply was pending", now));
        }
        if !self.fold().await {
            return false;
        }
        match self.return_strays(now).await {
            Ok(0) => true,
            Ok(returned) => {
                tracing::info!(returned, "gave back what an earlier pass had claimed");
                true
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "claims cannot be given back yet");
                false
            }
        }
    }

    async fn return_strays(&self, now: Time) -> Result<u64, DbError> {
        let mut tx = self.db.begin().await?;
        let returned = sql::return_claims(&mut tx, self.worker, None, now).await?;
        tx.commit().await?;
        Ok(returned)
    }

    async fn try_fold(&self, up_to: Option<i64>) -> Result<(), DbError> {
        let mut tx = self.db.begin().await?;
        sql::apply_outcomes(&mut tx, self.worker, &self.waiting).await?;
        if let Some(up_to) = up_to {
            sql::drop_journal(&mut tx, self.worker, up_to).await?;
        }
        tx.commit().await
    }
}

/// A delivery that is not sent.
pub fn skipped(delivery_id: i64, attempt: i64, reason: &str, detail: Option<String>, now: Time) -> Outcome {
    Outcome { delivery_id, attempt, state: State::Skipped, due_at: now, reason: Some(reason.to_owned()), reply: detail, at: now }
}
