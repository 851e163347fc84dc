//! Recipients' pages and links, over real connections. The consent room stands behind the pages'
//! seam; here a small one that keeps `subscription` takes its place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use optin::args;
use optin::clock::{Clock, DAY, Time};
use optin::config::{Sender, Topic};
use optin::db::{Db, Tx};
use optin::entropy::Entropy;
use optin::token::{Keys, Purpose};
use optin::tracking::{Recorder, ops};
use optin::web::inbox::Inbox;
use optin::web::seam::{Act, Answer, Confirmed, Permission, Resubscribed, Standing, TopicStanding, ViewSource};
use optin::web::{App, router, serve};
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

    fn confirm<'a>(&'a self, tx: &'a mut Tx, act: &'a Act, topic_id: i64, _: Time) -> Answer<'a, Confirmed> {
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
            "INSERT INTO run (id, campaign, topic_id, firing, state, scheduled_at, created_at, definition_hash, definition,
                              audience, audience_cursor, audience_done)
             VALUES ({RUN}, 'weekly', 1, 'f', 'done', 0, 0, '', '', 1, 0, TRUE)"
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
    let (recorder, _) = Recorder::start(db.clone(), Entropy::seeded(1));
    let inbox = Inbox::start("127.0.0.1:0".parse().unwrap(), clock.clone()).await.unwrap();
    let topic = |name: &str| Topic { place: None, name: name.to_owned(), description: "每週二".to_owned(), double_opt_in: true };
    let app = App {
        db: db.clone(),
        clock: clock.clone(),
        keys: keys.clone(),
        sender: Sender {
            name: format!("Tea House {EVIL}"),
            email: "letters@tea.example".into(),
            reply_to: None,
            postal_address: "1 Leaf Street, Taipei".into(),
        },
        topics: BTreeMap::from([("tea-letter".to_owned(), topic(EVIL)), ("offers".to_owned(), topic("Offers"))]),
        recorder: recorder.clone(),
        permission: Arc::new(Consent(db.clone())),
        views: Arc::new(OneMail),
        inbox: Some(inbox.clone()),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move { serve(listener, router(app), async { drop(stopped.await) }).await });
    Site { db, keys, recorder, clock, inbox, address, stop: Some(stop) }
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

    /// Everything a page might change.
    async fn state(&self) -> Vec<String> {
        self.recorder.flush().await;
        let mut out = Vec::new();
        for sql in [
            "SELECT 's', topic_id, contact_id, standing, since FROM subscription ORDER BY topic_id, contact_id",
            "SELECT 'u', delivery_id, run_id, way, at FROM unsubscribe ORDER BY delivery_id",
            "SELECT 'h', id, delivery_id, kind, at FROM hit ORDER BY id",
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

/// A form as in RFC 7578, with a boundary as a mail client writes it.
fn multipart(boundary: &str) -> (String, Vec<u8>) {
    let body = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--{boundary}--\r\n");
    (format!("multipart/form-data; boundary={boundary}"), body.into_bytes())
}

on_each_database!(
    async fn every_form_of_one_click_withdraws_that_topic_at_once_and_answers_200(database) {
        let site = site(&database).await;
        let (kind, proper) = multipart("----FormBoundaryjWmhtjORrn");
        // RFC 8058 8.3 as printed: its delimiters lack two hyphens, its length is 124 as it says.
        let printed = b"---FormBoundaryjWmhtjORrn\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n---FormBoundaryjWmhtjORrn--";
        assert_eq!(printed.len(), 124);
        let bodies: Vec<(&str, &[u8])> = vec![
            (FORM, b"List-Unsubscribe=One-Click"),
            ("application/x-www-form-urlencoded; charset=utf-8", b"List-Unsubscribe=One-Click\r\n"),
            (&kind, &proper),
            ("multipart/form-data; boundary=---FormBoundaryjWmhtjORrn", printed),
            ("application/json", b"{\"List-Unsubscribe\":\"One-Click\"}"),
            ("text/plain", b""),
            ("", b"\xff\x00\xfe"),
        ];
        for link in [site.header_link(), site.body_link()] {
            for (kind, body) in &bodies {
                site.reset().await;
                let response = post(&link, kind, body);
                assert_eq!(response.status, 200, "{kind}");
                assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
                assert_eq!((response.header("location"), response.header("set-cookie")), (None, None));
                assert!(response.text().len() < 200);
                assert_eq!(site.standing(TEA).await, Standing::Unsubscribed, "{kind}");
                assert_eq!(site.standing(OFFERS).await, Standing::Subscribed, "only the topic of the mail");
                assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe WHERE way = 'one_click' AND run_id = 50").await, 1);
            }
        }
    }
);

on_each_database!(
    async fn one_click_repeated_and_all_at_once_keeps_the_first_time(database) {
        let site = site(&database).await;
        let link = site.header_link();
        let posts: Vec<_> = (0..10)
            .map(|_| {
                let link = link.clone();
                tokio::task::spawn_blocking(move || post(&link, FORM, b"List-Unsubscribe=One-Click").status)
            })
            .collect();
        for status in posts {
            assert_eq!(status.await.unwrap(), 200);
        }
        let before = site.state().await;
        site.clock.advance(400 * DAY);
        assert_eq!(post(&link, FORM, b"List-Unsubscribe=One-Click").status, 200);
        assert_eq!(site.state().await, before);
        assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe").await, 1);
    }
);

on_each_database!(
    async fn looking_changes_nothing(database) {
        let site = site(&database).await;
        let expires = NOW.plus(DAY).millis();
        site.db.execute("UPDATE subscription SET standing = 'pending' WHERE topic_id = 2", Vec::new()).await.unwrap();
        let before = site.state().await;
        let click = site.click_link(0, "https://a.example");
        for link in [
            site.header_link(),
            site.body_link(),
            site.link('p', Purpose::Preferences, &[MEI, TEA, DELIVERY]),
            site.link('s', Purpose::Confirm, &[MEI, OFFERS, expires]),
            site.link('v', Purpose::View, &[DELIVERY]),
        ] {
            for method in ["GET", "HEAD", "OPTIONS", "GET", "PUT", "DELETE"] {
                let response = request(method, &link, &[], b"");
                assert!(response.status < 500, "{method} {link}: {}", response.status);
            }
            assert_eq!(get(&link).status, 200);
        }
        // An image and a link are there to be counted, but not on HEAD.
        for link in [click, site.link('o', Purpose::Open, &[DELIVERY]) + ".gif"] {
            assert!(head(&link).status < 400);
            request("OPTIONS", &link, &[], b"");
        }
        assert_eq!(site.state().await, before);
    }
);

on_each_database!(
    async fn the_page_withdraws_and_says_what_really_happened(database) {
        let site = site(&database).await;
        let link = site.body_link();
        let question = get(&link);
        check_page(&question, 200);
        assert!(question.text().contains("M***@tea.example"), "{}", question.text());
        assert!(question.text().contains("&#60;script&#62;"), "{}", question.text());

        let done = post(&link, FORM, b"leave=topic");
        check_page(&done, 200);
        assert!(done.text().contains("You are unsubscribed"));
        assert_eq!((site.standing(TEA).await, site.standing(OFFERS).await), (Standing::Unsubscribed, Standing::Subscribed));
        let again = post(&link, FORM, b"leave=topic");
        check_page(&again, 200);
        assert!(again.text().contains("You were unsubscribed already"));
        assert!(get(&link).text().contains("not subscribed to"));

        let all = post(&link, FORM, b"leave=all");
        check_page(&all, 200);
        assert!(all.text().contains("any letters"), "{}", all.text());
        assert_eq!(site.standing(OFFERS).await, Standing::Unsubscribed);
        assert!(post(&link, FORM, b"leave=all").text().contains("not subscribed to anything"));
        assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe WHERE way = 'page'").await, 1);
    }
);

on_each_database!(
    async fn links_work_after_everything_they_came_from_is_gone(database) {
        let site = site(&database).await;
        for table in ["delivery", "run", "run_link"] {
            site.db.execute(&format!("DELETE FROM {table}"), Vec::new()).await.unwrap();
        }
        // A topic that left the configuration, then even the list of topics.
        site.db.execute("UPDATE subscription SET topic_id = 3 WHERE topic_id = 1", Vec::new()).await.unwrap();
        let link = site.link('u', Purpose::UnsubscribeBody, &[MEI, 3, DELIVERY]);
        check_page(&get(&link), 200);
        site.db.execute("DELETE FROM topic", Vec::new()).await.unwrap();
        check_page(&get(&link), 200);
        let done = post(&link, FORM, b"leave=topic");
        check_page(&done, 200);
        assert!(done.text().contains("You are unsubscribed"));
        assert_eq!(site.standing(3).await, Standing::Unsubscribed);
        assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe").await, 0);
        assert_eq!(get(&site.click_link(0, "https://a.example")).status, 302);
        assert_eq!(site.count("SELECT COUNT(*) FROM hit").await, 0);
    }
);

on_each_database!(
    async fn an_erased_person_gets_a_friendly_answer_and_nothing_is_written(database) {
        let site = site(&database).await;
        let before = site.state().await;
        let link = site.link('u', Purpose::UnsubscribeHeader, &[ERASED, TEA, DELIVERY]);
        check_page(&get(&link), 200);
        assert_eq!(post(&link, FORM, b"List-Unsubscribe=One-Click").status, 200);
        check_page(&post(&link, FORM, b"leave=all"), 200);
        let preferences = site.link('p', Purpose::Preferences, &[ERASED, TEA, 0]);
        check_page(&get(&preferences), 200);
        check_page(&post(&preferences, FORM, b"leave=all"), 200);
        check_page(&post(&site.link('s', Purpose::Confirm, &[ERASED, TEA, NOW.plus(DAY).millis()]), FORM, b""), 200);
        assert_eq!(site.state().await, before);
    }
);

on_each_database!(
    async fn altered_foreign_and_misused_tokens_do_nothing_and_all_look_alike(database) {
        let site = site(&database).await;
        let before = site.state().await;
        let fields = [MEI, TEA, DELIVERY];
        let genuine = site.keys.sign(Purpose::UnsubscribeHeader, &fields);
        let mut bad: Vec<String> = vec!["x".into(), "A".repeat(500), genuine[..genuine.len() - 1].to_owned(), format!("{genuine}A"), "%00".into()];
        let bytes = URL_SAFE_NO_PAD.decode(&genuine).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            bad.push(URL_SAFE_NO_PAD.encode(changed));
        }
        bad.push(Keys::new("another secret", &[]).sign(Purpose::UnsubscribeHeader, &fields));
        for purpose in [Purpose::Open, Purpose::View, Purpose::Preferences, Purpose::Confirm, Purpose::UnsubscribeMail, Purpose::Click] {
            bad.push(site.keys.sign(purpose, &fields));
        }
        bad.push(site.keys.sign(Purpose::UnsubscribeHeader, &[MEI]));
        let page = get(&site.url("/u/x")).text();
        for token in &bad {
            let url = site.url(&format!("/u/{token}"));
            for response in [get(&url), post(&url, FORM, b"List-Unsubscribe=One-Click"), post(&url, FORM, b"leave=all")] {
                check_page(&response, 404);
                assert_eq!(response.text(), page, "{token}");
            }
        }
        for letter in ['p', 's', 'v'] {
            let url = site.url(&format!("/{letter}/{genuine}"));
            check_page(&get(&url), 404);
            assert!(post(&url, FORM, b"leave=all").status >= 400);
        }
        assert_eq!(site.state().await, before);
    }
);

on_each_database!(
    async fn preferences_withdraw_at_once_and_subscribe_only_after_a_confirmation(database) {
        let site = site(&database).await;
        site.db.execute("DELETE FROM subscription WHERE topic_id = 2", Vec::new()).await.unwrap();
        let link = site.link('p', Purpose::Preferences, &[MEI, TEA, DELIVERY]);
        let form = get(&link);
        check_page(&form, 200);
        assert!(form.text().contains("name=\"topic\" value=\"1\" checked"), "{}", form.text());
        assert!(form.text().contains("name=\"topic\" value=\"2\">"), "{}", form.text());
        assert!(!form.text().contains("gone-topic"));

        let saved = post(&link, FORM, b"shown=1&shown=2&topic=2&save=1");
        check_page(&saved, 200);
        assert!(saved.text().contains("once you follow the link"), "{}", saved.text());
        assert_eq!((site.standing(TEA).await, site.standing(OFFERS).await), (Standing::Unsubscribed, Standing::Pending));
        assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe WHERE way = 'preferences'").await, 1);
        let same = site.state().await;
        // The same choice again, and a form from before a topic was there: nothing changes.
        check_page(&post(&link, FORM, b"shown=1&shown=2&topic=2&save=1"), 200);
        check_page(&post(&link, FORM, b"save=1"), 200);
        check_page(&post(&link, FORM, b"shown=3&topic=3&topic=99&save=1"), 200);
        assert_eq!(site.state().await, same);
        assert!(post(&link, FORM, b"leave=all").text().contains("Saved."));
        assert_eq!(site.standing(OFFERS).await, Standing::Unsubscribed);
    }
);

on_each_database!(
    async fn a_confirmation_needs_the_button_once_and_in_time(database) {
        let site = site(&database).await;
        site.db.execute("UPDATE subscription SET standing = 'pending' WHERE topic_id = 2", Vec::new()).await.unwrap();
        let link = site.link('s', Purpose::Confirm, &[MEI, OFFERS, NOW.plus(DAY).millis()]);
        let question = get(&link);
        check_page(&question, 200);
        assert!(question.text().contains("Yes, subscribe me"));
        let late = site.link('s', Purpose::Confirm, &[MEI, OFFERS, NOW.millis()]);
        check_page(&post(&late, FORM, b"confirm=1"), 410);
        assert_eq!(site.standing(OFFERS).await, Standing::Pending);
        check_page(&post(&link, FORM, b"confirm=1"), 200);
        assert_eq!(site.standing(OFFERS).await, Standing::Subscribed);
        assert!(post(&link, FORM, b"confirm=1").text().contains("confirmed this before"));
        // Left again: the old link does not bring them back.
        post(&site.link('u', Purpose::UnsubscribeBody, &[MEI, OFFERS, 0]), FORM, b"leave=topic");
        assert!(post(&link, FORM, b"confirm=1").text().contains("nothing to confirm"));
        assert_eq!(site.standing(OFFERS).await, Standing::Unsubscribed);
    }
);

on_each_database!(
    async fn the_language_is_the_choice_then_the_contacts_then_the_browsers(database) {
        let site = site(&database).await;
        let link = site.body_link();
        let lang = |url: &str, accept: &str| {
            let text = request("GET", url, &[("Accept-Language", accept)], b"").text();
            text.split("<html lang=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        assert_eq!(lang(&link, "de, zh-TW;q=0.5"), "zh-Hant");
        assert_eq!(lang(&link, "fr"), "en");
        site.db.execute("UPDATE contact SET locale = 'zh_CN'", Vec::new()).await.unwrap();
        assert_eq!(lang(&link, "zh-TW"), "zh-Hans");
        assert_eq!(lang(&format!("{link}?lang=zh-Hant"), "en"), "zh-Hant");
        assert!(post(&link, FORM, b"leave=topic").text().contains("您已退订"));
        assert_eq!(lang(&site.url("/nowhere?lang=zh-Hant"), ""), "zh-Hant");
    }
);

on_each_database!(
    async fn an_altered_target_is_not_led_to_and_a_genuine_one_is_counted(database) {
        let site = site(&database).await;
        let target = "https://shop.example/茶?a=1&b=2";
        let link = site.click_link(0, target);
        let response = request("GET", &link, &[("User-Agent", PHONE)], b"");
        assert_eq!((response.status, response.header("location")), (302, Some("https://shop.example/%E8%8C%B6?a=1&b=2")));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let (token, _) = link.rsplit_once('/').unwrap();
        for other in ["https://evil.example/", "https://shop.example/茶?a=1&b=3", "javascript:alert(1)", ""] {
            let response = get(&format!("{token}/{}", URL_SAFE_NO_PAD.encode(other)));
            assert!((400..500).contains(&response.status), "{other}");
            assert_eq!(response.header("location"), None);
        }
        assert_eq!(get(&format!("{token}/%FF")).header("location"), None);
        assert_eq!(get(&site.click_link(0, "javascript:alert(1)")).status, 404, "even signed by ourselves");
        let counts = ops::counts(&mut site.db.clone(), RUN).await.unwrap();
        assert_eq!((counts.clicks.human, counts.clicks.machine, counts.clicks.unique), (1, 0, 1));
        assert_eq!(site.count("SELECT COUNT(*) FROM hit WHERE kind = 'click' AND link = 0 AND ip = '127.0.0.1'").await, 1);
    }
);

on_each_database!(
    async fn the_image_is_the_same_for_known_and_unknown_tokens(database) {
        let site = site(&database).await;
        let known = get(&(site.link('o', Purpose::Open, &[DELIVERY]) + ".gif"));
        let mut headers = known.headers.clone();
        headers.retain(|(name, _)| name != "date");
        assert_eq!((known.status, known.header("content-type"), known.body.len()), (200, Some("image/gif"), 43));
        assert!(known.header("cache-control").unwrap().contains("no-store"));
        for other in [site.link('o', Purpose::Open, &[999]), site.link('o', Purpose::View, &[DELIVERY]), site.url("/o/nonsense")] {
            let mut unknown = get(&(other + ".gif"));
            unknown.headers.retain(|(name, _)| name != "date");
            assert_eq!((unknown.status, unknown.headers, unknown.body), (200, headers.clone(), known.body.clone()));
        }
        assert_eq!(site.count("SELECT COUNT(*) FROM hit").await, 1);
        assert_eq!(site.count("SELECT COUNT(*) FROM hit WHERE verdict = 'machine' AND signals = 'no_agent' AND kind = 'open'").await, 1);
    }
);

on_each_database!(
    async fn a_scanner_that_follows_every_link_counts_no_human_click(database) {
        let site = site(&database).await;
        for position in [0, 1, 2] {
            request("GET", &site.click_link(position, "https://a.example"), &[("User-Agent", PHONE)], b"");
            // Each in a group of its own: the first two were taken for a person's until the third.
            site.recorder.flush().await;
            site.clock.advance(1_000);
        }
        let counts = ops::counts(&mut site.db.clone(), RUN).await.unwrap();
        assert_eq!((counts.clicks.human, counts.clicks.machine, counts.clicks.unique), (0, 3, 0));
        assert_eq!(site.count("SELECT COUNT(*) FROM hit WHERE signals = 'burst'").await, 3);
        // A minute later, the person.
        site.clock.advance(60_000);
        request("GET", &site.click_link(1, "https://b.example"), &[("User-Agent", PHONE)], b"");
        request("GET", &(site.link('o', Purpose::Open, &[DELIVERY]) + ".gif"), &[("User-Agent", PHONE)], b"");
        site.recorder.flush().await;
        let counts = ops::counts(&mut site.db.clone(), RUN).await.unwrap();
        assert_eq!((counts.clicks.human, counts.clicks.machine, counts.clicks.unique, counts.opens.human), (1, 3, 1, 1));
        let by_link: Vec<(i64, i64, i64)> =
            counts.by_link.iter().map(|link| (link.counts.human, link.counts.machine, link.counts.unique)).collect();
        assert_eq!(by_link, [(0, 1, 0), (1, 1, 1)]);
    }
);

on_each_database!(
    async fn thousands_of_hits_are_written_in_groups_and_none_is_lost(database) {
        let site = site(&database).await;
        let mut tasks = Vec::new();
        for task in 0..50 {
            let (recorder, now) = (site.recorder.clone(), site.clock.now());
            tasks.push(tokio::spawn(async move {
                for hit in 0..40 {
                    let delivery = if hit % 4 == 0 { 999 } else { DELIVERY };
                    recorder.record(optin::tracking::Hit::open(delivery, now.plus(task), None, Some(PHONE.into()))).await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(site.count("SELECT COUNT(*) FROM hit").await, 50 * 30);
        assert_eq!(site.recorder.dropped(), 0);
    }
);

on_each_database!(
    async fn a_redirect_does_not_wait_for_a_locked_database_and_the_click_is_kept(database) {
        let site = site(&database).await;
        let mut lock = site.db.begin().await.unwrap();
        if database.name == "postgres" {
            lock.execute("LOCK TABLE hit IN EXCLUSIVE MODE", Vec::new()).await.unwrap();
        }
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(request("GET", &site.click_link(0, "https://a.example"), &[("User-Agent", PHONE)], b"").status, 302);
        }
        assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
        lock.rollback().await.unwrap();
        assert_eq!(site.count("SELECT COUNT(*) FROM hit").await, 20);
    }
);

on_each_database!(
    async fn without_a_database_pages_say_so_and_offer_mail_while_links_go_on(database) {
        let site = site(&database).await;
        assert_eq!(get(&site.url("/readyz")).status, 200);
        site.db.close().await;
        for response in [get(&site.body_link()), post(&site.header_link(), FORM, b"List-Unsubscribe=One-Click")] {
            check_page(&response, 503);
            assert_eq!(response.header("retry-after"), Some("60"));
            assert!(response.text().contains("mailto:letters@tea.example?subject=unsubscribe%20"), "{}", response.text());
        }
        assert_eq!(get(&site.url("/readyz")).status, 503);
        assert_eq!(get(&site.url("/healthz")).status, 200);
        assert_eq!(get(&site.click_link(0, "https://a.example")).status, 302);
        assert_eq!(get(&(site.link('o', Purpose::Open, &[DELIVERY]) + ".gif")).status, 200);
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_is_shown_again_in_an_origin_of_its_own() {
    let database = TestDatabase::sqlite();
    let site = site(&database).await;
    let shown = get(&site.link('v', Purpose::View, &[DELIVERY]));
    assert_eq!((shown.status, shown.text().as_str()), (200, "<h1 style=\"color:red\">Oolong</h1>"));
    let policy = shown.header("content-security-policy").unwrap();
    assert!(policy.contains("sandbox") && !policy.contains("allow-scripts") && policy.contains("default-src 'none'"), "{policy}");
    assert_eq!(shown.header("x-robots-tag"), Some("noindex, nofollow"));
    check_page(&get(&site.link('v', Purpose::View, &[999])), 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sends_is_bounded() {
    let database = TestDatabase::sqlite();
    let site = site(&database).await;
    let before = site.state().await;
    assert_eq!(post(&site.header_link(), FORM, &vec![b'a'; 65 * 1024]).status, 413);
    assert_eq!(site.state().await, before);
    let long = "x".repeat(200_000);
    assert_eq!(request("GET", &site.url("/"), &[("X-Long", &long)], b"").status, 431);
    assert_eq!(get(&site.url("/robots.txt")).text(), "User-agent: *\nDisallow: /\n");
    check_page(&get(&site.url("/")), 200);
    check_page(&get(&site.url("/wp-login.php")), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_stop_ends_idle_connections_and_takes_no_new_ones() {
    let database = TestDatabase::sqlite();
    let mut site = site(&database).await;
    let mut idle = tokio::net::TcpStream::connect(site.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4_096];
    let read = idle.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    drop(site.stop.take());
    let end = tokio::time::timeout(Duration::from_secs(5), idle.read(&mut answer)).await.expect("closed in time").unwrap();
    assert_eq!(end, 0);
    assert!(tokio::net::TcpStream::connect(site.address).await.is_err());
}

/// Speaks SMTP in one go, as PIPELINING allows, and answers what came back.
async fn smtp(address: SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    for part in parts {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.expect("QUIT ends it").unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_keeps_mails_byte_for_byte_and_shows_them() {
    let database = TestDatabase::sqlite();
    let site = site(&database).await;
    let mail = "From: =?UTF-8?B?6Iy25bGL?= <letters@tea.example>\r\nSubject: =?UTF-8?Q?Oolong_=3Cb=3E_=E8=8C=B6?=\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\r\n..two dots\r\n.one\r\nbare\n.\nlf\r\n<script>alert(1)</script>\r\n";
    let stuffed = mail.replace("\r\n.", "\r\n..");
    let commands = "EHLO me\r\nMAIL FROM:<bounce@tea.example> SIZE=500 BODY=8BITMIME\r\nRCPT TO:<mei@tea.example>\r\nRCPT TO:<茶@tea.example>\r\nDATA\r\n";
    let (first, second) = stuffed.split_at(stuffed.find("two").unwrap());
    // Split between the dots and within the end, as a network may.
    let answer = smtp(
        site.inbox.address(),
        &[commands.as_bytes(), first.as_bytes(), second.as_bytes(), b".", b"\r", b"\nRSET\r\nNOOP\r\nWHAT\r\nDATA\r\nQUIT\r\n"],
    )
    .await;
    let codes: Vec<&str> = answer.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "250", "354", "250", "250", "250", "502", "503", "221"], "{answer}");
    for extension in ["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE"] {
        assert!(answer.contains(&format!("250-{extension}")), "{answer}");
    }
    let kept = site.inbox.get(1).unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.raw), mail);
    assert_eq!((kept.from.as_str(), kept.to.join(" ").as_str()), ("bounce@tea.example", "mei@tea.example 茶@tea.example"));
    assert_eq!(kept.summary().subject, "Oolong <b> 茶");

    let list = get(&site.url("/inbox?q=oolong"));
    assert_eq!(list.status, 200);
    assert!(list.text().contains("Oolong &#60;b&#62; 茶") && !list.text().contains("<b>"), "{}", list.text());
    assert!(!get(&site.url("/inbox?q=nothing-like-it")).text().contains("Oolong"));
    let page = get(&site.url("/inbox/1"));
    assert!(page.text().contains("sandbox=") && !page.text().contains("<script"), "{}", page.text());
    let html = get(&site.url("/inbox/1/html"));
    assert!(html.text().contains("<script>alert(1)"), "as it was sent");
    assert!(html.header("content-security-policy").unwrap().contains("sandbox"));
    assert_eq!(get(&site.url("/inbox/1/raw")).body, mail.as_bytes());
    assert_eq!(get(&site.url("/inbox/2")).status, 404);
    let json = get(&site.url("/inbox.json")).text();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["messages"][0]["subject"], "Oolong <b> 茶");
    assert_eq!(json["messages"][0]["to"][1], "茶@tea.example");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_refuses_what_is_too_big_and_listens_on_this_machine_only() {
    let refused = Inbox::start("0.0.0.0:0".parse().unwrap(), Clock::manual(NOW)).await.unwrap_err();
    assert!(refused.to_string().contains("127.0.0.1"), "{refused}");
    let inbox = Inbox::start("127.0.0.1:0".parse().unwrap(), Clock::manual(NOW)).await.unwrap();
    let long = [b"NOOP ".as_slice(), &vec![b'x'; 10_000], b"\r\n"].concat();
    let answer =
        smtp(inbox.address(), &[b"HELO me\r\nMAIL FROM:<> SIZE=99999999999\r\n", &long, b"MAIL FROM:<>\r\nDATA\r\nQUIT\r\n"]).await;
    let codes: Vec<&str> = answer.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "552", "500", "250", "503", "221"], "{answer}");
    // Bigger than it said: read to its end, refused, and the session goes on.
    let line = [vec![b'x'; 998], b"\r\n".to_vec()].concat();
    let big = line.repeat(34 * 1024);
    let answer = smtp(
        inbox.address(),
        &[
            b"HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n",
            &big,
            b".\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nsmall\r\n.\r\nQUIT\r\n",
        ],
    )
    .await;
    let codes: Vec<&str> = answer.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "354", "552", "250", "250", "354", "250", "221"], "{answer}");
    assert_eq!((inbox.received(), inbox.messages()[0].raw.as_slice()), (1, b"small\r\n".as_slice()));
}
