//! Events from lines of JSON.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use super::{Block, Entry, Feed, ImportError, Message, Opened};
use crate::behaviour::EventSchema;
use crate::behaviour::money::Money;
use crate::behaviour::read::Reader;
use crate::clock::Time;
use crate::contact::import::Reject;

/// Events of one block: a look-up, an insert and an update a kind. It is ordered by the events' ids, so the larger it
/// is, the fewer pages of the index each event costs.
const BLOCK_EVENTS: usize = 10_000;
/// Bytes after which a block is full, whatever its events.
const BLOCK_BYTES: usize = 8 * 1024 * 1024;
/// Longest line, in bytes: an order of ten thousand lines fits.
const LINE_BYTES: usize = 4 * 1024 * 1024;
/// How much of a refused line is shown, in bytes.
const SHOWN_BYTES: usize = 2_000;

/// The reading thread.
pub(super) fn read(
    source: impl Read,
    kinds: &BTreeMap<String, EventSchema>,
    money: &Money,
    ignore_unknown: bool,
    now: Time,
    feed: &Feed,
) -> Result<&'static str, ImportError> {
    let mut source = BufReader::with_capacity(256 * 1024, source);
    let mut reader = Reader::new(kinds, money, ignore_unknown, now);
    if !feed.send(Message::Opened(Opened::default())) {
        return Ok("UTF-8");
    }
    let mut block = Block::default();
    let (mut bytes, mut line, mut in_block) = (0_u64, 0_u64, 0);
    let mut text: Vec<u8> = Vec::new();
    loop {
        text.clear();
        let length = (&mut source).take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut text)?;
        if length == 0 {
            break;
        }
        line += 1;
        bytes += length as u64;
        in_block += length;
        if length > LINE_BYTES {
            bytes += skip_line(&mut source, text.ends_with(b"\n"))?;
            block.rejects.push(reject(line, "", format!("the line is longer than {} MiB", LINE_BYTES >> 20), &text));
        } else {
            take(&mut reader, line, &text, &mut block);
        }
        if block.entries.len() + block.rejects.len() >= BLOCK_EVENTS || in_block >= BLOCK_BYTES {
            block.bytes = bytes;
            in_block = 0;
            if !feed.send(Message::Block(std::mem::take(&mut block))) {
                return Ok("UTF-8");
            }
        }
    }
    block.bytes = bytes;
    feed.send(Message::Block(block));
    Ok("UTF-8")
}

/// Reads one line into the block.
fn take(reader: &mut Reader<'_>, line: u64, text: &[u8], block: &mut Block) {
    let trimmed = text.strip_prefix(b"\xef\xbb\xbf").filter(|_| line == 1).unwrap_or(text).trim_ascii();
    if trimmed.is_empty() {
        return;
    }
    let value = match serde_json::from_slice(trimmed) {
        Ok(value) => value,
        Err(error) => {
            let words = error.to_string();
            let words = words.split(" at line ").next().unwrap_or_default();
            let reason = format!("the line is not a JSON object: {words} (character {})", error.column());
            block.rejects.push(reject(line, "", reason, trimmed));
            return;
        }
    };
    match reader.read(value) {
        Ok(item) => {
            let raw = String::from_utf8_lossy(&trimmed[..trimmed.len().min(SHOWN_BYTES)]).into_owned();
            block.entries.push(Entry { item, line, raw, more: Vec::new() });
        }
        Err(faults) => {
            let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).filter(|field| !field.is_empty()).collect();
            let reasons: Vec<&str> = faults.iter().map(|fault| fault.reason.as_str()).collect();
            block.rejects.push(reject(line, &fields.join(", "), reasons.join("; "), trimmed));
        }
    }
}

fn reject(line: u64, column: &str, reason: String, text: &[u8]) -> Reject {
    let cut = &text[..text.len().min(SHOWN_BYTES)];
    let mut row = String::from_utf8_lossy(cut).replace('\0', "\u{2400}");
    if cut.len() < text.len() {
        row.push('…');
    }
    Reject { line, column: column.to_owned(), reason, row }
}

/// Passes over the rest of a line that is too long; answers its bytes.
fn skip_line(source: &mut impl BufRead, ended: bool) -> Result<u64, ImportError> {
    let mut skipped = 0;
    let mut ended = ended;
    while !ended {
        let buffer = source.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |end| end + 1);
        ended = end.is_some();
        source.consume(length);
        skipped += length as u64;
    }
    Ok(skipped)
}
