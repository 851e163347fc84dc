//! Statements of `throttle`: what providers asked of us, for all nodes.

use super::verdict::Throttle;
use crate::args;
use crate::clock::{DAY, Time};
use crate::db::{Connection, DbError, Row, Tx};

/// What a provider asked for so long ago says nothing about today, in milliseconds: days' limits have
/// begun anew, and whoever sends once a week should not crawl for what happened a week ago.
const KEPT_MS: i64 = 3 * DAY;

/// A throttle as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The relay it holds for.
    pub relay: String,
    /// The mailbox provider, or `*` for all mail through the relay.
    pub provider: String,
    /// How slowly.
    pub throttle: Throttle,
    /// What was said.
    pub reason: String,
}

fn throttle(row: &Row, from: usize) -> Result<Throttle, DbError> {
    let (per_hour, strikes): (i64, i64) = (row.get(from + 1)?, row.get(from + 2)?);
    Ok(Throttle {
        paused_until: row.get(from)?,
        per_hour: per_hour.unsigned_abs(),
        strikes: u32::try_from(strikes).unwrap_or(u32::MAX),
        changed_at: row.get(from + 3)?,
    })
}

/// All throttles in force or remembered.
pub async fn all(db: &mut impl Connection) -> Result<Vec<Stored>, DbError> {
    let rows = db
        .rows(
            "SELECT relay, provider, reason, paused_until, per_hour, strikes, changed_at FROM throttle ORDER BY relay, provider",
            Vec::new(),
        )
        .await?;
    rows.iter()
        .map(|row| Ok(Stored { relay: row.get(0)?, provider: row.get(1)?, reason: row.get(2)?, throttle: throttle(row, 3)? }))
        .collect()
}

/// Drops throttles of which nothing was heard for days. Answers how many.
pub async fn forget(tx: &mut Tx, now: Time) -> Result<u64, DbError> {
    let before = now.plus(-KEPT_MS);
    tx.execute("DELETE FROM throttle WHERE paused_until < $1 AND changed_at < $1", args![before]).await
}

/// One throttle, which nobody else changes before this transaction ends.
pub(super) async fn locked(tx: &mut Tx, relay: &str, provider: &str) -> Result<Option<Throttle>, DbError> {
    let sql = format!(
        "SELECT paused_until, per_hour, strikes, changed_at FROM throttle WHERE relay = $1 AND provider = $2 {}",
        tx.dialect().for_update()
    );
    tx.fetch_optional(&sql, args![relay, provider]).await?.map(|row| throttle(&row, 0)).transpose()
}

/// Writes a throttle with what was said.
pub(super) async fn write(tx: &mut Tx, relay: &str, provider: &str, now: &Throttle, reason: &str) -> Result<(), DbError> {
    tx.execute(
        "INSERT INTO throttle (relay, provider, paused_until, per_hour, strikes, reason, changed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (relay, provider) DO UPDATE
         SET paused_until = excluded.paused_until, per_hour = excluded.per_hour, strikes = excluded.strikes,
           reason = excluded.reason, changed_at = excluded.changed_at",
        args![relay, provider, now.paused_until, now.per_hour as i64, i64::from(now.strikes), reason, now.changed_at],
    )
    .await?;
    Ok(())
}

/// Replaces a throttle that is still as it was at `before`; drops it once it is over.
pub(super) async fn replace(
    tx: &mut Tx,
    relay: &str,
    provider: &str,
    before: &Throttle,
    after: &Throttle,
    over: bool,
) -> Result<(), DbError> {
    let unchanged = "relay = $1 AND provider = $2 AND paused_until = $3 AND changed_at = $4";
    if over {
        let sql = format!("DELETE FROM throttle WHERE {unchanged}");
        tx.execute(&sql, args![relay, provider, before.paused_until, before.changed_at]).await?;
        return Ok(());
    }
    let sql = format!("UPDATE throttle SET per_hour = $5, strikes = $6, changed_at = $7 WHERE {unchanged}");
    let args =
        args![relay, provider, before.paused_until, before.changed_at, after.per_hour as i64, i64::from(after.strikes), after.changed_at];
    tx.execute(&sql, args).await?;
    Ok(())
}
