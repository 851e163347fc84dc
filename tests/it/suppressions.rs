//! Suppressions always win: addresses, domains, hashed lists and erased people, wherever somebody is mailed.

use std::collections::{BTreeMap, BTreeSet};

use optin::args;
use optin::clock::{DAY, Time};
use optin::consent::suppression::{self, Digests, Kind, NewEntry};
use optin::entropy::Entropy;
use optin::token::Keys;
use serde_json::{Value, json};

use crate::send::{import, per_person, send, shop};
use crate::support::instance::SECRET;
use crate::support::smtp::Sink;
use crate::support::{Instance, TestDatabase, on_each_database};

const NOW: Time = Time::from_millis(1_790_000_000_000);

fn digests() -> Digests {
    Digests::new(&Keys::new(SECRET, &[]))
}

fn entry(kind: Kind, value: &str) -> NewEntry {
    NewEntry { kind, value: value.to_owned(), reason: format!("{kind}"), expires_at: None }
}

fn check(shop: &Instance, email: &str) -> (i32, Value) {
    let output = shop.optin(&["suppression", "check", email, "--json"]);
    (output.code, output.json())
}

/// The meaning of all kinds, said plainly: address, domain, hashes in this order.
fn reference(entries: &[NewEntry], address: &str) -> Option<Kind> {
    let domain = address.split('@').next_back().unwrap();
    let covers = |entry: &&NewEntry| match entry.kind {
        Kind::Address => entry.value == address,
        Kind::Domain => match entry.value.strip_prefix("*.") {
            Some(parent) => domain == parent || domain.ends_with(&format!(".{parent}")),
            None => domain == entry.value,
        },
        Kind::Md5 | Kind::Sha1 | Kind::Sha256 => suppression::hash(entry.kind, address).unwrap() == entry.value,
        Kind::Keyed => false,
    };
    entries.iter().filter(covers).map(|entry| entry.kind).min()
}

on_each_database!(
    async fn looking_up_means_what_the_entries_say(database) {
        let db = database.open().await;
        let domains = ["tea.example", "a.tea.example", "b.a.tea.example", "tea.test", "xtea.example", "example.tea.example"];
        let mut expected_kinds = BTreeSet::new();
        for seed in 0..25 {
            let entropy = Entropy::seeded(seed);
            let pick = |texts: &[&str]| texts[entropy.below(texts.len() as u64) as usize].to_owned();
            let address = || format!("{}@{}", pick(&["ann", "joe", "mei"]), pick(&domains));
            let kinds = [Kind::Address, Kind::Domain, Kind::Md5, Kind::Sha1, Kind::Sha256];
            let entries: Vec<NewEntry> = (0..entropy.below(7))
                .map(|_| {
                    let kind = kinds[entropy.below(5) as usize];
                    let value = match kind {
                        Kind::Address => address(),
                        Kind::Domain if entropy.chance(0.5) => format!("*.{}", pick(&domains)),
                        Kind::Domain => pick(&domains),
                        hash => suppression::hash(hash, &address()).unwrap(),
                    };
                    entry(kind, &value)
                })
                .collect();
            let mut tx = db.begin().await.unwrap();
            tx.execute("DELETE FROM suppression", args![]).await.unwrap();
            tx.execute("DELETE FROM suppression_rule", args![]).await.unwrap();
            suppression::add(&mut tx, entries.clone(), "test", NOW).await.unwrap();
            let asked: Vec<String> =
                ["ann", "joe", "mei", "bo"].iter().flat_map(|name| domains.iter().map(move |domain| format!("{name}@{domain}"))).collect();
            let found = suppression::look_up(&mut tx, &asked).await.unwrap();
            for address in &asked {
                let expected = reference(&entries, address);
                assert_eq!(found.get(address).map(|entry| entry.kind), expected, "seed {seed}: {address} among {entries:?}");
                expected_kinds.extend(expected);
            }
            tx.commit().await.unwrap();
        }
        assert_eq!(expected_kinds.len(), 5, "the data covered every kind");
    }
);

on_each_database!(
    async fn whoever_is_suppressed_by_anything_gets_nothing_from_any_side(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        let hash = |kind, address| suppression::hash(kind, address).unwrap();
        let list = format!(
            "value,reason\naddress@one.test,bounce\n@domain.test,legal\n*.below.test,legal\n{},partner\n{},partner\n{},partner\nno entry,x\n",
            hash(Kind::Md5, "md5@one.test"),
            hash(Kind::Sha1, "sha1@one.test").to_uppercase(),
            hash(Kind::Sha256, "sha256@one.test"),
        );
        shop.write("../gone.csv", list);
        let counts = shop.optin(&["import", "suppressions", "gone.csv", "--source", "old system", "--json"]).exits(0).json();
        assert_eq!((&counts["read"], &counts["added"], &counts["rejected"]), (&7.into(), &6.into(), &1.into()), "{counts}");
        let again = shop.optin(&["import", "suppressions", "gone.csv", "--json"]).exits(0).json();
        assert_eq!((&again["added"], &again["unchanged"]), (&0.into(), &6.into()));
        let people = "email\nAddress@one.test\nx@domain.test\nx@sub.domain.test\nx@below.test\nx@a.b.below.test\nMD5@one.test\nsha1@one.test\n\
                      sha256@one.test\nfree@one.test\n";
        assert_eq!(import(&shop, people, "confirmed")["suppressed"], 7);
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!(sent["excluded"], json!({ "suppressed": 7 }), "{sent}");
        let mailed = per_person(&sink.received());
        assert_eq!(mailed.keys().collect::<Vec<_>>(), ["free@one.test", "x@sub.domain.test"]);
        let contact = shop.optin(&["contact", "show", "sha1@one.test", "--json"]).exits(0).json();
        assert_eq!((&contact["suppressed"], &contact["suppression"]["kind"]), (&true.into(), &"sha1".into()), "{contact}");
        // A message as well, which needs no subscription.
        shop.write("messages/receipt.toml", "subject = \"Receipt\"\nbody = \"receipt.md\"\n");
        shop.write("messages/receipt.md", "Thank you.\n");
        let message = shop.optin(&["message", "send", "--template", "receipt", "--to", "new@domain.test", "--json"]).exits(0).json();
        let id = message["id"].as_str().map_or_else(|| message["id"].to_string(), str::to_owned);
        let shown = shop.optin(&["message", "show", &id, "--json"]).exits(0).json();
        assert_eq!((&shown["state"], &shown["reason"]), (&"skipped".into(), &"suppressed".into()), "{shown}");
    }
);

on_each_database!(
    async fn an_entry_added_after_the_audience_was_written_still_counts(database) {
        let mut sink = Sink::down(Default::default());
        let shop = shop(&database, &sink);
        import(&shop, "email\na@one.test\nb@two.test\nc@three.test\n", "confirmed");
        send(&shop, &["--wait", "0"]).exits(1);
        shop.optin(&["suppression", "add", "two.test", "--source", "lawyer"]).exits(0);
        let hash = suppression::hash(Kind::Sha256, "c@three.test").unwrap();
        shop.optin(&["suppression", "add", &hash, "--reason", "complaint"]).exits(0);
        sink.come_up();
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!((&sent["sent"], &sent["skipped"]["suppressed"]), (&1.into(), &2.into()), "{sent}");
        assert_eq!(per_person(&sink.received()).keys().collect::<Vec<_>>(), ["a@one.test"]);
    }
);

on_each_database!(
    async fn entries_end_by_their_date_and_the_longer_one_holds(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "email\nfull@one.test\nx@slow.test\n", "confirmed");
        let add = |entry: &str, expires: &str| {
            let output = shop.command(&["suppression", "add", entry, "--reason", "bounce", "--expires", expires, "--json"]);
            output.clock("2026-12-01T09:00:00Z").run().exits(0).json()
        };
        assert!(add("full@one.test", "30")["expires_at"].as_str().unwrap().starts_with("2026-12-31T09:00:"));
        assert_eq!(add("slow.test", "2026-12-10")["added"], true);
        assert_eq!(add("full@one.test", "5")["added"], false, "a shorter one changes nothing");
        assert_eq!(add("slow.test", "2026-12-20")["expires_at"], "2026-12-20T00:00:00.000Z");
        let send_at = |time: &str| {
            let output = shop.command(&["send", "weekly", "--json", "--wait", "1", "--again"]).clock(time).run().exits(0).json();
            output["sent"].as_i64().unwrap()
        };
        assert_eq!(send_at("2026-12-15T09:00:00Z"), 0);
        assert_eq!(send_at("2026-12-20T09:00:00Z"), 1, "the domain's entry is over");
        assert_eq!(send_at("2027-01-05T09:00:00Z"), 2, "and the address's");
        assert_eq!(check(&shop, "full@one.test").0, 0);
        let wrong = shop.optin(&["suppression", "add", "a@b.test", "--expires", "soon"]).exits(2);
        assert!(wrong.stderr.contains("neither a date nor a number of days"), "{wrong}");
        let past = shop.optin(&["suppression", "add", "a@b.test", "--expires", "2020-01-01"]).exits(2);
        assert!(past.stderr.contains("is over"), "{past}");
    }
);

on_each_database!(
    async fn taking_an_entry_away_leaves_a_trace_and_brings_nobody_back(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "email\njoe@one.test\n", "confirmed");
        shop.optin(&["consent", "withdraw", "joe@one.test", "--source", "phone"]).exits(0);
        shop.optin(&["suppression", "add", "joe@one.test", "--reason", "complaint", "--source", "feedback loop"]).exits(0);
        shop.optin(&["suppression", "add", "*.one.test", "--source", "lawyer"]).exits(0);
        let without = shop.optin(&["suppression", "remove", "joe@one.test"]).exits(2);
        assert!(without.stderr.contains("--source"), "{without}");
        let removed = shop.optin(&["suppression", "remove", "Joe@One.test", "--source", "reported by mistake", "--json"]).exits(0).json();
        assert_eq!((&removed["removed"][0]["reason"], &removed["still_suppressed_by"]["kind"]), (&"complaint".into(), &"domain".into()));
        let (code, shown) = check(&shop, "joe@one.test");
        assert_eq!((code, &shown["entry"]["value"]), (1, &"*.one.test".into()), "{shown}");
        let trace = &shown["removed"][0];
        assert_eq!((&trace["reason"], &trace["source"]), (&"complaint".into(), &"reported by mistake".into()), "{shown}");
        shop.optin(&["suppression", "remove", "*.one.test", "--source", "lawyer"]).exits(0);
        assert_eq!(check(&shop, "joe@one.test").0, 0);
        assert_eq!(send(&shop, &[]).exits(0).json()["sent"], 0, "the withdrawal holds");
        let unknown = shop.optin(&["suppression", "remove", "nobody@one.test", "--source", "x"]).exits(1);
        assert!(unknown.stderr.contains("not on the suppression list"), "{unknown}");
        // The register names nobody.
        let db = database.open().await;
        let row = db.fetch_one("SELECT subject FROM suppression_removal WHERE kind = 'address'", args![]).await.unwrap();
        assert_eq!(row.get::<String>(0).unwrap(), digests().of("joe@one.test"));
    }
);

on_each_database!(
    async fn an_export_says_everything_or_names_nobody(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        let sha = suppression::hash(Kind::Sha256, "ann@one.test").unwrap();
        shop.write("../gone.csv", format!("joe@one.test\n{sha}\n*.two.test\n"));
        shop.optin(&["import", "suppressions", "gone.csv", "--reason", "=2+3", "--source", "a list, of \"joe@one.test\""]).exits(0);
        let plain = shop.optin(&["suppression", "export"]).exits(0);
        assert!(plain.stdout.starts_with("kind,value,reason,source,at,expires_at\naddress,joe@one.test,'=2+3,\"a list"), "{plain}");
        assert_eq!(plain.stdout.lines().count(), 4);
        let hashed = shop.optin(&["suppression", "export", "--hash", "sha256", "--output", "out.csv", "--json"]).exits(0).json();
        assert_eq!((&hashed["written"], &hashed["left_out"]), (&3.into(), &0.into()));
        let written = std::fs::read_to_string(shop.root().join("out.csv")).unwrap();
        assert!(written.contains(&suppression::hash(Kind::Sha256, "joe@one.test").unwrap()) && written.contains(&sha), "{written}");
        assert!(!written.contains("joe@one.test"), "{written}");
        let other = shop.optin(&["suppression", "export", "--hash", "md5"]).exits(0);
        assert!(!other.stdout.contains(&sha) && other.stderr.contains("1 hashes of another kind are left out"), "{other}");
        // What is exported can be imported elsewhere.
        let elsewhere = TestDatabase::sqlite();
        let there = crate::send::shop(&elsewhere, &sink);
        there.write("../in.csv", written);
        let counts = there.optin(&["import", "suppressions", "in.csv", "--json"]).exits(0).json();
        assert_eq!((&counts["added"], &counts["rejected"]), (&3.into(), &0.into()), "{counts}");
        assert_eq!(check(&there, "joe@one.test").0, 1);
        let list = shop.optin(&["suppression", "list", "--kind", "domain", "--json"]).exits(0).json();
        assert_eq!((list["suppressions"].as_array().unwrap().len(), &list["counts"][0]["count"]), (1, &1.into()), "{list}");
    }
);

on_each_database!(
    async fn somebody_erased_stays_suppressed_however_they_come_back(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        let db = database.open().await;
        let hash = suppression::hash(Kind::Md5, "joe@one.test").unwrap();
        let mut tx = db.begin().await.unwrap();
        suppression::add(&mut tx, vec![entry(Kind::Address, "joe@one.test"), entry(Kind::Md5, &hash)], "test", NOW).await.unwrap();
        // Under a secret that is retired by now.
        let old = Digests::new(&Keys::new("the secret before", &[]));
        suppression::remember_erased(&mut tx, &old, &["joe@one.test", "ann@one.test", "mei@one.test"], "erasure", NOW).await.unwrap();
        tx.commit().await.unwrap();
        let mut everything = String::new();
        for table in ["suppression", "suppression_rule", "suppression_removal"] {
            for row in db.fetch_all(&format!("SELECT * FROM {table}"), args![]).await.unwrap() {
                everything += &(0..row.len()).filter_map(|at| row.get::<Option<String>>(at).ok().flatten()).collect::<Vec<_>>().join(" ");
            }
        }
        assert!(!everything.contains("one.test") && !everything.contains(&hash), "{everything}");
        let shop = shop.with_env("OPTIN_RETIRED_SECRETS", "the secret before");
        assert_eq!(check(&shop, "joe@one.test").1["erased"], true);
        assert_eq!(import(&shop, "email\nJoe@One.test\nfree@one.test\n", "confirmed")["suppressed"], 1);
        shop.optin(&["consent", "grant", "ann@one.test", "--topic", "tea-letter", "--source", "paper"]).exits(0);
        shop.write("messages/receipt.toml", "subject = \"Receipt\"\nbody = \"receipt.md\"\n");
        shop.write("messages/receipt.md", "Thank you.\n");
        shop.optin(&["message", "send", "--template", "receipt", "--to", "mei@one.test"]).exits(0);
        let sent = send(&shop, &[]).exits(0).json();
        assert_eq!((&sent["sent"], &sent["excluded"]["suppressed"]), (&1.into(), &2.into()), "{sent}");
        for erased in ["joe@one.test", "ann@one.test", "mei@one.test"] {
            assert_eq!(check(&shop, erased).1["entry"]["kind"], "address", "{erased}");
        }
        // An operator with the person's word may take it away, for good.
        shop.optin(&["suppression", "remove", "ann@one.test", "--source", "came to the shop"]).exits(0);
        shop.optin(&["consent", "grant", "ann@one.test", "--topic", "offers", "--source", "paper"]).exits(0);
        assert_eq!(check(&shop, "ann@one.test").0, 0);
    }
);

on_each_database!(
    async fn a_send_under_way_notices_every_kind_of_entry(database) {
        let db = database.open().await;
        let epoch = async || db.fetch_one("SELECT epoch FROM consent_head", args![]).await.unwrap().get::<i64>(0).unwrap();
        let mut last = epoch().await;
        let kinds = BTreeMap::from([
            (Kind::Address, "a@b.test".to_owned()),
            (Kind::Domain, "b.test".to_owned()),
            (Kind::Md5, suppression::hash(Kind::Md5, "a@b.test").unwrap()),
        ]);
        for (kind, value) in kinds {
            for new in [true, false] {
                let mut tx = db.begin().await.unwrap();
                assert_eq!(suppression::add(&mut tx, vec![entry(kind, &value)], "test", NOW).await.unwrap(), u64::from(new));
                tx.commit().await.unwrap();
                let now = epoch().await;
                assert_eq!(now > last, new, "{kind}");
                last = now;
            }
        }
        let mut tx = db.begin().await.unwrap();
        let soon = NewEntry { expires_at: Some(NOW.plus(DAY)), ..entry(Kind::Domain, "c.test") };
        suppression::add(&mut tx, vec![soon], "test", NOW).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(suppression::expire(&db, NOW).await.unwrap(), 0);
        assert_eq!(suppression::expire(&db, NOW.plus(DAY)).await.unwrap(), 1);
    }
);
