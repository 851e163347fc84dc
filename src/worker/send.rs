//! Carrying runs from their firing to their end: one look after another at what the database says,
//! each of which may be repeated.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::station::Station;
use super::{RunError, audience, prepare_context};
use crate::campaign::ops::{self as runs, CommandError};
use crate::campaign::{Command, Run, RunState};
use crate::clock::Time;
use crate::delivery::engine::{Lanes, Progress, RunContext, Sender, Status};
use crate::delivery::ops as deliveries;
use crate::instance::Instance;

/// Settles what stopped workers left.
pub(super) async fn recover(instance: &Instance) -> Result<(), RunError> {
    deliveries::recover(&instance.db, instance.config.delivery.in_doubt, &super::process_runs, instance.clock.now()).await?;
    Ok(())
}

/// How long the conversations of a place that was taken from us are waited for before the new one is
/// put to work: most end at once, and the relay need not hold twice the sessions.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// What a worker serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every run, and messages.
    All,
    /// This run only.
    Run(i64),
}

/// How a run stands, as far as this worker can tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Every delivery has an outcome.
    Done,
    /// Mail leaves, or waits for a limit or a relay.
    Busy,
    /// Something is due at this later moment.
    Waits(Time),
    /// Limits and pauses hold back all that is due, until this moment at least.
    Held(Time),
    /// Other workers hold the rest.
    Elsewhere,
    /// Paused, cancelled or failed.
    Stopped,
}

/// One process that sends.
pub struct Worker {
    instance: Arc<Instance>,
    sender: Arc<Sender>,
    scope: Scope,
    station: tokio::sync::Mutex<Station>,
    /// The station's id.
    place: Arc<AtomicI64>,
    /// Contents of runs under way, by run: preparing takes some milliseconds.
    contexts: tokio::sync::Mutex<HashMap<i64, Arc<RunContext>>>,
    /// Audiences being written.
    audiences: std::sync::Mutex<BTreeMap<i64, JoinHandle<()>>>,
    /// Places taken from us whose last conversations have not ended.
    leaving: std::sync::Mutex<Vec<JoinHandle<()>>>,
    /// Numbers of runs, kept when the engine is made anew.
    progress: std::sync::Mutex<BTreeMap<i64, Arc<Progress>>>,
    stop: watch::Receiver<bool>,
}

impl Worker {
    /// Settles what stopped workers left and takes a place of its own.
    pub async fn start(instance: Arc<Instance>, scope: Scope, stop: watch::Receiver<bool>) -> Result<Worker, RunError> {
        let sender = Arc::new(super::sender::of(&instance)?);
        recover(&instance).await?;
        let station = Station::take(&instance, &sender, lanes(scope)).await?;
        Ok(Worker {
            instance,
            sender,
            scope,
            place: Arc::new(AtomicI64::new(station.id)),
            station: tokio::sync::Mutex::new(station),
            contexts: tokio::sync::Mutex::default(),
            audiences: std::sync::Mutex::default(),
            leaving: std::sync::Mutex::default(),
            progress: std::sync::Mutex::default(),
            stop,
        })
    }

    /// The worker's id now: the holder of leases. It changes when its place is taken from it.
    pub fn place(&self) -> Arc<AtomicI64> {
        self.place.clone()
    }

    /// Gives the place back: conversations end, claims are returned, the journal is folded.
    pub async fn stop(self) -> Result<(), RunError> {
        let audiences = std::mem::take(&mut *self.audiences.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, task) in audiences {
            // It ends after its block, or was stopped with the process.
            let _ = task.await;
        }
        let left = self.station.into_inner().leave(&self.instance).await;
        let still_leaving = std::mem::take(&mut *self.leaving.lock().unwrap_or_else(PoisonError::into_inner));
        for leaving in still_leaving {
            // It says itself what went wrong.
            let _ = leaving.await;
        }
        left
    }

    /// Settles what workers left that stopped since.
    pub async fn recover(&self) -> Result<(), RunError> {
        recover(&self.instance).await
    }

    /// A run's live numbers on this node.
    pub fn progress(&self, run_id: i64) -> Arc<Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).entry(run_id).or_default().clone()
    }

    /// What this node does now.
    pub async fn status(&self) -> Status {
        self.station.lock().await.engine.status()
    }

    /// Since when no relay can be reached, and what was heard last.
    pub async fn relay_problem(&self) -> Option<(Time, String)> {
        self.station.lock().await.engine.relay_problem()
    }

    /// One look: moves every run as far as it goes now. May be repeated at any time.
    pub async fn step(&self) -> Result<(), RunError> {
        let mut station = self.station.lock().await;
        if station.engine.is_fenced() {
            self.renew_station(&mut station).await?;
        }
        if station.engine.settle_strays().await {
            for run_id in station.engine.run_ids() {
                station.engine.look_again(run_id);
            }
        }
        for (run_id, reason) in station.engine.alarms() {
            tracing::error!(run = run_id, reason, "the run is paused");
            self.command(run_id, Command::Pause, Some(&reason)).await?;
        }
        let now = self.instance.clock.now();
        let open = self.open_runs(now).await?;
        for run in &open {
            match run.state {
                RunState::Scheduled if run.scheduled_at <= now => drop(self.command(run.id, Command::Start, None).await?),
                RunState::Preparing => self.write_audience(run).await?,
                RunState::Sending => self.send(&station, run).await?,
                _ => {}
            }
        }
        for run_id in station.engine.run_ids() {
            let sending = open.iter().any(|run| run.id == run_id && run.state == RunState::Sending);
            if !sending {
                station.engine.remove(run_id).await;
                self.contexts.lock().await.remove(&run_id);
            } else if station.engine.is_dry(run_id) {
                self.finish(&station, run_id).await?;
            }
        }
        Ok(())
    }

    async fn open_runs(&self, now: Time) -> Result<Vec<Run>, RunError> {
        let db = &mut self.instance.db.clone();
        Ok(match self.scope {
            Scope::All => runs::open_runs(db, now).await?,
            Scope::Run(id) => runs::run(db, id).await?.into_iter().collect(),
        })
    }

    /// How a run stands now.
    pub async fn standing(&self, run_id: i64) -> Result<Standing, RunError> {
        let db = &mut self.instance.db.clone();
        let Some(run) = runs::run(db, run_id).await? else { return Ok(Standing::Stopped) };
        match run.state {
            RunState::Scheduled => return Ok(Standing::Waits(run.scheduled_at)),
            RunState::Preparing => return Ok(Standing::Busy),
            RunState::Sending => {}
            RunState::Done => return Ok(Standing::Done),
            RunState::Paused | RunState::Cancelled | RunState::Failed => return Ok(Standing::Stopped),
        }
        let (dry, waits_until) = {
            let station = self.station.lock().await;
            (station.engine.is_dry(run_id), station.engine.waits_until(run_id))
        };
        if self.progress(run_id).live() > 0 {
            return Ok(Standing::Busy);
        }
        if !dry && waits_until.is_none() {
            return Ok(Standing::Busy);
        }
        let next_due = deliveries::next_due(db, run_id).await?;
        if !dry {
            // What is held back may just have found its end.
            if next_due.is_none_or(|due_at| due_at > self.instance.clock.now()) {
                self.station.lock().await.engine.look_again(run_id);
                return Ok(Standing::Busy);
            }
            return Ok(waits_until.map_or(Standing::Busy, Standing::Held));
        }
        Ok(match next_due {
            Some(due_at) if due_at > self.instance.clock.now() => Standing::Waits(due_at),
            Some(_) => Standing::Busy,
            None => Standing::Elsewhere,
        })
    }

    /// Takes a new place when ours was taken from us.
    async fn renew_station(&self, station: &mut Station) -> Result<(), RunError> {
        tracing::warn!(worker = station.id, "declared dead by another worker; going on under a new name");
        let fresh = Station::take(&self.instance, &self.sender, lanes(self.scope)).await?;
        self.place.store(fresh.id, Ordering::Release);
        let (old, instance) = (std::mem::replace(station, fresh), self.instance.clone());
        let mut leaving = tokio::spawn(async move {
            if let Err(error) = old.leave(&instance).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the old place was not left in good order");
            }
        });
        // A relay may take minutes over its last reply; the rest goes on without it.
        if tokio::time::timeout(LEAVE_WITHIN, &mut leaving).await.is_err() {
            self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(leaving);
        }
        Ok(())
    }

    /// A command that another worker may have given already.
    async fn command(&self, run_id: i64, command: Command, reason: Option<&str>) -> Result<bool, RunError> {
        match runs::command(&self.instance.db, run_id, command, reason, self.instance.clock.now()).await {
            Ok(_) => Ok(true),
            // Somebody paused, cancelled or ended it in this moment.
            Err(CommandError::Impossible { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A run that cannot be prepared fails, and says why; it would fail again for ever.
    async fn fail(&self, run: &Run, reason: &str) -> Result<(), RunError> {
        tracing::error!(run = run.id, campaign = run.campaign, reason, "the run cannot go on");
        self.command(run.id, Command::Fail, Some(reason)).await?;
        Ok(())
    }

    /// Has the audience written beside everything else.
    async fn write_audience(&self, run: &Run) -> Result<(), RunError> {
        if self.audiences.lock().unwrap_or_else(PoisonError::into_inner).get(&run.id).is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        // A run cancelled a moment ago may still end its last conversations: what they sent counts.
        for earlier in runs::runs_to_finish(&mut self.instance.db.clone(), run).await? {
            if deliveries::any_claimed(&mut self.instance.db.clone(), earlier).await? {
                return Ok(());
            }
        }
        let (instance, sender, run, stop) = (self.instance.clone(), self.sender.clone(), run.clone(), self.stop.clone());
        let id = run.id;
        let task = tokio::spawn(async move {
            match audience::write(&instance, &sender, run.clone(), &stop).await {
                Ok(()) => {}
                Err(RunError::Refused(reason)) => {
                    tracing::error!(run = run.id, campaign = run.campaign, reason, "the run cannot go on");
                    let failed = runs::command(&instance.db, run.id, Command::Fail, Some(&reason), instance.clock.now()).await;
                    if let Err(error) = failed {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "the run could not be marked as failed; the next look tries again"
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the audience is not complete yet; the next look goes on with it"
                    );
                }
            }
        });
        self.audiences.lock().unwrap_or_else(PoisonError::into_inner).insert(id, task);
        Ok(())
    }

    /// Gives a run to the engine.
    async fn send(&self, station: &Station, run: &Run) -> Result<(), RunError> {
        if station.engine.progress(run.id).is_some() {
            return Ok(());
        }
        let prepared = async {
            let context = self.context(run).await?;
            audience::look_before_first_mail(&self.instance, &self.sender, &context).await?;
            Ok(context)
        };
        match prepared.await {
            Ok(context) => station.engine.add(context, self.progress(run.id)),
            Err(RunError::Refused(reason)) => self.fail(run, &reason).await?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn context(&self, run: &Run) -> Result<Arc<RunContext>, RunError> {
        let mut contexts = self.contexts.lock().await;
        if let Some(context) = contexts.get(&run.id) {
            return Ok(context.clone());
        }
        let context = Arc::new(prepare_context(&self.instance, run)?);
        contexts.insert(run.id, context.clone());
        Ok(context)
    }

    /// Ends a run of which nothing is left.
    async fn finish(&self, station: &Station, run_id: i64) -> Result<(), RunError> {
        // Until the journal is folded, deliveries look claimed.
        if !station.journal.fold().await {
            return Ok(());
        }
        if !deliveries::is_finished(&mut self.instance.db.clone(), run_id).await? {
            return Ok(());
        }
        crate::fault::point("run_finishing");
        if self.command(run_id, Command::Finish, None).await? {
            let sent = self.progress(run_id).sent.load(Ordering::Relaxed);
            tracing::info!(run = run_id, sent, "the run is done");
            deliveries::store_counts(&self.instance.db, run_id).await?;
        }
        station.engine.remove(run_id).await;
        self.contexts.lock().await.remove(&run_id);
        Ok(())
    }
}

fn lanes(scope: Scope) -> Lanes {
    Lanes { messages: scope == Scope::All }
}
