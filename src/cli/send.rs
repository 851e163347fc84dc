//! `optin send CAMPAIGN`

use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::watch;

use super::out::{Failure, Out, Outcome, shown};
use super::{Context, known_campaign};
use crate::campaign::ops as runs;
use crate::campaign::schedule::parse_local;
use crate::campaign::{Run, RunState};
use crate::clock::{SECOND, Time};
use crate::delivery::engine::RunStatus;
use crate::instance::Instance;
use crate::report::{RunSummary, run_summary};
use crate::worker::{RunError, Scope, Standing, Worker, start_run};

/// Sends a campaign now, in the foreground, to its end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Goes on with an unfinished run of the campaign. A finished run is not repeated\n\
    without --again. Exit code 1 where the run is not done yet (mails deferred, relay\n\
    down, paused) or could not start. Ctrl-C stops; the same command goes on.\n\n\
    Examples:\n  optin send weekly\n  optin send weekly --at 2026-12-01T09:00\n  optin send weekly --again --json")]
pub struct Send {
    /// The campaign.
    campaign: String,
    /// Not now, but at this time (in the campaign's time zone, or with an offset); `optin serve` sends it.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Start a new run although the last one is done.
    #[arg(long)]
    again: bool,
    /// Stay so many seconds for mails that were deferred and for a relay that is down; what is left
    /// then is sent by `optin serve`, or by the same command later.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u32,
}

impl Send {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance_logging("error").await?;
        known_campaign(&instance, &self.campaign)?;
        let at = self.at.as_deref().map(|text| start_time(&instance, &self.campaign, text)).transpose()?;
        let (run, new) = start_run(&instance, &self.campaign, self.again, at).await.map_err(failure)?;
        if new && at.is_some_and(|at| at > context.clock.now()) {
            context.out.say(format!(
                "Run {} is scheduled for {} UTC; `optin serve` sends it then.",
                run.id,
                shown(&run.scheduled_at.to_string())
            ));
            return finish(context, &instance, run.id).await;
        }
        if run.state.is_final() {
            context.out.say(format!("{} was sent already (run {}); `--again` starts a new run.", self.campaign, run.id));
            return finish(context, &instance, run.id).await;
        }
        if run.state == RunState::Paused {
            context.out.say(format!("Run {} is paused.\nhint: `optin run resume {}`", run.id, run.id));
            finish(context, &instance, run.id).await?;
            return Err(Failure::Refused(String::new()));
        }
        if !new {
            context.out.say(format!("Going on with run {}.", run.id));
        }
        let ended = drive(context, &instance, &run, self.wait).await;
        finish(context, &instance, run.id).await?;
        ended
    }
}

fn start_time(instance: &Instance, campaign: &str, text: &str) -> Result<Time, Failure> {
    let zone = instance.config.campaigns[campaign].schedule.as_ref().map_or("UTC", |schedule| schedule.timezone.value.as_str());
    let zone = jiff::tz::TimeZone::get(zone)?;
    parse_local(text, &zone)
        .map_err(|message| Failure::Failed(anyhow::anyhow!("{message}\nhint: write `2026-12-01T09:00` or `2026-12-01T09:00+08:00`")))
}

fn failure(error: RunError) -> Failure {
    match error {
        RunError::Refused(text) => Failure::Refused(text),
        other => Failure::Failed(other.into()),
    }
}

/// Sends until the run is done, or nothing more happens within the time we stay.
pub(super) async fn drive(context: &Context, instance: &Arc<Instance>, run: &Run, wait_seconds: u32) -> Outcome {
    let worker = Arc::new(Worker::start(instance.clone(), Scope::Run(run.id), context.stop.clone()).await.map_err(failure)?);
    let bar = context.out.bar(0, &run.campaign);
    let drawing = tokio::spawn(draw(context.out, bar.clone(), instance.clone(), run.id, worker.clone()));
    let outcome = drive_until(instance, &worker, run, context.stop.clone(), i64::from(wait_seconds) * SECOND).await;
    drawing.abort();
    let _ = drawing.await;
    bar.finish_and_clear();
    match Arc::try_unwrap(worker) {
        Ok(worker) => worker.stop().await.map_err(failure)?,
        Err(_) => tracing::warn!("the worker is still watched; its place is given up when its lease is over"),
    }
    match outcome {
        Ok(Left::Nothing) => Ok(()),
        Ok(Left::Signal) => Err(Failure::Refused("Stopped. The same command goes on where this one stopped.".to_owned())),
        Ok(Left::Ended(reason)) => {
            Err(Failure::Refused(reason.unwrap_or_else(|| "The run was paused, cancelled or ended by somebody else.".to_owned())))
        }
        Ok(Left::Held(due, waits)) => Err(Failure::Refused(format!(
            "Some mails wait until {} UTC at least: {waits}\nhint: `optin serve` sends them then, and so does the same command later",
            shown(&due.to_string())
        ))),
        Ok(Left::Later(due)) => Err(Failure::Refused(format!(
            "Some mails are deferred; the next try is due at {} UTC\nhint: `optin serve` tries them again, and so does the same command later",
            shown(&due.to_string())
        ))),
        Ok(Left::RelayDown(problem)) => Err(Failure::Refused(format!(
            "The relay is out of reach, the run waits and nobody was lost: {problem}\nhint: the same command goes on"
        ))),
        Err(error) => Err(failure(error)),
    }
}

/// What is left when the foreground run ends.
enum Left {
    Nothing,
    Signal,
    Ended(Option<String>),
    Later(Time),
    /// A limit or a provider lets nothing more go before this time.
    Held(Time, String),
    RelayDown(String),
}

/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A database that fails for longer than this ends the command; the run goes on with the next one.
const DATABASE_PATIENCE_MS: i64 = 5 * 60 * SECOND;

async fn drive_until(
    instance: &Arc<Instance>,
    worker: &Worker,
    run: &Run,
    mut stopped: watch::Receiver<bool>,
    patience_ms: i64,
) -> Result<Left, RunError> {
    let progress = worker.progress(run.id);
    let mut settled = progress.settled();
    let mut waiting_since = instance.clock.now();
    let mut failing_since = None;
    let mut looked_at: Option<Time> = None;
    loop {
        if *stopped.borrow() {
            return Ok(Left::Signal);
        }
        let now = instance.clock.now();
        if progress.settled() != settled {
            settled = progress.settled();
            waiting_since = now;
        }
        let look = async {
            worker.step().await?;
            worker.standing(run.id).await
        };
        let standing = match look.await {
            Ok(standing) => {
                failing_since = None;
                standing
            }
            // What passes by itself is waited for; a mistake is not.
            Err(RunError::Db(error)) if now.since(*failing_since.get_or_insert(now)) < DATABASE_PATIENCE_MS => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the database fails; the run waits");
                Standing::Busy
            }
            Err(error) => return Err(error),
        };
        match standing {
            Standing::Done => return Ok(Left::Nothing),
            Standing::Stopped => {
                let run = runs::run(&mut instance.db.clone(), run.id).await?;
                return Ok(Left::Ended(run.filter(|run| run.state == RunState::Failed).and_then(|run| run.reason)));
            }
            Standing::Waits(due) if due.since(waiting_since) > patience_ms => return Ok(Left::Later(due)),
            Standing::Held(due) if due.since(waiting_since) > patience_ms => {
                let status = worker.status().await;
                let waits = status.runs.get(&run.id).map(|run| run.waits.iter().map(ToString::to_string).collect::<Vec<_>>());
                return Ok(Left::Held(due, waits.unwrap_or_default().join("; ")));
            }
            Standing::Elsewhere if looked_at.is_none_or(|at| now.since(at) > SECOND) => {
                looked_at = Some(now);
                worker.recover().await?;
            }
            Standing::Busy | Standing::Waits(_) | Standing::Held(_) | Standing::Elsewhere => {}
        }
        if let Some((since, problem)) = worker.relay_problem().await
            && now.since(since) > patience_ms
        {
            return Ok(Left::RelayDown(problem));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }
}

async fn draw(out: Out, bar: ProgressBar, instance: Arc<Instance>, run_id: i64, worker: Arc<Worker>) {
    let progress = worker.progress(run_id);
    let mut said = None;
    let mut audience = 0;
    loop {
        if audience == 0
            && let Ok(Some(run)) = runs::run(&mut instance.db.clone(), run_id).await
            && run.audience > 0
        {
            audience = run.audience;
            bar.set_length(audience.unsigned_abs());
        }
        bar.set_position(progress.settled());
        let problem = worker.relay_problem().await.map(|(_, problem)| problem);
        // Without a bar a new problem is a line of its own.
        if !out.terminal && problem.is_some() && problem != said {
            out.say(format!("Waiting: {}", problem.as_deref().unwrap_or_default()));
            said.clone_from(&problem);
        }
        let status = worker.status().await;
        let line = status.runs.get(&run_id).map(|run| live_line(run, audience - progress.settled() as i64)).unwrap_or_default();
        bar.set_message(problem.map_or(line, |problem| format!("waiting: {problem}")));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The flow of a run in a few words: rate, the fastest providers, what waits.
fn live_line(run: &RunStatus, left: i64) -> String {
    let mut parts = vec![format!("{:.0}/s", run.per_second)];
    if run.per_second > 0.0 && left > 0 {
        parts.push(format!("{} left", super::out::duration((left as f64 / run.per_second) as i64)));
    }
    let mut providers: Vec<_> = run.per_second_by_provider.iter().collect();
    providers.sort_by(|a, b| b.1.total_cmp(a.1));
    parts.extend(providers.iter().take(3).map(|(provider, rate)| format!("{provider} {rate:.0}/s")));
    parts.extend(run.waits.iter().take(2).map(|wait| format!("waiting: {wait}")));
    parts.join(", ")
}

/// Prints where the run is.
async fn finish(context: &Context, instance: &Instance, run_id: i64) -> Outcome {
    let db = &mut instance.db.clone();
    let Some(run) = runs::run(db, run_id).await? else { return Err(Failure::Refused("the run is gone".to_owned())) };
    let summary = run_summary(db, &run).await?;
    if context.out.json { context.out.document(&summary) } else { print(context, &summary) }
}

fn print(context: &Context, summary: &RunSummary) -> Outcome {
    context.out.data(format!("{} (run {}): {}", summary.campaign, summary.run, summary.state));
    if let Some(reason) = &summary.reason {
        context.out.data(format!("  {reason}"));
    }
    for (name, count) in [
        ("audience", summary.audience),
        ("sent", summary.sent),
        ("still due", summary.due),
        ("deferred", summary.deferred),
        ("bounced", summary.bounced),
        ("failed", summary.failed),
        ("in doubt", summary.in_doubt),
    ] {
        if count > 0 || name == "audience" || name == "sent" {
            context.out.data(format!("  {name:<10} {count:>9}"));
        }
    }
    if summary.audience == 0 && summary.state == "done" {
        context
            .out
            .say("Nobody was picked: is anybody subscribed to its topic, and does the audience fit anybody? See `optin segment list`.");
    }
    for (reason, count) in &summary.skipped {
        context.out.data(format!("  {:<10} {count:>9}  ({reason})", "skipped"));
    }
    for (reason, count) in &summary.excluded {
        context.out.data(format!("  {:<10} {count:>9}  ({reason}: the rule fits, permission does not)", "left out"));
    }
    Ok(())
}
