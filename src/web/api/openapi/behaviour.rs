//! The description of events.

use serde_json::{Value, json};

use super::super::BODY_BYTES;
use super::super::events::MAX_EVENTS;
use super::permission::{body, key, responses};
use crate::behaviour::{MAX_KEY_CHARACTERS, MAX_ORDER_LINES, MAX_PRODUCT_CHARACTERS};

pub(super) fn record() -> Value {
    json!({
        "summary": "Record events, orders and refunds",
        "description": format!(
            "The scope is `events`. At most {MAX_EVENTS} events and {BODY_BYTES} bytes a request; the list may also be sent alone. Each event is taken or refused by itself, and answered with 200. An event is known by its `id` and `type`: sent again it changes nothing, sent with other content it is corrected. Events may come in any order, refunds before their order. A replayed answer (Idempotency-Key) is the first one, also for events that were refused."
        ),
        "operationId": "recordEvents",
        "security": [{ "token": ["events"] }],
        "parameters": [key()],
        "requestBody": body("NewEvents"),
        "responses": responses("RecordedEvents", &[("200", "What became of each")], &["400", "401", "403", "409", "413", "415", "503"])
    })
}

fn id(description: &str) -> Value {
    json!({ "type": ["string", "integer"], "maxLength": MAX_KEY_CHARACTERS, "description": description })
}

fn line(with_refunded: bool) -> Value {
    let amount = json!({ "type": ["number", "string"], "description": "With up to four decimals; a text is exact" });
    let mut fields = json!({
        "amount": amount,
        "product_id": { "type": "string", "maxLength": MAX_KEY_CHARACTERS },
        "product": { "type": "string", "maxLength": MAX_PRODUCT_CHARACTERS }
    });
    if with_refunded {
        fields["category"] = json!({ "type": "string", "maxLength": MAX_KEY_CHARACTERS });
        fields["quantity"] = json!({ "type": "number", "default": 1, "description": "Negative for a return" });
        fields["refunded"] = json!({ "type": ["boolean", "number", "string"], "description": "All of it, or an amount" });
    }
    fields
}

pub(super) fn new_events() -> Value {
    let common = json!({
        "id": id("Yours"),
        "type": { "type": "string", "description": "A kind of `events.toml`, `order` or `refund`" },
        "email": { "type": "string", "description": "Whose: this or `external_id`" },
        "external_id": id("Whose, by the number in your system"),
        "at": { "type": "string", "description": "When: RFC 3339; a date or time without an offset is UTC. At most a day ahead" },
        "revision": { "type": "integer", "minimum": 0, "default": 0, "description": "Of two statements about one id the higher one holds, of two alike the later one" }
    });
    let with = |more: Value| {
        let mut fields = common.clone();
        if let (Some(fields), Some(more)) = (fields.as_object_mut(), more.as_object()) {
            fields.extend(more.clone());
        }
        fields
    };
    let mut order = line(true);
    order["currency"] = json!({ "type": "string", "description": "ISO 4217; without it, that of the instance" });
    order["lines"] = json!({ "type": "array", "minItems": 1, "maxItems": MAX_ORDER_LINES, "items": { "type": "object", "required": ["amount"], "additionalProperties": false, "properties": line(true) }, "description": "Or the fields of the one line beside the others" });
    let mut refund = line(false);
    refund["currency"] = json!({ "type": "string", "description": "ISO 4217; without it, that of the order" });
    refund["order"] = id("The order it is of; may come later");
    refund["amount"]["description"] = json!("Without it, all of the product or the order");
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["events"],
        "properties": {
            "events": { "type": "array", "maxItems": MAX_EVENTS, "items": { "anyOf": [
                { "title": "Event", "type": "object", "required": ["id", "type"], "properties": with(json!({
                    "properties": { "type": "object", "description": "As the kind declares, each in its type" },
                    "retracted": { "type": "boolean", "description": "It did not happen; only `id` and `type` are needed" }
                })) },
                { "title": "Order", "type": "object", "required": ["id", "type", "at"], "properties": with(order) },
                { "title": "Refund", "type": "object", "required": ["id", "type", "at", "order"], "properties": with(refund) }
            ] } },
            "create": { "type": "boolean", "default": false, "description": "Make contacts, without permission, of addresses nobody knows; else their events are refused" },
            "ignore_unknown": { "type": "boolean", "default": false, "description": "Leave out what is not declared instead of refusing the event" }
        }
    })
}

pub(super) fn recorded() -> Value {
    let count = json!({ "type": "integer" });
    json!({
        "type": "object",
        "required": ["read", "added", "updated", "unchanged", "rejected", "results"],
        "properties": {
            "read": count, "added": count, "updated": count, "unchanged": count, "rejected": count,
            "people_added": count,
            "refunds_without_order": count,
            "results": { "type": "array", "description": "One for each event, in their order", "items": {
                "type": "object",
                "required": ["result"],
                "properties": {
                    "id": { "type": ["string", "integer"] },
                    "result": { "type": "string", "enum": ["added", "updated", "unchanged", "rejected"] },
                    "problems": { "type": "array", "items": {
                        "type": "object",
                        "properties": { "field": { "type": "string" }, "reason": { "type": "string" } }
                    } }
                }
            } }
        }
    })
}
