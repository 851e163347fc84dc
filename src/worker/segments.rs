//! Looking at every segment once a day, on the node that keeps the house: sizes, and who came and went.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::watch;

use super::{RunError, while_keeping_house};
use crate::instance::Instance;
use crate::segment::history::{self, Looked};
use crate::segment::{self, frozen};

/// Between two looks whether a segment is due.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Before the first look: whoever has just started has something better to do, and holds no lease yet.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// Looks until the process stops. A look that is cut off goes on with the next one.
pub(super) async fn keep(instance: Arc<Instance>, holds: Arc<AtomicBool>, mut stop: watch::Receiver<bool>) {
    while_keeping_house([FIRST_LOOK, LOOK_EVERY], &holds, &mut stop, "segments were not looked at for now", || look(&instance)).await;
}

async fn look(instance: &Instance) -> Result<(), RunError> {
    let Instance { db, entropy, config, .. } = instance;
    for (name, segment) in &config.segments {
        let now = instance.clock.now();
        // The files were checked when the process started.
        let Ok(rule) = segment::rule(&segment.rule.value, &instance.catalog) else { continue };
        let looked = Looked { name, rule: &rule, members: segment.history };
        if !history::is_due(db, looked, now).await? {
            continue;
        }
        if let Some(problem) = frozen::missing(&mut db.clone(), &rule).await? {
            tracing::warn!(segment = %name, problem, "a segment cannot be looked at");
            continue;
        }
        let found = history::look(db, entropy, looked, now).await?;
        tracing::info!(segment = %name, size = found.size, joined = found.joined, departed = found.departed, "looked at a segment");
    }
    let names: BTreeSet<&str> = config.segments.keys().map(String::as_str).collect();
    Ok(history::forget_others(db, &names).await?)
}
