//! Contacts from a CSV file of any size.
//!
//! One thread reads, checks and types the rows and hands batches through a short queue to the writer,
//! which gives each batch one look-up, one insert and one update, and commits some batches together.
//! Memory is a few batches, whatever the size of the file.
//!
//! A row with anything wrong is rejected as a whole, with its line, column and reason; no other row
//! suffers. Every row of the file is counted once: added, updated, unchanged or rejected.

pub(crate) mod cells;
pub(crate) mod mapping;
mod rejects;
mod rows;
mod suppressions;
mod write;

use std::io::{self, Read, Write};
use std::sync::Arc;

use tokio::sync::mpsc;

pub use cells::{Cell, Cells, locale};
pub use mapping::{Column, Kind, Mapping, MappingError, map_columns};
pub use rejects::{Reject, Rejects};
pub(crate) use rows::Domains;
pub use rows::Progress;
use rows::{Batch, RowReader};
pub use suppressions::{SuppressionError, SuppressionKind, SuppressionReader, SuppressionRow, suppression_entry};
use write::Writer;

use super::Schema;
use crate::clock::Time;
use crate::db::{Db, DbError, Tx};
use crate::entropy::Entropy;

/// Batches committed together: 100,000 rows, well under a second of holding the lock. Fewer would write
/// the pages of the index, which every batch touches, again and again.
const BATCHES_PER_COMMIT: usize = 10;
/// Batches that wait for the writer. A batch is made only when there is room for it, so two are in
/// memory: the one being written and the next.
const QUEUE: usize = 1;

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Pairs of column and field; they win over the headers' names.
    pub map: Vec<(String, String)>,
    /// Do everything, write the rejects file, count, and leave the database as it was. It is one
    /// transaction that is rolled back: other writers wait meanwhile on SQLite.
    pub dry_run: bool,
    /// The file's encoding by its label (`gb18030`, `big5`, `utf-16le`, ..) where the guess is wrong.
    pub encoding: Option<String>,
}

/// What an import works on.
#[derive(Debug, Clone, Copy)]
pub struct Import<'a> {
    /// Where to.
    pub db: &'a Db,
    /// The declared attributes (their columns exist, see [`ensure_columns`](super::ops::ensure_columns)).
    pub schema: &'a Schema,
    /// Makes ids.
    pub entropy: &'a Entropy,
    /// The moment of the import.
    pub now: Time,
    /// How.
    pub options: &'a ImportOptions,
}

/// A contact that a batch brought or met; one entry an address and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportedRow {
    /// The contact.
    pub contact_id: i64,
    /// Its line in the file, from 1 (the last one where it has several in a batch).
    pub line: u64,
    /// It was not there before.
    pub added: bool,
    /// Something of it was written.
    pub changed: bool,
    /// Its address is suppressed: it is kept as a contact and gets no mail.
    pub suppressed: bool,
}

/// What else happens in the transaction of a batch: the consent room says who is suppressed and appends its events
/// here, so that no contact is ever stored without them.
pub trait AfterBatch: Send {
    /// Called once a batch, before its contacts are written: which of these addresses (as compared) are
    /// suppressed, by their place in `keys`.
    fn suppressed(&mut self, tx: &mut Tx, keys: &[Arc<str>]) -> impl Future<Output = Result<Vec<usize>, DbError>> + Send;

    /// Called once a batch, after its contacts are written, before the commit. The same contact may
    /// come again in a later batch. An error undoes the transaction and ends the import.
    fn batch(&mut self, tx: &mut Tx, rows: &[ImportedRow]) -> impl Future<Output = Result<(), DbError>> + Send;
}

/// Nothing else happens, and nobody is suppressed.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingElse;

impl AfterBatch for NothingElse {
    async fn suppressed(&mut self, _tx: &mut Tx, _keys: &[Arc<str>]) -> Result<Vec<usize>, DbError> {
        Ok(Vec::new())
    }

    async fn batch(&mut self, _tx: &mut Tx, _rows: &[ImportedRow]) -> Result<(), DbError> {
        Ok(())
    }
}

/// Rows by what became of them. `read` is the sum of `added`, `updated`, `unchanged` and `rejected`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct ImportCounts {
    /// Rows of the file.
    pub read: u64,
    /// New contacts.
    pub added: u64,
    /// Rows that changed a contact.
    pub updated: u64,
    /// Rows that said nothing new.
    pub unchanged: u64,
    /// Rows that were not taken.
    pub rejected: u64,
    /// Contacts stored or met whose address is suppressed.
    pub suppressed: u64,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOutcome {
    /// How many.
    pub counts: ImportCounts,
    /// Where the columns went, and which were ignored.
    pub mapping: Mapping,
    /// The first rejected rows.
    pub rejects: Vec<Reject>,
    /// The encoding found.
    pub encoding: &'static str,
    /// The delimiter found.
    pub delimiter: char,
}

/// Why an import ended early. What was committed before stays; the same file can be imported again.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The columns do not fit.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The first line cannot be read.
    #[error("the header in line {line} cannot be read: {reason}")]
    Header {
        /// Where.
        line: u64,
        /// Why.
        reason: String,
    },
    /// An encoding nobody knows.
    #[error("there is no encoding `{label}`; write for example `utf-8`, `gb18030`, `big5` or `utf-16le`")]
    Encoding {
        /// As given.
        label: String,
    },
    /// The file cannot be read.
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    /// The rejects file cannot be written, or the file cannot be read any further.
    #[error("cannot go on reading the file or writing the rejects")]
    Io(#[source] io::Error),
    /// The database failed.
    #[error("the import stopped; lines up to {line} are stored, importing the file again goes on")]
    Database {
        /// The last line that was committed.
        line: u64,
        /// Why.
        #[source]
        source: DbError,
    },
    /// The reading thread ended in a panic: a bug.
    #[error("the reading thread failed; please report the file's first lines")]
    Thread,
}

/// What the reading thread needs to know.
struct Job {
    options: ImportOptions,
    entropy: Entropy,
    now: Time,
}

/// What the reading thread tells.
enum Message {
    Opened(Box<(Mapping, char)>),
    Batch(Box<Batch>),
}

/// What the reading thread leaves at its end.
struct Ended {
    rejects: Vec<Reject>,
    encoding: &'static str,
}

impl Import<'_> {
    /// Imports `source`. Rejected rows go to `rejects` as CSV (`line`, `column`, `reason`, `row`; nothing
    /// is written when there are none). `after` runs in each batch's transaction; `progress` is told
    /// after each batch.
    pub async fn run(
        &self,
        source: impl Read + Send + 'static,
        rejects: Option<Box<dyn Write + Send>>,
        after: &mut impl AfterBatch,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImportOutcome, ImportError> {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let (schema, job) = (self.schema.clone(), Job { options: self.options.clone(), entropy: self.entropy.clone(), now: self.now });
        let (used, free) = std::sync::mpsc::channel();
        let reading = tokio::task::spawn_blocking(move || read(source, &schema, &job, Rejects::new(rejects), &sender, &free));
        let Some(Message::Opened(opened)) = receiver.recv().await else {
            // It ended before it had the header: its error is the answer.
            return Err(match reading.await {
                Ok(Err(error)) => error,
                _ => ImportError::Thread,
            });
        };
        let (mapping, delimiter) = *opened;
        let written = self.write(&mapping, (&mut receiver, &used), after, progress).await;
        // Lets the thread see that nobody listens any more.
        drop(receiver);
        let ended = reading.await.map_err(|_| ImportError::Thread)?;
        let counts = written?;
        let Ended { rejects, encoding } = ended?;
        Ok(ImportOutcome { counts, mapping, rejects, encoding, delimiter })
    }

    async fn write(
        &self,
        mapping: &Mapping,
        queue: (&mut mpsc::Receiver<Message>, &Used),
        after: &mut impl AfterBatch,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImportCounts, ImportError> {
        let mut counts = ImportCounts::default();
        let mut stored = 0;
        let run = self.write_all(mapping, queue, after, progress, &mut counts, &mut stored).await;
        run.map(|()| counts).map_err(|source| ImportError::Database { line: stored, source })
    }

    async fn write_all(
        &self,
        mapping: &Mapping,
        queue: (&mut mpsc::Receiver<Message>, &Used),
        after: &mut impl AfterBatch,
        progress: &mut (dyn FnMut(Progress) + Send),
        counts: &mut ImportCounts,
        stored: &mut u64,
    ) -> Result<(), DbError> {
        let mut writer = Writer::new(mapping, self.now);
        let mut open: Option<(Tx, usize)> = None;
        let mut line = 0;
        let (receiver, used) = queue;
        while let Some(message) = receiver.recv().await {
            let Message::Batch(mut batch) = message else { continue };
            let at = batch.progress;
            let (mut tx, batches) = match open.take() {
                Some(open) => open,
                None => {
                    let mut tx = self.db.begin().await?;
                    tx.may_wait().await?;
                    (tx, 0)
                }
            };
            (counts.read, counts.rejected) = (at.rows, at.rejected);
            let suppressed = after.suppressed(&mut tx, &batch.keys).await?;
            let rows = writer.write(&mut tx, &mut batch, &suppressed, counts).await?;
            // The thread that made it frees it: another one would pay more, and the writer has no time.
            // Where that thread has ended, it is freed here.
            drop(used.send(batch));
            after.batch(&mut tx, &rows).await?;
            line = at.line;
            progress(at);
            if batches + 1 == BATCHES_PER_COMMIT && !self.options.dry_run {
                tx.commit().await?;
                *stored = line;
            } else {
                open = Some((tx, batches + 1));
            }
        }
        match open {
            Some((tx, _)) if self.options.dry_run => tx.rollback().await?,
            Some((tx, _)) => {
                tx.commit().await?;
                *stored = line;
            }
            None => {}
        }
        Ok(())
    }
}

/// Batches that are written go back to the thread that made them.
type Used = std::sync::mpsc::Sender<Box<Batch>>;

/// The reading thread.
fn read(
    source: impl Read,
    schema: &Schema,
    job: &Job,
    rejects: Rejects,
    sender: &mpsc::Sender<Message>,
    free: &std::sync::mpsc::Receiver<Box<Batch>>,
) -> Result<Ended, ImportError> {
    let mut reader = RowReader::open(source, schema, job, rejects)?;
    let opened = Message::Opened(Box::new((reader.mapping().clone(), reader.delimiter())));
    let runtime = tokio::runtime::Handle::current();
    // An error means that nobody listens: the writer has failed and says why.
    if sender.blocking_send(opened).is_ok() {
        while let Ok(room) = runtime.block_on(sender.reserve()) {
            free.try_iter().for_each(drop);
            match reader.next_batch().map_err(ImportError::Io)? {
                Some(batch) => room.send(Message::Batch(Box::new(batch))),
                None => break,
            }
        }
    }
    let encoding = reader.encoding();
    Ok(Ended { rejects: reader.finish().map_err(ImportError::Io)?, encoding })
}
