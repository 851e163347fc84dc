//! Subscriptions and contacts over the API.

use optin::web::api::tokens;
use serde_json::{Value, json};

use crate::forms::{NOW, Site, site};
use crate::support::http::{Response, request};
use crate::support::on_each_database;

struct Caller<'a> {
    site: &'a Site,
    token: String,
}

async fn caller<'a>(site: &'a Site, name: &str, scopes: &[&str]) -> Caller<'a> {
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let (_, token) = tokens::create(&site.instance.db, name, &scopes, &site.instance.entropy, NOW).await.unwrap();
    Caller { site, token }
}

impl Caller<'_> {
    fn call(&self, method: &str, path: &str, key: Option<&str>, body: &Value) -> (u16, Value, Response) {
        let authorization = format!("Bearer {}", self.token);
        let mut headers = vec![("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        headers.extend(key.map(|key| ("Idempotency-Key", key)));
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let response = request(method, &self.site.url(&format!("/api/v1/{path}")), &headers, text.as_bytes());
        (response.status, serde_json::from_slice(&response.body).unwrap_or_default(), response)
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, document, _) = self.call("POST", path, None, &body);
        (status, document)
    }
}

on_each_database! {
    async fn a_program_subscribes_and_withdraws(database) {
        let site = site(&database, "").await;
        let shop = caller(&site, "shop", &["subscriptions"]).await;
        let (status, asked) = shop.post("subscriptions", json!({
            "email": "Mei@tea.example", "topics": ["letter", "news"], "attributes": { "first_name": "Mei", "age": 41 }, "locale": "zh_tw",
            "wording": "Send me tea", "wording_version": "3", "source": "checkout", "ip": "192.0.2.7", "agent": "Shop/1", "at": "2025-11-30T10:00:00Z"
        }));
        assert_eq!(status, 200, "{asked}");
        assert_eq!(asked["topics"], json!([
            { "topic": "letter", "standing": "pending", "outcome": "confirmation_sent" },
            { "topic": "news", "standing": "subscribed", "outcome": "subscribed" }
        ]));
        let mei = site.contact("mei@tea.example").await.unwrap();
        assert_eq!((mei.first_name.as_deref(), mei.locale.as_deref(), asked["contact"].as_str()), (Some("Mei"), Some("zh-TW"), Some(mei.id.to_string().as_str())));
        assert_eq!(site.count("SELECT COUNT(*) FROM consent_wording WHERE kind = 'api' AND version = '3' AND locale = 'zh-TW'").await, 1);
        assert_eq!(site.count("SELECT COUNT(*) FROM consent_event WHERE source = 'api shop' AND wording_hash IS NOT NULL AND evidence LIKE '%checkout%'").await, 2);

        let (status, left) = shop.post("subscriptions/withdraw", json!({ "email": "mei@tea.example", "topics": ["news"], "reason": "too_many", "source": "by telephone" }));
        assert_eq!((status, &left["changed"]), (200, &json!(true)), "{left}");
        assert_eq!(shop.call("DELETE", "subscriptions", None, &json!({ "email": "mei@tea.example", "topics": ["news"] })).1["changed"], false);
        // Granting brings nobody back; a confirmation does, with its scope.
        let again = |consent: &str| json!({ "email": "mei@tea.example", "topics": ["news"], "consent": consent });
        assert_eq!(shop.post("subscriptions", again("granted")).1["topics"][0]["outcome"], "withdrawn");
        assert_eq!(shop.post("subscriptions", again("request")).1["topics"][0], json!({ "topic": "news", "standing": "unsubscribed", "outcome": "confirmation_sent" }));
        assert_eq!(shop.post("subscriptions", again("confirmed")).0, 403);
        let desk = caller(&site, "desk", &["subscriptions", "consent"]).await;
        assert_eq!(desk.post("subscriptions", again("confirmed")).1["topics"][0]["standing"], "subscribed");
        // From everything.
        assert_eq!(desk.call("DELETE", "subscriptions", None, &json!({ "email": "mei@tea.example", "all": true })).1["changed"], true);
        assert!(site.standings("mei@tea.example").await.iter().all(|(_, standing)| standing == "unsubscribed"));
        // Suppressed addresses get nothing and leave no trace.
        site.suppress("blocked@tea.example").await;
        assert_eq!(desk.post("subscriptions", json!({ "email": "blocked@tea.example", "topics": ["news"], "consent": "confirmed" })).1["suppressed"], true);
        assert!(site.contact("blocked@tea.example").await.is_none());
        assert_eq!(desk.post("subscriptions/withdraw", json!({ "email": "nobody@tea.example", "all": true })).0, 404);
    }
}

on_each_database! {
    async fn a_repeated_request_does_nothing_twice(database) {
        let site = site(&database, "").await;
        let shop = caller(&site, "shop", &["subscriptions", "contacts"]).await;
        let body = json!({ "email": "mei@tea.example", "topics": ["letter"] });
        let (_, first, _) = shop.call("POST", "subscriptions", Some("k1"), &body);
        for _ in 0..20 {
            let (status, again, response) = shop.call("POST", "subscriptions", Some("k1"), &body);
            assert_eq!((status, &again, response.header("idempotent-replayed")), (200, &first, Some("true")), "also beyond the limit of an address");
        }
        assert_eq!(site.count("SELECT COUNT(*) FROM consent_event").await, 1);
        let (status, other, _) = shop.call("POST", "subscriptions", Some("k1"), &json!({ "email": "joe@tea.example", "topics": ["letter"] }));
        assert_eq!((status, other["error"]["code"].as_str()), (409, Some("conflict")));
        let contact = json!({ "email": "mei@tea.example", "attributes": { "city": "Taipei" } });
        assert_eq!(shop.call("POST", "contacts", Some("k1"), &contact).0, 409, "another address is another request");
        // Created stays created when it is repeated, and another client's key is its own.
        let new = json!({ "email": "new@tea.example" });
        assert_eq!((shop.call("POST", "contacts", Some("k2"), &new).0, shop.call("POST", "contacts", Some("k2"), &new).0, shop.call("POST", "contacts", None, &new).0), (201, 201, 200));
        let other = caller(&site, "other", &["contacts"]).await;
        assert_eq!(other.call("POST", "contacts", Some("k2"), &new).0, 200);
        site.clock.advance(3 * 86_400_000);
        let mut tx = site.instance.db.begin().await.unwrap();
        assert_eq!(optin::consent::repeats::forget(&mut tx, site.clock.now()).await.unwrap(), 3);
        tx.commit().await.unwrap();
    }
}

on_each_database! {
    async fn contacts_are_made_changed_and_shown(database) {
        let site = site(&database, "").await;
        let crm = caller(&site, "crm", &["contacts"]).await;
        let (status, made) = crm.post("contacts", json!({ "email": "Mei@tea.example", "attributes": { "first_name": "Mei", "age": 41, "likes": ["oolong", "green"] } }));
        assert_eq!((status, &made["attributes"]), (201, &json!({ "first_name": "Mei", "age": 41, "likes": ["oolong", "green"] })), "{made}");
        let (status, changed) = crm.post("contacts", json!({ "email": "mei@tea.example", "attributes": { "age": null, "city": "Taipei" } }));
        assert_eq!((status, &changed["attributes"]), (200, &json!({ "first_name": "Mei", "city": "Taipei", "likes": ["oolong", "green"] })), "{changed}");
        for named in ["mei@tea.example", made["id"].as_str().unwrap(), "MEI%40tea.example"] {
            assert_eq!(crm.call("GET", &format!("contacts/{named}"), None, &Value::Null).1, changed, "{named}");
        }
        assert_eq!(site.count("SELECT COUNT(*) FROM consent_event").await, 0, "a contact is no subscription");
        assert_eq!(crm.call("GET", "contacts/nobody@tea.example", None, &Value::Null).0, 404);
        assert_eq!(crm.call("GET", "contacts/%20", None, &Value::Null).0, 404);
    }
}

on_each_database! {
    async fn what_is_wrong_is_named_with_the_next_step(database) {
        let site = site(&database, "").await;
        let all = caller(&site, "all", &["subscriptions", "contacts"]).await;
        for (path, body, status, code, field) in [
            ("subscriptions", json!({ "email": "mei@tea.example" }), 400, "invalid_field", "topics"),
            ("subscriptions", json!({ "email": "mei@tea.example", "topics": ["leter"] }), 422, "unknown_topic", "topics"),
            ("subscriptions", json!({ "email": "mei", "topics": ["letter"] }), 422, "invalid_field", "email"),
            ("subscriptions", json!({ "email": "mei@tea.example", "topics": ["letter"], "consent": "granted" }), 422, "needs_confirmation", "consent"),
            ("subscriptions", json!({ "email": "mei@tea.example", "topics": ["letter"], "basis": "whim" }), 400, "invalid_field", "basis"),
            ("subscriptions", json!({ "email": "mei@tea.example", "topics": ["letter"], "ip": "home" }), 400, "invalid_field", "ip"),
            ("subscriptions", json!({ "email": "mei@tea.example", "topics": ["letter"], "at": "2030-01-01T00:00:00Z" }), 400, "invalid_field", "at"),
            ("subscriptions", json!({ "email": "mei@tea.example", "topic": "letter" }), 400, "invalid_field", "topic"),
            ("subscriptions", json!({ "email": "mei@tea.example", "topics": ["letter"], "attributes": { "agee": 3 } }), 422, "unknown_attribute", "attributes.agee"),
            ("contacts", json!({ "email": "mei@tea.example", "attributes": { "age": "old" } }), 422, "invalid_attribute", "attributes.age"),
            ("contacts", json!({ "email": "mei@tea.example", "attributes": { "email": "x@tea.example" } }), 422, "unknown_attribute", "attributes.email"),
            ("contacts", json!({ "email": "mei@tea.example", "attributes": [] }), 400, "invalid_field", "attributes"),
            ("subscriptions/withdraw", json!({ "email": "mei@tea.example" }), 400, "invalid_field", "topics"),
            ("subscriptions/withdraw", json!({ "email": "mei@tea.example", "all": true, "reason": "I am Mei" }), 400, "invalid_field", "reason"),
        ] {
            let (got, answer) = all.post(path, body.clone());
            let error = &answer["error"];
            assert_eq!((got, error["code"].as_str(), error["field"].as_str()), (status, Some(code), Some(field)), "{body}: {answer}");
            assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{answer}");
        }
        assert_eq!(site.count("SELECT COUNT(*) FROM contact").await, 0, "bad input leaves nothing behind");
        let messages = caller(&site, "messages", &["messages"]).await;
        assert_eq!(messages.post("contacts", json!({ "email": "mei@tea.example" })).0, 403);
        assert_eq!(messages.post("subscriptions", json!({})).0, 403);
        // One address is not flooded through the API either.
        let mut statuses = Vec::new();
        for _ in 0..7 {
            let (status, _, response) = all.call("POST", "subscriptions", None, &json!({ "email": "mei@tea.example", "topics": ["letter"] }));
            assert_eq!(status == 429, response.header("retry-after").is_some());
            statuses.push(status);
        }
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
        assert_eq!(site.confirmations("mei@tea.example").await, 1);
        let described = request("GET", &site.url("/api/v1/openapi.json"), &[], b"");
        assert!(described.text().contains("NewSubscription"));
    }
}
