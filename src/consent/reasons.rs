//! Why people left, where they said so: asked after a withdrawal, never before, and never needed.

use super::{ALL_TOPICS, Action, NewEvent, Standing, ledger, sql, standing_sql};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Tx};

/// Characters of a person's own words that are kept: some sentences.
pub const MAX_COMMENT_CHARS: usize = 500;

/// What people choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Too many mails.
    TooMany,
    /// Not about what they care for.
    NotRelevant,
    /// They say that they never asked for these mails.
    NeverSignedUp,
    /// The mails are not good.
    Content,
    /// Something else, in their own words or none.
    Other,
}

impl Reason {
    /// In the order of the page.
    pub const ALL: [Reason; 5] = [Reason::TooMany, Reason::NotRelevant, Reason::NeverSignedUp, Reason::Content, Reason::Other];

    /// As stored, counted and sent by the form.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::TooMany => "too_many",
            Reason::NotRelevant => "not_relevant",
            Reason::NeverSignedUp => "never_signed_up",
            Reason::Content => "content",
            Reason::Other => "other",
        }
    }

    /// Reads what a form sent.
    pub fn from_text(text: &str) -> Option<Self> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// What somebody says about their withdrawal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The row's id, where it is the first word about this withdrawal.
    pub id: i64,
    /// The mail by which they left, where there was one.
    pub delivery_id: Option<i64>,
    /// The choice.
    pub reason: Reason,
    /// Their own words (personal: an erasure takes them).
    pub comment: Option<String>,
}

/// Notes why somebody left a topic (or everything). A second answer replaces the first. False where nobody
/// withdrew: then nothing is written.
///
/// Whoever never signed up objects (GDPR art. 21): `event` is written once as an `objected` entry, so
/// that the history shows that this consent is disputed.
pub async fn record(tx: &mut Tx, said: &Said, event: NewEvent, now: Time) -> Result<bool, DbError> {
    let (contact_id, topic_id) = (event.contact_id, event.topic_id);
    let pairs = [(topic_id, contact_id), (ALL_TOPICS, contact_id)];
    if !standing_sql::rows(tx, &pairs).await?.values().any(|row| row.state.standing == Standing::Unsubscribed) {
        return Ok(false);
    }
    let comment = said.comment.as_deref().and_then(clean);
    tx.execute("DELETE FROM withdrawal_reason WHERE contact_id = $1 AND topic_id = $2", args![contact_id, topic_id]).await?;
    tx.execute(
        "INSERT INTO withdrawal_reason (id, at, contact_id, topic_id, run_id, reason, comment)
         VALUES ($1, $2, $3, $4, (SELECT d.run_id FROM delivery d WHERE d.id = $5 AND d.contact_id = $3), $6, $7)",
        args![said.id, now, contact_id, topic_id, said.delivery_id.unwrap_or(0), said.reason.as_str(), comment],
    )
    .await?;
    if said.reason == Reason::NeverSignedUp
        && sql::last_action(tx, contact_id, topic_id).await?.as_deref() != Some(Action::Objected.as_str())
    {
        let detail = Some(format!("reason={}", said.reason.as_str()));
        ledger::append(tx, &[NewEvent { action: Action::Objected, detail, ..event }], now).await?;
    }
    Ok(true)
}

/// Reasons given through mails of a run, with how often.
pub async fn counts(db: &mut impl Connection, run_id: i64) -> Result<Vec<(String, i64)>, DbError> {
    let rows =
        db.rows("SELECT reason, COUNT(*) FROM withdrawal_reason WHERE run_id = $1 GROUP BY reason ORDER BY reason", args![run_id]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// A stranger's words: no control characters, bounded; nothing where nothing is left.
fn clean(text: &str) -> Option<String> {
    let kept: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_COMMENT_CHARS).collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}
