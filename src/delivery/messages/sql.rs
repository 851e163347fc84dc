//! Statements of `message` and `message_definition`, and of the deliveries of messages.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Kind, Status};
use crate::args;
use crate::clock::Time;
use crate::content::message::MessageDefinition;
use crate::db::{Connection, DbError, Row, Rows, Tx};
use crate::delivery::State;

/// A message as it is sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id, the run of its delivery.
    pub id: i64,
    /// The delivery.
    pub delivery_id: i64,
    /// For whom.
    pub contact_id: i64,
    /// What it is for.
    pub kind: Kind,
    /// The topic whose permission it needs.
    pub topic_id: Option<i64>,
    /// The language it is written in, where it is not the contact's.
    pub locale: Option<String>,
    /// What its template sees as `data`.
    pub data: serde_json::Value,
    /// After this moment it is not sent any more.
    pub expires_at: Time,
    /// Hash of the definition.
    pub definition_hash: String,
    /// What it is written from.
    pub definition: Arc<MessageDefinition>,
}

/// A message about to be written.
pub(super) struct NewRow<'a> {
    pub id: i64,
    pub delivery_id: i64,
    pub contact_id: i64,
    pub kind: Kind,
    pub topic_id: Option<i64>,
    pub client: &'a str,
    pub idempotency_key: Option<&'a str>,
    pub request_digest: &'a str,
    pub template: Option<&'a str>,
    pub definition_hash: &'a str,
    pub data: &'a str,
    pub locale: Option<&'a str>,
    pub created_at: Time,
    pub expires_at: Time,
}

/// The message with a client's key: id and digest of its request.
pub(super) async fn by_key(db: &mut impl Connection, client: &str, key: &str) -> Result<Option<(i64, String)>, DbError> {
    let rows = db.rows("SELECT id, request_digest FROM message WHERE client = $1 AND idempotency_key = $2", args![client, key]).await?;
    rows.first().map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

/// Writes a message; false when its key is taken. Waits for whoever is just writing one with that key.
pub(super) async fn insert(tx: &mut Tx, row: &NewRow<'_>) -> Result<bool, DbError> {
    let written = tx
        .execute(
            "INSERT INTO message
               (id, delivery_id, contact_id, client, idempotency_key, request_digest, template, definition_hash, data, locale, created_at,
                expires_at, kind, topic_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
             ON CONFLICT (client, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING",
            args![
                row.id,
                row.delivery_id,
                row.contact_id,
                row.client,
                row.idempotency_key,
                row.request_digest,
                row.template,
                row.definition_hash,
                row.data,
                row.locale,
                row.created_at,
                row.expires_at,
                row.kind.as_str(),
                row.topic_id
            ],
        )
        .await?;
    Ok(written == 1)
}

pub(in crate::delivery) async fn keep_definition(tx: &mut Tx, hash: &str, definition: &str) -> Result<(), DbError> {
    tx.execute("INSERT INTO message_definition (hash, definition) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING", args![hash, definition])
        .await?;
    Ok(())
}

/// Writes a message's delivery: due, or skipped for a reason.
pub(super) async fn enqueue(
    tx: &mut Tx,
    row: &NewRow<'_>,
    provider: &str,
    skipped: Option<(&str, String)>,
    due_at: Time,
) -> Result<(), DbError> {
    let state = if skipped.is_some() { State::Skipped } else { State::Due };
    let (reason, reply) = skipped.unzip();
    tx.execute_one(
        "INSERT INTO delivery (id, run_id, contact_id, state, due_at, attempts, reason, reply, changed_at, provider, transactional, patient)
         VALUES ($1, $2, $3, $4, $5, 0, $6, $7, $8, $9, TRUE, $10)",
        args![
            row.delivery_id,
            row.id,
            row.contact_id,
            state.as_str(),
            due_at,
            reason,
            reply,
            row.created_at,
            provider,
            row.kind.is_patient()
        ],
    )
    .await
}

pub(super) async fn load(tx: &mut Tx, ids: &[i64]) -> Result<HashMap<i64, Message>, DbError> {
    let rows = tx
        .bulk_fetch(
            "SELECT m.id, m.delivery_id, m.contact_id, m.locale, m.data, m.expires_at, m.definition_hash, m.kind, m.topic_id
             FROM {rows}
             JOIN message m ON m.id = v.id",
            Vec::new(),
            Rows::new().i64("id", ids.iter().copied()),
        )
        .await?;
    let mut hashes = rows.iter().map(|row| row.get(6)).collect::<Result<Vec<String>, DbError>>()?;
    hashes.sort_unstable();
    hashes.dedup();
    let definitions = definitions(tx, hashes).await?;
    let mut out = HashMap::with_capacity(rows.len());
    for row in rows {
        let id: i64 = row.get(0)?;
        let (data, hash): (String, String) = (row.get(4)?, row.get(6)?);
        let damaged = |what: &str| DbError::Unexpected(format!("the {what} of message {id} cannot be read: restore a backup"));
        let definition = definitions.get(&hash).cloned().ok_or_else(|| damaged("definition"))?;
        let data = serde_json::from_str(&data).map_err(|_| damaged("data"))?;
        let message = Message {
            id,
            delivery_id: row.get(1)?,
            contact_id: row.get(2)?,
            kind: read_kind(&row.get::<String>(7)?)?,
            topic_id: row.get(8)?,
            locale: row.get(3)?,
            data,
            expires_at: row.get(5)?,
            definition_hash: hash,
            definition,
        };
        out.insert(id, message);
    }
    Ok(out)
}

fn read_kind(text: &str) -> Result<Kind, DbError> {
    Kind::from_stored(text).ok_or_else(|| DbError::Unexpected(format!("a message is of the unknown kind `{text}`")))
}

async fn definitions(tx: &mut Tx, hashes: Vec<String>) -> Result<HashMap<String, Arc<MessageDefinition>>, DbError> {
    let rows = tx
        .bulk_fetch(
            "SELECT d.hash, d.definition FROM {rows} JOIN message_definition d ON d.hash = v.hash",
            Vec::new(),
            Rows::new().text("hash", hashes),
        )
        .await?;
    let mut out = HashMap::new();
    for row in rows {
        // One that cannot be read is missed by the message that needs it.
        if let Ok(definition) = serde_json::from_str(&row.get::<String>(1)?) {
            out.insert(row.get(0)?, Arc::new(definition));
        }
    }
    Ok(out)
}

const STATUS: &str = "SELECT m.id, m.client, c.email, m.template, d.state, d.reason, d.attempts, d.reply, m.created_at, d.due_at, \
                      d.changed_at, m.expires_at, m.kind
                      FROM message m
                      JOIN delivery d ON d.id = m.delivery_id
                      LEFT JOIN contact c ON c.id = m.contact_id";

fn read_status(row: &Row) -> Result<Status, DbError> {
    let state: String = row.get(4)?;
    Ok(Status {
        id: row.get(0)?,
        client: row.get(1)?,
        to: row.get(2)?,
        template: row.get(3)?,
        state: State::from_stored(&state)
            .ok_or_else(|| DbError::Unexpected(format!("a message's delivery is in the unknown state `{state}`")))?,
        reason: row.get(5)?,
        attempts: row.get(6)?,
        reply: row.get(7)?,
        created_at: row.get(8)?,
        due_at: row.get(9)?,
        changed_at: row.get(10)?,
        expires_at: row.get(11)?,
        kind: read_kind(&row.get::<String>(12)?)?,
    })
}

pub(super) async fn status(db: &mut impl Connection, id: i64) -> Result<Option<Status>, DbError> {
    db.rows(&format!("{STATUS} WHERE m.id = $1"), args![id]).await?.first().map(read_status).transpose()
}

pub(super) async fn latest(db: &mut impl Connection, contact_id: Option<i64>, limit: i64) -> Result<Vec<Status>, DbError> {
    let rows = match contact_id {
        Some(contact_id) => {
            db.rows(&format!("{STATUS} WHERE m.contact_id = $1 ORDER BY m.id DESC LIMIT $2"), args![contact_id, limit]).await?
        }
        None => db.rows(&format!("{STATUS} ORDER BY m.id DESC LIMIT $1"), args![limit]).await?,
    };
    rows.iter().map(read_status).collect()
}
