//! The links of the chain: what a hash covers, byte for byte. `docs/ledger.md` says the same for outsiders.

use sha2::{Digest, Sha256};

use crate::clock::Time;
use crate::consent::{Event, NewEvent};

/// The rule by which new entries are chained.
pub const VERSION: i64 = 2;
/// Domain separation: a hash of this ledger is never a hash of something else, nor of another version.
const LABELS: [&[u8]; 2] = [b"optin consent ledger 1", b"optin consent ledger 2"];

/// Everything that an entry says, beside its place: what both rules hash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) contact_id: i64,
    pub(super) source_line: Option<i64>,
    pub(super) topic: &'a str,
    pub(super) action: &'a str,
    pub(super) source: &'a str,
    pub(super) wording_hash: Option<&'a str>,
    pub(super) evidence_digest: Option<&'a str>,
    pub(super) later: Later<'a>,
}

/// What version 2 added.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Later<'a> {
    pub(super) until: Option<Time>,
    pub(super) channel: Option<&'a str>,
    pub(super) purpose: Option<&'a str>,
    pub(super) basis: Option<&'a str>,
    pub(super) frequency: Option<&'a str>,
    pub(super) detail: Option<&'a str>,
    pub(super) origin_digest: Option<&'a str>,
}

impl<'a> Said<'a> {
    pub(super) fn new(event: &'a NewEvent, topic: &'a str, digests: [Option<&'a str>; 2]) -> Self {
        Said {
            contact_id: event.contact_id,
            source_line: event.source_line,
            topic,
            action: event.action.as_str(),
            source: &event.source,
            wording_hash: event.wording_hash.as_deref(),
            evidence_digest: digests[0],
            later: Later {
                until: event.until,
                channel: Some(crate::consent::EMAIL),
                purpose: event.purpose.as_deref(),
                basis: event.basis.map(crate::consent::Basis::as_str),
                frequency: event.frequency.map(crate::consent::Frequency::as_str),
                detail: event.detail.as_deref(),
                origin_digest: digests[1],
            },
        }
    }

    pub(super) fn of(event: &'a Event) -> Self {
        Said {
            contact_id: event.contact_id,
            source_line: event.source_line,
            topic: &event.topic,
            action: &event.action,
            source: &event.source,
            wording_hash: event.wording_hash.as_deref(),
            evidence_digest: event.evidence_digest.as_deref(),
            later: Later {
                until: event.until,
                channel: event.channel.as_deref(),
                purpose: event.purpose.as_deref(),
                basis: event.basis.as_deref(),
                frequency: event.frequency.as_deref(),
                detail: event.detail.as_deref(),
                origin_digest: event.origin_digest.as_deref(),
            },
        }
    }
}

/// One link: SHA-256 over the label, the link before, and every field with its length. `None` for a version
/// that nobody ever wrote, or a version 1 entry with what that version did not know.
pub(super) fn link(version: i64, previous: &[u8], seq: i64, at: Time, said: &Said<'_>) -> Option<Vec<u8>> {
    let label = LABELS.get(usize::try_from(version).ok()?.checked_sub(1)?)?;
    let mut hasher = Sha256::new();
    hasher.update(label);
    hasher.update((previous.len() as u64).to_be_bytes());
    hasher.update(previous);
    for number in [seq, at.millis(), said.contact_id, said.source_line.unwrap_or(-1)] {
        hasher.update(number.to_be_bytes());
    }
    let first = [Some(said.topic), Some(said.action), Some(said.source), said.wording_hash, said.evidence_digest];
    first.into_iter().for_each(|text| field(&mut hasher, text));
    if version == 1 {
        return (said.later == Later::default()).then(|| hasher.finalize().to_vec());
    }
    let Later { until, channel, purpose, basis, frequency, detail, origin_digest } = said.later;
    hasher.update(until.map_or(i64::MIN, Time::millis).to_be_bytes());
    [channel, purpose, basis, frequency, detail, origin_digest].into_iter().for_each(|text| field(&mut hasher, text));
    Some(hasher.finalize().to_vec())
}

/// A text with its length in bytes; a missing one is not an empty one.
fn field(hasher: &mut Sha256, text: Option<&str>) {
    match text {
        Some(text) => {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        None => hasher.update(u64::MAX.to_be_bytes()),
    }
}

/// SHA-256 of a proof as written, in hex. The proof holds a random salt of its own, so that the digest tells
/// nothing once the proof is erased.
pub fn evidence_digest(evidence: &str) -> String {
    hex(&Sha256::digest(evidence.as_bytes()))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}
