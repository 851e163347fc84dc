//! Transactional messages all the way: posted, sent by `optin serve`, their status true.

use serde_json::{Value, json};

use crate::support::http;
use crate::support::process::Running;
use crate::support::smtp::{Received, Script, Sink};
use crate::support::{self, Instance, TestDatabase, on_each_database, wait_until};

const OPTIN: &str = r#"[site]
url = "http://127.0.0.1:8080"
[smtp]
connections = 2
timeout_seconds = 3
[sender]
name = "茶屋 Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Taipei"
[delivery]
retry_seconds = [1]
retry_hours = 1
"#;
const ORDER: &str = "subject = \"訂單 {{ data.order }}\"\nbody = \"order.md\"\nexpires_hours = 1\n";

struct Shop {
    instance: Instance,
    token: String,
}

impl Shop {
    fn new(database: &TestDatabase, sink: &Sink) -> Self {
        let files = [
            ("optin.toml", OPTIN),
            ("topics.toml", "[letter]\nname = \"Letter\"\n"),
            ("messages/order.toml", ORDER),
            ("messages/order.md", "We have your order **{{ data.order }}**.\n"),
        ];
        let instance = support::instance(database, &files).with_smtp(sink);
        let made = instance.optin(&["token", "create", "--scope", "messages", "--name", "shop", "--json"]).exits(0).json();
        let token = made["token"].as_str().unwrap().to_owned();
        Shop { instance, token }
    }

    fn serve(&self) -> Running {
        let mut serving = self.instance.command(&["serve"]).spawn();
        serving.wait_for_line("optin is ready", 20);
        serving
    }

    /// Posts an order; answers the message's id.
    fn post(&self, to: &str, key: &str) -> String {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("Idempotency-Key", key)];
        let body = json!({ "to": to, "template": "order", "data": { "order": key } }).to_string();
        let answer = http::request("POST", &self.instance.url("/api/v1/messages"), &headers, body.as_bytes());
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        let status: Value = serde_json::from_slice(&answer.body).unwrap();
        status["id"].as_str().unwrap().to_owned()
    }

    fn wait_for_state(&self, id: &str, state: &str) -> Value {
        wait_until(&format!("message {id} is {state}"), 20, || {
            let shown = self.instance.optin(&["message", "show", id, "--json"]).exits(0).json();
            (shown["state"] == state).then_some(shown)
        })
    }
}

fn message_id(mail: &Received) -> String {
    let text = mail.text();
    text.lines().find(|line| line.starts_with("Message-ID: ")).unwrap_or_else(|| panic!("no Message-ID in {text}")).trim().to_owned()
}

on_each_database! {
    async fn a_posted_message_arrives_within_seconds_and_once(database) {
        let sink = Sink::start();
        let shop = Shop::new(&database, &sink);
        let serving = shop.serve();
        let id = shop.post("mei@tea.example", "A-17");
        let mail = sink.wait_for(1, 5).remove(0);
        assert_eq!(mail.to, ["mei@tea.example"]);
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
        assert_eq!(parsed.subject(), Some("訂單 A-17"));
        let status = shop.wait_for_state(&id, "sent");
        assert_eq!((&status["attempts"], &status["due_at"]), (&json!(1), &Value::Null), "{status}");
        assert_eq!(shop.post("mei@tea.example", "A-17"), id);
        let second = shop.post("mei@tea.example", "A-18");
        shop.wait_for_state(&second, "sent");
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);
        assert_eq!(sink.received().len(), 2, "a repeated post sends nothing");
    }
}

on_each_database! {
    async fn a_message_put_off_comes_again_with_the_same_message_id(database) {
        let sink = Sink::with(Script::refusing("later", "451 4.7.1 later please"));
        let shop = Shop::new(&database, &sink);
        let serving = shop.serve();
        let id = shop.post("later@tea.example", "A-17");
        let status = shop.wait_for_state(&id, "deferred");
        assert!(status["reply"].as_str().unwrap().contains("later please"), "{status}");
        let planned = format!("Message-ID: <{:x}.optin@tea.example>", delivery_of(&database, &id).await);
        sink.script(|script| *script = Script::default());
        let mail = sink.wait_for(1, 20).remove(0);
        assert_eq!(message_id(&mail), planned);
        let status = shop.wait_for_state(&id, "sent");
        assert!(status["attempts"].as_i64().unwrap() >= 2, "{status}");
        drop(serving);
    }
}

on_each_database! {
    async fn a_message_that_was_queued_before_the_start_is_sent_and_an_expired_one_is_not(database) {
        let sink = Sink::start();
        let shop = Shop::new(&database, &sink);
        let send = |to: &str, clock: &str| {
            let args = ["message", "send", "--to", to, "--template", "order", "--data", "{\"order\": \"A-17\"}", "--json"];
            let sent = shop.instance.command(&args).clock(clock).run().exits(0).json();
            sent["id"].as_str().unwrap().to_owned()
        };
        let (late, fresh) = (send("late@tea.example", "2026-01-01T09:00:00Z"), send("fresh@tea.example", "2026-01-01T11:59:00Z"));
        let mut serving = shop.instance.command(&["serve"]).clock("2026-01-01T12:00:00Z").spawn();
        serving.wait_for_line("optin is ready", 20);
        shop.wait_for_state(&fresh, "sent");
        let status = wait_until("the late message is settled", 20, || {
            let shown = shop.instance.optin(&["message", "show", &late, "--json"]).exits(0).json();
            (shown["state"] != "queued" && shown["state"] != "sending").then_some(shown)
        });
        assert_eq!(status["reason"], "expired", "{status}");
        assert_eq!(sink.received().iter().map(|mail| mail.to.clone()).collect::<Vec<_>>(), [["fresh@tea.example"]]);
        drop(serving);
    }
}

on_each_database! {
    async fn an_address_suppressed_after_the_post_gets_nothing(database) {
        let sink = Sink::start();
        let shop = Shop::new(&database, &sink);
        let args = ["message", "send", "--to", "gone@tea.example", "--template", "order", "--data", "{\"order\": \"A-17\"}", "--json"];
        let sent = shop.instance.optin(&args).exits(0).json();
        assert_eq!(sent["state"], "queued");
        shop.instance.write("../gone.csv", "email,reason\ngone@tea.example,complaint\n");
        shop.instance.optin(&["import", "suppressions", "gone.csv", "--source", "feedback loop"]).exits(0);
        let serving = shop.serve();
        let status = shop.wait_for_state(sent["id"].as_str().unwrap(), "skipped");
        assert_eq!(status["reason"], "suppressed", "{status}");
        assert!(sink.received().is_empty());
        drop(serving);
    }
}

async fn delivery_of(database: &TestDatabase, message: &str) -> i64 {
    let db = database.open().await;
    let id: i64 = message.parse().unwrap();
    db.fetch_one("SELECT delivery_id FROM message WHERE id = $1", optin::args![id]).await.unwrap().get(0).unwrap()
}

on_each_database!(
    async fn a_campaign_that_uses_all_sessions_of_the_relay_makes_room_for_a_message(database) {
        let sink = Sink::with(Script { sessions_at_a_time: 2, reply_delay: std::time::Duration::from_millis(10), ..Script::default() });
        let shop = Shop::new(&database, &sink);
        shop.instance.write("campaigns/weekly.toml", "topic = \"letter\"\nsubject = \"Leaves\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n");
        shop.instance.write("campaigns/weekly.md", "Fresh leaves.\n");
        shop.instance.write("../people.csv", (0..400).fold("email\n".to_owned(), |all, i| format!("{all}p{i}@customer.example\n")));
        let args = ["import", "contacts", "people.csv", "--topic", "letter", "--consent", "confirmed", "--source", "fair"];
        shop.instance.optin(&args).exits(0);
        let _serving = shop.serve();
        crate::polite::start_soon(&shop.instance, "weekly");
        sink.wait_for(20, 30);
        shop.post("mei@customer.example", "o1");
        let mails = wait_until("the message", 30, || {
            let mails = sink.received();
            mails.iter().any(|mail| mail.to[0] == "mei@customer.example").then_some(mails)
        });
        assert!(mails.len() < 400, "it overtakes the campaign: {}", mails.len());
        crate::send::each_once(&sink.wait_for(401, 60), 401);
    }
);
