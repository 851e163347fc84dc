//! Statements of the table `contact`.

use std::collections::BTreeMap;

use super::{AttributeValue, Contact, Date, LIST_MARK, Schema};
use crate::config::AttributeType;
use crate::db::{Connection, DbError, Dialect, Row, Value};

/// Ids of one look-up statement.
const IDS_PER_STATEMENT: usize = 500;

/// The columns of a contact in the order that [`read`] expects, each with the alias `c`.
pub fn columns(schema: &Schema) -> String {
    let mut out = "c.id, c.email, c.email_key, c.first_name, c.last_name, c.locale, c.timezone, c.phone, c.external_id".to_owned();
    for (name, kind) in schema.attributes() {
        out.push_str(", c.");
        out.push_str(&Schema::column(name, kind));
    }
    out
}

/// Reads a contact whose columns start at `first`.
pub fn read(schema: &Schema, row: &Row, first: usize) -> Result<Contact, DbError> {
    let mut attributes = BTreeMap::new();
    for (index, (name, kind)) in schema.attributes().enumerate() {
        let at = first + 9 + index;
        let value = match kind {
            AttributeType::Text => row.get::<Option<String>>(at)?.map(AttributeValue::Text),
            AttributeType::Number => row.get::<Option<f64>>(at)?.map(AttributeValue::Number),
            AttributeType::Boolean => row.get::<Option<bool>>(at)?.map(AttributeValue::Boolean),
            AttributeType::Date => row.get::<Option<i64>>(at)?.and_then(Date::from_number).map(AttributeValue::Date),
            AttributeType::List => row.get::<Option<String>>(at)?.map(|text| AttributeValue::List(split_list(&text))),
        };
        if let Some(value) = value {
            attributes.insert(name.to_owned(), value);
        }
    }
    Ok(Contact {
        id: row.get(first)?,
        email: row.get(first + 1)?,
        email_key: row.get(first + 2)?,
        first_name: row.get(first + 3)?,
        last_name: row.get(first + 4)?,
        locale: row.get(first + 5)?,
        timezone: row.get(first + 6)?,
        phone: row.get(first + 7)?,
        external_id: row.get(first + 8)?,
        attributes,
    })
}

/// The values of a stored list.
pub fn split_list(text: &str) -> Vec<String> {
    text.split(LIST_MARK).filter(|value| !value.is_empty()).map(str::to_owned).collect()
}

/// A list as stored.
pub fn join_list(values: &[String]) -> String {
    let mut out = String::from(LIST_MARK);
    for value in values {
        out.push_str(&value.replace(LIST_MARK, ""));
        out.push(LIST_MARK);
    }
    out
}

/// An attribute's value as bound to its column.
pub fn bind_value(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => Value::from(text),
        AttributeValue::Number(number) => Value::from(*number),
        AttributeValue::Boolean(flag) => Value::from(*flag),
        AttributeValue::Date(date) => Value::from(date.number()),
        AttributeValue::List(values) => Value::from(join_list(values)),
    }
}

/// The contact with this comparison key.
pub async fn by_email_key(db: &mut impl Connection, schema: &Schema, email_key: &str) -> Result<Option<Contact>, DbError> {
    let sql = format!("SELECT {} FROM contact c WHERE c.email_key = $1", columns(schema));
    let rows = db.rows(&sql, crate::args![email_key]).await?;
    rows.first().map(|row| read(schema, row, 0)).transpose()
}

/// The contacts with these ids, in no particular order; unknown ids are left out.
pub async fn by_ids(db: &mut impl Connection, schema: &Schema, ids: &[i64]) -> Result<Vec<Contact>, DbError> {
    let mut out = Vec::with_capacity(ids.len());
    for block in ids.chunks(IDS_PER_STATEMENT) {
        let marks: Vec<String> = (1..=block.len()).map(|i| format!("${i}")).collect();
        let sql = format!("SELECT {} FROM contact c WHERE c.id IN ({})", columns(schema), marks.join(", "));
        for row in db.rows(&sql, block.iter().map(|id| Value::from(*id)).collect()).await? {
            out.push(read(schema, &row, 0)?);
        }
    }
    Ok(out)
}

/// How many contacts there are of each locale (empty where none is known).
pub async fn locales(db: &mut impl Connection) -> Result<Vec<(String, i64)>, DbError> {
    let rows = db.rows("SELECT COALESCE(locale, ''), COUNT(*) FROM contact GROUP BY 1 ORDER BY 2 DESC", Vec::new()).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// Adds or changes one contact; `$1` id, `$2` address, `$3` key, `$4` now, `$5`.. the `columns`. Answers
/// the id of the contact.
pub(super) fn upsert(columns: &[String]) -> String {
    let names: String = columns.iter().map(|column| format!(", {column}")).collect();
    let values: String = (0..columns.len()).map(|index| format!(", ${}", index + 5)).collect();
    let changes: String = columns.iter().map(|column| format!(", {column} = excluded.{column}")).collect();
    format!(
        "INSERT INTO contact (id, email, email_key, created_at, updated_at{names}) VALUES ($1, $2, $3, $4, $4{values}) \
         ON CONFLICT (email_key) DO UPDATE SET email = excluded.email, updated_at = excluded.updated_at{changes} RETURNING id"
    )
}

/// The name of the `index`th mapped column in the input of the bulk statements.
pub(super) fn bulk_name(index: usize) -> String {
    format!("c{index}")
}

/// Which of the keys `{rows}` (`n`, `k`) are there: `n`, id, email and the columns `targets`. The cross
/// join keeps SQLite from scanning the contacts and probing the input.
pub(super) fn bulk_look_up(targets: &[&str]) -> String {
    let columns: String = targets.iter().map(|target| format!(", c.{target}")).collect();
    format!("SELECT v.n, c.id, c.email{columns} FROM {{rows}} CROSS JOIN contact c WHERE c.email_key = v.k")
}

/// Adds those of `{rows}` (`id`, `email_key`, `email` where it differs, `c0`, `c1`, ..) that are not
/// there; `$1` is now.
pub(super) fn bulk_insert(targets: &[&str]) -> String {
    let columns: String = targets.iter().map(|target| format!(", {target}")).collect();
    let values: String = (0..targets.len()).map(|index| format!(", v.{}", bulk_name(index))).collect();
    format!(
        "INSERT INTO contact (id, email, email_key, created_at, updated_at{columns}) \
         SELECT v.id, COALESCE(v.email, v.email_key), v.email_key, CAST($1 AS BIGINT), CAST($1 AS BIGINT){values} \
         FROM {{rows}} WHERE TRUE ON CONFLICT (email_key) DO NOTHING"
    )
}

/// Changes the contacts `{rows}` (`id`, `email_key`, `email` where it differs, `c0`, `c1`, ..); NULL
/// leaves what is there; `$1` is now.
pub(super) fn bulk_update(targets: &[&str]) -> String {
    let columns: String = targets
        .iter()
        .enumerate()
        .map(|(index, target)| format!(", {target} = COALESCE(v.{}, contact.{target})", bulk_name(index)))
        .collect();
    format!(
        "UPDATE contact SET email = COALESCE(v.email, v.email_key), updated_at = CAST($1 AS BIGINT){columns} \
         FROM {{rows}} WHERE contact.id = v.id"
    )
}

/// Column type of an attribute on this engine.
pub fn column_type(kind: AttributeType, dialect: Dialect) -> &'static str {
    match (kind, dialect) {
        (AttributeType::Text | AttributeType::List, Dialect::Postgres) => "TEXT COLLATE \"C\"",
        (AttributeType::Text | AttributeType::List, Dialect::Sqlite) => "TEXT",
        (AttributeType::Number, _) => "DOUBLE PRECISION",
        (AttributeType::Boolean, _) => "BOOLEAN",
        (AttributeType::Date, _) => "BIGINT",
    }
}
