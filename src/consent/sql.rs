//! Statements of `consent_event`, `consent_head`, `consent_wording`, `subscription` and `topic`.

use std::collections::HashMap;

use super::wording::{KeptWording, Wording};
use super::{Action, Event, Fact, Frequency, Standing};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Dialect, Row, Rows, Tx};

/// What a permit is judged by.
pub(super) struct PermissionFact {
    pub contact_id: i64,
    pub known: bool,
    pub standing: Standing,
    pub seq: i64,
    pub frequency: Option<Frequency>,
    pub suppressed: Option<String>,
    /// The contact leads to another one.
    pub merged: bool,
}

/// Reads the epoch and keeps it from moving until this transaction ends.
pub(super) async fn lock_epoch(tx: &mut Tx) -> Result<i64, DbError> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => "SELECT epoch FROM consent_head WHERE id = 1",
        Dialect::Postgres => "SELECT epoch FROM consent_head WHERE id = 1 FOR SHARE",
    };
    tx.fetch_one(sql, Vec::new()).await?.get(0)
}

/// Says that somebody may have lost permission.
pub(super) async fn move_epoch(tx: &mut Tx) -> Result<(), DbError> {
    tx.execute_one("UPDATE consent_head SET epoch = epoch + 1 WHERE id = 1", Vec::new()).await
}

pub(super) async fn permission_facts(tx: &mut Tx, topic_id: i64, contacts: &[i64]) -> Result<Vec<PermissionFact>, DbError> {
    let rows = tx
        .bulk_fetch(
            "SELECT v.contact_id, c.id, s.standing, s.last_seq, x.reason, c.email_key, s.frequency, c.merged_into
             FROM {rows}
             LEFT JOIN contact c ON c.id = v.contact_id
             LEFT JOIN subscription s ON s.topic_id = $1 AND s.contact_id = v.contact_id
             LEFT JOIN suppression x ON x.email_key = c.email_key",
            args![topic_id],
            Rows::new().i64("contact_id", contacts.iter().copied()),
        )
        .await?;
    let keys: Vec<String> = rows.iter().map(|row| Ok(row.get::<Option<String>>(5)?.unwrap_or_default())).collect::<Result<_, DbError>>()?;
    let mut by_rules = super::suppression::look_up_rules(tx, &keys).await?;
    rows.iter()
        .zip(&keys)
        .map(|(row, key)| {
            Ok(PermissionFact {
                contact_id: row.get(0)?,
                known: row.get::<Option<i64>>(1)?.is_some(),
                standing: Standing::from_stored(row.get::<Option<String>>(2)?.as_deref()),
                seq: row.get::<Option<i64>>(3)?.unwrap_or(0),
                suppressed: row.get::<Option<String>>(4)?.or_else(|| by_rules.remove(key).map(|entry| entry.reason)),
                frequency: row.get::<Option<String>>(6)?.as_deref().and_then(Frequency::from_stored),
                merged: row.get::<Option<i64>>(7)?.is_some(),
            })
        })
        .collect()
}

/// The id of a topic's name, made when it is new.
pub(super) async fn topic_id(tx: &mut Tx, name: &str, new_id: i64) -> Result<i64, DbError> {
    tx.execute("INSERT INTO topic (id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", args![new_id, name]).await?;
    tx.fetch_one("SELECT id FROM topic WHERE name = $1", args![name]).await?.get(0)
}

/// All topics ever used: id and name.
pub async fn topics(db: &mut impl Connection) -> Result<HashMap<i64, String>, DbError> {
    let rows = db.rows("SELECT id, name FROM topic ORDER BY id", Vec::new()).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// Locks the head of the chain and reads it.
pub(super) async fn lock_head(tx: &mut Tx) -> Result<(i64, Vec<u8>), DbError> {
    let sql = format!("SELECT seq, hash FROM consent_head WHERE id = 1 {}", tx.dialect().for_update());
    let row = tx.fetch_one(&sql, Vec::new()).await?;
    Ok((row.get(0)?, row.get(1)?))
}

pub(super) async fn move_head(tx: &mut Tx, seq: i64, hash: Vec<u8>) -> Result<(), DbError> {
    tx.execute_one("UPDATE consent_head SET seq = $1, hash = $2 WHERE id = 1", args![seq, hash]).await
}

const EVENT_COLUMNS: &str = "e.seq, e.at, e.contact_id, e.topic_id, t.name, e.action, e.source, e.source_line, e.version, e.channel,
    e.purpose, e.basis, e.frequency, e.until, e.detail, e.wording_hash, e.evidence, e.evidence_digest, e.origin, e.origin_digest, e.hash";

fn read_event(row: &Row) -> Result<Event, DbError> {
    Ok(Event {
        seq: row.get(0)?,
        at: row.get(1)?,
        contact_id: row.get(2)?,
        topic_id: row.get(3)?,
        topic: row.get::<Option<String>>(4)?.unwrap_or_default(),
        action: row.get(5)?,
        source: row.get(6)?,
        source_line: row.get(7)?,
        version: row.get(8)?,
        channel: row.get(9)?,
        purpose: row.get(10)?,
        basis: row.get(11)?,
        frequency: row.get(12)?,
        until: row.get(13)?,
        detail: row.get(14)?,
        wording_hash: row.get(15)?,
        evidence: row.get(16)?,
        evidence_digest: row.get(17)?,
        origin: row.get(18)?,
        origin_digest: row.get(19)?,
        hash: row.get(20)?,
    })
}

/// Events after `seq` in order, at most `limit`.
pub(super) async fn events_after(db: &mut impl Connection, seq: i64, limit: i64) -> Result<Vec<Event>, DbError> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM consent_event e LEFT JOIN topic t ON t.id = e.topic_id WHERE e.seq > $1 ORDER BY e.seq LIMIT $2"
    );
    db.rows(&sql, args![seq, limit]).await?.iter().map(read_event).collect()
}

/// A person's events, oldest first.
pub(super) async fn events_of(db: &mut impl Connection, contact_id: i64) -> Result<Vec<Event>, DbError> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM consent_event e LEFT JOIN topic t ON t.id = e.topic_id WHERE e.contact_id = $1 ORDER BY e.seq"
    );
    db.rows(&sql, args![contact_id]).await?.iter().map(read_event).collect()
}

/// The latest event about a person and a topic (or everything) that speaks of permission: what somebody chose
/// about tracking answers no request.
pub(super) async fn last_action(tx: &mut Tx, contact_id: i64, topic_id: i64) -> Result<Option<String>, DbError> {
    let row = tx
        .fetch_optional(
            "SELECT action FROM consent_event
             WHERE contact_id = $1 AND topic_id IN ($2, 0) AND action NOT IN ('changed', 'refreshed', 'paused', 'resumed', 'expired')
             ORDER BY seq DESC LIMIT 1",
            args![contact_id, topic_id],
        )
        .await?;
    row.map(|row| row.get(0)).transpose()
}

/// What a person said about a topic (or everything) after a moment that closes a question about it: `Confirmed`, and
/// `Withdrawn` for leaving in any way.
pub(super) async fn closed_since(tx: &mut Tx, contact_id: i64, topic_id: i64, after: Time) -> Result<Vec<Action>, DbError> {
    let rows = tx
        .fetch_all(
            "SELECT DISTINCT action FROM consent_event
             WHERE contact_id = $1 AND topic_id IN ($2, 0) AND at > $3 AND action IN ('confirmed', 'withdrawn', 'objected')
             ORDER BY action",
            args![contact_id, topic_id, after],
        )
        .await?;
    rows.iter().map(|row| Ok(if row.get::<String>(0)? == "confirmed" { Action::Confirmed } else { Action::Withdrawn })).collect()
}

pub(super) async fn head(db: &mut impl Connection) -> Result<(i64, Vec<u8>), DbError> {
    let rows = db.rows("SELECT seq, hash FROM consent_head WHERE id = 1", Vec::new()).await?;
    let row = rows.first().ok_or_else(|| DbError::Unexpected("the ledger has no head: restore a backup".to_owned()))?;
    Ok((row.get(0)?, row.get(1)?))
}

/// Keeps a wording; one that is there stays as it is.
pub(super) async fn keep_wording(tx: &mut Tx, hash: &str, wording: &Wording<'_>, now: Time) -> Result<(), DbError> {
    tx.execute(
        "INSERT INTO consent_wording (hash, wording, locale, kind, version, first_shown_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (hash) DO NOTHING",
        args![hash, wording.text, wording.locale, wording.kind, wording.version, now],
    )
    .await?;
    Ok(())
}

const WORDING_COLUMNS: &str = "hash, wording, locale, kind, version, first_shown_at";

fn read_wording(row: &Row) -> Result<KeptWording, DbError> {
    Ok(KeptWording {
        hash: row.get(0)?,
        text: row.get(1)?,
        locale: row.get(2)?,
        kind: row.get(3)?,
        version: row.get(4)?,
        first_shown_at: row.get(5)?,
    })
}

pub(super) async fn wording(db: &mut impl Connection, hash: &str) -> Result<Option<KeptWording>, DbError> {
    let sql = format!("SELECT {WORDING_COLUMNS} FROM consent_wording WHERE hash = $1");
    db.rows(&sql, args![hash]).await?.first().map(read_wording).transpose()
}

/// Wordings after `hash` in byte order, at most `limit`.
pub(super) async fn wordings_after(db: &mut impl Connection, hash: &str, limit: i64) -> Result<Vec<KeptWording>, DbError> {
    let collation = db.engine().binary_collation();
    let sql = format!("SELECT {WORDING_COLUMNS} FROM consent_wording WHERE hash{collation} > $1 ORDER BY hash{collation} LIMIT $2");
    db.rows(&sql, args![hash, limit]).await?.iter().map(read_wording).collect()
}

/// Drops proofs and origins of a person's entries.
pub(super) async fn drop_proofs(tx: &mut Tx, contact_id: i64) -> Result<u64, DbError> {
    tx.execute("UPDATE consent_event SET evidence = NULL, origin = NULL WHERE contact_id = $1", args![contact_id]).await
}

/// Drops origins of entries before a time.
pub(super) async fn drop_origins(tx: &mut Tx, before: Time) -> Result<u64, DbError> {
    tx.execute("UPDATE consent_event SET origin = NULL WHERE at < $1 AND origin IS NOT NULL", args![before]).await
}

/// `expired` entries about nobody: place and detail.
pub(super) async fn expiries(db: &mut impl Connection) -> Result<Vec<(i64, Option<String>)>, DbError> {
    let sql = "SELECT seq, detail FROM consent_event WHERE contact_id = 0 AND action = $1 ORDER BY seq";
    db.rows(sql, args![Action::Expired.as_str()]).await?.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// Where these people were erased, the last time: contact and place; who was not is left out.
pub(super) async fn erased_at(tx: &mut Tx, mut contacts: Vec<i64>) -> Result<HashMap<i64, i64>, DbError> {
    contacts.sort_unstable();
    contacts.dedup();
    let rows = tx
        .bulk_fetch(
            "SELECT e.contact_id, MAX(e.seq) FROM {rows} JOIN consent_event e ON e.contact_id = v.contact_id
             WHERE e.action = $1 GROUP BY e.contact_id",
            args![Action::Erased.as_str()],
            Rows::new().i64("contact_id", contacts),
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// Entries from before their person was erased that hold a proof or origin still; the first of them.
pub(super) async fn kept_after_erasure(db: &mut impl Connection) -> Result<Vec<i64>, DbError> {
    let sql = "SELECT e.seq
               FROM consent_event x
               JOIN consent_event e ON e.contact_id = x.contact_id AND e.seq < x.seq
               WHERE x.action = $1 AND (e.evidence IS NOT NULL OR e.origin IS NOT NULL)
               ORDER BY e.seq LIMIT 100";
    db.rows(sql, args![Action::Erased.as_str()]).await?.iter().map(|row| row.get(0)).collect()
}

/// The part of an entry that changes something.
pub(super) struct Step {
    pub contact_id: i64,
    pub seq: i64,
    pub at: Time,
    pub topic_id: i64,
    action: String,
    frequency: Option<String>,
    until: Option<Time>,
    detail: Option<String>,
}

impl Step {
    /// `None` for an action that this release does not know.
    pub(super) fn fact(&self) -> Option<Fact<'_>> {
        Some(Fact {
            action: Action::from_stored(&self.action)?,
            frequency: self.frequency.as_deref().and_then(Frequency::from_stored),
            until: self.until,
            detail: self.detail.as_deref(),
        })
    }
}

/// Entries by person, then by place: those after `(contact, seq)`, at most `limit`.
pub(super) async fn steps_after(db: &mut impl Connection, (contact_id, seq): (i64, i64), limit: i64) -> Result<Vec<Step>, DbError> {
    let sql = "SELECT contact_id, seq, at, topic_id, action, frequency, until, detail
               FROM consent_event
               WHERE (contact_id, seq) > ($1, $2)
               ORDER BY contact_id, seq LIMIT $3";
    let read = |row: &Row| {
        Ok(Step {
            contact_id: row.get(0)?,
            seq: row.get(1)?,
            at: row.get(2)?,
            topic_id: row.get(3)?,
            action: row.get(4)?,
            frequency: row.get(5)?,
            until: row.get(6)?,
            detail: row.get(7)?,
        })
    };
    db.rows(sql, args![contact_id, seq, limit]).await?.iter().map(read).collect()
}

/// A question of double opt-in.
pub(super) struct Question {
    pub asked_at: Time,
    /// When the mail went out.
    pub mailed_at: Option<Time>,
    /// Its delivery, where it was a message.
    pub delivery_id: Option<i64>,
}

/// What is known of the question that was asked about a topic.
pub(super) async fn question(tx: &mut Tx, contact_id: i64, topic_id: i64) -> Result<Option<Question>, DbError> {
    let row = tx
        .fetch_optional(
            "SELECT q.asked_at, q.sent_at, m.delivery_id
             FROM confirmation q
             LEFT JOIN message m ON m.id = q.message_id
             WHERE q.topic_id = $1 AND q.contact_id = $2",
            args![topic_id, contact_id],
        )
        .await?;
    row.map(|row| Ok(Question { asked_at: row.get(0)?, mailed_at: row.get(1)?, delivery_id: row.get(2)? })).transpose()
}
