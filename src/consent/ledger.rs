//! The chain: appending to it and verifying it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use sha2::{Digest, Sha256};

use super::{Action, Event, NewEvent, Standing, fold, sql};
use crate::args;
use crate::clock::Time;
use crate::db::{ColumnData, Connection, DbError, Rows, Tx};

/// Domain separation: a hash of this ledger is never a hash of something else.
const CHAIN_LABEL: &[u8] = b"optin consent ledger 1";
/// Events read at a time while verifying: bounds memory.
const VERIFY_BLOCK: i64 = 10_000;

/// What an append did to somebody's standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The contact.
    pub contact_id: i64,
    /// The topic.
    pub topic_id: i64,
    /// Before.
    pub before: Standing,
    /// After.
    pub after: Standing,
}

/// The answer of [`verify`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verification {
    /// Events read.
    pub events: i64,
    /// Whether the chain is whole.
    pub valid: bool,
    /// The first entry that does not fit: its place in the chain.
    pub first_broken: Option<i64>,
    /// What is wrong there.
    pub problem: Option<String>,
    /// The last link, in hex: note it elsewhere to detect a rewritten chain later.
    pub head: String,
}

/// Appends events in order and moves standings with them, in the caller's transaction. Answers one
/// [`Change`] an event.
pub async fn append(tx: &mut Tx, events: &[NewEvent], now: Time) -> Result<Vec<Change>, DbError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let topics = sql::topics(tx).await?;
    let (mut seq, mut hash) = sql::lock_head(tx).await?;
    let mut standings = sql::standings(tx, &pairs_to_read(events)).await?;
    let mut changes = Vec::with_capacity(events.len());
    let mut upserts: Vec<(i64, i64, Standing, i64)> = Vec::with_capacity(events.len());
    let mut upsert_of = HashMap::with_capacity(events.len());
    let mut block = EventBlock::with_capacity(events.len());
    for event in events {
        seq += 1;
        let topic = topics.get(&event.topic_id).map_or("", String::as_str);
        let digest = event.evidence.as_deref().map(evidence_digest);
        hash = link(&hash, seq, now, event, topic, digest.as_deref());
        block.push(seq, event, digest, hash.clone());
        let key = (event.topic_id, event.contact_id);
        let before = standings.get(&key).copied().unwrap_or(Standing::None);
        // Whoever left everything stays out of a topic they never touched, too.
        let everything = standings.get(&(super::ALL_TOPICS, event.contact_id)).copied();
        let effective =
            if before == Standing::None && everything == Some(Standing::Unsubscribed) { Standing::Unsubscribed } else { before };
        let after = fold(effective, event.action);
        standings.insert(key, after);
        changes.push(Change { contact_id: event.contact_id, topic_id: event.topic_id, before, after });
        if after != before {
            let row = (event.topic_id, event.contact_id, after, seq);
            match upsert_of.entry(key) {
                Entry::Occupied(position) => upserts[*position.get()] = row,
                Entry::Vacant(position) => {
                    position.insert(upserts.len());
                    upserts.push(row);
                }
            }
        }
    }
    block.insert(tx, now).await?;
    sql::upsert_standings(tx, &upserts, now).await?;
    sql::move_head(tx, seq, hash).await?;
    // A withdrawal also takes an open question back, where no standing changes.
    let ends = |event: &NewEvent| matches!(event.action, Action::Withdrawn | Action::Objected | Action::Erased);
    if events.iter().any(ends) || changes.iter().any(|change| change.before == Standing::Subscribed && change.after != Standing::Subscribed)
    {
        sql::move_epoch(tx).await?;
    }
    Ok(changes)
}

/// Events that differ only in the person and the line of a file: those of an import.
#[derive(Debug, Clone)]
pub struct Alike {
    /// Which topic.
    pub topic_id: i64,
    /// What they say.
    pub action: Action,
    /// Where they came from.
    pub source: String,
    /// What everybody's standing becomes.
    pub after: Standing,
}

/// Appends the same event for many people, `(contact id, line)` each, and sets their standing.
///
/// The bulk form of [`append`], for callers that know who changes: everybody stands once in `people`,
/// was not subscribed before, and the fold of their standing and the action is `alike.after`.
pub async fn append_alike(tx: &mut Tx, alike: &Alike, people: Vec<(i64, Option<i64>)>, now: Time) -> Result<(), DbError> {
    if people.is_empty() {
        return Ok(());
    }
    let topic = sql::topics(tx).await?.remove(&alike.topic_id).unwrap_or_default();
    let (seq, hash) = sql::lock_head(tx).await?;
    let (contacts, lines): (Vec<i64>, Vec<Option<i64>>) = people.into_iter().unzip();
    let links = {
        let (contacts, lines, alike) = (contacts.clone(), lines.clone(), alike.clone());
        // A chain is made one link after the other: some milliseconds, in which the database writes
        // the standings.
        tokio::task::spawn_blocking(move || chain(hash, seq, now, &alike, &topic, &contacts, &lines))
    };
    sql::set_standing(tx, alike.topic_id, alike.after, &contacts, seq + 1, now).await?;
    let links = links.await.map_err(|error| DbError::Unexpected(format!("the ledger's chain was not made: {error}")))?;
    let (last, head) = (seq + links.len() as i64, links.last().cloned().unwrap_or_default());
    tx.bulk(
        "INSERT INTO consent_event (seq, at, contact_id, topic_id, action, source, source_line, hash)
         SELECT v.seq, CAST($1 AS BIGINT), v.contact_id, CAST($2 AS BIGINT), CAST($3 AS TEXT), CAST($4 AS TEXT), v.source_line, v.hash
         FROM {rows}",
        args![now, alike.topic_id, alike.action.as_str(), &alike.source],
        Rows::new()
            .i64("seq", seq + 1..=last)
            .i64("contact_id", contacts)
            .opt_i64("source_line", lines)
            .column("hash", ColumnData::Bytes(links.into_iter().map(Some).collect())),
    )
    .await?;
    sql::move_head(tx, last, head).await
}

/// The links that follow `hash`, one a person.
fn chain(mut hash: Vec<u8>, mut seq: i64, now: Time, alike: &Alike, topic: &str, contacts: &[i64], lines: &[Option<i64>]) -> Vec<Vec<u8>> {
    let mut links = Vec::with_capacity(contacts.len());
    for (contact_id, line) in contacts.iter().zip(lines) {
        seq += 1;
        hash = chain_hash(&hash, seq, now, *contact_id, [topic, alike.action.as_str(), &alike.source], *line, [None, None]);
        links.push(hash.clone());
    }
    links
}

fn pairs_to_read(events: &[NewEvent]) -> Vec<(i64, i64)> {
    let mut pairs: Vec<(i64, i64)> =
        events.iter().flat_map(|event| [(event.topic_id, event.contact_id), (super::ALL_TOPICS, event.contact_id)]).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// Columns of the events of one append.
struct EventBlock {
    seq: Vec<i64>,
    contact_id: Vec<i64>,
    topic_id: Vec<i64>,
    action: Vec<&'static str>,
    source: Vec<String>,
    source_line: Vec<Option<i64>>,
    wording_hash: Vec<Option<String>>,
    evidence: Vec<Option<String>>,
    evidence_digest: Vec<Option<String>>,
    hash: Vec<Option<Vec<u8>>>,
}

impl EventBlock {
    fn with_capacity(count: usize) -> Self {
        EventBlock {
            seq: Vec::with_capacity(count),
            contact_id: Vec::with_capacity(count),
            topic_id: Vec::with_capacity(count),
            action: Vec::with_capacity(count),
            source: Vec::with_capacity(count),
            source_line: Vec::with_capacity(count),
            wording_hash: Vec::with_capacity(count),
            evidence: Vec::with_capacity(count),
            evidence_digest: Vec::with_capacity(count),
            hash: Vec::with_capacity(count),
        }
    }

    fn push(&mut self, seq: i64, event: &NewEvent, digest: Option<String>, hash: Vec<u8>) {
        self.seq.push(seq);
        self.contact_id.push(event.contact_id);
        self.topic_id.push(event.topic_id);
        self.action.push(event.action.as_str());
        self.source.push(event.source.clone());
        self.source_line.push(event.source_line);
        self.wording_hash.push(event.wording_hash.clone());
        self.evidence.push(event.evidence.clone());
        self.evidence_digest.push(digest);
        self.hash.push(Some(hash));
    }

    async fn insert(self, tx: &mut Tx, now: Time) -> Result<(), DbError> {
        let plain = self.evidence.iter().all(Option::is_none) && self.wording_hash.iter().all(Option::is_none);
        let rows = Rows::new()
            .i64("seq", self.seq)
            .i64("contact_id", self.contact_id)
            .i64("topic_id", self.topic_id)
            .text("action", self.action)
            .text("source", self.source)
            .opt_i64("source_line", self.source_line)
            .column("hash", ColumnData::Bytes(self.hash));
        if plain {
            // An import has neither evidence nor wording: three columns less to bind a million times.
            tx.bulk(
                "INSERT INTO consent_event (seq, at, contact_id, topic_id, action, source, source_line, hash)
                 SELECT v.seq, $1, v.contact_id, v.topic_id, v.action, v.source, v.source_line, v.hash FROM {rows}",
                args![now],
                rows,
            )
            .await?;
        } else {
            tx.bulk(
                "INSERT INTO consent_event
                   (seq, at, contact_id, topic_id, action, source, source_line, hash, wording_hash, evidence, evidence_digest)
                 SELECT v.seq, $1, v.contact_id, v.topic_id, v.action, v.source, v.source_line, v.hash, v.wording_hash, v.evidence,
                   v.evidence_digest
                 FROM {rows}",
                args![now],
                rows.opt_text("wording_hash", self.wording_hash)
                    .opt_text("evidence", self.evidence)
                    .opt_text("evidence_digest", self.evidence_digest),
            )
            .await?;
        }
        Ok(())
    }
}

/// SHA-256 of a proof as written, in hex. The proof holds a random salt of its own, so that the
/// digest tells nothing once the proof is erased.
pub fn evidence_digest(evidence: &str) -> String {
    hex(&Sha256::digest(evidence.as_bytes()))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn link(previous: &[u8], seq: i64, at: Time, event: &NewEvent, topic: &str, digest: Option<&str>) -> Vec<u8> {
    chain_hash(
        previous,
        seq,
        at,
        event.contact_id,
        [topic, event.action.as_str(), &event.source],
        event.source_line,
        [event.wording_hash.as_deref(), digest],
    )
}

/// One link: SHA-256 over the label, the link before, and every field with its length.
fn chain_hash(
    previous: &[u8],
    seq: i64,
    at: Time,
    contact_id: i64,
    texts: [&str; 3],
    source_line: Option<i64>,
    optional: [Option<&str>; 2],
) -> Vec<u8> {
    let mut hasher = Sha256::new();
    hasher.update(CHAIN_LABEL);
    hasher.update((previous.len() as u64).to_be_bytes());
    hasher.update(previous);
    for number in [seq, at.millis(), contact_id, source_line.unwrap_or(-1)] {
        hasher.update(number.to_be_bytes());
    }
    for text in texts.into_iter().map(Some).chain(optional) {
        match text {
            Some(text) => {
                hasher.update((text.len() as u64).to_be_bytes());
                hasher.update(text.as_bytes());
            }
            None => hasher.update(u64::MAX.to_be_bytes()),
        }
    }
    hasher.finalize().to_vec()
}

fn link_of(previous: &[u8], event: &Event) -> Vec<u8> {
    chain_hash(
        previous,
        event.seq,
        event.at,
        event.contact_id,
        [&event.topic, &event.action, &event.source],
        event.source_line,
        [event.wording_hash.as_deref(), event.evidence_digest.as_deref()],
    )
}

/// Reads the whole chain and finds the first entry that was edited, deleted, inserted or moved.
pub async fn verify(db: &mut impl Connection) -> Result<Verification, DbError> {
    let (head_seq, head_hash) = sql::head(db).await?;
    let (mut seq, mut hash) = (0, Vec::new());
    let mut answer = Verification { events: 0, valid: true, first_broken: None, problem: None, head: hex(&head_hash) };
    let broken = |mut answer: Verification, seq: i64, problem: &str| {
        answer.valid = false;
        answer.first_broken = Some(seq);
        answer.problem = Some(problem.to_owned());
        answer
    };
    loop {
        let events = sql::events_after(db, seq, VERIFY_BLOCK).await?;
        if events.is_empty() {
            break;
        }
        for event in &events {
            if event.seq > head_seq {
                break;
            }
            answer.events += 1;
            if event.seq != seq + 1 {
                return Ok(broken(answer, seq + 1, "this entry is missing"));
            }
            if link_of(&hash, event) != event.hash {
                return Ok(broken(answer, event.seq, "this entry does not fit the one before it: one of the two was altered"));
            }
            if let (Some(evidence), Some(digest)) = (&event.evidence, &event.evidence_digest)
                && evidence_digest(evidence) != *digest
            {
                return Ok(broken(answer, event.seq, "the proof kept with this entry was altered"));
            }
            if event.evidence.is_some() && event.evidence_digest.is_none() {
                return Ok(broken(answer, event.seq, "a proof was added to this entry later"));
            }
            seq = event.seq;
            hash.clone_from(&event.hash);
        }
        if events.last().is_some_and(|event| event.seq > head_seq) {
            // An append may have committed between reading the head and the events: look again.
            let (later_seq, _) = sql::head(db).await?;
            if later_seq < events.last().map_or(0, |event| event.seq) {
                return Ok(broken(answer, head_seq + 1, "this entry was inserted behind the end of the chain"));
            }
            break;
        }
    }
    if seq < head_seq {
        return Ok(broken(answer, seq + 1, "the end of the chain is missing"));
    }
    if hash != head_hash {
        return Ok(broken(answer, seq, "the last entry is not the head of the chain"));
    }
    Ok(answer)
}
