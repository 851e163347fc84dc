//! Two nodes on one PostgreSQL: limits hold for both together, and one of them keeps the house.

use std::time::{Duration, Instant};

use optin::args;
use optin::clock::Clock;

use crate::polite::{WEEKLY, most_in_a_second, people, shop, start_soon};
use crate::send::each_once;
use crate::support::process::Running;
use crate::support::smtp::{Received, Sink};
use crate::support::{Instance, TestDatabase};

fn serve(shop: &Instance, clock: Option<&str>) -> Running {
    let call = shop.command(&["serve", "--only", "worker"]);
    let mut serving = clock.into_iter().fold(call, |call, clock| call.clock(clock)).spawn();
    serving.wait_for_line("ready", 20);
    serving
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_for_both_nodes_together() {
    let database = TestDatabase::postgres();
    let sink = Sink::start();
    let shop = shop(&database, "[smtp]\nconnections = 4\nrate = \"60/s\"\n").with_smtp(&sink);
    people(&shop, &[("customer.example", 240)]);
    let nodes = [serve(&shop, None), serve(&shop, None)];
    start_soon(&shop, "weekly");
    let mails = sink.wait_for(240, 40);
    each_once(&mails, 240);
    let all: Vec<&Received> = mails.iter().collect();
    // The rate, its tolerance, and on each node as many that wait claimed.
    assert!(most_in_a_second(&all) <= 60 + 3 * 16, "{} in a second", most_in_a_second(&all));
    let took = mails.iter().map(|mail| mail.at).max().unwrap() - mails.iter().map(|mail| mail.at).min().unwrap();
    assert!(took > Duration::from_millis(2_500), "{took:?} for 240 at 60/s");
    for node in nodes {
        node.signal("TERM");
        let (code, output) = node.wait(20);
        assert_eq!(code, 0, "{output:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_keeps_the_house_and_the_other_takes_over_when_it_dies() {
    let database = TestDatabase::postgres();
    let sink = Sink::start();
    let shop = shop(&database, "").with_smtp(&sink).with_env("OPTIN_DELIVERY__LEASE_SECONDS", "5");
    shop.write("campaigns/weekly.toml", format!("{WEEKLY}[schedule]\ncron = \"0 9 * * TUE\"\ntimezone = \"UTC\"\n"));
    people(&shop, &[("customer.example", 20)]);
    let start = Instant::now();
    let mut nodes = vec![serve(&shop, Some("2026-12-01T08:59:50Z"))];
    let behind =
        Clock::starting_at(optin::clock::Time::parse("2026-12-01T08:59:50Z").unwrap()).now().plus(start.elapsed().as_millis() as i64);
    nodes.push(serve(&shop, Some(&behind.to_string())));
    let db = database.open().await;
    let holder = async || {
        let rows = db
            .fetch_all("SELECT w.name, l.token FROM lease l JOIN worker w ON w.id = l.holder WHERE l.name = 'house'", args![])
            .await
            .unwrap();
        let name: String = rows.first()?.get(0).unwrap();
        Some((name.split('/').nth(2).unwrap().parse::<u32>().unwrap(), rows[0].get::<i64>(1).unwrap()))
    };
    let (first, token) = holder().await.expect("somebody keeps the house");
    let at = nodes.iter().position(|node| node.id() == first).expect("one of the two");
    let killed = nodes.remove(at);
    killed.signal("KILL");
    drop(killed);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match holder().await {
            Some((second, newer)) if second == nodes[0].id() => {
                assert!(newer > token, "a new holder has a new token: {newer} after {token}");
                break;
            }
            _ => assert!(Instant::now() < deadline, "nobody took over"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    each_once(&sink.wait_for(20, 40), 20);
    std::thread::sleep(Duration::from_millis(600));
    let runs = shop.optin(&["run", "list", "--json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");
    each_once(&sink.received(), 20);
    let left = nodes.remove(0);
    left.signal("TERM");
    assert_eq!(left.wait(20).0, 0);
}
