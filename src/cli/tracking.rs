//! `optin tracking judge|verify`

use serde_json::json;

use super::out::{Outcome, counted, refused, table};
use super::{Context, known_campaign};
use crate::campaign::ops as runs;
use crate::clock::Time;
use crate::rights::retention::Rule;
use crate::tracking::judge_again::{Scope, judge_again};
use crate::tracking::rollup_verify::{Verified, first_id_since, verify};

/// What came back by link: judge it again, and hold its sums against the rows.
#[derive(Debug, clap::Args)]
pub struct TrackingCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Judge all hits that are kept by the rules of today, human or machine.
    #[command(
        after_help = "Reports, segments and engagement follow. Hits that were put together (`compact_days`) stay as they are; of those \
        whose address and agent are forgotten (`client_days`) counts what was noted.\n\n\
        Examples:\n  optin tracking judge --dry-run\n  optin tracking judge --campaign weekly --since 2026-11-01T00:00:00Z"
    )]
    Judge {
        /// Only hits since then.
        #[arg(long, value_name = "TIME", value_parser = Time::parse)]
        since: Option<Time>,
        /// Only hits of this campaign's mails.
        #[arg(long)]
        campaign: Option<String>,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare the sums that reports show with the hits behind them.
    #[command(
        after_help = "Mails and runs older than `hit_days` are left out: of them only the sums are left. Exit code 1 where sums differ.\n\n\
        Examples:\n  optin tracking verify\n  optin tracking verify --repair"
    )]
    Verify {
        /// Set sums that differ to what the hits say.
        #[arg(long)]
        repair: bool,
    },
}

impl TrackingCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        match self.action {
            Action::Judge { since, campaign, dry_run } => judge(context, since, campaign.as_deref(), dry_run).await,
            Action::Verify { repair } => compare(context, repair).await,
        }
    }
}

async fn judge(context: &Context, since: Option<Time>, campaign: Option<&str>, dry_run: bool) -> Outcome {
    let instance = context.instance().await?;
    if let Some(campaign) = campaign
        // A campaign whose file is gone still has its hits.
        && runs::list(&mut instance.db.clone(), Some(campaign), 1).await?.is_empty()
    {
        known_campaign(&instance, campaign)?;
    }
    let machine_from = i64::from(instance.config.tracking.machine_from);
    let again = judge_again(&instance.db, machine_from, Scope { since, campaign }, dry_run, context.clock.now()).await?;
    if context.out.json {
        return context.out.document(&json!({
            "dry_run": dry_run, "judged": again.judged, "changed": again.changed, "turned": again.turned,
        }));
    }
    if !again.turned.is_empty() {
        let row = |turned: &crate::tracking::judge_again::TurnedCount| {
            vec![turned.kind.to_owned(), turned.from.to_owned(), turned.to.to_owned(), turned.hits.to_string()]
        };
        context.out.data(table(&["kind", "from", "to", "hits"], again.turned.iter().map(row).collect()));
    }
    let turned: u64 = again.turned.iter().map(|turned| turned.hits).sum();
    let would = if dry_run { " would be" } else { "" };
    context.out.data(format!(
        "{} judged by the rules of today: {turned}{would} taken for something else, {}{would} weighed otherwise",
        counted(again.judged as i64, "hit"),
        again.changed
    ));
    Ok(())
}

async fn compare(context: &Context, repair: bool) -> Outcome {
    let instance = context.instance().await?;
    let now = context.clock.now();
    let from = Rule::Hits.before(&instance.config.retention, now).map_or(1, first_id_since);
    let verified = verify(&instance.db, from, repair, now).await?;
    if context.out.json {
        context.out.document(&verified)?;
    } else {
        context.out.data(told(&verified));
    }
    if verified.differences > 0 && !repair {
        return refused(format!(
            "{} not what the hits say\nhint: `optin tracking verify --repair` sets them right; please report how it came about",
            counted(verified.differences as i64, "sum")
        ));
    }
    Ok(())
}

fn told(verified: &Verified) -> String {
    let compared =
        format!("compared {} of mails and {} of runs with the hits behind them", counted(verified.mails as i64, "sum"), verified.runs);
    let row = |difference: &crate::tracking::rollup_verify::Difference| {
        vec![
            difference.table.to_owned(),
            difference.id.to_string(),
            difference.link.to_string(),
            difference.found.clone(),
            difference.expected.clone(),
        ]
    };
    if verified.differences == 0 {
        return format!("{compared}: all agree");
    }
    let rows = verified.named.iter().map(row).collect();
    let done = if verified.repaired { "set right" } else { "differ" };
    format!("{}\n\n{compared}: {} {done}", table(&["table", "id", "link", "stands there", "the hits say"], rows), verified.differences)
}
