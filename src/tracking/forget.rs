//! What becomes of hits when a person is erased, or their time is over.

use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Rows, Tx};

/// Makes a person's hits and withdrawals nobody's: each takes the number that its delivery has now
/// (`numbers`: delivery and number), so that the counts of a run stay as they are; address and agent go.
pub async fn forget_contact(tx: &mut Tx, contact_id: i64, numbers: &[(i64, i64)]) -> Result<(), DbError> {
    let rows = || Rows::new().i64("id", numbers.iter().map(|pair| pair.0)).i64("number", numbers.iter().map(|pair| pair.1));
    tx.bulk(
        "UPDATE hit SET contact_id = v.number, ip = NULL, agent = NULL FROM {rows} WHERE hit.contact_id = $1 AND hit.delivery_id = v.id",
        args![contact_id],
        rows(),
    )
    .await?;
    tx.bulk("UPDATE unsubscribe SET contact_id = v.number FROM {rows} WHERE unsubscribe.delivery_id = v.id", args![], rows()).await?;
    // Of deliveries that are gone.
    tx.execute("UPDATE hit SET contact_id = 0, ip = NULL, agent = NULL WHERE contact_id = $1", args![contact_id]).await?;
    tx.execute("UPDATE unsubscribe SET contact_id = 0 WHERE contact_id = $1", args![contact_id]).await?;
    super::engagement_ops::forget_contact(tx, contact_id, numbers).await
}

/// Which hits a rule of retention is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// Those that still say from where they came.
    WithClient,
    /// All.
    All,
}

/// Hits older than `before`, after the id `after`: id and contact, at most `limit`, by id.
pub async fn old_hits(db: &mut impl Connection, old: Old, after: i64, before: Time, limit: i64) -> Result<Vec<(i64, i64)>, DbError> {
    let which = match old {
        Old::WithClient => "AND (ip IS NOT NULL OR agent IS NOT NULL)",
        Old::All => "",
    };
    let sql = format!("SELECT id, contact_id FROM hit WHERE id > $1 AND at < $2 {which} ORDER BY id LIMIT $3");
    db.rows(&sql, args![after, before, limit]).await?.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// How many such hits there are.
pub async fn count_old_hits(db: &mut impl Connection, old: Old, before: Time) -> Result<i64, DbError> {
    let which = match old {
        Old::WithClient => "AND (ip IS NOT NULL OR agent IS NOT NULL)",
        Old::All => "",
    };
    let rows = db.rows(&format!("SELECT COUNT(*) FROM hit WHERE at < $1 {which}"), args![before]).await?;
    rows.first().map_or(Ok(0), |row| row.get(0))
}

/// Takes addresses and agents out of hits, or deletes them.
pub async fn drop_old(tx: &mut Tx, old: Old, ids: &[i64]) -> Result<u64, DbError> {
    let sql = match old {
        Old::WithClient => "UPDATE hit SET ip = NULL, agent = NULL FROM {rows} WHERE hit.id = v.id",
        Old::All => "DELETE FROM hit WHERE id IN (SELECT v.id FROM {rows})",
    };
    tx.bulk(sql, args![], Rows::new().i64("id", ids.iter().copied())).await
}
