//! Limits, providers that ask for less, pauses: what the receiver sees of them, through the program.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use optin::args;
use optin::clock::{Clock, HOUR, MINUTE, SECOND, Time};
use serde_json::Value;

use crate::send::{each_once, import};
use crate::support::dns::NameServer;
use crate::support::process::Running;
use crate::support::smtp::{Received, Script, Sink};
use crate::support::{Instance, TestDatabase, instance, on_each_database, wait_until};

const OPTIN: &str = r#"[site]
url = "http://127.0.0.1:8080"
[sender]
name = "Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Taipei"
"#;
const TOPICS: &str = "[tea-letter]\nname = \"Tea letter\"\n[offers]\nname = \"Offers\"\n";
pub(crate) const WEEKLY: &str = "topic = \"tea-letter\"\nsubject = \"Leaves\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n";

/// An instance with the campaign `weekly` and these settings beside the least of them.
pub(crate) fn shop(database: &TestDatabase, settings: &str) -> Instance {
    let optin = format!("{OPTIN}{settings}");
    instance(
        database,
        &[("optin.toml", &optin), ("topics.toml", TOPICS), ("campaigns/weekly.toml", WEEKLY), ("campaigns/weekly.md", "Fresh leaves.\n")],
    )
}

/// Subscribes `count` people at each domain.
pub(crate) fn people(shop: &Instance, domains: &[(&str, usize)]) {
    let lines: String = domains.iter().flat_map(|(domain, count)| (0..*count).map(move |i| format!("p{i}@{domain}\n"))).collect();
    import(shop, &format!("email\n{lines}"), "confirmed");
}

/// Starts to send; it stays for what waits.
pub(crate) fn sending(shop: &Instance) -> Running {
    shop.command(&["send", "weekly", "--json", "--wait", "30"]).spawn()
}

/// Sends at a time of its own, with little patience; answers the exit code and the run's numbers.
fn send_at(shop: &Instance, at: &str) -> (i32, Value) {
    let output = shop.command(&["send", "weekly", "--json", "--wait", "1"]).clock(at).run();
    assert!(output.code == 0 || output.code == 1, "{output}");
    (output.code, output.json())
}

pub(crate) fn run_id(shop: &Instance) -> String {
    wait_until("a run", 20, || {
        let list = shop.optin(&["run", "list", "--json"]).exits(0).json();
        list["runs"].as_array()?.first().map(|run| run["run"].to_string())
    })
}

/// `optin serve` with the run under way.
fn serving(shop: &Instance) -> Running {
    let mut serving = shop.command(&["serve", "--only", "worker"]).spawn();
    serving.wait_for_line("ready", 20);
    start_soon(shop, "weekly");
    serving
}

/// Has `optin serve` send a campaign in a moment. On a machine so slow that the moment has passed, the
/// command begins itself and leaves the rest to it.
pub(crate) fn start_soon(shop: &Instance, campaign: &str) {
    let soon = Clock::system().now().plus(SECOND).to_string();
    let started = shop.optin(&["send", campaign, "--at", &soon, "--wait", "0"]);
    assert!(started.code == 0 || started.code == 1, "{started}");
}

pub(crate) fn show(shop: &Instance) -> Value {
    shop.optin(&["run", "show", &run_id(shop), "--json"]).exits(0).json()
}

/// Waits until `run show` says that it waits for something with `part` in its text.
fn wait_for_words(shop: &Instance, part: &str) -> Value {
    wait_until(&format!("`{part}` in run show"), 20, || {
        let shown = show(shop);
        shown["waiting"].as_array()?.iter().find(|waiting| waiting["text"].as_str().unwrap().contains(part)).cloned()
    })
}

pub(crate) fn to_domain<'a>(received: &'a [Received], domain: &str) -> Vec<&'a Received> {
    received.iter().filter(|mail| mail.to[0].ends_with(&format!("@{domain}"))).collect()
}

/// The most mails of any one second.
pub(crate) fn most_in_a_second(received: &[&Received]) -> usize {
    let mut times: Vec<Instant> = received.iter().map(|mail| mail.at).collect();
    times.sort();
    let within = |from: &Instant| times.iter().filter(|at| *at >= from && at.duration_since(*from) < Duration::from_secs(1)).count();
    times.iter().map(within).max().unwrap_or(0)
}

/// The most conversations about mails to each domain at a time, from RCPT to the end of the message.
type Conversations = Arc<Mutex<BTreeMap<String, (usize, usize)>>>;

fn watched(delay: Duration) -> (Script, Conversations) {
    let conversations = Conversations::default();
    let (begun, ended) = (conversations.clone(), conversations.clone());
    let domain = |text: &str| text.rsplit_once('@').unwrap().1.trim_end().to_owned();
    let script = Script {
        reply_delay: delay,
        refuse_rcpt: Some(Arc::new(move |to| {
            let mut all = begun.lock().unwrap();
            let (now, most) = all.entry(domain(to)).or_default();
            *now += 1;
            *most = (*most).max(*now);
            None
        })),
        refuse_message: Some(Arc::new(move |text| {
            let to = text.lines().find_map(|line| line.strip_prefix("To: ")).unwrap();
            ended.lock().unwrap().get_mut(&domain(to)).unwrap().0 -= 1;
            None
        })),
        ..Script::default()
    };
    (script, conversations)
}

fn most_conversations(conversations: &Conversations, domain: &str) -> usize {
    conversations.lock().unwrap()[domain].1
}

on_each_database!(
    async fn a_rate_is_kept_and_used_whatever_the_relay_needs_for_a_mail(database) {
        for delay in [Duration::ZERO, Duration::from_millis(200)] {
            let database = if database.name == "sqlite" { TestDatabase::sqlite() } else { TestDatabase::postgres() };
            let sink = Sink::with(Script { reply_delay: delay, ..Script::default() });
            let shop = shop(&database, "[limits]\nrate = \"50/s\"\n[smtp]\nconnections = 120\n").with_smtp(&sink);
            people(&shop, &[("customer.example", 150)]);
            let (code, output) = sending(&shop).wait(60);
            assert_eq!(code, 0, "{output:#?}");
            let mails = sink.received();
            each_once(&mails, 150);
            let all: Vec<&Received> = mails.iter().collect();
            // The rate, its tolerance of a quarter second, and as many claimed that wait for a session.
            let most = most_in_a_second(&all);
            assert!(most <= 50 + 2 * 13 + 4, "{most} in a second at {delay:?}");
            let took = all.iter().map(|mail| mail.at).max().unwrap() - all.iter().map(|mail| mail.at).min().unwrap();
            assert!(took > Duration::from_millis(1_800) && took < Duration::from_secs(9), "{took:?} for 150 at 50/s, {delay:?}");
        }
    }
);

on_each_database!(
    async fn a_limit_for_all_mail_is_one_limit_however_many_providers_and_days_share_it(database) {
        let sink = Sink::start();
        let shop = shop(&database, "[limits]\nrate = \"20/s\"\nper_day = 50\n").with_smtp(&sink);
        let domains = ["gmail.com", "qq.com", "163.com", "web.de", "customer.example", "yahoo.com"];
        people(&shop, &domains.map(|domain| (domain, 15)));
        let ended = shop.optin(&["send", "weekly", "--json", "--wait", "1"]).exits(1).json();
        assert_eq!((&ended["sent"], &ended["due"]), (&50.into(), &40.into()), "{ended}");
        let received = sink.received();
        let in_a_second = most_in_a_second(&received.iter().collect::<Vec<_>>());
        // The rate, its tolerance of a quarter second, and as many claimed that wait for a session.
        assert!(in_a_second <= 20 + 2 * 6, "{in_a_second} in a second");
        assert_eq!(used(&database.open().await, "all").await, 50);
    }
);

on_each_database!(
    async fn a_slow_provider_holds_up_nobody_and_is_named(database) {
        let sink = Sink::start();
        let shop = shop(&database, "[smtp]\nconnections = 3\n[provider.slow]\ndomains = [\"slow.example\"]\nrate = \"2/s\"\n").with_smtp(&sink);
        people(&shop, &[("slow.example", 8), ("customer.example", 150), ("gmail.com", 50)]);
        let running = sending(&shop);
        let waiting = wait_for_words(&shop, "slow at 2/s");
        assert_eq!((&waiting["provider"], &waiting["limit"], &waiting["rate"]), (&"slow".into(), &"rate".into(), &"2/s".into()));
        let (code, output) = running.wait(60);
        assert_eq!(code, 0, "{output:#?}");
        let mails = sink.received();
        each_once(&mails, 208);
        let slow = to_domain(&mails, "slow.example");
        let others_done = mails.iter().filter(|mail| !mail.to[0].ends_with("@slow.example")).map(|mail| mail.at).max().unwrap();
        assert!(slow.iter().filter(|mail| mail.at > others_done).count() >= 3, "others are out while it goes on");
        assert!(most_in_a_second(&slow) <= 2 + 1 + 1, "{}", most_in_a_second(&slow));
        assert_eq!(show(&shop)["waiting"], Value::Array(Vec::new()), "nothing waits at the end");
    }
);

on_each_database!(
    async fn sessions_for_a_provider_are_the_configured_number_and_the_shipped_one_only_when_asked(database) {
        let (script, conversations) = watched(Duration::from_millis(40));
        let sink = Sink::with(script);
        let settings = "[smtp]\nconnections = 12\n[provider.narrow]\ndomains = [\"narrow.example\"]\nconnections = 1\n";
        let shop = shop(&database, settings).with_smtp(&sink);
        people(&shop, &[("narrow.example", 20), ("customer.example", 40), ("gmail.com", 160), ("yahoo.com", 20)]);
        // Yahoo asked us to slow down a moment ago: one session, however many the rate could use.
        let db = database.open().await;
        let now = Clock::system().now();
        db.execute(
            "INSERT INTO throttle (relay, provider, paused_until, per_hour, strikes, reason, changed_at) VALUES ($1, $2, $3, $4, $5, $6, $3)",
            args!["default", "yahoo", now.plus(-SECOND), 30_000_000_i64, 1_i64, "421 slower"],
        )
        .await
        .unwrap();
        let (code, output) = sending(&shop).wait(60);
        assert_eq!(code, 0, "{output:#?}");
        each_once(&sink.received(), 240);
        assert_eq!(most_conversations(&conversations, "narrow.example"), 1);
        assert_eq!(most_conversations(&conversations, "yahoo.com"), 1);
        assert!(most_conversations(&conversations, "gmail.com") > 5, "{}", most_conversations(&conversations, "gmail.com"));
        assert!(most_conversations(&conversations, "customer.example") > 1);
    }
);

on_each_database!(
    async fn a_provider_that_asks_for_less_waits_alone_and_loses_nobody(database) {
        let refusals = Arc::new(AtomicUsize::new(0));
        let count = refusals.clone();
        let script = Script {
            refuse_rcpt: Some(Arc::new(move |to| {
                let reply = match to.rsplit_once('@').unwrap().1 {
                    "gmail.com" => "421 4.7.28 Our system has detected an unusual rate of mail",
                    "qq.com" => "550 Connection frequency limited",
                    "busy.example" => "450 4.7.1 too many messages, slow down",
                    _ => return None,
                };
                count.fetch_add(1, Ordering::SeqCst);
                Some(reply.to_owned())
            })),
            ..Script::default()
        };
        let sink = Sink::with(script);
        let settings = "[smtp]\nconnections = 2\n[provider.busy]\ndomains = [\"busy.example\"]\n[delivery]\nretry_hours = 72\n";
        let shop = shop(&database, settings).with_smtp(&sink);
        people(&shop, &[("gmail.com", 60), ("qq.com", 40), ("busy.example", 40), ("customer.example", 100)]);
        let running = serving(&shop);
        sink.wait_for(100, 30);
        let waiting = wait_for_words(&shop, "asked to slow down");
        assert!(waiting["until"].as_i64().unwrap() > Clock::system().now().plus(MINUTE / 2).millis(), "{waiting}");
        for provider in ["gmail", "qq", "busy"] {
            wait_until(&format!("{provider} waits"), 20, || {
                let waiting = show(&shop)["waiting"].clone();
                waiting.as_array().unwrap().iter().any(|waiting| waiting["provider"] == provider).then_some(())
            });
        }
        running.signal("TERM");
        running.wait(20);
        // What was queued for them is not tried in vain: a mail for each session, and those on their way.
        let refused = refusals.load(Ordering::SeqCst);
        assert!(refused <= 3 * 2 * 3, "{refused} refusals");
        let shown = show(&shop);
        assert_eq!((&shown["sent"], &shown["bounced"], &shown["failed"], &shown["in_doubt"]), (&100.into(), &0.into(), &0.into(), &0.into()), "{shown}");
        let db = database.open().await;
        let stored = optin::delivery::throttles::all(&mut db.clone()).await.unwrap();
        let names: Vec<&str> = stored.iter().map(|throttle| throttle.provider.as_str()).collect();
        assert_eq!(names, ["busy", "gmail", "qq"]);
        assert_eq!(claimed(&db).await, 0);
        // After the pauses it goes on, slowly; and when nobody remembers, at full speed.
        sink.script(|script| script.refuse_rcpt = None);
        let later = |hours: i64| Clock::system().now().plus(hours * HOUR).to_string();
        let running = shop.command(&["send", "weekly"]).clock(&later(5)).spawn();
        sink.wait_for(103, 30);
        std::thread::sleep(Duration::from_secs(1));
        let mails = sink.received();
        for domain in ["gmail.com", "qq.com", "busy.example"] {
            let slow = to_domain(&mails, domain).len();
            assert!((1..=5).contains(&slow), "{slow} to {domain}");
        }
        running.signal("TERM");
        running.wait(20);
        db.execute("DELETE FROM throttle", args![]).await.unwrap();
        let (code, done) = send_at(&shop, &later(10));
        assert_eq!((code, &done["sent"], &done["bounced"]), (0, &240.into(), &0.into()), "{done}");
        each_once(&sink.received(), 240);
    }
);

async fn claimed(db: &optin::db::Db) -> i64 {
    db.fetch_all("SELECT COUNT(*) FROM delivery WHERE state = 'claimed'", args![]).await.unwrap()[0].get(0).unwrap()
}

async fn used(db: &optin::db::Db, bucket: &str) -> i64 {
    db.fetch_all("SELECT used FROM bucket WHERE name = $1", args![bucket]).await.unwrap()[0].get(0).unwrap()
}

on_each_database!(
    async fn a_days_number_is_exact_and_the_rest_goes_the_next_day(database) {
        let sink = Sink::start();
        let shop = shop(&database, "[smtp]\nconnections = 4\nper_day = 30\n").with_smtp(&sink);
        people(&shop, &[("customer.example", 70)]);
        let first = shop.command(&["send", "weekly"]).clock("2026-12-01T08:00:00Z").run().exits(1);
        assert!(first.stderr.contains("30 a day reached, goes on at 00:00 UTC"), "{first}");
        assert_eq!(sink.received().len(), 30);
        let mut running = shop.command(&["serve", "--only", "worker"]).clock("2026-12-01T12:00:00Z").spawn();
        running.wait_for_line("ready", 20);
        let said = wait_until("what it waits for", 20, || {
            let shown = shop.command(&["run", "show", &run_id(&shop), "--json"]).clock("2026-12-01T12:00:00Z").run().json();
            Some(shown["waiting"].as_array()?.first()?["text"].as_str()?.to_owned())
        });
        assert!(said.contains("30 a day reached, goes on at 00:00 UTC"), "{said}");
        running.signal("TERM");
        running.wait(20);
        let (code, same_day) = send_at(&shop, "2026-12-01T23:00:00Z");
        assert_eq!((code, &same_day["sent"], &same_day["due"]), (1, &30.into(), &40.into()), "{same_day}");
        assert_eq!(send_at(&shop, "2026-12-02T00:00:01Z").1["sent"], 60);
        let (code, done) = send_at(&shop, "2026-12-03T00:00:01Z");
        assert_eq!((code, &done["sent"], &done["state"]), (0, &70.into(), &"done".into()), "{done}");
        each_once(&sink.received(), 70);
    }
);

on_each_database!(
    async fn a_warm_up_lets_each_provider_have_its_part_of_the_day(database) {
        let sink = Sink::start();
        let shop = shop(&database, "[smtp]\nwarm_up = { start = 2026-12-01, per_day = [10, 12] }\n").with_smtp(&sink);
        people(&shop, &[("customer.example", 30), ("gmail.com", 15)]);
        let by_domain = || {
            let mails = sink.received();
            (to_domain(&mails, "customer.example").len(), to_domain(&mails, "gmail.com").len())
        };
        for (day, sent) in [("2026-11-30", (0, 0)), ("2026-12-01", (10, 10)), ("2026-12-02", (22, 15)), ("2026-12-03", (30, 15))] {
            let (code, _) = send_at(&shop, &format!("{day}T12:00:00Z"));
            assert_eq!((by_domain(), code), (sent, i32::from(day != "2026-12-03")), "{day}");
        }
        each_once(&sink.received(), 45);
    }
);

on_each_database!(
    async fn a_pause_and_a_cancellation_are_noticed_while_a_limit_holds_and_nothing_stays_taken(database) {
        let sink = Sink::with(Script { reply_delay: Duration::from_millis(5), ..Script::default() });
        let shop = shop(&database, "[smtp]\nconnections = 2\nrate = \"40/s\"\nper_day = 150\n").with_smtp(&sink);
        people(&shop, &[("customer.example", 160)]);
        let db = database.open().await;
        let running = sending(&shop);
        sink.wait_for(15, 30);
        let run = run_id(&shop);
        let mut again = Vec::new();
        for command in ["pause", "cancel"] {
            shop.optin(&["run", command, &run]).exits(0);
            std::thread::sleep(Duration::from_secs(1));
            let quiet = sink.received().len();
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(sink.received().len(), quiet, "quiet within a second of {command}");
            wait_until("nothing stays claimed", 10, || answer_to(claimed(&db)).eq(&0).then_some(()));
            assert_eq!(used(&db, "relay:default").await, quiet as i64, "the day counts what left");
            assert!(quiet < 150, "{quiet}");
            if command == "pause" {
                shop.optin(&["run", "resume", &run]).exits(0);
                again.push(sending(&shop));
                sink.wait_for(quiet + 15, 30);
            }
        }
        assert_eq!(running.wait(20).0, 1);
        assert_eq!(show(&shop)["state"], "cancelled");
    }
);

/// Waits for a small question to the database from plain code.
fn answer_to<T>(question: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(question))
}

on_each_database!(
    async fn a_large_slow_run_does_not_hold_up_a_small_one(database) {
        let sink = Sink::with(Script { reply_delay: Duration::from_millis(3), ..Script::default() });
        let shop = shop(&database, "[smtp]\nconnections = 2\n").with_smtp(&sink);
        shop.write("campaigns/offer.toml", WEEKLY.replace("tea-letter", "offers").replace("Leaves", "Offer"));
        people(&shop, &[("customer.example", 600)]);
        shop.write("../offer.csv", (0..20).map(|i| format!("o{i}@other.example\n")).fold("email\n".to_owned(), |all, line| all + &line));
        let args = ["import", "contacts", "offer.csv", "--topic", "offers", "--consent", "confirmed", "--source", "fair"];
        shop.optin(&args).exits(0);
        let _serving = serving(&shop);
        sink.wait_for(60, 30);
        start_soon(&shop, "offer");
        let mails = wait_until("the small run", 30, || {
            let mails = sink.received();
            (to_domain(&mails, "other.example").len() == 20).then_some(mails)
        });
        assert!(mails.len() < 600, "the large one goes on: {}", mails.len());
        each_once(&sink.wait_for(620, 60), 620);
    }
);

on_each_database!(
    async fn two_runs_share_what_a_limit_allows(database) {
        let sink = Sink::start();
        let shop = shop(&database, "[limits]\nrate = \"40/s\"\n").with_smtp(&sink);
        shop.write("campaigns/offer.toml", WEEKLY.replace("Leaves", "Offer"));
        people(&shop, &[("customer.example", 60), ("gmail.com", 20)]);
        let mut serving = shop.command(&["serve", "--only", "worker"]).spawn();
        serving.wait_for_line("ready", 20);
        let at = Clock::system().now().plus(2 * SECOND).to_string();
        for campaign in ["weekly", "offer"] {
            shop.optin(&["send", campaign, "--at", &at]).exits(0);
        }
        let mails = sink.wait_for(160, 40);
        let half = &mails[..80];
        let offers = half.iter().filter(|mail| mail.text().contains("Subject: Offer")).count();
        assert!((16..=64).contains(&offers), "{offers} of the first 80 are the second run's");
        let gmail = to_domain(half, "gmail.com").len();
        assert!(gmail >= 10, "{gmail} of the first 80 to the smaller provider");
    }
);

on_each_database!(
    async fn a_deferred_mail_is_tried_at_its_own_time_and_given_up_at_the_campaigns_deadline(database) {
        let sink = Sink::with(Script::refusing("late", "450 4.2.0 later"));
        let shop = shop(&database, "[smtp]\nconnections = 4\n[delivery]\nretry_seconds = [600]\n").with_smtp(&sink);
        shop.write("campaigns/weekly.toml", format!("{WEEKLY}[delivery]\ngive_up_hours = 1\n"));
        people(&shop, &[("customer.example", 5), ("late.example", 30)]);
        let start = "2026-12-01T08:00:00Z";
        let (code, first) = send_at(&shop, start);
        assert_eq!((code, &first["sent"], &first["deferred"]), (1, &5.into(), &30.into()), "{first}");
        let db = database.open().await;
        let rows = db.fetch_all("SELECT due_at FROM delivery WHERE state = 'deferred' ORDER BY due_at", args![]).await.unwrap();
        let mut due: Vec<i64> = rows.iter().map(|row| row.get(0).unwrap()).collect();
        let start = Time::parse(start).unwrap();
        assert!(due.iter().all(|at| (600 * SECOND..760 * SECOND).contains(&(at - start.millis()))), "{due:?}");
        due.dedup_by_key(|at| *at / SECOND);
        assert!(due.len() > 10, "spread: {due:?}");
        let (code, last) = send_at(&shop, "2026-12-01T09:00:00Z");
        assert_eq!((code, &last["state"], &last["failed"]), (0, &"done".into(), &30.into()), "{last}");
        let shown = show(&shop);
        assert!(shown["failed_mails"].as_array().unwrap().iter().all(|mail| mail["reason"] == "expired"), "{shown}");
    }
);

on_each_database!(
    async fn a_refused_sender_pauses_the_run_before_it_has_used_up_the_list(database) {
        let refuse = |_: &str| Some("550 5.7.1 sender not allowed".to_owned());
        let sink = Sink::with(Script { refuse_mail: Some(Arc::new(refuse)), ..Script::default() });
        let shop = shop(&database, "[smtp]\nconnections = 4\n").with_smtp(&sink);
        people(&shop, &[("customer.example", 300)]);
        let (code, output) = sending(&shop).wait(30);
        assert_eq!(code, 1, "{output:#?}");
        let shown = show(&shop);
        let failed = shown["failed"].as_u64().unwrap();
        assert!((25..=25 + 2 * 4).contains(&failed), "{shown}");
        assert_eq!((&shown["state"], &shown["sent"], &shown["bounced"]), (&"paused".into(), &0.into(), &0.into()), "{shown}");
        assert!(shown["reason"].as_str().unwrap().contains("550 5.7.1 sender not allowed"), "{shown}");
        let text = shop.optin(&["run", "show", &run_id(&shop)]).exits(0).stdout;
        assert!(text.contains("sender not allowed"), "{text}");
        sink.script(|script| script.refuse_mail = None);
        shop.optin(&["run", "resume", &run_id(&shop)]).exits(0);
        let (code, output) = sending(&shop).wait(30);
        assert_eq!(code, 0, "{output:#?}");
        each_once(&sink.received(), 300 - failed as usize);
    }
);

on_each_database!(
    async fn a_run_tells_how_fast_it_is_and_how_long_it_takes(database) {
        let sink = Sink::with(Script { reply_delay: Duration::from_millis(10), ..Script::default() });
        let shop = shop(&database, "[smtp]\nconnections = 2\n").with_smtp(&sink);
        people(&shop, &[("customer.example", 150), ("gmail.com", 150)]);
        let running = sending(&shop);
        let shown = wait_until("live numbers", 30, || {
            let shown = show(&shop);
            (shown["per_second"].as_f64()? > 0.0 && shown["eta_seconds"].is_i64()).then_some(shown)
        });
        let providers: Vec<&str> = shown["by_provider"].as_array().unwrap().iter().map(|live| live["provider"].as_str().unwrap()).collect();
        assert_eq!(providers, ["gmail", "other"], "{shown}");
        assert!((1..=2).contains(&shown["relays"]["default"]["sessions"].as_u64().unwrap()), "{shown}");
        let (code, output) = running.wait(60);
        assert_eq!(code, 0, "{output:#?}");
        let shown = show(&shop);
        assert_eq!((&shown["waiting"], &shown["eta_seconds"]), (&Value::Array(Vec::new()), &Value::Null), "{shown}");
        each_once(&sink.received(), 300);
    }
);

on_each_database!(
    async fn serve_finds_out_who_is_behind_a_domain_and_forgets_what_is_long_over(database) {
        let names = NameServer::start(&[("oak.example", &[(10, "aspmx.l.google.com")]), ("fir.example", &[(10, "mx.fir.example")])]);
        let sink = Sink::start();
        let shop = shop(&database, &format!("[delivery]\nresolver = \"{}\"\n", names.address)).with_smtp(&sink);
        people(&shop, &[("oak.example", 3), ("fir.example", 2)]);
        let db = database.open().await;
        let now = Clock::system().now();
        for (name, days) in [("campaign:1", 8), ("campaign:2", 0)] {
            let at = now.plus(-days * 24 * HOUR);
            db.execute("INSERT INTO bucket (name, spent_until, day, used, taken_at) VALUES ($1, 0, 0, 0, $2)", args![name, at]).await.unwrap();
            let throttle = "INSERT INTO throttle (relay, provider, paused_until, per_hour, strikes, reason, changed_at) VALUES ($1, $2, $3, 60, 1, '', $3)";
            db.execute(throttle, args!["default", name, at]).await.unwrap();
        }
        let mut serving = shop.command(&["serve", "--only", "worker"]).spawn();
        serving.wait_for_line("ready", 20);
        let count = |sql: &'static str| answer_to(db.fetch_all(sql, args![])).unwrap()[0].get::<i64>(0).unwrap();
        wait_until("two answers", 20, || (count("SELECT COUNT(*) FROM domain_provider") == 2).then_some(()));
        wait_until("old rows go", 20, || {
            (count("SELECT COUNT(*) FROM bucket WHERE name LIKE 'campaign:%'") == 1 && count("SELECT COUNT(*) FROM throttle") == 1).then_some(())
        });
        start_soon(&shop, "weekly");
        each_once(&sink.wait_for(5, 30), 5);
        assert_eq!(count("SELECT COUNT(*) FROM delivery WHERE provider = 'gmail'"), 3);
        assert_eq!(count("SELECT COUNT(*) FROM delivery WHERE provider = 'other'"), 2);
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);
    }
);

#[test]
fn a_provider_that_nobody_knows_is_a_mistake() {
    let shop = shop(
        &TestDatabase::sqlite(),
        "[provider.gmial]\nrate = \"5/s\"\n[provider.house]\nrate = \"5/s\"\n[provider.mine]\nmx = [\"mx.mine.example\"]\n",
    );
    let found = shop.optin(&["check", "--json"]).exits(1).json();
    let problems = found["problems"].as_array().unwrap();
    let shown: Vec<(&str, &str)> = problems.iter().map(|it| (it["message"].as_str().unwrap(), it["hint"].as_str().unwrap())).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].0.contains("`gmial`") && shown[0].1 == "did you mean `gmail`?", "{shown:?}");
    assert!(shown[1].0.contains("`house`") && shown[1].1.contains("domains = "), "{shown:?}");
}
