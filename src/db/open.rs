//! Opening a database by URL.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::{Db, DbError, Pools, Result, migrate};

/// How long a statement waits for another process that writes to the same SQLite file.
pub(super) const BUSY_TIMEOUT_MS: u64 = 5_000;
/// Readers of one SQLite file: pages, reports and audience scans beside the writer.
const SQLITE_READERS: u32 = 4;
/// Page cache of one reading connection, in KiB. Small: what it lacks is mapped, or in the page cache of
/// the system.
const SQLITE_CACHE_KIB: i64 = 8_192;
/// Bytes of the file that are mapped into memory and read without copying. What is mapped counts as
/// memory of the process, and must not grow with the file.
const SQLITE_MAPPED_BYTES: u64 = 32 << 20;
/// Page cache of the writer: bulk writing comes ordered, and more would only make memory grow with
/// the file.
const SQLITE_WRITER_CACHE_KIB: i64 = 16_384;
/// Connections to PostgreSQL from one node.
const POSTGRES_CONNECTIONS: u32 = 12;
/// How long to wait for a free connection before saying so.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// A statement that runs longer than this on PostgreSQL is ended: it would hold locks for ever.
const POSTGRES_STATEMENT_TIMEOUT: &str = "300s";
/// A transaction in which nothing happens for so long is ended by PostgreSQL, where no lease says
/// otherwise: its process is frozen or cut off, and its row locks would hold up all others until TCP
/// gives up, which takes two hours.
const POSTGRES_IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// Memory of one sort or hash on PostgreSQL: the set of people who clicked fits, so that a segment
/// over a million people hashes it instead of searching it for each of them.
const POSTGRES_WORK_MEM: &str = "64MB";

/// How to open.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Trade durability at power loss (not at a crash of the process) for speed. For throw-away
    /// databases only: the demo and tests.
    pub relaxed: bool,
    /// How long a worker that does not answer keeps its place. A transaction that stands still for so
    /// long is ended (PostgreSQL), so that others can take the place. `None`: after a minute.
    pub lease: Option<Duration>,
}

impl Db {
    /// Opens (and creates, on SQLite) the database and brings its schema up to date.
    ///
    /// `url` is `sqlite://path` (a path relative to the working directory, or absolute with three
    /// slashes) or `postgres://..`. Errors name the target and the next step.
    pub async fn open(url: &str, options: OpenOptions) -> Result<Db> {
        let db = if let Some(path) = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")) {
            open_sqlite(url, path, options).await?
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            open_postgres(url, options).await?
        } else {
            return Err(DbError::Url(redact_url(url)));
        };
        migrate::run(&db).await?;
        Ok(db)
    }
}

async fn open_sqlite(url: &str, path: &str, options: OpenOptions) -> Result<Db> {
    let failed = |reason: String, source: Option<sqlx::Error>| DbError::Open { target: redact_url(url), reason, source };
    let file = Path::new(path.split('?').next().unwrap_or(path));
    if file.as_os_str().is_empty() || file.as_os_str() == ":memory:" {
        return Err(failed("optin needs a file, several connections share it".to_owned(), None));
    }
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        return Err(failed(format!("the folder `{}` does not exist: create it first", folder.display()), None));
    }
    let synchronous = if options.relaxed { SqliteSynchronous::Normal } else { SqliteSynchronous::Full };
    let connect = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))
        .foreign_keys(false)
        .statement_cache_capacity(200)
        // What is deleted or replaced is overwritten with zeros: an erased person's bytes are gone from the
        // file. (Free pages would keep them otherwise, until somebody else needs the place.)
        .pragma("secure_delete", "ON")
        .pragma("cache_size", format!("-{SQLITE_CACHE_KIB}"))
        .pragma("mmap_size", SQLITE_MAPPED_BYTES.to_string());
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        // A full disk makes SQLite roll back by itself; sqlx's own rollback fails then, and its count of
        // open transactions would refuse every later one.
        .before_acquire(|connection, _| {
            let clean = !connection.is_in_transaction();
            Box::pin(async move { Ok(clean) })
        })
        .connect_with(connect.clone().pragma("cache_size", format!("-{SQLITE_WRITER_CACHE_KIB}")).pragma("mmap_size", "0"))
        .await
        .map_err(|source| failed("check that the file is a database and that it and its folder can be written".to_owned(), Some(source)))?;
    let readers = SqlitePoolOptions::new()
        .max_connections(SQLITE_READERS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(connect.pragma("query_only", "ON"));
    Ok(Db { pools: Pools::Sqlite { writer, readers } })
}

async fn open_postgres(url: &str, options: OpenOptions) -> Result<Db> {
    let failed = |source: sqlx::Error| DbError::Open {
        target: redact_url(url),
        reason: "check host, port, user, password and that the database exists (`createdb`)".to_owned(),
        source: Some(source),
    };
    let idle = options.lease.unwrap_or(POSTGRES_IDLE_IN_TRANSACTION).as_millis().to_string();
    let connect = PgConnectOptions::from_str(url).map_err(failed)?.application_name("optin").options([
        ("statement_timeout", POSTGRES_STATEMENT_TIMEOUT),
        ("idle_in_transaction_session_timeout", idle.as_str()),
        ("timezone", "UTC"),
        ("work_mem", POSTGRES_WORK_MEM),
        // Its planner guesses conditions on the past to be so dear that it would compile them first: 0.1 s and more
        // for what runs as long without.
        ("jit", "off"),
    ]);
    // A pool that cannot connect says only that it timed out; one plain connection says why.
    sqlx::PgConnection::connect_with(&connect).await.map_err(failed)?.close().await.map_err(failed)?;
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(connect)
        .await
        .map_err(failed)?;
    Ok(Db { pools: Pools::Postgres(pool) })
}

/// The URL without its password, for messages and logs.
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.rsplit_once('@') {
        Some((credentials, host)) => {
            let user = credentials.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{host}")
        }
        None => url.to_owned(),
    }
}
