//! What an erased person leaves in this room's tables beside the ledger: counts that name nobody.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{ALL_TOPICS, Action, NewEvent, ledger, sql};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Tx};
use crate::token::Keys;

/// Removes standings, choices, confirmations and collections of a person, and makes coupons and reasons
/// nobody's (a code that was given stays given; a reason still counts). Every permit taken before is looked
/// at again before its mail leaves.
///
/// `number` takes the place of the contact's: a code belongs to it, and it to nobody.
pub async fn forget_contact(tx: &mut Tx, contact_id: i64, number: i64) -> Result<(), DbError> {
    // One row a topic: their key begins with it.
    for table in ["subscription", "confirmation", "digest"] {
        let sql = format!("DELETE FROM {table} WHERE topic_id IN (SELECT id FROM topic UNION SELECT 0) AND contact_id = $1");
        tx.execute(&sql, args![contact_id]).await?;
    }
    tx.execute("DELETE FROM consent_choice WHERE contact_id = $1", args![contact_id]).await?;
    tx.execute("UPDATE coupon SET contact_id = $2 WHERE contact_id = $1", args![contact_id, number]).await?;
    tx.execute("UPDATE withdrawal_reason SET contact_id = 0, comment = NULL WHERE contact_id = $1", args![contact_id]).await?;
    sql::move_epoch(tx).await
}

/// Removes an address from the list of suppressed addresses (its keyed digest takes its place). Answers why
/// it stood there.
pub async fn forget_suppressed(tx: &mut Tx, email_key: &str) -> Result<Option<String>, DbError> {
    let row = tx.fetch_optional("SELECT reason FROM suppression WHERE email_key = $1", args![email_key]).await?;
    let reason: Option<String> = row.map(|row| row.get(0)).transpose()?;
    tx.execute("DELETE FROM suppression WHERE email_key = $1", args![email_key]).await?;
    Ok(reason)
}

/// Whether a person left something, or everything, or objected: whoever imports them again must not mail them.
pub async fn has_left(tx: &mut Tx, contact_id: i64) -> Result<Option<&'static str>, DbError> {
    let row = tx
        .fetch_optional(
            "SELECT COUNT(*) FILTER (WHERE action = 'objected'), COUNT(*) FILTER (WHERE action = 'withdrawn')
             FROM consent_event
             WHERE contact_id = $1",
            args![contact_id],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.get::<i64>(0)? > 0 {
        return Ok(Some("objected"));
    }
    let left = tx
        .fetch_optional(
            "SELECT 1 FROM subscription s
             WHERE s.topic_id IN (SELECT id FROM topic UNION SELECT 0) AND s.contact_id = $1 AND s.standing = 'unsubscribed'
             LIMIT 1",
            args![contact_id],
        )
        .await?;
    Ok((left.is_some() && row.get::<i64>(1)? > 0).then_some("withdrawn"))
}

/// Erases what is personal in a person's entries and says so in the ledger.
pub async fn erase_entries(tx: &mut Tx, contact_id: i64, source: &str, now: Time) -> Result<(), DbError> {
    let event = NewEvent::new(contact_id, ALL_TOPICS, Action::Erased, source);
    ledger::append(tx, &[event], now).await?;
    tx.execute("UPDATE consent_event SET evidence = NULL, origin = NULL WHERE contact_id = $1", args![contact_id]).await?;
    Ok(())
}

/// Keeps the keyed digest of an address, so that it stays suppressed.
pub async fn remember(tx: &mut Tx, keys: &Keys, email_key: &str, reason: &str, source: &str, now: Time) -> Result<(), DbError> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&keys.derive("suppression")).expect("any key length works");
    mac.update(email_key.as_bytes());
    let digest = ledger::hex(&mac.finalize().into_bytes());
    tx.execute(
        "INSERT INTO suppression_rule (kind, value, reason, source, at) VALUES ('keyed', $1, $2, $3, $4) ON CONFLICT (kind, value) DO NOTHING",
        args![digest, reason, source, now],
    )
    .await?;
    Ok(())
}

/// How many entries older than `before` still say from where they came.
pub async fn count_origins(db: &mut impl Connection, before: Time) -> Result<i64, DbError> {
    let rows = db.rows("SELECT COUNT(*) FROM consent_event WHERE at < $1 AND origin IS NOT NULL", args![before]).await?;
    rows.first().map_or(Ok(0), |row| row.get(0))
}

/// Drops addresses and agents of clients from entries older than `before`, and says so in the ledger.
pub async fn expire_origins(tx: &mut Tx, before: Time, now: Time) -> Result<u64, DbError> {
    let expired = tx.execute("UPDATE consent_event SET origin = NULL WHERE at < $1 AND origin IS NOT NULL", args![before]).await?;
    if expired > 0 {
        ledger::append(tx, &[NewEvent::new(0, ALL_TOPICS, Action::Expired, "retention")], now).await?;
    }
    Ok(expired)
}
