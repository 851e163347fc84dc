//! `optin report CAMPAIGN`

use super::out::{Outcome, counted, table};
use super::{Context, refused};
use crate::campaign::ops as runs;
use crate::report::campaign_report;

/// A campaign in numbers. People and machines are told apart.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Opens and clicks by machines (link scanners, mail proxies) are counted apart.\n\nExamples:\n  optin report weekly\n  optin report weekly --run 123 --json"
)]
pub struct Report {
    /// The campaign.
    campaign: String,
    /// One run only.
    #[arg(long)]
    run: Option<i64>,
}

impl Report {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let db = &mut instance.db.clone();
        // A campaign whose file is gone still has its report.
        let known = runs::list(db, Some(&self.campaign), 1).await?;
        if known.is_empty() {
            super::known_campaign(&instance, &self.campaign)?;
        }
        let report = campaign_report(db, &self.campaign, self.run).await?;
        if let Some(run) = self.run
            && report.runs.is_empty()
        {
            return refused(format!(
                "`{}` has no run {run}\nhint: `optin run list --campaign {}` shows them",
                self.campaign, self.campaign
            ));
        }
        if context.out.json {
            return context.out.document(&report);
        }
        context.out.data(render(&report));
        Ok(())
    }
}

/// The report as a person reads it.
pub(super) fn render(report: &crate::report::CampaignReport) -> String {
    let percent = |count: i64, of: i64| if of > 0 { format!("{:.1} %", count as f64 * 100.0 / of as f64) } else { "-".to_owned() };
    let share = |count: i64| percent(count, report.delivered);
    // Of people who are not tracked nobody knows what they opened: they are no part of the whole.
    let share_of_tracked = |count: i64| percent(count, report.delivered - report.tracking.anonymous - report.tracking.none);
    let mut rows = vec![
        vec!["audience".to_owned(), report.audience.to_string(), String::new()],
        vec!["sent".to_owned(), report.sent.to_string(), String::new()],
    ];
    for (name, count) in
        [("deferred", report.deferred), ("bounced", report.bounced), ("failed", report.failed), ("in doubt", report.in_doubt)]
    {
        if count > 0 {
            rows.push(vec![name.to_owned(), count.to_string(), String::new()]);
        }
    }
    for (reason, count) in &report.skipped {
        rows.push(vec![format!("skipped: {reason}"), count.to_string(), String::new()]);
    }
    rows.extend([
        vec!["opened, people".to_owned(), report.opens.unique.to_string(), share_of_tracked(report.opens.unique)],
        vec!["opens by machines".to_owned(), report.opens.machine.to_string(), String::new()],
        vec!["opens nobody can tell".to_owned(), report.opens.unknowable.to_string(), String::new()],
        vec!["clicked, people".to_owned(), report.clicks.counts.unique.to_string(), share_of_tracked(report.clicks.counts.unique)],
        vec!["clicks by machines".to_owned(), report.clicks.counts.machine.to_string(), String::new()],
    ]);
    for (name, count) in [
        ("opens counted anonymously", report.opens.anonymous),
        ("clicks counted anonymously", report.clicks.counts.anonymous),
        ("sent, tracked anonymously", report.tracking.anonymous),
        ("sent, not tracked", report.tracking.none),
    ] {
        if count > 0 {
            rows.push(vec![name.to_owned(), count.to_string(), String::new()]);
        }
    }
    rows.push(vec!["unsubscribed".to_owned(), report.unsubscribed.to_string(), share(report.unsubscribed)]);
    for (reason, count) in &report.reasons {
        rows.push(vec![format!("  because: {}", reason.replace('_', " ")), count.to_string(), String::new()]);
    }
    rows.push(vec!["complained".to_owned(), report.complained.to_string(), share(report.complained)]);
    if report.runs.is_empty() {
        return format!("{} was not sent yet", report.campaign);
    }
    let mut out = format!("{} ({})\n", report.campaign, counted(report.runs.len() as i64, "run"));
    out.push_str(&table(&["", "number", "of delivered"], rows));
    if !report.clicks.by_link.is_empty() {
        let rows = report
            .clicks
            .by_link
            .iter()
            .map(|link| {
                vec![
                    link.name.clone(),
                    link.counts.human.to_string(),
                    link.counts.unique.to_string(),
                    link.counts.machine.to_string(),
                    link.url.clone(),
                ]
            })
            .collect();
        out.push_str(&format!("\n\n{}", table(&["link", "clicks", "people", "machines", "leads to"], rows)));
    }
    if !report.in_doubt_mails.is_empty() {
        let rows = report.in_doubt_mails.iter().map(|mail| {
            let address = mail.email.clone().unwrap_or_else(|| "(erased)".to_owned());
            vec![address, mail.run.to_string(), mail.reply.clone().unwrap_or_default()]
        });
        out.push_str(&format!(
            "\n\nIn doubt (`optin run release-doubtful RUN`):\n{}",
            table(&["address", "run", "what happened"], rows.collect())
        ));
    }
    out
}
