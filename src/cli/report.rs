//! `optin report CAMPAIGN`

use super::out::{Outcome, counted, table};
use super::{Context, refused};
use crate::campaign::ops as runs;
use crate::clock::Time;
use crate::report::{By, RevenueRow, RevenueTable, campaign_report, revenue_table};

/// A campaign in numbers, or all of them side by side. People and machines are told apart.
#[derive(Debug, clap::Args)]
#[command(after_help = "Opens and clicks by machines (link scanners, mail proxies) are counted apart. Orders are shared among the\n\
    mails that were clicked before them as `[attribution]` says.\n\nExamples:\n  optin report weekly\n  \
    optin report weekly --run 123 --json\n  optin report\n  optin report --by segment --since 2026-11-01")]
pub struct Report {
    /// The campaign; none: all of them side by side.
    campaign: Option<String>,
    /// One run only.
    #[arg(long, requires = "campaign")]
    run: Option<i64>,
    /// What to break all campaigns down by.
    #[arg(long, value_enum, conflicts_with = "campaign")]
    by: Option<Breakdown>,
    /// Only orders and runs from then on.
    #[arg(long, value_name = "DATE", value_parser = date, conflicts_with = "campaign")]
    since: Option<Time>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Breakdown {
    /// Campaigns.
    Campaign,
    /// Links of campaigns.
    Link,
    /// Audiences of campaigns, as written in their files.
    Segment,
}

impl From<Breakdown> for By {
    fn from(by: Breakdown) -> By {
        match by {
            Breakdown::Campaign => By::Campaign,
            Breakdown::Link => By::Link,
            Breakdown::Segment => By::Segment,
        }
    }
}

fn date(text: &str) -> Result<Time, String> {
    let whole = if text.len() == "2026-11-01".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    Time::parse(&whole).map_err(|_| format!("`{text}` is no date; write `2026-11-01` or `2026-11-01T00:00:00+08:00`"))
}

impl Report {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        let db = &mut instance.db.clone();
        let currency = &instance.config.behaviour.currency;
        let Some(campaign) = &self.campaign else {
            let by = self.by.map_or(By::Campaign, By::from);
            let found = revenue_table(db, currency, by, self.since).await?;
            if context.out.json {
                return context.out.document(&found);
            }
            context.out.data(render_all(&found, by));
            return Ok(());
        };
        // A campaign whose file is gone still has its report.
        let known = runs::list(db, Some(campaign), 1).await?;
        if known.is_empty() {
            super::known_campaign(&instance, campaign)?;
        }
        let report = campaign_report(db, currency, campaign, self.run).await?;
        if let Some(run) = self.run
            && report.runs.is_empty()
        {
            return refused(format!("`{campaign}` has no run {run}\nhint: `optin run list --campaign {campaign}` shows them"));
        }
        if context.out.json {
            return context.out.document(&report);
        }
        context.out.data(render(&report));
        Ok(())
    }
}

/// An amount as people read it: `1234.50 EUR`.
fn money(amount: f64, currency: &str) -> String {
    format!("{amount:.2} {currency}")
}

/// Orders as people read them: shares of orders show a digit.
fn orders(count: f64) -> String {
    if count.fract() == 0.0 { format!("{count:.0}") } else { format!("{count:.1}") }
}

fn render_all(found: &RevenueTable, by: By) -> String {
    if found.rows.is_empty() {
        return match by {
            By::Link => "no order came of a link so far".to_owned(),
            By::Campaign | By::Segment => "nothing was sent yet".to_owned(),
        };
    }
    let head = match by {
        By::Campaign => ["campaign", "", "runs", "sent", "clicked, people", "orders", "revenue"],
        By::Link => ["link", "campaign", "runs", "sent", "clicked, people", "orders", "revenue"],
        By::Segment => ["segment", "", "runs", "sent", "clicked, people", "orders", "revenue"],
    };
    let line = |row: &RevenueRow, name: String, of: String| {
        let mut cells = vec![name, of];
        cells.extend([row.runs, row.sent, row.clicked].map(|count| count.to_string()));
        cells.extend([orders(row.conversions), money(row.revenue, &found.currency)]);
        cells
    };
    let mut rows: Vec<Vec<String>> = found
        .rows
        .iter()
        .map(|row| match by {
            By::Campaign => line(row, row.campaign.clone().unwrap_or_default(), String::new()),
            By::Segment => line(row, row.segment.clone().unwrap_or_default(), String::new()),
            By::Link => {
                let name = row.link.clone().or_else(|| row.url.clone()).unwrap_or_else(|| "(gone)".to_owned());
                line(row, name, row.campaign.clone().unwrap_or_default())
            }
        })
        .collect();
    rows.push(line(&found.total, "all".to_owned(), String::new()));
    let without_second = |row: Vec<String>| row.into_iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, cell)| cell).collect();
    match by {
        By::Link => table(&head, rows),
        By::Campaign | By::Segment => {
            let head: Vec<&str> = head.into_iter().filter(|cell| !cell.is_empty()).collect();
            table(&head, rows.into_iter().map(without_second).collect())
        }
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
    if report.conversions > 0.0 {
        rows.push(vec!["orders".to_owned(), orders(report.conversions), share(report.conversions.round() as i64)]);
        rows.push(vec!["revenue".to_owned(), money(report.revenue, &report.currency), String::new()]);
    }
    if report.runs.is_empty() {
        return format!("{} was not sent yet", report.campaign);
    }
    let mut out = format!("{} ({})\n", report.campaign, counted(report.runs.len() as i64, "run"));
    out.push_str(&table(&["", "number", "of delivered"], rows));
    let sold = report.conversions > 0.0;
    if sold && report.by_segment.len() > 1 {
        let rows = report.by_segment.iter().map(|row| {
            let mut cells = vec![row.segment.clone(), row.runs.to_string(), row.sent.to_string()];
            cells.extend([orders(row.conversions), money(row.revenue, &report.currency)]);
            cells
        });
        out.push_str(&format!("\n\n{}", table(&["segment", "runs", "sent", "orders", "revenue"], rows.collect())));
    }
    if !report.clicks.by_link.is_empty() {
        let rows = report
            .clicks
            .by_link
            .iter()
            .map(|link| {
                let counts = link.link.counts;
                let mut row = vec![link.link.name.clone()];
                row.extend([counts.human, counts.unique, counts.machine].map(|count| count.to_string()));
                if sold {
                    row.extend([orders(link.conversions), money(link.revenue, &report.currency)]);
                }
                row.push(link.link.url.clone());
                row
            })
            .collect();
        let mut head = vec!["link", "clicks", "people", "machines"];
        head.extend(if sold { &["orders", "revenue"][..] } else { &[] });
        head.push("leads to");
        out.push_str(&format!("\n\n{}", table(&head, rows)));
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
