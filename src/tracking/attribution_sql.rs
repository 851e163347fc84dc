//! Statements of `conversion` and `revenue_total`, and what they are made of.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::attribution::Touch;
use crate::args;
use crate::campaign::Definition;
use crate::clock::Time;
use crate::config::CampaignAttribution;
use crate::db::{Connection, DbError, Row, Rows, Tx};

/// What a run says about responses to its mails.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunRule {
    pub topic_id: i64,
    pub attribution: CampaignAttribution,
}

/// Runs by id; those that are gone are left out.
pub(super) async fn runs(tx: &mut Tx, ids: &HashSet<i64>) -> Result<HashMap<i64, RunRule>, DbError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT r.id, r.topic_id, r.definition FROM {rows} JOIN run r ON r.id = v.id";
    let found = tx.bulk_fetch(sql, Vec::new(), Rows::new().i64("id", ids.iter().copied())).await?;
    let rule = |row: &Row| {
        // One that cannot be read says nothing.
        let definition: Option<Definition> = serde_json::from_str(&row.get::<String>(2)?).ok();
        let attribution = definition.map(|definition| definition.attribution).unwrap_or_default();
        Ok((row.get(0)?, RunRule { topic_id: row.get(1)?, attribution }))
    };
    found.iter().map(rule).collect()
}

/// An order that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub id: i64,
    pub contact_id: i64,
    pub at: Time,
    pub amount: i64,
}

/// The orders of these contacts.
pub(super) async fn orders(tx: &mut Tx, contacts: &[i64]) -> Result<Vec<Order>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT o.id, o.contact_id, o.at, o.amount FROM {rows} JOIN orders o ON o.contact_id = v.id AND o.void = FALSE",
            Vec::new(),
            Rows::new().i64("id", contacts.iter().copied()),
        )
        .await?;
    found.iter().map(|row| Ok(Order { id: row.get(0)?, contact_id: row.get(1)?, at: row.get(2)?, amount: row.get(3)? })).collect()
}

/// The human clicks of these contacts of which there is a row: contact, touch, and of how many clicks it is.
pub(super) async fn clicks(tx: &mut Tx, contacts: &[i64]) -> Result<Vec<(i64, Touch, i64)>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT h.contact_id, h.at, h.delivery_id, h.link, h.run_id, h.times
             FROM {rows} JOIN hit h ON h.contact_id = v.id AND h.kind = 'click'
             WHERE h.verdict = 'human' AND h.link IS NOT NULL",
            Vec::new(),
            Rows::new().i64("id", contacts.iter().copied()),
        )
        .await?;
    found
        .iter()
        .map(|row| {
            let touch = Touch { at: row.get(1)?, delivery_id: row.get(2)?, link: row.get(3)?, run_id: row.get(4)? };
            Ok((row.get(0)?, touch, row.get(5)?))
        })
        .collect()
}

/// Order, mail and link.
pub(super) type Key = (i64, i64, i64);

/// The rest of a row of `conversion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conversion {
    pub run_id: i64,
    pub contact_id: i64,
    pub at: Time,
    pub share: i64,
    pub amount: i64,
}

/// What is stored of these contacts, and of these orders whoever's they were.
pub(super) async fn stored(tx: &mut Tx, contacts: &[i64], orders: &[i64]) -> Result<BTreeMap<Key, Conversion>, DbError> {
    let columns = "c.order_id, c.delivery_id, c.link, c.run_id, c.contact_id, c.at, c.share, c.amount";
    let of_contacts = format!("SELECT {columns} FROM {{rows}} JOIN conversion c ON c.contact_id = v.id");
    let mut found = tx.bulk_fetch(&of_contacts, Vec::new(), Rows::new().i64("id", contacts.iter().copied())).await?;
    if !orders.is_empty() {
        let of_orders = format!("SELECT {columns} FROM {{rows}} JOIN conversion c ON c.order_id = v.id");
        found.extend(tx.bulk_fetch(&of_orders, Vec::new(), Rows::new().i64("id", orders.iter().copied())).await?);
    }
    found
        .iter()
        .map(|row| {
            let conversion =
                Conversion { run_id: row.get(3)?, contact_id: row.get(4)?, at: row.get(5)?, share: row.get(6)?, amount: row.get(7)? };
            Ok(((row.get(0)?, row.get(1)?, row.get(2)?), conversion))
        })
        .collect()
}

/// Takes rows away and writes others, and keeps the sums by run and link equal to them.
pub(super) async fn replace(tx: &mut Tx, gone: &[(Key, Conversion)], new: &[(Key, Conversion)]) -> Result<(), DbError> {
    let mut changes: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for (rows, sign) in [(gone, -1), (new, 1)] {
        for ((_, _, link), row) in rows {
            let change = changes.entry((row.run_id, *link)).or_default();
            change.0 += sign * row.share;
            change.1 += sign * row.amount;
        }
    }
    if !gone.is_empty() {
        let keys = Rows::new()
            .i64("order_id", gone.iter().map(|(key, _)| key.0))
            .i64("delivery_id", gone.iter().map(|(key, _)| key.1))
            .i64("link", gone.iter().map(|(key, _)| key.2));
        tx.bulk(
            "DELETE FROM conversion WHERE (order_id, delivery_id, link) IN (SELECT v.order_id, v.delivery_id, v.link FROM {rows})",
            Vec::new(),
            keys,
        )
        .await?;
    }
    if !new.is_empty() {
        insert(tx, new).await?;
    }
    add_up(tx, &changes).await
}

async fn insert(tx: &mut Tx, new: &[(Key, Conversion)]) -> Result<u64, DbError> {
    let rows = Rows::new()
        .i64("order_id", new.iter().map(|(key, _)| key.0))
        .i64("delivery_id", new.iter().map(|(key, _)| key.1))
        .i64("link", new.iter().map(|(key, _)| key.2))
        .i64("run_id", new.iter().map(|(_, row)| row.run_id))
        .i64("contact_id", new.iter().map(|(_, row)| row.contact_id))
        .i64("at", new.iter().map(|(_, row)| row.at.millis()))
        .i64("share", new.iter().map(|(_, row)| row.share))
        .i64("amount", new.iter().map(|(_, row)| row.amount));
    tx.bulk(
        "INSERT INTO conversion (order_id, delivery_id, link, run_id, contact_id, at, share, amount)
         SELECT v.order_id, v.delivery_id, v.link, v.run_id, v.contact_id, v.at, v.share, v.amount FROM {rows}",
        Vec::new(),
        rows,
    )
    .await
}

async fn add_up(tx: &mut Tx, changes: &BTreeMap<(i64, i64), (i64, i64)>) -> Result<(), DbError> {
    let changes: Vec<_> = changes.iter().filter(|(_, change)| **change != (0, 0)).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let keys = || Rows::new().i64("run_id", changes.iter().map(|(key, _)| key.0)).i64("link", changes.iter().map(|(key, _)| key.1));
    let rows = keys().i64("shares", changes.iter().map(|(_, change)| change.0)).i64("amount", changes.iter().map(|(_, change)| change.1));
    // In one order, so that two nodes wait for each other and never in a ring.
    tx.bulk(
        "INSERT INTO revenue_total (run_id, link, shares, amount)
         SELECT v.run_id, v.link, v.shares, v.amount FROM {rows} WHERE TRUE ORDER BY v.run_id, v.link
         ON CONFLICT (run_id, link) DO UPDATE
         SET shares = revenue_total.shares + excluded.shares, amount = revenue_total.amount + excluded.amount",
        Vec::new(),
        rows,
    )
    .await?;
    let empty = "DELETE FROM revenue_total
         WHERE shares = 0 AND amount = 0 AND (run_id, link) IN (SELECT v.run_id, v.link FROM {rows})";
    tx.bulk(empty, Vec::new(), keys()).await.map(drop)
}

/// Takes a person out of the rows of these mails: they count on, and say whose order it was no more.
pub(super) async fn forget(tx: &mut Tx, contact_id: i64, numbers: &[(i64, i64)]) -> Result<(), DbError> {
    tx.bulk(
        "UPDATE conversion SET contact_id = v.number FROM {rows} WHERE conversion.contact_id = $1 AND conversion.delivery_id = v.id",
        args![contact_id],
        Rows::new().i64("id", numbers.iter().map(|pair| pair.0)).i64("number", numbers.iter().map(|pair| pair.1)),
    )
    .await?;
    // Of mails that went to them under another name.
    tx.execute("UPDATE conversion SET contact_id = 0 WHERE contact_id = $1", args![contact_id]).await.map(drop)
}

/// Orders (in parts of [`super::attribution::WHOLE`]) and their worth, by link of a run.
pub(super) async fn totals(db: &mut impl Connection, run_id: i64) -> Result<Vec<(i64, i64, i64)>, DbError> {
    let rows = db.rows("SELECT link, shares, amount FROM revenue_total WHERE run_id = $1 ORDER BY link", args![run_id]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).collect()
}

/// The same of the orders since a moment, from their rows.
pub(super) async fn totals_since(db: &mut impl Connection, run_id: i64, since: Time) -> Result<Vec<(i64, i64, i64)>, DbError> {
    // PostgreSQL sums integers as decimals.
    let rows = db
        .rows(
            "SELECT link, CAST(SUM(share) AS BIGINT), CAST(SUM(amount) AS BIGINT)
             FROM conversion WHERE run_id = $1 AND at >= $2 GROUP BY link ORDER BY link",
            args![run_id, since],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).collect()
}
