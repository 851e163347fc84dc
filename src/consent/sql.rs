//! Statements of `consent_event`, `consent_head`, `consent_wording`, `subscription` and `topic`.

use std::collections::HashMap;

use super::{Event, Standing};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Dialect, Row, Rows, Tx};

/// What a permit is judged by.
pub(super) struct PermissionFact {
    pub contact_id: i64,
    pub known: bool,
    pub standing: Standing,
    pub seq: i64,
    pub suppressed: Option<String>,
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
            "SELECT v.contact_id, c.id, s.standing, s.last_seq, x.reason, c.email_key
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

const EVENT_COLUMNS: &str =
    "e.seq, e.at, e.contact_id, t.name, e.action, e.source, e.source_line, e.wording_hash, e.evidence, e.evidence_digest, e.hash";

fn read_event(row: &Row) -> Result<Event, DbError> {
    Ok(Event {
        seq: row.get(0)?,
        at: row.get(1)?,
        contact_id: row.get(2)?,
        topic: row.get::<Option<String>>(3)?.unwrap_or_default(),
        action: row.get(4)?,
        source: row.get(5)?,
        source_line: row.get(6)?,
        wording_hash: row.get(7)?,
        evidence: row.get(8)?,
        evidence_digest: row.get(9)?,
        hash: row.get(10)?,
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

/// The latest event about a person and a topic (or everything).
pub(super) async fn last_action(tx: &mut Tx, contact_id: i64, topic_id: i64) -> Result<Option<String>, DbError> {
    let row = tx
        .fetch_optional(
            "SELECT action FROM consent_event WHERE contact_id = $1 AND topic_id IN ($2, 0) ORDER BY seq DESC LIMIT 1",
            args![contact_id, topic_id],
        )
        .await?;
    row.map(|row| row.get(0)).transpose()
}

pub(super) async fn head(db: &mut impl Connection) -> Result<(i64, Vec<u8>), DbError> {
    let rows = db.rows("SELECT seq, hash FROM consent_head WHERE id = 1", Vec::new()).await?;
    let row = rows.first().ok_or_else(|| DbError::Unexpected("the ledger has no head: restore a backup".to_owned()))?;
    Ok((row.get(0)?, row.get(1)?))
}

/// Standings of these people on these topics; pairs without a row are left out.
pub(super) async fn standings(tx: &mut Tx, pairs: &[(i64, i64)]) -> Result<HashMap<(i64, i64), Standing>, DbError> {
    let rows = tx
        .bulk_fetch(
            "SELECT s.topic_id, s.contact_id, s.standing
             FROM {rows}
             JOIN subscription s ON s.topic_id = v.topic_id AND s.contact_id = v.contact_id",
            Vec::new(),
            Rows::new().i64("topic_id", pairs.iter().map(|(topic, _)| *topic)).i64("contact_id", pairs.iter().map(|(_, contact)| *contact)),
        )
        .await?;
    rows.iter().map(|row| Ok(((row.get(0)?, row.get(1)?), Standing::from_stored(Some(&row.get::<String>(2)?))))).collect()
}

pub(super) async fn upsert_standings(tx: &mut Tx, changes: &[(i64, i64, Standing, i64)], at: Time) -> Result<(), DbError> {
    tx.bulk(
        "INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq)
         SELECT v.topic_id, v.contact_id, v.standing, $1, v.last_seq FROM {rows} WHERE TRUE
         ON CONFLICT (topic_id, contact_id) DO UPDATE
         SET standing = excluded.standing, since = excluded.since, last_seq = excluded.last_seq",
        args![at],
        Rows::new()
            .i64("topic_id", changes.iter().map(|change| change.0))
            .i64("contact_id", changes.iter().map(|change| change.1))
            .text("standing", changes.iter().map(|change| change.2.as_str()))
            .i64("last_seq", changes.iter().map(|change| change.3)),
    )
    .await?;
    Ok(())
}

/// Gives these people one standing on a topic; their entries in the ledger are numbered from `first_seq`.
pub(super) async fn set_standing(
    tx: &mut Tx,
    topic_id: i64,
    standing: Standing,
    contacts: &[i64],
    first_seq: i64,
    at: Time,
) -> Result<(), DbError> {
    // The casts tell PostgreSQL the types of what stands in a list of results by itself.
    tx.bulk(
        "INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq)
         SELECT CAST($1 AS BIGINT), v.contact_id, CAST($2 AS TEXT), CAST($3 AS BIGINT), v.last_seq FROM {rows} WHERE TRUE
         ON CONFLICT (topic_id, contact_id) DO UPDATE
         SET standing = excluded.standing, since = excluded.since, last_seq = excluded.last_seq",
        args![topic_id, standing.as_str(), at],
        Rows::new().i64("contact_id", contacts.iter().copied()).i64("last_seq", first_seq..first_seq + contacts.len() as i64),
    )
    .await?;
    Ok(())
}

/// A person's standings: topic name, standing, since when; topics never touched are left out.
pub(super) async fn standings_of(db: &mut impl Connection, contact_id: i64) -> Result<Vec<(String, Standing, Time)>, DbError> {
    // Joined from the few topics so that the table's key (topic first) serves it.
    let rows = db
        .rows(
            "SELECT t.name, s.standing, s.since
             FROM topic t
             JOIN subscription s ON s.topic_id = t.id AND s.contact_id = $1
             ORDER BY t.name",
            args![contact_id],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, Standing::from_stored(Some(&row.get::<String>(1)?)), row.get(2)?))).collect()
}

pub(super) async fn keep_wording(tx: &mut Tx, hash: &str, wording: &str, locale: Option<&str>) -> Result<(), DbError> {
    tx.execute(
        "INSERT INTO consent_wording (hash, wording, locale) VALUES ($1, $2, $3) ON CONFLICT (hash) DO NOTHING",
        args![hash, wording, locale],
    )
    .await?;
    Ok(())
}

pub(super) async fn wording(db: &mut impl Connection, hash: &str) -> Result<Option<String>, DbError> {
    db.rows("SELECT wording FROM consent_wording WHERE hash = $1", args![hash]).await?.first().map(|row| row.get(0)).transpose()
}
