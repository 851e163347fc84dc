//! When a mail that was told "later" is tried again.

use super::Sender;
use super::job::Job;
use crate::clock::{SECOND, Time};
use crate::delivery::state::{Outcome, State};

/// Reason of a mail whose last chance has passed.
const REASON_EXPIRED: &str = "expired";

/// Tried again after the schedule's wait with up to a quarter of jitter, or given up at the deadline.
pub(super) fn later(sender: &Sender, job: &Job, now: Time, reason: &str, reply: Option<String>) -> Outcome {
    let waits = &sender.retry_seconds;
    let index = (job.attempt.max(1) as usize - 1).min(waits.len().saturating_sub(1));
    let wait = i64::from(waits.get(index).copied().unwrap_or(300)) * SECOND;
    let due_at = now.plus(wait + sender.entropy.below(wait as u64 / 4 + 1) as i64);
    by_deadline(sender, job, now, due_at, reason, reply)
}

/// Tried again when its provider's pause is over; the rate that applies then spreads the mails.
pub(super) fn after_pause(sender: &Sender, job: &Job, now: Time, until: Time, reply: Option<String>) -> Outcome {
    by_deadline(sender, job, now, until.max(now.plus(SECOND)), "slow_down", reply)
}

fn by_deadline(sender: &Sender, job: &Job, now: Time, due_at: Time, reason: &str, reply: Option<String>) -> Outcome {
    if due_at > job.deadline(sender, now) {
        return job.outcome(State::Failed, now, Some(REASON_EXPIRED), reply);
    }
    Outcome { due_at, ..job.outcome(State::Deferred, now, Some(reason), reply) }
}
