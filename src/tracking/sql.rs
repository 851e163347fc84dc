//! Statements of the tables `hit` and `unsubscribe`.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use super::judge::{BURST_MS, with_burst};
use super::ops::Counts;
use crate::clock::Time;
use crate::db::{ColumnData, Connection, DbError, Row, Rows, Tx};

/// A delivery as tracking needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    pub run_id: i64,
    pub contact_id: i64,
    /// When it was sent, where that is known already.
    pub sent_at: Option<Time>,
}

/// One row of `hit`, ready to be written.
#[derive(Debug, Clone)]
pub(super) struct HitRow {
    pub hit: super::Hit,
    pub run_id: i64,
    pub contact_id: i64,
    pub verdict: Verdict,
    pub signals: String,
}

/// A click written earlier.
#[derive(Debug, Clone)]
pub(super) struct EarlierClick {
    pub id: i64,
    pub delivery_id: i64,
    pub link: i64,
    pub at: Time,
    pub signals: String,
}

/// The deliveries among `ids` that exist, and whose person does: who opens the mail of somebody who was erased
/// leaves no trace.
pub(super) async fn deliveries(tx: &mut Tx, ids: Vec<i64>) -> Result<HashMap<i64, Delivery>, DbError> {
    let found = tx
        .bulk_fetch(
            "SELECT d.id, d.run_id, d.contact_id, CASE WHEN d.state = 'sent' THEN d.changed_at END
             FROM {rows} JOIN delivery d ON d.id = v.id JOIN contact c ON c.id = d.contact_id",
            Vec::new(),
            Rows::new().i64("id", ids),
        )
        .await?;
    found.iter().map(|row| Ok((row.get(0)?, Delivery { run_id: row.get(1)?, contact_id: row.get(2)?, sent_at: row.get(3)? }))).collect()
}

/// The runs among `ids` that exist.
pub(super) async fn runs(tx: &mut Tx, ids: Vec<i64>) -> Result<HashSet<i64>, DbError> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let found = tx.bulk_fetch("SELECT r.id FROM {rows} JOIN run r ON r.id = v.id", Vec::new(), Rows::new().i64("id", ids)).await?;
    found.iter().map(|row| row.get(0)).collect()
}

/// Clicks of these deliveries (with their contacts, whose index is used) from shortly before `first`.
pub(super) async fn clicks_before(tx: &mut Tx, deliveries: Vec<(i64, i64)>, first: Time) -> Result<Vec<EarlierClick>, DbError> {
    let (ids, contacts): (Vec<i64>, Vec<i64>) = deliveries.into_iter().unzip();
    let found = tx
        .bulk_fetch(
            "SELECT h.id, h.delivery_id, h.link, h.at, h.signals
             FROM {rows} JOIN hit h ON h.contact_id = v.contact_id AND h.kind = 'click' AND h.at >= $1 AND h.delivery_id = v.id
             WHERE h.link IS NOT NULL",
            crate::args![first.plus(-BURST_MS)],
            Rows::new().i64("id", ids).i64("contact_id", contacts),
        )
        .await?;
    found
        .iter()
        .map(|row| Ok(EarlierClick { id: row.get(0)?, delivery_id: row.get(1)?, link: row.get(2)?, at: row.get(3)?, signals: row.get(4)? }))
        .collect()
}

/// Writes hits.
pub(super) async fn insert(tx: &mut Tx, hits: Vec<HitRow>) -> Result<u64, DbError> {
    let rows = Rows::new()
        .i64("id", hits.iter().map(|row| row.hit.id))
        .i64("at", hits.iter().map(|row| row.hit.at.millis()))
        .text("kind", hits.iter().map(|row| row.hit.kind.text()))
        .i64("delivery_id", hits.iter().map(|row| row.hit.delivery_id))
        .i64("run_id", hits.iter().map(|row| row.run_id))
        .i64("contact_id", hits.iter().map(|row| row.contact_id))
        .opt_i64("link", hits.iter().map(|row| row.hit.link).collect())
        .text("verdict", hits.iter().map(|row| row.verdict.text()))
        .text("signals", hits.iter().map(|row| row.signals.as_str()))
        .opt_text("ip", hits.iter().map(|row| row.hit.ip.clone()).collect())
        .opt_text("agent", hits.iter().map(|row| row.hit.agent.clone()).collect())
        .column("looked", ColumnData::Bool(hits.iter().map(|row| Some(row.hit.looked)).collect()))
        .opt_text("traits", hits.iter().map(|row| row.hit.traits.clone()).collect());
    tx.bulk(
        "INSERT INTO hit (id, at, kind, delivery_id, run_id, contact_id, link, verdict, signals, ip, agent, looked, traits)
         SELECT v.id, v.at, v.kind, v.delivery_id, v.run_id, v.contact_id, v.link, v.verdict, v.signals, v.ip, v.agent, v.looked, v.traits
         FROM {rows}",
        Vec::new(),
        rows,
    )
    .await
}

/// Clicks that turned out to be part of a burst.
pub(super) async fn judge_burst(tx: &mut Tx, clicks: &[&EarlierClick]) -> Result<u64, DbError> {
    let rows =
        Rows::new().i64("id", clicks.iter().map(|click| click.id)).text("signals", clicks.iter().map(|click| with_burst(&click.signals)));
    tx.bulk(
        "UPDATE hit
         SET verdict = $1, signals = v.signals
         FROM {rows}
         WHERE hit.id = v.id",
        crate::args![Verdict::Machine.text()],
        rows,
    )
    .await
}

/// Notes a withdrawal that came through a mail; the first one of a delivery stays.
pub(super) async fn insert_unsubscribe(tx: &mut Tx, delivery_id: i64, contact_id: i64, at: Time, way: &str) -> Result<u64, DbError> {
    tx.execute(
        "INSERT INTO unsubscribe (delivery_id, run_id, contact_id, at, way)
         SELECT d.id, d.run_id, d.contact_id, $3, $4
         FROM delivery d
         WHERE d.id = $1 AND d.contact_id = $2
         ON CONFLICT (delivery_id) DO NOTHING",
        crate::args![delivery_id, contact_id, at, way],
    )
    .await
}

/// Kind, and its hits.
pub(super) async fn counts_by_kind(db: &mut impl Connection, run_id: i64) -> Result<Vec<(String, Counts)>, DbError> {
    let rows = db
        .rows(
            "SELECT kind,
                    COUNT(*) FILTER (WHERE verdict = 'human'),
                    COUNT(*) FILTER (WHERE verdict = 'machine'),
                    COUNT(DISTINCT contact_id) FILTER (WHERE verdict = 'human' AND contact_id <> 0),
                    COUNT(*) FILTER (WHERE verdict = 'human' AND contact_id = 0)
             FROM hit
             WHERE run_id = $1
             GROUP BY kind",
            crate::args![run_id],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, read_counts(row, 1)?))).collect()
}

fn read_counts(row: &Row, first: usize) -> Result<Counts, DbError> {
    Ok(Counts { human: row.get(first)?, machine: row.get(first + 1)?, unique: row.get(first + 2)?, anonymous: row.get(first + 3)? })
}

/// Position, address, name and clicks of every link of a run.
pub(super) async fn counts_by_link(db: &mut impl Connection, run_id: i64) -> Result<Vec<(i64, String, String, Counts)>, DbError> {
    let rows = db
        .rows(
            "SELECT l.position, l.url, l.name,
                    COUNT(h.id) FILTER (WHERE h.verdict = 'human'),
                    COUNT(h.id) FILTER (WHERE h.verdict = 'machine'),
                    COUNT(DISTINCT h.contact_id) FILTER (WHERE h.verdict = 'human' AND h.contact_id <> 0),
                    COUNT(h.id) FILTER (WHERE h.verdict = 'human' AND h.contact_id = 0)
             FROM run_link l
             LEFT JOIN hit h ON h.run_id = l.run_id AND h.kind = 'click' AND h.link = l.position
             WHERE l.run_id = $1
             GROUP BY l.position, l.url, l.name
             ORDER BY l.position",
            crate::args![run_id],
        )
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, read_counts(row, 3)?))).collect()
}

/// Withdrawals that came through mails of a run.
pub(super) async fn count_unsubscribes(db: &mut impl Connection, run_id: i64) -> Result<i64, DbError> {
    let rows = db.rows("SELECT COUNT(*) FROM unsubscribe WHERE run_id = $1", crate::args![run_id]).await?;
    rows.first().map_or(Ok(0), |row| row.get(0))
}
