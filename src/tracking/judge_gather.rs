//! Facts for the judge, for many mails with a handful of statements; and the judgement of their hits together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::judge::{Judgement, Mail, Seen, judge};
use super::judge_machines::machines;
use super::judge_networks::Networks;
use super::judge_sequence::WINDOW_MS;
use super::rollup::{Changes, Counted};
use super::sql::{self, Delivery, StoredHit};
use super::{Hit, Kind};
use crate::clock::Time;
use crate::db::{DbError, Tx};

/// Hits of one mail from which on earlier ones are not read any more: it was forwarded to many, or somebody plays
/// with it, and they say nothing about each other.
const CROWD: i64 = 200;

/// A hit that is to be written.
pub(super) struct Known<'a> {
    pub hit: &'a Hit,
    pub run_id: i64,
    /// Nothing where it names only a run.
    pub delivery: Option<Delivery>,
    /// Counted, without a trace of whose it is.
    pub anonymous: bool,
}

/// A hit that was written before and is judged otherwise now.
#[derive(Debug)]
pub(super) struct Turned {
    pub stored: StoredHit,
    pub judged: Judgement,
}

/// What is known of mails.
#[derive(Debug, Default)]
pub(super) struct Mails {
    pub deliveries: HashMap<i64, Delivery>,
    mails: HashMap<i64, Mail>,
    crowded: BTreeSet<i64>,
}

impl Mails {
    /// Looks up what is known of these deliveries.
    pub(super) async fn of(tx: &mut Tx, deliveries: HashMap<i64, Delivery>) -> Result<Mails, DbError> {
        let ids: BTreeSet<i64> = deliveries.keys().copied().collect();
        let names: BTreeSet<&str> = deliveries.values().map(|delivery| delivery.domain.as_str()).filter(|name| !name.is_empty()).collect();
        let runs: BTreeSet<i64> = deliveries.values().map(|delivery| delivery.run_id).collect();
        let totals = sql::totals(tx, ids.into_iter().collect()).await?;
        let domains = sql::domains(tx, names.into_iter().map(str::to_owned).collect()).await?;
        let links = sql::links_of_runs(tx, runs.into_iter().collect()).await?;
        let mail = |id: &i64, delivery: &Delivery| {
            let domain = domains.get(&delivery.domain);
            Mail {
                taken: delivery.taken,
                gateway: machines().is_gateway(&delivery.provider, domain.and_then(|domain| domain.mx.as_deref())),
                domain: domain.map(|domain| domain.clicks).unwrap_or_default(),
                opened: totals.get(id).is_some_and(|total| total.0 > 0),
                links: links.get(&delivery.run_id).copied().unwrap_or_default(),
            }
        };
        let mails = deliveries.iter().map(|(id, delivery)| (*id, mail(id, delivery))).collect();
        let crowded = totals.iter().filter(|(_, total)| total.1 > CROWD).map(|(id, _)| *id).collect();
        Ok(Mails { mails, crowded, deliveries })
    }

    /// A stored hit as it is added up.
    pub(super) fn counted<'a>(&'a self, stored: &StoredHit) -> Option<Counted<'a>> {
        let delivery = self.deliveries.get(&stored.delivery_id)?;
        Some(Counted {
            kind: stored.seen.kind,
            link: stored.seen.link,
            looked: stored.seen.looked,
            at: stored.seen.at,
            delivery_id: stored.delivery_id,
            run_id: delivery.run_id,
            contact_id: delivery.contact_id,
            person: delivery.person,
            domain: &delivery.domain,
        })
    }

    /// The sums follow hits that turned.
    pub(super) fn follow(&self, turned: &[Turned], changes: &mut Changes) {
        for turned in turned {
            if let Some(counted) = self.counted(&turned.stored) {
                changes.turn(&counted, turned.stored.judged.verdict, turned.judged.verdict);
            }
        }
    }
}

/// What hits of one mail have in common: its delivery; where that is not known, the run, and whose client it was.
type Key<'a> = (i64, Option<i64>, Option<&'a str>, Option<&'a str>);

enum Source {
    New(usize),
    Stored(usize),
}

/// Judges new hits beside those that came before, of all mails they concern. The first answer is in the order of
/// `known`.
pub(super) async fn judge_group(
    tx: &mut Tx,
    machine_from: i64,
    known: &[Known<'_>],
) -> Result<(Vec<Judgement>, Vec<Turned>, Mails), DbError> {
    let seen: Vec<Seen> = known.iter().map(|known| Seen::new(known.hit)).collect();
    let named = || known.iter().zip(&seen).filter(|(known, _)| !known.anonymous);
    let clicks: Vec<(i64, &str, Time)> = named()
        .filter(|(known, _)| known.hit.kind == Kind::Click)
        .filter_map(|(known, seen)| Some((known.hit.delivery_id, seen.client.network.as_deref()?, known.hit.at)))
        .collect();
    let (networks, changed) = Networks::touch(tx, &clicks).await?;
    let mut deliveries: HashMap<i64, Delivery> =
        known.iter().filter_map(|known| Some((known.hit.delivery_id, known.delivery.clone()?))).collect();
    let others = changed.into_iter().filter(|id| !deliveries.contains_key(id)).collect();
    deliveries.extend(sql::deliveries(tx, others).await?);
    let mails = Mails::of(tx, deliveries).await?;
    let stored = sql::hits_within(tx, &spans(known, &mails)).await?;

    let mut by_mail: BTreeMap<Key<'_>, Vec<(Seen, Source)>> = BTreeMap::new();
    for (index, (known, seen)) in known.iter().zip(&seen).enumerate() {
        let recipients =
            seen.client.network.as_deref().filter(|_| !known.anonymous).map_or(0, |network| networks.recipients(network, seen.at));
        by_mail.entry(key(known)).or_default().push((Seen { recipients, ..seen.clone() }, Source::New(index)));
    }
    for (index, hit) in stored.iter().enumerate() {
        let now = hit.seen.client.network.as_deref().map_or(0, |network| networks.recipients(network, hit.seen.at));
        let seen = Seen { recipients: hit.seen.recipients.max(now), ..hit.seen.clone() };
        by_mail.entry((hit.delivery_id, None, None, None)).or_default().push((seen, Source::Stored(index)));
    }
    let mut judged: Vec<Option<Judgement>> = vec![None; known.len()];
    let mut turned = Vec::new();
    for (key, hits) in by_mail {
        let mail = mails.mails.get(&key.0).copied().unwrap_or_default();
        for (source, judgement) in judge_mail(machine_from, &mail, hits) {
            match source {
                Source::New(index) => judged[index] = Some(judgement),
                Source::Stored(index) if stored[index].judged != judgement => {
                    turned.push(Turned { stored: stored[index].clone(), judged: judgement });
                }
                Source::Stored(_) => {}
            }
        }
    }
    turned.sort_unstable_by_key(|turned| turned.stored.seen.id);
    Ok((judged.into_iter().flatten().collect(), turned, mails))
}

fn judge_mail<S>(machine_from: i64, mail: &Mail, mut hits: Vec<(Seen, S)>) -> Vec<(S, Judgement)> {
    hits.sort_by_key(|(seen, _)| (seen.at, seen.id));
    let (seen, sources): (Vec<Seen>, Vec<S>) = hits.into_iter().unzip();
    sources.into_iter().zip(judge(machine_from, mail, &seen)).collect()
}

fn key<'a>(known: &Known<'a>) -> Key<'a> {
    let hit = known.hit;
    match hit.anonymous_run {
        Some(_) => (0, hit.anonymous_run, hit.ip.as_deref(), hit.agent.as_deref()),
        None => (hit.delivery_id, None, None, None),
    }
}

/// The times about the new hits of each mail; about all of them for mails that only their network brings in.
fn spans(known: &[Known<'_>], mails: &Mails) -> BTreeMap<i64, (Time, Time)> {
    let mut spans: BTreeMap<i64, (Time, Time)> = BTreeMap::new();
    let (mut first, mut last) = (None, None);
    for hit in known.iter().filter(|known| known.delivery.is_some()).map(|known| known.hit) {
        let (from, to) = (hit.at.plus(-WINDOW_MS), hit.at.plus(WINDOW_MS));
        let span = spans.entry(hit.delivery_id).or_insert((from, to));
        *span = (span.0.min(from), span.1.max(to));
        first = Some(first.map_or(from, |first: Time| first.min(from)));
        last = Some(last.map_or(to, |last: Time| last.max(to)));
    }
    for id in mails.deliveries.keys() {
        spans.entry(*id).or_insert((first.unwrap_or_default(), last.unwrap_or_default()));
    }
    spans.retain(|id, _| !mails.crowded.contains(id));
    spans
}

/// Judges stored hits again: those of `block`, beside what is near them. Answers those that turned, in order.
pub(super) async fn judge_stored(tx: &mut Tx, machine_from: i64, block: &[(i64, i64, Time)]) -> Result<(Vec<Turned>, Mails), DbError> {
    let mut spans: BTreeMap<i64, (Time, Time)> = BTreeMap::new();
    for (_, delivery_id, at) in block {
        let span = spans.entry(*delivery_id).or_insert((*at, *at));
        *span = (span.0.min(*at), span.1.max(*at));
    }
    for span in spans.values_mut() {
        *span = (span.0.plus(-WINDOW_MS), span.1.plus(WINDOW_MS));
    }
    let deliveries = sql::deliveries(tx, spans.keys().copied().collect()).await?;
    let mails = Mails::of(tx, deliveries).await?;
    let stored = sql::hits_within(tx, &spans).await?;
    let clicks = stored.iter().filter(|hit| hit.seen.kind == Kind::Click);
    let networks = Networks::of_block(clicks.filter_map(|hit| Some((hit.delivery_id, hit.seen.client.network.as_deref()?, hit.seen.at))));
    let asked: BTreeSet<i64> = block.iter().map(|hit| hit.0).collect();
    let mut by_mail: BTreeMap<i64, Vec<(Seen, usize)>> = BTreeMap::new();
    for (index, hit) in stored.iter().enumerate() {
        let now = hit.seen.client.network.as_deref().map_or(0, |network| networks.recipients(network, hit.seen.at));
        by_mail.entry(hit.delivery_id).or_default().push((Seen { recipients: hit.seen.recipients.max(now), ..hit.seen.clone() }, index));
    }
    let mut turned = Vec::new();
    for (delivery_id, hits) in by_mail {
        // Of a delivery that is gone nothing is known any more: what was said of its hits stays.
        let Some(mail) = mails.mails.get(&delivery_id) else { continue };
        for (index, judgement) in judge_mail(machine_from, mail, hits) {
            if asked.contains(&stored[index].seen.id) && stored[index].judged != judgement {
                turned.push(Turned { stored: stored[index].clone(), judged: judgement });
            }
        }
    }
    turned.sort_unstable_by_key(|turned| turned.stored.seen.id);
    Ok((turned, mails))
}
