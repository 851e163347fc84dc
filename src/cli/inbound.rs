//! `optin inbound deliver < MAIL`

use std::io::Read;

use serde_json::json;

use super::Context;
use super::out::{Outcome, refused};
use crate::inbound::{Delivered, MAX_MAIL_BYTES, deliver};

/// Reads what came back by mail.
#[derive(Debug, clap::Args)]
pub struct InboundCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Reads one mail from standard input, for a pipe of your mail server. A request to unsubscribe, by
    /// the address in the mail's header or by a reply that says "unsubscribe", "stop", 退订 or 取消訂閱 ("unsubscribe
    /// all" for everything), is carried out before the command ends.
    #[command(after_help = "Exit code 1 where the mail is something else: nothing was done, keep it for a person.\n\n\
        Example, in /etc/aliases of the host that receives your replies:\n  \
        letters: \"|optin --config /etc/optin inbound deliver\", letters-people")]
    Deliver,
}

impl InboundCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let Action::Deliver = self.action;
        let instance = context.instance().await?;
        let mut mail = Vec::new();
        std::io::stdin().take(MAX_MAIL_BYTES as u64 + 1).read_to_end(&mut mail)?;
        if mail.len() > MAX_MAIL_BYTES {
            return refused(format!("the mail is larger than {} MiB; it was not read", MAX_MAIL_BYTES / 1024 / 1024));
        }
        let found = deliver(&instance.db, &instance.keys, &context.entropy, &mail, context.clock.now()).await?;
        let (kind, changed) = match found {
            Delivered::Unsubscribe(withdrawal) => ("unsubscribe", withdrawal.changed),
            Delivered::Other => ("other", false),
        };
        if context.out.json {
            context.out.document(&json!({ "kind": kind, "changed": changed }))?;
        }
        match found {
            Delivered::Unsubscribe(_) => Ok(()),
            Delivered::Other => refused("this mail holds no request to unsubscribe; nothing was done"),
        }
    }
}
