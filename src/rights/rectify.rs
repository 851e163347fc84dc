//! Correcting a person's data. The address may change; what they agreed to and refused stays with them.

use serde_json::json;

use crate::clock::Time;
use crate::consent::suppression::{self, Digests, NewEntry};
use crate::consent::{self, ALL_TOPICS, Action, NewEvent};
use crate::contact::care::{self, FieldChange};
use crate::contact::{self, Address, Contact, Schema};
use crate::db::{DbError, Tx};
use crate::entropy::Entropy;

/// What was corrected.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rectified {
    /// The fields, by name.
    pub fields: Vec<String>,
    /// The address before, where it changed.
    pub old_email: Option<String>,
    /// Why mails to the new address are refused, where they are.
    pub suppressed: Option<String>,
}

/// Why nothing was corrected.
#[derive(Debug, thiserror::Error)]
pub enum NotRectified {
    /// Another contact has the address.
    #[error("another contact has the address `{0}`: nothing was changed\nhint: erase one of the two, or correct the other one first")]
    Taken(String),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What to correct.
#[derive(Debug, Clone, Copy)]
pub struct Correction<'a> {
    /// New values.
    pub fields: &'a [FieldChange],
    /// The new address.
    pub email: Option<&'a Address>,
    /// How it came, without anything personal.
    pub source: &'a str,
    /// An operator's words; they become part of the proof, which can be erased.
    pub words: Option<&'a str>,
}

/// Corrects a person's fields and address, with an entry in the ledger that names the fields; the old and
/// the new address stand in its proof.
///
/// Suppression follows the person: where mail to the old address was refused, mail to the new one is, too.
pub async fn rectify(
    tx: &mut Tx,
    schema: &Schema,
    entropy: &Entropy,
    digests: &Digests,
    contact: &Contact,
    correction: &Correction<'_>,
    now: Time,
) -> Result<Rectified, NotRectified> {
    let moves = correction.email.filter(|email| email.key() != contact.email_key);
    if let Some(email) = moves
        && contact::sql::by_email_key(tx, schema, email.key()).await?.is_some()
    {
        return Err(NotRectified::Taken(email.as_str().to_owned()));
    }
    match care::change(tx, contact.id, correction.fields, correction.email, now).await {
        Err(DbError::Unique(_)) if correction.email.is_some() => {
            return Err(NotRectified::Taken(correction.email.map_or_else(String::new, |email| email.as_str().to_owned())));
        }
        other => other?,
    }
    let mut suppressed = None;
    if let Some(email) = moves {
        // Whose owner was erased once is recalled by its digest; where the old one is kept out, the new one is.
        suppression::recall(tx, digests, &[email.key()], now).await?;
        let known = suppression::look_up(tx, &[contact.email_key.as_str()]).await?.remove(&contact.email_key);
        if let Some(entry) = known {
            let follows = NewEntry {
                kind: suppression::Kind::Address,
                value: email.key().to_owned(),
                reason: entry.reason,
                expires_at: entry.expires_at,
            };
            suppression::add(tx, vec![follows], &entry.source, now).await?;
        }
        suppressed = suppression::look_up(tx, &[email.key()]).await?.remove(email.key()).map(|entry| entry.reason);
    }
    let mut fields: Vec<String> = correction.fields.iter().map(|field| field.name.clone()).collect();
    let changes_email = correction.email.filter(|email| email.as_str() != contact.email);
    fields.extend(changes_email.map(|_| "email".to_owned()));
    let proof = json!({
        "old": changes_email.map(|_| contact.email.as_str()),
        "new": changes_email.map(Address::as_str),
        "source": correction.words,
    });
    let event = NewEvent {
        detail: Some(format!("fields={}", fields.join(","))),
        evidence: Some(consent::ops::evidence(entropy, proof)),
        ..NewEvent::new(contact.id, ALL_TOPICS, Action::Changed, correction.source)
    };
    consent::ledger::append(tx, &[event], now).await?;
    Ok(Rectified { fields, old_email: changes_email.map(|_| contact.email.clone()), suppressed })
}
