//! Orders and events: from files, over the API, in any order, corrected, given back, erased.

use std::collections::BTreeMap;
use std::io::Cursor;

use optin::args;
use optin::behaviour::import::{Counts, Import, Options, Outcome};
use optin::behaviour::merge;
use optin::behaviour::money::Money;
use optin::behaviour::ops::{self, Recorded, Recording, ensure_tables};
use optin::behaviour::read::Reader;
use optin::behaviour::{EventSchema, Verdict};
use optin::clock::Time;
use optin::config::{AttributeType, Behaviour};
use optin::consent::suppression::Digests;
use optin::contact::{self, Address, AttributeValue, Schema};
use optin::db::Db;
use optin::entropy::Entropy;
use optin::token::Keys;
use serde_json::{Value, json};

use crate::support::http::{self, Response};
use crate::support::{self, on_each_database};

/// 2026-09-21
pub const NOW: Time = Time::from_millis(1_790_000_000_000);

pub struct World {
    pub db: Db,
    events: BTreeMap<String, EventSchema>,
    schema: Schema,
    digests: Digests,
    entropy: Entropy,
    money: Money,
}

fn visit(properties: &[(&str, AttributeType)]) -> BTreeMap<String, EventSchema> {
    let properties = properties.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    BTreeMap::from([("visit".to_owned(), EventSchema { name: "visit".to_owned(), properties })])
}

impl World {
    pub async fn new(database: &support::TestDatabase) -> World {
        use AttributeType::*;
        let db = database.open().await;
        let events = visit(&[("page", Text), ("seconds", Number), ("first", Boolean), ("day", Date), ("tags", List)]);
        ensure_tables(&db, &events, NOW).await.unwrap();
        let rates = BTreeMap::from([("USD".to_owned(), 32.1)]);
        let behaviour = Behaviour { currency: "TWD".to_owned(), rates, beacon: false, beacon_origins: Vec::new() };
        let world = World {
            db,
            events,
            schema: Schema::default(),
            digests: Digests::new(&Keys::new("a secret", &[])),
            entropy: Entropy::system(),
            money: Money::new(&behaviour),
        };
        for (email, number) in [("mei@tea.example", "17"), ("joe@tea.example", "18"), ("ann@tea.example", "19")] {
            world.contact(email, number).await;
        }
        world
    }

    async fn contact(&self, email: &str, number: &str) -> i64 {
        let mut tx = self.db.begin().await.unwrap();
        let fields = [("external_id", AttributeValue::Text(number.to_owned()))];
        let made = contact::ops::upsert(&mut tx, &self.schema, &self.entropy, NOW, &Address::parse(email).unwrap(), &fields).await.unwrap();
        tx.commit().await.unwrap();
        made.id
    }

    fn recording(&self) -> Recording<'_> {
        Recording { events: &self.events, schema: &self.schema, digests: &self.digests, entropy: &self.entropy, create: false }
    }

    pub fn import<'a>(&'a self, options: &'a Options) -> Import<'a> {
        Import { db: &self.db, recording: self.recording(), money: &self.money, now: NOW, options }
    }

    async fn orders(&self, text: &str) -> Outcome {
        self.import(&Options::default()).orders(Cursor::new(text.as_bytes().to_vec()), None, &mut |_| {}).await.unwrap()
    }

    async fn events(&self, lines: &[Value]) -> Outcome {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.import(&Options::default()).events(Cursor::new(text.into_bytes()), None, &mut |_| {}).await.unwrap()
    }

    async fn record(&self, items: &[Value]) -> Recorded {
        let mut reader = Reader::new(&self.events, &self.money, false, NOW);
        let items = items.iter().map(|item| reader.read(item.clone()).unwrap_or_else(|faults| panic!("{item}: {faults:?}"))).collect();
        let mut tx = self.db.begin().await.unwrap();
        let recorded = ops::record(&mut tx, &self.recording(), items, NOW).await.unwrap();
        tx.commit().await.unwrap();
        recorded
    }

    pub fn faults(&self, item: Value) -> Vec<String> {
        let read = Reader::new(&self.events, &self.money, false, NOW).read(item);
        read.err().unwrap_or_default().into_iter().map(|fault| fault.reason).collect()
    }

    pub async fn verdicts(&self, items: &[Value]) -> Vec<Verdict> {
        self.record(items).await.verdicts
    }

    pub async fn number(&self, sql: &str) -> i64 {
        self.db.fetch_one(sql, args![]).await.unwrap().get(0).unwrap()
    }

    /// Orders (key, left, given back, void) by key, and totals (address, orders, amount) by address.
    async fn state(&self) -> (Vec<(String, i64, i64, bool)>, Vec<(String, i64, i64)>) {
        let orders = self.db.fetch_all("SELECT order_key, amount, refunded, void FROM orders", args![]).await.unwrap();
        let mut orders: Vec<_> =
            orders.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap(), row.get(3).unwrap())).collect();
        orders.sort();
        let totals =
            self.db.fetch_all("SELECT c.email, t.orders, t.amount FROM contact c JOIN order_total t ON t.contact_id = c.id", args![]);
        let mut totals: Vec<_> =
            totals.await.unwrap().iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap())).collect();
        totals.sort();
        self.sums_are_right().await;
        (orders, totals)
    }

    /// What is added up equals the rows.
    pub async fn sums_are_right(&self) {
        let wrong = "SELECT COUNT(*) FROM (
               SELECT contact_id, COUNT(*) AS orders, SUM(amount) AS amount, MIN(at) AS first_at, MAX(at) AS last_at
               FROM orders WHERE NOT void GROUP BY contact_id) s
             LEFT JOIN order_total t ON t.contact_id = s.contact_id
             WHERE t.contact_id IS NULL OR t.orders <> s.orders OR t.amount <> s.amount OR t.first_at <> s.first_at OR t.last_at <> s.last_at";
        assert_eq!(self.number(wrong).await, 0, "totals");
        let alone =
            "SELECT COUNT(*) FROM order_total t WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.contact_id = t.contact_id AND NOT o.void)";
        assert_eq!(self.number(alone).await, 0, "totals of nobody");
        let lines = "SELECT COUNT(*) FROM order_line l JOIN orders o ON o.id = l.order_id WHERE l.contact_id <> o.contact_id OR l.at <> o.at OR (o.void AND NOT l.refunded)";
        assert_eq!(self.number(lines).await, 0, "lines");
    }
}

fn counts(read: u64, added: u64, updated: u64, unchanged: u64, rejected: u64) -> Counts {
    Counts { read, added, updated, unchanged, rejected }
}

const ORDERS: &str = "Order Number,email,external_id,at,amount,currency,product_id,product,category,quantity,refunded\n\
    A1,mei@tea.example,,2026-09-01,10.50,,p1,Oolong,tea,2,\n\
    A2,,18,2026-09-02 10:00,1,USD,p2,Cup,ware,1,\n\
    A1,,,,4.50,,p2,Cup,ware,1,\n\
    A3,mei@tea.example,,2026-09-03T10:00:00+08:00,8,TWD,p1,Oolong,tea,1,true\n\
    A1,,,,5,,p3,Pot,ware,1,1.25\n";

on_each_database! {
    async fn lines_of_one_order_come_together_wherever_they_stand(database) {
        let world = World::new(&database).await;
        let first = world.orders(ORDERS).await;
        assert_eq!((first.counts, first.items), (counts(5, 5, 0, 0, 0), counts(3, 3, 0, 0, 0)), "{:?}", first.rejects);
        let (orders, totals) = world.state().await;
        assert_eq!(orders, [
            ("A1".to_owned(), 187_500, 12_500, false),
            ("A2".to_owned(), 321_000, 0, false),
            ("A3".to_owned(), 0, 80_000, true),
        ]);
        assert_eq!(totals, [("joe@tea.example".to_owned(), 1, 321_000), ("mei@tea.example".to_owned(), 1, 187_500)]);
        assert_eq!(world.number("SELECT COUNT(*) FROM engagement_due").await, 2);
        // The same again, in another order.
        let mut lines: Vec<&str> = ORDERS.lines().collect();
        lines.swap(2, 4);
        assert_eq!(world.orders(&lines.join("\n")).await.counts, counts(5, 0, 0, 5, 0));
        // A file with other rates leaves what is recorded; a corrected one changes it, and takes lines away.
        let corrected = "order_id,email,at,amount,product_id\nA1,mei@tea.example,2026-09-01,20,p1\n";
        assert_eq!(world.orders(corrected).await.counts, counts(1, 0, 1, 0, 0));
        let (orders, _) = world.state().await;
        assert_eq!(orders[0], ("A1".to_owned(), 200_000, 0, false));
        assert_eq!(world.number("SELECT COUNT(*) FROM order_line").await, 3);
    }
}

on_each_database! {
    async fn every_refused_row_says_why_and_harms_no_other(database) {
        let world = World::new(&database).await;
        let text = "order_id,email,at,amount,currency,quantity,refunded\n\
            B1,mei@tea.example,2026-09-01,1O,,1,\n\
            B1,mei@tea.example,2026-09-01,5,,1,\n\
            B2,mei@tea.example,2026-09-01,5,USX,x,maybe\n\
            ,mei@tea.example,2026-09-01,5,,1,\n\
            B3,nobody@tea.example,2026-09-01,5,,1,\n\
            B4,mei@tea.example,2027-09-01,5,,1,\n\
            B5,mei@tea.example,2026-09-01,5,,1,\n\
            B6,mei@tea.example,2026-09-01,5,,1,\n\
            B6,joe@tea.example,2026-09-01,5,,1,\n\
            B7,nobody,2026-09-01,5,,1,\n\
            B8,,2026-09-01,5,,1,\n\
            B9,mei@tea.example,,5,,1,\n\
            B9,mei@tea.example\n";
        let done = world.orders(text).await;
        assert_eq!(done.counts, counts(13, 1, 0, 0, 12));
        let mut said: Vec<(u64, &str, &str)> = done.rejects.iter().map(|reject| (reject.line, reject.column.as_str(), reject.reason.as_str())).collect();
        said.sort_unstable();
        let starts = [
            (2, "amount", "`1O` is not an amount"),
            (3, "", "line 2 of the same order is not taken"),
            (4, "currency, quantity, refunded", "no rate is known for the currency `USX`; did you mean `USD`?"),
            (5, "order_id", "it is empty"),
            (6, "email", "nobody is known by this `email`"),
            (7, "at", "`2027-09-01T00:00:00.000Z` is more than a day in the future"),
            (9, "", "line 10 of the same order"),
            (10, "email", "another line of this order names another person"),
            (11, "email", "the address"),
            (12, "email", "no person is named"),
            (13, "at", "there is no time"),
            (14, "", "the row has 2 cells"),
        ];
        assert_eq!(said.len(), starts.len(), "{said:#?}");
        for ((line, column, reason), found) in starts.into_iter().zip(said) {
            assert!((line, column) == (found.0, found.1) && found.2.starts_with(reason), "{line} {column} {reason}: {found:?}");
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM orders").await, 1);
        // A dry run counts and leaves nothing; `create` makes people without permission.
        let options = Options { dry_run: true, ..Options::default() };
        let new = "order_id,email,at,amount\nC1,new@tea.example,2026-09-01,5\n";
        let mut import = world.import(&options);
        import.recording.create = true;
        let dry = import.orders(Cursor::new(new), None, &mut |_| {}).await.unwrap();
        assert_eq!((dry.counts.added, dry.people, world.number("SELECT COUNT(*) FROM contact").await), (1, 1, 3));
        let options = Options::default();
        let mut import = world.import(&options);
        import.recording.create = true;
        let made = import.orders(Cursor::new(new), None, &mut |_| {}).await.unwrap();
        assert_eq!((made.counts.added, world.number("SELECT COUNT(*) FROM contact").await, world.number("SELECT COUNT(*) FROM consent_event").await), (1, 4, 0));
    }
}

on_each_database! {
    async fn a_refund_may_come_before_its_order_and_twice(database) {
        let world = World::new(&database).await;
        let refunds = "order_id,email,at,amount,product_id,quantity\nA1,mei@tea.example,2026-09-05,-4,p1,1\nA1,mei@tea.example,2026-09-05,2,p2,-1\n";
        let early = world.orders(refunds).await;
        assert_eq!((early.counts, early.waiting), (counts(2, 2, 0, 0, 0), 2));
        assert!(world.state().await.0.is_empty());
        world.orders(ORDERS).await;
        assert_eq!(world.state().await.0[0], ("A1".to_owned(), 127_500, 72_500, false));
        let again = world.orders(refunds).await;
        assert_eq!((again.counts, again.waiting), (counts(2, 0, 0, 2, 0), 0));
        let corrected = world.orders(&refunds.replace(",-4,", ",-3,")).await;
        assert_eq!(corrected.counts, counts(2, 0, 1, 1, 0));
        assert_eq!(world.state().await.0[0].1, 137_500);
        // The rest of it, by the API, in the order's currency.
        let all = json!({ "type": "refund", "id": "r1", "order": "A1", "at": "2026-09-06" });
        assert_eq!(world.record(std::slice::from_ref(&all)).await.verdicts, [Verdict::Added]);
        assert_eq!(world.state().await.0[0], ("A1".to_owned(), 0, 200_000, true));
        assert!(!world.state().await.1.iter().any(|(email, _, _)| email == "mei@tea.example"));
        let part = json!({ "type": "refund", "id": "r2", "order": "A2", "at": "2026-09-06", "amount": "0.50", "currency": "usd" });
        world.record(&[part, all]).await;
        assert_eq!(world.state().await.0[1], ("A2".to_owned(), 160_500, 160_500, false));
    }
}

on_each_database! {
    async fn events_are_known_by_their_id_and_may_be_corrected(database) {
        let world = World::new(&database).await;
        let event = |id: &str, page: &str, revision: i64| {
            json!({ "id": id, "type": "visit", "email": "Mei@Tea.example", "at": "2026-09-01T10:00:00Z", "revision": revision,
                "properties": { "page": page, "seconds": 3.5, "first": true, "day": "2026-09-01", "tags": ["a", "b"] } })
        };
        let older = json!({ "id": 7, "type": "visit", "external_id": 18, "at": "2020-01-01" });
        let done = world.events(&[event("e1", "/a", 0), event("e2", "/b", 0), older.clone(), event("e1", "/a", 0)]).await;
        assert_eq!(done.counts, counts(4, 3, 0, 1, 0), "{:?}", done.rejects);
        assert_eq!(world.events(&[event("e1", "/a", 0), older, event("e2", "/c", 0), event("e3", "/d", 2)]).await.counts, counts(4, 1, 1, 2, 0));
        // The higher revision holds, whatever comes later.
        assert_eq!(world.events(&[event("e3", "/old", 1), event("e2", "/c", 5)]).await.counts, counts(2, 0, 0, 2, 0));
        assert_eq!(world.events(&[event("e2", "/late", 4)]).await.counts, counts(1, 0, 0, 1, 0));
        let row = world.db.fetch_one("SELECT t_page, n_seconds, b_first, d_day, l_tags FROM did_visit WHERE event_key = 'e2'", args![]).await.unwrap();
        assert_eq!((row.get::<String>(0).unwrap(), row.get::<f64>(1).unwrap(), row.get::<bool>(2).unwrap()), ("/c".to_owned(), 3.5, true));
        assert_eq!((row.get::<i64>(3).unwrap(), row.get::<String>(4).unwrap()), (20_260_901, "\u{1f}a\u{1f}b\u{1f}".to_owned()));
        // Taken back, also before it came; and brought back by a higher revision.
        let back = |id: &str| json!({ "id": id, "type": "visit", "retracted": true });
        world.events(&[back("e1"), back("e9")]).await;
        assert_eq!(world.events(&[event("e1", "/a", 0), event("e9", "/a", 0)]).await.counts, counts(2, 0, 0, 2, 0));
        assert_eq!(world.number("SELECT COUNT(*) FROM did_visit").await, 3);
        assert_eq!(world.events(&[event("e9", "/a", 1)]).await.counts, counts(1, 1, 0, 0, 0));
        assert_eq!(world.number("SELECT COUNT(*) FROM event_retracted").await, 1);
    }
}

on_each_database! {
    async fn what_events_say_is_checked_against_what_is_declared(database) {
        let world = World::new(&database).await;
        let cases = [
            (json!({ "id": "1", "type": "vist", "email": "mei@tea.example", "at": "2026-09-01" }), "did you mean `visit`?"),
            (json!({ "id": "1", "type": "visit", "email": "mei@tea.example", "at": "2026-09-01", "properties": { "pages": "/" } }), "did you mean `page`?"),
            (json!({ "id": "1", "type": "visit", "email": "mei@tea.example", "at": "2026-09-01", "properties": { "seconds": "3" } }), "has to be a number"),
            (json!({ "id": "1", "type": "visit", "mail": "mei@tea.example", "at": "2026-09-01" }), "did you mean `email`?"),
            (json!({ "type": "visit", "email": "mei@tea.example", "at": "2026-09-01" }), "`id` is missing"),
            (json!({ "id": "1", "type": "visit", "email": "mei@tea.example", "at": "2026-09-23" }), "more than a day in the future"),
            (json!({ "id": "1", "type": "visit", "email": "nobody@tea.example", "at": "2026-09-01" }), "nobody is known by this `email`"),
            (json!({ "id": "1", "type": "visit", "external_id": "99", "at": "2026-09-01" }), "nobody is known by this `external_id`"),
            (json!({ "id": "1", "type": "order", "email": "mei@tea.example", "at": "2026-09-01", "lines": [] }), "`lines` is a list of 1"),
            (json!({ "id": "1", "type": "order", "email": "mei@tea.example", "at": "2026-09-01", "amount": -2 }), "send what only gives back as `refund`"),
            (json!([1]), "an event is a JSON object"),
        ];
        let lines: Vec<Value> = cases.iter().map(|(line, _)| line.clone()).collect();
        let done = world.events(&lines).await;
        assert_eq!(done.counts, counts(11, 0, 0, 0, 11));
        for (line, (_, reason)) in (1..).zip(&cases) {
            assert!(done.rejects.iter().any(|reject| reject.line == line && reject.reason.contains(reason)), "{line} {reason}: {:#?}", done.rejects);
        }
        let text = "\u{feff}{\"id\":1,\"type\":\"visit\",\"email\":\"mei@tea.example\",\"at\":\"2026-09-01\",\"x\":1,\"properties\":{\"y\":2}}\n\n{\"id\":\n";
        let options = Options { ignore_unknown: true, ..Options::default() };
        let done = world.import(&options).events(Cursor::new(text), None, &mut |_| {}).await.unwrap();
        assert_eq!((done.counts, done.rejects[0].line), (counts(2, 1, 0, 0, 1), 3));
    }
}

on_each_database! {
    async fn a_new_property_is_a_new_column_and_so_is_one_of_another_type(database) {
        use AttributeType::*;
        let mut world = World::new(&database).await;
        world.events(&[json!({ "id": "1", "type": "visit", "external_id": "17", "at": "2026-09-01", "properties": { "page": "/", "seconds": 1 } })]).await;
        world.events = visit(&[("page", Text), ("seconds", Text), ("shop", Text)]);
        ensure_tables(&world.db, &world.events, NOW).await.unwrap();
        ensure_tables(&world.db, &world.events, NOW).await.unwrap();
        world.events(&[json!({ "id": "2", "type": "visit", "external_id": "17", "at": "2026-09-01", "properties": { "seconds": "long", "shop": "A" } })]).await;
        assert_eq!(world.number("SELECT COUNT(*) FROM did_visit WHERE n_seconds = 1 OR t_seconds = 'long'").await, 2);
        // A kind that is declared no more is still part of the copy, and erased with the person.
        ensure_tables(&world.db, &BTreeMap::new(), NOW).await.unwrap();
        let mei = world.number("SELECT id FROM contact WHERE external_id = '17'").await;
        let copy = optin::behaviour::person::events(&mut world.db.clone(), mei).await.unwrap();
        assert_eq!((copy[0]["properties"]["seconds"].clone(), copy[1]["properties"]["shop"].clone()), (json!(1), json!("A")));
        let mut tx = world.db.begin().await.unwrap();
        ops::forget_contact(&mut tx, mei, &world.entropy, NOW).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(world.number("SELECT COUNT(*) FROM did_visit").await, 0);
    }
}

on_each_database! {
    async fn what_comes_in_any_order_in_any_batches_leaves_the_same(database) {
        let entropy = Entropy::seeded(11);
        let people = ["mei@tea.example", "joe@tea.example", "ann@tea.example"];
        let below = |limit: u64| entropy.below(limit);
        let mut statements: Vec<Value> = Vec::new();
        for order in 0..12 {
            for revision in 0..=below(3) {
                let lines: Vec<Value> = (0..=below(3))
                    .map(|_| json!({ "amount": below(50) as i64 - 5, "product_id": format!("p{}", below(3)), "refunded": below(4) == 0 }))
                    .chain([json!({ "amount": 7, "product_id": "p9" })])
                    .collect();
                statements.push(json!({ "type": "order", "id": format!("o{order}"), "email": people[below(3) as usize], "revision": revision,
                    "at": format!("2026-0{}-01", 1 + below(8)), "lines": lines, "currency": if below(2) == 0 { "USD" } else { "TWD" } }));
            }
        }
        for refund in 0..16 {
            for revision in 0..=below(2) {
                let mut statement = json!({ "type": "refund", "id": format!("r{refund}"), "order": format!("o{}", below(14)), "revision": revision, "at": "2026-09-01", "currency": "USD" });
                if below(3) > 0 {
                    statement["amount"] = json!(1 + below(9));
                }
                if below(2) == 0 {
                    statement["product_id"] = json!(format!("p{}", below(3)));
                }
                statements.push(statement);
            }
        }
        let mut seen = Vec::new();
        for round in 0..6_u64 {
            let world = World::new(&database).await;
            for table in ["orders", "order_line", "order_refund", "order_total"] {
                world.db.execute(&format!("DELETE FROM {table}"), args![]).await.unwrap();
            }
            let mut turned = statements.clone();
            for index in (1..turned.len()).rev() {
                turned.swap(index, below(index as u64 + 1) as usize);
            }
            // Some of it twice.
            turned.extend(statements.iter().take(10 * round as usize).cloned());
            while !turned.is_empty() {
                let batch: Vec<Value> = turned.drain(..(1 + below(9) as usize).min(turned.len())).collect();
                world.record(&batch).await;
                world.sums_are_right().await;
            }
            seen.push(world.state().await);
        }
        assert!(seen[0].0.len() == 12 && seen[0].0.iter().any(|order| order.2 > 0) && seen[0].0.iter().any(|order| !order.3), "{:?}", seen[0]);
        for state in &seen[1..] {
            assert_eq!(*state, seen[0]);
        }
    }
}

on_each_database! {
    async fn merged_people_have_one_history_and_their_own_again_when_it_is_undone(database) {
        let world = World::new(&database).await;
        world.orders(ORDERS).await;
        world.events(&[json!({ "id": "1", "type": "visit", "external_id": "18", "at": "2026-09-01" })]).await;
        let before = world.state().await;
        let id = |number: &str| format!("SELECT id FROM contact WHERE external_id = '{number}'");
        let (mei, joe) = (world.number(&id("17")).await, world.number(&id("18")).await);
        let mut tx = world.db.begin().await.unwrap();
        merge::move_rows(&mut tx, joe, mei, &[joe], NOW).await.unwrap();
        tx.execute("UPDATE contact SET merged_into = $1 WHERE id = $2", args![mei, joe]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(world.state().await.1, [("mei@tea.example".to_owned(), 2, 508_500)]);
        // What is said of either counts for the one who stays; the same file says nothing new.
        assert_eq!(world.orders(ORDERS).await.counts, counts(5, 0, 0, 5, 0));
        world.events(&[json!({ "id": "2", "type": "visit", "external_id": "18", "at": "2026-09-01" })]).await;
        assert_eq!(world.number(&format!("SELECT COUNT(*) FROM did_visit WHERE contact_id = {mei} AND known_as = {joe}")).await, 2);
        let mut tx = world.db.begin().await.unwrap();
        merge::move_rows(&mut tx, mei, joe, &[joe], NOW).await.unwrap();
        tx.execute("UPDATE contact SET merged_into = NULL WHERE id = $1", args![joe]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(world.state().await, before);
        assert_eq!(world.number(&format!("SELECT COUNT(*) FROM did_visit WHERE contact_id = {joe}")).await, 2);
    }
}

const FILES: &[(&str, &str)] = &[
    (
        "optin.toml",
        "[site]\nurl = \"http://127.0.0.1:8080\"\n[sender]\nname = \"Tea House\"\nemail = \"letters@tea.example\"\npostal_address = \"1 Leaf Street, Taipei\"\n\
         [behaviour]\ncurrency = \"EUR\"\n[behaviour.rates]\nUSD = 0.9\n[retention]\nevent_days = 30\n",
    ),
    ("topics.toml", "[letter]\nname = \"Letter\"\n"),
    ("events.toml", "[tasting]\n[tasting.properties]\ntea = \"text\"\nguests = \"number\"\n"),
];

on_each_database! {
    async fn a_shop_sends_what_happens_and_the_person_has_a_right_to_it(database) {
        let shop = support::instance(&database, FILES).with_env("OPTIN_CLOCK", "2026-09-21T12:00:00Z");
        shop.write("../people.csv", "email,external_id\nmei@tea.example,17\njoe@tea.example,18\n");
        shop.optin(&["import", "contacts", "people.csv"]).exits(0);
        let token = |scope: &str| shop.optin(&["token", "create", "--scope", scope, "--name", "shop", "--json"]).exits(0).json()["token"].as_str().unwrap().to_owned();
        let (events, other) = (token("events"), token("contacts"));
        let mut serving = shop.command(&["serve"]).spawn();
        serving.wait_for_line("optin is ready", 20);
        let post = |token: &str, key: Option<&str>, body: &Value| -> (u16, Value, Response) {
            let authorization = format!("Bearer {token}");
            let mut headers = vec![("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
            headers.extend(key.map(|key| ("Idempotency-Key", key)));
            let response = http::request("POST", &shop.url("/api/v1/events"), &headers, body.to_string().as_bytes());
            (response.status, serde_json::from_slice(&response.body).unwrap_or_default(), response)
        };
        let batch = json!([
            { "type": "tasting", "id": "t1", "email": "mei@tea.example", "at": "2026-09-20T10:00:00Z", "properties": { "tea": "oolong", "guests": 3 } },
            { "type": "tasting", "id": "t2", "email": "nobody@tea.example", "at": "2026-09-20T10:00:00Z" },
            { "type": "tasting", "id": "t3", "external_id": "17", "at": "2026-09-20T10:00:00Z", "properties": { "gusts": 3 } },
            { "type": "refund", "id": "r1", "order": "o1", "at": "2026-09-20", "amount": 2 },
            { "type": "order", "id": "o1", "email": "mei@tea.example", "at": "2026-09-19T10:00:00Z", "currency": "USD", "lines": [
                { "product_id": "p1", "product": "Oolong for Mei-Ling", "category": "tea", "quantity": 2, "amount": "20.00" }, { "product_id": "p2", "amount": 5 } ] },
            { "type": "tasting", "id": "old", "external_id": 17, "at": "2026-08-01" },
            7
        ]);
        assert_eq!(post(&other, None, &batch).0, 403);
        let (status, answer, _) = post(&events, Some("k1"), &batch);
        assert_eq!((status, &answer["added"], &answer["rejected"]), (200, &json!(4), &json!(3)), "{answer:#}");
        let results: Vec<&str> = answer["results"].as_array().unwrap().iter().map(|result| result["result"].as_str().unwrap()).collect();
        assert_eq!(results, ["added", "rejected", "rejected", "added", "added", "added", "rejected"]);
        assert_eq!(answer["results"][2]["problems"][0], json!({ "field": "properties.gusts", "reason": "`tasting` has no property `gusts`; did you mean `guests`?" }));
        assert!(!answer.to_string().contains("nobody@"), "{answer}");
        let (_, again, response) = post(&events, Some("k1"), &batch);
        assert_eq!((again, response.header("idempotent-replayed")), (answer, Some("true")));
        assert_eq!(post(&events, None, &json!({ "events": batch })).1["unchanged"], 4);
        let many: Vec<Value> = (0..1_001).map(|id| json!({ "type": "tasting", "id": id })).collect();
        assert_eq!(post(&events, None, &json!(many)).0, 413);
        assert_eq!(post(&events, None, &json!({ "event": [] })).0, 400);
        assert_eq!(post(&events, None, &json!("x")).0, 400);
        let described = http::get(&shop.url("/api/v1/openapi.json")).text();
        assert!(described.contains("recordEvents"));
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);

        let shown = shop.optin(&["contact", "show", "mei@tea.example", "--json"]).exits(0).json();
        assert_eq!(shown["orders"]["amount"], json!(20.7), "{shown:#}");
        let recent: Vec<(&str, &str)> = shown["recent"].as_array().unwrap().iter().map(|recent| (recent["what"].as_str().unwrap(), recent["detail"].as_str().unwrap_or_default())).collect();
        assert_eq!(recent, [("tasting", "guests: 3, tea: oolong"), ("order", "o1: 20.70, 1.80 given back"), ("tasting", "")]);
        assert!(shop.optin(&["contact", "show", "mei@tea.example"]).exits(0).stdout.contains("1 order, 20.70 EUR together"));

        // What is old goes; orders stay.
        let found = shop.optin(&["retention", "run", "--dry-run", "--json"]).exits(0).stdout;
        assert!(found.contains("event_days"), "{found}");
        shop.optin(&["retention", "run"]).exits(0);
        let copy = shop.optin(&["contact", "export", "mei@tea.example", "--json"]).exits(0).json();
        assert_eq!(copy["events"].as_array().unwrap().len(), 1);
        assert_eq!(copy["orders"][0]["lines"][0]["product"], "Oolong for Mei-Ling");
        shop.optin(&["contact", "erase", "mei@tea.example", "--yes"]).exits(0);
        let db = database.open().await;
        for sql in ["SELECT COUNT(*) FROM did_tasting", "SELECT COUNT(*) FROM order_total", "SELECT COUNT(*) FROM order_refund", "SELECT COUNT(*) FROM orders WHERE contact_id <> 0 OR order_key = 'o1'", "SELECT COUNT(*) FROM order_line WHERE product IS NOT NULL"] {
            assert_eq!(db.fetch_one(sql, args![]).await.unwrap().get::<i64>(0).unwrap(), 0, "{sql}");
        }
        assert_eq!(db.fetch_one("SELECT COUNT(*) FROM orders WHERE amount = 207000", args![]).await.unwrap().get::<i64>(0).unwrap(), 1);
    }
}

on_each_database! {
    async fn files_are_imported_by_the_command_line(database) {
        let shop = support::instance(&database, FILES).with_env("OPTIN_CLOCK", "2026-09-21T12:00:00Z");
        shop.write("../people.csv", "email,external_id\nmei@tea.example,17\n");
        shop.optin(&["import", "contacts", "people.csv"]).exits(0);
        let csv = "Nr;Kunde;Datum;Preis;Menge\n1;17;2026-09-20 09:30;2.5;4\n2;99;2026-09-20;1;1\n";
        shop.write("../orders.csv", csv);
        let map = ["--map", "Nr=order_id", "--map", "Kunde=external_id", "--map", "Datum=at", "--map", "Preis=unit_price", "--map", "Menge=quantity"];
        let mut call = vec!["import", "orders", "orders.csv", "--rejects", "bad.csv", "--timezone", "Asia/Taipei", "--currency", "usd", "--json"];
        call.extend(map);
        let done = shop.optin(&call).exits(0).json();
        assert_eq!((&done["read"], &done["added"], &done["rejected"], &done["orders"]["added"]), (&json!(2), &json!(1), &json!(1), &json!(1)), "{done:#}");
        let bad = std::fs::read_to_string(shop.root().join("bad.csv")).unwrap();
        assert_eq!(bad.replace('\r', ""), "line,column,reason,row\n3,Kunde,nobody is known by this `external_id`,\"2;99;2026-09-20;1;1\"\n");
        let shown = shop.optin(&["contact", "show", "mei@tea.example", "--json"]).exits(0).json();
        assert_eq!((&shown["orders"]["amount"], &shown["orders"]["first_at"]), (&json!(9.0), &json!("2026-09-20T01:30:00.000Z")));
        shop.write("../events.jsonl", "{\"id\":1,\"type\":\"tasting\",\"external_id\":17,\"at\":\"2026-09-20\",\"properties\":{\"tea\":\"green\"}}\n{\"id\":2}\n");
        let done = shop.optin(&["import", "events", "events.jsonl"]).exits(0);
        assert!(done.stdout.contains("2 rows read: 1 added, 0 updated, 0 unchanged, 1 rejected"), "{}", done.stdout);
        assert!(shop.optin(&["import", "orders", "people.csv"]).exits(2).stderr.contains("order_id"));
    }
}
