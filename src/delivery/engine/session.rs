//! One session's life: connect, take jobs, hand over, record.
//!
//! While there is work, the next mail's MAIL, RCPT and DATA travel with the end of the one before
//! (see [`Session::body_then_envelope`]), so a mail costs one round trip. Its handover is made durable
//! after the reply to the one before was read, in the same commit as that reply: a session never has
//! more than one mail in doubt.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::job::{Job, Mail, Ticket};
use super::lane::Lane;
use super::{Shared, retry};
use crate::clock::Time;
use crate::config::InDoubt;
use crate::delivery::journal::{Go, skipped};
use crate::delivery::ops;
use crate::delivery::provider::OTHER;
use crate::delivery::smtp::{Failure, Reply, Session, Stage};
use crate::delivery::state::{Outcome, State};
use crate::delivery::verdict::{Scope, Verdict, read_reply};
use crate::fault;

/// A session with nothing to do makes its last outcome durable after this time: long enough that the
/// next handover usually takes it along.
const LINGER: Duration = Duration::from_millis(20);
/// A session that stood still for so long is looked at before its next mail: the relay may have
/// closed it meanwhile.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// Mails in a row that fail through a fault of ours (sender refused, log-in lost) before the run is
/// paused: a mistake must not use up a list.
const FAULTS_UNTIL_PAUSE: u32 = 25;
/// Reason of a mail that cannot be written for a person.
const REASON_RENDER: &str = "render_failed";

/// A task that serves one SMTP session.
pub(super) struct Server {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    /// The outcome of the mail before; it travels with the next handover. Its mail is live until then.
    previous: Option<(Outcome, Ticket)>,
    /// It ends after this mail, so that a message gets its place.
    leaving: bool,
}

/// What one mail did to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Keep,
    /// The session is over.
    Over,
}

/// A mail whose DATA was accepted and whose handover is durable.
struct Begun {
    job: Job,
    mail: Mail,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, lane: Arc<Lane>) -> Server {
        Server { shared, lane, previous: None, leaving: false }
    }

    pub(super) async fn run(mut self) {
        let relay = self.lane.relay.clone();
        let opened = tokio::select! {
            opened = Session::open(&relay.settings, &self.shared.sender.hello) => opened,
            () = self.lane.pool_closed() => return,
        };
        match opened {
            Ok(session) => {
                fault::point("connected");
                let open = self.lane.opened();
                relay.reached(self.lane.open());
                self.shared.wake.notify_one();
                self.shared.message_wake.notify_one();
                let (served, failure) = self.serve(session).await;
                self.flush().await;
                drop(open);
                if let (0, Some(failure)) = (served, failure) {
                    relay.missed(&failure, self.lane.open(), self.shared.sender.clock.now());
                }
            }
            Err(failure) => {
                let text = failure.to_string();
                if self.shared.make_room_for(&self.lane) {
                    // Too many sessions of campaigns, and the relay is there.
                } else if relay.missed(&text, self.lane.open(), self.shared.sender.clock.now()) {
                    tracing::warn!(relay = relay.name, problem = %text, "no session with the relay; nothing is consumed meanwhile");
                }
            }
        }
        self.shared.wake.notify_one();
        self.shared.message_wake.notify_one();
    }

    /// Takes jobs until there are none or the session is over. Answers how many mails it served, and
    /// how it broke, if it did.
    async fn serve(&mut self, mut session: Session) -> (u32, Option<String>) {
        let mut served = 0;
        let most = match self.lane.relay.mails_per_connection {
            0 => u32::MAX,
            most => most,
        };
        loop {
            let waited = Instant::now();
            let job = if served < most && !self.shared.is_over() && !self.must_go() { self.next_job().await } else { None };
            let Some(job) = job else {
                // First what we know, then good manners.
                self.flush().await;
                session.quit().await;
                return (served, None);
            };
            if waited.elapsed() > DOUBT_AFTER && !session.is_alive() {
                self.lane.pool.put_back(job);
                return (served.max(1), None);
            }
            let Some(mail) = self.compose(&job).await else { continue };
            if let Err(failure) = session.fits(mail.bytes.len()) {
                self.refused(job, failure).await;
                continue;
            }
            let begun = match self.begin(&mut session, job, mail, served).await {
                Ok(Some(begun)) => begun,
                Ok(None) => continue,
                Err(problem) => return (served, Some(problem)),
            };
            if let Err(problem) = self.chain(&mut session, begun, &mut served, most).await {
                return (served, Some(problem));
            }
        }
    }

    /// Opens a mail's envelope while the journal commits: both must be done before the body goes out.
    /// `Ok(None)`: settled without a body. `Err`: the session is over.
    async fn begin(&mut self, session: &mut Session, job: Job, mail: Mail, served: u32) -> Result<Option<Begun>, String> {
        let previous = self.previous.take();
        let asking = async {
            let envelope = session.envelope(&mail.from, &mail.to).await;
            if envelope.is_ok() {
                fault::point("envelope_accepted");
            }
            envelope
        };
        let (go, envelope) = tokio::join!(self.hand_over(previous, &job), asking);
        match (go, envelope) {
            (Go::Fenced, _) => Err("this worker lost its lease".to_owned()),
            // Withdrawn at the last moment; DATA is open, so only closing the session undoes it.
            (Go::Refused, Ok(())) => Err("a permission was withdrawn while DATA was open".to_owned()),
            (Go::Refused, Err(failure)) if failure.ends_session() => Err(failure.to_string()),
            (Go::Refused, Err(_)) => Ok(None),
            (Go::Send, Ok(())) => Ok(Some(Begun { job, mail })),
            (Go::Send, Err(failure)) if served > 0 && only_the_session_ended(&failure) => {
                match self.shared.journal.take_back(job.id, job.attempt).await {
                    Go::Fenced => self.shared.fence(),
                    Go::Send | Go::Refused => self.lane.pool.put_back(job),
                }
                Err("the relay closed the session".to_owned())
            }
            (Go::Send, Err(failure)) => match self.not_begun(job, failure, served).await {
                After::Keep => Ok(None),
                After::Over => Err("the relay closed the session".to_owned()),
            },
        }
    }

    /// Sends a begun mail, and further ones in its wake while there is work. `Err`: the session is over.
    async fn chain(&mut self, session: &mut Session, mut begun: Begun, served: &mut u32, most: u32) -> Result<(), String> {
        loop {
            // Frozen for a while, our lease may be over and somebody else may have taken this mail.
            if !self.shared.lease.holds() && self.hand_over(None, &begun.job).await != Go::Send {
                return Err("this worker lost its lease".to_owned());
            }
            fault::point("handed_over");
            *served += 1;
            let next = if session.can_chain() && *served < most { self.next_to_chain(session).await } else { None };
            let Some((job, mail)) = next else {
                let reply = session.body(&begun.mail.bytes).await;
                return match self.after_body(begun.job, reply).await {
                    After::Keep => Ok(()),
                    After::Over => Err("the relay closed the session".to_owned()),
                };
            };
            let (reply, envelope) = session.body_then_envelope(&begun.mail.bytes, &mail.from, &mail.to).await;
            self.after_body(begun.job, reply).await;
            if let Err(failure) = envelope {
                return match self.not_begun(job, failure, *served).await {
                    After::Keep => Ok(()),
                    After::Over => Err("the relay closed the session".to_owned()),
                };
            }
            fault::point("envelope_accepted");
            let previous = self.previous.take();
            match self.hand_over(previous, &job).await {
                Go::Send => begun = Begun { job, mail },
                Go::Refused => return Err("a permission was withdrawn while DATA was open".to_owned()),
                Go::Fenced => return Err("this worker lost its lease".to_owned()),
            }
        }
    }

    /// Whether it ends now, so that a message gets its place.
    fn must_go(&mut self) -> bool {
        self.leaving |= self.lane.must_go();
        self.leaving
    }

    /// The next mail that is there already, written.
    async fn next_to_chain(&mut self, session: &Session) -> Option<(Job, Mail)> {
        loop {
            if self.shared.is_over() || self.must_go() {
                return None;
            }
            let job = self.lane.pool.try_take()?;
            let Some(mail) = self.compose(&job).await else { continue };
            match session.fits(mail.bytes.len()) {
                Ok(()) => return Some((job, mail)),
                Err(failure) => drop(self.refused(job, failure).await),
            }
        }
    }

    /// The next mail; while none is there, the last outcome is made durable.
    async fn next_job(&mut self) -> Option<Job> {
        if self.previous.is_some() {
            if let Some(job) = self.lane.pool.take(LINGER).await {
                return Some(job);
            }
            self.flush().await;
        }
        self.lane.pool.take(self.lane.idle).await
    }

    async fn compose(&mut self, job: &Job) -> Option<Mail> {
        let now = self.shared.sender.clock.now();
        match job.compose(&self.shared.sender, now) {
            Ok(mail) => {
                fault::point("rendered");
                Some(mail)
            }
            Err(problem) => {
                tracing::warn!(delivery = job.id, contact = job.contact.id, problem, "this person's mail cannot be written");
                let outcome = skipped(job.id, job.attempt, REASON_RENDER, Some(problem), now);
                let ticket = Ticket::new(job.ticket.progress());
                self.settle(&job.provider.clone(), outcome, ticket).await;
                None
            }
        }
    }

    /// Makes this handover durable, and the outcome of the mail before with it.
    async fn hand_over(&self, previous: Option<(Outcome, Ticket)>, job: &Job) -> Go {
        let (outcome, ticket) = previous.unzip();
        let go = self.shared.journal.hand_over(outcome, job.id, job.attempt, job.permit.clone()).await;
        drop(ticket);
        match go {
            Go::Send => {}
            Go::Refused => {
                job.ticket.progress().other.fetch_add(1, Ordering::Relaxed);
            }
            Go::Fenced => self.shared.fence(),
        }
        go
    }

    async fn flush(&mut self) {
        if let Some((outcome, ticket)) = self.previous.take() {
            if self.shared.journal.record(outcome).await == Go::Fenced {
                self.shared.fence();
            }
            drop(ticket);
        }
    }

    /// The outcome waits for the next handover to travel with.
    async fn settle(&mut self, provider: &Arc<str>, outcome: Outcome, ticket: Ticket) {
        self.flush().await;
        ticket.progress().count(provider, &outcome);
        self.previous = Some((outcome, ticket));
    }

    /// The envelope was refused, or the session broke before the body: the mail surely did not go out.
    async fn not_begun(&mut self, job: Job, failure: Failure, served: u32) -> After {
        if served > 0 && only_the_session_ended(&failure) {
            // At most as often as sessions carry other mails: the first mail of one is not put back.
            self.lane.pool.put_back(job);
            return After::Over;
        }
        self.refused(job, failure).await
    }

    async fn after_body(&mut self, job: Job, reply: Result<Reply, Failure>) -> After {
        fault::point("reply_read");
        let now = self.shared.sender.clock.now();
        match reply {
            Ok(reply) => {
                self.shared.governor.success(&self.lane.relay.name, &job);
                let outcome = job.outcome(State::Sent, now, None, Some(reply.to_string()));
                self.settle(&job.provider, outcome, job.ticket).await;
                After::Keep
            }
            Err(Failure::Broken { reason, .. }) => {
                let outcome = self.lost_reply(&job, now, reason);
                self.settle(&job.provider, outcome, job.ticket).await;
                After::Over
            }
            Err(failure) => self.refused(job, failure).await,
        }
    }

    /// The relay said no, or broke off before the body.
    async fn refused(&mut self, job: Job, failure: Failure) -> After {
        let sender = &self.shared.sender;
        let now = sender.clock.now();
        let text = Some(failure.to_string());
        let after = if failure.ends_session() { After::Over } else { After::Keep };
        let outcome = match &failure {
            Failure::NeedsSmtpUtf8 => job.outcome(State::Failed, now, Some("smtputf8"), text),
            Failure::Broken { .. } => retry::later(sender, &job, now, "later", text),
            Failure::Refused { stage, reply } => match read_reply(reply.code, &reply.text, *stage, &job.provider) {
                Verdict::Bounce { class, .. } => job.outcome(State::Bounced, now, Some(class.as_str()), text),
                Verdict::Later { .. } => retry::later(sender, &job, now, "later", text),
                Verdict::SlowDown(signal) => {
                    let said = text.as_deref().unwrap_or_default();
                    let until = self.shared.governor.slow_down(sender, &self.lane.relay.name, &job, &signal, said, now).await;
                    match signal.scope {
                        Scope::Relay => self.shared.hold(&self.lane.relay.name, None),
                        Scope::Provider if &*job.provider == OTHER => self.shared.hold_domain(&self.lane.relay.name, &job.contact.email),
                        Scope::Provider => self.shared.hold(&self.lane.relay.name, Some(&job.provider)),
                    }
                    retry::after_pause(sender, &job, now, until, text)
                }
                Verdict::SenderProblem { .. } => {
                    let faults = job.ticket.progress().fault();
                    if faults >= FAULTS_UNTIL_PAUSE {
                        self.shared.alarm(&job, format!("{faults} mails in a row were refused for a fault of ours: {reply}"));
                    }
                    job.outcome(State::Failed, now, Some(fault_reason(*stage)), text)
                }
            },
        };
        self.settle(&job.provider, outcome, job.ticket).await;
        after
    }

    /// The session ended while the reply was pending. With `resend` it is tried again on the schedule
    /// of a deferred mail: a relay that never answers must not be sent the same mail in a loop.
    fn lost_reply(&self, job: &Job, now: Time, reason: String) -> Outcome {
        let sender = &self.shared.sender;
        if sender.in_doubt == InDoubt::Resend {
            let again = retry::later(sender, job, now, "resend", Some(reason.clone()));
            if again.state == State::Deferred {
                return again;
            }
        }
        ops::doubtful(job.id, job.attempt, InDoubt::Hold, &reason, now)
    }
}

/// A relay may end a session after so many mails or so long an idleness: that is no judgement on the
/// next mail, which another session takes at once. If the relay means to slow us down, it says so again
/// to that session's first mail. A 421 to a recipient is a judgement.
fn only_the_session_ended(failure: &Failure) -> bool {
    match failure {
        Failure::Broken { .. } => true,
        Failure::Refused { stage: Stage::Connect | Stage::Mail, reply } => reply.code == 421,
        Failure::Refused { .. } | Failure::NeedsSmtpUtf8 => false,
    }
}

/// What is counted when we, not the recipient, are refused (RFC 5321 section 4.5.4.1).
fn fault_reason(stage: Stage) -> &'static str {
    match stage {
        Stage::Connect | Stage::Mail => "sender_refused",
        Stage::Rcpt | Stage::Data | Stage::Final => "relay_refused",
    }
}
