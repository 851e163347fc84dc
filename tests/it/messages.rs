//! Transactional messages over HTTP and the command line: accepted once, durable, with a status.

use optin::clock::Time;
use optin::consent::{Permit, Refusal};
use optin::contact::Schema;
use optin::contact::sql::by_email_key;
use optin::delivery::messages::{Composer, load};
use serde_json::{Value, json};

use crate::support::http::{self, Response};
use crate::support::process::Running;
use crate::support::{self, Instance, TestDatabase, on_each_database};

const TOPICS: &str = "[letter]\nname = \"Letter\"\n";
const ORDER: &str = "subject = \"訂單 {{ data.order }}\"\nbody = \"order.md\"\nexpires_hours = 5\n";
const BODY: &str = "Dear {{ contact.first_name | default('friend') }}: {{ data.order }} for **{{ data.total }}**\n";

fn shop(database: &TestDatabase) -> Instance {
    support::instance(database, &[("topics.toml", TOPICS), ("messages/order.toml", ORDER), ("messages/order.md", BODY)])
}

/// Starts it without a worker: what is queued stays queued.
fn serve(shop: &Instance) -> Running {
    let mut serving = shop.command(&["serve", "--only", "web"]).spawn();
    serving.wait_for_line("optin is ready", 20);
    serving
}

fn token(shop: &Instance, name: &str) -> String {
    let made = shop.optin(&["token", "create", "--scope", "messages", "--name", name, "--json"]).exits(0).json();
    made["token"].as_str().unwrap().to_owned()
}

fn post(shop: &Instance, token: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
    let answer = raw(shop, token, key, "application/json", body.to_string().as_bytes());
    (answer.status, json_of(&answer))
}

fn raw(shop: &Instance, token: &str, key: Option<&str>, kind: &str, body: &[u8]) -> Response {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("Authorization", bearer.as_str()), ("Content-Type", kind)];
    headers.extend(key.map(|key| ("Idempotency-Key", key)));
    http::request("POST", &shop.url("/api/v1/messages"), &headers, body)
}

fn get(shop: &Instance, token: &str, id: &str) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    let answer = http::request("GET", &shop.url(&format!("/api/v1/messages/{id}")), &[("Authorization", &bearer)], b"");
    (answer.status, json_of(&answer))
}

fn json_of(answer: &Response) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn order(to: &str) -> Value {
    json!({ "to": to, "template": "order", "data": { "order": "A-17 <茶>", "total": 1280 } })
}

on_each_database! {
    async fn a_message_is_accepted_once_for_each_key_of_each_client(database) {
        let shop = shop(&database);
        let shop_token = token(&shop, "shop");
        let _serving = serve(&shop);
        let (status, first) = post(&shop, &shop_token, Some("k1"), &order("mei@tea.example"));
        assert_eq!((status, &first["state"], &first["template"], &first["client"]), (201, &json!("queued"), &json!("order"), &json!("api:shop")));
        let id = first["id"].as_str().unwrap();
        // The same again, its fields in another order.
        let again = r#"{"template":"order","data":{"total":1280,"order":"A-17 <茶>"},"to":"mei@tea.example"}"#;
        let repeated = raw(&shop, &shop_token, Some("k1"), "application/json; charset=utf-8", again.as_bytes());
        assert_eq!((repeated.status, json_of(&repeated)["id"].as_str()), (200, Some(id)));
        assert_eq!(repeated.header("location"), Some(format!("/api/v1/messages/{id}").as_str()));
        let (status, conflict) = post(&shop, &shop_token, Some("k1"), &order("joe@tea.example"));
        assert_eq!((status, &conflict["error"]["code"]), (409, &json!("conflict")));
        assert!(conflict["error"]["hint"].as_str().unwrap().contains(id));
        // A successor token of the same name is the same client, another name is not.
        let successor = token(&shop, "shop");
        assert_eq!(post(&shop, &successor, Some("k1"), &order("mei@tea.example")).1["id"], first["id"]);
        let other = token(&shop, "other");
        let (status, theirs) = post(&shop, &other, Some("k1"), &order("mei@tea.example"));
        assert!(status == 201 && theirs["id"] != first["id"], "{theirs}");
        assert_eq!(get(&shop, &other, id).0, 404, "a client sees its own messages");
        // Without a key each is a message of its own.
        let (_, one) = post(&shop, &shop_token, None, &order("mei@tea.example"));
        let (_, two) = post(&shop, &shop_token, None, &order("mei@tea.example"));
        assert_ne!(one["id"], two["id"]);
        let (status, shown) = get(&shop, &successor, id);
        assert_eq!((status, &shown), (200, &first));
        let created = Time::parse(shown["created_at"].as_str().unwrap()).unwrap();
        assert_eq!(Time::parse(shown["expires_at"].as_str().unwrap()).unwrap().since(created), 5 * 3_600_000, "the template's hours");
        let cli = shop.optin(&["message", "show", id, "--json"]).exits(0).json();
        assert_eq!(cli, first);
        assert_eq!(shop.optin(&["message", "list", "--json"]).exits(0).json()["messages"].as_array().unwrap().len(), 4);
        let recent = shop.optin(&["contact", "show", "mei@tea.example", "--json"]).exits(0).json()["recent"].clone();
        assert_eq!((&recent[0]["what"], &recent[0]["campaign"]), (&json!("queued"), &json!("order")), "{recent}");
        let refused = shop.optin(&["contact", "show", "joe@tea.example"]);
        refused.exits(1);
    }
}

on_each_database! {
    async fn simultaneous_posts_with_one_key_make_one_message(database) {
        let shop = shop(&database);
        let token = token(&shop, "shop");
        let _serving = serve(&shop);
        let answers: Vec<(u16, Value)> = std::thread::scope(|scope| {
            let posts: Vec<_> = (0..8).map(|_| scope.spawn(|| post(&shop, &token, Some("one"), &order("new@tea.example")))).collect();
            posts.into_iter().map(|post| post.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|(status, body)| matches!(status, 200 | 201) && body["id"] == answers[0].1["id"]), "{answers:?}");
        assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1);
        let db = database.open().await;
        for table in ["message", "delivery", "contact", "message_definition"] {
            let count: i64 = db.fetch_one(&format!("SELECT COUNT(*) FROM {table}"), Vec::new()).await.unwrap().get(0).unwrap();
            assert_eq!(count, 1, "{table}");
        }
        let row = db.fetch_one("SELECT m.id, m.delivery_id, d.id, d.run_id, d.transactional, d.provider, d.state FROM message m, delivery d", Vec::new());
        let row = row.await.unwrap();
        let id = |at| row.get::<i64>(at).unwrap();
        assert_eq!((id(0), id(1)), (id(3), id(2)), "the run of its delivery is the message");
        assert!(row.get::<bool>(4).unwrap());
        assert_eq!((row.get::<String>(5).unwrap(), row.get::<String>(6).unwrap()), ("other".to_owned(), "due".to_owned()));
        let standings: i64 = db.fetch_one("SELECT COUNT(*) FROM subscription", Vec::new()).await.unwrap().get(0).unwrap();
        assert_eq!(standings, 0, "a message subscribes nobody");
    }
}

on_each_database! {
    async fn every_wrong_request_is_told_what_is_wrong(database) {
        let shop = shop(&database);
        let token = token(&shop, "shop");
        let _serving = serve(&shop);
        let to = "mei@tea.example";
        let wrong = [
            (json!({ "template": "order" }), 400, "to", "missing"),
            (json!({ "to": to, "templat": "order" }), 400, "templat", "did you mean `template`?"),
            (json!({ "to": to }), 400, "template", "neither"),
            (json!({ "to": to, "template": "order", "data": [1] }), 400, "data", "a list"),
            (json!({ "to": to, "template": "order", "subject": "x" }), 400, "subject", "does not go with"),
            (json!({ "to": to, "subject": "x", "text": "y", "data": {} }), 400, "data", "only a `template`"),
            (json!({ "to": to, "template": "order", "expires_hours": "5" }), 400, "expires_hours", "whole number"),
            (json!({ "to": to, "template": "order", "at": "tomorrow" }), 400, "at", "no time"),
            (json!({ "to": to, "template": "order", "at": "2999-01-01T00:00:00Z" }), 422, "at", "too far"),
            (json!({ "to": to, "template": "order", "expires_hours": 9_000 }), 422, "expires_hours", "1 to 240"),
            (json!({ "to": to, "template": "order", "locale": "zh Hant" }), 422, "locale", "language tag"),
            (json!({ "to": "mei at tea", "template": "order" }), 422, "to", "not an email address"),
            (json!({ "to": to, "template": "ordre" }), 422, "template", "did you mean `order`?"),
            (json!({ "to": to, "template": "order", "data": { "order": "A-17" } }), 422, "data", "data.total"),
            (json!({ "to": to, "subject": "x", "text": " " }), 422, "text", "says nothing"),
            (json!({ "to": to, "subject": "x", "text": "y".repeat(300_000) }), 422, "text", "300000 bytes"),
        ];
        for (body, status, field, part) in wrong {
            let (got, answer) = post(&shop, &token, None, &body);
            let error = &answer["error"];
            assert_eq!((got, &error["field"]), (status, &json!(field)), "{answer}");
            assert!(error.to_string().contains(part), "{part}: {answer}");
        }
        let broken = raw(&shop, &token, None, "application/json", b"{\"to\": \"a@b.example\",\n \"template\" \"order\"}");
        assert_eq!((broken.status, json_of(&broken)["error"]["code"].as_str()), (400, Some("invalid_json")));
        assert!(broken.text().contains("line 2 column 13"), "{}", broken.text());
        assert_eq!(raw(&shop, &token, None, "application/json", b"[]").status, 400);
        assert_eq!(raw(&shop, &token, None, "application/json", b"{\"to\": \"\xff\"}").status, 400);
        assert_eq!(raw(&shop, &token, None, "text/plain", b"{}").status, 415);
        let large = json!({ "to": to, "subject": "x", "text": "y".repeat(1_100_000) }).to_string();
        let large = raw(&shop, &token, None, "application/json", large.as_bytes());
        assert_eq!((large.status, json_of(&large)["error"]["code"].as_str()), (413, Some("too_large")));
        assert_eq!(post(&shop, &token, Some(&"k".repeat(201)), &order(to)).0, 422);
        assert_eq!(get(&shop, &token, "17").0, 404);
        assert_eq!(get(&shop, &token, "x").0, 404);
        let nowhere = http::get(&shop.url("/api/v1/mesages"));
        assert_eq!((nowhere.status, json_of(&nowhere)["error"]["code"].as_str()), (404, Some("not_found")));
        let method = http::get(&shop.url("/api/v1/messages"));
        assert_eq!((method.status, method.header("allow")), (405, Some("POST")));
        let described = http::get(&shop.url("/api/v1/openapi.json"));
        assert_eq!((described.status, json_of(&described)["openapi"].as_str()), (200, Some("3.1.0")));
        assert_eq!(shop.optin(&["message", "list", "--json"]).exits(0).json(), json!({ "messages": [] }), "nothing was written");
    }
}

on_each_database! {
    async fn only_a_live_token_with_the_scope_may_send(database) {
        let shop = shop(&database);
        let made = shop.optin(&["token", "create", "--scope", "messages", "--name", "shop", "--json"]).exits(0).json();
        let token = made["token"].as_str().unwrap();
        assert!(token.starts_with("optin_") && token.len() == 49, "{token}");
        let _serving = serve(&shop);
        assert_eq!(post(&shop, token, None, &order("mei@tea.example")).0, 201);
        let bare = http::post(&shop.url("/api/v1/messages"), "application/json", b"{}");
        assert_eq!((bare.status, bare.header("www-authenticate")), (401, Some("Bearer realm=\"optin\"")));
        for wrong in ["optin_nonsense", "", &token[..48], &format!("{token}x")] {
            let (status, answer) = post(&shop, wrong, None, &order("mei@tea.example"));
            assert_eq!((status, &answer["error"]["code"]), (401, &json!("unauthorized")));
        }
        let listed = shop.optin(&["token", "list", "--json"]).exits(0);
        assert!(!listed.stdout.contains("optin_"), "a token is shown once");
        let db = database.open().await;
        let digest: String = db.fetch_one("SELECT digest FROM api_token", Vec::new()).await.unwrap().get(0).unwrap();
        assert!(!digest.contains(&token[6..]) && digest.len() == 64);
        // Another scope, as a later version may have given.
        db.execute("UPDATE api_token SET scopes = 'later'", Vec::new()).await.unwrap();
        let (status, answer) = post(&shop, token, None, &order("mei@tea.example"));
        assert_eq!((status, &answer["error"]["code"]), (403, &json!("forbidden")));
        shop.optin(&["token", "revoke", made["id"].as_str().unwrap()]).exits(0);
        assert_eq!(post(&shop, token, None, &order("mei@tea.example")).0, 401);
        shop.optin(&["token", "revoke", made["id"].as_str().unwrap()]).exits(1);
        shop.optin(&["token", "create", "--scope", "message", "--name", "x"]).exits(2);
    }
}

on_each_database! {
    async fn a_suppressed_address_is_skipped_and_a_withdrawal_stops_no_receipt(database) {
        let shop = shop(&database);
        shop.write("../gone.csv", "email,reason\ngone@tea.example,hard bounce\n");
        shop.optin(&["import", "suppressions", "gone.csv", "--source", "old system"]).exits(0);
        shop.optin(&["consent", "grant", "mei@tea.example", "--topic", "letter", "--source", "form"]).exits(0);
        shop.optin(&["consent", "withdraw", "mei@tea.example", "--source", "wants no letters"]).exits(0);
        let token = token(&shop, "shop");
        let _serving = serve(&shop);
        let (status, skipped) = post(&shop, &token, None, &order("Gone@tea.example"));
        assert_eq!((status, &skipped["state"], &skipped["reason"]), (201, &json!("skipped"), &json!("suppressed")));
        assert_eq!(skipped["reply"], json!("suppressed (hard bounce)"));
        let (_, queued) = post(&shop, &token, None, &order("mei@tea.example"));
        assert_eq!(queued["state"], json!("queued"));

        // The permit judges again when the message is claimed, and once more when it is handed over.
        let db = database.open().await;
        let mut tx = db.begin().await.unwrap();
        let mei = by_email_key(&mut tx, &Schema::default(), "mei@tea.example").await.unwrap().unwrap().id;
        let gone = by_email_key(&mut tx, &Schema::default(), "gone@tea.example").await.unwrap().unwrap().id;
        let mut permits = Permit::take_for_messages(&mut tx, &[mei, gone, 5]).await.unwrap();
        let permit = permits.remove(&mei).unwrap().unwrap();
        assert_eq!((permit.contact_id(), permit.topic_id()), (mei, None));
        assert_eq!(permits.remove(&gone).unwrap(), Err(Refusal::Suppressed("hard bounce".to_owned())));
        assert_eq!(permits.remove(&5).unwrap(), Err(Refusal::Erased));
        assert_eq!(Permit::recheck(&mut tx, &[&permit]).await.unwrap(), [None]);
        tx.commit().await.unwrap();
        // She subscribes, and withdraws while a letter and a receipt are on their way: one permit of the two is lost.
        shop.optin(&["consent", "grant", "mei@tea.example", "--topic", "letter", "--source", "form", "--confirmed"]).exits(0);
        let mut tx = db.begin().await.unwrap();
        let topic: i64 = tx.fetch_one("SELECT id FROM topic WHERE name = 'letter'", Vec::new()).await.unwrap().get(0).unwrap();
        let letter = Permit::take(&mut tx, topic, &[mei]).await.unwrap().remove(&mei).unwrap().unwrap();
        let receipt = Permit::take_for_messages(&mut tx, &[mei]).await.unwrap().remove(&mei).unwrap().unwrap();
        tx.commit().await.unwrap();
        shop.optin(&["consent", "withdraw", "mei@tea.example", "--topic", "letter", "--source", "phone"]).exits(0);
        let mut tx = db.begin().await.unwrap();
        let lost = Permit::recheck(&mut tx, &[&letter, &receipt]).await.unwrap();
        assert_eq!(lost.iter().map(|lost| lost.as_ref().map(Refusal::code)).collect::<Vec<_>>(), [Some("unsubscribed"), None]);
        tx.commit().await.unwrap();
        shop.write("../gone.csv", "email,reason\nmei@tea.example,complaint\n");
        shop.optin(&["import", "suppressions", "gone.csv", "--source", "feedback loop"]).exits(0);
        let mut tx = db.begin().await.unwrap();
        let lost = Permit::recheck(&mut tx, &[&receipt]).await.unwrap();
        assert_eq!(lost, [Some(Refusal::Suppressed("complaint".to_owned()))]);
    }
}

on_each_database! {
    async fn a_message_says_what_its_template_and_data_say(database) {
        let shop = shop(&database);
        shop.write("../people.csv", "email,first_name\nmei@tea.example,美玲\n");
        shop.optin(&["import", "contacts", "people.csv", "--consent", "none", "--source", "shop"]).exits(0);
        let data = r#"{"order": "A-17 <b>茶</b> {{ contact.email }}", "total": 1280}"#;
        shop.write("../order.json", data);
        let args = ["message", "send", "--to", "mei@tea.example", "--template", "order", "--data", "@order.json", "--idempotency-key", "o17", "--json"];
        let sent = shop.optin(&args).exits(0).json();
        assert_eq!(shop.optin(&args).exits(0).json()["id"], sent["id"]);
        shop.optin(&["message", "send", "--to", "mei@tea.example", "--template", "order", "--data", "{}", "--idempotency-key", "o17"]).exits(1);
        let meant = shop.optin(&["message", "send", "--to", "mei@tea.example", "--template", "ordr"]).exits(2);
        assert!(meant.stderr.contains("did you mean `order`?"), "{}", meant.stderr);
        let token = token(&shop, "shop");
        let serving = serve(&shop);
        let inline = json!({ "to": "mei@tea.example", "subject": "Hi\r\nBcc: x@y.example", "html": "<p>{{ 7 * 7 }} 茶 &amp; <a href=\"https://tea.example/a\">more</a></p>" });
        let (_, inline) = post(&shop, &token, None, &inline);
        let (_, text) = post(&shop, &token, None, &json!({ "to": "mei@tea.example", "subject": "x", "text": "only {{ text }}" }));
        drop(serving);
        // Later changes of the files change no message that was accepted.
        shop.write("messages/order.md", "other\n");

        let db = database.open().await;
        let mut tx = db.begin().await.unwrap();
        let id = |status: &Value| status["id"].as_str().unwrap().parse::<i64>().unwrap();
        let found = load(&mut tx, &[id(&sent), id(&inline), id(&text), 9]).await.unwrap();
        assert_eq!(found.len(), 3);
        let contact = by_email_key(&mut tx, &Schema::default(), "mei@tea.example").await.unwrap().unwrap();
        let composer = Composer::new(Schema::default(), Default::default());
        let now = Time::parse("2026-12-01T09:00:00Z").unwrap();
        let compose = |id: i64, at: Time| composer.compose(&found[&id], &contact, found[&id].delivery_id, None, at).unwrap();
        let mail = compose(id(&sent), now);
        assert_eq!((mail.to.as_str(), mail.return_path.as_str()), ("mei@tea.example", "letters@tea.example"));
        let raw = String::from_utf8(mail.bytes.clone()).unwrap();
        let parsed = mail_parser::MessageParser::default().parse(&mail.bytes).unwrap();
        assert_eq!(parsed.subject(), Some("訂單 A-17 <b>茶</b> {{ contact.email }}"));
        let html = parsed.body_html(0).unwrap();
        assert!(html.contains("A-17 &lt;b&gt;茶&lt;/b&gt; {{ contact.email }}") && html.contains("<strong>1280</strong>"), "{html}");
        assert!(html.contains("Dear 美玲") && html.contains("1 Leaf Street") && !html.contains("/u/") && !html.contains("<img"), "{html}");
        assert!(parsed.body_text(0).unwrap().contains("Dear 美玲: A-17 <b>茶</b>"));
        assert!(raw.contains("Auto-Submitted: auto-generated\r\n") && raw.contains("Feedback-ID: m-order:message:optin:") && !raw.contains("List-"), "{raw}");
        let domain_id = format!("Message-ID: <{:x}.optin@tea.example>\r\n", found[&id(&sent)].delivery_id);
        assert!(raw.contains(&domain_id));
        let later = String::from_utf8(compose(id(&sent), now.plus(60_000)).bytes).unwrap();
        assert!(later.contains(&domain_id) && later.contains("09:01:00"), "another attempt, the same Message-ID");

        // What a caller wrote is no template and cannot add a header.
        let mail = compose(id(&inline), now);
        let parsed = mail_parser::MessageParser::default().parse(&mail.bytes).unwrap();
        assert_eq!(parsed.subject(), Some("Hi Bcc: x@y.example"));
        assert_eq!(parsed.body_html(0).unwrap().trim(), "<p>{{ 7 * 7 }} 茶 &amp; <a href=\"https://tea.example/a\">more</a></p>");
        let written = parsed.body_text(0).unwrap();
        assert!(written.contains("{{ 7 * 7 }} 茶 & more") && written.contains("https://tea.example/a"), "{written}");
        let bytes = compose(id(&text), now).bytes;
        let parsed = mail_parser::MessageParser::default().parse(&bytes).unwrap();
        assert_eq!((parsed.parts.len(), parsed.body_text(0).unwrap().trim()), (1, "only {{ text }}"));
    }
}

#[test]
fn check_finds_what_is_wrong_with_a_template() {
    let database = TestDatabase::sqlite();
    let shop = shop(&database);
    shop.optin(&["check"]).exits(0);
    shop.write("messages/order.toml", "subject = \"{{ dat.order }} {{ links.unsubscribe }}\"\nbody = \"order.md\"\nlayout = \"newsletter\"\nexpires_hours = 0\nbodi = 1\n");
    shop.write("messages/order.md", "{{ contact.first_nam }} {{ data.anything.at.all }} {{ topic.name }}\n");
    shop.write("messages/Lost.toml", "subject = \"x\"\nbody = \"lots.md\"\n");
    let found = shop.optin(&["check", "--json"]).exits(1).json()["problems"].to_string();
    for part in
        ["did you mean `body`?", "no layout `newsletter` for messages", "from 1 to 240", "there is no file `lots.md`", "`Lost` cannot be"]
    {
        assert!(found.contains(part), "{part}: {found}");
    }
    shop.write("messages/order.toml", "subject = \"{{ dat.order }} {{ links.unsubscribe }}\"\nbody = \"order.md\"\n");
    std::fs::remove_file(shop.dir().join("messages/Lost.toml")).unwrap();
    let problems = shop.optin(&["check", "--json"]).exits(1).json()["problems"].clone();
    let found = problems.to_string();
    for part in ["did you mean `data`?", "no variable `links`", "did you mean `contact.first_name`?", "no variable `topic`"] {
        assert!(found.contains(part), "{part}: {found}");
    }
    assert_eq!(problems.as_array().unwrap().len(), 4, "{found}");
    let data = problems.as_array().unwrap().iter().find(|problem| problem["hint"] == "did you mean `data`?").unwrap();
    assert_eq!((&data["line"], &data["column"]), (&json!(1), &json!(15)), "{data}");
    // A campaign has no `data`, and no layout without a way out.
    shop.write("messages/order.toml", ORDER);
    shop.write("messages/order.md", BODY);
    shop.write("campaigns/hello.toml", "topic = \"letter\"\nsubject = \"{{ data.order }}\"\nbody = \"hello.md\"\n");
    shop.write("campaigns/hello.md", "Hello\n");
    let found = shop.optin(&["check", "--json"]).exits(1).stdout;
    assert!(found.contains("no variable `data`"), "{found}");
    shop.write("campaigns/hello.toml", "topic = \"letter\"\nsubject = \"Hi\"\nlayout = \"transactional\"\nbody = \"hello.md\"\n");
    let found = shop.optin(&["check", "--json"]).exits(1).stdout;
    assert!(found.contains("no layout `transactional`"), "{found}");
}

#[test]
fn the_example_reads_well_in_both_languages() {
    let database = TestDatabase::sqlite();
    let shop = Instance::example(&database);
    let token = token(&shop, "shop");
    let _serving = serve(&shop);
    let data = json!({ "order": "A-17", "lines": [{ "name": "Alishan Spring Oolong", "quantity": 2 }], "total": "NT$1,280" });
    for locale in ["en", "zh-Hant-TW", "zh-Hans"] {
        let (status, answer) = post(
            &shop,
            &token,
            None,
            &json!({ "to": "mei@tea.example", "template": "order-confirmation", "data": data, "locale": locale }),
        );
        assert_eq!(status, 201, "{answer}");
    }
    // What the template asks for with `if` and `default` may be left out, what it prints may not.
    let least =
        |data: Value| post(&shop, &token, None, &json!({ "to": "least@tea.example", "template": "order-confirmation", "data": data }));
    assert_eq!(least(json!({ "order": "A-18" })).0, 201);
    let (status, answer) = least(json!({ "total": 5 }));
    assert!(status == 422 && answer.to_string().contains("data.order"), "{answer}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let texts = runtime.block_on(async {
        let db = database.open().await;
        let mut tx = db.begin().await.unwrap();
        let ids: Vec<i64> = tx
            .fetch_all("SELECT id FROM message WHERE locale IS NOT NULL ORDER BY id", Vec::new())
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0).unwrap())
            .collect();
        let found = load(&mut tx, &ids).await.unwrap();
        let schema = Schema::new(&shop.load().unwrap().attributes);
        let contact = by_email_key(&mut tx, &schema, "mei@tea.example").await.unwrap().unwrap();
        let composer = Composer::new(schema, Default::default());
        let mut out = String::new();
        for id in ids {
            let mail = composer.compose(&found[&id], &contact, 1, None, Time::from_millis(0)).unwrap();
            let parsed = mail_parser::MessageParser::default().parse(&mail.bytes).unwrap();
            let html = parsed.body_html(0).unwrap().into_owned();
            let lang = html.split("lang=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            out += &format!(
                "===== {lang}\nSubject: {}\n\n{}\n",
                parsed.subject().unwrap(),
                parsed.body_text(0).unwrap().replace("\r\n", "\n")
            );
        }
        out
    });
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("example_message", texts);
    });
}
