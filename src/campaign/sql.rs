//! Statements of `run`, `run_link` and `schedule`, and of writing a run's audience.

use super::run::{Run, RunState};
use crate::args;
use crate::clock::Time;
use crate::db::{Args, Connection, Db, DbError, Dialect, Row, Rows, Tx};

const RUN_COLUMNS: &str = "id, campaign, topic_id, firing, state, reason, scheduled_at, started_at, finished_at, definition_hash, definition, \
     excluded, audience, audience_cursor, audience_done";

fn read_run(row: &Row) -> Result<Run, DbError> {
    let state: String = row.get(4)?;
    Ok(Run {
        id: row.get(0)?,
        campaign: row.get(1)?,
        topic_id: row.get(2)?,
        firing: row.get(3)?,
        state: RunState::from_stored(&state).ok_or_else(|| DbError::Unexpected(format!("a run is in the unknown state `{state}`")))?,
        reason: row.get(5)?,
        scheduled_at: row.get(6)?,
        started_at: row.get(7)?,
        finished_at: row.get(8)?,
        definition_hash: row.get(9)?,
        definition: row.get(10)?,
        excluded: row.get(11)?,
        audience: row.get(12)?,
        audience_cursor: row.get(13)?,
        audience_done: row.get(14)?,
    })
}

async fn runs(db: &mut impl Connection, tail: &str, args: Args) -> Result<Vec<Run>, DbError> {
    db.rows(&format!("SELECT {RUN_COLUMNS} FROM run {tail}"), args).await?.iter().map(read_run).collect()
}

/// A run by id.
pub async fn run(db: &mut impl Connection, id: i64) -> Result<Option<Run>, DbError> {
    Ok(runs(db, "WHERE id = $1", args![id]).await?.pop())
}

/// A run by id, kept as it is until this transaction ends.
pub async fn run_locked(tx: &mut Tx, id: i64) -> Result<Option<Run>, DbError> {
    let tail = format!("WHERE id = $1 {}", tx.dialect().for_update());
    Ok(runs(tx, &tail, args![id]).await?.pop())
}

/// All runs, newest first; of one campaign where it is named.
pub async fn list(db: &mut impl Connection, campaign: Option<&str>, limit: i64) -> Result<Vec<Run>, DbError> {
    match campaign {
        Some(campaign) => runs(db, "WHERE campaign = $1 ORDER BY id DESC LIMIT $2", args![campaign, limit]).await,
        None => runs(db, "ORDER BY id DESC LIMIT $1", args![limit]).await,
    }
}

/// Runs that want work: due ones and those under way, oldest first.
pub async fn open_runs(db: &mut impl Connection, now: Time) -> Result<Vec<Run>, DbError> {
    runs(
        db,
        "WHERE state IN ('preparing', 'sending') OR (state = 'scheduled' AND scheduled_at <= $1) ORDER BY scheduled_at, id",
        args![now],
    )
    .await
}

/// Makes a run unless this firing has one already.
pub(super) async fn insert(tx: &mut Tx, run: &Run, now: Time) -> Result<bool, DbError> {
    let added = tx
        .execute(
            "INSERT INTO run (id, campaign, topic_id, firing, state, scheduled_at, created_at, definition_hash, definition, excluded,
               audience, audience_cursor, audience_done)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '{}', 0, 0, FALSE)
             ON CONFLICT (campaign, firing) DO NOTHING",
            args![
                run.id,
                &run.campaign,
                run.topic_id,
                &run.firing,
                run.state.as_str(),
                run.scheduled_at,
                now,
                &run.definition_hash,
                &run.definition
            ],
        )
        .await?;
    Ok(added == 1)
}

/// Moves a run from one state to another; false when somebody else moved it first.
pub(super) async fn move_state(
    tx: &mut Tx,
    id: i64,
    from: RunState,
    to: RunState,
    reason: Option<&str>,
    now: Time,
) -> Result<bool, DbError> {
    let finished = to.is_final().then_some(now);
    let touched = tx
        .execute(
            "UPDATE run
             SET state = $1, reason = $2, finished_at = $3,
               started_at = CASE WHEN started_at IS NULL AND $1 = 'preparing' THEN $4 ELSE started_at END
             WHERE id = $5 AND state = $6",
            args![to.as_str(), reason, finished, now, id, from.as_str()],
        )
        .await?;
    Ok(touched == 1)
}

/// Keeps a note of why a run waits, without moving it.
pub async fn note_reason(tx: &mut Tx, id: i64, reason: Option<&str>) -> Result<(), DbError> {
    tx.execute_one("UPDATE run SET reason = $1 WHERE id = $2", args![reason, id]).await
}

pub(super) async fn insert_links(tx: &mut Tx, run_id: i64, links: &[(i64, String, String)]) -> Result<(), DbError> {
    tx.bulk(
        "INSERT INTO run_link (run_id, position, url, name)
         SELECT $1, v.position, v.url, v.name FROM {rows} WHERE TRUE
         ON CONFLICT (run_id, position) DO NOTHING",
        args![run_id],
        Rows::new()
            .i64("position", links.iter().map(|link| link.0))
            .text("url", links.iter().map(|link| link.1.as_str()))
            .text("name", links.iter().map(|link| link.2.as_str())),
    )
    .await?;
    Ok(())
}

/// The condition on a contact `c` that means the same as [`super::decide`] up to the audience's
/// rule: subscribed to the topic (the subscription is `s`) and not suppressed (`x`).
pub const PERMITTED: &str = "s.standing = 'subscribed' AND x.email_key IS NULL";

/// From topic `$1` to contacts with their suppression.
pub const AUDIENCE_FROM: &str = "FROM subscription s
     JOIN contact c ON c.id = s.contact_id
     LEFT JOIN suppression x ON x.email_key = c.email_key
     WHERE s.topic_id = $1";

/// Somebody whom a rule picks.
pub(super) struct Candidate {
    pub(super) contact_id: i64,
    /// As stored.
    pub(super) standing: String,
    pub(super) suppressed: bool,
    /// The address as compared.
    pub(super) email_key: String,
}

/// The next contacts of an audience after `cursor` (an id), ascending, with whether permission
/// holds and why not.
pub(super) async fn next_candidates(
    tx: &mut Tx,
    topic_id: i64,
    rule: &crate::segment::Sql,
    cursor: i64,
    limit: i64,
) -> Result<Vec<Candidate>, DbError> {
    let sql = format!(
        "SELECT c.id, s.standing, x.email_key IS NOT NULL, c.email_key
         {AUDIENCE_FROM} AND s.contact_id > $2 AND ({})
         ORDER BY s.contact_id
         LIMIT $3",
        rule.text
    );
    let mut args = args![topic_id, cursor, limit];
    args.extend(rule.args.iter().cloned());
    let rows = tx.fetch_all(&sql, args).await?;
    rows.iter()
        .map(|row| Ok(Candidate { contact_id: row.get(0)?, standing: row.get(1)?, suppressed: row.get(2)?, email_key: row.get(3)? }))
        .collect()
}

/// Whom a topic and rule pick now, by locale (empty where none is known): how many may be mailed, and one of them.
/// The most frequent first.
pub async fn audience_locales(
    db: &mut impl Connection,
    topic_id: i64,
    rule: &crate::segment::Sql,
) -> Result<Vec<(String, i64, i64)>, DbError> {
    let sql = format!(
        "SELECT COALESCE(c.locale, ''), COUNT(*), MIN(c.id)
         {AUDIENCE_FROM} AND {PERMITTED} AND ({})
         GROUP BY 1
         ORDER BY 2 DESC, 3",
        rule.text
    );
    let mut args = args![topic_id];
    args.extend(rule.args.iter().cloned());
    db.rows(&sql, args).await?.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).collect()
}

/// Runs of a campaign before run `before`, latest first: id, firing key, state.
pub(super) async fn runs_before(db: &mut impl Connection, campaign: &str, before: i64) -> Result<Vec<(i64, String, RunState)>, DbError> {
    let rows =
        db.rows("SELECT id, firing, state FROM run WHERE campaign = $1 AND id < $2 ORDER BY id DESC", args![campaign, before]).await?;
    rows.iter()
        .map(|row| {
            let state: String = row.get(2)?;
            let known =
                RunState::from_stored(&state).ok_or_else(|| DbError::Unexpected(format!("a run is in the unknown state `{state}`")))?;
            Ok((row.get(0)?, row.get(1)?, known))
        })
        .collect()
}

/// Which of these contacts a run has mailed, or may have.
pub(super) async fn reached_in(tx: &mut Tx, run_id: i64, contacts: impl Iterator<Item = i64>) -> Result<Vec<i64>, DbError> {
    let rows = tx
        .bulk_fetch(
            "SELECT d.contact_id
             FROM {rows}
             JOIN delivery d ON d.run_id = $1 AND d.contact_id = v.contact_id
             WHERE d.state IN ('sent', 'in_doubt')",
            args![run_id],
            Rows::new().i64("contact_id", contacts),
        )
        .await?;
    rows.iter().map(|row| row.get(0)).collect()
}

pub(super) async fn freshen_statistics(db: &Db) -> Result<(), DbError> {
    if db.dialect() == Dialect::Postgres {
        db.execute("ANALYZE contact, subscription, suppression", Vec::new()).await?;
    }
    Ok(())
}

/// Moves the audience's cursor and counts.
pub(super) async fn move_cursor(tx: &mut Tx, run: &Run) -> Result<(), DbError> {
    tx.execute_one(
        "UPDATE run SET audience = $1, audience_cursor = $2, audience_done = $3, excluded = $4 WHERE id = $5",
        args![run.audience, run.audience_cursor, run.audience_done, &run.excluded, run.id],
    )
    .await
}

/// When a campaign's schedule was last looked at.
pub(super) async fn looked_until(db: &mut impl Connection, campaign: &str) -> Result<Option<Time>, DbError> {
    db.rows("SELECT looked_until FROM schedule WHERE campaign = $1", args![campaign]).await?.first().map(|row| row.get(0)).transpose()
}

pub(super) async fn set_looked_until(tx: &mut Tx, campaign: &str, until: Time) -> Result<(), DbError> {
    tx.execute(
        "INSERT INTO schedule (campaign, looked_until) VALUES ($1, $2)
         ON CONFLICT (campaign) DO UPDATE SET looked_until = excluded.looked_until",
        args![campaign, until],
    )
    .await?;
    Ok(())
}
