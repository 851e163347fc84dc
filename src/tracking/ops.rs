//! Use cases on hits: writing a group, noting a withdrawal, counting for the report.

use std::collections::{BTreeMap, HashMap};

use super::judge::{BURST, Facts, bursts, judge};
use super::sql::{self, Delivery, EarlierClick, HitRow};
use super::{Hit, Kind, Mark};
use crate::clock::Time;
use crate::consent::tracking::TrackingRules;
use crate::consent::{self, Tracking};
use crate::db::{Connection, Db, DbError, Tx};

/// Opens or clicks of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Hits judged human.
    pub human: i64,
    /// Hits judged machine, or not to be told from one.
    pub machine: i64,
    /// People with at least one human hit; nobody knows how many stand behind hits that are counted anonymously.
    pub unique: i64,
    /// Human hits that are counted anonymously.
    pub anonymous: i64,
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
    for (kind, counts) in sql::counts_by_kind(db, run_id).await? {
        if kind == Kind::Open.text() {
            out.opens = counts;
        } else {
            out.clicks = counts;
        }
    }
    out.by_link = sql::counts_by_link(db, run_id)
        .await?
        .into_iter()
        .map(|(position, url, name, counts)| LinkCounts { position, url, name, counts })
        .collect();
    out.unsubscribed = sql::count_unsubscribes(db, run_id).await?;
    Ok(out)
}

/// Notes that a withdrawal came through `delivery_id`, for the report of its run. Does nothing for
/// a delivery that is gone or belongs to somebody else, and keeps the first time.
pub async fn note_unsubscribe(tx: &mut Tx, delivery_id: i64, contact_id: i64, at: Time, way: &str) -> Result<(), DbError> {
    sql::insert_unsubscribe(tx, delivery_id, contact_id, at, way).await.map(|_| ())
}

/// Judges and writes a group of hits in one transaction. Left out are hits of unknown deliveries and runs, and of
/// people who are not to be tracked now, however long ago the mail left; of those who are counted
/// anonymously, neither delivery, address nor agent is kept. Answers how many were written.
///
/// The ids of the rows are those of the hits. With a `mark`, the position of the log they come from moves on in
/// the same transaction, also where all of them are left out; a group that is written already is not written again.
pub async fn write_group(db: &Db, rules: &TrackingRules, hits: &[Hit], mark: Option<&Mark<'_>>) -> Result<usize, DbError> {
    let mut tx = db.begin().await?;
    if let Some(mark) = mark
        && !mark.advance(&mut tx).await?
    {
        tracing::warn!(log = mark.log, from = mark.from, "this part of the log of hits is written already");
        return tx.rollback().await.map(|()| 0);
    }
    let known = look_up(&mut tx, rules, hits).await?;
    if known.len() < hits.len() {
        tracing::debug!(hits = hits.len() - known.len(), "left out hits of mails that are not there, or of people who are not tracked");
    }
    if known.is_empty() {
        return tx.commit().await.map(|()| 0);
    }
    let earlier = earlier_clicks(&mut tx, &known).await?;
    let (in_burst, earlier_in_burst) = find_bursts(&known, &earlier);
    let rows: Vec<HitRow> = known
        .iter()
        .zip(&in_burst)
        .map(|(known, burst)| {
            let judged = judge(known.hit, &Facts { sent_at: known.delivery.sent_at, burst: *burst });
            let hit = known.hit.clone();
            HitRow {
                hit: if known.anonymous { hit.forgetful() } else { hit },
                run_id: known.delivery.run_id,
                contact_id: if known.anonymous { 0 } else { known.delivery.contact_id },
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

/// A hit that is to be written.
struct Known<'a> {
    hit: &'a Hit,
    delivery: Delivery,
    /// Counted, without a trace of whose it is.
    anonymous: bool,
}

async fn look_up<'a>(tx: &mut Tx, rules: &TrackingRules, hits: &'a [Hit]) -> Result<Vec<Known<'a>>, DbError> {
    let unique = |mut ids: Vec<i64>| {
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let named = hits.iter().filter(|hit| hit.anonymous_run.is_none());
    let deliveries = sql::deliveries(tx, unique(named.map(|hit| hit.delivery_id).collect())).await?;
    let people = unique(deliveries.values().map(|delivery| delivery.contact_id).collect());
    let tracking = consent::tracking::effective(tx, rules, &people).await?;
    let runs = sql::runs(tx, unique(hits.iter().filter_map(|hit| hit.anonymous_run).collect())).await?;
    let known = |hit: &'a Hit| match hit.anonymous_run {
        Some(run_id) => {
            let delivery = Delivery { run_id, contact_id: 0, sent_at: None };
            runs.contains(&run_id).then_some(Known { hit, delivery, anonymous: true })
        }
        None => {
            let delivery = *deliveries.get(&hit.delivery_id)?;
            let anonymous = match tracking.get(&delivery.contact_id)? {
                Tracking::Full => false,
                Tracking::Anonymous => true,
                Tracking::None => return None,
            };
            Some(Known { hit, delivery, anonymous })
        }
    };
    Ok(hits.iter().filter_map(known).collect())
}

async fn earlier_clicks(tx: &mut Tx, known: &[Known<'_>]) -> Result<Vec<EarlierClick>, DbError> {
    let clicks = || known.iter().filter(|known| known.hit.kind == Kind::Click && !known.anonymous);
    let Some(first) = clicks().map(|known| known.hit.at).min() else { return Ok(Vec::new()) };
    let deliveries: HashMap<i64, i64> = clicks().map(|known| (known.hit.delivery_id, known.delivery.contact_id)).collect();
    sql::clicks_before(tx, deliveries.into_iter().collect(), first).await
}

/// What clicks of one mail have in common: its delivery; where that is not known, the run, and whose client
/// followed them.
type Mail<'a> = (i64, Option<i64>, Option<&'a str>, Option<&'a str>);

fn mail_of<'a>(known: &Known<'a>) -> Mail<'a> {
    let hit = known.hit;
    match hit.anonymous_run {
        Some(_) => (0, hit.anonymous_run, hit.ip.as_deref(), hit.agent.as_deref()),
        None => (hit.delivery_id, None, None, None),
    }
}

/// Which new hits belong to a burst, and which earlier clicks turn out to.
fn find_bursts<'a>(known: &[Known<'_>], earlier: &'a [EarlierClick]) -> (Vec<bool>, Vec<&'a EarlierClick>) {
    enum Source {
        New(usize),
        Earlier(usize),
    }
    let mut of_mail: BTreeMap<Mail<'_>, Vec<(Time, i64, Source)>> = BTreeMap::new();
    for (index, known) in known.iter().enumerate() {
        if let (Kind::Click, Some(link)) = (known.hit.kind, known.hit.link) {
            of_mail.entry(mail_of(known)).or_default().push((known.hit.at, link, Source::New(index)));
        }
    }
    for (index, click) in earlier.iter().enumerate() {
        of_mail.entry((click.delivery_id, None, None, None)).or_default().push((click.at, click.link, Source::Earlier(index)));
    }
    let mut in_burst = vec![false; known.len()];
    let mut earlier_in_burst = Vec::new();
    for clicks in of_mail.values_mut() {
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
