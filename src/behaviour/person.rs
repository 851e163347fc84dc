//! What is known of one person: for `contact show`, and for the copy that they may demand.

use serde_json::{Map, Value, json};

use super::{money, sql};
use crate::args;
use crate::clock::Time;
use crate::contact::{self, Date};
use crate::db::{Connection, DbError, Row};

/// Columns of an event's table that are not properties.
const COMMON: &[&str] = &["id", "event_key", "contact_id", "known_as", "at", "recorded_at", "revision"];

/// All orders of a person together, without those given back as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// How many.
    pub orders: i64,
    /// Their worth, less what was refunded.
    pub amount: i64,
    /// When the first one was placed.
    pub first_at: Time,
    /// When the last one was.
    pub last_at: Time,
}

/// What somebody did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// When.
    pub at: Time,
    /// `order`, or the kind of event.
    pub what: String,
    /// The worth of the order, or the properties.
    pub detail: Option<String>,
}

/// A person's orders added up; nothing where there is none.
pub async fn total(db: &mut impl Connection, contact_id: i64) -> Result<Option<Total>, DbError> {
    let rows = db.rows("SELECT orders, amount, first_at, last_at FROM order_total WHERE contact_id = $1", args![contact_id]).await?;
    let read = |row: &Row| Ok(Total { orders: row.get(0)?, amount: row.get(1)?, first_at: row.get(2)?, last_at: row.get(3)? });
    rows.first().map(read).transpose()
}

/// A person's latest orders and events, so many of each kind at most.
pub async fn latest(db: &mut impl Connection, contact_id: i64, limit: i64) -> Result<Vec<Latest>, DbError> {
    let mut found = Vec::new();
    let orders = "SELECT at, amount, refunded, void, order_key FROM orders WHERE contact_id = $1 ORDER BY at DESC LIMIT $2";
    for row in db.rows(orders, args![contact_id, limit]).await? {
        let (amount, refunded): (i64, i64) = (row.get(1)?, row.get(2)?);
        let given_back = match (row.get::<bool>(3)?, refunded) {
            (true, _) => ", all of it given back".to_owned(),
            (false, 0) => String::new(),
            (false, refunded) => format!(", {} given back", money::shown(refunded)),
        };
        let detail = format!("{}: {}{given_back}", row.get::<String>(4)?, money::shown(amount));
        found.push(Latest { at: row.get(0)?, what: super::ORDER.to_owned(), detail: Some(detail) });
    }
    for kind in sql::event_types(db).await? {
        let events = format!("SELECT * FROM did_{kind} WHERE contact_id = $1 ORDER BY at DESC LIMIT $2");
        for row in db.rows(&events, args![contact_id, limit]).await? {
            let event = event(&row)?;
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let detail: Vec<String> = event.properties.iter().map(|(name, value)| format!("{name}: {}", plain(value))).collect();
            found.push(Latest { at: event.at, what: kind.clone(), detail: (!detail.is_empty()).then(|| detail.join(", ")) });
        }
    }
    Ok(found)
}

/// A person's orders with their lines, and refunds that wait for theirs.
pub async fn orders(db: &mut impl Connection, contact_id: i64) -> Result<Value, DbError> {
    let sql = "SELECT id, order_key, at, amount, refunded, void, currency FROM orders WHERE contact_id = $1 ORDER BY at, id";
    let mut out = Vec::new();
    for row in db.rows(sql, args![contact_id]).await? {
        let sql = "SELECT product_id, product, category, quantity, paid, amount FROM order_line WHERE order_id = $1 ORDER BY line";
        let mut lines = Vec::new();
        for line in db.rows(sql, args![row.get::<i64>(0)?]).await? {
            lines.push(json!({
                "product_id": line.get::<Option<String>>(0)?,
                "product": line.get::<Option<String>>(1)?,
                "category": line.get::<Option<String>>(2)?,
                "quantity": line.get::<f64>(3)?,
                "paid": money::units(line.get(4)?),
                "amount": money::units(line.get(5)?),
            }));
        }
        out.push(json!({
            "order_id": row.get::<String>(1)?,
            "at": row.get::<Time>(2)?.to_string(),
            "amount": money::units(row.get(3)?),
            "refunded": money::units(row.get(4)?),
            "void": row.get::<bool>(5)?,
            "currency": row.get::<String>(6)?,
            "lines": lines,
        }));
    }
    let waiting = "SELECT order_key, at, amount, currency, product_id, product FROM order_refund
                   WHERE contact_id = $1 AND order_key NOT IN (SELECT order_key FROM orders WHERE contact_id = $1)
                   ORDER BY at, refund_key";
    for row in db.rows(waiting, args![contact_id]).await? {
        out.push(json!({
            "refund_of": row.get::<String>(0)?,
            "at": row.get::<Time>(1)?.to_string(),
            "amount": row.get::<Option<i64>>(2)?.map(money::units),
            "currency": row.get::<String>(3)?,
            "product_id": row.get::<Option<String>>(4)?,
            "product": row.get::<Option<String>>(5)?,
        }));
    }
    Ok(Value::Array(out))
}

/// A person's events of every kind that was ever declared.
pub async fn events(db: &mut impl Connection, contact_id: i64) -> Result<Value, DbError> {
    let mut out = Vec::new();
    for kind in sql::event_types(db).await? {
        let sql = format!("SELECT * FROM did_{kind} WHERE contact_id = $1 ORDER BY at, id");
        for row in db.rows(&sql, args![contact_id]).await? {
            let event = event(&row)?;
            out.push(json!({ "type": kind, "id": event.key, "at": event.at.to_string(), "properties": event.properties }));
        }
    }
    Ok(Value::Array(out))
}

struct Event {
    key: String,
    at: Time,
    properties: Map<String, Value>,
}

/// A row of an event's table; the columns say which properties it has, also those that are declared no more.
fn event(row: &Row) -> Result<Event, DbError> {
    let mut event = Event { key: String::new(), at: Time::default(), properties: Map::new() };
    for index in 0..row.len() {
        let column = row.column_name(index).to_owned();
        match column.as_str() {
            "event_key" => event.key = row.get(index)?,
            "at" => event.at = row.get(index)?,
            common if COMMON.contains(&common) => {}
            property => {
                let Some((letter, name)) = property.split_once('_') else { continue };
                let value = match letter {
                    "n" => row.get::<Option<f64>>(index)?.map(|number| contact::field::to_json(&contact::AttributeValue::Number(number))),
                    "b" => row.get::<Option<bool>>(index)?.map(Value::from),
                    "d" => row.get::<Option<i64>>(index)?.and_then(Date::from_number).map(|date| Value::from(date.to_string())),
                    "l" => row.get::<Option<String>>(index)?.map(|text| json!(contact::sql::split_list(&text))),
                    _ => row.get::<Option<String>>(index)?.map(Value::from),
                };
                event.properties.extend(value.map(|value| (name.to_owned(), value)));
            }
        }
    }
    Ok(event)
}
