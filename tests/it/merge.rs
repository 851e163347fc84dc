//! Two contacts that are one person: who gets mail, what counts for whom, what holds for both; and all of it undone.

use std::collections::BTreeMap;

use optin::args;
use optin::behaviour::merge;
use optin::clock::Time;
use optin::consent::tracking::TrackingRules;
use optin::consent::{Permit, Refusal};
use optin::contact::merge as contacts;
use optin::contact::{self, Address, AttributeValue, Contact, Schema};
use optin::db::{Db, Dialect, Value};
use optin::entropy::Entropy;

use crate::prefs::{link, serve, shop};
use crate::support::http::{get, post};
use crate::support::smtp::Sink;
use crate::support::{Instance, on_each_database};

const NOW: Time = Time::from_millis(1_800_000_000_000);
const FORM: &str = "application/x-www-form-urlencoded";

fn people(shop: &Instance, csv: &str) {
    shop.write("../people.csv", csv);
    let args = ["import", "contacts", "people.csv", "--topic", "letter", "--topic", "offers", "--consent", "confirmed", "--source", "fair"];
    shop.optin(&args).exits(0);
}

fn standing(shop: &Instance, email: &str, topic: &str) -> String {
    let shown = shop.optin(&["contact", "show", email, "--json"]).exits(0).json();
    let topics = shown["topics"].as_array().unwrap().clone();
    topics.iter().find(|known| known["topic"] == topic).map_or("none", |known| known["standing"].as_str().unwrap()).to_owned()
}

async fn id_of(db: &Db, email: &str) -> i64 {
    db.fetch_one("SELECT id FROM contact WHERE email_key = $1", args![email]).await.unwrap().get(0).unwrap()
}

async fn count(db: &Db, sql: &str) -> i64 {
    db.fetch_one(sql, vec![]).await.unwrap().get(0).unwrap()
}

/// Writes a row, also into columns that came later, which hold numbers.
async fn insert(db: &Db, table: &str, row: &[(&str, Value)]) {
    let (list, arguments) = match db.dialect() {
        Dialect::Sqlite => ("SELECT name FROM pragma_table_info($1)", args![table]),
        Dialect::Postgres => (
            "SELECT CAST(column_name AS TEXT) FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1",
            args![table],
        ),
    };
    let known: Vec<String> = db.fetch_all(list, arguments).await.unwrap().iter().map(|row| row.get(0).unwrap()).collect();
    let mut row: Vec<(&str, Value)> = row.to_vec();
    for later in ["revision", "paid", "given_back"] {
        if known.iter().any(|column| column == later) {
            row.push((later, Value::from(0_i64)));
        }
    }
    let names: Vec<&str> = row.iter().map(|(name, _)| *name).collect();
    let marks: Vec<String> = (1..=row.len()).map(|at| format!("${at}")).collect();
    let sql = format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), marks.join(", "));
    db.execute(&sql, row.into_iter().map(|(_, value)| value).collect()).await.unwrap();
}

/// An order of one line by `contact_id`, `amount` in ten-thousandths.
async fn order(db: &Db, id: i64, contact_id: i64, at: i64, amount: i64) {
    let row = [
        ("id", Value::from(id)),
        ("order_key", Value::from(format!("o{id}"))),
        ("contact_id", Value::from(contact_id)),
        ("known_as", Value::from(contact_id)),
        ("at", Value::from(at)),
        ("amount", Value::from(amount)),
        ("refunded", Value::from(0_i64)),
        ("void", Value::from(amount == 0)),
        ("currency", Value::from("EUR")),
        ("rate", Value::from(1.0)),
        ("digest", Value::from("")),
        ("recorded_at", Value::from(at)),
    ];
    insert(db, "orders", &row).await;
    let line = [
        ("order_id", Value::from(id)),
        ("line", Value::from(1_i64)),
        ("contact_id", Value::from(contact_id)),
        ("at", Value::from(at)),
        ("quantity", Value::from(1.0)),
        ("amount", Value::from(amount)),
        ("refunded", Value::from(amount == 0)),
    ];
    insert(db, "order_line", &line).await;
    db.execute("DELETE FROM order_total WHERE contact_id = $1", args![contact_id]).await.unwrap();
    let sql = "INSERT INTO order_total (contact_id, orders, amount, first_at, last_at)
               SELECT contact_id, COUNT(*), CAST(SUM(amount) AS BIGINT), MIN(at), MAX(at) FROM orders WHERE contact_id = $1 AND NOT void GROUP BY contact_id";
    db.execute(sql, args![contact_id]).await.unwrap();
}

/// Contact of each order, by its number.
async fn orders(db: &Db) -> Vec<i64> {
    db.fetch_all("SELECT contact_id FROM orders ORDER BY id", vec![]).await.unwrap().iter().map(|row| row.get(0).unwrap()).collect()
}

on_each_database! {
    async fn a_merged_contact_gets_no_mail_and_what_it_did_counts_for_the_other(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, "email,first_name,city,external_id\nnew@tea.example,Mei,,\nold@tea.example,Mei,Tainan,C-7\n");
        let db = database.open().await;
        let (new, old) = (id_of(&db, "new@tea.example").await, id_of(&db, "old@tea.example").await);
        order(&db, 1, old, 100, 25_0000).await;
        order(&db, 2, new, 200, 5_0000).await;

        let merge = |more: &[&str]| {
            shop.optin(&[&["contact", "merge", "new@tea.example", "old@tea.example", "--source", "she wrote us", "--json"], more].concat())
        };
        let dry = merge(&["--dry-run"]).exits(0).json();
        assert_eq!((&dry["merge"], &dry["taken"]), (&serde_json::Value::Null, &serde_json::json!(["external_id", "city"])), "{dry}");
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact_merge").await, 0);
        let done = merge(&[]).exits(0).json();
        assert_eq!(done["moved"], serde_json::json!({ "orders": 1, "events": 0 }));
        assert_eq!(done["withdrawn"], serde_json::json!({ "topics": [], "everything": false, "tracking": null, "profiling_refused": false }));
        assert_eq!(orders(&db).await, [new, new]);
        assert_eq!(count(&db, "SELECT amount FROM order_total").await, 30_0000);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM engagement_due").await, 2);
        let shown = shop.optin(&["contact", "show", "new@tea.example", "--json"]).exits(0).json();
        assert_eq!((&shown["attributes"]["city"], &shown["attributes"]["external_id"]), (&"Tainan".into(), &"C-7".into()));
        assert_eq!(shop.optin(&["contact", "show", "old@tea.example", "--json"]).exits(0).json()["merged_into"], "new@tea.example");

        let sent = shop.optin(&["send", "weekly", "--json"]).exits(0).json();
        assert_eq!(sent["sent"], 1, "{sent}");
        assert_eq!(sink.wait_for(1, 20)[0].to, ["new@tea.example"]);
        // The permit itself refuses, also one that was taken before.
        let mut tx = db.begin().await.unwrap();
        let topic: i64 = tx.fetch_one("SELECT id FROM topic WHERE name = 'letter'", vec![]).await.unwrap().get(0).unwrap();
        let taken = Permit::take(&mut tx, topic, &[new, old]).await.unwrap();
        assert!(taken[&new].is_ok());
        assert_eq!(taken[&old].as_ref().err(), Some(&Refusal::Merged));
        // What somebody asked for by that address still comes.
        assert!(Permit::take_for_messages(&mut tx, &[old]).await.unwrap()[&old].is_ok());
        tx.rollback().await.unwrap();

        // What is refused, with the next step.
        for (keep, gone, why) in [
            ("new@tea.example", "new@tea.example", "both are one contact"),
            ("old@tea.example", "new@tea.example", "o***@tea.example was merged into n***@tea.example"),
            ("new@tea.example", "old@tea.example", "undo that first"),
        ] {
            let refused = shop.optin(&["contact", "merge", keep, gone, "--source", "x"]).exits(1);
            assert!(refused.stderr.contains(why), "{refused}");
        }
        shop.optin(&["contact", "unmerge", "new@tea.example"]).exits(1);
        shop.optin(&["contact", "unmerge", "12345"]).exits(1);

        // A value that was changed since is not taken away.
        shop.optin(&["contact", "change", "new@tea.example", "--set", "city=Taipei"]).exits(0);
        let undone = shop.optin(&["contact", "unmerge", "old@tea.example", "--json"]).exits(0).json();
        assert_eq!((&undone["emptied"], &undone["moved"]["orders"]), (&serde_json::json!(["external_id"]), &1.into()), "{undone}");
        assert_eq!(orders(&db).await, [old, new]);
        let listed = shop.optin(&["contact", "merges", "old@tea.example", "--json"]).exits(0).json();
        assert_eq!((&listed["merges"][0]["source"], listed["merges"][0]["undone_at"].is_string()), (&"she wrote us".into(), true));
        assert!(shop.optin(&["contact", "merges"]).exits(0).stdout.contains("she wrote us"));
        shop.optin(&["contact", "unmerge", "old@tea.example"]).exits(1);
        assert_eq!(shop.optin(&["send", "weekly", "--again", "--json"]).exits(0).json()["sent"], 2);
    }
}

on_each_database! {
    async fn a_mail_that_was_due_to_a_merged_contact_does_not_leave(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, "email\nnew@tea.example\nold@tea.example\n");
        let db = database.open().await;
        let (new, old) = (id_of(&db, "new@tea.example").await, id_of(&db, "old@tea.example").await);
        let mut tx = db.begin().await.unwrap();
        let topic: i64 = tx.fetch_one("SELECT id FROM topic WHERE name = 'letter'", vec![]).await.unwrap().get(0).unwrap();
        let taken = Permit::take(&mut tx, topic, &[new, old]).await.unwrap();
        tx.commit().await.unwrap();
        let permits: Vec<&Permit> = [new, old].iter().map(|id| taken[id].as_ref().unwrap()).collect();
        shop.optin(&["contact", "merge", "new@tea.example", "old@tea.example", "--source", "same"]).exits(0);
        let mut tx = db.begin().await.unwrap();
        assert_eq!(Permit::recheck(&mut tx, &permits).await.unwrap(), [None, Some(Refusal::Merged)]);
        tx.rollback().await.unwrap();
    }
}

on_each_database! {
    async fn what_one_address_took_back_holds_for_the_other_and_stays_lost(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(
            &shop,
            "email\nkeep1@tea.example\ngone1@tea.example\nkeep2@tea.example\ngone2@tea.example\nkeep3@tea.example\ngone3@tea.example\n\
             keep4@tea.example\ngone4@tea.example\n",
        );
        shop.optin(&["consent", "withdraw", "gone1@tea.example", "--topic", "offers", "--source", "x"]).exits(0);
        shop.optin(&["consent", "withdraw", "gone2@tea.example", "--source", "x"]).exits(0);
        shop.optin(&["consent", "tracking", "gone1@tea.example", "none", "--source", "x"]).exits(0);
        shop.optin(&["suppression", "add", "gone3@tea.example", "--reason", "complaint"]).exits(0);
        shop.optin(&["suppression", "add", "gone4@tea.example", "--reason", "bounce"]).exits(0);
        let merge = |number: u8| {
            let (keep, gone) = (format!("keep{number}@tea.example"), format!("gone{number}@tea.example"));
            shop.optin(&["contact", "merge", &keep, &gone, "--source", "same", "--json"]).exits(0).json()["withdrawn"].clone()
        };
        let one = merge(1);
        assert_eq!((&one["topics"], &one["tracking"]), (&serde_json::json!(["offers"]), &"none".into()), "{one}");
        assert_eq!((standing(&shop, "keep1@tea.example", "offers"), standing(&shop, "keep1@tea.example", "letter")), ("unsubscribed".into(), "subscribed".into()));
        for number in [2, 3] {
            assert_eq!(merge(number)["everything"], true);
            let keep = format!("keep{number}@tea.example");
            assert_eq!((standing(&shop, &keep, "letter"), standing(&shop, &keep, "offers")), ("unsubscribed".into(), "unsubscribed".into()));
        }
        // A bounce is about the address.
        assert_eq!(merge(4)["everything"], false);
        assert_eq!(standing(&shop, "keep4@tea.example", "letter"), "subscribed");

        let undone = shop.optin(&["contact", "unmerge", "gone1@tea.example"]).exits(0);
        assert!(undone.stderr.contains("stays lost"), "{undone}");
        assert_eq!(standing(&shop, "keep1@tea.example", "offers"), "unsubscribed");
        // What was taken back while both were one holds for both.
        shop.optin(&["consent", "withdraw", "keep4@tea.example", "--topic", "letter", "--source", "x"]).exits(0);
        let undone = shop.optin(&["contact", "unmerge", "gone4@tea.example", "--json"]).exits(0).json();
        assert_eq!(undone["withdrawn"]["topics"], serde_json::json!(["letter"]), "{undone}");
        assert_eq!((standing(&shop, "gone4@tea.example", "letter"), standing(&shop, "gone4@tea.example", "offers")), ("unsubscribed".into(), "subscribed".into()));
        shop.optin(&["consent", "verify"]).exits(0);
        assert_eq!(shop.optin(&["consent", "rebuild", "--json"]).exits(0).json()["differing"], 0);
    }
}

on_each_database! {
    async fn an_old_mail_ends_all_mail_and_only_its_owner_takes_an_address_out_of_a_merge(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, "email\nnew@tea.example\nold@tea.example\n");
        shop.optin(&["send", "weekly", "--json"]).exits(0);
        let mails = sink.wait_for(2, 20);
        let old_mail = mails.iter().find(|mail| mail.to == ["old@tea.example"]).unwrap();
        shop.optin(&["contact", "merge", "new@tea.example", "old@tea.example", "--source", "same"]).exits(0);
        let db = database.open().await;
        let (new, old) = (id_of(&db, "new@tea.example").await, id_of(&db, "old@tea.example").await);
        order(&db, 1, old, 100, 25_0000).await;
        db.execute("UPDATE orders SET contact_id = $1", args![new]).await.unwrap();
        db.execute("UPDATE order_line SET contact_id = $1", args![new]).await.unwrap();
        let _serving = serve(&shop, &[]);
        assert_eq!(get(&link(&old_mail.data, "/u/")).status, 200);
        assert_eq!(standing(&shop, "new@tea.example", "letter"), "subscribed", "looking changes nothing");
        assert_eq!(post(&link(&old_mail.data, "/u/"), FORM, b"List-Unsubscribe=One-Click").status, 200);
        assert_eq!((standing(&shop, "new@tea.example", "letter"), standing(&shop, "old@tea.example", "letter")), ("unsubscribed".into(), "unsubscribed".into()));
        assert_eq!(standing(&shop, "new@tea.example", "offers"), "subscribed");

        // An import, a grant: the address stays where it is.
        people(&shop, "email\nold@tea.example\n");
        shop.optin(&["consent", "grant", "old@tea.example", "--topic", "news", "--source", "form 17"]).exits(0);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact WHERE merged_into IS NOT NULL").await, 1);
        // By its page it is asked first, also about a topic that it has, or that needs no question.
        let page = get(&link(&old_mail.data, "/p/")).text();
        let (before, _) = page.split_once("Tea letter").unwrap();
        let topic = before.rsplit("name=\"topic\" value=\"").next().unwrap().split('"').next().unwrap().to_owned();
        let saved = post(&link(&old_mail.data, "/p/"), FORM, format!("shown={topic}&topic={topic}").as_bytes());
        assert!(saved.text().contains("once you follow the link"), "{}", saved.text());
        let question = sink.wait_for(3, 20).remove(2);
        assert_eq!(question.to, ["old@tea.example"]);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact WHERE merged_into IS NOT NULL").await, 1);
        assert_eq!(post(&link(&question.data, "/s/"), FORM, b"").status, 200);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact WHERE merged_into IS NOT NULL").await, 0);
        assert_eq!((standing(&shop, "new@tea.example", "letter"), standing(&shop, "old@tea.example", "letter")), ("unsubscribed".into(), "subscribed".into()));
        assert_eq!(orders(&db).await, [old], "what was known as this address is its own again");
    }
}

on_each_database! {
    async fn a_person_is_copied_and_erased_with_all_their_contacts(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        people(&shop, "email,city,external_id\nnew@tea.example,,\nold@tea.example,Tainan,C-7\nolder@tea.example,Hualien,\nother@tea.example,,\n");
        let merge = |keep: &str, gone: &str| shop.optin(&["contact", "merge", keep, gone, "--source", "Mei wrote us"]).exits(0);
        merge("old@tea.example", "older@tea.example");
        merge("new@tea.example", "old@tea.example");
        let copy = shop.optin(&["contact", "export", "new@tea.example", "--json"]).exits(0).json();
        let emails: Vec<&str> = copy["merged"].as_array().unwrap().iter().map(|one| one["person"]["fields"]["email"].as_str().unwrap()).collect();
        assert_eq!(emails.len(), 2, "{copy}");
        let identities = shop.optin(&["contact", "identity", "list", "new@tea.example", "--json"]).exits(0).json();
        assert_eq!(identities["identities"].as_array().unwrap().len(), 5, "{identities}");

        // One that was merged goes alone, with what leads to it, and takes what it brought.
        merge("other@tea.example", "new@tea.example");
        shop.optin(&["contact", "erase", "old@tea.example", "--yes"]).exits(0);
        let db = database.open().await;
        let left = "SELECT email FROM contact ORDER BY email";
        let emails = |rows: Vec<optin::db::Row>| rows.iter().map(|row| row.get::<String>(0).unwrap()).collect::<Vec<_>>();
        assert_eq!(emails(db.fetch_all(left, vec![]).await.unwrap()), ["new@tea.example", "other@tea.example"]);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact WHERE t_city = 'Hualien'").await, 0);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact_merge WHERE source <> ''").await, 1, "{:?}", "the merge of those who stay");
        shop.optin(&["contact", "erase", "other@tea.example", "--yes"]).exits(0);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact").await, 0);
        assert_eq!(count(&db, "SELECT COUNT(*) FROM contact_merge WHERE source <> '' OR detail <> '{}'").await, 0);
        shop.optin(&["consent", "verify"]).exits(0);
    }
}

const CONTACTS: usize = 6;

struct Stage {
    db: Db,
    schema: Schema,
    entropy: Entropy,
    contacts: Vec<i64>,
}

impl Stage {
    async fn build(db: Db, entropy: Entropy) -> Self {
        use optin::config::AttributeType::{Number, Text};
        let schema = Schema::new(&BTreeMap::from([("city".to_owned(), Text), ("age".to_owned(), Number)]));
        contact::ops::ensure_columns(&db, &schema).await.unwrap();
        db.execute("INSERT INTO event_type (name, since) VALUES ('visit', 0) ON CONFLICT (name) DO NOTHING", vec![]).await.unwrap();
        let event = "CREATE TABLE IF NOT EXISTS did_visit (id BIGINT PRIMARY KEY, event_key TEXT NOT NULL, contact_id BIGINT NOT NULL, known_as BIGINT NOT NULL)";
        db.execute(event, vec![]).await.unwrap();
        let mut stage = Stage { db, schema, entropy, contacts: Vec::new() };
        for table in ["contact", "contact_merge", "orders", "order_line", "order_total", "did_visit"] {
            stage.db.execute(&format!("DELETE FROM {table}"), vec![]).await.unwrap();
        }
        for number in 0..CONTACTS {
            let mut fields = Vec::new();
            if stage.entropy.chance(0.5) {
                fields.push(("city", AttributeValue::Text(format!("city{number}"))));
            }
            if stage.entropy.chance(0.5) {
                fields.push(("age", AttributeValue::Number(0.1 * number as f64)));
            }
            if stage.entropy.chance(0.4) {
                fields.push(("external_id", AttributeValue::Text(format!("C{}", number / 2))));
            }
            let address = Address::parse(&format!("p{number}@tea.example")).unwrap();
            let mut tx = stage.db.begin().await.unwrap();
            let id = contact::ops::upsert(&mut tx, &stage.schema, &stage.entropy, NOW, &address, &fields).await.unwrap().id;
            tx.commit().await.unwrap();
            stage.contacts.push(id);
            for at in 0..stage.entropy.below(3) as i64 {
                let order_id = number as i64 * 10 + at + 1;
                order(&stage.db, order_id, id, 1_000 + order_id, stage.entropy.below(4) as i64 * 10_000).await;
                let sql = "INSERT INTO did_visit (id, event_key, contact_id, known_as) VALUES ($1, $2, $3, $3)";
                stage.db.execute(sql, args![order_id, format!("e{order_id}"), id]).await.unwrap();
            }
        }
        stage
    }

    async fn people(&self) -> Vec<Contact> {
        let mut people = contact::sql::by_ids(&mut self.db.clone(), &self.schema, &self.contacts).await.unwrap();
        people.sort_by_key(|person| person.id);
        people
    }

    /// Everything that a merge may touch, permission apart.
    async fn state(&self) -> (Vec<Contact>, Vec<String>) {
        let mut rows = Vec::new();
        for sql in [
            "SELECT id, contact_id, known_as FROM orders ORDER BY id",
            "SELECT order_id, contact_id, line FROM order_line ORDER BY order_id",
            "SELECT contact_id, orders, amount FROM order_total ORDER BY contact_id",
            "SELECT id, contact_id, known_as FROM did_visit ORDER BY id",
        ] {
            for row in self.db.fetch_all(sql, vec![]).await.unwrap() {
                let numbers: Vec<i64> = (0..3).map(|at| row.get(at).unwrap()).collect();
                rows.push(format!("{} {numbers:?}", &sql[..20]));
            }
        }
        (self.people().await, rows)
    }

    /// What must be true after each step: `into` is whom each contact was merged into.
    async fn check(&self, into: &BTreeMap<i64, i64>) {
        let end = |mut id: i64| {
            while let Some(next) = into.get(&id) {
                id = *next;
            }
            id
        };
        let mut tx = self.db.begin().await.unwrap();
        let persons = contact::identity::persons(&mut tx, &self.contacts).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(persons, self.contacts.iter().map(|id| (*id, end(*id))).collect(), "who is who");
        let mut totals: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for table in ["orders", "did_visit"] {
            let amount = if table == "orders" { "CASE WHEN void THEN -1 ELSE amount END" } else { "-1" };
            let sql = format!("SELECT contact_id, known_as, CAST({amount} AS BIGINT) FROM {table}");
            for row in self.db.fetch_all(&sql, vec![]).await.unwrap() {
                let (contact_id, known_as, amount): (i64, i64, i64) = (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
                assert_eq!(contact_id, end(known_as), "{table}");
                if amount >= 0 {
                    let total = totals.entry(contact_id).or_default();
                    *total = (total.0 + 1, total.1 + amount);
                }
            }
        }
        let stored = self.db.fetch_all("SELECT contact_id, orders, amount FROM order_total", vec![]).await.unwrap();
        let stored: BTreeMap<i64, (i64, i64)> =
            stored.iter().map(|row| (row.get(0).unwrap(), (row.get(1).unwrap(), row.get(2).unwrap()))).collect();
        assert_eq!(stored, totals, "totals are what the rows say");
        let lines = "SELECT COUNT(*) FROM order_line l JOIN orders o ON o.id = l.order_id WHERE o.contact_id <> l.contact_id";
        assert_eq!(count(&self.db, lines).await, 0);
    }

    async fn merge(&self, kept: i64, gone: i64) -> Result<i64, merge::NotMerged> {
        let people = self.people().await;
        let of = |id: i64| people.iter().find(|person| person.id == id).unwrap();
        let mut tx = self.db.begin().await.unwrap();
        let (id, rules) = (self.entropy.id(NOW), TrackingRules::default());
        let done = merge::merge(&mut tx, &self.schema, &rules, id, of(kept), of(gone), "test", NOW).await;
        match done {
            Ok(done) => tx.commit().await.map(|()| done.id).map_err(Into::into),
            Err(error) => tx.rollback().await.map_err(Into::into).and(Err(error)),
        }
    }

    async fn undo(&self, gone: i64) {
        let mut tx = self.db.begin().await.unwrap();
        let merge = contacts::of_gone(&mut tx, gone).await.unwrap().unwrap();
        merge::unmerge(&mut tx, &TrackingRules::default(), &merge, &[], NOW).await.unwrap();
        tx.commit().await.unwrap();
    }
}

on_each_database! {
    async fn merges_and_undos_in_any_order_count_right_and_undoing_all_gives_the_first_state(database) {
        let db = database.open().await;
        for seed in 0..12 {
            let stage = Stage::build(db.clone(), Entropy::seeded(seed)).await;
            let first = stage.state().await;
            let mut into: BTreeMap<i64, i64> = BTreeMap::new();
            for _ in 0..12 {
                let pick = |count: usize| stage.entropy.below(count as u64) as usize;
                if !into.is_empty() && stage.entropy.chance(0.35) {
                    let gone = *into.keys().nth(pick(into.len())).unwrap();
                    stage.undo(gone).await;
                    into.remove(&gone);
                } else {
                    let (kept, gone) = (stage.contacts[pick(CONTACTS)], stage.contacts[pick(CONTACTS)]);
                    let possible = kept != gone && !into.contains_key(&kept) && !into.contains_key(&gone);
                    assert_eq!(stage.merge(kept, gone).await.is_ok(), possible, "seed {seed}");
                    if possible {
                        into.insert(gone, kept);
                    }
                }
                stage.check(&into).await;
            }
            while !into.is_empty() {
                let gone = *into.keys().nth(stage.entropy.below(into.len() as u64) as usize).unwrap();
                stage.undo(gone).await;
                into.remove(&gone);
                stage.check(&into).await;
            }
            assert_eq!(stage.state().await, first, "seed {seed}: all undone is as before");
        }
    }
}
