//! `optin check`

use super::Context;
use super::out::{Failure, Outcome};
use crate::config::Problem;
use crate::instance;

/// Checks every file of the instance: keys, types, topics, segments, templates, schedules.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  optin check\n  optin --config shop/config check --json")]
pub struct Check {}

impl Check {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let found = instance::load_checked(&context.dir, &context.environment);
        let list: &[Problem] = found.as_ref().map_or_else(|problems| problems.list.as_slice(), |_| &[]);
        if context.out.json {
            context.out.document(&serde_json::json!({ "problems": list }))?;
        }
        match found {
            Ok(config) => {
                if !context.out.json {
                    context.out.data(format!(
                        "{} is fine: {} topics, {} segments, {} campaigns",
                        context.dir.display(),
                        config.topics.len(),
                        config.segments.len(),
                        config.campaigns.len()
                    ));
                }
                Ok(())
            }
            Err(problems) => {
                if !context.out.json {
                    context.out.data(problems.render(context.out.terminal).trim_end());
                    context.out.data(format!("{} problem{} found", problems.list.len(), if problems.list.len() == 1 { "" } else { "s" }));
                }
                Err(Failure::Refused(String::new()))
            }
        }
    }
}
