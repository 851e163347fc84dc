//! Carrying a run from its firing to its end.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
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
/// How often a running pass looks whether its run was paused or cancelled.
const WATCH_EVERY: Duration = Duration::from_millis(300);

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
    id: i64,
    sender: Arc<Sender>,
    journal: Mutex<Option<Journal>>,
    journal_task: Mutex<Option<JoinHandle<()>>>,
    heartbeat: JoinHandle<()>,
    /// Contents of runs under way, by run: preparing takes some milliseconds.
    contexts: tokio::sync::Mutex<HashMap<i64, Arc<RunContext>>>,
}

impl Worker {
    /// Settles what stopped workers left and takes a place of its own.
    pub async fn start(instance: Arc<Instance>) -> Result<Worker, RunError> {
        let sender = Arc::new(sender(&instance)?);
        deliveries::recover(&instance.db, instance.config.delivery.in_doubt, &super::process_runs, instance.clock.now()).await?;
        let id = deliveries::register(&instance.db, &super::process_name(), &instance.entropy, instance.clock.now()).await?;
        let (journal, task) = Journal::start(instance.db.clone(), instance.clock.clone(), instance.entropy.clone(), id);
        let heartbeat = tokio::spawn(keep_lease(instance.clone(), id));
        Ok(Worker {
            instance,
            id,
            sender,
            journal: Mutex::new(Some(journal)),
            journal_task: Mutex::new(Some(task)),
            heartbeat,
            contexts: tokio::sync::Mutex::default(),
        })
    }

    /// Settles what workers left that stopped since.
    pub async fn recover(&self) -> Result<(), RunError> {
        let instance = &self.instance;
        deliveries::recover(&instance.db, instance.config.delivery.in_doubt, &super::process_runs, instance.clock.now()).await?;
        Ok(())
    }

    /// Gives the place back: claims are returned, the journal is folded.
    pub async fn stop(self) -> Result<(), RunError> {
        drop(self.journal.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.journal_task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // It ends by itself once nobody can ask it any more.
            let _ = task.await;
        }
        self.heartbeat.abort();
        deliveries::retire(&self.instance.db, self.id, self.instance.config.delivery.in_doubt, self.instance.clock.now()).await?;
        Ok(())
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
            run.state = RunState::Preparing;
        }
        if run.state == RunState::Preparing {
            if !self.write_audience(&mut run, &stop).await? {
                return Ok(Ending::Stopped);
            }
            run = runs::run(&mut db.clone(), run_id).await?.unwrap_or(run);
        }
        if run.state != RunState::Sending {
            return Ok(Ending::Stopped);
        }
        let context = self.context(&run).await?;
        self.look_before_first_mail(&context).await?;
        // No session is opened for nothing: a run that only waits for retries leaves the relay alone.
        match deliveries::next_due(&mut db.clone(), run_id).await? {
            Some(due) if due <= self.instance.clock.now() => {}
            _ => return self.after_pass(run_id, &Progress::default()).await,
        }
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(journal) = journal else { return Ok(Ending::Stopped) };
        let progress = options.progress.clone().unwrap_or_default();
        let (halt, halted) = watch::channel(false);
        let watcher = tokio::spawn(watch_run(self.instance.clone(), run_id, stop, halt));
        let ended = send_due(&self.sender, &context, &journal, self.id, &progress, halted).await;
        watcher.abort();
        if ended? != PassEnd::Idle {
            return Ok(Ending::Stopped);
        }
        self.after_pass(run_id, &progress).await
    }

    async fn after_pass(&self, run_id: i64, progress: &Progress) -> Result<Ending, RunError> {
        let db = &self.instance.db;
        // The journal folds a moment after the last outcome; until then deliveries look claimed.
        for _ in 0..100 {
            if let Some(due) = deliveries::next_due(&mut db.clone(), run_id).await? {
                return Ok(Ending::Waits(due));
            }
            if deliveries::is_finished(&mut db.clone(), run_id).await? {
                let now = self.instance.clock.now();
                runs::command(db, run_id, Command::Finish, None, now).await?;
                self.contexts.lock().await.remove(&run_id);
                tracing::info!(run = run_id, sent = progress.sent.load(Ordering::Relaxed), "the run is done");
                return Ok(Ending::Done);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Ending::Elsewhere)
    }

    /// Writes the deliveries of a run's audience, block by block. False when it was stopped.
    async fn write_audience(&self, run: &mut Run, stop: &watch::Receiver<bool>) -> Result<bool, RunError> {
        let instance = &self.instance;
        let definition = definition_of(run)?;
        let now = run.scheduled_at.max(run.started_at.unwrap_or(run.scheduled_at));
        let rule = instance
            .audience(definition.audience.as_deref())
            .map_err(|errors| RunError::Refused(errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")))?;
        // One `now` for the whole audience: a block written after a restart means the same.
        let sql = segment::compile(&rule, instance.db.dialect(), now, 4);
        loop {
            if *stop.borrow() {
                return Ok(false);
            }
            let mut tx = instance.db.begin().await?;
            match runs::run(&mut tx, run.id).await? {
                Some(current) if current.state == RunState::Preparing => *run = current,
                _ => return Ok(false),
            }
            if !run.audience_done {
                let picked = runs::next_audience_block(&mut tx, run, &sql).await?;
                let now = instance.clock.now();
                deliveries::enqueue(&mut tx, run.id, &picked, run.scheduled_at, &instance.entropy, now).await?;
            }
            tx.commit().await?;
            if run.audience_done {
                tracing::info!(run = run.id, campaign = run.campaign, audience = run.audience, "audience written");
                runs::command(&instance.db, run.id, Command::AudienceWritten, None, instance.clock.now()).await?;
                return Ok(true);
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
        let ids = deliveries::sample_contacts(&mut instance.db.clone(), context.run.id, SAMPLE).await?;
        let people = contact::sql::by_ids(&mut instance.db.clone(), &instance.schema, &ids).await?;
        if people.is_empty() || context.run.audience < 1 {
            return Ok(());
        }
        let mut first_problem = None;
        for person in &people {
            match crate::delivery::engine::compose(&self.sender, context, person, 1, instance.clock.now()) {
                Ok(_) => return Ok(()),
                Err(problem) => drop(first_problem.get_or_insert(problem)),
            }
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
            _ = stop.changed() => {}
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
    let known = runs::manual_run(&mut instance.db.clone(), campaign).await?;
    match known {
        Some(run) if !run.state.is_final() && at.is_none() => return Ok((run, false)),
        Some(run) if run.state.is_final() && !again => return Ok((run, false)),
        _ => {}
    }
    let definition = Definition::new(&instance.config, config_campaign);
    let links = super::links_of(&definition, instance)?;
    for _ in 0..10 {
        let firing = runs::next_manual_firing(&mut instance.db.clone(), campaign).await?;
        let mut tx = instance.db.begin().await?;
        let topic_id = consent::ops::topic_id(&mut tx, &definition.topic, &instance.entropy, now).await?;
        let new = NewRun { definition: &definition, topic_id, firing: &firing, scheduled_at: at.unwrap_or(now), links: &links };
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
