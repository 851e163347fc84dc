//! `optin message send|show|list|release`

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::out::{Failure, Outcome, refused, shown, table};
use super::{Context, parse_address};
use crate::delivery::State;
use crate::delivery::messages::{self, Content, NewMessage, NotAccepted, Status};
use crate::delivery::ops::release_doubtful;
use crate::instance::Instance;

/// Messages listed at most.
const LISTED: i64 = 200;
/// Who asks, for idempotency keys.
const CLIENT: &str = "cli";

/// Transactional messages: one mail that one person waits for.
#[derive(Debug, clap::Args)]
pub struct MessageCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Queue a message; `optin serve` sends it.
    #[command(after_help = "A message needs no subscription. One to a suppressed address is skipped, and its state says so.\n\n\
        Examples:\n  optin message send --to mei@tea.example --template order-confirmation --data '{\"order\": \"A-17\", \"lines\": []}'\n  \
        optin message send --to mei@tea.example --template order-confirmation --data @order.json --idempotency-key order-A-17")]
    Send {
        /// For whom.
        #[arg(long, value_name = "ADDRESS")]
        to: String,
        /// A file of messages/, without .toml.
        #[arg(long)]
        template: String,
        /// What the template sees as `data`: a JSON object, or @FILE.
        #[arg(long, value_name = "JSON")]
        data: Option<String>,
        /// Repeating the command with the same key sends nothing twice.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Where one message is.
    #[command(after_help = "Example (`optin message list` shows the ids):\n  optin message show 382929593939529831 --json")]
    Show {
        /// Its id.
        message: i64,
    },
    /// The latest messages, newest first.
    #[command(after_help = "Example:\n  optin message list")]
    List,
    /// Settle a message whose SMTP reply was pending at a crash.
    #[command(after_help = "Without an option it is sent again, with the same Message-ID.\n\n\
        Examples:\n  optin message release 382929593939529831\n  optin message release 382929593939529831 --as-sent")]
    Release {
        /// Its id.
        message: i64,
        /// Take it as sent instead of sending it again.
        #[arg(long)]
        as_sent: bool,
    },
}

impl MessageCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        match self.action {
            Action::Send { to, template, data, idempotency_key } => {
                let data = data.map_or_else(|| Ok(Map::new()), |data| read_data(context, &data))?;
                let content = Content::Template { name: template, data };
                send(context, &instance, &to, content, idempotency_key).await
            }
            Action::Show { message } => {
                let status = find(&instance, message).await?;
                show(context, &status)
            }
            Action::List => list(context, &instance).await,
            Action::Release { message, as_sent } => release(context, &instance, message, as_sent).await,
        }
    }
}

fn read_data(context: &Context, data: &str) -> Result<Map<String, Value>, Failure> {
    let text = match data.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).map_err(|error| {
            Failure::Failed(anyhow::anyhow!("cannot read `{file}`: {error}\nhint: `--data @FILE` names a file of JSON"))
        })?,
        None => data.to_owned(),
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Failure::Failed(anyhow::anyhow!("`--data` is not a JSON object\nhint: write `{{\"order\": \"A-17\"}}`"))),
        Err(error) => {
            let hint =
                if context.out.terminal { "put it between single quotes, or into a file: `--data @FILE`" } else { "send a JSON object" };
            Err(Failure::Failed(anyhow::anyhow!("`--data` is not JSON: {error}\nhint: {hint}")))
        }
    }
}

async fn send(context: &Context, instance: &Arc<Instance>, to: &str, content: Content, idempotency_key: Option<String>) -> Outcome {
    let new = NewMessage {
        client: CLIENT.to_owned(),
        idempotency_key,
        to: parse_address(to)?,
        content,
        locale: None,
        expires_hours: None,
        at: None,
    };
    let accepted = instance.message_intake().accept(&new, context.clock.now()).await.map_err(|error| match error {
        NotAccepted::Conflict { id } => {
            Failure::Refused(format!("message {id} has this idempotency key and another content\nhint: use a new key for a new message"))
        }
        NotAccepted::UnknownTemplate { ref hint, .. } | NotAccepted::Field { ref hint, .. } => {
            Failure::Failed(anyhow::anyhow!("{error}\nhint: {hint}"))
        }
        NotAccepted::Render(message) => Failure::Failed(anyhow::anyhow!("{message}\nhint: `--data` brings what the template prints")),
        NotAccepted::Db(error) => error.into(),
    })?;
    let status = find(instance, accepted.id).await?;
    show(context, &status)
}

async fn find(instance: &Instance, id: i64) -> Result<Status, Failure> {
    match messages::status(&mut instance.db.clone(), id).await? {
        Some(status) => Ok(status),
        None => refused(format!("no message has the id {id}\nhint: `optin message list` shows them")),
    }
}

fn show(context: &Context, status: &Status) -> Outcome {
    if context.out.json {
        return context.out.document(&status.document());
    }
    let why = [&status.reason, &status.reply].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(": ");
    context.out.data(format!("message {} is {}{}", status.id, status.state_name(), if why.is_empty() { why } else { format!(" ({why})") }));
    Ok(())
}

async fn list(context: &Context, instance: &Instance) -> Outcome {
    let found = messages::latest(&mut instance.db.clone(), None, LISTED).await?;
    if context.out.json {
        return context.out.document(&json!({ "messages": found.iter().map(Status::document).collect::<Vec<_>>() }));
    }
    let rows = found
        .into_iter()
        .map(|status| {
            let state = status.state_name().to_owned();
            let to = status.to.unwrap_or_default();
            vec![status.id.to_string(), shown(&status.created_at.to_string()), to, status.template.unwrap_or_default(), state]
        })
        .collect();
    context.out.data(table(&["message", "accepted (UTC)", "to", "template", "state"], rows));
    Ok(())
}

async fn release(context: &Context, instance: &Instance, id: i64, as_sent: bool) -> Outcome {
    let status = find(instance, id).await?;
    if status.state != State::InDoubt {
        return refused(format!("message {id} is {}, not in doubt\nhint: `optin message show {id}` tells more", status.state_name()));
    }
    // Its delivery's run is the message itself.
    let mut tx = instance.db.begin().await?;
    release_doubtful(&mut tx, id, !as_sent, context.clock.now()).await?;
    tx.commit().await?;
    show(context, &find(instance, id).await?)
}
