//! Double opt-in: the page behind the link of a confirmation mail.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::{Mark, Message, Page, Target, answer, gone, html, not_ours, person, sentence};
use crate::clock::Time;
use crate::token::Purpose;
use crate::web::seam::{Act, Confirmed, Standing, TopicStanding, Way};
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

#[derive(Template)]
#[template(path = "public/confirm.html")]
struct Question<'a> {
    page: Page<'a>,
    question: String,
    /// Where it is about several.
    names: Vec<String>,
}

/// `GET /s/{token}`: asks. It confirms nothing and spends nothing: scanners follow links too.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    confirmation(&app, &visitor, &token, false).await
}

/// `POST /s/{token}`: confirms what is pending.
pub(in crate::web) async fn submit(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    confirmation(&app, &visitor, &token, true).await
}

/// Whom a confirmation token is about, its topics, and until when it works.
fn read(app: &App, token: &str) -> Option<(Target, Vec<i64>, Time)> {
    match app.keys.verify(Purpose::Confirm, token).ok()?[..] {
        [contact_id, topic_id, expires, ref further @ ..] => {
            let topics = std::iter::once(topic_id).chain(further.iter().copied()).collect();
            Some((Target { contact_id, topic_id, delivery_id: None }, topics, Time::from_millis(expires)))
        }
        _ => None,
    }
}

async fn confirmation(app: &App, visitor: &Visitor, token: &str, pressed: bool) -> Response {
    let Some((target, topics, expires)) = read(app, token) else { return not_ours(app, visitor) };
    let now = app.clock.now();
    let work = async {
        let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(app, visitor)) };
        let locale = contact.locale.as_deref();
        let standings = app.permission.standings(target.contact_id).await?;
        let known: Vec<&TopicStanding> = topics.iter().filter_map(|id| standings.iter().find(|topic| topic.topic_id == *id)).collect();
        let all_subscribed = known.len() == topics.len() && known.iter().all(|topic| topic.standing == Standing::Subscribed);
        if now >= expires && !all_subscribed {
            let page = Page::new(app, visitor, locale, |words| words.confirm_expired_title.to_owned());
            let paragraphs = vec![page.words().confirm_expired_text.to_owned()];
            return Ok(html(StatusCode::GONE, &Message { page, mark: Mark::Quiet, paragraphs, link: None }));
        }
        let outcome = if all_subscribed {
            Confirmed::Before
        } else if !pressed {
            let page = Page::new(app, visitor, locale, |words| words.confirm_title.to_owned());
            let names = names(app, &page, &known);
            let question = match names.as_slice() {
                [] | [_] => sentence(page.words().confirm_text, names.first().map_or("", String::as_str), &contact),
                _ => sentence(page.words().confirm_text_many, "", &contact),
            };
            let names = if names.len() > 1 { names } else { Vec::new() };
            return Ok(html(StatusCode::OK, &Question { page, question, names }));
        } else {
            confirm_all(app, &target.act(now, Way::Confirmation, visitor), &topics, expires).await?
        };
        let page = Page::new(app, visitor, locale, |words| match outcome {
            Confirmed::Now | Confirmed::Before => words.confirmed_title.to_owned(),
            Confirmed::NotPending => words.confirm_closed_title.to_owned(),
        });
        let (words, names) = (page.words(), names(app, &page, &known));
        let name = names.first().map_or("", String::as_str);
        let (mark, text) = match outcome {
            Confirmed::Now if names.len() > 1 => (Mark::Done, words.confirmed_text_many),
            Confirmed::Now => (Mark::Done, words.confirmed_text),
            Confirmed::Before => (Mark::Done, words.confirmed_before),
            Confirmed::NotPending => (Mark::Quiet, words.confirm_closed_text),
        };
        let paragraphs = vec![sentence(text, name, &contact)];
        Ok(html(StatusCode::OK, &Message { page, mark, paragraphs, link: None }))
    };
    answer(app, visitor, None, work).await
}

/// Confirms what is pending of a link's topics; what was withdrawn since stays so.
async fn confirm_all(app: &App, act: &Act, topics: &[i64], expires: Time) -> anyhow::Result<Confirmed> {
    let mut tx = app.db.begin().await?;
    let mut outcomes = Vec::with_capacity(topics.len());
    for topic_id in topics {
        outcomes.push(app.permission.confirm(&mut tx, act, *topic_id, expires).await?);
    }
    tx.commit().await?;
    let best = [Confirmed::Now, Confirmed::Before].into_iter().find(|outcome| outcomes.contains(outcome));
    Ok(best.unwrap_or(Confirmed::NotPending))
}

/// The topics' names in the language of the page.
fn names(app: &App, page: &Page<'_>, topics: &[&TopicStanding]) -> Vec<String> {
    let name = |topic: &TopicStanding| {
        app.topics.get(&topic.topic).map_or(topic.topic.as_str(), |known| known.name_in(page.lang.tag())).to_owned()
    };
    topics.iter().map(|topic| name(topic)).collect()
}
