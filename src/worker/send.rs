//! Carrying a run from its firing to its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::campaign::ops::{self as runs, CommandError, NewRun};
use crate::campaign::{Command, Definition, Run, RunState};
use crate::clock::Time;
use crate::consent;
use crate::contact;
use crate::content::{self, Recipient};
use crate::db::DbError;
use crate::delivery::engine::{PassEnd, Progress, RunContext, Sender, send_due};
use crate::delivery::journal::Journal;
use crate::delivery::links::DeliveryLinks;
use crate::delivery::message::Envelope;
use crate::delivery::ops::{self as deliveries, RENEW_EVERY_MS};
use crate::instance::Instance;
use crate::segment;

/// People whose mail is rendered before the first one leaves: when it fails for all of them, the
/// run does not start.
const SAMPLE: i64 = 20;
/// So many more when the first ones fail: those who lack an attribute may stand side by side.
const LARGE_SAMPLE: i64 = 5_000;
/// Read at a time.
const SAMPLE_BLOCK: usize = 500;
/// How often a running pass looks whether its run was paused or cancelled.
const WATCH_EVERY: Duration = Duration::from_millis(300);

/// How soon we look again whether the sessions of an earlier run have ended.
const WAIT_FOR_EARLIER_MS: i64 = 500;

/// Why a run does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something is wrong that a person must mend; says what.
    #[error("{0}")]
    Refused(String),
    /// The run cannot take this command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// How a pass may behave.
#[derive(Debug, Clone, Default)]
pub struct PassOptions {
    /// Live numbers go here.
    pub progress: Option<Arc<Progress>>,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every delivery has an outcome.
    Done,
    /// Something is due at this later moment.
    Waits(Time),
    /// Other workers hold the rest.
    Elsewhere,
    /// Stopped, paused, cancelled or failed.
    Stopped,
}

/// One process that sends: its place in the database, its journal, its lease.
pub struct Worker {
    instance: Arc<Instance>,
    sender: Arc<Sender>,
    /// Held during a pass: one pass at a time.
    place: tokio::sync::Mutex<Place>,
    /// Contents of runs under way, by run: preparing takes some milliseconds.
    contexts: tokio::sync::Mutex<HashMap<i64, Arc<RunContext>>>,
}

/// A row in the table of workers, with what hangs on it. Lost when another node declares us dead (we
/// slept, or the database was away for longer than the lease); then the next pass takes a new one.
struct Place {
    id: i64,
    journal: Journal,
    journal_task: JoinHandle<()>,
    heartbeat: JoinHandle<()>,
}

impl Place {
    async fn take(instance: &Arc<Instance>) -> Result<Place, RunError> {
        let id = deliveries::register(&instance.db, &super::process_name(), &instance.entropy, instance.clock.now()).await?;
        let (journal, journal_task) = Journal::start(instance.db.clone(), instance.clock.clone(), instance.entropy.clone(), id);
        let heartbeat = tokio::spawn(keep_lease(instance.clone(), id));
        Ok(Place { id, journal, journal_task, heartbeat })
    }

    /// Claims are returned, the journal is folded.
    async fn leave(self, instance: &Instance) -> Result<(), RunError> {
        drop(self.journal);
        // It ends by itself once nobody can ask it any more.
        let _ = self.journal_task.await;
        self.heartbeat.abort();
        deliveries::retire(&instance.db, self.id, instance.config.delivery.in_doubt, instance.clock.now()).await?;
        Ok(())
    }
}

/// Settles what stopped workers left.
pub(super) async fn recover(instance: &Instance) -> Result<(), RunError> {
    deliveries::recover(&instance.db, instance.config.delivery.in_doubt, &super::process_runs, instance.clock.now()).await?;
    Ok(())
}

impl Worker {
    /// Settles what stopped workers left and takes a place of its own.
    pub async fn start(instance: Arc<Instance>) -> Result<Worker, RunError> {
        let sender = Arc::new(sender(&instance)?);
        recover(&instance).await?;
        let place = tokio::sync::Mutex::new(Place::take(&instance).await?);
        Ok(Worker { instance, sender, place, contexts: tokio::sync::Mutex::default() })
    }

    /// Settles what workers left that stopped since.
    pub async fn recover(&self) -> Result<(), RunError> {
        recover(&self.instance).await
    }

    /// Gives the place back: claims are returned, the journal is folded.
    pub async fn stop(self) -> Result<(), RunError> {
        self.place.into_inner().leave(&self.instance).await
    }

    /// Moves a run as far as it goes now.
    pub async fn pass(&self, run_id: i64, options: &PassOptions, stop: watch::Receiver<bool>) -> Result<Ending, RunError> {
        let db = &self.instance.db;
        let Some(mut run) = runs::run(&mut db.clone(), run_id).await? else { return Ok(Ending::Stopped) };
        if run.state == RunState::Scheduled {
            if run.scheduled_at > self.instance.clock.now() {
                return Ok(Ending::Waits(run.scheduled_at));
            }
            runs::command(db, run_id, Command::Start, None, self.instance.clock.now()).await?;
            run = runs::run(&mut db.clone(), run_id).await?.unwrap_or(run);
        }
        if run.state == RunState::Preparing {
            // A run cancelled a moment ago may still end its last conversations: what they sent counts.
            for earlier in runs::runs_to_finish(&mut db.clone(), &run).await? {
                if deliveries::any_claimed(&mut db.clone(), earlier).await? {
                    return Ok(Ending::Waits(self.instance.clock.now().plus(WAIT_FOR_EARLIER_MS)));
                }
            }
            self.or_fail(run_id, self.write_audience(&mut run, &stop).await).await?;
            run = runs::run(&mut db.clone(), run_id).await?.unwrap_or(run);
        }
        match run.state {
            RunState::Sending => {}
            // Another worker was faster.
            RunState::Done => return Ok(Ending::Done),
            _ => return Ok(Ending::Stopped),
        }
        let mut place = self.place.lock().await;
        // What a pass that the database cut short had claimed is due again.
        if !place.journal.settle_strays(self.instance.config.delivery.in_doubt).await {
            self.renew_place(&mut place).await?;
        }
        let context = self.or_fail(run_id, self.context(&run).await).await?;
        self.look_before_first_mail(&context).await?;
        // No session is opened for nothing: a run that only waits for retries leaves the relay alone.
        match deliveries::next_due(&mut db.clone(), run_id).await? {
            Some(due) if due <= self.instance.clock.now() => {}
            _ => return self.after_pass(run_id, &place, &Progress::default()).await,
        }
        let progress = options.progress.clone().unwrap_or_default();
        let (halt, halted) = watch::channel(false);
        let watcher = tokio::spawn(watch_run(self.instance.clone(), run_id, stop, halt));
        let ended = send_due(&self.sender, &context, &place.journal, place.id, &progress, halted).await;
        watcher.abort();
        match ended? {
            PassEnd::Idle => self.after_pass(run_id, &place, &progress).await,
            PassEnd::Stopped => Ok(Ending::Stopped),
            PassEnd::Fenced => {
                self.renew_place(&mut place).await?;
                Ok(Ending::Waits(self.instance.clock.now()))
            }
        }
    }

    /// Takes a new place when ours was taken from us.
    async fn renew_place(&self, place: &mut Place) -> Result<(), RunError> {
        let now = self.instance.clock.now();
        if deliveries::renew(&self.instance.db, place.id, now).await? {
            return Ok(());
        }
        tracing::warn!(worker = place.id, "declared dead by another worker; going on under a new name");
        let old = std::mem::replace(place, Place::take(&self.instance).await?);
        old.leave(&self.instance).await
    }

    /// A run that cannot be prepared fails, and says why; it would fail again for ever.
    async fn or_fail<T>(&self, run_id: i64, result: Result<T, RunError>) -> Result<T, RunError> {
        if let Err(RunError::Refused(reason)) = &result {
            runs::command(&self.instance.db, run_id, Command::Fail, Some(reason), self.instance.clock.now()).await?;
        }
        result
    }

    async fn after_pass(&self, run_id: i64, place: &Place, progress: &Progress) -> Result<Ending, RunError> {
        let db = &self.instance.db;
        // Until the journal is folded, deliveries look claimed.
        if !place.journal.fold().await {
            return Ok(Ending::Elsewhere);
        }
        if let Some(due) = deliveries::next_due(&mut db.clone(), run_id).await? {
            return Ok(Ending::Waits(due));
        }
        if !deliveries::is_finished(&mut db.clone(), run_id).await? {
            return Ok(Ending::Elsewhere);
        }
        match runs::command(db, run_id, Command::Finish, None, self.instance.clock.now()).await {
            Ok(_) => {}
            // Paused or cancelled with the last mail.
            Err(CommandError::Impossible { .. }) => return Ok(Ending::Stopped),
            Err(error) => return Err(error.into()),
        }
        self.contexts.lock().await.remove(&run_id);
        tracing::info!(run = run_id, sent = progress.sent.load(Ordering::Relaxed), "the run is done");
        Ok(Ending::Done)
    }

    /// Writes the deliveries of a run's audience, block by block, until it is complete or somebody
    /// says stop.
    async fn write_audience(&self, run: &mut Run, stop: &watch::Receiver<bool>) -> Result<(), RunError> {
        let instance = &self.instance;
        let definition = definition_of(run)?;
        let now = run.scheduled_at.max(run.started_at.unwrap_or(run.scheduled_at));
        let rule = instance
            .audience(definition.audience.as_deref())
            .map_err(|errors| RunError::Refused(errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")))?;
        // One `now` for the whole audience: a block written after a restart means the same.
        let sql = segment::compile_for_blocks(&rule, instance.db.dialect(), now, 4);
        loop {
            if *stop.borrow() {
                return Ok(());
            }
            let mut tx = instance.db.begin().await?;
            // Locked: two workers may write one audience, block after block in turn.
            match runs::run_locked(&mut tx, run.id).await? {
                Some(current) if current.state == RunState::Preparing => *run = current,
                _ => return Ok(()),
            }
            if !run.audience_done {
                let picked = runs::next_audience_block(&mut tx, run, &sql).await?;
                let now = instance.clock.now();
                deliveries::enqueue(&mut tx, run.id, &picked, run.scheduled_at, &instance.entropy, now).await?;
            }
            tx.commit().await?;
            if run.audience_done {
                tracing::info!(run = run.id, campaign = run.campaign, audience = run.audience, "audience written");
                return match runs::command(&instance.db, run.id, Command::AudienceWritten, None, instance.clock.now()).await {
                    // Paused or cancelled in this moment: the caller looks again.
                    Ok(_) | Err(CommandError::Impossible { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                };
            }
        }
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

    /// Renders for the first people; when that fails for every one of them, the run fails before
    /// the first mail.
    async fn look_before_first_mail(&self, context: &RunContext) -> Result<(), RunError> {
        let instance = &self.instance;
        let mut first_problem = None;
        let mut looked_at = 0;
        for sample in [SAMPLE, LARGE_SAMPLE] {
            let ids = deliveries::sample_contacts(&mut instance.db.clone(), context.run.id, sample).await?;
            for ids in ids.get(looked_at..).unwrap_or_default().chunks(SAMPLE_BLOCK) {
                for person in contact::sql::by_ids(&mut instance.db.clone(), &instance.schema, ids).await? {
                    match crate::delivery::engine::compose(&self.sender, context, &person, 1, instance.clock.now()) {
                        Ok(_) => return Ok(()),
                        Err(problem) => drop(first_problem.get_or_insert(problem)),
                    }
                }
            }
            looked_at = ids.len();
        }
        if first_problem.is_none() {
            return Ok(());
        }
        // With mails already out, the template works for somebody: those who fail are skipped one by one.
        let counts = deliveries::counts(&mut instance.db.clone(), context.run.id).await?;
        if counts.iter().any(|(state, _, _)| *state == crate::delivery::State::Sent) {
            return Ok(());
        }
        let reason = format!("the mail cannot be written for anybody: {}", first_problem.unwrap_or_default());
        runs::command(&instance.db, context.run.id, Command::Fail, Some(&reason), instance.clock.now()).await?;
        Err(RunError::Refused(reason))
    }
}

async fn keep_lease(instance: Arc<Instance>, id: i64) {
    loop {
        tokio::time::sleep(Duration::from_millis(RENEW_EVERY_MS)).await;
        match deliveries::renew(&instance.db, id, instance.clock.now()).await {
            Ok(true) => {}
            // The journal notices by itself and stops the sessions.
            Ok(false) => tracing::error!(worker = id, "this worker was declared dead by another one"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the lease could not be renewed"),
        }
    }
}

/// Tells a pass to halt when its run is paused or cancelled, or the process stops.
async fn watch_run(instance: Arc<Instance>, run_id: i64, mut stop: watch::Receiver<bool>, halt: watch::Sender<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        let sending = match runs::run(&mut instance.db.clone(), run_id).await {
            Ok(run) => run.is_some_and(|run| run.state == RunState::Sending),
            Err(_) => true,
        };
        if *stop.borrow() || !sending {
            let _ = halt.send(true);
            return;
        }
    }
}

fn sender(instance: &Instance) -> Result<Sender, RunError> {
    let config = &instance.config;
    Ok(Sender {
        db: instance.db.clone(),
        clock: instance.clock.clone(),
        entropy: instance.entropy.clone(),
        keys: instance.keys.clone(),
        schema: instance.schema.clone(),
        site: config.site.url.value.clone(),
        relay: instance.relay().map_err(RunError::Refused)?,
        hello: instance.host(),
        connections: config.smtp.connections.max(1) as usize,
        in_doubt: config.delivery.in_doubt,
        retry_seconds: config.delivery.retry_seconds.clone(),
        retry_hours: config.delivery.retry_hours,
    })
}

fn definition_of(run: &Run) -> Result<Definition, RunError> {
    serde_json::from_str(&run.definition)
        .map_err(|error| RunError::Refused(format!("the definition stored with run {} cannot be read: {error}", run.id)))
}

/// A stored run, ready to be rendered.
pub fn prepare_context(instance: &Instance, run: &Run) -> Result<RunContext, RunError> {
    let definition = definition_of(run)?;
    let content = content::prepare(&definition, &instance.schema)
        .map_err(|problems| RunError::Refused(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok(RunContext { run: run.clone(), envelope: Envelope::new(&definition), definition, content: Arc::new(content) })
}

/// What `send` asks for: goes on with an unfinished run, repeats a finished one only when told so.
pub async fn start_run(instance: &Instance, campaign: &str, again: bool, at: Option<Time>) -> Result<(Run, bool), RunError> {
    let config_campaign = instance.campaign(campaign).map_err(RunError::Refused)?;
    let now = instance.clock.now();
    let definition = Definition::new(&instance.config, config_campaign);
    let mut links = None;
    for _ in 0..10 {
        // What is known and the next firing come from one look: whoever was faster since has taken
        // that firing, and we look again.
        let (known, firing) = runs::manual_run(&mut instance.db.clone(), campaign, again).await?;
        match known {
            Some(run) if !run.state.is_final() && at.is_some() => {
                return Err(RunError::Refused(format!(
                    "{campaign} has a run that is {} already, due {}: a second one would mail everybody twice\n\
                     hint: `optin run cancel {}` first",
                    run.state.as_str(),
                    run.scheduled_at,
                    run.id
                )));
            }
            Some(run) if !run.state.is_final() => return Ok((run, false)),
            Some(run) if !again => return Ok((run, false)),
            _ => {}
        }
        if links.is_none() {
            links = Some(super::links_of(&definition, instance)?);
        }
        let mut tx = instance.db.begin().await?;
        let topic_id = consent::ops::topic_id(&mut tx, &definition.topic, &instance.entropy, now).await?;
        let links = links.as_deref().unwrap_or_default();
        let new = NewRun { definition: &definition, topic_id, firing: &firing, scheduled_at: at.unwrap_or(now), links };
        let made = runs::create_run(&mut tx, new, &instance.entropy, now).await?;
        tx.commit().await?;
        if let Some(run) = made {
            return Ok((run, true));
        }
    }
    Err(RunError::Refused("somebody else starts this campaign at the same moment; try again".to_owned()))
}

/// Renders the mail of a delivery again, for the page that shows it.
pub fn render_again(
    instance: &Instance,
    context: &RunContext,
    contact: &contact::Contact,
    delivery_id: i64,
    now: Time,
) -> Result<content::Mail, content::RenderError> {
    let links = DeliveryLinks {
        keys: &instance.keys,
        site: &instance.config.site.url.value,
        delivery_id,
        contact_id: contact.id,
        topic_id: context.run.topic_id,
        track_opens: false,
    };
    context.content.render(&Recipient { contact, links: &links, now })
}
