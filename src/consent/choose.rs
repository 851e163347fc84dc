//! Use cases of people who stay, and choose: less often, a pause, how they are tracked, no profiling. Each
//! writes an entry only where it changes something.

use std::collections::HashMap;

use super::{ALL_TOPICS, Action, Frequency, NewEvent, Standing, Tracking, ledger};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Tx};

/// How a person stands on a topic, with what they chose about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// May they be mailed.
    pub standing: Standing,
    /// How often; nothing for every mail.
    pub frequency: Option<Frequency>,
    /// When a pause ends; nothing for one that the person ends.
    pub until: Option<Time>,
}

/// What a person chose about each topic they ever touched (and about everything).
pub async fn of_topics(db: &mut impl Connection, contact_id: i64) -> Result<HashMap<i64, Chosen>, DbError> {
    // Joined from the few topics so that the table's key (topic first) serves it.
    let rows = db
        .rows(
            "SELECT s.topic_id, s.standing, s.frequency, s.until
             FROM topic t JOIN subscription s ON s.topic_id = t.id AND s.contact_id = $1
             ORDER BY s.topic_id",
            args![contact_id],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let frequency: Option<String> = row.get(2)?;
            let chosen = Chosen {
                standing: Standing::from_stored(Some(&row.get::<String>(1)?)),
                frequency: frequency.as_deref().and_then(Frequency::from_stored),
                until: row.get(3)?,
            };
            Ok((row.get(0)?, chosen))
        })
        .collect()
}

/// Whether a person refused that anything is concluded about them.
pub async fn profiling_refused(db: &mut impl Connection, contact_id: i64) -> Result<bool, DbError> {
    let rows = db.rows("SELECT profiling FROM consent_choice WHERE contact_id = $1", args![contact_id]).await?;
    let stored: Option<String> = rows.first().map_or(Ok(None), |row| row.get(0))?;
    Ok(stored.as_deref() == Some("refused"))
}

async fn of_topic(tx: &mut Tx, event: &NewEvent) -> Result<Option<Chosen>, DbError> {
    Ok(of_topics(tx, event.contact_id).await?.remove(&event.topic_id))
}

async fn write(tx: &mut Tx, event: NewEvent, now: Time) -> Result<bool, DbError> {
    ledger::append(tx, &[event], now).await?;
    Ok(true)
}

/// No mail of the event's topic until a moment (or until the person says otherwise). Only who receives it
/// can pause; a pause can be made longer and shorter.
pub async fn pause(tx: &mut Tx, event: NewEvent, until: Option<Time>, now: Time) -> Result<bool, DbError> {
    match of_topic(tx, &event).await? {
        Some(Chosen { standing: Standing::Subscribed, .. }) => {}
        Some(Chosen { standing: Standing::Paused, until: before, .. }) if before != until => {}
        _ => return Ok(false),
    }
    write(tx, NewEvent { action: Action::Paused, until, ..event }, now).await
}

/// Ends a pause.
pub async fn resume(tx: &mut Tx, event: NewEvent, now: Time) -> Result<bool, DbError> {
    let paused = of_topic(tx, &event).await?.is_some_and(|chosen| chosen.standing == Standing::Paused);
    if !paused {
        return Ok(false);
    }
    write(tx, NewEvent { action: Action::Resumed, ..event }, now).await
}

/// How often the mails of the event's topic come; nothing for every one.
pub async fn set_frequency(tx: &mut Tx, event: NewEvent, frequency: Option<Frequency>, now: Time) -> Result<bool, DbError> {
    match of_topic(tx, &event).await? {
        Some(chosen) if chosen.standing.can_withdraw() && chosen.frequency != frequency => {}
        _ => return Ok(false),
    }
    let detail = Some(format!("frequency={}", frequency.map_or("every", Frequency::as_str)));
    write(tx, NewEvent { action: Action::Changed, frequency, detail, ..event }, now).await
}

/// How a person's opens and clicks are recorded; nothing for what the instance says.
pub async fn set_tracking(tx: &mut Tx, event: NewEvent, tracking: Option<Tracking>, now: Time) -> Result<bool, DbError> {
    if super::tracking::choice(tx, event.contact_id).await? == tracking {
        return Ok(false);
    }
    let detail = Some(format!("tracking={}", tracking.map_or("default", Tracking::as_str)));
    write(tx, NewEvent { topic_id: ALL_TOPICS, action: Action::Changed, detail, ..event }, now).await
}

/// Whether anything may be concluded about a person (GDPR art. 21 and 22).
pub async fn set_profiling(tx: &mut Tx, event: NewEvent, refused: bool, now: Time) -> Result<bool, DbError> {
    if profiling_refused(tx, event.contact_id).await? == refused {
        return Ok(false);
    }
    let detail = Some(format!("profiling={}", if refused { "refused" } else { "allowed" }));
    write(tx, NewEvent { topic_id: ALL_TOPICS, action: Action::Changed, detail, ..event }, now).await
}
