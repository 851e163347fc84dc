//! A worker's place: its row in the table of workers, its journal, its lease, its engine.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::RunError;
use crate::delivery::engine::{Engine, Lanes, LeaseClock, Sender};
use crate::delivery::journal::Journal;
use crate::delivery::ops as deliveries;
use crate::instance::Instance;

/// A row in the table of workers, with what hangs on it. Lost when another node declares us dead (we
/// slept, or the database was away for longer than the lease); then a new one is taken.
pub(super) struct Station {
    pub(super) id: i64,
    pub(super) journal: Journal,
    pub(super) engine: Arc<Engine>,
    journal_task: JoinHandle<()>,
    heartbeat: JoinHandle<()>,
}

impl Station {
    pub(super) async fn take(instance: &Arc<Instance>, sender: &Arc<Sender>, lanes: Lanes) -> Result<Station, RunError> {
        let lease = Arc::new(LeaseClock::new(sender.lease_ms));
        let now = instance.clock.now();
        let id = deliveries::register(&instance.db, &super::process_name(), sender.lease_ms, &instance.entropy, now).await?;
        let (journal, journal_task) =
            Journal::start(instance.db.clone(), instance.clock.clone(), instance.entropy.clone(), id, lease.clone());
        let engine = Arc::new(Engine::start(sender.clone(), journal.clone(), id, lease.clone(), lanes));
        // Before the first claim: what providers asked of other nodes, or of us before a restart, holds.
        engine.refresh().await?;
        let heartbeat = tokio::spawn(keep_lease(instance.clone(), id, lease, engine.clone()));
        Ok(Station { id, journal, engine, journal_task, heartbeat })
    }

    /// Conversations end, claims are returned, the journal is folded.
    pub(super) async fn leave(self, instance: &Instance) -> Result<(), RunError> {
        self.engine.stop().await;
        self.heartbeat.abort();
        // The heartbeat may hold the engine, and with it the journal, for a moment longer.
        let _ = self.heartbeat.await;
        drop(self.engine);
        drop(self.journal);
        // It ends by itself once nobody can ask it any more.
        let _ = self.journal_task.await;
        deliveries::retire(&instance.db, self.id, instance.config.delivery.in_doubt, instance.clock.now()).await?;
        Ok(())
    }
}

/// Renews the lease, tells others what this node does, and reads what they learned.
async fn keep_lease(instance: Arc<Instance>, id: i64, lease: Arc<LeaseClock>, engine: Arc<Engine>) {
    let every = lease.renew_every().min(std::time::Duration::from_secs(1));
    loop {
        let mark = lease.mark();
        let status = serde_json::to_string(&engine.status()).unwrap_or_default();
        match deliveries::renew(&instance.db, id, lease.length_ms(), Some(&status), instance.clock.now()).await {
            Ok(true) => lease.renewed(mark),
            // The journal notices by itself and stops the sessions.
            Ok(false) => tracing::error!(worker = id, "this worker was declared dead by another one"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the lease could not be renewed"),
        }
        if let Err(error) = engine.refresh().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "what other nodes learned cannot be read");
        }
        tokio::time::sleep(every).await;
    }
}
