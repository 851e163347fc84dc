//! Hits are queued and written in groups: one commit for hundreds of opens instead of one each. A
//! recipient waits for a commit only shortly, and not at all while the database is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Hit, Policy, ops};
use crate::db::Db;
use crate::entropy::Entropy;

/// Hits of one transaction at most.
const GROUP_HITS: usize = 500;
/// How long a group waits for more hits.
const GROUP_WAIT: Duration = Duration::from_millis(5);
/// Hits that may wait to be written: some seconds of a big mailing's clicks, about 5 MB.
const QUEUE_HITS: usize = 20_000;
/// How long a recipient waits for the commit before they are sent on.
const RECIPIENT_WAIT: Duration = Duration::from_millis(100);
/// Tries to write a group before it is given up: with the waits below about two minutes, longer
/// than a restart of PostgreSQL takes.
const WRITE_TRIES: u32 = 64;
/// Tries during shutdown, so that a dead database does not hold the process.
const WRITE_TRIES_AT_END: u32 = 3;
/// The longest wait between two tries.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// One log line per so many dropped hits.
const DROPS_PER_LOG_LINE: u64 = 1_000;

/// What became of a hit when the recipient was sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Its group is committed.
    Committed,
    /// It waits in the queue.
    Queued,
    /// The queue was full: it is lost, counted and logged.
    Dropped,
}

enum Message {
    Hit(Hit, Option<oneshot::Sender<()>>),
    Flush(oneshot::Sender<()>),
}

/// Takes hits; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    dropped: AtomicU64,
    /// A recipient waited in vain: nobody else does until a group was committed again.
    slow: AtomicBool,
    stopping: AtomicBool,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder(dropped: {})", self.dropped())
    }
}

impl Recorder {
    /// Starts the task that writes what people may be tracked by: their choice, else what `policy` says. It ends when all clones are dropped; [`Recorder::shut_down`]
    /// waits for what is queued.
    pub fn start(db: Db, entropy: Entropy, policy: impl Into<Policy>) -> (Recorder, JoinHandle<()>) {
        let (queue, inbox) = mpsc::channel(QUEUE_HITS);
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(Writer { db, entropy, policy: policy.into() }, inbox, shared.clone()));
        (Recorder { queue, shared }, task)
    }

    /// Queues a hit and waits a moment for its commit.
    pub async fn record(&self, hit: Hit) -> Recorded {
        if self.shared.slow.load(Ordering::Relaxed) {
            return self.record_later(hit);
        }
        let (done, committed) = oneshot::channel();
        if self.queue.try_send(Message::Hit(hit, Some(done))).is_err() {
            return self.drop_one();
        }
        match tokio::time::timeout(RECIPIENT_WAIT, committed).await {
            Ok(Ok(())) => Recorded::Committed,
            // Left out, or given up: logged where it happened.
            Ok(Err(_)) => Recorded::Queued,
            Err(_) => {
                self.shared.slow.store(true, Ordering::Relaxed);
                Recorded::Queued
            }
        }
    }

    /// Queues a hit without waiting: the answer takes as long for a known link as for an unknown.
    pub fn record_later(&self, hit: Hit) -> Recorded {
        match self.queue.try_send(Message::Hit(hit, None)) {
            Ok(()) => Recorded::Queued,
            Err(_) => self.drop_one(),
        }
    }

    /// Waits until everything queued before is written or given up.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            // An error means that the task has ended: nothing is queued any more.
            flushed.await.ok();
        }
    }

    /// Writes what is queued; a database that does not answer no longer holds us up for long.
    pub async fn shut_down(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.flush().await;
    }

    /// Hits lost since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn drop_one(&self) -> Recorded {
        let before = self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        if before.is_multiple_of(DROPS_PER_LOG_LINE) {
            tracing::warn!(dropped = before + 1, "the queue of opens and clicks is full, some are not recorded: is the database slow?");
        }
        Recorded::Dropped
    }
}

/// What a group is written with.
struct Writer {
    db: Db,
    entropy: Entropy,
    policy: Policy,
}

async fn run(writer: Writer, mut inbox: mpsc::Receiver<Message>, shared: Arc<Shared>) {
    while let Some(first) = inbox.recv().await {
        let (mut hits, mut waiting, mut flushed) = (Vec::new(), Vec::new(), Vec::new());
        let mut take = |message, hits: &mut Vec<Hit>| match message {
            Message::Hit(hit, done) => {
                hits.push(hit);
                waiting.extend(done);
                false
            }
            Message::Flush(done) => {
                flushed.push(done);
                true
            }
        };
        let mut full = take(first, &mut hits);
        let deadline = tokio::time::Instant::now() + GROUP_WAIT;
        while !full && hits.len() < GROUP_HITS {
            match tokio::time::timeout_at(deadline, inbox.recv()).await {
                Ok(Some(message)) => full = take(message, &mut hits),
                Ok(None) | Err(_) => break,
            }
        }
        for hit in hits.iter_mut().filter(|hit| hit.id == 0) {
            hit.id = writer.entropy.id(hit.at);
        }
        if !hits.is_empty() && write(&writer, &hits, &shared).await {
            shared.slow.store(false, Ordering::Relaxed);
            // A recipient who went on has dropped the other end.
            for done in waiting {
                done.send(()).ok();
            }
        }
        for done in flushed {
            done.send(()).ok();
        }
    }
}

/// Writes a group, again and again while the database is away. False when it was given up.
async fn write(writer: &Writer, hits: &[Hit], shared: &Shared) -> bool {
    let mut wait = Duration::from_millis(50);
    for attempt in 1..=WRITE_TRIES {
        match ops::write_group(&writer.db, &writer.policy, hits, None).await {
            Ok(_) => return true,
            Err(error) => {
                tracing::warn!(error = %chain(&error), attempt, hits = hits.len(), "cannot record opens and clicks, trying again");
            }
        }
        if shared.stopping.load(Ordering::Relaxed) && attempt >= WRITE_TRIES_AT_END {
            break;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_WAIT_MAX);
    }
    shared.dropped.fetch_add(hits.len() as u64, Ordering::Relaxed);
    tracing::error!(hits = hits.len(), "gave up recording a group of opens and clicks");
    false
}

/// An error with what it came from, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        source = cause.source();
    }
    out
}
