//! Statements of `subscription` and `consent_choice`: the ledger folded.

use std::collections::HashMap;

use super::state::{ChoiceRow, Row as StateRow};
use super::{Choices, Frequency, Standing, State, Tracking};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Row, Rows, Tx};

const STATE_COLUMNS: &str = "s.topic_id, s.contact_id, s.standing, s.frequency, s.until, s.ends, s.since, s.last_seq";

/// Topic, contact, row: [`STATE_COLUMNS`].
fn read_state(row: &Row) -> Result<((i64, i64), StateRow), DbError> {
    let state = State {
        standing: Standing::from_stored(Some(&row.get::<String>(2)?)),
        frequency: row.get::<Option<String>>(3)?.as_deref().and_then(Frequency::from_stored),
        until: row.get(4)?,
        ends: row.get(5)?,
    };
    Ok(((row.get(0)?, row.get(1)?), StateRow { state, since: row.get(6)?, last_seq: row.get(7)? }))
}

/// Rows of these topics and people, `(topic, contact)` each; pairs without a row are left out.
pub(super) async fn rows(tx: &mut Tx, pairs: &[(i64, i64)]) -> Result<HashMap<(i64, i64), StateRow>, DbError> {
    let sql =
        format!("SELECT {STATE_COLUMNS} FROM {{rows}} JOIN subscription s ON s.topic_id = v.topic_id AND s.contact_id = v.contact_id");
    let pairs = Rows::new().i64("topic_id", pairs.iter().map(|pair| pair.0)).i64("contact_id", pairs.iter().map(|pair| pair.1));
    tx.bulk_fetch(&sql, Vec::new(), pairs).await?.iter().map(read_state).collect()
}

/// Rows of a topic, of the contacts in `(from, to]`.
pub(super) async fn rows_between(
    db: &mut impl Connection,
    topic_id: i64,
    from: i64,
    to: i64,
) -> Result<Vec<((i64, i64), StateRow)>, DbError> {
    let sql = format!(
        "SELECT {STATE_COLUMNS} FROM subscription s
         WHERE s.topic_id = $1 AND s.contact_id > $2 AND s.contact_id <= $3
         ORDER BY s.contact_id"
    );
    db.rows(&sql, args![topic_id, from, to]).await?.iter().map(read_state).collect()
}

/// Every topic that anybody has a row of.
pub(super) async fn topics_in_use(db: &mut impl Connection) -> Result<Vec<i64>, DbError> {
    db.rows("SELECT DISTINCT topic_id FROM subscription ORDER BY topic_id", Vec::new()).await?.iter().map(|row| row.get(0)).collect()
}

/// Writes whole rows: topic, contact, row.
pub(super) async fn upsert(tx: &mut Tx, changes: &[(i64, i64, StateRow)]) -> Result<(), DbError> {
    if changes.is_empty() {
        return Ok(());
    }
    let rows = Rows::new()
        .i64("topic_id", changes.iter().map(|change| change.0))
        .i64("contact_id", changes.iter().map(|change| change.1))
        .text("standing", changes.iter().map(|change| change.2.state.standing.as_str()))
        .i64("since", changes.iter().map(|change| change.2.since.millis()))
        .i64("last_seq", changes.iter().map(|change| change.2.last_seq));
    let plain = changes.iter().all(|(_, _, row)| State { standing: row.state.standing, ..State::NONE } == row.state);
    if plain {
        // Nearly everybody chose nothing: three columns less to bind.
        tx.bulk(
            "INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq)
             SELECT v.topic_id, v.contact_id, v.standing, v.since, v.last_seq FROM {rows} WHERE TRUE
             ON CONFLICT (topic_id, contact_id) DO UPDATE
             SET standing = excluded.standing, since = excluded.since, last_seq = excluded.last_seq,
               frequency = NULL, until = NULL, ends = NULL",
            Vec::new(),
            rows,
        )
        .await?;
        return Ok(());
    }
    tx.bulk(
        "INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq, frequency, until, ends)
         SELECT v.topic_id, v.contact_id, v.standing, v.since, v.last_seq, v.frequency, v.until, v.ends FROM {rows} WHERE TRUE
         ON CONFLICT (topic_id, contact_id) DO UPDATE
         SET standing = excluded.standing, since = excluded.since, last_seq = excluded.last_seq,
           frequency = excluded.frequency, until = excluded.until, ends = excluded.ends",
        Vec::new(),
        rows.opt_text(
            "frequency",
            changes.iter().map(|change| change.2.state.frequency.map(|frequency| frequency.as_str().to_owned())).collect(),
        )
        .opt_i64("until", changes.iter().map(|change| change.2.state.until.map(Time::millis)).collect())
        .opt_i64("ends", changes.iter().map(|change| change.2.state.ends.map(Time::millis)).collect()),
    )
    .await?;
    Ok(())
}

/// Removes rows: topic and contact each.
pub(super) async fn remove(tx: &mut Tx, pairs: &[(i64, i64)]) -> Result<(), DbError> {
    for (topic_id, contact_id) in pairs {
        tx.execute("DELETE FROM subscription WHERE topic_id = $1 AND contact_id = $2", args![*topic_id, *contact_id]).await?;
    }
    Ok(())
}

/// Gives these people one standing on a topic, their frequency as it was; their entries in the ledger are
/// numbered from `first_seq`.
pub(super) async fn set_standing(
    tx: &mut Tx,
    topic_id: i64,
    (standing, ends): (Standing, Option<Time>),
    contacts: &[i64],
    first_seq: i64,
    at: Time,
) -> Result<(), DbError> {
    // The casts tell PostgreSQL the types of what stands in a list of results by itself.
    tx.bulk(
        "INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq, ends)
         SELECT CAST($1 AS BIGINT), v.contact_id, CAST($2 AS TEXT), CAST($3 AS BIGINT), v.last_seq, CAST($4 AS BIGINT) FROM {rows} WHERE TRUE
         ON CONFLICT (topic_id, contact_id) DO UPDATE
         SET standing = excluded.standing, since = excluded.since, last_seq = excluded.last_seq, ends = excluded.ends",
        args![topic_id, standing.as_str(), at, ends],
        Rows::new().i64("contact_id", contacts.iter().copied()).i64("last_seq", first_seq..first_seq + contacts.len() as i64),
    )
    .await?;
    Ok(())
}

/// A person's states on every topic they ever touched: topic id, topic name (empty for everything), row.
pub(super) async fn of_contact(db: &mut impl Connection, contact_id: i64) -> Result<Vec<(i64, String, StateRow)>, DbError> {
    // Joined from the few topics so that the table's key (topic first) serves it.
    let sql = format!(
        "SELECT {STATE_COLUMNS}, t.name
         FROM (SELECT id, name FROM topic UNION ALL SELECT 0, '') t
         JOIN subscription s ON s.topic_id = t.id AND s.contact_id = $1
         ORDER BY t.id"
    );
    let rows = db.rows(&sql, args![contact_id]).await?;
    rows.iter()
        .map(|row| {
            let ((topic_id, _), state) = read_state(row)?;
            Ok((topic_id, row.get(8)?, state))
        })
        .collect()
}

/// What time alone changes: topic, contact, row of pauses and implied consents that are over, at most `limit` of
/// each.
pub(super) async fn over(db: &mut impl Connection, now: Time, limit: i64) -> Result<Vec<(i64, i64, StateRow)>, DbError> {
    let mut out = Vec::new();
    for (column, standings) in [("until", "'paused'"), ("ends", "'subscribed', 'paused'")] {
        let sql = format!(
            "SELECT {STATE_COLUMNS} FROM subscription s
             WHERE s.{column} <= $1 AND s.standing IN ({standings})
             ORDER BY s.{column}, s.contact_id, s.topic_id LIMIT $2"
        );
        for row in db.rows(&sql, args![now, limit]).await? {
            let ((topic_id, contact_id), state) = read_state(&row)?;
            out.push((topic_id, contact_id, state));
        }
    }
    Ok(out)
}

const CHOICE_COLUMNS: &str = "c.contact_id, c.tracking, c.profiling, c.changed_at, c.last_seq";

fn read_choice(row: &Row) -> Result<(i64, ChoiceRow), DbError> {
    let choices = Choices {
        tracking: row.get::<Option<String>>(1)?.as_deref().and_then(Tracking::from_stored),
        profiling_refused: row.get::<Option<String>>(2)?.as_deref() == Some("refused"),
    };
    Ok((row.get(0)?, ChoiceRow { choices, changed_at: row.get(3)?, last_seq: row.get(4)? }))
}

/// What these people chose; those who chose nothing are left out.
pub(super) async fn choices(tx: &mut Tx, contacts: &[i64]) -> Result<HashMap<i64, ChoiceRow>, DbError> {
    let sql = format!("SELECT {CHOICE_COLUMNS} FROM {{rows}} JOIN consent_choice c ON c.contact_id = v.contact_id");
    let found = tx.bulk_fetch(&sql, Vec::new(), Rows::new().i64("contact_id", contacts.iter().copied())).await?;
    found.iter().map(read_choice).collect()
}

pub(super) async fn choice_of(db: &mut impl Connection, contact_id: i64) -> Result<Option<ChoiceRow>, DbError> {
    let sql = format!("SELECT {CHOICE_COLUMNS} FROM consent_choice c WHERE c.contact_id = $1");
    db.rows(&sql, args![contact_id]).await?.first().map(|row| Ok(read_choice(row)?.1)).transpose()
}

/// Choices of the contacts in `(from, to]`.
pub(super) async fn choices_between(db: &mut impl Connection, from: i64, to: i64) -> Result<Vec<(i64, ChoiceRow)>, DbError> {
    let sql = format!("SELECT {CHOICE_COLUMNS} FROM consent_choice c WHERE c.contact_id > $1 AND c.contact_id <= $2 ORDER BY c.contact_id");
    db.rows(&sql, args![from, to]).await?.iter().map(read_choice).collect()
}

pub(super) async fn upsert_choices(tx: &mut Tx, changes: &[(i64, ChoiceRow)]) -> Result<(), DbError> {
    if changes.is_empty() {
        return Ok(());
    }
    tx.bulk(
        "INSERT INTO consent_choice (contact_id, tracking, profiling, last_seq, changed_at)
         SELECT v.contact_id, v.tracking, v.profiling, v.last_seq, v.changed_at FROM {rows} WHERE TRUE
         ON CONFLICT (contact_id) DO UPDATE
         SET tracking = excluded.tracking, profiling = excluded.profiling, last_seq = excluded.last_seq, changed_at = excluded.changed_at",
        Vec::new(),
        Rows::new()
            .i64("contact_id", changes.iter().map(|change| change.0))
            .opt_text(
                "tracking",
                changes.iter().map(|change| change.1.choices.tracking.map(|tracking| tracking.as_str().to_owned())).collect(),
            )
            .opt_text("profiling", changes.iter().map(|change| change.1.choices.profiling_refused.then(|| "refused".to_owned())).collect())
            .i64("last_seq", changes.iter().map(|change| change.1.last_seq))
            .i64("changed_at", changes.iter().map(|change| change.1.changed_at.millis())),
    )
    .await?;
    // What may be concluded about them may have changed: it is computed again.
    tx.bulk(
        "INSERT INTO engagement_due (contact_id, since) SELECT v.contact_id, v.changed_at FROM {rows} WHERE TRUE ORDER BY v.contact_id
         ON CONFLICT (contact_id) DO UPDATE SET since = excluded.since",
        Vec::new(),
        Rows::new()
            .i64("contact_id", changes.iter().map(|change| change.0))
            .i64("changed_at", changes.iter().map(|change| change.1.changed_at.millis())),
    )
    .await?;
    Ok(())
}

pub(super) async fn remove_choice(tx: &mut Tx, contact_id: i64) -> Result<(), DbError> {
    tx.execute("DELETE FROM consent_choice WHERE contact_id = $1", args![contact_id]).await?;
    Ok(())
}

/// Forgets what is kept about a person beside the ledger.
pub(super) async fn forget(tx: &mut Tx, contact_id: i64) -> Result<(), DbError> {
    remove_choice(tx, contact_id).await?;
    tx.execute("DELETE FROM withdrawal_reason WHERE contact_id = $1", args![contact_id]).await?;
    for table in ["subscription", "confirmation"] {
        // By topic, so that the table's key (topic first) serves it.
        tx.execute(
            &format!(
                "DELETE FROM {table} WHERE contact_id = $1
                 AND topic_id IN (SELECT id FROM topic UNION ALL SELECT 0)"
            ),
            args![contact_id],
        )
        .await?;
    }
    Ok(())
}
