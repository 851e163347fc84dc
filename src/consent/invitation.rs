//! The one mail that goes out without consent: the question whether somebody wants any (double
//! opt-in). It carries no advertising, goes to an address once a day at most whoever asks, and needs
//! an [`Invitation`], which only a pending request in the ledger can give.

use super::{Action, sql};
use crate::args;
use crate::clock::{DAY, MINUTE, Time};
use crate::db::{Connection, DbError, Dialect, Tx};

/// One confirmation mail to a person and topic within this time, whoever asks: nobody can be
/// flooded through a form.
pub const WINDOW_MS: i64 = DAY;
/// How long the link in it works.
pub const LINK_MS: i64 = 7 * DAY;
/// A relay that is down is tried again after so long, so many times.
const RETRY_MS: i64 = 5 * MINUTE;
const MAX_TRIES: i64 = 12;
/// Mails of one round.
const BATCH: i64 = 100;

/// The proof that a confirmation mail may go to `contact_id` about `topic_id`. Private fields, one
/// constructor.
#[derive(Debug, PartialEq, Eq)]
pub struct Invitation {
    contact_id: i64,
    topic_id: i64,
    expires: Time,
}

impl Invitation {
    /// Whom it is for.
    pub fn contact_id(&self) -> i64 {
        self.contact_id
    }

    /// About which topic.
    pub fn topic_id(&self) -> i64 {
        self.topic_id
    }

    /// Until when its link works.
    pub fn expires(&self) -> Time {
        self.expires
    }

    /// Takes the confirmation mails that are due, inside a transaction that postpones their next
    /// try. A request that was answered or withdrawn meanwhile, and a suppressed address, get none.
    pub async fn take_due(tx: &mut Tx, now: Time) -> Result<Vec<Invitation>, DbError> {
        let skip_locked = if tx.dialect() == Dialect::Postgres { "FOR UPDATE OF q SKIP LOCKED" } else { "" };
        let found = tx
            .fetch_all(
                &format!(
                    "SELECT q.topic_id, q.contact_id
                     FROM confirmation q
                     WHERE q.sent_at IS NULL AND q.due_at <= $1 AND q.tries < $2
                     ORDER BY q.due_at, q.contact_id
                     LIMIT $3
                     {skip_locked}"
                ),
                args![now, MAX_TRIES, BATCH],
            )
            .await?;
        let mut out = Vec::new();
        for row in found {
            let (topic_id, contact_id): (i64, i64) = (row.get(0)?, row.get(1)?);
            tx.execute_one(
                "UPDATE confirmation SET tries = tries + 1, due_at = $1 WHERE topic_id = $2 AND contact_id = $3",
                args![now.plus(RETRY_MS), topic_id, contact_id],
            )
            .await?;
            let asked = sql::last_action(tx, contact_id, topic_id).await?.as_deref() == Some(Action::Requested.as_str());
            let facts = sql::permission_facts(tx, topic_id, &[contact_id]).await?;
            if asked && facts.iter().all(|fact| fact.known && fact.suppressed.is_none()) {
                out.push(Invitation { contact_id, topic_id, expires: now.plus(LINK_MS) });
            } else {
                tx.execute_one("DELETE FROM confirmation WHERE topic_id = $1 AND contact_id = $2", args![topic_id, contact_id]).await?;
            }
        }
        Ok(out)
    }

    /// The mail was refused for good: no further try. The person may ask again.
    pub async fn refused(&self, tx: &mut Tx) -> Result<(), DbError> {
        tx.execute(
            "UPDATE confirmation SET tries = $1 WHERE topic_id = $2 AND contact_id = $3",
            args![MAX_TRIES, self.topic_id, self.contact_id],
        )
        .await?;
        Ok(())
    }

    /// The mail went out.
    pub async fn sent(&self, tx: &mut Tx, now: Time) -> Result<(), DbError> {
        tx.execute(
            "UPDATE confirmation SET sent_at = $1 WHERE topic_id = $2 AND contact_id = $3",
            args![now, self.topic_id, self.contact_id],
        )
        .await?;
        Ok(())
    }
}

/// Whether any confirmation mail is due: a look that writes nothing.
pub async fn any_due(db: &mut impl Connection, now: Time) -> Result<bool, DbError> {
    let rows = db
        .rows(
            "SELECT contact_id FROM confirmation WHERE sent_at IS NULL AND due_at <= $1 AND tries < $2 ORDER BY due_at, contact_id LIMIT 1",
            args![now, MAX_TRIES],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// Notes that a confirmation mail is wanted; false when one went out within the window, or is on its
/// way already.
pub(super) async fn ask(tx: &mut Tx, contact_id: i64, topic_id: i64, now: Time) -> Result<bool, DbError> {
    let touched = tx
        .execute(
            "INSERT INTO confirmation (topic_id, contact_id, asked_at, due_at, tries) VALUES ($1, $2, $3, $3, 0)
             ON CONFLICT (topic_id, contact_id) DO UPDATE
             SET asked_at = excluded.asked_at, due_at = excluded.due_at, tries = 0, sent_at = NULL
             WHERE confirmation.asked_at <= $4",
            args![topic_id, contact_id, now, now.plus(-WINDOW_MS)],
        )
        .await?;
    Ok(touched == 1)
}
