//! Batches into the database: one look-up, one insert, one update, each over thousands of rows.

use std::collections::HashSet;

use super::mapping::Mapping;
use super::rows::Batch;
use super::{ImportCounts, ImportedRow};
use crate::args;
use crate::clock::Time;
use crate::contact::sql;
use crate::db::{ColumnData, DbError, Dialect, Row, Rows, Tx};
use crate::entropy::Entropy;

/// The statements of one import.
pub(super) struct Writer<'a> {
    entropy: &'a Entropy,
    now: Time,
    look_up: String,
    insert: String,
    update: String,
    names: Vec<String>,
}

/// A contact that is already there and what the file says about it.
struct Found {
    /// Its place in the batch.
    index: usize,
    id: i64,
    changed: bool,
}

impl<'a> Writer<'a> {
    pub fn new(mapping: &Mapping, entropy: &'a Entropy, now: Time) -> Self {
        let targets: Vec<&str> = mapping.columns.iter().map(|column| column.target.as_str()).collect();
        Writer {
            entropy,
            now,
            look_up: sql::bulk_look_up(&targets),
            insert: sql::bulk_insert(&targets),
            update: sql::bulk_update(&targets),
            names: (0..targets.len()).map(sql::bulk_name).collect(),
        }
    }

    /// Keeps others from adding the same addresses between our look-up and our insert. SQLite has one
    /// writer anyway; on PostgreSQL sign-ups wait for the part of a second that a transaction takes.
    /// Taken before everything else, as whoever adds a contact and then writes the ledger does.
    pub async fn lock(&self, tx: &mut Tx) -> Result<(), DbError> {
        if tx.dialect() == Dialect::Postgres {
            tx.execute("LOCK TABLE contact IN SHARE ROW EXCLUSIVE MODE", Vec::new()).await?;
        }
        Ok(())
    }

    /// Writes a batch. The rows come back in the order of the batch.
    pub async fn write(&self, tx: &mut Tx, mut batch: Batch, counts: &mut ImportCounts) -> Result<Vec<ImportedRow>, DbError> {
        let suppressed = suppressed(tx, &batch.keys).await?;
        let found = self.look_up(tx, &batch).await?;
        let mut rows: Vec<ImportedRow> = batch
            .lines
            .iter()
            .enumerate()
            .map(|(index, line)| ImportedRow { contact_id: 0, line: *line, added: true, changed: true, suppressed: suppressed.contains(&index) })
            .collect();
        for contact in &found {
            let row = &mut rows[contact.index];
            (row.contact_id, row.added, row.changed) = (contact.id, false, contact.changed);
        }
        let mut ids = self.entropy.ids(self.now, rows.len() - found.len());
        for row in rows.iter_mut().filter(|row| row.added) {
            row.contact_id = ids.next().ok_or_else(|| DbError::Unexpected("too few ids were made".to_owned()))?;
        }
        count(&rows, &batch.repeats, counts);
        self.update(tx, &mut batch, &rows).await?;
        self.insert(tx, batch, &rows).await?;
        Ok(rows)
    }

    async fn look_up(&self, tx: &mut Tx, batch: &Batch) -> Result<Vec<Found>, DbError> {
        let keys = Rows::new().i64("n", 0..batch.keys.len() as i64).text("k", batch.keys.iter().cloned());
        let mut found = Vec::new();
        for row in tx.bulk_fetch(&self.look_up, args![], keys).await? {
            let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
            let email: String = row.get(2)?;
            let mut changed = batch.emails[index] != email;
            for (position, column) in batch.columns.iter().enumerate() {
                changed = changed || differs(column, index, &row, position + 3)?;
            }
            found.push(Found { index, id: row.get(1)?, changed });
        }
        Ok(found)
    }

    async fn insert(&self, tx: &mut Tx, batch: Batch, rows: &[ImportedRow]) -> Result<(), DbError> {
        let new: Vec<usize> = (0..rows.len()).filter(|index| rows[*index].added).collect();
        if new.is_empty() {
            return Ok(());
        }
        let all = new.len() == rows.len();
        let Batch { mut keys, mut emails, mut columns, .. } = batch;
        if !all {
            keys = new.iter().map(|index| std::mem::take(&mut keys[*index])).collect();
            emails = new.iter().map(|index| std::mem::take(&mut emails[*index])).collect();
            columns = columns.iter_mut().map(|column| pick(column, &new)).collect();
        }
        let mut input = Rows::new().i64("id", new.iter().map(|index| rows[*index].contact_id)).text("email", emails).text("email_key", keys);
        for (name, column) in self.names.iter().zip(columns) {
            input = input.column(name.clone(), column);
        }
        tx.bulk(&self.insert, args![self.now], input).await?;
        Ok(())
    }

    async fn update(&self, tx: &mut Tx, batch: &mut Batch, rows: &[ImportedRow]) -> Result<(), DbError> {
        let changed: Vec<usize> = (0..rows.len()).filter(|index| rows[*index].changed && !rows[*index].added).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let emails: Vec<String> = changed.iter().map(|index| std::mem::take(&mut batch.emails[*index])).collect();
        let mut input = Rows::new().i64("id", changed.iter().map(|index| rows[*index].contact_id)).text("email", emails);
        for (name, column) in self.names.iter().zip(&mut batch.columns) {
            input = input.column(name.clone(), pick(column, &changed));
        }
        tx.bulk(&self.update, args![self.now], input).await?;
        Ok(())
    }
}

/// Which of the keys are suppressed. Most instances have few suppressions, many have none.
async fn suppressed(tx: &mut Tx, keys: &[String]) -> Result<HashSet<usize>, DbError> {
    if tx.fetch_optional("SELECT 1 FROM suppression LIMIT 1", args![]).await?.is_none() {
        return Ok(HashSet::new());
    }
    let input = Rows::new().i64("n", 0..keys.len() as i64).text("k", keys.iter().cloned());
    let sql = "SELECT v.n FROM {rows} CROSS JOIN suppression s WHERE s.email_key = v.k";
    tx.bulk_fetch(sql, args![], input).await?.iter().map(|row| row.get::<i64>(0).map(|index| index as usize)).collect()
}

/// Counts every row of the file once: the repeats of an address change something or not.
fn count(rows: &[ImportedRow], repeats: &[(usize, bool)], counts: &mut ImportCounts) {
    for row in rows {
        match row {
            ImportedRow { added: true, .. } => counts.added += 1,
            ImportedRow { changed: true, .. } => counts.updated += 1,
            _ => counts.unchanged += 1,
        }
        counts.suppressed += u64::from(row.suppressed);
    }
    for (index, changed) in repeats {
        // What the database held already is unchanged, however often the file says it.
        if *changed && rows[*index].changed { counts.updated += 1 } else { counts.unchanged += 1 }
    }
}

fn differs(column: &ColumnData, index: usize, row: &Row, at: usize) -> Result<bool, DbError> {
    Ok(match column {
        ColumnData::I64(values) => values[index].is_some() && row.get::<Option<i64>>(at)? != values[index],
        ColumnData::F64(values) => values[index].is_some() && row.get::<Option<f64>>(at)? != values[index],
        ColumnData::Bool(values) => values[index].is_some() && row.get::<Option<bool>>(at)? != values[index],
        ColumnData::Text(values) => values[index].is_some() && row.get::<Option<String>>(at)? != values[index],
        ColumnData::Bytes(values) => values[index].is_some() && row.get::<Option<Vec<u8>>>(at)? != values[index],
    })
}

/// Takes some values out of a column.
fn pick(column: &mut ColumnData, indexes: &[usize]) -> ColumnData {
    fn take<T>(values: &mut [Option<T>], indexes: &[usize]) -> Vec<Option<T>> {
        indexes.iter().map(|index| values[*index].take()).collect()
    }
    match column {
        ColumnData::I64(values) => ColumnData::I64(take(values, indexes)),
        ColumnData::F64(values) => ColumnData::F64(take(values, indexes)),
        ColumnData::Bool(values) => ColumnData::Bool(take(values, indexes)),
        ColumnData::Text(values) => ColumnData::Text(take(values, indexes)),
        ColumnData::Bytes(values) => ColumnData::Bytes(take(values, indexes)),
    }
}
