//! Two contacts found to be one person: what becomes of the contacts themselves. The one that is gone keeps its
//! row and leads to the one that is kept; the fields that were empty there are filled, and each is written down,
//! so that a merge can be undone, in any order. What the rows of other rooms do is decided there
//! (`crate::behaviour::merge`).

use serde_json::{Map, Value as Json};

use super::{AttributeValue, Contact, Schema, sql};
use crate::args;
use crate::clock::Time;
use crate::db::{Connection, DbError, Dialect, Row, Tx, Value};

/// An arbitrary constant: whoever writes rows by an identity and whoever merges wait for each other.
const ADVISORY_LOCK: i64 = 0x6f70_7469_6e00_0002;

/// Two contacts that are one person.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: Time,
    /// The contact that stays.
    pub kept_id: i64,
    /// The contact that leads to it.
    pub gone_id: i64,
    /// Why, in an operator's words; empty once one of the two was erased.
    pub source: String,
    /// What the one that stays took over, by column, as text.
    pub taken: Vec<(String, String)>,
    /// Since when it holds no more.
    pub undone_at: Option<Time>,
}

/// A field that is filled from the other contact.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// As declared.
    pub name: String,
    column: String,
    value: AttributeValue,
}

/// What `kept` takes over from `gone`: what it has no value for. Names belong together: a family name is taken only
/// with the given name that stands beside it.
pub fn fields_to_take(schema: &Schema, kept: &Contact, gone: &Contact) -> Vec<Taken> {
    let mut taken = Vec::new();
    let mut take = |name: &str, column: String, value: Option<AttributeValue>| {
        taken.extend(value.map(|value| Taken { name: name.to_owned(), column, value }));
    };
    let same_given_name = kept.first_name.is_none() || kept.first_name == gone.first_name;
    let same_family_name = kept.last_name.is_none() || kept.last_name == gone.last_name;
    for (name, ours, theirs, fits) in [
        ("first_name", &kept.first_name, &gone.first_name, same_family_name),
        ("last_name", &kept.last_name, &gone.last_name, same_given_name),
        ("locale", &kept.locale, &gone.locale, true),
        ("timezone", &kept.timezone, &gone.timezone, true),
        ("phone", &kept.phone, &gone.phone, true),
        ("external_id", &kept.external_id, &gone.external_id, true),
    ] {
        let value = theirs.clone().filter(|_| ours.is_none() && fits);
        take(name, name.to_owned(), value.map(AttributeValue::Text));
    }
    for (name, kind) in schema.attributes().filter(|(name, _)| !kept.attributes.contains_key(*name)) {
        take(name, Schema::column(name, kind), gone.attributes.get(name).cloned());
    }
    taken
}

/// Waits until nobody writes rows by an identity, and keeps them waiting until this transaction ends.
pub async fn hold_all(tx: &mut Tx) -> Result<(), DbError> {
    lock(tx, "pg_advisory_xact_lock").await
}

/// Waits until nobody merges, and keeps them waiting until this transaction ends: what is resolved in it stays true.
pub async fn hold_off(tx: &mut Tx) -> Result<(), DbError> {
    lock(tx, "pg_advisory_xact_lock_shared").await
}

async fn lock(tx: &mut Tx, function: &str) -> Result<(), DbError> {
    // SQLite has one writer.
    if tx.dialect() == Dialect::Postgres {
        tx.fetch_all(&format!("SELECT CAST({function}($1) AS TEXT)"), args![ADVISORY_LOCK]).await?;
    }
    Ok(())
}

/// Into whom a contact was merged; `None` where it was not, or is not there.
pub async fn merged_into(db: &mut impl Connection, contact_id: i64) -> Result<Option<i64>, DbError> {
    let rows = db.rows("SELECT merged_into FROM contact WHERE id = $1", args![contact_id]).await?;
    rows.first().map_or(Ok(None), |row| row.get(0))
}

/// Everybody who leads to a contact, with themselves, nearest first; and how many steps away the furthest is.
pub async fn below(db: &mut impl Connection, contact_id: i64) -> Result<(Vec<i64>, i64), DbError> {
    let sql = "WITH RECURSIVE below (id, steps) AS (
                 SELECT CAST($1 AS BIGINT), CAST(0 AS BIGINT)
                 UNION
                 SELECT c.id, b.steps + 1 FROM below b JOIN contact c ON c.merged_into = b.id WHERE b.steps < 100
               )
               SELECT id, steps FROM below ORDER BY steps, id";
    let rows = db.rows(sql, args![contact_id]).await?;
    let steps = rows.last().map_or(Ok(0), |row| row.get(1))?;
    let mut ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok((ids, steps))
}

/// Everybody a contact leads to, nearest first: a person who leaves by one address leaves by all of them.
pub async fn above(db: &mut impl Connection, contact_id: i64) -> Result<Vec<i64>, DbError> {
    let mut above = Vec::new();
    let mut at = contact_id;
    while let Some(into) = merged_into(db, at).await?.filter(|into| *into != contact_id && !above.contains(into)) {
        above.push(into);
        at = into;
    }
    Ok(above)
}

/// Leads `gone` to `kept` and fills its fields. False where `gone` leads somewhere already.
pub async fn write(tx: &mut Tx, id: i64, kept_id: i64, gone_id: i64, taken: &[Taken], source: &str, now: Time) -> Result<bool, DbError> {
    let sql = "UPDATE contact SET merged_into = $1 WHERE id = $2 AND merged_into IS NULL";
    if tx.execute(sql, args![kept_id, gone_id]).await? != 1 {
        return Ok(false);
    }
    let mut values = args![now, kept_id];
    let mut sets = vec!["updated_at = $1".to_owned()];
    for field in taken {
        values.push(sql::bind_value(&field.value));
        sets.push(format!("{} = ${}", field.column, values.len()));
    }
    tx.execute_one(&format!("UPDATE contact SET {} WHERE id = $2", sets.join(", ")), values).await?;
    let taken: Map<String, Json> = taken.iter().map(|field| (field.column.clone(), Json::String(as_text(&field.value)))).collect();
    tx.execute(
        "INSERT INTO contact_merge (id, at, kept_id, gone_id, source, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        args![id, now, kept_id, gone_id, source, serde_json::json!({ "taken": taken }).to_string()],
    )
    .await?;
    Ok(true)
}

/// A value as it is written down: exact for every type.
fn as_text(value: &AttributeValue) -> String {
    match value {
        AttributeValue::Text(text) => text.clone(),
        AttributeValue::Number(number) => number.to_string(),
        AttributeValue::Boolean(flag) => flag.to_string(),
        AttributeValue::Date(date) => date.number().to_string(),
        AttributeValue::List(values) => sql::join_list(values),
    }
}

/// The same as bound to its column, whose first letter tells its type.
fn from_text(column: &str, text: &str) -> Value {
    match column.split_once('_').map(|(letter, _)| letter) {
        Some("n") => Value::F64(text.parse().ok()),
        Some("b") => Value::Bool(text.parse().ok()),
        Some("d") => Value::I64(text.parse().ok()),
        _ => Value::from(text),
    }
}

/// Undoes a merge: the contact leads nowhere, and what was taken over goes where it still stands. Answers the columns
/// that were emptied.
pub async fn undo(tx: &mut Tx, merge: &Merge, now: Time) -> Result<Vec<String>, DbError> {
    let sql = "UPDATE contact_merge SET undone_at = $1 WHERE id = $2 AND undone_at IS NULL";
    tx.execute_one(sql, args![now, merge.id]).await?;
    let sql = "UPDATE contact SET merged_into = NULL WHERE id = $1 AND merged_into = $2";
    tx.execute_one(sql, args![merge.gone_id, merge.kept_id]).await?;
    let mut emptied = Vec::new();
    for (column, text) in &merge.taken {
        let sql = format!("UPDATE contact SET {column} = NULL, updated_at = $1 WHERE id = $2 AND {column} = $3");
        if tx.execute(&sql, args![now, merge.kept_id, from_text(column, text)]).await? == 1 {
            emptied.push(column.clone());
        }
    }
    Ok(emptied)
}

const COLUMNS: &str = "m.id, m.at, m.kept_id, m.gone_id, m.source, m.detail, m.undone_at";

fn read(row: &Row) -> Result<Merge, DbError> {
    let detail: Json = serde_json::from_str(&row.get::<String>(5)?).unwrap_or_default();
    let taken = detail["taken"].as_object().into_iter().flatten();
    // What names a column comes from us; anything else is left alone.
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    Ok(Merge {
        id: row.get(0)?,
        at: row.get(1)?,
        kept_id: row.get(2)?,
        gone_id: row.get(3)?,
        source: row.get(4)?,
        taken: taken
            .filter(|(column, _)| is_name(column))
            .filter_map(|(column, value)| Some((column.clone(), value.as_str()?.to_owned())))
            .collect(),
        undone_at: row.get(6)?,
    })
}

/// A merge by its number.
pub async fn by_id(db: &mut impl Connection, id: i64) -> Result<Option<Merge>, DbError> {
    let rows = db.rows(&format!("SELECT {COLUMNS} FROM contact_merge m WHERE m.id = $1"), args![id]).await?;
    rows.first().map(read).transpose()
}

/// The merge by which a contact leads somewhere.
pub async fn of_gone(db: &mut impl Connection, gone_id: i64) -> Result<Option<Merge>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM contact_merge m WHERE m.gone_id = $1 AND m.undone_at IS NULL ORDER BY m.id DESC LIMIT 1");
    db.rows(&sql, args![gone_id]).await?.first().map(read).transpose()
}

/// The latest merges, of everybody or of one contact (on either side), also those undone; newest first.
pub async fn list(db: &mut impl Connection, contact_id: Option<i64>, limit: i64) -> Result<Vec<Merge>, DbError> {
    let sql = match contact_id {
        Some(_) => format!("SELECT {COLUMNS} FROM contact_merge m WHERE m.kept_id = $2 OR m.gone_id = $2 ORDER BY m.id DESC LIMIT $1"),
        None => format!("SELECT {COLUMNS} FROM contact_merge m ORDER BY m.id DESC LIMIT $1"),
    };
    let mut values = args![limit];
    values.extend(contact_id.map(Value::from));
    db.rows(&sql, values).await?.iter().map(read).collect()
}

/// What an erased person leaves here: that there was a merge, and nothing it was about.
pub async fn forget(tx: &mut Tx, contact_id: i64, number: i64) -> Result<(), DbError> {
    for column in ["kept_id", "gone_id"] {
        let sql = format!("UPDATE contact_merge SET {column} = $2, source = '', detail = '{{}}' WHERE {column} = $1");
        tx.execute(&sql, args![contact_id, number]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn contact(first: Option<&str>, last: Option<&str>, attributes: &[(&str, AttributeValue)]) -> Contact {
        Contact {
            id: 1,
            email: String::new(),
            email_key: String::new(),
            first_name: first.map(str::to_owned),
            last_name: last.map(str::to_owned),
            locale: None,
            timezone: None,
            phone: None,
            external_id: None,
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        }
    }

    fn names(taken: &[Taken]) -> Vec<&str> {
        taken.iter().map(|field| field.name.as_str()).collect()
    }

    #[test]
    fn only_what_is_empty_is_filled_and_names_stay_together() {
        use crate::config::AttributeType::{Number, Text};
        let schema = Schema::new(&BTreeMap::from([("city".to_owned(), Text), ("age".to_owned(), Number)]));
        let age = ("age", AttributeValue::Number(41.0));
        let gone = contact(Some("Mei"), Some("Wang"), &[("city", AttributeValue::Text("Tainan".into())), age.clone()]);
        let take = |kept: Contact| fields_to_take(&schema, &kept, &gone).iter().map(|field| field.name.clone()).collect::<Vec<_>>();
        assert_eq!(take(contact(None, None, &[])), ["first_name", "last_name", "age", "city"]);
        assert_eq!(take(contact(Some("Mei"), None, std::slice::from_ref(&age))), ["last_name", "city"]);
        assert_eq!(take(contact(Some("Anna"), None, std::slice::from_ref(&age))), ["city"], "Anna Wang is nobody");
        assert_eq!(take(contact(None, Some("Li"), &[age])), ["city"]);
        assert!(names(&fields_to_take(&schema, &gone, &contact(None, None, &[]))).is_empty());
    }

    #[test]
    fn values_come_back_as_they_were() {
        for (column, value) in [
            ("n_age", AttributeValue::Number(0.1 + 0.2)),
            ("b_vip", AttributeValue::Boolean(false)),
            ("d_born", AttributeValue::Date(super::super::Date::parse("2001-02-03").expect("a date"))),
            ("l_tags", AttributeValue::List(vec!["a".into(), "b;c".into()])),
            ("t_city", AttributeValue::Text("true".into())),
            ("phone", AttributeValue::Text("12".into())),
        ] {
            assert_eq!(from_text(column, &as_text(&value)), sql::bind_value(&value), "{column}");
        }
    }
}
