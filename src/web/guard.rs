//! What holds for every answer: headers that keep links and pages private, and a time limit.

use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// A request that takes longer, body included, is ended: an honest one takes milliseconds.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// Search engines keep away.
pub(super) const ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");

/// Runs a request within its time and adds the headers that no answer goes without.
pub(super) async fn every_answer(request: Request, next: Next) -> Response {
    let mut response = match tokio::time::timeout(REQUEST_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
    };
    let headers = response.headers_mut();
    // The address of a page is the permission to use it: it must not travel on in a Referer.
    headers.entry(REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    headers.entry(ROBOTS_TAG).or_insert(HeaderValue::from_static("noindex, nofollow"));
    response
}
