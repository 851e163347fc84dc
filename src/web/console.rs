//! The report as a page. It needs no login because it is served only beside the development inbox,
//! on this machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};

use super::Shared;
use crate::campaign::ops as runs;
use crate::clock::{SECOND, Time};
use crate::instance::Instance;
use crate::report::{CampaignReport, campaign_report};

/// Runs looked at to find the campaigns that were sent.
const RUNS: i64 = 10_000;
/// How long a page is shown again while a run is under way, in milliseconds: its deliveries have to be counted, those
/// of runs that are over are not.
const KEPT_MS: i64 = 5 * SECOND;
/// Pages kept; more than one shop has campaigns under way.
const MAX_KEPT: usize = 100;

/// Pages made a moment ago, by title.
type Kept = Arc<Mutex<HashMap<String, (Time, String)>>>;

/// The routes.
pub(super) fn routes(instance: Arc<Instance>) -> Router<Shared> {
    Router::new()
        .route("/report", get(list))
        .route("/report/{campaign}", get(one))
        .layer(Extension(instance))
        .layer(Extension(Kept::default()))
}

#[derive(Template)]
#[template(path = "console/report.html")]
struct Page {
    title: String,
    reports: Vec<CampaignReport>,
    now: String,
}

impl Page {
    fn share(count: &i64, of: &i64) -> f64 {
        if *of > 0 { *count as f64 * 100.0 / *of as f64 } else { 0.0 }
    }

    /// Width of a bar, 0 to 100.
    fn width(count: &i64, of: &i64) -> String {
        format!("{:.1}", Self::share(count, of).min(100.0))
    }

    /// Orders; shares of one show a digit.
    fn orders(count: &f64) -> String {
        if count.fract() == 0.0 { format!("{count:.0}") } else { format!("{count:.1}") }
    }

    fn amount(amount: &f64) -> String {
        format!("{amount:.2}")
    }

    fn percent(count: &i64, of: &i64) -> String {
        if *of > 0 { format!("{:.1} %", Self::share(count, of)) } else { "–".to_owned() }
    }
}

async fn list(State(app): State<Shared>, Extension(instance): Extension<Arc<Instance>>, Extension(kept): Extension<Kept>) -> Response {
    let names = async {
        let mut names: Vec<String> = Vec::new();
        for run in runs::list(&mut app.db.clone(), None, RUNS).await? {
            if !names.contains(&run.campaign) {
                names.push(run.campaign);
            }
        }
        names.reverse();
        Ok::<_, crate::db::DbError>(names)
    };
    match names.await {
        Ok(names) => page(&instance, &kept, "Campaigns", names).await,
        Err(error) => failed(&error),
    }
}

async fn one(Extension(instance): Extension<Arc<Instance>>, Extension(kept): Extension<Kept>, Path(campaign): Path<String>) -> Response {
    let title = campaign.clone();
    page(&instance, &kept, &title, vec![campaign]).await
}

async fn page(instance: &Instance, kept: &Kept, title: &str, names: Vec<String>) -> Response {
    let now = instance.clock.now();
    let fresh = |made: &(Time, String)| (0..KEPT_MS).contains(&now.since(made.0));
    let known = kept.lock().unwrap_or_else(PoisonError::into_inner).get(title).filter(|made| fresh(made)).cloned();
    if let Some((_, html)) = known {
        return shown(html);
    }
    let mut reports = Vec::new();
    for name in names {
        match campaign_report(&mut instance.db.clone(), &instance.config.behaviour.currency, &name, None).await {
            Ok(report) if report.runs.is_empty() => return (StatusCode::NOT_FOUND, "nothing was sent under this name").into_response(),
            Ok(report) => reports.push(report),
            Err(error) => return failed(&error),
        }
    }
    let under_way = reports.iter().any(is_under_way);
    let said = now.timestamp().strftime("%Y-%m-%d %H:%M UTC").to_string();
    match (Page { title: title.to_owned(), reports, now: said }).render() {
        Ok(html) => {
            if under_way {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.retain(|_, made| fresh(made));
                if kept.len() < MAX_KEPT {
                    kept.insert(title.to_owned(), (now, html.clone()));
                }
            }
            shown(html)
        }
        Err(error) => failed(&error),
    }
}

/// Somebody still waits for their mail.
fn is_under_way(report: &CampaignReport) -> bool {
    let over = report.sent + report.bounced + report.failed + report.in_doubt + report.skipped.values().sum::<i64>();
    over < report.audience
}

fn shown(html: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-store")], html).into_response()
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Response {
    tracing::error!(error, "the report cannot be shown");
    (StatusCode::SERVICE_UNAVAILABLE, "the report cannot be read just now; try again").into_response()
}
