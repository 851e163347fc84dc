//! What the pages about a person's own data do in the database.

use std::sync::Arc;

use crate::clock::Time;
use crate::contact::{self, Contact};
use crate::content::system::{Button, SystemText};
use crate::delivery::messages::{Kind as MessageKind, SystemContent, SystemMail};
use crate::instance::Instance;
use crate::rights::erase::{self, Erasure};
use crate::rights::register::{self, Request};
use crate::rights::request::{self, Link, SOURCE, Standing};
use crate::rights::{Kind, State, access, page};
use crate::text::i18n::Lang;

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

    /// Enters a demand together with the mail of its link, unless one went out lately.
    pub(super) async fn ask(&self, contact: &Contact, kind: Kind, lang: Lang, now: Time) -> anyhow::Result<()> {
        let Instance { db, keys, entropy, config, .. } = &*self.instance;
        let mut tx = db.begin().await?;
        let Some(link) = request::ask(&mut tx, keys, entropy, contact, kind, config.rights.days, now).await? else {
            return Ok(tx.rollback().await?);
        };
        let text = self.text(kind, lang, &link);
        let key = format!("rights {}", link.request_id);
        let mail = SystemMail {
            kind: MessageKind::Notice,
            contact,
            topic_id: None,
            key: &key,
            content: SystemContent::Text(&text),
            expires_at: link.expires,
        };
        let intake = self.instance.message_intake();
        intake.enqueue_system(&mut tx, &mail, now).await?;
        tx.commit().await?;
        intake.wake();
        Ok(())
    }

    /// What the mail says.
    fn text(&self, kind: Kind, lang: Lang, link: &Link) -> SystemText {
        let words = lang.words();
        let (subject, text) = match kind {
            Kind::Erasure => (words.rights_mail_erase_subject, words.rights_mail_erase_text),
            _ => (words.rights_mail_export_subject, words.rights_mail_export_text),
        };
        let address = format!("{}/r/{}?lang={}", self.instance.config.site.url.value, link.token(&self.instance.keys), lang.tag());
        SystemText {
            lang: lang.tag().to_owned(),
            subject: subject.to_owned(),
            heading: subject.to_owned(),
            paragraphs: vec![text.to_owned()],
            button: Some(Button { label: words.rights_mail_button.to_owned(), link: address }),
            after: vec![words.rights_mail_ignore.to_owned()],
            fallback: words.rights_mail_fallback.to_owned(),
            ..SystemText::default()
        }
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
