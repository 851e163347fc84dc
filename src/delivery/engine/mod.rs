//! The sender: claims become mails, mails become outcomes, for all runs and messages at once.
//!
//! A feeder claims small batches (each with its permits, in one transaction) for whatever is due and
//! allowed: it goes round the runs and, within each, round the mailbox providers, so that a provider
//! that asks us to slow down, a relay that is down or a run that is throttled never holds up the rest.
//! Sessions take from their relay's pool, render, sign and hand over. Transactional messages have
//! a feeder, pools and sessions of their own. Nothing here holds a transaction over the network.

mod claim;
mod feeder;
mod governor;
mod job;
mod lane;
mod lease;
mod messenger;
mod pool;
mod retry;
mod session;
mod status;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, RwLock};
use tokio::task::JoinHandle;

use super::dkim::Signers;
use super::journal::Journal;
use super::limit::Limits;
use super::message::Envelope;
use super::messages::Composer;
use super::provider::{OTHER, Providers, domain_of};
use super::sql;
use crate::campaign::{Definition, Run};
use crate::clock::{Clock, Time};
use crate::config::InDoubt;
use crate::consent::tracking::TrackingRules;
use crate::contact::Schema;
use crate::content::Prepared;
use crate::db::{Db, DbError};
use crate::entropy::Entropy;
use crate::token::Keys;

pub use governor::Governor;
pub use job::{Progress, compose};
pub use lane::Relay;
pub use lease::LeaseClock;
pub use status::{RelayStatus, RunStatus, Status, Wait};

use feeder::Feed;
use job::{Job, What};
use lane::Lane;

/// Sessions of the lane of messages, for each relay and node: messages are few, and each needs one at once.
const MESSAGE_SESSIONS: usize = 4;
/// A session of a campaign without work is closed after this time: relays have better uses for it.
const CAMPAIGN_IDLE: Duration = Duration::from_secs(5);
/// A session for messages stays longer: the next one should not wait for a greeting.
const MESSAGE_IDLE: Duration = Duration::from_secs(60);

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
    /// Told when this process accepts a message, so that it leaves at once.
    pub message_accepted: Arc<Notify>,
    /// Writes messages.
    pub composer: Composer,
    /// Sign mails.
    pub signers: Arc<Signers>,
    /// Declared attributes.
    pub schema: Schema,
    /// How people are tracked who chose nothing.
    pub tracking: TrackingRules,
    /// Public base address.
    pub site: String,
    /// The servers that take our mails.
    pub relays: Vec<Arc<Relay>>,
    /// Which domains belong together, and how they like to be treated.
    pub providers: Arc<Providers>,
    /// What the configuration allows.
    pub limits: Arc<Limits>,
    /// The name we greet with.
    pub hello: String,
    /// What happens to lost replies.
    pub in_doubt: InDoubt,
    /// Waits between tries, in seconds; the last one repeats.
    pub retry_seconds: Vec<u32>,
    /// Hours from a run's start after which a deferred mail is given up.
    pub retry_hours: u32,
    /// How long a worker that does not answer keeps its place, in milliseconds.
    pub lease_ms: i64,
}

/// What the tasks of one engine share.
pub(super) struct Shared {
    sender: Arc<Sender>,
    journal: Journal,
    worker: i64,
    lease: Arc<LeaseClock>,
    governor: Governor,
    campaigns: Vec<Arc<Lane>>,
    messages: Vec<Arc<Lane>>,
    /// The lane of messages in numbers.
    message_progress: Arc<Progress>,
    runs: Mutex<BTreeMap<i64, Feed>>,
    /// Runs that should be paused, with the reason.
    alarms: Mutex<BTreeMap<i64, String>>,
    /// Their claims, until the feeder has given them back.
    stopped: Mutex<Vec<Job>>,
    /// What waits for a limit or a pause, as of the last rounds.
    waits: Mutex<Vec<(Time, Wait)>>,
    /// Wakes the feeder of campaigns.
    wake: Arc<Notify>,
    /// Wakes the feeder of messages.
    message_wake: Arc<Notify>,
    over: AtomicBool,
    fenced: AtomicBool,
    /// A claim's fate is unknown (its commit failed): once nothing is live, claims are compared.
    strays: AtomicBool,
    /// Shared by whoever claims, from the question to the pool; alone for whoever compares claims.
    claiming: RwLock<()>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.fenced.load(Ordering::Acquire)
    }

    fn fence(&self) {
        self.fenced.store(true, Ordering::Release);
        self.wake.notify_one();
        self.message_wake.notify_one();
    }

    /// Stops a run at once, until somebody looks at it: whatever waits would only fail as well.
    fn alarm(&self, job: &Job, reason: String) {
        let What::Campaign(context) = &job.what else { return };
        let run_id = context.run.id;
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner).entry(run_id).or_insert(reason);
        if let Some(feed) = self.runs().get_mut(&run_id) {
            feed.leaving = true;
        }
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.extend(self.campaigns.iter().flat_map(|lane| lane.pool.remove(|job| job.run_id() == Some(run_id))));
        self.wake.notify_one();
    }

    /// A session for messages did not come about: where campaigns hold all that the relay takes, one of
    /// theirs ends. Answers whether that is so.
    fn make_room_for(&self, lane: &Arc<Lane>) -> bool {
        let for_messages = self.messages.iter().any(|known| Arc::ptr_eq(known, lane));
        if !for_messages || lane.open() > 0 {
            return false;
        }
        let holding = self.campaigns.iter().find(|known| Arc::ptr_eq(&known.relay, &lane.relay) && known.open() > 0);
        holding.inspect(|campaigns| campaigns.yield_one()).is_some()
    }

    /// Nothing more of this provider (or of anybody) is taken from the relay's pools for campaigns, until
    /// the feeder has looked: see `withdraw_paused`.
    fn hold(&self, relay: &str, provider: Option<&str>) {
        self.campaigns.iter().filter(|lane| lane.relay.name == relay).for_each(|lane| lane.pool.hold(provider));
        self.wake.notify_one();
    }

    /// The same for one domain whose provider nobody knows: its mails go back, and are put off when they
    /// are claimed again.
    fn hold_domain(&self, relay: &str, email: &str) {
        let domain = domain_of(email);
        let of_domain = |job: &Job| &*job.provider == OTHER && domain_of(&job.contact.email).eq_ignore_ascii_case(domain);
        let lanes = self.campaigns.iter().filter(|lane| lane.relay.name == relay);
        let jobs: Vec<Job> = lanes.flat_map(|lane| lane.pool.remove(of_domain)).collect();
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).extend(jobs);
        self.wake.notify_one();
    }

    /// Claims of runs that were stopped at once, to be given back.
    fn take_stopped(&self) -> Vec<Job> {
        std::mem::take(&mut *self.stopped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<i64, Feed>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns claims of which nothing was handed over, with what they took from the limits.
    async fn give_back(&self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
        let now = self.sender.clock.now();
        let returned = async {
            let mut tx = self.sender.db.begin().await?;
            sql::return_claims(&mut tx, self.worker, Some(&ids), now).await?;
            self.governor.give_back(&mut tx, &self.sender, &jobs).await?;
            tx.commit().await
        };
        if let Err(error) = returned.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "claims cannot be given back yet");
            self.strays.store(true, Ordering::Release);
        }
        for feed in self.runs().values_mut() {
            feed.look_again();
        }
    }

    /// Deliveries claimed here whose outcome is not durable yet.
    fn live(&self) -> usize {
        let runs: usize = self.runs().values().map(|feed| feed.progress.live()).sum();
        runs + self.message_progress.live()
    }
}

/// Which lanes an engine serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Transactional messages too, not only the runs it is given.
    pub messages: bool,
}

/// A running sender.
pub struct Engine {
    shared: Arc<Shared>,
    feeders: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the tasks of `worker`, which has its place in the table of workers.
    pub fn start(sender: Arc<Sender>, journal: Journal, worker: i64, lease: Arc<LeaseClock>, lanes: Lanes) -> Engine {
        let wake = Arc::new(Notify::new());
        let message_wake = sender.message_accepted.clone();
        let campaigns = sender.relays.iter().filter(|relay| relay.config.campaigns);
        let campaigns = campaigns.map(|relay| {
            let most = relay.config.connections.max(1) as usize;
            Lane::new(relay.clone(), most, CAMPAIGN_IDLE, wake.clone())
        });
        let messages = sender.relays.iter().filter(|relay| relay.config.messages && lanes.messages);
        let messages = messages.map(|relay| {
            let most = MESSAGE_SESSIONS.min(relay.config.connections.max(1) as usize);
            Lane::new(relay.clone(), most, MESSAGE_IDLE, message_wake.clone())
        });
        let shared = Arc::new(Shared {
            campaigns: campaigns.collect(),
            messages: messages.collect(),
            governor: Governor::default(),
            message_progress: Arc::default(),
            runs: Mutex::default(),
            alarms: Mutex::default(),
            stopped: Mutex::default(),
            waits: Mutex::default(),
            wake,
            message_wake,
            over: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            strays: AtomicBool::new(false),
            claiming: RwLock::default(),
            sender,
            journal,
            worker,
            lease,
        });
        let mut feeders = vec![tokio::spawn(feeder::feed(shared.clone()))];
        if lanes.messages {
            feeders.push(tokio::spawn(messenger::feed(shared.clone())));
        }
        Engine { shared, feeders: Mutex::new(feeders) }
    }

    /// Adds a run whose mails are to leave. Its numbers go into `progress`.
    pub fn add(&self, context: Arc<RunContext>, progress: Arc<Progress>) {
        self.shared.runs().entry(context.run.id).or_insert_with(|| {
            progress.forgive();
            Feed::new(context, progress)
        });
        self.shared.wake.notify_one();
    }

    /// The runs it works on.
    pub fn run_ids(&self) -> Vec<i64> {
        self.shared.runs().keys().copied().collect()
    }

    /// A run's numbers on this node.
    pub fn progress(&self, run_id: i64) -> Option<Arc<Progress>> {
        self.shared.runs().get(&run_id).map(|feed| feed.progress.clone())
    }

    /// Whether nothing of this run is due now or under way on this node.
    pub fn is_dry(&self, run_id: i64) -> bool {
        self.shared.runs().get(&run_id).is_none_or(|feed| feed.progress.dry.load(Ordering::Acquire) && feed.progress.live() == 0)
    }

    /// When the run's mails may leave again, where limits and pauses hold back all that is due.
    pub fn waits_until(&self, run_id: i64) -> Option<Time> {
        self.shared.runs().get(&run_id).and_then(Feed::waits_until)
    }

    /// Looks at the run's rows again: something may be due that was not.
    pub fn look_again(&self, run_id: i64) {
        if let Some(feed) = self.shared.runs().get_mut(&run_id) {
            feed.look_again();
        }
        self.shared.wake.notify_one();
    }

    /// Ends work on a run: what waits is given back, conversations under way end by themselves.
    pub async fn remove(&self, run_id: i64) {
        // Kept until its last conversation has ended, so that its live mails stay counted.
        if let Some(feed) = self.shared.runs().get_mut(&run_id) {
            feed.leaving = true;
        }
        let of_run = |job: &Job| job.run_id() == Some(run_id);
        let mut jobs: Vec<Job> = self.shared.campaigns.iter().flat_map(|lane| lane.pool.remove(of_run)).collect();
        jobs.extend(self.shared.take_stopped());
        self.shared.give_back(jobs).await;
        self.shared.runs().retain(|id, feed| *id != run_id || feed.progress.live() > 0);
    }

    /// Runs that should be paused since the last question, with the reason.
    pub fn alarms(&self) -> BTreeMap<i64, String> {
        std::mem::take(&mut *self.shared.alarms.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether another worker took our place.
    pub fn is_fenced(&self) -> bool {
        self.shared.fenced.load(Ordering::Acquire)
    }

    /// Gives back claims that stand in the database and that nobody here knows of, once it is quiet
    /// enough to tell them. Answers whether it did.
    pub async fn settle_strays(&self) -> bool {
        let shared = &self.shared;
        if !shared.strays.load(Ordering::Acquire) {
            return false;
        }
        // A claim made meanwhile would be given back as well, and its mails would be sent twice.
        let Ok(_alone) = shared.claiming.try_write() else { return false };
        if shared.live() > 0 || !shared.journal.settle_strays(shared.sender.in_doubt).await {
            return false;
        }
        shared.strays.store(false, Ordering::Release);
        true
    }

    /// What the relays said when none of them could be reached; `None` while one can.
    pub fn relay_problem(&self) -> Option<(Time, String)> {
        let down: Vec<_> = self.shared.campaigns.iter().filter(|lane| lane.is_down()).filter_map(|lane| lane.relay.problem()).collect();
        (down.len() == self.shared.campaigns.len()).then(|| down.into_iter().min_by_key(|(since, _)| *since)).flatten()
    }

    /// What this node does now.
    pub fn status(&self) -> Status {
        status::of(&self.shared)
    }

    /// Reads what other nodes learned and counted: throttles, and this node's share of what is allowed
    /// at a time.
    pub async fn refresh(&self) -> Result<(), DbError> {
        let now = self.shared.sender.clock.now();
        self.shared.governor.refresh(&self.shared.sender.db, self.shared.worker, now).await
    }

    /// Ends: no more claims, conversations end, what waits is given back.
    pub async fn stop(&self) {
        self.shared.over.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        self.shared.message_wake.notify_one();
        let feeders = std::mem::take(&mut *self.feeders.lock().unwrap_or_else(PoisonError::into_inner));
        for feeder in feeders {
            if let Err(error) = feeder.await {
                tracing::error!(%error, "a feeder panicked; its claims return when the worker retires");
            }
        }
        let lanes: Vec<Arc<Lane>> = self.shared.campaigns.iter().chain(&self.shared.messages).cloned().collect();
        let mut left: Vec<Job> = lanes.iter().flat_map(|lane| lane.pool.close()).collect();
        left.extend(self.shared.take_stopped());
        self.shared.give_back(left).await;
        for lane in lanes {
            lane.drain().await;
        }
    }
}
