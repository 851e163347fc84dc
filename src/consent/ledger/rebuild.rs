//! Folding the ledger anew and holding the result against what is materialised.
//!
//! People are taken in the order of their ids, a block of entries at a time: memory does not grow with the
//! ledger.

use std::collections::{BTreeMap, BTreeSet};

use crate::consent::state::{ChoiceRow, Person, Row};
use crate::consent::{ALL_TOPICS, sql, standing_sql};
use crate::db::{DbError, Tx};

/// Entries read at a time.
const BLOCK: i64 = 10_000;
/// People named one by one; more are counted.
const MAX_NAMED: usize = 100;

/// The answer of [`rebuild`].
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rebuilt {
    /// People that entries are about.
    pub people: u64,
    /// Rows of standing and choices that differed from the ledger.
    pub rows: u64,
    /// People whose rows differed.
    pub differing: u64,
    /// The ids of the first of them.
    pub contacts: Vec<i64>,
}

/// Folds every entry anew, names the people whose standings or choices differ, and, with `write`, makes them what
/// the ledger says; then every permit taken before is looked at again.
pub async fn rebuild(tx: &mut Tx, write: bool) -> Result<Rebuilt, DbError> {
    if write {
        // Nobody appends while we compare.
        sql::lock_head(tx).await?;
    }
    let mut answer = Rebuilt::default();
    let topics: BTreeSet<i64> = standing_sql::topics_in_use(tx).await?.into_iter().chain([ALL_TOPICS]).collect();
    let mut folded: BTreeMap<i64, Person> = BTreeMap::new();
    let (mut done, mut after) = (i64::MIN, (i64::MIN, 0));
    loop {
        let steps = sql::steps_after(tx, after, BLOCK).await?;
        let last = steps.last().map(|step| (step.contact_id, step.seq));
        let to = match last {
            // The last person may go on in the next block.
            Some((contact_id, _)) if steps.len() as i64 == BLOCK => contact_id - 1,
            _ => i64::MAX,
        };
        for step in &steps {
            let person = folded.entry(step.contact_id).or_default();
            if let Some(fact) = step.fact() {
                person.apply(step.topic_id, &fact, step.seq, step.at);
            }
        }
        let going_on = if to == i64::MAX { BTreeMap::new() } else { folded.split_off(&(to + 1)) };
        let people = std::mem::replace(&mut folded, going_on);
        if to > done {
            compare(tx, &topics, &people, (done, to), write, &mut answer).await?;
            done = to;
        }
        match last {
            Some(last) if to != i64::MAX => after = last,
            _ => break,
        }
    }
    if write && answer.differing > 0 {
        sql::move_epoch(tx).await?;
    }
    Ok(answer)
}

/// Holds the people in `(from, to]` against their rows.
async fn compare(
    tx: &mut Tx,
    topics: &BTreeSet<i64>,
    people: &BTreeMap<i64, Person>,
    (from, to): (i64, i64),
    write: bool,
    answer: &mut Rebuilt,
) -> Result<(), DbError> {
    let nobody = Person::default();
    let mut differing = BTreeSet::new();
    let (mut changed, mut removed): (Vec<(i64, i64, Row)>, Vec<(i64, i64)>) = (Vec::new(), Vec::new());
    let touched = people.values().flat_map(|person| person.topics.keys().copied());
    for topic_id in touched.chain(topics.iter().copied()).collect::<BTreeSet<i64>>() {
        let mut kept: BTreeMap<i64, Row> =
            standing_sql::rows_between(tx, topic_id, from, to).await?.into_iter().map(|((_, contact_id), row)| (contact_id, row)).collect();
        for (contact_id, person) in people {
            let row = person.topics.get(&topic_id);
            match (kept.remove(contact_id), row) {
                (kept, Some(row)) if kept != Some(*row) => changed.push((topic_id, *contact_id, *row)),
                (Some(_), None) => removed.push((topic_id, *contact_id)),
                _ => {}
            }
        }
        // Rows of people without any entry.
        removed.extend(kept.into_keys().map(|contact_id| (topic_id, contact_id)));
    }
    let kept: BTreeMap<i64, ChoiceRow> = standing_sql::choices_between(tx, from, to).await?.into_iter().collect();
    let mut choices = Vec::new();
    for contact_id in people.keys().chain(kept.keys()).copied().collect::<BTreeSet<i64>>() {
        let chosen = people.get(&contact_id).unwrap_or(&nobody).choices;
        if kept.get(&contact_id).copied() != chosen {
            choices.push((contact_id, chosen));
        }
    }
    differing.extend(changed.iter().map(|change| change.1));
    differing.extend(removed.iter().map(|pair| pair.1));
    differing.extend(choices.iter().map(|choice| choice.0));
    answer.people += people.keys().filter(|contact_id| **contact_id != 0).count() as u64;
    answer.rows += (changed.len() + removed.len() + choices.len()) as u64;
    answer.differing += differing.len() as u64;
    let room = MAX_NAMED - answer.contacts.len();
    answer.contacts.extend(differing.into_iter().take(room));
    if write {
        standing_sql::upsert(tx, &changed).await?;
        standing_sql::remove(tx, &removed).await?;
        for (contact_id, _) in choices.iter().filter(|choice| choice.1.is_none()) {
            standing_sql::remove_choice(tx, *contact_id).await?;
        }
        let chosen: Vec<(i64, ChoiceRow)> = choices.into_iter().filter_map(|(contact_id, row)| Some((contact_id, row?))).collect();
        standing_sql::upsert_choices(tx, &chosen).await?;
    }
    Ok(())
}
