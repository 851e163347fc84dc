//! Statements of `orders`, `order_line`, `order_refund`, `order_total`, `event_type`, `event_retracted` and the tables
//! of events; and the one that tells tracking whose orders changed.

use super::EventSchema;
use crate::db::{Connection, DbError};

/// Kinds of events that were ever declared, by name.
pub async fn event_types(db: &mut impl Connection) -> Result<Vec<String>, DbError> {
    db.rows("SELECT name FROM event_type ORDER BY name", Vec::new()).await?.iter().map(|row| row.get(0)).collect()
}

/// The tables of all kinds of events that were ever declared.
pub async fn event_tables(db: &mut impl Connection) -> Result<Vec<String>, DbError> {
    Ok(event_types(db).await?.iter().map(|name| format!("did_{name}")).collect())
}

/// Adds those of `{rows}` that are not there; `$1` is now.
pub(super) fn insert_events(event: &EventSchema) -> String {
    let columns: String = event.columns().iter().map(|column| format!(", {column}")).collect();
    let values: String = (0..event.properties.len()).map(|index| format!(", v.p{index}")).collect();
    format!(
        "INSERT INTO {} (id, event_key, contact_id, known_as, at, recorded_at, revision{columns}) \
         SELECT v.id, v.k, v.c, v.w, v.t, CAST($1 AS BIGINT), v.r{values} FROM {{rows}} WHERE TRUE ON CONFLICT (event_key) DO NOTHING",
        event.table()
    )
}

/// What is known of the keys `{rows}` (`n`, `k`).
pub(super) fn look_up_events(event: &EventSchema) -> String {
    let columns: String = event.columns().iter().map(|column| format!(", e.{column}")).collect();
    format!(
        "SELECT v.n, e.id, e.contact_id, e.known_as, e.at, e.revision{columns} FROM {{rows}} CROSS JOIN {} e WHERE e.event_key = v.k",
        event.table()
    )
}

/// Changes the events `{rows}`; `$1` is now.
pub(super) fn update_events(event: &EventSchema) -> String {
    let columns: String = event.columns().iter().enumerate().map(|(index, column)| format!(", {column} = v.p{index}")).collect();
    format!(
        "UPDATE {} SET contact_id = v.c, known_as = v.w, at = v.t, recorded_at = CAST($1 AS BIGINT), revision = v.r{columns} \
         FROM {{rows}} WHERE {}.id = v.id",
        event.table(),
        event.table()
    )
}

pub(super) const ORDERS_BY_KEY: &str = "SELECT v.n, o.id, o.contact_id, o.known_as, o.at, o.currency, o.rate, o.digest, o.revision \
     FROM {rows} CROSS JOIN orders o WHERE o.order_key = v.k";

pub(super) const LINES_OF: &str = "SELECT l.order_id, l.line, l.product_id, l.product, l.category, l.quantity, l.paid, l.given_back \
     FROM {rows} CROSS JOIN order_line l WHERE l.order_id = v.id ORDER BY l.order_id, l.line";

pub(super) const REFUNDS_OF: &str = "SELECT v.n, r.refund_key, r.product_id, r.product, r.amount, r.currency, r.rate \
     FROM {rows} CROSS JOIN order_refund r WHERE r.order_key = v.k";

pub(super) const REFUNDS_BY_KEY: &str = "SELECT v.n, r.order_key, r.at, r.product_id, r.product, r.amount, r.currency, r.revision, r.contact_id \
     FROM {rows} CROSS JOIN order_refund r WHERE r.refund_key = v.k";

/// `$1` is now.
pub(super) const PUT_REFUNDS: &str = "INSERT INTO order_refund \
       (refund_key, order_key, contact_id, at, product_id, product, amount, currency, rate, revision, recorded_at) \
     SELECT v.k, v.o, v.c, v.t, v.pi, v.pn, v.a, v.cu, v.ra, v.r, CAST($1 AS BIGINT) FROM {rows} WHERE TRUE \
     ON CONFLICT (refund_key) DO UPDATE SET order_key = excluded.order_key, contact_id = excluded.contact_id, at = excluded.at, \
       product_id = excluded.product_id, product = excluded.product, amount = excluded.amount, currency = excluded.currency, \
       rate = excluded.rate, revision = excluded.revision, recorded_at = excluded.recorded_at";

/// `$1` is now.
pub(super) const INSERT_ORDERS: &str = "INSERT INTO orders \
       (id, order_key, contact_id, known_as, at, amount, refunded, void, currency, rate, digest, revision, recorded_at) \
     SELECT v.id, v.k, v.c, v.w, v.t, v.a, v.b, v.vo, v.cu, v.ra, v.d, v.r, CAST($1 AS BIGINT) FROM {rows}";

/// `$1` is now.
pub(super) const UPDATE_ORDERS: &str = "UPDATE orders SET contact_id = v.c, known_as = v.w, at = v.t, amount = v.a, refunded = v.b, \
       void = v.vo, currency = v.cu, rate = v.ra, digest = v.d, revision = v.r, recorded_at = CAST($1 AS BIGINT) \
     FROM {rows} WHERE orders.id = v.id";

pub(super) const DROP_LINES: &str = "DELETE FROM order_line WHERE order_id IN (SELECT v.id FROM {rows})";

pub(super) const INSERT_LINES: &str = "INSERT INTO order_line \
       (order_id, line, contact_id, at, product_id, product, category, quantity, paid, given_back, amount, refunded) \
     SELECT v.o, v.l, v.c, v.t, v.pi, v.pn, v.ca, v.q, v.p, v.g, v.a, v.b FROM {rows}";

pub(super) const DROP_TOTALS: &str = "DELETE FROM order_total WHERE contact_id IN (SELECT v.c FROM {rows})";

/// Adds up the orders of the people `{rows}`.
pub(super) const ADD_UP: &str = "INSERT INTO order_total (contact_id, orders, amount, first_at, last_at) \
     SELECT o.contact_id, COUNT(*), CAST(SUM(o.amount) AS BIGINT), MIN(o.at), MAX(o.at) \
     FROM {rows} CROSS JOIN orders o WHERE o.contact_id = v.c AND o.void = FALSE GROUP BY o.contact_id";

/// Tells tracking that engagement and conversions of the people `{rows}` have to be computed again (it empties the
/// table; the migration says so). `$1` is now. Written over an entry that is there: its lock keeps whoever computes them just
/// now from missing what this transaction writes.
pub(super) const DUE: &str = "INSERT INTO engagement_due (contact_id, since) SELECT v.c, CAST($1 AS BIGINT) FROM {rows} WHERE TRUE \
     ORDER BY v.c ON CONFLICT (contact_id) DO UPDATE SET since = excluded.since";
