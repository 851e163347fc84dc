//! Statements of `bucket`.

use std::collections::{BTreeMap, BTreeSet};

use super::Bucket;
use crate::args;
use crate::clock::{DAY, Time};
use crate::db::{Connection, DbError, Dialect, Row, Rows, Tx};

/// A bucket nobody took from for so long is as good as none: no rate and no day reaches so far back.
const KEPT_MS: i64 = 3 * DAY;

/// Buckets in memory, between [`load`] and [`store`] of one transaction.
#[derive(Debug, Clone, Default)]
pub struct Buckets {
    rows: BTreeMap<String, Bucket>,
    changed: BTreeSet<String>,
}

impl Buckets {
    /// A bucket; one that was never used is empty.
    pub fn get(&self, name: &str) -> Bucket {
        self.rows.get(name).copied().unwrap_or_default()
    }

    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Bucket)) {
        change(self.rows.entry(name.to_owned()).or_default());
        self.changed.insert(name.to_owned());
    }

    /// Writes what was taken, in the transaction of [`load`].
    pub async fn store(&mut self, tx: &mut Tx) -> Result<(), DbError> {
        store(tx, self).await
    }
}

/// Loads buckets for a debit: until this transaction ends nobody else reads them so. No names, no
/// statement.
///
/// PostgreSQL cannot lock a row that is not there yet, so there the rows are written as they are (or
/// empty) in the order of their names: two transactions never wait for each other crosswise.
pub async fn load(tx: &mut Tx, names: &BTreeSet<String>) -> Result<Buckets, DbError> {
    if names.is_empty() {
        return Ok(Buckets::default());
    }
    let sql = match tx.dialect() {
        Dialect::Sqlite => {
            "SELECT b.name, b.spent_until, b.day, b.used, b.taken_at
             FROM {rows} JOIN bucket b ON b.name = v.name"
        }
        Dialect::Postgres => {
            "INSERT INTO bucket (name, spent_until, day, used, taken_at)
             SELECT v.name, 0, 0, 0, 0 FROM {rows} WHERE TRUE
             ORDER BY v.name
             ON CONFLICT (name) DO UPDATE SET used = bucket.used
             RETURNING bucket.name, bucket.spent_until, bucket.day, bucket.used, bucket.taken_at"
        }
    };
    let rows = tx.bulk_fetch(sql, args![], Rows::new().text("name", names.iter().cloned())).await?;
    buckets(&rows)
}

/// Reads every bucket, for showing: whoever takes meanwhile is not held up.
pub async fn read(db: &mut impl Connection) -> Result<Buckets, DbError> {
    buckets(&db.rows("SELECT name, spent_until, day, used, taken_at FROM bucket ORDER BY name", args![]).await?)
}

fn buckets(rows: &[Row]) -> Result<Buckets, DbError> {
    let bucket = |row: &Row| {
        let used = u64::try_from(row.get::<i64>(3)?).unwrap_or(0);
        let bucket = Bucket { spent_until: row.get(1)?, day: row.get(2)?, used, taken_at: row.get(4)? };
        Ok((row.get(0)?, bucket))
    };
    Ok(Buckets { rows: rows.iter().map(bucket).collect::<Result<_, DbError>>()?, changed: BTreeSet::new() })
}

pub(super) async fn store(tx: &mut Tx, buckets: &mut Buckets) -> Result<(), DbError> {
    let changed = std::mem::take(&mut buckets.changed);
    if changed.is_empty() {
        return Ok(());
    }
    let row = |name: &String| buckets.get(name);
    tx.bulk(
        "INSERT INTO bucket (name, spent_until, day, used, taken_at)
         SELECT v.name, v.spent_until, v.day, v.used, v.taken_at FROM {rows} WHERE TRUE
         ON CONFLICT (name) DO UPDATE SET
           spent_until = excluded.spent_until, day = excluded.day, used = excluded.used, taken_at = excluded.taken_at",
        args![],
        Rows::new()
            .text("name", changed.iter().cloned())
            .i64("spent_until", changed.iter().map(|name| row(name).spent_until))
            .i64("day", changed.iter().map(|name| row(name).day))
            .i64("used", changed.iter().map(|name| i64::try_from(row(name).used).unwrap_or(i64::MAX)))
            .i64("taken_at", changed.iter().map(|name| row(name).taken_at.millis())),
    )
    .await?;
    Ok(())
}

/// Drops buckets that nobody took from for days, such as those of runs that ended. Answers how many.
pub async fn forget(tx: &mut Tx, now: Time) -> Result<u64, DbError> {
    tx.execute("DELETE FROM bucket WHERE taken_at < $1", args![now.plus(-KEPT_MS)]).await
}
