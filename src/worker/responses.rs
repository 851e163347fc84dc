//! Who responded, ordered, or was judged anew is computed again: engagement, conversions and their sums. By whoever
//! keeps the house in each round, and before an audience is written, so that it sees what happened up to now.

use tokio::sync::watch;

use super::RunError;
use crate::clock::{DAY, SECOND, Time};
use crate::config::Config;
use crate::delivery::ops as deliveries;
use crate::instance::Instance;
use crate::tracking::engagement_ops::{self as engagement, KnownRuns, Rules};

/// Blocks of one round of the house: the rest waits for the next one, as schedules must not wait for it.
const BLOCKS_A_ROUND: usize = 8;
/// How often runs are looked for whose deliveries have to be counted.
const COUNT_EVERY_MS: i64 = 2 * SECOND;

/// What is remembered between two rounds.
pub(super) struct Responses {
    rules: Rules,
    known: KnownRuns,
    follows_rules: bool,
    day: Option<i64>,
    counted_at: Option<Time>,
}

impl Responses {
    pub(super) fn new(config: &Config) -> Responses {
        let zone = jiff::tz::TimeZone::get(&config.delivery.timezone.value).unwrap_or(jiff::tz::TimeZone::UTC);
        let rules = Rules { engagement: config.engagement, attribution: config.attribution, zone };
        Responses { rules, known: KnownRuns::default(), follows_rules: false, day: None, counted_at: None }
    }

    /// Some blocks, and the counts of runs that are over.
    pub(super) async fn round(&mut self, instance: &Instance) -> Result<(), RunError> {
        self.compute(instance, BLOCKS_A_ROUND, None).await?;
        let now = instance.clock.now();
        if self.counted_at.is_none_or(|at| now.since(at) > COUNT_EVERY_MS) {
            self.counted_at = Some(now);
            for run_id in deliveries::counts_to_store(&mut instance.db.clone(), now).await? {
                deliveries::store_counts(&instance.db, run_id).await?;
            }
        }
        Ok(())
    }

    /// All there are.
    pub(super) async fn catch_up(&mut self, instance: &Instance, stop: &watch::Receiver<bool>) -> Result<(), RunError> {
        self.compute(instance, usize::MAX, Some(stop)).await
    }

    async fn compute(&mut self, instance: &Instance, blocks: usize, stop: Option<&watch::Receiver<bool>>) -> Result<(), RunError> {
        let now = instance.clock.now();
        if !self.follows_rules {
            engagement::follow_rules(&instance.db, &self.rules, now).await?;
            self.follows_rules = true;
        }
        let day = now.millis().div_euclid(DAY);
        if self.day != Some(day) {
            engagement::begin_day(&instance.db, now).await?;
            self.day = Some(day);
        }
        for _ in 0..blocks {
            if stop.is_some_and(|stop| *stop.borrow()) || !engagement::any_due(&instance.db).await? {
                break;
            }
            // None, where another node has them all under way.
            if engagement::refresh(&instance.db, &self.rules, &mut self.known, now).await? == 0 {
                break;
            }
        }
        Ok(())
    }
}
