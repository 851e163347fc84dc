//! The inbox's web pages, under `/inbox`.

use std::sync::{Arc, LazyLock};

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{MessageParser, MimeHeaders as _};
use sha2::{Digest, Sha256};

use super::{Inbox, Received};
use crate::web::Shared;

/// Mails on one page of the list.
const PAGE_MAILS: usize = 50;
/// Mails of one JSON answer.
const JSON_MAILS: usize = 20_000;

const STYLE: &str = include_str!("../../../templates/inbox/style.css");

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("the policy is ASCII")
});

/// A mail's HTML may show images and its own styles; scripts and forms do not run, and it stands in
/// an origin of its own. Only our page may frame it.
const MAIL_POLICY: &str = "default-src 'none'; img-src http: https: data:; style-src 'unsafe-inline'; font-src https: data:; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'self'; \
                           sandbox allow-popups allow-popups-to-escape-sandbox";

/// The routes, for an instance whose inbox runs.
pub(in crate::web) fn routes(inbox: Inbox) -> Router<Shared> {
    Router::new()
        .route("/inbox", get(list))
        .route("/inbox.json", get(json))
        .route("/inbox/{id}", get(mail))
        .route("/inbox/{id}/html", get(html_part))
        .route("/inbox/{id}/raw", get(raw))
        .layer(Extension(inbox))
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Search {
    q: String,
    page: usize,
}

#[derive(Template)]
#[template(path = "inbox/list.html")]
struct List<'a> {
    sender: &'a str,
    mails: &'a [Arc<Received>],
    search: &'a str,
    found: usize,
    page: usize,
    last_page: usize,
    previous: Option<String>,
    next: Option<String>,
}

impl List<'_> {
    fn style(&self) -> &'static str {
        STYLE
    }
}

async fn list(State(app): State<Shared>, Extension(inbox): Extension<Inbox>, Query(search): Query<Search>) -> Response {
    let found = inbox.search(&search.q);
    let last_page = found.len().div_ceil(PAGE_MAILS).max(1);
    let page = search.page.clamp(1, last_page);
    let start = (page - 1) * PAGE_MAILS;
    let address = |page: usize| {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("q", search.q.as_str()), ("page", &page.to_string())])
            .finish();
        format!("inbox?{query}")
    };
    show(&List {
        sender: &app.sender.name,
        mails: &found[start..found.len().min(start + PAGE_MAILS)],
        search: &search.q,
        found: found.len(),
        page,
        last_page,
        previous: (page > 1).then(|| address(page - 1)),
        next: (page < last_page).then(|| address(page + 1)),
    })
}

#[derive(serde::Serialize)]
struct JsonMail<'a> {
    id: u64,
    at: String,
    from: &'a str,
    to: &'a [String],
    subject: &'a str,
    size: usize,
}

/// `GET /inbox.json?q=`: the mails, newest first, for tests.
async fn json(Extension(inbox): Extension<Inbox>, Query(search): Query<Search>) -> Response {
    let found = inbox.search(&search.q);
    let mails: Vec<JsonMail<'_>> = found
        .iter()
        .take(JSON_MAILS)
        .map(|mail| JsonMail {
            id: mail.id,
            at: mail.at.to_string(),
            from: &mail.from,
            to: &mail.to,
            subject: &mail.summary().subject,
            size: mail.raw.len(),
        })
        .collect();
    match serde_json::to_string(&serde_json::json!({ "received": inbox.received(), "messages": mails })) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the inbox as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "inbox/mail.html")]
struct Mail<'a> {
    sender: &'a str,
    mail: &'a Received,
    headers: Vec<(String, String)>,
    has_html: bool,
    text: Option<String>,
    attachments: Vec<String>,
    older: Option<u64>,
    newer: Option<u64>,
}

impl Mail<'_> {
    fn style(&self) -> &'static str {
        STYLE
    }

    fn title(&self) -> &str {
        let subject = self.mail.summary().subject.trim();
        if subject.is_empty() { "(no subject)" } else { subject }
    }
}

async fn mail(State(app): State<Shared>, Extension(inbox): Extension<Inbox>, Path(id): Path<u64>) -> Response {
    let Some(mail) = inbox.get(id) else { return gone() };
    let Some(message) = MessageParser::default().parse(&mail.raw) else {
        return ([(CONTENT_TYPE, "text/plain; charset=utf-8")], mail.raw.clone()).into_response();
    };
    let headers = message.headers_raw().map(|(name, value)| (name.to_owned(), value.trim().replace("\r\n", "\n"))).collect();
    show(&Mail {
        sender: &app.sender.name,
        mail: &mail,
        headers,
        has_html: message.html_body_count() > 0 && html_of(&mail).is_some(),
        text: message.body_text(0).map(|text| text.into_owned()),
        attachments: message
            .attachments()
            .map(|part| format!("{} ({} bytes)", part.attachment_name().unwrap_or("unnamed"), part.len()))
            .collect(),
        older: id.checked_sub(1).filter(|id| inbox.get(*id).is_some()),
        newer: Some(id + 1).filter(|id| inbox.get(*id).is_some()),
    })
}

fn html_of(mail: &Received) -> Option<String> {
    let message = MessageParser::default().parse(&mail.raw)?;
    // `body_html` would make HTML of a text part: only a real one counts.
    message.html_bodies().find(|part| part.is_text_html()).and_then(|part| part.text_contents()).map(str::to_owned)
}

/// Links open beside the inbox: most pages, also ours, refuse to be shown inside a frame.
const NEW_TABS: &str = "<base target=\"_blank\">";

async fn html_part(Extension(inbox): Extension<Inbox>, Path(id): Path<u64>) -> Response {
    let Some(html) = inbox.get(id).and_then(|mail| html_of(&mail)) else { return gone() };
    let html = with_new_tabs(&html);
    ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, MAIL_POLICY)], html).into_response()
}

/// Puts [`NEW_TABS`] into the head; in front only where there is none, because anything before the
/// document type would change how the mail is laid out.
fn with_new_tabs(html: &str) -> String {
    let head = html.to_ascii_lowercase();
    let at = ["<head>", "<head "].iter().find_map(|tag| head.find(tag)).and_then(|start| Some(start + head[start..].find('>')? + 1));
    let (before, after) = html.split_at(at.unwrap_or(0));
    format!("{before}{NEW_TABS}{after}")
}

async fn raw(Extension(inbox): Extension<Inbox>, Path(id): Path<u64>) -> Response {
    let Some(mail) = inbox.get(id) else { return gone() };
    let name = format!("attachment; filename=\"{id}.eml\"");
    ([(CONTENT_TYPE, "message/rfc822".to_owned()), (CONTENT_DISPOSITION, name)], mail.raw.clone()).into_response()
}

fn gone() -> Response {
    (StatusCode::NOT_FOUND, "this mail is not in the inbox (any more)\n").into_response()
}

fn show(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")), (CONTENT_SECURITY_POLICY, POLICY.clone())];
            (headers, text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "cannot render a page of the inbox");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_mail_open_in_new_tabs() {
        assert_eq!(with_new_tabs("<!doctype html><HEAD class=\"茶\"><p>"), format!("<!doctype html><HEAD class=\"茶\">{NEW_TABS}<p>"));
        assert_eq!(with_new_tabs("<header>x"), format!("{NEW_TABS}<header>x"));
        assert_eq!(with_new_tabs("<head "), format!("{NEW_TABS}<head "));
    }
}
