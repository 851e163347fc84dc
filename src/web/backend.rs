//! The pages' seams, answered by the consent room and the stored runs.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::seam::{Act, Answer, Confirmed, Permission, Resubscribed, Standing, TopicStanding, ViewSource};
use super::{App, inbox};
use crate::campaign::ops as runs;
use crate::clock::Time;
use crate::consent::{self, ALL_TOPICS, Action, NewEvent};
use crate::contact;
use crate::db::Tx;
use crate::delivery;
use crate::delivery::engine::RunContext;
use crate::instance::Instance;
use crate::tracking::Recorder;
use crate::worker;

/// Prepared contents kept for pages: one costs some milliseconds to make and some 100 KB to keep.
const KEPT_CONTENTS: usize = 64;

/// The pages of an instance.
pub fn app(instance: Arc<Instance>, recorder: Recorder, inbox: Option<inbox::Inbox>) -> App {
    App {
        db: instance.db.clone(),
        clock: instance.clock.clone(),
        keys: instance.keys.clone(),
        sender: instance.config.sender.clone(),
        languages: instance.languages.clone(),
        topics: instance.config.topics.clone(),
        recorder,
        intake: Some(instance.message_intake()),
        rights: Some(super::desk::Desk::new(instance.clone())),
        permission: Arc::new(Consents { instance: instance.clone() }),
        instance: inbox.is_some().then(|| instance.clone()),
        views: Arc::new(Views { instance, contents: Mutex::default() }),
        inbox,
    }
}

struct Consents {
    instance: Arc<Instance>,
}

impl Consents {
    fn event(&self, act: &Act, topic_id: i64, action: Action) -> NewEvent {
        let entropy = &self.instance.entropy;
        NewEvent {
            evidence: Some(consent::ops::evidence(entropy, serde_json::json!({ "delivery": act.delivery_id }))),
            origin: consent::ops::origin(entropy, act.ip.as_deref(), act.agent.as_deref()),
            ..NewEvent::new(act.contact_id, topic_id, action, act.way.text())
        }
    }
}

impl Consents {
    /// Whether the topic's `opt_in` is `single`: asking is enough.
    async fn takes_single_opt_in(&self, topic_id: i64) -> anyhow::Result<bool> {
        let topics = consent::ops::topics(&mut self.instance.db.clone()).await?;
        let topic = topics.get(&topic_id).and_then(|name| self.instance.config.topics.get(name));
        Ok(topic.is_some_and(|topic| !topic.double_opt_in))
    }
}

impl Permission for Consents {
    fn standings<'a>(&'a self, contact_id: i64) -> Answer<'a, Vec<TopicStanding>> {
        Box::pin(async move {
            let instance = &self.instance;
            let mut out = Vec::new();
            let known: HashMap<String, Standing> = consent::ops::standings(&mut instance.db.clone(), contact_id)
                .await?
                .into_iter()
                .map(|(topic, standing, _)| (topic, standing))
                .collect();
            for topic in instance.config.topics.keys() {
                let topic_id = consent::ops::ensure_topic(&instance.db, topic, &instance.entropy, instance.clock.now()).await?;
                out.push(TopicStanding { topic_id, topic: topic.clone(), standing: known.get(topic).copied().unwrap_or(Standing::None) });
            }
            for (topic_id, topic) in consent::ops::topics(&mut instance.db.clone()).await? {
                if !instance.config.topics.contains_key(&topic)
                    && let Some(standing) = known.get(&topic)
                {
                    out.push(TopicStanding { topic_id, topic, standing: *standing });
                }
            }
            Ok(out)
        })
    }

    fn withdraw<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64) -> Answer<'a, bool> {
        Box::pin(async move { Ok(consent::ops::withdraw(tx, &self.event(act, topic_id, Action::Withdrawn), act.at).await?.changed) })
    }

    fn withdraw_all<'a>(&'a self, tx: &'a mut Tx, act: &'a Act) -> Answer<'a, bool> {
        Box::pin(async move { Ok(consent::ops::withdraw(tx, &self.event(act, ALL_TOPICS, Action::Withdrawn), act.at).await?.changed) })
    }

    fn confirm<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64, _expires: Time) -> Answer<'a, Confirmed> {
        Box::pin(async move {
            let event = self.event(act, topic_id, Action::Confirmed);
            Ok(match consent::ops::confirm(tx, event, act.at).await? {
                consent::ops::Confirmation::Confirmed => Confirmed::Now,
                consent::ops::Confirmation::Already => Confirmed::Before,
                consent::ops::Confirmation::NotAsked | consent::ops::Confirmation::Gone => Confirmed::NotPending,
            })
        })
    }

    fn resubscribe<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64) -> Answer<'a, Resubscribed> {
        Box::pin(async move {
            if self.takes_single_opt_in(topic_id).await? {
                // Whoever withdrew from anything is asked by mail first, also about a topic they never
                // touched: the link may have been forwarded.
                let standings = consent::ops::standings(tx, act.contact_id).await?;
                if !standings.iter().any(|(_, standing, _)| *standing == Standing::Unsubscribed) {
                    consent::ledger::append(tx, &[self.event(act, topic_id, Action::Granted)], act.at).await?;
                    return Ok(Resubscribed::Before);
                }
            }
            let event = self.event(act, topic_id, Action::Requested);
            Ok(match consent::ops::request(tx, event, act.at).await? {
                consent::ops::Request::Already => Resubscribed::Before,
                consent::ops::Request::Asked => Resubscribed::Pending,
            })
        })
    }
}

struct Views {
    instance: Arc<Instance>,
    contents: Mutex<HashMap<i64, Arc<RunContext>>>,
}

impl Views {
    async fn context(&self, run_id: i64) -> anyhow::Result<Option<Arc<RunContext>>> {
        let mut contents = self.contents.lock().await;
        if let Some(context) = contents.get(&run_id) {
            return Ok(Some(context.clone()));
        }
        let Some(run) = runs::run(&mut self.instance.db.clone(), run_id).await? else { return Ok(None) };
        let context = Arc::new(worker::prepare_context(&self.instance, &run)?);
        if contents.len() >= KEPT_CONTENTS {
            contents.clear();
        }
        contents.insert(run_id, context.clone());
        Ok(Some(context))
    }
}

impl ViewSource for Views {
    fn view<'a>(&'a self, delivery_id: i64) -> Answer<'a, Option<String>> {
        Box::pin(async move {
            let instance = &self.instance;
            let db = &mut instance.db.clone();
            let Some((run_id, contact_id)) = delivery::ops::about(db, delivery_id).await? else { return Ok(None) };
            let Some(contact) = contact::sql::by_ids(db, &instance.schema, &[contact_id]).await?.pop() else { return Ok(None) };
            let Some(context) = self.context(run_id).await? else { return Ok(None) };
            let mail = worker::render_again(instance, &context, &contact, delivery_id, instance.clock.now())?;
            Ok(Some(mail.html))
        })
    }
}
