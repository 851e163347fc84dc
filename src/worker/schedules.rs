//! Campaigns that fire by themselves.

use super::RunError;
use super::lease::Held;
use super::runs::links_of;
use crate::campaign::Definition;
use crate::campaign::ops::{self as runs, NewRun, Timing};
use crate::config;
use crate::consent;
use crate::instance::Instance;

/// Makes a run of every campaign whose schedule fires now.
pub(super) async fn fire(instance: &Instance, held: Held, first: bool) -> Result<(), RunError> {
    for campaign in instance.config.campaigns.values() {
        let Some(schedule) = &campaign.schedule else { continue };
        match fire_one(instance, held, campaign, schedule, first).await {
            // One campaign's mistake is not the others' loss.
            Err(RunError::Refused(reason)) => tracing::error!(campaign = campaign.name, reason, "this schedule cannot fire"),
            other => other?,
        }
    }
    Ok(())
}

async fn fire_one(
    instance: &Instance,
    held: Held,
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
    if !held.is_newest(&mut tx, super::house::HOUSE).await? {
        return Ok(tx.rollback().await?);
    }
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
