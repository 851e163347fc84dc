//! A person's own data: asking for a copy or for erasure, and the page behind the link that a fresh mail
//! brings.

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::{Mark, Message, Page, Target, answer, gone, html, not_ours, person, sentence};
use crate::contact::Contact;
use crate::rights::request::{Link, Standing};
use crate::rights::{Kind, page as export};
use crate::text::i18n::{Words, fill};
use crate::token::Purpose;
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

#[derive(Template)]
#[template(path = "public/rights.html")]
struct Question<'a> {
    page: Page<'a>,
    question: String,
    what: &'static str,
    button: &'static str,
    /// It takes something away.
    danger: bool,
}

/// `POST /p/{token}/data`: a mail goes to the address itself. The answer is the same for everybody.
pub(in crate::web) async fn ask(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor, body: Bytes) -> Response {
    let Some((target, _)) = Target::of(&app, &[Purpose::Preferences], &token) else { return not_ours(&app, &visitor) };
    let action = form_urlencoded::parse(&body).find(|(name, _)| name == "action").map(|(_, value)| value.into_owned());
    let kind = match action.as_deref() {
        Some("export") => Kind::Access,
        Some("erase") => Kind::Erasure,
        _ => return not_ours(&app, &visitor),
    };
    let work = async {
        let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(&app, &visitor)) };
        if let Some(desk) = &app.rights {
            desk.ask(&contact, kind, visitor.lang(&app.languages, contact.locale.as_deref()), app.clock.now()).await?;
        }
        let page = Page::new(&app, &visitor, contact.locale.as_deref(), |words| words.rights_sent_title.to_owned());
        let words = page.words();
        let paragraphs = vec![sentence(words.rights_sent_text, "", &contact), words.rights_sent_again.to_owned()];
        Ok(html(StatusCode::OK, &Message { page, mark: Mark::Done, paragraphs, link: None }))
    };
    answer(&app, &visitor, Some(target.mailto(&app)), work).await
}

/// `GET /r/{token}`: says what the link does. Nothing happens: scanners follow links.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    link(&app, &visitor, &token, false).await
}

/// `POST /r/{token}`: does it.
pub(in crate::web) async fn submit(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    link(&app, &visitor, &token, true).await
}

async fn link(app: &App, visitor: &Visitor, token: &str, pressed: bool) -> Response {
    let (Some(link), Some(desk)) = (Link::read(&app.keys, token), &app.rights) else { return not_ours(app, visitor) };
    let now = app.clock.now();
    let work = async {
        let standing = desk.look(&link, now).await?;
        let Some(contact) = person(&mut app.db.clone(), link.contact_id).await? else { return Ok(gone(app, visitor)) };
        let request = match standing {
            Standing::Gone => return Ok(gone(app, visitor)),
            Standing::Over => return Ok(over(app, visitor, &contact)),
            Standing::Waiting(request) => return Ok(waiting(app, visitor, &contact, &request.due_at.to_string())),
            Standing::Ready(request) => request,
        };
        if !pressed {
            return Ok(question(app, visitor, &contact, request.kind));
        }
        if !desk.is_automatic() {
            desk.verify(request.id, now).await?;
            return Ok(waiting(app, visitor, &contact, &request.due_at.to_string()));
        }
        if request.kind == Kind::Erasure {
            // Two clicks at once: the second one finds nobody.
            return Ok(if desk.erase(link.contact_id, now).await? { erased(app, visitor, &contact) } else { gone(app, visitor) });
        }
        let lang = visitor.lang(&app.languages, contact.locale.as_deref());
        match desk.export(&request, lang, now).await? {
            Some(archive) => Ok(download(archive)),
            None => Ok(gone(app, visitor)),
        }
    };
    answer(app, visitor, None, work).await
}

fn question(app: &App, visitor: &Visitor, contact: &Contact, kind: Kind) -> Response {
    let danger = kind == Kind::Erasure;
    let title = |words: &'static Words| if danger { words.rights_erase_title } else { words.rights_export_title };
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| title(words).to_owned());
    let words = page.words();
    let (question, what, button) = match danger {
        true => (words.rights_erase_question, words.rights_erase_what, words.rights_erase_button),
        false => (words.rights_export_question, words.rights_export_hint, words.rights_export_button),
    };
    let question = sentence(question, "", contact);
    html(StatusCode::OK, &Question { page, question, what, button, danger })
}

fn erased(app: &App, visitor: &Visitor, contact: &Contact) -> Response {
    said(app, visitor, contact, StatusCode::OK, Mark::Done, |words| (words.rights_erased_title, words.rights_erased_text.to_owned()))
}

fn over(app: &App, visitor: &Visitor, contact: &Contact) -> Response {
    said(app, visitor, contact, StatusCode::GONE, Mark::Quiet, |words| (words.rights_over_title, words.rights_over_text.to_owned()))
}

fn waiting(app: &App, visitor: &Visitor, contact: &Contact, due: &str) -> Response {
    let date = due.get(..10).unwrap_or(due);
    let words = |words: &'static Words| (words.rights_waiting_title, fill(words.rights_waiting_text, &[("date", date)]));
    said(app, visitor, contact, StatusCode::OK, Mark::Done, words)
}

fn said(
    app: &App,
    visitor: &Visitor,
    contact: &Contact,
    status: StatusCode,
    mark: Mark,
    words: impl Fn(&'static Words) -> (&'static str, String),
) -> Response {
    let page = Page::new(app, visitor, contact.locale.as_deref(), |all| words(all).0.to_owned());
    let paragraphs = vec![words(page.words()).1];
    html(status, &Message { page, mark, paragraphs, link: None })
}

fn download(archive: Vec<u8>) -> Response {
    let name = format!("attachment; filename=\"{}\"", export::FILE);
    let disposition = HeaderValue::from_str(&name).expect("the name is ASCII");
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/zip")), (CONTENT_DISPOSITION, disposition)];
    (StatusCode::OK, headers, archive).into_response()
}
