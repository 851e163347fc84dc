//! Choosing less instead of nothing, what time alone changes, and the proof of it all.

use optin::args;
use optin::clock::{DAY, Time};
use optin::consent::{self, ALL_TOPICS, Action, Frequency, NewEvent, Permit, Refusal, Standing, Tracking, Wording, ledger};
use optin::contact::{self, Address};
use optin::db::{Db, Tx};
use optin::entropy::Entropy;

use crate::send::{import, people, per_person, shop};
use crate::support::smtp::Sink;
use crate::support::{Instance, TestDatabase, instance, on_each_database, wait_until};

const TOPICS: &str = "[tea-letter]\nname = \"Tea letter\"\ndescription = \"Every Tuesday\"\n";
const NOW: Time = Time::from_millis(1_790_000_000_000);

async fn someone(tx: &mut Tx, email: &str) -> i64 {
    let schema = crate::segment::catalog().schema.clone();
    contact::ops::upsert(tx, &schema, &Entropy::seeded(5), NOW, &Address::parse(email).unwrap(), &[]).await.unwrap().id
}

async fn ready(database: &TestDatabase) -> (Db, i64) {
    let db = database.open().await;
    contact::ops::ensure_columns(&db, &crate::segment::catalog().schema).await.unwrap();
    let topic = consent::ops::ensure_topic(&db, "tea-letter", &Entropy::seeded(1), NOW).await.unwrap();
    (db, topic)
}

on_each_database!(
    async fn what_is_asked_while_the_mail_is_written_goes_out_in_it(database) {
        let (db, tea) = ready(&database).await;
        let mut tx = db.begin().await.unwrap();
        let offers = consent::ops::topic_id(&mut tx, "offers", &Entropy::seeded(2), NOW).await.unwrap();
        let mei = someone(&mut tx, "mei@x.example").await;
        let asks = |topic| NewEvent::new(mei, topic, Action::Requested, "form tea");
        consent::ops::request(&mut tx, asks(tea), NOW).await.unwrap();
        // The house read its clock, and then this one was faster.
        consent::ops::request(&mut tx, asks(offers), NOW.plus(300)).await.unwrap();
        let questions = consent::invitation::due(&mut tx, 10, NOW.plus(100)).await.unwrap();
        assert_eq!(questions.iter().map(|question| question.topics.clone()).collect::<Vec<_>>(), [[tea, offers]], "one mail a day, about both");
        tx.rollback().await.unwrap();
    }
);

on_each_database!(
    async fn whatever_happened_the_rows_are_the_ledger_folded(database) {
        let (db, tea) = ready(&database).await;
        for seed in 0..12 {
            let entropy = Entropy::seeded(seed);
            let mut tx = db.begin().await.unwrap();
            let offers = consent::ops::topic_id(&mut tx, "offers", &entropy, NOW).await.unwrap();
            for step in 0..120 {
                let now = NOW.plus(step * DAY / 4);
                one_step(&mut tx, &entropy, [tea, offers], 1 + seed as i64 * 100, now).await;
            }
            let folded = ledger::rebuild(&mut tx, false).await.unwrap();
            assert_eq!((folded.differing, folded.rows), (0, 0), "seed {seed}: {folded:?}");
            assert!(ledger::verify(&mut tx, &[], &[]).await.unwrap().valid, "seed {seed}");
            tx.commit().await.unwrap();
        }
        let broken = [
            ("UPDATE subscription SET standing = 'subscribed' WHERE standing = 'unsubscribed'", "standing"),
            ("UPDATE subscription SET frequency = 'daily' WHERE standing = 'subscribed'", "frequency"),
            ("UPDATE subscription SET since = since + 1", "since"),
            ("DELETE FROM subscription WHERE standing = 'subscribed'", "deleted"),
            ("INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq) VALUES (77, 5, 'subscribed', 1, 1)", "made up"),
            ("UPDATE consent_choice SET tracking = 'full'", "choice"),
            ("INSERT INTO consent_choice (contact_id, profiling, last_seq, changed_at) VALUES (99999, 'refused', 1, 1)", "choice made up"),
        ];
        for (sql, name) in broken {
            let mut tx = db.begin().await.unwrap();
            assert!(tx.execute(sql, args![]).await.unwrap() > 0, "{name}: nothing to break");
            let looked = ledger::rebuild(&mut tx, false).await.unwrap();
            assert!(looked.differing > 0 && !looked.contacts.is_empty(), "{name}: {looked:?}");
            assert_eq!(ledger::rebuild(&mut tx, true).await.unwrap(), looked, "{name}: the dry run tells what is done");
            assert_eq!(ledger::rebuild(&mut tx, false).await.unwrap().differing, 0, "{name}: put right");
            tx.commit().await.unwrap();
        }
    }
);

/// One random thing that happens to one of some people.
async fn one_step(tx: &mut Tx, entropy: &Entropy, topics: [i64; 2], first_contact: i64, now: Time) {
    let contact = first_contact + entropy.below(5) as i64;
    let topic = [topics[0], topics[1], ALL_TOPICS][entropy.below(3) as usize];
    let until = entropy.chance(0.5).then(|| now.plus(DAY * (1 + entropy.below(6) as i64)));
    let event = |topic, action| NewEvent::new(contact, topic, action, "test");
    let request = event(topic, Action::Changed);
    match entropy.below(14) {
        0 => drop(consent::ops::pause(tx, &request, until, now).await.unwrap()),
        1 => drop(consent::ops::resume(tx, &request, now).await.unwrap()),
        2 => {
            let frequency = [None, Some(Frequency::Daily), Some(Frequency::Monthly)][entropy.below(3) as usize];
            consent::ops::set_frequency(tx, &request, frequency, now).await.unwrap();
        }
        3 => {
            let tracking = [None, Some(Tracking::None), Some(Tracking::Anonymous)][entropy.below(3) as usize];
            consent::ops::set_tracking(tx, &request, tracking, now).await.unwrap();
        }
        4 => drop(consent::ops::set_profiling(tx, &request, entropy.chance(0.5), now).await.unwrap()),
        5 => drop(consent::ops::refresh(tx, &request, now).await.unwrap()),
        6 => drop(consent::ops::withdraw(tx, &event(topic, Action::Withdrawn), now).await.unwrap()),
        7 => drop(consent::ops::catch_up(tx, now).await.unwrap()),
        8 if entropy.chance(0.3) => consent::ops::erase(tx, contact, "test", now).await.unwrap(),
        9 => {
            let declared = consent::ops::Declared {
                consent: consent::ops::DeclaredConsent::Confirmed,
                source: "fair".to_owned(),
                basis: consent::Basis::Implied,
                until,
            };
            let rows: Vec<(i64, u64, bool)> = (0..5).map(|at| (first_contact + at, 2, false)).collect();
            consent::ops::record_import(tx, &rows, &[(topics[0], "marketing".to_owned())], &declared, now).await.unwrap();
        }
        _ => {
            let actions = [Action::Requested, Action::Granted, Action::Confirmed, Action::Objected];
            let topic = if topic == ALL_TOPICS { topics[1] } else { topic };
            let event = NewEvent { until: until.filter(|_| entropy.chance(0.3)), ..event(topic, actions[entropy.below(4) as usize]) };
            ledger::append(tx, &[event], now).await.unwrap();
        }
    }
}

on_each_database!(
    async fn a_frequency_keeps_campaigns_back_and_lets_the_digest_through(database) {
        let (db, tea) = ready(&database).await;
        let mut tx = db.begin().await.unwrap();
        let mei = someone(&mut tx, "mei@x.example").await;
        let event = |action| NewEvent::new(mei, tea, action, "test");
        ledger::append(&mut tx, &[event(Action::Confirmed)], NOW).await.unwrap();
        let permit = Permit::take(&mut tx, tea, &[mei]).await.unwrap().remove(&mei).unwrap().unwrap();
        assert!(consent::ops::set_frequency(&mut tx, &event(Action::Changed), Some(Frequency::Weekly), NOW).await.unwrap());
        assert!(!consent::ops::set_frequency(&mut tx, &event(Action::Changed), Some(Frequency::Weekly), NOW).await.unwrap(), "said before");
        let lost = Permit::recheck(&mut tx, &[&permit]).await.unwrap();
        assert_eq!(lost, [Some(Refusal::Digest(Frequency::Weekly))], "also in a send under way");
        let refused = Permit::take(&mut tx, tea, &[mei]).await.unwrap().remove(&mei).unwrap().unwrap_err();
        assert_eq!(refused.code(), "digest");
        let digest = Permit::take_for_digest(&mut tx, tea, &[mei]).await.unwrap().remove(&mei).unwrap().unwrap();
        assert!(consent::ops::pause(&mut tx, &event(Action::Paused), None, NOW).await.unwrap());
        assert_eq!(Permit::recheck(&mut tx, &[&digest]).await.unwrap(), [Some(Refusal::Standing(Standing::Paused))]);
        assert!(consent::ops::resume(&mut tx, &event(Action::Resumed), NOW).await.unwrap());
        assert!(consent::ops::set_frequency(&mut tx, &event(Action::Changed), None, NOW).await.unwrap());
        assert!(Permit::take(&mut tx, tea, &[mei]).await.unwrap()[&mei].is_ok());
    }
);

on_each_database!(
    async fn a_send_skips_who_wants_a_digest_and_mails_whose_pause_is_over(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, 4);
        let db = database.open().await;
        let mut tx = db.begin().await.unwrap();
        let found = tx.fetch_all("SELECT id FROM contact ORDER BY email_key", args![]).await.unwrap();
        let ids: Vec<i64> = found.iter().map(|row| row.get(0).unwrap()).collect();
        let now = Time::parse("2030-01-01T00:00:00Z").unwrap();
        let event = |at: usize| NewEvent::new(ids[at], ALL_TOPICS, Action::Changed, "test");
        consent::ops::set_frequency(&mut tx, &event(0), Some(Frequency::Daily), now).await.unwrap();
        consent::ops::pause(&mut tx, &event(1), Some(now.plus(DAY)), now).await.unwrap();
        consent::ops::pause(&mut tx, &event(2), Some(now.plus(9 * DAY)), now).await.unwrap();
        tx.commit().await.unwrap();
        // No server runs: the send itself sees that a date has come.
        let sent = shop.command(&["send", "weekly", "--json"]).clock("2030-01-02T00:00:01Z").run().exits(0).json();
        assert_eq!((&sent["sent"], &sent["skipped"]["digest"], &sent["excluded"]["paused"]), (&2.into(), &1.into(), &1.into()), "{sent}");
        assert_eq!(per_person(&sink.received()).len(), 2);
        let row = db.fetch_one("SELECT contact_id, source FROM consent_event WHERE action = 'resumed'", args![]).await.unwrap();
        assert_eq!((row.get::<i64>(0).unwrap(), row.get::<String>(1).unwrap()), (ids[1], "time".to_owned()));
        shop.optin(&["consent", "verify"]).exits(0);
    }
);

on_each_database!(
    async fn an_implied_consent_ends_by_itself_and_may_be_given_anew(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        let clock = "2030-01-01T00:00:00Z";
        let bring = |more: &[&str], code: i32| {
            shop.write("../buyers.csv", "email\nmei@x.example\nolive@x.example\n");
            let args = ["import", "contacts", "buyers.csv", "--topic", "tea-letter", "--consent", "confirmed", "--source", "shop"];
            shop.command(&[&args, more].concat()).clock(clock).run().exits(code)
        };
        assert!(bring(&["--basis", "implied"], 2).stderr.contains("--until"));
        assert!(bring(&["--until", "2031-01-01"], 2).stderr.contains("implied"));
        bring(&["--basis", "implied", "--until", "2030-02-01"], 0);
        let at = |time: &str, args: &[&str]| shop.command(args).clock(time).run();
        let sent = at("2030-01-31T23:59:59Z", &["send", "weekly", "--json"]).exits(0).json();
        assert_eq!(sent["sent"], 2, "{sent}");
        at("2030-01-31T23:59:59Z", &["consent", "grant", "mei@x.example", "--topic", "tea-letter", "--source", "letter"]).exits(0);
        let sent = at("2030-02-01T00:00:01Z", &["send", "weekly", "--again", "--json"]).exits(0).json();
        assert_eq!((&sent["sent"], &sent["excluded"]["not_subscribed"]), (&1.into(), &1.into()), "an express consent lasts: {sent}");
        bring(&["--basis", "implied", "--until", "2032-02-01"], 0);
        let history = shop.optin(&["consent", "history", "olive@x.example", "--json"]).exits(0).json();
        let said: Vec<(String, String)> = history["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| (event["action"].as_str().unwrap().to_owned(), event["basis"].as_str().unwrap_or("").to_owned()))
            .collect();
        let said: Vec<(&str, &str)> = said.iter().map(|(action, basis)| (action.as_str(), basis.as_str())).collect();
        assert_eq!(said, [("granted", "implied"), ("expired", ""), ("granted", "implied")], "{history}");
        assert_eq!(history["standings"][0]["ends"], "2032-02-01T00:00:00.000Z");
        assert_eq!(history["events"][0]["purpose"], "marketing", "{history}");
        shop.optin(&["consent", "verify"]).exits(0);
    }
);

on_each_database!(
    async fn the_server_signs_checkpoints_beside_the_ledger_and_as_files(database) {
        let shop = instance(&database, &[("topics.toml", TOPICS)]).with_env("OPTIN_CONSENT__CHECKPOINT_DIR", "../kept");
        import(&shop, "email\nmei@x.example\n", "confirmed");
        let serving = shop.command(&["serve", "--only", "worker"]).spawn();
        let folder = shop.root().join("kept");
        let file = wait_until("a checkpoint", 20, || std::fs::read_dir(&folder).ok()?.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "json")));
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);
        let verified = shop.optin(&["consent", "verify", "--checkpoint", file.to_str().unwrap(), "--json"]).exits(0).json();
        assert_eq!(verified["checkpoints"], 2, "{verified}");
        let db = database.open().await;
        db.execute("UPDATE consent_checkpoint SET hash = 'ab'", args![]).await.unwrap();
        assert!(shop.optin(&["consent", "verify"]).exits(1).stderr.contains("signature does not fit"));
    }
);

on_each_database!(
    async fn the_history_of_a_person_is_a_document_to_show(database) {
        let shop = instance(&database, &[("topics.toml", TOPICS)]);
        let db = database.open().await;
        let entropy = Entropy::seeded(3);
        import(&shop, "email\nmei@x.example\n", "none");
        let id: i64 = db.fetch_one("SELECT id FROM contact", args![]).await.unwrap().get(0).unwrap();
        let mut tx = db.begin().await.unwrap();
        let tea = consent::ops::topic_id(&mut tx, "tea-letter", &entropy, NOW).await.unwrap();
        let wording = Wording {
            text: "是的，請每週二寄茶訊給我。\n隨時可以取消。",
            locale: Some("zh-Hant"),
            kind: Some("form"),
            version: Some("3"),
        };
        let event = |action, source: &str| NewEvent {
            purpose: Some("marketing".to_owned()),
            basis: Some(consent::Basis::Consent),
            evidence: Some(consent::ops::evidence(&entropy, serde_json::json!({ "address": "Mei@x.example" }))),
            origin: consent::ops::origin(&entropy, Some("203.0.113.7"), Some("Mozilla/5.0\nX: y")),
            ..NewEvent::new(id, tea, action, source)
        };
        let hash = consent::ops::keep_wording(&mut tx, &wording, NOW).await.unwrap();
        let asked = NewEvent { wording_hash: Some(hash), detail: Some("locale=zh-Hant".to_owned()), ..event(Action::Requested, "form tea") };
        consent::ops::request(&mut tx, asked, NOW).await.unwrap();
        tx.execute("UPDATE confirmation SET sent_at = $1", args![NOW.plus(30_000)]).await.unwrap();
        consent::ops::confirm(&mut tx, event(Action::Confirmed, "mail"), NOW, NOW.plus(60_000)).await.unwrap();
        consent::ops::set_frequency(&mut tx, &event(Action::Changed, "page preferences"), Some(Frequency::Weekly), NOW.plus(DAY)).await.unwrap();
        consent::ops::pause(&mut tx, &event(Action::Paused, "page preferences"), Some(NOW.plus(9 * DAY)), NOW.plus(2 * DAY)).await.unwrap();
        consent::ops::expire_origins(&mut tx, NOW.plus(1), NOW.plus(3 * DAY)).await.unwrap();
        tx.commit().await.unwrap();
        for lang in ["en", "zh-Hans", "zh-Hant"] {
            let shown = shop.command(&["consent", "history", "mei@x.example", "--lang", lang]).clock("2026-12-01T09:00:00Z").run().exits(0);
            insta::assert_snapshot!(format!("proof_{lang}"), steady(&shown.stdout, &shop, id));
        }
        let json = shop.optin(&["consent", "history", "mei@x.example", "--json"]).exits(0).json();
        let confirmed = &json["events"][1];
        assert_eq!(confirmed["proof"]["evidence"]["asked_at"], NOW.to_string(), "{json}");
        assert_eq!(confirmed["proof"]["evidence"]["mailed_at"], NOW.plus(30_000).to_string());
        assert_eq!(json["events"][0]["shown"]["locale"], "zh-Hant");
        assert!(json["events"][0]["client"].is_null() && !json["events"][0]["proof"]["origin_digest"].is_null(), "dropped by its time: {json}");
        assert_eq!(json["chain"]["valid"], true);
        assert!(shop.optin(&["consent", "history", "mei@x.example", "--lang", "tlh"]).exits(2).stderr.contains("zh-Hant"));
    }
);

/// What differs from run to run: ids, hashes, keys, the port.
fn steady(text: &str, shop: &Instance, id: i64) -> String {
    let text = text.replace(&id.to_string(), "<id>").replace(&shop.port().to_string(), "<port>");
    // The clock goes on while the program starts.
    let made = text.find("2026-12-01T09:0").expect("when it was made");
    let text = [&text[..made], "<made>", &text[made + "2026-12-01T09:00:00Z".len()..]].concat();
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let hex = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        if hex.len() == 64 {
            out.push_str("<hash>");
            out.push_str(&word[64..]);
        } else {
            out.push_str(word);
        }
    }
    out
}
