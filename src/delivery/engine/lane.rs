//! A relay as one lane uses it: its pool of work and its sessions.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Shared;
use super::pool::Pool;
use super::session::Server;
use crate::clock::Time;
use crate::config;
use crate::delivery::smtp::SmtpSettings;

/// A relay that cannot be reached is tried again after these waits, in milliseconds.
const RECONNECT_MS: [u64; 6] = [200, 500, 1_000, 2_000, 5_000, 15_000];
/// A relay that refused one more session is asked for more again after this time.
const CEILING_FOR: Duration = Duration::from_secs(30);

/// A server that takes our mails, with how it does.
pub struct Relay {
    /// Its name in the configuration.
    pub name: String,
    /// How it is reached.
    pub settings: SmtpSettings,
    /// What the configuration says of it.
    pub config: config::Relay,
    /// Mails of one session, 0: any number.
    pub(super) mails_per_connection: u32,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    down: Option<Down>,
    /// It refused more sessions than these, until then.
    ceiling: Option<(usize, Instant)>,
}

/// A relay out of reach.
#[derive(Clone)]
struct Down {
    since: Time,
    tries: usize,
    next_try: Instant,
    problem: String,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.settings)
    }
}

impl Relay {
    /// A relay that nobody has tried yet.
    pub fn new(settings: SmtpSettings, config: &config::Relay) -> Relay {
        Relay {
            name: config.name.clone(),
            settings,
            mails_per_connection: config.mails_per_connection,
            config: config.clone(),
            health: Mutex::default(),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session is open, the last of so many.
    pub(super) fn reached(&self, open: usize) {
        let mut health = self.health();
        health.down = None;
        if let Some((ceiling, until)) = &mut health.ceiling
            && open > *ceiling
        {
            // It takes one more than it did; perhaps yet another one.
            (*ceiling, *until) = (open, Instant::now());
        }
    }

    /// No session came about, or one broke before its first mail. While others are open, the relay
    /// wants no more of them; else it is down. Answers whether it is down.
    pub(super) fn missed(&self, problem: &str, open: usize, now: Time) -> bool {
        let mut health = self.health();
        if open > 0 {
            health.ceiling = Some((open, Instant::now() + CEILING_FOR));
            return false;
        }
        health.ceiling = None;
        let (tries, since) = health.down.as_ref().map_or((0, now), |down| (down.tries + 1, down.since));
        let wait = Duration::from_millis(RECONNECT_MS[tries.min(RECONNECT_MS.len() - 1)]);
        health.down = Some(Down { since, tries, next_try: Instant::now() + wait, problem: problem.to_owned() });
        true
    }

    /// Since when it is out of reach, and what was heard last.
    pub fn problem(&self) -> Option<(Time, String)> {
        self.health().down.as_ref().map(|down| (down.since, down.problem.clone()))
    }

    /// How many sessions it takes at the moment, of at most `most`.
    fn sessions_allowed(&self, most: usize, open: usize) -> usize {
        let health = self.health();
        if let Some(down) = &health.down {
            return usize::from(Instant::now() >= down.next_try);
        }
        if open == 0 {
            // The first one tells whether the relay is there.
            return 1;
        }
        match health.ceiling {
            Some((ceiling, until)) if Instant::now() < until => most.min(ceiling),
            // One at a time finds out without a storm of refusals.
            Some((ceiling, _)) => most.min(ceiling + 1),
            None => most,
        }
    }
}

/// One relay's sessions for campaigns, or for messages.
pub(super) struct Lane {
    pub(super) relay: Arc<Relay>,
    pub(super) pool: Arc<Pool>,
    /// Sessions at most.
    pub(super) most: usize,
    /// How long a session without work stays open.
    pub(super) idle: Duration,
    /// Sessions that are open.
    open: AtomicUsize,
    /// Tasks: sessions that are open, opening or closing.
    tasks: AtomicUsize,
    /// Sessions that are to end so that a message gets one.
    make_room: AtomicUsize,
    /// Tells that the last task has ended.
    ended: watch::Sender<usize>,
    flow: Mutex<Flow>,
}

/// How a relay keeps up with what it is given.
#[derive(Default)]
struct Flow {
    /// Mails given to it over its weight, over all its life.
    given: f64,
    /// Since when its pool has had no room.
    full_since: Option<Instant>,
    /// Since when its first session is being opened.
    opening_since: Option<Instant>,
}

/// A relay whose pool has had no room for so long is slower than its weight: then others may take more
/// than their part, for one slow relay must not hold up the rest.
const BEHIND_AFTER: Duration = Duration::from_millis(500);

/// A relay whose first session is being opened is waited for so long before others take its part.
const OPENING_FOR: Duration = Duration::from_secs(1);

impl Lane {
    pub(super) fn new(relay: Arc<Relay>, most: usize, idle: Duration, room: Arc<Notify>) -> Arc<Lane> {
        let ended = watch::Sender::new(0);
        Arc::new(Lane {
            relay,
            pool: Pool::new(room),
            most,
            idle,
            open: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
            make_room: AtomicUsize::new(0),
            ended,
            flow: Mutex::default(),
        })
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mails given to it over its weight.
    pub(super) fn given(&self) -> f64 {
        self.flow().given
    }

    /// So many more mails are given to it.
    pub(super) fn give(&self, mails: usize) {
        self.flow().given += mails as f64 / f64::from(self.relay.config.weight.max(1));
    }

    /// So many of what was given were not there to be had.
    pub(super) fn take_back(&self, mails: usize) {
        self.flow().given -= mails as f64 / f64::from(self.relay.config.weight.max(1));
    }

    /// It counts as having had at least so much.
    pub(super) fn catch_up(&self, given: f64) {
        let mut flow = self.flow();
        flow.given = flow.given.max(given);
    }

    pub(super) fn note_full(&self, full: bool) {
        let mut flow = self.flow();
        flow.full_since = if full { flow.full_since.or_else(|| Some(Instant::now())) } else { None };
    }

    /// Whether it cannot keep up with its weight.
    pub(super) fn is_behind(&self) -> bool {
        self.flow().full_since.is_some_and(|since| since.elapsed() > BEHIND_AFTER)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// A session is open, until the answer is dropped.
    pub(super) fn opened(self: &Arc<Self>) -> OpenSession {
        self.flow().opening_since = None;
        self.open.fetch_add(1, Ordering::AcqRel);
        OpenSession(self.clone())
    }

    /// The relay takes no more sessions, and a message waits for one: one of ours ends, and none takes its
    /// place for a while.
    pub(super) fn yield_one(&self) {
        let open = self.open();
        if open > 1 {
            self.relay.health().ceiling = Some((open - 1, Instant::now() + CEILING_FOR));
        }
        self.make_room.store(1, Ordering::Release);
    }

    /// Whether the session that asks is the one to end.
    pub(super) fn must_go(&self) -> bool {
        self.make_room.load(Ordering::Relaxed) > 0 && self.make_room.swap(0, Ordering::AcqRel) > 0
    }

    /// Whether work may be claimed for it.
    pub(super) fn is_ready(&self) -> bool {
        self.open() > 0 && !self.pool.is_closed()
    }

    /// Whether its first session has been being opened for a moment only. Asked while none is open.
    pub(super) fn is_just_opening(&self) -> bool {
        self.flow().opening_since.get_or_insert_with(Instant::now).elapsed() < OPENING_FOR
    }

    /// Whether somebody should look for another relay.
    pub(super) fn is_down(&self) -> bool {
        self.open() == 0 && self.relay.problem().is_some()
    }

    /// Opens sessions for what waits; at least one where there is `demand`.
    pub(super) fn staff(self: &Arc<Self>, shared: &Arc<Shared>, demand: usize) {
        if self.pool.is_closed() || shared.is_over() {
            return;
        }
        let (queued, busy) = self.pool.load();
        let wanted = (queued.max(demand) + busy).min(self.relay.sessions_allowed(self.most, self.open()));
        while self.tasks.load(Ordering::Acquire) < wanted {
            self.tasks.fetch_add(1, Ordering::AcqRel);
            let lane = self.clone();
            let server = Server::new(shared.clone(), self.clone());
            tokio::spawn(async move {
                // Also a panic gives the place back; its claim returns when the worker retires.
                let _leaving = Leaving(lane);
                server.run().await;
            });
        }
    }

    /// Comes back when no more work is taken.
    pub(super) async fn pool_closed(&self) {
        let mut ended = self.ended.subscribe();
        while !self.pool.is_closed() {
            if ended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes no more work; sessions end with the mail they are at. Answers when they have.
    pub(super) async fn drain(&self) {
        let mut ended = self.ended.subscribe();
        self.ended.send_modify(|ended| *ended += 1);
        while self.tasks.load(Ordering::Acquire) > 0 {
            if ended.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Counts one session as open.
pub(super) struct OpenSession(Arc<Lane>);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Leaving(Arc<Lane>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.send_modify(|ended| *ended += 1);
    }
}
