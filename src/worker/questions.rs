//! The questions of double opt-in, and their one reminder: written as messages, so that they leave, are tried
//! again and are accounted for like any other mail.

use std::sync::Arc;

use super::RunError;
use crate::clock::{DAY, HOUR, Time};
use crate::consent::invitation::{self, Question};
use crate::contact::{self, Contact};
use crate::content::system::SystemText;
use crate::db::Tx;
use crate::delivery::messages::{Intake, Kind, SystemContent, SystemMail, patient_waiting};
use crate::instance::Instance;
use crate::text::i18n::{Lang, fill};
use crate::token::Purpose;

/// Mails that may wait for the lane of messages: an import of a hundred thousand requests fills no queue, and
/// whoever asks meanwhile does not wait behind all of it.
const MAX_WAITING: i64 = 500;
/// People of one transaction.
const BATCH: i64 = 100;
/// Hours after which a question that nobody could deliver is worth nothing: three days.
const GIVE_UP_MS: i64 = 72 * HOUR;

/// Writes the mails that are due, as many as the lane has room for.
pub(super) async fn ask(instance: &Arc<Instance>) -> Result<(), RunError> {
    let now = instance.clock.now();
    if !invitation::any_due(&mut instance.db.clone(), now).await? {
        return Ok(());
    }
    let hours = i64::from(instance.config.consent.reminder_hours);
    let mut tx = instance.db.begin().await?;
    invitation::settle(&mut tx, (hours > 0).then_some(hours * HOUR)).await?;
    tx.commit().await?;
    let room = MAX_WAITING - patient_waiting(&mut instance.db.clone(), MAX_WAITING, now).await?;
    if room <= 0 {
        return Ok(());
    }
    let intake = instance.message_intake();
    let mut tx = instance.db.begin().await?;
    let mut questions = invitation::due(&mut tx, BATCH.min(room), now).await?;
    questions.extend(invitation::reminders(&mut tx, BATCH.min(room), now).await?);
    let people: Vec<i64> = questions.iter().map(|question| question.contact_id).collect();
    let contacts = contact::sql::by_ids(&mut tx, &instance.schema, &people).await?;
    let topics = crate::consent::ops::topics(&mut tx).await?;
    for question in &questions {
        let Some(person) = contacts.iter().find(|contact| contact.id == question.contact_id) else { continue };
        let names = |lang: Lang| -> Vec<String> {
            let named = question.topics.iter().filter_map(|id| topics.get(id));
            named.map(|name| instance.config.topics.get(name).map_or(name.as_str(), |topic| topic.name_in(lang.tag())).to_owned()).collect()
        };
        write(instance, &intake, &mut tx, person, question, names, now).await?;
    }
    tx.commit().await?;
    intake.wake();
    Ok(())
}

async fn write(
    instance: &Instance,
    intake: &Intake,
    tx: &mut Tx,
    person: &Contact,
    question: &Question,
    names: impl Fn(Lang) -> Vec<String>,
    now: Time,
) -> Result<(), RunError> {
    let locale = question.locale.as_deref().or(person.locale.as_deref());
    let lang = instance.languages.negotiate(locale, person.locale.as_deref(), None);
    let link_until = now.plus(i64::from(instance.config.consent.confirm_days) * DAY);
    let link = format!("{}/s/{}", instance.config.site.url.value, link_token(instance, question, link_until));
    let kind = if question.message_id.is_some() { Kind::Reminder } else { Kind::Confirmation };
    let until = super::local_day(person, link_until);
    let text = text(lang, kind, &names(lang), &link, &until);
    let key = match question.message_id {
        Some(message_id) => format!("reminder:{message_id}:{}", question.topics[0]),
        None => format!("confirmation:{}:{}:{}", person.id, question.topics[0], now.millis()),
    };
    let expires_at = now.plus(GIVE_UP_MS).min(link_until);
    let mail = SystemMail { kind, contact: person, topic_id: None, key: &key, content: SystemContent::Text(&text), expires_at };
    let accepted = intake.enqueue_system(tx, &mail, now).await?;
    Ok(invitation::asked(tx, question, accepted.id, now).await?)
}

/// The token of the link that confirms all topics of a question.
fn link_token(instance: &Instance, question: &Question, until: Time) -> String {
    let mut fields = vec![question.contact_id, question.topics[0], until.millis()];
    fields.extend(&question.topics[1..]);
    instance.keys.sign(Purpose::Confirm, &fields)
}

/// What it says: a question and a button, nothing that advertises.
fn text(lang: Lang, kind: Kind, names: &[String], link: &str, until: &str) -> SystemText {
    let words = lang.words();
    let (subject, subject_many, asks, asks_many) = match kind {
        Kind::Reminder => (words.remind_mail_subject, words.remind_mail_subject_many, words.remind_mail_text, words.remind_mail_text_many),
        _ => (words.confirm_mail_subject, words.confirm_mail_subject_many, words.confirm_mail_text, words.confirm_mail_text_many),
    };
    let mut text = match names {
        [name] => SystemText::new(lang, fill(subject, &[("topic", name)])).paragraph(fill(asks, &[("topic", name)])),
        names => SystemText { names: names.to_vec(), ..SystemText::new(lang, subject_many).paragraph(asks_many) },
    };
    text = text.button(words.confirm_button, link).after(fill(words.confirm_mail_otherwise, &[("date", until)]));
    if kind == Kind::Reminder { text.after(words.remind_mail_last) } else { text }
}
