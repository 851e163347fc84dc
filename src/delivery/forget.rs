//! What an erased person leaves in `delivery` and `message`: rows that count, and name nobody.

use crate::args;
use crate::clock::Time;
use crate::config::Sender;
use crate::content::message::MessageDefinition;
use crate::db::{Connection, DbError, Rows, Tx};
use crate::entropy::Entropy;

/// Ends what is under way to a person and makes their deliveries nobody's.
///
/// Each delivery gets a number of its own in place of the contact's, so that the numbers of a run stay as
/// they are (they count people by it) and no two mails can be known as one person's. Answers which number
/// each delivery has now, for the hits of that delivery.
///
/// What is due or deferred is skipped as `erased`. What a worker has claimed is left to it: its permit is
/// lost (the contact is gone), or its outcome is written without the relay's words
/// (see `sql::apply_outcomes`).
pub async fn forget_contact(tx: &mut Tx, contact_id: i64, entropy: &Entropy, now: Time) -> Result<Vec<(i64, i64)>, DbError> {
    forget_messages(tx, contact_id).await?;
    let open = "SELECT DISTINCT run_id FROM delivery WHERE contact_id = $1 AND NOT transactional AND state IN ('due', 'deferred')";
    let open = tx.fetch_all(open, args![contact_id]).await?;
    super::counts::changed(tx, open.iter().map(|row| row.get(0)).collect::<Result<Vec<i64>, DbError>>()?).await?;
    let found = tx.fetch_all("SELECT id FROM delivery WHERE contact_id = $1 ORDER BY id", args![contact_id]).await?;
    let ids = found.iter().map(|row| row.get(0)).collect::<Result<Vec<i64>, DbError>>()?;
    let numbers: Vec<(i64, i64)> = ids.into_iter().zip(entropy.ids(now, found.len())).collect();
    tx.bulk(
        "UPDATE delivery
         SET contact_id = v.number, reply = NULL,
           state = CASE WHEN delivery.state IN ('due', 'deferred') THEN 'skipped' ELSE delivery.state END,
           reason = CASE WHEN delivery.state IN ('due', 'deferred') THEN 'erased' ELSE delivery.reason END
         FROM {rows}
         WHERE delivery.id = v.id",
        args![],
        Rows::new().i64("id", numbers.iter().map(|pair| pair.0)).i64("number", numbers.iter().map(|pair| pair.1)),
    )
    .await?;
    Ok(numbers)
}

/// Empties a person's messages. Their rows stay for whoever asks after them by their id.
async fn forget_messages(tx: &mut Tx, contact_id: i64) -> Result<(), DbError> {
    let ids = tx.fetch_all("SELECT id FROM message WHERE contact_id = $1 ORDER BY id", args![contact_id]).await?;
    let ids = ids.iter().map(|row| row.get(0)).collect::<Result<Vec<i64>, DbError>>()?;
    if ids.is_empty() {
        return Ok(());
    }
    empty(tx, &ids).await?;
    tx.execute(
        "UPDATE message SET contact_id = 0, idempotency_key = NULL, request_digest = '', locale = NULL WHERE contact_id = $1",
        args![contact_id],
    )
    .await?;
    Ok(())
}

/// Takes `data`, and what a caller wrote itself, out of messages. Answers how many there were.
pub async fn empty(tx: &mut Tx, ids: &[i64]) -> Result<u64, DbError> {
    // A message must have a definition (a claim reads it), so one that says nothing takes its place.
    let nobody = Sender { name: String::new(), email: String::new(), reply_to: None, postal_address: String::new() };
    let blank = MessageDefinition::Inline { subject: String::new(), html: None, text: Some(String::new()), sender: nobody };
    let hash = blank.hash();
    let rows = || Rows::new().i64("id", ids.iter().copied());
    let written = tx
        .bulk_fetch(
            "SELECT m.definition_hash FROM {rows} JOIN message m ON m.id = v.id AND m.template IS NULL AND m.definition_hash <> $1",
            args![&hash],
            rows(),
        )
        .await?;
    let mut hashes = written.iter().map(|row| row.get(0)).collect::<Result<Vec<String>, DbError>>()?;
    hashes.sort_unstable();
    hashes.dedup();
    if !hashes.is_empty() {
        super::messages::keep_definition(tx, &hash, &blank.to_json()).await?;
        tx.bulk(
            "UPDATE message SET definition_hash = $1 FROM {rows} WHERE message.id = v.id AND message.template IS NULL",
            args![&hash],
            rows(),
        )
        .await?;
    }
    let emptied =
        tx.bulk("UPDATE message SET data = '{}', request_digest = '' FROM {rows} WHERE message.id = v.id", args![], rows()).await?;
    for hash in hashes {
        // Two people may have been written the same.
        tx.execute(
            "DELETE FROM message_definition WHERE hash = $1 AND NOT EXISTS (SELECT 1 FROM message m WHERE m.definition_hash = $1)",
            args![hash],
        )
        .await?;
    }
    Ok(emptied)
}

/// Messages made before `before`, after `after`, that hold data still and wait for nothing; oldest first.
pub async fn full_messages(db: &mut impl Connection, after: i64, before: Time, limit: i64) -> Result<Vec<(i64, i64)>, DbError> {
    // Ids grow with time, but bulk work runs ahead of it, so that the time decides and the id only orders.
    let rows = db
        .rows(
            "SELECT m.id, m.contact_id
             FROM message m
             JOIN delivery d ON d.id = m.delivery_id
             WHERE m.id > $1 AND m.created_at < $2 AND m.request_digest <> '' AND d.state NOT IN ('due', 'deferred', 'claimed')
             ORDER BY m.id
             LIMIT $3",
            args![after, before, limit],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}
