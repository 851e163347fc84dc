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
use crate::config;
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
    // A run may take hours; meanwhile others come due, and other workers die.
    let housekeeping = tokio::spawn(keep_house(instance.clone(), stop.clone()));
    while !*stop.borrow() {
        if let Err(error) = send_open_runs(&instance, &worker, &stop).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "this round failed; the next one tries again");
        }
        rest(&mut stop).await;
    }
    if let Err(error) = housekeeping.await {
        tracing::error!(%error, "the schedules ended early");
    }
    worker.stop().await
}

/// Until the next look, or until somebody says stop.
async fn rest(stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(TICK) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Fires schedules, asks for confirmations and settles what stopped workers left.
async fn keep_house(instance: Arc<Instance>, mut stop: watch::Receiver<bool>) {
    let mut first = true;
    while !*stop.borrow() {
        let recovered = send::recover(&instance).await;
        let fired = fire_schedules(&instance, first).await;
        let asked = confirm::send_due(&instance).await;
        for failed in [recovered, fired, asked].into_iter().filter_map(Result::err) {
            tracing::warn!(error = &failed as &dyn std::error::Error, "this round failed; the next one tries again");
        }
        first = false;
        rest(&mut stop).await;
    }
}

async fn send_open_runs(instance: &Arc<Instance>, worker: &Worker, stop: &watch::Receiver<bool>) -> Result<(), RunError> {
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
        match fire_schedule(instance, campaign, schedule, first).await {
            // One campaign's mistake is not the others' loss.
            Err(RunError::Refused(reason)) => tracing::error!(campaign = campaign.name, reason, "this schedule cannot fire"),
            other => other?,
        }
    }
    Ok(())
}

async fn fire_schedule(
    instance: &Arc<Instance>,
    campaign: &config::Campaign,
    schedule: &config::Schedule,
    first: bool,
) -> Result<(), RunError> {
    let timing = Timing::new(schedule).map_err(RunError::Refused)?;
    let now = instance.clock.now();
    if first {
        let next = timing.next_after(now).map_or_else(|| "never again".to_owned(), |time| time.to_string());
        tracing::info!(campaign = campaign.name, next, "schedule");
    }
    if !runs::worth_a_look(&mut instance.db.clone(), &campaign.name, &timing, now).await? {
        return Ok(());
    }
    let mut tx = instance.db.begin().await?;
    if let Some(at) = runs::due_firing(&mut tx, &campaign.name, &timing, now).await? {
        let definition = Definition::new(&instance.config, campaign);
        let links = links_of(&definition, instance)?;
        let topic_id = consent::ops::topic_id(&mut tx, &definition.topic, &instance.entropy, now).await?;
        let new = NewRun { definition: &definition, topic_id, firing: &at.to_string(), scheduled_at: at, links: &links };
        let made = runs::create_run(&mut tx, new, &instance.entropy, now).await?;
        if let Some(run) = made {
            tracing::info!(run = run.id, campaign = run.campaign, at = %at, "a scheduled run begins");
        }
    }
    Ok(tx.commit().await?)
}

fn links_of(definition: &Definition, instance: &Instance) -> Result<Vec<(i64, String, String)>, RunError> {
    let prepared = content::prepare(definition, &instance.schema)
        .map_err(|problems| RunError::Refused(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok(prepared.links().iter().map(|link| (link.position, link.url.clone(), link.name.clone())).collect())
}
