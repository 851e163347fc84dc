//! What one node does for all: schedules, confirmations, recovery, what may be forgotten; and who is
//! behind which domain, which one node finds out and all others read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::digests::Digests;
use super::responses::Responses;
use super::welcomes::Welcomes;
use super::{RunError, lease, ledger, questions, rest, retention, schedules, segments, send};
use crate::clock::{HOUR, SECOND, Time};
use crate::consent::{repeats, requests, suppression};
use crate::delivery::mx::{self, Learner, Resolver};
use crate::delivery::{limit, throttles};
use crate::instance::Instance;

/// The lease of whoever fires schedules and settles what stopped workers left.
pub(super) const HOUSE: &str = "house";
/// How often limits and requests that are long over are dropped, in milliseconds.
const FORGET_EVERY_MS: i64 = HOUR;
/// Between two rounds of look-ups while there are domains to look up: fifty each, which no name server
/// feels.
const LEARN_EVERY: Duration = Duration::from_secs(2);
/// Between two looks for new people's domains, or at what another node has learned.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How soon a node that has just got the lease begins to look up.
const WAIT_FOR_LEASE: Duration = Duration::from_secs(1);

/// Keeps the house while this node holds its lease; on another one as soon as the lease of the first is
/// over.
pub(super) async fn keep(instance: Arc<Instance>, place: Arc<AtomicI64>, mut stop: watch::Receiver<bool>) {
    let mut first = true;
    let lease_ms = i64::from(instance.config.delivery.lease_seconds) * SECOND;
    let mut renewed_at = None;
    let mut forgotten_at: Option<Time> = None;
    let mut held = None;
    let (mut welcomes, mut digests) = (Welcomes::default(), Digests::default());
    let mut responses = Responses::new(&instance.config);
    let holds = Arc::new(AtomicBool::new(false));
    let learning = tokio::spawn(learn(instance.clone(), holds.clone(), stop.clone()));
    // Beside the rounds: it may take longer than a lease.
    let forgetting = tokio::spawn(retention::keep(instance.clone(), holds.clone(), stop.clone()));
    let looking = tokio::spawn(segments::keep(instance.clone(), holds.clone(), stop.clone()));
    while !*stop.borrow() {
        let now = instance.clock.now();
        let holder = place.load(Ordering::Acquire);
        if renewed_at.is_none_or(|at| now.since(at) > lease_ms / 4 || held.is_none()) {
            held = lease::take(&instance.db, HOUSE, holder, lease_ms, now).await.unwrap_or_else(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "the lease for schedules cannot be taken");
                None
            });
            renewed_at = Some(now);
            holds.store(held.is_some(), Ordering::Release);
        }
        if let Some(held) = held {
            let recovered = send::recover(&instance).await;
            // Before schedules: whose pause is over today gets what is sent today.
            let caught_up = ledger::catch_up(&instance).await;
            let fired = schedules::fire(&instance, held, first).await;
            let asked = questions::ask(&instance).await;
            let welcomed = welcomes.send(&instance).await;
            let collected = digests.send(&instance).await;
            let computed = responses.round(&instance).await;
            let expired = suppression::expire(&instance.db, now).await.map(drop).map_err(RunError::from);
            let mut forgotten = Ok(());
            let mut signed = Ok(());
            if forgotten_at.is_none_or(|at| now.since(at) > FORGET_EVERY_MS) {
                forgotten_at = Some(now);
                forgotten = forget(&instance, now).await;
                signed = ledger::sign(&instance).await;
            }
            for failed in [recovered, caught_up, fired, asked, welcomed, collected, computed, expired, forgotten, signed]
                .into_iter()
                .filter_map(Result::err)
            {
                tracing::warn!(error = &failed as &dyn std::error::Error, "this round failed; the next one tries again");
            }
            first = false;
        }
        rest(&mut stop).await;
    }
    if let Err(error) = forgetting.await {
        tracing::error!(%error, "retention did not run any more");
    }
    if let Err(error) = looking.await {
        tracing::error!(%error, "segments were no longer looked at");
    }
    if let Err(error) = learning.await {
        tracing::error!(%error, "domains were no longer looked up");
    }
    if let Err(error) = lease::give_up(&instance.db, HOUSE, place.load(Ordering::Acquire)).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "another node takes over the schedules when the lease is over");
    }
}

/// Drops what limits and providers' requests left days ago.
async fn forget(instance: &Instance, now: Time) -> Result<(), RunError> {
    let mut tx = instance.db.begin().await?;
    limit::forget(&mut tx, now).await?;
    throttles::forget(&mut tx, now).await?;
    requests::forget(&mut tx, now).await?;
    repeats::forget(&mut tx, now).await?;
    Ok(tx.commit().await?)
}

/// Looks up who is behind the domains of contacts while this node keeps the house; else reads what the
/// one that does has learned. Never in anybody's way: mails go out without it.
async fn learn(instance: Arc<Instance>, holds: Arc<AtomicBool>, mut stop: watch::Receiver<bool>) {
    let settings = &instance.config.delivery;
    let resolver = settings.resolver.map(Resolver::at).or_else(Resolver::system).filter(|_| settings.mx_lookups);
    let learning = async {
        let mut learner = Learner::default();
        let mut wait = WAIT_FOR_LEASE;
        loop {
            tokio::time::sleep(wait).await;
            let done = match &resolver {
                Some(resolver) if holds.load(Ordering::Acquire) => {
                    let learned = learner.learn(&instance.db, &instance.providers, resolver, instance.clock.now()).await;
                    learned.map(|learned| if learned.is_idle() { LOOK_EVERY } else { LEARN_EVERY })
                }
                _ => mx::load(&instance.db).await.map(|known| {
                    instance.providers.remember(known);
                    LOOK_EVERY
                }),
            };
            wait = done.unwrap_or_else(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "the domains' providers cannot be looked up for now");
                LOOK_EVERY
            });
        }
    };
    tokio::select! {
        () = learning => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
