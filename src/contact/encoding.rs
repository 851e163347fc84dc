//! Bytes of a file of unknown encoding, as UTF-8.
//!
//! ASCII is passed on as it comes; at the first other byte the encoding is told from a block that
//! starts there, so that a long ASCII beginning does not decide for the names behind it. What is
//! not valid in the encoding found becomes [`BAD_BYTE`], which is invalid in UTF-8 as well: the reader
//! of rows sees where it stands and rejects that row, not the file.

use std::io::{self, Read};

use chardetng::EncodingDetector;
use encoding_rs::{BIG5, Decoder, DecoderResult, Encoding, GB18030, GBK, UTF_8, UTF_16BE, UTF_16LE};

/// Stands for bytes that the encoding does not know. No UTF-8 text holds it.
pub const BAD_BYTE: u8 = 0xff;

/// Bytes of one read, and of the sample that tells the encoding.
const BLOCK_BYTES: usize = 128 * 1024;
/// A file may have some rows in another encoding: up to one in so many of those that are not ASCII.
/// (Chinese text read in the wrong encoding is broken in far more places.)
const TOLERANCE: usize = 4;

/// Turns what it reads into UTF-8.
pub struct Utf8Source<R> {
    inner: R,
    state: State,
    /// Read but not yet handed on.
    raw: Vec<u8>,
    ended: bool,
    bytes_read: u64,
}

enum State {
    /// Nothing read yet.
    Start,
    /// Only ASCII so far: every encoding but UTF-16 agrees on it.
    Ascii,
    Utf8,
    Other(Box<Decoder>),
}

impl<R: Read> Utf8Source<R> {
    /// Reads `inner`. `encoding` is what the caller knows for sure; a byte order mark wins over it.
    pub fn new(inner: R, encoding: Option<&'static Encoding>) -> Self {
        let state = match encoding {
            None => State::Start,
            Some(known) if known == UTF_8 => State::Utf8,
            Some(known) => State::Other(Box::new(known.new_decoder_with_bom_removal())),
        };
        Utf8Source { inner, state, raw: Vec::new(), ended: false, bytes_read: 0 }
    }

    /// Bytes taken from the file so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The encoding's name as found so far; plain ASCII counts as UTF-8.
    pub fn encoding(&self) -> &'static str {
        match &self.state {
            State::Start | State::Ascii | State::Utf8 => UTF_8.name(),
            State::Other(decoder) => decoder.encoding().name(),
        }
    }

    /// Appends the next block to `out`; false when the file is at its end.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.read_block()?;
        if matches!(self.state, State::Start) {
            self.start();
        }
        if matches!(self.state, State::Ascii)
            && let Some(first) = self.raw.iter().position(|byte| !byte.is_ascii())
        {
            out.extend(self.raw.drain(..first));
            self.read_block()?;
            self.state = detect(&self.raw, self.ended);
        }
        match &mut self.state {
            State::Other(decoder) => decode(decoder, &self.raw, self.ended, out),
            _ => out.extend_from_slice(&self.raw),
        }
        self.raw.clear();
        Ok(true)
    }

    /// Fills `raw` up to a whole block: pipes hand over less than asked for.
    fn read_block(&mut self) -> io::Result<()> {
        let mut length = self.raw.len();
        self.raw.resize(BLOCK_BYTES.max(length), 0);
        while length < self.raw.len() {
            match self.inner.read(&mut self.raw[length..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => {
                    length += count;
                    self.bytes_read += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.raw.truncate(length);
        Ok(())
    }

    fn start(&mut self) {
        self.state = match Encoding::for_bom(&self.raw) {
            Some((encoding, mark)) => {
                self.raw.drain(..mark);
                if encoding == UTF_8 { State::Utf8 } else { State::Other(Box::new(encoding.new_decoder_without_bom_handling())) }
            }
            None => match utf_16_without_mark(&self.raw) {
                Some(encoding) => State::Other(Box::new(encoding.new_decoder_without_bom_handling())),
                None => State::Ascii,
            },
        };
    }
}

/// Addresses are ASCII, so in UTF-16 at least a tenth of the high bytes is zero, and hardly any low one.
fn utf_16_without_mark(block: &[u8]) -> Option<&'static Encoding> {
    let half = block.len() / 2;
    let zeros = |parity: usize| block.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    if odd * 10 >= half && odd > even * 10 {
        Some(UTF_16LE)
    } else if even * 10 >= half && even > odd * 10 {
        Some(UTF_16BE)
    } else {
        None
    }
}

fn detect(block: &[u8], last: bool) -> State {
    let (mut good, mut bad) = (0, 0);
    let mut chunks = block.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        good += chunk.valid().bytes().filter(|byte| *byte >= 0xc0).count();
        let cut_off = chunks.peek().is_none() && !last;
        bad += usize::from(!chunk.invalid().is_empty() && !cut_off);
    }
    if bad * TOLERANCE <= good {
        return State::Utf8;
    }
    let mut guess = guess(block, last);
    if guess.is_single_byte() {
        guess = despite_broken_lines(block).unwrap_or(guess);
    }
    State::Other(Box::new(guess.new_decoder_without_bom_handling()))
}

fn guess(block: &[u8], last: bool) -> &'static Encoding {
    let mut detector = EncodingDetector::new();
    detector.feed(block, last);
    let guess = detector.guess(None, false);
    // GB18030 contains GBK, and files from Chinese spreadsheets use the larger set.
    if guess == GBK { GB18030 } else { guess }
}

/// The detector gives a multi-byte encoding up at its first error, and a file with one broken row would
/// become gibberish as a whole. So look again without the lines that are broken in that encoding.
fn despite_broken_lines(block: &[u8]) -> Option<&'static Encoding> {
    [GB18030, BIG5].into_iter().find(|candidate| {
        let foreign = || block.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.is_ascii());
        let clean: Vec<&[u8]> =
            foreign().filter(|line| candidate.decode_without_bom_handling_and_without_replacement(line).is_some()).collect();
        let broken = foreign().count() - clean.len();
        broken > 0 && broken * TOLERANCE <= clean.len() && guess(&clean.concat(), true) == *candidate
    })
}

fn decode(decoder: &mut Decoder, mut raw: &[u8], last: bool, out: &mut Vec<u8>) {
    loop {
        let needed = decoder.max_utf8_buffer_length_without_replacement(raw.len()).unwrap_or(raw.len() * 3 + 16);
        let start = out.len();
        out.resize(start + needed, 0);
        let (result, read, written) = decoder.decode_to_utf8_without_replacement(raw, &mut out[start..], last);
        out.truncate(start + written);
        raw = &raw[read..];
        match result {
            DecoderResult::InputEmpty => return,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => out.push(BAD_BYTE),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(bytes: &[u8]) -> (Vec<u8>, &'static str) {
        let mut source = Utf8Source::new(bytes, None);
        let mut out = Vec::new();
        while source.fill(&mut out).unwrap() {}
        (out, source.encoding())
    }

    const SIMPLIFIED: &str = "email,姓名,城市\na@b.example,吴秀兰,四川省桂英县闵行兴城街\nc@d.example,彭俊宏,北京市朝阳区建国路八十八号\n";
    const TRADITIONAL: &str = "email,姓名,城市\na@b.example,吳秀蘭,三重縣竹北市民有巷\nc@d.example,彭俊宏,臺北市信義區忠孝東路五段\n";

    #[test]
    fn every_encoding_is_told_and_read() {
        let utf_16 = |text: &str, big: bool| -> Vec<u8> {
            text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        let with_mark = |mark: &[u8], rest: Vec<u8>| [mark, &rest].concat();
        let cases = [
            (SIMPLIFIED.as_bytes().to_vec(), "UTF-8", SIMPLIFIED),
            (with_mark(b"\xef\xbb\xbf", SIMPLIFIED.as_bytes().to_vec()), "UTF-8", SIMPLIFIED),
            (utf_16(SIMPLIFIED, false), "UTF-16LE", SIMPLIFIED),
            (utf_16(TRADITIONAL, true), "UTF-16BE", TRADITIONAL),
            (with_mark(b"\xff\xfe", utf_16(TRADITIONAL, false)), "UTF-16LE", TRADITIONAL),
            (with_mark(b"\xfe\xff", utf_16(TRADITIONAL, true)), "UTF-16BE", TRADITIONAL),
            (GB18030.encode(SIMPLIFIED).0.into_owned(), "gb18030", SIMPLIFIED),
            (BIG5.encode(TRADITIONAL).0.into_owned(), "Big5", TRADITIONAL),
            (b"email\na@b.example\n".to_vec(), "UTF-8", "email\na@b.example\n"),
        ];
        for (bytes, encoding, text) in cases {
            let (out, found) = read(&bytes);
            assert_eq!((std::str::from_utf8(&out).unwrap(), found), (text, encoding));
        }
    }

    #[test]
    fn a_long_ascii_beginning_does_not_decide() {
        let start = "x@y.example,Joe,Berlin\n".repeat(20_000);
        let (out, encoding) = read(&[start.as_bytes(), &GB18030.encode(SIMPLIFIED).0].concat());
        assert_eq!(encoding, "gb18030");
        assert_eq!(std::str::from_utf8(&out).unwrap(), start + SIMPLIFIED);
    }

    #[test]
    fn a_few_bad_rows_leave_the_file_utf_8() {
        let bytes = [SIMPLIFIED.as_bytes(), b"e@f.example,M\xfcller,x\n", SIMPLIFIED.as_bytes()].concat();
        let (out, encoding) = read(&bytes);
        assert_eq!((encoding, out), ("UTF-8", bytes));
    }

    #[test]
    fn what_the_encoding_does_not_know_becomes_a_bad_byte() {
        let mut bytes = GB18030.encode(&SIMPLIFIED.repeat(3)).0.into_owned();
        bytes.extend_from_slice(b"e@f.example,\xff\xff,x\n");
        let (out, encoding) = read(&bytes);
        assert_eq!(encoding, "gb18030");
        assert!(out.contains(&BAD_BYTE));
        assert!(out.ends_with(b",x\n"));
    }
}
