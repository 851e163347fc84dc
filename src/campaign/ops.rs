//! Use cases on runs and schedules.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;

use super::run::{Command, Run, RunState, next_state};
use super::schedule::{Cron, parse_local};
use super::{Definition, sql};
use crate::clock::{DAY, Time};
use crate::config;
use crate::consent::Standing;
use crate::consent::suppression::look_up_rules;
use crate::db::{Connection, Db, DbError, Tx};
use crate::entropy::Entropy;

pub use super::sql::{audience_counts, list, note_reason, open_runs, run, run_locked};

/// Contacts looked at in one transaction while an audience is written: short enough that a
/// withdrawal never waits noticeably.
const AUDIENCE_BLOCK: i64 = 5_000;
/// A firing missed by more than this (the engine was down) is left out.
const CATCH_UP_MS: i64 = DAY;

/// A run to be made.
#[derive(Debug, Clone)]
pub struct NewRun<'a> {
    /// The frozen campaign.
    pub definition: &'a Definition,
    /// Its topic.
    pub topic_id: i64,
    /// What fires it: unique per campaign.
    pub firing: &'a str,
    /// When it is due.
    pub scheduled_at: Time,
    /// Position, address and name of each tracked link.
    pub links: &'a [(i64, String, String)],
}

/// Makes a run. `None` when this firing has one already (another node was faster).
pub async fn create_run(tx: &mut Tx, new: NewRun<'_>, entropy: &Entropy, now: Time) -> Result<Option<Run>, DbError> {
    let NewRun { definition, topic_id, firing, scheduled_at, links } = new;
    let run = Run {
        id: entropy.id(now),
        campaign: definition.campaign.clone(),
        topic_id,
        firing: firing.to_owned(),
        state: RunState::Scheduled,
        reason: None,
        scheduled_at,
        started_at: None,
        finished_at: None,
        definition_hash: definition.hash(),
        definition: definition.to_json(),
        excluded: "{}".to_owned(),
        audience: 0,
        audience_cursor: 0,
        audience_done: false,
    };
    if !sql::insert(tx, &run, now).await? {
        return Ok(None);
    }
    sql::insert_links(tx, run.id, links).await?;
    Ok(Some(run))
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such run.
    #[error("there is no run {0}; `optin run list` shows them")]
    Unknown(i64),
    /// It makes no sense now.
    #[error("run {id} is {state}: {command} is not possible any more", state = state.as_str(), command = format!("{command:?}").to_lowercase())]
    Impossible {
        /// The run.
        id: i64,
        /// Its state.
        state: RunState,
        /// What was asked.
        command: Command,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Carries out a command; answers the new state. Repeating a command that already holds is fine.
pub async fn command(db: &Db, id: i64, command: Command, reason: Option<&str>, now: Time) -> Result<RunState, CommandError> {
    let mut tx = db.begin().await?;
    let state = command_in(&mut tx, id, command, reason, now).await?;
    tx.commit().await?;
    Ok(state)
}

/// The same inside a transaction that does more.
pub async fn command_in(tx: &mut Tx, id: i64, command: Command, reason: Option<&str>, now: Time) -> Result<RunState, CommandError> {
    let current = sql::run_locked(tx, id).await?.ok_or(CommandError::Unknown(id))?;
    let held = match command {
        Command::Pause => current.state == RunState::Paused,
        Command::Cancel => current.state == RunState::Cancelled,
        Command::Resume => matches!(current.state, RunState::Preparing | RunState::Sending),
        // Several workers may come to the same end: the first one writes it.
        Command::Start => matches!(current.state, RunState::Preparing | RunState::Sending | RunState::Done),
        Command::AudienceWritten => matches!(current.state, RunState::Sending | RunState::Done),
        Command::Finish => current.state == RunState::Done,
        Command::Fail => current.state == RunState::Failed,
        Command::Reopen => current.state == RunState::Sending,
    };
    if held {
        return Ok(current.state);
    }
    let next =
        next_state(current.state, command, current.audience_done).ok_or(CommandError::Impossible { id, state: current.state, command })?;
    if !sql::move_state(tx, id, current.state, next, reason, now).await? {
        return Err(CommandError::Impossible { id, state: current.state, command });
    }
    Ok(next)
}

/// Before an audience is read: PostgreSQL looks at its tables anew. After a large import, and before its
/// own daemon has come by, it takes them for empty and sorts all that is left for every block.
pub async fn freshen_statistics(db: &Db) -> Result<(), DbError> {
    sql::freshen_statistics(db).await
}

/// Somebody whom a run will mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// The contact.
    pub contact_id: i64,
    /// The address as compared.
    pub email_key: String,
}

impl Picked {
    /// The address's domain, as compared.
    pub fn domain(&self) -> &str {
        self.email_key.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// The next people of a run's audience, and whether the audience is complete with them. The caller
/// writes their deliveries in the same transaction; `run` is moved on.
pub async fn next_audience_block(tx: &mut Tx, run: &mut Run, rule: &crate::segment::Sql) -> Result<Vec<Picked>, DbError> {
    let candidates = sql::next_candidates(tx, run.topic_id, rule, run.audience_cursor, AUDIENCE_BLOCK).await?;
    let mut excluded: BTreeMap<String, i64> = serde_json::from_str(&run.excluded).unwrap_or_default();
    let reached = reached_before(tx, run, &candidates).await?;
    let keys: Vec<&str> = candidates.iter().map(|candidate| candidate.email_key.as_str()).collect();
    let by_rules = look_up_rules(tx, &keys).await?;
    let mut picked = Vec::with_capacity(candidates.len());
    run.audience_done = candidates.len() < AUDIENCE_BLOCK as usize;
    run.audience_cursor = candidates.last().map_or(run.audience_cursor, |candidate| candidate.contact_id);
    for candidate in candidates {
        let facts = super::Facts {
            standing: Standing::from_stored(Some(&candidate.standing)),
            suppressed: (candidate.suppressed || by_rules.contains_key(&candidate.email_key)).then(String::new),
            in_audience: true,
            already_in_run: reached.contains(&candidate.contact_id),
        };
        match super::decide(&facts) {
            super::Verdict::Send => picked.push(Picked { contact_id: candidate.contact_id, email_key: candidate.email_key }),
            super::Verdict::Skip(reason) => *excluded.entry(reason.code().to_owned()).or_default() += 1,
        }
    }
    run.audience += picked.len() as i64;
    run.excluded = serde_json::to_string(&excluded).unwrap_or_else(|_| "{}".to_owned());
    sql::move_cursor(tx, run).await?;
    Ok(picked)
}

/// Runs that were cancelled or failed half-way, and that `run` finishes: what they had sent counts.
/// None for a run that was asked to begin anew, and for scheduled ones.
pub async fn runs_to_finish(db: &mut impl Connection, run: &Run) -> Result<Vec<i64>, DbError> {
    if !run.firing.starts_with(MANUAL) || run.firing.ends_with(AGAIN) {
        return Ok(Vec::new());
    }
    let earlier = sql::runs_before(db, &run.campaign, run.id).await?;
    let by_hand = earlier.into_iter().filter(|(_, firing, _)| firing.starts_with(MANUAL));
    Ok(by_hand.take_while(|(_, _, state)| *state != RunState::Done).map(|(id, _, _)| id).collect())
}

async fn reached_before(tx: &mut Tx, run: &Run, candidates: &[sql::Candidate]) -> Result<BTreeSet<i64>, DbError> {
    let mut reached = BTreeSet::new();
    for earlier in runs_to_finish(tx, run).await? {
        reached.extend(sql::reached_in(tx, earlier, candidates.iter().map(|candidate| candidate.contact_id)).await?);
    }
    Ok(reached)
}

/// Firing keys of runs that a person started: `manual-3`, or `manual-4-again`.
const MANUAL: &str = "manual-";
const AGAIN: &str = "-again";

/// The unfinished run of a campaign that `send` goes on with, else the last manual one that is done;
/// and the firing key for the next manual run, from the same look.
pub async fn manual_run(db: &mut impl Connection, campaign: &str, again: bool) -> Result<(Option<Run>, String), DbError> {
    let runs = sql::list(db, Some(campaign), 100_000).await?;
    let last =
        runs.iter().filter_map(|run| run.firing.strip_prefix(MANUAL)?.trim_end_matches(AGAIN).parse::<u32>().ok()).max().unwrap_or(0);
    let unfinished = runs.iter().find(|run| !run.state.is_final()).cloned();
    // A run that found nobody sent nothing: there is nothing to repeat.
    let done = |run: &Run| run.firing.starts_with(MANUAL) && run.state == RunState::Done && run.audience > 0;
    let known = unfinished.or_else(|| runs.into_iter().find(done));
    Ok((known, format!("{MANUAL}{}{}", last + 1, if again { AGAIN } else { "" })))
}

/// A schedule ready to be asked.
#[derive(Debug, Clone)]
pub enum Timing {
    /// Recurring.
    Cron(Box<Cron>, TimeZone),
    /// Once.
    At(Time),
}

impl Timing {
    /// From checked configuration; an error repeats what `check` says.
    pub fn new(schedule: &config::Schedule) -> Result<Timing, String> {
        let zone = TimeZone::get(&schedule.timezone.value).map_err(|error| error.to_string())?;
        match &schedule.when {
            config::When::Cron(expression) => {
                Cron::parse(&expression.value).map(|cron| Timing::Cron(Box::new(cron), zone)).map_err(|error| error.message)
            }
            config::When::At(text) => parse_local(&text.value, &zone).map(Timing::At),
        }
    }

    /// The first firing after `after`.
    pub fn next_after(&self, after: Time) -> Option<Time> {
        match self {
            Timing::Cron(cron, zone) => cron.next_after(after, zone),
            Timing::At(time) => (*time > after).then_some(*time),
        }
    }
}

/// How often the last look at a schedule is noted: after a change of the schedule, firings of the new
/// one that lie further back than this do not count as missed.
const NOTE_LOOK_MS: i64 = 60 * crate::clock::SECOND;

/// Whether [`due_firing`] has anything to do now. Reads only, so that looking twice a second costs
/// no write.
pub async fn worth_a_look(db: &mut impl Connection, campaign: &str, timing: &Timing, now: Time) -> Result<bool, DbError> {
    Ok(match sql::looked_until(db, campaign).await? {
        None => true,
        Some(since) => now.since(since) >= NOTE_LOOK_MS || timing.next_after(since).is_some_and(|next| next <= now),
    })
}

/// Whether a campaign's schedule fires now. Looks at everything since the last look; several missed
/// firings become the last one, and one missed by more than a day is left out. The first look at a
/// recurring schedule only notes the time; a one-shot time counts from a day before.
pub async fn due_firing(tx: &mut Tx, campaign: &str, timing: &Timing, now: Time) -> Result<Option<Time>, DbError> {
    let since = match (sql::looked_until(tx, campaign).await?, timing) {
        (Some(since), _) => since.max(now.plus(-CATCH_UP_MS)),
        (None, Timing::At(_)) => now.plus(-CATCH_UP_MS),
        (None, Timing::Cron(..)) => now,
    };
    sql::set_looked_until(tx, campaign, now).await?;
    let mut due = None;
    let mut after = since;
    while let Some(next) = timing.next_after(after) {
        if next > now {
            break;
        }
        due = Some(next);
        after = next;
    }
    Ok(due)
}
