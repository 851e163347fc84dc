//! A fresh, empty database of each kind. Nothing is skipped: a missing PostgreSQL fails the test.

use optin::db::{Db, OpenOptions};
use tempfile::TempDir;

use super::postgres;

/// A database nobody else uses; removed when dropped.
pub struct TestDatabase {
    /// `sqlite` or `postgres`.
    pub name: &'static str,
    /// For `OPTIN_DATABASE__URL`.
    pub url: String,
    kind: Kind,
}

enum Kind {
    Sqlite { _dir: TempDir },
    Postgres { database: String },
}

impl TestDatabase {
    /// A file in a folder of its own.
    pub fn sqlite() -> Self {
        let dir = tempfile::Builder::new().prefix("optin-sqlite-").tempdir().expect("a temporary folder");
        let url = format!("sqlite://{}", dir.path().join("optin.db").display());
        TestDatabase { name: "sqlite", url, kind: Kind::Sqlite { _dir: dir } }
    }

    /// A database in this process's private cluster.
    pub fn postgres() -> Self {
        let (database, url) = postgres::create_database();
        TestDatabase { name: "postgres", url, kind: Kind::Postgres { database } }
    }

    /// Opens it, schema up to date, without waiting for the disk.
    pub async fn open(&self) -> Db {
        match Db::open(&self.url, OpenOptions { relaxed: true, ..OpenOptions::default() }).await {
            Ok(db) => db,
            Err(error) => panic!("cannot open the {} test database: {error}", self.name),
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Kind::Postgres { database } = &self.kind {
            postgres::drop_database(database);
        }
        if std::thread::panicking() {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "the test failed on the database `{}` ({})", self.name, self.url);
        }
    }
}

/// One of each.
pub fn databases() -> Vec<TestDatabase> {
    vec![TestDatabase::sqlite(), TestDatabase::postgres()]
}

/// Writes one test body that runs on both databases, as two tests:
///
/// ```ignore
/// on_each_database!(async fn a_sentence(database) {
///     let db = database.open().await;
/// });
/// ```
///
/// becomes `a_sentence::sqlite` and `a_sentence::postgres`; `database` is a [`TestDatabase`].
macro_rules! on_each_database {
    ($(#[$attribute:meta])* async fn $name:ident($database:ident) $body:block) => {
        mod $name {
            use super::*;

            async fn body($database: $crate::support::TestDatabase) $body

            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                body($crate::support::TestDatabase::sqlite()).await;
            }

            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                body($crate::support::TestDatabase::postgres()).await;
            }
        }
    };
}
pub(crate) use on_each_database;
