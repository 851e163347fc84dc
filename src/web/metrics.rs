//! `GET /metrics`: counts for Prometheus, in its text format 0.0.4.
//!
//! It is for operators, who scrape it from beside the program: only peers on this machine and in
//! private networks get an answer, and never through a proxy, whose outer side would be the world. Who
//! watches from elsewhere lets a local agent forward it. A token would be one more secret to keep for
//! numbers that name nobody: no address and no person stands here.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::Mutex;

use super::visitor::{Peer, Visitor};
use super::{Shared, public};
use crate::args;
use crate::clock::{SECOND, Time};
use crate::db::{Connection as _, Db, DbError, Dialect, Row};
use crate::delivery::engine::Status;
use crate::tracking::Figures;

/// Counts stand for so long: scrapers ask every 15 seconds or so.
const KEPT_MS: i64 = 5 * SECOND;
/// Counting takes at most this share of the time, however often somebody asks: one part in so many.
const SHARE: i64 = 20;
/// Numbers of a worker's own status that are passed on.
const MAX_STATUS_NUMBERS: usize = 50;

/// The last counts, shared by all who ask; whoever asks while they are being made waits for them.
pub(super) struct Metrics {
    started_at: Time,
    last: Mutex<Option<Counted>>,
    /// What became of the requests of forms, by [`FormOutcome`].
    forms: [AtomicU64; FormOutcome::ALL.len()],
}

/// What became of a request of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormOutcome {
    /// Taken.
    Accepted,
    /// Sent back with mistakes, or to be pressed again.
    Returned,
    /// Fell into the trap for machines: answered like the others, nothing was done.
    Trapped,
    /// Asked for a proof.
    Challenged,
    /// Over a limit.
    Limited,
}

impl FormOutcome {
    const ALL: [(FormOutcome, &'static str); 5] = [
        (FormOutcome::Accepted, "accepted"),
        (FormOutcome::Returned, "returned"),
        (FormOutcome::Trapped, "trapped"),
        (FormOutcome::Challenged, "challenged"),
        (FormOutcome::Limited, "limited"),
    ];
}

struct Counted {
    text: String,
    good_until: Time,
}

impl Metrics {
    pub(super) fn new(started_at: Time) -> Self {
        Metrics { started_at, last: Mutex::new(None), forms: Default::default() }
    }

    /// Counts a request of a form.
    pub(super) fn form(&self, outcome: FormOutcome) {
        self.forms[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn forms(&self, text: &mut String) {
        family(text, "optin_form_requests_total", "counter", "Requests of subscription forms on this node since its start, by outcome.");
        for ((_, name), count) in FormOutcome::ALL.iter().zip(&self.forms) {
            sample(text, "optin_form_requests_total", &[("outcome", name)], count.load(Ordering::Relaxed));
        }
    }
}

/// `GET /metrics`
pub(super) async fn page(State(app): State<Shared>, request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    if !peer.is_some_and(|peer| may_ask(peer, request.headers())) {
        let (mut parts, _) = request.into_parts();
        return match Visitor::from_request_parts(&mut parts, &app).await {
            Ok(visitor) => public::not_found(State(app), visitor).await,
            Err(never) => match never {},
        };
    }
    let now = app.clock.now();
    let mut last = app.metrics.last.lock().await;
    let fresh = last.as_ref().filter(|counted| now < counted.good_until).map(|counted| counted.text.clone());
    let mut text = match fresh {
        Some(text) => text,
        None => match count(&app.db, now).await {
            Ok(text) => {
                let took_ms = app.clock.now().since(now);
                *last = Some(Counted { text: text.clone(), good_until: now.plus(KEPT_MS.max(took_ms.saturating_mul(SHARE))) });
                text
            }
            Err(error) => {
                tracing::warn!(%error, "no metrics: the database does not answer");
                return (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response();
            }
        },
    };
    drop(last);
    app.metrics.forms(&mut text);
    hits(&mut text, app.recorder.figures());
    process(&mut text, now.since(app.metrics.started_at));
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (CACHE_CONTROL, "no-store")], text).into_response()
}

fn may_ask(peer: IpAddr, headers: &HeaderMap) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name));
    let near = match peer.to_canonical() {
        IpAddr::V4(peer) => peer.is_loopback() || peer.is_private() || peer.is_link_local(),
        IpAddr::V6(peer) => peer.is_loopback() || peer.is_unique_local() || peer.is_unicast_link_local(),
    };
    near && !forwarded
}

/// Adds the head of a family.
fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Adds one line; values of labels are escaped.
fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(text, "{name}{labels} {value}");
}

/// A family with one line a row: the first columns are the labels' values, the last one is the number.
fn rows(text: &mut String, name: &str, help: &str, labels: &[&str], rows: &[Row]) -> Result<(), DbError> {
    family(text, name, "gauge", help);
    for row in rows {
        let values = (0..labels.len()).map(|at| row.get::<String>(at)).collect::<Result<Vec<_>, _>>()?;
        let pairs: Vec<(&str, &str)> = labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
        sample(text, name, &pairs, row.get::<i64>(labels.len())?);
    }
    Ok(())
}

/// Everything that the database knows, as of one moment.
async fn count(db: &Db, now: Time) -> Result<String, DbError> {
    let mut tx = db.begin_read().await?;
    let mut text = String::new();
    let lane = "CASE WHEN transactional THEN 'messages' ELSE 'campaigns' END";
    let found =
        tx.rows(&format!("SELECT {lane}, state, COUNT(*) FROM delivery GROUP BY transactional, state ORDER BY 1, 2"), args![]).await?;
    rows(&mut text, "optin_deliveries", "Mails by lane and state.", &["lane", "state"], &found)?;
    let found = tx
        .rows(
            &format!(
                "SELECT {lane}, COUNT(*) FROM delivery WHERE state IN ('due', 'deferred') AND due_at <= $1
                 GROUP BY transactional ORDER BY 1"
            ),
            args![now],
        )
        .await?;
    rows(&mut text, "optin_deliveries_waiting", "Mails that could leave now, by lane.", &["lane"], &found)?;
    let found = tx.rows("SELECT state, COUNT(*) FROM run GROUP BY state ORDER BY state", args![]).await?;
    rows(&mut text, "optin_runs", "Runs by state.", &["state"], &found)?;
    workers(&mut text, &tx.rows("SELECT name, lease_until, status FROM worker ORDER BY id", args![]).await?, now)?;
    let found = tx
        .rows(
            "SELECT relay, provider, (paused_until - $1) / 1000 FROM throttle WHERE paused_until > $1 ORDER BY relay, provider",
            args![now],
        )
        .await?;
    let help = "How long nothing goes to a provider that asked for a pause.";
    rows(&mut text, "optin_throttle_paused_seconds", help, &["relay", "provider"], &found)?;
    let found = tx.rows("SELECT relay, provider, per_hour FROM throttle WHERE per_hour > 0 ORDER BY relay, provider", args![]).await?;
    let help = "What a provider asked for, in mails an hour.";
    rows(&mut text, "optin_throttle_per_hour", help, &["relay", "provider"], &found)?;
    let found = tx.rows("SELECT b.name, b.used FROM bucket b WHERE b.day = (SELECT MAX(day) FROM bucket) ORDER BY b.name", args![]).await?;
    rows(&mut text, "optin_limit_used", "Mails counted against each limit on its latest day.", &["limit"], &found)?;
    let (open, overdue) = crate::rights::register::waiting(&mut tx, now).await?;
    for (name, help, value) in [
        ("optin_rights_open", "Demands of people that wait for an answer.", open),
        ("optin_rights_overdue", "Those of them whose answer is late.", overdue),
    ] {
        family(&mut text, name, "gauge", help);
        sample(&mut text, name, &[], value);
    }
    let size = match tx.engine() {
        Dialect::Sqlite => "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        Dialect::Postgres => "SELECT pg_database_size(current_database())",
    };
    for (name, kind, help, sql) in [
        ("optin_consent_events_total", "counter", "Entries of the consent ledger.", "SELECT COALESCE(MAX(seq), 0) FROM consent_event"),
        ("optin_hits_total", "counter", "Opens and clicks recorded.", "SELECT COUNT(*) FROM hit"),
        ("optin_journal_rows", "gauge", "Rows of the delivery journal that are not folded yet.", "SELECT COUNT(*) FROM handover"),
        ("optin_database_bytes", "gauge", "Size of the database.", size),
    ] {
        family(&mut text, name, kind, help);
        for row in tx.rows(sql, args![]).await? {
            sample(&mut text, name, &[], row.get::<i64>(0)?);
        }
    }
    tx.commit().await?;
    Ok(text)
}

fn workers(text: &mut String, found: &[Row], now: Time) -> Result<(), DbError> {
    family(text, "optin_worker_lease_seconds", "gauge", "Time until a worker's lease ends; below 0 it went silent.");
    let mut numbers = String::new();
    let (mut sessions, mut unreachable, mut rates) = (String::new(), String::new(), String::new());
    for row in found {
        let name: String = row.get(0)?;
        let lease_until: Time = row.get(1)?;
        sample(text, "optin_worker_lease_seconds", &[("worker", &name)], lease_until.since(now) as f64 / 1_000.0);
        // Written by the worker for whoever watches: what is no number is passed over.
        let status = row.get::<Option<String>>(2)?.and_then(|status| serde_json::from_str::<serde_json::Value>(&status).ok());
        let fields = status.as_ref().and_then(|status| status.as_object());
        let said = status.as_ref().and_then(|status| serde_json::from_value::<Status>(status.clone()).ok()).unwrap_or_default();
        for (relay, at) in &said.relays {
            let labels = |lane| [("worker", name.as_str()), ("relay", relay.as_str()), ("lane", lane)];
            sample(&mut sessions, "optin_relay_sessions", &labels("campaigns"), at.sessions as f64);
            sample(&mut sessions, "optin_relay_sessions", &labels("messages"), at.message_sessions as f64);
            let down = f64::from(u8::from(at.down_since.is_some()));
            sample(&mut unreachable, "optin_relay_down", &[("worker", &name), ("relay", relay)], down);
        }
        let per_second: f64 = said.runs.values().map(|run| run.per_second).sum();
        sample(&mut rates, "optin_mails_per_second", &[("worker", &name), ("lane", "campaigns")], per_second);
        sample(&mut rates, "optin_mails_per_second", &[("worker", &name), ("lane", "messages")], said.messages_per_second);
        for (key, value) in fields.into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_f64()?))).take(MAX_STATUS_NUMBERS) {
            sample(&mut numbers, "optin_worker_status", &[("worker", &name), ("value", key)], value);
        }
    }
    family(text, "optin_worker_status", "gauge", "What a worker says of itself, once a second.");
    text.push_str(&numbers);
    family(text, "optin_relay_sessions", "gauge", "Open SMTP sessions.");
    text.push_str(&sessions);
    family(text, "optin_relay_down", "gauge", "1 while a worker cannot reach a relay.");
    text.push_str(&unreachable);
    family(text, "optin_mails_per_second", "gauge", "Mails taken by relays, over the last ten seconds.");
    text.push_str(&rates);
    Ok(())
}

/// The way of opens and clicks into the database.
fn hits(text: &mut String, figures: Figures) {
    for (name, kind, help, value) in [
        ("optin_hits_logged_total", "counter", "Opens and clicks put into the log of this process.", figures.logged),
        ("optin_hits_folded_total", "counter", "Opens and clicks read from logs and settled in the database.", figures.folded),
        (
            "optin_hits_unlogged_total",
            "counter",
            "Opens and clicks that no log took, and that went to the database at once.",
            figures.unlogged,
        ),
        ("optin_hits_dropped_total", "counter", "Opens and clicks lost: neither log nor database took them.", figures.dropped),
        ("optin_hit_log_bytes", "gauge", "Bytes of logs that are not in the database yet.", figures.waiting_bytes),
    ] {
        family(text, name, kind, help);
        sample(text, name, &[], value);
    }
}

/// What this process knows of itself.
fn process(text: &mut String, up_ms: i64) {
    family(text, "optin_uptime_seconds", "gauge", "Time since this process began to serve.");
    sample(text, "optin_uptime_seconds", &[], up_ms as f64 / 1_000.0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    if let Some(kilobytes) = kilobytes {
        family(text, "optin_resident_memory_bytes", "gauge", "Memory of this process.");
        sample(text, "optin_resident_memory_bytes", &[], kilobytes * 1_024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_get_an_answer_and_never_through_a_proxy() {
        let none = HeaderMap::new();
        let ask = |peer: &str, headers: &HeaderMap| may_ask(peer.parse().expect("an address"), headers);
        for near in ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "::ffff:127.0.0.1", "fd00::1", "fe80::1"] {
            assert!(ask(near, &none), "{near}");
        }
        for far in ["203.0.113.9", "2001:db8::1", "172.32.0.1", "::ffff:203.0.113.9"] {
            assert!(!ask(far, &none), "{far}");
        }
        for name in ["x-forwarded-for", "forwarded", "x-real-ip", "via"] {
            let mut headers = HeaderMap::new();
            headers.insert(name, "127.0.0.1".parse().expect("a header"));
            assert!(!ask("127.0.0.1", &headers), "{name}");
        }
    }
}
