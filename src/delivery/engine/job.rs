//! One claimed delivery on its way, and the run it belongs to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::Slot;
use super::{Relay, RunContext, Sender};
use crate::clock::Time;
use crate::consent::Permit;
use crate::contact::{Address, Contact};
use crate::content::Recipient;
use crate::delivery::links::DeliveryLinks;
use crate::delivery::messages::Message;
use crate::delivery::provider::domain_of;
use crate::delivery::state::{Outcome, State};

/// Seconds over which a rate is measured.
const RATE_SECONDS: i64 = 10;

/// A claimed delivery with everything a session needs.
pub(super) struct Job {
    pub(super) id: i64,
    /// Which attempt this is, from 1.
    pub(super) attempt: i64,
    pub(super) provider: Arc<str>,
    pub(super) permit: Arc<Permit>,
    pub(super) contact: Contact,
    pub(super) what: What,
    /// The relay it was claimed for.
    pub(super) relay: Arc<Relay>,
    pub(super) claimed_at: Time,
    pub(super) ticket: Ticket,
    pub(super) slot: Option<Slot>,
}

/// What is said.
#[derive(Clone)]
pub(super) enum What {
    /// A run's mail.
    Campaign(Arc<RunContext>),
    /// A transactional message.
    Message(Arc<Message>),
}

/// A job as bytes.
pub(super) struct Mail {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) bytes: Vec<u8>,
}

impl Job {
    /// Writes the mail. Errors say what is wrong for this person.
    pub(super) fn compose(&self, sender: &Sender, now: Time) -> Result<Mail, String> {
        match &self.what {
            What::Campaign(context) => {
                let (to, bytes) = compose(sender, context, &self.contact, self.id, now)?;
                Ok(Mail { from: context.envelope.return_path().to_owned(), to, bytes })
            }
            What::Message(message) => {
                let links = message.topic_id.filter(|_| message.kind.is_subscribed()).map(|topic_id| DeliveryLinks {
                    keys: &sender.keys,
                    site: &sender.site,
                    delivery_id: self.id,
                    contact_id: self.contact.id,
                    topic_id,
                    track_opens: false,
                });
                let mut composed = sender.composer.compose(message, &self.contact, self.id, links.as_ref(), now)?;
                sign(sender, sender_domain(message), &mut composed.bytes, now)?;
                Ok(Mail { from: composed.return_path, to: composed.to, bytes: composed.bytes })
            }
        }
    }

    /// The run it is a mail of; none for a message.
    pub(super) fn run_id(&self) -> Option<i64> {
        match &self.what {
            What::Campaign(context) => Some(context.run.id),
            What::Message(_) => None,
        }
    }

    /// When it is given up.
    pub(super) fn deadline(&self, sender: &Sender, now: Time) -> Time {
        match &self.what {
            What::Campaign(context) => {
                let hours = context.definition.delivery.give_up_hours.unwrap_or(sender.retry_hours);
                context.run.started_at.unwrap_or(now).plus(i64::from(hours) * crate::clock::HOUR)
            }
            What::Message(message) => message.expires_at,
        }
    }

    /// The outcome of this attempt.
    pub(super) fn outcome(&self, state: State, now: Time, reason: Option<&str>, reply: Option<String>) -> Outcome {
        Outcome { delivery_id: self.id, attempt: self.attempt, state, due_at: now, reason: reason.map(str::to_owned), reply, at: now }
    }
}

fn sign(sender: &Sender, domain: &str, message: &mut Vec<u8>, now: Time) -> Result<(), String> {
    sender.signers.sign(domain, message, now).map_err(|error| error.to_string())?;
    Ok(())
}

/// The domain of the address that a message comes from.
pub(super) fn sender_domain(message: &Message) -> &str {
    domain_of(&message.definition.sender().email)
}

/// A person's mail: the address for RCPT and the bytes. Errors say what is wrong for this person.
pub fn compose(sender: &Sender, context: &RunContext, contact: &Contact, delivery_id: i64, now: Time) -> Result<(String, Vec<u8>), String> {
    let address = Address::parse(&contact.email).map_err(|error| error.to_string())?;
    let links = DeliveryLinks {
        keys: &sender.keys,
        site: &sender.site,
        delivery_id,
        contact_id: contact.id,
        topic_id: context.run.topic_id,
        track_opens: context.definition.track_opens,
    };
    let mail = context.content.render(&Recipient { contact, links: &links, now }).map_err(|error| error.to_string())?;
    let to = address.wire();
    let mut message = context.envelope.message(&context.definition, to, &mail, &links, None, now);
    sign(sender, context.envelope.domain(), &mut message, now)?;
    Ok((to.to_owned(), message))
}

/// Live numbers of one run, or of the lane of messages. The database has the truth.
#[derive(Debug, Default)]
pub struct Progress {
    /// Taken by the relay.
    pub sent: AtomicU64,
    /// Told "later".
    pub deferred: AtomicU64,
    /// Refused for good.
    pub bounced: AtomicU64,
    /// Failed, skipped or in doubt.
    pub other: AtomicU64,
    /// Claimed here, with an outcome that is not durable yet.
    live: AtomicUsize,
    /// Mails in a row that failed through a fault of ours.
    faults: AtomicU32,
    recent: Mutex<Recent>,
    /// Set once nothing is due any more that this node could claim.
    pub(super) dry: AtomicBool,
}

/// Mails taken by the relay in each of the last seconds, by provider.
#[derive(Debug, Default)]
struct Recent {
    seconds: BTreeMap<i64, BTreeMap<Arc<str>, u64>>,
}

impl Progress {
    pub(super) fn count(&self, provider: &Arc<str>, outcome: &Outcome) {
        let counter = match outcome.state {
            State::Sent => &self.sent,
            State::Deferred => &self.deferred,
            State::Bounced => &self.bounced,
            State::Due | State::Claimed | State::Failed | State::InDoubt | State::Skipped => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if outcome.state == State::Sent {
            self.faults.store(0, Ordering::Relaxed);
            let second = outcome.at.millis() / crate::clock::SECOND;
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            *recent.seconds.entry(second).or_default().entry(provider.clone()).or_default() += 1;
            while recent.seconds.len() > RATE_SECONDS as usize + 2 {
                recent.seconds.pop_first();
            }
        }
    }

    /// One more mail failed through a fault of ours; answers how many did in a row.
    pub(super) fn fault(&self) -> u32 {
        self.faults.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whoever lets the run go on has looked at what was wrong.
    pub(super) fn forgive(&self) {
        self.faults.store(0, Ordering::Relaxed);
    }

    /// Mails a second over the last ten full seconds, in all and by provider.
    pub fn rates(&self, now: Time) -> (f64, BTreeMap<String, f64>) {
        let this_second = now.millis() / crate::clock::SECOND;
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let window = recent.seconds.range(this_second - RATE_SECONDS..this_second);
        let mut by_provider: BTreeMap<String, f64> = BTreeMap::new();
        let mut first = this_second;
        for (second, counts) in window {
            first = first.min(*second);
            for (provider, count) in counts {
                *by_provider.entry(provider.to_string()).or_default() += *count as f64;
            }
        }
        // A run that began three seconds ago is measured over three.
        let seconds = (this_second - first).max(1) as f64;
        by_provider.values_mut().for_each(|rate| *rate /= seconds);
        (by_provider.values().sum(), by_provider)
    }

    /// Mails with a final outcome so far.
    pub fn settled(&self) -> u64 {
        [&self.sent, &self.bounced, &self.other].into_iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// Claimed here, with an outcome that is not durable yet.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }
}

/// Counts a delivery as live until its outcome is durable or its claim is given back.
pub(super) struct Ticket(Arc<Progress>);

impl Ticket {
    pub(super) fn new(progress: &Arc<Progress>) -> Ticket {
        progress.live.fetch_add(1, Ordering::AcqRel);
        Ticket(progress.clone())
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::AcqRel);
    }
}
