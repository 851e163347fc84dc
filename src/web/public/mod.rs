//! Recipients' pages.

pub(super) mod beacon;
mod choices;
pub(super) mod confirm;
mod fields;
pub(super) mod look;
pub(super) mod preferences;
pub(super) mod rights;
pub(super) mod snippet;
pub(super) mod subscribe;
pub(super) mod unsubscribe;
pub(super) mod view;

use std::sync::LazyLock;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::visitor::Visitor;
use super::{App, Shared};
use crate::clock::Time;
use crate::contact::{self, Contact, Schema};
use crate::db::{Connection, DbError};
use crate::text::i18n::{Lang, Words, fill};
use crate::text::mask_email;
use crate::token::Purpose;
use crate::web::seam::{Act, Way};

/// The one style sheet, inside each page: a page is complete in one answer.
const STYLE: &str = include_str!("../../../templates/public/style.css");
/// How long a page waits for the database before it says "in a minute".
const DATABASE_TIME: Duration = Duration::from_secs(12);
/// When to come back, in seconds.
const RETRY_SECONDS: &str = "60";

/// Nothing but our own style, sign (an image in the page itself) and forms: no script, frame or foreign address.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy("", "'none'"));

/// The policy of a page with further directives (`; script-src 'self'`) and with those who may frame it.
fn policy(more: &str, frames: &str) -> HeaderValue {
    static STYLE_HASH: LazyLock<String> = LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE.as_bytes())));
    let style = STYLE_HASH.as_str();
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:{more}; form-action 'self'; base-uri 'none'; frame-ancestors {frames}"
    );
    // Sites are checked with the configuration; one that is no header value is nobody.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"))
}

/// What every page shows around its content.
struct Page<'a> {
    lang: Lang,
    /// The language is a choice of the visitor, which links carry on.
    chosen: Option<Lang>,
    title: String,
    app: &'a App,
}

impl<'a> Page<'a> {
    fn new(app: &'a App, visitor: &Visitor, locale: Option<&str>, title: impl FnOnce(&'static Words) -> String) -> Self {
        let lang = visitor.lang(&app.languages, locale);
        Page { lang, chosen: visitor.chosen_lang(&app.languages), title: title(lang.words()), app }
    }

    fn words(&self) -> &'static Words {
        self.lang.words()
    }

    fn style(&self) -> &'static str {
        STYLE
    }

    /// Colours of the instance's own.
    fn brand(&self) -> Option<&str> {
        self.app.look.style()
    }

    fn icon(&self) -> String {
        self.app.look.icon_address()
    }

    /// Tag, name and whether it is this page's, of each language.
    fn languages(&self) -> Vec<(&'static str, &'static str, bool)> {
        self.app.languages.all().map(|lang| (lang.tag(), lang.name(), lang == self.lang)).collect()
    }

    /// The query of links: `?lang=..` or nothing.
    fn query(&self) -> String {
        self.chosen.map(|lang| format!("?lang={}", lang.tag())).unwrap_or_default()
    }
}

/// A page that only says something.
#[derive(Template)]
#[template(path = "public/message.html")]
struct Message<'a> {
    page: Page<'a>,
    mark: Mark,
    paragraphs: Vec<String>,
    /// Address and words of a link below.
    link: Option<(String, &'static str)>,
}

impl Message<'_> {
    fn done(&self) -> bool {
        self.mark == Mark::Done
    }
}

/// The sign above a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Done,
    Quiet,
}

/// Sends a page.
fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")), (CONTENT_SECURITY_POLICY, POLICY.clone())];
            (status, headers, text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "cannot render a page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The answer to every link that is not ours, whatever is wrong with it: no hint to who tries.
pub(super) fn not_ours(app: &App, visitor: &Visitor) -> Response {
    let page = Page::new(app, visitor, None, |words| words.not_ours_title.to_owned());
    let paragraphs = vec![page.words().not_ours_text.to_owned()];
    // Somebody whose mail program broke the link has no other way to reach us.
    let link = Some((format!("mailto:{}", app.sender.email), page.words().write_to_us));
    html(StatusCode::NOT_FOUND, &Message { page, mark: Mark::Quiet, paragraphs, link })
}

/// Runs a page's work; when the database is away or slow, the page says so and offers mail.
async fn answer(app: &App, visitor: &Visitor, way_out: Option<String>, work: impl Future<Output = anyhow::Result<Response>>) -> Response {
    match tokio::time::timeout(DATABASE_TIME, work).await {
        Ok(Ok(response)) => return response,
        Ok(Err(error)) => tracing::error!(error = %format!("{error:#}"), "cannot answer a recipient's page"),
        Err(_) => tracing::error!("cannot answer a recipient's page: the database is slow"),
    }
    let page = Page::new(app, visitor, None, |words| words.unavailable_title.to_owned());
    let paragraphs = vec![page.words().unavailable_text.to_owned()];
    let link = way_out.map(|address| (address, page.words().unavailable_mail));
    let mut response = html(StatusCode::SERVICE_UNAVAILABLE, &Message { page, mark: Mark::Quiet, paragraphs, link });
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    response
}

/// Whom and what a link is about.
#[derive(Debug, Clone, Copy)]
struct Target {
    contact_id: i64,
    topic_id: i64,
    delivery_id: Option<i64>,
}

impl Target {
    /// Of a token with the fields contact, topic, delivery (0: no mail).
    fn of(app: &App, purposes: &[Purpose], token: &str) -> Option<(Target, Purpose)> {
        purposes.iter().find_map(|purpose| match app.keys.verify(*purpose, token).ok()?[..] {
            [contact_id, topic_id, delivery_id] => {
                Some((Target { contact_id, topic_id, delivery_id: (delivery_id > 0).then_some(delivery_id) }, *purpose))
            }
            _ => None,
        })
    }

    fn act(&self, at: Time, way: Way, visitor: &Visitor) -> Act {
        Act { contact_id: self.contact_id, at, way, delivery_id: self.delivery_id, ip: visitor.ip.clone(), agent: visitor.agent.clone() }
    }

    /// A mail that unsubscribes, for when this page cannot.
    fn mailto(&self, app: &App) -> String {
        let fields = [self.contact_id, self.topic_id, self.delivery_id.unwrap_or(0)];
        format!("mailto:{}?subject=unsubscribe%20{}", app.sender.email, app.keys.sign(Purpose::UnsubscribeMail, &fields))
    }
}

/// The person of a link; `None` once they were erased.
async fn person(db: &mut impl Connection, contact_id: i64) -> Result<Option<Contact>, DbError> {
    // No declared attribute is shown, so the empty schema will do.
    Ok(contact::sql::by_ids(db, &Schema::default(), &[contact_id]).await?.pop())
}

/// The page for a person who is gone.
fn gone(app: &App, visitor: &Visitor) -> Response {
    let page = Page::new(app, visitor, None, |words| words.gone_title.to_owned());
    let paragraphs = vec![page.words().gone_text.to_owned()];
    html(StatusCode::OK, &Message { page, mark: Mark::Quiet, paragraphs, link: None })
}

/// A sentence about a topic and an address.
fn sentence(text: &str, topic: &str, contact: &Contact) -> String {
    fill(text, &[("topic", topic), ("address", &mask_email(&contact.email))])
}

/// The preference page of a link's person. Relative, so that it also holds behind a proxy that serves us under a
/// path.
fn preferences_address(app: &App, target: Target, page: &Page<'_>) -> String {
    let fields = [target.contact_id, target.topic_id, target.delivery_id.unwrap_or(0)];
    format!("../p/{}{}", app.keys.sign(Purpose::Preferences, &fields), page.query())
}

/// The answer to a form that another website sent: the token is the right to change something, but only its
/// owner may use it, and a browser tells where a form came from.
fn foreign(app: &App, visitor: &Visitor) -> Response {
    let page = Page::new(app, visitor, None, |words| words.foreign_title.to_owned());
    let paragraphs = vec![page.words().foreign_text.to_owned()];
    html(StatusCode::FORBIDDEN, &Message { page, mark: Mark::Quiet, paragraphs, link: None })
}

/// `GET /`: says whose letters these are.
pub(super) async fn home(State(app): State<Shared>, visitor: Visitor) -> Response {
    let sender = app.sender.name.as_str();
    let page = Page::new(&app, &visitor, None, |words| fill(words.home_title, &[("sender", sender)]));
    let paragraphs = vec![fill(page.words().home_text, &[("sender", sender)])];
    html(StatusCode::OK, &Message { page, mark: Mark::Quiet, paragraphs, link: None })
}

/// Anything else.
pub(super) async fn not_found(State(app): State<Shared>, visitor: Visitor) -> Response {
    let page = Page::new(&app, &visitor, None, |words| words.not_found_title.to_owned());
    let paragraphs = vec![page.words().not_found_text.to_owned()];
    html(StatusCode::NOT_FOUND, &Message { page, mark: Mark::Quiet, paragraphs, link: None })
}

/// `GET /robots.txt`: nothing here is for search engines.
pub(super) async fn robots() -> &'static str {
    "User-agent: *\nDisallow: /\n"
}
