//! The description of contacts and subscriptions.

use serde_json::{Value, json};

use super::super::subscriptions::{MAX_WORDING, MAX_WORDS};
use crate::clock::HOUR;
use crate::consent::Basis;
use crate::consent::repeats::{KEPT_MS, MAX_KEY_BYTES};

/// Answers with a document of this schema, and the errors that may come.
pub(super) fn responses(schema: &str, statuses: &[(&str, &str)], errors: &[&str]) -> Value {
    let mut out = json!({});
    for (status, description) in statuses {
        out[*status] = json!({
            "description": description,
            "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } }
        });
    }
    for status in errors {
        out[*status] = json!({ "$ref": "#/components/responses/Error" });
    }
    out
}

pub(super) fn key() -> Value {
    json!({
        "name": "Idempotency-Key",
        "in": "header",
        "required": false,
        "description": format!(
            "Names this request: repeating it with the same key does nothing twice and gets the same answer, with another content it is refused (409). Kept for {} hours at least, for each client (the token's name).",
            KEPT_MS / HOUR
        ),
        "schema": { "type": "string", "maxLength": MAX_KEY_BYTES }
    })
}

pub(super) fn body(schema: &str) -> Value {
    json!({ "required": true, "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } } })
}

const ERRORS: &[&str] = &["400", "401", "403", "409", "410", "413", "415", "422", "503"];

pub(super) fn subscribe() -> Value {
    let errors: Vec<&str> = ERRORS.iter().copied().chain(["429"]).collect();
    json!({
        "summary": "Subscribe somebody, or ask them to confirm",
        "description": "The scope is `subscriptions`; `confirmed` needs the scope `consent` as well. A suppressed address gets nothing.",
        "operationId": "subscribe",
        "security": [{ "token": ["subscriptions"] }],
        "parameters": [key()],
        "requestBody": body("NewSubscription"),
        "responses": responses("Subscription", &[("200", "What became of it")], &errors)
    })
}

pub(super) fn withdraw(operation: &str) -> Value {
    let errors: Vec<&str> = ERRORS.iter().copied().chain(["404"]).collect();
    json!({
        "summary": "Withdraw somebody from topics or from everything",
        "description": "The scope is `subscriptions`. Effective at once, also in a send that is under way. Both addresses do the same.",
        "operationId": operation,
        "security": [{ "token": ["subscriptions"] }],
        "parameters": [key()],
        "requestBody": body("Withdrawal"),
        "responses": responses("Withdrawn", &[("200", "Where the person stands now")], &errors)
    })
}

pub(super) fn save() -> Value {
    json!({
        "summary": "Make a contact, or change one",
        "description": "The scope is `contacts`. What is not named stays; `null` empties a field. No subscription comes of it.",
        "operationId": "saveContact",
        "security": [{ "token": ["contacts"] }],
        "parameters": [key()],
        "requestBody": body("NewContact"),
        "responses": responses("Contact", &[("201", "New"), ("200", "Was there before")], ERRORS)
    })
}

pub(super) fn show() -> Value {
    json!({
        "summary": "What is known of a contact",
        "operationId": "getContact",
        "security": [{ "token": ["contacts"] }],
        "parameters": [{ "name": "contact", "in": "path", "required": true, "description": "Its email address or its id", "schema": { "type": "string" } }],
        "responses": responses("Contact", &[("200", "The contact")], &["401", "403", "404", "503"])
    })
}

fn email() -> Value {
    json!({ "type": "string", "description": "One email address, without a name" })
}

fn attributes() -> Value {
    json!({
        "type": "object",
        "description": "first_name, last_name, locale, timezone, phone, external_id, and what `[attributes]` declares, each in its type; dates as `2026-12-01`, lists as lists of texts"
    })
}

fn topics() -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": "Names of `topics.toml`" })
}

fn standing() -> Value {
    json!({ "type": "string", "enum": ["none", "pending", "subscribed", "paused", "unsubscribed"] })
}

pub(super) fn new_subscription() -> Value {
    let basis: Vec<&str> = Basis::ALL.into_iter().map(Basis::as_str).collect();
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["email", "topics"],
        "properties": {
            "email": email(),
            "topics": topics(),
            "consent": {
                "type": "string",
                "enum": ["request", "granted", "confirmed"],
                "default": "request",
                "description": "`request`: the person asked; with double opt-in, or after they ever withdrew, they get a mail to confirm. `granted`: they agreed, on a topic with single opt-in. `confirmed`: they confirmed by a link to their address; the only one that brings back who withdrew"
            },
            "source": { "type": "string", "maxLength": MAX_WORDS, "description": "Where the consent comes from, for the ledger" },
            "basis": { "type": "string", "enum": basis, "default": "consent" },
            "locale": { "type": "string", "description": "The language they read: `zh-Hant-TW`" },
            "attributes": attributes(),
            "wording": { "type": "string", "maxLength": MAX_WORDING, "description": "What they agreed to, to the letter" },
            "wording_version": { "type": "string", "maxLength": MAX_WORDS, "description": "How you call that version" },
            "ip": { "type": "string", "description": "The person's address" },
            "agent": { "type": "string", "maxLength": MAX_WORDS, "description": "The person's user agent" },
            "at": { "type": "string", "format": "date-time", "description": "When they agreed" }
        }
    })
}

pub(super) fn subscription() -> Value {
    json!({
        "type": "object",
        "required": ["email", "contact", "suppressed", "topics"],
        "properties": {
            "email": { "type": "string" },
            "contact": { "type": ["string", "null"], "description": "Its id" },
            "suppressed": { "type": "boolean", "description": "The address gets nothing; nothing was written" },
            "topics": { "type": "array", "items": {
                "type": "object",
                "required": ["topic", "standing", "outcome"],
                "properties": {
                    "topic": { "type": "string" },
                    "standing": standing(),
                    "outcome": { "type": "string", "enum": ["subscribed", "already", "confirmation_sent", "withdrawn"], "description": "`confirmation_sent`: on its way, or went out within the last day. `withdrawn`: the person left; only a confirmation brings them back" }
                }
            } }
        }
    })
}

pub(super) fn withdrawal() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["email"],
        "oneOf": [{ "required": ["topics"] }, { "required": ["all"] }],
        "properties": {
            "email": email(),
            "topics": topics(),
            "all": { "type": "boolean", "description": "From everything, also from topics to come" },
            "source": { "type": "string", "maxLength": MAX_WORDS, "description": "How they asked for it, for the ledger" },
            "reason": { "type": "string", "pattern": "^[a-z_]{1,40}$" }
        }
    })
}

fn standings() -> Value {
    json!({ "type": "array", "items": {
        "type": "object",
        "required": ["topic", "standing", "since"],
        "properties": { "topic": { "type": "string" }, "standing": standing(), "since": { "type": "string", "format": "date-time" } }
    } })
}

pub(super) fn withdrawn() -> Value {
    json!({
        "type": "object",
        "required": ["email", "contact", "changed", "topics"],
        "properties": {
            "email": { "type": "string" },
            "contact": { "type": "string", "description": "Its id" },
            "changed": { "type": "boolean", "description": "False where nothing was left to withdraw" },
            "topics": standings()
        }
    })
}

pub(super) fn new_contact() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["email"],
        "properties": { "email": email(), "attributes": attributes() }
    })
}

pub(super) fn contact() -> Value {
    json!({
        "type": "object",
        "required": ["id", "email", "attributes", "topics", "suppressed"],
        "properties": {
            "id": { "type": "string" },
            "email": { "type": "string" },
            "attributes": { "type": "object" },
            "topics": standings(),
            "suppressed": { "type": "boolean" }
        }
    })
}
