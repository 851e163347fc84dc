//! `optin rights list|show|add|close` and `optin retention run`

use serde_json::{Value, json};

use super::out::{Failure, Outcome, counted, refused, shown, table};
use super::{Context, parse_address};
use crate::clock::Time;
use crate::contact;
use crate::rights::register::{self, NewRequest, Request};
use crate::rights::retention::{self, Housekeeping};
use crate::rights::{Kind, State, subject};

/// What people demand by their rights, and until when it must be answered.
#[derive(Debug, clap::Args)]
pub struct RightsCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    Access,
    Erasure,
    Rectification,
    Objection,
    Portability,
}

impl From<What> for Kind {
    fn from(what: What) -> Kind {
        match what {
            What::Access => Kind::Access,
            What::Erasure => Kind::Erasure,
            What::Rectification => Kind::Rectification,
            What::Objection => Kind::Objection,
            What::Portability => Kind::Portability,
        }
    }
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Demands that wait, the most urgent first.
    #[command(after_help = "With `--overdue`, exit code 1 where an answer is late: for a monitor.\n\n\
        Examples:\n  optin rights list\n  optin rights list --all --json\n  optin rights list --overdue")]
    List {
        /// Closed ones, too.
        #[arg(long, conflicts_with = "overdue")]
        all: bool,
        /// Only those whose answer is late.
        #[arg(long)]
        overdue: bool,
    },
    /// One demand.
    #[command(after_help = "Example (`optin rights list` shows the ids):\n  optin rights show 382929593939529831")]
    Show {
        /// Its id.
        request: i64,
    },
    /// Enter a demand that came by letter, mail or telephone.
    #[command(after_help = "Whoever asks must be the person: ask for proof only where you doubt it (GDPR 12(6)).\n\n\
        Examples:\n  optin rights add erasure mei@tea.example --note 'letter of 3 May'\n  \
        optin rights add access mei@tea.example --received 2026-05-03T09:00:00Z")]
    Add {
        /// What is demanded.
        kind: What,
        /// Whose data. Somebody we do not know has a right to hear that.
        email: String,
        /// When it came, where that was earlier: the answer is due from then.
        #[arg(long, value_name = "TIME", value_parser = Time::parse)]
        received: Option<Time>,
        /// Words to remember it by.
        #[arg(long)]
        note: Option<String>,
    },
    /// Say that a demand was answered.
    #[command(after_help = "`contact export` and `contact erase` close what they answer by themselves.\n\n\
        Examples:\n  optin rights close 382929593939529831 --note 'corrected, told by mail'\n  \
        optin rights close 382929593939529831 --refused --note 'asked for the third time this week (GDPR 12(5))'")]
    Close {
        /// Its id.
        request: i64,
        /// It was refused; the note says why.
        #[arg(long, requires = "note")]
        refused: bool,
        /// What was done.
        #[arg(long)]
        note: Option<String>,
    },
}

impl RightsCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        match self.action {
            Action::List { all, overdue } => list(context, all, overdue).await,
            Action::Show { request } => show(context, request).await,
            Action::Add { kind, email, received, note } => add(context, kind.into(), &email, received, note.as_deref()).await,
            Action::Close { request, refused, note } => close(context, request, refused, note.as_deref()).await,
        }
    }
}

fn document(request: &Request, now: Time) -> Value {
    json!({
        "id": request.id.to_string(),
        "kind": request.kind,
        "email": request.email,
        "subject": request.subject,
        "state": request.state,
        "source": request.source,
        "asked_at": request.asked_at.to_string(),
        "verified_at": request.verified_at.map(|time| time.to_string()),
        "due_at": request.due_at.to_string(),
        "overdue": request.is_overdue(now),
        "closed_at": request.closed_at.map(|time| time.to_string()),
        "note": request.note,
    })
}

async fn list(context: &Context, all: bool, overdue: bool) -> Outcome {
    let instance = context.instance().await?;
    let now = context.clock.now();
    let mut requests = register::list(&mut instance.db.clone(), all).await?;
    requests.retain(|request| !overdue || request.is_overdue(now));
    let late = requests.iter().filter(|request| request.is_overdue(now)).count();
    if context.out.json {
        let documents: Vec<Value> = requests.iter().map(|request| document(request, now)).collect();
        context.out.document(&json!({ "requests": documents, "overdue": late }))?;
    } else if requests.is_empty() {
        context.out.data(if overdue { "no answer is late" } else { "nothing is waiting" });
    } else {
        let row = |request: &Request| {
            let due = shown(&request.due_at.to_string());
            vec![
                request.id.to_string(),
                request.kind.as_str().to_owned(),
                request.email.clone().unwrap_or_else(|| format!("({}..)", request.subject.get(..8).unwrap_or_default())),
                request.state.as_str().to_owned(),
                shown(&request.asked_at.to_string()),
                if request.is_overdue(now) { format!("{due} OVERDUE") } else { due },
            ]
        };
        context.out.data(table(&["id", "kind", "who", "state", "asked (UTC)", "due (UTC)"], requests.iter().map(row).collect()));
    }
    if overdue && late > 0 {
        return refused(format!("{} not answered in time", counted(late as i64, "demand")));
    }
    Ok(())
}

async fn find(context: &Context, id: i64) -> Result<(std::sync::Arc<crate::instance::Instance>, Request), Failure> {
    let instance = context.instance().await?;
    match register::find(&mut instance.db.clone(), id).await? {
        Some(request) => Ok((instance, request)),
        None => refused(format!("the register has no demand {id}\nhint: `optin rights list --all` shows all of them")),
    }
}

async fn show(context: &Context, id: i64) -> Outcome {
    let (_, request) = find(context, id).await?;
    let document = document(&request, context.clock.now());
    if context.out.json {
        return context.out.document(&document);
    }
    let rows = document.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    context.out.data(table(&["field", "value"], rows.map(|(key, value)| vec![key.clone(), plain(value)]).collect()));
    Ok(())
}

async fn add(context: &Context, kind: Kind, email: &str, received: Option<Time>, note: Option<&str>) -> Outcome {
    let instance = context.instance().await?;
    let address = parse_address(email)?;
    let now = context.clock.now();
    if received.is_some_and(|received| received > now) {
        return Err(Failure::Failed(anyhow::anyhow!("`--received` lies in the future\nhint: leave it out for today")));
    }
    let known = contact::sql::by_email_key(&mut instance.db.clone(), &instance.schema, address.key()).await?;
    let new = NewRequest {
        id: instance.entropy.id(now),
        kind,
        contact_id: known.as_ref().map(|contact| contact.id),
        subject: subject(&instance.keys, address.key()),
        state: State::Open,
        source: "cli",
        asked_at: received.unwrap_or(now),
        days: instance.config.rights.days,
        note,
    };
    let mut tx = instance.db.begin().await?;
    register::add(&mut tx, &new, now).await?;
    tx.commit().await?;
    let Some(request) = register::find(&mut instance.db.clone(), new.id).await? else {
        return Err(Failure::Failed(anyhow::anyhow!("the demand {} is gone again: another process took it away", new.id)));
    };
    if context.out.json {
        return context.out.document(&document(&request, now));
    }
    let unknown = if known.is_none() { "; nobody here has that address, which is an answer too" } else { "" };
    context.out.data(format!("{}: {} until {} UTC{unknown}", new.id, kind.as_str(), shown(&request.due_at.to_string())));
    Ok(())
}

async fn close(context: &Context, id: i64, was_refused: bool, note: Option<&str>) -> Outcome {
    let (instance, request) = find(context, id).await?;
    let now = context.clock.now();
    if request.kind == Kind::Erasure && !was_refused && request.email.is_some() {
        return refused(format!(
            "the person of demand {id} is not erased\nhint: `optin contact erase ADDRESS --yes` erases them and closes it; `--refused --note ..` refuses it"
        ));
    }
    let mut tx = instance.db.begin().await?;
    let state = if was_refused { State::Refused } else { State::Done };
    let closed = register::close(&mut tx, id, state, note, now).await?;
    tx.commit().await?;
    if !closed {
        return refused(format!("demand {id} was closed before, as {}", request.state.as_str()));
    }
    let (_, request) = find(context, id).await?;
    if context.out.json {
        return context.out.document(&document(&request, now));
    }
    context.out.data(format!("{id}: {}", request.state.as_str()));
    Ok(())
}

/// What is forgotten by itself, by the rules of [retention].
#[derive(Debug, clap::Args)]
pub struct RetentionCommand {
    #[command(subcommand)]
    action: RetentionAction,
}

#[derive(Debug, clap::Subcommand)]
enum RetentionAction {
    /// Apply every rule now. `optin serve` does so once a day.
    #[command(after_help = "Examples:\n  optin retention run --dry-run\n  optin retention run --json")]
    Run {
        /// Only say what would go, with examples.
        #[arg(long)]
        dry_run: bool,
    },
}

impl RetentionCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let RetentionAction::Run { dry_run } = self.action;
        let instance = context.instance().await?;
        let kept = &instance.config.retention;
        let with = Housekeeping { db: &instance.db, schema: &instance.schema, keys: &instance.keys, entropy: &instance.entropy, kept };
        let found = retention::run(&with, dry_run, context.clock.now()).await?;
        let left_out = retention::contradiction(kept);
        if context.out.json {
            return context.out.document(&json!({ "dry_run": dry_run, "rules": found, "left_out": left_out }));
        }
        let rows = found.iter().map(|found| {
            let rule = serde_json::to_value(found.rule).ok().and_then(|rule| rule.as_str().map(str::to_owned)).unwrap_or_default();
            vec![rule, found.setting.to_owned(), shown(&found.before), found.count.to_string(), found.examples.join(", ")]
        });
        let count = if dry_run { "would go" } else { "gone" };
        context.out.data(table(&["rule", "setting", "older than (UTC)", count, "such as"], rows.collect()));
        if let Some(problem) = left_out {
            context.out.say(format!("left out: {problem}\nhint: keep hits for longer, or people"));
        }
        Ok(())
    }
}
