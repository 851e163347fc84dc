//! Double opt-in: the page behind the link of a confirmation mail, and one more question after it.

use std::collections::BTreeMap;

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use url::form_urlencoded;

use super::fields::{Asked, Input, Typed, Widget, inputs, read};
use super::{Mark, Message, Page, Target, answer, gone, html, not_ours, person, sentence};
use crate::clock::Time;
use crate::config::ProfileField;
use crate::consent::entry;
use crate::contact::{self, Contact, field};
use crate::instance::Instance;
use crate::token::Purpose;
use crate::web::seam::{Confirmed, Standing, Way};
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

#[derive(Template)]
#[template(path = "public/confirm.html")]
struct Question<'a> {
    page: Page<'a>,
    question: String,
    /// Where there are several.
    topics: Vec<String>,
}

/// What follows a confirmation: what is subscribed now, one question, the way to all choices.
#[derive(Template)]
#[template(path = "public/confirmed.html")]
struct Done<'a> {
    page: Page<'a>,
    text: String,
    topics: Vec<String>,
    inputs: Vec<Input>,
    /// Name of the field that is asked.
    asks: String,
    preferences: String,
}

/// What a link confirms.
struct Link {
    target: Target,
    /// All topics of the mail.
    topics: Vec<i64>,
    expires: Time,
}

/// What was pressed.
enum Press {
    /// Nothing: a visit.
    None,
    /// The button that confirms.
    Confirm,
    /// An answer to the question.
    Answer(String, Typed),
    /// No answer.
    Skip,
}

impl Press {
    fn of(body: &[u8]) -> Press {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
        let value = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        match value("answer") {
            Some(_) if value("skip").is_some() => Press::Skip,
            Some(name) => Press::Answer(name, Typed::of_form(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))),
            None => Press::Confirm,
        }
    }
}

/// `GET /s/{token}`: asks. It confirms nothing and spends nothing: scanners follow links too.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    confirmation(&app, &visitor, &token, Press::None).await
}

/// `POST /s/{token}`: confirms what is pending, or takes the answer to the question that followed.
pub(in crate::web) async fn submit(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor, body: Bytes) -> Response {
    confirmation(&app, &visitor, &token, Press::of(&body)).await
}

/// Whom a confirmation token is about, about which topics, and until when it works.
fn link(app: &App, token: &str) -> Option<Link> {
    match &app.keys.verify(Purpose::Confirm, token).ok()?[..] {
        [contact_id, topic_id, expires, more @ ..] => Some(Link {
            target: Target { contact_id: *contact_id, topic_id: *topic_id, delivery_id: None },
            topics: std::iter::once(*topic_id).chain(more.iter().copied()).collect(),
            expires: Time::from_millis(*expires),
        }),
        _ => None,
    }
}

async fn confirmation(app: &App, visitor: &Visitor, token: &str, press: Press) -> Response {
    let Some(link) = link(app, token) else { return not_ours(app, visitor) };
    let work = async {
        let Some(contact) = person(&mut app.db.clone(), link.target.contact_id).await? else { return Ok(gone(app, visitor)) };
        let standings = app.permission.standings(link.target.contact_id).await?;
        let find = |id: i64| standings.iter().find(|topic| topic.topic_id == id);
        let names: Vec<String> = link.topics.iter().map(|id| find(*id).map_or_else(String::new, |topic| topic.topic.clone())).collect();
        let subscribed = link.topics.iter().all(|id| find(*id).is_some_and(|topic| topic.standing == Standing::Subscribed));
        if app.clock.now() >= link.expires && !subscribed {
            let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.confirm_expired_title.to_owned());
            let paragraphs = vec![page.words().confirm_expired_text.to_owned()];
            return Ok(html(StatusCode::GONE, &Message { page, mark: Mark::Quiet, paragraphs, link: None }));
        }
        match press {
            Press::Answer(name, typed) => answered(app, visitor, &link, &contact, &name, &typed).await,
            Press::Skip => Ok(noted(app, visitor, &link, &contact)),
            Press::None | Press::Confirm if subscribed => done(app, visitor, &link, &contact, &names, Confirmed::Before).await,
            Press::None => Ok(ask(app, visitor, &contact, &names)),
            Press::Confirm => {
                let outcome = confirm(app, visitor, &link).await?;
                done(app, visitor, &link, &contact, &names, outcome).await
            }
        }
    };
    answer(app, visitor, None, work).await
}

fn ask(app: &App, visitor: &Visitor, contact: &Contact, names: &[String]) -> Response {
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.confirm_title.to_owned());
    let (words, topics) = (page.words(), titles(&page, names));
    let text = if topics.len() > 1 { words.confirm_text_many } else { words.confirm_text };
    let question = sentence(text, topics.first().map_or("", String::as_str), contact);
    html(StatusCode::OK, &Question { page, question, topics: several(topics) })
}

/// Confirms every topic of the mail that waits for it.
async fn confirm(app: &App, visitor: &Visitor, link: &Link) -> anyhow::Result<Confirmed> {
    let now = app.clock.now();
    let act = link.target.act(now, Way::Confirmation, visitor);
    let mut tx = app.db.begin().await?;
    let mut outcomes = Vec::with_capacity(link.topics.len());
    for topic_id in &link.topics {
        outcomes.push(app.permission.confirm(&mut tx, &act, *topic_id, link.expires).await?);
    }
    if let Some(instance) = app.instance.as_deref().filter(|_| outcomes.contains(&Confirmed::Now)) {
        entry::apply_profile(&mut tx, &instance.schema, &instance.entropy, link.target.contact_id, &link.topics, now).await?;
    }
    tx.commit().await?;
    let best = [Confirmed::Now, Confirmed::Before].into_iter().find(|outcome| outcomes.contains(outcome));
    Ok(best.unwrap_or(Confirmed::NotPending))
}

async fn done(
    app: &App,
    visitor: &Visitor,
    link: &Link,
    contact: &Contact,
    names: &[String],
    outcome: Confirmed,
) -> anyhow::Result<Response> {
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| match outcome {
        Confirmed::Now | Confirmed::Before => words.confirmed_title.to_owned(),
        Confirmed::NotPending => words.confirm_closed_title.to_owned(),
    });
    let (words, topics) = (page.words(), titles(&page, names));
    let text = match outcome {
        Confirmed::Now if topics.len() > 1 => words.confirmed_text_many,
        Confirmed::Now => words.confirmed_text,
        Confirmed::Before => words.confirmed_before,
        Confirmed::NotPending => words.confirm_closed_text,
    };
    let text = sentence(text, topics.first().map_or("", String::as_str), contact);
    if outcome == Confirmed::NotPending {
        return Ok(html(StatusCode::OK, &Message { page, mark: Mark::Quiet, paragraphs: vec![text], link: None }));
    }
    let question = match app.instance.as_deref() {
        Some(instance) if outcome == Confirmed::Now => next_question(instance, link.target.contact_id).await?,
        _ => None,
    };
    Ok(confirmed(app, page, link, text, several(topics), question, &Typed::default(), &BTreeMap::new()))
}

#[expect(clippy::too_many_arguments, reason = "the parts of one page")]
fn confirmed<'a>(
    app: &'a App,
    page: Page<'a>,
    link: &Link,
    text: String,
    topics: Vec<String>,
    question: Option<&ProfileField>,
    typed: &Typed,
    errors: &BTreeMap<String, String>,
) -> Response {
    let asked: Vec<Asked<'_>> = question.map(|field| Asked { field, required: false }).into_iter().collect();
    let inputs = inputs(&asked, typed, errors, &app.languages, page.lang);
    let asks = question.map_or_else(String::new, |field| field.name.clone());
    let preferences = preferences(app, link, &page);
    html(StatusCode::OK, &Done { page, text, topics, inputs, asks, preferences })
}

fn preferences(app: &App, link: &Link, page: &Page<'_>) -> String {
    let token = app.keys.sign(Purpose::Preferences, &[link.target.contact_id, link.target.topic_id, 0]);
    format!("/p/{token}{}", page.query())
}

/// The first field to ask for that is still empty.
async fn next_question(instance: &Instance, contact_id: i64) -> anyhow::Result<Option<&ProfileField>> {
    let Some(contact) = contact::sql::by_ids(&mut instance.db.clone(), &instance.schema, &[contact_id]).await?.pop() else {
        return Ok(None);
    };
    Ok(instance.config.profile.iter().find(|asked| asked.ask && field::of_contact(&contact, &asked.name).is_none()))
}

/// Takes the answer. Only what is asked for and still empty: the link of an old mail changes nothing else.
async fn answered(app: &App, visitor: &Visitor, link: &Link, contact: &Contact, name: &str, typed: &Typed) -> anyhow::Result<Response> {
    let Some(instance) = app.instance.as_deref() else { return Ok(not_ours(app, visitor)) };
    let asked = next_question(instance, contact.id).await?.filter(|asked| asked.name == name);
    if let Some(asked) = asked {
        let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.question_title.to_owned());
        let read = read(&[Asked { field: asked, required: false }], typed, &instance.schema, &app.languages, page.lang);
        if !read.errors.is_empty() {
            let text = page.words().question_text.to_owned();
            return Ok(confirmed(app, page, link, text, Vec::new(), Some(asked), typed, &read.errors));
        }
        if let Ok(address) = contact::Address::parse(&contact.email) {
            let values: Vec<_> = read.values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            let mut tx = app.db.begin().await?;
            contact::ops::upsert(&mut tx, &instance.schema, &instance.entropy, app.clock.now(), &address, &values).await?;
            tx.commit().await?;
        }
    }
    Ok(noted(app, visitor, link, contact))
}

fn noted(app: &App, visitor: &Visitor, link: &Link, contact: &Contact) -> Response {
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.question_done_title.to_owned());
    let paragraphs = vec![page.words().question_done_text.to_owned()];
    let onward = Some((preferences(app, link, &page), page.words().preferences_link));
    html(StatusCode::OK, &Message { page, mark: Mark::Done, paragraphs, link: onward })
}

/// The names of topics in the language of a page.
fn titles(page: &Page<'_>, names: &[String]) -> Vec<String> {
    let title = |name: &String| page.app.topics.get(name).map_or(name.as_str(), |topic| topic.name_in(page.lang.tag())).to_owned();
    names.iter().map(title).collect()
}

/// A list is shown where there is more than one.
fn several(topics: Vec<String>) -> Vec<String> {
    if topics.len() > 1 { topics } else { Vec::new() }
}
