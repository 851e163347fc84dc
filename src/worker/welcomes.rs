//! The welcome to whoever has just subscribed: a template of the instance, with a code of the topic's pool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::RunError;
use crate::clock::{HOUR, Time};
use crate::config::{MessageTemplate, Topic};
use crate::consent::{coupons, welcome};
use crate::contact::{self, Contact};
use crate::db::Tx;
use crate::delivery::messages::{DEFAULT_EXPIRES_HOURS, Kind, SystemContent, SystemMail, patient_waiting};
use crate::instance::Instance;

/// Welcomes that may wait for the lane of messages.
const MAX_WAITING: i64 = 500;
/// People of one transaction.
const BATCH: i64 = 100;
/// How often an empty pool is complained about while people wait for its codes.
const SAY_EVERY_MS: i64 = HOUR;

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Welcomes {
    /// When an empty pool was last complained about.
    said: BTreeMap<String, Time>,
}

impl Welcomes {
    /// Writes the welcomes that are due. Those whose pool has no code left wait for one.
    pub(super) async fn send(&mut self, instance: &Arc<Instance>) -> Result<(), RunError> {
        let now = instance.clock.now();
        let db = &mut instance.db.clone();
        let behind = welcome::is_behind(db).await?;
        let welcoming: Vec<&String> =
            instance.config.topics.iter().filter(|(_, topic)| topic.welcome.is_some()).map(|(name, _)| name).collect();
        if !behind && welcoming.is_empty() {
            return Ok(());
        }
        let ids: BTreeMap<String, i64> = crate::consent::ops::topics(db).await?.into_iter().map(|(id, name)| (name, id)).collect();
        if behind {
            let topics: BTreeSet<i64> = welcoming.iter().filter_map(|name| ids.get(*name).copied()).collect();
            let mut tx = instance.db.begin().await?;
            welcome::collect(&mut tx, &topics, now).await?;
            tx.commit().await?;
        }
        for name in welcoming {
            let topic = &instance.config.topics[name];
            let template = topic.welcome.as_ref().and_then(|welcome| instance.config.messages.get(&welcome.value));
            let (Some(topic_id), Some(template)) = (ids.get(name).copied(), template) else { continue };
            if welcome::any_waiting(db, topic_id).await? {
                self.greet(instance, name, topic, topic_id, template, now).await?;
            }
        }
        Ok(())
    }

    async fn greet(
        &mut self,
        instance: &Arc<Instance>,
        name: &str,
        topic: &Topic,
        topic_id: i64,
        template: &MessageTemplate,
        now: Time,
    ) -> Result<(), RunError> {
        if let Some(pool) = &topic.coupons
            && !coupons::any_left(&mut instance.db.clone(), pool).await?
        {
            if self.said.get(pool).is_none_or(|at| now.since(*at) > SAY_EVERY_MS) {
                self.said.insert(pool.clone(), now);
                tracing::warn!(pool, topic = name, "no coupon is left: welcomes wait; `optin coupon import` brings codes");
            }
            return Ok(());
        }
        let room = MAX_WAITING - patient_waiting(&mut instance.db.clone(), MAX_WAITING, now).await?;
        if room <= 0 {
            return Ok(());
        }
        let intake = instance.message_intake();
        let mut tx = instance.db.begin().await?;
        let people = welcome::waiting(&mut tx, topic_id, BATCH.min(room)).await?;
        let contacts = contact::sql::by_ids(&mut tx, &instance.schema, &people).await?;
        for contact_id in people {
            let Some(person) = contacts.iter().find(|contact| contact.id == contact_id) else { continue };
            let Some(data) = data(instance, &mut tx, name, topic, person, now).await? else { break };
            let mail = SystemMail {
                kind: Kind::Welcome,
                contact: person,
                topic_id: Some(topic_id),
                key: &format!("welcome:{topic_id}:{contact_id}"),
                content: SystemContent::Welcome { template, data },
                expires_at: now.plus(i64::from(template.expires_hours.unwrap_or(DEFAULT_EXPIRES_HOURS)) * HOUR),
            };
            let accepted = intake.enqueue_system(&mut tx, &mail, now).await?;
            welcome::welcomed(&mut tx, topic_id, contact_id, accepted.id).await?;
        }
        tx.commit().await?;
        intake.wake();
        Ok(())
    }
}

/// What the template sees: the topic's name in the person's language, and their code. Nothing where there is no
/// code left.
async fn data(
    instance: &Instance,
    tx: &mut Tx,
    name: &str,
    topic: &Topic,
    person: &Contact,
    now: Time,
) -> Result<Option<Map<String, Value>>, RunError> {
    let lang = instance.languages.negotiate(None, person.locale.as_deref(), None);
    let mut data = Map::new();
    data.insert("topic".to_owned(), topic.name_in(lang.tag()).into());
    data.insert("list".to_owned(), name.into());
    if let Some(pool) = &topic.coupons {
        let Some(code) = coupons::give(tx, pool, person.id, now).await? else { return Ok(None) };
        data.insert("coupon".to_owned(), code.into());
    }
    Ok(Some(data))
}
