//! Use cases on hits: writing a group, noting a withdrawal, counting for the report.

use std::collections::{BTreeMap, HashMap};

use super::judge::{BURST, Facts, bursts, judge};
use super::sql::{self, Delivery, EarlierClick, HitRow};
use super::{Hit, Kind};
use crate::clock::Time;
use crate::db::{Connection, Db, DbError, Tx};
use crate::entropy::Entropy;

/// Opens or clicks of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Hits judged human.
    pub human: i64,
    /// Hits judged machine, or not to be told from one.
    pub machine: i64,
    /// People with at least one human hit.
    pub unique: i64,
}

/// Clicks on one link of a run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LinkCounts {
    /// Position in the run's content.
    pub position: i64,
    /// Where it leads.
    pub url: String,
    /// For people.
    pub name: String,
    /// Its clicks.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What came back by link, of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RunCounts {
    /// Image loads.
    pub opens: Counts,
    /// Followed links, all together.
    pub clicks: Counts,
    /// Every link of the run, also those nobody followed.
    pub by_link: Vec<LinkCounts>,
    /// Withdrawals that came through mails of the run.
    pub unsubscribed: i64,
}

/// Counts the hits of a run. Each number equals the rows behind it.
pub async fn counts(db: &mut impl Connection, run_id: i64) -> Result<RunCounts, DbError> {
    let mut out = RunCounts::default();
    for (kind, human, machine, unique) in sql::counts_by_kind(db, run_id).await? {
        let counts = Counts { human, machine, unique };
        if kind == Kind::Open.text() {
            out.opens = counts;
        } else {
            out.clicks = counts;
        }
    }
    out.by_link = sql::counts_by_link(db, run_id)
        .await?
        .into_iter()
        .map(|(position, url, name, human, machine, unique)| LinkCounts { position, url, name, counts: Counts { human, machine, unique } })
        .collect();
    out.unsubscribed = sql::count_unsubscribes(db, run_id).await?;
    Ok(out)
}

/// Notes that a withdrawal came through `delivery_id`, for the report of its run. Does nothing for
/// a delivery that is gone or belongs to somebody else, and keeps the first time.
pub async fn note_unsubscribe(tx: &mut Tx, delivery_id: i64, contact_id: i64, at: Time, way: &str) -> Result<(), DbError> {
    sql::insert_unsubscribe(tx, delivery_id, contact_id, at, way).await.map(|_| ())
}

/// Judges and writes a group of hits in one transaction. Hits of unknown deliveries are left out.
/// Answers how many were written.
pub async fn write_group(db: &Db, entropy: &Entropy, hits: &[Hit]) -> Result<usize, DbError> {
    let mut tx = db.begin().await?;
    let mut ids: Vec<i64> = hits.iter().map(|hit| hit.delivery_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let deliveries = sql::deliveries(&mut tx, ids).await?;
    let known: Vec<(&Hit, Delivery)> = hits.iter().filter_map(|hit| Some((hit, *deliveries.get(&hit.delivery_id)?))).collect();
    if known.len() < hits.len() {
        tracing::debug!(hits = hits.len() - known.len(), "left out hits of deliveries that are not there");
    }
    if known.is_empty() {
        return tx.rollback().await.map(|()| 0);
    }
    let earlier = earlier_clicks(&mut tx, &known).await?;
    let (in_burst, earlier_in_burst) = find_bursts(&known, &earlier);
    let new_ids = entropy.ids(known[0].0.at, known.len());
    let rows: Vec<HitRow> = known
        .iter()
        .zip(&in_burst)
        .zip(new_ids)
        .map(|(((hit, delivery), burst), id)| {
            let judged = judge(hit, &Facts { sent_at: delivery.sent_at, burst: *burst });
            HitRow {
                id,
                hit: (*hit).clone(),
                run_id: delivery.run_id,
                contact_id: delivery.contact_id,
                verdict: judged.verdict,
                signals: judged.signals,
            }
        })
        .collect();
    let written = rows.len();
    sql::insert(&mut tx, rows).await?;
    if !earlier_in_burst.is_empty() {
        sql::judge_burst(&mut tx, &earlier_in_burst).await?;
    }
    tx.commit().await?;
    Ok(written)
}

async fn earlier_clicks(tx: &mut Tx, known: &[(&Hit, Delivery)]) -> Result<Vec<EarlierClick>, DbError> {
    let clicks = || known.iter().filter(|(hit, _)| hit.kind == Kind::Click);
    let Some(first) = clicks().map(|(hit, _)| hit.at).min() else { return Ok(Vec::new()) };
    let deliveries: HashMap<i64, i64> = clicks().map(|(hit, delivery)| (hit.delivery_id, delivery.contact_id)).collect();
    sql::clicks_before(tx, deliveries.into_iter().collect(), first).await
}

/// Which new hits belong to a burst, and which earlier clicks turn out to.
fn find_bursts<'a>(known: &[(&Hit, Delivery)], earlier: &'a [EarlierClick]) -> (Vec<bool>, Vec<&'a EarlierClick>) {
    enum Source {
        New(usize),
        Earlier(usize),
    }
    let mut of_delivery: BTreeMap<i64, Vec<(Time, i64, Source)>> = BTreeMap::new();
    for (index, (hit, _)) in known.iter().enumerate() {
        if let (Kind::Click, Some(link)) = (hit.kind, hit.link) {
            of_delivery.entry(hit.delivery_id).or_default().push((hit.at, link, Source::New(index)));
        }
    }
    for (index, click) in earlier.iter().enumerate() {
        of_delivery.entry(click.delivery_id).or_default().push((click.at, click.link, Source::Earlier(index)));
    }
    let mut in_burst = vec![false; known.len()];
    let mut earlier_in_burst = Vec::new();
    for clicks in of_delivery.values_mut() {
        clicks.sort_by_key(|click| click.0);
        let moments: Vec<(Time, i64)> = clicks.iter().map(|click| (click.0, click.1)).collect();
        for (click, burst) in clicks.iter().zip(bursts(&moments)) {
            match click.2 {
                Source::New(index) => in_burst[index] = burst,
                Source::Earlier(index) => {
                    let earlier = &earlier[index];
                    if burst && !earlier.signals.split(',').any(|signal| signal == BURST) {
                        earlier_in_burst.push(earlier);
                    }
                }
            }
        }
    }
    (in_burst, earlier_in_burst)
}
