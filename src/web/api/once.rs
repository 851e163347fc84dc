//! Requests with an `Idempotency-Key`: done once, answered alike each time.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::body::key;
use super::{Error, Json};
use crate::clock::Time;
use crate::consent::repeats::{self, Known};
use crate::db::Tx;

/// A request that is being done.
pub(super) struct Once {
    client: String,
    key: Option<String>,
}

/// What a key leads to.
pub(super) enum Begun {
    /// Do it, and end with [`Once::done`].
    New(Once),
    /// It was done: this is what was answered.
    Done(Response),
}

/// Begins a request in the transaction of its work. `what` names the address it came to: the same key and
/// body at another address is another request.
pub(super) async fn begin(
    tx: &mut Tx,
    client: &str,
    what: &str,
    headers: &HeaderMap,
    object: &Map<String, Value>,
    now: Time,
) -> Result<Begun, Error> {
    let once = Once { client: client.to_owned(), key: key(headers)? };
    let Some(key) = &once.key else { return Ok(Begun::New(once)) };
    if key.is_empty() || key.len() > repeats::MAX_KEY_BYTES {
        return Err(Error::new(StatusCode::BAD_REQUEST, "invalid_field", "the Idempotency-Key is empty or too long")
            .field("Idempotency-Key")
            .hint(format!("at most {} bytes; a UUID makes a good one", repeats::MAX_KEY_BYTES)));
    }
    let request = format!("{what} {}", Value::Object(object.clone()));
    let digest: String = Sha256::digest(request.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(match repeats::begin(tx, client, key, &digest, now).await? {
        Known::New => Begun::New(once),
        Known::Answered(status, answer) => {
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
            let mut response = (status, Json(serde_json::from_str(&answer).unwrap_or_default())).into_response();
            response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
            Begun::Done(response)
        }
        Known::Erased => {
            return Err(Error::new(StatusCode::GONE, "erased", "the person whom this request was about is erased; nothing was done again")
                .field("Idempotency-Key")
                .hint("this request is done: do not repeat it"));
        }
        Known::Other => {
            return Err(Error::new(StatusCode::CONFLICT, "conflict", "this Idempotency-Key named another request before")
                .field("Idempotency-Key")
                .hint("use a new key for a new request"));
        }
    })
}

impl Once {
    /// Keeps the answer about `contact_id`, commits, and answers.
    pub async fn done(self, mut tx: Tx, contact_id: i64, status: StatusCode, document: Value) -> Result<Response, Error> {
        if let Some(key) = &self.key {
            repeats::keep(&mut tx, &self.client, key, contact_id, i64::from(status.as_u16()), &document.to_string()).await?;
        }
        tx.commit().await?;
        Ok((status, Json(document)).into_response())
    }
}
