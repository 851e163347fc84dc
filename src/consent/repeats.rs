//! Answers kept under the `Idempotency-Key` of their request, so that its repetition does nothing twice and
//! gets the same answer.

use sha2::{Digest as _, Sha256};

use super::ledger;
use crate::args;
use crate::clock::{DAY, Time};
use crate::db::{DbError, Tx};

/// How long an answer is kept: callers give up long before.
pub const KEPT_MS: i64 = 2 * DAY;
/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 200;

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing: go on. The key is held until the transaction ends, and [`keep`] is to be called.
    New,
    /// It was answered: the HTTP status and the document.
    Answered(i64, String),
    /// It named another request.
    Other,
    /// It was done, and the person it was about is erased: the answer is gone with them.
    Erased,
}

/// Looks a key up, and holds it where it is new: whoever comes with the same one meanwhile waits.
pub async fn begin(tx: &mut Tx, client: &str, key: &str, digest: &str, now: Time) -> Result<Known, DbError> {
    let key = &stored(key);
    let added = tx
        .execute(
            "INSERT INTO api_request (client, key, digest, status, answer, at) VALUES ($1, $2, $3, 0, '', $4)
             ON CONFLICT (client, key) DO NOTHING",
            args![client, key, digest, now],
        )
        .await?;
    if added == 1 {
        return Ok(Known::New);
    }
    let row = tx.fetch_one("SELECT digest, status, answer FROM api_request WHERE client = $1 AND key = $2", args![client, key]).await?;
    let (known, status, answer): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    Ok(match known.as_str() {
        "" => Known::Erased,
        known if known == digest => Known::Answered(status, answer),
        _ => Known::Other,
    })
}

/// A key as stored: callers put names and addresses into theirs.
fn stored(key: &str) -> String {
    ledger::hex(&Sha256::digest(key.as_bytes()))
}

/// Keeps the answer, in the transaction of [`begin`] and of the work itself. `contact_id` is whom it is about.
pub async fn keep(tx: &mut Tx, client: &str, key: &str, contact_id: i64, status: i64, answer: &str) -> Result<(), DbError> {
    tx.execute_one(
        "UPDATE api_request SET status = $3, answer = $4, contact_id = $5 WHERE client = $1 AND key = $2",
        args![client, stored(key), status, answer, contact_id],
    )
    .await
}

/// Empties what was answered about somebody who is erased. The keys stay for their time: a caller who tries again
/// must not bring the person back.
pub(super) async fn forget_contact(tx: &mut Tx, contact_id: i64) -> Result<(), DbError> {
    let sql = "UPDATE api_request SET digest = '', answer = '', contact_id = NULL WHERE contact_id = $1";
    tx.execute(sql, args![contact_id]).await?;
    Ok(())
}

/// Drops answers whose time is over. Answers how many.
pub async fn forget(tx: &mut Tx, now: Time) -> Result<u64, DbError> {
    tx.execute("DELETE FROM api_request WHERE at < $1", args![now.plus(-KEPT_MS)]).await
}
