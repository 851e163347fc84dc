//! A streaming reader of CSV as people have it: any delimiter, line end and encoding, cells over
//! several lines, and mistakes. A row that cannot be read is a [`Fault`] with its place; reading goes
//! on behind it, in bounded memory whatever the file holds.
//!
//! The grammar is RFC 4180's; beyond it a quote inside an unquoted cell is a character like any
//! other, and the first line may be Excel's `sep=;`. A quote that is never closed must not swallow
//! the file: when a quoted cell breaks a rule or a limit, reading goes on with the line after the one
//! where its quote opened.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use encoding_rs::Encoding;

use super::encoding::Utf8Source;

/// Longest cell, in bytes of UTF-8: more than a text field of any customer system.
pub const CELL_BYTES: usize = 64 * 1024;
/// Longest row, in bytes of UTF-8.
pub const ROW_BYTES: usize = 1024 * 1024;
/// Most columns: spreadsheets with more are not lists of people.
pub const COLUMNS: usize = 500;
/// How much of a faulty row is shown, in bytes.
const SHOWN_BYTES: usize = 2_000;
/// Delimiters that are told by themselves.
const DELIMITERS: [u8; 4] = *b",;\t|";
/// Rows looked at to tell the delimiter.
const SAMPLE_ROWS: usize = 50;

/// One row, its cells without quotes.
#[derive(Debug, Default)]
pub struct Row {
    line: u64,
    /// The cells, each followed by one byte that belongs to none.
    text: String,
    /// Where each cell ends in `text`.
    ends: Vec<usize>,
}

impl Row {
    /// The line where the row starts, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True for a row without cells.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Cell `index`, from 0; empty where the row has none.
    pub fn cell(&self, index: usize) -> &str {
        let Some(end) = self.ends.get(index) else { return "" };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.text[start..*end]
    }

    /// All cells.
    pub fn cells(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.cell(index))
    }
}

/// A row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line where the trouble starts, from 1.
    pub line: u64,
    /// The cell it stands in, from 0, where one can be told.
    pub cell: Option<usize>,
    /// Why.
    pub reason: String,
    /// The start of the row as it stands in the file.
    pub text: String,
}

/// What [`Reader::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The row was filled.
    Row,
    /// A row that cannot be read; the one passed in holds nothing.
    Fault(Fault),
    /// The end of the file.
    End,
}

/// Reads rows from bytes.
pub struct Reader<R> {
    source: Utf8Source<R>,
    buffer: Vec<u8>,
    /// What of `buffer` is already handed out.
    start: usize,
    ended: bool,
    /// The line at `start`.
    line: u64,
    delimiter: u8,
    /// Inside a line that is being thrown away.
    skipping: bool,
    width: Option<usize>,
    /// Bytes of the row handed out last; they stand before `start`.
    last: usize,
}

/// How the look at one row ended. Offsets count from the row's start.
enum Scan {
    /// More bytes are needed to tell.
    More,
    /// A row of so many bytes; whether quoted cells may hold line ends.
    Row { bytes: usize, quoted: bool },
    /// Broken at a place: reading goes on behind that line.
    Broken { at: usize, cell: usize, reason: String },
    /// Well built, but its text is none: reading goes on behind the row.
    Unreadable { bytes: usize, cell: usize, reason: String },
}

impl<R: Read> Reader<R> {
    /// Starts reading: tells encoding (unless given) and delimiter from the file's beginning.
    pub fn new(inner: R, encoding: Option<&'static Encoding>) -> io::Result<Self> {
        let mut reader = Reader {
            source: Utf8Source::new(inner, encoding),
            buffer: Vec::new(),
            start: 0,
            ended: false,
            line: 1,
            delimiter: b',',
            skipping: false,
            width: None,
            last: 0,
        };
        reader.fill()?;
        match sep_line(&reader.buffer) {
            Some((delimiter, bytes)) => {
                reader.delimiter = delimiter;
                reader.start = bytes;
                reader.line = 2;
            }
            None => reader.delimiter = tell_delimiter(&reader.buffer),
        }
        Ok(reader)
    }

    /// From now on a row must have so many cells (empty ones behind them are dropped).
    pub fn expect_width(&mut self, width: usize) {
        self.width = Some(width);
    }

    /// Bytes of the file read so far.
    pub fn bytes_read(&self) -> u64 {
        self.source.bytes_read()
    }

    /// The encoding's name as found so far.
    pub fn encoding(&self) -> &'static str {
        self.source.encoding()
    }

    /// The delimiter found.
    pub fn delimiter(&self) -> char {
        char::from(self.delimiter)
    }

    /// The line that is read next, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Reads the next row into `row`. Empty lines are passed over.
    pub fn next(&mut self, row: &mut Row) -> io::Result<Next> {
        loop {
            if self.skipping && !self.skip_line()? {
                return Ok(Next::End);
            }
            if !self.skip_empty_lines()? {
                return Ok(Next::End);
            }
            match self.scan(row) {
                Scan::Row { bytes, quoted } => return Ok(self.accept(row, bytes, quoted)),
                Scan::Broken { at, cell, reason } => return Ok(Next::Fault(self.refuse(at, Some(cell), reason))),
                Scan::Unreadable { bytes, cell, reason } => return Ok(Next::Fault(self.pass_over(bytes, cell, reason))),
                Scan::More if self.buffer.len() - self.start > ROW_BYTES => {
                    let reason = format!("the row is longer than {} KiB", ROW_BYTES / 1024);
                    return Ok(Next::Fault(self.refuse(0, None, reason)));
                }
                Scan::More => self.fill()?,
            }
        }
    }

    /// The row that [`Reader::next`] gave last, as it stands in the file (bounded), for a rejects file.
    pub fn original(&self) -> String {
        shown(&self.buffer[self.start - self.last..self.start])
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.ended = !self.source.fill(&mut self.buffer)?;
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Throws the rest of a line away; false at the end of the file.
    fn skip_line(&mut self) -> io::Result<bool> {
        loop {
            if let Some(bytes) = line_length(self.rest(), self.ended) {
                self.start += bytes;
                self.line += 1;
                self.skipping = false;
                return Ok(true);
            }
            if self.ended {
                self.start = self.buffer.len();
                return Ok(false);
            }
            // A trailing CR stays: its LF may come with the next block.
            self.start = self.buffer.len() - usize::from(self.buffer.last() == Some(&b'\r'));
            self.fill()?;
        }
    }

    fn skip_empty_lines(&mut self) -> io::Result<bool> {
        loop {
            match self.rest() {
                [] if self.ended => return Ok(false),
                [] | [b'\r'] if !self.ended => self.fill()?,
                [b'\n', ..] => {
                    self.start += 1;
                    self.line += 1;
                }
                [b'\r', next @ ..] => {
                    self.start += 1 + usize::from(next.first() == Some(&b'\n'));
                    self.line += 1;
                }
                _ => return Ok(true),
            }
        }
    }

    /// Splits the row at `start` into cells, without moving on.
    fn scan(&self, row: &mut Row) -> Scan {
        let bytes = self.rest();
        let mut out = std::mem::take(&mut row.text).into_bytes();
        out.clear();
        row.ends.clear();
        let scan = self.scan_cells(bytes, &mut out, &mut row.ends);
        match scan {
            Scan::Row { bytes, .. } => match self.check_text(out, &row.ends) {
                Ok(text) => {
                    row.text = text;
                    scan
                }
                Err((cell, reason)) => Scan::Unreadable { bytes, cell, reason },
            },
            other => other,
        }
    }

    fn scan_cells(&self, bytes: &[u8], out: &mut Vec<u8>, ends: &mut Vec<usize>) -> Scan {
        let mut at = 0;
        let mut any_quoted = false;
        loop {
            let cell = ends.len();
            if cell == COLUMNS {
                return Scan::Broken { at, cell, reason: format!("the row has more than {COLUMNS} cells") };
            }
            let stop = if bytes.get(at) == Some(&b'"') {
                any_quoted = true;
                self.quoted_cell(bytes, at, cell, out)
            } else {
                self.plain_cell(bytes, at, cell, out)
            };
            let end = match stop {
                Ok(end) => end,
                Err(scan) => return scan,
            };
            ends.push(out.len());
            out.push(b'\n');
            match bytes.get(end) {
                Some(byte) if *byte == self.delimiter => at = end + 1,
                Some(b'\r') if end + 1 == bytes.len() && !self.ended => return Scan::More,
                Some(b'\r') if bytes.get(end + 1) == Some(&b'\n') => return Scan::Row { bytes: end + 2, quoted: any_quoted },
                Some(_) => return Scan::Row { bytes: end + 1, quoted: any_quoted },
                None => return Scan::Row { bytes: end, quoted: any_quoted },
            }
        }
    }

    /// Copies a cell without quotes; answers where its delimiter or line end is.
    fn plain_cell(&self, bytes: &[u8], start: usize, cell: usize, out: &mut Vec<u8>) -> Result<usize, Scan> {
        let rest = &bytes[start..];
        let delimiter = self.delimiter;
        let length = rest.iter().position(|byte| *byte == delimiter || *byte == b'\n' || *byte == b'\r').unwrap_or(rest.len());
        if length > CELL_BYTES {
            return Err(Scan::Broken { at: start, cell, reason: too_long() });
        }
        if length == rest.len() && !self.ended {
            return Err(Scan::More);
        }
        out.extend_from_slice(&rest[..length]);
        Ok(start + length)
    }

    /// Copies a quoted cell, `""` as `"`; answers where its delimiter or line end is.
    fn quoted_cell(&self, bytes: &[u8], open: usize, cell: usize, out: &mut Vec<u8>) -> Result<usize, Scan> {
        let broken = |reason: String| Err(Scan::Broken { at: open, cell, reason });
        let mut at = open + 1;
        loop {
            let found = bytes[at..].iter().position(|byte| *byte == b'"');
            let close = found.map_or(bytes.len(), |length| at + length);
            if close - open > CELL_BYTES {
                return broken(format!("the quote that opens here is not closed within {} KiB", CELL_BYTES / 1024));
            }
            if found.is_none() {
                return if self.ended { broken("the quote that opens here is never closed".to_owned()) } else { Err(Scan::More) };
            }
            out.extend_from_slice(&bytes[at..close]);
            match bytes.get(close + 1) {
                Some(b'"') => out.push(b'"'),
                Some(byte) if *byte == self.delimiter || *byte == b'\n' || *byte == b'\r' => return Ok(close + 1),
                None if self.ended => return Ok(close + 1),
                None => return Err(Scan::More),
                Some(_) => {
                    return broken("a quote within a quoted cell is not doubled, or the quote that opens here is never closed".to_owned());
                }
            }
            at = close + 2;
        }
    }

    /// Text without NUL, or the cell that is not.
    fn check_text(&self, out: Vec<u8>, ends: &[usize]) -> Result<String, (usize, String)> {
        let cell_at = |offset: usize| ends.partition_point(|end| *end < offset);
        // `contains` is the fast search; the place is looked for only when there is one.
        if out.contains(&0) {
            let offset = out.iter().position(|byte| *byte == 0).unwrap_or(0);
            return Err((cell_at(offset), "the cell holds a NUL byte".to_owned()));
        }
        String::from_utf8(out).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            (cell_at(offset), format!("the cell holds bytes that are not {}", self.source.encoding()))
        })
    }

    fn accept(&mut self, row: &mut Row, bytes: usize, quoted: bool) -> Next {
        row.line = self.line;
        if let Some(width) = self.width.filter(|width| *width != row.len()) {
            let only_empty = row.len() > width && (width..row.len()).all(|index| row.cell(index).is_empty());
            if !only_empty {
                let reason = format!("the row has {} cells, the header has {width}", row.len());
                return Next::Fault(self.refuse(0, None, reason));
            }
            row.ends.truncate(width);
        }
        self.move_on(bytes, quoted);
        Next::Row
    }

    fn move_on(&mut self, bytes: usize, several_lines: bool) {
        self.line += if several_lines { count_lines(&self.rest()[..bytes], true) } else { 1 };
        self.start += bytes;
        self.last = bytes;
    }

    /// Makes a fault of the row at `start`; reading goes on behind it.
    fn pass_over(&mut self, bytes: usize, cell: usize, reason: String) -> Fault {
        let fault = Fault { line: self.line, cell: Some(cell), reason, text: shown(&self.rest()[..bytes]) };
        self.move_on(bytes, true);
        fault
    }

    /// Makes a fault of the row at `start`; reading goes on behind the line of offset `at`.
    fn refuse(&mut self, at: usize, cell: Option<usize>, reason: String) -> Fault {
        let rest = &self.buffer[self.start..];
        self.line += count_lines(&rest[..at], false);
        let length = line_length(&rest[at..], self.ended).map_or(rest.len() - at, |length| length);
        let text = shown(&rest[..at + length]);
        self.start += at;
        self.skipping = true;
        Fault { line: self.line, cell, reason, text }
    }
}

fn too_long() -> String {
    format!("the cell is longer than {} KiB", CELL_BYTES / 1024)
}

/// The start of a row as readable text.
fn shown(raw: &[u8]) -> String {
    let cut = &raw[..raw.len().min(SHOWN_BYTES)];
    let mut text = String::from_utf8_lossy(cut).replace('\0', "\u{2400}");
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if raw.len() > cut.len() {
        text.push('…');
    }
    text
}

/// Length of the first line with its end; `None` when that is not in `bytes`.
fn line_length(bytes: &[u8], ended: bool) -> Option<usize> {
    let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', Some(b'\n')) => Some(end + 2),
        (b'\r', None) if !ended => None,
        _ => Some(end + 1),
    }
}

/// Number of line ends. `whole`: a last line without one counts.
fn count_lines(bytes: &[u8], whole: bool) -> u64 {
    let mut lines = 0;
    let mut before = 0;
    for byte in bytes {
        lines += u64::from(*byte == b'\r' || (*byte == b'\n' && before != b'\r'));
        before = *byte;
    }
    lines + u64::from(whole && !matches!(before, b'\r' | b'\n'))
}

/// Excel's first line `sep=;`: the delimiter and the line's length.
fn sep_line(bytes: &[u8]) -> Option<(u8, usize)> {
    let rest = bytes.strip_prefix(b"sep=")?;
    let delimiter = *rest.first().filter(|byte| DELIMITERS.contains(byte))?;
    let end = line_length(&rest[1..], true)?;
    matches!(rest[1], b'\r' | b'\n').then_some((delimiter, 5 + end))
}

/// The delimiter that splits most rows of the beginning into as many cells as the first row.
fn tell_delimiter(bytes: &[u8]) -> u8 {
    let mut best = (0, 0, b',');
    for delimiter in DELIMITERS {
        let counts = delimiter_counts(bytes, delimiter);
        let header = counts.first().copied().unwrap_or(0);
        if header == 0 {
            continue;
        }
        let alike = counts.iter().filter(|count| **count == header).count();
        if (alike, header) > (best.0, best.1) {
            best = (alike, header, delimiter);
        }
    }
    best.2
}

fn delimiter_counts(bytes: &[u8], delimiter: u8) -> Vec<usize> {
    let mut counts = Vec::new();
    let (mut count, mut quoted, mut empty) = (0, false, true);
    for byte in bytes {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => {
                if !empty {
                    counts.push(count);
                }
                if counts.len() == SAMPLE_ROWS {
                    return counts;
                }
                (count, empty) = (0, true);
                continue;
            }
            byte if *byte == delimiter && !quoted => count += 1,
            _ => {}
        }
        empty = false;
    }
    if !empty {
        counts.push(count);
    }
    counts
}

/// Writes a row of CSV (RFC 4180). A cell that a spreadsheet would run as a formula (it starts with
/// `=`, `+`, `-`, `@`, a tab or a line break) gets a `'` before it.
pub fn write_row<'a>(out: &mut impl Write, cells: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
    for (index, cell) in cells.into_iter().enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        out.write_all(quoted(&without_formula(cell)).as_bytes())?;
    }
    out.write_all(b"\r\n")
}

/// The cell with a `'` before it where a spreadsheet would run it as a formula.
pub fn without_formula(cell: &str) -> Cow<'_, str> {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { Cow::Owned(format!("'{cell}")) } else { Cow::Borrowed(cell) }
}

fn quoted(cell: &str) -> Cow<'_, str> {
    if cell.contains(['"', ',', ';', '\t', '|', '\r', '\n']) {
        Cow::Owned(format!("\"{}\"", cell.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(cell)
    }
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
