//! Correcting and erasing what is known about one person.

use std::collections::BTreeSet;

use super::import::Kind;
use super::import::{Cell, Cells};
use super::{Address, Schema};
use crate::args;
use crate::clock::Time;
use crate::config::AttributeType;
use crate::db::{DbError, Dialect, Rows, Tx, Value};

/// Characters of a name or a number: the same as an import takes.
const MAX_LINE: usize = 500;

/// A field and what it becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldChange {
    /// The field, as declared.
    pub name: String,
    column: String,
    /// Nothing empties the field.
    value: Option<Cell>,
    kind: Kind,
}

impl FieldChange {
    /// Reads `name=value`; an empty value empties the field.
    ///
    /// # Errors
    /// What is wrong, with the next step.
    pub fn parse(schema: &Schema, text: &str) -> Result<FieldChange, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` names no value\nhint: write `field=value`"))?;
        let name = name.trim();
        let (kind, column) = match name {
            "email" => return Err("the address is changed with `--email NEW`".to_owned()),
            "locale" => (Kind::Locale, name.to_owned()),
            "timezone" => (Kind::Timezone, name.to_owned()),
            "first_name" | "last_name" | "phone" | "external_id" => (Kind::Line(MAX_LINE), name.to_owned()),
            _ => match schema.attribute(name) {
                Some(kind) => (Kind::Attribute(kind), Schema::column(name, kind)),
                None => return Err(unknown(schema, name)),
            },
        };
        let value = Cells::default().parse(kind, value).map_err(|problem| format!("`{name}`: {problem}"))?;
        Ok(FieldChange { name: name.to_owned(), column, value, kind })
    }

    fn bind(&self) -> Value {
        match &self.value {
            Some(Cell::Text(text)) => Value::from(&**text),
            Some(Cell::Number(number)) => Value::from(*number),
            Some(Cell::Boolean(flag)) => Value::from(*flag),
            Some(Cell::Date(number)) => Value::from(*number),
            None => match self.kind {
                Kind::Attribute(AttributeType::Number) => Value::F64(None),
                Kind::Attribute(AttributeType::Boolean) => Value::Bool(None),
                Kind::Attribute(AttributeType::Date) => Value::I64(None),
                _ => Value::Text(None),
            },
        }
    }
}

fn unknown(schema: &Schema, name: &str) -> String {
    let fields: Vec<&str> =
        super::BUILT_IN_FIELDS.iter().copied().filter(|field| *field != "email").chain(schema.attributes().map(|(name, _)| name)).collect();
    let hint = match crate::config::diagnostics::did_you_mean(name, fields.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("fields are {}", fields.join(", ")),
    };
    format!("there is no field `{name}`\nhint: {hint}")
}

/// Writes corrected fields, and the new address where there is one.
///
/// # Errors
/// [`DbError::Unique`] where another contact has that address.
pub async fn change(tx: &mut Tx, contact_id: i64, fields: &[FieldChange], email: Option<&Address>, now: Time) -> Result<(), DbError> {
    let mut values = args![contact_id, now];
    let mut sets = vec!["updated_at = $2".to_owned()];
    let mut set = |column: &str, value: Value| {
        values.push(value);
        sets.push(format!("{column} = ${}", values.len()));
    };
    for field in fields {
        set(&field.column, field.bind());
    }
    if let Some(email) = email {
        set("email", Value::from(email.as_str()));
        set("email_key", Value::from(email.key()));
    }
    tx.execute_one(&format!("UPDATE contact SET {} WHERE id = $1", sets.join(", ")), values).await
}

/// Holds a person's row until this transaction ends; false where there is none. Requests about one
/// person go one after the other.
pub async fn hold(tx: &mut Tx, contact_id: i64) -> Result<bool, DbError> {
    let sql = format!("SELECT id FROM contact WHERE id = $1 {}", tx.dialect().for_update());
    Ok(tx.fetch_optional(&sql, args![contact_id]).await?.is_some())
}

/// Deletes a person's row with all its columns, also those of attributes that are declared no more.
/// False where there was none.
pub async fn erase(tx: &mut Tx, contact_id: i64) -> Result<bool, DbError> {
    Ok(tx.execute("DELETE FROM contact WHERE id = $1", args![contact_id]).await? == 1)
}

/// Keeps contacts from being erased until this transaction ends, so that nothing is written of somebody who is gone by
/// then; answers those that are there. Taken before rows of theirs are locked.
pub async fn hold_all(tx: &mut Tx, contacts: BTreeSet<i64>) -> Result<BTreeSet<i64>, DbError> {
    // SQLite has one writer: whoever was read in its transaction stays.
    if tx.dialect() == Dialect::Sqlite || contacts.is_empty() {
        return Ok(contacts);
    }
    let sql = "SELECT c.id FROM {rows} CROSS JOIN contact c WHERE c.id = v.id ORDER BY c.id FOR KEY SHARE OF c";
    let rows = tx.bulk_fetch(sql, Vec::new(), Rows::new().i64("id", contacts)).await?;
    rows.iter().map(|row| row.get(0)).collect()
}
