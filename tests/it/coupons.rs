//! Codes to give away: never one twice, one of a pool to a person, also with two nodes at once.

use std::collections::{BTreeMap, BTreeSet};

use optin::args;
use optin::clock::Time;
use optin::consent::coupons;
use optin::contact::{self, Address, Schema};
use optin::entropy::Entropy;

use crate::flows::{import, serve, shop, stop};
use crate::support::on_each_database;
use crate::support::smtp::Sink;

on_each_database! {
    async fn two_nodes_at_once_give_each_person_one_code_and_no_code_twice(database) {
        let (one, other) = (database.open().await, database.open().await);
        let (now, entropy, schema) = (Time::from_millis(1_000_000), Entropy::seeded(5), Schema::new(&BTreeMap::new()));
        let mut people = Vec::new();
        let mut tx = one.begin().await.unwrap();
        for n in 0..60 {
            let address = Address::parse(&format!("p{n}@tea.example")).unwrap();
            people.push(contact::ops::upsert(&mut tx, &schema, &entropy, now, &address, &[]).await.unwrap().id);
        }
        let codes = (0..50).map(|n| format!("C{n:03}")).collect();
        assert_eq!(coupons::import(&mut tx, "spring", codes).await.unwrap(), 50);
        tx.commit().await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for node in [one.clone(), other.clone(), one.clone(), other] {
            let people = people.clone();
            tasks.spawn(async move {
                let mut got = Vec::new();
                for person in people {
                    let mut tx = node.begin().await.unwrap();
                    let code = coupons::give(&mut tx, "spring", person, now).await.unwrap();
                    tx.commit().await.unwrap();
                    got.push((person, code));
                }
                got
            });
        }
        let mut by_person: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        while let Some(got) = tasks.join_next().await {
            for (person, code) in got.unwrap() {
                by_person.entry(person).or_default().extend(code);
            }
        }
        assert!(by_person.values().all(|codes| codes.len() <= 1), "one a person: {by_person:?}");
        let given: Vec<&String> = by_person.values().flatten().collect();
        assert_eq!((given.len(), given.iter().collect::<BTreeSet<_>>().len()), (50, 50), "all, and none twice");
        assert!(!coupons::any_left(&mut one.clone(), "spring").await.unwrap());
        let pools = coupons::pools(&mut one.clone()).await.unwrap();
        assert_eq!((pools[0].total, pools[0].given, pools[0].left()), (50, 50, 0));
    }
}

on_each_database! {
    async fn welcomes_wait_for_codes_and_a_broken_file_brings_none(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        shop.write("../long.txt", format!("GOOD\n{}\n", "x".repeat(101)));
        let refused = shop.optin(&["coupon", "import", "spring", "long.txt"]).exits(1);
        assert!(refused.stderr.contains("line 2") && refused.stderr.contains("nothing was imported"), "{refused}");
        shop.optin(&["coupon", "import", "Spring!", "long.txt"]).exits(2);
        shop.optin(&["coupon", "import", "spring", "nowhere.txt"]).exits(2);
        shop.optin(&["coupon", "show", "sprong"]).exits(1);
        let listed = shop.optin(&["coupon", "list", "--low", "1", "--json"]).exits(1).json();
        assert_eq!((&listed["pools"][0]["left"], &listed["low"][0]), (&0.into(), &"spring".into()), "{listed}");

        // Whoever comes with an import is not greeted; whoever agrees is, once there are codes.
        import(&shop, "old@tea.example,en\n", &["letter"], "confirmed", "2026-03-02T08:00:00Z");
        for email in ["a@tea.example", "b@tea.example"] {
            shop.optin(&["consent", "grant", email, "--topic", "letter", "--source", "form 17"]).exits(0);
        }
        let mut serving = serve(&shop, "2026-03-02T08:00:00Z");
        serving.wait_for_line("no coupon is left", 20);
        assert!(sink.received().is_empty());
        shop.write("../one.txt", "ONLY\n");
        shop.optin(&["coupon", "import", "spring", "one.txt"]).exits(0);
        let first = sink.wait_for(1, 20).remove(0);
        std::thread::sleep(std::time::Duration::from_millis(800));
        assert_eq!(sink.received().len(), 1, "one code, one welcome");
        assert!(first.text().contains("ONLY"));
        shop.write("../two.txt", "ONLY\nNEXT\n");
        shop.optin(&["coupon", "import", "spring", "two.txt"]).exits(0);
        let second = sink.wait_for(2, 20).remove(1);
        assert!(second.text().contains("NEXT") && second.to != first.to);
        stop(serving);
        let shown = shop.optin(&["coupon", "show", "spring", "--json"]).exits(0).json();
        assert_eq!((&shown["given"], &shown["left"]), (&2.into(), &0.into()), "{shown}");
        assert_eq!(sink.received().len(), 2);
        // Whoever came with a file is greeted when that is said.
        let args = ["import", "contacts", "people.csv", "--topic", "letter", "--source", "fair", "--welcome"];
        shop.optin(&[&args[..], &["--consent", "pending"]].concat()).exits(2);
        shop.optin(&[&args[..], &["--consent", "confirmed"]].concat()).exits(0);
        shop.write("../three.txt", "THIRD\nFOURTH\n");
        shop.optin(&["coupon", "import", "spring", "three.txt"]).exits(0);
        let serving = serve(&shop, "2026-03-02T09:00:00Z");
        let third = sink.wait_for(3, 20).remove(2);
        assert_eq!(third.to, ["old@tea.example"]);
        stop(serving);
        let db = database.open().await;
        let welcomed = db.fetch_all("SELECT contact_id FROM welcome WHERE message_id IS NOT NULL ORDER BY contact_id", args![]).await.unwrap();
        assert_eq!(welcomed.len(), 3);
    }
}
