//! `GET /api/v1/openapi.json`: what the API is, for programs (OpenAPI 3.1).

mod behaviour;
mod permission;

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::clock::{DAY, HOUR};
use crate::config::messages::MAX_EXPIRES_HOURS;
use crate::delivery::messages::{
    DEFAULT_EXPIRES_HOURS, KEY_KEPT_MS, MAX_AHEAD_MS, MAX_DATA_BYTES, MAX_HTML_BYTES, MAX_KEY_BYTES, MAX_LOCALE_BYTES, MAX_SUBJECT_BYTES,
    MAX_TEXT_BYTES,
};

/// The description; it holds no secret and needs no token.
pub(super) async fn document() -> Response {
    super::Json(description()).into_response()
}

/// The description of every address.
pub(super) fn description() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "optin",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Contacts, subscriptions, transactional messages, and what people do outside mail. Every answer is JSON; times are RFC 3339 in UTC, ids are text.",
            "license": { "name": "MIT OR Apache-2.0" }
        },
        "paths": {
            "/api/v1/messages": { "post": accept() },
            "/api/v1/messages/{id}": { "get": show() },
            "/api/v1/subscriptions": { "post": permission::subscribe(), "delete": permission::withdraw("deleteSubscriptions") },
            "/api/v1/subscriptions/withdraw": { "post": permission::withdraw("withdraw") },
            "/api/v1/contacts": { "post": permission::save() },
            "/api/v1/contacts/{contact}": { "get": permission::show() },
            "/api/v1/events": { "post": behaviour::record() },
            "/api/v1/openapi.json": {
                "get": {
                    "summary": "This description",
                    "operationId": "describe",
                    "security": [],
                    "responses": { "200": { "description": "OpenAPI 3.1", "content": { "application/json": { "schema": { "type": "object" } } } } }
                }
            }
        },
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "description": "`optin token create --scope SCOPE --name NAME`" } },
            "schemas": {
                "NewMessage": new_message(),
                "Message": message(),
                "NewSubscription": permission::new_subscription(),
                "Subscription": permission::subscription(),
                "Withdrawal": permission::withdrawal(),
                "Withdrawn": permission::withdrawn(),
                "NewContact": permission::new_contact(),
                "Contact": permission::contact(),
                "NewEvents": behaviour::new_events(),
                "RecordedEvents": behaviour::recorded(),
                "Error": error()
            },
            "responses": {
                "Error": { "description": "What is wrong, and what to do", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } } }
            }
        }
    })
}

fn accept() -> Value {
    let message = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Message" } } });
    let mut responses = json!({
        "201": { "description": "Accepted and durable. A message to a suppressed address is accepted as well: its state is `skipped`.", "content": message },
        "200": { "description": "The same request was accepted before under this key; this is that message", "content": message }
    });
    for status in ["400", "401", "403", "409", "413", "415", "422", "503"] {
        responses[status] = json!({ "$ref": "#/components/responses/Error" });
    }
    json!({
        "summary": "Send one message to one person",
        "description": "The scope is `messages`. A message needs no subscription; a suppressed address gets none.",
        "operationId": "sendMessage",
        "security": [{ "token": ["messages"] }],
        "parameters": [{
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": format!(
                "Names this request: repeating it with the same key sends nothing twice, with another content it is refused (409). Kept for {} hours at least, for each client (the token's name).",
                KEY_KEPT_MS / HOUR
            ),
            "schema": { "type": "string", "maxLength": MAX_KEY_BYTES }
        }],
        "requestBody": { "required": true, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/NewMessage" } } } },
        "responses": responses
    })
}

fn show() -> Value {
    let error = json!({ "$ref": "#/components/responses/Error" });
    json!({
        "summary": "Where a message is",
        "operationId": "getMessage",
        "security": [{ "token": ["messages"] }],
        "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }],
        "responses": {
            "200": { "description": "The message", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Message" } } } },
            "401": error, "403": error, "404": error, "503": error
        }
    })
}

fn new_message() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["to"],
        "oneOf": [{ "required": ["template"] }, { "required": ["subject"] }],
        "properties": {
            "to": { "type": "string", "description": "One email address, without a name" },
            "template": { "type": "string", "description": "A file of `messages/`, without `.toml`" },
            "data": { "type": "object", "description": format!("What the template sees as `data`; at most {MAX_DATA_BYTES} bytes of JSON") },
            "subject": { "type": "string", "description": format!("Without a template: as it is, at most {MAX_SUBJECT_BYTES} bytes") },
            "html": { "type": "string", "description": format!("Without a template: as it is, at most {MAX_HTML_BYTES} bytes") },
            "text": { "type": "string", "description": format!("Without a template: as it is, at most {MAX_TEXT_BYTES} bytes; written from `html` where absent") },
            "locale": { "type": "string", "maxLength": MAX_LOCALE_BYTES, "description": "The language it is written in, where it is not the contact's: `zh-Hant-TW`" },
            "expires_hours": { "type": "integer", "minimum": 1, "maximum": MAX_EXPIRES_HOURS, "description": format!("Undelivered after so long, it is not sent any more; the template's, or {DEFAULT_EXPIRES_HOURS}") },
            "at": { "type": "string", "format": "date-time", "description": format!("Not before this moment, at most {} days ahead", MAX_AHEAD_MS / DAY) }
        }
    })
}

fn message() -> Value {
    let time = json!({ "type": ["string", "null"], "format": "date-time" });
    json!({
        "type": "object",
        "required": ["id", "state", "attempts", "created_at"],
        "properties": {
            "id": { "type": "string" },
            "state": { "type": "string", "enum": ["queued", "sending", "sent", "deferred", "bounced", "failed", "in_doubt", "skipped"] },
            "reason": { "type": ["string", "null"], "description": "Why, as a code: `suppressed`, `expired`, `render_failed`, .." },
            "attempts": { "type": "integer" },
            "reply": { "type": ["string", "null"], "description": "What the relay said last" },
            "to": { "type": ["string", "null"] },
            "template": { "type": ["string", "null"] },
            "client": { "type": "string" },
            "created_at": time,
            "due_at": { "type": ["string", "null"], "format": "date-time", "description": "When it is tried next, while it waits" },
            "changed_at": time,
            "expires_at": time
        }
    })
}

fn error() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": { "type": "string", "description": "Stable, for programs" },
                    "message": { "type": "string" },
                    "hint": { "type": ["string", "null"], "description": "What to do" },
                    "field": { "type": "string", "description": "Which field is to blame" }
                }
            }
        }
    })
}
