//! One person with all that rules ask about, of one moment of the database.

use std::collections::BTreeMap;

use super::Catalog;
use super::evaluate::{EngagementFact, EventFact, HitFact, LineFact, MailFact, OrderFact, OrderTotal, Person, TotalFact};
use super::rule::HitKind;
use crate::args;
use crate::behaviour::EventSchema;
use crate::config::AttributeType;
use crate::consent::Standing;
use crate::contact::{self, AttributeValue, Date};
use crate::db::{Db, DbError, Row, Tx};

/// Rows of one kind that are read of one person, the newest ones: a shop's own account may have clicked for
/// years. Rules in SQL count all of them.
const MAX_ROWS: i64 = 50_000;

/// Columns of the table `score`: whole numbers, other numbers, a text.
const SCORES: [(&str, Kept); 9] = [
    ("rfm_recency", Kept::Whole),
    ("rfm_frequency", Kept::Whole),
    ("rfm_monetary", Kept::Whole),
    ("rfm_latency", Kept::Whole),
    ("value_historic", Kept::Number),
    ("value_lifetime", Kept::Number),
    ("value_decile", Kept::Whole),
    ("lifecycle", Kept::Text),
    ("churn_risk", Kept::Number),
];

#[derive(Clone, Copy)]
enum Kept {
    Whole,
    Number,
    Text,
}

/// A contact with everything rules ask about, all of one moment of the database; `None` where there
/// is no such contact.
pub(super) async fn person(db: &Db, catalog: &Catalog, contact_id: i64) -> Result<Option<Person>, DbError> {
    let mut tx = db.begin_read().await?;
    let Some(contact) = contact::sql::by_ids(&mut tx, &catalog.schema, &[contact_id]).await?.pop() else { return Ok(None) };
    let merged = tx.fetch_one("SELECT merged_into IS NOT NULL FROM contact WHERE id = $1", args![contact_id]).await?.get(0)?;
    let mut events = BTreeMap::new();
    for event in catalog.events.values() {
        events.insert(event.name.clone(), events_of(&mut tx, event, contact_id).await?);
    }
    let person = Person {
        contact,
        merged,
        standings: standings(&mut tx, contact_id).await?.into_iter().collect(),
        mails: mails(&mut tx, contact_id).await?,
        hits: hits(&mut tx, contact_id).await?,
        totals: totals(&mut tx, contact_id).await?,
        orders: orders(&mut tx, contact_id).await?,
        lines: lines(&mut tx, contact_id).await?,
        order_total: order_total(&mut tx, contact_id).await?,
        events,
        engagement: engagement(&mut tx, contact_id).await?.into_iter().collect(),
        scores: scores(&mut tx, contact_id).await?,
        frozen: frozen(&mut tx, contact_id).await?.into_iter().collect(),
    };
    tx.commit().await?;
    Ok(Some(person))
}

/// Rows of a statement whose `$1` is the contact, the newest ones first and read in the order of time.
async fn newest<T>(tx: &mut Tx, sql: &str, contact_id: i64, read: impl Fn(&Row) -> Result<T, DbError>) -> Result<Vec<T>, DbError> {
    let rows = tx.fetch_all(&format!("{sql} LIMIT {MAX_ROWS}"), args![contact_id]).await?;
    rows.iter().rev().map(read).collect()
}

async fn standings(tx: &mut Tx, contact_id: i64) -> Result<Vec<(String, (Standing, crate::clock::Time))>, DbError> {
    let sql = "SELECT t.name, s.standing, s.since FROM subscription s JOIN topic t ON t.id = s.topic_id WHERE s.contact_id = $1";
    let read = |row: &Row| Ok((row.get(0)?, (Standing::from_stored(Some(&row.get::<String>(1)?)), row.get(2)?)));
    newest(tx, sql, contact_id, read).await
}

async fn mails(tx: &mut Tx, contact_id: i64) -> Result<Vec<MailFact>, DbError> {
    let sql = "SELECT r.campaign, t.name, d.changed_at, d.state = 'bounced' FROM delivery d
        LEFT JOIN run r ON r.id = d.run_id
        LEFT JOIN topic t ON t.id = r.topic_id
        WHERE d.contact_id = $1 AND d.transactional = FALSE AND d.state IN ('sent', 'bounced')
        ORDER BY d.changed_at DESC, d.id DESC";
    newest(tx, sql, contact_id, |row| Ok(MailFact { campaign: row.get(0)?, topic: row.get(1)?, at: row.get(2)?, bounced: row.get(3)? }))
        .await
}

async fn hits(tx: &mut Tx, contact_id: i64) -> Result<Vec<HitFact>, DbError> {
    let sql = "SELECT h.kind, r.campaign, t.name, l.url, h.at, h.verdict, h.times FROM hit h
        LEFT JOIN run r ON r.id = h.run_id
        LEFT JOIN topic t ON t.id = r.topic_id
        LEFT JOIN run_link l ON l.run_id = h.run_id AND l.position = h.link
        WHERE h.contact_id = $1 AND h.kind IN ('open', 'click')
        ORDER BY h.at DESC, h.id DESC";
    newest(tx, sql, contact_id, |row| {
        let kind = if row.get::<String>(0)? == HitKind::Open.as_str() { HitKind::Open } else { HitKind::Click };
        let human = row.get::<String>(5)? == "human";
        Ok(HitFact { kind, campaign: row.get(1)?, topic: row.get(2)?, url: row.get(3)?, at: row.get(4)?, human, times: row.get(6)? })
    })
    .await
}

async fn totals(tx: &mut Tx, contact_id: i64) -> Result<Vec<TotalFact>, DbError> {
    let sql = "SELECT h.link, r.campaign, t.name, l.url, h.human, h.human + h.machine + h.unknowable, h.last_at FROM hit_total h
        LEFT JOIN run r ON r.id = h.run_id
        LEFT JOIN topic t ON t.id = r.topic_id
        LEFT JOIN run_link l ON l.run_id = h.run_id AND l.position = h.link
        WHERE h.contact_id = $1
        ORDER BY h.delivery_id DESC, h.link DESC";
    newest(tx, sql, contact_id, |row| {
        Ok(TotalFact {
            link: row.get(0)?,
            campaign: row.get(1)?,
            topic: row.get(2)?,
            url: row.get(3)?,
            human: row.get(4)?,
            any: row.get(5)?,
            last_at: row.get(6)?,
        })
    })
    .await
}

async fn orders(tx: &mut Tx, contact_id: i64) -> Result<Vec<OrderFact>, DbError> {
    let sql = "SELECT at, amount FROM orders WHERE contact_id = $1 AND void = FALSE ORDER BY at DESC, amount DESC";
    newest(tx, sql, contact_id, |row| Ok(OrderFact { at: row.get(0)?, amount: row.get(1)? })).await
}

async fn lines(tx: &mut Tx, contact_id: i64) -> Result<Vec<LineFact>, DbError> {
    let sql = "SELECT order_id, at, COALESCE(product_id, product), category, amount FROM order_line
        WHERE contact_id = $1 AND refunded = FALSE ORDER BY at DESC, order_id DESC, line DESC";
    newest(tx, sql, contact_id, |row| {
        Ok(LineFact { order: row.get(0)?, at: row.get(1)?, product: row.get(2)?, category: row.get(3)?, amount: row.get(4)? })
    })
    .await
}

async fn order_total(tx: &mut Tx, contact_id: i64) -> Result<Option<OrderTotal>, DbError> {
    let sql = "SELECT orders, amount, first_at, last_at FROM order_total WHERE contact_id = $1";
    let row = tx.fetch_optional(sql, args![contact_id]).await?;
    row.map(|row| Ok(OrderTotal { orders: row.get(0)?, amount: row.get(1)?, first_at: row.get(2)?, last_at: row.get(3)? })).transpose()
}

async fn events_of(tx: &mut Tx, event: &EventSchema, contact_id: i64) -> Result<Vec<EventFact>, DbError> {
    let properties: Vec<(String, AttributeType)> =
        event.properties.iter().filter_map(|(name, kind)| Some((event.column(name)?, *kind))).collect();
    let columns: String = properties.iter().map(|(column, _)| format!(", {column}")).collect();
    let sql = format!("SELECT at{columns} FROM {} WHERE contact_id = $1 ORDER BY at DESC, id DESC", event.table());
    newest(tx, &sql, contact_id, |row| {
        let mut held = BTreeMap::new();
        for (index, (column, kind)) in properties.iter().enumerate() {
            if let Some(value) = property(row, index + 1, *kind)? {
                held.insert(column.clone(), value);
            }
        }
        Ok(EventFact { at: row.get(0)?, properties: held })
    })
    .await
}

fn property(row: &Row, at: usize, kind: AttributeType) -> Result<Option<AttributeValue>, DbError> {
    Ok(match kind {
        AttributeType::Text => row.get::<Option<String>>(at)?.map(AttributeValue::Text),
        AttributeType::Number => row.get::<Option<f64>>(at)?.map(AttributeValue::Number),
        AttributeType::Boolean => row.get::<Option<bool>>(at)?.map(AttributeValue::Boolean),
        AttributeType::Date => row.get::<Option<i64>>(at)?.and_then(Date::from_number).map(AttributeValue::Date),
        AttributeType::List => row.get::<Option<String>>(at)?.map(|text| AttributeValue::List(contact::sql::split_list(&text))),
    })
}

async fn engagement(tx: &mut Tx, contact_id: i64) -> Result<Vec<(Option<String>, EngagementFact)>, DbError> {
    let sql = "SELECT t.name, g.weight, g.last_open_at, g.last_click_at, g.best_hour, g.best_weekday FROM engagement g
        LEFT JOIN topic t ON t.id = g.topic_id
        WHERE g.contact_id = $1 AND (g.topic_id = 0 OR t.id IS NOT NULL)";
    newest(tx, sql, contact_id, |row| {
        let fact = EngagementFact {
            weight: row.get(1)?,
            last_open_at: row.get(2)?,
            last_click_at: row.get(3)?,
            best_hour: row.get(4)?,
            best_weekday: row.get(5)?,
        };
        Ok((row.get(0)?, fact))
    })
    .await
}

async fn scores(tx: &mut Tx, contact_id: i64) -> Result<BTreeMap<String, AttributeValue>, DbError> {
    let columns: Vec<&str> = SCORES.iter().map(|(column, _)| *column).collect();
    let sql = format!("SELECT {} FROM score WHERE contact_id = $1", columns.join(", "));
    let mut held = BTreeMap::new();
    let Some(row) = tx.fetch_optional(&sql, args![contact_id]).await? else { return Ok(held) };
    for (at, (column, kept)) in SCORES.iter().enumerate() {
        let value = match kept {
            Kept::Whole => row.get::<Option<i64>>(at)?.map(|number| AttributeValue::Number(number as f64)),
            Kept::Number => row.get::<Option<f64>>(at)?.map(AttributeValue::Number),
            Kept::Text => row.get::<Option<String>>(at)?.map(AttributeValue::Text),
        };
        held.extend(value.map(|value| ((*column).to_owned(), value)));
    }
    Ok(held)
}

async fn frozen(tx: &mut Tx, contact_id: i64) -> Result<Vec<String>, DbError> {
    let sql = "SELECT l.name FROM frozen_member f JOIN frozen_list l ON l.id = f.list_id WHERE f.contact_id = $1";
    newest(tx, sql, contact_id, |row| row.get(0)).await
}
