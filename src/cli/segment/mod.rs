//! `optin segment list|count|members|..`: a command a file, or a function here for the short ones.

mod explain;

use serde_json::json;

use super::Context;
use super::contact::fields;
use super::out::{Failure, Outcome, counted, table};
use crate::clock::Time;
use crate::instance::Instance;
use crate::segment::{self, Rule};

mod fmt;
mod schema;

/// Who a rule picks. Nobody is mailed.
#[derive(Debug, clap::Args)]
pub struct SegmentCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// How a rule is carried out and how large it is; with --email, why it picks somebody or not.
    #[command(
        after_help = "Examples:\n  optin segment explain taipei-regulars\n  optin segment explain \"vip and not opened(within: 6mo)\" --email mei@example.com --json"
    )]
    Explain(explain::Explain),
    /// Every segment of segments.toml with its size now.
    #[command(after_help = "Example:\n  optin segment list")]
    List,
    /// How many contacts a segment or an expression picks.
    #[command(
        after_help = "Examples:\n  optin segment count taipei-regulars\n  optin segment count \"city = 'Taipei' and clicked(within: 90d)\""
    )]
    Count {
        /// A segment's name or an expression.
        rule: String,
    },
    /// Who they are: their addresses, or with --json also what is known about them.
    #[command(
        after_help = "Examples:\n  optin segment members taipei-regulars\n  optin segment members \"vip and not opened(within: 6mo)\" --limit 20 --json"
    )]
    Members {
        /// A segment's name or an expression.
        rule: String,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Rules in one layout: long ones on several lines.
    #[command(after_help = "`and` and `or` begin lines, what is in parentheses stands in by two. Texts are never broken.\n\n\
        Examples:\n  optin segment fmt\n  optin segment fmt --write\n  optin segment fmt best-customers --check\n  \
        optin segment fmt \"vip   AND city='Taipei'\"")]
    Fmt(fmt::Fmt),
    /// What rules can say here: fields, calls, words and names, also for editors.
    #[command(after_help = "The language is explained in docs/segments.md, and the JSON document too.\n\n\
        Examples:\n  optin segment schema\n  optin segment schema --json > .optin-segments.json")]
    Schema,
}

impl SegmentCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let now = context.clock.now();
        match self.action {
            Action::Explain(explain) => explain.run(context, now).await,
            Action::List => list(context, now).await,
            Action::Count { rule } => count(context, &rule, now).await,
            Action::Members { rule, limit } => members(context, &rule, limit, now).await,
            Action::Fmt(fmt) => fmt.run(context),
            Action::Schema => schema::run(context),
        }
    }
}

async fn list(context: &Context, now: Time) -> Outcome {
    let instance = context.instance().await?;
    let mut segments = Vec::new();
    for (name, segment) in &instance.config.segments {
        let rule = checked(context, &instance, &segment.rule.value)?;
        let count = segment::ops::count(&instance.db, &rule, now).await?;
        segments.push((name.clone(), count, segment.rule.value.clone(), segment.description.clone()));
    }
    if context.out.json {
        let list: Vec<_> = segments
            .iter()
            .map(|(name, count, rule, description)| json!({ "segment": name, "count": count, "where": rule, "description": description }))
            .collect();
        return context.out.document(&json!({ "segments": list }));
    }
    let rows = segments.into_iter().map(|(name, count, rule, _)| vec![name, count.to_string(), rule]).collect();
    context.out.data(table(&["segment", "contacts", "where"], rows));
    Ok(())
}

async fn count(context: &Context, rule: &str, now: Time) -> Outcome {
    let instance = context.instance().await?;
    let count = segment::ops::count(&instance.db, &checked(context, &instance, rule)?, now).await?;
    if context.out.json {
        return context.out.document(&json!({ "count": count }));
    }
    context.out.data(count.to_string());
    Ok(())
}

async fn members(context: &Context, rule: &str, limit: u32, now: Time) -> Outcome {
    let instance = context.instance().await?;
    let rule = checked(context, &instance, rule)?;
    let members = segment::ops::members(&instance.db, &instance.schema, &rule, now, limit).await?;
    if context.out.json {
        let list: Vec<_> = members.iter().map(|contact| json!({ "email": contact.email, "attributes": fields(contact) })).collect();
        return context.out.document(&json!({ "members": list }));
    }
    for contact in members {
        context.out.data(contact.email);
    }
    Ok(())
}

/// A rule from the command line, or its mistakes with a caret.
fn checked(context: &Context, instance: &Instance, source: &str) -> Result<Rule, Failure> {
    segment::rule(source, &instance.catalog).map_err(|errors| {
        let message = format!("the expression has {}", counted(errors.len() as i64, "mistake"));
        context.out.problems(&segment::problems("expression", source, &errors), message)
    })
}
