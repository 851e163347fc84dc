//! Use cases on contacts.

use std::collections::BTreeSet;

use super::{Schema, sql};
use crate::db::{Db, DbError, Dialect};

/// Adds the columns of attributes that were declared since the last start. Columns of attributes
/// no longer declared stay: their values come back with the declaration.
pub async fn ensure_columns(db: &Db, schema: &Schema) -> Result<(), DbError> {
    let present = present_columns(db).await?;
    let missing: Vec<_> = schema
        .attributes()
        .map(|(name, kind)| (Schema::column(name, kind), kind))
        .filter(|(column, _)| !present.contains(column))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    for (column, kind) in missing {
        let if_not_exists = if tx.dialect() == Dialect::Postgres { "IF NOT EXISTS " } else { "" };
        let statement = format!("ALTER TABLE contact ADD COLUMN {if_not_exists}{column} {}", sql::column_type(kind, tx.dialect()));
        tx.execute(&statement, Vec::new()).await?;
    }
    tx.commit().await
}

async fn present_columns(db: &Db) -> Result<BTreeSet<String>, DbError> {
    let statement = match db.dialect() {
        Dialect::Sqlite => "SELECT name FROM pragma_table_info('contact')",
        Dialect::Postgres => {
            "SELECT CAST(column_name AS TEXT) FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = 'contact'"
        }
    };
    db.fetch_all(statement, Vec::new()).await?.iter().map(|row| row.get(0)).collect()
}
