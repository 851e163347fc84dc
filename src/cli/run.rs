//! `optin run list|show|pause|resume|cancel|release-doubtful`

use serde_json::json;

use super::Context;
use super::out::{Failure, Outcome, counted, duration, refused, shown, table};
use crate::campaign::ops::{self as runs, CommandError};
use crate::campaign::{Command, Run};
use crate::delivery::{self, State};
use crate::instance::Instance;
use crate::report::{RunLive, run_live, run_summary};

/// Runs listed at most.
const LISTED: i64 = 200;
/// Doubtful and failed mails listed at most, of each kind.
const NAMED: i64 = 1_000;

/// What was sent, and what is being sent.
#[derive(Debug, clap::Args)]
pub struct RunCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Runs, newest first.
    #[command(after_help = "Examples:\n  optin run list\n  optin run list --campaign weekly --json")]
    List {
        /// Of this campaign only.
        #[arg(long)]
        campaign: Option<String>,
    },
    /// One run: counts, and every mail that is in doubt, bounced or failed, by name.
    #[command(after_help = "Example (`optin run list` shows the ids):\n  optin run show 382929593939529831")]
    Show {
        /// Its id.
        run: i64,
    },
    /// Stop for now; noticed within a second, also by other nodes.
    #[command(after_help = "Example (`optin run list` shows the ids):\n  optin run pause 382929593939529831")]
    Pause {
        /// Its id.
        run: i64,
    },
    /// Go on.
    #[command(after_help = "Example (`optin run list` shows the ids):\n  optin run resume 382929593939529831")]
    Resume {
        /// Its id.
        run: i64,
    },
    /// End it; what has not left stays unsent.
    #[command(after_help = "Example (`optin run list` shows the ids):\n  optin run cancel 382929593939529831")]
    Cancel {
        /// Its id.
        run: i64,
    },
    /// Settle the mails whose SMTP reply was pending at a crash.
    #[command(after_help = "Without an option they are sent again, with the same Message-ID.\n\n\
        Examples:\n  optin run release-doubtful 382929593939529831\n  optin run release-doubtful 382929593939529831 --as-sent")]
    ReleaseDoubtful {
        /// Its id.
        run: i64,
        /// Take them as sent instead of sending them again.
        #[arg(long)]
        as_sent: bool,
    },
}

impl RunCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        match self.action {
            Action::List { campaign } => list(context, &instance, campaign.as_deref()).await,
            Action::Show { run } => show(context, &instance, run).await,
            Action::Pause { run } => command(context, &instance, run, Command::Pause).await,
            Action::Resume { run } => command(context, &instance, run, Command::Resume).await,
            Action::Cancel { run } => command(context, &instance, run, Command::Cancel).await,
            Action::ReleaseDoubtful { run, as_sent } => release(context, &instance, run, as_sent).await,
        }
    }
}

async fn list(context: &Context, instance: &Instance, campaign: Option<&str>) -> Outcome {
    let db = &mut instance.db.clone();
    let mut summaries = Vec::new();
    for run in runs::list(db, campaign, LISTED).await? {
        summaries.push(run_summary(db, &run).await?);
    }
    if context.out.json {
        return context.out.document(&json!({ "runs": summaries }));
    }
    let rows = summaries
        .into_iter()
        .map(|run| {
            vec![
                run.run.to_string(),
                run.campaign,
                run.state.to_owned(),
                shown(&run.scheduled_at),
                run.audience.to_string(),
                run.sent.to_string(),
            ]
        })
        .collect();
    context.out.data(table(&["run", "campaign", "state", "due (UTC)", "audience", "sent"], rows));
    Ok(())
}

async fn find(instance: &Instance, id: i64) -> Result<Run, Failure> {
    match runs::run(&mut instance.db.clone(), id).await? {
        Some(run) => Ok(run),
        None => refused(CommandError::Unknown(id).to_string()),
    }
}

async fn show(context: &Context, instance: &Instance, id: i64) -> Outcome {
    let run = find(instance, id).await?;
    let db = &mut instance.db.clone();
    let summary = run_summary(db, &run).await?;
    let mut named = serde_json::Map::new();
    let mut rows = Vec::new();
    for state in [State::InDoubt, State::Bounced, State::Failed, State::Deferred, State::Skipped] {
        let mut list = Vec::new();
        for (_, email, reason, reply, at) in delivery::ops::in_state(db, id, state, NAMED).await? {
            let email = email.unwrap_or_else(|| "(erased)".to_owned());
            rows.push(vec![state.as_str().to_owned(), email.clone(), reply.clone().or_else(|| reason.clone()).unwrap_or_default()]);
            list.push(json!({ "email": email, "reason": reason, "reply": reply, "at": at.to_string() }));
        }
        named.insert(format!("{}_mails", state.as_str()), json!(list));
    }
    let live = run_live(db, id, context.clock.now()).await?;
    if context.out.json {
        let mut document = serde_json::to_value(&summary)?;
        if let (Some(object), serde_json::Value::Object(live)) = (document.as_object_mut(), serde_json::to_value(&live)?) {
            object.extend(live);
            object.extend(named);
            object.insert("definition_hash".to_owned(), json!(run.definition_hash));
        }
        return context.out.document(&document);
    }
    context.out.data(format!(
        "{} (run {}): {}\n  audience {}, sent {}, due {}, deferred {}, bounced {}, failed {}, in doubt {}, skipped {}",
        summary.campaign,
        summary.run,
        summary.state,
        summary.audience,
        summary.sent,
        summary.due,
        summary.deferred,
        summary.bounced,
        summary.failed,
        summary.in_doubt,
        summary.skipped.values().sum::<i64>()
    ));
    if let Some(reason) = &summary.reason {
        context.out.data(format!("  {reason}"));
    }
    show_live(context, &live);
    if !rows.is_empty() {
        context.out.data(format!("\n{}", table(&["state", "address", "why"], rows)));
    }
    Ok(())
}

/// How it leaves: rate, time left, providers, what waits.
fn show_live(context: &Context, live: &RunLive) {
    if live.nodes > 0 {
        let left = live.eta_seconds.map_or_else(String::new, |seconds| format!(", about {} left", duration(seconds)));
        context.out.data(format!("  {:.1} mails a second on {}{left}", live.per_second, counted(live.nodes as i64, "node")));
    }
    for waiting in &live.waiting {
        context.out.data(format!("  waiting: {}", waiting.text));
    }
    for (name, relay) in &live.relays {
        if let Some(problem) = &relay.problem {
            context.out.data(format!("  relay {name} is out of reach: {problem}"));
        }
    }
    if live.by_provider.len() > 1 || live.nodes > 0 {
        let count =
            |provider: &crate::report::ProviderLive, state: State| provider.states.get(state.as_str()).copied().unwrap_or(0).to_string();
        let rows = live.by_provider.iter().map(|provider| {
            let states = [State::Sent, State::Due, State::Deferred, State::Bounced].map(|state| count(provider, state));
            let mut row = vec![provider.provider.clone(), format!("{:.1}", provider.per_second)];
            row.extend(states);
            row
        });
        let headings = ["provider", "mails/s", "sent", "due", "deferred", "bounced"];
        context.out.data(format!("\n{}", table(&headings, rows.collect())));
    }
}

async fn command(context: &Context, instance: &Instance, id: i64, command: Command) -> Outcome {
    let state = match runs::command(&instance.db, id, command, None, context.clock.now()).await {
        Ok(state) => state,
        Err(CommandError::Db(error)) => return Err(error.into()),
        Err(error) => return refused(error.to_string()),
    };
    let run = find(instance, id).await?;
    if context.out.json {
        return context.out.document(&json!({ "run": id, "campaign": run.campaign, "state": state }));
    }
    context.out.data(format!("{} (run {id}) is {}", run.campaign, state.as_str()));
    Ok(())
}

async fn release(context: &Context, instance: &Instance, id: i64, as_sent: bool) -> Outcome {
    let run = find(instance, id).await?;
    // Together: mails that are due in a run that is done would wait for ever.
    let mut tx = instance.db.begin().await?;
    let released = delivery::ops::release_doubtful(&mut tx, id, !as_sent, context.clock.now()).await?;
    let mut state = run.state;
    if released > 0 && !as_sent && run.state == crate::campaign::RunState::Done {
        state = runs::command_in(&mut tx, id, Command::Reopen, None, context.clock.now()).await.map_err(anyhow::Error::from)?;
    }
    tx.commit().await?;
    if context.out.json {
        return context.out.document(&json!({ "run": id, "campaign": run.campaign, "state": state, "released": released }));
    }
    let what = if as_sent { "taken as sent" } else { "due again; `optin send` or `optin serve` sends them" };
    context.out.data(format!("{} of run {id}: {what}", counted(released as i64, "doubtful mail")));
    Ok(())
}
