//! Takes hits. A hit is durable before it is answered: it goes into a log of this process, whose writer puts
//! what has gathered on the disk in one go, and is folded into the database from there. So an answer never
//! takes longer because the database does, and what was answered outlives `kill -9` and power.
//!
//! - One hit, one record ([`super::log`]); the group is whatever arrived while the disk took the one before.
//! - A recipient waits for the disk, for [`RECIPIENT_WAIT`] at most. Whoever waited that long hands what has
//!   gathered to the system by itself before it goes on: that outlives `kill -9`, and the disk has it later.
//! - Where the log cannot be written, hits go to the database straight away, and wait there in memory.
//! - While the database keeps up, a recipient also waits for it: who clicks and looks sees it counted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::log_files::{self, Log};
use super::log_fold::{self, Direct};
use super::{Hit, Policy, log, position};
use crate::clock::Time;
use crate::db::{Db, DbError};
use crate::entropy::Entropy;

/// How long a recipient waits before they are sent on.
const RECIPIENT_WAIT: Duration = Duration::from_millis(100);
/// With more hits than this on their way into the database, nobody waits for it: they would wait for each other.
const WAIT_FOR_DATABASE: u64 = 16;
/// A log that is longer is followed by a new one, and goes once it is folded.
const LOG_BYTES: u64 = 16 * 1024 * 1024;
/// All that waits in logs of this process and those it found: some seven million hits, hours of a database that
/// is away in the middle of a big mailing. More is dropped.
const WAITING_BYTES: u64 = 1024 * 1024 * 1024;
/// Hits that may wait in memory where no log can be written: some 5 MB.
pub(super) const DIRECT_HITS: usize = 20_000;
/// Between two tries to make a log where it cannot be.
const LOG_AGAIN: Duration = Duration::from_secs(5);
/// One log line per so many dropped hits.
const DROPS_PER_LOG_LINE: u64 = 1_000;

/// What became of a hit when the recipient was sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the database.
    Committed,
    /// It is on the disk, in the log.
    Logged,
    /// It is on its way: disk or database are slow.
    Queued,
    /// Neither log nor database take it and too many wait: it is lost, counted and logged.
    Dropped,
}

/// What a recorder works with.
#[derive(Debug)]
pub struct RecorderSettings {
    /// Where hits end up.
    pub db: Db,
    /// Their ids.
    pub entropy: Entropy,
    /// What people may be tracked by, beside their own choice.
    pub rules: Policy,
    /// The folder of the logs; made where it is not there.
    pub folder: PathBuf,
}

/// Counts of a recorder since its start, but for the bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Hits on the disk.
    pub logged: u64,
    /// Hits that came from logs and are settled in the database.
    pub folded: u64,
    /// Bytes of logs that are not folded yet.
    pub waiting_bytes: u64,
    /// Hits that no log took and that went to the database at once.
    pub unlogged: u64,
    /// Hits that are lost.
    pub dropped: u64,
}

/// Takes hits; cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<Handle>);

/// All clones together: the tasks end with the last one.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What recipients, the writer and the fold share.
pub(super) struct Shared {
    entropy: Entropy,
    pub(super) folder: PathBuf,
    pub(super) database: i64,
    queue: Mutex<Queue>,
    arrived: Condvar,
    place: Mutex<Place>,
    /// Logs the fold does not know yet, and groups that no log took.
    pub(super) to_fold: Mutex<ToFold>,
    pub(super) wake_fold: Notify,
    /// Hits of this process that are settled in the database, by their order.
    pub(super) settled: watch::Sender<u64>,
    /// The same as what `queue` has taken, to be read without its lock.
    pub(super) taken: AtomicU64,
    /// A recipient waited in vain: nobody else does until the fold has caught up.
    pub(super) slow: AtomicBool,
    pub(super) closing: AtomicBool,
    /// Nothing more comes to the fold.
    pub(super) written: AtomicBool,
    logged: AtomicU64,
    pub(super) folded: AtomicU64,
    pub(super) waiting_bytes: AtomicU64,
    unlogged: AtomicU64,
    dropped: AtomicU64,
}

/// Those who wait for the same group: one bell and one clock for all of them.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    outcome: OnceLock<Recorded>,
    bell: Notify,
}

impl Waiting {
    /// What became of the group; the first word holds.
    pub(super) fn settle(&self, recorded: Recorded) {
        if self.outcome.set(recorded).is_ok() {
            self.bell.notify_waiters();
        }
    }

    async fn settled(&self) -> Recorded {
        // Made before looking, so that nothing comes in between.
        let rung = self.bell.notified();
        if let Some(recorded) = self.outcome.get() {
            return *recorded;
        }
        rung.await;
        self.outcome.get().copied().unwrap_or(Recorded::Queued)
    }
}

/// What has gathered since the last group.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// None where nobody waits.
    waiting: Option<Arc<Waiting>>,
    /// There are records whose group went on before it was written.
    late: bool,
    /// Records that were ever taken.
    taken: u64,
    writer_sleeps: bool,
    closed: bool,
}

/// The log that is being written.
#[derive(Default)]
struct Place {
    log: Option<Arc<Log>>,
    /// Bytes in the hands of the system.
    length: u64,
    /// When the next try may be made.
    again: Option<Instant>,
}

/// Work for the fold.
#[derive(Default)]
pub(super) struct ToFold {
    pub(super) logs: Vec<Arc<Log>>,
    pub(super) direct: Vec<Direct>,
    pub(super) direct_hits: usize,
}

/// A lock whose holder never leaves anything half done.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder({:?})", self.figures())
    }
}

impl Recorder {
    /// Starts the writer of the log and the fold, which also reads what dead processes left in the folder. They
    /// end when all clones are dropped, or after [`Recorder::shut_down`]; the handle is the fold's.
    ///
    /// # Errors
    /// The database does not say which one it is.
    pub async fn start(settings: RecorderSettings) -> Result<(Recorder, JoinHandle<()>), DbError> {
        let RecorderSettings { db, entropy, rules, folder } = settings;
        check_folder(&folder).await;
        let proposed = (entropy.u64() >> 1) as i64;
        let database = position::database_number(&db, proposed, Time::default()).await?;
        let shared = Arc::new(Shared {
            entropy,
            folder,
            database,
            queue: Mutex::default(),
            arrived: Condvar::new(),
            place: Mutex::default(),
            to_fold: Mutex::default(),
            wake_fold: Notify::new(),
            settled: watch::Sender::new(0),
            taken: AtomicU64::new(0),
            slow: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            written: AtomicBool::new(false),
            logged: AtomicU64::new(0),
            folded: AtomicU64::new(0),
            waiting_bytes: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let writer = shared.clone();
        // A thread of its own for as long as the process lives: it waits for the disk.
        tokio::task::spawn_blocking(move || writer.write_groups());
        let task = tokio::spawn(log_fold::run(db, rules, shared.clone()));
        Ok((Recorder(Arc::new(Handle(shared))), task))
    }

    /// Takes a hit and waits for the disk; while the database keeps up, for it too.
    pub async fn record(&self, hit: Hit) -> Recorded {
        let shared = &self.0.0;
        let begun = tokio::time::Instant::now();
        let (recorded, order) = shared.log(Some(hit), begun).await;
        let behind = order.saturating_sub(*shared.settled.borrow());
        if recorded != Recorded::Logged || behind > WAIT_FOR_DATABASE || shared.slow.load(Ordering::Relaxed) {
            return recorded;
        }
        let mut settled = shared.settled.subscribe();
        match tokio::time::timeout_at(begun + RECIPIENT_WAIT, settled.wait_for(|settled| *settled >= order)).await {
            Ok(Ok(_)) => Recorded::Committed,
            Ok(Err(_)) => Recorded::Logged,
            Err(_) => {
                shared.slow.store(true, Ordering::Relaxed);
                Recorded::Logged
            }
        }
    }

    /// Takes a hit, or a record that says nothing, and waits for the disk only: both take as long, so that
    /// nobody can tell a link that is known from one that is not.
    pub async fn note(&self, hit: Option<Hit>) -> Recorded {
        self.0.0.log(hit, tokio::time::Instant::now()).await.0
    }

    /// Waits until everything taken before is in the database or given up.
    pub async fn flush(&self) {
        let shared = &self.0.0;
        let taken = shared.taken.load(Ordering::SeqCst);
        // An error means that the fold has ended: the log keeps the rest for the next process.
        shared.settled.subscribe().wait_for(|settled| *settled >= taken).await.ok();
    }

    /// Takes nothing more and settles what was taken. What a database that does not answer leaves in the log
    /// waits there for the next process.
    pub async fn shut_down(&self) {
        self.0.0.close();
        self.flush().await;
    }

    /// Hits lost since the start.
    pub fn dropped(&self) -> u64 {
        self.figures().dropped
    }

    /// For the metrics.
    pub fn figures(&self) -> Figures {
        let shared = &self.0.0;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            logged: read(&shared.logged),
            folded: read(&shared.folded),
            waiting_bytes: read(&shared.waiting_bytes),
            unlogged: read(&shared.unlogged),
            dropped: read(&shared.dropped),
        }
    }
}

/// Says at the start, and not with the first click, where no log can be made. Recipients are served all the same.
async fn check_folder(folder: &Path) {
    let probed = folder.to_owned();
    let probed = tokio::task::spawn_blocking(move || log_files::probe(&probed)).await;
    if let Err(error) = probed.map_err(std::io::Error::other).flatten() {
        tracing::error!(
            %error, folder = %folder.display(),
            "no log of opens and clicks can be made there; they go to the database, and are lost while that is away: set `[tracking] log_dir` to a folder that can be written"
        );
    }
}

impl Shared {
    fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        locked(&self.queue).closed = true;
        self.arrived.notify_all();
        self.wake_fold.notify_one();
    }

    /// Adds a record to the next group and waits for it. Answers its number among those taken, too.
    async fn log(self: &Arc<Self>, hit: Option<Hit>, begun: tokio::time::Instant) -> (Recorded, u64) {
        let hit = hit.map(|hit| Hit { id: if hit.id == 0 { self.entropy.id(hit.at) } else { hit.id }, ..hit });
        if self.waiting_bytes.load(Ordering::Relaxed) > WAITING_BYTES {
            return (self.lose(1), 0);
        }
        let (group, order, wake) = {
            let mut queue = locked(&self.queue);
            if queue.closed {
                drop(queue);
                return (self.lose(1), 0);
            }
            log::push(&mut queue.bytes, hit.as_ref());
            let group = match &queue.waiting {
                Some(group) => group.clone(),
                None => {
                    let group = Arc::<Waiting>::default();
                    tokio::spawn(self.clone().watch(group.clone(), begun));
                    queue.waiting.insert(group).clone()
                }
            };
            queue.taken += 1;
            self.taken.store(queue.taken, Ordering::SeqCst);
            (group, queue.taken, std::mem::take(&mut queue.writer_sleeps))
        };
        if wake {
            self.arrived.notify_one();
        }
        let recorded = group.settled().await;
        self.logged.fetch_add(u64::from(hit.is_some() && recorded == Recorded::Logged), Ordering::Relaxed);
        (recorded, order)
    }

    /// Lets a group go that waits in vain, from its first hit on.
    async fn watch(self: Arc<Self>, group: Arc<Waiting>, begun: tokio::time::Instant) {
        if tokio::time::timeout_at(begun + RECIPIENT_WAIT, group.settled()).await.is_ok() {
            return;
        }
        self.slow.store(true, Ordering::Relaxed);
        // Whoever comes now is not among those whose records are handed over here.
        self.leave_behind(&group);
        // What is in the hands of the system outlives this process.
        let handed = tokio::task::spawn_blocking(move || self.hand_over());
        tokio::time::timeout(RECIPIENT_WAIT, handed).await.ok();
        group.settle(Recorded::Queued);
    }

    fn leave_behind(&self, group: &Arc<Waiting>) {
        let mut queue = locked(&self.queue);
        if queue.waiting.as_ref().is_some_and(|waiting| Arc::ptr_eq(waiting, group)) {
            queue.waiting = None;
            queue.late = true;
        }
    }

    pub(super) fn lose(&self, hits: u64) -> Recorded {
        let before = self.dropped.fetch_add(hits, Ordering::Relaxed);
        if before / DROPS_PER_LOG_LINE != (before + hits) / DROPS_PER_LOG_LINE || before == 0 {
            tracing::error!(dropped = before + hits, "opens and clicks are lost: neither the log nor the database takes them");
        }
        Recorded::Dropped
    }

    /// The writer: a group after the other, until the end.
    fn write_groups(&self) {
        loop {
            {
                let mut queue = locked(&self.queue);
                while queue.waiting.is_none() && !queue.late && !queue.closed {
                    queue.writer_sleeps = true;
                    queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                queue.writer_sleeps = false;
                if queue.waiting.is_none() && !queue.late {
                    break;
                }
            }
            self.write_group();
        }
        if let Some(log) = locked(&self.place).log.take() {
            log.sealed.store(true, Ordering::Release);
        }
        self.written.store(true, Ordering::SeqCst);
        self.wake_fold.notify_one();
    }

    /// Writes what has gathered, waits for the disk, and answers everybody who waits for it.
    fn write_group(&self) {
        let mut place = locked(&self.place);
        self.prepare_log(&mut place);
        let waiting = {
            let mut queue = locked(&self.queue);
            queue.late = false;
            queue.waiting.take()
        };
        let Some(log) = self.hand_over_to(&mut place) else {
            drop(place);
            self.write_directly(waiting);
            return;
        };
        let end = place.length;
        drop(place);
        if let Err(error) = log.sync() {
            // It may or may not be on the disk; it is read now, while the system still has it.
            tracing::error!(%error, log = log.name, "the disk does not take the log of opens and clicks");
            let mut place = locked(&self.place);
            if place.log.as_ref().is_some_and(|current| Arc::ptr_eq(current, &log)) {
                log.end.fetch_max(place.length, Ordering::AcqRel);
                log.sealed.store(true, Ordering::Release);
                *place = Place { log: None, length: 0, again: Some(Instant::now() + LOG_AGAIN) };
            }
        } else {
            log.end.fetch_max(end, Ordering::AcqRel);
        }
        self.wake_fold.notify_one();
        if let Some(group) = waiting {
            group.settle(Recorded::Logged);
        }
    }

    /// Gives what has gathered to the system; whoever waited in vain does it while the writer waits for the disk.
    fn hand_over(&self) {
        self.hand_over_to(&mut locked(&self.place));
    }

    /// `None` where there is no log, or it takes nothing.
    fn hand_over_to(&self, place: &mut Place) -> Option<Arc<Log>> {
        let log = place.log.clone()?;
        let bytes = std::mem::take(&mut locked(&self.queue).bytes);
        match log.append(&bytes) {
            Ok(()) => {
                place.length += bytes.len() as u64;
                self.waiting_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                // The next group will be about as long.
                let mut queue = locked(&self.queue);
                if queue.bytes.capacity() == 0 {
                    queue.bytes = bytes;
                    queue.bytes.clear();
                }
                Some(log)
            }
            Err(error) => {
                tracing::error!(%error, folder = %self.folder.display(), "the log of opens and clicks cannot be written; they go to the database");
                // No half record may stand before whole ones, and none that goes to the database by itself.
                if let Err(error) = log.cut(place.length) {
                    tracing::error!(%error, log = log.name, "the log of opens and clicks cannot be cut");
                }
                log.end.fetch_max(place.length, Ordering::AcqRel);
                log.sealed.store(true, Ordering::Release);
                *place = Place { log: None, length: 0, again: Some(Instant::now() + LOG_AGAIN) };
                // Others may have arrived; nothing overtakes.
                let mut queue = locked(&self.queue);
                let later = std::mem::replace(&mut queue.bytes, bytes);
                queue.bytes.extend_from_slice(&later);
                None
            }
        }
    }

    /// Makes a log where there is none, and a new one behind one that is long.
    fn prepare_log(&self, place: &mut Place) {
        if let Some(log) = place.log.as_ref().filter(|_| place.length > LOG_BYTES) {
            // What others handed over since the last group.
            if let Err(error) = log.sync() {
                tracing::error!(%error, log = log.name, "the disk does not take the log of opens and clicks");
            }
            log.end.fetch_max(place.length, Ordering::AcqRel);
            log.sealed.store(true, Ordering::Release);
            *place = Place::default();
        }
        if place.log.is_some() || place.again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        let name = format!("{:016x}-{}", self.entropy.u64(), std::process::id());
        match log_files::create(&self.folder, self.database, &name) {
            Ok(log) => {
                let log = Arc::new(log);
                locked(&self.to_fold).logs.push(log.clone());
                *place = Place { length: log.end.load(Ordering::Acquire), log: Some(log), again: None };
            }
            Err(error) => {
                tracing::error!(
                    %error, folder = %self.folder.display(),
                    "no log of opens and clicks can be made there; they go to the database: set `[tracking] log_dir`"
                );
                place.again = Some(Instant::now() + LOG_AGAIN);
            }
        }
    }

    /// Gives a group to the fold as it is. Whoever waits for it waits for the database.
    fn write_directly(&self, waiting: Option<Arc<Waiting>>) {
        let bytes = std::mem::take(&mut locked(&self.queue).bytes);
        let mut rest = &bytes[..];
        let mut records = 0;
        let mut hits = Vec::new();
        while let log::Next::Record(hit, length) = log::next(rest) {
            rest = &rest[length..];
            records += 1;
            hits.extend(hit);
        }
        self.unlogged.fetch_add(hits.len() as u64, Ordering::Relaxed);
        let mut to_fold = locked(&self.to_fold);
        if to_fold.direct_hits + hits.len() > DIRECT_HITS {
            self.lose(hits.len() as u64);
            hits.clear();
        }
        to_fold.direct_hits += hits.len();
        to_fold.direct.push(Direct { hits, records, waiting });
        drop(to_fold);
        self.wake_fold.notify_one();
    }
}
