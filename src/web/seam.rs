//! What the pages need from other rooms, as traits: pages are tested without a whole instance, and
//! the rooms behind them can change without touching a page.

use std::pin::Pin;

use crate::clock::Time;
pub use crate::consent::Standing;
use crate::consent::reasons::Reason;
use crate::consent::tracking::Why;
use crate::consent::{Frequency, Tracking};
use crate::contact::AttributeValue;
use crate::db::Tx;

/// The future that a seam's method answers with (boxed, so that the traits are object-safe).
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'a>>;

/// How somebody acted. Also the `way` in the table `unsubscribe` and the source in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One-click POST (RFC 8058), sent by a mail client.
    OneClick,
    /// The button of the unsubscribe page.
    Page,
    /// The preference page.
    Preferences,
    /// The button of the confirmation page.
    Confirmation,
}

impl Way {
    /// As stored.
    pub fn text(self) -> &'static str {
        match self {
            Way::OneClick => "one_click",
            Way::Page => "page",
            Way::Preferences => "preferences",
            Way::Confirmation => "confirmation",
        }
    }
}

/// Who did something, when, and what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// The person, from a verified token.
    pub contact_id: i64,
    /// When the request arrived.
    pub at: Time,
    /// By which page.
    pub way: Way,
    /// The mail whose link was used, where there was one.
    pub delivery_id: Option<i64>,
    /// Address of the client.
    pub ip: Option<String>,
    /// Its user agent.
    pub agent: Option<String>,
}

/// The link of a confirmation mail, verified.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// Its token; the ledger keeps its digest.
    pub token: &'a str,
    /// Until when it works.
    pub expires: Time,
}

/// A topic and where one person stands on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicStanding {
    /// As in tokens.
    pub topic_id: i64,
    /// The topic's name in `topics.toml`.
    pub topic: String,
    /// Where the person stands.
    pub standing: Standing,
    /// How often they want its mails; nothing for every one.
    pub frequency: Option<Frequency>,
    /// When a pause ends; nothing for one that the person ends.
    pub until: Option<Time>,
}

/// What a confirmation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// Pending before, subscribed now.
    Now,
    /// Subscribed before.
    Before,
    /// Nothing waits for this link, such as after a withdrawal: a replayed link brings nobody back.
    NotPending,
}

/// What asking to come back did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resubscribed {
    /// Subscribed, before or by this (a topic with single opt-in): nothing more to do.
    Before,
    /// Pending: a confirmation mail goes out, and only it brings the person back.
    Pending,
}

/// What a person chose for everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// How their opens and clicks are recorded.
    pub tracking: Tracking,
    /// Why it is so.
    pub why: Why,
    /// Nothing is concluded about them.
    pub profiling_refused: bool,
}

/// What a person changes without coming or leaving.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// No mail of a topic until a moment.
    Pause {
        /// Of which topic.
        topic_id: i64,
        /// Until when.
        until: Time,
    },
    /// A pause ends now.
    Resume {
        /// Of which topic.
        topic_id: i64,
    },
    /// How often the mails of a topic come.
    Frequency {
        /// Of which topic.
        topic_id: i64,
        /// Nothing: every one.
        frequency: Option<Frequency>,
    },
    /// How opens and clicks are recorded.
    Tracking(Tracking),
    /// Whether nothing may be concluded about them.
    Profiling {
        /// It may not.
        refused: bool,
    },
    /// The language of pages and mails: its tag.
    Locale(String),
    /// Fields of the profile.
    Profile {
        /// Those with a value.
        values: Vec<(String, AttributeValue)>,
        /// Those that were emptied.
        emptied: Vec<String>,
    },
}

/// The consent room. Writing methods work inside the caller's transaction and are idempotent.
pub trait Permission: Send + Sync {
    /// Every topic that is configured or that this person ever stood on; [`Standing::None`] where
    /// there is no entry.
    fn standings<'a>(&'a self, contact_id: i64) -> Answer<'a, Vec<TopicStanding>>;

    /// Takes the permission for one topic back. False when there was none to take.
    fn withdraw<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64) -> Answer<'a, bool>;

    /// Takes every permission back. False when there was none to take.
    fn withdraw_all<'a>(&'a self, tx: &'a mut Tx, act: &'a Act) -> Answer<'a, bool>;

    /// Confirms a subscription that waits for it. `link.expires` also tells when the link was made:
    /// one from before a withdrawal does not undo it.
    fn confirm<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64, link: Link<'a>) -> Answer<'a, Confirmed>;

    /// Subscribes where the topic's opt-in is single and nobody withdrew; otherwise makes a
    /// subscription pending and lets a confirmation mail be sent (limited, so that nobody can be
    /// flooded with them).
    fn resubscribe<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64) -> Answer<'a, Resubscribed>;

    /// What this person chose for everything, and what holds where they chose nothing; `None` once they
    /// are gone.
    fn choices<'a>(&'a self, contact_id: i64) -> Answer<'a, Option<Choices>>;

    /// Makes a choice true. False where it was before, or where it is about a topic that the person does
    /// not receive.
    fn change<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, change: &'a Change) -> Answer<'a, bool>;

    /// Notes why somebody left a topic, or everything with [`crate::consent::ALL_TOPICS`]. False where they
    /// did not leave.
    fn say_why<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64, reason: Reason, comment: Option<&'a str>) -> Answer<'a, bool>;
}

/// Renders a sent mail again.
pub trait ViewSource: Send + Sync {
    /// The HTML of a delivery's mail as its recipient got it; `None` where it cannot be shown any
    /// more (the delivery, its run or the person is gone).
    fn view<'a>(&'a self, delivery_id: i64) -> Answer<'a, Option<String>>;
}
