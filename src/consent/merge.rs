//! What a merge of two contacts means for permission. A consent belongs to the address it was given with and goes
//! nowhere; whatever somebody took back, they took back as a person.

use super::suppression::{self, reason};
use super::tracking::{TrackingRules, effective};
use super::{ALL_TOPICS, Action, NewEvent, Standing, TopicState, Tracking, choose, ledger, ops, sql};
use crate::clock::Time;
use crate::contact::Contact;
use crate::db::{DbError, Tx};

/// What somebody lost, or may not be done to them any more, because another contact is the same person.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Carried {
    /// Topics they no longer get.
    pub topics: Vec<String>,
    /// They left everything.
    pub everything: bool,
    /// How they are tracked from now on, where that is less than before.
    pub tracking: Option<Tracking>,
    /// Nothing may be concluded about them from now on.
    pub profiling_refused: bool,
}

impl Carried {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Carried::default()
    }
}

/// Reasons of suppression that say something about the person. A bounce and a role are about the address.
fn is_about_the_person(why: &str) -> bool {
    !matches!(why, reason::BOUNCE | reason::ROLE)
}

/// `gone` turned out to be `kept`: what `gone` withdrew, objected to, or was suppressed for, holds for `kept`, and so
/// does what they refused. `source` names the merge, and nobody.
pub async fn carry(tx: &mut Tx, rules: &TrackingRules, gone: &Contact, kept_id: i64, source: &str, now: Time) -> Result<Carried, DbError> {
    // The head first: what either of them says meanwhile waits.
    sql::lock_head(tx).await?;
    let (theirs, ours) = (choose::states(tx, gone.id).await?, choose::states(tx, kept_id).await?);
    let suppressed = suppression::look_up(tx, &[&gone.email_key]).await?.remove(&gone.email_key);
    let everything = has_left(&theirs, ALL_TOPICS) || suppressed.is_some_and(|entry| is_about_the_person(&entry.reason));
    let gets: Vec<&TopicState> = ours.iter().filter(|topic| topic.topic_id != ALL_TOPICS && topic.state.standing.can_withdraw()).collect();
    let mut carried = Carried::default();
    let event = |topic_id| NewEvent::new(kept_id, topic_id, Action::Withdrawn, source);
    if everything && !(has_left(&ours, ALL_TOPICS) && gets.is_empty()) {
        carried.everything = ops::withdraw(tx, &event(ALL_TOPICS), now).await?.changed;
        carried.topics = gets.iter().map(|topic| topic.topic.clone()).collect();
    } else {
        let lost: Vec<&&TopicState> = gets.iter().filter(|topic| has_left(&theirs, topic.topic_id)).collect();
        let events: Vec<NewEvent> = lost.iter().map(|topic| event(topic.topic_id)).collect();
        ledger::append(tx, &events, now).await?;
        carried.topics = lost.iter().map(|topic| topic.topic.clone()).collect();
    }
    carry_choices(tx, rules, gone.id, kept_id, source, now, &mut carried).await?;
    // Whoever is merged gets no mail: permits that were taken hold no more.
    sql::move_epoch(tx).await?;
    Ok(carried)
}

fn has_left(states: &[TopicState], topic_id: i64) -> bool {
    states.iter().any(|topic| topic.topic_id == topic_id && topic.state.standing == Standing::Unsubscribed)
}

/// The stricter of two choices holds.
async fn carry_choices(
    tx: &mut Tx,
    rules: &TrackingRules,
    from: i64,
    to: i64,
    source: &str,
    now: Time,
    carried: &mut Carried,
) -> Result<(), DbError> {
    let (theirs, ours) = (choose::choices(tx, from).await?, choose::choices(tx, to).await?);
    let event = NewEvent::new(to, ALL_TOPICS, Action::Changed, source);
    let tracked = effective(tx, rules, &[to]).await?.remove(&to).unwrap_or(Tracking::Full);
    if let Some(less) = theirs.tracking.filter(|chosen| *chosen > tracked) {
        choose::set_tracking(tx, &event, Some(less), now).await?;
        carried.tracking = Some(less);
    }
    if theirs.profiling_refused && !ours.profiling_refused {
        choose::set_profiling(tx, &event, true, now).await?;
        carried.profiling_refused = true;
    }
    Ok(())
}

/// A merge of `gone_id` into `kept_id` at `since` is undone: what the person took back since, by the address that was
/// kept, holds for the other one, too, unless they said something else there later: what they just confirmed
/// (`confirmed`, topics) stays.
pub async fn carry_back(
    tx: &mut Tx,
    rules: &TrackingRules,
    (kept_id, gone_id): (i64, i64),
    since: Time,
    confirmed: &[i64],
    source: &str,
    now: Time,
) -> Result<Carried, DbError> {
    sql::lock_head(tx).await?;
    let (theirs, ours) = (choose::states(tx, kept_id).await?, choose::states(tx, gone_id).await?);
    let left_at = |topic_id: i64| {
        let left =
            |topic: &&TopicState| topic.topic_id == topic_id && topic.state.standing == Standing::Unsubscribed && topic.since >= since;
        theirs.iter().find(left).map(|topic| topic.since)
    };
    let everything_at = left_at(ALL_TOPICS);
    let mut carried = Carried::default();
    let mut events = Vec::new();
    let spared = |topic_id: i64| topic_id == ALL_TOPICS || confirmed.contains(&topic_id);
    for topic in ours.iter().filter(|topic| !spared(topic.topic_id) && topic.state.standing.can_withdraw()) {
        let at = left_at(topic.topic_id).max(everything_at);
        if at.is_some_and(|at| at >= topic.since) {
            events.push(NewEvent::new(gone_id, topic.topic_id, Action::Withdrawn, source));
            carried.topics.push(topic.topic.clone());
        }
    }
    // The row for everything keeps later topics and imports out. What is confirmed after it stays.
    if everything_at.is_some() && !has_left(&ours, ALL_TOPICS) {
        events.push(NewEvent::new(gone_id, ALL_TOPICS, Action::Withdrawn, source));
        carried.everything = true;
    }
    ledger::append(tx, &events, now).await?;
    carry_choices(tx, rules, kept_id, gone_id, source, now, &mut carried).await?;
    Ok(carried)
}
