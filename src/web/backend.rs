//! The pages' seams, answered by the consent room and the stored runs.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::seam::{Act, Answer, Change, Choices, Confirmed, Link, Permission, Resubscribed, Standing, TopicStanding, ViewSource};
use super::{App, Look, inbox};
use crate::behaviour::merge;
use crate::campaign::ops as runs;
use crate::clock::DAY;
use crate::consent::reasons::{Reason, Said};
use crate::consent::tracking::TrackingRules;
use crate::consent::{self, ALL_TOPICS, Action, NewEvent, State};
use crate::contact::{self, AttributeValue};
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
        site: instance.config.site.url.value.clone(),
        keys: instance.keys.clone(),
        look: Look::new(&instance.config.sender.name, instance.config.site.accent),
        sender: instance.config.sender.clone(),
        languages: instance.languages.clone(),
        topics: instance.config.topics.clone(),
        profile: instance.config.profile.clone(),
        schema: instance.schema.clone(),
        recorder,
        intake: Some(instance.message_intake()),
        rights: Some(super::desk::Desk::new(instance.clone())),
        permission: Arc::new(Consents { instance: instance.clone() }),
        instance: Some(instance.clone()),
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
    /// Writes fields of the profile. False where all of them stood so before.
    async fn write_profile(&self, tx: &mut Tx, act: &Act, values: &[(String, AttributeValue)], emptied: &[String]) -> anyhow::Result<bool> {
        let schema = &self.instance.schema;
        let Some(before) = contact::sql::by_ids(tx, schema, &[act.contact_id]).await?.pop() else { return Ok(false) };
        let address =
            contact::Address::parse(&before.email).map_err(|error| anyhow::anyhow!("a stored address cannot be read: {error}"))?;
        let fields: Vec<(&str, AttributeValue)> = values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let emptied: Vec<&str> = emptied.iter().map(String::as_str).collect();
        contact::ops::upsert(tx, schema, &self.instance.entropy, act.at, &address, &fields).await?;
        contact::ops::clear(tx, schema, act.contact_id, &emptied, act.at).await?;
        let after = contact::sql::by_ids(tx, schema, &[act.contact_id]).await?.pop();
        Ok(after.is_some_and(|after| after != before))
    }

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
            let states = consent::ops::states(&mut instance.db.clone(), contact_id).await?;
            let known: HashMap<i64, State> = states.into_iter().map(|topic| (topic.topic_id, topic.state)).collect();
            let names = consent::ops::topics(&mut instance.db.clone()).await?;
            let mut out = Vec::new();
            for topic in instance.config.topics.keys() {
                let topic_id = match names.iter().find(|(_, name)| *name == topic) {
                    Some((topic_id, _)) => *topic_id,
                    None => consent::ops::ensure_topic(&instance.db, topic, &instance.entropy, instance.clock.now()).await?,
                };
                out.push(standing_of(topic_id, topic.clone(), known.get(&topic_id)));
            }
            let mut left: Vec<(i64, String)> = names.into_iter().filter(|(_, name)| !instance.config.topics.contains_key(name)).collect();
            left.sort_unstable();
            out.extend(left.into_iter().filter_map(|(topic_id, name)| Some(standing_of(topic_id, name, Some(known.get(&topic_id)?)))));
            Ok(out)
        })
    }

    fn withdraw<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64) -> Answer<'a, bool> {
        Box::pin(async move { Ok(consent::ops::withdraw(tx, &self.event(act, topic_id, Action::Withdrawn), act.at).await?.changed) })
    }

    fn withdraw_all<'a>(&'a self, tx: &'a mut Tx, act: &'a Act) -> Answer<'a, bool> {
        Box::pin(async move { Ok(consent::ops::withdraw(tx, &self.event(act, ALL_TOPICS, Action::Withdrawn), act.at).await?.changed) })
    }

    fn confirm<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64, link: Link<'a>) -> Answer<'a, Confirmed> {
        Box::pin(async move {
            let proof = serde_json::json!({
                "delivery": act.delivery_id,
                "token": consent::ops::token_digest(link.token),
                "link_until": link.expires.to_string(),
            });
            let event = NewEvent {
                evidence: Some(consent::ops::evidence(&self.instance.entropy, proof)),
                ..self.event(act, topic_id, Action::Confirmed)
            };
            if contact::merge::merged_into(tx, act.contact_id).await?.is_some() {
                merge::hold(tx).await?;
            }
            let made_at = link.expires.plus(-i64::from(self.instance.config.consent.confirm_days) * DAY);
            Ok(match consent::ops::confirm(tx, event, made_at, act.at).await? {
                consent::ops::Confirmation::Confirmed => {
                    // Its owner wants mail there: the address is somebody's by itself again.
                    let rules = TrackingRules::new(&self.instance.config.consent);
                    merge::release(tx, &rules, act.contact_id, &[topic_id], act.at).await?;
                    Confirmed::Now
                }
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
                let states = consent::ops::states(tx, act.contact_id).await?;
                let merged = contact::merge::merged_into(tx, act.contact_id).await?.is_some();
                if !merged && !states.iter().any(|topic| topic.state.standing == Standing::Unsubscribed) {
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

    fn choices<'a>(&'a self, contact_id: i64) -> Answer<'a, Option<Choices>> {
        Box::pin(async move {
            let db = &mut self.instance.db.clone();
            let Some(contact) = contact::sql::by_ids(db, &self.instance.schema, &[contact_id]).await?.pop() else { return Ok(None) };
            let chosen = consent::ops::choices(db, contact_id).await?;
            let (tracking, why) = TrackingRules::new(&self.instance.config.consent).of(chosen.tracking, &contact);
            Ok(Some(Choices { tracking, why, profiling_refused: chosen.profiling_refused }))
        })
    }

    fn change<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, change: &'a Change) -> Answer<'a, bool> {
        Box::pin(async move {
            let at = act.at;
            let event = |topic_id| self.event(act, topic_id, Action::Changed);
            Ok(match change {
                Change::Pause { topic_id, until } => consent::ops::pause(tx, &event(*topic_id), Some(*until), at).await?,
                Change::Resume { topic_id } => consent::ops::resume(tx, &event(*topic_id), at).await?,
                Change::Frequency { topic_id, frequency } => consent::ops::set_frequency(tx, &event(*topic_id), *frequency, at).await?,
                Change::Tracking(tracking) => consent::ops::set_tracking(tx, &event(ALL_TOPICS), Some(*tracking), at).await?,
                Change::Profiling { refused } => consent::ops::set_profiling(tx, &event(ALL_TOPICS), *refused, at).await?,
                Change::Locale(tag) => {
                    self.write_profile(tx, act, &[("locale".to_owned(), AttributeValue::Text(tag.clone()))], &[]).await?;
                    let event = NewEvent { detail: Some(format!("locale={tag}")), ..event(ALL_TOPICS) };
                    consent::ledger::append(tx, &[event], at).await?;
                    true
                }
                Change::Profile { values, emptied } => self.write_profile(tx, act, values, emptied).await?,
            })
        })
    }

    fn say_why<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64, reason: Reason, comment: Option<&'a str>) -> Answer<'a, bool> {
        Box::pin(async move {
            let comment = comment.map(str::to_owned);
            let said = Said { id: self.instance.entropy.id(act.at), delivery_id: act.delivery_id, reason, comment };
            Ok(consent::reasons::record(tx, &said, self.event(act, topic_id, Action::Objected), act.at).await?)
        })
    }
}

fn standing_of(topic_id: i64, topic: String, state: Option<&State>) -> TopicStanding {
    let state = state.copied().unwrap_or(State::NONE);
    TopicStanding { topic_id, topic, standing: state.standing, frequency: state.frequency, until: state.until }
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
            let mut tx = instance.db.begin_read().await?;
            let grounds = consent::grounds(&mut tx, context.run.topic_id, &[contact_id]).await?.remove(&contact_id);
            tx.rollback().await?;
            let chosen = consent::ops::choices(db, contact_id).await?.tracking;
            let tracking = TrackingRules::new(&instance.config.consent).of(chosen, &contact).0;
            let mail = worker::render_again(instance, &context, &contact, grounds.as_ref(), tracking, delivery_id, instance.clock.now())?;
            Ok(Some(mail.html))
        })
    }
}
