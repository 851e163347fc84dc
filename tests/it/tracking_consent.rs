//! Tracking as people chose it, in real mails: links, images, hits of old mails, numbers.

use optin::args;
use optin::db::Db;

use crate::prefs::{serve, shop};
use crate::support::http::{get, head};
use crate::support::smtp::{Received, Sink};
use crate::support::{Instance, on_each_database};

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148";
const PEOPLE: &str =
    "email,country\nfull@tea.example,TW\nfrench@tea.example,fr\nshy@tea.example,TW\nanon1@tea.example,\nanon2@tea.example,FR\n";

fn html(mail: &Received) -> String {
    mail_parser::MessageParser::default().parse(&mail.data).unwrap().body_html(0).unwrap().into_owned().replace("&#x2f;", "/")
}

/// The addresses in a mail that hold `part`.
fn links(html: &str, part: &str) -> Vec<String> {
    html.split('"').filter(|word| word.starts_with("http") && word.contains(part)).map(str::to_owned).collect()
}

fn choose(shop: &Instance, email: &str, tracking: &str) {
    shop.optin(&["consent", "tracking", email, tracking, "--source", "by telephone"]).exits(0);
}

fn visit(url: &str) -> u16 {
    crate::support::http::request("GET", url, &[("User-Agent", PHONE)], b"").status
}

/// Kind, whose mail, whose delivery is known, whether address or agent are known, verdict.
type Row = (String, Option<String>, bool, bool, String);

async fn hits(db: &Db) -> Vec<Row> {
    let sql = "SELECT h.kind, c.email, h.delivery_id, h.ip, h.agent, h.verdict FROM hit h LEFT JOIN contact c ON c.id = h.contact_id WHERE NOT h.looked ORDER BY h.id";
    let rows = db.fetch_all(sql, args![]).await.unwrap();
    rows.iter()
        .map(|row| {
            let (ip, agent): (Option<String>, Option<String>) = (row.get(3).unwrap(), row.get(4).unwrap());
            (
                row.get(0).unwrap(),
                row.get(1).unwrap(),
                row.get::<i64>(2).unwrap() != 0,
                ip.is_some() || agent.is_some(),
                row.get(5).unwrap(),
            )
        })
        .collect()
}

async fn wait_for_hits(db: &Db, count: usize) -> Vec<Row> {
    for _ in 0..500 {
        if hits(db).await.len() >= count {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let found = hits(db).await;
    assert_eq!(found.len(), count, "{found:?}");
    found
}

on_each_database! {
    async fn links_images_and_hits_follow_the_choice_also_in_mails_already_sent(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        shop.write("../people.csv", PEOPLE);
        let import = ["import", "contacts", "people.csv", "--topic", "letter", "--consent", "confirmed", "--source", "fair", "--json"];
        shop.optin(&import).exits(0);
        choose(&shop, "shy@tea.example", "none");
        choose(&shop, "anon1@tea.example", "anonymous");
        choose(&shop, "anon2@tea.example", "anonymous");
        shop.optin(&["send", "weekly", "--json"]).exits(0);
        let mails = sink.wait_for(5, 20);
        let of = |email: &str| html(mails.iter().find(|mail| mail.to == [email]).unwrap());
        let _serving = serve(&shop, &[]);
        let db = database.open().await;

        for email in ["french@tea.example", "shy@tea.example"] {
            let mail = of(email);
            assert!(links(&mail, "/o/").is_empty() && links(&mail, "/c/").is_empty(), "{mail}");
            assert!(mail.contains("https://tea.example/oolong") && !links(&mail, "/u/").is_empty(), "{mail}");
        }
        let (one, other) = (of("anon1@tea.example"), of("anon2@tea.example"));
        assert_eq!((links(&one, "/o/"), links(&one, "/c/")), (links(&other, "/o/"), links(&other, "/c/")), "nobody can be told from another");
        assert_eq!((links(&one, "/o/").len(), links(&one, "/c/").len()), (1, 2));
        let full = of("full@tea.example");
        assert_ne!(links(&full, "/o/"), links(&one, "/o/"));

        for mail in [&full, &one, &other] {
            assert_eq!(visit(&links(mail, "/o/")[0]), 200);
            assert_eq!(visit(&links(mail, "/c/")[0]), 302);
        }
        assert_eq!((head(&links(&one, "/o/")[0]).status, head(&links(&one, "/c/")[1]).status), (200, 302));
        let found = wait_for_hits(&db, 6).await;
        let human = "human".to_owned();
        let whose = |kind: &str| (kind.to_owned(), Some("full@tea.example".to_owned()), true, true);
        assert_eq!(found.iter().filter(|hit| (hit.0.clone(), hit.1.clone(), hit.2, hit.3) == whose("open")).count(), 1, "{found:?}");
        assert_eq!(found.iter().filter(|hit| (hit.0.clone(), hit.1.clone(), hit.2, hit.3) == whose("click")).count(), 1, "{found:?}");
        let nobodys = |kind: &str| (kind.to_owned(), None::<String>, false, false, human.clone());
        assert_eq!(found.iter().filter(|hit| **hit == nobodys("open")).count(), 2, "{found:?}");
        assert_eq!(found.iter().filter(|hit| hit.0 == "click" && hit.1.is_none() && !hit.2 && !hit.3).count(), 2, "{found:?}");
        // A robot is told from a person before its name is forgotten.
        crate::support::http::request("GET", &links(&one, "/o/")[0], &[("User-Agent", "curl/8.5.0")], b"");
        assert_eq!(wait_for_hits(&db, 7).await[6].4, "machine");

        let report = shop.optin(&["report", "weekly", "--json"]).exits(0).json();
        assert_eq!(report["tracking"], serde_json::json!({ "anonymous": 2, "none": 2 }));
        assert_eq!((&report["opens"]["unique"], &report["opens"]["human"], &report["opens"]["anonymous"]), (&1.into(), &3.into(), &2.into()));
        let words = shop.optin(&["report", "weekly"]).exits(0);
        assert!(words.stdout.contains("sent, not tracked") && words.stdout.contains("100.0 %"), "{}", words.stdout);

        // What they choose now holds for the mail of then: counted without them, then not at all.
        choose(&shop, "full@tea.example", "anonymous");
        assert_eq!(visit(&links(&full, "/c/")[1]), 302);
        let last = wait_for_hits(&db, 8).await.remove(7);
        assert_eq!((last.1, last.2, last.3), (None, false, false));
        choose(&shop, "full@tea.example", "none");
        assert_eq!((visit(&links(&full, "/c/")[0]), visit(&links(&full, "/o/")[0])), (302, 200));
        assert_eq!(visit(&links(&one, "/o/")[0]), 200);
        wait_for_hits(&db, 9).await;

        // The page of the mail and a preview are as the mail would be now.
        let view = get(&links(&full, "/v/")[0]).text();
        assert!(links(&view, "/c/").is_empty() && view.contains("https://tea.example/oolong"), "{view}");
        let preview = shop.optin(&["preview", "weekly", "--to", "shy@tea.example", "--format", "html"]).exits(0).stdout;
        assert!(!preview.contains("/o/") && !preview.contains("/c/"), "{preview}");
    }
}
