//! `POST /api/v1/subscriptions`, and `DELETE /api/v1/subscriptions` or `POST /api/v1/subscriptions/withdraw`.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::body::{address, at, given, kind, known, object, text, wrong};
use super::contacts::attributes;
use super::once::{Begun, begin};
use super::tokens::{CONSENT, Client, SUBSCRIPTIONS};
use super::{Error, Json, client, instance};
use crate::clock::Time;
use crate::config::diagnostics::did_you_mean;
use crate::consent::entry::{Answered, Entry, Wanted, enter, event};
use crate::consent::requests::{Admission, Limits};
use crate::consent::{ALL_TOPICS, Action, Basis, NewEvent, Standing, Wording, ledger, ops};
use crate::contact::import::locale as language_tag;
use crate::contact::{self, Address, AttributeValue};
use crate::db::Tx;
use crate::instance::Instance;
use crate::web::Shared;

const FIELDS: &[&str] =
    &["email", "topics", "consent", "source", "basis", "locale", "attributes", "wording", "wording_version", "ip", "agent", "at"];
const WITHDRAW_FIELDS: &[&str] = &["email", "topics", "all", "source", "reason"];
/// Longest words about where a consent comes from, and longest agent of a client.
pub(super) const MAX_WORDS: usize = 500;
/// Longest wording.
pub(super) const MAX_WORDING: usize = 10_000;

/// What the caller knows of the consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consent {
    /// The person asked: the topic's opt-in decides.
    Request,
    /// The person agreed, on a topic with single opt-in.
    Granted,
    /// The person confirmed, by a link to their address.
    Confirmed,
}

/// A request, read.
struct Subscribe<'a> {
    address: Address,
    topics: Vec<String>,
    consent: Consent,
    basis: Basis,
    locale: Option<String>,
    ip: Option<String>,
    source: Option<&'a str>,
    agent: Option<&'a str>,
    wording: Option<&'a str>,
    wording_version: Option<&'a str>,
    at: Option<Time>,
}

/// Subscribes somebody, or asks them to confirm.
pub(super) async fn subscribe(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let client = client(&app, &headers, SUBSCRIPTIONS).await?;
    let instance = instance(&app)?;
    let object = object(&headers, body)?;
    let now = app.clock.now();
    let new = read(instance, &client, &object, now)?;
    let fields = attributes(&instance.schema, &object)?.set;
    let mut tx = app.db.begin().await?;
    let once = match begin(&mut tx, &client.name, "subscriptions", &headers, &object, now).await? {
        Begun::New(once) => once,
        Begun::Done(response) => return Ok(response),
    };
    if new.consent == Consent::Request {
        let limits = Limits::new(&instance.config.form_limits, &instance.keys);
        if let Admission::TooMany { retry_seconds, .. } = limits.admit_program(&mut tx, new.ip.as_deref(), new.address.key(), now).await? {
            return Err(too_many(retry_seconds));
        }
    }
    if ops::is_suppressed(&mut tx, &instance.digests(), &new.address).await? {
        let document = json!({ "email": new.address.as_str(), "contact": null, "suppressed": true, "topics": [] });
        // Nothing was done, so nothing is kept: the address may be of somebody who was erased.
        tx.rollback().await?;
        return Ok((StatusCode::OK, Json(document)).into_response());
    }
    let (contact_id, outcomes) = apply(&mut tx, instance, &client, &new, &fields, now).await?;
    let standings = ops::standings(&mut tx, contact_id).await?;
    let topics: Vec<Value> = outcomes
        .iter()
        .map(|(topic, outcome)| {
            let standing = standings.iter().find(|(name, _, _)| name == topic).map_or(Standing::None, |(_, standing, _)| *standing);
            json!({ "topic": topic, "standing": standing, "outcome": outcome })
        })
        .collect();
    let document = json!({ "email": new.address.as_str(), "contact": contact_id.to_string(), "suppressed": false, "topics": topics });
    once.done(tx, contact_id, StatusCode::OK, document).await
}

fn too_many(retry_seconds: i64) -> Error {
    let mut error = Error::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "this address or client asked too often")
        .hint(format!("try again in {retry_seconds} seconds; `[forms]` in optin.toml has the limits"));
    error.retry_seconds = Some(retry_seconds);
    error
}

/// Writes it; answers the contact and what became of each topic.
async fn apply(
    tx: &mut Tx,
    instance: &Instance,
    client: &Client,
    new: &Subscribe<'_>,
    fields: &[(String, AttributeValue)],
    now: Time,
) -> Result<(i64, Vec<(String, &'static str)>), Error> {
    // The caller vouches for what it sends: unlike a form it changes what is known.
    let mut values: Vec<(&str, AttributeValue)> = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    if let Some(locale) = new.locale.as_ref().filter(|_| !fields.iter().any(|(name, _)| name == "locale")) {
        values.push(("locale", AttributeValue::Text(locale.clone())));
    }
    let contact_id = ops::make_known(tx, &instance.schema, &instance.entropy, &instance.digests(), now, &new.address, &values).await?.id;
    let wording_hash = match new.wording {
        Some(text) => {
            let wording = Wording { text, locale: new.locale.as_deref(), kind: Some("api"), version: new.wording_version };
            Some(ops::keep_wording(tx, &wording, now).await?)
        }
        None => None,
    };
    let mut wanted = Vec::with_capacity(new.topics.len());
    for name in &new.topics {
        let topic = &instance.config.topics[name];
        let topic_id = ops::topic_id(tx, name, &instance.entropy, now).await?;
        wanted.push(Wanted { topic_id, double: topic.double_opt_in, purpose: topic.purpose.clone() });
    }
    let entry = Entry {
        address: &new.address,
        topics: &wanted,
        fields: &[],
        locale: new.locale.as_deref(),
        source: &format!("api {}", client.name),
        form: None,
        basis: new.basis,
        wording_hash: wording_hash.as_deref(),
        proof: json!({ "source": new.source, "at": new.at.map(|at| at.to_string()) }),
        ip: new.ip.as_deref(),
        agent: new.agent,
    };
    let action = match new.consent {
        Consent::Request => {
            let answered = enter(tx, &instance.schema, &instance.entropy, &instance.digests(), &entry, now).await?.topics;
            let word = |answered| match answered {
                Answered::Subscribed => "subscribed",
                Answered::Already => "already",
                Answered::ConfirmationSent => "confirmation_sent",
            };
            let outcomes = answered.into_iter().zip(&new.topics).map(|((_, answered), name)| (name.clone(), word(answered))).collect();
            return Ok((contact_id, outcomes));
        }
        Consent::Granted => Action::Granted,
        Consent::Confirmed => Action::Confirmed,
    };
    let standings = ops::standings(tx, contact_id).await?;
    let mut outcomes = Vec::with_capacity(wanted.len());
    for (topic, name) in wanted.iter().zip(&new.topics) {
        let before = standings.iter().find(|(known, _, _)| known == name).map_or(Standing::None, |(_, standing, _)| *standing);
        let outcome = match (before, action) {
            (Standing::Subscribed, _) => "already",
            (Standing::Unsubscribed, Action::Granted) => "withdrawn",
            _ => {
                let event = NewEvent { action, ..event(&instance.entropy, &entry, topic, contact_id) };
                let change = ledger::append(tx, &[event], now).await?.remove(0);
                if change.after == Standing::Subscribed { "subscribed" } else { "withdrawn" }
            }
        };
        outcomes.push((name.clone(), outcome));
    }
    Ok((contact_id, outcomes))
}

fn read<'a>(instance: &Instance, client: &Client, object: &'a Map<String, Value>, now: Time) -> Result<Subscribe<'a>, Error> {
    known(object, FIELDS)?;
    let address = address(object, "email")?;
    let topics = topics(instance, object)?;
    if topics.is_empty() {
        return Err(wrong("topics", "`topics` is missing", "say what it is about: `[\"tea-letter\"]`"));
    }
    let consent = match text(object, "consent")?.unwrap_or("request") {
        "request" => Consent::Request,
        "granted" => Consent::Granted,
        "confirmed" => Consent::Confirmed,
        other => return Err(wrong("consent", format!("`{other}` is no kind of consent"), "request, granted or confirmed")),
    };
    if consent == Consent::Confirmed && !client.scopes.iter().any(|scope| scope == CONSENT) {
        let message = format!("`confirmed` needs the scope `{CONSENT}`, which this token lacks");
        let hint = "send `request`: the person gets a mail to confirm";
        return Err(Error::new(StatusCode::FORBIDDEN, "forbidden", message).field("consent").hint(hint));
    }
    let double = topics.iter().find(|name| instance.config.topics[*name].double_opt_in);
    if let (Consent::Granted, Some(double)) = (consent, double) {
        let message = format!("`{double}` needs a confirmation by the person");
        return Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, "needs_confirmation", message).field("consent").hint(
            "send `request`, and the person gets a mail; or `confirmed`, with the scope `consent`, when they confirmed by a link before",
        ));
    }
    let basis = match text(object, "basis")? {
        None => Basis::Consent,
        Some(given) => Basis::from_stored(given).ok_or_else(|| {
            let all: Vec<&str> = Basis::ALL.into_iter().map(Basis::as_str).collect();
            wrong("basis", format!("`{given}` is no lawful basis"), format!("one of {}", all.join(", ")))
        })?,
    };
    let locale = text(object, "locale")?
        .map(|given| {
            language_tag(given).ok_or_else(|| wrong("locale", format!("`{given}` is no language"), "such as `en` or `zh-Hant-TW`"))
        })
        .transpose()?;
    let ip = text(object, "ip")?
        .map(|given| {
            given.parse::<std::net::IpAddr>().map_err(|_| wrong("ip", "`ip` is no IP address", "such as `192.0.2.7` or `2001:db8::7`"))
        })
        .transpose()?
        .map(|ip| ip.to_string());
    let at = at(object)?;
    if at.is_some_and(|at| at > now) {
        return Err(wrong("at", "`at` lies in the future", "say when the person agreed"));
    }
    Ok(Subscribe {
        address,
        topics,
        consent,
        basis,
        locale,
        ip,
        source: words(object, "source", MAX_WORDS)?,
        agent: words(object, "agent", MAX_WORDS)?,
        wording: words(object, "wording", MAX_WORDING)?,
        wording_version: words(object, "wording_version", MAX_WORDS)?,
        at,
    })
}

fn words<'a>(object: &'a Map<String, Value>, field: &str, characters: usize) -> Result<Option<&'a str>, Error> {
    let given = text(object, field)?.filter(|text| !text.trim().is_empty());
    match given {
        Some(text) if text.chars().count() > characters => {
            Err(wrong(field, format!("`{field}` is too long"), format!("at most {characters} characters")))
        }
        given => Ok(given),
    }
}

/// The topics of a request, each declared, none twice.
fn topics(instance: &Instance, object: &Map<String, Value>) -> Result<Vec<String>, Error> {
    let hint = "send a list of names: `[\"tea-letter\"]`";
    let list = match given(object, "topics") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("topics", format!("`topics` is {}", kind(other)), hint)),
    };
    let mut out: Vec<String> = Vec::with_capacity(list.len());
    for value in list {
        let Value::String(name) = value else { return Err(wrong("topics", format!("`topics` holds {}", kind(value)), hint)) };
        if !instance.config.topics.contains_key(name) {
            let names = instance.config.topics.keys().map(String::as_str);
            let hint = match did_you_mean(name, names.clone()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("topics.toml declares {}", names.collect::<Vec<_>>().join(", ")),
            };
            let message = format!("there is no topic `{name}`");
            return Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_topic", message).field("topics").hint(hint));
        }
        if !out.contains(name) {
            out.push(name.clone());
        }
    }
    Ok(out)
}

/// Withdraws somebody from topics or from everything, effective at once, also in sends under way.
pub(super) async fn withdraw(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let client = client(&app, &headers, SUBSCRIPTIONS).await?;
    let instance = instance(&app)?;
    let object = object(&headers, body)?;
    known(&object, WITHDRAW_FIELDS)?;
    let address = address(&object, "email")?;
    let (topics, all) = (topics(instance, &object)?, given(&object, "all").is_some_and(|all| *all == Value::Bool(true)));
    if topics.is_empty() != all {
        return Err(wrong(
            "topics",
            "the request needs either `topics` or `all`",
            "`\"topics\": [\"offers\"]`, or `\"all\": true` for everything",
        ));
    }
    let reason = text(&object, "reason")?;
    let plain = |text: &str| (1..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if let Some(given) = reason.filter(|given| !plain(given)) {
        let hint = "a word such as `too_many`, of small letters and `_`; what people wrote goes into `source`";
        return Err(wrong("reason", format!("`{given}` is no reason"), hint));
    }
    let source = words(&object, "source", MAX_WORDS)?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let once = match begin(&mut tx, &client.name, "withdraw", &headers, &object, now).await? {
        Begun::New(once) => once,
        Begun::Done(response) => return Ok(response),
    };
    let Some(contact) = contact::sql::by_email_key(&mut tx, &instance.schema, address.key()).await? else {
        return Err(Error::new(StatusCode::NOT_FOUND, "not_found", "no contact has this address")
            .hint("nothing is sent to it; nothing is left to do"));
    };
    let mut ids = Vec::with_capacity(topics.len());
    for name in &topics {
        ids.push(ops::topic_id(&mut tx, name, &instance.entropy, now).await?);
    }
    if all {
        ids.push(ALL_TOPICS);
    }
    let mut changed = false;
    for topic_id in ids {
        let proof = json!({ "address": address.as_str(), "source": source });
        let event = NewEvent {
            detail: reason.map(|reason| format!("reason={reason}")),
            evidence: Some(ops::evidence(&instance.entropy, proof)),
            ..NewEvent::new(contact.id, topic_id, Action::Withdrawn, format!("api {}", client.name))
        };
        changed |= ops::withdraw(&mut tx, &event, now).await?.changed;
    }
    let topics: Vec<Value> = ops::standings(&mut tx, contact.id)
        .await?
        .into_iter()
        .map(|(topic, standing, since)| json!({ "topic": topic, "standing": standing, "since": since.to_string() }))
        .collect();
    let document = json!({ "email": contact.email, "contact": contact.id.to_string(), "changed": changed, "topics": topics });
    once.done(tx, contact.id, StatusCode::OK, document).await
}
