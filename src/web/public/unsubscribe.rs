//! Unsubscribe: a page for people, and one-click for mail clients (RFC 8058). Below the buttons that leave
//! stands what people may want instead; why they left is asked afterwards.

use std::time::Duration;

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::choices::{self, Choice};
use super::{Mark, Message, Page, Target, answer, foreign, gone, html, not_ours, person, preferences_address, sentence};
use crate::consent::reasons::{MAX_COMMENT_CHARS, Reason};
use crate::consent::{ALL_TOPICS, Frequency};
use crate::contact::Contact;
use crate::text::i18n::{Words, fill};
use crate::token::Purpose;
use crate::tracking;
use crate::web::seam::{Change, Standing, TopicStanding, Way};
use crate::web::track::trapped;
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

const PURPOSES: &[Purpose] = &[Purpose::UnsubscribeHeader, Purpose::UnsubscribeBody];
/// A withdrawal is tried so often: it may run twice, and a person should not have to.
const TRIES: u32 = 3;
/// The wait between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What a POST asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask {
    /// One-click, and whatever else is not our form: who posts here wants to leave.
    OneClick,
    /// A button of our page: this topic.
    Topic,
    /// A button of our page: everything.
    All,
    /// A button of our page: less of this topic.
    Less(Less),
    /// The form of the page after a withdrawal: why.
    Why { all: bool, reason: Option<Reason>, comment: String },
}

/// What somebody takes instead of nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Less {
    /// One mail in place of many.
    Often(Option<Frequency>),
    /// A pause: how long, and the day beside it.
    Pause(String, String),
}

impl Ask {
    /// Our forms are told by their fields. Nothing else is looked at: one-click bodies come urlencoded, as
    /// multipart, and as the multipart of RFC 8058 8.3 that no strict parser reads.
    fn of(body: &[u8]) -> Ask {
        if String::from_utf8_lossy(body).to_ascii_lowercase().contains("list-unsubscribe") {
            return Ask::OneClick;
        }
        let field = |wanted: &str| form_urlencoded::parse(body).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned());
        match field("leave").as_deref() {
            Some("topic") => return Ask::Topic,
            Some("all") => return Ask::All,
            _ => {}
        }
        if let Some(often) = field("often") {
            return Ask::Less(Less::Often(Frequency::from_stored(&often)));
        }
        if let Some(span) = field("pause") {
            return Ask::Less(Less::Pause(span, field("day").unwrap_or_default()));
        }
        match field("left") {
            Some(left) => Ask::Why {
                all: left == "all",
                reason: field("reason").as_deref().and_then(Reason::from_text),
                comment: field("comment").unwrap_or_default(),
            },
            None => Ask::OneClick,
        }
    }
}

#[derive(Template)]
#[template(path = "public/unsubscribe.html")]
struct Question<'a> {
    page: Page<'a>,
    question: String,
    /// Something is left to withdraw from this topic.
    subscribed: bool,
    /// What is offered instead, where the topic still comes.
    instead: Option<Instead>,
    /// Address of the preference page.
    preferences: String,
}

struct Instead {
    often: Vec<Choice>,
    spans: Vec<Choice>,
    tomorrow: String,
    /// The day that was sent is none we can take.
    wrong_day: Option<String>,
}

/// The page after a withdrawal, which asks why.
#[derive(Template)]
#[template(path = "public/left.html")]
struct Left<'a> {
    page: Page<'a>,
    paragraphs: Vec<String>,
    reasons: Vec<Choice>,
    /// `topic` or `all`: what was left.
    left: &'static str,
    max_comment: usize,
    /// Address of the preference page.
    preferences: String,
}

/// `GET /u/{token}`: asks. It withdraws nothing: link scanners come by.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    let Some((target, purpose)) = Target::of(&app, PURPOSES, &token) else { return not_ours(&app, &visitor) };
    // Mail clients post to the address in the header, and show it to nobody.
    if let (Purpose::UnsubscribeHeader, Some(delivery_id)) = (purpose, target.delivery_id) {
        app.recorder.note(Some(trapped(delivery_id, "trap=header", app.clock.now(), &visitor))).await;
    }
    answer(&app, &visitor, Some(target.mailto(&app)), question(&app, &visitor, target, None)).await
}

async fn question(app: &App, visitor: &Visitor, target: Target, wrong_day: Option<&str>) -> anyhow::Result<Response> {
    let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(app, visitor)) };
    let standings = app.permission.standings(target.contact_id).await?;
    let topic = standings.iter().find(|topic| topic.topic_id == target.topic_id);
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.unsubscribe_title.to_owned());
    let words = page.words();
    let subscribed = topic.is_none_or(|topic| topic.standing.can_withdraw());
    let question = match topic {
        Some(topic) if subscribed => sentence(words.unsubscribe_question, choices::title(app, page.lang, &topic.topic), &contact),
        Some(topic) => sentence(words.unsubscribe_already, choices::title(app, page.lang, &topic.topic), &contact),
        None => sentence(words.unsubscribe_question_plain, "", &contact),
    };
    let comes = topic.filter(|topic| matches!(topic.standing, Standing::Subscribed | Standing::Paused));
    let instead = comes.map(|topic| Instead {
        often: choices::frequencies(words)
            .into_iter()
            .map(|choice| Choice { chosen: topic.frequency.is_some_and(|frequency| frequency.as_str() == choice.value), ..choice })
            .collect(),
        spans: choices::spans(words),
        tomorrow: choices::tomorrow(app.clock.now(), &contact),
        wrong_day: wrong_day.map(str::to_owned),
    });
    let status = if wrong_day.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let preferences = preferences_address(app, target, &page);
    Ok(html(status, &Question { question, subscribed, instead, preferences, page }))
}

/// `POST /u/{token}`: withdraws, commits, answers 200 itself (a mail client follows no redirect).
///
/// Leaving is never refused, from wherever it is posted: the token is the right to do so. What a page of
/// another site could do with it beyond that is.
pub(in crate::web) async fn submit(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor, body: Bytes) -> Response {
    let Some((target, _)) = Target::of(&app, PURPOSES, &token) else { return not_ours(&app, &visitor) };
    let way_out = Some(target.mailto(&app));
    match Ask::of(&body) {
        Ask::OneClick => answer(&app, &visitor, way_out, one_click(&app, &visitor, target)).await,
        Ask::Topic => answer(&app, &visitor, way_out, leave(&app, &visitor, target, false)).await,
        Ask::All => answer(&app, &visitor, way_out, leave(&app, &visitor, target, true)).await,
        Ask::Less(_) | Ask::Why { .. } if visitor.foreign => foreign(&app, &visitor),
        Ask::Less(less) => answer(&app, &visitor, way_out, take_less(&app, &visitor, target, less)).await,
        Ask::Why { all, reason, comment } => answer(&app, &visitor, way_out, say_why(&app, &visitor, target, all, reason, &comment)).await,
    }
}

async fn one_click(app: &App, visitor: &Visitor, target: Target) -> anyhow::Result<Response> {
    // Read first, write last: after the commit nothing can fail any more.
    let contact = person(&mut app.db.clone(), target.contact_id).await?;
    if contact.is_some() {
        withdraw(app, target, Way::OneClick, false, visitor).await?;
    }
    let lang = visitor.lang(&app.languages, contact.and_then(|contact| contact.locale).as_deref());
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{}\n", lang.words().one_click_done)).into_response())
}

async fn leave(app: &App, visitor: &Visitor, target: Target, all: bool) -> anyhow::Result<Response> {
    let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(app, visitor)) };
    let standings = app.permission.standings(target.contact_id).await?;
    let changed = withdraw(app, target, Way::Page, all, visitor).await?;
    Ok(done(app, visitor, target, all, changed, &contact, &standings))
}

async fn withdraw(app: &App, target: Target, way: Way, all: bool, visitor: &Visitor) -> anyhow::Result<bool> {
    let mut tried = 1;
    loop {
        match try_withdraw(app, target, way, all, visitor).await {
            Err(error) if tried < TRIES => {
                tracing::warn!(error = %format!("{error:#}"), tried, "a withdrawal failed, trying again");
                tried += 1;
                tokio::time::sleep(TRY_AGAIN).await;
            }
            result => return result,
        }
    }
}

async fn try_withdraw(app: &App, target: Target, way: Way, all: bool, visitor: &Visitor) -> anyhow::Result<bool> {
    let act = target.act(app.clock.now(), way, visitor);
    let mut tx = app.db.begin().await?;
    let changed = if all {
        app.permission.withdraw_all(&mut tx, &act).await?
    } else {
        app.permission.withdraw(&mut tx, &act, target.topic_id).await?
    };
    if let (true, Some(delivery_id)) = (changed, target.delivery_id) {
        tracking::ops::note_unsubscribe(&mut tx, delivery_id, target.contact_id, act.at, act.way.text()).await?;
    }
    tx.commit().await?;
    Ok(changed)
}

/// The page after it, which says what really happened.
fn done(
    app: &App,
    visitor: &Visitor,
    target: Target,
    all: bool,
    changed: bool,
    contact: &Contact,
    standings: &[TopicStanding],
) -> Response {
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| {
        if changed { words.done_title.to_owned() } else { words.done_before_title.to_owned() }
    });
    let words = page.words();
    let topic = standings.iter().find(|topic| topic.topic_id == target.topic_id).map(|topic| choices::title(app, page.lang, &topic.topic));
    let text = match (all, changed, topic) {
        (true, true, _) => words.done_all_now,
        (true, false, _) => words.done_all_before,
        (_, true, Some(_)) => words.done_now,
        (_, true, None) => words.done_now_plain,
        (_, false, Some(_)) => words.done_before,
        (_, false, None) => words.done_before_plain,
    };
    let mut paragraphs = vec![sentence(text, topic.unwrap_or_default(), contact)];
    let preferences = preferences_address(app, target, &page);
    if !changed {
        let link = Some((preferences, words.done_changed_mind));
        return html(StatusCode::OK, &Message { page, mark: Mark::Quiet, paragraphs, link });
    }
    paragraphs.push(words.done_on_its_way.to_owned());
    let reasons = Reason::ALL.into_iter().map(|reason| Choice::new(reason.as_str(), in_words(words, reason), false)).collect();
    let left = if all { "all" } else { "topic" };
    html(StatusCode::OK, &Left { page, paragraphs, reasons, left, max_comment: MAX_COMMENT_CHARS, preferences })
}

fn in_words(words: &Words, reason: Reason) -> &'static str {
    match reason {
        Reason::TooMany => words.why_too_many,
        Reason::NotRelevant => words.why_not_relevant,
        Reason::NeverSignedUp => words.why_never_signed_up,
        Reason::Content => words.why_content,
        Reason::Other => words.why_other,
    }
}

async fn take_less(app: &App, visitor: &Visitor, target: Target, less: Less) -> anyhow::Result<Response> {
    let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(app, visitor)) };
    let act = target.act(app.clock.now(), Way::Page, visitor);
    let topic_id = target.topic_id;
    let change = match &less {
        Less::Often(frequency @ Some(_)) => Change::Frequency { topic_id, frequency: *frequency },
        Less::Often(None) => return question(app, visitor, target, None).await,
        Less::Pause(span, day) => match choices::pause_end(span, day, &contact, act.at) {
            Some(until) => Change::Pause { topic_id, until },
            None => return question(app, visitor, target, Some(day)).await,
        },
    };
    let mut tx = app.db.begin().await?;
    app.permission.change(&mut tx, &act, &change).await?;
    tx.commit().await?;
    let standings = app.permission.standings(target.contact_id).await?;
    let topic = standings.iter().find(|topic| topic.topic_id == topic_id);
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.less_saved_title.to_owned());
    let words = page.words();
    let title = topic.map(|topic| choices::title(app, page.lang, &topic.topic)).unwrap_or_default();
    // What stands now, also where it stood so before.
    let (mark, text) = match topic {
        Some(TopicStanding { standing: Standing::Paused, until: Some(until), .. }) if matches!(less, Less::Pause(..)) => {
            (Mark::Done, fill(words.changed_paused, &[("topic", title), ("date", &choices::day(*until, &contact))]))
        }
        Some(topic) if topic.standing.can_withdraw() && matches!(less, Less::Often(_)) => {
            (Mark::Done, fill(words.changed_often, &[("topic", title), ("often", choices::often(words, topic.frequency))]))
        }
        _ => (Mark::Quiet, sentence(words.less_nothing, title, &contact)),
    };
    let link = Some((preferences_address(app, target, &page), words.done_changed_mind));
    Ok(html(StatusCode::OK, &Message { page, mark, paragraphs: vec![text], link }))
}

async fn say_why(
    app: &App,
    visitor: &Visitor,
    target: Target,
    all: bool,
    reason: Option<Reason>,
    comment: &str,
) -> anyhow::Result<Response> {
    let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(app, visitor)) };
    // Words without a choice are an answer too; neither is none.
    let reason = reason.or_else(|| (!comment.trim().is_empty()).then_some(Reason::Other));
    if let Some(reason) = reason {
        let act = target.act(app.clock.now(), Way::Page, visitor);
        let topic_id = if all { ALL_TOPICS } else { target.topic_id };
        let mut tx = app.db.begin().await?;
        app.permission.say_why(&mut tx, &act, topic_id, reason, Some(comment)).await?;
        tx.commit().await?;
    }
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.why_done_title.to_owned());
    let words = page.words();
    let mut paragraphs = vec![words.why_done_text.to_owned()];
    if reason == Some(Reason::NeverSignedUp) {
        paragraphs.push(words.why_objection_text.to_owned());
    }
    let link = Some((preferences_address(app, target, &page), words.done_changed_mind));
    Ok(html(StatusCode::OK, &Message { page, mark: Mark::Done, paragraphs, link }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_forms_are_told_from_every_one_click_body() {
        for (body, ask) in [
            ("leave=topic", Ask::Topic),
            ("leave=all", Ask::All),
            ("leave=nonsense", Ask::OneClick),
            ("List-Unsubscribe=One-Click", Ask::OneClick),
            ("List-Unsubscribe=One-Click&often=weekly&pause=14", Ask::OneClick),
            ("--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n", Ask::OneClick),
            ("{\"List-Unsubscribe\":\"One-Click\"}", Ask::OneClick),
            ("", Ask::OneClick),
            ("often=weekly", Ask::Less(Less::Often(Some(Frequency::Weekly)))),
            ("often=hourly", Ask::Less(Less::Often(None))),
            ("pause=day&day=2027-01-01", Ask::Less(Less::Pause("day".to_owned(), "2027-01-01".to_owned()))),
            ("left=all&comment=a+b", Ask::Why { all: true, reason: None, comment: "a b".to_owned() }),
            ("left=topic&reason=content", Ask::Why { all: false, reason: Some(Reason::Content), comment: String::new() }),
        ] {
            assert_eq!(Ask::of(body.as_bytes()), ask, "{body}");
        }
        assert_eq!(Ask::of(b"\xff\xfe%%%=&&"), Ask::OneClick);
    }
}
