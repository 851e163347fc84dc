//! Batches into the database: one look-up, one insert, one update, each over thousands of rows.

use super::mapping::Mapping;
use super::rows::Batch;
use super::{ImportCounts, ImportedRow};
use crate::args;
use crate::clock::Time;
use crate::contact::{identity, sql};
use crate::db::{ColumnData, DbError, Row, Rows, Tx};

/// The statements of one import.
pub(super) struct Writer {
    now: Time,
    look_up: String,
    insert: String,
    update: String,
    names: Vec<String>,
    /// Where the customer number stands among the columns.
    number_at: Option<usize>,
    /// The last batch was mostly new: insert first, and look only when something was there.
    mostly_new: bool,
}

/// A contact that is already there and what the file says about it.
struct Found {
    /// Its place in the batch.
    index: usize,
    id: i64,
    changed: bool,
    /// The customer number it had, where the file has another one.
    former_number: Option<String>,
}

impl Writer {
    pub fn new(mapping: &Mapping, now: Time) -> Self {
        let targets: Vec<&str> = mapping.columns.iter().map(|column| column.target.as_str()).collect();
        Writer {
            now,
            look_up: sql::bulk_look_up(&targets),
            insert: sql::bulk_insert(&targets),
            update: sql::bulk_update(&targets),
            names: (0..targets.len()).map(sql::bulk_name).collect(),
            number_at: targets.iter().position(|target| *target == "external_id"),
            mostly_new: true,
        }
    }

    /// Writes a batch, of which those at the places `suppressed` get no mail. The rows come back in the order of
    /// the batch.
    ///
    /// A new list costs one statement: insert what is not there, and when that was all, nothing needs
    /// looking up. A known list is looked up first, so that only what changed is written.
    pub async fn write(
        &mut self,
        tx: &mut Tx,
        batch: &mut Batch,
        suppressed: &[usize],
        counts: &mut ImportCounts,
    ) -> Result<Vec<ImportedRow>, DbError> {
        let mut rows: Vec<ImportedRow> = batch
            .lines
            .iter()
            .zip(&batch.ids)
            .map(|(line, id)| ImportedRow { contact_id: *id, line: *line, added: true, changed: true, suppressed: false })
            .collect();
        for index in suppressed {
            rows[*index].suppressed = true;
        }
        if !self.mostly_new {
            self.mark_known(tx, batch, &mut rows).await?;
        }
        let asked = rows.iter().filter(|row| row.added).count();
        if self.insert(tx, batch, &rows).await? != asked as u64 {
            self.mark_known(tx, batch, &mut rows).await?;
        }
        self.update(tx, batch, &rows).await?;
        count(&rows, &batch.repeats, counts);
        self.mostly_new = rows.iter().filter(|row| row.added).count() * 2 >= rows.len();
        Ok(rows)
    }

    /// Finds the contacts that are there under an id other than the one made for their row.
    async fn mark_known(&self, tx: &mut Tx, batch: &Batch, rows: &mut [ImportedRow]) -> Result<(), DbError> {
        let mut former_numbers = Vec::new();
        for found in self.look_up(tx, batch).await? {
            let row = &mut rows[found.index];
            if row.added && row.contact_id != found.id {
                (row.contact_id, row.added, row.changed) = (found.id, false, found.changed);
                former_numbers.extend(found.former_number.map(|number| (found.id, number)));
            }
        }
        if former_numbers.is_empty() {
            return Ok(());
        }
        identity::keep_former_numbers(tx, &former_numbers, "import", self.now).await
    }

    async fn look_up(&self, tx: &mut Tx, batch: &Batch) -> Result<Vec<Found>, DbError> {
        let keys = Rows::new().i64("n", 0..batch.keys.len() as i64).shared("k", batch.keys.iter().cloned());
        let mut found = Vec::new();
        for row in tx.bulk_fetch(&self.look_up, args![], keys).await? {
            let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
            let email: String = row.get(2)?;
            let mut changed = **batch.email(index) != *email;
            for (position, column) in batch.columns.iter().enumerate() {
                changed = changed || differs(column, index, &row, position + 3)?;
            }
            let former_number = match self.number_at {
                Some(position) if differs(&batch.columns[position], index, &row, position + 3)? => row.get(position + 3)?,
                _ => None,
            };
            found.push(Found { index, id: row.get(1)?, changed, former_number });
        }
        Ok(found)
    }

    async fn insert(&self, tx: &mut Tx, batch: &mut Batch, rows: &[ImportedRow]) -> Result<u64, DbError> {
        let new: Vec<usize> = (0..rows.len()).filter(|index| rows[*index].added).collect();
        let input = std::mem::take(&mut batch.insert);
        let input = if new.len() == rows.len() { input } else { batch.input(&self.names, &batch.ids, Some(&new)) };
        tx.bulk(&self.insert, args![self.now], input).await
    }

    async fn update(&self, tx: &mut Tx, batch: &Batch, rows: &[ImportedRow]) -> Result<(), DbError> {
        let changed: Vec<usize> = (0..rows.len()).filter(|index| rows[*index].changed && !rows[*index].added).collect();
        let ids: Vec<i64> = rows.iter().map(|row| row.contact_id).collect();
        let touched = tx.bulk(&self.update, args![self.now], batch.input(&self.names, &ids, Some(&changed))).await?;
        if touched != changed.len() as u64 {
            return Err(DbError::Unexpected(format!("expected to change {} contacts, changed {touched}", changed.len())));
        }
        Ok(())
    }
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
        ColumnData::Shared(values) => values[index].is_some() && row.get::<Option<String>>(at)?.as_deref() != values[index].as_deref(),
        ColumnData::Bytes(values) => values[index].is_some() && row.get::<Option<Vec<u8>>>(at)? != values[index],
    })
}
