//! Who is claimed for next: round the runs, and within each round the mailbox providers, as far as
//! relays have room and limits allow.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::claim::{self, Wish};
use super::job::Progress;
use super::lane::Lane;
use super::{RunContext, Shared};
use crate::clock::{SECOND, Time};
use crate::db::DbError;
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
    /// Whose turn it is.
    turn: usize,
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
        Feed { context, progress, leaving: false, groups: Vec::new(), look_at: Time::from_millis(0), turn: 0 }
    }

    /// Its rows have changed.
    pub(super) fn look_again(&mut self) {
        self.look_at = Time::from_millis(0);
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
    // Mails that came back from a session the relay closed want another one.
    shared.campaigns.iter().for_each(|lane| lane.staff(shared, 0));
    look(shared, now).await?;
    let _claiming = shared.claiming.read().await;
    // A claim whose commit failed may stand in the database: nothing more until that is settled.
    if shared.strays.load(Ordering::Acquire) {
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
    for (wish, got) in plan.wishes.iter().zip(&claimed.got) {
        if let (Some(feed), true) = (shared.runs().get_mut(&wish.run_id()), got.dry) {
            feed.ran_dry(&wish.provider);
        }
        round.waiting |= got.limited;
    }
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
    let mut rooms: Vec<usize> = shared.campaigns.iter().map(|lane| room(lane)).collect();
    let mut plan = Plan { wishes: Vec::new(), full: false, waiting: false };
    let mut left = CLAIM_BATCH;
    let mut runs = shared.runs();
    let mut feeds: Vec<&mut Feed> = runs.values_mut().filter(|feed| !feed.leaving).collect();
    // Whoever was served last comes last.
    feeds.sort_by_key(|feed| feed.turn);
    let newest_turn = feeds.last().map_or(0, |feed| feed.turn);
    for feed in feeds {
        let mut due: Vec<Arc<str>> = feed.groups.iter().filter(|group| group.due_at <= now).map(|group| group.provider.clone()).collect();
        if due.is_empty() {
            continue;
        }
        let lanes = usable(shared, &feed.context);
        if lanes.is_empty() {
            plan.waiting = true;
            continue;
        }
        let shift = feed.turn % due.len();
        due.rotate_left(shift);
        let before = plan.wishes.len();
        for provider in due {
            let allowed = |lane: &Arc<Lane>| shared.governor.allowance(&shared.sender, &lane.relay, &provider, now);
            let mut open: Vec<(usize, Arc<Lane>, usize)> = Vec::new();
            for (at, lane) in &lanes {
                match allowed(lane) {
                    Ok(most) => {
                        let held = most.saturating_mul(QUEUE_PER_SESSION).saturating_sub(lane.pool.waiting_for(&provider));
                        let room = rooms[*at].min(held).min(left);
                        if room > 0 {
                            open.push((*at, lane.clone(), room));
                        }
                    }
                    Err(wait) => {
                        shared.note_wait(feed.context.run.id, wait, now);
                        plan.waiting = true;
                    }
                }
            }
            for (at, lane, want) in by_weight(open, &lanes) {
                let want = want.min(left);
                if want == 0 {
                    continue;
                }
                rooms[at] -= want;
                left -= want;
                lane.give(want);
                let most = allowed(&lane).unwrap_or(1);
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
        if plan.wishes.len() > before {
            feed.turn = newest_turn + 1;
        }
    }
    plan.full = rooms.iter().all(|room| *room == 0) || left == 0 && !plan.wishes.is_empty() && rooms.iter().all(|room| *room < LEAST_QUEUE);
    plan
}

/// How many more mails a relay's pool takes. Small gaps are not worth a transaction.
fn room(lane: &Arc<Lane>) -> usize {
    if !lane.is_ready() {
        return 0;
    }
    let capacity = (lane.most * QUEUE_PER_SESSION).max(LEAST_QUEUE);
    let (queued, _) = lane.pool.load();
    let full = queued > capacity / 2;
    lane.note_full(full);
    if full { 0 } else { capacity - queued }
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
        for (at, lane) in tier {
            if lane.open() == 0 {
                lane.staff(shared, 1);
            }
            if lane.is_ready() {
                out.push((at, lane));
            } else if !lane.is_down() {
                // Being opened: it is asked before any reserve.
                return out;
            }
        }
        if !out.is_empty() {
            break;
        }
    }
    out
}

/// Splits what is wanted over relays by their weights: none may run ahead of its part by more than a
/// claim, unless another is so slow that it would hold up the rest (see [`Lane::is_behind`]).
fn by_weight(mut open: Vec<(usize, Arc<Lane>, usize)>, lanes: &[(usize, Arc<Lane>)]) -> Vec<(usize, Arc<Lane>, usize)> {
    if lanes.len() < 2 {
        return open;
    }
    let weights: u64 = lanes.iter().map(|(_, lane)| u64::from(lane.relay.config.weight)).sum();
    let step = CLAIM_BATCH as f64 / weights.max(1) as f64;
    let ahead = lanes.iter().map(|(_, lane)| lane.given()).fold(0.0, f64::max);
    // One that was away does not get all that it missed.
    lanes.iter().for_each(|(_, lane)| lane.catch_up(ahead - 2.0 * step));
    let slowest = lanes.iter().filter(|(_, lane)| !lane.is_behind()).map(|(_, lane)| lane.given()).fold(f64::INFINITY, f64::min);
    for (_, lane, room) in &mut open {
        if slowest.is_finite() {
            let part = (slowest + step - lane.given()) * f64::from(lane.relay.config.weight);
            *room = (*room).min(part.max(0.0).ceil() as usize);
        }
    }
    open
}
