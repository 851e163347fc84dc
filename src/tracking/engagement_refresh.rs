//! Computing people again who responded, ordered, or were judged anew: `engagement`, `conversion` and their sums.
//! The same rows give the same result, in whatever order they came. May be repeated and stopped anywhere.
//!
//! **Orders and old clicks.** Retention puts raw hits together and deletes them in the end. Whoever still has all
//! clicks in single rows is shared anew each time. Once some of those before an order are not there one by one
//! any more, that order keeps the shares it has, and only its amount follows refunds: so retention changes no
//! conversion. An order that comes later than that is shared among what is still known, at least the first and
//! the last click on each link.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use super::attribution::{Part, Touch, share, window, worth};
use super::attribution_sql::{self as conversions, Conversion, Key, Order, RunRule};
use super::engagement::{Engagement, Habit, Prior, Response};
use super::engagement_sql::{self as sql, EngagementRow};
use crate::clock::{DAY, Time};
use crate::config::{Attribution, EngagementSettings};
use crate::db::{Db, DbError, Tx};

/// People of one transaction: some tens of milliseconds, so that nobody waits long for the database.
pub const BLOCK: i64 = 500;

/// By what rules people are computed.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `[engagement]`
    pub engagement: EngagementSettings,
    /// `[attribution]`, for campaigns that say nothing else.
    pub attribution: Attribution,
    /// Where people live of whom nothing is known.
    pub zone: TimeZone,
}

impl Rules {
    /// What stored rows depend on. (The days of stages do not: stages are told when asked.)
    fn digest(&self) -> String {
        let zone = self.zone.iana_name().unwrap_or("UTC");
        let text = format!("1 {} {} {:?} {}", self.engagement.half_life_days, zone, self.attribution.model, self.attribution.within_days);
        Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What runs say; they never change. Small, and as many as there were runs that somebody responded to lately.
#[derive(Debug, Default)]
pub struct KnownRuns(HashMap<i64, RunRule>);

/// More runs than that are not remembered: they are read again.
const MAX_KNOWN_RUNS: usize = 10_000;

impl KnownRuns {
    async fn learn(&mut self, tx: &mut Tx, responses: &[(i64, Response)]) -> Result<(), DbError> {
        if self.0.len() > MAX_KNOWN_RUNS {
            self.0.clear();
        }
        let unknown: HashSet<i64> = responses.iter().map(|(_, response)| response.run_id).filter(|id| !self.0.contains_key(id)).collect();
        self.0.extend(conversions::runs(tx, &unknown).await?);
        Ok(())
    }
}

/// Whether anybody waits to be computed again.
pub async fn any_due(db: &Db) -> Result<bool, DbError> {
    sql::any_due(&mut db.clone()).await
}

/// Has these people computed again. Called in the transaction that changes what they did.
pub async fn touch(tx: &mut Tx, people: &[i64], now: Time) -> Result<(), DbError> {
    if people.is_empty() { Ok(()) } else { sql::put_due(tx, people, now).await }
}

/// Has everybody computed again, where the settings are not those by which they were computed.
pub async fn follow_rules(db: &Db, rules: &Rules, now: Time) -> Result<(), DbError> {
    let digest = rules.digest();
    if sql::rule(&mut db.clone()).await?.as_deref() == Some(&digest) {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    let people = sql::put_all_due(&mut tx, now).await?;
    sql::set_rule(&mut tx, &digest).await?;
    tx.commit().await?;
    tracing::info!(people, "the settings of engagement or attribution are new: everybody who responded is computed again");
    Ok(())
}

/// Makes what is known of all people at the beginning of a day the prior of that day. Does nothing where that is
/// done.
pub async fn begin_day(db: &Db, now: Time) -> Result<(), DbError> {
    let mut tx = db.begin().await?;
    sql::freeze_priors(&mut tx, day_of(now)).await?;
    tx.commit().await
}

fn day_of(now: Time) -> i64 {
    now.millis().div_euclid(DAY)
}

/// Computes a block of people again; answers how many there were.
pub async fn refresh(db: &Db, rules: &Rules, known: &mut KnownRuns, now: Time) -> Result<usize, DbError> {
    let mut tx = db.begin().await?;
    let due = sql::take_due(&mut tx, BLOCK).await?;
    if due.is_empty() {
        return tx.rollback().await.map(|()| 0);
    }
    let people = People::of(&mut tx, &due).await?;
    let mut responses = sql::responses(&mut tx, &people.all).await?;
    responses.sort_unstable_by_key(|(_, response)| (response.delivery_id, response.link));
    known.learn(&mut tx, &responses).await?;
    engage(&mut tx, rules, known, &people, &responses, now).await?;
    attribute(&mut tx, rules, known, &people, &responses).await?;
    tx.commit().await?;
    Ok(due.len())
}

/// Whose rows are computed in one transaction.
struct People {
    /// Those who are there, with where they live.
    zones: BTreeMap<i64, Option<String>>,
    /// Those of whom nothing is concluded, as they wish.
    refusing: HashSet<i64>,
    /// Of each contact, whose it is now.
    kept_of: HashMap<i64, i64>,
    /// Those who are one with somebody else, or were erased: they have nothing of their own.
    gone: Vec<i64>,
    /// All of them.
    all: Vec<i64>,
}

impl People {
    async fn of(tx: &mut Tx, due: &[i64]) -> Result<People, DbError> {
        let (mut zones, mut refusing, mut seen) = (BTreeMap::new(), HashSet::new(), BTreeSet::new());
        let mut next: Vec<i64> = due.to_vec();
        // Whoever is one with somebody else counts for them.
        while !next.is_empty() {
            seen.extend(next.iter().copied());
            let found = sql::someone(tx, &next).await?;
            next.clear();
            for someone in found {
                refusing.extend(someone.refuses.then_some(someone.id));
                match someone.merged_into {
                    Some(into) if !seen.contains(&into) => next.push(into),
                    Some(_) => {}
                    None => drop(zones.insert(someone.id, someone.timezone)),
                }
            }
            next.sort_unstable();
            next.dedup();
        }
        let kept: Vec<i64> = zones.keys().copied().collect();
        let kept_of = if kept.is_empty() { HashMap::new() } else { sql::family(tx, &kept).await? };
        seen.extend(kept_of.keys().copied());
        let gone = seen.iter().copied().filter(|id| !zones.contains_key(id)).collect();
        Ok(People { zones, refusing, kept_of, gone, all: seen.into_iter().collect() })
    }

    fn zone(&self, id: i64, rules: &Rules) -> TimeZone {
        let named = self.zones.get(&id).and_then(Option::as_deref).and_then(|name| TimeZone::get(name).ok());
        named.unwrap_or_else(|| rules.zone.clone())
    }
}

async fn engage(
    tx: &mut Tx,
    rules: &Rules,
    known: &KnownRuns,
    people: &People,
    responses: &[(i64, Response)],
    now: Time,
) -> Result<(), DbError> {
    let mut groups: BTreeMap<(i64, i64), Vec<&Response>> = BTreeMap::new();
    for (contact_id, response) in responses {
        let (Some(person), Some(run)) = (people.kept_of.get(contact_id), known.0.get(&response.run_id)) else { continue };
        for topic in [0, run.topic_id] {
            groups.entry((*person, topic)).or_default().push(response);
        }
    }
    let habits = sql::priors(tx).await?;
    let all = Prior::of_all(&habits.get(&0).copied().unwrap_or_default());
    let mut changes: BTreeMap<(i64, usize), i64> = BTreeMap::new();
    let mut note = |topic: i64, habit: &Habit, sign: i64| {
        for (place, weight) in habit.places().enumerate() {
            *changes.entry((topic, place)).or_default() += sign * weight;
        }
    };
    for (topic, habit) in sql::take(tx, &people.all).await? {
        note(topic, &habit, -1);
    }
    let mut rows = Vec::with_capacity(groups.len());
    for ((contact_id, topic_id), responses) in groups {
        let mut sum = Engagement::of(responses, rules.engagement.half_life_days, &people.zone(contact_id, rules));
        if people.refusing.contains(&contact_id) {
            sum = sum.without_conclusions();
        }
        let prior = match habits.get(&topic_id) {
            Some(habit) if topic_id != 0 => all.of_topic(habit),
            _ => all,
        };
        note(topic_id, &sum.habit, 1);
        rows.push(EngagementRow { topic_id, contact_id, best: prior.best(&sum.habit), sum });
    }
    if !rows.is_empty() {
        sql::insert(tx, &rows).await?;
    }
    sql::add_to_priors(tx, &changes, day_of(now)).await
}

/// A link of a mail that somebody clicked, of whose clicks not every one has a row any more.
struct Faded {
    first_at: Time,
    last_at: Time,
    run_id: i64,
}

/// A person's clicks, as far as they are known.
#[derive(Default)]
struct Past {
    touches: Vec<Touch>,
    /// Clicks with a row of their own, by mail and link; -1: some rows stand for several.
    single: HashMap<(i64, i64), i64>,
    faded: Vec<Faded>,
    /// When links were followed, by mail and link.
    spans: HashMap<(i64, i64), (Time, Time)>,
}

async fn attribute(tx: &mut Tx, rules: &Rules, known: &KnownRuns, people: &People, responses: &[(i64, Response)]) -> Result<(), DbError> {
    let orders = conversions::orders(tx, &people.all).await?;
    let order_ids: Vec<i64> = orders.iter().map(|order| order.id).collect();
    let mut stored = conversions::stored(tx, &people.all, &order_ids).await?;
    // Of somebody who was erased, what was counted stays.
    stored.retain(|_, row| people.kept_of.contains_key(&row.contact_id) || people.gone.contains(&row.contact_id));
    let mut buyers: Vec<i64> = orders.iter().filter_map(|order| people.kept_of.get(&order.contact_id).copied()).collect();
    buyers.sort_unstable();
    buyers.dedup();
    let pasts = if buyers.is_empty() { HashMap::new() } else { pasts(tx, people, known, &buyers, responses).await? };
    let rule_of = |run_id: i64| known.0.get(&run_id).map_or(rules.attribution, |run| run.attribution.over(rules.attribution));

    let mut wanted: BTreeMap<Key, Conversion> = BTreeMap::new();
    for order in &orders {
        let Some(person) = people.kept_of.get(&order.contact_id) else { continue };
        let Some(past) = pasts.get(person) else { continue };
        let parts = parts_of(order, past, &stored, &rule_of);
        let shares: Vec<i64> = parts.iter().map(|part| part.share).collect();
        for (part, amount) in parts.iter().zip(worth(order.amount, &shares)) {
            let row = Conversion { run_id: part.run_id, contact_id: *person, at: order.at, share: part.share, amount };
            wanted.insert((order.id, part.delivery_id, part.link), row);
        }
    }
    let differs = |one: &BTreeMap<Key, Conversion>, other: &BTreeMap<Key, Conversion>| {
        one.iter().filter(|(key, row)| other.get(key) != Some(row)).map(|(key, row)| (*key, *row)).collect::<Vec<_>>()
    };
    let (gone, new) = (differs(&stored, &wanted), differs(&wanted, &stored));
    conversions::replace(tx, &gone, &new).await
}

async fn pasts(
    tx: &mut Tx,
    people: &People,
    known: &KnownRuns,
    buyers: &[i64],
    responses: &[(i64, Response)],
) -> Result<HashMap<i64, Past>, DbError> {
    let mut pasts: HashMap<i64, Past> = HashMap::new();
    let of_buyers: Vec<i64> = people.kept_of.iter().filter(|(_, kept)| buyers.binary_search(kept).is_ok()).map(|(id, _)| *id).collect();
    for (contact_id, touch, times) in conversions::clicks(tx, &of_buyers).await? {
        let Some(person) = people.kept_of.get(&contact_id).filter(|_| known.0.contains_key(&touch.run_id)) else { continue };
        let past = pasts.entry(*person).or_default();
        past.touches.push(touch);
        let single = past.single.entry((touch.delivery_id, touch.link)).or_default();
        *single = if times == 1 && *single >= 0 { *single + 1 } else { -1 };
    }
    for (contact_id, response) in responses.iter().filter(|(_, response)| response.is_click()) {
        let Some(person) = people.kept_of.get(contact_id).filter(|_| known.0.contains_key(&response.run_id)) else { continue };
        if buyers.binary_search(person).is_err() {
            continue;
        }
        let past = pasts.entry(*person).or_default();
        let (delivery_id, link, run_id) = (response.delivery_id, response.link, response.run_id);
        past.touches.extend([response.first_at, response.last_at].map(|at| Touch { at, delivery_id, link, run_id }));
        past.spans.insert((delivery_id, link), (response.first_at, response.last_at));
        if past.single.get(&(delivery_id, link)) != Some(&response.human) {
            past.faded.push(Faded { first_at: response.first_at, last_at: response.last_at, run_id });
        }
    }
    Ok(pasts)
}

/// How an order is shared: anew, or as before where not all clicks before it can be told one by one any more.
fn parts_of(order: &Order, past: &Past, stored: &BTreeMap<Key, Conversion>, rule_of: &impl Fn(i64) -> Attribution) -> Vec<Part> {
    let within = |run_id: i64, first: Time, last: Time| first <= order.at && order.at.since(last) <= window(rule_of(run_id));
    if past.faded.iter().any(|faded| within(faded.run_id, faded.first_at, faded.last_at)) {
        let before: Vec<Part> = stored
            .range((order.id, i64::MIN, i64::MIN)..=(order.id, i64::MAX, i64::MAX))
            .map(|((_, delivery_id, link), row)| Part { delivery_id: *delivery_id, link: *link, run_id: row.run_id, share: row.share })
            .collect();
        // Unless a click that it counted was judged to be a machine's since, or the order has another time.
        let holds =
            |part: &Part| past.spans.get(&(part.delivery_id, part.link)).is_some_and(|(first, last)| within(part.run_id, *first, *last));
        if !before.is_empty() && before.iter().all(holds) {
            return before;
        }
    }
    share(order.at, &past.touches, rule_of)
}

/// Takes away how somebody responds, and out of what is known of all.
pub(super) async fn forget(tx: &mut Tx, contact_id: i64) -> Result<(), DbError> {
    let mut changes: BTreeMap<(i64, usize), i64> = BTreeMap::new();
    for (topic, habit) in sql::take(tx, &[contact_id]).await? {
        for (place, weight) in habit.places().enumerate() {
            *changes.entry((topic, place)).or_default() -= weight;
        }
    }
    // Only rows that are there change.
    sql::add_to_priors(tx, &changes, 0).await
}
