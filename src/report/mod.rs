//! Questions to all of it, read only.

mod engagement;
mod live;
mod revenue;

use std::collections::BTreeMap;

use crate::behaviour;
use crate::campaign::{self, Run};
use crate::clock::Time;
use crate::consent::{self, Tracking};
use crate::db::{Connection, DbError};
use crate::delivery::{self, State};
use crate::tracking;
use crate::tracking::engagement_ops::{self, Revenue};

pub use engagement::{EngagementShown, TopicEngagement, engagement};
pub use live::{ProviderLive, RunLive, Waiting, run_live};
pub use revenue::{By, RevenueRow, RevenueTable, revenue_table, segment_name};

use revenue::plain_number;

/// Doubtful mails named at most, for each run: a crash leaves as many as there were sessions.
const NAMED: i64 = 1_000;
/// Runs of one campaign that a report adds up.
const MAX_RUNS: i64 = 10_000;

/// A run in numbers. `audience` is the sum of all states and reasons below it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct RunSummary {
    /// Its id.
    pub run: i64,
    /// Its campaign.
    pub campaign: String,
    /// Where it is.
    pub state: &'static str,
    /// Why it waits or failed.
    pub reason: Option<String>,
    /// What fired it.
    pub firing: String,
    /// When it is or was due.
    pub scheduled_at: String,
    /// When it began.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
    /// People picked.
    pub audience: i64,
    /// Waiting for their turn.
    pub due: i64,
    /// Taken by the relay.
    pub sent: i64,
    /// Told "later".
    pub deferred: i64,
    /// Refused for good.
    pub bounced: i64,
    /// Could not be handed over.
    pub failed: i64,
    /// Reply pending at a crash.
    pub in_doubt: i64,
    /// Picked, but not mailed after all: reason to number.
    pub skipped: BTreeMap<String, i64>,
    /// Matched the rule, but were never picked for want of permission: reason to number.
    pub excluded: BTreeMap<String, i64>,
}

/// Sums up a run from its rows.
pub async fn run_summary(db: &mut impl Connection, run: &Run) -> Result<RunSummary, DbError> {
    let mut summary = RunSummary {
        run: run.id,
        campaign: run.campaign.clone(),
        state: run.state.as_str(),
        reason: run.reason.clone(),
        firing: run.firing.clone(),
        scheduled_at: run.scheduled_at.to_string(),
        started_at: run.started_at.map(|time| time.to_string()),
        finished_at: run.finished_at.map(|time| time.to_string()),
        audience: 0,
        due: 0,
        sent: 0,
        deferred: 0,
        bounced: 0,
        failed: 0,
        in_doubt: 0,
        skipped: BTreeMap::new(),
        excluded: serde_json::from_str(&run.excluded).unwrap_or_default(),
    };
    for (state, reason, count) in delivery::ops::counts(db, run.id).await? {
        summary.audience += count;
        match state {
            State::Due | State::Claimed => summary.due += count,
            State::Sent => summary.sent += count,
            State::Deferred => summary.deferred += count,
            State::Bounced => summary.bounced += count,
            State::Failed => summary.failed += count,
            State::InDoubt => summary.in_doubt += count,
            State::Skipped => *summary.skipped.entry(reason.unwrap_or_else(|| "other".to_owned())).or_default() += count,
        }
    }
    Ok(summary)
}

/// One campaign, or one run of it, in numbers.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct CampaignReport {
    /// Its name.
    pub campaign: String,
    /// The runs added up, newest first.
    pub runs: Vec<i64>,
    /// People picked.
    pub audience: i64,
    /// Taken by the relay.
    pub sent: i64,
    /// Taken, and not bounced since.
    pub delivered: i64,
    /// Told "later".
    pub deferred: i64,
    /// Refused for good.
    pub bounced: i64,
    /// Could not be handed over.
    pub failed: i64,
    /// Reply pending at a crash.
    pub in_doubt: i64,
    /// Each of those, by name.
    pub in_doubt_mails: Vec<Doubtful>,
    /// Picked, but not mailed after all: reason to number.
    pub skipped: BTreeMap<String, i64>,
    /// Spam complaints.
    pub complained: i64,
    /// Withdrawals that came through a mail of these runs.
    pub unsubscribed: i64,
    /// What people said when they left, where they did: reason to number.
    pub reasons: BTreeMap<String, i64>,
    /// Sent mails whose opens and clicks are recorded less than in full, or not at all.
    pub tracking: TrackedLess,
    /// Image loads, judged human, machine or unknowable.
    pub opens: tracking::ops::Counts,
    /// Followed links.
    pub clicks: Clicks,
    /// Orders that came of it; an order may be shared by several mails.
    #[serde(serialize_with = "plain_number")]
    pub conversions: f64,
    /// Their worth, less what was refunded.
    #[serde(serialize_with = "plain_number")]
    pub revenue: f64,
    /// In which currency.
    pub currency: String,
    /// The same by audience of the runs.
    pub by_segment: Vec<SegmentRevenue>,
    /// Arms of an experiment; empty where there was none.
    pub variants: Vec<serde_json::Value>,
    /// The arm that got nothing; empty where there was none.
    pub holdout: serde_json::Map<String, serde_json::Value>,
}

/// Sent mails of people who are not tracked in full: shares of opens and clicks are of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct TrackedLess {
    /// Their hits are counted, without a trace of whose they are.
    pub anonymous: i64,
    /// No image, plain links.
    pub none: i64,
}

/// A mail that may or may not have arrived.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Doubtful {
    /// Its run: what `run release-doubtful` takes.
    pub run: i64,
    /// The address, unless the contact was erased.
    pub email: Option<String>,
    /// What happened.
    pub reply: Option<String>,
    /// When.
    pub at: String,
}

/// Followed links of a campaign.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Clicks {
    /// All links together.
    #[serde(flatten)]
    pub counts: tracking::ops::Counts,
    /// Each link.
    pub by_link: Vec<LinkReport>,
}

/// A link of a campaign, and what came of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LinkReport {
    /// Its clicks.
    #[serde(flatten)]
    pub link: tracking::ops::LinkCounts,
    /// Orders.
    #[serde(serialize_with = "plain_number")]
    pub conversions: f64,
    /// Their worth.
    #[serde(serialize_with = "plain_number")]
    pub revenue: f64,
}

/// Runs to one audience, and what came of them.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct SegmentRevenue {
    /// The audience as written in the campaign's file when it ran.
    pub segment: String,
    /// How many.
    pub runs: i64,
    /// Mails taken by the relay.
    pub sent: i64,
    /// Orders.
    #[serde(serialize_with = "plain_number")]
    pub conversions: f64,
    /// Their worth.
    #[serde(serialize_with = "plain_number")]
    pub revenue: f64,
}

/// Adds up the runs of a campaign. `unique` people are counted per run, as each run mails anew.
pub async fn campaign_report(
    db: &mut impl Connection,
    currency: &str,
    name: &str,
    only_run: Option<i64>,
) -> Result<CampaignReport, DbError> {
    let mut report = CampaignReport { campaign: name.to_owned(), currency: currency.to_owned(), ..CampaignReport::default() };
    let mut all = Revenue::default();
    let mut segments: BTreeMap<String, (SegmentRevenue, Revenue)> = BTreeMap::new();
    let mut links: Vec<(tracking::ops::LinkCounts, Revenue)> = Vec::new();
    let runs = campaign::ops::list(db, Some(name), MAX_RUNS).await?;
    for run in runs.iter().filter(|run| only_run.is_none_or(|id| id == run.id)) {
        let summary = run_summary(db, run).await?;
        let hits = tracking::ops::counts(db, run.id).await?;
        report.runs.push(run.id);
        report.audience += summary.audience;
        report.sent += summary.sent;
        report.deferred += summary.deferred;
        report.bounced += summary.bounced;
        report.failed += summary.failed;
        report.in_doubt += summary.in_doubt;
        if summary.in_doubt > 0 {
            let doubtful = delivery::ops::in_state(db, run.id, State::InDoubt, NAMED).await?;
            report.in_doubt_mails.extend(doubtful.into_iter().map(|(_, email, _, reply, at)| Doubtful {
                run: run.id,
                email,
                reply,
                at: at.to_string(),
            }));
        }
        for (reason, count) in summary.skipped {
            *report.skipped.entry(reason).or_default() += count;
        }
        report.unsubscribed += hits.unsubscribed;
        for (reason, count) in consent::reasons::counts(db, run.id).await? {
            *report.reasons.entry(reason).or_default() += count;
        }
        for (tracking, count) in delivery::ops::tracked_less(db, run.id).await? {
            match Tracking::from_stored(&tracking) {
                Some(Tracking::Anonymous) => report.tracking.anonymous += count,
                Some(Tracking::None) => report.tracking.none += count,
                Some(Tracking::Full) | None => {}
            }
        }
        add(&mut report.opens, &hits.opens);
        add(&mut report.clicks.counts, &hits.clicks);
        let mut revenue = engagement_ops::revenue(db, run.id, None).await?;
        let (segment, of_segment) = segments.entry(revenue::audience_of(&run.definition)).or_default();
        (segment.runs, segment.sent) = (segment.runs + 1, segment.sent + summary.sent);
        for more in revenue.values() {
            all.add(*more);
            of_segment.add(*more);
        }
        for link in hits.by_link {
            let more = revenue.remove(&link.position).unwrap_or_default();
            match links.iter_mut().find(|(known, _)| known.position == link.position && known.url == link.url) {
                Some((known, revenue)) => {
                    add(&mut known.counts, &link.counts);
                    revenue.add(more);
                }
                None => links.push((link, more)),
            }
        }
    }
    report.delivered = report.sent;
    (report.conversions, report.revenue) = (all.orders(), all.units());
    report.clicks.by_link =
        links.into_iter().map(|(link, revenue)| LinkReport { link, conversions: revenue.orders(), revenue: revenue.units() }).collect();
    report.by_segment = segments
        .into_iter()
        .map(|(segment, (row, revenue))| SegmentRevenue { segment, conversions: revenue.orders(), revenue: revenue.units(), ..row })
        .collect();
    Ok(report)
}

fn add(total: &mut tracking::ops::Counts, more: &tracking::ops::Counts) {
    total.human += more.human;
    total.machine += more.machine;
    total.unknowable += more.unknowable;
    total.unique += more.unique;
    total.anonymous += more.anonymous;
}

/// What happened to a person lately, newest first.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Recent {
    /// When.
    pub at: String,
    /// `sent`, `bounced`, `open`, `click`, `order`, a kind of events, and so on.
    pub what: String,
    /// Which campaign, or which template of messages; empty for what was done outside mail.
    pub campaign: String,
    /// Reason, reply or verdict; the worth of an order, the properties of an event.
    pub detail: Option<String>,
}

/// A person's latest deliveries, hits, orders and events.
pub async fn recent(db: &mut impl Connection, contact_id: i64, limit: i64) -> Result<Vec<Recent>, DbError> {
    let mut found: Vec<(Time, Recent)> = Vec::new();
    for (campaign, state, reason, reply, at) in delivery::ops::of_contact(db, contact_id, limit).await? {
        found.push((at, Recent { at: at.to_string(), what: state, campaign, detail: reply.or(reason) }));
    }
    for message in delivery::messages::latest(db, Some(contact_id), limit).await? {
        found.push((
            message.changed_at,
            Recent {
                at: message.changed_at.to_string(),
                what: message.state_name().to_owned(),
                campaign: message.template.unwrap_or_else(|| "message".to_owned()),
                detail: message.reply.or(message.reason),
            },
        ));
    }
    let hits = db
        .rows(
            "SELECT h.at, h.kind, r.campaign, h.verdict, l.url
             FROM hit h
             JOIN run r ON r.id = h.run_id
             LEFT JOIN run_link l ON l.run_id = h.run_id AND l.position = h.link
             WHERE h.contact_id = $1
             ORDER BY h.at DESC, h.id DESC
             LIMIT $2",
            crate::args![contact_id, limit],
        )
        .await?;
    for row in hits {
        let at: Time = row.get(0)?;
        let verdict: String = row.get(3)?;
        let detail = row.get::<Option<String>>(4)?.map_or(verdict.clone(), |url| format!("{verdict}, {url}"));
        found.push((at, Recent { at: at.to_string(), what: row.get(1)?, campaign: row.get(2)?, detail: Some(detail) }));
    }
    for latest in behaviour::person::latest(db, contact_id, limit).await? {
        found.push((latest.at, Recent { at: latest.at.to_string(), what: latest.what, campaign: String::new(), detail: latest.detail }));
    }
    found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    Ok(found.into_iter().take(limit as usize).map(|(_, recent)| recent).collect())
}
