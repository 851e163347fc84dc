//! Hosted forms: `/subscribe/{form}`.
//!
//! The answer to a form is the same for every address, known or not, and takes the same time: who asks is
//! told nothing about others. What is done happens before the answer, within [`ANSWER_TIME`].

mod gate;
mod sent;

use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::fields::{Asked, Input, Read, Widget, inputs, read};
use super::{Mark, Message, Page, answer, html, not_found};
use crate::config::Form;
use crate::consent::Basis;
use crate::consent::entry::{Entry, Wanted, enter};
use crate::consent::requests::{Admission, Limits, Which};
use crate::consent::{Wording, ops};
use crate::contact::Address;
use crate::instance::Instance;
use crate::text::i18n::{Lang, fill};
use crate::web::metrics::FormOutcome;
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};
use gate::{Challenge, Gate};
use sent::Sent;

/// Every request that is let in is answered after so long: longer than the database takes, so that the time
/// does not tell what was done.
const ANSWER_TIME: Duration = Duration::from_millis(250);
/// The script that solves challenges, ours.
const SCRIPT: &str = include_str!("../../../templates/public/pow.js");
/// Browsers keep it for an hour.
const SCRIPT_KEPT: &str = "public, max-age=3600";

/// The addresses of forms.
pub(in crate::web) fn routes() -> Router<Shared> {
    Router::new()
        .route("/subscribe", get(list))
        .route("/subscribe/{form}", get(page).post(submit))
        .route("/subscribe/{form}/embed", get(framed_page).post(framed_submit))
        .route("/assets/pow.js", get(script))
}

async fn script() -> Response {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8"), (CACHE_CONTROL, SCRIPT_KEPT)], SCRIPT).into_response()
}

#[derive(Template)]
#[template(path = "public/forms.html")]
struct List<'a> {
    page: Page<'a>,
    forms: Vec<(String, String)>,
}

/// `GET /subscribe`: all forms, or the only one.
async fn list(State(app): State<Shared>, visitor: Visitor) -> Response {
    let Some(instance) = app.instance.as_deref() else { return not_found(State(app), visitor).await };
    let sender = app.sender.name.as_str();
    let page = Page::new(&app, &visitor, None, |words| fill(words.home_title, &[("sender", sender)]));
    let query = page.query();
    let mut forms: Vec<(String, String)> =
        instance.config.forms.values().map(|form| (format!("/subscribe/{}{query}", form.name), title(form, page.lang))).collect();
    if let [(address, _)] = &forms[..] {
        let place = HeaderValue::from_str(address).unwrap_or(HeaderValue::from_static("/"));
        return (StatusCode::SEE_OTHER, [(LOCATION, place)]).into_response();
    }
    if forms.is_empty() {
        return not_found(State(app.clone()), visitor).await;
    }
    forms.sort_by(|left, right| left.1.cmp(&right.1));
    html(StatusCode::OK, &List { forms, page })
}

/// What stands above a form.
pub(super) fn title(form: &Form, lang: Lang) -> String {
    match form.title.in_language(lang.tag()) {
        "" => lang.words().subscribe_title.to_owned(),
        title => title.to_owned(),
    }
}

/// The words of a form beside its button in a language.
pub(super) fn wording(instance: &Instance, form: &Form, lang: Lang) -> String {
    let own = form.wording.in_language(lang.tag());
    let sender = instance.config.sender.name.as_str();
    match (own, &form.topics[..]) {
        ("", [topic]) => {
            let topic = instance.config.topics.get(&topic.value).map_or(topic.value.as_str(), |topic| topic.name_in(lang.tag()));
            fill(lang.words().subscribe_wording_one, &[("sender", sender), ("topic", topic)])
        }
        ("", _) => fill(lang.words().subscribe_wording, &[("sender", sender)]),
        (own, _) => own.to_owned(),
    }
}

/// What is recorded of those words.
pub(super) fn record<'a>(form: &'a Form, text: &'a str, lang: Lang) -> Wording<'a> {
    Wording { text, locale: Some(lang.tag()), kind: Some("form"), version: form.version.as_deref() }
}

/// A topic with its box.
struct TopicLine {
    key: String,
    title: String,
    description: String,
    ticked: bool,
}

#[derive(Template)]
#[template(path = "public/subscribe.html")]
struct FormPage<'a> {
    page: Page<'a>,
    notice: Option<&'static str>,
    text: String,
    action: String,
    /// Empty where there is nothing to choose.
    topics: Vec<TopicLine>,
    topics_error: Option<&'static str>,
    email: String,
    email_error: Option<&'static str>,
    inputs: Vec<Input>,
    wording: String,
    wording_hash: String,
    privacy: String,
    challenge: Option<Challenge>,
}

#[derive(Template)]
#[template(path = "public/challenge.html")]
struct ChallengePage<'a> {
    page: Page<'a>,
    action: String,
    carried: Vec<(String, String)>,
    challenge: Challenge,
    wait: String,
    wait_text: String,
}

/// One request at one form.
struct Visit<'a> {
    app: &'a App,
    instance: &'a Instance,
    form: &'a Form,
    visitor: &'a Visitor,
    /// Inside a page of a listed site.
    framed: bool,
}

/// What is wrong with what was sent.
#[derive(Default)]
struct Mistakes {
    notice: Option<&'static str>,
    email: Option<&'static str>,
    topics: Option<&'static str>,
    read: Read,
}

/// What was sent, in order.
struct Wish {
    address: Address,
    topics: Vec<String>,
    read: Read,
}

/// `GET /subscribe/{form}`
async fn page(State(app): State<Shared>, Path(form): Path<String>, visitor: Visitor) -> Response {
    show(app, &form, visitor, false).await
}

/// `GET /subscribe/{form}/embed`: the same for a frame in a page of a listed site.
async fn framed_page(State(app): State<Shared>, Path(form): Path<String>, visitor: Visitor) -> Response {
    show(app, &form, visitor, true).await
}

async fn show(app: Shared, form: &str, visitor: Visitor, framed: bool) -> Response {
    let Some(visit) = Visit::of(&app, form, &visitor, framed) else { return not_found(State(app.clone()), visitor).await };
    let work = async { Ok(visit.form(StatusCode::OK, &Sent::default(), Mistakes::default()).await?) };
    answer(&app, &visitor, None, work).await
}

/// `POST /subscribe/{form}`
async fn submit(State(app): State<Shared>, Path(form): Path<String>, visitor: Visitor, headers: HeaderMap, body: Bytes) -> Response {
    take(app, &form, visitor, &headers, &body, false).await
}

/// `POST /subscribe/{form}/embed`
async fn framed_submit(State(app): State<Shared>, Path(form): Path<String>, visitor: Visitor, headers: HeaderMap, body: Bytes) -> Response {
    take(app, &form, visitor, &headers, &body, true).await
}

async fn take(app: Shared, form: &str, visitor: Visitor, headers: &HeaderMap, body: &[u8], framed: bool) -> Response {
    let Some(visit) = Visit::of(&app, form, &visitor, framed) else { return not_found(State(app.clone()), visitor).await };
    let sent = Sent::of(body);
    let work = async {
        let (outcome, response) = visit.take(&sent, headers).await?;
        app.metrics.form(outcome);
        Ok(response)
    };
    answer(&app, &visitor, None, work).await
}

impl<'a> Visit<'a> {
    fn of(app: &'a App, form: &str, visitor: &'a Visitor, framed: bool) -> Option<Visit<'a>> {
        let instance = app.instance.as_deref()?;
        let form = instance.config.forms.get(form).filter(|form| !framed || !form.sites.is_empty())?;
        Some(Visit { app, instance, form, visitor, framed })
    }

    fn lang(&self) -> Lang {
        self.visitor.lang(&self.app.languages, None)
    }

    fn page(&self, title: impl FnOnce(Lang) -> String) -> Page<'a> {
        let lang = self.lang();
        Page::new(self.app, self.visitor, None, |_| title(lang))
    }

    /// Where the form is sent: the language stays, because its words are what people agree to.
    fn action(&self) -> String {
        let frame = if self.framed { "/embed" } else { "" };
        format!("/subscribe/{}{frame}?lang={}", self.form.name, self.lang().tag())
    }

    fn asked(&self) -> Vec<Asked<'a>> {
        let profile = &self.instance.config.profile;
        let field = |name: &String| profile.iter().find(|field| field.name == *name);
        let required = |name: &String| self.form.required.contains(name);
        self.form.fields.iter().filter_map(|name| Some(Asked { field: field(&name.value)?, required: required(&name.value) })).collect()
    }

    fn gate(&self) -> Gate<'a> {
        Gate { instance: self.instance, form: &self.form.name }
    }

    fn limits(&self) -> Limits<'a> {
        Limits::new(&self.instance.config.form_limits, &self.instance.keys)
    }

    /// The form, with what was typed and what is wrong with it.
    async fn form(&self, status: StatusCode, sent: &Sent, mistakes: Mistakes) -> anyhow::Result<Response> {
        let (lang, config) = (self.lang(), &self.instance.config);
        let now = self.instance.clock.now();
        let proof = self.limits().wants_proof(&self.instance.db, self.visitor.ip.as_deref(), now).await?;
        let challenge = proof.then(|| self.gate().challenge(now));
        let topics = match &self.form.topics[..] {
            [_] => Vec::new(),
            several => several
                .iter()
                .map(|topic| {
                    let text = config.topics.get(&topic.value);
                    TopicLine {
                        title: text.map_or(topic.value.as_str(), |text| text.name_in(lang.tag())).to_owned(),
                        description: text.map_or("", |text| text.description_in(lang.tag())).to_owned(),
                        // Never ticked by us (CJEU C-673/17, Planet49): only what the person ticked before.
                        ticked: sent.topics.contains(&topic.value),
                        key: topic.value.clone(),
                    }
                })
                .collect(),
        };
        let words = wording(self.instance, self.form, lang);
        let asked = self.asked();
        let privacy = fill(lang.words().subscribe_privacy, &[("sender", config.sender.name.as_str())]);
        let scripted = challenge.is_some();
        let response = html(
            status,
            &FormPage {
                page: self.page(|lang| title(self.form, lang)),
                notice: mistakes.notice,
                text: self.form.text.in_language(lang.tag()).to_owned(),
                action: self.action(),
                topics,
                topics_error: mistakes.topics,
                email: sent.email.clone(),
                email_error: mistakes.email,
                inputs: inputs(&asked, &sent.typed, &mistakes.read.errors, &self.app.languages, lang),
                wording_hash: record(self.form, &words, lang).hash(),
                wording: words,
                privacy,
                challenge,
            },
        );
        Ok(self.guarded(response, scripted))
    }

    /// The policy of a form's page: our script where there is a challenge, frames of listed sites.
    fn guarded(&self, mut response: Response, scripted: bool) -> Response {
        let script = if scripted { "; script-src 'self'" } else { "" };
        let frames = if self.framed { self.form.sites.join(" ") } else { "'none'".to_owned() };
        let policy = super::policy(script, &frames);
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, policy);
        // Without a referrer a browser sends `Origin: null` with our own form, too (Fetch, 3.2): then nobody
        // could tell it from a foreign one. The address of a form is no secret.
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        response
    }

    /// Answers a form that was sent.
    async fn take(&self, sent: &Sent, headers: &HeaderMap) -> anyhow::Result<(FormOutcome, Response)> {
        let words = self.lang().words();
        if sent.trapped {
            tokio::time::sleep(ANSWER_TIME).await;
            return Ok((FormOutcome::Trapped, self.thanks(&sent.email)));
        }
        let foreign = gate::is_foreign(headers, &self.instance.config.site.url.value, &self.form.sites);
        let wish = match self.read(sent) {
            Ok(wish) if foreign => Err(Mistakes { notice: Some(words.subscribe_press_again), read: wish.read, ..Mistakes::default() }),
            Ok(wish) => Ok(wish),
            Err(mistakes) => Err(mistakes),
        };
        let wish = match wish {
            Ok(wish) => wish,
            Err(mistakes) => {
                let status = if foreign { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
                return Ok((FormOutcome::Returned, self.form(status, sent, mistakes).await?));
            }
        };
        let now = self.instance.clock.now();
        let (proof, early) = self.gate().proof(sent, wish.address.key(), now);
        let asker = self.gate().asker(self.visitor.ip.as_deref(), wish.address.key(), proof);
        match self.limits().admit(&self.instance.db, &asker, now).await? {
            Admission::Admitted => {}
            Admission::Prove => return Ok((FormOutcome::Challenged, self.prove(sent, &wish, early))),
            Admission::TooMany { which, retry_seconds } => return Ok((FormOutcome::Limited, self.too_many(which, retry_seconds))),
        }
        let time = tokio::time::sleep(ANSWER_TIME);
        self.record(&wish).await?;
        time.await;
        Ok((FormOutcome::Accepted, self.thanks(&sent.email)))
    }

    fn read(&self, sent: &Sent) -> Result<Wish, Mistakes> {
        let lang = self.lang();
        let words = lang.words();
        let address = Address::parse(sent.email.trim());
        let topics: Vec<String> = match &self.form.topics[..] {
            [only] => vec![only.value.clone()],
            several => several.iter().filter(|topic| sent.topics.contains(&topic.value)).map(|topic| topic.value.clone()).collect(),
        };
        let read = read(&self.asked(), &sent.typed, &self.instance.schema, &self.app.languages, lang);
        let shown = record(self.form, &wording(self.instance, self.form, lang), lang).hash();
        match address {
            Ok(address) if !topics.is_empty() && read.errors.is_empty() && sent.wording == shown => Ok(Wish { address, topics, read }),
            address => {
                let mistaken = address.is_err() || topics.is_empty() || !read.errors.is_empty();
                Err(Mistakes {
                    notice: Some(if mistaken { words.subscribe_mistakes } else { words.subscribe_read_again }),
                    email: address.is_err().then_some(words.subscribe_email_wrong),
                    topics: topics.is_empty().then_some(words.subscribe_topics_none),
                    read,
                })
            }
        }
    }

    /// Puts the wish into the ledger.
    async fn record(&self, wish: &Wish) -> anyhow::Result<()> {
        let (instance, lang, now) = (self.instance, self.lang(), self.instance.clock.now());
        let words = wording(instance, self.form, lang);
        let mut tx = instance.db.begin().await?;
        let hash = ops::keep_wording(&mut tx, &record(self.form, &words, lang), now).await?;
        let mut topics = Vec::with_capacity(wish.topics.len());
        for name in &wish.topics {
            let topic = instance.config.topics.get(name);
            topics.push(Wanted {
                topic_id: ops::topic_id(&mut tx, name, &instance.entropy, now).await?,
                double: topic.is_none_or(|topic| topic.double_opt_in),
                purpose: topic.map_or("marketing", |topic| topic.purpose.as_str()).to_owned(),
            });
        }
        let entry = Entry {
            address: &wish.address,
            topics: &topics,
            fields: &wish.read.values,
            locale: Some(lang.tag()),
            source: &format!("form {}", self.form.name),
            form: Some(&self.form.name),
            basis: Basis::Consent,
            wording_hash: Some(&hash),
            proof: json!({}),
            ip: self.visitor.ip.as_deref(),
            agent: self.visitor.agent.as_deref(),
        };
        enter(&mut tx, &instance.schema, &instance.entropy, &instance.digests(), &entry, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The answer to everybody.
    fn thanks(&self, email: &str) -> Response {
        let page = self.page(|lang| lang.words().subscribe_thanks_title.to_owned());
        let words = page.words();
        let paragraphs = vec![fill(words.subscribe_thanks_text, &[("address", email.trim())]), words.subscribe_thanks_spam.to_owned()];
        self.guarded(html(StatusCode::OK, &Message { page, mark: Mark::Done, paragraphs, link: None }), false)
    }

    /// Asks for a solved challenge, or for a little patience.
    fn prove(&self, sent: &Sent, wish: &Wish, early: Option<gate::Early>) -> Response {
        let (gate, now) = (self.gate(), self.instance.clock.now());
        let page = self.page(|lang| lang.words().subscribe_prove_title.to_owned());
        let words = page.words();
        let (wait, seconds, text) = match early {
            Some(early) => (early.ticket, early.seconds, words.subscribe_wait_early),
            None => (gate.wait(wish.address.key(), now), gate::WAIT_SECONDS, words.subscribe_wait_text),
        };
        let wait_text = fill(text, &[("seconds", &seconds.to_string())]);
        let view = ChallengePage { action: self.action(), carried: sent.carried(), challenge: gate.challenge(now), wait, wait_text, page };
        self.guarded(html(StatusCode::OK, &view), true)
    }

    fn too_many(&self, which: Which, retry_seconds: i64) -> Response {
        let page = self.page(|lang| lang.words().subscribe_limit_title.to_owned());
        let words = page.words();
        let text = match which {
            Which::Address => words.subscribe_limit_address,
            Which::Client | Which::All => words.subscribe_limit_text,
        };
        let paragraphs = vec![fill(text, &[("minutes", &(retry_seconds + 59).div_euclid(60).to_string())])];
        let mut response = html(StatusCode::TOO_MANY_REQUESTS, &Message { page, mark: Mark::Quiet, paragraphs, link: None });
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_seconds));
        self.guarded(response, false)
    }
}
