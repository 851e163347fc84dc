//! A message, from what it is written from to the bytes that go over the wire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Kind, Message};
use crate::clock::Time;
use crate::contact::{Address, Contact, Schema};
use crate::content::message::{MessageDefinition, PreparedMessage, prepare_message};
use crate::content::{LinkMaker, Mail};
use crate::delivery::links::DeliveryLinks;
use crate::delivery::message::{list_headers, sender_id};
use crate::delivery::mime::{Header, alternative, date, only_text};

/// Prepared templates kept: one costs some milliseconds to make and some 100 KB to keep. Only
/// templates are kept; what a caller wrote comes once.
const KEPT: usize = 256;

/// Writes messages; keeps the templates it has prepared. Cheap to clone, all clones share them.
#[derive(Debug, Clone)]
pub struct Composer {
    schema: Schema,
    prepared: Arc<Mutex<HashMap<String, Arc<PreparedMessage>>>>,
}

/// A message as it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// The recipient's address in wire form (RCPT TO).
    pub to: String,
    /// The envelope sender (MAIL FROM).
    pub return_path: String,
    /// All bytes, lines ending in CRLF, without the final line end.
    pub bytes: Vec<u8>,
}

impl Composer {
    /// For contacts with these attributes.
    pub fn new(schema: Schema) -> Self {
        Composer { schema, prepared: Arc::default() }
    }

    /// The rendered text of a message. `hash` is the definition's; `locale` takes the place of the
    /// contact's own; `links` are those of a mail that people subscribed to.
    ///
    /// # Errors
    /// What is wrong with the template, or with it and `data` together.
    pub fn render(
        &self,
        hash: &str,
        definition: &MessageDefinition,
        data: &serde_json::Value,
        contact: &Contact,
        locale: Option<&str>,
        links: Option<&dyn LinkMaker>,
        now: Time,
    ) -> Result<Mail, String> {
        let prepared = self.prepared(hash, definition)?;
        let rendered = match locale {
            Some(locale) => prepared.render(&Contact { locale: Some(locale.to_owned()), ..contact.clone() }, data, links, now),
            None => prepared.render(contact, data, links, now),
        };
        rendered.map_err(|error| error.to_string())
    }

    /// All of a message, ready to be handed over. The Message-ID is the same for every attempt. `links` are
    /// those of a mail that people subscribed to, which says in its headers how to leave.
    ///
    /// # Errors
    /// Why it cannot be written, which another attempt would not change.
    pub fn compose(
        &self,
        message: &Message,
        contact: &Contact,
        delivery_id: i64,
        links: Option<&DeliveryLinks<'_>>,
        now: Time,
    ) -> Result<Composed, String> {
        let to = Address::parse(&contact.email).map_err(|error| error.to_string())?;
        let (definition, locale) = (&message.definition, message.locale.as_deref());
        let maker = links.map(|links| links as &dyn LinkMaker);
        let mail = self.render(&message.definition_hash, definition, &message.data, contact, locale, maker, now)?;
        let sender = message.definition.sender();
        let domain = sender.email.rsplit_once('@').map_or("localhost", |(_, domain)| domain).to_ascii_lowercase();
        let mut headers = vec![
            Header::structured("Date", date(now)),
            Header::mailbox("From", &sender.name, &sender.email),
            Header::mailbox("To", "", to.wire()),
            Header::text("Subject", &mail.subject),
            Header::structured("Message-ID", format!("<{delivery_id:x}.optin@{domain}>")),
        ];
        if let Some(reply_to) = &sender.reply_to {
            headers.push(Header::mailbox("Reply-To", "", reply_to));
        }
        if let Some(links) = links {
            let said = |key: &str| message.data.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
            let reply_to = sender.reply_to.as_deref().unwrap_or(&sender.email);
            headers.extend(list_headers(said("topic"), &format!("{}.{domain}", said("list")), reply_to, links));
        }
        headers.extend([
            // RFC 3834 section 5.1: nobody's holiday notice answers it.
            Header::structured("Auto-Submitted", "auto-generated".to_owned()),
            Header::structured(
                "Feedback-ID",
                format!("m-{}:{}:optin:{}", definition.template().unwrap_or("inline"), feedback(message.kind), sender_id(&domain)),
            ),
            Header::structured("X-Optin-Delivery", format!("{delivery_id:x}")),
        ]);
        let bytes = match mail.html.is_empty() {
            true => only_text(&headers, &mail.text),
            false => alternative(&headers, delivery_id as u64, &mail.text, &mail.html),
        };
        Ok(Composed { to: to.wire().to_owned(), return_path: sender.email.clone(), bytes })
    }

    fn prepared(&self, hash: &str, definition: &MessageDefinition) -> Result<Arc<PreparedMessage>, String> {
        let kept = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = kept().get(hash) {
            return Ok(prepared.clone());
        }
        let prepared = prepare_message(definition, &self.schema)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let prepared = Arc::new(prepared);
        if !matches!(definition, MessageDefinition::Inline { .. }) {
            let mut kept = kept();
            if kept.len() >= KEPT {
                kept.clear();
            }
            kept.insert(hash.to_owned(), prepared.clone());
        }
        Ok(prepared)
    }
}

/// The part of `Feedback-ID` that says what kind of mail it was.
fn feedback(kind: Kind) -> &'static str {
    if kind == Kind::Transactional { "message" } else { kind.as_str() }
}
