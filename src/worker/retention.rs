//! Forgetting by the rules of `[retention]`, once a day, on the node that keeps the house.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::watch;

use super::while_keeping_house;
use crate::db::DbError;
use crate::instance::Instance;
use crate::rights::retention::{self, EVERY_MS, Housekeeping};

/// Between two looks whether a day is over.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// Before the first look: whoever has just started has something better to do, and holds no lease yet.
const FIRST_LOOK: Duration = Duration::from_secs(20);

/// Looks until the process stops. A run that is cut off goes on with the next one.
pub(super) async fn keep(instance: Arc<Instance>, holds: Arc<AtomicBool>, mut stop: watch::Receiver<bool>) {
    while_keeping_house([FIRST_LOOK, LOOK_EVERY], &holds, &mut stop, "nothing was forgotten for now", || look(&instance)).await;
}

async fn look(instance: &Instance) -> Result<(), DbError> {
    let Instance { db, schema, keys, entropy, config, .. } = instance;
    let now = instance.clock.now();
    if retention::last_run(&mut db.clone()).await?.is_some_and(|at| now.since(at) < EVERY_MS) {
        return Ok(());
    }
    let with = Housekeeping { db, schema, keys, entropy, kept: &config.retention };
    for found in retention::run(&with, false, now).await?.iter().filter(|found| found.count > 0) {
        tracing::info!(rule = found.rule.as_str(), count = found.count, before = found.before, "forgotten by retention");
    }
    Ok(())
}
