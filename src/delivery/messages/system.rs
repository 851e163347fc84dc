//! The engine's own mails: written inside the transaction of whoever has a reason for one.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::sql::NewRow;
use super::{Accepted, Intake, Kind, sql};
use crate::clock::Time;
use crate::config::MessageTemplate;
use crate::contact::{Address, Contact};
use crate::content::message::MessageDefinition;
use crate::content::system::SystemText;
use crate::db::{DbError, Tx};

/// The client of the engine's own mails. No token can be called so (`:` is no letter of a name), so no
/// application can take their keys.
const CLIENT: &str = "optin:system";

/// A mail of the engine's own.
#[derive(Debug)]
pub struct SystemMail<'a> {
    /// What it is for.
    pub kind: Kind,
    /// For whom.
    pub contact: &'a Contact,
    /// The topic whose permission it needs: for a welcome and a digest.
    pub topic_id: Option<i64>,
    /// Names it for good: the same key makes no second mail.
    pub key: &'a str,
    /// What it says.
    pub content: SystemContent<'a>,
    /// Not sent after this moment.
    pub expires_at: Time,
}

/// What a mail of the engine's own says.
#[derive(Debug)]
pub enum SystemContent<'a> {
    /// Words of ours.
    Text(&'a SystemText),
    /// A template of the instance, with `data`. `locale` where it is not the contact's own.
    Welcome {
        /// From `messages/`.
        template: &'a MessageTemplate,
        /// What it sees.
        data: Map<String, Value>,
    },
}

impl Intake {
    /// Writes a mail of the engine's own in the caller's transaction: it leaves once that is committed
    /// ([`Intake::wake`] says so to the sender in this process), if at that moment its [`Kind`] has the
    /// permission it needs. A key that was used gives the mail of the first time.
    pub async fn enqueue_system(&self, tx: &mut Tx, mail: &SystemMail<'_>, now: Time) -> Result<Accepted, DbError> {
        let (definition, data) = match &mail.content {
            SystemContent::Text(text) => {
                let data = serde_json::to_value(text).map_err(|error| DbError::Unexpected(error.to_string()))?;
                (MessageDefinition::System { sender: self.config.sender.clone() }, data)
            }
            SystemContent::Welcome { template, data } => {
                (MessageDefinition::of_welcome(&self.config, template), Value::Object(data.clone()))
            }
        };
        let (hash, data) = (definition.hash(), data.to_string());
        let digest: String = Sha256::digest(data.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let row = NewRow {
            id: self.entropy.id(now),
            delivery_id: self.entropy.id(now),
            contact_id: mail.contact.id,
            kind: mail.kind,
            topic_id: mail.topic_id,
            client: CLIENT,
            idempotency_key: Some(mail.key),
            request_digest: &digest,
            template: definition.template(),
            definition_hash: &hash,
            data: &data,
            locale: None,
            created_at: now,
            expires_at: mail.expires_at,
        };
        if !sql::insert(tx, &row).await? {
            let (id, _) = sql::by_key(tx, CLIENT, mail.key)
                .await?
                .ok_or_else(|| DbError::Unexpected("a message's key is taken by no message".to_owned()))?;
            return Ok(Accepted { id, created: false });
        }
        sql::keep_definition(tx, &hash, &definition.to_json()).await?;
        let domain = Address::parse(&mail.contact.email).map(|address| address.domain().to_owned()).unwrap_or_default();
        sql::enqueue(tx, &row, self.providers.of(&domain), None, now).await?;
        Ok(Accepted { id: row.id, created: true })
    }
}
