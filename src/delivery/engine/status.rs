//! What a node does now, for whoever watches: `run show`, metrics, progress bars.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;

use super::Shared;
use crate::clock::{SECOND, Time};

/// A wait that no round repeated for so long is over.
const WAIT_SHOWN_MS: i64 = 3 * SECOND;
/// Waits named at most: one for each provider of each run is plenty.
const MAX_WAITS: usize = 200;

/// A node's own account of itself, stored with its place among the workers.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Status {
    /// When it was written, milliseconds since 1970.
    pub at: i64,
    /// Runs under way.
    pub runs: BTreeMap<i64, RunStatus>,
    /// Relays, by name.
    pub relays: BTreeMap<String, RelayStatus>,
    /// Transactional messages under way.
    pub messages_live: usize,
    /// Transactional messages a second, over the last ten.
    pub messages_per_second: f64,
}

/// One run on one node.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct RunStatus {
    /// Mails a second over the last ten.
    pub per_second: f64,
    /// The same by mailbox provider.
    pub per_second_by_provider: BTreeMap<String, f64>,
    /// Claimed, outcome not durable yet.
    pub live: usize,
    /// What holds it back.
    pub waits: Vec<Wait>,
}

/// One relay on one node.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct RelayStatus {
    /// Open sessions of campaigns.
    pub sessions: usize,
    /// Open sessions of messages.
    pub message_sessions: usize,
    /// Mails waiting for a session.
    pub queued: usize,
    /// Since when it is out of reach, milliseconds since 1970.
    pub down_since: Option<i64>,
    /// What was heard last while it is out of reach.
    pub problem: Option<String>,
}

/// Something that mails wait for.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Wait {
    /// The run that waits.
    #[serde(skip)]
    pub run: i64,
    /// The mailbox provider whose mails wait.
    pub provider: String,
    /// The relay they wait for.
    pub relay: String,
    /// What holds them back: `rate`, `day`, `warm-up`, `provider` (it asked us to slow down).
    pub limit: String,
    /// Whose limit it is, as named in the configuration.
    pub scope: String,
    /// How fast they go meanwhile, such as `20/min`; empty when not at all.
    pub rate: String,
    /// Until when, milliseconds since 1970; `None` while it holds as long as there is mail.
    pub until: Option<i64>,
    /// What was said, where somebody said something.
    pub reason: String,
}

/// "gmail at 20/min until 14:05 UTC (421 4.7.28 ..)".
impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.limit != "provider" && !self.reason.is_empty() {
            // A limit of the configuration says itself whom it is about.
            return if self.reason.starts_with(&self.provider) {
                f.write_str(&self.reason)
            } else {
                write!(f, "{}: {}", self.provider, self.reason)
            };
        }
        f.write_str(&self.provider)?;
        if !self.rate.is_empty() {
            write!(f, " at {}", self.rate)?;
        }
        if let Some(until) = self.until {
            let until = Time::from_millis(until).to_string();
            write!(f, " until {} UTC", until.get(11..16).unwrap_or(&until))?;
        }
        match self.limit.as_str() {
            "provider" => write!(f, " (asked to slow down: {})", self.reason),
            _ if self.reason.is_empty() => write!(f, " ({} of {})", self.limit, self.scope),
            _ => write!(f, " ({})", self.reason),
        }
    }
}

impl Shared {
    /// Keeps in mind what a run waits for.
    pub(super) fn note_wait(&self, run: i64, wait: Wait, now: Time) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.retain(|(at, old)| {
            now.since(*at) < WAIT_SHOWN_MS && !(old.run == run && old.provider == wait.provider && old.relay == wait.relay)
        });
        if waits.len() < MAX_WAITS {
            waits.push((now, Wait { run, ..wait }));
        }
    }
}

pub(super) fn of(shared: &Shared) -> Status {
    let now = shared.sender.clock.now();
    let waits = shared.waits.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut status = Status {
        at: now.millis(),
        messages_live: shared.message_progress.live(),
        messages_per_second: shared.message_progress.rates(now).0,
        ..Status::default()
    };
    for (id, feed) in shared.runs().iter() {
        let (per_second, per_second_by_provider) = feed.progress.rates(now);
        let of_run = waits.iter().filter(|(at, wait)| wait.run == *id && now.since(*at) < WAIT_SHOWN_MS);
        status.runs.insert(
            *id,
            RunStatus {
                per_second,
                per_second_by_provider,
                live: feed.progress.live(),
                waits: of_run.map(|(_, wait)| wait.clone()).collect(),
            },
        );
    }
    for lane in &shared.campaigns {
        let relay = status.relays.entry(lane.relay.name.clone()).or_default();
        relay.sessions = lane.open();
        relay.queued = lane.pool.load().0;
    }
    for lane in &shared.messages {
        status.relays.entry(lane.relay.name.clone()).or_default().message_sessions = lane.open();
    }
    for relay in &shared.sender.relays {
        if let (Some((since, problem)), Some(entry)) = (relay.problem(), status.relays.get_mut(&relay.name)) {
            entry.down_since = Some(since.millis());
            entry.problem = Some(problem);
        }
    }
    status
}
