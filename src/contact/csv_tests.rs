#![expect(clippy::unwrap_used, reason = "tests")]
use encoding_rs::{BIG5, GB18030};
use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq)]
enum Read1 {
    Cells(u64, Vec<String>),
    Fault(u64, Option<usize>, String),
}

fn read_all(bytes: &[u8], width: Option<usize>) -> Vec<Read1> {
    let mut reader = Reader::new(bytes, None).unwrap();
    if let Some(width) = width {
        reader.expect_width(width);
    }
    let mut row = Row::default();
    let mut out = Vec::new();
    loop {
        match reader.next(&mut row).unwrap() {
            Next::End => return out,
            Next::Row => out.push(Read1::Cells(row.line(), row.cells().map(str::to_owned).collect())),
            Next::Fault(fault) => out.push(Read1::Fault(fault.line, fault.cell, fault.reason)),
        }
    }
}

fn cells(line: u64, cells: &[&str]) -> Read1 {
    Read1::Cells(line, cells.iter().map(|cell| (*cell).to_owned()).collect())
}

fn faults(read: &[Read1]) -> Vec<(u64, Option<usize>, &str)> {
    read.iter()
        .filter_map(|item| match item {
            Read1::Fault(line, cell, reason) => Some((*line, *cell, reason.as_str())),
            Read1::Cells(..) => None,
        })
        .collect()
}

#[test]
fn quotes_line_ends_and_cells_over_several_lines_are_read() {
    let text = "a,b\r\n\"x, \"\"y\"\"\",\"1\r\n2\"\n\n  p ,it's 5\" wide\rlast,\"\"";
    assert_eq!(
        read_all(text.as_bytes(), None),
        [cells(1, &["a", "b"]), cells(2, &["x, \"y\"", "1\r\n2"]), cells(5, &["  p ", "it's 5\" wide"]), cells(6, &["last", ""])]
    );
}

#[test]
fn the_delimiter_is_told_from_the_first_rows() {
    for (text, delimiter) in [
        ("a,b;c\n1,2;3\n", ','),
        ("a;b\n\"1,2,3,4\";2\n\"1,2,3,4\";2\n", ';'),
        ("a\tb\n1,5\t2\n", '\t'),
        ("a|b\n1|2\n", '|'),
        ("email\na@b.example\n", ','),
        ("sep=;\r\na;b\r\n", ';'),
    ] {
        let mut reader = Reader::new(text.as_bytes(), None).unwrap();
        assert_eq!(reader.delimiter(), delimiter, "{text}");
        let mut row = Row::default();
        assert_eq!(reader.next(&mut row).unwrap(), Next::Row);
        assert!(row.cell(0) == "a" || row.cell(0) == "email");
    }
}

#[test]
fn a_quote_that_is_never_closed_costs_one_line() {
    let text = "a,b\n1,\"open\n2,x\n3,y\n";
    assert_eq!(
        read_all(text.as_bytes(), Some(2)),
        [
            cells(1, &["a", "b"]),
            Read1::Fault(2, Some(1), "the quote that opens here is never closed".to_owned()),
            cells(3, &["2", "x"]),
            cells(4, &["3", "y"]),
        ]
    );
}

#[test]
fn a_quote_that_meets_the_next_quoted_cell_costs_one_line() {
    let text = "a,b\n1,\"open\n2,\"x\"\n3,\"y\"\n";
    let read = read_all(text.as_bytes(), Some(2));
    assert_eq!(faults(&read), [(2, Some(1), "a quote within a quoted cell is not doubled, or the quote that opens here is never closed")]);
    assert_eq!(read[2..], [cells(3, &["2", "x"]), cells(4, &["3", "y"])]);
}

#[test]
fn an_unclosed_quote_is_given_up_after_the_limit_of_a_cell() {
    let mut text = String::from("a,b\n1,\"open\n");
    let lines = 20_000;
    for _ in 0..lines {
        text.push_str("2,plain\n");
    }
    let read = read_all(text.as_bytes(), Some(2));
    assert_eq!(faults(&read), [(2, Some(1), "the quote that opens here is not closed within 64 KiB")]);
    assert_eq!(read.len(), 2 + lines);
    assert_eq!(read.last(), Some(&cells(2 + lines as u64, &["2", "plain"])));
}

#[test]
fn a_row_with_missing_or_extra_cells_is_a_fault_with_its_line() {
    let read = read_all(b"a,b\n1\n1,2,3\n1,2,,\n\"x\ny\"\n1,2\n", Some(2));
    assert_eq!(
        faults(&read),
        [
            (2, None, "the row has 1 cells, the header has 2"),
            (3, None, "the row has 3 cells, the header has 2"),
            (5, None, "the row has 1 cells, the header has 2"),
            (6, None, "the row has 1 cells, the header has 2"),
        ]
    );
    assert_eq!(read.last(), Some(&cells(7, &["1", "2"])));
}

#[test]
fn nul_bytes_and_foreign_bytes_cost_their_row() {
    let read = read_all("a,b\n1,x\0\n\u{4f60}\u{597d}\u{4f60}\u{597d}\u{4f60}\u{597d},2\n".as_bytes(), Some(2));
    assert_eq!(faults(&read), [(2, Some(1), "the cell holds a NUL byte")]);
    let mixed = ["a,b\n你好你好你好你好你好你好,2\n".as_bytes(), b"M\xfcller,3\n\"p\nq\xff\",4\nz,5\n"].concat();
    let read = read_all(&mixed, Some(2));
    assert_eq!(
        faults(&read),
        [(3, Some(0), "the cell holds bytes that are not UTF-8"), (4, Some(0), "the cell holds bytes that are not UTF-8")]
    );
    assert_eq!(read.last(), Some(&cells(6, &["z", "5"])));
    // Half a character at the end of one cell and its rest at the start of the next are two faults, not a letter.
    let split = ["a,b\n你好你好你好你好你好你好,2\n".as_bytes(), b"\xe4\xbd,\xa0\n"].concat();
    assert_eq!(faults(&read_all(&split, Some(2))).len(), 1);
}

/// Gives `count` bytes of one letter, without holding them.
struct LongLine(Vec<u8>, usize, Vec<u8>);

impl io::Read for LongLine {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.0.is_empty() {
            let count = self.0.len().min(out.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            return Ok(count);
        }
        if self.1 > 0 {
            let count = self.1.min(out.len());
            out[..count].fill(b'x');
            self.1 -= count;
            return Ok(count);
        }
        std::mem::swap(&mut self.0, &mut self.2);
        if self.0.is_empty() { Ok(0) } else { self.read(out) }
    }
}

#[test]
fn a_line_of_ten_megabytes_is_one_fault_in_flat_memory() {
    for start in ["a,b\n1,2\n3,", "a,b\n1,2\n3,\"", "a,b\n1,2\n"] {
        let source = LongLine(start.into(), 10_000_000, b"\r\n5,6\r\n".to_vec());
        let mut reader = Reader::new(source, None).unwrap();
        reader.expect_width(2);
        let mut row = Row::default();
        let mut faults = Vec::new();
        let mut rows = Vec::new();
        let mut largest = 0;
        loop {
            largest = largest.max(reader.buffer.capacity());
            match reader.next(&mut row).unwrap() {
                Next::Row => rows.push(row.line()),
                Next::Fault(fault) => faults.push((fault.line, fault.text.len())),
                Next::End => break,
            }
        }
        assert_eq!((rows, faults.len(), faults[0].0), (vec![1, 2, 4], 1, 3), "{start}");
        assert!(faults[0].1 <= SHOWN_BYTES + 4);
        assert!(largest <= 4 * ROW_BYTES, "{largest}");
    }
}

#[test]
fn too_many_cells_and_too_long_rows_are_faults() {
    let many = format!("a,b\n{}\n1,2\n", ",".repeat(COLUMNS));
    assert_eq!(faults(&read_all(many.as_bytes(), None)), [(2, Some(COLUMNS), "the row has more than 500 cells")]);
    let long = format!("a,b\n{}\n1,2\n", format!("{},", "x".repeat(60_000)).repeat(20));
    let read = read_all(long.as_bytes(), None);
    assert_eq!(faults(&read), [(2, None, "the row is longer than 1024 KiB")]);
    assert_eq!(read.last(), Some(&cells(3, &["1", "2"])));
}

#[test]
fn what_a_spreadsheet_would_run_is_written_with_a_mark() {
    let mut out = Vec::new();
    write_row(&mut out, ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "a=b", "x \"y\"", ""]).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "\"'=cmd|' /C calc'!A0\",'+1,'-1,'@x,a=b,\"x \"\"y\"\"\",\r\n");
}

fn encode(text: &str, encoding: usize) -> Vec<u8> {
    match encoding {
        0 => text.as_bytes().to_vec(),
        1 => [b"\xef\xbb\xbf".as_slice(), text.as_bytes()].concat(),
        2 => [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect(),
        3 => [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_be_bytes).collect(),
        4 => GB18030.encode(text).0.into_owned(),
        _ => BIG5.encode(text).0.into_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any table, written with any delimiter, line end and encoding, reads back as it was.
    #[test]
    fn any_table_reads_back(
        table in proptest::collection::vec(proptest::collection::vec("[a-z ,;|\t\"'=\r\n一-龥]{0,12}", 3), 1..30),
        delimiter in 0_usize..4,
        line_end in 0_usize..3,
        encoding in 0_usize..6,
        quote_all in any::<bool>(),
    ) {
        let delimiter = [",", ";", "\t", "|"][delimiter];
        let line_end = ["\n", "\r\n", "\r"][line_end];
        // Big5 lacks most simplified characters: a table in it keeps to what it has.
        let table: Vec<Vec<String>> = if encoding == 5 {
            table.iter().map(|row| row.iter().map(|cell| cell.chars().filter(|c| c.is_ascii() || !BIG5.encode(c.encode_utf8(&mut [0; 4])).2).collect()).collect()).collect()
        } else {
            table
        };
        let mut text = ["email", "姓名", "city"].join(delimiter);
        text.push_str(line_end);
        for row in &table {
            let cells: Vec<String> = row.iter().enumerate().map(|(index, cell)| {
                let plain = !quote_all && index > 0 && !cell.contains(['"', ',', ';', '\t', '|', '\r', '\n']);
                if plain { cell.clone() } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
            }).collect();
            text.push_str(&cells.join(delimiter));
            text.push_str(line_end);
        }
        let known = [None, None, None, None, Some(GB18030), Some(BIG5)][encoding];
        let bytes = encode(&text, encoding);
        let mut reader = Reader::new(bytes.as_slice(), known).unwrap();
        // Random cells may look like another delimiter's table; that is tested on real headers.
        reader.delimiter = delimiter.as_bytes()[0];
        reader.expect_width(3);
        let mut row = Row::default();
        prop_assert_eq!(reader.next(&mut row).unwrap(), Next::Row);
        for expected in &table {
            prop_assert_eq!(reader.next(&mut row).unwrap(), Next::Row);
            prop_assert_eq!(row.cells().collect::<Vec<_>>(), expected.iter().map(String::as_str).collect::<Vec<_>>());
        }
        prop_assert_eq!(reader.next(&mut row).unwrap(), Next::End);
    }

    /// No bytes at all make the reader panic, loop or lose count of its lines.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r')], 0..600)) {
        let mut last = 0;
        for item in read_all(&bytes, Some(2)) {
            let line = match item { Read1::Cells(line, _) | Read1::Fault(line, ..) => line };
            prop_assert!(line > last);
            last = line;
        }
    }
}
