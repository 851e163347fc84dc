//! What an erased person leaves in this room beside the ledger: counts that name nobody. Part of erasing a
//! person, with [`super::ops::erase`] and [`super::suppression::remember_erased`].

use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Tx};

/// Makes coupons and reasons nobody's (a code that was given stays given; a reason still counts), and drops
/// collections and what the API answered. `number` takes the place of the contact's: a code belongs to it, and it to nobody. To be called
/// before [`super::ops::erase`].
pub async fn forget_contact(tx: &mut Tx, contact_id: i64, number: i64) -> Result<(), DbError> {
    tx.execute("UPDATE withdrawal_reason SET contact_id = 0, comment = NULL WHERE contact_id = $1", args![contact_id]).await?;
    tx.execute("UPDATE coupon SET contact_id = $2 WHERE contact_id = $1", args![contact_id, number]).await?;
    super::repeats::forget_contact(tx, contact_id).await?;
    tx.execute("DELETE FROM welcome WHERE contact_id = $1", args![contact_id]).await?;
    // One row a topic: the key begins with it.
    tx.execute("DELETE FROM digest WHERE topic_id IN (SELECT id FROM topic) AND contact_id = $1", args![contact_id]).await?;
    Ok(())
}

/// Whether a person objected, or left something or everything: whoever imports them again must not mail them.
pub async fn has_left(tx: &mut Tx, contact_id: i64) -> Result<Option<&'static str>, DbError> {
    let objected = "SELECT 1 FROM consent_event WHERE contact_id = $1 AND action = 'objected' LIMIT 1";
    if tx.fetch_optional(objected, args![contact_id]).await?.is_some() {
        return Ok(Some("objected"));
    }
    let left = "SELECT 1
                FROM (SELECT id FROM topic UNION SELECT 0) AS t
                JOIN subscription s ON s.topic_id = t.id AND s.contact_id = $1
                WHERE s.standing = 'unsubscribed'
                LIMIT 1";
    Ok(tx.fetch_optional(left, args![contact_id]).await?.map(|_| "withdrawn"))
}

/// How many entries older than `before` still say from where they came: what [`super::ops::expire_origins`] drops.
pub async fn count_origins(db: &mut impl Connection, before: Time) -> Result<i64, DbError> {
    let rows = db.rows("SELECT COUNT(*) FROM consent_event WHERE at < $1 AND origin IS NOT NULL", args![before]).await?;
    rows.first().map_or(Ok(0), |row| row.get(0))
}
