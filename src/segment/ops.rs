//! Use cases: counting and listing whom a rule picks, and loading one person for judging in memory.

use std::collections::BTreeSet;

use super::compile;
use super::evaluate::{HitFact, Person, SentFact};
use super::rule::{HitKind, Rule};
use crate::args;
use crate::clock::Time;
use crate::contact::{self, Contact, Schema};
use crate::db::{Db, DbError, Value};

/// How many contacts the rule picks at the moment `now`.
pub async fn count(db: &Db, rule: &Rule, now: Time) -> Result<i64, DbError> {
    let condition = compile(rule, db.dialect(), now, 1);
    let sql = format!("SELECT COUNT(*) FROM contact c WHERE {}", condition.text);
    db.fetch_one(&sql, condition.args).await?.get(0)
}

/// The first `limit` contacts that the rule picks, by id.
pub async fn members(db: &Db, schema: &Schema, rule: &Rule, now: Time, limit: u32) -> Result<Vec<Contact>, DbError> {
    let mut condition = compile(rule, db.dialect(), now, 1);
    condition.args.push(Value::from(limit));
    let sql = format!(
        "SELECT {} FROM contact c WHERE {} ORDER BY c.id LIMIT ${}",
        contact::sql::columns(schema),
        condition.text,
        condition.args.len()
    );
    db.fetch_all(&sql, condition.args).await?.iter().map(|row| contact::sql::read(schema, row, 0)).collect()
}

/// A contact with subscriptions and history, all of one moment of the database; `None` where there
/// is no such contact.
pub async fn person(db: &Db, schema: &Schema, contact_id: i64) -> Result<Option<Person>, DbError> {
    let mut tx = db.begin_read().await?;
    let Some(contact) = contact::sql::by_ids(&mut tx, schema, &[contact_id]).await?.pop() else { return Ok(None) };
    let subscriptions = tx
        .fetch_all(
            "SELECT t.name FROM subscription s JOIN topic t ON t.id = s.topic_id \
             WHERE s.contact_id = $1 AND s.standing = 'subscribed'",
            args![contact_id],
        )
        .await?;
    let sent = tx
        .fetch_all(
            "SELECT r.campaign, t.name, d.changed_at FROM delivery d \
             LEFT JOIN run r ON r.id = d.run_id \
             LEFT JOIN topic t ON t.id = r.topic_id \
             WHERE d.contact_id = $1 AND d.state = 'sent' ORDER BY d.changed_at, d.id",
            args![contact_id],
        )
        .await?;
    let hits = tx
        .fetch_all(
            "SELECT h.kind, r.campaign, t.name, l.url, h.at, h.verdict FROM hit h \
             LEFT JOIN run r ON r.id = h.run_id \
             LEFT JOIN topic t ON t.id = r.topic_id \
             LEFT JOIN run_link l ON l.run_id = h.run_id AND l.position = h.link \
             WHERE h.contact_id = $1 AND h.kind IN ('open', 'click') ORDER BY h.at, h.id",
            args![contact_id],
        )
        .await?;
    tx.commit().await?;
    Ok(Some(Person {
        contact,
        subscriptions: subscriptions.iter().map(|row| row.get(0)).collect::<Result<BTreeSet<String>, DbError>>()?,
        sent: sent
            .iter()
            .map(|row| Ok(SentFact { campaign: row.get(0)?, topic: row.get(1)?, at: row.get(2)? }))
            .collect::<Result<_, DbError>>()?,
        hits: hits
            .iter()
            .map(|row| {
                let kind = if row.get::<String>(0)? == HitKind::Open.as_str() { HitKind::Open } else { HitKind::Click };
                let human = row.get::<String>(5)? == "human";
                Ok(HitFact { kind, campaign: row.get(1)?, topic: row.get(2)?, url: row.get(3)?, at: row.get(4)?, human })
            })
            .collect::<Result<_, DbError>>()?,
    }))
}
