//! Addresses that must get nothing, from a file: one a line, or a CSV with a column of addresses and
//! perhaps one of reasons.

use std::io::{self, Read};

use super::mapping::{MappingError, map_columns};
use super::rejects::Reject;
use crate::contact::csv::{Next, Reader, Row};
use crate::contact::{Address, Schema};

/// Names of the column that tells why.
const REASON_HEADERS: &[&str] = &["reason", "type", "原因", "类型", "類型"];
/// Longest reason kept, in characters.
const REASON_CHARACTERS: usize = 200;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuppressionRow {
    /// Its line, from 1.
    pub line: u64,
    /// Who.
    pub address: Address,
    /// Why, where the file says so.
    pub reason: Option<String>,
}

/// Reads a file of suppressions row by row, in flat memory. An entry that is no address comes as a
/// [`Reject`]; the others go on.
pub struct SuppressionReader<R> {
    reader: Reader<R>,
    row: Row,
    email: usize,
    email_header: String,
    reason: Option<usize>,
    /// The first line is an address already: the file has no header.
    first_is_data: bool,
}

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SuppressionError {
    /// The columns do not fit.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The first line cannot be read.
    #[error("line {line} cannot be read: {reason}")]
    Header {
        /// Where.
        line: u64,
        /// Why.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read the file")]
    Read(#[from] io::Error),
}

impl<R: Read> SuppressionReader<R> {
    /// Looks at the first line: a header, or the first address of a plain list.
    pub fn open(source: R) -> Result<Self, SuppressionError> {
        let mut reader = Reader::new(source, None)?;
        let mut row = Row::default();
        match reader.next(&mut row)? {
            Next::Row => {}
            Next::Fault(fault) => return Err(SuppressionError::Header { line: fault.line, reason: fault.reason }),
            Next::End => return Err(MappingError::Empty.into()),
        }
        let headers: Vec<String> = row.cells().map(str::to_owned).collect();
        let data = (0..headers.len()).find(|index| headers[*index].contains('@'));
        let (email, email_header, reason) = match data {
            Some(email) => (email, String::new(), None),
            None => {
                let mapping = map_columns(&headers, &[], &Schema::default())?;
                let is_reason = |header: &String| REASON_HEADERS.contains(&header.trim().to_lowercase().as_str());
                (mapping.email, mapping.email_header, headers.iter().position(is_reason))
            }
        };
        if data.is_none() {
            reader.expect_width(headers.len());
        }
        Ok(SuppressionReader { reader, row, email, email_header, reason, first_is_data: data.is_some() })
    }

    /// The next entry; `None` at the end of the file.
    pub fn next_row(&mut self) -> io::Result<Option<Result<SuppressionRow, Reject>>> {
        if !std::mem::take(&mut self.first_is_data) {
            match self.reader.next(&mut self.row)? {
                Next::Row => {}
                Next::End => return Ok(None),
                Next::Fault(fault) => {
                    let column = if fault.cell == Some(self.email) { self.email_header.clone() } else { String::new() };
                    return Ok(Some(Err(Reject { line: fault.line, column, reason: fault.reason, row: fault.text })));
                }
            }
        }
        let line = self.row.line();
        Ok(Some(match Address::parse(self.row.cell(self.email)) {
            Ok(address) => Ok(SuppressionRow { line, address, reason: self.reason_of_row() }),
            Err(error) => Err(Reject { line, column: self.email_header.clone(), reason: error.to_string(), row: self.reader.original() }),
        }))
    }

    fn reason_of_row(&self) -> Option<String> {
        let text = self.row.cell(self.reason?).trim();
        let plain = text.chars().take(REASON_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c });
        (!text.is_empty()).then(|| plain.collect())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Line, address and reason, or line and complaint.
    type Shown = Result<(u64, String, Option<String>), (u64, String)>;

    fn read(text: &str) -> Vec<Shown> {
        let mut reader = SuppressionReader::open(text.as_bytes()).unwrap();
        let mut out = Vec::new();
        while let Some(row) = reader.next_row().unwrap() {
            out.push(row.map(|row| (row.line, row.address.key().to_owned(), row.reason)).map_err(|reject| (reject.line, reject.reason)));
        }
        out
    }

    #[test]
    fn a_plain_list_needs_no_header() {
        let ok = |line, key: &str| Ok((line, key.to_owned(), None));
        assert_eq!(
            read("Joe@x.example\n\nann@x.example\nnobody\n"),
            [ok(1, "joe@x.example"), ok(3, "ann@x.example"), Err((4, "the address has no `@`".to_owned()))]
        );
    }

    #[test]
    fn a_table_may_tell_the_reason() {
        let rows = read("date;E-Mail;Reason\n2026-01-01;joe@x.example;hard bounce\n2026-01-02;ann@x.example;\n1;2\n");
        assert_eq!(rows[0], Ok((2, "joe@x.example".to_owned(), Some("hard bounce".to_owned()))));
        assert_eq!(rows[1], Ok((3, "ann@x.example".to_owned(), None)));
        assert_eq!(rows[2], Err((4, "the row has 2 cells, the header has 3".to_owned())));
    }

    #[test]
    fn a_table_without_addresses_names_its_columns() {
        let error = SuppressionReader::open("a,b\n1,2\n".as_bytes()).err().unwrap().to_string();
        assert!(error.starts_with("no column holds email addresses; the columns are `a`, `b`"), "{error}");
    }
}
