//! Everything we have about a person, as GDPR art. 15 and 20 want it: the data, and what it is for, from
//! whom we have it, who gets it, how long it is kept, how it is judged. `docs/privacy.md` lists the keys.

use serde_json::{Map, Value, json};

use super::subject;
use crate::args;
use crate::behaviour;
use crate::clock::Time;
use crate::config::Config;
use crate::consent::suppression::{self, Digests};
use crate::contact::{self, AttributeValue, Contact};
use crate::db::{Args, Connection, DbError, Row, Tx};
use crate::token::Keys;
use crate::tracking::{engagement, engagement_ops};

/// The version of `data.json`; it grows when a key changes its meaning.
const FORMAT: u32 = 1;

/// What a column of a statement is, and its key in the JSON.
#[derive(Clone, Copy)]
enum Column {
    Text(&'static str),
    Number(&'static str),
    /// Ids are longer than JSON numbers are exact.
    Id(&'static str),
    Moment(&'static str),
    /// JSON inside a text column.
    Document(&'static str),
}
use Column::{Document, Id, Moment, Number, Text};

impl Column {
    fn read(self, row: &Row, at: usize) -> Result<(&'static str, Value), DbError> {
        Ok(match self {
            Text(key) => (key, json!(row.get::<Option<String>>(at)?)),
            Number(key) => (key, json!(row.get::<Option<i64>>(at)?)),
            Id(key) => (key, json!(row.get::<Option<i64>>(at)?.map(|id| id.to_string()))),
            Moment(key) => (key, json!(row.get::<Option<Time>>(at)?.map(|time| time.to_string()))),
            Document(key) => {
                let text = row.get::<Option<String>>(at)?;
                (key, text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or(Value::String(text))))
            }
        })
    }
}

/// The rows of a statement as objects. Absent values are left out.
async fn objects(db: &mut impl Connection, sql: &str, args: Args, columns: &[Column]) -> Result<Value, DbError> {
    let mut out = Vec::new();
    for row in db.rows(sql, args).await? {
        let mut object = Map::new();
        for (at, column) in columns.iter().enumerate() {
            let (key, value) = column.read(&row, at)?;
            if !value.is_null() {
                object.insert(key.to_owned(), value);
            }
        }
        out.push(Value::Object(object));
    }
    Ok(Value::Array(out))
}

/// The document `data.json` of a person. What is known of contacts that were merged into them stands below `merged`, in
/// the same form.
pub async fn collect(db: &mut Tx, config: &Config, keys: &Keys, contact: &Contact, now: Time) -> Result<Value, DbError> {
    let mut out = collect_one(db, config, keys, contact, now).await?;
    let (ids, _) = contact::merge::below(db, contact.id).await?;
    let others: Vec<i64> = ids.into_iter().filter(|id| *id != contact.id).collect();
    let schema = contact::Schema::new(&config.attributes);
    let mut merged = Vec::new();
    for other in contact::sql::by_ids(db, &schema, &others).await? {
        let mut data = collect_one(db, config, keys, &other, now).await?;
        if let Some(data) = data.as_object_mut() {
            data.retain(|key, _| !matches!(key.as_str(), "format" | "controller" | "processing"));
        }
        merged.push(data);
    }
    out["merged"] = Value::Array(merged);
    Ok(out)
}

async fn collect_one(db: &mut Tx, config: &Config, keys: &Keys, contact: &Contact, now: Time) -> Result<Value, DbError> {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    put("format", json!({ "name": "optin personal data", "version": FORMAT, "made_at": now.to_string() }));
    put("controller", controller(config));
    put("processing", processing(config));
    put("person", person(db, contact).await?);
    put("topics", topics(db, contact.id).await?);
    put("choices", objects(db, CHOICES, args![contact.id], &[Text("tracking"), Text("profiling"), Moment("changed_at")]).await?);
    put("consent_history", history(db, contact.id).await?);
    put("confirmations", objects(db, CONFIRMATIONS, args![contact.id], CONFIRMATION_COLUMNS).await?);
    put("mails", mails(db, contact.id).await?);
    put("opens_and_clicks", objects(db, HITS, args![contact.id], HIT_COLUMNS).await?);
    put("orders", behaviour::person::orders(db, contact.id).await?);
    put("events", behaviour::person::events(db, contact.id).await?);
    put("unsubscribes", objects(db, UNSUBSCRIBES, args![contact.id], &[Moment("at"), Text("way"), Text("campaign"), Id("run")]).await?);
    put("reasons_for_leaving", objects(db, REASONS, args![contact.id], REASON_COLUMNS).await?);
    put("messages", messages(db, contact.id).await?);
    put("suppression", suppressions(db, contact).await?);
    put("suppressions_removed", removals(db, keys, contact).await?);
    put("coupons", objects(db, COUPONS, args![contact.id], &[Text("pool"), Text("code"), Moment("given_at")]).await?);
    put("collections", objects(db, DIGESTS, args![contact.id], &[Text("topic"), Moment("since"), Moment("next_at")]).await?);
    put("welcomes", objects(db, WELCOMES, args![contact.id], &[Text("topic"), Moment("asked_at"), Id("message")]).await?);
    put("segments", objects(db, SEGMENTS, args![contact.id], &[Text("segment"), Moment("since")]).await?);
    put("segment_changes", objects(db, SEGMENT_CHANGES, args![contact.id], &[Text("segment"), Moment("at"), Text("change")]).await?);
    put("frozen_lists", objects(db, FROZEN_LISTS, args![contact.id], &[Text("list"), Moment("at"), Text("rule")]).await?);
    put("api_answers", objects(db, ANSWERS, args![contact.id], &[Moment("at"), Text("client"), Document("answer")]).await?);
    let about = subject(keys, &contact.email_key);
    put("requests", objects(db, REQUESTS, args![contact.id, about], REQUEST_COLUMNS).await?);
    put("orders_from_mails", objects(db, CONVERSIONS, args![contact.id], CONVERSION_COLUMNS).await?);
    // Whoever adds one adds it here (GDPR 15(1)(h)).
    put("scores", scores(db, config, contact.id, now).await?);
    Ok(Value::Object(out))
}

const CONVERSIONS: &str = "SELECT c.at, r.campaign, c.link, c.share, c.order_id
     FROM conversion c JOIN run r ON r.id = c.run_id WHERE c.contact_id = $1 ORDER BY c.at, c.order_id, c.delivery_id, c.link";
const CONVERSION_COLUMNS: &[Column] = &[Moment("at"), Text("campaign"), Number("link"), Number("millionths"), Id("order")];

/// What is concluded about a person: how they take part, and when they respond.
async fn scores(db: &mut impl Connection, config: &Config, contact_id: i64, now: Time) -> Result<Value, DbError> {
    let mut out = Vec::new();
    for row in engagement_ops::of_contact(db, contact_id).await? {
        let score = engagement::score(row.sum.weight, config.engagement.half_life_days, now);
        let mut put = |name: &str, value: Value| out.push(json!({ "name": name, "topic": row.topic, "value": value }));
        put("engagement.score", json!((score * 1_000.0).round() / 1_000.0));
        if let Some((hour, weekday)) = row.best {
            put("engagement.best_hour", json!(hour));
            put("engagement.best_weekday", json!(weekday));
        }
    }
    Ok(Value::Array(out))
}

/// Who is responsible.
fn controller(config: &Config) -> Value {
    json!({ "name": config.sender.name, "address": config.sender.postal_address, "email": config.sender.email })
}

/// What for, on what ground, to whom, for how long, by what logic.
fn processing(config: &Config) -> Value {
    let purposes: Vec<Value> = config
        .topics
        .iter()
        .map(|(key, topic)| {
            json!({ "topic": key, "name": topic.name, "description": topic.description, "purpose": topic.purpose, "advertising": topic.advertising })
        })
        .collect();
    let mut relays: Vec<String> =
        config.relays.iter().filter_map(|relay| url::Url::parse(&relay.url.value).ok()?.host_str().map(str::to_owned)).collect();
    relays.sort_unstable();
    relays.dedup();
    let keeps = |number: u32| if number == 0 { Value::Null } else { json!(number) };
    let kept = config.retention;
    json!({
        "purposes": purposes,
        "recipients": { "mail_servers": relays, "your_mailbox_provider": true, "others": [] },
        "sources": "each entry of consent_history names its source; person.created_at is when the first one arrived",
        "retention": {
            "client_days": keeps(kept.client_days),
            "hit_days": keeps(kept.hit_days),
            "message_days": keeps(kept.message_days),
            "event_days": keeps(kept.event_days),
            "inactive_months": keeps(kept.inactive_months),
            "unconfirmed_days": keeps(kept.unconfirmed_days),
        },
        "logic": "opens and clicks are judged human or machine by their time, sequence and program (`signals`); segments pick by the fields, topics and events above; `scores` add up a person's own opens and clicks, which weigh less with time, and the hours at which they came; no decision with legal effect is made",
    })
}

/// Fields, attributes, and by what the person is known.
async fn person(db: &mut impl Connection, contact: &Contact) -> Result<Value, DbError> {
    let rows = db.rows("SELECT created_at, updated_at FROM contact WHERE id = $1", args![contact.id]).await?;
    let (created, updated): (Option<Time>, Option<Time>) = match rows.first() {
        Some(row) => (row.get(0)?, row.get(1)?),
        None => (None, None),
    };
    let mut identities = vec![json!({ "kind": "email", "value": contact.email, "compared_as": contact.email_key })];
    for (kind, value) in [("external_id", &contact.external_id), ("phone", &contact.phone)] {
        identities.extend(value.as_ref().map(|value| json!({ "kind": kind, "value": value })));
    }
    for more in contact::identity::of_contact(db, contact.id).await? {
        let since = more.since.to_string();
        identities.push(json!({ "kind": more.kind, "value": more.value, "source": more.source, "since": since }));
    }
    let mut fields = Map::new();
    let built_in = [
        ("first_name", &contact.first_name),
        ("last_name", &contact.last_name),
        ("locale", &contact.locale),
        ("timezone", &contact.timezone),
        ("phone", &contact.phone),
        ("external_id", &contact.external_id),
    ];
    fields.insert("email".to_owned(), json!(contact.email));
    fields.extend(built_in.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value.as_ref()?)))));
    let attributes: Map<String, Value> = contact.attributes.iter().map(|(name, value)| (name.clone(), attribute(value))).collect();
    Ok(json!({
        "id": contact.id.to_string(),
        "created_at": created.map(|time| time.to_string()),
        "updated_at": updated.map(|time| time.to_string()),
        "fields": fields,
        "attributes": attributes,
        "identities": identities,
    }))
}

/// An attribute as JSON.
pub fn attribute(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => json!(text),
        AttributeValue::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => json!(*number as i64),
        AttributeValue::Number(number) => json!(number),
        AttributeValue::Boolean(flag) => json!(flag),
        AttributeValue::Date(date) => json!(date.to_string()),
        AttributeValue::List(values) => json!(values),
    }
}

async fn topics(db: &mut impl Connection, contact_id: i64) -> Result<Value, DbError> {
    let sql = "SELECT COALESCE(t.name, '*'), s.standing, s.since, s.frequency, s.until, s.ends
               FROM (SELECT id FROM topic UNION SELECT 0) AS known
               JOIN subscription s ON s.topic_id = known.id AND s.contact_id = $1
               LEFT JOIN topic t ON t.id = known.id
               ORDER BY 1";
    let columns = [Text("topic"), Text("standing"), Moment("since"), Text("frequency"), Moment("until"), Moment("ends")];
    objects(db, sql, args![contact_id], &columns).await
}

const CHOICES: &str = "SELECT tracking, profiling, changed_at FROM consent_choice WHERE contact_id = $1";

async fn history(db: &mut impl Connection, contact_id: i64) -> Result<Value, DbError> {
    let sql = "SELECT e.seq, e.at, COALESCE(t.name, '*'), e.action, e.source, e.source_line, e.channel, e.purpose, e.basis, e.frequency,
                 e.until, e.detail, e.wording_hash, w.wording, w.locale, e.evidence, e.evidence_digest, e.origin, e.origin_digest
               FROM consent_event e
               LEFT JOIN topic t ON t.id = e.topic_id
               LEFT JOIN consent_wording w ON w.hash = e.wording_hash
               WHERE e.contact_id = $1
               ORDER BY e.seq";
    let columns = [
        Number("entry"),
        Moment("at"),
        Text("topic"),
        Text("action"),
        Text("source"),
        Number("source_line"),
        Text("channel"),
        Text("purpose"),
        Text("basis"),
        Text("frequency"),
        Moment("until"),
        Text("detail"),
        Text("wording_hash"),
        Text("wording"),
        Text("wording_locale"),
        Document("proof"),
        Text("proof_digest"),
        Document("origin"),
        Text("origin_digest"),
    ];
    let mut events = objects(db, sql, args![contact_id], &columns).await?;
    let hashes = db.rows("SELECT hash FROM consent_event WHERE contact_id = $1 ORDER BY seq", args![contact_id]).await?;
    for (event, row) in events.as_array_mut().into_iter().flatten().zip(hashes) {
        event["hash"] = json!(crate::consent::ledger::hex(&row.get::<Vec<u8>>(0)?));
    }
    Ok(events)
}

const CONFIRMATIONS: &str = "SELECT t.name, f.asked_at, f.sent_at, f.form, f.reminded_at, f.locale, f.profile
     FROM topic t JOIN confirmation f ON f.topic_id = t.id AND f.contact_id = $1
     ORDER BY f.asked_at";
const CONFIRMATION_COLUMNS: &[Column] = &[
    Text("topic"),
    Moment("asked_at"),
    Moment("sent_at"),
    Text("form"),
    Moment("reminded_at"),
    Text("locale"),
    // What was typed into the form and waits for the confirmation.
    Document("profile"),
];

/// Mails of campaigns. A subject is given as the campaign has it: what stands in its braces was filled in.
async fn mails(db: &mut impl Connection, contact_id: i64) -> Result<Value, DbError> {
    let sql = "SELECT d.id, r.id, r.campaign, r.definition, d.state, d.reason, d.reply, d.attempts, d.changed_at, d.provider
               FROM delivery d
               JOIN run r ON r.id = d.run_id
               WHERE d.contact_id = $1
               ORDER BY d.id";
    let columns = [
        Id("delivery"),
        Id("run"),
        Text("campaign"),
        Document("definition"),
        Text("state"),
        Text("reason"),
        Text("reply"),
        Number("attempts"),
        Moment("at"),
        Text("provider"),
    ];
    let mut mails = objects(db, sql, args![contact_id], &columns).await?;
    for mail in mails.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        let subject = mail.remove("definition").and_then(|definition| definition.get("subject").cloned());
        mail.extend(subject.map(|subject| ("subject".to_owned(), subject)));
    }
    Ok(mails)
}

const HITS: &str = "SELECT h.at, h.kind, r.campaign, h.run_id, l.url, h.verdict, h.signals, h.ip, COALESCE(a.text, h.agent), h.times
     FROM hit h
     LEFT JOIN agent a ON a.id = h.agent_id
     LEFT JOIN run r ON r.id = h.run_id
     LEFT JOIN run_link l ON l.run_id = h.run_id AND l.position = h.link
     WHERE h.contact_id = $1
     ORDER BY h.at, h.id";
const HIT_COLUMNS: &[Column] = &[
    Moment("at"),
    Text("kind"),
    Text("campaign"),
    Id("run"),
    Text("link"),
    Text("verdict"),
    Text("signals"),
    Text("ip"),
    Text("agent"),
    Number("times"),
];

const SEGMENTS: &str =
    "SELECT n.name, m.since FROM segment_member m JOIN segment_name n ON n.id = m.segment_id WHERE m.contact_id = $1 ORDER BY n.id";
const SEGMENT_CHANGES: &str = "SELECT n.name, g.at, CASE WHEN g.joined THEN 'joined' ELSE 'left' END
     FROM segment_change g JOIN segment_name n ON n.id = g.segment_id WHERE g.contact_id = $1 ORDER BY g.at, n.id";
const FROZEN_LISTS: &str =
    "SELECT l.name, l.at, l.rule FROM frozen_member f JOIN frozen_list l ON l.id = f.list_id WHERE f.contact_id = $1 ORDER BY l.id";

const UNSUBSCRIBES: &str = "SELECT u.at, u.way, r.campaign, u.run_id
     FROM delivery d
     JOIN unsubscribe u ON u.delivery_id = d.id
     LEFT JOIN run r ON r.id = u.run_id
     WHERE d.contact_id = $1
     ORDER BY u.at";

const REASONS: &str = "SELECT w.at, COALESCE(t.name, '*'), w.reason, w.comment, w.run_id
     FROM withdrawal_reason w
     LEFT JOIN topic t ON t.id = w.topic_id
     WHERE w.contact_id = $1
     ORDER BY w.id";
const REASON_COLUMNS: &[Column] = &[Moment("at"), Text("topic"), Text("reason"), Text("comment"), Id("run")];

/// Messages with what they were written from: the data, and the words where the caller wrote them.
async fn messages(db: &mut impl Connection, contact_id: i64) -> Result<Value, DbError> {
    let sql = "SELECT m.id, m.kind, m.client, m.template, m.data, m.locale, m.created_at, m.expires_at, d.state, d.reason, d.reply,
                 d.changed_at, f.definition
               FROM message m
               LEFT JOIN delivery d ON d.id = m.delivery_id
               LEFT JOIN message_definition f ON f.hash = m.definition_hash
               WHERE m.contact_id = $1
               ORDER BY m.id";
    let columns = [
        Id("id"),
        Text("kind"),
        Text("client"),
        Text("template"),
        Document("data"),
        Text("locale"),
        Moment("created_at"),
        Moment("expires_at"),
        Text("state"),
        Text("reason"),
        Text("reply"),
        Moment("at"),
        Document("definition"),
    ];
    let mut messages = objects(db, sql, args![contact_id], &columns).await?;
    for message in messages.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        let Some(definition) = message.remove("definition") else { continue };
        // A template's words are the instance's; its subject says what the mail was.
        let (keys, inner): (&[&str], _) = match (definition.get("inline"), definition.get("template")) {
            (Some(inline), _) => (&["subject", "html", "text"], inline),
            (None, Some(template)) => (&["subject"], template),
            (None, None) => continue,
        };
        for key in keys {
            if let Some(value) = inner.get(*key).filter(|value| !value.is_null()) {
                message.insert((*key).to_owned(), value.clone());
            }
        }
    }
    Ok(messages)
}

/// Whatever keeps the address from getting mail: its own entry, one of its domain, a hash of it.
async fn suppressions(tx: &mut Tx, contact: &Contact) -> Result<Value, DbError> {
    let key = contact.email_key.as_str();
    let mut found: Vec<suppression::Entry> = suppression::look_up(tx, &[key]).await?.into_values().collect();
    for rule in suppression::look_up_rules(tx, &[key]).await?.into_values() {
        if !found.contains(&rule) {
            found.push(rule);
        }
    }
    let entry = |entry: &suppression::Entry| {
        let mut out = json!({
            "kind": entry.kind.as_str(),
            "value": entry.value,
            "reason": entry.reason,
            "source": entry.source,
            "at": entry.at.to_string(),
        });
        if let Some(expires_at) = entry.expires_at {
            out["expires_at"] = json!(expires_at.to_string());
        }
        out
    };
    Ok(found.iter().map(entry).collect())
}

/// When the address was taken off the list, and on whose word.
async fn removals(db: &mut impl Connection, keys: &Keys, contact: &Contact) -> Result<Value, DbError> {
    let removed = suppression::removals(db, &Digests::new(keys), suppression::Kind::Address, &contact.email_key).await?;
    let entry = |entry: &suppression::Removal| json!({ "at": entry.at.to_string(), "reason": entry.reason, "since": entry.since.to_string(), "source": entry.source });
    Ok(removed.iter().map(entry).collect())
}

const WELCOMES: &str = "SELECT t.name, w.asked_at, w.message_id
     FROM welcome w JOIN topic t ON t.id = w.topic_id
     WHERE w.contact_id = $1
     ORDER BY w.asked_at, t.name";

/// What the API answered about the person and keeps for a repetition.
const ANSWERS: &str = "SELECT at, client, answer FROM api_request WHERE contact_id = $1 ORDER BY at, key";

const COUPONS: &str = "SELECT pool, code, given_at FROM coupon WHERE contact_id = $1 ORDER BY given_at, pool";

const DIGESTS: &str = "SELECT t.name, g.since, g.next_at
     FROM topic t JOIN digest g ON g.topic_id = t.id AND g.contact_id = $1
     ORDER BY t.id";

const REQUESTS: &str = "SELECT kind, state, source, asked_at, due_at, verified_at, closed_at, note
     FROM rights_request
     WHERE contact_id = $1 OR subject = $2
     ORDER BY id";
const REQUEST_COLUMNS: &[Column] = &[
    Text("kind"),
    Text("state"),
    Text("source"),
    Moment("asked_at"),
    Moment("due_at"),
    Moment("verified_at"),
    Moment("closed_at"),
    Text("note"),
];
