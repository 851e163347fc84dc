//! `handed over` before the final dot, the outcome soon after: one row a group commit.
//!
//! Sessions ask here before they send the body of a message. The task below gathers whatever all
//! sessions asked since the last commit, looks at their permits once more, and writes one row. A
//! session's previous outcome travels with its next question, so a session never has more than one
//! message whose outcome is not durable: after a crash, at most the open sessions are in doubt.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::engine::LeaseClock;
use super::sql;
use super::state::{Entry, Outcome, State, write_entries};
use crate::clock::{Clock, Time};
use crate::config::InDoubt;
use crate::consent::{Permit, Refusal};
use crate::db::{Db, DbError, Dialect};
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
    /// Outcomes that are durable in the journal but not yet in `delivery`.
    unfolded: Arc<AtomicUsize>,
}

impl Journal {
    /// Starts the task for `worker`. It ends when all handles are dropped, after a last fold.
    pub fn start(db: Db, clock: Clock, entropy: Entropy, worker: i64, lease: Arc<LeaseClock>) -> (Journal, tokio::task::JoinHandle<()>) {
        let (asks, inbox) = mpsc::channel(GROUP_ENTRIES);
        let writer = Arc::new(Writer { db, clock, entropy, worker, lease, fenced: AtomicBool::new(false) });
        let unfolded = Arc::new(AtomicUsize::new(0));
        let task = Task {
            writer,
            unfolded: unfolded.clone(),
            rows: BTreeMap::new(),
            waiting: Vec::new(),
            open: HashMap::new(),
            pending: Vec::new(),
            commits: JoinSet::new(),
            committing: BTreeMap::new(),
            folding: JoinSet::new(),
            fold_at: Instant::now() + FOLD_EVERY,
        };
        (Journal { asks, unfolded }, tokio::spawn(task.run(inbox)))
    }

    /// Outcomes that are durable in the journal but not yet in `delivery`: their deliveries still look
    /// claimed. While there are many, nothing more should be claimed.
    pub fn unfolded(&self) -> usize {
        self.unfolded.load(Ordering::Relaxed)
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

/// Group commits under way at a time. SQLite has one writer. PostgreSQL makes commits that come
/// together durable with one flush, so while one waits for the disk the next is already on its way.
fn commits_at_a_time(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Sqlite => 1,
        Dialect::Postgres => 3,
    }
}

struct Task {
    writer: Arc<Writer>,
    unfolded: Arc<AtomicUsize>,
    /// Journal rows not yet dropped, with the deliveries handed over in them.
    rows: BTreeMap<i64, Vec<i64>>,
    /// Outcomes that are durable in the journal but not yet in `delivery`.
    waiting: Vec<Outcome>,
    /// Handed over, outcome unknown: delivery, and the journal row that says so with the attempt.
    open: HashMap<i64, (i64, i64)>,
    /// What sessions asked since the last commit began.
    pending: Vec<Request>,
    /// Commits under way: the least id that each may give its row.
    commits: JoinSet<Committed>,
    committing: BTreeMap<tokio::task::Id, i64>,
    folding: JoinSet<Folded>,
    fold_at: Instant,
}

/// A group that is durable, or never will be.
struct Committed {
    group: Vec<Request>,
    written: Option<Written>,
}

struct Written {
    row: i64,
    entries: Vec<Entry>,
    refused: Vec<i64>,
}

/// Outcomes on their way from the journal to `delivery`.
struct Folded {
    outcomes: Vec<Outcome>,
    up_to: Option<i64>,
    done: bool,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        let mut closed = false;
        let mut asked: Option<(Option<InDoubt>, oneshot::Sender<bool>)> = None;
        let at_a_time = commits_at_a_time(self.writer.db.dialect());
        loop {
            while !self.pending.is_empty() && self.commits.len() < at_a_time {
                self.start_commit();
            }
            let quiet = self.pending.is_empty() && self.commits.is_empty() && self.folding.is_empty();
            if quiet && let Some((strays, answer)) = asked.take() {
                let done = self.fold_all(strays).await;
                // Nobody waits any more: then nobody needs to know.
                let _ = answer.send(done);
                continue;
            }
            if quiet && closed {
                break;
            }
            let due = self.waiting.len() >= FOLD_OUTCOMES || Instant::now() >= self.fold_at;
            if due && asked.is_none() && self.folding.is_empty() && !self.waiting.is_empty() {
                self.start_fold();
            }
            tokio::select! {
                ask = inbox.recv(), if !closed && asked.is_none() && self.pending.len() < GROUP_ENTRIES => match ask {
                    Some(Ask::Commit(request)) => {
                        self.pending.push(request);
                        asked = self.gather(&mut inbox);
                    }
                    Some(Ask::Fold { strays, answer }) => asked = Some((strays, answer)),
                    None => closed = true,
                },
                Some(done) = self.commits.join_next_with_id() => self.committed(done),
                Some(done) = self.folding.join_next() => drop(self.folded(done)),
                () = tokio::time::sleep_until(self.fold_at), if self.folding.is_empty() && !self.waiting.is_empty() => {}
            }
        }
        self.fold_all(None).await;
    }

    /// Takes what else is there; stops at a question that wants everything before it done.
    fn gather(&mut self, inbox: &mut mpsc::Receiver<Ask>) -> Option<(Option<InDoubt>, oneshot::Sender<bool>)> {
        while self.pending.len() < GROUP_ENTRIES {
            match inbox.try_recv().ok()? {
                Ask::Commit(request) => self.pending.push(request),
                Ask::Fold { strays, answer } => return Some((strays, answer)),
            }
        }
        None
    }

    fn start_commit(&mut self) {
        let group = std::mem::take(&mut self.pending);
        let writer = self.writer.clone();
        // Ids grow with time: whatever row this commit writes stands behind this one.
        let least = writer.entropy.id(writer.clock.now());
        let task = self.commits.spawn(async move {
            let written = writer.write(&group).await;
            Committed { group, written }
        });
        self.committing.insert(task.id(), least);
    }

    fn committed(&mut self, done: Result<(tokio::task::Id, Committed), tokio::task::JoinError>) {
        let committed = match done {
            Ok((id, committed)) => {
                self.committing.remove(&id);
                committed
            }
            Err(error) => {
                // Its sessions get no answer, and take that for a lost lease.
                self.committing.remove(&error.id());
                tracing::error!(%error, "a commit of the journal panicked");
                return;
            }
        };
        let refused = match committed.written {
            Some(Written { row, entries, refused }) => {
                self.note(row, entries);
                refused
            }
            None => {
                committed.group.into_iter().for_each(|request| drop(request.answer.send(Go::Fenced)));
                return;
            }
        };
        for request in committed.group {
            let lost = request.handover.as_ref().is_some_and(|(id, _, _)| refused.contains(id));
            drop(request.answer.send(if lost { Go::Refused } else { Go::Send }));
        }
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
                    self.unfolded.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.rows.insert(row, handed);
    }

    /// The last row that may be dropped: all before the first one that still has an open handover or
    /// is being written.
    fn settled_up_to(&self) -> Option<i64> {
        let least = self.committing.values().min().copied().unwrap_or(i64::MAX);
        let is_open = |id: &i64, row: i64| self.open.get(id).is_some_and(|(open_row, _)| *open_row == row);
        let settled = self.rows.iter().take_while(|(row, handed)| **row < least && handed.iter().all(|id| !is_open(id, **row)));
        settled.last().map(|(row, _)| *row)
    }

    fn start_fold(&mut self) {
        let outcomes = std::mem::take(&mut self.waiting);
        let up_to = self.settled_up_to();
        let writer = self.writer.clone();
        self.fold_at = Instant::now() + FOLD_EVERY;
        self.folding.spawn(async move {
            let done = writer.fold(&outcomes, up_to).await;
            Folded { outcomes, up_to, done }
        });
    }

    fn folded(&mut self, done: Result<Folded, tokio::task::JoinError>) -> bool {
        match done {
            Ok(Folded { outcomes, up_to, done: true }) => {
                // What was found in doubt at the end of a pass was never counted.
                let folded = outcomes.len().min(self.unfolded.load(Ordering::Relaxed));
                self.unfolded.fetch_sub(folded, Ordering::Relaxed);
                if let Some(up_to) = up_to {
                    self.rows = self.rows.split_off(&(up_to + 1));
                }
                true
            }
            Ok(Folded { mut outcomes, .. }) => {
                outcomes.append(&mut self.waiting);
                self.waiting = outcomes;
                false
            }
            Err(error) => {
                tracing::error!(%error, "folding the journal panicked; its outcomes are written when the worker retires");
                false
            }
        }
    }

    /// Everything durable goes into `delivery`; the caller has seen to it that nothing is under way.
    async fn fold_all(&mut self, strays: Option<InDoubt>) -> bool {
        let now = self.writer.clock.now();
        if let Some(in_doubt) = strays {
            // A session that ended without a word (a panic) left its reply unread.
            for (delivery_id, (_, attempt)) in std::mem::take(&mut self.open) {
                let what = "the session ended while the reply was pending";
                self.waiting.push(super::ops::doubtful(delivery_id, attempt, in_doubt, what, now));
            }
        }
        if !(self.waiting.is_empty() && self.rows.is_empty()) {
            self.start_fold();
            let done = match self.folding.join_next().await {
                Some(done) => self.folded(done),
                None => false,
            };
            if !done {
                return false;
            }
        }
        if strays.is_none() {
            return true;
        }
        match self.writer.return_strays(now).await {
            Ok(0) => true,
            Ok(returned) => {
                tracing::info!(returned, "gave back what an earlier claim had taken");
                true
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "claims cannot be given back yet");
                false
            }
        }
    }
}

/// What writes the journal of one worker.
struct Writer {
    db: Db,
    clock: Clock,
    entropy: Entropy,
    worker: i64,
    lease: Arc<LeaseClock>,
    fenced: AtomicBool,
}

impl Writer {
    /// Writes a group; keeps trying while the database is away (nobody sends meanwhile). `None` once
    /// this worker has lost its place.
    async fn write(&self, group: &[Request]) -> Option<Written> {
        loop {
            if self.fenced.load(Ordering::Acquire) {
                self.testify(group).await;
                return None;
            }
            match self.try_write(group).await {
                Ok(Some(written)) => {
                    if written.entries.iter().any(|entry| matches!(entry, Entry::Outcome(_))) {
                        crate::fault::point("outcome_committed");
                    }
                    return Some(written);
                }
                Ok(None) => {
                    tracing::error!(worker = self.worker, "another node declared this worker dead; it stops sending");
                    self.fenced.store(true, Ordering::Release);
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the delivery journal cannot be written; sending waits");
                    tokio::time::sleep(RETRY_EVERY).await;
                }
            }
        }
    }

    async fn try_write(&self, group: &[Request]) -> Result<Option<Written>, DbError> {
        let now = self.clock.now();
        // Most groups: our place is there, the lease is fresh, and nobody anywhere lost permission
        // since these permits were taken. One statement says and writes all of that.
        if !self.lease.is_stale()
            && let Some(epoch) =
                Permit::common_epoch(group.iter().filter_map(|request| request.handover.as_ref().map(|(_, _, permit)| &**permit)))
        {
            let entries = entries(group, std::iter::repeat(None), now);
            let row = self.entropy.id(now);
            if sql::journal_at_epoch(&self.db, row, self.worker, epoch, &write_entries(&entries), now).await? {
                return Ok(Some(Written { row, entries, refused: Vec::new() }));
            }
        }
        self.try_write_step_by_step(group, now).await
    }

    async fn try_write_step_by_step(&self, group: &[Request], now: Time) -> Result<Option<Written>, DbError> {
        let mark = self.lease.mark();
        let mut tx = self.db.begin().await?;
        // Whoever is told to go on must hold a lease that lasts; busy workers renew it here.
        let renewed = self.lease.is_stale();
        if renewed && !sql::renew(&mut tx, self.worker, now.plus(self.lease.length_ms())).await? {
            return Ok(None);
        }
        let permits: Vec<&Permit> =
            group.iter().filter_map(|request| request.handover.as_ref().map(|(_, _, permit)| permit.as_ref())).collect();
        let lost = if permits.is_empty() { Vec::new() } else { Permit::recheck(&mut tx, &permits).await? };
        let lost_of = |at: usize| lost.get(at).and_then(Option::as_ref).map(Refusal::code);
        let entries = entries(group, (0..permits.len()).map(lost_of), now);
        let handed_over = group.iter().filter_map(|request| request.handover.as_ref().map(|(id, _, _)| *id));
        let refused = handed_over.enumerate().filter(|(at, _)| lost_of(*at).is_some()).map(|(_, id)| id).collect();
        let row = self.entropy.id(now);
        if !sql::journal(&mut tx, row, self.worker, &write_entries(&entries), now).await? {
            return Ok(None);
        }
        tx.commit().await?;
        if renewed {
            self.lease.renewed(mark);
        }
        Ok(Some(Written { row, entries, refused }))
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
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "what became of the last mails cannot be told; they stay in doubt"
                );
            }
        }
    }

    /// Writes outcomes into `delivery` and drops journal rows; false when that is not possible now.
    async fn fold(&self, outcomes: &[Outcome], up_to: Option<i64>) -> bool {
        if self.fenced.load(Ordering::Acquire) {
            return false;
        }
        let written = async {
            let mut tx = self.db.begin().await?;
            sql::apply_outcomes(&mut tx, self.worker, outcomes).await?;
            if let Some(up_to) = up_to {
                sql::drop_journal(&mut tx, self.worker, up_to).await?;
            }
            tx.commit().await
        };
        match written.await {
            Ok(()) => {
                crate::fault::point("folded");
                true
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "outcomes cannot be recorded yet; they are kept in the journal");
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
}

/// What a group says: each outcome, and each handover or, with the reason from `lost`, why it is none.
fn entries(group: &[Request], lost: impl IntoIterator<Item = Option<&'static str>>, now: Time) -> Vec<Entry> {
    let mut lost = lost.into_iter();
    let mut entries = Vec::with_capacity(group.len() * 2);
    for request in group {
        entries.extend(request.outcomes.iter().cloned().map(Entry::Outcome));
        entries.extend(request.taken_back.map(|(delivery_id, attempt)| Entry::TakenBack { delivery_id, attempt }));
        if let Some((delivery_id, attempt, _)) = &request.handover {
            entries.push(match lost.next().flatten() {
                None => Entry::HandedOver { delivery_id: *delivery_id, attempt: *attempt },
                Some(reason) => Entry::Outcome(skipped(*delivery_id, *attempt, reason, None, now)),
            });
        }
    }
    entries
}

/// A delivery that is not sent.
pub fn skipped(delivery_id: i64, attempt: i64, reason: &str, detail: Option<String>, now: Time) -> Outcome {
    Outcome { delivery_id, attempt, state: State::Skipped, due_at: now, reason: Some(reason.to_owned()), reply: detail, at: now }
}
