//! What holds mails back: limits of the configuration, counted in the database for all nodes
//! together, and what providers asked of us, learned from their replies.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::claim::Wish;
use super::job::Job;
use super::lane::Relay;
use super::status::Wait;
use super::{Sender, Shared};
use crate::clock::{MINUTE, Time};
use crate::db::{Db, DbError, Tx};
use crate::delivery::limit::Buckets;
use crate::delivery::throttles;
use crate::delivery::verdict::{Allowance, Scope, SlowDown, Throttle};

/// The provider's name under which a throttle of a whole relay is kept.
const WHOLE_RELAY: &str = "*";
/// A provider that asked us to slow down gets one session until it has been quiet for a while
/// (Gmail's advice: stop, then one connection, then one more at a time).
const SESSIONS_WHILE_THROTTLED: usize = 1;
/// Mails let through in one claim while a learned rate holds: a quarter of a minute's worth.
const LEARNED_BURST: u64 = 4;

/// What this node knows of limits that others set.
#[derive(Default)]
pub struct Governor {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    throttles: HashMap<(String, String), Known>,
    /// This worker's place among the living, from 0, and how many there are.
    place: usize,
    nodes: usize,
}

/// A throttle with what was said, and the mails that went through since it was last written.
#[derive(Debug, Clone)]
struct Known {
    throttle: Throttle,
    reason: String,
    successes: u64,
}

impl Governor {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what other nodes learned, tells them what went well here, and how many they are.
    pub(super) async fn refresh(&self, db: &Db, worker: i64, now: Time) -> Result<(), DbError> {
        let rows = throttles::all(&mut db.clone()).await?;
        let living = crate::delivery::sql::living(&mut db.clone(), now).await?;
        let mut better = Vec::new();
        {
            let mut inner = self.inner();
            inner.place = living.iter().position(|id| *id == worker).unwrap_or(0);
            inner.nodes = living.len().max(1);
            let mut known = HashMap::with_capacity(rows.len());
            for row in rows {
                let key = (row.relay, row.provider);
                let successes = inner.throttles.get(&key).map_or(0, |known| known.successes);
                let recovered = row.throttle.after_success(successes, now);
                if recovered != row.throttle {
                    better.push((key.clone(), row.throttle, recovered));
                }
                if !recovered.is_over(now) {
                    let left = if recovered == row.throttle { successes } else { 0 };
                    known.insert(key, Known { throttle: recovered, reason: row.reason, successes: left });
                }
            }
            inner.throttles = known;
        }
        for ((relay, provider), before, after) in better {
            let mut tx = db.begin().await?;
            // Another node may have had a signal since: then its word stands.
            throttles::replace(&mut tx, &relay, &provider, &before, &after, after.is_over(now)).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// A mail to this provider went through.
    pub(super) fn success(&self, relay: &str, provider: &str) {
        let mut inner = self.inner();
        if inner.throttles.is_empty() {
            return;
        }
        for provider in [provider, WHOLE_RELAY] {
            if let Some(known) = inner.throttles.get_mut(&(relay.to_owned(), provider.to_owned())) {
                known.successes += 1;
            }
        }
    }

    /// A provider asked us to slow down: for all nodes. Answers until when nothing is sent.
    pub(super) async fn slow_down(&self, sender: &Sender, relay: &str, job: &Job, signal: &SlowDown, reply: &str, now: Time) -> Time {
        let provider = match signal.scope {
            Scope::Provider => &*job.provider,
            Scope::Relay => WHOLE_RELAY,
        };
        let (all, by_provider) = job.ticket.progress().rates(now);
        let measured = match signal.scope {
            Scope::Provider => by_provider.get(&*job.provider).copied().unwrap_or(0.0),
            Scope::Relay => all,
        };
        let measured_per_hour = (measured * 3_600.0) as u64;
        let key = (relay.to_owned(), provider.to_owned());
        let written = async {
            let mut tx = sender.db.begin().await?;
            let before = throttles::locked(&mut tx, relay, provider).await?;
            let after = before.unwrap_or_default().after_signal(signal, measured_per_hour, now);
            throttles::write(&mut tx, relay, provider, &after, reply).await?;
            tx.commit().await?;
            Ok::<Throttle, DbError>(after)
        };
        let throttle = match written.await {
            Ok(throttle) => throttle,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "other nodes cannot be told to slow down yet");
                let before = self.inner().throttles.get(&key).map(|known| known.throttle).unwrap_or_default();
                before.after_signal(signal, measured_per_hour, now)
            }
        };
        let before = self.inner().throttles.insert(key, Known { throttle, reason: reply.to_owned(), successes: 0 });
        if before.is_none_or(|before| before.throttle.paused_until < throttle.paused_until) {
            tracing::warn!(relay, provider, until = %throttle.paused_until, per_hour = throttle.per_hour, reply, "asked to slow down; others go on");
        }
        throttle.paused_until
    }

    /// How many mails of a provider may be in a relay's sessions on this node, or what they wait for.
    pub(super) fn allowance(&self, sender: &Sender, relay: &Relay, provider: &str, now: Time) -> Result<usize, Wait> {
        let inner = self.inner();
        let mut most = usize::MAX;
        if let Some(connections) = sender.providers.manners(provider).connections {
            // All nodes together: each takes its part, the first ones what does not divide, and none goes
            // without, for it may be the only one that has mails for this provider.
            let nodes = inner.nodes.max(1);
            most = ((connections as usize + nodes - 1).saturating_sub(inner.place) / nodes).max(1);
        }
        if inner.throttles.is_empty() {
            return Ok(most);
        }
        for kept in [provider, WHOLE_RELAY] {
            let Some(known) = inner.throttles.get(&(relay.name.clone(), kept.to_owned())) else { continue };
            match known.throttle.allowed(now) {
                Allowance::NotBefore(until) => {
                    let scope = if kept == WHOLE_RELAY { &relay.name } else { kept };
                    return Err(wait(relay, provider, "provider", scope, String::new(), Some(until), &known.reason));
                }
                Allowance::PerHour(_) => most = most.min(SESSIONS_WHILE_THROTTLED),
                Allowance::Free => {}
            }
        }
        Ok(most)
    }

    /// The rate that was learned for a provider on a relay, mails an hour, with its bucket's name.
    fn learned(&self, relay: &str, provider: &str, now: Time) -> Vec<(String, u64, String)> {
        let inner = self.inner();
        if inner.throttles.is_empty() {
            return Vec::new();
        }
        let keys = [provider, WHOLE_RELAY];
        let found = keys.iter().filter_map(|kept| {
            let known = inner.throttles.get(&(relay.to_owned(), (*kept).to_owned()))?;
            match known.throttle.allowed(now) {
                Allowance::PerHour(per_hour) => Some((format!("learned:{relay}/{kept}"), per_hour, known.reason.clone())),
                Allowance::NotBefore(_) | Allowance::Free => None,
            }
        });
        found.collect()
    }
}
