//! Forgetting what is personal in the ledger; the chain stays verifiable. Part of [`super::ops`].

use super::{ALL_TOPICS, Action, NewEvent, ledger, sql, standing_sql};
use crate::clock::Time;
use crate::db::{DbError, Tx};

/// What [`expire_origins`] puts before the milliseconds, in the `detail` of its entry: `origins1767225600000` drops
/// the origins of entries before that time.
pub const ORIGINS: &str = "origins";

/// Erases what the ledger and its tables hold about a person: an `erased` entry, then proofs and origins of all their
/// entries, standings, choices, waiting confirmations and the reasons they gave. The entries stay, with digests that
/// tell nothing (each proof held a salt). The caller erases the contact itself in the same transaction.
pub async fn erase(tx: &mut Tx, contact_id: i64, source: &str, now: Time) -> Result<(), DbError> {
    ledger::append(tx, &[NewEvent::new(contact_id, ALL_TOPICS, Action::Erased, source)], now).await?;
    sql::drop_proofs(tx, contact_id).await?;
    standing_sql::forget(tx, contact_id).await?;
    // Also for somebody who was not subscribed: a permit for a message is lost, too.
    sql::move_epoch(tx).await
}

/// Drops addresses and agents of clients from entries before `before`, for everybody, and says so in the ledger.
/// Answers from how many entries; where there was nothing to drop, nothing is written.
pub async fn expire_origins(tx: &mut Tx, before: Time, now: Time) -> Result<u64, DbError> {
    let dropped = sql::drop_origins(tx, before).await?;
    if dropped > 0 {
        let detail = Some(format!("{ORIGINS}{}", before.millis()));
        let event = NewEvent { detail, ..NewEvent::new(0, ALL_TOPICS, Action::Expired, super::choose::TIME) };
        ledger::append(tx, &[event], now).await?;
    }
    Ok(dropped)
}
