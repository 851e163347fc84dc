//! Choosing less instead of nothing, and what time alone changes. Part of [`super::ops`].
//!
//! Each takes the event as its caller would write it: whom it is about, the topic ([`ALL_TOPICS`]: every
//! subscribed one), source, evidence, origin; the action and what it says are set here. An event is written only
//! where it changes something, and the answer says whether one was.

use super::ledger;
use super::standing_sql as sql;
use super::state::{ChoiceRow, Row};
use super::{ALL_TOPICS, Action, Choices, Frequency, NewEvent, Standing, State, Tracking};
use crate::clock::Time;
use crate::db::{Connection, DbError, Tx};

/// Where entries come from that nobody made: a date has come.
pub const TIME: &str = "time";
/// Pauses and consents ended in one round: bounds a transaction.
const ROUND: i64 = 1_000;

/// Where a person stands on one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Which.
    pub topic_id: i64,
    /// Its name; empty for everything ([`ALL_TOPICS`]).
    pub topic: String,
    /// Standing, frequency, pause.
    pub state: State,
    /// Since when the standing holds.
    pub since: Time,
}

/// No mail until a date, or (`None`) until they say otherwise. Effective at once, also in a send under way.
pub async fn pause(tx: &mut Tx, request: &NewEvent, until: Option<Time>, now: Time) -> Result<bool, DbError> {
    let event = NewEvent { action: Action::Paused, until, frequency: None, detail: None, ..request.clone() };
    on_each(tx, event, now, |state| match state.standing {
        Standing::Subscribed => true,
        Standing::Paused => state.until != until,
        _ => false,
    })
    .await
}

/// Ends a pause.
pub async fn resume(tx: &mut Tx, request: &NewEvent, now: Time) -> Result<bool, DbError> {
    let event = NewEvent { action: Action::Resumed, until: None, frequency: None, detail: None, ..request.clone() };
    on_each(tx, event, now, |state| state.standing == Standing::Paused).await
}

/// How often they want mail: collected, or (`None`) every mail as it comes. Effective at once.
pub async fn set_frequency(tx: &mut Tx, request: &NewEvent, frequency: Option<Frequency>, now: Time) -> Result<bool, DbError> {
    let detail = Some(format!("frequency={}", frequency.map_or("every", Frequency::as_str)));
    let event = NewEvent { action: Action::Changed, frequency, until: None, detail, ..request.clone() };
    on_each(tx, event, now, |state| {
        matches!(state.standing, Standing::Pending | Standing::Subscribed | Standing::Paused) && state.frequency != frequency
    })
    .await
}

/// They say again that they want it: their consent is as fresh as this entry, and lasts where it was implied.
/// Nobody comes back by this.
pub async fn refresh(tx: &mut Tx, request: &NewEvent, now: Time) -> Result<bool, DbError> {
    let event = NewEvent { action: Action::Refreshed, until: None, frequency: None, detail: None, ..request.clone() };
    on_each(tx, event, now, |state| matches!(state.standing, Standing::Subscribed | Standing::Paused)).await
}

/// How their opens and clicks are recorded; `None` for what the instance says.
pub async fn set_tracking(tx: &mut Tx, request: &NewEvent, tracking: Option<Tracking>, now: Time) -> Result<bool, DbError> {
    let known = choices(tx, request.contact_id).await?;
    let detail = format!("tracking={}", tracking.map_or("default", Tracking::as_str));
    set_choice(tx, request, detail, known.tracking != tracking, now).await
}

/// Whether scores may be computed for them (GDPR art. 21 and 22).
pub async fn set_profiling(tx: &mut Tx, request: &NewEvent, refused: bool, now: Time) -> Result<bool, DbError> {
    let known = choices(tx, request.contact_id).await?;
    let detail = format!("profiling={}", if refused { "refused" } else { "allowed" });
    set_choice(tx, request, detail, known.profiling_refused != refused, now).await
}

async fn set_choice(tx: &mut Tx, request: &NewEvent, detail: String, changes: bool, now: Time) -> Result<bool, DbError> {
    if changes {
        let event = NewEvent {
            topic_id: ALL_TOPICS,
            action: Action::Changed,
            frequency: None,
            until: None,
            detail: Some(detail),
            ..request.clone()
        };
        ledger::append(tx, &[event], now).await?;
    }
    Ok(changes)
}

/// What a person chose for everything.
pub async fn choices(db: &mut impl Connection, contact_id: i64) -> Result<Choices, DbError> {
    Ok(sql::choice_of(db, contact_id).await?.map_or(ChoiceRow::NONE.choices, |row| row.choices))
}

/// Where a person stands on every topic they ever touched, and on everything.
pub async fn states(db: &mut impl Connection, contact_id: i64) -> Result<Vec<TopicState>, DbError> {
    let rows = sql::of_contact(db, contact_id).await?;
    Ok(rows.into_iter().map(|(topic_id, topic, row)| TopicState { topic_id, topic, state: row.state, since: row.since }).collect())
}

/// Writes `event` for its topic, or for each of the person's topics, where it changes something.
async fn on_each(tx: &mut Tx, event: NewEvent, now: Time, changes: impl Fn(&State) -> bool) -> Result<bool, DbError> {
    // The head first: two requests of one person wait for each other before they look.
    super::sql::lock_head(tx).await?;
    let known: Vec<(i64, Row)> = if event.topic_id == ALL_TOPICS {
        let rows = sql::of_contact(tx, event.contact_id).await?;
        rows.into_iter().filter(|row| row.0 != ALL_TOPICS).map(|(topic_id, _, row)| (topic_id, row)).collect()
    } else {
        let pair = (event.topic_id, event.contact_id);
        sql::rows(tx, &[pair]).await?.into_iter().map(|((topic_id, _), row)| (topic_id, row)).collect()
    };
    let events: Vec<NewEvent> =
        known.into_iter().filter(|(_, row)| changes(&row.state)).map(|(topic_id, _)| NewEvent { topic_id, ..event.clone() }).collect();
    ledger::append(tx, &events, now).await?;
    Ok(!events.is_empty())
}

/// Whether [`catch_up`] would do anything: a look that writes nothing.
pub async fn anything_over(db: &mut impl Connection, now: Time) -> Result<bool, DbError> {
    Ok(!sql::over(db, now, 1).await?.is_empty())
}

/// Writes down what time alone changed: pauses whose date has come end (`resumed`), implied consents that are over
/// end (`expired`). Answers how many entries it wrote; a full round may have left some.
pub async fn catch_up(tx: &mut Tx, now: Time) -> Result<usize, DbError> {
    super::sql::lock_head(tx).await?;
    let events: Vec<NewEvent> = sql::over(tx, now, ROUND)
        .await?
        .into_iter()
        .map(|(topic_id, contact_id, row)| {
            let consent_over = row.state.ends.is_some_and(|ends| ends <= now);
            NewEvent::new(contact_id, topic_id, if consent_over { Action::Expired } else { Action::Resumed }, TIME)
        })
        .collect();
    ledger::append(tx, &events, now).await?;
    Ok(events.len())
}
