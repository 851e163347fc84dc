//! `optin segment list|count|members|..`: a command a file, or a function here for the short ones.

use serde_json::json;

use super::Context;
use super::contact::fields;
use super::out::{Failure, Outcome, counted};
use crate::clock::Time;
use crate::instance::Instance;
use crate::segment::{self, Rule, frozen};

mod explain;
mod fmt;
mod history;
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
    /// Every segment of segments.toml with its size now, and over time.
    #[command(after_help = "`joined` and `left` are those of the last look at it; `optin serve` looks once a day.\n\n\
        Examples:\n  optin segment list\n  optin segment list --json")]
    List,
    /// Look at segments now: how many they pick, who came and who went since the last look.
    #[command(after_help = "The first look at a rule, and the first one after it was changed, starts anew: nobody joins or leaves.\n\n\
        Examples:\n  optin segment refresh\n  optin segment refresh taipei-regulars")]
    Refresh {
        /// Segments; all where none is named.
        names: Vec<String>,
    },
    /// Who came into a segment and who went, as its looks found it.
    #[command(after_help = "Examples:\n  optin segment changes taipei-regulars\n  \
        optin segment changes taipei-regulars --since 2026-12-01T00:00:00Z --limit 1000 --json")]
    Changes {
        /// The segment.
        name: String,
        /// Changes from this moment on (else: of the last 7 days).
        #[arg(long, value_name = "TIME", value_parser = Time::parse)]
        since: Option<Time>,
        /// At most so many, the newest first.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Write down whom a rule picks now, as a list that stays as it is.
    #[command(after_help = "Rules and audiences ask for the list with frozen('NAME').\n\n\
        Examples:\n  optin segment freeze taipei-regulars --as tasting-2026\n  \
        optin segment freeze \"vip and city = 'Taipei'\" --as tasting-2026")]
    Freeze {
        /// A segment's name or an expression.
        rule: String,
        /// The list's name.
        #[arg(long = "as", value_name = "LIST")]
        name: String,
    },
    /// All lists that were frozen.
    #[command(after_help = "Example:\n  optin segment lists")]
    Lists,
    /// Drop a frozen list that no segment and no campaign uses.
    #[command(after_help = "Example:\n  optin segment thaw tasting-2026")]
    Thaw {
        /// The list.
        list: String,
    },
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
            Action::List => history::list(context, now).await,
            Action::Refresh { names } => history::refresh(context, &names, now).await,
            Action::Changes { name, since, limit } => history::changes(context, &name, since, limit, now).await,
            Action::Freeze { rule, name } => history::freeze(context, &rule, &name, now).await,
            Action::Lists => history::lists(context).await,
            Action::Thaw { list } => history::thaw(context, &list).await,
            Action::Count { rule } => count(context, &rule, now).await,
            Action::Members { rule, limit } => members(context, &rule, limit, now).await,
            Action::Fmt(fmt) => fmt.run(context),
            Action::Schema => schema::run(context),
        }
    }
}

async fn count(context: &Context, rule: &str, now: Time) -> Outcome {
    let instance = context.instance().await?;
    let count = segment::ops::count(&instance.db, &checked(context, &instance, rule).await?, now).await?;
    if context.out.json {
        return context.out.document(&json!({ "count": count }));
    }
    context.out.data(count.to_string());
    Ok(())
}

async fn members(context: &Context, rule: &str, limit: u32, now: Time) -> Outcome {
    let instance = context.instance().await?;
    let rule = checked(context, &instance, rule).await?;
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

/// A rule from the command line, or its mistakes with a caret; its frozen lists are there.
async fn checked(context: &Context, instance: &Instance, source: &str) -> Result<Rule, Failure> {
    let rule = segment::rule(source, &instance.catalog).map_err(|errors| {
        let message = format!("the expression has {}", counted(errors.len() as i64, "mistake"));
        context.out.problems(&segment::problems("expression", source, &errors), message)
    })?;
    match frozen::missing(&mut instance.db.clone(), &rule).await? {
        Some(problem) => Err(Failure::Failed(anyhow::anyhow!(problem))),
        None => Ok(rule),
    }
}
