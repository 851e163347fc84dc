//! `optin check`

use super::Context;
use super::out::{Failure, Outcome, counted};
use crate::config::Problem;
use crate::instance;

/// Checks every file of the instance: keys, types, topics, segments, templates, schedules.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 where there are problems; warnings alone are fine. Nothing is written, no database is opened.\n\n\
    Examples:\n  optin check\n  optin --config shop check --json")]
pub struct Check {}

impl Check {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let found = instance::load_checked(&context.dir, &context.environment);
        let list: &[Problem] = found.as_ref().map_or_else(|problems| problems.list.as_slice(), |_| &[]);
        if context.out.json {
            let warnings = found.as_ref().map_or_else(|_| Vec::new(), instance::warnings);
            context.out.document(&serde_json::json!({ "problems": list, "warnings": warnings }))?;
        }
        match found {
            Ok(config) => {
                if !context.out.json {
                    for warning in instance::warnings(&config) {
                        // What a variable says has no place in a file.
                        let place = match (warning.file.display().to_string(), warning.line) {
                            (file, 0) if file.is_empty() => file,
                            (file, 0) => format!("{file}: "),
                            (file, line) => format!("{file}:{line}:{}: ", warning.column),
                        };
                        context.out.say(format!("warning: {place}{}\n  hint: {}", warning.message, warning.hint));
                    }
                    context.out.data(format!(
                        "{} is fine: {}, {}, {}, {}, {}",
                        context.dir.display(),
                        counted(config.topics.len() as i64, "topic"),
                        counted(config.forms.len() as i64, "form"),
                        counted(config.segments.len() as i64, "segment"),
                        counted(config.campaigns.len() as i64, "campaign"),
                        counted(config.messages.len() as i64, "message template")
                    ));
                }
                Ok(())
            }
            Err(problems) => {
                if !context.out.json {
                    context.out.data(problems.render(context.out.terminal).trim_end());
                    context.out.data(format!("\n{} found", counted(problems.list.len() as i64, "problem")));
                }
                Err(Failure::Refused(String::new()))
            }
        }
    }
}
