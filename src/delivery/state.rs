//! The states of a delivery and what the journal says about them.

use crate::clock::Time;

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Waits for its time.
    Due,
    /// A worker has it.
    Claimed,
    /// The relay took it.
    Sent,
    /// The relay said "later"; it is tried again.
    Deferred,
    /// The relay refused this recipient or message for good.
    Bounced,
    /// It could not be handed over (deadline passed, sender refused, address impossible).
    Failed,
    /// The reply was pending when the engine or the session died: it may have arrived.
    InDoubt,
    /// Not sent, for a reason.
    Skipped,
}

impl State {
    /// All of them.
    pub const ALL: [State; 8] =
        [State::Due, State::Claimed, State::Sent, State::Deferred, State::Bounced, State::Failed, State::InDoubt, State::Skipped];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Due => "due",
            State::Claimed => "claimed",
            State::Sent => "sent",
            State::Deferred => "deferred",
            State::Bounced => "bounced",
            State::Failed => "failed",
            State::InDoubt => "in_doubt",
            State::Skipped => "skipped",
        }
    }

    /// Reads a stored state.
    pub fn from_stored(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The delivery.
    pub delivery_id: i64,
    /// Which attempt, from 1.
    pub attempt: i64,
    /// Where it is now.
    pub state: State,
    /// When it may be tried again (deferred only).
    pub due_at: Time,
    /// Why, as a code to count.
    pub reason: Option<String>,
    /// What the relay said.
    pub reply: Option<String>,
    /// When.
    pub at: Time,
}

/// One line of a journal row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The final dot of this attempt is about to be sent.
    HandedOver {
        /// The delivery.
        delivery_id: i64,
        /// Which attempt, from 1.
        attempt: i64,
    },
    /// What became of it.
    Outcome(Outcome),
    /// The session ended before its body: nothing of this attempt went out, and it may be handed over
    /// again.
    TakenBack {
        /// The delivery.
        delivery_id: i64,
        /// Which attempt, from 1.
        attempt: i64,
    },
}

/// Entries as stored: one a line, fields between tabs.
pub fn write_entries(entries: &[Entry]) -> String {
    let field = |text: &Option<String>| text.as_deref().unwrap_or("").replace(['\t', '\n', '\r', '\0'], " ");
    let mut out = String::new();
    for entry in entries {
        match entry {
            Entry::HandedOver { delivery_id, attempt } => out.push_str(&format!("H\t{delivery_id}\t{attempt}\n")),
            Entry::TakenBack { delivery_id, attempt } => out.push_str(&format!("T\t{delivery_id}\t{attempt}\n")),
            Entry::Outcome(outcome) => out.push_str(&format!(
                "O\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
                outcome.delivery_id,
                outcome.attempt,
                outcome.state.as_str(),
                outcome.due_at.millis(),
                outcome.at.millis(),
                field(&outcome.reason),
                field(&outcome.reply),
            )),
        }
    }
    out
}

/// Reads entries back; a line that does not parse is left out (it was never written by us).
pub fn read_entries(text: &str) -> Vec<Entry> {
    text.lines().filter_map(read_entry).collect()
}

fn read_entry(line: &str) -> Option<Entry> {
    let fields: Vec<&str> = line.split('\t').collect();
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    match fields.as_slice() {
        ["H", delivery_id, attempt] => Some(Entry::HandedOver { delivery_id: delivery_id.parse().ok()?, attempt: attempt.parse().ok()? }),
        ["T", delivery_id, attempt] => Some(Entry::TakenBack { delivery_id: delivery_id.parse().ok()?, attempt: attempt.parse().ok()? }),
        ["O", delivery_id, attempt, state, due_at, at, reason, reply] => Some(Entry::Outcome(Outcome {
            delivery_id: delivery_id.parse().ok()?,
            attempt: attempt.parse().ok()?,
            state: State::from_stored(state)?,
            due_at: Time::from_millis(due_at.parse().ok()?),
            at: Time::from_millis(at.parse().ok()?),
            reason: optional(reason),
            reply: optional(reply),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were_written() {
        let entries = vec![
            Entry::HandedOver { delivery_id: 7, attempt: 2 },
            Entry::Outcome(Outcome {
                delivery_id: 6,
                attempt: 1,
                state: State::Deferred,
                due_at: Time::from_millis(9),
                reason: None,
                reply: Some("451 later\tplease\n".to_owned()),
                at: Time::from_millis(8),
            }),
            Entry::TakenBack { delivery_id: 7, attempt: 2 },
        ];
        let read = read_entries(&write_entries(&entries));
        assert_eq!((&read[0], &read[2]), (&entries[0], &entries[2]));
        assert!(matches!(&read[1], Entry::Outcome(outcome) if outcome.reply.as_deref() == Some("451 later please ")));
    }
}
