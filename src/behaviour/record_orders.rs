//! Orders and refunds into their tables, and what is added up of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::money::{check_order, convert};
use super::orders::{self, Line, Refund, Sums};
use super::{NewOrder, NewRefund, Person, Verdict, sql};
use crate::args;
use crate::clock::Time;
use crate::db::{ColumnData, DbError, Dialect, Rows, Tx};
use crate::entropy::Entropy;

/// An arbitrary constant: whoever changes orders does so alone on PostgreSQL, so that sums are of all orders. (SQLite
/// has one writer anyway.)
const ADVISORY_LOCK: i64 = 0x6f70_7469_6e00_0005;

/// An order or refund with its place in what was sent and its person.
pub(super) struct Placed<T> {
    pub place: usize,
    pub person: Person,
    pub what: T,
}

/// An order to be written.
struct Settled {
    id: i64,
    key: Arc<str>,
    person: Person,
    at: Time,
    currency: Arc<str>,
    rate: f64,
    digest: String,
    revision: i64,
    lines: Vec<Line>,
    sums: Sums,
    /// It has no row yet.
    new: bool,
}

/// An order as it is stored.
struct Stored {
    id: i64,
    person: Person,
    at: Time,
    currency: String,
    rate: f64,
    digest: String,
    revision: i64,
}

/// Waits until nobody else changes orders, to the end of the transaction. Taken before any other lock.
pub(super) async fn alone(tx: &mut Tx) -> Result<(), DbError> {
    if tx.dialect() == Dialect::Postgres {
        tx.fetch_all("SELECT CAST(pg_advisory_xact_lock($1) AS TEXT)", args![ADVISORY_LOCK]).await?;
    }
    Ok(())
}

/// Records orders and refunds. What became of each goes to its place in `verdicts`. Answers how many of the refunds
/// have no order so far.
pub(super) async fn record(
    tx: &mut Tx,
    entropy: &Entropy,
    orders: Vec<Placed<NewOrder>>,
    refunds: Vec<Placed<NewRefund>>,
    verdicts: &mut [Verdict],
    now: Time,
) -> Result<u64, DbError> {
    let orders = one_a_key(orders, |order| (&order.key, order.revision), verdicts);
    let refunds = one_a_key(refunds, |refund| (&refund.key, refund.revision), verdicts);
    let mut touched: BTreeSet<Arc<str>> = put_refunds(tx, &refunds, verdicts, now).await?;
    let keys: BTreeSet<Arc<str>> = orders.iter().map(|placed| placed.what.key.clone()).chain(touched.iter().cloned()).collect();
    let keys: Vec<Arc<str>> = keys.into_iter().chain(refunds.iter().map(|placed| placed.what.order.clone())).collect();
    let stored = stored_orders(tx, &keys).await?;
    let mut changed: Vec<Settled> = Vec::new();
    let mut people: BTreeSet<i64> = BTreeSet::new();
    for placed in orders {
        let known = stored.get(&placed.what.key);
        if let Some(settled) = stated(entropy, placed, known, verdicts, now) {
            people.extend(known.map(|known| known.person.contact_id));
            touched.remove(&settled.key);
            changed.push(settled);
        }
    }
    let arrived: BTreeSet<&Arc<str>> = changed.iter().map(|order| &order.key).collect();
    let waiting = refunds.iter().filter(|placed| !stored.contains_key(&placed.what.order) && !arrived.contains(&placed.what.order)).count();
    // Orders of which only something was given back.
    changed.extend(again(tx, &touched, &stored).await?);
    settle(tx, &mut changed).await?;
    write(tx, &changed, now).await?;
    people.extend(changed.iter().map(|order| order.person.contact_id));
    add_up(tx, &people, now).await?;
    Ok(waiting as u64)
}

/// Of several with one key keeps the one that holds, ordered by key.
fn one_a_key<T>(mut placed: Vec<Placed<T>>, key: impl Fn(&T) -> (&Arc<str>, i64), verdicts: &mut [Verdict]) -> Vec<Placed<T>> {
    placed.sort_by(|left, right| key(&left.what).0.cmp(key(&right.what).0).then(left.place.cmp(&right.place)));
    let mut kept: Vec<Placed<T>> = Vec::with_capacity(placed.len());
    for next in placed {
        match kept.last_mut() {
            Some(last) if key(&last.what).0 == key(&next.what).0 => {
                let later = key(&next.what).1 >= key(&last.what).1;
                verdicts[if later { last.place } else { next.place }] = Verdict::Unchanged;
                if later {
                    *last = next;
                }
            }
            _ => kept.push(next),
        }
    }
    kept
}

/// Stores refunds; answers the orders they are of, where something changed.
async fn put_refunds(
    tx: &mut Tx,
    refunds: &[Placed<NewRefund>],
    verdicts: &mut [Verdict],
    now: Time,
) -> Result<BTreeSet<Arc<str>>, DbError> {
    let mut touched = BTreeSet::new();
    if refunds.is_empty() {
        return Ok(touched);
    }
    let keys = Rows::new().i64("n", 0..refunds.len() as i64).shared("k", refunds.iter().map(|placed| placed.what.key.clone()));
    let mut keeps: BTreeSet<usize> = BTreeSet::new();
    for placed in refunds {
        verdicts[placed.place] = Verdict::Added;
    }
    for row in tx.bulk_fetch(sql::REFUNDS_BY_KEY, Vec::new(), keys).await? {
        let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
        let Some(Placed { place, person, what: refund }) = refunds.get(index) else { continue };
        let order: String = row.get(1)?;
        let alike = *order == *refund.order
            && row.get::<Time>(2)? == refund.at
            && row.get::<Option<String>>(3)?.as_deref() == refund.product_id.as_deref()
            && row.get::<Option<String>>(4)?.as_deref() == refund.product.as_deref()
            && row.get::<Option<i64>>(5)? == refund.amount
            && row.get::<String>(6)? == *refund.currency
            && row.get::<i64>(8)? == person.contact_id;
        verdicts[*place] = Verdict::Unchanged;
        if alike || row.get::<i64>(7)? > refund.revision {
            keeps.insert(index);
        } else {
            verdicts[*place] = Verdict::Updated;
            touched.insert(Arc::from(order));
        }
    }
    let written: Vec<&Placed<NewRefund>> =
        refunds.iter().enumerate().filter(|(index, _)| !keeps.contains(index)).map(|(_, placed)| placed).collect();
    touched.extend(written.iter().map(|placed| placed.what.order.clone()));
    let text = |value: &Option<Arc<str>>| value.clone();
    let rows = Rows::new()
        .shared("k", written.iter().map(|placed| placed.what.key.clone()))
        .shared("o", written.iter().map(|placed| placed.what.order.clone()))
        .i64("c", written.iter().map(|placed| placed.person.contact_id))
        .i64("t", written.iter().map(|placed| placed.what.at.millis()))
        .column("pi", ColumnData::Shared(written.iter().map(|placed| text(&placed.what.product_id)).collect()))
        .column("pn", ColumnData::Shared(written.iter().map(|placed| text(&placed.what.product)).collect()))
        .opt_i64("a", written.iter().map(|placed| placed.what.amount).collect())
        .shared("cu", written.iter().map(|placed| placed.what.currency.clone()))
        .column("ra", ColumnData::F64(written.iter().map(|placed| Some(placed.what.rate)).collect()))
        .i64("r", written.iter().map(|placed| placed.what.revision));
    tx.bulk(sql::PUT_REFUNDS, args![now], rows).await?;
    Ok(touched)
}

async fn stored_orders(tx: &mut Tx, keys: &[Arc<str>]) -> Result<HashMap<Arc<str>, Stored>, DbError> {
    let rows = Rows::new().i64("n", 0..keys.len() as i64).shared("k", keys.iter().cloned());
    let mut stored = HashMap::new();
    for row in tx.bulk_fetch(sql::ORDERS_BY_KEY, Vec::new(), rows).await? {
        let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
        let Some(key) = keys.get(index) else { continue };
        let order = Stored {
            id: row.get(1)?,
            person: Person { contact_id: row.get(2)?, known_as: row.get(3)? },
            at: row.get(4)?,
            currency: row.get(5)?,
            rate: row.get(6)?,
            digest: row.get(7)?,
            revision: row.get(8)?,
        };
        stored.insert(key.clone(), order);
    }
    Ok(stored)
}

/// The order as it is to be written; nothing where what is stored says the same, or something newer.
fn stated(entropy: &Entropy, placed: Placed<NewOrder>, known: Option<&Stored>, verdicts: &mut [Verdict], now: Time) -> Option<Settled> {
    let Placed { place, person, what: order } = placed;
    let digest = orders::digest(&order);
    // An order that is corrected keeps the rate of the day it was recorded.
    let rate = known.filter(|known| *known.currency == *order.currency).map_or(order.rate, |known| known.rate);
    let lines = orders::lines_of(&order, rate);
    if let Err(reason) = check_order(lines.iter().flat_map(|line| [line.paid, line.given_back])) {
        verdicts[place] = Verdict::Rejected { field: "amount", reason };
        return None;
    }
    if let Some(known) = known {
        let alike = known.digest == digest && known.person == person;
        verdicts[place] = if alike || known.revision > order.revision { Verdict::Unchanged } else { Verdict::Updated };
        if known.revision > order.revision || (alike && known.revision == order.revision) {
            return None;
        }
    } else {
        verdicts[place] = Verdict::Added;
    }
    Some(Settled {
        id: known.map_or_else(|| entropy.id(now), |known| known.id),
        lines,
        key: order.key,
        person,
        at: order.at,
        currency: order.currency,
        rate,
        digest,
        revision: order.revision,
        sums: Sums { amount: 0, refunded: 0, void: false },
        new: known.is_none(),
    })
}

/// Stored orders, with their lines, to be settled again.
async fn again(tx: &mut Tx, keys: &BTreeSet<Arc<str>>, stored: &HashMap<Arc<str>, Stored>) -> Result<Vec<Settled>, DbError> {
    let known: Vec<(&Arc<str>, &Stored)> = keys.iter().filter_map(|key| Some((key, stored.get(key)?))).collect();
    let mut lines: HashMap<i64, Vec<Line>> = HashMap::new();
    for row in tx.bulk_fetch(sql::LINES_OF, Vec::new(), Rows::new().i64("id", known.iter().map(|(_, order)| order.id))).await? {
        let paid: i64 = row.get(6)?;
        lines.entry(row.get(0)?).or_default().push(Line {
            product_id: row.get(2)?,
            product: row.get(3)?,
            category: row.get(4)?,
            quantity: row.get(5)?,
            paid,
            given_back: row.get(7)?,
            amount: paid,
            refunded: false,
        });
    }
    let order = |(key, order): (&Arc<str>, &Stored)| Settled {
        id: order.id,
        key: key.clone(),
        person: order.person,
        at: order.at,
        currency: Arc::from(order.currency.as_str()),
        rate: order.rate,
        digest: order.digest.clone(),
        revision: order.revision,
        lines: lines.remove(&order.id).unwrap_or_default(),
        sums: Sums { amount: 0, refunded: 0, void: false },
        new: false,
    };
    Ok(known.into_iter().map(order).collect())
}

/// Takes refunds off orders.
async fn settle(tx: &mut Tx, orders: &mut [Settled]) -> Result<(), DbError> {
    let mut refunds: HashMap<usize, Vec<Refund>> = HashMap::new();
    if !orders.is_empty() && tx.fetch_optional("SELECT 1 FROM order_refund LIMIT 1", Vec::new()).await?.is_some() {
        let keys = Rows::new().i64("n", 0..orders.len() as i64).shared("k", orders.iter().map(|order| order.key.clone()));
        for row in tx.bulk_fetch(sql::REFUNDS_OF, Vec::new(), keys).await? {
            let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
            let Some(order) = orders.get(index) else { continue };
            // In the order's own currency, its rate holds: what was paid and what was given back are alike.
            let currency: String = row.get(5)?;
            let rate = if currency.is_empty() || currency == *order.currency { order.rate } else { row.get(6)? };
            refunds.entry(index).or_default().push(Refund {
                key: row.get(1)?,
                product_id: row.get(2)?,
                product: row.get(3)?,
                amount: row.get::<Option<i64>>(4)?.map(|amount| convert(amount, rate)),
            });
        }
    }
    for (index, order) in orders.iter_mut().enumerate() {
        order.sums = orders::settle(&mut order.lines, refunds.get(&index).map_or(&[], Vec::as_slice));
    }
    Ok(())
}

async fn write(tx: &mut Tx, orders: &[Settled], now: Time) -> Result<(), DbError> {
    let (new, known): (Vec<&Settled>, Vec<&Settled>) = orders.iter().partition(|order| order.new);
    tx.bulk(sql::INSERT_ORDERS, args![now], rows_of(&new)).await?;
    if !known.is_empty() {
        tx.bulk(sql::UPDATE_ORDERS, args![now], rows_of(&known)).await?;
        tx.bulk(sql::DROP_LINES, Vec::new(), Rows::new().i64("id", known.iter().map(|order| order.id))).await?;
    }
    let each: Vec<(&Settled, i64, &Line)> =
        orders.iter().flat_map(|order| order.lines.iter().zip(1_i64..).map(move |(line, number)| (order, number, line))).collect();
    let rows = Rows::new()
        .i64("o", each.iter().map(|(order, _, _)| order.id))
        .i64("l", each.iter().map(|(_, number, _)| *number))
        .i64("c", each.iter().map(|(order, _, _)| order.person.contact_id))
        .i64("t", each.iter().map(|(order, _, _)| order.at.millis()))
        .opt_text("pi", each.iter().map(|(_, _, line)| line.product_id.clone()).collect())
        .opt_text("pn", each.iter().map(|(_, _, line)| line.product.clone()).collect())
        .opt_text("ca", each.iter().map(|(_, _, line)| line.category.clone()).collect())
        .column("q", ColumnData::F64(each.iter().map(|(_, _, line)| Some(line.quantity)).collect()))
        .i64("p", each.iter().map(|(_, _, line)| line.paid))
        .i64("g", each.iter().map(|(_, _, line)| line.given_back))
        .i64("a", each.iter().map(|(_, _, line)| line.amount))
        .column("b", ColumnData::Bool(each.iter().map(|(_, _, line)| Some(line.refunded)).collect()));
    tx.bulk(sql::INSERT_LINES, Vec::new(), rows).await?;
    Ok(())
}

fn rows_of(orders: &[&Settled]) -> Rows {
    Rows::new()
        .i64("id", orders.iter().map(|order| order.id))
        .shared("k", orders.iter().map(|order| order.key.clone()))
        .i64("c", orders.iter().map(|order| order.person.contact_id))
        .i64("w", orders.iter().map(|order| order.person.known_as))
        .i64("t", orders.iter().map(|order| order.at.millis()))
        .i64("a", orders.iter().map(|order| order.sums.amount))
        .i64("b", orders.iter().map(|order| order.sums.refunded))
        .column("vo", ColumnData::Bool(orders.iter().map(|order| Some(order.sums.void)).collect()))
        .shared("cu", orders.iter().map(|order| order.currency.clone()))
        .column("ra", ColumnData::F64(orders.iter().map(|order| Some(order.rate)).collect()))
        .text("d", orders.iter().map(|order| order.digest.as_str()))
        .i64("r", orders.iter().map(|order| order.revision))
}

/// Adds up the orders of people again, and tells tracking. Sums are always made from the rows, so they equal them.
pub(super) async fn add_up(tx: &mut Tx, people: &BTreeSet<i64>, now: Time) -> Result<(), DbError> {
    let people: Vec<i64> = people.iter().copied().filter(|contact_id| *contact_id != 0).collect();
    let rows = || Rows::new().i64("c", people.iter().copied());
    tx.bulk(sql::DROP_TOTALS, Vec::new(), rows()).await?;
    tx.bulk(sql::ADD_UP, Vec::new(), rows()).await?;
    tx.bulk(sql::DUE, args![now], rows()).await?;
    Ok(())
}
