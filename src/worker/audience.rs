//! Who gets a run's mail: written before the first one leaves.

use std::sync::Arc;

use tokio::sync::watch;

use super::{RunError, definition_of};
use crate::campaign::ops::{self as runs, CommandError};
use crate::campaign::{Command, Run, RunState};
use crate::consent::{Tracking, suppression};
use crate::contact;
use crate::delivery::engine::{RunContext, Sender, compose};
use crate::delivery::ops as deliveries;
use crate::instance::Instance;
use crate::segment;

/// People whose mail is rendered before the first one leaves: when it fails for all of them, the
/// run does not start.
const SAMPLE: i64 = 20;
/// So many more when the first ones fail: those who lack an attribute may stand side by side.
const LARGE_SAMPLE: i64 = 5_000;
/// Read at a time.
const SAMPLE_BLOCK: usize = 500;

/// Writes the deliveries of a run's audience, block by block, until it is complete or somebody says
/// stop.
pub(super) async fn write(instance: &Instance, sender: &Sender, mut run: Run, stop: &watch::Receiver<bool>) -> Result<(), RunError> {
    let definition = definition_of(&run)?;
    let now = run.scheduled_at.max(run.started_at.unwrap_or(run.scheduled_at));
    let rule = instance
        .audience(definition.audience.as_deref())
        .map_err(|errors| RunError::Refused(errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")))?;
    if let Some(problem) = segment::frozen::missing(&mut instance.db.clone(), &rule).await? {
        return Err(RunError::Refused(problem));
    }
    // One `now` for the whole audience: a block written after a restart means the same.
    let sql = segment::compile_for_blocks(&rule, instance.db.dialect(), now, 4);
    if run.audience_cursor == 0 {
        suppression::expire(&instance.db, instance.clock.now()).await?;
        // Also where no server runs that keeps the house.
        super::ledger::catch_up(instance).await?;
        super::responses::Responses::new(&instance.config).catch_up(instance, stop).await?;
        runs::freshen_statistics(&instance.db).await?;
    }
    loop {
        if *stop.borrow() {
            return Ok(());
        }
        let mut tx = instance.db.begin().await?;
        // Locked: two workers may write one audience, block after block in turn.
        match runs::run_locked(&mut tx, run.id).await? {
            Some(current) if current.state == RunState::Preparing => run = current,
            _ => return Ok(()),
        }
        if !run.audience_done {
            let picked = runs::next_audience_block(&mut tx, &mut run, &sql).await?;
            let rows: Vec<(i64, Arc<str>)> =
                picked.iter().map(|picked| (picked.contact_id, Arc::from(sender.providers.of(picked.domain())))).collect();
            deliveries::enqueue(&mut tx, run.id, &rows, run.scheduled_at, &instance.entropy, instance.clock.now()).await?;
        }
        crate::fault::point("audience_half");
        tx.commit().await?;
        if run.audience_done {
            tracing::info!(run = run.id, campaign = run.campaign, audience = run.audience, "audience written");
            return match runs::command(&instance.db, run.id, Command::AudienceWritten, None, instance.clock.now()).await {
                // Paused or cancelled in this moment: whoever looks next sees it.
                Ok(_) | Err(CommandError::Impossible { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
    }
}

/// Renders for the first people; when that fails for every one of them, the run fails before the
/// first mail.
pub(super) async fn look_before_first_mail(instance: &Instance, sender: &Sender, context: &RunContext) -> Result<(), RunError> {
    let mut first_problem = None;
    let mut looked_at = 0;
    for sample in [SAMPLE, LARGE_SAMPLE] {
        let ids = deliveries::sample_contacts(&mut instance.db.clone(), context.run.id, sample).await?;
        for ids in ids.get(looked_at..).unwrap_or_default().chunks(SAMPLE_BLOCK) {
            for person in contact::sql::by_ids(&mut instance.db.clone(), &instance.schema, ids).await? {
                match compose(sender, context, &person, None, Tracking::Full, 1, instance.clock.now()) {
                    Ok(_) => return Ok(()),
                    Err(problem) => drop(first_problem.get_or_insert(problem)),
                }
            }
        }
        looked_at = ids.len();
    }
    if first_problem.is_none() {
        return Ok(());
    }
    // With mails already out, the template works for somebody: those who fail are skipped one by one.
    let counts = deliveries::counts(&mut instance.db.clone(), context.run.id).await?;
    if counts.iter().any(|(state, _, _)| *state == crate::delivery::State::Sent) {
        return Ok(());
    }
    Err(RunError::Refused(format!("the mail cannot be written for anybody: {}", first_problem.unwrap_or_default())))
}
