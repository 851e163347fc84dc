//! Relays that misbehave, processes that are killed, databases that are away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use optin::args;
use serde_json::Value;

use crate::send::{each_once, header, import, people, per_person, send, shop};
use crate::support::smtp::{Ending, Script, Sink};
use crate::support::{Instance, TestDatabase, on_each_database};

/// Connections of the test instance: the bound of what may be in doubt.
const CONNECTIONS: u64 = 4;

fn show(shop: &Instance, run: &Value) -> Value {
    shop.optin(&["run", "show", &run.to_string(), "--json"]).exits(0).json()
}

fn latest(shop: &Instance) -> Value {
    let runs = shop.optin(&["run", "list", "--json"]).exits(0).json();
    show(shop, &runs["runs"][0]["run"])
}

on_each_database!(
    async fn a_relay_that_is_down_consumes_nobody_and_the_run_goes_on_later(database) {
        let mut sink = Sink::down(Script::default());
        let shop = shop(&database, &sink);
        people(&shop, 30);
        let first = send(&shop, &[]).exits(1);
        assert!(first.stderr.contains("out of reach"), "{first}");
        let waiting = first.json();
        assert_eq!((&waiting["due"], &waiting["sent"], &waiting["state"]), (&30.into(), &0.into(), &"sending".into()), "{waiting}");
        let attempts: i64 =
            database.open().await.fetch_one("SELECT CAST(SUM(attempts) AS BIGINT) FROM delivery", args![]).await.unwrap().get(0).unwrap();
        assert_eq!(attempts, 0);
        let again = shop.command(&["send", "weekly", "--json", "--wait", "20"]).spawn();
        std::thread::sleep(Duration::from_millis(500));
        sink.come_up();
        assert_eq!(again.wait(30).0, 0);
        each_once(&sink.received(), 30);
    }
);

on_each_database!(
    async fn a_relay_that_goes_away_in_the_middle_loses_nobody(database) {
        let mut sink = Sink::with(Script { reply_delay: Duration::from_millis(5), ..Script::default() });
        let shop = shop(&database, &sink);
        people(&shop, 300);
        let sending = shop.command(&["send", "weekly", "--json", "--wait", "20"]).spawn();
        sink.wait_for(50, 20);
        sink.go_down();
        std::thread::sleep(Duration::from_millis(700));
        sink.come_up();
        let (code, output) = sending.wait(60);
        assert_eq!(code, 0, "{output:#?}");
        let counts = per_person(&sink.received());
        assert!(counts.values().all(|count| *count == 1));
        let shown = latest(&shop);
        let in_doubt = shown["in_doubt"].as_u64().unwrap();
        assert!(in_doubt <= CONNECTIONS, "{shown}");
        assert_eq!(shown["sent"].as_u64().unwrap() + in_doubt, 300, "{shown}");
    }
);

on_each_database!(
    async fn four_hundreds_are_tried_again_until_the_deadline(database) {
        let tries = Arc::new(AtomicUsize::new(0));
        let seen = tries.clone();
        let sink = Sink::with(Script {
            refuse_rcpt: Some(Arc::new(move |rcpt| {
                (rcpt.starts_with("p3@") && seen.fetch_add(1, Ordering::SeqCst) < 2).then(|| "450 4.2.1 greylisted".to_owned())
            })),
            ..Script::default()
        });
        let shop = shop(&database, &sink);
        people(&shop, 10);
        let sent = shop.optin(&["send", "weekly", "--json", "--wait", "30"]).exits(0).json();
        assert_eq!((&sent["sent"], &sent["deferred"]), (&10.into(), &0.into()), "{sent}");
        each_once(&sink.received(), 10);
        assert_eq!(tries.load(Ordering::SeqCst), 3);
        // The same for a mail that is never taken: deferred with the reply kept, given up at the deadline.
        sink.script(|script| script.refuse_rcpt = Some(Arc::new(|rcpt| rcpt.starts_with("p3@").then(|| "451 4.2.0 not now".to_owned()))));
        let clock = |time: &str| shop.command(&["send", "weekly", "--json", "--again", "--wait", "0"]).clock(time).run();
        let waiting = clock("2030-01-01T00:00:00Z").exits(1).json();
        assert_eq!((&waiting["sent"], &waiting["deferred"]), (&9.into(), &1.into()), "{waiting}");
        let kept = show(&shop, &waiting["run"]);
        assert_eq!(kept["deferred_mails"][0]["reply"], "451 4.2.0 not now", "{kept}");
        let late = shop.command(&["send", "weekly", "--json"]).clock("2030-01-01T02:00:00Z").run().exits(0).json();
        assert_eq!((&late["failed"], &late["state"]), (&1.into(), &"done".into()), "{late}");
        assert_eq!(show(&shop, &waiting["run"])["failed_mails"][0]["reason"], "expired");
    }
);

on_each_database!(
    async fn a_domain_of_nobody_in_particular_that_asks_for_patience_holds_up_no_other(database) {
        let sink = Sink::with(Script::refusing("@slow.example", "450 4.7.1 too many messages, slow down"));
        let shop = shop(&database, &sink);
        let people: String = (0..20).map(|i| format!("p{i}@slow.example\np{i}@fast.example\n")).collect();
        import(&shop, &format!("email\n{people}"), "confirmed");
        let sent = shop.optin(&["send", "weekly", "--json", "--wait", "0"]).exits(1).json();
        assert_eq!((&sent["sent"], &sent["deferred"], &sent["due"]), (&20.into(), &20.into(), &0.into()), "{sent}");
        let db = database.open().await;
        let kept = db.fetch_all("SELECT provider FROM throttle ORDER BY provider", args![]).await.unwrap();
        let kept: Vec<String> = kept.iter().map(|row| row.get(0).unwrap()).collect();
        assert_eq!(kept, ["@slow.example"]);
        // The others to that domain are not even tried before the pause is over.
        let tried = "SELECT COUNT(*) FROM delivery WHERE state = 'deferred' AND attempts > 0";
        let tried: i64 = db.fetch_one(tried, args![]).await.unwrap().get(0).unwrap();
        assert!((1..=CONNECTIONS as i64).contains(&tried), "{tried} were tried");
    }
);

on_each_database!(
    async fn five_hundreds_are_bounces_with_their_reply_and_the_session_goes_on(database) {
        let sink = Sink::with(Script::refusing("p1", "550 5.1.1 no such user"));
        let shop = shop(&database, &sink);
        people(&shop, 20);
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!((&sent["sent"], &sent["bounced"]), (&9.into(), &11.into()), "{sent}");
        assert!(sink.sessions() <= CONNECTIONS as usize, "{} sessions", sink.sessions());
        let shown = show(&shop, &sent["run"]);
        assert_eq!(shown["bounced_mails"][0]["reply"], "550 5.1.1 no such user");
        assert_eq!(sink.breaches(), Vec::<String>::new());
    }
);

on_each_database!(
    async fn a_refused_sender_is_no_bounce(database) {
        let sink = Sink::with(Script { refuse_mail: Some(Arc::new(|_| Some("550 5.7.1 not you".to_owned()))), ..Script::default() });
        let shop = shop(&database, &sink);
        people(&shop, 3);
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!((&sent["failed"], &sent["bounced"]), (&3.into(), &0.into()), "{sent}");
        sink.script(|script| {
            script.refuse_mail = None;
            script.refuse_message = Some(Arc::new(|_| Some("554 5.7.1 spam".to_owned())));
        });
        let sent = send(&shop, &["--again"]).exits(0).json();
        assert_eq!((&sent["failed"], &sent["bounced"]), (&0.into(), &3.into()), "{sent}");
    }
);

on_each_database!(
    async fn a_lost_final_reply_is_held_in_doubt_and_named_until_released(database) {
        let sink = Sink::with(Script { ending: Ending::CloseBeforeReply, ..Script::default() });
        let shop = shop(&database, &sink);
        people(&shop, 6);
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!((&sent["in_doubt"], &sent["sent"]), (&6.into(), &0.into()), "{sent}");
        let run = sent["run"].to_string();
        let named: BTreeSet<String> =
            show(&shop, &sent["run"])["in_doubt_mails"].as_array().unwrap().iter().map(|mail| mail["email"].to_string()).collect();
        assert_eq!(named.len(), 6);
        sink.script(|script| script.ending = Ending::Proper);
        let released = shop.optin(&["run", "release-doubtful", &run, "--json"]).exits(0).json();
        assert_eq!((&released["released"], &released["state"]), (&6.into(), &"sending".into()));
        let again = send(&shop, &[]).exits(0).json();
        assert_eq!((&again["run"], &again["sent"], &again["in_doubt"]), (&sent["run"], &6.into(), &0.into()), "{again}");
        let mails = sink.received();
        assert_eq!(mails.len(), 12);
        let ids: BTreeSet<String> = mails.iter().flat_map(|mail| header(&mail.text(), "Message-ID")).collect();
        assert_eq!(ids.len(), 6, "the same Message-ID at the second try");
    }
);

on_each_database!(
    async fn released_as_sent_is_not_sent_again_and_resend_tries_on_schedule(database) {
        let sink = Sink::with(Script { ending: Ending::CloseBeforeReply, ..Script::default() });
        let shop = shop(&database, &sink);
        people(&shop, 2);
        let sent = send(&shop, &[]).exits(0).json();
        let released = shop.optin(&["run", "release-doubtful", &sent["run"].to_string(), "--as-sent", "--json"]).exits(0).json();
        assert_eq!(released["released"], 2);
        assert_eq!(send(&shop, &[]).exits(0).json()["sent"], 2);
        assert_eq!(sink.received().len(), 2);
        let resend = shop.command(&["send", "weekly", "--json", "--again", "--wait", "8"]).env("OPTIN_DELIVERY__IN_DOUBT", "resend").spawn();
        sink.wait_for(4, 20);
        sink.script(|script| script.ending = Ending::Proper);
        let (code, output) = resend.wait(40);
        assert_eq!(code, 0, "{output:#?}");
        let mails = sink.received();
        // The schedule says one second: no loop that floods the same person.
        assert!((4..=8).contains(&mails.len()), "{} mails", mails.len());
        let ids: BTreeSet<String> = mails.iter().flat_map(|mail| header(&mail.text(), "Message-ID")).collect();
        assert_eq!(ids.len(), 4);
    }
);

on_each_database!(
    async fn a_relay_that_ends_sessions_early_costs_nobody_a_delay(database) {
        for ending in [Ending::CloseAtData, Ending::CloseAfterData] {
            let sink = Sink::with(Script { ending, ..Script::default() });
            let file = TestDatabase::sqlite();
            let shop = shop(&file, &sink);
            people(&shop, 3);
            let sent = send(&shop, &["--wait", "0"]).json();
            let kept = (sent["deferred"].as_u64().unwrap(), sent["in_doubt"].as_u64().unwrap());
            assert_eq!(kept, if ending == Ending::CloseAtData { (3, 0) } else { (0, 3) }, "{ending:?}: {sent}");
            assert_eq!(sink.received().len(), 0);
        }
        let sink = Sink::with(Script { mails_per_session: 5, ..Script::default() });
        let shop = shop(&database, &sink);
        people(&shop, 60);
        let sent = shop.optin(&["send", "weekly", "--json", "--wait", "0"]).exits(0).json();
        assert_eq!((&sent["sent"], &sent["deferred"], &sent["in_doubt"]), (&60.into(), &0.into(), &0.into()), "{sent}");
        each_once(&sink.received(), 60);
    }
);

#[test]
fn slow_odd_and_plain_relays_are_coped_with() {
    let cases: Vec<(&str, Script, u64)> = vec![
        ("greets slowly", Script { greeting_delay: Duration::from_secs(1), ..Script::default() }, 3),
        ("never greets in time", Script { greeting_delay: Duration::from_secs(30), ..Script::default() }, 0),
        ("talks nonsense", Script { nonsense: Some(b"\xff\xfe HTTP/1.1 404 Not Found\r\n".to_vec()), ..Script::default() }, 0),
        ("greets in Latin-1 and is busy", Script { greeting: "421 4.3.2 occup\u{e9}".to_owned(), ..Script::default() }, 0),
        ("no extensions at all", Script { extensions: Vec::new(), ..Script::default() }, 3),
        ("no pipelining", Script::default().without("PIPELINING"), 3),
    ];
    for (name, script, sent) in cases {
        let sink = Sink::with(script);
        let database = TestDatabase::sqlite();
        let shop = shop(&database, &sink);
        people(&shop, 3);
        let output = send(&shop, &[]).exits(if sent == 3 { 0 } else { 1 });
        let summary = output.json();
        assert_eq!((&summary["sent"], &summary["due"]), (&sent.into(), &(3 - sent).into()), "{name}: {output}");
        assert_eq!(sink.breaches(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn replies_in_any_charset_are_kept_readable() {
    let sink = Sink::with(Script::refusing("p1@", "550 5.1.1 用户不存在"));
    let database = TestDatabase::sqlite();
    let shop = shop(&database, &sink);
    people(&shop, 2);
    let sent = send(&shop, &[]).exits(0).json();
    assert_eq!((&sent["sent"], &sent["bounced"]), (&1.into(), &1.into()));
    let shown = show(&shop, &sent["run"]);
    assert!(shown["bounced_mails"][0]["reply"].as_str().unwrap().starts_with("550 5.1.1 "), "{shown}");
}

#[test]
fn an_address_beyond_ascii_needs_a_relay_that_offers_it() {
    for (offered, state) in [(true, "sent"), (false, "failed")] {
        let script = Script::default();
        let sink = Sink::with(if offered { script } else { script.without("SMTPUTF8") });
        let database = TestDatabase::sqlite();
        let shop = shop(&database, &sink);
        import(&shop, "email\n用户@customer.example\nplain@bücher.example\n", "confirmed");
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!(sent[state], if offered { 2 } else { 1 }, "{sent}");
        assert_eq!(sink.breaches(), Vec::<String>::new());
        let to: BTreeSet<String> = sink.received().iter().map(|mail| mail.to[0].clone()).collect();
        assert!(to.contains("plain@xn--bcher-kva.example"), "{to:?}");
    }
}

/// Kills a send with `signal` once `after` mails are in, sends the rest, and checks the sums.
/// Answers how many were in doubt.
fn interrupted(database: &TestDatabase, signal: &str, after: usize, delay_ms: u64) -> u64 {
    const COUNT: usize = 250;
    let sink = Sink::with(Script { reply_delay: Duration::from_millis(delay_ms), ..Script::default() });
    let shop = shop(database, &sink);
    people(&shop, COUNT);
    let sending = shop.command(&["send", "weekly", "--json"]).spawn();
    sink.wait_for(after, 30);
    sending.signal(signal);
    let (code, output) = sending.wait(30);
    assert_eq!(code, if signal == "TERM" { 1 } else { -1 }, "{output:#?}");
    sink.script(|script| script.reply_delay = Duration::ZERO);
    let rest = send(&shop, &[]).exits(0).json();
    let doubtful = rest["in_doubt"].as_u64().unwrap();
    assert!(doubtful <= CONNECTIONS, "{rest}");
    assert_eq!(rest["sent"].as_u64().unwrap() + doubtful, COUNT as u64, "{rest}");
    let counts = per_person(&sink.received());
    assert!(counts.values().all(|count| *count == 1), "somebody was mailed twice");
    let shown = show(&shop, &rest["run"]);
    let named: BTreeSet<String> =
        shown["in_doubt_mails"].as_array().unwrap().iter().map(|mail| mail["email"].as_str().unwrap().to_owned()).collect();
    assert_eq!(named.len() as u64, doubtful);
    for i in 0..COUNT {
        let address = format!("p{i}@customer.example");
        assert!(counts.contains_key(&address) || named.contains(&address), "{address} is lost");
    }
    doubtful
}

/// Mails in the sink when the kill comes, and the relay's delay in milliseconds.
const KILLS: [(usize, u64); 6] = [(1, 0), (15, 1), (40, 3), (130, 0), (200, 20), (249, 1)];

#[test]
fn killed_at_any_moment_nobody_is_lost_or_doubled_and_few_are_in_doubt_on_sqlite() {
    for (after, delay_ms) in KILLS {
        interrupted(&TestDatabase::sqlite(), "KILL", after, delay_ms);
    }
}

#[test]
fn killed_at_any_moment_nobody_is_lost_or_doubled_and_few_are_in_doubt_on_postgres() {
    for (after, delay_ms) in KILLS {
        interrupted(&TestDatabase::postgres(), "KILL", after, delay_ms);
    }
}

on_each_database!(
    async fn sigterm_drains_and_leaves_nothing_in_doubt(database) {
        assert_eq!(interrupted(&database, "TERM", 60, 10), 0);
        let left: i64 =
            database.open().await.fetch_one("SELECT COUNT(*) FROM delivery WHERE state = 'claimed'", args![]).await.unwrap().get(0).unwrap();
        assert_eq!(left, 0);
    }
);

#[test]
fn a_database_in_trouble_is_a_clear_message_and_exit_2() {
    let sink = Sink::start();
    let database = TestDatabase::sqlite();
    let shop = shop(&database, &sink);
    people(&shop, 3);
    for url in ["postgres://nobody@127.0.0.1:1/none", "mysql://x/y", "sqlite:///nowhere/at/all.db"] {
        let output = shop.command(&["send", "weekly"]).env("OPTIN_DATABASE__URL", url).run().exits(2);
        assert!(output.stdout.is_empty() && output.stderr.len() > 30 && !output.stderr.contains("panicked"), "{output}");
    }
    let path = database.url.strip_prefix("sqlite://").unwrap();
    let holder = rusqlite_lock(path);
    let locked = send(&shop, &[]).exits(2);
    assert!(locked.stderr.contains("locked") || locked.stderr.contains("another process"), "{locked}");
    drop(holder);
    assert_eq!(send(&shop, &[]).exits(0).json()["sent"], 3);
    each_once(&sink.received(), 3);
}

/// Another process that holds the file's write lock.
fn rusqlite_lock(path: &str) -> impl Drop {
    struct Held(tokio::runtime::Runtime, Option<optin::db::Tx>);
    impl Drop for Held {
        fn drop(&mut self) {
            if let Some(tx) = self.1.take() {
                self.0.block_on(tx.rollback()).unwrap();
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let url = format!("sqlite://{path}");
    let tx = runtime.block_on(async {
        let db = optin::db::Db::open(&url, optin::db::OpenOptions { relaxed: true, ..Default::default() }).await.unwrap();
        db.begin().await.unwrap()
    });
    Held(runtime, Some(tx))
}

#[test]
fn a_database_of_a_newer_version_is_left_alone() {
    let sink = Sink::start();
    let database = TestDatabase::sqlite();
    let shop = shop(&database, &sink);
    people(&shop, 1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let db = database.open().await;
        db.execute("UPDATE schema_migration SET version = version + 1000", args![]).await.unwrap();
        db.close().await;
    });
    let output = send(&shop, &[]).exits(2);
    assert!(output.stderr.contains("newer"), "{output}");
    assert_eq!(sink.received().len(), 0);
}
