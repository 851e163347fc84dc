//! How a hit stands in the log of hits.
//!
//! A log begins with [`HEADER_BYTES`]: `OPTINHIT`, then the number of its database. Records follow: length of the
//! payload and its CRC-32 (four bytes each, little-endian), then the payload. So a record that was being
//! written when the machine stopped is told from a whole one. A payload is a byte of kind and flags, numbers as
//! LEB128 varints, and texts behind their length.

use super::{Hit, Kind};
use crate::clock::Time;

/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 16;
/// Longest payload: an agent of 300 characters of four bytes, and the rest, stay below it.
const MAX_PAYLOAD_BYTES: usize = 4_096;
/// Bytes before a payload.
const FRAME_BYTES: usize = 8;
const MAGIC: &[u8; 8] = b"OPTINHIT";

const BLANK: u8 = 0;
const LOOKED: u8 = 0x10;
const ANONYMOUS: u8 = 0x20;
const HAS_LINK: u8 = 0x40;

/// The start of a log of the database with this number.
pub(super) fn header(database: i64) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..].copy_from_slice(&database.to_le_bytes());
    out
}

/// Adds a record: a hit, or one that says nothing (it takes as long to write).
pub(super) fn push(out: &mut Vec<u8>, hit: Option<&Hit>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    match hit {
        Some(hit) => push_hit(out, hit),
        None => out.push(BLANK),
    }
    let payload = &out[start + FRAME_BYTES..];
    let (length, sum) = (payload.len() as u32, crc32(payload));
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + FRAME_BYTES].copy_from_slice(&sum.to_le_bytes());
}

fn push_hit(out: &mut Vec<u8>, hit: &Hit) {
    let kind = match hit.kind {
        Kind::Open => 1,
        Kind::Click => 2,
        Kind::Trap => 3,
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(kind | flag(hit.looked, LOOKED) | flag(hit.anonymous_run.is_some(), ANONYMOUS) | flag(hit.link.is_some(), HAS_LINK));
    push_number(out, hit.id as u64);
    push_number(out, hit.at.millis() as u64);
    push_number(out, hit.anonymous_run.unwrap_or(hit.delivery_id) as u64);
    if let Some(link) = hit.link {
        push_number(out, link as u64);
    }
    for text in [&hit.ip, &hit.agent, &hit.traits] {
        let text = text.as_deref().unwrap_or_default();
        push_number(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// What stands at the start of some bytes of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A record of so many bytes; without a hit, it says nothing.
    Record(Option<Hit>, usize),
    /// The record goes on behind these bytes, or was never finished.
    Short,
    /// No record.
    Damaged,
}

/// Reads one record.
pub(super) fn next(bytes: &[u8]) -> Next {
    let Some((frame, rest)) = bytes.split_at_checked(FRAME_BYTES) else { return Next::Short };
    let word = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let length = word(0) as usize;
    if length == 0 || length > MAX_PAYLOAD_BYTES {
        return Next::Damaged;
    }
    let Some(payload) = rest.get(..length) else { return Next::Short };
    if crc32(payload) != word(4) {
        return Next::Damaged;
    }
    match read(payload) {
        Some(hit) => Next::Record(hit, FRAME_BYTES + length),
        None => Next::Damaged,
    }
}

/// How many bytes to pass over until a record stands there again; all, where none does.
pub(super) fn damaged_bytes(bytes: &[u8]) -> usize {
    (1..bytes.len()).find(|at| matches!(next(&bytes[*at..]), Next::Record(..))).unwrap_or(bytes.len())
}

fn read(payload: &[u8]) -> Option<Option<Hit>> {
    let (head, mut rest) = payload.split_first()?;
    let kind = match head & 0x0f {
        BLANK => return Some(None),
        1 => Kind::Open,
        2 => Kind::Click,
        3 => Kind::Trap,
        _ => return None,
    };
    let id = read_number(&mut rest)? as i64;
    let at = Time::from_millis(read_number(&mut rest)? as i64);
    let whose = read_number(&mut rest)? as i64;
    let anonymous = head & ANONYMOUS != 0;
    let link = if head & HAS_LINK != 0 { Some(read_number(&mut rest)? as i64) } else { None };
    let mut text = || {
        let length = usize::try_from(read_number(&mut rest)?).ok()?;
        let (text, after) = rest.split_at_checked(length)?;
        rest = after;
        Some((length > 0).then(|| String::from_utf8_lossy(text).into_owned()))
    };
    let (ip, agent, traits) = (text()?, text()?, text()?);
    let (delivery_id, anonymous_run) = if anonymous { (0, Some(whose)) } else { (whose, None) };
    Some(Some(Hit { id, kind, delivery_id, anonymous_run, link, at, ip, agent, looked: head & LOOKED != 0, traits }))
}

fn push_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// CRC-32 as in IEEE 802.3 and zlib.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut value = at as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum, byte| TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_sum_is_the_one_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    fn any_hit() -> impl Strategy<Value = Hit> {
        let text = || proptest::option::of("[a-zA-Z茶/;. ]{1,80}");
        (
            0..i64::MAX,
            0..3,
            0..i64::MAX,
            any::<bool>(),
            proptest::option::of(0..500_i64),
            any::<i64>(),
            (text(), text(), text()),
            any::<bool>(),
        )
            .prop_map(|(id, kind, whose, anonymous, link, at, (ip, agent, traits), looked)| Hit {
                id,
                kind: [Kind::Open, Kind::Click, Kind::Trap][kind],
                delivery_id: if anonymous { 0 } else { whose },
                anonymous_run: anonymous.then_some(whose),
                link,
                at: Time::from_millis(at),
                ip,
                agent,
                looked,
                traits,
            })
    }

    fn all(mut bytes: &[u8]) -> Vec<Option<Hit>> {
        let mut out = Vec::new();
        while let Next::Record(hit, length) = next(bytes) {
            out.push(hit);
            bytes = &bytes[length..];
        }
        out
    }

    proptest! {
        #[test]
        fn what_is_logged_is_read_and_a_torn_end_is_seen(
            hits in proptest::collection::vec(proptest::option::of(any_hit()), 1..8), cut in any::<prop::sample::Index>()
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for hit in &hits {
                push(&mut bytes, hit.as_ref());
                ends.push(bytes.len());
            }
            prop_assert_eq!(&all(&bytes), &hits);
            let cut = cut.index(bytes.len());
            let whole = ends.iter().rposition(|end| *end <= cut).unwrap_or_default();
            prop_assert_eq!(&all(&bytes[..cut])[..], &hits[..whole]);
        }

        #[test]
        fn a_changed_byte_harms_one_record_only(
            hits in proptest::collection::vec(any_hit(), 3), at in any::<prop::sample::Index>(), flip in 1_u8..
        ) {
            let mut bytes = Vec::new();
            push(&mut bytes, Some(&hits[0]));
            let first = bytes.len();
            push(&mut bytes, Some(&hits[1]));
            let second = bytes.len();
            push(&mut bytes, Some(&hits[2]));
            bytes[first + at.index(second - first)] ^= flip;
            prop_assert_eq!(all(&bytes), [Some(hits[0].clone())]);
            let after = first + damaged_bytes(&bytes[first..]);
            prop_assert_eq!(all(&bytes[after..]), [Some(hits[2].clone())]);
        }
    }
}
