//! The permit: proof, taken at the moment of claim, that one delivery is allowed.

use std::collections::HashMap;
use std::fmt;

use super::{Standing, sql};
use crate::db::{DbError, Tx};

/// The proof that `contact_id` may be mailed on `topic_id`. Its fields are private and
/// [`Permit::take`] is its only constructor, so no code path can send without one.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    contact_id: i64,
    topic_id: i64,
    seq: i64,
    epoch: i64,
}

/// Why there is no permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The contact was erased.
    Erased,
    /// No consent, or not any more.
    Standing(Standing),
    /// The address is suppressed, for this reason.
    Suppressed(String),
}

impl Refusal {
    /// The reason as counted and stored.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Erased => "erased",
            Refusal::Standing(Standing::None | Standing::Subscribed) => "not_subscribed",
            Refusal::Standing(Standing::Pending) => "pending",
            Refusal::Standing(Standing::Paused) => "paused",
            Refusal::Standing(Standing::Unsubscribed) => "unsubscribed",
            Refusal::Suppressed(_) => "suppressed",
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

    /// On which topic.
    pub fn topic_id(&self) -> i64 {
        self.topic_id
    }

    /// The ledger event that it rests on.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Takes permits for `contacts` on `topic_id`, inside the transaction that claims their
    /// deliveries: a withdrawal that committed before is seen, one that comes later waits for this
    /// transaction. Every contact asked for is in the answer.
    pub async fn take(tx: &mut Tx, topic_id: i64, contacts: &[i64]) -> Result<HashMap<i64, Result<Permit, Refusal>>, DbError> {
        let epoch = sql::lock_epoch(tx).await?;
        let mut out = HashMap::with_capacity(contacts.len());
        for fact in sql::permission_facts(tx, topic_id, contacts).await? {
            let verdict = judge(fact.known, fact.standing, fact.suppressed).map(|()| Permit {
                contact_id: fact.contact_id,
                topic_id,
                seq: fact.seq,
                epoch,
            });
            out.insert(fact.contact_id, verdict);
        }
        Ok(out)
    }

    /// Looks again, inside the transaction that makes `handed over` durable, whether permits still
    /// hold. Answers those that do not, with the reason. While nobody anywhere withdrew or was
    /// suppressed since they were taken, this costs one row.
    pub async fn recheck(tx: &mut Tx, permits: &[&Permit]) -> Result<HashMap<i64, Refusal>, DbError> {
        let epoch = sql::lock_epoch(tx).await?;
        let stale: Vec<&&Permit> = permits.iter().filter(|permit| permit.epoch != epoch).collect();
        let mut refused = HashMap::new();
        let mut by_topic: HashMap<i64, Vec<i64>> = HashMap::new();
        for permit in stale {
            by_topic.entry(permit.topic_id).or_default().push(permit.contact_id);
        }
        for (topic_id, contacts) in by_topic {
            for fact in sql::permission_facts(tx, topic_id, &contacts).await? {
                if let Err(refusal) = judge(fact.known, fact.standing, fact.suppressed) {
                    refused.insert(fact.contact_id, refusal);
                }
            }
        }
        Ok(refused)
    }
}

/// The rule of permission, in order: the person exists, the address is not suppressed, the standing
/// is `subscribed`.
pub(super) fn judge(known: bool, standing: Standing, suppressed: Option<String>) -> Result<(), Refusal> {
    if !known {
        return Err(Refusal::Erased);
    }
    if let Some(reason) = suppressed {
        return Err(Refusal::Suppressed(reason));
    }
    match standing {
        Standing::Subscribed => Ok(()),
        other => Err(Refusal::Standing(other)),
    }
}
