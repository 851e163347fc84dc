//! What a person asks for on a page: a link in a fresh mail to their own address, and what it does.
//!
//! Whoever holds an old mail, a forwarded one for instance, can ask; nothing but the link that goes to the
//! address itself gives anything. A page says the same whoever asks and however often.

use super::register::{self, NewRequest, Request};
use super::{Kind, State, subject};
use crate::clock::{DAY, HOUR, Time};
use crate::contact::{self, Contact};
use crate::db::{Connection, DbError, Tx};
use crate::entropy::Entropy;
use crate::token::{Keys, Purpose};

/// How long the link in the mail works: long enough for somebody who reads mail every second day, short
/// enough that a mailbox that is searched later gives nothing away.
pub const LINK_MS: i64 = 48 * HOUR;
/// One mail for an address and kind in this time, whoever asks.
pub const MAIL_EVERY_MS: i64 = DAY;
/// How the register and the ledger call what comes from a page.
pub const SOURCE: &str = "page";

/// The link of a demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The person.
    pub contact_id: i64,
    /// The demand.
    pub request_id: i64,
    /// Until when it works.
    pub expires: Time,
}

impl Link {
    /// Its token.
    pub fn token(&self, keys: &Keys) -> String {
        keys.sign(Purpose::Rights, &[self.contact_id, self.request_id, self.expires.millis()])
    }

    /// The link behind a token that is ours.
    pub fn read(keys: &Keys, token: &str) -> Option<Link> {
        match keys.verify(Purpose::Rights, token).ok()?[..] {
            [contact_id, request_id, expires] => Some(Link { contact_id, request_id, expires: Time::from_millis(expires) }),
            _ => None,
        }
    }
}

/// Enters a demand from a page. Answers the link to mail, or nothing where one went out lately or the
/// person is gone: nobody outside may see which.
pub async fn ask(
    tx: &mut Tx,
    keys: &Keys,
    entropy: &Entropy,
    contact: &Contact,
    kind: Kind,
    days: u32,
    now: Time,
) -> Result<Option<Link>, DbError> {
    if !contact::care::hold(tx, contact.id).await? {
        return Ok(None);
    }
    if register::last_asked(tx, kind, contact.id).await?.is_some_and(|at| now.since(at) < MAIL_EVERY_MS) {
        return Ok(None);
    }
    let id = entropy.id(now);
    let new = NewRequest {
        id,
        kind,
        contact_id: Some(contact.id),
        subject: subject(keys, &contact.email_key),
        state: State::Asked,
        source: SOURCE,
        asked_at: now,
        days,
        note: None,
    };
    register::add(tx, &new, now).await?;
    Ok(Some(Link { contact_id: contact.id, request_id: id, expires: now.plus(LINK_MS) }))
}

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It works.
    Ready(Request),
    /// Confirmed; an operator answers it.
    Waiting(Request),
    /// Its time is over, or the demand was closed without it.
    Over,
    /// The person is gone: erased, by this link or otherwise.
    Gone,
}

/// Looks at what a link leads to. Nothing changes.
pub async fn look(db: &mut impl Connection, link: &Link, now: Time) -> Result<Standing, DbError> {
    let Some(request) = register::find(db, link.request_id).await? else { return Ok(Standing::Gone) };
    if request.email.is_none() {
        return Ok(Standing::Gone);
    }
    if request.contact_id != Some(link.contact_id) {
        return Ok(Standing::Over);
    }
    Ok(match request.state {
        State::Open => Standing::Waiting(request),
        State::Asked if now < link.expires => Standing::Ready(request),
        // A download that broke off may be repeated while the link works.
        State::Done if now < link.expires && request.kind != Kind::Erasure => Standing::Ready(request),
        State::Asked | State::Done | State::Refused | State::Lapsed => Standing::Over,
    })
}
