//! Messages to one person. Transactional ones: a receipt, a password, whatever one person waits for. A message is one
//! delivery with `transactional` set and the message's id as its run, so claims, the journal, leases
//! and retries serve it like any other; the row in `message` says what it is written from.
//!
//! The engine's own mails (see [`SystemMail`]) take the same way; [`Kind`] says which permission each needs.
//!
//! A transactional message needs no subscription, but its address must not be suppressed
//! ([`crate::consent::Permit::take_for_messages`]). It has no unsubscribe link and counts no opens
//! and clicks.

mod accept;
mod compose;
mod sql;
mod system;

use serde_json::{Map, Value};

use super::State;
use crate::clock::{DAY, Time};
use crate::contact::Address;
use crate::db::{Connection, DbError, Tx};

pub use accept::Intake;
pub use compose::{Composed, Composer};
pub use sql::Message;
pub(super) use sql::keep_definition;
pub use system::{SystemContent, SystemMail};

/// How long an idempotency key is kept at least, in milliseconds: clients that repeat a request do so
/// within minutes, and those with a queue within the day. Rows are kept longer.
pub const KEY_KEPT_MS: i64 = DAY;
/// Bytes of an idempotency key: a UUID has 36.
pub const MAX_KEY_BYTES: usize = 200;
/// Bytes of `data` as JSON: a receipt with some hundred lines.
pub const MAX_DATA_BYTES: usize = 64 * 1024;
/// Bytes of `html` in a request; Gmail shows the first 102,400.
pub const MAX_HTML_BYTES: usize = 512 * 1024;
/// Bytes of `text` in a request.
pub const MAX_TEXT_BYTES: usize = 256 * 1024;
/// Bytes of `subject` in a request: what a header can hold in a few folded lines.
pub const MAX_SUBJECT_BYTES: usize = 998;
/// Bytes of a language tag (RFC 5646 section 4.4.1 asks for 35 at least).
pub const MAX_LOCALE_BYTES: usize = 64;
/// Hours after which an undelivered message is worth nothing, where nobody says otherwise: three days.
pub const DEFAULT_EXPIRES_HOURS: u32 = 72;
/// How far ahead `at` may lie, in milliseconds: 30 days. A schedule for longer belongs to the caller.
pub const MAX_AHEAD_MS: i64 = 30 * DAY;

/// What a message is for, which decides what permission it needs and whether others go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Asked for by an application: a receipt, a password.
    Transactional,
    /// The question of double opt-in.
    Confirmation,
    /// The same again, once.
    Reminder,
    /// To whoever has just subscribed to a topic.
    Welcome,
    /// A topic's mails, collected into one.
    Digest,
    /// About the person's own data or choices, asked for by them.
    Notice,
}

impl Kind {
    const ALL: [Kind; 6] = [Kind::Transactional, Kind::Confirmation, Kind::Reminder, Kind::Welcome, Kind::Digest, Kind::Notice];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Transactional => "transactional",
            Kind::Confirmation => "confirmation",
            Kind::Reminder => "reminder",
            Kind::Welcome => "welcome",
            Kind::Digest => "digest",
            Kind::Notice => "notice",
        }
    }

    /// Reads a stored kind.
    pub fn from_stored(text: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// People subscribed to it: it needs their permission for its topic, and says how to leave.
    pub fn is_subscribed(self) -> bool {
        matches!(self, Kind::Welcome | Kind::Digest)
    }

    /// A question of double opt-in.
    pub fn asks(self) -> bool {
        matches!(self, Kind::Confirmation | Kind::Reminder)
    }

    /// Nobody sits and waits for it: what somebody waits for goes first.
    pub fn is_patient(self) -> bool {
        !matches!(self, Kind::Transactional | Kind::Notice)
    }
}

/// What a message is written from.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A file of `messages/`, with what it sees under `data`.
    Template {
        /// Its name.
        name: String,
        /// A JSON object.
        data: Map<String, Value>,
    },
    /// As it is; at least one of `html` and `text`.
    Inline {
        /// The subject line.
        subject: String,
        /// The HTML part.
        html: Option<String>,
        /// The text part; written from the HTML where there is none.
        text: Option<String>,
    },
}

/// A message as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// Who asks; idempotency keys are theirs.
    pub client: String,
    /// Names this request: repeating it makes no second message.
    pub idempotency_key: Option<String>,
    /// For whom.
    pub to: Address,
    /// What it says.
    pub content: Content,
    /// The language it is written in, where it is not the contact's.
    pub locale: Option<String>,
    /// Hours until it is worth nothing; the template's or [`DEFAULT_EXPIRES_HOURS`] where absent.
    pub expires_hours: Option<u32>,
    /// Not before this moment.
    pub at: Option<Time>,
}

/// A message that is in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: i64,
    /// False where the same request was accepted before.
    pub created: bool,
}

/// Why a message was not accepted. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    /// The key was used for another request.
    #[error("this idempotency key was used for another message")]
    Conflict {
        /// The message that has it.
        id: i64,
    },
    /// There is no such template.
    #[error("there is no message template `{name}`")]
    UnknownTemplate {
        /// As asked for.
        name: String,
        /// What to do.
        hint: String,
    },
    /// A field does not fit.
    #[error("{message}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The template and `data` do not fit.
    #[error("{0}")]
    Render(String),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its id.
    pub id: i64,
    /// Who asked for it.
    pub client: String,
    /// The address, unless the contact was erased.
    pub to: Option<String>,
    /// What it is for.
    pub kind: Kind,
    /// The template, unless the caller wrote it.
    pub template: Option<String>,
    /// Where its delivery is.
    pub state: State,
    /// Why, as a code.
    pub reason: Option<String>,
    /// Tries so far.
    pub attempts: i64,
    /// What the relay said last, or why it was skipped.
    pub reply: Option<String>,
    /// When it was accepted.
    pub created_at: Time,
    /// When it is tried next, while it waits.
    pub due_at: Time,
    /// When its state last changed.
    pub changed_at: Time,
    /// When it is worth nothing any more.
    pub expires_at: Time,
}

impl Status {
    /// The state as callers know it: a message that is due is `queued`, a claimed one `sending`.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Due => "queued",
            State::Claimed => "sending",
            State::Sent | State::Deferred | State::Bounced | State::Failed | State::InDoubt | State::Skipped => self.state.as_str(),
        }
    }
}

impl Status {
    /// As callers read it; the id is text, because it is longer than JSON numbers are exact.
    pub fn document(&self) -> Value {
        let waits = matches!(self.state, State::Due | State::Deferred);
        serde_json::json!({
            "id": self.id.to_string(),
            "state": self.state_name(),
            "reason": self.reason,
            "attempts": self.attempts,
            "reply": self.reply,
            "to": self.to,
            "kind": self.kind.as_str(),
            "template": self.template,
            "client": self.client,
            "created_at": self.created_at.to_string(),
            "due_at": waits.then(|| self.due_at.to_string()),
            "changed_at": self.changed_at.to_string(),
            "expires_at": self.expires_at.to_string(),
        })
    }
}

/// Where a message is; `None` where there is no such message.
pub async fn status(db: &mut impl Connection, id: i64) -> Result<Option<Status>, DbError> {
    sql::status(db, id).await
}

/// The latest messages, newest first.
pub async fn latest(db: &mut impl Connection, contact_id: Option<i64>, limit: i64) -> Result<Vec<Status>, DbError> {
    sql::latest(db, contact_id, limit).await
}

/// What messages are written from, by message id, for the claims of one batch. Ids are those of
/// messages: `run_id` of their deliveries.
pub async fn load(tx: &mut Tx, ids: &[i64]) -> Result<std::collections::HashMap<i64, Message>, DbError> {
    sql::load(tx, ids).await
}

/// How many mails that let others go first wait to be sent now, counted up to `limit`: whoever makes more of
/// them looks here first, so that no queue grows with a list.
pub async fn patient_waiting(db: &mut impl Connection, limit: i64, now: Time) -> Result<i64, DbError> {
    super::sql::messages_due(db, true, limit, now).await
}
