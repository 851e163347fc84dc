//! The loop: bounded activities that may run twice, woken by time. Each reads what the stage before
//! it committed, so any of them can stop anywhere and be run again.

mod confirm;
mod process;
mod send;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::campaign::Definition;
use crate::campaign::ops::{self as runs, NewRun, Timing};
use crate::consent;
use crate::content;
use crate::instance::Instance;

pub use process::{name as process_name, runs as process_runs};
pub use send::{Ending, PassOptions, RunError, Worker, prepare_context, render_again, start_run};

/// How often the loop looks for work.
const TICK: Duration = Duration::from_millis(500);

/// Runs everything that is not a page until `stop` turns true: recovery, schedules, runs.
pub async fn work(instance: Arc<Instance>, mut stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let worker = Worker::start(instance.clone()).await?;
    let mut first = true;
    while !*stop.borrow() {
        if let Err(error) = tick(&instance, &worker, &stop, first).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "this round failed; the next one tries again");
        }
        first = false;
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = stop.changed() => {}
        }
    }
    worker.stop().await
}

async fn tick(instance: &Arc<Instance>, worker: &Worker, stop: &watch::Receiver<bool>, first: bool) -> Result<(), RunError> {
    worker.recover().await?;
    confirm::send_due(instance).await?;
    fire_schedules(instance, first).await?;
    for run in runs::open_runs(&mut instance.db.clone(), instance.clock.now()).await? {
        if *stop.borrow() {
            break;
        }
        match worker.pass(run.id, &PassOptions::default(), stop.clone()).await {
            Ok(_) => {}
            Err(RunError::Refused(reason)) => tracing::error!(run = run.id, campaign = run.campaign, reason, "the run cannot go on"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a run of every campaign whose schedule fires now.
async fn fire_schedules(instance: &Arc<Instance>, first: bool) -> Result<(), RunError> {
    for campaign in instance.config.campaigns.values() {
        let Some(schedule) = &campaign.schedule else { continue };
        let timing = Timing::new(schedule).map_err(RunError::Refused)?;
        let now = instance.clock.now();
        if !runs::wants_look(&mut instance.db.clone(), &campaign.name, &timing, now).await? && !first {
            continue;
        }
        let mut tx = instance.db.begin().await?;
        let due = runs::due_firing(&mut tx, &campaign.name, &timing, now).await?;
        if let Some(at) = due {
            let definition = Definition::new(&instance.config, campaign);
            let links = links_of(&definition, instance)?;
            let topic_id = consent::ops::topic_id(&mut tx, &definition.topic, &instance.entropy, now).await?;
            let new = NewRun { definition: &definition, topic_id, firing: &at.to_string(), scheduled_at: at, links: &links };
            let made = runs::create_run(&mut tx, new, &instance.entropy, now).await?;
            if let Some(run) = made {
                tracing::info!(run = run.id, campaign = run.campaign, at = %at, "a scheduled run begins");
            }
        } else if first {
            let next = timing.next_after(now).map_or_else(|| "never again".to_owned(), |time| time.to_string());
            tracing::info!(campaign = campaign.name, next, "schedule");
        }
        tx.commit().await?;
    }
    Ok(())
}

fn links_of(definition: &Definition, instance: &Instance) -> Result<Vec<(i64, String, String)>, RunError> {
    let prepared = content::prepare(definition, &instance.schema)
        .map_err(|problems| RunError::Refused(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok(prepared.links().iter().map(|link| (link.position, link.url.clone(), link.name.clone())).collect())
}
