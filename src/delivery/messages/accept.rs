//! Taking a message: checked, written once for every key, durable before the answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::sql::NewRow;
use super::{
    Accepted, Composer, Content, DEFAULT_EXPIRES_HOURS, Kind, MAX_AHEAD_MS, MAX_DATA_BYTES, MAX_HTML_BYTES, MAX_KEY_BYTES,
    MAX_LOCALE_BYTES, MAX_SUBJECT_BYTES, MAX_TEXT_BYTES, NewMessage, NotAccepted, sql,
};
use crate::clock::{HOUR, Time};
use crate::config::Config;
use crate::config::diagnostics::did_you_mean;
use crate::config::messages::MAX_EXPIRES_HOURS;
use crate::consent::suppression::Digests;
use crate::consent::{self, message_refusal};
use crate::contact::{self, Address, Contact, Schema};
use crate::content::message::MessageDefinition;
use crate::db::{Db, DbError};
use crate::delivery::provider::Providers;
use crate::entropy::Entropy;

/// Accepts messages.
#[derive(Clone)]
pub struct Intake {
    db: Db,
    pub(super) entropy: Entropy,
    schema: Schema,
    pub(super) config: Arc<Config>,
    composer: Composer,
    digests: Digests,
    pub(super) providers: Arc<Providers>,
    accepted: Arc<Notify>,
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Intake")
    }
}

impl Intake {
    /// For the templates of `config`. `accepted` is told of each message, so that a sender in this
    /// process need not wait for its next look.
    pub fn new(
        config: Arc<Config>,
        db: Db,
        schema: Schema,
        entropy: Entropy,
        digests: Digests,
        providers: Arc<Providers>,
        accepted: Arc<Notify>,
    ) -> Self {
        let composer = Composer::new(schema.clone());
        Intake { db, entropy, schema, config, composer, digests, providers, accepted }
    }

    /// Accepts a message: finds or makes the contact (no subscription comes of it), writes message
    /// and delivery, and commits. The same request with the same key gives the message of the first
    /// time. A message to a suppressed address is accepted and skipped at once, for its status to say so.
    ///
    /// # Errors
    /// Why not; then nothing was written.
    pub async fn accept(&self, new: &NewMessage, now: Time) -> Result<Accepted, NotAccepted> {
        check(new, now)?;
        let digest = digest(new);
        let key = new.idempotency_key.as_deref();
        // Before the content: a repetition is answered alike when the template has changed since.
        if let Some(key) = key
            && let Some(found) = sql::by_key(&mut self.db.clone(), &new.client, key).await?
        {
            return repeated(found, &digest);
        }
        let (definition, data, expires_hours) = self.content(new)?;
        let hash = definition.hash();
        let known = contact::sql::by_email_key(&mut self.db.clone(), &self.schema, new.to.key()).await?;
        let contact = known.clone().unwrap_or_else(|| stranger(&new.to));
        self.composer.render(&hash, &definition, &data, &contact, new.locale.as_deref(), None, now).map_err(NotAccepted::Render)?;
        let due_at = new.at.unwrap_or(now).max(now);
        let hours = new.expires_hours.or(expires_hours).unwrap_or(DEFAULT_EXPIRES_HOURS);
        let data = data.to_string();
        let mut tx = self.db.begin().await?;
        let contact_id = match known {
            Some(contact) => contact.id,
            None => consent::ops::make_known(&mut tx, &self.schema, &self.entropy, &self.digests, now, &new.to, &[]).await?.id,
        };
        let row = NewRow {
            id: self.entropy.id(now),
            delivery_id: self.entropy.id(now),
            contact_id,
            kind: Kind::Transactional,
            topic_id: None,
            client: &new.client,
            idempotency_key: key,
            request_digest: &digest,
            template: definition.template(),
            definition_hash: &hash,
            data: &data,
            locale: new.locale.as_deref(),
            created_at: now,
            expires_at: due_at.plus(i64::from(hours) * HOUR),
        };
        if !sql::insert(&mut tx, &row).await? {
            // Somebody was faster with the same key.
            let found = sql::by_key(&mut tx, &new.client, key.unwrap_or_default()).await?;
            tx.rollback().await?;
            let found = found.ok_or_else(|| DbError::Unexpected("a message's key is taken by no message".to_owned()))?;
            return repeated(found, &digest);
        }
        sql::keep_definition(&mut tx, &hash, &definition.to_json()).await?;
        let refusal = message_refusal(&mut tx, contact_id).await?;
        let skipped = refusal.as_ref().map(|refusal| (refusal.code(), refusal.to_string()));
        let provider = self.providers.of(new.to.domain());
        sql::enqueue(&mut tx, &row, provider, skipped, due_at).await?;
        tx.commit().await?;
        self.wake();
        Ok(Accepted { id: row.id, created: true })
    }

    /// Tells the sender in this process that a message was committed, so that it need not wait for its next
    /// look.
    pub fn wake(&self) {
        self.accepted.notify_one();
    }

    /// What it is written from, what that sees as `data`, and the template's own expiry.
    fn content(&self, new: &NewMessage) -> Result<(MessageDefinition, Value, Option<u32>), NotAccepted> {
        match &new.content {
            Content::Template { name, data } => {
                let template = self.config.messages.get(name).ok_or_else(|| self.unknown_template(name))?;
                Ok((MessageDefinition::of_template(&self.config, template), Value::Object(data.clone()), template.expires_hours))
            }
            Content::Inline { subject, html, text } => {
                let sender = self.config.sender.clone();
                let definition = MessageDefinition::Inline { subject: subject.clone(), html: html.clone(), text: text.clone(), sender };
                Ok((definition, json!({}), None))
            }
        }
    }

    fn unknown_template(&self, name: &str) -> NotAccepted {
        let known: Vec<&str> = self.config.messages.keys().map(String::as_str).collect();
        let hint = match did_you_mean(name, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => "there are none yet: a template is a file in `messages/` of the configuration".to_owned(),
            None => format!("templates are {}", known.iter().take(10).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        NotAccepted::UnknownTemplate { name: name.to_owned(), hint }
    }
}

/// Somebody of whom nothing but the address is known.
fn stranger(to: &Address) -> Contact {
    Contact {
        id: 0,
        email: to.as_str().to_owned(),
        email_key: to.key().to_owned(),
        first_name: None,
        last_name: None,
        locale: None,
        timezone: None,
        phone: None,
        external_id: None,
        attributes: BTreeMap::new(),
    }
}

fn repeated((id, first): (i64, String), digest: &str) -> Result<Accepted, NotAccepted> {
    if first == digest { Ok(Accepted { id, created: false }) } else { Err(NotAccepted::Conflict { id }) }
}

/// The limits of a request.
fn check(new: &NewMessage, now: Time) -> Result<(), NotAccepted> {
    let wrong = |field, message: String, hint: String| Err(NotAccepted::Field { field, message, hint });
    let too_long = |field, text: &str, limit: usize| match text.len() {
        bytes if bytes > limit => wrong(field, format!("`{field}` is {bytes} bytes long"), format!("at most {limit} bytes are taken")),
        _ => Ok(()),
    };
    if let Some(key) = &new.idempotency_key {
        too_long("idempotency_key", key, MAX_KEY_BYTES)?;
        if key.trim().is_empty() || key.chars().any(char::is_control) {
            let message = "the idempotency key is empty or holds control characters".to_owned();
            return wrong("idempotency_key", message, "a UUID makes a good one".to_owned());
        }
    }
    match &new.content {
        Content::Template { data, .. } => too_long("data", &Value::Object(data.clone()).to_string(), MAX_DATA_BYTES)?,
        Content::Inline { subject, html, text } => {
            too_long("subject", subject, MAX_SUBJECT_BYTES)?;
            too_long("html", html.as_deref().unwrap_or_default(), MAX_HTML_BYTES)?;
            too_long("text", text.as_deref().unwrap_or_default(), MAX_TEXT_BYTES)?;
            if subject.trim().is_empty() {
                return wrong("subject", "`subject` is empty".to_owned(), "say what the message is about".to_owned());
            }
            if [html, text].into_iter().all(|part| part.as_deref().is_none_or(|part| part.trim().is_empty())) {
                return wrong("text", "the message says nothing".to_owned(), "send `text`, `html`, or both".to_owned());
            }
        }
    }
    if let Some(locale) = &new.locale {
        too_long("locale", locale, MAX_LOCALE_BYTES)?;
        if locale.is_empty() || !locale.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            return wrong("locale", format!("`{locale}` is no language tag"), "write one such as `en` or `zh-Hant-TW`".to_owned());
        }
    }
    if let Some(hours) = new.expires_hours
        && !(1..=MAX_EXPIRES_HOURS).contains(&hours)
    {
        let hint = format!("write a whole number from 1 to {MAX_EXPIRES_HOURS}");
        return wrong("expires_hours", format!("{hours} hours cannot be waited"), hint);
    }
    if new.at.is_some_and(|at| at > now.plus(MAX_AHEAD_MS)) {
        let hint = format!("at most {} days ahead; send it later", MAX_AHEAD_MS / crate::clock::DAY);
        return wrong("at", "`at` lies too far ahead".to_owned(), hint);
    }
    Ok(())
}

/// What makes a request the same: everything but the key. Objects are sorted by key, so their order
/// says nothing.
fn digest(new: &NewMessage) -> String {
    let content = match &new.content {
        Content::Template { name, data } => json!({ "template": name, "data": sorted(&Value::Object(data.clone())) }),
        Content::Inline { subject, html, text } => json!({ "subject": subject, "html": html, "text": text }),
    };
    let at = new.at.map(Time::millis);
    let request = json!([new.to.key(), content, new.locale, new.expires_hours, at]);
    Sha256::digest(request.to_string().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A JSON value whose objects are in order, whatever map is behind them.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let ordered: BTreeMap<&String, Value> = object.iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Array(ordered.into_iter().map(|(key, value)| json!([key, value])).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(sorted).collect()),
        other => other.clone(),
    }
}
