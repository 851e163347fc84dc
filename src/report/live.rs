//! A run while it leaves: how fast, how long still, by mailbox provider, and what waits for what.

use std::collections::BTreeMap;

use crate::clock::{SECOND, Time};
use crate::db::{Connection, DbError};
use crate::delivery::engine::{RelayStatus, Wait};
use crate::delivery::{self, State};

/// A node's account of itself that is older than this says nothing about now.
const FRESH_MS: i64 = 5 * SECOND;

/// A run under way, from the accounts of the nodes that send it and from its rows.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct RunLive {
    /// Nodes that work on it.
    pub nodes: usize,
    /// Mails a second over the last ten seconds, all nodes.
    pub per_second: f64,
    /// Seconds until the last one at this rate; `None` while nothing moves.
    pub eta_seconds: Option<i64>,
    /// By mailbox provider.
    pub by_provider: Vec<ProviderLive>,
    /// What mails wait for.
    pub waiting: Vec<Waiting>,
    /// The relays as the nodes see them: sessions added up, the problem of any.
    pub relays: BTreeMap<String, RelayStatus>,
}

/// One mailbox provider's part of a run.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct ProviderLive {
    /// Its name.
    pub provider: String,
    /// Mails a second over the last ten seconds.
    pub per_second: f64,
    /// Deliveries by state.
    #[serde(flatten)]
    pub states: BTreeMap<&'static str, i64>,
}

/// A wait as shown.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Waiting {
    /// In words: "gmail at 20/min until 14:05 UTC".
    pub text: String,
    /// In parts.
    #[serde(flatten)]
    pub wait: Wait,
}

/// A run as it leaves now.
pub async fn run_live(db: &mut impl Connection, run_id: i64, now: Time) -> Result<RunLive, DbError> {
    let mut live = RunLive::default();
    let mut rates: BTreeMap<String, f64> = BTreeMap::new();
    for (_, status) in delivery::ops::statuses(db, now).await? {
        let fresh = now.since(Time::from_millis(status.at)) < FRESH_MS;
        let Some(run) = status.runs.get(&run_id).filter(|_| fresh) else { continue };
        live.nodes += 1;
        live.per_second += run.per_second;
        for (provider, rate) in &run.per_second_by_provider {
            *rates.entry(provider.clone()).or_default() += rate;
        }
        for wait in &run.waits {
            if !live.waiting.iter().any(|known| known.wait == *wait) {
                live.waiting.push(Waiting { text: wait.to_string(), wait: wait.clone() });
            }
        }
        for (name, relay) in status.relays {
            let sum = live.relays.entry(name).or_default();
            sum.sessions += relay.sessions;
            sum.message_sessions += relay.message_sessions;
            sum.queued += relay.queued;
            sum.down_since = sum.down_since.or(relay.down_since);
            sum.problem = sum.problem.take().or(relay.problem);
        }
    }
    let mut providers: BTreeMap<String, ProviderLive> = BTreeMap::new();
    let mut left = 0;
    for (provider, state, count) in delivery::ops::counts_by_provider(db, run_id).await? {
        if matches!(state, State::Due | State::Claimed | State::Deferred) {
            left += count;
        }
        let entry = providers.entry(provider.clone()).or_insert_with(|| ProviderLive {
            per_second: rates.get(&provider).copied().unwrap_or_default(),
            provider,
            ..ProviderLive::default()
        });
        // A claimed mail is still due for whoever asks.
        let name = if state == State::Claimed { State::Due.as_str() } else { state.as_str() };
        *entry.states.entry(name).or_default() += count;
    }
    live.by_provider = providers.into_values().collect();
    live.eta_seconds = (live.per_second > 0.0 && left > 0).then(|| (left as f64 / live.per_second).ceil() as i64);
    Ok(live)
}
