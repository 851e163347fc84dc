//! Digests: what a topic sent to somebody who wants fewer mails, collected into one.

use std::collections::HashMap;
use std::sync::Arc;

use super::{RunError, local_day};
use crate::campaign::ops as runs;
use crate::clock::{HOUR, SECOND, Time};
use crate::consent::collected::{self, Due};
use crate::consent::{self, Frequency, Tracking};
use crate::contact::{self, Contact};
use crate::content::LinkMaker as _;
use crate::content::system::{Entry, LeaveWords, SystemText};
use crate::db::Tx;
use crate::delivery::engine::RunContext;
use crate::delivery::links::DeliveryLinks;
use crate::delivery::messages::{Intake, Kind, SystemContent, SystemMail};
use crate::delivery::ops::{Collected, collected as collected_mails};
use crate::instance::Instance;
use crate::text::i18n::{Lang, fill};

/// How often choices are taken over: a first digest is due a day after its choice at the earliest.
const FOLLOW_EVERY_MS: i64 = 5 * SECOND;
/// Digests of one transaction.
const BATCH: i64 = 50;
/// Letters a digest lists; more are only counted.
const MAX_LISTED: i64 = 30;
/// Hours after which a digest that nobody could deliver is worth nothing.
const GIVE_UP_MS: i64 = 72 * HOUR;

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct Digests {
    followed_at: Option<Time>,
}

impl Digests {
    /// Takes over choices, and writes the digests that are due.
    pub(super) async fn send(&mut self, instance: &Arc<Instance>) -> Result<(), RunError> {
        let now = instance.clock.now();
        let zone = &instance.config.delivery.timezone.value;
        if self.followed_at.is_none_or(|at| now.since(at) > FOLLOW_EVERY_MS) {
            self.followed_at = Some(now);
            let mut tx = instance.db.begin().await?;
            collected::follow_choices(&mut tx, zone, now).await?;
            tx.commit().await?;
        }
        if !collected::any_due(&mut instance.db.clone(), now).await? {
            return Ok(());
        }
        let intake = instance.message_intake();
        let mut contexts: HashMap<i64, Option<RunContext>> = HashMap::new();
        let mut tx = instance.db.begin().await?;
        let due = collected::due(&mut tx, BATCH, now).await?;
        let topics = consent::ops::topics(&mut tx).await?;
        let people: Vec<i64> = due.iter().map(|due| due.contact_id).collect();
        let contacts = contact::sql::by_ids(&mut tx, &instance.schema, &people).await?;
        for due in &due {
            let person = contacts.iter().find(|contact| contact.id == due.contact_id);
            if let (Some(person), Some(topic), true) = (person, topics.get(&due.topic_id), due.subscribed) {
                write(instance, &intake, &mut tx, &mut contexts, due, person, topic, now).await?;
            }
            collected::passed(&mut tx, due, due.subscribed, zone, now).await?;
        }
        tx.commit().await?;
        intake.wake();
        Ok(())
    }
}

/// Writes one person's digest, where anything was collected.
#[expect(clippy::too_many_arguments, reason = "one mail and all it is made of")]
async fn write(
    instance: &Instance,
    intake: &Intake,
    tx: &mut Tx,
    contexts: &mut HashMap<i64, Option<RunContext>>,
    due: &Due,
    person: &Contact,
    topic: &str,
    now: Time,
) -> Result<(), RunError> {
    let (mails, count) = collected_mails(tx, due.contact_id, due.topic_id, due.since, now, MAX_LISTED).await?;
    let mut entries = Vec::with_capacity(mails.len());
    for mail in mails {
        if let std::collections::hash_map::Entry::Vacant(place) = contexts.entry(mail.run_id) {
            let run = runs::run(tx, mail.run_id).await?;
            place.insert(run.and_then(|run| super::prepare_context(instance, &run).ok()));
        }
        let Some(context) = contexts.get(&mail.run_id).and_then(Option::as_ref) else { continue };
        entries.extend(entry(instance, context, person, &mail, now));
    }
    if entries.is_empty() {
        return Ok(());
    }
    let lang = instance.languages.negotiate(None, person.locale.as_deref(), None);
    let name = instance.config.topics.get(topic).map_or(topic, |known| known.name_in(lang.tag()));
    let text = text(lang, due.frequency, name, topic, entries, count);
    let mail = SystemMail {
        kind: Kind::Digest,
        contact: person,
        topic_id: Some(due.topic_id),
        key: &format!("digest:{}:{}:{}", due.topic_id, due.contact_id, due.due_at.millis()),
        content: SystemContent::Text(&text),
        expires_at: now.plus(GIVE_UP_MS),
    };
    intake.enqueue_system(tx, &mail, now).await?;
    Ok(())
}

/// A letter's line: its subject as this person would have got it, its day, the page that shows it.
fn entry(instance: &Instance, context: &RunContext, person: &Contact, mail: &Collected, now: Time) -> Option<Entry> {
    let rendered = super::render_again(instance, context, person, None, Tracking::None, mail.delivery_id, now);
    let subject = match rendered {
        Ok(rendered) => rendered.subject,
        Err(error) => {
            tracing::warn!(contact = person.id, delivery = mail.delivery_id, problem = %error, "a letter is left out of a digest");
            return None;
        }
    };
    let links = DeliveryLinks {
        keys: &instance.keys,
        site: &instance.config.site.url.value,
        delivery_id: mail.delivery_id,
        contact_id: person.id,
        topic_id: context.run.topic_id,
        track_opens: false,
        run_id: context.run.id,
        tracking: Tracking::None,
    };
    Some(Entry { title: subject, note: local_day(person, mail.at), link: links.view() })
}

fn text(lang: Lang, frequency: Frequency, name: &str, list: &str, entries: Vec<Entry>, count: i64) -> SystemText {
    let words = lang.words();
    let subject = match count {
        1 => fill(words.digest_subject_one, &[("topic", name)]),
        _ => fill(words.digest_subject, &[("topic", name), ("count", &count.to_string())]),
    };
    let why = match frequency {
        Frequency::Daily => words.digest_daily,
        Frequency::Weekly => words.digest_weekly,
        Frequency::Monthly => words.digest_monthly,
    };
    let leave = LeaveWords {
        because: fill(words.mail_because, &[("topic", name)]),
        unsubscribe: words.mail_unsubscribe.to_owned(),
        preferences: words.digest_each.to_owned(),
    };
    let left_out = count - i64::try_from(entries.len()).unwrap_or(i64::MAX);
    let mut text = SystemText::new(lang, subject).heading(name).paragraph(fill(why, &[("topic", name)]));
    if left_out > 0 {
        text = text.after(fill(words.digest_more, &[("count", &left_out.to_string())]));
    }
    SystemText { entries, topic: name.to_owned(), list: list.to_owned(), leave: Some(leave), ..text }
}
