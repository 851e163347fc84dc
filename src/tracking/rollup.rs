//! Hits added up as they come: `hit_total`, `run_total`, `domain_hits`, and who is due for engagement. Changes
//! are gathered first and applied in the transaction that writes the hits, in the order of their keys, so that
//! two nodes never wait for each other.
//!
//! Traps, and requests for the head alone, are kept as evidence and counted nowhere. People of a run are its
//! deliveries with a human hit: a run mails a person once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, Verdict};
use crate::args;
use crate::clock::Time;
use crate::db::{ColumnData, DbError, Row, Rows, Tx};

/// The link under which opens are added up.
pub const OPENS: i64 = -1;
/// The link under which clicks on all links are added up.
pub const CLICKS: i64 = -2;

/// A hit as it is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted<'a> {
    pub kind: Kind,
    pub link: Option<i64>,
    pub looked: bool,
    pub at: Time,
    /// 0: of nobody in particular.
    pub delivery_id: i64,
    pub run_id: i64,
    /// As in the row.
    pub contact_id: i64,
    /// Whose engagement it changes.
    pub person: Option<i64>,
    /// Of the person's address; empty where it is not known.
    pub domain: &'a str,
}

/// Hits by verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub human: i64,
    pub machine: i64,
    pub unknowable: i64,
}

impl Sums {
    pub(super) fn add(&mut self, verdict: Verdict, times: i64) {
        match verdict {
            Verdict::Human => self.human += times,
            Verdict::Machine => self.machine += times,
            Verdict::Unknowable => self.unknowable += times,
        }
    }
}

#[derive(Debug, Default)]
struct Change {
    run_id: i64,
    contact_id: i64,
    sums: Sums,
    first_at: Option<Time>,
    last_at: Option<Time>,
}

#[derive(Debug, Default)]
struct RunChange {
    sums: Sums,
    people: i64,
    anonymous: i64,
}

/// What changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// By delivery and link.
    totals: BTreeMap<(i64, i64), Change>,
    /// By run and link.
    runs: BTreeMap<(i64, i64), RunChange>,
    /// Clicks by machines and by people.
    domains: BTreeMap<String, (i64, i64)>,
    due: BTreeSet<i64>,
    /// Deliveries and links whose times have to be read again: a human hit of theirs is none any more.
    stale: BTreeSet<(i64, i64)>,
}

/// Where a hit is added up.
pub(super) fn links_of(kind: Kind, link: Option<i64>, looked: bool) -> impl Iterator<Item = i64> {
    let (all, one) = match kind {
        _ if looked => (None, None),
        Kind::Open => (Some(OPENS), None),
        Kind::Click => (Some(CLICKS), link),
        Kind::Trap => (None, None),
    };
    all.into_iter().chain(one)
}

impl Changes {
    /// A hit was written with this verdict.
    pub(super) fn add(&mut self, hit: &Counted<'_>, verdict: Verdict) {
        self.count(hit, verdict, 1);
    }

    /// A hit has another verdict now.
    pub(super) fn turn(&mut self, hit: &Counted<'_>, from: Verdict, to: Verdict) {
        if from != to {
            self.count(hit, from, -1);
            self.count(hit, to, 1);
        }
    }

    fn count(&mut self, hit: &Counted<'_>, verdict: Verdict, times: i64) {
        for link in links_of(hit.kind, hit.link, hit.looked) {
            let run = self.runs.entry((hit.run_id, link)).or_default();
            run.sums.add(verdict, times);
            if hit.delivery_id == 0 {
                run.anonymous += if verdict == Verdict::Human { times } else { 0 };
                continue;
            }
            let total = self.totals.entry((hit.delivery_id, link)).or_default();
            (total.run_id, total.contact_id) = (hit.run_id, hit.contact_id);
            total.sums.add(verdict, times);
            if verdict != Verdict::Human {
                continue;
            }
            if times < 0 {
                self.stale.insert((hit.delivery_id, link));
            } else {
                total.first_at = Some(total.first_at.map_or(hit.at, |first| first.min(hit.at)));
                total.last_at = total.last_at.max(Some(hit.at));
            }
        }
        if hit.looked || hit.kind == Kind::Trap || hit.delivery_id == 0 {
            return;
        }
        if verdict == Verdict::Human {
            self.due.extend(hit.person);
        }
        if hit.kind == Kind::Click && !hit.domain.is_empty() {
            let domain = self.domains.entry(hit.domain.to_owned()).or_default();
            match verdict {
                Verdict::Human => domain.1 += times,
                Verdict::Machine => domain.0 += times,
                Verdict::Unknowable => {}
            }
        }
    }

    /// Writes what changed; the hits themselves are written or judged already.
    pub(super) async fn apply(mut self, tx: &mut Tx, now: Time) -> Result<(), DbError> {
        self.apply_totals(tx).await?;
        self.read_times_again(tx).await?;
        self.apply_runs(tx).await?;
        self.apply_domains(tx, now).await?;
        put_due(tx, self.due.iter().copied(), now).await
    }

    /// Adds to `hit_total`, and finds out whose first human hit came, or last one went.
    async fn apply_totals(&mut self, tx: &mut Tx) -> Result<(), DbError> {
        let changed: Vec<(&(i64, i64), &Change)> = self.totals.iter().collect();
        let number = |read: fn(&Change) -> i64| changed.iter().map(move |row| read(row.1)).collect::<Vec<_>>();
        let rows = Rows::new()
            .i64("delivery_id", changed.iter().map(|row| row.0.0))
            .i64("link", changed.iter().map(|row| row.0.1))
            .i64("run_id", number(|row| row.run_id))
            .i64("contact_id", number(|row| row.contact_id))
            .i64("human", number(|row| row.sums.human))
            .i64("machine", number(|row| row.sums.machine))
            .i64("unknowable", number(|row| row.sums.unknowable))
            .opt_i64("first_at", changed.iter().map(|row| row.1.first_at.map(Time::millis)).collect())
            .opt_i64("last_at", changed.iter().map(|row| row.1.last_at.map(Time::millis)).collect());
        let after = tx
            .bulk_fetch(
                "INSERT INTO hit_total (delivery_id, link, run_id, contact_id, human, machine, unknowable, first_at, last_at)
                 SELECT v.delivery_id, v.link, v.run_id, v.contact_id, v.human, v.machine, v.unknowable, v.first_at, v.last_at
                 FROM {rows} WHERE TRUE ORDER BY v.delivery_id, v.link
                 ON CONFLICT (delivery_id, link) DO UPDATE SET
                   human = hit_total.human + excluded.human,
                   machine = hit_total.machine + excluded.machine,
                   unknowable = hit_total.unknowable + excluded.unknowable,
                   first_at = CASE WHEN hit_total.first_at IS NULL OR excluded.first_at < hit_total.first_at
                     THEN excluded.first_at ELSE hit_total.first_at END,
                   last_at = CASE WHEN hit_total.last_at IS NULL OR excluded.last_at > hit_total.last_at
                     THEN excluded.last_at ELSE hit_total.last_at END
                 RETURNING delivery_id, link, run_id, human",
                Vec::new(),
                rows,
            )
            .await?;
        for row in &after {
            let (delivery_id, link, run_id, human): (i64, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            let before = human - self.totals.get(&(delivery_id, link)).map_or(0, |change| change.sums.human);
            let people = i64::from(human > 0) - i64::from(before > 0);
            if people != 0 {
                self.runs.entry((run_id, link)).or_default().people += people;
            }
        }
        Ok(())
    }

    /// The first and the last human hit, where one of them may be none any more. Where older hits were put
    /// together or are gone, the first one is only in the sum itself.
    async fn read_times_again(&self, tx: &mut Tx) -> Result<(), DbError> {
        if self.stale.is_empty() {
            return Ok(());
        }
        let keys = || Rows::new().i64("delivery_id", self.stale.iter().map(|key| key.0)).i64("link", self.stale.iter().map(|key| key.1));
        let found = tx
            .bulk_fetch(
                "SELECT t.delivery_id, t.link, t.human, t.first_at, CAST(SUM(h.times) AS BIGINT), MAX(h.times), MIN(h.at), MAX(h.at)
                 FROM {rows}
                 JOIN hit_total t ON t.delivery_id = v.delivery_id AND t.link = v.link
                 LEFT JOIN hit h ON h.delivery_id = v.delivery_id AND h.verdict = 'human' AND NOT h.looked
                   AND ((v.link = -1 AND h.kind = 'open') OR (v.link <> -1 AND h.kind = 'click' AND (v.link = -2 OR h.link = v.link)))
                 GROUP BY t.delivery_id, t.link, t.human, t.first_at",
                Vec::new(),
                keys(),
            )
            .await?;
        let times: Vec<(i64, i64, Option<i64>, Option<i64>)> = found.iter().map(read_times).collect::<Result<_, _>>()?;
        let rows = Rows::new()
            .i64("delivery_id", times.iter().map(|row| row.0))
            .i64("link", times.iter().map(|row| row.1))
            .opt_i64("first_at", times.iter().map(|row| row.2).collect())
            .opt_i64("last_at", times.iter().map(|row| row.3).collect());
        tx.bulk(
            "UPDATE hit_total SET first_at = v.first_at, last_at = v.last_at FROM {rows}
             WHERE hit_total.delivery_id = v.delivery_id AND hit_total.link = v.link",
            Vec::new(),
            rows,
        )
        .await?;
        Ok(())
    }

    async fn apply_runs(&self, tx: &mut Tx) -> Result<(), DbError> {
        let changed: Vec<(&(i64, i64), &RunChange)> = self.runs.iter().collect();
        let number = |read: fn(&RunChange) -> i64| changed.iter().map(move |row| read(row.1)).collect::<Vec<_>>();
        let rows = Rows::new()
            .i64("run_id", changed.iter().map(|row| row.0.0))
            .i64("link", changed.iter().map(|row| row.0.1))
            .i64("human", number(|row| row.sums.human))
            .i64("machine", number(|row| row.sums.machine))
            .i64("unknowable", number(|row| row.sums.unknowable))
            .i64("people", number(|row| row.people))
            .i64("anonymous", number(|row| row.anonymous));
        tx.bulk(
            "INSERT INTO run_total (run_id, link, human, machine, unknowable, people, anonymous)
             SELECT v.run_id, v.link, v.human, v.machine, v.unknowable, v.people, v.anonymous
             FROM {rows} WHERE TRUE ORDER BY v.run_id, v.link
             ON CONFLICT (run_id, link) DO UPDATE SET
               human = run_total.human + excluded.human,
               machine = run_total.machine + excluded.machine,
               unknowable = run_total.unknowable + excluded.unknowable,
               people = run_total.people + excluded.people,
               anonymous = run_total.anonymous + excluded.anonymous",
            Vec::new(),
            rows,
        )
        .await?;
        Ok(())
    }

    async fn apply_domains(&self, tx: &mut Tx, now: Time) -> Result<(), DbError> {
        let changed: Vec<(&String, &(i64, i64))> = self.domains.iter().filter(|(_, clicks)| **clicks != (0, 0)).collect();
        let rows = Rows::new()
            .text("domain", changed.iter().map(|row| row.0.as_str()))
            .i64("machine", changed.iter().map(|row| row.1.0))
            .i64("human", changed.iter().map(|row| row.1.1));
        tx.bulk(
            "INSERT INTO domain_hits (domain, machine, human, changed_at)
             SELECT v.domain, v.machine, v.human, $1 FROM {rows} WHERE TRUE ORDER BY v.domain
             ON CONFLICT (domain) DO UPDATE SET
               machine = domain_hits.machine + excluded.machine,
               human = domain_hits.human + excluded.human,
               changed_at = excluded.changed_at",
            args![now],
            rows,
        )
        .await?;
        Ok(())
    }
}

/// Delivery, link, first and last time, from a row of `read_times_again`.
fn read_times(row: &Row) -> Result<(i64, i64, Option<i64>, Option<i64>), DbError> {
    let (human, first_at): (i64, Option<i64>) = (row.get(2)?, row.get(3)?);
    let (rows, most): (Option<i64>, Option<i64>) = (row.get(4)?, row.get(5)?);
    let (first, last): (Option<i64>, Option<i64>) = (row.get(6)?, row.get(7)?);
    let whole = rows == Some(human) && most == Some(1);
    let first = match human {
        0 => None,
        _ if whole => first,
        _ => first_at.into_iter().chain(first).min(),
    };
    Ok((row.get(0)?, row.get(1)?, first, if human == 0 { None } else { last.or(first) }))
}

/// These people's engagement is to be computed again. Written over an entry that is there: its lock keeps whoever computes
/// them just now from missing what this transaction writes.
pub async fn put_due(tx: &mut Tx, people: impl Iterator<Item = i64>, now: Time) -> Result<(), DbError> {
    tx.bulk(
        "INSERT INTO engagement_due (contact_id, since) SELECT v.contact_id, $1 FROM {rows} WHERE TRUE ORDER BY v.contact_id
         ON CONFLICT (contact_id) DO UPDATE SET since = excluded.since",
        args![now],
        Rows::new().i64("contact_id", people),
    )
    .await?;
    Ok(())
}

/// Sets totals of deliveries to what they are: delivery, link, run, contact, sums, first and last time.
pub(super) type Truth = ((i64, i64), i64, i64, Sums, Option<Time>, Option<Time>);

/// Writes totals over what stands there.
pub(super) async fn set_totals(tx: &mut Tx, truths: &[Truth]) -> Result<(), DbError> {
    let number = |read: fn(&Truth) -> i64| truths.iter().map(read).collect::<Vec<_>>();
    let rows = Rows::new()
        .i64("delivery_id", number(|row| row.0.0))
        .i64("link", number(|row| row.0.1))
        .i64("run_id", number(|row| row.1))
        .i64("contact_id", number(|row| row.2))
        .i64("human", number(|row| row.3.human))
        .i64("machine", number(|row| row.3.machine))
        .i64("unknowable", number(|row| row.3.unknowable))
        .column("first_at", ColumnData::I64(truths.iter().map(|row| row.4.map(Time::millis)).collect()))
        .column("last_at", ColumnData::I64(truths.iter().map(|row| row.5.map(Time::millis)).collect()));
    tx.bulk(
        "INSERT INTO hit_total (delivery_id, link, run_id, contact_id, human, machine, unknowable, first_at, last_at)
         SELECT v.delivery_id, v.link, v.run_id, v.contact_id, v.human, v.machine, v.unknowable, v.first_at, v.last_at
         FROM {rows} WHERE TRUE ORDER BY v.delivery_id, v.link
         ON CONFLICT (delivery_id, link) DO UPDATE SET
           human = excluded.human, machine = excluded.machine, unknowable = excluded.unknowable,
           first_at = excluded.first_at, last_at = excluded.last_at",
        Vec::new(),
        rows,
    )
    .await?;
    Ok(())
}
