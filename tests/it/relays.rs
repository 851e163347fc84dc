//! Several relays: who gets how much, and what happens when one is down, slow or full.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::polite::{WEEKLY, people, sending, shop};
use crate::send::each_once;
use crate::support::smtp::{Received, Script, Sink};
use crate::support::{TestDatabase, on_each_database};

fn relay(name: &str, sink: &Sink, more: &str) -> String {
    format!("[[relay]]\nname = \"{name}\"\nurl = \"{}\"\nconnections = 2\n{more}\n", sink.url())
}

/// What both received.
fn both(one: &Sink, other: &Sink) -> Vec<Received> {
    one.received().into_iter().chain(other.received()).collect()
}

#[track_caller]
fn send_all(database: &TestDatabase, settings: &str, count: usize) {
    let shop = shop(database, settings);
    people(&shop, &[("customer.example", count)]);
    let (code, output) = sending(&shop).wait(60);
    assert_eq!(code, 0, "{output:#?}");
}

on_each_database!(
    async fn relays_share_by_their_weights(database) {
        let (heavy, light) = (Sink::start(), Sink::start());
        send_all(&database, &(relay("heavy", &heavy, "weight = 3") + &relay("light", &light, "weight = 1")), 800);
        each_once(&both(&heavy, &light), 800);
        let part = heavy.received().len();
        assert!((480..=720).contains(&part), "{part} of 800 for three quarters");
    }
);

on_each_database!(
    async fn one_that_is_down_leaves_all_to_the_other(database) {
        let (down, up) = (Sink::down(Script::default()), Sink::start());
        send_all(&database, &(relay("down", &down, "weight = 9") + &relay("up", &up, "")), 200);
        each_once(&up.received(), 200);
    }
);

on_each_database!(
    async fn one_that_never_greets_holds_up_nobody_for_long(database) {
        let (mute, up) = (Sink::with(Script { greeting_delay: Duration::from_secs(30), ..Script::default() }), Sink::start());
        send_all(&database, &(relay("mute", &mute, "timeout_seconds = 300") + &relay("up", &up, "")), 200);
        each_once(&up.received(), 200);
    }
);

on_each_database!(
    async fn a_reserve_works_only_while_the_first_is_down(database) {
        let slow = || Script { reply_delay: Duration::from_millis(5), ..Script::default() };
        let (mut first, reserve) = (Sink::down(slow()), Sink::with(slow()));
        let settings = relay("first", &first, "") + &relay("reserve", &reserve, "backup = true");
        let shop = shop(&database, &settings);
        people(&shop, &[("customer.example", 1_000)]);
        let running = sending(&shop);
        reserve.wait_for(1, 30);
        first.come_up();
        let (code, output) = running.wait(60);
        assert_eq!(code, 0, "{output:#?}");
        each_once(&both(&first, &reserve), 1_000);
        assert!(first.received().len() > 100, "{}", first.received().len());
        let back = first.received()[0].at;
        // What the reserve's pool held already goes out through it.
        let late = reserve.received().iter().filter(|mail| mail.at > back).count();
        assert!(late <= 42, "{late} through the reserve while the first is there");
    }
);

on_each_database!(
    async fn a_reserve_is_left_alone_while_the_first_is_there(database) {
        let (first, reserve) = (Sink::start(), Sink::start());
        send_all(&database, &(relay("reserve", &reserve, "backup = true") + &relay("first", &first, "")), 200);
        assert_eq!((first.received().len(), reserve.sessions()), (200, 0));
    }
);

on_each_database!(
    async fn mails_go_to_the_relay_that_serves_their_sender_their_campaign_and_their_lane(database) {
        let sinks: BTreeMap<&str, Sink> = ["tea", "eu", "oak", "messages"].into_iter().map(|name| (name, Sink::start())).collect();
        let settings = relay("tea", &sinks["tea"], "sender_domains = [\"tea.example\"]")
            + &relay("eu", &sinks["eu"], "weight = 1")
            + &relay("oak", &sinks["oak"], "sender_domains = [\"oak.example\"]")
            + &relay("messages", &sinks["messages"], "lanes = [\"messages\"]\nweight = 100");
        let shop = shop(&database, &settings);
        people(&shop, &[("customer.example", 150)]);
        let send = |name: &str| {
            let sent = shop.optin(&["send", name, "--json", "--wait", "10"]).exits(0).json();
            assert_eq!(sent["sent"], 150, "{sent}");
            sinks.iter().map(|(name, sink)| (*name, sink.received().len())).collect::<BTreeMap<_, _>>()
        };
        shop.write("campaigns/europe.toml", format!("{WEEKLY}[delivery]\nrelay = \"eu\"\n"));
        shop.write("campaigns/oaks.toml", format!("{WEEKLY}[sender]\nname = \"Oak\"\nemail = \"hello@oak.example\"\npostal_address = \"1 Oak Street\"\n"));
        assert_eq!(send("europe"), BTreeMap::from([("tea", 0), ("eu", 150), ("oak", 0), ("messages", 0)]));
        let weekly = send("weekly");
        assert!(weekly["tea"] > 30 && weekly["eu"] > 180 && weekly["oak"] == 0 && weekly["messages"] == 0, "{weekly:?}");
        let oaks = send("oaks");
        assert!(oaks["oak"] > 30 && oaks["tea"] == weekly["tea"] && oaks["messages"] == 0, "{oaks:?}");
        for (name, domain) in [("tea", "tea.example"), ("oak", "oak.example")] {
            assert!(sinks[name].received().iter().all(|mail| mail.from.ends_with(&format!("@{domain}"))), "{name}");
        }
    }
);

on_each_database!(
    async fn a_slow_relay_does_not_hold_up_a_fast_one(database) {
        let (slow, fast) = (Sink::with(Script { reply_delay: Duration::from_millis(125), ..Script::default() }), Sink::start());
        let shop = shop(&database, &(relay("slow", &slow, "") + &relay("fast", &fast, "")));
        people(&shop, &[("customer.example", 400)]);
        let running = sending(&shop);
        // Half of them through the slow one would take it 50 seconds.
        fast.wait_for(330, 20);
        running.signal("TERM");
        running.wait(30);
        assert!(slow.received().len() <= 70, "{}", slow.received().len());
    }
);

on_each_database!(
    async fn a_relay_with_a_limit_does_not_hold_up_one_without(database) {
        let (limited, free) = (Sink::start(), Sink::start());
        send_all(&database, &(relay("limited", &limited, "rate = \"2/s\"") + &relay("free", &free, "")), 600);
        each_once(&both(&limited, &free), 600);
        assert!(free.received().len() > 500, "{}", free.received().len());
    }
);

on_each_database!(
    async fn a_relay_that_takes_four_sessions_is_used_with_four(database) {
        let script = Script { sessions_at_a_time: 4, reply_delay: Duration::from_millis(4), ..Script::default() };
        let sink = Sink::with(script);
        let shop = shop(&database, "[smtp]\nconnections = 10\nmails_per_connection = 15\n").with_smtp(&sink);
        people(&shop, &[("customer.example", 300)]);
        let (code, output) = sending(&shop).wait(60);
        assert_eq!(code, 0, "{output:#?}");
        let mails = sink.received();
        each_once(&mails, 300);
        assert_eq!(sink.most_at_a_time(), 4);
        let mut by_session: BTreeMap<usize, usize> = BTreeMap::new();
        mails.iter().for_each(|mail| *by_session.entry(mail.session).or_default() += 1);
        assert!(by_session.values().all(|count| *count <= 15) && by_session.len() >= 20, "{by_session:?}");
        let db = database.open().await;
        let again: i64 = db.fetch_all("SELECT COUNT(*) FROM delivery WHERE attempts <> 1", optin::args![]).await.unwrap()[0].get(0).unwrap();
        assert_eq!(again, 0, "nobody was deferred for it");
    }
);

on_each_database!(
    async fn one_that_asks_for_less_leaves_the_rest_to_the_other(database) {
        let refuse = |_: &str| Some("454 Throttling failure: Maximum sending rate exceeded.".to_owned());
        let busy = Sink::with(Script { refuse_message: Some(std::sync::Arc::new(refuse)), ..Script::default() });
        let free = Sink::start();
        send_all(&database, &(relay("busy", &busy, "") + &relay("free", &free, "")), 200);
        each_once(&free.received(), 200);
    }
);
