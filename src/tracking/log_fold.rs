//! The fold: what stands in logs becomes rows, each exactly once. The position in the log moves in the
//! transaction that writes the rows ([`super::position`]), so it does not matter when a process is killed.
//!
//! It leaves the database to others: a transaction is short, and after each as much time passes as it took; more
//! while so many hits come that they need the processors, for what stands in a log can wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::log::{self, HEADER_BYTES};
use super::log_files::{self, Log};
use super::position::{self, Mark};
use super::recorder::{Recorded, Shared, Waiting, locked};
use super::{Hit, Policy, ops};
use crate::db::{Db, DbError};

/// Hits of one transaction, at most and at least; in between, as many as fit into [`GROUP_TIME`].
const GROUP_HITS: usize = 500;
const GROUP_HITS_MIN: usize = 20;
/// A transaction that takes longer is followed by smaller ones: on SQLite all other writers wait for it.
const GROUP_TIME: Duration = Duration::from_millis(50);
/// The longest pause after a transaction.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Hits are many from so many a second on, and where so many wait.
const MANY_A_SECOND: f64 = 2_000.0;
const MANY_WAIT: u64 = 2_000;
/// While many come, so many times as long as a transaction took passes after it, this time at most; until so
/// much waits that it is an eighth of what may: some 900,000 hits.
const MANY_PAUSES: u32 = 9;
const MANY_PAUSE_MAX: Duration = Duration::from_millis(500);
const UNHURRIED_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes read at once: a full group of hits with long agents.
const CHUNK_BYTES: usize = 256 * 1024;
/// How often the folder is searched for logs of processes that died.
const SEARCH_EVERY: Duration = Duration::from_secs(30);
/// Tries to write a group that stands in no log: about two minutes, longer than a restart of PostgreSQL takes.
const DIRECT_TRIES: u32 = 64;
/// How long it goes on after the end was asked for; the rest waits in the log for the next process.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// Tries during shutdown, so that a dead database does not hold the process.
const TRIES_AT_END: u32 = 3;
/// The first and the longest wait between two tries.
const RETRY_WAIT: Duration = Duration::from_millis(50);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);

/// A group that no log took.
pub(super) struct Direct {
    pub hits: Vec<Hit>,
    /// Records it stands for, those that say nothing with them.
    pub records: u64,
    pub waiting: Option<Arc<Waiting>>,
}

/// A log and how far it is read.
struct Reading {
    log: Arc<Log>,
    position: u64,
    /// What `hit_log` says; 0 before the first group.
    stored: u64,
}

/// Records that are next in a log.
struct Group {
    hits: Vec<Hit>,
    /// Blank ones with them.
    records: u64,
    to: u64,
}

struct Fold {
    db: Db,
    rules: Policy,
    shared: Arc<Shared>,
    readings: Vec<Reading>,
    group_hits: usize,
    /// When it was last asked how many came, and how many had come then.
    asked: (Instant, u64),
}

/// Why a group is not written.
enum Stopped {
    /// The process ends and the database does not answer.
    GivenUp,
}

/// Folds until nothing more comes and all is written, or the database is away at the end.
pub(super) async fn run(db: Db, rules: Policy, shared: Arc<Shared>) {
    let mut fold = Fold { db, rules, shared, readings: Vec::new(), group_hits: GROUP_HITS, asked: (Instant::now(), 0) };
    let (mut searched, mut closed): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        if fold.closing() && closed.get_or_insert_with(Instant::now).elapsed() > DRAIN_TIME {
            tracing::info!("the rest of the opens and clicks waits in the log for the next start");
            break;
        }
        if searched.is_none_or(|searched| searched.elapsed() > SEARCH_EVERY) && !fold.closing() {
            fold.search().await;
            searched = Some(Instant::now());
        }
        // Asked before looking, so that nothing comes in between.
        let last_look = fold.shared.written.load(Ordering::SeqCst);
        match fold.round().await {
            Err(Stopped::GivenUp) => break,
            Ok(true) => continue,
            Ok(false) if last_look => break,
            Ok(false) => {}
        }
        tokio::time::timeout(SEARCH_EVERY, fold.shared.wake_fold.notified()).await.ok();
    }
    let unwritten: usize = std::mem::take(&mut locked(&fold.shared.to_fold).direct).iter().map(|group| group.hits.len()).sum();
    if unwritten > 0 {
        fold.shared.lose(unwritten as u64);
    }
    // Whoever waits for more hears that nothing comes.
    fold.shared.settled.send_modify(|settled| *settled = u64::MAX);
}

impl Fold {
    fn closing(&self) -> bool {
        self.shared.closing.load(Ordering::Relaxed)
    }

    /// Takes the logs that nobody holds.
    async fn search(&mut self) {
        let (folder, database) = (self.shared.folder.clone(), self.shared.database);
        match blocking(move || log_files::adopt(&folder, database)).await {
            Ok(found) => {
                for log in found {
                    let bytes = log.end.load(Ordering::Relaxed);
                    tracing::info!(log = log.name, bytes, "reading the opens and clicks that a process left");
                    self.take(Arc::new(log)).await;
                }
            }
            Err(error) => tracing::warn!(%error, folder = %self.shared.folder.display(), "cannot look for logs of opens and clicks"),
        }
    }

    async fn take(&mut self, log: Arc<Log>) {
        let mut wait = RETRY_WAIT;
        let stored = loop {
            // A log of our own has no position yet, and whoever clicked first waits for us.
            if log.own || log.done {
                break 0;
            }
            match position::of_log(&mut self.db.clone(), &log.name).await {
                Ok(position) => break position.max(0) as u64,
                // Left as it is: the lock goes with the log, and the next search finds it.
                Err(error) if self.closing() => return tracing::warn!(%error, "a log of opens and clicks stays as it is"),
                Err(error) => {
                    tracing::warn!(%error, log = log.name, "cannot ask how far a log of opens and clicks is read, trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_WAIT_MAX);
                }
            }
        };
        let position = if log.done { log.end.load(Ordering::Relaxed) } else { stored.max(HEADER_BYTES as u64) };
        if !log.own {
            let left = log.end.load(Ordering::Relaxed).saturating_sub(position);
            self.shared.waiting_bytes.fetch_add(left, Ordering::Relaxed);
        }
        self.readings.push(Reading { log, position, stored });
    }

    /// A step for everything there is to do. False where nothing was.
    async fn round(&mut self) -> Result<bool, Stopped> {
        let (logs, direct) = {
            let mut to_fold = locked(&self.shared.to_fold);
            (std::mem::take(&mut to_fold.logs), std::mem::take(&mut to_fold.direct))
        };
        for log in logs {
            self.take(log).await;
        }
        let mut worked = !direct.is_empty();
        for group in direct {
            self.write_direct(group).await;
        }
        for mut reading in std::mem::take(&mut self.readings) {
            let sealed = reading.log.sealed.load(Ordering::Acquire);
            match self.next_group(&mut reading).await {
                Ok(Some(group)) => {
                    worked = true;
                    let written = self.write(&mut reading, group).await;
                    self.readings.push(reading);
                    written?;
                }
                Ok(None) if sealed => self.finish(&reading).await,
                Ok(None) => self.readings.push(reading),
                Err(error) => {
                    tracing::error!(%error, log = reading.log.name, "cannot read a log of opens and clicks, trying again later");
                    self.readings.push(reading);
                }
            }
        }
        if !worked {
            self.shared.slow.store(false, Ordering::Relaxed);
        }
        Ok(worked)
    }

    /// The next records of a log; `None` where there is none yet, or the rest was never finished.
    async fn next_group(&self, reading: &mut Reading) -> io::Result<Option<Group>> {
        let (log, position) = (reading.log.clone(), reading.position);
        if log.end.load(Ordering::Acquire) <= position {
            return Ok(None);
        }
        let bytes = {
            let log = log.clone();
            blocking(move || log.read(position, CHUNK_BYTES)).await?
        };
        let mut group = Group { hits: Vec::new(), records: 0, to: position };
        let mut rest = &bytes[..];
        while group.hits.len() < self.group_hits {
            match log::next(rest) {
                log::Next::Record(hit, length) => {
                    group.hits.extend(hit);
                    group.records += 1;
                    group.to += length as u64;
                    rest = &rest[length..];
                }
                // A chunk is longer than a record: this one was never finished, or is read with the next chunk.
                log::Next::Short => break,
                log::Next::Damaged if group.records > 0 => break,
                log::Next::Damaged => {
                    let damaged = log::damaged_bytes(rest);
                    tracing::error!(log = log.name, position = group.to, damaged, "a part of a log of opens and clicks cannot be read");
                    group.to += damaged as u64;
                    rest = &rest[damaged..];
                }
            }
        }
        Ok((group.to > position).then_some(group))
    }

    async fn write(&mut self, reading: &mut Reading, group: Group) -> Result<(), Stopped> {
        let at = group.hits.last().map(|hit| hit.at).unwrap_or_default();
        let (from, to) = (reading.stored as i64, group.to as i64);
        let begun = Instant::now();
        // Nothing has to be written of what says nothing; the next group passes over it.
        if !group.hits.is_empty() {
            let mark = Mark { log: &reading.log.name, from, to, at };
            self.write_until_done(&group.hits, Some(&mark)).await?;
            reading.stored = group.to;
        }
        self.shared.waiting_bytes.fetch_sub(group.to - reading.position, Ordering::Relaxed);
        reading.position = group.to;
        self.shared.folded.fetch_add(group.hits.len() as u64, Ordering::Relaxed);
        if reading.log.own {
            self.shared.settled.send_modify(|settled| *settled += group.records);
        }
        self.adapt(begun.elapsed(), group.hits.len()).await;
        Ok(())
    }

    /// The next group is as big as fits; and others get their turn.
    async fn adapt(&mut self, took: Duration, hits: usize) {
        if took > GROUP_TIME {
            self.group_hits = (self.group_hits / 2).max(GROUP_HITS_MIN);
        } else if took < GROUP_TIME / 3 && hits >= self.group_hits {
            self.group_hits = (self.group_hits * 2).min(GROUP_HITS);
        }
        let pause = if self.many_come() { (took * MANY_PAUSES).min(MANY_PAUSE_MAX) } else { took.min(PAUSE_MAX) };
        if !self.closing() {
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether hits come faster than it is worth following them just now.
    fn many_come(&mut self) -> bool {
        let taken = self.shared.taken.load(Ordering::Relaxed);
        let (asked, before) = std::mem::replace(&mut self.asked, (Instant::now(), taken));
        let fast = taken.saturating_sub(before) as f64 > asked.elapsed().as_secs_f64() * MANY_A_SECOND;
        let behind = taken.saturating_sub(*self.shared.settled.borrow());
        fast && behind > MANY_WAIT && self.shared.waiting_bytes.load(Ordering::Relaxed) < UNHURRIED_BYTES
    }

    /// Again and again while the database is away: the log can wait.
    async fn write_until_done(&self, hits: &[Hit], mark: Option<&Mark<'_>>) -> Result<(), Stopped> {
        let mut wait = RETRY_WAIT;
        for attempt in 1_u32.. {
            match ops::write_group(&self.db, &self.rules, hits, mark).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    self.shared.slow.store(true, Ordering::Relaxed);
                    tracing::warn!(error = %chain(&error), attempt, hits = hits.len(), "cannot record opens and clicks, trying again");
                }
            }
            let given_up = self.closing() && attempt >= TRIES_AT_END;
            if given_up || (mark.is_none() && attempt >= DIRECT_TRIES) {
                break;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
        Err(Stopped::GivenUp)
    }

    async fn write_direct(&self, group: Direct) {
        let written = match group.hits.is_empty() {
            true => Ok(()),
            false => self.write_until_done(&group.hits, None).await,
        };
        if written.is_err() {
            self.shared.lose(group.hits.len() as u64);
        }
        locked(&self.shared.to_fold).direct_hits -= group.hits.len();
        self.shared.settled.send_modify(|settled| *settled += group.records);
        if let Some(waiting) = group.waiting {
            waiting.settle(if written.is_ok() { Recorded::Committed } else { Recorded::Dropped });
        }
    }

    /// Removes a log that is read to its end, and then its position.
    async fn finish(&mut self, reading: &Reading) {
        let left = reading.log.end.load(Ordering::Relaxed).saturating_sub(reading.position);
        if left > 0 {
            tracing::info!(log = reading.log.name, bytes = left, "the last record of a log of opens and clicks was never finished");
            self.shared.waiting_bytes.fetch_sub(left, Ordering::Relaxed);
        }
        if let Err(error) = self.remove(&reading.log).await {
            // The next process that looks finds it read, and tries again.
            tracing::warn!(error = %error, log = reading.log.name, "a log of opens and clicks stays behind");
        }
    }

    async fn remove(&self, log: &Arc<Log>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (marked, removed) = (log.clone(), log.clone());
        blocking(move || marked.mark_done()).await?;
        let forgotten: Result<(), DbError> = position::forget(&self.db, &log.name).await;
        forgotten?;
        blocking(move || removed.remove()).await?;
        Ok(())
    }
}

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
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
