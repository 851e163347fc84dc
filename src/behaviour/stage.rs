//! Whether somebody still takes part: active, cooling, dormant. One rule for segments, which compare the bounds,
//! and for what is shown of one person.

use crate::clock::{DAY, Time};
use crate::config::EngagementSettings;

/// How long ago somebody showed a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Less than `cooling_days` ago.
    Active,
    /// Less than `dormant_days` ago.
    Cooling,
    /// Longer ago.
    Dormant,
}

impl Stage {
    /// All of them, from lively to quiet.
    pub const ALL: [Stage; 3] = [Stage::Active, Stage::Cooling, Stage::Dormant];

    /// Their names, in that order.
    pub const NAMES: [&str; 3] = [Stage::Active.as_str(), Stage::Cooling.as_str(), Stage::Dormant.as_str()];

    /// As written in segments and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Active => "active",
            Stage::Cooling => "cooling",
            Stage::Dormant => "dormant",
        }
    }

    /// The stage of somebody whose last sign of life was at `last`.
    ///
    /// The last sign of life is the latest human open, human click or order; of somebody without any, the day
    /// since which they are subscribed, so that newcomers count as active. Whoever has none of these has no
    /// stage. A sign that lies ahead (a clock that went wrong) is one of now.
    pub fn of(last: Option<Time>, now: Time, settings: &EngagementSettings) -> Option<Stage> {
        let last = last?;
        Stage::ALL.into_iter().find(|stage| stage.bounds(now, settings).0.is_none_or(|after| last > after))
    }

    /// Whose last sign of life was at the first moment or earlier is no longer active, at the second no longer cooling.
    pub fn limits(now: Time, settings: &EngagementSettings) -> (Time, Time) {
        let ago = |days: u32| now.plus(-i64::from(days) * DAY);
        (ago(settings.cooling_days), ago(settings.dormant_days))
    }

    /// The last sign of life is after the first and not after the second moment; `None`: no bound there.
    pub fn bounds(self, now: Time, settings: &EngagementSettings) -> (Option<Time>, Option<Time>) {
        let (cooling, dormant) = Stage::limits(now, settings);
        match self {
            Stage::Active => (Some(cooling), None),
            Stage::Cooling => (Some(dormant), Some(cooling)),
            Stage::Dormant => (None, Some(dormant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_lasts_up_to_its_day_and_ends_on_it() {
        let settings = EngagementSettings { half_life_days: 30, cooling_days: 90, dormant_days: 180 };
        let now = Time::from_millis(1_800_000_000_000);
        let ago = |days: i64, ms: i64| Some(now.plus(-days * DAY - ms));
        for (last, stage) in [
            (ago(0, -1), Some(Stage::Active)),
            (ago(90, -1), Some(Stage::Active)),
            (ago(90, 0), Some(Stage::Cooling)),
            (ago(180, -1), Some(Stage::Cooling)),
            (ago(180, 0), Some(Stage::Dormant)),
            (ago(9_000, 0), Some(Stage::Dormant)),
            (None, None),
        ] {
            assert_eq!(Stage::of(last, now, &settings), stage, "{last:?}");
            // The bounds say the same.
            let by_bounds = Stage::ALL.into_iter().find(|stage| {
                let (after, until) = stage.bounds(now, &settings);
                last.is_some_and(|last| after.is_none_or(|after| last > after) && until.is_none_or(|until| last <= until))
            });
            assert_eq!(by_bounds, stage);
        }
    }
}
