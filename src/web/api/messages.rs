//! `POST /api/v1/messages` and `GET /api/v1/messages/{id}`.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::body::{address, at, given, key, kind, known, object, text, wrong};
use super::tokens::MESSAGES;
use super::{Error, Json, client};
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

/// A request without its client and key.
fn read(object: &Map<String, Value>) -> Result<NewMessage, Error> {
    known(object, FIELDS)?;
    let to = address(object, "to")?;
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

fn hours(object: &Map<String, Value>) -> Result<Option<u32>, Error> {
    let field = "expires_hours";
    let Some(value) = given(object, field) else { return Ok(None) };
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.map(Some).ok_or_else(|| wrong(field, format!("`{field}` is no whole number"), "send a number of hours, such as 24"))
}
