//! Orders and events from files of any size.
//!
//! One thread reads and checks, and hands blocks through a short queue to the writer, which records each with a few
//! statements and commits some together. Memory is a few blocks (and, for orders, one part of the sort), whatever the
//! size of the file.
//!
//! Every row of the file is counted once. A row with anything wrong is rejected with its line, column and reason.

mod columns;
mod events;
mod orders;
mod spool;

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

pub use columns::ColumnsError;

use super::money::Money;
use super::ops::{self, Recording};
use super::{Item, Verdict};
use crate::clock::Time;
use crate::contact::import::{Reject, Rejects};
use crate::db::{Db, DbError, Tx};

/// Rows that are committed together: seconds of holding the lock at most. Fewer would write the pages of the indexes,
/// which every block touches, again and again.
const COMMIT_ROWS: u64 = 200_000;
/// Blocks that wait for the writer.
const QUEUE: usize = 1;

/// How to import.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pairs of column and field (orders); they win over the headers' names.
    pub map: Vec<(String, String)>,
    /// Do everything but leave the database as it was.
    pub dry_run: bool,
    /// The encoding of a CSV by its label, where the guess is wrong.
    pub encoding: Option<String>,
    /// The zone of times without an offset (orders).
    pub zone: jiff::tz::TimeZone,
    /// The currency of orders that name none; without it the instance's.
    pub currency: Option<String>,
    /// Leave out fields and properties of events that are not declared, instead of refusing the event.
    pub ignore_unknown: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { map: Vec::new(), dry_run: false, encoding: None, zone: jiff::tz::TimeZone::UTC, currency: None, ignore_unknown: false }
    }
}

/// What an import works on.
#[derive(Debug, Clone, Copy)]
pub struct Import<'a> {
    /// Where to.
    pub db: &'a Db,
    /// What is declared.
    pub recording: Recording<'a>,
    /// Currencies.
    pub money: &'a Money,
    /// The moment of the import.
    pub now: Time,
    /// How.
    pub options: &'a Options,
}

/// By what became of them. `read` is the sum of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// All.
    pub read: u64,
    /// New.
    pub added: u64,
    /// Changed something.
    pub updated: u64,
    /// Said nothing new.
    pub unchanged: u64,
    /// Not taken.
    pub rejected: u64,
}

impl Counts {
    fn count(&mut self, verdict: &Verdict, rows: u64) {
        self.read += rows;
        *match verdict {
            Verdict::Added => &mut self.added,
            Verdict::Updated => &mut self.updated,
            Verdict::Unchanged => &mut self.unchanged,
            Verdict::Rejected { .. } => &mut self.rejected,
        } += rows;
    }
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Rows of the file.
    pub counts: Counts,
    /// Orders and refunds, or events: an order may have several rows. What was refused before it was whole is not among
    /// them.
    pub items: Counts,
    /// People who were made (`--create`).
    pub people: u64,
    /// Refunds that wait for their order.
    pub waiting: u64,
    /// The first rejected rows.
    pub rejects: Vec<Reject>,
    /// Columns that go nowhere.
    pub ignored: Vec<String>,
    /// The encoding found.
    pub encoding: &'static str,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub bytes: u64,
    /// Rows recorded or refused.
    pub rows: u64,
}

/// Why an import ended early. What was committed before stays; the same file can be imported again.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The columns do not fit.
    #[error(transparent)]
    Columns(#[from] ColumnsError),
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
    /// The currency of the command.
    #[error("{0}")]
    Currency(String),
    /// A file cannot be read or written.
    #[error("cannot go on reading the file, sorting it, or writing the rejects")]
    Io(#[from] io::Error),
    /// The database failed.
    #[error("the import stopped; what was committed before stays, importing the file again goes on")]
    Database(#[from] DbError),
    /// The reading thread ended in a panic: a bug.
    #[error("the reading thread failed; please report the file's first lines")]
    Thread,
}

/// An item with the rows it was made of.
struct Entry {
    item: Item,
    line: u64,
    raw: String,
    more: Vec<(u64, String)>,
}

/// Some thousand items.
#[derive(Default)]
struct Block {
    entries: Vec<Entry>,
    rejects: Vec<Reject>,
    /// Bytes of the file read so far.
    bytes: u64,
}

/// What the reading thread tells before its first block.
#[derive(Default)]
struct Opened {
    /// The header of each field, for the rejects.
    headers: Vec<(&'static str, String)>,
    ignored: Vec<String>,
}

enum Message {
    Opened(Opened),
    Block(Block),
}

/// Where the reading thread puts its blocks.
struct Feed {
    sender: mpsc::Sender<Message>,
}

impl Feed {
    /// False where nobody listens any more: the writer has failed and says why.
    fn send(&self, message: Message) -> bool {
        self.sender.blocking_send(message).is_ok()
    }
}

impl Import<'_> {
    /// Imports orders from a CSV.
    pub async fn orders(
        &self,
        source: impl Read + Send + 'static,
        rejects: Option<Box<dyn Write + Send>>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Outcome, ImportError> {
        let (options, money, now) = (self.options.clone(), self.money.clone(), self.now);
        self.run(move |feed| orders::read(source, &options, &money, now, feed), rejects, progress).await
    }

    /// Imports events from lines of JSON.
    pub async fn events(
        &self,
        source: impl Read + Send + 'static,
        rejects: Option<Box<dyn Write + Send>>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Outcome, ImportError> {
        let (kinds, money, now) = (self.recording.events.clone(), self.money.clone(), self.now);
        let ignore_unknown = self.options.ignore_unknown;
        self.run(move |feed| events::read(source, &kinds, &money, ignore_unknown, now, feed), rejects, progress).await
    }

    async fn run(
        &self,
        read: impl FnOnce(&Feed) -> Result<&'static str, ImportError> + Send + 'static,
        rejects: Option<Box<dyn Write + Send>>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Outcome, ImportError> {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let reading = tokio::task::spawn_blocking(move || read(&Feed { sender }));
        let mut outcome = Outcome {
            counts: Counts::default(),
            items: Counts::default(),
            people: 0,
            waiting: 0,
            rejects: Vec::new(),
            ignored: Vec::new(),
            encoding: "UTF-8",
        };
        let mut rejects = Rejects::new(rejects);
        let written = self.write_all(&mut receiver, &mut rejects, &mut outcome, progress).await;
        // Lets the thread see that nobody listens any more.
        drop(receiver);
        let read = reading.await.map_err(|_| ImportError::Thread)?;
        let open = written?;
        // Where reading failed, the blocks before it stay.
        if let Some(tx) = open {
            if self.options.dry_run { tx.rollback().await? } else { tx.commit().await? }
        }
        outcome.encoding = read?;
        outcome.rejects = rejects.finish()?;
        Ok(outcome)
    }

    async fn write_all(
        &self,
        receiver: &mut mpsc::Receiver<Message>,
        rejects: &mut Rejects,
        outcome: &mut Outcome,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Option<Tx>, ImportError> {
        let mut headers = Vec::new();
        let mut open: Option<(Tx, u64)> = None;
        while let Some(message) = receiver.recv().await {
            let block = match message {
                Message::Opened(opened) => {
                    headers = opened.headers;
                    outcome.ignored = opened.ignored;
                    continue;
                }
                Message::Block(block) => block,
            };
            let bytes = block.bytes;
            let before = outcome.counts.read;
            if block.entries.is_empty() {
                refuse(block.rejects, rejects, outcome)?;
            } else {
                let (mut tx, rows) = match open.take() {
                    Some(open) => open,
                    None => {
                        let mut tx = self.db.begin().await?;
                        tx.may_wait().await?;
                        (tx, 0)
                    }
                };
                self.record(&mut tx, block, &headers, rejects, outcome).await?;
                let rows = rows + outcome.counts.read - before;
                if rows >= COMMIT_ROWS && !self.options.dry_run {
                    tx.commit().await?;
                } else {
                    open = Some((tx, rows));
                }
            }
            progress(Progress { bytes, rows: outcome.counts.read });
        }
        Ok(open.map(|(tx, _)| tx))
    }

    async fn record(
        &self,
        tx: &mut Tx,
        block: Block,
        headers: &[(&'static str, String)],
        rejects: &mut Rejects,
        outcome: &mut Outcome,
    ) -> Result<(), ImportError> {
        let mut refused = block.rejects;
        let mut items = Vec::with_capacity(block.entries.len());
        let mut rows = Vec::with_capacity(block.entries.len());
        for Entry { item, line, raw, more } in block.entries {
            items.push(item);
            rows.push((line, raw, more));
        }
        let recorded = ops::record(tx, &self.recording, items, self.now).await?;
        outcome.people += recorded.people;
        outcome.waiting += recorded.waiting;
        for (verdict, (line, raw, more)) in recorded.verdicts.into_iter().zip(rows) {
            outcome.items.count(&verdict, 1);
            let Verdict::Rejected { field, reason } = verdict else {
                outcome.counts.count(&verdict, 1 + more.len() as u64);
                continue;
            };
            let header = |field: &str| headers.iter().find(|(name, _)| *name == field).map(|(_, header)| header.as_str());
            // A file may name people by their numbers alone.
            let column = header(field).or_else(|| header("external_id")).unwrap_or(field);
            for (line, row) in std::iter::once((line, raw)).chain(more) {
                refused.push(Reject { line, column: column.to_owned(), reason: reason.clone(), row });
            }
        }
        refused.sort_by_key(|reject| reject.line);
        refuse(refused, rejects, outcome)
    }
}

fn refuse(refused: Vec<Reject>, rejects: &mut Rejects, outcome: &mut Outcome) -> Result<(), ImportError> {
    outcome.counts.read += refused.len() as u64;
    outcome.counts.rejected += refused.len() as u64;
    for reject in refused {
        rejects.add(reject)?;
    }
    Ok(())
}
