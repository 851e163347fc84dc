//! The permit: proof, taken at the moment of claim, that one delivery is allowed.

use std::collections::HashMap;
use std::fmt;

use super::{ALL_TOPICS, Frequency, Standing, sql};
use crate::db::{DbError, Tx};

/// The proof that `contact_id` may be mailed: on a topic, with a message that they asked for by what they
/// did (a receipt, a password), or with the question whether they want any. Its fields are private and
/// [`Permit::take`], [`Permit::take_for_messages`] and [`Permit::take_for_question`] are its only constructors, so no code path can send without one.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    contact_id: i64,
    scope: Scope,
    seq: i64,
    epoch: i64,
}

/// What a permit is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    /// Mail on this topic, which needs its subscription.
    Topic(i64),
    /// Mails of this topic collected into one, for those who want fewer.
    Digest(i64),
    /// Transactional messages, which need none.
    Messages,
    /// The question of double opt-in that this message asks: about one of its topics at least, the last
    /// word is a request.
    Question(i64),
}

/// Why there is no permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The contact was erased.
    Erased,
    /// The contact is another one's: mail on topics goes there, by the permission that address has.
    Merged,
    /// No consent, or not any more.
    Standing(Standing),
    /// They want the mails of this topic collected: this one goes out in their next digest.
    Digest(Frequency),
    /// The address is suppressed, for this reason.
    Suppressed(String),
    /// Nothing is left to ask: it was answered, withdrawn or asked anew.
    NotAsked,
}

impl Refusal {
    /// The reason as counted and stored.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Erased => "erased",
            Refusal::Merged => "merged",
            Refusal::Standing(Standing::None | Standing::Subscribed) => "not_subscribed",
            Refusal::Standing(Standing::Pending) => "pending",
            Refusal::Standing(Standing::Paused) => "paused",
            Refusal::Standing(Standing::Unsubscribed) => "unsubscribed",
            Refusal::Digest(_) => "digest",
            Refusal::Suppressed(_) => "suppressed",
            Refusal::NotAsked => "not_asked",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Suppressed(reason) => write!(f, "suppressed ({reason})"),
            other => f.write_str(other.code()),
        }
    }
}

impl Permit {
    /// Whom it lets us mail.
    pub fn contact_id(&self) -> i64 {
        self.contact_id
    }

    /// On which topic; `None` for a message.
    pub fn topic_id(&self) -> Option<i64> {
        match self.scope {
            Scope::Topic(topic_id) | Scope::Digest(topic_id) => Some(topic_id),
            Scope::Messages | Scope::Question(_) => None,
        }
    }

    /// The ledger event that it rests on; 0 for a message.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Takes permits for `contacts` on `topic_id`, inside the transaction that claims their
    /// deliveries: a withdrawal that committed before is seen, one that comes later waits for this
    /// transaction. Every contact asked for is in the answer.
    pub async fn take(tx: &mut Tx, topic_id: i64, contacts: &[i64]) -> Result<HashMap<i64, Result<Permit, Refusal>>, DbError> {
        take(tx, Scope::Topic(topic_id), contacts).await
    }

    /// The same for the digest of a topic, which collects the mails that a frequency held back.
    pub async fn take_for_digest(tx: &mut Tx, topic_id: i64, contacts: &[i64]) -> Result<HashMap<i64, Result<Permit, Refusal>>, DbError> {
        take(tx, Scope::Digest(topic_id), contacts).await
    }

    /// The same for transactional messages: the person exists and the address is not suppressed, for
    /// whatever reason (a bounce: nothing arrives there; a complaint or a request: they said so; an
    /// import: nobody knows any more, so the safe answer holds). A withdrawal, also one from
    /// everything, is about what people subscribe to and stops no receipt.
    pub async fn take_for_messages(tx: &mut Tx, contacts: &[i64]) -> Result<HashMap<i64, Result<Permit, Refusal>>, DbError> {
        take(tx, Scope::Messages, contacts).await
    }

    /// The same for a question of double opt-in, the one mail that goes out without consent: only a request
    /// that is the last word in the ledger gives it. `message_id` is the mail that asks `contact_id`.
    pub async fn take_for_question(tx: &mut Tx, message_id: i64, contact_id: i64) -> Result<Result<Permit, Refusal>, DbError> {
        let mut taken = take(tx, Scope::Question(message_id), &[contact_id]).await?;
        Ok(taken.remove(&contact_id).unwrap_or(Err(Refusal::Erased)))
    }

    /// The state of the ledger in which all of these were taken; `None` when there are none, or when
    /// they were taken in several. While `consent_head.epoch` still has this value, all of them hold.
    pub fn common_epoch<'a>(mut permits: impl Iterator<Item = &'a Permit>) -> Option<i64> {
        let epoch = permits.next()?.epoch;
        permits.all(|permit| permit.epoch == epoch).then_some(epoch)
    }

    /// Looks again, inside the transaction that makes `handed over` durable, whether permits still
    /// hold: for each, in order, nothing or why it is lost. While nobody anywhere withdrew or was
    /// suppressed since they were taken, this costs one row.
    pub async fn recheck(tx: &mut Tx, permits: &[&Permit]) -> Result<Vec<Option<Refusal>>, DbError> {
        let epoch = sql::lock_epoch(tx).await?;
        let mut by_scope: HashMap<Scope, Vec<i64>> = HashMap::new();
        for permit in permits.iter().filter(|permit| permit.epoch != epoch) {
            by_scope.entry(permit.scope).or_default().push(permit.contact_id);
        }
        let mut refused = HashMap::new();
        for (scope, contacts) in by_scope {
            for fact in scope.facts(tx, &contacts).await? {
                if let Err(refusal) = scope.judge(&fact) {
                    refused.insert((scope, fact.contact_id), refusal);
                }
            }
        }
        Ok(permits.iter().map(|permit| refused.get(&(permit.scope, permit.contact_id)).cloned()).collect())
    }
}

/// Why no message may go to a contact, as things stand; nothing where one may. A look ahead for
/// whoever asks: only a permit, taken with the claim, lets it leave.
pub async fn message_refusal(tx: &mut Tx, contact_id: i64) -> Result<Option<Refusal>, DbError> {
    let facts = Scope::Messages.facts(tx, &[contact_id]).await?;
    Ok(facts.iter().find_map(|fact| Scope::Messages.judge(fact).err()))
}

async fn take(tx: &mut Tx, scope: Scope, contacts: &[i64]) -> Result<HashMap<i64, Result<Permit, Refusal>>, DbError> {
    let epoch = sql::lock_epoch(tx).await?;
    let mut out = HashMap::with_capacity(contacts.len());
    for fact in scope.facts(tx, contacts).await? {
        let seq = if matches!(scope, Scope::Topic(_)) { fact.seq } else { 0 };
        let verdict = scope.judge(&fact).map(|()| Permit { contact_id: fact.contact_id, scope, seq, epoch });
        out.insert(fact.contact_id, verdict);
    }
    Ok(out)
}

impl Scope {
    async fn facts(self, tx: &mut Tx, contacts: &[i64]) -> Result<Vec<sql::PermissionFact>, DbError> {
        let topic_id = match self {
            Scope::Topic(topic_id) | Scope::Digest(topic_id) => topic_id,
            // Read along, not judged by.
            Scope::Messages | Scope::Question(_) => ALL_TOPICS,
        };
        let mut facts = sql::permission_facts(tx, topic_id, contacts).await?;
        if let Scope::Question(message_id) = self {
            for fact in &mut facts {
                let asked = super::invitation::is_open(tx, message_id, fact.contact_id).await?;
                fact.standing = if asked { Standing::Pending } else { Standing::None };
            }
        }
        Ok(facts)
    }

    fn judge(self, fact: &sql::PermissionFact) -> Result<(), Refusal> {
        match self {
            // What they asked for by an address goes there, and so does the question whether it is theirs alone.
            Scope::Topic(_) | Scope::Digest(_) if fact.known && fact.merged => Err(Refusal::Merged),
            Scope::Topic(_) => judge(fact.known, fact.standing, fact.frequency, fact.suppressed.clone()),
            Scope::Digest(_) => judge(fact.known, fact.standing, None, fact.suppressed.clone()),
            // Everything but the standing, which nobody needs for a message.
            Scope::Messages => judge(fact.known, Standing::Subscribed, None, fact.suppressed.clone()),
            Scope::Question(_) => judge(fact.known, Standing::Subscribed, None, fact.suppressed.clone())
                .and_then(|()| if fact.standing == Standing::Pending { Ok(()) } else { Err(Refusal::NotAsked) }),
        }
    }
}

/// The rule of permission, in order: the person exists, the address is not suppressed, the standing
/// is `subscribed`, and they want each mail as it comes.
pub(super) fn judge(known: bool, standing: Standing, frequency: Option<Frequency>, suppressed: Option<String>) -> Result<(), Refusal> {
    if !known {
        return Err(Refusal::Erased);
    }
    if let Some(reason) = suppressed {
        return Err(Refusal::Suppressed(reason));
    }
    match (standing, frequency) {
        (Standing::Subscribed, None) => Ok(()),
        (Standing::Subscribed, Some(frequency)) => Err(Refusal::Digest(frequency)),
        (other, _) => Err(Refusal::Standing(other)),
    }
}
