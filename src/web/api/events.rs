//! `POST /api/v1/events`: events, orders and refunds in batches.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::body::{batch, kind, known, wrong};
use super::once::{Begun, begin};
use super::tokens::EVENTS;
use super::{Error, client, instance};
use crate::behaviour::ops::{self, NOBODY, Recording};
use crate::behaviour::read::Reader;
use crate::behaviour::{Item, Verdict};
use crate::web::Shared;

/// Most events of one request: a transaction of some milliseconds.
pub(super) const MAX_EVENTS: usize = 1_000;
const FIELDS: &[&str] = &["events", "create", "ignore_unknown"];

/// Records a batch; answers what became of each event. 200 also where some are refused.
pub(super) async fn record(State(app): State<Shared>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Response, Error> {
    let client = client(&app, &headers, EVENTS).await?;
    let instance = instance(&app)?;
    let mut object = batch(&headers, body, "events")?;
    known(&object, FIELDS)?;
    let (create, ignore_unknown) = (flag(&object, "create")?, flag(&object, "ignore_unknown")?);
    match object.get("events") {
        Some(Value::Array(events)) if events.len() <= MAX_EVENTS => {}
        Some(Value::Array(events)) => {
            return Err(Error::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("{} events in one request", events.len()))
                .field("events")
                .hint(format!("at most {MAX_EVENTS} are taken: send several requests")));
        }
        Some(other) => return Err(wrong("events", format!("`events` is {}", kind(other)), "send a list of events")),
        None => return Err(wrong("events", "`events` is missing", "send `{\"events\": [..]}`, or the list alone")),
    }
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let once = match begin(&mut tx, &client.name, "events", &headers, &object, now).await? {
        Begun::New(once) => once,
        Begun::Done(response) => return Ok(response),
    };
    let Some(Value::Array(events)) = object.remove("events") else { return Err(wrong("events", "`events` is missing", "send a list")) };
    let money = instance.money();
    let mut reader = Reader::new(&instance.events, &money, ignore_unknown, now);
    let mut results: Vec<Value> = Vec::with_capacity(events.len());
    let (mut items, mut places): (Vec<Item>, Vec<usize>) = (Vec::new(), Vec::new());
    for event in events {
        let mut result = Map::new();
        if let Some(id) = event.get("id").filter(|id| id.is_string() || id.is_number()) {
            result.insert("id".to_owned(), id.clone());
        }
        match reader.read(event) {
            Ok(item) => {
                places.push(results.len());
                items.push(item);
            }
            Err(faults) => {
                let faults: Vec<Value> = faults.iter().map(|fault| json!({ "field": fault.field, "reason": fault.reason })).collect();
                result.insert("result".to_owned(), json!("rejected"));
                result.insert("problems".to_owned(), json!(faults));
            }
        }
        results.push(Value::Object(result));
    }
    let digests = instance.digests();
    let recording = Recording { events: &instance.events, schema: &instance.schema, digests: &digests, entropy: &instance.entropy, create };
    let recorded = ops::record(&mut tx, &recording, items, now).await?;
    for (place, verdict) in places.into_iter().zip(recorded.verdicts) {
        let (word, problem) = match verdict {
            Verdict::Added => ("added", None),
            Verdict::Updated => ("updated", None),
            Verdict::Unchanged => ("unchanged", None),
            Verdict::Rejected { field, reason } => ("rejected", Some(json!([{ "field": field, "reason": reason }]))),
        };
        results[place]["result"] = json!(word);
        if let Some(problem) = problem {
            results[place]["problems"] = problem;
        }
    }
    let count = |word: &str| results.iter().filter(|result| result["result"] == word).count();
    let document = json!({
        "read": results.len(),
        "added": count("added"),
        "updated": count("updated"),
        "unchanged": count("unchanged"),
        "rejected": count("rejected"),
        "people_added": recorded.people,
        "refunds_without_order": recorded.waiting,
        "results": results,
    });
    // About many people: what is kept for a repetition names none of them.
    once.done(tx, NOBODY.contact_id, StatusCode::OK, document).await
}

fn flag(object: &Map<String, Value>, field: &str) -> Result<bool, Error> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(wrong(field, format!("`{field}` is {}", kind(other)), "send true or false")),
    }
}
