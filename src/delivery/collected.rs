//! What was held back for a digest: deliveries that were skipped because the person wants fewer mails.

use crate::args;
use crate::clock::Time;
use crate::db::{DbError, Tx};

/// A mail that was held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// Its delivery, which shows it as a page.
    pub delivery_id: i64,
    /// Its run.
    pub run_id: i64,
    /// When it would have left.
    pub at: Time,
}

/// What was held back for a person and topic from `since` to before `until`: the newest `limit`, newest first, and
/// how many there are.
pub async fn collected(
    tx: &mut Tx,
    contact_id: i64,
    topic_id: i64,
    since: Time,
    until: Time,
    limit: i64,
) -> Result<(Vec<Collected>, i64), DbError> {
    const HELD: &str = "FROM delivery d
                        JOIN run r ON r.id = d.run_id
                        WHERE d.contact_id = $1 AND d.state = 'skipped' AND d.reason = 'digest' AND r.topic_id = $2
                          AND d.changed_at >= $3 AND d.changed_at < $4";
    let count = tx.fetch_one(&format!("SELECT COUNT(*) {HELD}"), args![contact_id, topic_id, since, until]).await?.get(0)?;
    let sql = format!("SELECT d.id, d.run_id, d.changed_at {HELD} ORDER BY d.changed_at DESC, d.id DESC LIMIT $5");
    let rows = tx.fetch_all(&sql, args![contact_id, topic_id, since, until, limit]).await?;
    let mails = rows.iter().map(|row| Ok(Collected { delivery_id: row.get(0)?, run_id: row.get(1)?, at: row.get(2)? }));
    Ok((mails.collect::<Result<_, DbError>>()?, count))
}
