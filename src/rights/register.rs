//! The register of demands (table `rights_request`): who asked for what, until when it must be answered,
//! and what became of it.

use super::{Kind, State};
use crate::args;
use crate::clock::{DAY, Time};
use crate::db::{Connection, DbError, Row, Tx};

/// Rows that `list` answers at most: an instance with more open demands needs a query of its own.
pub const MAX_LISTED: i64 = 10_000;

/// One demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its id.
    pub id: i64,
    /// What.
    pub kind: Kind,
    /// Whose, until they are erased.
    pub contact_id: Option<i64>,
    /// The address, while we know the contact.
    pub email: Option<String>,
    /// The keyed digest of the address.
    pub subject: String,
    /// Where it is.
    pub state: State,
    /// How it came: `page`, `cli`.
    pub source: String,
    /// When.
    pub asked_at: Time,
    /// Until when it must be answered.
    pub due_at: Time,
    /// When the owner of the address confirmed it.
    pub verified_at: Option<Time>,
    /// When it was answered.
    pub closed_at: Option<Time>,
    /// An operator's words.
    pub note: Option<String>,
}

impl Request {
    /// Whether its answer is late.
    pub fn is_overdue(&self, now: Time) -> bool {
        self.state == State::Open && now > self.due_at
    }
}

/// A demand about to be written.
#[derive(Debug, Clone)]
pub struct NewRequest<'a> {
    /// Its id.
    pub id: i64,
    /// What.
    pub kind: Kind,
    /// Whose, where we know the contact.
    pub contact_id: Option<i64>,
    /// See [`super::subject`].
    pub subject: String,
    /// `Asked`, `Open`, or `Done` for what is carried out in the same transaction.
    pub state: State,
    /// How it came, without anything personal.
    pub source: &'a str,
    /// When it came.
    pub asked_at: Time,
    /// Days until it must be answered.
    pub days: u32,
    /// An operator's words.
    pub note: Option<&'a str>,
}

/// Writes a demand. One that is not merely asked for is the person's from the start.
pub async fn add(tx: &mut Tx, new: &NewRequest<'_>, now: Time) -> Result<(), DbError> {
    let verified = (new.state != State::Asked).then_some(now);
    let closed = matches!(new.state, State::Done | State::Refused).then_some(now);
    tx.execute_one(
        "INSERT INTO rights_request (id, kind, contact_id, subject, state, source, asked_at, due_at, verified_at, closed_at, note)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        args![
            new.id,
            new.kind.as_str(),
            new.contact_id,
            &new.subject,
            new.state.as_str(),
            new.source,
            new.asked_at,
            new.asked_at.plus(i64::from(new.days) * DAY),
            verified,
            closed,
            new.note
        ],
    )
    .await
}

const COLUMNS: &str = "r.id, r.kind, r.contact_id, c.email, r.subject, r.state, r.source, r.asked_at, r.due_at, r.verified_at, \
                       r.closed_at, r.note
                       FROM rights_request r
                       LEFT JOIN contact c ON c.id = r.contact_id";

fn read(row: &Row) -> Result<Request, DbError> {
    let (kind, state): (String, String) = (row.get(1)?, row.get(5)?);
    let unknown = |what: &str| DbError::Unexpected(format!("a request of the register has the unknown {what}: restore a backup"));
    Ok(Request {
        id: row.get(0)?,
        kind: Kind::from_stored(&kind).ok_or_else(|| unknown("kind"))?,
        contact_id: row.get(2)?,
        email: row.get(3)?,
        subject: row.get(4)?,
        state: State::from_stored(&state).ok_or_else(|| unknown("state"))?,
        source: row.get(6)?,
        asked_at: row.get(7)?,
        due_at: row.get(8)?,
        verified_at: row.get(9)?,
        closed_at: row.get(10)?,
        note: row.get(11)?,
    })
}

/// One demand.
pub async fn find(db: &mut impl Connection, id: i64) -> Result<Option<Request>, DbError> {
    db.rows(&format!("SELECT {COLUMNS} WHERE r.id = $1"), args![id]).await?.first().map(read).transpose()
}

/// Demands, the most urgent first; closed ones only when asked for, after the others, newest first.
pub async fn list(db: &mut impl Connection, closed_too: bool) -> Result<Vec<Request>, DbError> {
    let only = if closed_too { "" } else { "WHERE r.closed_at IS NULL" };
    let sql = format!(
        "SELECT {COLUMNS} {only}
         ORDER BY CASE WHEN r.closed_at IS NULL THEN 0 ELSE 1 END, CASE WHEN r.closed_at IS NULL THEN r.due_at ELSE -r.closed_at END, r.id
         LIMIT {MAX_LISTED}"
    );
    db.rows(&sql, args![]).await?.iter().map(read).collect()
}

/// Every demand about an address, oldest first.
pub async fn of_subject(db: &mut impl Connection, contact_id: i64, subject: &str) -> Result<Vec<Request>, DbError> {
    let sql = format!("SELECT {COLUMNS} WHERE r.contact_id = $1 OR r.subject = $2 ORDER BY r.id");
    db.rows(&sql, args![contact_id, subject]).await?.iter().map(read).collect()
}

/// When a demand of this kind was last asked for on a page for this address.
pub async fn last_asked(tx: &mut Tx, kind: Kind, contact_id: i64) -> Result<Option<Time>, DbError> {
    let row = tx
        .fetch_one(
            "SELECT MAX(asked_at) FROM rights_request WHERE contact_id = $1 AND kind = $2 AND source = 'page' AND state <> 'lapsed'",
            args![contact_id, kind.as_str()],
        )
        .await?;
    row.get(0)
}

/// Says that a demand is the person's; nothing changes where that was known.
pub async fn verify(tx: &mut Tx, id: i64, now: Time) -> Result<(), DbError> {
    tx.execute("UPDATE rights_request SET state = 'open', verified_at = $2 WHERE id = $1 AND state = 'asked'", args![id, now]).await?;
    Ok(())
}

/// Closes a demand; false where it was closed before.
pub async fn close(tx: &mut Tx, id: i64, state: State, note: Option<&str>, now: Time) -> Result<bool, DbError> {
    let sql = "UPDATE rights_request SET state = $2, closed_at = $3, note = COALESCE($4, note) WHERE id = $1 AND closed_at IS NULL";
    Ok(tx.execute(sql, args![id, state.as_str(), now, note]).await? == 1)
}

/// Closes what was asked for on a page and not confirmed by mail since `before`. Answers how many.
pub async fn lapse(tx: &mut Tx, before: Time, now: Time) -> Result<u64, DbError> {
    let sql = "UPDATE rights_request SET state = 'lapsed', closed_at = $2 WHERE closed_at IS NULL AND state = 'asked' AND asked_at < $1";
    tx.execute(sql, args![before, now]).await
}

/// Lets go of an erased person: what they demanded stays, under the digest; an operator's words go, because
/// they may name somebody. Erasures that were open are done with it.
pub async fn forget_contact(tx: &mut Tx, contact_id: i64, subject: &str, now: Time) -> Result<(), DbError> {
    tx.execute(
        "UPDATE rights_request
         SET state = 'done', closed_at = $3, verified_at = COALESCE(verified_at, $3)
         WHERE (contact_id = $1 OR subject = $2) AND kind = 'erasure' AND closed_at IS NULL",
        args![contact_id, subject, now],
    )
    .await?;
    tx.execute(
        "UPDATE rights_request SET contact_id = NULL, note = NULL WHERE contact_id = $1 OR subject = $2",
        args![contact_id, subject],
    )
    .await?;
    Ok(())
}

/// How many demands wait for an answer, and how many of them are late.
pub async fn waiting(db: &mut impl Connection, now: Time) -> Result<(i64, i64), DbError> {
    let rows = db
        .rows(
            "SELECT COUNT(*), COUNT(*) FILTER (WHERE due_at < $1) FROM rights_request WHERE closed_at IS NULL AND state = 'open'",
            args![now],
        )
        .await?;
    rows.first().map_or(Ok((0, 0)), |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Writes an operator's words to a demand.
pub async fn annotate(tx: &mut Tx, id: i64, note: Option<&str>) -> Result<(), DbError> {
    tx.execute("UPDATE rights_request SET note = $2 WHERE id = $1", args![id, note]).await?;
    Ok(())
}
