//! Use cases: recording, erasing. Merging people is [`super::merge`]'s.

use std::collections::{BTreeMap, BTreeSet};

use super::record_orders::{self, alone};
use super::{EventSchema, Item, Person, Verdict, Who, record_events, resolve, sql};
use crate::args;
use crate::clock::Time;
use crate::consent;
use crate::consent::suppression::Digests;
use crate::contact::{AttributeValue, Schema};
use crate::db::{Connection, Db, DbError, Tx};
use crate::entropy::Entropy;

pub use super::schema::ensure_tables;

/// Nobody: whose orders are those of people who were erased.
pub const NOBODY: Person = Person { contact_id: 0, known_as: 0 };

/// What recording works with.
#[derive(Debug, Clone, Copy)]
pub struct Recording<'a> {
    /// Declared kinds of events, by name; their tables are there ([`ensure_tables`]).
    pub events: &'a BTreeMap<String, EventSchema>,
    /// Declared attributes, for people who are made.
    pub schema: &'a Schema,
    /// For the addresses of people who were erased.
    pub digests: &'a Digests,
    /// Makes ids.
    pub entropy: &'a Entropy,
    /// Make known contacts, without any permission, of people nobody knows.
    pub create: bool,
}

/// What recording did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// One for each item, in their order.
    pub verdicts: Vec<Verdict>,
    /// People who were made.
    pub people: u64,
    /// Refunds whose order has not come so far: they wait for it.
    pub waiting: u64,
}

/// Records what happened. An item that cannot be taken harms no other; the same items, in whatever order and however
/// often they come, leave the same rows (of two statements without a revision the later one holds).
pub async fn record(tx: &mut Tx, with: &Recording<'_>, items: Vec<Item>, now: Time) -> Result<Recorded, DbError> {
    if items.iter().any(|item| !matches!(item, Item::Event { .. })) {
        alone(tx).await?;
    }
    let (people, made) = people_of(tx, with, &items, now).await?;
    let mut verdicts = vec![Verdict::Unchanged; items.len()];
    let mut events: BTreeMap<String, Vec<record_events::Placed>> = BTreeMap::new();
    let (mut orders, mut refunds) = (Vec::new(), Vec::new());
    for ((place, item), person) in items.into_iter().enumerate().zip(people) {
        let person = match person {
            Ok(person) => person,
            Err(reason) => {
                let field = if item.who().address.is_some() || item.who().external_id.is_none() { "email" } else { "external_id" };
                verdicts[place] = Verdict::Rejected { field, reason };
                continue;
            }
        };
        match item {
            Item::Event { kind, event } => events.entry(kind).or_default().push(record_events::Placed { place, person, event }),
            Item::Order(what) => orders.push(record_orders::Placed { place, person, what }),
            Item::Refund(what) => refunds.push(record_orders::Placed { place, person, what }),
        }
    }
    for (kind, events) in events {
        let Some(schema) = with.events.get(&kind) else {
            return Err(DbError::Unexpected(format!("there is no kind of events `{kind}`")));
        };
        record_events::record(tx, schema, with.entropy, events, &mut verdicts, now).await?;
    }
    let waiting = if orders.is_empty() && refunds.is_empty() {
        0
    } else {
        record_orders::record(tx, with.entropy, orders, refunds, &mut verdicts, now).await?
    };
    Ok(Recorded { verdicts, people: made, waiting })
}

/// The person of each item, or why there is none; and how many were made.
async fn people_of(tx: &mut Tx, with: &Recording<'_>, items: &[Item], now: Time) -> Result<(Vec<Result<Person, String>>, u64), DbError> {
    let nobody = Who::default();
    let who: Vec<&Who> = items.iter().map(|item| if needs_nobody(item) { &nobody } else { item.who() }).collect();
    let mut people = resolve(tx, &who).await?;
    let mut made = 0;
    if with.create {
        let mut created: BTreeMap<&str, Person> = BTreeMap::new();
        for (who, person) in who.iter().zip(&mut people) {
            let (Err(_), Some(address)) = (&person, &who.address) else { continue };
            let found = match created.get(address.key()) {
                Some(found) => *found,
                None => {
                    let number = who.external_id.as_ref().map(|number| ("external_id", AttributeValue::Text(number.to_string())));
                    let fields: Vec<_> = number.into_iter().collect();
                    let added = consent::ops::make_known(tx, with.schema, with.entropy, with.digests, now, address, &fields).await?;
                    made += u64::from(added.added);
                    let found = Person { contact_id: added.id, known_as: added.id };
                    created.insert(address.key(), found);
                    found
                }
            };
            *person = Ok(found);
        }
    }
    for (item, person) in items.iter().zip(&mut people) {
        if needs_nobody(item) {
            *person = Ok(NOBODY);
        }
    }
    Ok((people, made))
}

/// A retraction is found by its id, a refund by its order.
fn needs_nobody(item: &Item) -> bool {
    match item {
        Item::Event { event, .. } => event.retracted,
        Item::Refund(refund) => refund.who.is_empty(),
        Item::Order(_) => false,
    }
}

/// Forgets what somebody did: their events go, also of kinds that are declared no more. Their orders stay as nobody's,
/// each under a number of its own in place of the shop's, without the names of products, so that sums of the past are
/// right and nothing leads to the person.
pub async fn forget_contact(tx: &mut Tx, contact_id: i64, entropy: &Entropy, now: Time) -> Result<(), DbError> {
    for table in sql::event_tables(tx).await? {
        tx.execute(&format!("DELETE FROM {table} WHERE contact_id = $1"), args![contact_id]).await?;
        // What was said of them before they were merged into somebody else.
        let merged =
            format!("DELETE FROM {table} WHERE known_as = $1 AND contact_id IN (SELECT kept_id FROM contact_merge WHERE gone_id = $1)");
        tx.execute(&merged, args![contact_id]).await?;
    }
    let (mut orders, mut others): (Vec<i64>, BTreeSet<i64>) = (Vec::new(), BTreeSet::new());
    for sql in [
        "SELECT id, contact_id FROM orders WHERE contact_id = $1",
        "SELECT id, contact_id FROM orders WHERE known_as = $1 AND contact_id <> $1",
    ] {
        for row in tx.fetch_all(sql, args![contact_id]).await? {
            orders.push(row.get(0)?);
            others.insert(row.get(1)?);
        }
    }
    others.remove(&contact_id);
    let rows = || crate::db::Rows::new().i64("id", orders.iter().copied());
    let of_them = "order_key IN (SELECT o.order_key FROM {rows} CROSS JOIN orders o WHERE o.id = v.id)";
    tx.bulk(&format!("DELETE FROM order_refund WHERE {of_them}"), Vec::new(), rows()).await?;
    tx.execute("DELETE FROM order_refund WHERE contact_id = $1", args![contact_id]).await?;
    let numbers: Vec<String> = entropy.ids(now, orders.len()).map(|id| format!("erased:{id}")).collect();
    tx.bulk(
        "UPDATE orders SET contact_id = 0, known_as = 0, order_key = v.k, digest = '' FROM {rows} WHERE orders.id = v.id",
        Vec::new(),
        rows().text("k", numbers),
    )
    .await?;
    tx.bulk("UPDATE order_line SET contact_id = 0, product = NULL FROM {rows} WHERE order_line.order_id = v.id", Vec::new(), rows())
        .await?;
    tx.execute("DELETE FROM order_total WHERE contact_id = $1", args![contact_id]).await?;
    tx.execute("DELETE FROM engagement_due WHERE contact_id = $1", args![contact_id]).await?;
    record_orders::add_up(tx, &others, now).await
}

/// How many events are older than `before`.
pub async fn count_old_events(db: &mut impl Connection, before: Time) -> Result<u64, DbError> {
    let mut count = 0;
    for table in sql::event_tables(db).await? {
        let rows = db.rows(&format!("SELECT COUNT(*) FROM {table} WHERE at < $1"), args![before]).await?;
        count += rows.first().map_or(Ok(0), |row| row.get::<i64>(0))?.unsigned_abs();
    }
    Ok(count)
}

/// Deletes events older than `before`, `block` of them in each transaction. Answers how many.
pub async fn drop_old_events(db: &Db, before: Time, block: i64) -> Result<u64, DbError> {
    let mut count = 0;
    for table in sql::event_tables(&mut db.clone()).await? {
        let sql = format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE at < $1 ORDER BY at LIMIT $2)");
        loop {
            let dropped = db.execute(&sql, args![before, block]).await?;
            count += dropped;
            if dropped < block.unsigned_abs() {
                break;
            }
        }
    }
    Ok(count)
}
