//! Erasing a person from every table, in one transaction.
//!
//! What stays: the ledger's entries without anything personal (the chain must verify), counts (a run's
//! numbers do not change), the register of demands under a keyed digest, and, where the person must not be
//! mailed again, the keyed digest of the address.

use super::{Kind, State, register, subject};
use crate::behaviour;
use crate::clock::Time;
use crate::consent;
use crate::consent::suppression::{self, Digests};
use crate::contact::{self, Contact};
use crate::db::{Db, DbError, Tx};
use crate::delivery;
use crate::entropy::Entropy;
use crate::token::Keys;
use crate::tracking;

/// Why and how somebody is erased.
#[derive(Debug, Clone, Copy)]
pub struct Erasure<'a> {
    /// How it came, without anything personal, as it stands in the ledger and the register: `page`, `cli`,
    /// `retention inactive`.
    pub source: &'a str,
    /// An operator's words, for the register. They stay, so they must name nobody.
    pub note: Option<&'a str>,
    /// Keep the address out also where the person neither left nor was suppressed.
    pub keep_out: bool,
    /// It is a demand of the person, which belongs into the register; retention is none.
    pub demanded: bool,
    /// Days to answer demands, for the register.
    pub days: u32,
}

/// What an erasure did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Erased {
    /// Why the address stays suppressed, where it does.
    pub suppressed: Option<String>,
    /// Mails and messages that are nobody's now.
    pub deliveries: usize,
}

/// Why the address of a person would stay suppressed; nothing where anybody may bring it in again.
pub async fn reason_to_keep_out(tx: &mut Tx, contact: &Contact, keep_out: bool) -> Result<Option<String>, DbError> {
    if let Some(entry) = suppression::look_up(tx, &[&contact.email_key]).await?.remove(&contact.email_key) {
        return Ok(Some(entry.reason));
    }
    let left = consent::forget::has_left(tx, contact.id).await?;
    Ok(left.map(str::to_owned).or_else(|| keep_out.then(|| "erased".to_owned())))
}

/// Erases a person. Everything or nothing happens when the caller commits.
pub async fn erase(
    tx: &mut Tx,
    keys: &Keys,
    entropy: &Entropy,
    contact: &Contact,
    erasure: &Erasure<'_>,
    now: Time,
) -> Result<Erased, DbError> {
    let suppressed = reason_to_keep_out(tx, contact, erasure.keep_out).await?;
    let subject = subject(keys, &contact.email_key);
    consent::forget::forget_contact(tx, contact.id, entropy.id(now)).await?;
    consent::ops::erase(tx, contact.id, erasure.source, now).await?;
    if let Some(reason) = &suppressed {
        // The digest takes over the reason of the address's own entry, which may have to be written first.
        consent::ops::suppress(tx, vec![(contact.email_key.clone(), reason.clone())], erasure.source, now).await?;
        suppression::remember_erased(tx, &Digests::new(keys), &[&contact.email_key], erasure.source, now).await?;
    }
    suppression::forget_removals(tx, &Digests::new(keys), &contact.email_key).await?;
    // The row itself before its traces: an outcome that is written meanwhile finds nobody.
    contact::care::erase(tx, contact.id).await?;
    let numbers = delivery::forget::forget_contact(tx, contact.id, entropy, now).await?;
    tracking::forget::forget_contact(tx, contact.id, &numbers).await?;
    behaviour::ops::forget_contact(tx, contact.id, entropy, now).await?;
    record(tx, entropy, contact.id, &subject, erasure, now).await?;
    Ok(Erased { suppressed, deliveries: numbers.len() })
}

/// Says in the register that it was done: in the demand that was open, or in a row of its own.
async fn record(tx: &mut Tx, entropy: &Entropy, contact_id: i64, subject: &str, erasure: &Erasure<'_>, now: Time) -> Result<(), DbError> {
    let known = register::of_subject(tx, contact_id, subject).await?;
    let open = known.iter().find(|request| request.kind == Kind::Erasure && request.closed_at.is_none()).map(|request| request.id);
    register::forget_contact(tx, contact_id, subject, now).await?;
    match open {
        Some(id) if erasure.note.is_some() => register::annotate(tx, id, erasure.note).await,
        None if erasure.demanded => {
            let done = register::NewRequest {
                id: entropy.id(now),
                kind: Kind::Erasure,
                contact_id: None,
                subject: subject.to_owned(),
                state: State::Done,
                source: erasure.source,
                asked_at: now,
                days: erasure.days,
                note: erasure.note,
            };
            register::add(tx, &done, now).await
        }
        _ => Ok(()),
    }
}

/// After erasures: what SQLite's write-ahead log still holds of them is folded into the file and cut off.
/// Best done where nobody reads for long; a log that is in use is cut off later.
pub async fn settle(db: &Db) {
    if let Err(error) = db.fold_log().await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the write-ahead log still holds pages from before the erasure; it is cut off at the next stop"
        );
    }
}
