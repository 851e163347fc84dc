//! Rows by the order they belong to: sorted in parts in memory, and where they are more than one part, merged from
//! temporary files without a name, so that the lines of an order come together wherever they stand in the file.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

/// Bytes of one part: what is in memory at a time.
const PART_BYTES: usize = 32 * 1024 * 1024;
/// Most parts: each is an open file with a buffer. So a file of 16 GiB can be sorted.
const PARTS: usize = 500;
/// Bytes of a part's buffer when it is read back.
const BUFFER_BYTES: usize = 64 * 1024;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// What it is sorted by.
    pub key: String,
    /// Then by its line.
    pub line: u64,
    /// The rest.
    pub fields: Vec<String>,
}

impl Record {
    fn bytes(&self) -> usize {
        self.key.len() + self.fields.iter().map(|field| field.len() + size_of::<String>()).sum::<usize>() + size_of::<Record>()
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.line.to_le_bytes())?;
        out.write_all(&(self.fields.len() as u32).to_le_bytes())?;
        for text in std::iter::once(&self.key).chain(&self.fields) {
            out.write_all(&(text.len() as u32).to_le_bytes())?;
            out.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    /// The next one; `None` at the end.
    fn read(source: &mut impl Read) -> io::Result<Option<Record>> {
        let mut line = [0; 8];
        match source.read_exact(&mut line) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let count = number(source)?;
        let key = text(source)?;
        let fields = (0..count).map(|_| text(source)).collect::<io::Result<_>>()?;
        Ok(Some(Record { key, line: u64::from_le_bytes(line), fields }))
    }
}

fn number(source: &mut impl Read) -> io::Result<usize> {
    let mut bytes = [0; 4];
    source.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes) as usize)
}

fn text(source: &mut impl Read) -> io::Result<String> {
    let mut bytes = vec![0; number(source)?];
    source.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Takes rows in any order.
#[derive(Debug)]
pub struct Spool {
    part: Vec<Record>,
    bytes: usize,
    limit: usize,
    files: Vec<File>,
}

impl Spool {
    pub fn new() -> Self {
        Spool::with_limit(PART_BYTES)
    }

    fn with_limit(limit: usize) -> Self {
        Spool { part: Vec::new(), bytes: 0, limit, files: Vec::new() }
    }

    pub fn push(&mut self, record: Record) -> io::Result<()> {
        self.bytes += record.bytes();
        self.part.push(record);
        if self.bytes >= self.limit {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.files.len() == PARTS {
            return Err(io::Error::other("the file is larger than 16 GiB: split it between two orders"));
        }
        self.part.sort_unstable();
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile()?);
        for record in self.part.drain(..) {
            record.write(&mut out)?;
        }
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        self.files.push(file);
        self.bytes = 0;
        Ok(())
    }

    /// All rows by key and line.
    pub fn sorted(mut self) -> io::Result<Sorted> {
        self.part.sort_unstable();
        let mut sources: Vec<Source> =
            self.files.into_iter().map(|file| Source::File(BufReader::with_capacity(BUFFER_BYTES, file))).collect();
        sources.push(Source::Memory(self.part.into_iter()));
        let mut heads = BinaryHeap::with_capacity(sources.len());
        for (index, source) in sources.iter_mut().enumerate() {
            heads.extend(source.next()?.map(|record| Reverse((record, index))));
        }
        Ok(Sorted { sources, heads })
    }
}

enum Source {
    File(BufReader<File>),
    Memory(std::vec::IntoIter<Record>),
}

impl Source {
    fn next(&mut self) -> io::Result<Option<Record>> {
        match self {
            Source::File(file) => Record::read(file),
            Source::Memory(part) => Ok(part.next()),
        }
    }
}

/// Rows by key and line.
pub struct Sorted {
    sources: Vec<Source>,
    heads: BinaryHeap<Reverse<(Record, usize)>>,
}

impl Sorted {
    /// The next row; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Record>> {
        let Some(Reverse((record, index))) = self.heads.pop() else { return Ok(None) };
        if let Some(source) = self.sources.get_mut(index) {
            self.heads.extend(source.next()?.map(|record| Reverse((record, index))));
        }
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn rows_come_by_key_and_line_also_from_many_parts() {
        for limit in [1, 500, 1_000_000] {
            let mut spool = Spool::with_limit(limit);
            for line in 0..200_u64 {
                spool.push(Record { key: format!("k{}", line * 7 % 13), line, fields: vec![line.to_string(), "茶\n".to_owned()] }).unwrap();
            }
            let mut sorted = spool.sorted().unwrap();
            let mut seen = Vec::new();
            while let Some(record) = sorted.next().unwrap() {
                assert_eq!(record.fields, [record.line.to_string(), "茶\n".to_owned()]);
                seen.push((record.key, record.line));
            }
            assert!(seen.len() == 200 && seen.is_sorted(), "{limit}");
        }
    }
}
