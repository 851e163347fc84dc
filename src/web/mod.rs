//! The only HTTP: recipients' pages and links, the API, health, and the development inbox.
//!
//! A recipient's page never fails them: it needs no login, cookie or script, a GET changes nothing,
//! and a change is committed before the answer. Behind a reverse proxy on the same machine the
//! client's address is the last one of `X-Forwarded-For`; from any other peer that header is
//! ignored, because anybody can write it.

pub mod api;
pub mod backend;
mod console;
pub mod desk;
pub mod inbox;
pub mod seam;

mod guard;
mod health;
mod metrics;
mod public;
mod serve;
mod track;
mod visitor;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;

use crate::clock::Clock;
use crate::config::{ProfileField, Sender, Topic};
use crate::contact::Schema;
use crate::db::Db;
use crate::delivery::messages::Intake;
use crate::text::i18n::Languages;
use crate::token::Keys;
use crate::tracking::Recorder;

pub use public::look::Look;
pub use public::snippet::snippet;
pub use serve::serve;

/// Most bytes of a form: the biggest honest one, the preference page, stays under 10 KiB.
const BODY_BYTES: usize = 64 * 1024;

/// What the pages work with.
pub struct App {
    /// For health and for reading who a link is about.
    pub db: Db,
    /// One `now` a request.
    pub clock: Clock,
    /// Public base address, without a trailing slash.
    pub site: String,
    /// Verify links.
    pub keys: Keys,
    /// Shown on every page, and the way out by mail.
    pub sender: Sender,
    /// What pages wear.
    pub look: Look,
    /// The languages of pages.
    pub languages: Languages,
    /// Names and descriptions of the configured topics.
    pub topics: BTreeMap<String, Topic>,
    /// Fields that people may see and change.
    pub profile: Vec<ProfileField>,
    /// Declared attributes.
    pub schema: Schema,
    /// Takes opens and clicks.
    pub recorder: Recorder,
    /// The consent room.
    pub permission: Arc<dyn seam::Permission>,
    /// What people do about their own data; without it those pages are not ours.
    pub rights: Option<desk::Desk>,
    /// Renders mails again.
    pub views: Arc<dyn seam::ViewSource>,
    /// Takes messages over the API; without it there is no API.
    pub intake: Option<Intake>,
    /// The development inbox, where it runs.
    pub inbox: Option<inbox::Inbox>,
    /// The instance behind forms, the API of contacts and subscriptions, and the report pages (which stand
    /// beside the inbox only).
    pub instance: Option<Arc<crate::instance::Instance>>,
}

/// What all handlers share: the application, and what the metrics remember.
struct Served {
    app: App,
    metrics: metrics::Metrics,
    visits: public::beacon::Visits,
}

impl std::ops::Deref for Served {
    type Target = App;
    fn deref(&self) -> &App {
        &self.app
    }
}

/// Shared by all handlers.
type Shared = Arc<Served>;

/// All that is answered, to be given to [`serve`]; cheap to clone.
#[derive(Clone)]
pub struct Pages {
    routes: Router,
    app: Shared,
}

/// Every address we answer.
pub fn router(app: App) -> Pages {
    let metrics = metrics::Metrics::new(app.clock.now());
    let app = Arc::new(Served { app, metrics, visits: public::beacon::Visits::default() });
    let mut routes: Router<Shared> = Router::new()
        .route("/", get(public::home))
        .route("/robots.txt", get(public::robots))
        .route("/favicon.ico", get(public::look::favicon))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::page))
        // What is ours of these two is answered before any routing.
        .route("/o/{file}", get(track::not_ours))
        .route("/c/{token}/{target}", get(track::not_ours))
        .route("/t/{token}", get(track::trap))
        .route("/v/{token}", get(public::view::page))
        .route("/u/{token}", get(public::unsubscribe::page).post(public::unsubscribe::submit))
        .route("/p/{token}", get(public::preferences::page).post(public::preferences::submit))
        .route("/p/{token}/data", axum::routing::post(public::rights::ask))
        .route("/r/{token}", get(public::rights::page).post(public::rights::submit))
        .route("/s/{token}", get(public::confirm::page).post(public::confirm::submit))
        .fallback(public::not_found);
    if let Some(instance) = &app.instance {
        routes = routes.merge(public::subscribe::routes()).merge(public::beacon::routes(instance));
    }
    if app.intake.is_some() {
        routes = routes.merge(api::routes());
    }
    if let Some(inbox) = &app.inbox {
        routes = routes.merge(inbox::pages::routes(inbox.clone()));
        if let Some(instance) = &app.instance {
            routes = routes.merge(console::routes(instance.clone()));
        }
    }
    if app.look.is_branded() {
        routes = routes.layer(axum::middleware::from_fn_with_state(app.clone(), public::look::allow));
    }
    let routes = routes.layer(DefaultBodyLimit::max(BODY_BYTES)).layer(axum::middleware::from_fn(guard::every_answer));
    Pages { routes: routes.with_state(app.clone()), app }
}
