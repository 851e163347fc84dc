//! `POST /api/v1/contacts` and `GET /api/v1/contacts/{email or id}`.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::body::{address, given, kind, known, object, wrong};
use super::once::{Begun, begin};
use super::tokens::CONTACTS;
use super::{Error, Json, client, instance};
use crate::config::diagnostics::did_you_mean;
use crate::consent::ops;
use crate::contact::{self, Address, AttributeValue, BUILT_IN_FIELDS, Contact, Schema, field};
use crate::db::Tx;
use crate::instance::Instance;
use crate::web::Shared;

const FIELDS: &[&str] = &["email", "attributes"];

/// Makes a contact, or changes what is named of the one that is there. 201 or 200.
pub(super) async fn save(State(app): State<Shared>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Response, Error> {
    let client = client(&app, &headers, CONTACTS).await?;
    let instance = instance(&app)?;
    let object = object(&headers, body)?;
    known(&object, FIELDS)?;
    let address = address(&object, "email")?;
    let Attributes { set, cleared } = attributes(&instance.schema, &object)?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let once = match begin(&mut tx, &client.name, "contacts", &headers, &object, now).await? {
        Begun::New(once) => once,
        Begun::Done(response) => return Ok(response),
    };
    let values: Vec<(&str, AttributeValue)> = set.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let made = ops::make_known(&mut tx, &instance.schema, &instance.entropy, &instance.digests(), now, &address, &values).await?;
    let names: Vec<&str> = cleared.iter().map(String::as_str).collect();
    contact::ops::clear(&mut tx, &instance.schema, made.id, &names, now).await?;
    let contact = contact::sql::by_ids(&mut tx, &instance.schema, &[made.id]).await?.pop().ok_or_else(missing)?;
    let document = document(&mut tx, instance, &contact).await?;
    once.done(tx, made.id, if made.added { StatusCode::CREATED } else { StatusCode::OK }, document).await
}

/// What is known of a contact.
pub(super) async fn show(State(app): State<Shared>, headers: HeaderMap, Path(named): Path<String>) -> Result<Response, Error> {
    client(&app, &headers, CONTACTS).await?;
    let instance = instance(&app)?;
    let mut tx = app.db.begin_read().await?;
    let found = match (named.parse::<i64>(), Address::parse(&named)) {
        (Ok(id), _) => contact::sql::by_ids(&mut tx, &instance.schema, &[id]).await?.pop(),
        (_, Ok(address)) => contact::sql::by_email_key(&mut tx, &instance.schema, address.key()).await?,
        _ => None,
    };
    let document = document(&mut tx, instance, &found.ok_or_else(missing)?).await?;
    Ok(Json(document).into_response())
}

fn missing() -> Error {
    Error::new(StatusCode::NOT_FOUND, "not_found", "there is no such contact").hint("name it by its email address or its `id`")
}

/// A contact as the API shows it.
async fn document(tx: &mut Tx, instance: &Instance, contact: &Contact) -> Result<Value, Error> {
    let standings = ops::standings(tx, contact.id).await?;
    let suppressed = match Address::parse(&contact.email) {
        Ok(address) => ops::is_suppressed(tx, &instance.digests(), &address).await?,
        Err(_) => false,
    };
    let topics: Vec<Value> = standings
        .into_iter()
        .map(|(topic, standing, since)| json!({ "topic": topic, "standing": standing, "since": since.to_string() }))
        .collect();
    Ok(json!({
        "id": contact.id.to_string(),
        "email": contact.email,
        "attributes": field::all(contact),
        "topics": topics,
        "suppressed": suppressed,
    }))
}

/// The field `attributes` of a request.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub set: Vec<(String, AttributeValue)>,
    /// Those given as `null` or empty.
    pub cleared: Vec<String>,
}

/// Reads `attributes`: declared ones and built-in fields, by name.
pub(super) fn attributes(schema: &Schema, object: &Map<String, Value>) -> Result<Attributes, Error> {
    let mut out = Attributes::default();
    let Some(value) = given(object, "attributes") else { return Ok(out) };
    let Value::Object(fields) = value else {
        return Err(wrong("attributes", format!("`attributes` is {}", kind(value)), "send an object: `{\"city\": \"Taipei\"}`"));
    };
    let unprocessable =
        |code, name: &str, message: String| Error::new(StatusCode::UNPROCESSABLE_ENTITY, code, message).field(format!("attributes.{name}"));
    for (name, value) in fields {
        if name == "email" || !(BUILT_IN_FIELDS.contains(&name.as_str()) || schema.attribute(name).is_some()) {
            let names = || BUILT_IN_FIELDS[1..].iter().copied().chain(schema.attributes().map(|(name, _)| name));
            let hint = match did_you_mean(name, names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("fields are {}; `[attributes]` in optin.toml declares more", names().collect::<Vec<_>>().join(", ")),
            };
            return Err(unprocessable("unknown_attribute", name, format!("there is no attribute `{name}`")).hint(hint));
        }
        match field::from_json(schema, name, value) {
            Ok(Some(value)) => out.set.push((name.clone(), value)),
            Ok(None) => out.cleared.push(name.clone()),
            Err(message) => {
                let hint = "send the value in the type that `[attributes]` in optin.toml declares";
                return Err(unprocessable("invalid_attribute", name, message).hint(hint));
            }
        }
    }
    Ok(out)
}
