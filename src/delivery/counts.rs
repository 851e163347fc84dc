//! How many deliveries of a run are in which state.
//!
//! While a run is under way its rows are counted, by index. When it is over the counts are stored, so that no
//! report counts a million rows again. The few changes that come later (doubtful mails settled, somebody erased)
//! say so in `run_count`, in their transaction, and the house counts anew. Sending writes nothing here.

use crate::args;
use crate::clock::{MINUTE, Time};
use crate::db::{Connection, Db, DbError, Rows, Tx};

use super::state::State;

/// How long after a run was cancelled its last claims are surely settled: a node notices within a second, and one
/// that does not has lost its place long before.
const CALM_MS: i64 = 10 * MINUTE;
/// Runs counted in one round of the house.
const BATCH: i64 = 10;
/// State of those rows of `run_count` that say how people are tracked.
const TRACKED: &str = "tracked";

/// How many deliveries of a run are in which state, by reason.
pub async fn counts(db: &mut impl Connection, run_id: i64) -> Result<Vec<(State, Option<String>, i64)>, DbError> {
    let found = match stored(db, run_id).await? {
        Some(stored) => stored.into_iter().filter(|row| row.0 != TRACKED).collect(),
        None => count_states(db, run_id).await?,
    };
    found
        .into_iter()
        .map(|(state, reason, count)| {
            let known =
                State::from_stored(&state).ok_or_else(|| DbError::Unexpected(format!("a delivery is in the unknown state `{state}`")))?;
            Ok((known, (!reason.is_empty()).then_some(reason), count))
        })
        .collect()
}

/// Mails of a run that were sent to people who are tracked anonymously, and not at all.
pub async fn tracked_less(db: &mut impl Connection, run_id: i64) -> Result<Vec<(String, i64)>, DbError> {
    Ok(match stored(db, run_id).await? {
        Some(stored) => stored.into_iter().filter(|row| row.0 == TRACKED).map(|(_, how, count)| (how, count)).collect(),
        None => count_tracked_less(db, run_id).await?,
    })
}

/// State, reason, number.
type Count = (String, String, i64);

/// The stored counts, where they hold.
async fn stored(db: &mut impl Connection, run_id: i64) -> Result<Option<Vec<Count>>, DbError> {
    // One statement: the mark and what it speaks for are of one moment.
    let sql = "SELECT state, reason, count FROM run_count WHERE run_id = $1 ORDER BY state, reason";
    let rows = db.rows(sql, args![run_id]).await?;
    let mut counts = rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).collect::<Result<Vec<Count>, DbError>>()?;
    let holds = counts.first().is_some_and(|(state, _, count)| state.is_empty() && *count == 1);
    if !holds {
        return Ok(None);
    }
    let counts = counts.split_off(1);
    #[cfg(debug_assertions)]
    equal_rows(db, run_id, &counts).await?;
    Ok(Some(counts))
}

/// In rehearsals every look at stored counts holds them against the rows.
#[cfg(debug_assertions)]
async fn equal_rows(db: &mut impl Connection, run_id: i64, counts: &[Count]) -> Result<(), DbError> {
    let mut rows = count_states(db, run_id).await?;
    rows.extend(count_tracked_less(db, run_id).await?.into_iter().map(|(how, count)| (TRACKED.to_owned(), how, count)));
    let mut counts = counts.to_vec();
    rows.sort_unstable();
    counts.sort_unstable();
    let mark = "SELECT count FROM run_count WHERE run_id = $1 AND state = ''";
    // A change between the two looks has said so.
    let still = db.rows(mark, args![run_id]).await?.first().map(|row| row.get::<i64>(0)).transpose()? == Some(1);
    match rows == counts || !still {
        true => Ok(()),
        false => Err(DbError::Unexpected(format!("the stored counts of run {run_id} are {counts:?}, its rows say {rows:?}"))),
    }
}

async fn count_states(db: &mut impl Connection, run_id: i64) -> Result<Vec<Count>, DbError> {
    let sql = "SELECT state, COALESCE(reason, ''), COUNT(*) FROM delivery WHERE run_id = $1 GROUP BY 1, 2 ORDER BY 1, 2";
    let rows = db.rows(sql, args![run_id]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).collect()
}

async fn count_tracked_less(db: &mut impl Connection, run_id: i64) -> Result<Vec<(String, i64)>, DbError> {
    let rows = db
        .rows(
            "SELECT tracking, COUNT(*) FROM delivery
             WHERE run_id = $1 AND tracking IS NOT NULL AND state = 'sent'
             GROUP BY tracking ORDER BY tracking",
            args![run_id],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// A run gets its first deliveries: from now on there is a row that can say whether counts hold.
pub(super) async fn open(tx: &mut Tx, run_id: i64) -> Result<(), DbError> {
    let sql = "INSERT INTO run_count (run_id, state, reason, count) VALUES ($1, '', '', 0) ON CONFLICT (run_id, state, reason) DO NOTHING";
    tx.execute(sql, args![run_id]).await.map(drop)
}

/// The counts of these runs do not hold any more. Whoever counts at this moment comes before this transaction or
/// after it, never beside it: both write the same row.
pub(super) async fn changed(tx: &mut Tx, runs: impl IntoIterator<Item = i64>) -> Result<(), DbError> {
    let mut runs: Vec<i64> = runs.into_iter().collect();
    runs.sort_unstable();
    runs.dedup();
    for run_id in runs {
        tx.execute("UPDATE run_count SET count = 0 WHERE run_id = $1 AND state = '' AND reason = ''", args![run_id]).await?;
    }
    Ok(())
}

/// Stores the counts of a run that is over. Does nothing while a worker still has some of its mails.
pub async fn store(db: &Db, run_id: i64) -> Result<bool, DbError> {
    let mut tx = db.begin().await?;
    let sql = "UPDATE run_count SET count = 1 WHERE run_id = $1 AND state = '' AND reason = '' AND count = 0";
    let claimed = "SELECT id FROM delivery WHERE run_id = $1 AND state = 'claimed' ORDER BY id LIMIT 1";
    if tx.execute(sql, args![run_id]).await? == 0 || tx.fetch_optional(claimed, args![run_id]).await?.is_some() {
        tx.rollback().await?;
        return Ok(false);
    }
    let mut counts = count_states(&mut tx, run_id).await?;
    counts.extend(count_tracked_less(&mut tx, run_id).await?.into_iter().map(|(how, count)| (TRACKED.to_owned(), how, count)));
    tx.execute("DELETE FROM run_count WHERE run_id = $1 AND state <> ''", args![run_id]).await?;
    if !counts.is_empty() {
        tx.bulk(
            "INSERT INTO run_count (run_id, state, reason, count) SELECT $1, v.state, v.reason, v.count FROM {rows}",
            args![run_id],
            Rows::new()
                .text("state", counts.iter().map(|row| row.0.as_str()))
                .text("reason", counts.iter().map(|row| row.1.as_str()))
                .i64("count", counts.iter().map(|row| row.2)),
        )
        .await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Runs that are over and have to be counted.
pub async fn to_store(db: &mut impl Connection, now: Time) -> Result<Vec<i64>, DbError> {
    let rows = db
        .rows(
            "SELECT c.run_id FROM run_count c JOIN run r ON r.id = c.run_id
             WHERE c.state = '' AND c.count = 0
               AND (r.state = 'done' OR (r.state IN ('cancelled', 'failed') AND r.finished_at < $1))
             ORDER BY c.run_id LIMIT $2",
            args![now.plus(-CALM_MS), BATCH],
        )
        .await?;
    rows.iter().map(|row| row.get(0)).collect()
}
