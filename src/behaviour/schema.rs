//! A table for each kind of events, with a column for each property.

use std::collections::{BTreeMap, BTreeSet};

use super::{EventSchema, sql};
use crate::args;
use crate::clock::Time;
use crate::contact;
use crate::db::{Connection, Db, DbError, Dialect, Tx};

/// An arbitrary constant: two nodes that start in the same second add tables one after the other.
const ADVISORY_LOCK: i64 = 0x6f70_7469_6e00_0004;

/// Adds the tables and columns of what was declared since the last start. What is declared no more stays, is still
/// erased with the person, and comes back with the declaration. A property of another type is another column.
pub async fn ensure_tables(db: &Db, events: &BTreeMap<String, EventSchema>, now: Time) -> Result<(), DbError> {
    let mut present = present_columns(&mut db.clone(), events).await?;
    let known = sql::event_types(&mut db.clone()).await?;
    if events.values().all(|event| known.contains(&event.name) && missing(event, &present).is_empty()) {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    if tx.dialect() == Dialect::Postgres {
        tx.fetch_all("SELECT CAST(pg_advisory_xact_lock($1) AS TEXT)", args![ADVISORY_LOCK]).await?;
        present = present_columns(&mut tx, events).await?;
    }
    for event in events.values() {
        if !present.contains_key(&event.table()) {
            create(&mut tx, event).await?;
        }
        for column in missing(event, &present) {
            let kind = event.properties.iter().find(|(name, _)| event.column(name).as_ref() == Some(&column)).map(|(_, kind)| *kind);
            let Some(kind) = kind else { continue };
            let statement = format!("ALTER TABLE {} ADD COLUMN {column} {}", event.table(), contact::sql::column_type(kind, tx.dialect()));
            tx.execute(&statement, Vec::new()).await?;
        }
        tx.execute("INSERT INTO event_type (name, since) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", args![&event.name, now]).await?;
    }
    tx.commit().await
}

/// Columns of properties that a table does not have yet.
fn missing(event: &EventSchema, present: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let there = present.get(&event.table());
    event.columns().into_iter().filter(|column| there.is_none_or(|there| !there.contains(column))).collect()
}

async fn create(tx: &mut Tx, event: &EventSchema) -> Result<(), DbError> {
    let table = event.table();
    let (id, text) = match tx.dialect() {
        Dialect::Sqlite => ("INTEGER PRIMARY KEY", "TEXT"),
        Dialect::Postgres => ("BIGINT PRIMARY KEY", "TEXT COLLATE \"C\""),
    };
    let statements = [
        format!(
            "CREATE TABLE {table} (id {id}, event_key {text} NOT NULL, contact_id BIGINT NOT NULL, known_as BIGINT NOT NULL, \
             at BIGINT NOT NULL, recorded_at BIGINT NOT NULL, revision BIGINT NOT NULL)"
        ),
        // Their names begin as no table's does: `visit_at` may be a kind of events, too.
        format!("CREATE UNIQUE INDEX key_{table} ON {table} (event_key)"),
        // For questions within a time, and for those about one person.
        format!("CREATE INDEX at_{table} ON {table} (at, contact_id)"),
        format!("CREATE INDEX contact_{table} ON {table} (contact_id, at)"),
    ];
    for statement in statements {
        tx.execute(&statement, Vec::new()).await?;
    }
    Ok(())
}

/// The columns of the tables that are there, by table.
async fn present_columns(
    db: &mut impl Connection,
    events: &BTreeMap<String, EventSchema>,
) -> Result<BTreeMap<String, BTreeSet<String>>, DbError> {
    let mut present: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let statement = match db.engine() {
        Dialect::Sqlite => "SELECT name FROM pragma_table_info($1)",
        Dialect::Postgres => {
            "SELECT CAST(column_name AS TEXT) FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1"
        }
    };
    for event in events.values() {
        let columns: BTreeSet<String> =
            db.rows(statement, args![event.table()]).await?.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
        if !columns.is_empty() {
            present.insert(event.table(), columns);
        }
    }
    Ok(present)
}
