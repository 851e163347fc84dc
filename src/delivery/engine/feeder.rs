//! Who is claimed for next: round the runs, and within each round the mailbox providers, as far as
//! relays have room and limits allow.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::claim::{self, Claimed, Wish};
use super::job::Progress;
use super::lane::Lane;
use super::{RunContext, Shared};
use crate::clock::{SECOND, Time};
use crate::db::DbError;
use crate::delivery::limit;
use crate::delivery::sql;

/// Most deliveries claimed in one transaction: bounds what a crash returns and how long a claim
/// keeps a withdrawal waiting.
const CLAIM_BATCH: usize = 500;
/// Claimed deliveries waiting for a session, for each session: enough that none ever waits for the
/// feeder, few enough that a pause is noticed at once.
const QUEUE_PER_SESSION: usize = 16;
/// Least room worth a transaction while nothing waits for a limit.
const LEAST_QUEUE: usize = 40;
/// How often the feeder looks while something waits: for a limit, a pause, a relay.
const TICK: Duration = Duration::from_millis(100);
/// How often a run's providers are looked up while it is sent: deferred mails come due again.
const LOOK_EVERY_MS: i64 = 2 * SECOND;
/// Outcomes that may wait to be recorded before nothing more is claimed: some seconds' worth.
const MOST_UNFOLDED: usize = 20_000;
/// How long the feeder rests when the database fails.
const REST: Duration = Duration::from_millis(500);

/// A run as the feeder sees it.
pub(super) struct Feed {
    pub(super) context: Arc<RunContext>,
    pub(super) progress: Arc<Progress>,
    /// Its last conversations end; nothing more is claimed.
    pub(super) leaving: bool,
    groups: Vec<Group>,
    /// When its rows are looked at again.
    look_at: Time,
    /// When it was served last, counted in turns of all runs.
    turn: usize,
    /// Which provider is asked first.
    first: usize,
    /// What a limit holds back, by provider and relay.
    held: HashMap<(Arc<str>, String), Held>,
    /// When something may leave again, where limits and pauses hold back all that is due.
    waits_until: Option<Time>,
}

/// Mails that a limit holds back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Asking earlier is in vain.
    pub(super) ask_at: Time,
    /// When it goes on, where that is not a matter of a moment.
    pub(super) until: Option<Time>,
}

/// A run's mails to one mailbox provider.
#[derive(Debug, Clone)]
struct Group {
    provider: Arc<str>,
    /// The earliest that is due.
    due_at: Time,
}

impl Feed {
    pub(super) fn new(context: Arc<RunContext>, progress: Arc<Progress>) -> Feed {
        Feed {
            context,
            progress,
            leaving: false,
            groups: Vec::new(),
            look_at: Time::from_millis(0),
            turn: 0,
            first: 0,
            held: HashMap::new(),
            waits_until: None,
        }
    }

    /// When something may leave again, where limits and pauses hold back all that is due.
    pub(super) fn waits_until(&self) -> Option<Time> {
        self.waits_until
    }

    /// Its rows have changed, or what it took from limits came back.
    pub(super) fn look_again(&mut self) {
        self.look_at = Time::from_millis(0);
        self.held.clear();
        self.waits_until = None;
        self.progress.dry.store(false, Ordering::Release);
    }

    /// Nothing more of this provider was due.
    pub(super) fn ran_dry(&mut self, provider: &str) {
        self.groups.retain(|group| &*group.provider != provider);
        if self.groups.is_empty() {
            self.look_at = Time::from_millis(0);
        }
    }
}

/// What one round did.
#[derive(Debug, Default)]
struct Round {
    claimed: usize,
    /// Every relay's pool is full.
    full: bool,
    /// Something waits for a limit, a pause or a relay.
    waiting: bool,
}

/// Feeds the pools until the engine ends.
pub(super) async fn feed(shared: Arc<Shared>) {
    let mut said = false;
    while !shared.is_over() {
        let rest = match round(&shared).await {
            Ok(round) => {
                said = false;
                match round {
                    // As long as there is room and work, nobody rests.
                    Round { claimed, full: false, .. } if claimed > 0 => continue,
                    _ => TICK,
                }
            }
            Err(error) => {
                if !said {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no more mails can be claimed for now; those claimed are sent"
                    );
                }
                said = true;
                shared.strays.store(true, Ordering::Release);
                REST
            }
        };
        tokio::select! {
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

async fn round(shared: &Arc<Shared>) -> Result<Round, DbError> {
    let now = shared.sender.clock.now();
    for lane in shared.campaigns.iter().filter(|lane| lane.is_down()) {
        // Nothing is consumed while a relay is down, and another one may take it.
        let left = lane.pool.remove(|_| true);
        shared.give_back(left).await;
    }
    withdraw_paused(shared, now).await;
    let stopped = shared.take_stopped();
    shared.give_back(stopped).await;
    // Mails that came back from a session the relay closed want another one.
    shared.campaigns.iter().for_each(|lane| lane.staff(shared, 0));
    look(shared, now).await?;
    let _claiming = shared.claiming.read().await;
    // A claim whose commit failed may stand in the database: nothing more until that is settled.
    if shared.strays.load(Ordering::Acquire) {
        return Ok(Round { waiting: true, ..Round::default() });
    }
    // Their deliveries still look claimed: a database that is slow to record must not be run away from.
    if shared.journal.unfolded() > MOST_UNFOLDED {
        return Ok(Round { waiting: true, ..Round::default() });
    }
    let plan = plan(shared, now);
    let mut round = Round { full: plan.full, waiting: plan.waiting, ..Round::default() };
    if plan.wishes.is_empty() {
        return Ok(round);
    }
    let Some(claimed) = claim::claim(shared, &plan.wishes, now).await? else {
        shared.fence();
        return Ok(round);
    };
    settle_turns(shared, &plan.wishes, &claimed);
    round.waiting |= claimed.got.iter().any(|got| got.held.is_some());
    round.claimed = claimed.jobs.iter().map(Vec::len).sum::<usize>() + claimed.refused.len();
    for (wish, jobs) in plan.wishes.iter().zip(claimed.jobs) {
        wish.lane.pool.allow(&wish.provider, wish.most);
        wish.lane.pool.fill(jobs);
    }
    claim::record_refused(shared, claimed.refused).await;
    for lane in &shared.campaigns {
        lane.staff(shared, 0);
    }
    Ok(round)
}

/// Who got something comes last next time; who met a limit is not asked before it allows more.
fn settle_turns(shared: &Shared, wishes: &[Wish], claimed: &Claimed) {
    let mut runs = shared.runs();
    let mut turn = runs.values().map(|feed| feed.turn).max().unwrap_or(0);
    for ((wish, got), jobs) in wishes.iter().zip(&claimed.got).zip(&claimed.jobs) {
        wish.lane.take_back(wish.want - jobs.len().min(wish.want));
        let Some(feed) = runs.get_mut(&wish.run_id()) else { continue };
        if got.dry {
            feed.ran_dry(&wish.provider);
        }
        if let Some(held) = got.held {
            feed.held.insert((wish.provider.clone(), wish.lane.relay.name.clone()), held);
        }
        if got.claimed > 0 && feed.turn <= turn {
            turn += 1;
            feed.turn = turn;
        }
    }
}

/// Takes mails back out of the pools whose provider or relay was asked to pause meanwhile: they would
/// only be refused, and each refusal makes it worse.
async fn withdraw_paused(shared: &Shared, now: Time) {
    for lane in &shared.campaigns {
        let paused: Vec<Arc<str>> = lane
            .pool
            .providers()
            .into_iter()
            .filter(|provider| match shared.governor.allowance(&shared.sender, &lane.relay, provider, now) {
                Ok(most) => {
                    lane.pool.allow(provider, most);
                    false
                }
                Err(_) => true,
            })
            .collect();
        if !paused.is_empty() {
            let left = lane.pool.remove(|job| paused.contains(&job.provider));
            shared.give_back(left).await;
        }
    }
}

/// Looks which providers have something due, for runs where that is not known.
async fn look(shared: &Shared, now: Time) -> Result<(), DbError> {
    let stale: Vec<i64> = shared.runs().iter().filter(|(_, feed)| feed.look_at <= now && !feed.leaving).map(|(id, _)| *id).collect();
    for run_id in stale {
        let groups = sql::due_groups(&mut shared.sender.db.clone(), run_id).await?;
        if let Some(feed) = shared.runs().get_mut(&run_id) {
            feed.groups = groups.into_iter().map(|(provider, due_at)| Group { provider: provider.into(), due_at }).collect();
            let next = feed.groups.iter().map(|group| group.due_at).filter(|due_at| *due_at > now).min();
            let something_due = feed.groups.iter().any(|group| group.due_at <= now);
            feed.look_at = next.unwrap_or(Time::from_millis(i64::MAX)).min(now.plus(LOOK_EVERY_MS));
            feed.progress.dry.store(!something_due, Ordering::Release);
        }
    }
    // A run whose last conversation has ended after it was taken away.
    shared.runs().retain(|_, feed| !(feed.leaving && feed.progress.live() == 0));
    Ok(())
}

struct Plan {
    wishes: Vec<Wish>,
    full: bool,
    waiting: bool,
}

/// What to claim now, for which relay.
fn plan(shared: &Arc<Shared>, now: Time) -> Plan {
    let mut rooms: Vec<usize> = shared.campaigns.iter().map(room).collect();
    let mut plan = Plan { wishes: Vec::new(), full: false, waiting: false };
    let mut left = CLAIM_BATCH;
    let mut runs = shared.runs();
    let mut feeds: Vec<&mut Feed> = runs.values_mut().filter(|feed| !feed.leaving).collect();
    // Whoever was served last comes last.
    feeds.sort_by_key(|feed| feed.turn);
    for feed in feeds {
        feed.held.retain(|_, held| held.ask_at > now);
        feed.waits_until = None;
        let mut due: Vec<Arc<str>> = feed.groups.iter().filter(|group| group.due_at <= now).map(|group| group.provider.clone()).collect();
        if due.is_empty() {
            continue;
        }
        let lanes = usable(shared, &feed.context);
        if lanes.is_empty() {
            plan.waiting = true;
            continue;
        }
        let shift = feed.first % due.len();
        due.rotate_left(shift);
        feed.first = feed.first.wrapping_add(1);
        // The earliest end of all that holds this run back; none where something else does.
        let mut waits_until = Some(Time::from_millis(i64::MAX));
        for provider in due {
            let mut open: Vec<Candidate> = Vec::new();
            for (at, lane) in &lanes {
                let until = match shared.governor.allowance(&shared.sender, &lane.relay, &provider, now) {
                    Ok(most) => match feed.held.get(&(provider.clone(), lane.relay.name.clone())) {
                        Some(held) => held.until,
                        None => {
                            let queue = most.saturating_mul(QUEUE_PER_SESSION).min(at_once(shared, feed, &provider, lane, now));
                            let room = rooms[*at].min(queue.saturating_sub(lane.pool.waiting_for(&provider)));
                            open.push(Candidate { at: *at, lane: lane.clone(), room, most });
                            None
                        }
                    },
                    Err(wait) => {
                        let until = wait.until;
                        shared.note_wait(feed.context.run.id, *wait, now);
                        until.map(Time::from_millis)
                    }
                };
                waits_until = waits_until.zip(until).map(|(one, other)| one.min(other));
                plan.waiting = true;
            }
            by_weight(&mut open, &lanes);
            for Candidate { at, lane, room, most } in open {
                let want = room.min(left);
                if want == 0 {
                    continue;
                }
                rooms[at] -= want;
                left -= want;
                lane.give(want);
                plan.wishes.push(Wish {
                    context: feed.context.clone(),
                    progress: feed.progress.clone(),
                    provider: provider.clone(),
                    lane,
                    want,
                    most,
                });
            }
        }
        feed.waits_until = waits_until;
    }
    plan.full = rooms.iter().all(|room| *room == 0) || left == 0 && !plan.wishes.is_empty() && rooms.iter().all(|room| *room < LEAST_QUEUE);
    plan
}

/// A relay that may take a provider's mails now.
struct Candidate {
    /// Its place among the lanes.
    at: usize,
    lane: Arc<Lane>,
    /// Mails it may be given.
    room: usize,
    /// Mails of this provider in its sessions at a time.
    most: usize,
}

/// How many mails may wait claimed where a rate applies.
fn at_once(shared: &Shared, feed: &Feed, provider: &str, lane: &Lane, now: Time) -> usize {
    let wish = limit::Wish {
        run: Some((feed.context.run.id, feed.context.definition.delivery.limit)),
        provider,
        relay: &lane.relay.name,
        asked: shared.governor.asked(&lane.relay.name, provider, now),
    };
    usize::try_from(shared.sender.limits.most_at_once(&wish, now)).unwrap_or(usize::MAX)
}

/// How many more mails a relay's pool takes. Small gaps are not worth a transaction.
fn room(lane: &Arc<Lane>) -> usize {
    if !lane.is_ready() {
        return 0;
    }
    let capacity = capacity(lane);
    let (queued, _) = lane.pool.load();
    let full = queued > capacity / 2;
    lane.note_full(full);
    if full { 0 } else { capacity - queued }
}

/// Mails that a relay's pool holds at most.
fn capacity(lane: &Lane) -> usize {
    (lane.most * QUEUE_PER_SESSION).max(LEAST_QUEUE)
}

/// The relays that may take a run's mails now, with their places: those that are not reserves, or the
/// reserves while all others are down. Sessions are opened to find out.
fn usable(shared: &Arc<Shared>, context: &RunContext) -> Vec<(usize, Arc<Lane>)> {
    let domain = context.envelope.domain();
    let named = context.definition.delivery.relay.as_deref();
    let may = |lane: &Lane| {
        let config = &lane.relay.config;
        named.map_or_else(|| config.serves(domain), |named| named == lane.relay.name)
    };
    let eligible: Vec<(usize, Arc<Lane>)> = shared.campaigns.iter().cloned().enumerate().filter(|(_, lane)| may(lane)).collect();
    let (reserves, firsts): (Vec<_>, Vec<_>) = eligible.into_iter().partition(|(_, lane)| lane.relay.config.backup);
    let mut out = Vec::new();
    for tier in [firsts, reserves] {
        let mut opening = false;
        for (at, lane) in tier {
            if lane.open() == 0 {
                lane.staff(shared, 1);
            }
            if lane.is_ready() {
                out.push((at, lane));
            } else if !lane.is_down() {
                opening |= lane.is_just_opening();
            }
        }
        // One that is being opened is waited for, so that the first one to answer does not get all, but
        // not for long: it may be one that never answers.
        if opening {
            return Vec::new();
        }
        if !out.is_empty() {
            break;
        }
    }
    out
}

/// Splits what is wanted over relays by their weights: none may run ahead of its part by more than half
/// of what the pools hold, unless another is so slow that it would hold up the rest (see
/// [`Lane::is_behind`]). One that a limit or a pause holds back is no candidate and holds up nobody.
fn by_weight(open: &mut [Candidate], lanes: &[(usize, Arc<Lane>)]) {
    if lanes.len() < 2 {
        return;
    }
    let weights: u64 = lanes.iter().map(|(_, lane)| u64::from(lane.relay.config.weight)).sum();
    let hold: usize = lanes.iter().map(|(_, lane)| capacity(lane)).sum();
    let step = hold as f64 / 2.0 / weights.max(1) as f64;
    let ahead = lanes.iter().map(|(_, lane)| lane.given()).fold(0.0, f64::max);
    // One that was away does not get all that it missed.
    lanes.iter().for_each(|(_, lane)| lane.catch_up(ahead - 2.0 * step));
    let keeping_up = open.iter().filter(|candidate| !candidate.lane.is_behind());
    let slowest = keeping_up.map(|candidate| candidate.lane.given()).fold(f64::INFINITY, f64::min);
    for candidate in open.iter_mut().filter(|_| slowest.is_finite()) {
        let part = (slowest + step - candidate.lane.given()) * f64::from(candidate.lane.relay.config.weight);
        candidate.room = candidate.room.min(part.max(0.0).ceil() as usize);
    }
}
