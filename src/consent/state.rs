//! What the ledger makes of a person: the state machine, pure.
//!
//! Whatever is materialised (`subscription`, `consent_choice`) is these functions over a person's events in
//! the order of the chain. Each event may be applied twice and does no more than once.

use std::collections::BTreeMap;

use super::{ALL_TOPICS, Action, Frequency, Standing, Tracking, fold};
use crate::clock::Time;

/// How a person stands on a topic, with all they chose about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// May we mail them.
    pub standing: Standing,
    /// How often; nothing for every mail.
    pub frequency: Option<Frequency>,
    /// Until when a pause holds; nothing for as long as they like.
    pub until: Option<Time>,
    /// When an implied consent ends by itself; nothing for one that does not.
    pub ends: Option<Time>,
}

impl State {
    /// Of somebody who never heard of the topic.
    pub const NONE: State = State { standing: Standing::None, frequency: None, until: None, ends: None };

    fn only(standing: Standing) -> State {
        State { standing, ..State::NONE }
    }
}

/// What a person chose for everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choices {
    /// How their opens and clicks are recorded; nothing for what the instance says.
    pub tracking: Option<Tracking>,
    /// They refused that scores are computed for them (GDPR art. 21 and 22).
    pub profiling_refused: bool,
}

/// The part of an event that changes something.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    /// What it says.
    pub action: Action,
    /// The frequency asked for together with a subscription.
    pub frequency: Option<Frequency>,
    /// The end of a pause or an implied consent.
    pub until: Option<Time>,
    /// What a `changed` event sets, `key=value`.
    pub detail: Option<&'a str>,
}

impl Fact<'_> {
    /// The value of `key=value`; a detail is some of them, a space between.
    fn detail(&self, key: &str) -> Option<&str> {
        self.detail?.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

/// What an event makes of a person's state on a topic. `everything` is where they stand on everything: whoever
/// left it stays out of a topic they never touched, too.
pub fn step(own: State, everything: Standing, fact: &Fact<'_>) -> State {
    let unless_left = |state: State| match (state.standing, everything) {
        (Standing::None, Standing::Unsubscribed) => State::only(Standing::Unsubscribed),
        _ => state,
    };
    unless_left(fold_state(unless_left(own), fact))
}

/// What an event makes of a state. Leaving forgets frequency, pause and end.
pub fn fold_state(state: State, fact: &Fact<'_>) -> State {
    let standing = fold(state.standing, fact.action);
    if matches!(standing, Standing::None | Standing::Unsubscribed) {
        return State::only(standing);
    }
    let until = match (standing, fact.action) {
        (Standing::Paused, Action::Paused) => fact.until,
        (Standing::Paused, _) => state.until,
        _ => None,
    };
    let frequency = match (fact.action, fact.detail("frequency")) {
        (Action::Changed, Some("every")) => None,
        (Action::Changed, Some(wanted)) => Frequency::from_stored(wanted).or(state.frequency),
        (Action::Requested | Action::Granted | Action::Confirmed, _) => fact.frequency.or(state.frequency),
        _ => state.frequency,
    };
    State { standing, frequency, until, ends: ends(&state, standing, fact) }
}

/// An express consent knows no end; an implied one is prolonged by the next, never shortened.
fn ends(state: &State, standing: Standing, fact: &Fact<'_>) -> Option<Time> {
    let had = matches!(state.standing, Standing::Subscribed | Standing::Paused);
    match (fact.action, fact.until) {
        (Action::Confirmed, _) => None,
        (Action::Granted | Action::Refreshed, None) => None,
        (Action::Granted | Action::Refreshed, Some(until)) if had => state.ends.map(|ends| ends.max(until)),
        (Action::Granted, Some(until)) if standing == Standing::Subscribed => Some(until),
        _ => state.ends,
    }
}

/// What an event about everything makes of a person's choices.
pub fn fold_choices(choices: Choices, fact: &Fact<'_>) -> Choices {
    match fact.action {
        Action::Erased => Choices::default(),
        Action::Changed => Choices {
            tracking: match fact.detail("tracking") {
                Some("default") => None,
                Some(wanted) => Tracking::from_stored(wanted).or(choices.tracking),
                None => choices.tracking,
            },
            profiling_refused: match fact.detail("profiling") {
                Some("refused") => true,
                Some("allowed") => false,
                _ => choices.profiling_refused,
            },
        },
        _ => choices,
    }
}

/// A state with the entry it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) state: State,
    /// When the standing last changed, and by which entry.
    pub(super) since: Time,
    pub(super) last_seq: i64,
}

impl Row {
    pub(super) const NONE: Row = Row { state: State::NONE, since: Time::from_millis(0), last_seq: 0 };

    /// The row after an entry that made `state` of it.
    pub(super) fn become_state(self, state: State, seq: i64, at: Time) -> Row {
        if state.standing == self.state.standing { Row { state, ..self } } else { Row { state, since: at, last_seq: seq } }
    }
}

/// Choices with the entry they rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChoiceRow {
    pub(super) choices: Choices,
    pub(super) changed_at: Time,
    pub(super) last_seq: i64,
}

impl ChoiceRow {
    pub(super) const NONE: ChoiceRow =
        ChoiceRow { choices: Choices { tracking: None, profiling_refused: false }, changed_at: Time::from_millis(0), last_seq: 0 };

    pub(super) fn become_choices(self, choices: Choices, seq: i64, at: Time) -> ChoiceRow {
        if choices == self.choices { self } else { ChoiceRow { choices, changed_at: at, last_seq: seq } }
    }
}

/// One person's whole ledger, folded.
#[derive(Debug, Clone, Default)]
pub(super) struct Person {
    pub(super) topics: BTreeMap<i64, Row>,
    pub(super) choices: Option<ChoiceRow>,
}

impl Person {
    /// Takes the next entry in.
    pub(super) fn apply(&mut self, topic_id: i64, fact: &Fact<'_>, seq: i64, at: Time) {
        if fact.action == Action::Erased {
            *self = Person::default();
            return;
        }
        let everything = self.topics.get(&ALL_TOPICS).map_or(Standing::None, |row| row.state.standing);
        let row = self.topics.get(&topic_id).copied().unwrap_or(Row::NONE);
        let state = step(row.state, everything, fact);
        if state != row.state {
            self.topics.insert(topic_id, row.become_state(state, seq, at));
        }
        if topic_id == ALL_TOPICS {
            let before = self.choices.unwrap_or(ChoiceRow::NONE);
            let after = before.become_choices(fold_choices(before.choices, fact), seq, at);
            if after != before {
                self.choices = Some(after);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DETAILS: [&str; 9] = [
        "frequency=daily",
        "frequency=weekly",
        "frequency=every",
        "frequency=hourly",
        "tracking=none",
        "tracking=default",
        "profiling=refused",
        "profiling=allowed",
        "reason=too_many",
    ];

    fn facts() -> impl Strategy<Value = Fact<'static>> {
        (0..Action::ALL.len(), 0..4_usize, 0..4_i64, 0..DETAILS.len() + 1).prop_map(|(action, frequency, until, detail)| Fact {
            action: Action::ALL[action],
            frequency: Frequency::ALL.get(frequency).copied(),
            until: (until > 0).then(|| Time::from_millis(until)),
            detail: DETAILS.get(detail).copied(),
        })
    }

    fn fact(action: Action) -> Fact<'static> {
        Fact { action, frequency: None, until: None, detail: None }
    }

    #[test]
    fn leaving_forgets_frequency_and_pause() {
        let weekly = Fact { detail: Some("frequency=weekly"), ..fact(Action::Changed) };
        let paused = Fact { until: Some(Time::from_millis(9)), ..fact(Action::Paused) };
        let history = [fact(Action::Confirmed), weekly, paused];
        let before = history.iter().fold(State::NONE, fold_state_of);
        assert_eq!((before.standing, before.frequency, before.until), (Standing::Paused, Some(Frequency::Weekly), paused.until));
        let after = [fact(Action::Withdrawn), fact(Action::Confirmed)].iter().fold(before, fold_state_of);
        assert_eq!(after, State::only(Standing::Subscribed));
    }

    fn fold_state_of(state: State, fact: &Fact<'_>) -> State {
        fold_state(state, fact)
    }

    #[test]
    fn an_implied_consent_is_prolonged_by_the_next_and_made_lasting_by_an_express_one() {
        let implied = |until| Fact { until: Some(Time::from_millis(until)), ..fact(Action::Granted) };
        let ends = |history: &[Fact<'_>]| history.iter().fold(State::NONE, fold_state_of).ends.map(Time::millis);
        assert_eq!(ends(&[implied(5)]), Some(5));
        assert_eq!(ends(&[implied(5), implied(9), implied(7)]), Some(9));
        assert_eq!(ends(&[implied(5), fact(Action::Granted)]), None);
        assert_eq!(ends(&[implied(5), fact(Action::Confirmed), implied(9)]), None);
        assert_eq!(ends(&[implied(5), fact(Action::Paused), implied(9), fact(Action::Resumed)]), Some(9));
        let over = [implied(5), fact(Action::Expired)].iter().fold(State::NONE, fold_state_of);
        assert_eq!(over, State::NONE, "it may be given anew");
    }

    proptest! {
        #[test]
        fn an_event_applied_twice_is_applied_once(history in proptest::collection::vec((0..3_i64, facts()), 0..30)) {
            let (mut once, mut twice) = (Person::default(), Person::default());
            for (seq, (topic, fact)) in (1..).zip(&history) {
                once.apply(*topic, fact, seq, Time::from_millis(seq));
                twice.apply(*topic, fact, seq, Time::from_millis(seq));
                twice.apply(*topic, fact, seq + 100, Time::from_millis(seq + 100));
            }
            prop_assert_eq!(once.topics, twice.topics);
            prop_assert_eq!(once.choices, twice.choices);
        }

        #[test]
        fn events_of_different_topics_may_come_in_any_order(
            history in proptest::collection::vec((1..4_i64, facts()), 0..30).prop_map(|history| {
                // Erasing and leaving everything are about all topics.
                history.into_iter().filter(|(_, fact)| fact.action != Action::Erased).collect::<Vec<_>>()
            })
        ) {
            let (mut mixed, mut sorted) = (Person::default(), Person::default());
            let mut numbered: Vec<(i64, &(i64, Fact<'_>))> = (1..).zip(&history).collect();
            for (seq, (topic, fact)) in &numbered {
                mixed.apply(*topic, fact, *seq, Time::from_millis(*seq));
            }
            numbered.sort_by_key(|(seq, (topic, _))| (*topic, *seq));
            for (seq, (topic, fact)) in &numbered {
                sorted.apply(*topic, fact, *seq, Time::from_millis(*seq));
            }
            prop_assert_eq!(mixed.topics, sorted.topics);
        }

        #[test]
        fn only_who_is_subscribed_or_may_be_has_choices_left(history in proptest::collection::vec(facts(), 0..30)) {
            let state = history.iter().fold(State::NONE, fold_state_of);
            prop_assert!(state.until.is_none() || state.standing == Standing::Paused);
            prop_assert!(state.ends.is_none() || matches!(state.standing, Standing::Subscribed | Standing::Paused));
            if matches!(state.standing, Standing::None | Standing::Unsubscribed) {
                prop_assert_eq!(state.frequency, None);
            }
        }
    }
}
