//! Checking the ledger: the chain, the proofs kept beside it, the wordings it names, and signed checkpoints.
//!
//! It reads block by block, so memory is the same for a thousand entries and for a billion.

use std::collections::HashSet;

use super::chain::{self, Said};
use super::{evidence_digest, hex};
use crate::clock::Time;
use crate::consent::checkpoint::{self, Checkpoint};
use crate::consent::erase::ORIGINS;
use crate::consent::{ALL_TOPICS, Event, sql};
use crate::db::{DbError, Tx};

/// Events read at a time while verifying: bounds memory.
const VERIFY_BLOCK: i64 = 5_000;
/// Findings named one by one; more are counted.
const MAX_NAMED: usize = 100;
/// Wordings read at a time.
const WORDING_BLOCK: i64 = 500;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An entry was altered, removed, put in or moved.
    Chain,
    /// A proof or origin kept beside an entry was altered, added or removed.
    Proof,
    /// A wording that entries name is gone or altered.
    Wording,
    /// The chain is not the one that was signed.
    Checkpoint,
}

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The entry's place in the chain.
    pub entry: i64,
    /// About what.
    pub kind: Kind,
    /// What is wrong there.
    pub problem: String,
}

/// The answer of [`verify`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verification {
    /// Events read.
    pub events: i64,
    /// Whether nothing was found.
    pub valid: bool,
    /// The first entry that does not fit: its place in the chain.
    pub first_broken: Option<i64>,
    /// What is wrong there.
    pub problem: Option<String>,
    /// The last link, in hex: note it elsewhere to detect a rewritten chain later.
    pub head: String,
    /// How many findings there are.
    pub found: usize,
    /// The first of them, by entry.
    pub findings: Vec<Finding>,
    /// Signed checkpoints that the chain was held against.
    pub checkpoints: usize,
}

/// Reads the whole chain and finds every entry that was edited, deleted, inserted or moved, every proof and
/// wording that is not what was written, and every checkpoint that the chain does not fit: those of the database
/// and `given`, whose signatures the caller has checked. `keys` are the public keys of this instance, in hex.
///
/// In a transaction, so that all it reads is of one moment.
pub async fn verify(tx: &mut Tx, given: &[Checkpoint], keys: &[String]) -> Result<Verification, DbError> {
    let mut check = Check::begin(tx, given, keys).await?;
    loop {
        let events = sql::events_after(tx, check.read, VERIFY_BLOCK).await?;
        let Some(last) = events.last() else { break };
        check.read = last.seq;
        check.proofs_gone(tx, &events).await?;
        for event in &events {
            check.entry(event);
        }
    }
    check.wordings(tx).await?;
    for seq in sql::kept_after_erasure(tx).await? {
        check.found(seq, Kind::Proof, "the person was erased later, yet a proof is here: it was put back");
    }
    Ok(check.end())
}

/// What is known while the chain is read.
struct Check {
    head: (i64, Vec<u8>),
    /// The place that is next, the link before it, and the last entry read.
    expected: i64,
    hash: Vec<u8>,
    read: i64,
    version: i64,
    events: i64,
    found: Vec<Finding>,
    count: usize,
    /// Checkpoints not reached yet, the next one last.
    checkpoints: Vec<Checkpoint>,
    held: usize,
    /// `expired` entries: place, and the time before which they dropped origins.
    expired: Vec<(i64, Time)>,
    /// Wordings that are there as they were written.
    wordings: HashSet<String>,
    /// Wordings that entries name, with the first entry that does.
    unknown_wordings: HashSet<String>,
}

impl Check {
    async fn begin(tx: &mut Tx, given: &[Checkpoint], keys: &[String]) -> Result<Check, DbError> {
        let head = sql::head(tx).await?;
        let mut check = Check {
            head,
            expected: 1,
            hash: Vec::new(),
            read: i64::MIN,
            version: 1,
            events: 0,
            found: Vec::new(),
            count: 0,
            checkpoints: given.to_vec(),
            held: 0,
            expired: Vec::new(),
            wordings: HashSet::new(),
            unknown_wordings: HashSet::new(),
        };
        for checkpoint in checkpoint::stored(tx).await? {
            match checkpoint.verify(keys) {
                Ok(()) => check.checkpoints.push(checkpoint),
                Err(problem) => check.found(checkpoint.seq, Kind::Checkpoint, &format!("the checkpoint kept for this entry: {problem}")),
            }
        }
        // Of an empty ledger: nothing to hold.
        check.checkpoints.retain(|checkpoint| checkpoint.seq > 0);
        check.checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.seq));
        check.held = check.checkpoints.len();
        for (seq, detail) in sql::expiries(tx).await? {
            let before = detail.as_deref().and_then(|detail| detail.strip_prefix(ORIGINS)?.parse().ok());
            check.expired.extend(before.map(|millis| (seq, Time::from_millis(millis))));
        }
        let mut after = String::new();
        loop {
            let block = sql::wordings_after(tx, &after, WORDING_BLOCK).await?;
            let Some(last) = block.last() else { break };
            after.clone_from(&last.hash);
            check.wordings.extend(block.iter().filter(|wording| wording.fits()).map(|wording| wording.hash.clone()));
        }
        Ok(check)
    }

    fn found(&mut self, entry: i64, kind: Kind, problem: &str) {
        self.count += 1;
        // The earliest ones are named: those found at the end may be about early entries.
        if self.found.len() < MAX_NAMED || self.found.iter().any(|finding| finding.entry > entry) {
            let at = self.found.partition_point(|finding| finding.entry <= entry);
            self.found.insert(at, Finding { entry, kind, problem: problem.to_owned() });
            self.found.truncate(MAX_NAMED);
        }
    }

    fn entry(&mut self, event: &Event) {
        if event.seq > self.head.0 || event.seq < 1 {
            return self.found(event.seq, Kind::Chain, "this entry was inserted outside the chain");
        }
        self.events += 1;
        if event.seq != self.expected {
            let more = event.seq - self.expected - 1;
            let problem = if more > 0 { format!("this entry is missing, and {more} after it") } else { "this entry is missing".to_owned() };
            self.found(self.expected, Kind::Chain, &problem);
        }
        if event.topic_id != ALL_TOPICS && event.topic.is_empty() {
            self.found(event.seq, Kind::Chain, "the topic of this entry is gone or was altered");
        }
        if event.version < self.version {
            self.found(event.seq, Kind::Chain, "this entry is of an older version than the one before it");
        }
        let link = chain::link(event.version, &self.hash, event.seq, event.at, &Said::of(event));
        // After a gap the link before is unknown: that is one finding, not two.
        if link.as_ref() != Some(&event.hash) && event.seq == self.expected {
            self.found(event.seq, Kind::Chain, "this entry does not fit the one before it: one of the two was altered");
        }
        let proofs = [(&event.evidence, &event.evidence_digest, "proof"), (&event.origin, &event.origin_digest, "origin")];
        for (kept, digest, name) in proofs {
            match (kept, digest) {
                (Some(kept), Some(digest)) if evidence_digest(kept) != *digest => {
                    self.found(event.seq, Kind::Proof, &format!("the {name} kept with this entry was altered"));
                }
                (Some(_), None) => self.found(event.seq, Kind::Proof, &format!("this {name} was added to the entry later")),
                _ => {}
            }
        }
        if let Some(hash) = &event.wording_hash
            && !self.wordings.contains(hash)
            && !self.unknown_wordings.contains(hash)
        {
            self.unknown_wordings.insert(hash.clone());
            self.found(event.seq, Kind::Wording, "the wording that this entry names is missing or was altered");
        }
        while let Some(checkpoint) = self.checkpoints.pop_if(|checkpoint| checkpoint.seq <= event.seq) {
            if checkpoint.seq != event.seq || checkpoint.hash != hex(&event.hash) {
                self.found(checkpoint.seq, Kind::Checkpoint, &checkpoint.differs());
            }
        }
        self.version = self.version.max(event.version);
        self.expected = event.seq + 1;
        self.hash.clone_from(&event.hash);
    }

    /// Proofs that are gone must have been erased, origins also may have been dropped by their time.
    async fn proofs_gone(&mut self, tx: &mut Tx, events: &[Event]) -> Result<(), DbError> {
        let proof_gone = |event: &Event| event.evidence.is_none() && event.evidence_digest.is_some();
        let origin_gone = |event: &Event| {
            event.origin.is_none()
                && event.origin_digest.is_some()
                && !self.expired.iter().any(|(seq, before)| *seq > event.seq && event.at < *before)
        };
        let gone: Vec<(&Event, &str)> = events
            .iter()
            .filter_map(|event| {
                if proof_gone(event) {
                    return Some((event, "the proof of this entry was removed, though its person was not erased"));
                }
                origin_gone(event)
                    .then_some((event, "the origin of this entry was removed: its person was not erased and its time was not over"))
            })
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let erased = sql::erased_at(tx, gone.iter().map(|(event, _)| event.contact_id).collect()).await?;
        let missing: Vec<(i64, &str)> = gone
            .into_iter()
            .filter(|(event, _)| erased.get(&event.contact_id).is_none_or(|seq| *seq < event.seq))
            .map(|(event, problem)| (event.seq, problem))
            .collect();
        for (seq, problem) in missing {
            self.found(seq, Kind::Proof, problem);
        }
        Ok(())
    }

    /// Wordings that nothing names but that are not what their hash says: nobody can rely on them.
    async fn wordings(&mut self, tx: &mut Tx) -> Result<(), DbError> {
        let mut after = String::new();
        loop {
            let block = sql::wordings_after(tx, &after, WORDING_BLOCK).await?;
            let Some(last) = block.last() else { return Ok(()) };
            after.clone_from(&last.hash);
            for wording in block {
                if !self.wordings.contains(&wording.hash) && !self.unknown_wordings.contains(&wording.hash) {
                    self.found(0, Kind::Wording, &format!("the wording kept as {} is not what was written", wording.hash));
                }
            }
        }
    }

    fn end(mut self) -> Verification {
        let (head_seq, head_hash) = (self.head.0, hex(&self.head.1));
        if self.expected <= head_seq {
            self.found(self.expected, Kind::Chain, "the end of the chain is missing");
        } else if self.hash != self.head.1 {
            self.found(head_seq, Kind::Chain, "the last entry is not the head of the chain");
        }
        for checkpoint in std::mem::take(&mut self.checkpoints) {
            self.found(checkpoint.seq, Kind::Checkpoint, &checkpoint.differs());
        }
        let first = self.found.first();
        Verification {
            events: self.events,
            valid: self.count == 0,
            first_broken: first.map(|finding| finding.entry),
            problem: first.map(|finding| finding.problem.clone()),
            head: head_hash,
            found: self.count,
            checkpoints: self.held,
            findings: self.found,
        }
    }
}
