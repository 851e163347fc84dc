//! How a hit gets from a request into the database: the log on the disk, what becomes of it when a process dies or
//! the disk does not take it, and what links in mails look like.

use std::path::Path;
use std::time::Duration;

use optin::clock::Time;
use optin::consent::tracking::TrackingRules;
use optin::db::Db;
use optin::entropy::Entropy;
use optin::token::{Keys, Purpose};
use optin::tracking::{Hit, Recorded, Recorder, RecorderSettings};

use crate::flows::{serve, stop};
use crate::support::http::{get, head, request};
use crate::support::smtp::Sink;
use crate::support::{instance, on_each_database};

const NOW: Time = Time::from_millis(1_764_579_600_000);
const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148";
const RUN: i64 = 50;
const DELIVERIES: i64 = 100;
/// Each delivery has somebody of its own, whose number is so much higher.
const PERSON: i64 = 1_000;
const SECRET: &str = "a secret of this test, long enough to be one";

async fn prepare(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    tx.execute(
        &format!(
            "INSERT INTO run (id, campaign, topic_id, firing, state, scheduled_at, created_at, definition_hash, definition, excluded,
                              audience, audience_cursor, audience_done)
             VALUES ({RUN}, 'weekly', 1, 'f', 'done', 0, 0, '', '', '{{}}', 1, 0, TRUE)"
        ),
        Vec::new(),
    )
    .await
    .unwrap();
    for id in 1..=DELIVERIES {
        let person = PERSON + id;
        for statement in [
            format!(
                "INSERT INTO contact (id, email, email_key, created_at, updated_at)
                 VALUES ({person}, '{id}@tea.example', '{id}@tea.example', 0, 0)"
            ),
            format!(
                "INSERT INTO delivery (id, run_id, contact_id, state, due_at, attempts, changed_at)
                 VALUES ({id}, {RUN}, {person}, 'sent', 0, 1, {})",
                NOW.plus(-600_000).millis()
            ),
        ] {
            tx.execute(&statement, Vec::new()).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
}

async fn recorder(db: &Db, folder: &Path, seed: u64) -> Recorder {
    let settings = RecorderSettings {
        db: db.clone(),
        entropy: Entropy::seeded(seed),
        rules: TrackingRules::default().into(),
        folder: folder.to_owned(),
    };
    Recorder::start(settings).await.unwrap().0
}

fn click(delivery: i64) -> Hit {
    Hit::click(delivery, delivery % 3, NOW.plus(delivery * 10_000), Some("192.0.2.7".into()), Some(PHONE.into()))
}

async fn count(db: &Db, sql: &str) -> i64 {
    db.fetch_one(sql, Vec::new()).await.unwrap().get(0).unwrap()
}

async fn wait_for(db: &Db, sql: &str, expected: i64) {
    for _ in 0..400 {
        if count(db, sql).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(count(db, sql).await, expected, "{sql}");
}

fn logs(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

const CLICKS: &str = "SELECT COUNT(*) FROM hit WHERE kind = 'click'";
/// Logs whose position is known.
const POSITIONS: &str = "SELECT COUNT(*) FROM hit_log WHERE name <> ''";

on_each_database!(
    async fn a_log_that_a_process_left_is_written_once_by_whoever_finds_it(database) {
        let (db, home) = (database.open().await, tempfile::tempdir().unwrap());
        prepare(&db).await;
        let folder = home.path().join("hits");
        let first = recorder(&db, &folder, 1).await;
        for delivery in 1..=20 {
            first.record(click(delivery)).await;
        }
        first.flush().await;
        let [log] = &logs(&folder)[..] else { panic!("one log: {:?}", logs(&folder)) };
        // What a killed process leaves: its log, half read, with a record that it never finished.
        for delivery in 21..=40 {
            assert_ne!(first.note(Some(click(delivery))).await, Recorded::Dropped);
        }
        first.flush().await;
        let mut bytes = std::fs::read(log).unwrap();
        let position = count(&db, "SELECT MAX(position) FROM hit_log WHERE name <> ''").await;
        assert!(position > 16 && position <= bytes.len() as i64);
        bytes.extend_from_slice(&[120, 0, 0, 0, 1, 2, 3, 4, 5]);
        first.shut_down().await;
        wait_for(&db, POSITIONS, 0).await;
        assert_eq!((logs(&folder).len(), count(&db, CLICKS).await), (0, 40), "a process that ends in good order leaves nothing");

        db.execute("DELETE FROM hit WHERE delivery_id > 20", Vec::new()).await.unwrap();
        let name = log.file_stem().unwrap().to_str().unwrap();
        let at_twenty = place_of(&bytes, 20);
        db.execute("INSERT INTO hit_log (name, position, at) VALUES ($1, $2, 0)", optin::args![name, at_twenty]).await.unwrap();
        std::fs::write(log, &bytes).unwrap();
        let second = recorder(&db, &folder, 2).await;
        wait_for(&db, CLICKS, 40).await;
        wait_for(&db, POSITIONS, 0).await;
        assert_eq!(count(&db, "SELECT COUNT(DISTINCT delivery_id) FROM hit").await, 40);
        assert!(logs(&folder).is_empty(), "{:?}", logs(&folder));
        drop(second);
    }
);

/// Where record `number` (from 0) begins.
fn place_of(bytes: &[u8], number: usize) -> i64 {
    let mut at = 16;
    for _ in 0..number {
        at += 8 + u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    }
    at as i64
}

on_each_database!(
    async fn two_processes_share_a_folder_and_neither_reads_the_other_or_another_database(database) {
        let (db, home) = (database.open().await, tempfile::tempdir().unwrap());
        prepare(&db).await;
        let (one, two) = (recorder(&db, home.path(), 1).await, recorder(&db, home.path(), 2).await);
        // Of another database: the number in its head says so.
        let foreign = home.path().join("00-1.hits");
        std::fs::write(&foreign, [b"OPTINHIT".as_slice(), &[9; 8], &[1; 50]].concat()).unwrap();
        for delivery in 1..=30 {
            let recorder = if delivery % 2 == 0 { &one } else { &two };
            recorder.record(click(delivery)).await;
        }
        one.flush().await;
        two.flush().await;
        assert_eq!(logs(home.path()).len(), 3);
        assert_eq!((count(&db, CLICKS).await, count(&db, POSITIONS).await), (30, 2));
        one.shut_down().await;
        two.shut_down().await;
        wait_for(&db, POSITIONS, 0).await;
        assert_eq!(logs(home.path()), [foreign]);
        assert_eq!(count(&db, CLICKS).await, 30);
    }
);

on_each_database!(
    async fn while_the_database_is_away_answers_come_from_the_log_and_rows_afterwards(database) {
        let (db, home) = (database.open().await, tempfile::tempdir().unwrap());
        prepare(&db).await;
        let recorder = recorder(&db, home.path(), 1).await;
        recorder.record(click(1)).await;
        recorder.flush().await;
        let mut lock = db.begin().await.unwrap();
        if database.name == "postgres" {
            lock.execute("LOCK TABLE hit IN EXCLUSIVE MODE", Vec::new()).await.unwrap();
        }
        for delivery in 2..=100 {
            assert!(matches!(recorder.record(click(delivery)).await, Recorded::Logged | Recorded::Queued));
        }
        assert!(recorder.figures().waiting_bytes > 0);
        lock.rollback().await.unwrap();
        recorder.flush().await;
        assert_eq!(count(&db, CLICKS).await, 100);
        let figures = recorder.figures();
        assert_eq!((figures.folded, figures.waiting_bytes, figures.dropped), (100, 0, 0));
    }
);

on_each_database!(
    async fn where_no_log_can_be_written_hits_go_to_the_database_at_once(database) {
        let (db, home) = (database.open().await, tempfile::tempdir().unwrap());
        prepare(&db).await;
        // No folder can be made below a file.
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();
        let recorder = recorder(&db, &file.join("hits"), 1).await;
        for delivery in 1..=20 {
            recorder.record(click(delivery)).await;
            recorder.note(None).await;
        }
        recorder.flush().await;
        assert_eq!(count(&db, CLICKS).await, 20);
        let figures = recorder.figures();
        assert_eq!((figures.unlogged, figures.dropped, figures.logged), (20, 0, 0));
    }
);

/// The parameters, names and addresses of links, from a campaign to the redirect.
const CAMPAIGN: &str = "topic = \"letter\"\nsubject = \"Leaves\"\nbody = \"weekly.html\"\n[tracking]\nutm_hosts = [\"tea.example\"]\n\
    [tracking.utm]\nsource = \"optin\"\ncampaign = \"{{ campaign.name }}\"\ncontent = \"{{ link.name }} {{ link.position }}\"\n";
const BODY: &str = "<p><a href=\"https://shop.tea.example/x?sig=%7E&b={c}#part\" data-name=\"hero\">Look</a> \
    <a href=\"https://other.example/y\">Other</a> <a data-name=\"hero\" href=\"https://tea.example/?utm_source=mine\">Again</a> \
    <a href=\"http://127.0.0.1:PORT/u/pasted\">Leave</a></p>";

fn html_of(data: &[u8]) -> String {
    mail_parser::MessageParser::default().parse(data).unwrap().body_html(0).unwrap().into_owned()
}

fn links_to<'a>(html: &'a str, start: &str) -> Vec<&'a str> {
    html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).filter(|link| link.starts_with(start)).collect()
}

on_each_database!(
    async fn links_get_the_parameters_of_their_campaign_and_the_names_their_author_gave(database) {
        let sink = Sink::start();
        let shop = instance(
            &database,
            &[
                ("topics.toml", "[letter]\nname = \"Letter\"\ndescription = \"Tea\"\nopt_in = \"single\"\n"),
                ("campaigns/weekly.toml", CAMPAIGN),
                ("campaigns/weekly.html", ""),
            ],
        )
        .with_smtp(&sink)
        .with_env("OPTIN_TRACKING__HONEYPOT", "true");
        shop.write("campaigns/weekly.html", BODY.replace("PORT", &shop.port().to_string()));
        shop.write("../people.csv", "email\nmei@tea.example\n");
        shop.optin(&["import", "contacts", "people.csv", "--topic", "letter", "--consent", "confirmed", "--source", "fair"]).exits(0);
        shop.optin(&["send", "weekly"]).exits(0);
        let html = html_of(&sink.wait_for(1, 20)[0].data);
        assert!(!html.contains("data-name") && html.contains("aria-hidden=\"true\""), "{html}");
        let tracked = links_to(&html, &shop.url("/c/"));
        assert_eq!((tracked.len(), links_to(&html, &shop.url("/u/pasted")).len()), (3, 1), "{html}");

        let serving = serve(&shop, "2026-12-01T09:00:00Z");
        let locations: Vec<String> = tracked.iter().map(|link| get(link).header("location").unwrap().to_owned()).collect();
        assert_eq!(
            locations,
            [
                "https://shop.tea.example/x?sig=%7E&b={c}&utm_campaign=weekly&utm_content=hero%200&utm_source=optin#part",
                "https://other.example/y",
                "https://tea.example/?utm_source=mine&utm_campaign=weekly&utm_content=hero%202%202",
            ]
        );
        assert_eq!(head(tracked[0]).header("location"), Some(locations[0].as_str()));
        assert_eq!(get(links_to(&html, &shop.url("/t/"))[0]).status, 200);
        stop(serving);
        let db = database.open().await;
        let names: Vec<(String, String)> = db
            .fetch_all("SELECT name, url FROM run_link ORDER BY position", Vec::new())
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get(0).unwrap(), row.get(1).unwrap()))
            .collect();
        let names: Vec<(&str, &str)> = names.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();
        assert_eq!(
            names,
            [
                ("hero", "https://shop.tea.example/x?sig=%7E&b={c}#part"),
                ("Other", "https://other.example/y"),
                ("hero 2", "https://tea.example/?utm_source=mine"),
            ]
        );
        assert_eq!(count(&db, "SELECT COUNT(*) FROM hit WHERE kind = 'trap'").await, 1);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM hit WHERE looked").await, 1);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM hit WHERE NOT looked AND kind = 'click'").await, 3);

        // Nobody's data in an address that others' statistics keep.
        shop.write("campaigns/weekly.toml", CAMPAIGN.replace("{{ link.name }}", "{{ contact.email }}"));
        let refused = shop.optin(&["check"]).exits(1);
        assert!(refused.stdout.contains("weekly.toml:9") && refused.stdout.contains("never who it is"), "{refused}");
    }
);

on_each_database!(
    async fn a_visit_to_the_address_in_the_header_is_a_trap_and_a_visit_by_the_link_is_none(database) {
        let db = database.open().await;
        prepare(&db).await;
        let shop = instance(&database, &[]).with_env("OPTIN_SECRET", SECRET);
        let serving = serve(&shop, "2026-12-01T09:00:00Z");
        let keys = Keys::new(SECRET, &[]);
        for purpose in [Purpose::UnsubscribeHeader, Purpose::UnsubscribeBody] {
            let link = shop.url(&format!("/u/{}", keys.sign(purpose, &[PERSON + 3, 1, 3])));
            request("GET", &link, &[("User-Agent", PHONE), ("Accept-Language", "en")], b"");
        }
        stop(serving);
        let rows = db.fetch_all("SELECT kind, delivery_id, traits FROM hit", Vec::new()).await.unwrap();
        let rows: Vec<(String, i64, String)> =
            rows.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap())).collect();
        assert_eq!(rows, [("trap".to_owned(), 3, "trap=header,lang".to_owned())]);
    }
);
