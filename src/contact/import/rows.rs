//! From the rows of a file to batches of typed contacts: what needs no database, on a thread of its own.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::cells::{self, Cells};
use super::mapping::{Mapping, MappingError, map_columns};
use super::rejects::{Reject, Rejects};
use super::{ImportError, Job};
use crate::clock::Time;
use crate::contact::address::Domain;
use crate::contact::csv::{Next, Reader, Row};
use crate::contact::{Address, AddressError, Schema, sql};
use crate::db::{ColumnData, Rows};
use crate::entropy::Entropy;

/// Rows of one batch: one look-up, one insert, one update in the database. A batch is ordered by
/// address, so the larger it is, the fewer pages of the index each row costs; two are in memory.
const BATCH_ROWS: usize = 10_000;
/// Bytes of the file after which a batch is full, whatever its rows: bounds the memory of long cells.
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// Domains remembered: most lists have few, and checking one costs more than the rest of the row.
const REMEMBERED_DOMAINS: usize = 4_096;

/// Some thousand contacts, one entry an address, ordered by key (neighbours in the index are written
/// together), as columns.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub keys: Vec<Arc<str>>,
    /// The address as shown, where that is not the key.
    pub emails: Vec<Option<Arc<str>>>,
    /// The line of each address, the last one where it came several times.
    pub lines: Vec<u64>,
    /// One for each column of the mapping.
    pub columns: Vec<ColumnData>,
    /// Rows for an address that came before in this batch: index, and whether they bring anything new.
    pub repeats: Vec<(usize, bool)>,
    pub progress: Progress,
    /// An id for each entry, used where the contact is new.
    pub ids: Vec<i64>,
    /// All of it as input of the insert, made here to keep the writer free.
    pub insert: Rows,
}

/// How far the file is read, and what was refused on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows read, without the header and empty lines.
    pub rows: u64,
    /// Of these rejected.
    pub rejected: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The last line read.
    pub line: u64,
}

/// Reads batches.
pub(super) struct RowReader<R> {
    reader: Reader<R>,
    row: Row,
    mapping: Mapping,
    cells: Cells,
    domains: Domains,
    rejects: Rejects,
    progress: Progress,
    entropy: Entropy,
    now: Time,
    names: Vec<String>,
}

/// Domains of addresses, each checked once.
#[derive(Debug, Default)]
pub(crate) struct Domains(HashMap<String, Result<Box<Domain>, AddressError>>);

impl Domains {
    /// The domain behind a text.
    pub(crate) fn get(&mut self, text: &str) -> Result<&Domain, AddressError> {
        if !self.0.contains_key(text) {
            if self.0.len() == REMEMBERED_DOMAINS {
                self.0.clear();
            }
            self.0.insert(text.to_owned(), Domain::parse(text));
        }
        match self.0.get(text) {
            Some(Ok(domain)) => Ok(domain),
            Some(Err(error)) => Err(error.clone()),
            None => Err(AddressError::NoDomain),
        }
    }
}

impl<R: Read> RowReader<R> {
    /// Reads the header and maps it.
    pub fn open(source: R, schema: &Schema, job: &Job, rejects: Rejects) -> Result<Self, ImportError> {
        let options = &job.options;
        let encoding = match &options.encoding {
            Some(label) => {
                Some(encoding_rs::Encoding::for_label(label.as_bytes()).ok_or_else(|| ImportError::Encoding { label: label.clone() })?)
            }
            None => None,
        };
        let mut reader = Reader::new(source, encoding).map_err(ImportError::Read)?;
        let mut row = Row::default();
        match reader.next(&mut row).map_err(ImportError::Read)? {
            Next::Row => {}
            Next::Fault(fault) => return Err(ImportError::Header { line: fault.line, reason: fault.reason }),
            Next::End => return Err(ImportError::Mapping(MappingError::Empty)),
        }
        let headers: Vec<String> = row.cells().map(str::to_owned).collect();
        let mapping = map_columns(&headers, &options.map, schema)?;
        reader.expect_width(mapping.width);
        let names = (0..mapping.columns.len()).map(sql::bulk_name).collect();
        Ok(RowReader {
            entropy: job.entropy.clone(),
            now: job.now,
            names,
            reader,
            row,
            mapping,
            cells: Cells::default(),
            domains: Domains::default(),
            rejects,
            progress: Progress::default(),
        })
    }

    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub fn encoding(&self) -> &'static str {
        self.reader.encoding()
    }

    pub fn delimiter(&self) -> char {
        self.reader.delimiter()
    }

    /// Ends the rejects file; answers its first entries.
    pub fn finish(self) -> io::Result<Vec<Reject>> {
        self.rejects.finish()
    }

    /// The next batch; `None` at the end of the file.
    pub fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        let mut batch =
            Batch { columns: self.mapping.columns.iter().map(|column| cells::empty_column(column.kind)).collect(), ..Batch::default() };
        let started = self.progress;
        let mut ended = false;
        while batch.keys.len() < BATCH_ROWS && self.reader.bytes_read() - started.bytes < BATCH_BYTES.max(1) {
            match self.reader.next(&mut self.row)? {
                Next::Row => self.take_row(&mut batch)?,
                Next::Fault(fault) => {
                    self.progress.rows += 1;
                    self.progress.rejected += 1;
                    let column = fault.cell.and_then(|cell| self.header(cell)).unwrap_or_default().to_owned();
                    self.rejects.add(Reject { line: fault.line, column, reason: fault.reason, row: fault.text })?;
                }
                Next::End => {
                    ended = true;
                    break;
                }
            }
        }
        self.progress.bytes = self.reader.bytes_read();
        self.progress.line = self.reader.line().saturating_sub(1);
        if ended && self.progress == started {
            return Ok(None);
        }
        batch.sort_and_merge();
        batch.progress = self.progress;
        batch.ids = self.entropy.ids(self.now, batch.keys.len()).collect();
        batch.insert = batch.input(&self.names, &batch.ids, None);
        Ok(Some(batch))
    }

    fn header(&self, position: usize) -> Option<&str> {
        if position == self.mapping.email {
            return Some(&self.mapping.email_header);
        }
        self.mapping.columns.iter().find(|column| column.position == position).map(|column| column.header.as_str())
    }

    /// Adds the row to the batch, or rejects it with all that is wrong with it.
    fn take_row(&mut self, batch: &mut Batch) -> io::Result<()> {
        self.progress.rows += 1;
        let mut wrong: Vec<(&str, String)> = Vec::new();
        let domains = &mut self.domains;
        let address = Address::parse_with(self.row.cell(self.mapping.email), |text| domains.get(text));
        if let Err(error) = &address {
            wrong.push((&self.mapping.email_header, error.to_string()));
        }
        for (column, data) in self.mapping.columns.iter().zip(&mut batch.columns) {
            match self.cells.parse(column.kind, self.row.cell(column.position)) {
                Ok(cell) => cells::push(data, cell),
                Err(reason) => {
                    wrong.push((&column.header, reason));
                    cells::push(data, None);
                }
            }
        }
        match address {
            Ok(address) if wrong.is_empty() => {
                let (text, key) = address.into_text_and_key();
                batch.emails.push((text != key).then(|| text.into()));
                batch.keys.push(key.into());
                batch.lines.push(self.row.line());
                Ok(())
            }
            _ => {
                batch.columns.iter_mut().for_each(pop);
                self.progress.rejected += 1;
                let join = |parts: Vec<&str>, between: &str| parts.join(between);
                let column = join(wrong.iter().map(|(column, _)| *column).collect(), ", ");
                let reason = join(wrong.iter().map(|(_, reason)| reason.as_str()).collect(), "; ");
                self.rejects.add(Reject { line: self.row.line(), column, reason, row: self.reader.original() })
            }
        }
    }
}

fn pop(column: &mut ColumnData) {
    match column {
        ColumnData::I64(values) => drop(values.pop()),
        ColumnData::F64(values) => drop(values.pop()),
        ColumnData::Bool(values) => drop(values.pop()),
        ColumnData::Text(values) => drop(values.pop()),
        ColumnData::Shared(values) => drop(values.pop()),
        ColumnData::Bytes(values) => drop(values.pop()),
    }
}

impl Batch {
    /// The address of an entry as shown.
    pub fn email(&self, index: usize) -> &Arc<str> {
        self.emails[index].as_ref().unwrap_or(&self.keys[index])
    }

    /// The entries at `indexes` (all of them without) as input of a statement: `id`, `email_key`,
    /// `email` and the columns by `names`. Texts are shared, not copied.
    pub fn input(&self, names: &[String], ids: &[i64], indexes: Option<&[usize]>) -> Rows {
        let mut input = Rows::new()
            .column("id", pick(&ColumnData::I64(ids.iter().copied().map(Some).collect()), indexes))
            .column("email_key", pick(&ColumnData::Shared(self.keys.iter().cloned().map(Some).collect()), indexes))
            .column("email", pick_from(&self.emails, indexes, ColumnData::Shared));
        for (name, column) in names.iter().zip(&self.columns) {
            input = input.column(name.clone(), pick(column, indexes));
        }
        input
    }

    /// Orders by key and makes one entry of the rows of one address, the later cell winning.
    fn sort_and_merge(&mut self) {
        if self.keys.is_sorted_by(|left, right| left < right) {
            return;
        }
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_by(|left, right| self.keys[*left].cmp(&self.keys[*right]).then(left.cmp(right)));
        let groups: Vec<&[usize]> = order.chunk_by(|left, right| self.keys[*left] == self.keys[*right]).collect();
        for (entry, group) in groups.iter().enumerate().filter(|(_, group)| group.len() > 1) {
            for (index, row) in group.iter().enumerate().skip(1) {
                let earlier = &group[..index];
                let changed = self.emails[*row] != self.emails[earlier[index - 1]]
                    || self.columns.iter().any(|column| brings_something(column, *row, earlier));
                self.repeats.push((entry, changed));
            }
        }
        let last = |group: &&[usize]| group[group.len() - 1];
        self.lines = groups.iter().map(|group| self.lines[last(group)]).collect();
        self.keys = groups.iter().map(|group| self.keys[group[0]].clone()).collect();
        self.emails = groups.iter().map(|group| self.emails[last(group)].take()).collect();
        for column in &mut self.columns {
            match column {
                ColumnData::I64(values) => gather(values, &groups),
                ColumnData::F64(values) => gather(values, &groups),
                ColumnData::Bool(values) => gather(values, &groups),
                ColumnData::Text(values) => gather(values, &groups),
                ColumnData::Shared(values) => gather(values, &groups),
                ColumnData::Bytes(values) => gather(values, &groups),
            }
        }
    }
}

fn pick(column: &ColumnData, indexes: Option<&[usize]>) -> ColumnData {
    match column {
        ColumnData::I64(values) => pick_from(values, indexes, ColumnData::I64),
        ColumnData::F64(values) => pick_from(values, indexes, ColumnData::F64),
        ColumnData::Bool(values) => pick_from(values, indexes, ColumnData::Bool),
        ColumnData::Text(values) => pick_from(values, indexes, ColumnData::Text),
        ColumnData::Shared(values) => pick_from(values, indexes, ColumnData::Shared),
        ColumnData::Bytes(values) => pick_from(values, indexes, ColumnData::Bytes),
    }
}

fn pick_from<T: Clone>(values: &[T], indexes: Option<&[usize]>, make: impl FnOnce(Vec<T>) -> ColumnData) -> ColumnData {
    make(match indexes {
        Some(indexes) => indexes.iter().map(|index| values[*index].clone()).collect(),
        None => values.to_vec(),
    })
}

fn gather<T>(values: &mut Vec<Option<T>>, groups: &[&[usize]]) {
    *values = groups.iter().map(|group| group.iter().rev().find_map(|row| values[*row].take())).collect();
}

/// True when a row's cell is not what the rows before it for the same address say together.
fn brings_something(column: &ColumnData, row: usize, earlier: &[usize]) -> bool {
    fn differs<T: PartialEq>(values: &[Option<T>], row: usize, earlier: &[usize]) -> bool {
        let before = earlier.iter().rev().find_map(|row| values[*row].as_ref());
        values[row].as_ref().is_some_and(|value| Some(value) != before)
    }
    match column {
        ColumnData::I64(values) => differs(values, row, earlier),
        ColumnData::F64(values) => differs(values, row, earlier),
        ColumnData::Bool(values) => differs(values, row, earlier),
        ColumnData::Text(values) => differs(values, row, earlier),
        ColumnData::Shared(values) => differs(values, row, earlier),
        ColumnData::Bytes(values) => differs(values, row, earlier),
    }
}
