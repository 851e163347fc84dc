//! Health: is the process alive, does the database answer.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;

use super::Shared;

/// A database slower than this is not ready: load balancers ask every few seconds.
const DATABASE_TIME: Duration = Duration::from_secs(2);

/// `GET /healthz`: 200 while the process serves.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: 200 when the database answers, else 503.
pub(super) async fn ready(State(app): State<Shared>) -> (StatusCode, &'static str) {
    let question = app.db.fetch_one("SELECT COUNT(*) FROM schema_migration", Vec::new());
    match tokio::time::timeout(DATABASE_TIME, question).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready: the database does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database is slow\n"),
    }
}
