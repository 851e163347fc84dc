//! What holds mails back: limits of the configuration, counted in the database for all nodes
//! together, and what providers asked of us, learned from their replies.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Sender;
use super::claim::Wish;
use super::job::{Job, What};
use super::lane::Relay;
use super::status::Wait;
use crate::clock::{HOUR, MINUTE, Time};
use crate::config::{Limit, Rate};
use crate::db::{Db, DbError, Tx};
use crate::delivery::limit::{self, Buckets, Limits, Returned};
use crate::delivery::provider::{OTHER, domain_of};
use crate::delivery::throttles;
use crate::delivery::verdict::{Allowance, Scope, SlowDown, Throttle};

/// The provider's name under which a throttle of a whole relay is kept.
const WHOLE_RELAY: &str = "*";
/// A provider that asked us to slow down gets one session after its pause, and one more each time it
/// has been quiet for so long, in milliseconds (Gmail's advice: stop, then one connection, then one more
/// at a time).
const ONE_MORE_SESSION_MS: i64 = 5 * MINUTE;

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
    /// Of one domain: when its next mail may leave at the rate that it asked for.
    next_at: Time,
}

/// What a throttle is kept under: the mailbox provider, or the domain where nobody knows its provider.
/// Domains of nobody in particular must not wait for each other.
fn throttled_as(provider: &str, email: &str) -> String {
    if provider == OTHER { format!("@{}", domain_of(email).to_ascii_lowercase()) } else { provider.to_owned() }
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
                let (successes, next_at) =
                    inner.throttles.get(&key).map_or((0, Time::from_millis(0)), |known| (known.successes, known.next_at));
                let recovered = row.throttle.after_success(successes, now);
                if recovered != row.throttle {
                    better.push((key.clone(), row.throttle, recovered));
                }
                if !recovered.is_over(now) {
                    let left = if recovered == row.throttle { successes } else { 0 };
                    known.insert(key, Known { throttle: recovered, reason: row.reason, successes: left, next_at });
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

    /// A mail went through.
    pub(super) fn success(&self, relay: &str, job: &Job) {
        let mut inner = self.inner();
        if inner.throttles.is_empty() {
            return;
        }
        for kept in [throttled_as(&job.provider, &job.contact.email), WHOLE_RELAY.to_owned()] {
            if let Some(known) = inner.throttles.get_mut(&(relay.to_owned(), kept)) {
                known.successes += 1;
            }
        }
    }

    /// A provider asked us to slow down: for all nodes. Answers until when nothing is sent.
    pub(super) async fn slow_down(&self, sender: &Sender, relay: &str, job: &Job, signal: &SlowDown, reply: &str, now: Time) -> Time {
        // It is kept for days and shown to all: it says what was asked, not about whom.
        let reply = &crate::text::without_addresses(reply);
        let kept = match signal.scope {
            Scope::Provider => throttled_as(&job.provider, &job.contact.email),
            Scope::Relay => WHOLE_RELAY.to_owned(),
        };
        let provider = kept.as_str();
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
        let before = self.inner().throttles.insert(key, Known { throttle, reason: reply.to_owned(), successes: 0, next_at: now });
        if before.is_none_or(|before| before.throttle.paused_until < throttle.paused_until) {
            tracing::warn!(relay, provider, until = %throttle.paused_until, per_hour = throttle.per_hour, reply, "asked to slow down; others go on");
        }
        throttle.paused_until
    }

    /// How many mails of a provider may be in a relay's sessions on this node, or what they wait for.
    pub(super) fn allowance(&self, sender: &Sender, relay: &Relay, provider: &str, now: Time) -> Result<usize, Box<Wait>> {
        let inner = self.inner();
        let manners = sender.providers.manners(provider);
        // All nodes together: each takes its part, the first ones what does not divide, and none goes
        // without, for it may be the only one that has mails for this provider.
        let part = |connections: Option<u32>| {
            let nodes = inner.nodes.max(1);
            connections.map_or(usize::MAX, |connections| ((connections as usize + nodes - 1).saturating_sub(inner.place) / nodes).max(1))
        };
        let mut most = part(manners.connections);
        if inner.throttles.is_empty() {
            return Ok(most);
        }
        for kept in [provider, WHOLE_RELAY] {
            let Some(known) = inner.throttles.get(&(relay.name.clone(), kept.to_owned())) else { continue };
            match known.throttle.allowed(now) {
                Allowance::NotBefore(until) => {
                    let scope = if kept == WHOLE_RELAY { &relay.name } else { kept };
                    return Err(Box::new(wait(relay, provider, "provider", scope, Some(until), &known.reason)));
                }
                Allowance::AtMost { .. } => {
                    let quiet_ms = now.since(known.throttle.paused_until).max(0);
                    let so_far = 1 + usize::try_from(quiet_ms / ONE_MORE_SESSION_MS).unwrap_or(0);
                    most = most.min(so_far).min(part(manners.connections_when_asked));
                }
                Allowance::Free => {}
            }
        }
        Ok(most)
    }

    /// Whether any domain of nobody in particular asked a relay to slow down.
    pub(super) fn slows_domains(&self, relay: &str) -> bool {
        self.inner().throttles.keys().any(|(of, kept)| of == relay && kept.starts_with('@'))
    }

    /// When a mail for this address may leave, if its domain asked for patience; else it counts as
    /// sent now.
    pub(super) fn not_before(&self, relay: &str, email: &str, now: Time) -> Option<(Time, Wait)> {
        let mut inner = self.inner();
        let kept = throttled_as(OTHER, email);
        let known = inner.throttles.get_mut(&(relay.to_owned(), kept.clone()))?;
        let until = match known.throttle.allowed(now) {
            Allowance::Free => return None,
            Allowance::NotBefore(until) => until,
            Allowance::AtMost { .. } if known.next_at > now => known.next_at,
            Allowance::AtMost { per_hour } => {
                known.next_at = now.plus(HOUR / i64::try_from(per_hour.max(1)).unwrap_or(i64::MAX));
                return None;
            }
        };
        let wait = Wait {
            provider: kept.trim_start_matches('@').to_owned(),
            relay: relay.to_owned(),
            limit: "provider".to_owned(),
            scope: kept,
            until: Some(until.millis()),
            reason: known.reason.clone(),
            ..Wait::default()
        };
        Some((until, wait))
    }

    /// The rate that a provider asked of a relay: the lower one of its own and the whole relay's.
    pub(super) fn asked(&self, relay: &str, provider: &str, now: Time) -> Option<Rate> {
        let inner = self.inner();
        if inner.throttles.is_empty() {
            return None;
        }
        let rates = [provider, WHOLE_RELAY].into_iter().filter_map(|kept| {
            match inner.throttles.get(&(relay.to_owned(), kept.to_owned()))?.throttle.allowed(now) {
                Allowance::AtMost { per_hour } => Some(per_hour.max(1)),
                Allowance::NotBefore(_) | Allowance::Free => None,
            }
        });
        rates.min().map(|mails| Rate { mails, per_seconds: 3_600 })
    }

    /// What limits allow these wishes, read in the claim's transaction.
    pub(super) async fn open(&self, tx: &mut Tx, sender: &Sender, wishes: &[Wish], now: Time) -> Result<Allowed, DbError> {
        let asked = wishes.iter().map(|wish| self.asked(&wish.lane.relay.name, &wish.provider, now)).collect();
        let mut allowed = Allowed { limits: sender.limits.clone(), buckets: Buckets::default(), asked };
        let names = {
            let all: Vec<limit::Wish<'_>> = wishes.iter().enumerate().map(|(at, wish)| allowed.wish(at, wish)).collect();
            sender.limits.names(&all, now)
        };
        allowed.buckets = limit::load(tx, &names).await?;
        Ok(allowed)
    }

    /// Credits what was claimed and goes back unsent.
    pub(super) async fn give_back(&self, tx: &mut Tx, sender: &Sender, jobs: &[Job]) -> Result<(), DbError> {
        let mut groups: BTreeMap<(i64, &str, &str, Time), (u64, Limit)> = BTreeMap::new();
        for job in jobs {
            if let What::Campaign(context) = &job.what {
                let key = (context.run.id, &*job.provider, job.relay.name.as_str(), job.claimed_at);
                groups.entry(key).or_insert((0, context.definition.delivery.limit)).0 += 1;
            }
        }
        let returned: Vec<Returned<'_>> = groups
            .into_iter()
            .map(|((run, provider, relay, claimed_at), (mails, limit))| {
                let asked = self.asked(relay, provider, claimed_at);
                Returned { wish: limit::Wish { run: Some((run, limit)), provider, relay, asked }, mails, claimed_at }
            })
            .collect();
        sender.limits.give_back(tx, &returned).await
    }

    /// Counts messages against the limits of their relays: they do not wait, campaigns make room.
    pub(super) async fn count_messages(
        &self,
        tx: &mut Tx,
        sender: &Sender,
        messages: &BTreeMap<(String, Arc<str>), u64>,
        now: Time,
    ) -> Result<(), DbError> {
        let wishes: Vec<limit::Wish<'_>> =
            messages.keys().map(|(relay, provider)| limit::Wish { run: None, provider, relay, asked: None }).collect();
        let names = sender.limits.names(&wishes, now);
        let mut buckets = limit::load(tx, &names).await?;
        for (wish, count) in wishes.iter().zip(messages.values()) {
            sender.limits.debit(&mut buckets, wish, *count, now);
        }
        buckets.store(tx).await
    }
}

/// What limits allow the wishes of one claim.
pub(super) struct Allowed {
    limits: Arc<Limits>,
    buckets: Buckets,
    asked: Vec<Option<Rate>>,
}

impl Allowed {
    fn wish<'a>(&self, at: usize, wish: &'a Wish) -> limit::Wish<'a> {
        limit::Wish {
            run: Some((wish.run_id(), wish.context.definition.delivery.limit)),
            provider: &wish.provider,
            relay: &wish.lane.relay.name,
            asked: self.asked[at],
        }
    }

    /// How many mails of the wish at this place may leave now.
    pub(super) fn allowed(&self, at: usize, wish: &Wish, now: Time) -> usize {
        let allowed = self.limits.allowed(&self.buckets, &self.wish(at, wish), now);
        wish.want.min(usize::try_from(allowed).unwrap_or(usize::MAX))
    }

    /// When about half of a burst may leave: asking for each mail by itself would be a transaction each.
    pub(super) fn next_at(&self, at: usize, wish: &Wish, now: Time) -> Time {
        let wanted = self.wish(at, wish);
        let mails = (self.limits.most_at_once(&wanted, now) / 2).max(1);
        self.limits.next_at(&self.buckets, &wanted, mails, now)
    }

    /// So many of them were claimed.
    pub(super) fn take(&mut self, at: usize, wish: &Wish, claimed: usize, now: Time) {
        let wanted = self.wish(at, wish);
        self.limits.take(&mut self.buckets, &wanted, claimed as u64, now);
    }

    /// So many of those taken at this `now` are not sent after all.
    pub(super) fn give_back(&mut self, at: usize, wish: &Wish, mails: usize, now: Time) {
        if mails > 0 {
            let returned = self.wish(at, wish);
            self.limits.credit(&mut self.buckets, &returned, mails as u64, now);
        }
    }

    /// What holds the wish back.
    pub(super) fn waits(&self, at: usize, wish: &Wish, now: Time) -> Vec<Wait> {
        let waits = self.limits.waits(&self.buckets, &[self.wish(at, wish)], now);
        let shown = waits.into_iter().map(|held| Wait {
            provider: wish.provider.to_string(),
            relay: wish.lane.relay.name.clone(),
            limit: held.reason.to_owned(),
            rate: held.rate.map(|rate| rate.to_string()).unwrap_or_default(),
            until: (held.reason != "rate").then(|| held.until.millis()),
            reason: held.to_string(),
            scope: held.scope,
            ..Wait::default()
        });
        shown.collect()
    }

    /// Writes what was taken.
    pub(super) async fn store(&mut self, tx: &mut Tx) -> Result<(), DbError> {
        self.buckets.store(tx).await
    }
}

fn wait(relay: &Relay, provider: &str, limit: &str, scope: &str, until: Option<Time>, reason: &str) -> Wait {
    Wait {
        provider: provider.to_owned(),
        relay: relay.name.clone(),
        limit: limit.to_owned(),
        scope: scope.to_owned(),
        until: until.map(Time::millis),
        reason: reason.to_owned(),
        ..Wait::default()
    }
}
