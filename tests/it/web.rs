//! Recipients' pages and links, over real connections. The consent room stands behind the pages'
//! seam; here a small one that keeps `subscription` takes its place.

mod inbox;
mod links;
mod metrics;
mod pages;
mod unsubscribe;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use optin::args;
use optin::clock::{Clock, DAY, Time};
use optin::config::{Localised, Sender, Topic};
use optin::consent::Tracking;
use optin::consent::reasons::Reason;
use optin::consent::tracking::{TrackingRules, Why};
use optin::db::{Db, Tx};
use optin::entropy::Entropy;
use optin::text::i18n::Languages;
use optin::token::{Keys, Purpose};
use optin::tracking::{Recorder, RecorderSettings, ops};
use optin::web::inbox::Inbox;
use optin::web::seam::{Act, Answer, Change, Choices, Confirmed, Link, Permission, Resubscribed, Standing, TopicStanding, ViewSource};
use optin::web::{App, Look, router, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use crate::support::http::{Response, get, head, post, request};
use crate::support::{TestDatabase, on_each_database};

const NOW: Time = Time::from_millis(1_764_579_600_000);
const MEI: i64 = 7;
const ERASED: i64 = 8;
const TEA: i64 = 1;
const OFFERS: i64 = 2;
const RUN: i64 = 50;
const DELIVERY: i64 = 100;
const FORM: &str = "application/x-www-form-urlencoded";
const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148";
const EVIL: &str = "<script>alert(1)</script>\"'& <b>tea</b>";

struct Consent(Db);

fn standing(text: Option<&str>) -> Standing {
    match text {
        Some("pending") => Standing::Pending,
        Some("subscribed") => Standing::Subscribed,
        Some("unsubscribed") => Standing::Unsubscribed,
        _ => Standing::None,
    }
}

async fn set(tx: &mut Tx, act: &Act, topic_id: Option<i64>, to: &str, from: &str) -> anyhow::Result<bool> {
    let touched = tx
        .execute(
            &format!(
                "UPDATE subscription SET standing = $1, since = $2
                 WHERE contact_id = $3 AND ($4 = 0 OR topic_id = $4) AND standing IN ({from})"
            ),
            args![to, act.at, act.contact_id, topic_id.unwrap_or(0)],
        )
        .await?;
    Ok(touched > 0)
}

const LIVE: &str = "'pending', 'subscribed', 'paused'";

impl Permission for Consent {
    fn standings<'a>(&'a self, contact_id: i64) -> Answer<'a, Vec<TopicStanding>> {
        Box::pin(async move {
            let rows = self
                .0
                .fetch_all(
                    "SELECT t.id, t.name, s.standing FROM topic t
                     LEFT JOIN subscription s ON s.topic_id = t.id AND s.contact_id = $1 ORDER BY t.id",
                    args![contact_id],
                )
                .await?;
            rows.iter()
                .map(|row| {
                    Ok(TopicStanding {
                        topic_id: row.get(0)?,
                        topic: row.get(1)?,
                        standing: standing(row.get::<Option<String>>(2)?.as_deref()),
                        frequency: None,
                        until: None,
                    })
                })
                .collect()
        })
    }

    fn withdraw<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64) -> Answer<'a, bool> {
        Box::pin(set(tx, act, Some(topic_id), "unsubscribed", LIVE))
    }

    fn withdraw_all<'a>(&'a self, tx: &'a mut Tx, act: &'a Act) -> Answer<'a, bool> {
        Box::pin(set(tx, act, None, "unsubscribed", LIVE))
    }

    fn confirm<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64, _: Link<'a>) -> Answer<'a, Confirmed> {
        Box::pin(async move {
            let changed = set(tx, act, Some(topic_id), "subscribed", "'pending'").await?;
            Ok(if changed { Confirmed::Now } else { Confirmed::NotPending })
        })
    }

    fn resubscribe<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64) -> Answer<'a, Resubscribed> {
        Box::pin(async move {
            tx.execute(
                "INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq) VALUES ($1, $2, 'pending', $3, 0)
                 ON CONFLICT (topic_id, contact_id) DO UPDATE SET standing = 'pending', since = $3",
                args![topic_id, act.contact_id, act.at],
            )
            .await?;
            Ok(Resubscribed::Pending)
        })
    }

    fn choices<'a>(&'a self, _: i64) -> Answer<'a, Option<Choices>> {
        Box::pin(async { Ok(Some(Choices { tracking: Tracking::Full, why: Why::Instance, profiling_refused: false })) })
    }

    fn change<'a>(&'a self, _: &'a mut Tx, _: &'a Act, _: &'a Change) -> Answer<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn say_why<'a>(&'a self, _: &'a mut Tx, _: &'a Act, _: i64, _: Reason, _: Option<&'a str>) -> Answer<'a, bool> {
        Box::pin(async { Ok(false) })
    }
}

struct OneMail;

impl ViewSource for OneMail {
    fn view<'a>(&'a self, delivery_id: i64) -> Answer<'a, Option<String>> {
        Box::pin(async move { Ok((delivery_id == DELIVERY).then(|| "<h1 style=\"color:red\">Oolong</h1>".to_owned())) })
    }
}

struct Site {
    db: Db,
    keys: Keys,
    recorder: Recorder,
    clock: Clock,
    inbox: Inbox,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    _logs: tempfile::TempDir,
}

/// A person who gets two topics, a run with two links, a delivery sent a minute ago.
async fn site(database: &TestDatabase) -> Site {
    let db = database.open().await;
    let mut tx = db.begin().await.unwrap();
    for statement in [
        format!(
            "INSERT INTO contact (id, email, email_key, first_name, locale, created_at, updated_at)
             VALUES ({MEI}, 'Mei@tea.example', 'mei@tea.example', 'Mei', NULL, 0, 0)"
        ),
        "INSERT INTO topic (id, name) VALUES (1, 'tea-letter'), (2, 'offers'), (3, 'gone-topic')".to_owned(),
        format!(
            "INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq)
             VALUES (1, {MEI}, 'subscribed', 5, 1), (2, {MEI}, 'subscribed', 5, 2), (1, {ERASED}, 'subscribed', 5, 3)"
        ),
        format!(
            "INSERT INTO run (id, campaign, topic_id, firing, state, scheduled_at, created_at, definition_hash, definition, excluded,
                              audience, audience_cursor, audience_done)
             VALUES ({RUN}, 'weekly', 1, 'f', 'done', 0, 0, '', '', '{{}}', 1, 0, TRUE)"
        ),
        format!(
            "INSERT INTO run_link (run_id, position, url, name) VALUES ({RUN}, 0, 'https://a.example', 'A'), ({RUN}, 1, 'https://b.example', 'B')"
        ),
        format!(
            "INSERT INTO delivery (id, run_id, contact_id, state, due_at, attempts, changed_at)
             VALUES ({DELIVERY}, {RUN}, {MEI}, 'sent', 0, 1, {})",
            NOW.plus(-60_000).millis()
        ),
    ] {
        tx.execute(&statement, Vec::new()).await.unwrap();
    }
    tx.commit().await.unwrap();

    let keys = Keys::new("a secret of this test", &[]);
    let clock = Clock::manual(NOW);
    let logs = tempfile::tempdir().unwrap();
    let settings =
        RecorderSettings { db: db.clone(), entropy: Entropy::seeded(1), rules: TrackingRules::default(), folder: logs.path().join("hits") };
    let (recorder, _) = Recorder::start(settings).await.unwrap();
    let inbox = Inbox::start("127.0.0.1:0".parse().unwrap(), clock.clone()).await.unwrap();
    let topic = |name: &str| Topic {
        name: name.to_owned(),
        description: "每週二".to_owned(),
        texts: [Localised::plain(name), Localised::plain("每週二")],
        double_opt_in: true,
        ..Topic::default()
    };
    let app = App {
        look: Look::new("Tea House", None),
        languages: Languages::built_in(),
        instance: None,
        intake: None,
        db: db.clone(),
        clock: clock.clone(),
        keys: keys.clone(),
        site: "http://127.0.0.1".to_owned(),
        sender: Sender {
            name: format!("Tea House {EVIL}"),
            email: "letters@tea.example".into(),
            reply_to: None,
            postal_address: "1 Leaf Street, Taipei".into(),
        },
        topics: BTreeMap::from([("tea-letter".to_owned(), topic(EVIL)), ("offers".to_owned(), topic("Offers"))]),
        profile: Vec::new(),
        schema: optin::contact::Schema::default(),
        recorder: recorder.clone(),
        rights: None,
        permission: Arc::new(Consent(db.clone())),
        views: Arc::new(OneMail),
        inbox: Some(inbox.clone()),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move { serve(listener, router(app), async { drop(stopped.await) }).await });
    Site { db, keys, recorder, clock, inbox, address, stop: Some(stop), _logs: logs }
}

impl Site {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn link(&self, letter: char, purpose: Purpose, fields: &[i64]) -> String {
        self.url(&format!("/{letter}/{}", self.keys.sign(purpose, fields)))
    }

    fn header_link(&self) -> String {
        self.link('u', Purpose::UnsubscribeHeader, &[MEI, TEA, DELIVERY])
    }

    fn body_link(&self) -> String {
        self.link('u', Purpose::UnsubscribeBody, &[MEI, TEA, DELIVERY])
    }

    fn click_link(&self, position: i64, target: &str) -> String {
        let token = self.keys.sign_bound(Purpose::Click, &[DELIVERY, position], target);
        self.url(&format!("/c/{token}/{}", URL_SAFE_NO_PAD.encode(target)))
    }

    /// Everything a page might change for people.
    async fn state(&self) -> Vec<String> {
        self.recorder.flush().await;
        let mut out = Vec::new();
        for sql in [
            "SELECT 's', topic_id, contact_id, standing, since FROM subscription ORDER BY topic_id, contact_id",
            "SELECT 'u', delivery_id, run_id, way, at FROM unsubscribe ORDER BY delivery_id",
            "SELECT 'h', id, delivery_id, kind, at FROM hit WHERE kind <> 'trap' AND NOT looked ORDER BY id",
        ] {
            for row in self.db.fetch_all(sql, Vec::new()).await.unwrap() {
                let text: (String, i64, i64, String, i64) =
                    (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap(), row.get(3).unwrap(), row.get(4).unwrap());
                out.push(format!("{text:?}"));
            }
        }
        out
    }

    async fn standing(&self, topic: i64) -> Standing {
        let row = self
            .db
            .fetch_optional("SELECT standing FROM subscription WHERE topic_id = $1 AND contact_id = $2", args![topic, MEI])
            .await
            .unwrap();
        standing(row.map(|row| row.get::<String>(0).unwrap()).as_deref())
    }

    async fn reset(&self) {
        self.db.execute("UPDATE subscription SET standing = 'subscribed', since = 5", Vec::new()).await.unwrap();
        self.db.execute("DELETE FROM unsubscribe", Vec::new()).await.unwrap();
    }

    async fn count(&self, sql: &str) -> i64 {
        self.recorder.flush().await;
        self.db.fetch_one(sql, Vec::new()).await.unwrap().get(0).unwrap()
    }
}

/// What every page for recipients must have.
fn check_page(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(response.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("x-robots-tag"), Some("noindex, nofollow"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(response.header("set-cookie"), None);
    let policy = response.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "style-src 'sha256-", "frame-ancestors 'none'", "form-action 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    let text = response.text();
    for never in ["<script", "<b>tea", "\"'&", "Mei@tea.example", "mei@tea.example", " on", "javascript:"] {
        let found = text.contains(never) && !(never == " on" && !text.contains(" onclick") && !text.contains(" onload"));
        assert!(!found, "`{never}` in {text}");
    }
}
