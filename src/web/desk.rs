//! What the pages about a person's own data do in the database.

use std::sync::Arc;

use crate::clock::Time;
use crate::contact::{self, Address, Contact};
use crate::delivery::messages::{Content, NewMessage};
use crate::instance::Instance;
use crate::rights::erase::{self, Erasure};
use crate::rights::register::{self, Request};
use crate::rights::request::{self, LINK_MS, Link, SOURCE, Standing};
use crate::rights::{Kind, State, access, page};
use crate::text::i18n::Lang;

/// The client under which our own mails stand among messages.
const CLIENT: &str = "optin:rights";

/// See the module.
pub struct Desk {
    instance: Arc<Instance>,
}

impl Desk {
    /// Of an instance.
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Desk { instance }
    }

    /// Whether a confirmed demand is carried out at once.
    pub(super) fn is_automatic(&self) -> bool {
        self.instance.config.rights.automatic
    }

    /// Enters a demand and mails its link to the address, unless one went out lately.
    pub(super) async fn ask(&self, contact: &Contact, kind: Kind, lang: Lang, now: Time) -> anyhow::Result<()> {
        let Instance { db, keys, entropy, config, .. } = &*self.instance;
        let mut tx = db.begin().await?;
        let link = request::ask(&mut tx, keys, entropy, contact, kind, config.rights.days, now).await?;
        tx.commit().await?;
        let Some(link) = link else { return Ok(()) };
        if let Err(error) = self.mail(contact, kind, lang, &link, now).await {
            // Nothing was promised yet: whoever asks again is heard.
            let mut tx = db.begin().await?;
            register::close(&mut tx, link.request_id, State::Lapsed, None, now).await?;
            tx.commit().await?;
            return Err(error);
        }
        Ok(())
    }

    async fn mail(&self, contact: &Contact, kind: Kind, lang: Lang, link: &Link, now: Time) -> anyhow::Result<()> {
        let words = lang.words();
        let (subject, text) = match kind {
            Kind::Erasure => (words.rights_mail_erase_subject, words.rights_mail_erase_text),
            _ => (words.rights_mail_export_subject, words.rights_mail_export_text),
        };
        let address = format!("{}/r/{}?lang={}", self.instance.config.site.url.value, link.token(&self.instance.keys), lang.tag());
        // The address holds no character that HTML knows, and the words are ours.
        let html = format!(
            "<!doctype html><html lang=\"{tag}\"><head><meta charset=\"utf-8\"><title>{subject}</title></head>\
             <body style=\"font:16px/1.6 system-ui,sans-serif;max-width:34em;margin:0 auto;padding:24px\">\
             <h1 style=\"font-size:22px\">{subject}</h1><p>{text}</p>\
             <p><a href=\"{address}\" style=\"display:inline-block;padding:12px 20px;border-radius:10px;background:#1f6b4a;color:#ffffff;font-weight:600;text-decoration:none\">{button}</a></p>\
             <p style=\"word-break:break-all\">{address}</p><p>{ignore}</p></body></html>",
            tag = lang.tag(),
            button = words.rights_mail_button,
            ignore = words.rights_mail_ignore,
        );
        let new = NewMessage {
            client: CLIENT.to_owned(),
            idempotency_key: Some(link.request_id.to_string()),
            to: Address::parse(&contact.email).map_err(|error| anyhow::anyhow!("contact {}: {error}", contact.id))?,
            content: Content::Inline {
                subject: subject.to_owned(),
                html: Some(html),
                text: Some(format!("{text}\n\n{address}\n\n{}\n", words.rights_mail_ignore)),
            },
            locale: Some(lang.tag().to_owned()),
            expires_hours: u32::try_from(LINK_MS / crate::clock::HOUR).ok(),
            at: None,
        };
        self.instance.message_intake().accept(&new, now).await?;
        Ok(())
    }

    /// What a link leads to.
    pub(super) async fn look(&self, link: &Link, now: Time) -> anyhow::Result<Standing> {
        Ok(request::look(&mut self.instance.db.clone(), link, now).await?)
    }

    /// Leaves a confirmed demand to an operator.
    pub(super) async fn verify(&self, request_id: i64, now: Time) -> anyhow::Result<()> {
        let mut tx = self.instance.db.begin().await?;
        register::verify(&mut tx, request_id, now).await?;
        Ok(tx.commit().await?)
    }

    /// Erases the person; false where they are gone already.
    pub(super) async fn erase(&self, contact_id: i64, now: Time) -> anyhow::Result<bool> {
        let Instance { db, keys, entropy, schema, config, .. } = &*self.instance;
        let mut tx = db.begin().await?;
        contact::care::hold(&mut tx, contact_id).await?;
        let Some(contact) = contact::sql::by_ids(&mut tx, schema, &[contact_id]).await?.pop() else {
            tx.rollback().await?;
            return Ok(false);
        };
        // Whoever wants to be forgotten does not want to be brought in again by the next import.
        let erasure = Erasure { source: SOURCE, note: None, keep_out: true, demanded: true, days: config.rights.days };
        erase::erase(&mut tx, keys, entropy, &contact, &erasure, now).await?;
        tx.commit().await?;
        tracing::info!(contact = contact_id, "erased at their own demand");
        erase::settle(db).await;
        Ok(true)
    }

    /// The archive of a person, and the entry that they have it; `None` where they are gone.
    pub(super) async fn export(&self, request: &Request, lang: Lang, now: Time) -> anyhow::Result<Option<Vec<u8>>> {
        let Instance { db, keys, schema, config, .. } = &*self.instance;
        let mut tx = db.begin().await?;
        register::verify(&mut tx, request.id, now).await?;
        register::close(&mut tx, request.id, State::Done, None, now).await?;
        tx.commit().await?;
        let mut tx = db.begin_read().await?;
        let contacts = contact::sql::by_ids(&mut tx, schema, &request.contact_id.into_iter().collect::<Vec<_>>()).await?;
        let Some(contact) = contacts.first() else { return Ok(None) };
        let data = access::collect(&mut tx, config, keys, contact, now).await?;
        tx.rollback().await?;
        let archive = page::archive(config, contact, lang, &data).map_err(anyhow::Error::msg)?;
        tracing::info!(contact = contact.id, bytes = archive.len(), "handed out a copy of their data");
        Ok(Some(archive))
    }
}
