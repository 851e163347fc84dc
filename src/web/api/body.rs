//! Requests as JSON objects, read field by field.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::{BODY_BYTES, Error};
use crate::clock::Time;
use crate::config::diagnostics::did_you_mean;
use crate::contact::Address;

/// The JSON object of a request.
pub(super) fn object(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Map<String, Value>, Error> {
    match value(headers, body)? {
        Value::Object(object) => Ok(object),
        _ => Err(bad("the body is not a JSON object".to_owned()).hint("`/api/v1/openapi.json` shows what it holds")),
    }
}

/// The same, or a list alone, which then is the field `field`.
pub(super) fn batch(headers: &HeaderMap, body: Result<Bytes, BytesRejection>, field: &str) -> Result<Map<String, Value>, Error> {
    match value(headers, body)? {
        Value::Object(object) => Ok(object),
        list @ Value::Array(_) => Ok(Map::from_iter([(field.to_owned(), list)])),
        _ => Err(bad("the body is neither a JSON object nor a list".to_owned()).hint("`/api/v1/openapi.json` shows what it holds")),
    }
}

fn bad(message: String) -> Error {
    Error::new(StatusCode::BAD_REQUEST, "invalid_json", message)
}

fn value(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Value, Error> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "the body is not declared as JSON")
            .hint("send `Content-Type: application/json`"));
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the request is too large")
            .hint(format!("at most {BODY_BYTES} bytes are taken; send several requests, and put images on a web server")),
        status => Error::new(status, "unreadable", "the body cannot be read"),
    })?;
    serde_json::from_slice(&body).map_err(|error| bad(format!("the body is not JSON: {error}")).hint("send one JSON object in UTF-8"))
}

/// The header that names the request.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        Error::new(StatusCode::BAD_REQUEST, "invalid_field", "the Idempotency-Key is not ASCII")
            .field("Idempotency-Key")
            .hint("a UUID makes a good one")
    })?;
    Ok(Some(text.to_owned()))
}

/// One field is to blame.
pub(super) fn wrong(field: &str, message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(StatusCode::BAD_REQUEST, "invalid_field", message).field(field).hint(hint)
}

/// Refuses fields that nobody reads.
pub(super) fn known(object: &Map<String, Value>, fields: &[&str]) -> Result<(), Error> {
    let Some(unknown) = object.keys().find(|key| !fields.contains(&key.as_str())) else { return Ok(()) };
    let hint = match did_you_mean(unknown, fields.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("fields are {}", fields.join(", ")),
    };
    Err(wrong(unknown, format!("there is no field `{unknown}`"), hint))
}

/// The one address of a field.
pub(super) fn address(object: &Map<String, Value>, field: &str) -> Result<Address, Error> {
    let given =
        text(object, field)?.ok_or_else(|| wrong(field, format!("`{field}` is missing"), "say whom it is for: one email address"))?;
    Address::parse(given).map_err(|error| {
        Error::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", format!("`{field}` is not an email address: {error}"))
            .field(field)
            .hint("one address, without a name")
    })
}

/// A field that is there; `null` counts as missing.
pub(super) fn given<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|value| !value.is_null())
}

/// A text.
pub(super) fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, Error> {
    match given(object, field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(field, format!("`{field}` is {}", kind(other)), "send text in double quotes")),
    }
}

/// The moment of the field `at`.
pub(super) fn at(object: &Map<String, Value>) -> Result<Option<Time>, Error> {
    let Some(value) = text(object, "at")? else { return Ok(None) };
    let hint = "send a time with its offset, such as `2026-12-01T09:00:00+08:00`";
    Time::parse(value).map(Some).map_err(|error| wrong("at", format!("`at` is no time: {error}"), hint))
}

/// A value's type, for people.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
