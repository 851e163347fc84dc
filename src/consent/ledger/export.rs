//! The chain for outsiders: one JSON object a line, digests in place of proofs (see `docs/ledger.md`).

use serde_json::{Value, json};

use super::hex;
use crate::clock::Time;
use crate::consent::{Event, KeptWording, sql};
use crate::db::{Connection, DbError};

/// Entries of one page.
const PAGE: i64 = 5_000;
/// Wordings of one page.
const WORDINGS: i64 = 500;

/// The first line: what follows.
pub async fn header(db: &mut impl Connection) -> Result<Value, DbError> {
    let (seq, hash) = sql::head(db).await?;
    Ok(json!({ "format": "optin ledger export 1", "entries": seq, "head": hex(&hash) }))
}

/// Lines of the entries after `seq`, and the last entry's place; none at the end.
pub async fn entries(db: &mut impl Connection, seq: i64) -> Result<Option<(i64, Vec<Value>)>, DbError> {
    let events = sql::events_after(db, seq, PAGE).await?;
    Ok(events.last().map(|last| (last.seq, events.iter().map(entry).collect())))
}

/// All that the hash covers, and the hash. Times in milliseconds since 1970 UTC.
fn entry(event: &Event) -> Value {
    json!({
        "seq": event.seq,
        "version": event.version,
        "at": event.at.millis(),
        "contact": event.contact_id,
        "source_line": event.source_line,
        "topic": event.topic,
        "action": event.action,
        "source": event.source,
        "wording_hash": event.wording_hash,
        "evidence_digest": event.evidence_digest,
        "until": event.until.map(Time::millis),
        "channel": event.channel,
        "purpose": event.purpose,
        "basis": event.basis,
        "frequency": event.frequency,
        "detail": event.detail,
        "origin_digest": event.origin_digest,
        "hash": hex(&event.hash),
    })
}

/// Lines of the wordings after `hash`, and the last one's hash; none at the end.
pub async fn wordings(db: &mut impl Connection, hash: &str) -> Result<Option<(String, Vec<Value>)>, DbError> {
    let block = sql::wordings_after(db, hash, WORDINGS).await?;
    Ok(block.last().map(|last| (last.hash.clone(), block.iter().map(wording).collect())))
}

fn wording(wording: &KeptWording) -> Value {
    json!({
        "wording": wording.hash,
        "text": wording.text,
        "locale": wording.locale,
        "kind": wording.kind,
        "text_version": wording.version,
    })
}
