//! The loop: what people do with one mail, and in the shop, decides who gets the next one. Through the binary, HTTP and
//! SMTP, with a clock that is set.

use std::time::Duration;

use optin::args;
use optin::db::Db;
use serde_json::{Value, json};

use crate::support::http::{get, post, request};
use crate::support::process::Running;
use crate::support::smtp::{Received, Sink};
use crate::support::{Instance, TestDatabase, instance, on_each_database};

const BROWSER: &str =
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15";
const OPTIN: &str = r#"[site]
url = "http://127.0.0.1:8080"
[sender]
name = "Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Taipei"
[behaviour]
currency = "TWD"
[engagement]
cooling_days = 30
dormant_days = 60
[attribution]
model = "last_click"
within_days = 7
"#;
const TOPICS: &str = "[letter]\nname = \"Tea letter\"\n";
const BODY: &str = "# Fresh\n\n[Oolong](https://tea.example/oolong), [green](https://tea.example/green), \
    [red](https://tea.example/red), [white](https://tea.example/white) and [pots](https://tea.example/pots) came in.\n";
const PEOPLE: &str = "email\nann@tea.example\nbob@tea.example\neve@tea.example\nfay@tea.example\ngateway@firm.example\nquiet@tea.example\n";
/// Who is asked again: clicked, and bought nothing since.
const AUDIENCE: &str = "clicked(campaign: 'first') and not ordered(within: 30d)";

fn shop(database: &TestDatabase, sink: &Sink) -> Instance {
    let campaign = |subject: &str, more: &str| {
        format!("topic = \"letter\"\nsubject = \"{subject}\"\nlayout = \"newsletter\"\nbody = \"mail.md\"\n{more}")
    };
    let second = campaign("Still thinking?", &format!("audience = \"{AUDIENCE}\"\n[attribution]\nmodel = \"linear\"\n"));
    let files = [
        ("optin.toml", OPTIN),
        ("topics.toml", TOPICS),
        ("campaigns/first.toml", &campaign("Fresh", "")),
        ("campaigns/second.toml", &second),
        ("campaigns/mail.md", BODY),
    ];
    instance(database, &files).with_smtp(sink)
}

struct Loop {
    shop: Instance,
    db: Db,
}

impl Loop {
    fn run(&self, clock: &str, args: &[&str]) -> Value {
        self.shop.command(&[args, &["--json"]].concat()).clock(clock).run().exits(0).json()
    }

    fn serve(&self, clock: &str) -> Running {
        let mut serving = self.shop.command(&["serve"]).clock(clock).spawn();
        serving.wait_for_line("optin is ready", 20);
        serving
    }

    /// Until all is written and computed.
    async fn settled(&self, hits: i64) {
        for _ in 0..1_000 {
            let count = |sql: &'static str| async move { self.db.fetch_one(sql, args![]).await.unwrap().get::<i64>(0).unwrap() };
            if count("SELECT COUNT(*) FROM hit").await >= hits && count("SELECT COUNT(*) FROM engagement_due").await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{hits} hits were not recorded and computed");
    }

    /// Who would get the second campaign.
    fn audience(&self, clock: &str) -> Vec<String> {
        emails(&self.run(clock, &["segment", "members", AUDIENCE]))
    }

    fn stage(&self, clock: &str, stage: &str) -> Vec<String> {
        emails(&self.run(clock, &["segment", "members", &format!("engagement.stage = '{stage}'")]))
    }
}

fn emails(shown: &Value) -> Vec<String> {
    let mut found: Vec<String> =
        shown["members"].as_array().unwrap().iter().map(|member| member["email"].as_str().unwrap().to_owned()).collect();
    found.sort_unstable();
    found
}

fn html(mail: &Received) -> String {
    mail_parser::MessageParser::default().parse(&mail.data).unwrap().body_html(0).unwrap().into_owned().replace("&#x2f;", "/")
}

fn links(mail: &Received, part: &str) -> Vec<String> {
    let html = html(mail);
    html.split('"').filter(|word| word.starts_with("http") && word.contains(part)).map(str::to_owned).collect()
}

fn visit(url: &str) {
    let answer = request("GET", url, &[("User-Agent", BROWSER), ("Accept-Language", "zh-TW"), ("Accept", "text/html,*/*")], b"");
    assert!(matches!(answer.status, 200 | 302), "{}", answer.text());
}

async fn finished(serving: Running) {
    serving.signal("TERM");
    assert_eq!(serving.wait(20).0, 0);
}

on_each_database! {
    async fn what_people_do_decides_who_gets_the_next_mail(database) {
        let sink = Sink::start();
        let it = Loop { shop: shop(&database, &sink), db: database.open().await };
        it.shop.write("../people.csv", PEOPLE);
        let import = ["import", "contacts", "people.csv", "--topic", "letter", "--consent", "confirmed", "--source", "fair"];
        it.run("2026-03-01T08:00:00Z", &import);
        assert_eq!(it.run("2026-03-01T09:00:00Z", &["send", "first"])["sent"], 6);
        assert_eq!(it.audience("2026-03-01T09:30:00Z"), [""; 0], "nobody clicked yet");
        let mails = sink.wait_for(6, 20);
        let to = |email: &str| mails.iter().find(|mail| mail.to == [email]).unwrap().clone();

        // A gateway follows all links at once, as a browser would; four people follow one each; one only looks.
        let serving = it.serve("2026-03-01T11:00:00Z");
        let all = links(&to("gateway@firm.example"), "/c/");
        assert!(all.len() >= 5, "{all:?}");
        all.iter().for_each(|link| visit(link));
        for (email, link) in [("ann@tea.example", 0), ("bob@tea.example", 1), ("eve@tea.example", 0), ("fay@tea.example", 2)] {
            visit(&links(&to(email), "/o/")[0]);
            visit(&links(&to(email), "/c/")[link]);
        }
        let hits = i64::try_from(all.len()).unwrap() + 8;
        it.settled(hits).await;
        let clicked = ["ann@tea.example", "bob@tea.example", "eve@tea.example", "fay@tea.example"];
        assert_eq!(it.audience("2026-03-01T12:00:00Z"), clicked, "and no gateway");

        // One orders through the API, one in the shop's next export; one leaves.
        let token = it.run("2026-03-01T12:00:00Z", &["token", "create", "--scope", "events", "--name", "shop"]);
        let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
        let order = json!({ "events": [{
            "type": "order", "id": "A-1", "email": "ann@tea.example", "at": "2026-03-01T11:30:00Z", "amount": 300.5, "product": "Oolong",
        }] });
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let answer = request("POST", &it.shop.url("/api/v1/events"), &headers, order.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        finished(serving).await;
        it.shop.write("../orders.csv", "order_id,email,at,amount,product\nB-1,bob@tea.example,2026-03-02T10:00:00Z,120,Green\n");
        assert_eq!(it.run("2026-03-02T11:00:00Z", &["import", "orders", "orders.csv"])["added"], 1);
        let serving = it.serve("2026-03-02T11:00:00Z");
        it.settled(hits).await;
        let leave = links(&to("fay@tea.example"), "/u/").remove(0);
        assert_eq!(get(&leave).status, 200);
        assert_eq!(post(&leave, "application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click").status, 200);
        assert_eq!(it.audience("2026-03-02T12:00:00Z"), ["eve@tea.example", "fay@tea.example"]);
        let report = it.run("2026-03-02T12:00:00Z", &["report", "first"]);
        assert_eq!((&report["conversions"], &report["revenue"], &report["currency"]), (&json!(2), &json!(420.5), &json!("TWD")));
        assert_eq!(report["clicks"]["unique"], 4);

        // What was bought is sent back: who bought nothing is asked again.
        let refund = json!({ "events": [{
            "type": "refund", "id": "R-1", "order": "B-1", "email": "bob@tea.example", "at": "2026-03-03T09:00:00Z",
        }] });
        let answer = request("POST", &it.shop.url("/api/v1/events"), &headers, refund.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        it.settled(hits).await;
        assert_eq!(it.audience("2026-03-03T12:00:00Z"), ["bob@tea.example", "eve@tea.example", "fay@tea.example"]);
        finished(serving).await;
        // Nobody who left gets it, whatever they clicked.
        let second = it.run("2026-03-03T13:00:00Z", &["send", "second"]);
        assert_eq!((&second["sent"], &second["audience"]), (&json!(2), &json!(2)), "{second}");
        let mails = sink.wait_for(8, 20);
        let mut got: Vec<&str> = mails[6..].iter().map(|mail| mail.to[0].as_str()).collect();
        got.sort_unstable();
        assert_eq!(got, ["bob@tea.example", "eve@tea.example"]);

        // The second mail sells, too: it shares with the first.
        let again = mails[6..].iter().find(|mail| mail.to == ["eve@tea.example"]).unwrap().clone();
        let serving = it.serve("2026-03-03T14:00:00Z");
        visit(&links(&again, "/c/")[1]);
        it.settled(hits + 1).await;
        finished(serving).await;
        it.shop.write("../orders.csv", "order_id,email,at,amount,product\nE-1,eve@tea.example,2026-03-04T10:00:00Z,81,Green\n");
        it.run("2026-03-04T11:00:00Z", &["import", "orders", "orders.csv"]);
        let serving = it.serve("2026-03-04T11:00:00Z");
        it.settled(hits + 1).await;
        finished(serving).await;
        let table = it.run("2026-03-04T12:00:00Z", &["report"]);
        let row = |name: &str| table["rows"].as_array().unwrap().iter().find(|row| row["campaign"] == name).unwrap().clone();
        assert_eq!((&row("first")["conversions"], &row("first")["revenue"]), (&json!(1.5), &json!(341)));
        assert_eq!((&row("second")["conversions"], &row("second")["revenue"]), (&json!(0.5), &json!(40.5)));
        let links = it.run("2026-03-04T12:00:00Z", &["report", "second"]);
        let green = links["clicks"]["by_link"].as_array().unwrap().iter().find(|link| link["url"] == "https://tea.example/green").unwrap();
        assert_eq!((&green["conversions"], &green["revenue"]), (&json!(0.5), &json!(40.5)));

        // Time passes: who does nothing cools, and comes back by a click.
        assert_eq!(it.stage("2026-03-05T00:00:00Z", "active").len(), 6, "newcomers are active");
        assert_eq!(it.stage("2026-04-02T00:00:00Z", "cooling"), ["ann@tea.example", "bob@tea.example", "fay@tea.example", "gateway@firm.example", "quiet@tea.example"]);
        assert_eq!(it.stage("2026-04-20T00:00:00Z", "cooling").len(), 6);
        let shown = it.run("2026-05-20T00:00:00Z", &["contact", "show", "eve@tea.example"]);
        assert_eq!(shown["scores"]["engagement"]["stage"], "dormant", "{shown}");
        let serving = it.serve("2026-05-20T01:00:00Z");
        visit(&self::links(&again, "/c/")[2]);
        it.settled(hits + 2).await;
        finished(serving).await;
        assert_eq!(it.stage("2026-05-21T00:00:00Z", "active"), ["eve@tea.example"]);
        let shown = it.run("2026-05-21T00:00:00Z", &["contact", "show", "eve@tea.example"]);
        let engagement = &shown["scores"]["engagement"];
        assert_eq!((&engagement["stage"], &engagement["clicks"]), (&json!("active"), &json!(3)));
        // What is shown of a person is what segments ask for.
        let score = engagement["score"].as_f64().unwrap();
        for (least, who) in [(score - 0.002, &["eve@tea.example"][..]), (score + 0.002, &[])] {
            let rule = format!("engagement.score >= {least:.6} and engagement('letter', score >= {least:.6})");
            assert_eq!(emails(&it.run("2026-05-21T00:00:00Z", &["segment", "members", &rule])), who, "{rule}");
        }
        assert!(engagement["best_hour"].is_number() && engagement["topics"][0]["topic"] == "letter", "{engagement}");
    }
}
