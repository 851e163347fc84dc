//! Checking the chain.

use super::chain::{self, Said};
use super::{evidence_digest, hex};
use crate::consent::sql;
use crate::db::{Connection, DbError};

/// Events read at a time while verifying: bounds memory.
const VERIFY_BLOCK: i64 = 10_000;

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
            if chain::link(event.version, &hash, event.seq, event.at, &Said::of(event)).as_ref() != Some(&event.hash) {
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
