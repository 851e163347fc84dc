//! Unsubscribe: a page for people, and one-click for mail clients (RFC 8058).

use std::time::Duration;

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::{Mark, Message, Page, Target, answer, gone, html, not_ours, person, sentence, topic_title};
use crate::contact::Contact;
use crate::token::Purpose;
use crate::tracking;
use crate::web::seam::{TopicStanding, Way};
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

const PURPOSES: &[Purpose] = &[Purpose::UnsubscribeHeader, Purpose::UnsubscribeBody];
/// A withdrawal is tried so often: it may run twice, and a person should not have to.
const TRIES: u32 = 3;
/// The wait between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What a POST asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// One-click, and whatever else is not our form: who posts here wants to leave.
    OneClick,
    /// A button of our page: this topic.
    Topic,
    /// A button of our page: everything.
    All,
}

impl Ask {
    /// Our form is told by its field `leave`. Nothing else is looked at: one-click bodies come
    /// urlencoded, as multipart, and as the multipart of RFC 8058 8.3 that no strict parser reads.
    fn of(body: &[u8]) -> Ask {
        form_urlencoded::parse(body)
            .find_map(|(name, value)| match (name.as_ref(), value.as_ref()) {
                ("leave", "topic") => Some(Ask::Topic),
                ("leave", "all") => Some(Ask::All),
                _ => None,
            })
            .unwrap_or(Ask::OneClick)
    }

    fn way(self) -> Way {
        match self {
            Ask::OneClick => Way::OneClick,
            Ask::Topic | Ask::All => Way::Page,
        }
    }
}

#[derive(Template)]
#[template(path = "public/unsubscribe.html")]
struct Question<'a> {
    page: Page<'a>,
    question: String,
    /// False once there is nothing to withdraw on this topic.
    subscribed: bool,
    preferences: String,
}

/// `GET /u/{token}`: asks, and changes nothing.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    let Some((target, _)) = Target::of(&app, PURPOSES, &token) else { return not_ours(&app, &visitor) };
    let work = async {
        let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(&app, &visitor)) };
        let standings = app.permission.standings(target.contact_id).await?;
        let topic = standings.iter().find(|topic| topic.topic_id == target.topic_id);
        let page = Page::new(&app, &visitor, contact.locale.as_deref(), |words| words.unsubscribe_title.to_owned());
        let words = page.words();
        let subscribed = topic.is_none_or(|topic| topic.standing.can_withdraw());
        let question = match topic {
            Some(topic) if subscribed => sentence(words.unsubscribe_question, topic_title(&app, &topic.topic), &contact),
            Some(topic) => sentence(words.unsubscribe_already, topic_title(&app, &topic.topic), &contact),
            None => sentence(words.unsubscribe_question_plain, "", &contact),
        };
        let preferences = preferences_address(&app, target, &page);
        Ok(html(StatusCode::OK, &Question { question, subscribed, preferences, page }))
    };
    answer(&app, &visitor, Some(target.mailto(&app)), work).await
}

/// `POST /u/{token}`: withdraws, commits, answers 200 itself (a mail client follows no redirect).
pub(in crate::web) async fn submit(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor, body: Bytes) -> Response {
    let Some((target, _)) = Target::of(&app, PURPOSES, &token) else { return not_ours(&app, &visitor) };
    let ask = Ask::of(&body);
    let work = async {
        // Read first, write last: after the commit nothing can fail any more.
        let contact = person(&mut app.db.clone(), target.contact_id).await?;
        let standings = match ask {
            Ask::OneClick => Vec::new(),
            Ask::Topic | Ask::All => app.permission.standings(target.contact_id).await?,
        };
        let changed = match &contact {
            Some(_) => withdraw(&app, target, ask, &visitor).await?,
            None => false,
        };
        Ok(match (ask, contact) {
            (Ask::OneClick, contact) => one_click_answer(&app, &visitor, contact),
            (_, Some(contact)) => done(&app, &visitor, target, ask, changed, &contact, &standings),
            (_, None) => gone(&app, &visitor),
        })
    };
    answer(&app, &visitor, Some(target.mailto(&app)), work).await
}

async fn withdraw(app: &App, target: Target, ask: Ask, visitor: &Visitor) -> anyhow::Result<bool> {
    let mut tried = 1;
    loop {
        match try_withdraw(app, target, ask, visitor).await {
            Err(error) if tried < TRIES => {
                tracing::warn!(error = %format!("{error:#}"), tried, "a withdrawal failed, trying again");
                tried += 1;
                tokio::time::sleep(TRY_AGAIN).await;
            }
            result => return result,
        }
    }
}

async fn try_withdraw(app: &App, target: Target, ask: Ask, visitor: &Visitor) -> anyhow::Result<bool> {
    let act = target.act(app.clock.now(), ask.way(), visitor);
    let mut tx = app.db.begin().await?;
    let changed = match ask {
        Ask::OneClick | Ask::Topic => app.permission.withdraw(&mut tx, &act, target.topic_id).await?,
        Ask::All => app.permission.withdraw_all(&mut tx, &act).await?,
    };
    if let (true, Some(delivery_id)) = (changed, target.delivery_id) {
        tracking::ops::note_unsubscribe(&mut tx, delivery_id, target.contact_id, act.at, act.way.text()).await?;
    }
    tx.commit().await?;
    Ok(changed)
}

fn one_click_answer(app: &App, visitor: &Visitor, contact: Option<Contact>) -> Response {
    let lang = visitor.lang(&app.languages, contact.and_then(|contact| contact.locale).as_deref());
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{}\n", lang.words().one_click_done)).into_response()
}

/// The page after it, which says what really happened.
fn done(app: &App, visitor: &Visitor, target: Target, ask: Ask, changed: bool, contact: &Contact, standings: &[TopicStanding]) -> Response {
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| {
        if changed { words.done_title.to_owned() } else { words.done_before_title.to_owned() }
    });
    let words = page.words();
    let topic = standings.iter().find(|topic| topic.topic_id == target.topic_id).map(|topic| topic_title(app, &topic.topic));
    let text = match (ask, changed, topic) {
        (Ask::All, true, _) => words.done_all_now,
        (Ask::All, false, _) => words.done_all_before,
        (_, true, Some(_)) => words.done_now,
        (_, true, None) => words.done_now_plain,
        (_, false, Some(_)) => words.done_before,
        (_, false, None) => words.done_before_plain,
    };
    let mut paragraphs = vec![sentence(text, topic.unwrap_or_default(), contact)];
    if changed {
        paragraphs.push(words.done_on_its_way.to_owned());
    }
    let link = Some((preferences_address(app, target, &page), words.done_changed_mind));
    let mark = if changed { Mark::Done } else { Mark::Quiet };
    html(StatusCode::OK, &Message { page, mark, paragraphs, link })
}

/// Relative, so that it also holds behind a proxy that serves us under a path.
fn preferences_address(app: &App, target: Target, page: &Page<'_>) -> String {
    let fields = [target.contact_id, target.topic_id, target.delivery_id.unwrap_or(0)];
    format!("../p/{}{}", app.keys.sign(Purpose::Preferences, &fields), page.query())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_form_is_told_from_every_one_click_body() {
        for (body, ask) in [
            ("leave=topic", Ask::Topic),
            ("leave=all", Ask::All),
            ("leave=nonsense", Ask::OneClick),
            ("List-Unsubscribe=One-Click", Ask::OneClick),
            ("--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n", Ask::OneClick),
            ("{\"List-Unsubscribe\":\"One-Click\"}", Ask::OneClick),
            ("", Ask::OneClick),
        ] {
            assert_eq!(Ask::of(body.as_bytes()), ask, "{body}");
        }
        assert_eq!(Ask::of(b"\xff\xfe%%%=&&"), Ask::OneClick);
    }
}
