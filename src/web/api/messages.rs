//! `POST /api/v1/messages` and `GET /api/v1/messages/{id}`.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::tokens::MESSAGES;
use super::{BODY_BYTES, Error, Json, client};
use crate::clock::Time;
use crate::config::diagnostics::did_you_mean;
use crate::contact::Address;
use crate::delivery::messages::{self, Accepted, Content, NewMessage, NotAccepted};
use crate::web::Shared;

/// The fields of a request.
const FIELDS: &[&str] = &["to", "template", "data", "subject", "html", "text", "locale", "expires_hours", "at"];

/// Takes one message. 201 with its status, or 200 with that of the message the same key made before.
pub(super) async fn accept(State(app): State<Shared>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Response, Error> {
    let client = client(&app, &headers, MESSAGES).await?;
    let object = object(&headers, body)?;
    let mut new = read(&object)?;
    new.client = format!("api:{}", client.name);
    new.idempotency_key = key(&headers)?;
    let Some(intake) = &app.intake else { return Err(missing()) };
    let Accepted { id, created } = intake.accept(&new, app.clock.now()).await.map_err(refused)?;
    let status = messages::status(&mut app.db.clone(), id).await?.ok_or_else(missing)?;
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((code, [(LOCATION, format!("/api/v1/messages/{id}"))], Json(status.document())).into_response())
}

/// Where a message is. A client sees its own.
pub(super) async fn show(State(app): State<Shared>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, Error> {
    let client = client(&app, &headers, MESSAGES).await?;
    let id = id.parse().map_err(|_| missing())?;
    let status = messages::status(&mut app.db.clone(), id).await?.ok_or_else(missing)?;
    if status.client != format!("api:{}", client.name) {
        return Err(missing());
    }
    Ok(Json(status.document()).into_response())
}

fn missing() -> Error {
    Error::new(StatusCode::NOT_FOUND, "not_found", "you have no message with this id").hint("use the `id` of the answer to your POST")
}

fn refused(error: NotAccepted) -> Error {
    let message = error.to_string();
    let unprocessable = |code| Error::new(StatusCode::UNPROCESSABLE_ENTITY, code, message.clone());
    match error {
        NotAccepted::Conflict { id } => Error::new(StatusCode::CONFLICT, "conflict", message)
            .hint(format!("message {id} has this Idempotency-Key and another content; use a new key for a new message")),
        NotAccepted::UnknownTemplate { hint, .. } => unprocessable("unknown_template").field("template").hint(hint),
        NotAccepted::Field { field, hint, .. } => unprocessable("invalid_field").field(field).hint(hint),
        NotAccepted::Render(_) => unprocessable("cannot_be_written").field("data").hint("send every field that the template prints"),
        NotAccepted::Db(error) => error.into(),
    }
}

/// The JSON object of a request.
fn object(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Map<String, Value>, Error> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "the body is not declared as JSON")
            .hint("send `Content-Type: application/json`"));
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the request is too large")
            .hint(format!("at most {BODY_BYTES} bytes are taken; put images on a web server and link to them")),
        status => Error::new(status, "unreadable", "the body cannot be read"),
    })?;
    let bad = |message: String| Error::new(StatusCode::BAD_REQUEST, "invalid_json", message);
    let value: Value = serde_json::from_slice(&body)
        .map_err(|error| bad(format!("the body is not JSON: {error}")).hint("send one JSON object in UTF-8, such as `{\"to\": \"..\"}`"))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(bad("the body is not a JSON object".to_owned()).hint("send `{\"to\": \"..\", \"template\": \"..\"}`")),
    }
}

/// The header that names the request.
fn key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        Error::new(StatusCode::BAD_REQUEST, "invalid_field", "the Idempotency-Key is not ASCII")
            .field("Idempotency-Key")
            .hint("a UUID makes a good one")
    })?;
    Ok(Some(text.to_owned()))
}

fn wrong(field: &str, message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(StatusCode::BAD_REQUEST, "invalid_field", message).field(field).hint(hint)
}

/// A request without its client and key.
fn read(object: &Map<String, Value>) -> Result<NewMessage, Error> {
    if let Some(unknown) = object.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let hint = match did_you_mean(unknown, FIELDS.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("fields are {}", FIELDS.join(", ")),
        };
        return Err(wrong(unknown, format!("there is no field `{unknown}`"), hint));
    }
    let to = text(object, "to")?.ok_or_else(|| wrong("to", "`to` is missing", "say whom it is for: one email address"))?;
    let to = Address::parse(to).map_err(|error| {
        Error::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", format!("`to` is not an email address: {error}"))
            .field("to")
            .hint("one address, without a name")
    })?;
    Ok(NewMessage {
        client: String::new(),
        idempotency_key: None,
        to,
        content: content(object)?,
        locale: text(object, "locale")?.map(str::to_owned),
        expires_hours: hours(object)?,
        at: at(object)?,
    })
}

fn content(object: &Map<String, Value>) -> Result<Content, Error> {
    let inline = ["subject", "html", "text"].into_iter().find(|field| given(object, field).is_some());
    match (text(object, "template")?, inline) {
        (Some(_), Some(field)) => {
            let hint = "a template brings its own subject and body: send `template` with `data`, or `subject` with `html` and `text`";
            Err(wrong(field, format!("`{field}` does not go with `template`"), hint))
        }
        (Some(name), None) => {
            let data = match given(object, "data") {
                None => Map::new(),
                Some(Value::Object(data)) => data.clone(),
                Some(other) => {
                    return Err(wrong("data", format!("`data` is {}", kind(other)), "send an object: `{\"order\": \"A-17\"}`"));
                }
            };
            Ok(Content::Template { name: name.to_owned(), data })
        }
        (None, Some(_)) => {
            if given(object, "data").is_some() {
                let hint = "what you write yourself is sent as it is; only a `template` has fields to fill in";
                return Err(wrong("data", "`data` does not go without `template`", hint));
            }
            let subject = text(object, "subject")?.ok_or_else(|| wrong("subject", "`subject` is missing", "say what it is about"))?;
            let part = |field| text(object, field).map(|part| part.map(str::to_owned));
            Ok(Content::Inline { subject: subject.to_owned(), html: part("html")?, text: part("text")? })
        }
        (None, None) => {
            let hint = "send `template` with `data`, or `subject` with `html`, `text` or both";
            Err(wrong("template", "the message has neither `template` nor `subject`", hint))
        }
    }
}

/// A field that is there; `null` counts as missing.
fn given<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|value| !value.is_null())
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, Error> {
    match given(object, field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(field, format!("`{field}` is {}", kind(other)), "send text in double quotes")),
    }
}

fn hours(object: &Map<String, Value>) -> Result<Option<u32>, Error> {
    let field = "expires_hours";
    let Some(value) = given(object, field) else { return Ok(None) };
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.map(Some).ok_or_else(|| wrong(field, format!("`{field}` is no whole number"), "send a number of hours, such as 24"))
}

fn at(object: &Map<String, Value>) -> Result<Option<Time>, Error> {
    let Some(value) = text(object, "at")? else { return Ok(None) };
    let hint = "send a time with its offset, such as `2026-12-01T09:00:00+08:00`";
    Time::parse(value).map(Some).map_err(|error| wrong("at", format!("`at` is no time: {error}"), hint))
}

/// A value's type, for people.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
