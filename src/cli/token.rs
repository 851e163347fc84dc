//! `optin token create|list|revoke`

use serde_json::json;

use super::Context;
use super::out::{Failure, Outcome, refused, shown, table};
use crate::web::api::tokens::{self, SCOPES};

/// Characters of a token's name.
const MAX_NAME_CHARS: usize = 64;

/// Tokens for programs that call the API.
#[derive(Debug, clap::Args)]
pub struct TokenCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token and print it, this once.
    #[command(after_help = "Scopes: `messages` sends transactional messages and asks how they fare; `subscriptions` subscribes and\n\
        withdraws people; `contacts` reads and changes contacts; `consent` records consent that was confirmed\n\
        elsewhere, also of people who had withdrawn; `events` records events, orders and refunds.\n\
        The name says who uses it; a successor of the same name is the same client to the API.\n\n\
        Example:\n  optin token create --scope messages --name shop")]
    Create {
        /// What it may do; may be repeated.
        #[arg(long, required = true)]
        scope: Vec<String>,
        /// Who uses it.
        #[arg(long)]
        name: String,
    },
    /// All tokens, newest first; not what they are, which nobody knows.
    #[command(after_help = "Example:\n  optin token list")]
    List,
    /// End a token, at once.
    #[command(after_help = "Example (`optin token list` shows the ids):\n  optin token revoke 382929593939529831")]
    Revoke {
        /// Its id.
        token: i64,
    },
}

impl TokenCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        match self.action {
            Action::Create { scope, name } => create(context, scope, &name).await,
            Action::List => list(context).await,
            Action::Revoke { token } => revoke(context, token).await,
        }
    }
}

async fn create(context: &Context, mut scopes: Vec<String>, name: &str) -> Outcome {
    scopes.sort();
    scopes.dedup();
    for scope in &scopes {
        if !SCOPES.contains(&scope.as_str()) {
            let hint = format!("scopes are {}", SCOPES.join(", "));
            return Err(Failure::Failed(anyhow::anyhow!("there is no scope `{scope}`\nhint: {hint}")));
        }
    }
    let name = name.trim();
    if name.is_empty() || name.chars().any(char::is_control) || name.chars().count() > MAX_NAME_CHARS {
        return Err(Failure::Failed(anyhow::anyhow!(
            "`{name}` cannot be the name of a token\nhint: one to {MAX_NAME_CHARS} characters that say who uses it"
        )));
    }
    let instance = context.instance().await?;
    let (id, token) = tokens::create(&instance.db, name, &scopes, &instance.entropy, context.clock.now()).await?;
    if context.out.json {
        return context.out.document(&json!({ "id": id.to_string(), "name": name, "scopes": scopes, "token": token }));
    }
    context.out.data(token);
    context.out.say("Keep it now: it is shown this once, and only its digest is stored.");
    Ok(())
}

async fn list(context: &Context) -> Outcome {
    let instance = context.instance().await?;
    let found = tokens::list(&mut instance.db.clone()).await?;
    if context.out.json {
        let documents: Vec<_> = found
            .iter()
            .map(|token| {
                json!({
                    "id": token.id.to_string(),
                    "name": token.name,
                    "scopes": token.scopes,
                    "created_at": token.created_at.to_string(),
                    "revoked_at": token.revoked_at.map(|at| at.to_string()),
                })
            })
            .collect();
        return context.out.document(&json!({ "tokens": documents }));
    }
    let rows = found
        .into_iter()
        .map(|token| {
            let revoked = token.revoked_at.map(|at| shown(&at.to_string())).unwrap_or_default();
            vec![token.id.to_string(), token.name, token.scopes.join(", "), shown(&token.created_at.to_string()), revoked]
        })
        .collect();
    context.out.data(table(&["token", "name", "scopes", "created (UTC)", "revoked (UTC)"], rows));
    Ok(())
}

async fn revoke(context: &Context, id: i64) -> Outcome {
    let instance = context.instance().await?;
    if !tokens::revoke(&instance.db, id, context.clock.now()).await? {
        return refused(format!("no token that works has the id {id}\nhint: `optin token list` shows them"));
    }
    if context.out.json {
        return context.out.document(&json!({ "id": id.to_string(), "revoked": true }));
    }
    context.out.data(format!("token {id} is revoked"));
    Ok(())
}
