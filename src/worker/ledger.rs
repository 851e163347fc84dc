//! What time does to the ledger: pauses that are over, and signed checkpoints.

use std::path::Path;

use super::RunError;
use crate::clock::HOUR;
use crate::consent::checkpoint::{self, Checkpoint, Signer};
use crate::consent::ops as consents;
use crate::instance::Instance;

/// Ends the pauses and implied consents whose date has come. Most of the time there are none, and this writes
/// nothing.
pub(super) async fn catch_up(instance: &Instance) -> Result<(), RunError> {
    let now = instance.clock.now();
    while consents::anything_over(&mut instance.db.clone(), now).await? {
        let mut tx = instance.db.begin().await?;
        let written = consents::catch_up(&mut tx, now).await?;
        tx.commit().await?;
        if written == 0 {
            break;
        }
        tracing::info!(entries = written, "pauses and implied consents that are over were ended");
    }
    Ok(())
}

/// Signs the head of the ledger once in `checkpoint_hours`, where it moved: beside the ledger, and as a file in
/// `checkpoint_dir`. Called every hour.
pub(super) async fn sign(instance: &Instance) -> Result<(), RunError> {
    let settings = &instance.config.consent;
    let (hours, now) = (i64::from(settings.checkpoint_hours), instance.clock.now());
    let last = checkpoint::last(&mut instance.db.clone()).await?;
    // A round is a little longer than an hour: half of one is forgiven, or every second one would be missed.
    if hours == 0 || last.is_some_and(|(_, at)| now.since(at) < hours * HOUR - HOUR / 2) {
        return Ok(());
    }
    let mut tx = instance.db.begin().await?;
    let signed = checkpoint::of_head(&mut tx, &Signer::new(&instance.keys), now).await?;
    if signed.seq <= last.map_or(0, |(seq, _)| seq) {
        return Ok(());
    }
    checkpoint::keep(&mut tx, &signed, now).await?;
    tx.commit().await?;
    tracing::info!(entries = signed.seq, "a checkpoint of the ledger was signed");
    if let Some(dir) = &settings.checkpoint_dir {
        let dir = instance.config.dir.join(dir);
        if let Err(error) = write(&dir, &signed) {
            tracing::warn!(%error, folder = %dir.display(), "the checkpoint could not be written as a file; it is kept beside the ledger");
        }
    }
    Ok(())
}

/// Whole or not at all.
fn write(dir: &Path, signed: &Checkpoint) -> Result<(), std::io::Error> {
    std::fs::create_dir_all(dir)?;
    let text = serde_json::to_string_pretty(signed)? + "\n";
    let name = format!("checkpoint-{:012}.json", signed.seq);
    let unfinished = dir.join(format!(".{name}.tmp"));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, dir.join(name))
}
