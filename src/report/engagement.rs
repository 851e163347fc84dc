//! How one person takes part, as shown of them.

use crate::behaviour::stage::Stage;
use crate::clock::Time;
use crate::config::EngagementSettings;
use crate::consent::{ALL_TOPICS, Standing, TopicState};
use crate::db::{Connection, DbError};
use crate::tracking::engagement::{Engagement, score};
use crate::tracking::engagement_ops::{self, OfTopic};

/// Digits of a score shown.
const SCORE_DIGITS: f64 = 1_000.0;

/// A person's engagement: in all, and by topic.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct EngagementShown {
    /// In all topics.
    #[serde(flatten)]
    pub all: TopicEngagement,
    /// In each topic that they responded to, or are subscribed to.
    pub topics: Vec<TopicEngagement>,
}

/// Engagement in one topic, or in all.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct TopicEngagement {
    /// The topic's key; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// `active`, `cooling`, `dormant`; `None` of who never gave a sign of life.
    pub stage: Option<&'static str>,
    /// Responses, each halved for every half-life it is old: 1 an opened mail, 3 a followed link.
    pub score: f64,
    /// Opens by the person.
    pub opens: i64,
    /// Clicks by the person.
    pub clicks: i64,
    /// The last of those opens.
    pub last_open: Option<String>,
    /// The last of those clicks.
    pub last_click: Option<String>,
    /// Hour of the day, where they live, at which they most probably respond.
    pub best_hour: Option<i64>,
    /// Weekday of the same (1: Monday).
    pub best_weekday: Option<i64>,
}

/// A person's engagement now. `states` are their topics.
pub async fn engagement(
    db: &mut impl Connection,
    settings: &EngagementSettings,
    contact_id: i64,
    states: &[TopicState],
    now: Time,
) -> Result<EngagementShown, DbError> {
    let rows = engagement_ops::of_contact(db, contact_id).await?;
    let ordered = engagement_ops::last_order(db, contact_id).await?;
    let subscribed = |topic: i64| {
        let on = states.iter().filter(|state| state.state.standing == Standing::Subscribed && state.topic_id != ALL_TOPICS);
        on.filter(|state| topic == 0 || state.topic_id == topic).map(|state| state.since).max()
    };
    let row_of = |topic: i64| rows.iter().find(|row| row.topic_id == topic);
    let show = |topic_id: i64, topic: Option<&str>, ordered: Option<Time>| {
        let sum = row_of(topic_id).map_or_else(Engagement::default, |row| row.sum);
        let best = row_of(topic_id).and_then(|row| row.best);
        let last = sum.last_open_at.max(sum.last_click_at).max(ordered).or_else(|| subscribed(topic_id));
        TopicEngagement {
            topic: topic.map(str::to_owned),
            stage: Stage::of(last, now, settings).map(Stage::as_str),
            score: (score(sum.weight, settings.half_life_days, now) * SCORE_DIGITS).round() / SCORE_DIGITS,
            opens: sum.opens,
            clicks: sum.clicks,
            last_open: sum.last_open_at.map(|at| at.to_string()),
            last_click: sum.last_click_at.map(|at| at.to_string()),
            best_hour: best.map(|best| best.0),
            best_weekday: best.map(|best| best.1),
        }
    };
    let on = states.iter().filter(|state| state.state.standing == Standing::Subscribed && row_of(state.topic_id).is_none());
    let mut topics: Vec<TopicEngagement> = rows
        .iter()
        .filter(|row| row.topic_id != 0)
        .map(|row: &OfTopic| show(row.topic_id, Some(row.topic.as_deref().unwrap_or_default()), None))
        .chain(on.map(|state| show(state.topic_id, Some(&state.topic), None)))
        .collect();
    topics.sort_by(|one, other| one.topic.cmp(&other.topic));
    Ok(EngagementShown { all: show(0, None, ordered), topics })
}
