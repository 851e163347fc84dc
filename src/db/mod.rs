//! One body of SQL for SQLite and PostgreSQL.
//!
//! Rooms write their statements once, with `$1` placeholders and [`args!`](crate::args), and run
//! them on a [`Db`] (one statement) or a [`Tx`] (several, atomic). What differs between the engines
//! stays in this folder: pools, opening, the bulk form of many rows, and the one clause
//! `FOR UPDATE SKIP LOCKED` ([`Dialect::skip_locked`]).

mod migrate;
mod open;
mod value;

use std::sync::Arc;

use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres, Sqlite, SqlitePool};

pub use migrate::{MIGRATIONS, latest_version};
pub use open::{OpenOptions, redact_url};
pub use value::{Args, ColumnData, FromColumn, Row, Rows, Value};

/// SQLite refuses more bound parameters than this in one statement (`SQLITE_MAX_VARIABLE_NUMBER`).
const SQLITE_MAX_PARAMETERS: usize = 32_766;
/// Rows of one bulk statement on SQLite. Larger blocks leave the processor's cache and are slower.
const SQLITE_BULK_ROWS: usize = 200;
/// Rows of one bulk statement on PostgreSQL: bounds the memory of the bound arrays.
const POSTGRES_BULK_ROWS: usize = 5_000;

/// What can go wrong between us and the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The URL names no database that we know.
    #[error("`{0}` is not a database URL; write `sqlite://path` or `postgres://user:password@host/database`")]
    Url(String),
    /// It could not be opened or reached.
    #[error("cannot open the database {target}: {reason}")]
    Open {
        /// The URL without its password.
        target: String,
        /// What to do about it, in words.
        reason: String,
        /// What the driver said.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// The database was written by a newer optin.
    #[error("the database is at schema version {found}, this optin knows up to {known}: install the newer optin, or restore a backup")]
    Newer {
        /// Version found in the database.
        found: i64,
        /// Newest version this binary knows.
        known: i64,
    },
    /// A unique or primary key was already there: an answer, not a failure.
    #[error("already there: {0}")]
    Unique(String),
    /// Somebody else holds the write lock for longer than the time-out.
    #[error(
        "the database is locked by another process (waited {waited_ms} ms): is a second optin or a backup tool writing to the same SQLite file?"
    )]
    Locked {
        /// How long we waited, in milliseconds.
        waited_ms: u64,
    },
    /// The file or its folder cannot be written.
    #[error("the database is read-only: check the permissions of the file and its folder, and the space on the disk")]
    ReadOnly,
    /// Disk full.
    #[error("the disk is full: free some space, optin goes on by itself")]
    Full,
    /// A statement failed.
    #[error("a database statement failed")]
    Statement(#[source] sqlx::Error),
    /// A statement touched another number of rows than it must.
    #[error("{0}")]
    Unexpected(String),
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(database) = &error {
            if database.is_unique_violation() {
                return DbError::Unique(database.message().to_owned());
            }
            match database.code().as_deref() {
                // SQLITE_BUSY and its extended codes; SQLITE_LOCKED.
                Some("5" | "261" | "517" | "6") => return DbError::Locked { waited_ms: open::BUSY_TIMEOUT_MS },
                Some("8" | "264" | "520" | "776" | "1032" | "1544") => return DbError::ReadOnly,
                // SQLITE_FULL; PostgreSQL disk_full.
                Some("13" | "53100") => return DbError::Full,
                _ => {}
            }
        }
        DbError::Statement(error)
    }
}

/// Shorthand for this folder's results.
pub type Result<T, E = DbError> = std::result::Result<T, E>;

/// Which engine is behind a [`Db`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Embedded.
    Sqlite,
    /// A server.
    Postgres,
}

impl Dialect {
    /// The clause that lets several workers claim without waiting for each other.
    pub fn skip_locked(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::Postgres => "FOR UPDATE SKIP LOCKED",
        }
    }

    /// Locks rows so that nobody changes them before we commit. SQLite has one writer anyway.
    pub fn for_update(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::Postgres => "FOR UPDATE",
        }
    }

    /// Byte order for text comparisons: SQLite's default, a collation on PostgreSQL.
    pub fn binary_collation(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::Postgres => " COLLATE \"C\"",
        }
    }
}

/// A database: cheap to clone, shared by all rooms.
#[derive(Debug, Clone)]
pub struct Db {
    pools: Pools,
}

#[derive(Debug, Clone)]
enum Pools {
    /// One writer, several readers: SQLite allows one writing transaction at a time, so waiting
    /// happens in our queue (fair, unlimited) and not in its busy loop.
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

/// A transaction. Dropping it without [`Tx::commit`] rolls it back.
pub struct Tx {
    inner: TxInner,
}

enum TxInner {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Db {
    /// Which engine this is.
    pub fn dialect(&self) -> Dialect {
        match &self.pools {
            Pools::Sqlite { .. } => Dialect::Sqlite,
            Pools::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Starts a writing transaction (`BEGIN IMMEDIATE` on SQLite: a later upgrade from reading to
    /// writing would fail under load).
    pub async fn begin(&self) -> Result<Tx> {
        let inner = match &self.pools {
            Pools::Sqlite { writer, .. } => TxInner::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?),
            Pools::Postgres(pool) => TxInner::Postgres(pool.begin().await?),
        };
        Ok(Tx { inner })
    }

    /// A reading transaction: all its statements see one state of the database.
    pub async fn begin_read(&self) -> Result<Tx> {
        let inner = match &self.pools {
            Pools::Sqlite { readers, .. } => TxInner::Sqlite(readers.begin().await?),
            Pools::Postgres(pool) => TxInner::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?),
        };
        Ok(Tx { inner })
    }

    /// Reads rows. On SQLite this runs on a reader: use [`Db::execute`] or a [`Tx`] to write.
    pub async fn fetch_all(&self, sql: &str, args: Args) -> Result<Vec<Row>> {
        match &self.pools {
            Pools::Sqlite { readers, .. } => {
                let mut connection = readers.acquire().await?;
                sqlite_fetch(&mut connection, sql, args).await
            }
            Pools::Postgres(pool) => {
                let mut connection = pool.acquire().await?;
                postgres_fetch(&mut connection, sql, args).await
            }
        }
    }

    /// Reads the first row, if there is one.
    pub async fn fetch_optional(&self, sql: &str, args: Args) -> Result<Option<Row>> {
        Ok(self.fetch_all(sql, args).await?.into_iter().next())
    }

    /// Reads a row that must be there, such as a count.
    pub async fn fetch_one(&self, sql: &str, args: Args) -> Result<Row> {
        self.fetch_optional(sql, args).await?.ok_or_else(|| DbError::Unexpected(format!("no row for: {sql}")))
    }

    /// Writes; answers the number of rows touched.
    pub async fn execute(&self, sql: &str, args: Args) -> Result<u64> {
        match &self.pools {
            Pools::Sqlite { writer, .. } => {
                let mut connection = writer.acquire().await?;
                sqlite_execute(&mut connection, sql, args).await
            }
            Pools::Postgres(pool) => {
                let mut connection = pool.acquire().await?;
                postgres_execute(&mut connection, sql, args).await
            }
        }
    }

    /// Folds SQLite's write-ahead log into the file and cuts it off, so that it holds no page as it was
    /// before. A log that somebody reads is cut off as far as possible. Nothing to do on PostgreSQL.
    pub async fn fold_log(&self) -> Result<()> {
        if let Pools::Sqlite { writer, .. } = &self.pools {
            let mut connection = writer.acquire().await?;
            sqlite_fetch(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)", Vec::new()).await?;
        }
        Ok(())
    }

    /// Closes all connections; on SQLite the write-ahead log is folded into the file.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

/// What reads alike outside and inside a transaction. Statements of a room that serve both take
/// `&mut impl Connection`; a [`Db`] is passed as `&mut db.clone()`.
pub trait Connection: Send {
    /// Reads rows.
    fn rows(&mut self, sql: &str, args: Args) -> impl Future<Output = Result<Vec<Row>>> + Send;
    /// Which engine this is.
    fn engine(&self) -> Dialect;
}

impl Connection for Db {
    async fn rows(&mut self, sql: &str, args: Args) -> Result<Vec<Row>> {
        self.fetch_all(sql, args).await
    }

    fn engine(&self) -> Dialect {
        self.dialect()
    }
}

impl Connection for Tx {
    async fn rows(&mut self, sql: &str, args: Args) -> Result<Vec<Row>> {
        self.fetch_all(sql, args).await
    }

    fn engine(&self) -> Dialect {
        self.dialect()
    }
}

impl Tx {
    /// Which engine this is.
    pub fn dialect(&self) -> Dialect {
        match &self.inner {
            TxInner::Sqlite(_) => Dialect::Sqlite,
            TxInner::Postgres(_) => Dialect::Postgres,
        }
    }

    /// This transaction may stand still for as long as it likes: it waits for a file or an upload. Others
    /// are ended by PostgreSQL after a while (see [`OpenOptions::lease`]).
    pub async fn may_wait(&mut self) -> Result<()> {
        if self.dialect() == Dialect::Postgres {
            self.execute("SET LOCAL idle_in_transaction_session_timeout = 0", Vec::new()).await?;
        }
        Ok(())
    }

    /// Whether PostgreSQL may join by nested loops in this transaction, as it may at its start. Not for
    /// joins of many rows with what changes faster than statistics: its planner takes the thousands of
    /// rows that are claimed right now for none, and would compare each of them with each other row.
    pub async fn allow_nested_loops(&mut self, allowed: bool) -> Result<()> {
        if self.dialect() == Dialect::Postgres {
            let word = if allowed { "on" } else { "off" };
            self.execute(&format!("SET LOCAL enable_nestloop = {word}"), crate::args![]).await?;
        }
        Ok(())
    }

    /// Makes everything durable.
    pub async fn commit(self) -> Result<()> {
        match self.inner {
            TxInner::Sqlite(tx) => tx.commit().await?,
            TxInner::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    /// Undoes everything.
    pub async fn rollback(self) -> Result<()> {
        match self.inner {
            TxInner::Sqlite(tx) => tx.rollback().await?,
            TxInner::Postgres(tx) => tx.rollback().await?,
        }
        Ok(())
    }

    /// Reads rows (of a `SELECT` or a `RETURNING`).
    pub async fn fetch_all(&mut self, sql: &str, args: Args) -> Result<Vec<Row>> {
        match &mut self.inner {
            TxInner::Sqlite(tx) => sqlite_fetch(tx, sql, args).await,
            TxInner::Postgres(tx) => postgres_fetch(tx, sql, args).await,
        }
    }

    /// Reads the first row, if there is one.
    pub async fn fetch_optional(&mut self, sql: &str, args: Args) -> Result<Option<Row>> {
        Ok(self.fetch_all(sql, args).await?.into_iter().next())
    }

    /// Reads a row that must be there.
    pub async fn fetch_one(&mut self, sql: &str, args: Args) -> Result<Row> {
        self.fetch_optional(sql, args).await?.ok_or_else(|| DbError::Unexpected(format!("no row for: {sql}")))
    }

    /// Writes; answers the number of rows touched.
    pub async fn execute(&mut self, sql: &str, args: Args) -> Result<u64> {
        match &mut self.inner {
            TxInner::Sqlite(tx) => sqlite_execute(tx, sql, args).await,
            TxInner::Postgres(tx) => postgres_execute(tx, sql, args).await,
        }
    }

    /// Writes by key; anything but one row is an error that names the statement.
    pub async fn execute_one(&mut self, sql: &str, args: Args) -> Result<()> {
        match self.execute(sql, args).await? {
            1 => Ok(()),
            touched => Err(DbError::Unexpected(format!("expected one row, touched {touched}: {sql}"))),
        }
    }

    /// Runs a statement over many rows: `{rows}` in `sql` becomes a table `v` (see [`Rows`]).
    /// `args` are `$1..`; the rows' parameters follow them. Answers the number of rows touched.
    pub async fn bulk(&mut self, sql: &str, args: Args, rows: Rows) -> Result<u64> {
        let mut touched = 0;
        self.each_block(sql, args, rows, false, &mut |block| touched += block.0).await?;
        Ok(touched)
    }

    /// Like [`Tx::bulk`] for a statement that answers rows.
    pub async fn bulk_fetch(&mut self, sql: &str, args: Args, rows: Rows) -> Result<Vec<Row>> {
        let mut out = Vec::new();
        self.each_block(sql, args, rows, true, &mut |block| out.extend(block.1)).await?;
        Ok(out)
    }

    async fn each_block(
        &mut self,
        sql: &str,
        args: Args,
        mut rows: Rows,
        fetch: bool,
        sink: &mut (dyn FnMut((u64, Vec<Row>)) + Send),
    ) -> Result<()> {
        let total = rows.len();
        match &mut self.inner {
            TxInner::Sqlite(tx) => {
                let block = ((SQLITE_MAX_PARAMETERS - args.len()) / rows.width().max(1)).clamp(1, SQLITE_BULK_ROWS);
                let full: Arc<str> = sqlite_bulk(sql, &rows, block.min(total)).into();
                let mut start = 0;
                let mut next = sqlite_block(&mut rows, &args, start, block.min(total))?;
                while start < total {
                    let count = block.min(total - start);
                    let text = if count == block.min(total) { full.clone() } else { sqlite_bulk(sql, &rows, count).into() };
                    // Only the full block is worth a place in the statement cache.
                    let query = sqlx::query_with(AssertSqlSafe(text), next).persistent(count == block);
                    start += count;
                    // The next block's arguments are made ready while SQLite's thread works on this one.
                    let ahead = async { sqlite_block(&mut rows, &args, start, block.min(total - start)) };
                    if fetch {
                        let (found, ahead) = tokio::join!(tx.fetch_all(query), ahead);
                        let found = found?;
                        sink((found.len() as u64, found.into_iter().map(Row::Sqlite).collect()));
                        next = ahead?;
                    } else {
                        let (done, ahead) = tokio::join!(tx.execute(query), ahead);
                        sink((done?.rows_affected(), Vec::new()));
                        next = ahead?;
                    }
                }
            }
            TxInner::Postgres(tx) => {
                let statement = sql.replace("{rows}", &rows.postgres_source(args.len() + 1));
                let mut start = 0;
                while start < total {
                    let count = POSTGRES_BULK_ROWS.min(total - start);
                    let mut arguments = value::postgres_arguments(args.clone())?;
                    rows.take_slice(start, count).postgres_bind(&mut arguments)?;
                    let query = sqlx::query_with(AssertSqlSafe(statement.clone()), arguments);
                    if fetch {
                        let found = tx.fetch_all(query).await?;
                        sink((found.len() as u64, found.into_iter().map(Row::Postgres).collect()));
                    } else {
                        sink((tx.execute(query).await?.rows_affected(), Vec::new()));
                    }
                    start += count;
                }
            }
        }
        Ok(())
    }
}

/// The statement for a block of `count` rows. The rows' parameters come first, without numbers, so
/// the numbers of all others move behind them.
///
/// `OR FAIL`: SQLite would keep a copy of every page it changes, to undo the statement alone when one of
/// its rows fails. Nobody goes on in a transaction with a failed statement (PostgreSQL does not even
/// allow it), so that is wasted, about a tenth of an import.
fn sqlite_bulk(sql: &str, rows: &Rows, count: usize) -> String {
    let trimmed = sql.trim_start();
    let sql = match trimmed.strip_prefix("INSERT INTO ") {
        Some(rest) => format!("INSERT OR FAIL INTO {rest}"),
        None => trimmed.to_owned(),
    };
    let before = rows.width() * count;
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql.as_str();
    while let Some(at) = rest.find('$') {
        let digits = rest[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        let (head, tail) = rest.split_at(at + 1);
        out.push_str(head);
        match tail[..digits].parse::<usize>() {
            Ok(number) => out.push_str(&(number + before).to_string()),
            Err(_) => out.push_str(&tail[..digits]),
        }
        rest = &tail[digits..];
    }
    out.push_str(rest);
    out.replace("{rows}", &rows.sqlite_source(count))
}

fn sqlite_block(rows: &mut Rows, args: &Args, start: usize, count: usize) -> Result<SqliteArguments> {
    let mut arguments = SqliteArguments::default();
    rows.sqlite_bind(start, count, &mut arguments)?;
    value::sqlite_append(&mut arguments, args.clone())?;
    Ok(arguments)
}

async fn sqlite_fetch(connection: &mut sqlx::SqliteConnection, sql: &str, args: Args) -> Result<Vec<Row>> {
    let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), value::sqlite_arguments(args)?);
    Ok(connection.fetch_all(query).await?.into_iter().map(Row::Sqlite).collect())
}

async fn postgres_fetch(connection: &mut sqlx::PgConnection, sql: &str, args: Args) -> Result<Vec<Row>> {
    let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), value::postgres_arguments(args)?);
    Ok(connection.fetch_all(query).await?.into_iter().map(Row::Postgres).collect())
}

async fn sqlite_execute(connection: &mut sqlx::SqliteConnection, sql: &str, args: Args) -> Result<u64> {
    let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), value::sqlite_arguments(args)?);
    Ok(connection.execute(query).await?.rows_affected())
}

async fn postgres_execute(connection: &mut sqlx::PgConnection, sql: &str, args: Args) -> Result<u64> {
    let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), value::postgres_arguments(args)?);
    Ok(connection.execute(query).await?.rows_affected())
}
