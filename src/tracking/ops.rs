//! Use cases on hits: writing a group, noting a withdrawal, counting for the report.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::judge::Policy;
use super::judge_gather::{Known, judge_group};
use super::rollup::{CLICKS, Changes, Counted, OPENS};
use super::sql::{self, Delivery, HitRow};
use super::{Hit, Mark};
use crate::clock::Time;
use crate::consent::tracking::TrackingRules;
use crate::consent::{self, Tracking};
use crate::contact;
use crate::db::{Connection, Db, DbError, Tx};

/// Opens or clicks of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Hits judged human.
    pub human: i64,
    /// Hits judged machine.
    pub machine: i64,
    /// Images loaded by relays that load them for everybody.
    pub unknowable: i64,
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

/// The hits of a run, from what is added up as they come (`verify` holds that against the rows).
pub async fn counts(db: &mut impl Connection, run_id: i64) -> Result<RunCounts, DbError> {
    let totals = sql::run_totals(db, run_id).await?;
    let of = |link: i64| totals.get(&link).copied().unwrap_or_default();
    let links = sql::links(db, run_id).await?;
    let by_link = links.into_iter().map(|(position, url, name)| LinkCounts { position, url, name, counts: of(position) }).collect();
    Ok(RunCounts { opens: of(OPENS), clicks: of(CLICKS), by_link, unsubscribed: sql::count_unsubscribes(db, run_id).await? })
}

/// Notes that a withdrawal came through `delivery_id`, for the report of its run. Does nothing for
/// a delivery that is gone or belongs to somebody else, and keeps the first time.
pub async fn note_unsubscribe(tx: &mut Tx, delivery_id: i64, contact_id: i64, at: Time, way: &str) -> Result<(), DbError> {
    sql::insert_unsubscribe(tx, delivery_id, contact_id, at, way).await.map(|_| ())
}

/// Judges and writes a group of hits in one transaction, with the sums they are added to; earlier hits that look
/// different beside them are judged again. Left out are hits of unknown deliveries and runs, of people who were
/// erased, and of people who are not to be tracked now, however long ago the mail left; of those who are counted
/// anonymously, neither delivery, address nor agent is kept. Answers how many were written.
///
/// The ids of the rows are those of the hits. With a `mark`, the position of the log they come from moves on in
/// the same transaction, also where all of them are left out; a group that is written already is not written again.
pub async fn write_group(db: &Db, policy: &Policy, hits: &[Hit], mark: Option<&Mark<'_>>) -> Result<usize, DbError> {
    let mut tx = db.begin().await?;
    if let Some(mark) = mark
        && !mark.advance(&mut tx).await?
    {
        tracing::warn!(log = mark.log, from = mark.from, "this part of the log of hits is written already");
        return tx.rollback().await.map(|()| 0);
    }
    let known = look_up(&mut tx, &policy.rules, hits).await?;
    if known.len() < hits.len() {
        tracing::debug!(hits = hits.len() - known.len(), "left out hits of mails that are not there, or of people who are not tracked");
    }
    let Some(now) = known.iter().map(|known| known.hit.at).max() else {
        return tx.commit().await.map(|()| 0);
    };
    let (judged, turned, mails) = judge_group(&mut tx, policy.machine_from, &known).await?;
    let mut changes = Changes::default();
    let mut rows = Vec::with_capacity(known.len());
    for (known, judged) in known.iter().zip(judged) {
        let counted = counted(known);
        changes.add(&counted, judged.verdict);
        let hit = known.hit.clone();
        let hit = if known.anonymous { hit.forgetful() } else { hit };
        rows.push(HitRow { hit, run_id: known.run_id, contact_id: counted.contact_id, judged });
    }
    write_rows(&mut tx, &rows).await?;
    mails.follow(&turned, &mut changes);
    sql::update_judgements(&mut tx, turned.iter().map(|turned| (turned.stored.seen.id, &turned.judged))).await?;
    changes.apply(&mut tx, now).await?;
    tx.commit().await?;
    Ok(rows.len())
}

async fn write_rows(tx: &mut Tx, rows: &[HitRow]) -> Result<(), DbError> {
    let mut proposed: BTreeMap<&str, i64> = BTreeMap::new();
    for hit in rows.iter().map(|row| &row.hit) {
        if let Some(agent) = &hit.agent {
            // Ids of hits are given once, so that of its first hit is free for an agent, too.
            proposed.entry(agent).or_insert(hit.id);
        }
    }
    let agents = sql::agents(tx, &proposed).await?;
    sql::insert(tx, rows, &agents).await.map(|_| ())
}

/// A new hit as it is added up.
fn counted<'a>(known: &'a Known<'_>) -> Counted<'a> {
    let whose = known.delivery.as_ref().filter(|_| !known.anonymous);
    Counted {
        kind: known.hit.kind,
        link: known.hit.link,
        looked: known.hit.looked,
        at: known.hit.at,
        delivery_id: whose.map_or(0, |_| known.hit.delivery_id),
        run_id: known.run_id,
        contact_id: whose.map_or(0, |delivery| delivery.contact_id),
        person: whose.and_then(|delivery| delivery.person),
        domain: whose.map_or("", |delivery| &delivery.domain),
    }
}

/// How the contacts that these mails went to are tracked now. A choice is a person's: where a contact was merged into
/// another, the stricter of both holds.
async fn tracked(tx: &mut Tx, rules: &TrackingRules, mails: impl Iterator<Item = &Delivery>) -> Result<HashMap<i64, Tracking>, DbError> {
    let (mut people, mut merged) = (BTreeSet::new(), BTreeSet::new());
    for mail in mails {
        people.insert(mail.contact_id);
        if mail.person.is_some_and(|person| person != mail.contact_id) {
            merged.insert(mail.contact_id);
        }
    }
    let merged: Vec<i64> = merged.into_iter().collect();
    let persons = if merged.is_empty() { HashMap::new() } else { contact::identity::persons(tx, &merged).await? };
    people.extend(persons.values());
    let people: Vec<i64> = people.into_iter().collect();
    let mut tracking = consent::tracking::effective(tx, rules, &people).await?;
    for (contact_id, person) in persons {
        if let (Some(own), Some(theirs)) = (tracking.get(&contact_id).copied(), tracking.get(&person).copied()) {
            tracking.insert(contact_id, own.max(theirs));
        }
    }
    Ok(tracking)
}

async fn look_up<'a>(tx: &mut Tx, rules: &TrackingRules, hits: &'a [Hit]) -> Result<Vec<Known<'a>>, DbError> {
    let unique = |mut ids: Vec<i64>| {
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let named = hits.iter().filter(|hit| hit.anonymous_run.is_none());
    let mut deliveries = sql::deliveries(tx, unique(named.map(|hit| hit.delivery_id).collect())).await?;
    // Who opens the mail of somebody who was erased leaves no trace, nor of somebody who is being erased just now.
    let named = deliveries.values().filter(|delivery| delivery.person.is_some()).map(|delivery| delivery.contact_id);
    let there = contact::care::hold_all(tx, named.collect()).await?;
    deliveries.retain(|_, delivery| delivery.person.is_some() && there.contains(&delivery.contact_id));
    let tracking = tracked(tx, rules, deliveries.values()).await?;
    let runs = sql::runs(tx, unique(hits.iter().filter_map(|hit| hit.anonymous_run).collect())).await?;
    let known = |hit: &'a Hit| match hit.anonymous_run {
        Some(run_id) => runs.contains(&run_id).then_some(Known { hit, run_id, delivery: None, anonymous: true }),
        None => {
            let delivery = deliveries.get(&hit.delivery_id)?.clone();
            let anonymous = match tracking.get(&delivery.contact_id)? {
                Tracking::Full => false,
                Tracking::Anonymous => true,
                Tracking::None => return None,
            };
            Some(Known { hit, run_id: delivery.run_id, delivery: Some(delivery), anonymous })
        }
    };
    Ok(hits.iter().filter_map(known).collect())
}
