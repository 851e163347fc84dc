//! Who must get nothing, from a file: addresses, domains and hashes, one a line, or a CSV with a column of them and
//! perhaps one of reasons.

use std::io::{self, Read};

use super::mapping::{MappingError, map_columns};
use super::rejects::Reject;
use crate::contact::address::Domain;
use crate::contact::csv::{Next, Reader, Row};
use crate::contact::{Address, Schema};

/// Names of the column that tells why.
const REASON_HEADERS: &[&str] = &["reason", "type", "原因", "类型", "類型"];
/// Names of the column of entries, beside those of addresses.
const VALUE_HEADERS: &[&str] = &["value", "domain", "hash", "md5", "sha1", "sha256", "md5_hash", "email_hash", "email_md5", "email_sha256"];
/// Longest reason kept, in characters.
const REASON_CHARACTERS: usize = 200;

/// What an entry of the suppression list is. In the order in which they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SuppressionKind {
    /// One address.
    Address,
    /// `tea.example`: every address of that domain; `*.tea.example`: also of every domain below it.
    Domain,
    /// The MD5 hash of an address as compared, in hex.
    Md5,
    /// The same by SHA-1.
    Sha1,
    /// The same by SHA-256.
    Sha256,
    /// The digest of an erased person's address under a key of this instance; stands in no file.
    Keyed,
}

impl SuppressionKind {
    /// All of them.
    pub const ALL: [SuppressionKind; 6] = [
        SuppressionKind::Address,
        SuppressionKind::Domain,
        SuppressionKind::Md5,
        SuppressionKind::Sha1,
        SuppressionKind::Sha256,
        SuppressionKind::Keyed,
    ];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            SuppressionKind::Address => "address",
            SuppressionKind::Domain => "domain",
            SuppressionKind::Md5 => "md5",
            SuppressionKind::Sha1 => "sha1",
            SuppressionKind::Sha256 => "sha256",
            SuppressionKind::Keyed => "keyed",
        }
    }

    /// Reads a stored kind.
    pub fn from_stored(text: &str) -> Option<Self> {
        SuppressionKind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Hex digits of a hash; `None` for what is none.
    fn digits(self) -> Option<usize> {
        match self {
            SuppressionKind::Md5 => Some(32),
            SuppressionKind::Sha1 => Some(40),
            SuppressionKind::Sha256 => Some(64),
            SuppressionKind::Address | SuppressionKind::Domain | SuppressionKind::Keyed => None,
        }
    }
}

impl std::fmt::Display for SuppressionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Reads one entry as people write it, into what it is and how it is stored: `Joe@Tea.example`, `tea.example`,
/// `@tea.example`, `*.tea.example`, or 32, 40 or 64 hex digits. With `kind`, nothing else is taken.
///
/// # Errors
/// What is wrong with it.
pub fn suppression_entry(text: &str, kind: Option<SuppressionKind>) -> Result<(SuppressionKind, String), String> {
    let text = text.trim();
    let told = kind.unwrap_or_else(|| told(text));
    let value = match told {
        SuppressionKind::Address => Address::parse(text).map_err(|error| error.to_string())?.key().to_owned(),
        SuppressionKind::Domain => {
            let name = text.strip_prefix('@').unwrap_or(text);
            let (below, name) = name.strip_prefix("*.").map_or(("", name), |rest| ("*.", rest));
            if name.contains('@') {
                return Err("an address is no domain".to_owned());
            }
            // A public suffix is refused there: `*.com` would be everybody.
            let domain = Domain::parse(name).map_err(|error| error.to_string())?;
            format!("{below}{}", Domain::ascii(&domain))
        }
        SuppressionKind::Keyed => return Err("keyed digests are made by an erasure only".to_owned()),
        hash => {
            let digits = hash.digits().unwrap_or_default();
            if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("a {hash} hash has {digits} hex digits"));
            }
            text.to_ascii_lowercase()
        }
    };
    Ok((told, value))
}

fn told(text: &str) -> SuppressionKind {
    if text.starts_with('@') && !text.ends_with('@') {
        return SuppressionKind::Domain;
    }
    if text.contains('@') {
        return SuppressionKind::Address;
    }
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match SuppressionKind::ALL.into_iter().find(|kind| is_hex && kind.digits() == Some(text.len())) {
        Some(hash) => hash,
        None if text.contains('.') => SuppressionKind::Domain,
        None => SuppressionKind::Address,
    }
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuppressionRow {
    /// Its line, from 1.
    pub line: u64,
    /// What `value` is.
    pub kind: SuppressionKind,
    /// As stored.
    pub value: String,
    /// Why, where the file says so.
    pub reason: Option<String>,
}

/// Reads a file of suppressions row by row, in flat memory. An entry that is none comes as a
/// [`Reject`]; the others go on.
pub struct SuppressionReader<R> {
    reader: Reader<R>,
    row: Row,
    value: usize,
    header: String,
    reason: Option<usize>,
    /// What every line is, where the caller said so.
    kind: Option<SuppressionKind>,
    /// The first line is an entry already: the file has no header.
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
    /// Looks at the first line: a header, or the first entry of a plain list. Without `kind`, each line tells by
    /// itself what it is.
    pub fn open(source: R, kind: Option<SuppressionKind>) -> Result<Self, SuppressionError> {
        let mut reader = Reader::new(source, None)?;
        let mut row = Row::default();
        match reader.next(&mut row)? {
            Next::Row => {}
            Next::Fault(fault) => return Err(SuppressionError::Header { line: fault.line, reason: fault.reason }),
            Next::End => return Err(MappingError::Empty.into()),
        }
        let headers: Vec<String> = row.cells().map(str::to_owned).collect();
        let data = (0..headers.len()).find(|index| headers[*index].contains('@') || suppression_entry(&headers[*index], kind).is_ok());
        let (value, header, reason) = match data {
            Some(value) => (value, String::new(), None),
            None => {
                let named = |names: &[&str]| headers.iter().position(|header| names.contains(&header.trim().to_lowercase().as_str()));
                let (value, header) = match map_columns(&headers, &[], &Schema::default()) {
                    Ok(mapping) => (mapping.email, mapping.email_header),
                    Err(problem) => match named(VALUE_HEADERS) {
                        Some(value) => (value, headers[value].clone()),
                        None => return Err(problem.into()),
                    },
                };
                (value, header, named(REASON_HEADERS))
            }
        };
        if data.is_none() {
            reader.expect_width(headers.len());
        }
        Ok(SuppressionReader { reader, row, value, header, reason, kind, first_is_data: data.is_some() })
    }

    /// The next entry; `None` at the end of the file.
    pub fn next_row(&mut self) -> io::Result<Option<Result<SuppressionRow, Reject>>> {
        if !std::mem::take(&mut self.first_is_data) {
            match self.reader.next(&mut self.row)? {
                Next::Row => {}
                Next::End => return Ok(None),
                Next::Fault(fault) => {
                    let column = if fault.cell == Some(self.value) { self.header.clone() } else { String::new() };
                    return Ok(Some(Err(Reject { line: fault.line, column, reason: fault.reason, row: fault.text })));
                }
            }
        }
        let line = self.row.line();
        Ok(Some(match suppression_entry(self.row.cell(self.value), self.kind) {
            Ok((kind, value)) => Ok(SuppressionRow { line, kind, value, reason: self.reason_of_row() }),
            Err(reason) => Err(Reject { line, column: self.header.clone(), reason, row: self.reader.original() }),
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
        let mut reader = SuppressionReader::open(text.as_bytes(), None).unwrap();
        let mut out = Vec::new();
        while let Some(row) = reader.next_row().unwrap() {
            out.push(row.map(|row| (row.line, row.value, row.reason)).map_err(|reject| (reject.line, reject.reason)));
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
        let error = SuppressionReader::open("a,b\n1,2\n".as_bytes(), None).err().unwrap().to_string();
        assert!(error.starts_with("no column holds email addresses; the columns are `a`, `b`"), "{error}");
    }

    #[test]
    fn each_line_tells_what_it_is() {
        use SuppressionKind::*;
        let entry = |text: &str| suppression_entry(text, None);
        let hash = "ABCDEF0123456789abcdef0123456789";
        for (text, kind, value) in [
            (" Joe@Tea.Example ", Address, "joe@tea.example"),
            ("Tea.Example", Domain, "tea.example"),
            ("@tea.example", Domain, "tea.example"),
            ("*.茶.example", Domain, "*.xn--xmq.example"),
            (hash, Md5, "abcdef0123456789abcdef0123456789"),
            (&format!("{hash}01234567"), Sha1, "abcdef0123456789abcdef012345678901234567"),
        ] {
            let found = entry(text).unwrap();
            assert_eq!(found.0, kind, "{text}");
            assert!(kind == Domain && text.contains('茶') || found.1 == value, "{found:?}");
        }
        for wrong in ["", "nobody", "com", "*.com", "*", "@", "tea example", "a@b@c", "co.uk"] {
            assert!(entry(wrong).is_err(), "{wrong}");
        }
        assert_eq!(suppression_entry("x", Some(Sha256)).unwrap_err(), "a sha256 hash has 64 hex digits");
        assert!(suppression_entry("joe@tea.example", Some(Domain)).is_err());
        assert!(suppression_entry(hash, Some(Keyed)).is_err());
    }

    #[test]
    fn a_list_of_hashes_or_domains_needs_no_header_but_may_have_one() {
        let hash = "abcdef0123456789abcdef0123456789";
        assert_eq!(read(&format!("{hash}\n{hash}\n")).len(), 2);
        assert_eq!(read(&format!("hash,reason\n{hash},complaint\n")), [Ok((2, hash.to_owned(), Some("complaint".to_owned())))]);
        assert_eq!(read("tea.example\n*.tea.example\n").len(), 2);
    }
}
