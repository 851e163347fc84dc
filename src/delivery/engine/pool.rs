//! The work that waits for the sessions of one relay and lane: a queue for each mailbox provider, so
//! that one of them never holds up the others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::job::Job;

/// Jobs waiting for the sessions of one relay.
#[derive(Default)]
pub(super) struct Pool {
    inner: Mutex<Inner>,
    /// Wakes sessions that have nothing to do.
    work: Notify,
    /// Wakes whoever fills the pool: there is room again.
    pub(super) room: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    lines: Vec<Line>,
    /// Whose turn it is.
    turn: usize,
    queued: usize,
    /// Half of what the last filling left: below it, there is room.
    low: usize,
    /// No more work will come.
    closed: bool,
}

/// One provider's mails, in order.
struct Line {
    provider: Arc<str>,
    jobs: VecDeque<Job>,
    /// Mails of this provider in sessions now.
    busy: usize,
    /// Most of them at a time.
    most: usize,
}

/// A mail's place among its provider's mails in sessions; given up when it is dropped.
pub(super) struct Slot {
    pool: Arc<Pool>,
    provider: Arc<str>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.pool.lock();
        let Some(line) = inner.lines.iter_mut().find(|line| line.provider == self.provider) else { return };
        line.busy -= 1;
        let held_back = line.most != usize::MAX && !line.jobs.is_empty();
        drop(inner);
        if held_back {
            self.pool.work.notify_one();
        }
    }
}

impl Pool {
    pub(super) fn new(room: Arc<Notify>) -> Arc<Pool> {
        Arc::new(Pool { room, ..Pool::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds work, at the end.
    pub(super) fn fill(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut inner = self.lock();
        for job in jobs {
            inner.line(&job.provider).jobs.push_back(job);
            inner.queued += 1;
        }
        inner.low = inner.queued / 2;
        drop(inner);
        self.work.notify_waiters();
    }

    /// A mail whose session the relay closed: it goes first.
    pub(super) fn put_back(&self, mut job: Job) {
        job.slot = None;
        let mut inner = self.lock();
        inner.line(&job.provider).jobs.push_front(job);
        inner.queued += 1;
        drop(inner);
        self.work.notify_waiters();
    }

    /// How many mails of this provider may be in sessions at a time.
    pub(super) fn allow(&self, provider: &Arc<str>, most: usize) {
        self.lock().line(provider).most = most.max(1);
    }

    /// No mail of this provider (or of any) is taken until [`Pool::allow`].
    pub(super) fn hold(&self, provider: Option<&str>) {
        let mut inner = self.lock();
        inner.lines.iter_mut().filter(|line| provider.is_none_or(|provider| *line.provider == *provider)).for_each(|line| line.most = 0);
    }

    /// The next mail, where one may be taken.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Job> {
        let mut inner = self.lock();
        if inner.queued == 0 {
            return None;
        }
        let lines = inner.lines.len();
        let turn = inner.turn;
        let at = (0..lines).map(|step| (turn + step) % lines).find(|at| {
            let line = &inner.lines[*at];
            line.busy < line.most && !line.jobs.is_empty()
        })?;
        let line = &mut inner.lines[at];
        let mut job = line.jobs.pop_front()?;
        line.busy += 1;
        job.slot = Some(Slot { pool: self.clone(), provider: line.provider.clone() });
        inner.turn = (at + 1) % lines;
        inner.queued -= 1;
        let room = inner.queued == inner.low;
        drop(inner);
        if room {
            self.room.notify_one();
        }
        Some(job)
    }

    /// The next mail, waited for as long as `patience`. `None` when none came, or none will.
    pub(super) async fn take(self: &Arc<Self>, patience: Duration) -> Option<Job> {
        let give_up = tokio::time::sleep(patience);
        tokio::pin!(give_up);
        loop {
            // Enrolled before the look, so that no work between the two is missed.
            let woken = self.work.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if let Some(job) = self.try_take() {
                return Some(job);
            }
            if self.lock().closed {
                return None;
            }
            tokio::select! {
                () = &mut woken => {}
                () = &mut give_up => return None,
            }
        }
    }

    /// Mails that wait, and those in sessions.
    pub(super) fn load(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.queued, inner.lines.iter().map(|line| line.busy).sum())
    }

    /// How many mails of a provider wait.
    pub(super) fn waiting_for(&self, provider: &str) -> usize {
        self.lock().lines.iter().find(|line| &*line.provider == provider).map_or(0, |line| line.jobs.len())
    }

    /// The providers whose mails wait.
    pub(super) fn providers(&self) -> Vec<Arc<str>> {
        self.lock().lines.iter().filter(|line| !line.jobs.is_empty()).map(|line| line.provider.clone()).collect()
    }

    /// Takes the mails out that `which` picks.
    pub(super) fn remove(&self, which: impl Fn(&Job) -> bool) -> Vec<Job> {
        let mut inner = self.lock();
        let mut removed = Vec::new();
        for line in &mut inner.lines {
            let (out, stay): (VecDeque<Job>, VecDeque<Job>) = std::mem::take(&mut line.jobs).into_iter().partition(&which);
            line.jobs = stay;
            removed.extend(out);
        }
        inner.queued -= removed.len();
        inner.low = inner.low.min(inner.queued / 2);
        removed
    }

    /// No more work will come: sessions end once the queue is empty. What waits is answered.
    pub(super) fn close(&self) -> Vec<Job> {
        let left = self.remove(|_| true);
        self.lock().closed = true;
        self.work.notify_waiters();
        left
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

impl Inner {
    fn line(&mut self, provider: &Arc<str>) -> &mut Line {
        let at = self.lines.iter().position(|line| line.provider == *provider).unwrap_or_else(|| {
            self.lines.push(Line { provider: provider.clone(), jobs: VecDeque::new(), busy: 0, most: usize::MAX });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }
}
