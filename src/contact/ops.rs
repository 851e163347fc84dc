//! Use cases on contacts.

use std::collections::BTreeSet;

use super::{Address, AttributeValue, BUILT_IN_FIELDS, Schema, sql};
use crate::args;
use crate::clock::Time;
use crate::db::{Db, DbError, Dialect, Tx};
use crate::entropy::Entropy;

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

/// What [`upsert`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upserted {
    /// The contact.
    pub id: i64,
    /// It was not there before.
    pub added: bool,
}

/// Adds a contact or changes the one with this address. `fields` are built-in fields other than
/// `email` (as text) and declared attributes (as their type); what they do not name stays. A field that
/// is not declared, or not of that type, is an error: callers check what comes from outside.
///
/// The address as shown becomes the one given, so that its owner decides about its case. A customer number that is
/// replaced stays as an identity of theirs.
pub async fn upsert(
    tx: &mut Tx,
    schema: &Schema,
    entropy: &Entropy,
    now: Time,
    address: &Address,
    fields: &[(&str, AttributeValue)],
) -> Result<Upserted, DbError> {
    let mut columns = Vec::with_capacity(fields.len());
    let id = entropy.id(now);
    let mut values = args![id, address.as_str(), address.key(), now];
    for (name, value) in fields {
        columns.push(column_of(schema, name, value)?);
        values.push(sql::bind_value(value));
    }
    let number = fields.iter().find(|(name, _)| *name == "external_id");
    let former = match number {
        Some((_, AttributeValue::Text(number))) => former_number(tx, address, number).await?,
        _ => None,
    };
    let row = tx.fetch_one(&sql::upsert(&columns), values).await?;
    let found: i64 = row.get(0)?;
    if let Some(former) = former {
        super::identity::keep_former_numbers(tx, &[(found, former)], "api", now).await?;
    }
    Ok(Upserted { id: found, added: found == id })
}

/// The customer number of the contact with this address, where it is another one than `number`.
async fn former_number(tx: &mut Tx, address: &Address, number: &str) -> Result<Option<String>, DbError> {
    let sql = "SELECT external_id FROM contact WHERE email_key = $1 AND external_id <> $2";
    tx.fetch_optional(sql, args![address.key(), number]).await?.map(|row| row.get(0)).transpose()
}

/// Empties fields of a contact: built-in ones other than `email`, and declared attributes. A field that is
/// neither is an error.
pub async fn clear(tx: &mut Tx, schema: &Schema, contact_id: i64, names: &[&str], now: Time) -> Result<(), DbError> {
    if names.is_empty() {
        return Ok(());
    }
    let mut changes = Vec::with_capacity(names.len());
    for name in names {
        let column = match schema.attribute(name) {
            Some(kind) => Schema::column(name, kind),
            None if *name != "email" && BUILT_IN_FIELDS.contains(name) => (*name).to_owned(),
            None => return Err(DbError::Unexpected(format!("there is no field `{name}` to empty"))),
        };
        changes.push(format!("{column} = NULL"));
    }
    let statement = format!("UPDATE contact SET {}, updated_at = $1 WHERE id = $2", changes.join(", "));
    tx.execute(&statement, args![now, contact_id]).await?;
    Ok(())
}

/// The column of a field, when the value fits it.
fn column_of(schema: &Schema, name: &str, value: &AttributeValue) -> Result<String, DbError> {
    let is_text = matches!(value, AttributeValue::Text(_));
    if name != "email" && BUILT_IN_FIELDS.contains(&name) && is_text {
        return Ok(name.to_owned());
    }
    match schema.attribute(name) {
        Some(kind) if kind == value.kind() => Ok(Schema::column(name, kind)),
        Some(kind) => Err(DbError::Unexpected(format!("the attribute `{name}` is declared as {kind:?}, the value is {:?}", value.kind()))),
        None => Err(DbError::Unexpected(format!("there is no field `{name}` for this value"))),
    }
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
