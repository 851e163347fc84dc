//! May we: the consent ledger, what it means for a person and topic (standing), the suppression
//! list, and the permit without which nothing is sent.
//!
//! The ledger (`consent_event`) is append-only and hash-chained: each event's hash covers the hash
//! before it, so an edit, deletion, insertion or reordering breaks the chain from there on. It
//! proves that history was not altered since it was written *by somebody who cannot rewrite the
//! whole chain*; it does not prove that an event was true when it was written.

use std::fmt;

pub mod checkpoint;
mod choose;
pub mod collected;
pub mod coupons;
pub mod entry;
mod erase;
pub mod forget;
mod grounds;
pub mod invitation;
pub mod ledger;
pub mod merge;
pub mod ops;
mod permit;
pub mod reasons;
pub mod repeats;
pub mod requests;
mod sql;
mod standing_sql;
mod state;
pub mod suppression;
mod suppression_sql;
pub mod tracking;
pub mod welcome;
mod wording;

pub use choose::TopicState;
pub use grounds::{Grounds, grounds};
pub use permit::{Permit, Refusal, message_refusal};
pub use state::{Choices, Fact, State, fold_choices, fold_state, step};
pub use wording::{KeptWording, Wording};

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
    /// Said again that they want it: the consent is as fresh as this entry.
    Refreshed,
    /// Wants no mail until a date, or until they say otherwise.
    Paused,
    /// A pause ended, by its date or by the person.
    Resumed,
    /// Chose how often (a topic), or how they are tracked and profiled (everything); `detail` says what.
    Changed,
    /// The person was erased: what is personal in their entries is gone.
    Erased,
    /// Its time was over. About a person: an implied consent ended by itself (it may be given anew). About
    /// nobody: the instance dropped addresses and agents of clients by its rule of retention; `detail` says of
    /// which entries.
    Expired,
}

impl Action {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Requested => "requested",
            Action::Granted => "granted",
            Action::Confirmed => "confirmed",
            Action::Withdrawn => "withdrawn",
            Action::Objected => "objected",
            Action::Refreshed => "refreshed",
            Action::Paused => "paused",
            Action::Resumed => "resumed",
            Action::Changed => "changed",
            Action::Erased => "erased",
            Action::Expired => "expired",
        }
    }

    /// All of them.
    pub const ALL: [Action; 11] = [
        Action::Requested,
        Action::Granted,
        Action::Confirmed,
        Action::Withdrawn,
        Action::Objected,
        Action::Refreshed,
        Action::Paused,
        Action::Resumed,
        Action::Changed,
        Action::Erased,
        Action::Expired,
    ];

    /// Reads a stored action.
    pub fn from_stored(text: &str) -> Option<Self> {
        Action::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// The whole state machine: what an event makes of a standing.
///
/// After a withdrawal only a confirmation brings a person back (an import or a form never does).
pub fn fold(standing: Standing, action: Action) -> Standing {
    use Action::{Changed, Confirmed, Erased, Expired, Granted, Objected, Refreshed, Requested, Resumed, Withdrawn};
    use Standing::{None, Pending, Subscribed, Unsubscribed};
    match (standing, action) {
        (_, Withdrawn | Objected | Erased) => Unsubscribed,
        (_, Confirmed) => Subscribed,
        (Subscribed, Action::Paused) => Standing::Paused,
        (Standing::Paused, Resumed) => Subscribed,
        (standing, Refreshed | Action::Paused | Resumed | Changed) => standing,
        (Unsubscribed, Expired) => Unsubscribed,
        (_, Expired) => None,
        (Unsubscribed, Requested | Granted) => Unsubscribed,
        (Standing::Paused, Requested | Granted) => Standing::Paused,
        (None | Pending | Subscribed, Granted) => Subscribed,
        (Subscribed, Requested) => Subscribed,
        (None | Pending, Requested) => Pending,
    }
}

/// On what ground somebody is mailed (GDPR art. 6; CASL's implied consent; ePrivacy 13(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A declaration of the person (GDPR 6(1)(a)).
    Consent,
    /// An address got in a sale, for own similar products (ePrivacy 13(2)).
    SoftOptIn,
    /// Implied consent that ends by itself (CASL s.10).
    Implied,
    /// Needed for a contract (GDPR 6(1)(b)).
    Contract,
    /// Weighed interests (GDPR 6(1)(f)).
    LegitimateInterest,
}

impl Basis {
    /// All of them.
    pub const ALL: [Basis; 5] = [Basis::Consent, Basis::SoftOptIn, Basis::Implied, Basis::Contract, Basis::LegitimateInterest];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Basis::Consent => "consent",
            Basis::SoftOptIn => "soft_opt_in",
            Basis::Implied => "implied",
            Basis::Contract => "contract",
            Basis::LegitimateInterest => "legitimate_interest",
        }
    }

    /// Reads a stored basis.
    pub fn from_stored(text: &str) -> Option<Self> {
        Basis::ALL.into_iter().find(|basis| basis.as_str() == text)
    }
}

/// How often somebody wants the mails of a topic, collected into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Frequency {
    /// One mail a day at most.
    Daily,
    /// One a week.
    Weekly,
    /// One a month.
    Monthly,
}

impl Frequency {
    /// All of them.
    pub const ALL: [Frequency; 3] = [Frequency::Daily, Frequency::Weekly, Frequency::Monthly];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Frequency::Daily => "daily",
            Frequency::Weekly => "weekly",
            Frequency::Monthly => "monthly",
        }
    }

    /// Reads a stored frequency.
    pub fn from_stored(text: &str) -> Option<Self> {
        Frequency::ALL.into_iter().find(|frequency| frequency.as_str() == text)
    }
}

/// How the opens and clicks of a person are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracking {
    /// With the person.
    Full,
    /// Counted, without a trace of whose they are.
    Anonymous,
    /// Not at all: no image, plain links.
    None,
}

impl Tracking {
    /// All of them.
    pub const ALL: [Tracking; 3] = [Tracking::Full, Tracking::Anonymous, Tracking::None];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Tracking::Full => "full",
            Tracking::Anonymous => "anonymous",
            Tracking::None => "none",
        }
    }

    /// Reads a stored choice.
    pub fn from_stored(text: &str) -> Option<Self> {
        Tracking::ALL.into_iter().find(|tracking| tracking.as_str() == text)
    }
}

/// The one channel there is.
pub const EMAIL: &str = "email";

/// An event about to be written. [`NewEvent::new`] makes one; the rest is set field by field.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Whom it is about; 0 for an event about the whole ledger.
    pub contact_id: i64,
    /// Which topic; [`ALL_TOPICS`] for everything.
    pub topic_id: i64,
    /// What it says.
    pub action: Action,
    /// Where it came from, without anything personal (it can never be erased): `form tea`,
    /// `page preferences`, `one_click`, `mail`, `api shop`, `cli`, or what an import declares. A person's own
    /// words go into `evidence`, under `source`.
    pub source: String,
    /// Line of the import file.
    pub source_line: Option<i64>,
    /// What the mails are for, such as `marketing`: the topic's purpose.
    pub purpose: Option<String>,
    /// The lawful basis.
    pub basis: Option<Basis>,
    /// The frequency that a `changed` event sets.
    pub frequency: Option<Frequency>,
    /// Until when a `paused` event holds, or an implied consent.
    pub until: Option<crate::clock::Time>,
    /// What changed, such as `frequency=every`, `tracking=none`, `profiling=refused`; nothing personal.
    pub detail: Option<String>,
    /// Hash of the wording shown (see [`ops::keep_wording`]).
    pub wording_hash: Option<String>,
    /// Personal proof (address as given, delivery, token trail, words) as JSON with a salt (see
    /// [`ops::evidence`]); may be erased later, its digest stays.
    pub evidence: Option<String>,
    /// Address and agent of the client as JSON with a salt (see [`ops::origin`]); dropped when its time
    /// of retention is over, its digest stays.
    pub origin: Option<String>,
}

impl NewEvent {
    /// An event with nothing but its core.
    pub fn new(contact_id: i64, topic_id: i64, action: Action, source: impl Into<String>) -> Self {
        NewEvent {
            contact_id,
            topic_id,
            action,
            source: source.into(),
            source_line: None,
            purpose: None,
            basis: None,
            frequency: None,
            until: None,
            detail: None,
            wording_hash: None,
            evidence: None,
            origin: None,
        }
    }
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
    /// Which topic; [`ALL_TOPICS`] for everything.
    pub topic_id: i64,
    /// Topic name; empty for everything.
    pub topic: String,
    /// What it says, as stored.
    pub action: String,
    /// Where it came from.
    pub source: String,
    /// Line of the import file.
    pub source_line: Option<i64>,
    /// By which rule it is chained: 1 for entries of the first releases, 2 since.
    pub version: i64,
    /// By which channel mails may come: [`EMAIL`].
    pub channel: Option<String>,
    /// What the mails are for.
    pub purpose: Option<String>,
    /// The lawful basis, as stored.
    pub basis: Option<String>,
    /// A frequency asked for, as stored.
    pub frequency: Option<String>,
    /// The end of a pause or an implied consent.
    pub until: Option<crate::clock::Time>,
    /// What changed, `key=value`.
    pub detail: Option<String>,
    /// Hash of the wording.
    pub wording_hash: Option<String>,
    /// Personal proof, unless erased.
    pub evidence: Option<String>,
    /// SHA-256 of the evidence as it was written, in hex.
    pub evidence_digest: Option<String>,
    /// Address and agent of the client, unless dropped.
    pub origin: Option<String>,
    /// SHA-256 of the origin as it was written, in hex.
    pub origin_digest: Option<String>,
    /// This link of the chain.
    pub hash: Vec<u8>,
}

impl NewEvent {
    /// What it changes.
    pub fn fact(&self) -> Fact<'_> {
        Fact { action: self.action, frequency: self.frequency, until: self.until, detail: self.detail.as_deref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Action; 11] = Action::ALL;

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
        fn whoever_withdrew_last_is_not_subscribed(actions in proptest::collection::vec(0_usize..11, 0..20)) {
            let history: Vec<Action> = actions.iter().map(|i| ALL[*i]).collect();
            let standing = history.iter().fold(Standing::None, |standing, action| fold(standing, *action));
            let last_out = history.iter().rposition(|a| matches!(a, Action::Withdrawn | Action::Objected | Action::Erased));
            let last_confirmed = history.iter().rposition(|a| matches!(a, Action::Confirmed));
            if let Some(out) = last_out {
                prop_assert!(standing != Standing::Subscribed || last_confirmed > Some(out));
            }
        }
    }
}
