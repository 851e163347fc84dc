//! Sending one run: claims become mails, mails become outcomes.
//!
//! A feeder claims small batches (each with its permits, in one transaction) into a short queue;
//! sessions take from it, render, and hand over. Nothing here holds a transaction over the network.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};

use super::journal::{Go, Journal, skipped};
use super::links::DeliveryLinks;
use super::message::Envelope;
use super::smtp::{Failure, Session, SmtpSettings, Stage};
use super::sql::ClaimedRow;
use super::state::{Outcome, State};
use super::{ops, sql};
use crate::campaign::{Definition, Run};
use crate::clock::{Clock, HOUR, SECOND, Time};
use crate::config::InDoubt;
use crate::consent::Permit;
use crate::contact::{Address, Contact, Schema};
use crate::content::{Prepared, Recipient};
use crate::db::{Db, DbError};
use crate::entropy::Entropy;
use crate::token::Keys;

/// Most deliveries claimed in one transaction: bounds what a crash returns and how long a claim
/// keeps a withdrawal waiting.
const CLAIM_BATCH: i64 = 500;
/// Claimed deliveries waiting for a session, for each session: enough that none ever waits for the
/// feeder, few enough that a pause is noticed at once.
const QUEUE_PER_SESSION: usize = 16;
/// A relay that cannot be reached is tried again after these waits, in milliseconds.
const RECONNECT_MS: [u64; 6] = [200, 500, 1_000, 2_000, 5_000, 15_000];
/// How often the feeder looks whether a session is open.
const WAIT_FOR_SESSION: Duration = Duration::from_millis(50);
/// Reasons as counted.
const REASON_RENDER: &str = "render_failed";
const REASON_EXPIRED: &str = "expired";

/// What a run needs to be sent.
pub struct RunContext {
    /// The run.
    pub run: Run,
    /// Its frozen campaign.
    pub definition: Definition,
    /// Its prepared content.
    pub content: Arc<Prepared>,
    /// Headers that do not depend on the person.
    pub envelope: Envelope,
}

/// What all runs share.
pub struct Sender {
    /// The database.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// Ids and jitter.
    pub entropy: Entropy,
    /// Signs links.
    pub keys: Keys,
    /// Declared attributes.
    pub schema: Schema,
    /// Public base address.
    pub site: String,
    /// The relay.
    pub relay: SmtpSettings,
    /// The name we greet with.
    pub hello: String,
    /// Sessions at a time.
    pub connections: usize,
    /// What happens to lost replies.
    pub in_doubt: InDoubt,
    /// Waits between tries, in seconds; the last one repeats.
    pub retry_seconds: Vec<u32>,
    /// Hours from a run's start after which a deferred mail is given up.
    pub retry_hours: u32,
}

/// Live numbers of a run, for progress bars and logs. The database has the truth.
#[derive(Debug, Default)]
pub struct Progress {
    /// Taken by the relay.
    pub sent: AtomicU64,
    /// Told "later".
    pub deferred: AtomicU64,
    /// Refused for good.
    pub bounced: AtomicU64,
    /// Failed, skipped or in doubt.
    pub other: AtomicU64,
    /// Sessions open now.
    pub sessions: AtomicU64,
    /// Whether the relay could not be reached at the last try.
    pub relay_down: AtomicBool,
    /// What the relay or the network last said when it could not be reached.
    pub relay_problem: std::sync::Mutex<Option<String>>,
}

impl Progress {
    fn count(&self, state: State) {
        let counter = match state {
            State::Sent => &self.sent,
            State::Deferred => &self.deferred,
            State::Bounced => &self.bounced,
            State::Due | State::Claimed | State::Failed | State::InDoubt | State::Skipped => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn set_problem(&self, problem: Option<String>) {
        self.relay_down.store(problem.is_some(), Ordering::Relaxed);
        *self.relay_problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = problem;
    }

    /// What the relay or the network last said, while the relay is out of reach.
    pub fn problem(&self) -> Option<String> {
        self.relay_problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// How a pass over a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassEnd {
    /// Nothing is due now.
    Idle,
    /// Asked to stop, paused or cancelled.
    Stopped,
    /// This worker lost its lease.
    Fenced,
}

/// A claimed delivery with everything a session needs.
struct Job {
    row: ClaimedRow,
    permit: Arc<Permit>,
    contact: Contact,
}

/// Sends whatever of the run is due until nothing is, or `stop` turns true.
pub async fn send_due(
    sender: &Arc<Sender>,
    context: &Arc<RunContext>,
    journal: &Journal,
    worker: i64,
    progress: &Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<PassEnd, DbError> {
    // No more sessions than mails: a retry of three does not greet the relay twenty times.
    let due = sql::due_up_to(&mut sender.db.clone(), context.run.id, sender.connections as i64, sender.clock.now()).await?;
    if due == 0 {
        return Ok(if *stop.borrow() { PassEnd::Stopped } else { PassEnd::Idle });
    }
    let (queue, jobs) = mpsc::channel::<Job>(sender.connections * QUEUE_PER_SESSION);
    let jobs = Arc::new(Mutex::new(jobs));
    let fenced = Arc::new(AtomicBool::new(false));
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..due {
        let worker = SessionWorker {
            sender: sender.clone(),
            context: context.clone(),
            journal: journal.clone(),
            progress: progress.clone(),
            jobs: jobs.clone(),
            stop: stop.clone(),
            fenced: fenced.clone(),
            worker,
            previous: None,
            again: None,
        };
        sessions.spawn(worker.run());
    }
    let fed = feed(sender, context, journal, worker, progress, &stop, &fenced, queue).await;
    if fed.is_err() {
        tracing::warn!(run = context.run.id, "no more mails can be claimed; those claimed are still sent");
    }
    while let Some(finished) = sessions.join_next().await {
        if let Err(error) = finished {
            tracing::error!(%error, "a session task panicked; its claim returns when the worker retires");
        }
    }
    // Whatever still waits in the queue was never handed over.
    let mut left = Vec::new();
    let mut jobs = jobs.lock().await;
    while let Ok(job) = jobs.try_recv() {
        left.push(job.row.id);
    }
    if !left.is_empty() {
        give_back(sender, worker, &left).await?;
    }
    fed?;
    if fenced.load(Ordering::Relaxed) {
        return Ok(PassEnd::Fenced);
    }
    Ok(if *stop.borrow() { PassEnd::Stopped } else { PassEnd::Idle })
}

/// Claims batches into the queue until nothing is due.
#[expect(clippy::too_many_arguments, reason = "the parts of one pass, named once")]
async fn feed(
    sender: &Sender,
    context: &RunContext,
    journal: &Journal,
    worker: i64,
    progress: &Progress,
    stop: &watch::Receiver<bool>,
    fenced: &AtomicBool,
    queue: mpsc::Sender<Job>,
) -> Result<(), DbError> {
    let mut stop = stop.clone();
    let batch = CLAIM_BATCH.min((sender.connections * QUEUE_PER_SESSION) as i64).max(20);
    loop {
        if *stop.borrow() || fenced.load(Ordering::Relaxed) {
            return Ok(());
        }
        // While no session is open nothing is consumed: the run waits, and says so.
        if progress.sessions.load(Ordering::Relaxed) == 0 {
            tokio::select! {
                () = tokio::time::sleep(WAIT_FOR_SESSION) => {}
                () = stopped(&mut stop) => {}
            }
            if queue.is_closed() {
                return Ok(());
            }
            if sql::next_due(&mut sender.db.clone(), context.run.id).await?.is_none_or(|due| due > sender.clock.now()) {
                return Ok(());
            }
            continue;
        }
        let Some(claimed) = claim(sender, context, worker, batch).await? else {
            fenced.store(true, Ordering::Relaxed);
            return Ok(());
        };
        if claimed.rows == 0 {
            return Ok(());
        }
        for outcome in claimed.refused {
            progress.count(outcome.state);
            if journal.record(outcome).await == Go::Fenced {
                fenced.store(true, Ordering::Relaxed);
            }
        }
        let mut jobs = claimed.jobs.into_iter();
        let mut unsent = Vec::new();
        for job in jobs.by_ref() {
            let id = job.row.id;
            tokio::select! {
                sent = queue.send(job) => if sent.is_ok() { continue },
                () = stopped(&mut stop) => {}
            }
            unsent.push(id);
            break;
        }
        if !unsent.is_empty() {
            unsent.extend(jobs.map(|job| job.row.id));
            return give_back(sender, worker, &unsent).await;
        }
    }
}

/// Returns claims of which nothing was handed over.
async fn give_back(sender: &Sender, worker: i64, ids: &[i64]) -> Result<(), DbError> {
    let mut tx = sender.db.begin().await?;
    sql::return_claims(&mut tx, worker, Some(ids), sender.clock.now()).await?;
    tx.commit().await
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the owner of the signal is gone: then nobody can ask us to stop.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Claimed {
    rows: usize,
    jobs: Vec<Job>,
    refused: Vec<Outcome>,
}

/// One transaction: claims due deliveries and takes their permits. `None` when this worker was
/// declared dead: nobody would ever return what it claimed.
async fn claim(sender: &Sender, context: &RunContext, worker: i64, batch: i64) -> Result<Option<Claimed>, DbError> {
    let now = sender.clock.now();
    let mut tx = sender.db.begin().await?;
    if !sql::holds_place(&mut tx, worker).await? {
        tx.rollback().await?;
        return Ok(None);
    }
    let rows = sql::claim(&mut tx, context.run.id, worker, batch, now).await?;
    if rows.is_empty() {
        tx.rollback().await?;
        return Ok(Some(Claimed { rows: 0, jobs: Vec::new(), refused: Vec::new() }));
    }
    let ids: Vec<i64> = rows.iter().map(|row| row.contact_id).collect();
    let mut permits = Permit::take(&mut tx, context.run.topic_id, &ids).await?;
    let mut contacts: HashMap<i64, Contact> =
        crate::contact::sql::by_ids(&mut tx, &sender.schema, &ids).await?.into_iter().map(|contact| (contact.id, contact)).collect();
    tx.commit().await?;
    let mut out = Claimed { rows: rows.len(), jobs: Vec::with_capacity(rows.len()), refused: Vec::new() };
    for row in rows {
        match (permits.remove(&row.contact_id), contacts.remove(&row.contact_id)) {
            (Some(Ok(permit)), Some(contact)) => out.jobs.push(Job { row, permit: Arc::new(permit), contact }),
            (Some(Err(refusal)), _) => {
                out.refused.push(skipped(row.id, row.attempt, refusal.code(), Some(refusal.to_string()), now));
            }
            (Some(Ok(_)) | None, _) => out.refused.push(skipped(row.id, row.attempt, "erased", None, now)),
        }
    }
    Ok(Some(out))
}

/// One session's life: connect, take jobs, hand over, record.
struct SessionWorker {
    sender: Arc<Sender>,
    context: Arc<RunContext>,
    journal: Journal,
    progress: Arc<Progress>,
    jobs: Arc<Mutex<mpsc::Receiver<Job>>>,
    stop: watch::Receiver<bool>,
    fenced: Arc<AtomicBool>,
    worker: i64,
    /// The outcome of the message before; it travels with the next handover.
    previous: Option<Outcome>,
    /// A job whose session the relay closed before the body: the next session takes it first.
    again: Option<Job>,
}

/// What one job did to the session.
enum After {
    Keep,
    Reconnect,
    Fenced,
}

impl SessionWorker {
    async fn run(mut self) {
        let mut tries = 0;
        loop {
            if *self.stop.borrow() || self.fenced.load(Ordering::Relaxed) || (self.again.is_none() && self.nothing_left().await) {
                break;
            }
            let opened = tokio::select! {
                opened = Session::open(&self.sender.relay, &self.sender.hello) => opened,
                () = stopped(&mut self.stop) => break,
            };
            match opened {
                Ok(session) => {
                    self.progress.set_problem(None);
                    self.progress.sessions.fetch_add(1, Ordering::Relaxed);
                    let (session, served) = self.serve(session).await;
                    self.progress.sessions.fetch_sub(1, Ordering::Relaxed);
                    if served > 0 {
                        tries = 0;
                    }
                    match session {
                        Some(session) => {
                            // First what we know, then good manners.
                            self.flush().await;
                            session.quit().await;
                            break;
                        }
                        None if self.again.is_some() => {}
                        None => self.wait(&mut tries).await,
                    }
                }
                Err(failure) => {
                    tracing::warn!(relay = %self.sender.relay, problem = %failure, "no session with the relay; nothing is consumed meanwhile");
                    self.progress.set_problem(Some(failure.to_string()));
                    self.wait(&mut tries).await;
                }
            }
        }
        if let Some(job) = self.again.take() {
            let now = self.sender.clock.now();
            let outcome = self.outcome(&job, State::Deferred, now, Some("later"), Some("the relay closed the session".to_owned()));
            self.settle(outcome).await;
        }
        self.flush().await;
    }

    /// True when the feeder has ended and its queue is empty.
    async fn nothing_left(&self) -> bool {
        let jobs = self.jobs.lock().await;
        jobs.is_closed() && jobs.is_empty()
    }

    async fn wait(&mut self, tries: &mut usize) {
        let base = RECONNECT_MS[(*tries).min(RECONNECT_MS.len() - 1)];
        *tries += 1;
        let jitter = self.sender.entropy.below(base / 2 + 1);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(base + jitter)) => {}
            () = stopped(&mut self.stop) => {}
        }
    }

    /// Takes jobs until there are none, the session breaks, or somebody says stop. Answers the
    /// session while it is usable, and how many jobs it served.
    async fn serve(&mut self, mut session: Session) -> (Option<Session>, u64) {
        let mut served = 0;
        loop {
            let again = self.again.take();
            let first_try = again.is_none();
            let job = if again.is_some() {
                again
            } else {
                let mut jobs = self.jobs.lock().await;
                tokio::select! {
                    biased;
                    () = stopped(&mut self.stop) => None,
                    job = jobs.recv() => job,
                    // Nothing to do for a moment: make the last outcome durable meanwhile.
                    () = tokio::time::sleep(Duration::from_millis(20)), if self.previous.is_some() => {
                        drop(jobs);
                        self.flush().await;
                        continue;
                    }
                }
            };
            let Some(job) = job else { return (Some(session), served) };
            // A relay may end a session after so many mails or so long an idleness: that is no
            // judgement on the next mail, which a new session takes at once.
            let fresh_elsewhere = first_try && served > 0;
            match self.deliver(&mut session, job, fresh_elsewhere).await {
                After::Keep => served += 1,
                After::Reconnect => return (None, served),
                After::Fenced => {
                    self.fenced.store(true, Ordering::Relaxed);
                    return (None, served);
                }
            }
        }
    }

    async fn flush(&mut self) {
        if let Some(outcome) = self.previous.take()
            && self.journal.record(outcome).await == Go::Fenced
        {
            self.fenced.store(true, Ordering::Relaxed);
        }
    }

    /// The outcome waits for the next handover to travel with.
    async fn settle(&mut self, outcome: Outcome) {
        self.flush().await;
        self.progress.count(outcome.state);
        self.previous = Some(outcome);
    }

    async fn deliver(&mut self, session: &mut Session, job: Job, fresh_elsewhere: bool) -> After {
        let now = self.sender.clock.now();
        let (to, message) = match compose(&self.sender, &self.context, &job.contact, job.row.id, now) {
            Ok(composed) => composed,
            Err(problem) => {
                tracing::warn!(delivery = job.row.id, contact = job.contact.id, problem, "this person's mail cannot be written");
                self.settle(skipped(job.row.id, job.row.attempt, REASON_RENDER, Some(problem), now)).await;
                return After::Keep;
            }
        };
        let from = self.context.envelope.return_path().to_owned();
        // The journal commits while the relay answers: both must be done before the body goes out.
        let (go, envelope) = tokio::join!(
            self.journal.hand_over(self.previous.take(), job.row.id, job.row.attempt, job.permit.clone()),
            session.envelope(&from, &to),
        );
        match (go, envelope) {
            (Go::Fenced, _) => After::Fenced,
            // Withdrawn at the last moment; DATA is open, so only closing the session undoes it.
            (Go::Refused, Ok(())) => {
                self.progress.count(State::Skipped);
                After::Reconnect
            }
            (Go::Refused, Err(failure)) => {
                self.progress.count(State::Skipped);
                if matches!(failure, Failure::Broken { .. }) { After::Reconnect } else { After::Keep }
            }
            (Go::Send, Ok(())) => {
                let result = session.body(&message).await;
                self.after_body(&job, result).await
            }
            (Go::Send, Err(failure)) if fresh_elsewhere && failure.ends_session() => {
                self.again = Some(job);
                After::Reconnect
            }
            (Go::Send, Err(failure)) => self.after_refusal(&job, failure).await,
        }
    }

    async fn after_body(&mut self, job: &Job, result: Result<super::smtp::Reply, Failure>) -> After {
        let now = self.sender.clock.now();
        match result {
            Ok(reply) => {
                let outcome = self.outcome(job, State::Sent, now, None, Some(reply.to_string()));
                self.settle(outcome).await;
                After::Keep
            }
            Err(Failure::Broken { reason, .. }) => {
                let outcome = self.lost_reply(job, now, reason);
                self.settle(outcome).await;
                After::Reconnect
            }
            Err(failure) => self.after_refusal(job, failure).await,
        }
    }

    /// The relay said no, or broke off before the body: the message surely did not go out.
    async fn after_refusal(&mut self, job: &Job, failure: Failure) -> After {
        let now = self.sender.clock.now();
        let text = Some(failure.to_string());
        let (outcome, after) = match &failure {
            Failure::NeedsSmtpUtf8 => (self.outcome(job, State::Failed, now, Some("smtputf8"), text), After::Keep),
            Failure::Refused { stage, reply } if (500..600).contains(&reply.code) => match stage {
                // A refused sender says nothing about the recipient (RFC 5321 section 4.5.4.1).
                Stage::Mail | Stage::Connect => (self.outcome(job, State::Failed, now, Some("sender_refused"), text), After::Keep),
                Stage::Rcpt | Stage::Data | Stage::Final => (self.outcome(job, State::Bounced, now, Some("refused"), text), After::Keep),
            },
            // 421 announces that the relay closes the session (RFC 5321 section 3.8).
            Failure::Refused { reply, .. } => (self.retry(job, now, text), if reply.code == 421 { After::Reconnect } else { After::Keep }),
            Failure::Broken { .. } => (self.retry(job, now, text), After::Reconnect),
        };
        self.settle(outcome).await;
        after
    }

    /// The session ended while the reply was pending. With `resend` it is tried again on the schedule
    /// of a deferred mail: a relay that never answers must not be sent the same mail in a loop.
    fn lost_reply(&self, job: &Job, now: Time, reason: String) -> Outcome {
        if self.sender.in_doubt == InDoubt::Resend {
            let again = self.retry(job, now, Some(reason.clone()));
            if again.state == State::Deferred {
                return Outcome { reason: Some("resend".to_owned()), ..again };
            }
        }
        ops::doubtful(job.row.id, job.row.attempt, InDoubt::Hold, &reason, now)
    }

    /// Tried again after the schedule's wait with up to a quarter of jitter, or given up at the
    /// deadline.
    fn retry(&self, job: &Job, now: Time, reply: Option<String>) -> Outcome {
        let waits = &self.sender.retry_seconds;
        let index = (job.row.attempt.max(1) as usize - 1).min(waits.len().saturating_sub(1));
        let wait = i64::from(waits.get(index).copied().unwrap_or(300)) * SECOND;
        let due_at = now.plus(wait + self.sender.entropy.below(wait as u64 / 4 + 1) as i64);
        let deadline = self.context.run.started_at.unwrap_or(now).plus(i64::from(self.sender.retry_hours) * HOUR);
        if due_at > deadline {
            return self.outcome(job, State::Failed, now, Some(REASON_EXPIRED), reply);
        }
        Outcome { due_at, ..self.outcome(job, State::Deferred, now, Some("later"), reply) }
    }

    fn outcome(&self, job: &Job, state: State, now: Time, reason: Option<&str>, reply: Option<String>) -> Outcome {
        debug_assert!(self.worker > 0);
        Outcome { delivery_id: job.row.id, attempt: job.row.attempt, state, due_at: now, reason: reason.map(str::to_owned), reply, at: now }
    }
}

/// A person's mail: the address for RCPT and the bytes. Errors say what is wrong for this person.
pub fn compose(sender: &Sender, context: &RunContext, contact: &Contact, delivery_id: i64, now: Time) -> Result<(String, Vec<u8>), String> {
    let address = Address::parse(&contact.email).map_err(|error| error.to_string())?;
    let links = DeliveryLinks {
        keys: &sender.keys,
        site: &sender.site,
        delivery_id,
        contact_id: contact.id,
        topic_id: context.run.topic_id,
        track_opens: context.definition.track_opens,
    };
    let mail = context.content.render(&Recipient { contact, links: &links, now }).map_err(|error| error.to_string())?;
    let to = address.wire();
    let message = context.envelope.message(&context.definition, to, &mail, &links, None, now);
    Ok((to.to_owned(), message))
}
