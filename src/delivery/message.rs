//! One person's mail, from rendered content to the bytes that go over the wire.

use sha2::{Digest, Sha256};

use super::links::DeliveryLinks;
use super::mime::{Header, alternative, date};
use crate::campaign::Definition;
use crate::clock::Time;
use crate::content::{LinkMaker, Mail};

/// What all mails of a run share in their headers.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Domain of the From address: Message-IDs and List-Id live in it.
    domain: String,
    list_id: String,
    feedback_id: String,
    reply_to: Option<String>,
    from_name: String,
    from_email: String,
    unsubscribe_email: String,
}

impl Envelope {
    /// Prepares the headers that do not depend on the person.
    pub fn new(definition: &Definition) -> Envelope {
        let sender = &definition.sender;
        let domain = sender.email.rsplit_once('@').map_or("localhost", |(_, domain)| domain).to_ascii_lowercase();
        Envelope {
            feedback_id: format!("c-{}:t-{}:optin:{}", definition.campaign, definition.topic, sender_id(&domain)),
            // RFC 2919 section 3: a label of ours inside a domain of ours, stable when the topic's
            // name as shown to people changes.
            list_id: format!("{}.{domain}", definition.topic),
            reply_to: sender.reply_to.clone(),
            from_name: sender.name.clone(),
            from_email: sender.email.clone(),
            unsubscribe_email: sender.reply_to.clone().unwrap_or_else(|| sender.email.clone()),
            domain,
        }
    }

    /// The domain of the From address: who signs.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The envelope sender (MAIL FROM).
    pub fn return_path(&self) -> &str {
        &self.from_email
    }

    /// The Message-ID of a delivery: the same for every attempt (RFC 5322 section 3.6.4).
    pub fn message_id(&self, delivery_id: i64) -> String {
        format!("<{delivery_id:x}.optin@{}>", self.domain)
    }

    /// All bytes of one mail to the address `to` (wire form), lines ending in CRLF, without the final
    /// line end. `mark` stands before the subject of test mails.
    pub fn message(
        &self,
        definition: &Definition,
        to: &str,
        mail: &Mail,
        links: &DeliveryLinks<'_>,
        mark: Option<&str>,
        now: Time,
    ) -> Vec<u8> {
        let subject = match mark {
            Some(mark) => format!("{mark} {}", mail.subject),
            None => mail.subject.clone(),
        };
        let mut headers = vec![
            Header::structured("Date", date(now)),
            Header::mailbox("From", &self.from_name, &self.from_email),
            Header::mailbox("To", "", to),
            Header::text("Subject", &subject),
            Header::structured("Message-ID", self.message_id(links.delivery_id)),
        ];
        if let Some(reply_to) = &self.reply_to {
            headers.push(Header::mailbox("Reply-To", "", reply_to));
        }
        headers.extend(list_headers(&definition.topic_name, &self.list_id, &self.unsubscribe_email, links));
        headers.extend([
            Header::structured("Feedback-ID", self.feedback_id.clone()),
            Header::structured("X-Optin-Delivery", format!("{:x}", links.delivery_id)),
        ]);
        alternative(&headers, links.delivery_id as u64, &mail.text, &mail.html)
    }
}

/// The headers of mail that people subscribed to: which list it is of (RFC 2919), and how to leave it by one
/// click (RFC 8058) or by mail (RFC 2369).
pub(super) fn list_headers(topic_name: &str, list_id: &str, unsubscribe_email: &str, links: &DeliveryLinks<'_>) -> [Header; 5] {
    [
        Header::mailbox("List-Id", topic_name, list_id),
        Header::structured(
            "List-Unsubscribe",
            format!("<{}>,\r\n <mailto:{unsubscribe_email}?subject=unsubscribe%20{}>", links.one_click(), links.mail_token()),
        ),
        Header::structured("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()),
        Header::structured("List-Post", "NO".to_owned()),
        Header::structured("List-Help", format!("<{}>", links.preferences())),
    ]
}

/// Google's SenderId: 5 to 15 characters, the same for all mail of a sender.
pub(super) fn sender_id(domain: &str) -> String {
    Sha256::digest(domain.as_bytes()).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}
