//! Schema migrations: forward only, small, never changed once released.
//!
//! The files are written for PostgreSQL. A few words differ for SQLite and are translated here:
//! `BIGINT PRIMARY KEY` becomes `INTEGER PRIMARY KEY` (the row id itself instead of a second index)
//! and `) /* clustered */` becomes `) WITHOUT ROWID` (the table is its primary key). A statement with
//! `/* postgres */` at its end is for PostgreSQL alone.

use super::{Db, DbError, Dialect, Result};

/// Version, name and text of every migration, in order.
pub const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first", include_str!("../../migrations/0001_first.sql")),
    (2, "delivery", include_str!("../../migrations/0002_delivery.sql")),
    (3, "permission", include_str!("../../migrations/0003_permission.sql")),
    (4, "response", include_str!("../../migrations/0004_response.sql")),
];

/// An arbitrary constant: two nodes that start in the same second migrate one after the other.
const ADVISORY_LOCK: i64 = 0x6f70_7469_6e00_0001;

/// The newest version this binary knows.
pub fn latest_version() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, _, _)| *version)
}

pub(super) async fn run(db: &Db) -> Result<()> {
    if let Some(current) = recorded_version(db).await? {
        if current == latest_version() {
            return Ok(());
        }
        if current > latest_version() {
            return Err(DbError::Newer { found: current, known: latest_version() });
        }
    }
    let mut tx = db.begin().await?;
    if tx.dialect() == Dialect::Postgres {
        tx.fetch_all("SELECT CAST(pg_advisory_xact_lock($1) AS TEXT)", crate::args![ADVISORY_LOCK]).await?;
    }
    tx.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration (version BIGINT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (version))",
        Vec::new(),
    )
    .await?;
    let current: i64 = tx.fetch_one("SELECT COALESCE(MAX(version), 0) FROM schema_migration", Vec::new()).await?.get(0)?;
    for (version, name, text) in MIGRATIONS.iter().filter(|(version, _, _)| *version > current) {
        for statement in statements(text, tx.dialect()) {
            tx.execute(&statement, Vec::new()).await?;
        }
        tx.execute_one("INSERT INTO schema_migration (version, name) VALUES ($1, $2)", crate::args![*version, *name]).await?;
    }
    tx.commit().await
}

/// The version the database says it is at, without writing anything (the file may be read-only).
async fn recorded_version(db: &Db) -> Result<Option<i64>> {
    let exists = match db.dialect() {
        Dialect::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_migration'",
        Dialect::Postgres => "SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_migration'",
    };
    if db.fetch_one(exists, Vec::new()).await?.get::<i64>(0)? == 0 {
        return Ok(None);
    }
    let row = db.fetch_one("SELECT COALESCE(MAX(version), 0) FROM schema_migration", Vec::new()).await?;
    Ok(Some(row.get(0)?))
}

fn statements(text: &str, dialect: Dialect) -> Vec<String> {
    let without_comments: String = text.lines().map(|line| line.split("--").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    let translated = match dialect {
        Dialect::Postgres => without_comments,
        Dialect::Sqlite => without_comments
            .replace("BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY")
            .replace(") /* clustered */", ") WITHOUT ROWID")
            .replace("BYTEA", "BLOB")
            .replace("DOUBLE PRECISION", "DOUBLE"),
    };
    translated
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty() && (dialect == Dialect::Postgres || !statement.ends_with("/* postgres */")))
        .map(str::to_owned)
        .collect()
}
