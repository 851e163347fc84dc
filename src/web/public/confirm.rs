//! Double opt-in: the page behind the link of a confirmation mail.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::choices::title as topic_title;
use super::{Mark, Message, Page, Target, answer, gone, html, not_ours, person, sentence};
use crate::clock::Time;
use crate::token::Purpose;
use crate::web::seam::{Confirmed, Standing, Way};
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

#[derive(Template)]
#[template(path = "public/confirm.html")]
struct Question<'a> {
    page: Page<'a>,
    question: String,
}

/// `GET /s/{token}`: asks. It confirms nothing and spends nothing: scanners follow links too.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    confirmation(&app, &visitor, &token, false).await
}

/// `POST /s/{token}`: confirms what is pending.
pub(in crate::web) async fn submit(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    confirmation(&app, &visitor, &token, true).await
}

/// Whom a confirmation token is about, and until when it works.
fn read(app: &App, token: &str) -> Option<(Target, Time)> {
    match app.keys.verify(Purpose::Confirm, token).ok()?[..] {
        [contact_id, topic_id, expires] => Some((Target { contact_id, topic_id, delivery_id: None }, Time::from_millis(expires))),
        _ => None,
    }
}

async fn confirmation(app: &App, visitor: &Visitor, token: &str, pressed: bool) -> Response {
    let Some((target, expires)) = read(app, token) else { return not_ours(app, visitor) };
    let now = app.clock.now();
    let work = async {
        let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(app, visitor)) };
        let locale = contact.locale.as_deref();
        let standings = app.permission.standings(target.contact_id).await?;
        let known = standings.iter().find(|topic| topic.topic_id == target.topic_id);
        let title = known.map_or("", |topic| topic_title(app, visitor.lang(&app.languages, locale), &topic.topic));
        let standing = known.map_or(Standing::None, |topic| topic.standing);
        if now >= expires && standing != Standing::Subscribed {
            let page = Page::new(app, visitor, locale, |words| words.confirm_expired_title.to_owned());
            let paragraphs = vec![page.words().confirm_expired_text.to_owned()];
            return Ok(html(StatusCode::GONE, &Message { page, mark: Mark::Quiet, paragraphs, link: None }));
        }
        let outcome = if standing == Standing::Subscribed {
            Confirmed::Before
        } else if !pressed {
            let page = Page::new(app, visitor, locale, |words| words.confirm_title.to_owned());
            let question = sentence(page.words().confirm_text, title, &contact);
            return Ok(html(StatusCode::OK, &Question { page, question }));
        } else {
            let act = target.act(now, Way::Confirmation, visitor);
            let mut tx = app.db.begin().await?;
            let outcome = app.permission.confirm(&mut tx, &act, target.topic_id, expires).await?;
            tx.commit().await?;
            outcome
        };
        let page = Page::new(app, visitor, locale, |words| match outcome {
            Confirmed::Now | Confirmed::Before => words.confirmed_title.to_owned(),
            Confirmed::NotPending => words.confirm_closed_title.to_owned(),
        });
        let words = page.words();
        let (mark, text) = match outcome {
            Confirmed::Now => (Mark::Done, words.confirmed_text),
            Confirmed::Before => (Mark::Done, words.confirmed_before),
            Confirmed::NotPending => (Mark::Quiet, words.confirm_closed_text),
        };
        let paragraphs = vec![sentence(text, title, &contact)];
        Ok(html(StatusCode::OK, &Message { page, mark, paragraphs, link: None }))
    };
    answer(app, visitor, None, work).await
}
