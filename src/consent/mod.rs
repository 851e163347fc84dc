//! May we: the consent ledger, what it means for a person and topic (standing), the suppression
//! list, and the permit without which nothing is sent.
//!
//! The ledger (`consent_event`) is append-only and hash-chained: each event's hash covers the hash
//! before it, so an edit, deletion, insertion or reordering breaks the chain from there on. It
//! proves that history was not altered since it was written *by somebody who cannot rewrite the
//! whole chain*; it does not prove that an event was true when it was written.

use std::fmt;

pub mod invitation;
pub mod ledger;
pub mod ops;
mod permit;
mod sql;

pub use permit::{Permit, Refusal, message_refusal};

/// The topic id that stands for "everything": a withdrawal from all mail.
pub const ALL_TOPICS: i64 = 0;

/// Where a contact stands on a topic now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Never heard of it.
    None,
    /// Asked for, not confirmed.
    Pending,
    /// May be mailed.
    Subscribed,
    /// Does not want mail for a while.
    Paused,
    /// Withdrew.
    Unsubscribed,
}

impl Standing {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::None => "none",
            Standing::Pending => "pending",
            Standing::Subscribed => "subscribed",
            Standing::Paused => "paused",
            Standing::Unsubscribed => "unsubscribed",
        }
    }

    /// Whether a withdrawal would change something.
    pub fn can_withdraw(self) -> bool {
        matches!(self, Standing::Pending | Standing::Subscribed | Standing::Paused)
    }

    /// Reads a stored standing; anything unknown counts as no permission.
    pub fn from_stored(text: Option<&str>) -> Self {
        match text {
            Some("pending") => Standing::Pending,
            Some("subscribed") => Standing::Subscribed,
            Some("paused") => Standing::Paused,
            Some("unsubscribed") => Standing::Unsubscribed,
            _ => Standing::None,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a ledger event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Somebody asked for it; the owner of the address has not confirmed yet.
    Requested,
    /// Consent given in a way that needs no confirmation mail: an import with declared consent, a
    /// single opt-in, an operator who holds the proof.
    Granted,
    /// Confirmed by the owner of the address: the only way back after a withdrawal.
    Confirmed,
    /// Withdrawn by the person.
    Withdrawn,
    /// Objected to direct marketing (GDPR art. 21), such as a spam complaint.
    Objected,
}

impl Action {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Requested => "requested",
            Action::Granted => "granted",
            Action::Confirmed => "confirmed",
            Action::Withdrawn => "withdrawn",
            Action::Objected => "objected",
        }
    }

    /// Reads a stored action.
    pub fn from_stored(text: &str) -> Option<Self> {
        [Action::Requested, Action::Granted, Action::Confirmed, Action::Withdrawn, Action::Objected]
            .into_iter()
            .find(|action| action.as_str() == text)
    }
}

/// The whole state machine: what an event makes of a standing.
///
/// After a withdrawal only a confirmation brings a person back (an import or a form never does).
pub fn fold(standing: Standing, action: Action) -> Standing {
    use Action::*;
    use Standing::*;
    match (standing, action) {
        (_, Withdrawn | Objected) => Unsubscribed,
        (_, Confirmed) => Subscribed,
        (Unsubscribed, Requested | Granted) => Unsubscribed,
        (Paused, Requested | Granted) => Paused,
        (None | Pending | Subscribed, Granted) => Subscribed,
        (Subscribed, Requested) => Subscribed,
        (None | Pending, Requested) => Pending,
    }
}

/// An event about to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Whom it is about.
    pub contact_id: i64,
    /// Which topic; [`ALL_TOPICS`] for everything.
    pub topic_id: i64,
    /// What it says.
    pub action: Action,
    /// Where it came from: a file, a form, a page, a person's word.
    pub source: String,
    /// Line of the import file.
    pub source_line: Option<i64>,
    /// Hash of the wording shown (see [`ops::keep_wording`]).
    pub wording_hash: Option<String>,
    /// Personal proof (address, agent, delivery) as JSON; may be erased later, its digest stays.
    pub evidence: Option<String>,
}

/// An event as it stands in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Place in the chain, from 1.
    pub seq: i64,
    /// When.
    pub at: crate::clock::Time,
    /// Whom it is about.
    pub contact_id: i64,
    /// Topic name; empty for everything.
    pub topic: String,
    /// What it says, as stored.
    pub action: String,
    /// Where it came from.
    pub source: String,
    /// Line of the import file.
    pub source_line: Option<i64>,
    /// Hash of the wording.
    pub wording_hash: Option<String>,
    /// Personal proof, unless erased.
    pub evidence: Option<String>,
    /// SHA-256 of the evidence as it was written, in hex.
    pub evidence_digest: Option<String>,
    /// This link of the chain.
    pub hash: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Action; 5] = [Action::Requested, Action::Granted, Action::Confirmed, Action::Withdrawn, Action::Objected];

    #[test]
    fn after_a_withdrawal_only_a_confirmation_brings_somebody_back() {
        for action in [Action::Requested, Action::Granted] {
            assert_eq!(fold(Standing::Unsubscribed, action), Standing::Unsubscribed);
        }
        assert_eq!(fold(Standing::Unsubscribed, Action::Confirmed), Standing::Subscribed);
    }

    #[test]
    fn asking_twice_changes_nothing() {
        for standing in [Standing::None, Standing::Pending, Standing::Subscribed, Standing::Paused, Standing::Unsubscribed] {
            for action in ALL {
                let once = fold(standing, action);
                assert_eq!(fold(once, action), once, "{standing} {action:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_withdrew_last_is_not_subscribed(actions in proptest::collection::vec(0_usize..5, 0..20)) {
            let history: Vec<Action> = actions.iter().map(|i| ALL[*i]).collect();
            let standing = history.iter().fold(Standing::None, |standing, action| fold(standing, *action));
            let last_out = history.iter().rposition(|a| matches!(a, Action::Withdrawn | Action::Objected));
            let last_confirmed = history.iter().rposition(|a| matches!(a, Action::Confirmed));
            if let Some(out) = last_out {
                prop_assert_eq!(standing == Standing::Subscribed, last_confirmed > Some(out));
            }
        }
    }
}
