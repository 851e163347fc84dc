//! Sizes of segments over time, who came and who went, and lists that stay as they were.

use serde_json::Value;

use crate::support::smtp::Sink;
use crate::support::{self, Instance, on_each_database, wait_until};

const SEGMENTS: &str = "[locals]\nwhere = \"city = 'Taipei'\"\n\n[grown]\nwhere = \"born < today - 18y\"\n\n[quiet]\nwhere = \"not opened()\"\nhistory = false\n";
const FILES: &[(&str, &str)] = &[
    (
        "optin.toml",
        "[site]\nurl = \"http://127.0.0.1:8080\"\n[sender]\nname = \"Tea House\"\nemail = \"letters@tea.example\"\npostal_address = \"1 Leaf Street, Taipei\"\n\
         [attributes]\ncity = \"text\"\nborn = \"date\"\n",
    ),
    ("topics.toml", "[letter]\nname = \"Letter\"\ndescription = \"Weekly\"\n"),
    ("segments.toml", SEGMENTS),
    ("campaigns/hello.toml", "topic = \"letter\"\naudience = \"frozen('first')\"\nsubject = \"Hello\"\nbody = \"hello.md\"\n"),
    ("campaigns/hello.md", "Hello\n"),
];

/// Three people: two in Taipei, of whom one comes of age on 3 December 2026.
const PEOPLE: &str =
    "email,city,born\nmei@tea.example,Taipei,1990-05-04\nbo@tea.example,Taipei,2008-12-02\nada@tea.example,London,1980-01-01\n";

fn shop(database: &support::TestDatabase, sink: &Sink) -> Instance {
    let shop = support::instance(database, FILES).with_smtp(sink);
    import(&shop, PEOPLE);
    shop
}

fn import(shop: &Instance, people: &str) {
    std::fs::write(shop.root().join("people.csv"), people).unwrap();
    let call = ["import", "contacts", "people.csv", "--topic", "letter", "--consent", "confirmed", "--source", "till"];
    shop.command(&call).clock("2026-12-01T08:00:00Z").run().exits(0);
}

fn at(shop: &Instance, time: &str, call: &[&str]) -> Value {
    shop.command(&[call, &["--json"]].concat()).clock(time).run().exits(0).json()
}

/// Size, joined and departed of a segment after a look at that time.
fn look(shop: &Instance, time: &str, name: &str) -> [i64; 3] {
    let found = at(shop, time, &["segment", "refresh", name])["segments"][0].clone();
    ["size", "joined", "departed"].map(|key| found[key].as_i64().unwrap())
}

fn changes(shop: &Instance, time: &str, name: &str) -> Vec<String> {
    let found = at(shop, time, &["segment", "changes", name, "--since", "2026-12-01T00:00:00Z"]);
    let list = found["changes"].as_array().unwrap().iter();
    list.map(|change| format!("{} {}", change["email"].as_str().unwrap(), change["change"].as_str().unwrap())).collect()
}

on_each_database!(
    async fn a_look_tells_who_came_and_who_went(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        assert_eq!(look(&shop, "2026-12-01T09:00:00Z", "locals"), [2, 0, 0], "the first look: nobody did anything");
        assert_eq!(look(&shop, "2026-12-01T09:10:00Z", "grown"), [2, 0, 0]);
        assert_eq!(changes(&shop, "2026-12-01T10:00:00Z", "locals"), Vec::<String>::new());
        import(&shop, "email,city\nmei@tea.example,Tainan\nnew@tea.example,Taipei\n");
        assert_eq!(look(&shop, "2026-12-02T09:00:00Z", "locals"), [2, 1, 1]);
        assert_eq!(look(&shop, "2026-12-02T09:05:00Z", "locals"), [2, 0, 0], "once told is told");
        let mut told = changes(&shop, "2026-12-02T10:00:00Z", "locals");
        told.sort();
        assert_eq!(told, ["mei@tea.example left", "new@tea.example joined"]);
        // Time alone lets somebody in.
        assert_eq!(look(&shop, "2026-12-03T09:10:00Z", "grown"), [3, 1, 0]);
        assert_eq!(changes(&shop, "2026-12-03T10:00:00Z", "grown"), ["bo@tea.example joined"]);
        // Another rule is another segment.
        shop.write("segments.toml", SEGMENTS.replace("'Taipei'", "'London'"));
        assert_eq!(look(&shop, "2026-12-04T09:00:00Z", "locals"), [1, 0, 0]);
        assert_eq!(changes(&shop, "2026-12-04T10:00:00Z", "locals").len(), 2, "nobody joined by the change");
        // Sizes alone, without members.
        assert_eq!(look(&shop, "2026-12-04T09:00:00Z", "quiet"), [4, 0, 0]);
        let refused = shop.optin(&["segment", "changes", "quiet"]).exits(1);
        assert!(refused.stderr.contains("history = false"), "{refused}");
        let list = at(&shop, "2026-12-04T10:00:00Z", &["segment", "list"])["segments"].clone();
        let locals = list.as_array().unwrap().iter().find(|segment| segment["segment"] == "locals").unwrap();
        let sizes: Vec<i64> = locals["sizes"].as_array().unwrap().iter().map(|look| look["size"].as_i64().unwrap()).collect();
        assert_eq!((locals["count"].as_i64(), sizes), (Some(1), vec![2, 2, 2, 1]));
        let text = shop.command(&["segment", "list"]).clock("2026-12-04T10:00:00Z").run().exits(0).stdout;
        assert!(text.contains("███▄"), "{text}");
        let unknown = shop.optin(&["segment", "refresh", "localls"]).exits(2);
        assert!(unknown.stderr.contains("did you mean `locals`?"), "{unknown}");
    }
);

on_each_database!(
    async fn members_in_many_blocks_are_those_that_the_rule_picks(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        // More than one block of contacts.
        let many: String = (0..21_000).map(|index| format!("p{index}@tea.example,{}\n", if index % 3 == 0 { "Taipei" } else { "Bonn" })).collect();
        std::fs::write(shop.root().join("many.csv"), format!("email,city\n{many}")).unwrap();
        shop.command(&["import", "contacts", "many.csv", "--consent", "none"]).clock("2026-12-01T08:30:00Z").run().exits(0);
        assert_eq!(look(&shop, "2026-12-01T09:00:00Z", "locals"), [7_002, 0, 0]);
        let moved: String = (0..21_000).step_by(2).map(|index| format!("p{index}@tea.example,Bonn\n")).collect();
        std::fs::write(shop.root().join("many.csv"), format!("email,city\n{moved}p1@tea.example,Taipei\n")).unwrap();
        shop.command(&["import", "contacts", "many.csv", "--consent", "none"]).clock("2026-12-01T09:30:00Z").run().exits(0);
        assert_eq!(look(&shop, "2026-12-02T09:00:00Z", "locals"), [3_503, 1, 3_500]);
        let db = database.open().await;
        let count = |sql: &'static str| { let db = db.clone(); async move { db.fetch_one(sql, Vec::new()).await.unwrap().get::<i64>(0).unwrap() } };
        let wrong = "SELECT (SELECT COUNT(*) FROM segment_member m JOIN segment_name n ON n.id = m.segment_id AND n.name = 'locals')
            - (SELECT COUNT(*) FROM contact c WHERE c.t_city = 'Taipei')
            + (SELECT COUNT(*) FROM segment_member m JOIN contact c ON c.id = m.contact_id WHERE c.t_city <> 'Taipei')";
        assert_eq!(count(wrong).await, 0);
        // A list of all of them is as large, and stays so.
        let list = at(&shop, "2026-12-02T10:00:00Z", &["segment", "freeze", "locals", "--as", "locals-2"]);
        assert_eq!(list["size"], 3_503);
        // A segment that is gone from the files leaves nobody behind, once the house has looked.
        shop.write("segments.toml", "[quiet]\nwhere = \"not opened()\"\n");
        let instance = optin::instance::Instance::open(shop.load().unwrap(), optin::clock::Clock::system(), optin::entropy::Entropy::seeded(1)).await.unwrap();
        let names = std::collections::BTreeSet::from(["quiet"]);
        optin::segment::history::forget_others(&instance.db, &names).await.unwrap();
        assert_eq!(count("SELECT COUNT(*) FROM segment_member").await + count("SELECT COUNT(*) FROM segment_change").await, 0);
        assert_eq!(count("SELECT COUNT(*) FROM segment_size WHERE segment = 'locals'").await, 2, "sizes stay");
    }
);

on_each_database!(
    async fn a_frozen_list_stays_as_it_was_and_serves_an_audience(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        let now = "2026-12-01T09:00:00Z";
        let missing = shop.command(&["segment", "count", "frozen('first')"]).clock(now).run().exits(2);
        assert!(missing.stderr.contains("there is no frozen list `first`") && missing.stderr.contains("--as first"), "{missing}");
        let early = shop.command(&["send", "hello"]).clock(now).run();
        assert!(early.code != 0 && early.stderr.contains("frozen list `first`"), "{early}");
        assert_eq!(at(&shop, now, &["segment", "freeze", "city = 'Taipei'", "--as", "first"])["size"], 2);
        let again = shop.command(&["segment", "freeze", "city = 'London'", "--as", "first"]).clock(now).run().exits(1);
        assert!(again.stderr.contains("already"), "{again}");
        let misspelt = shop.command(&["segment", "count", "frozen('frist')"]).clock(now).run().exits(2);
        assert!(misspelt.stderr.contains("did you mean `first`?"), "{misspelt}");
        import(&shop, "email,city\nmei@tea.example,Tainan\nada@tea.example,Taipei\n");
        let later = "2026-12-02T09:00:00Z";
        let members = at(&shop, later, &["segment", "members", "frozen('first')"])["members"].clone();
        let emails: std::collections::BTreeSet<&str> = members.as_array().unwrap().iter().map(|member| member["email"].as_str().unwrap()).collect();
        assert_eq!(emails, std::collections::BTreeSet::from(["bo@tea.example", "mei@tea.example"]));
        let used = shop.command(&["segment", "thaw", "first"]).clock(later).run().exits(1);
        assert!(used.stderr.contains("campaign `hello`"), "{used}");
        let sent = at(&shop, later, &["send", "hello"]);
        assert_eq!(sent["sent"], 2);
        let lists = at(&shop, later, &["segment", "lists"])["lists"].clone();
        assert_eq!((&lists[0]["list"], &lists[0]["size"], &lists[0]["where"]), (&"first".into(), &2.into(), &"city = 'Taipei'".into()));
        at(&shop, later, &["segment", "freeze", "vip-free or frozen('first')".replace("vip-free", "city = 'Bonn'").as_str(), "--as", "second"]);
        assert_eq!(at(&shop, later, &["segment", "thaw", "second"])["dropped"], true);
        shop.command(&["segment", "thaw", "second"]).clock(later).run().exits(1);
    }
);

on_each_database!(
    async fn an_erased_person_is_in_no_list_and_a_copy_names_them_all(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        look(&shop, "2026-12-01T09:00:00Z", "locals");
        import(&shop, "email,city\nada@tea.example,Taipei\n");
        look(&shop, "2026-12-02T09:00:00Z", "locals");
        at(&shop, "2026-12-02T10:00:00Z", &["segment", "freeze", "locals", "--as", "first"]);
        let copy = at(&shop, "2026-12-02T11:00:00Z", &["contact", "export", "ada@tea.example"]);
        assert_eq!(copy["segments"][0]["segment"], "locals", "{copy:#}");
        assert_eq!(copy["segment_changes"][0]["change"], "joined");
        assert_eq!(copy["frozen_lists"][0]["list"], "first");
        shop.command(&["contact", "erase", "ada@tea.example", "--yes"]).clock("2026-12-02T12:00:00Z").run().exits(0);
        let db = database.open().await;
        for table in ["segment_member", "segment_change", "frozen_member"] {
            let sql = format!("SELECT COUNT(*) FROM {table} m WHERE NOT EXISTS (SELECT 1 FROM contact c WHERE c.id = m.contact_id)");
            assert_eq!(db.fetch_one(&sql, Vec::new()).await.unwrap().get::<i64>(0).unwrap(), 0, "{table}");
        }
        assert_eq!(look(&shop, "2026-12-03T09:00:00Z", "locals"), [2, 0, 0], "nobody left: they are no more");
    }
);

on_each_database!(
    async fn the_house_looks_once_a_day(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        let db = database.open().await;
        let serve = shop.command(&["serve"]).clock("2026-12-01T09:00:00Z").spawn();
        // It waits half a minute before its first look.
        wait_until("every segment has a size", 60, || {
            let db = db.clone();
            let count = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current()
                    .block_on(async move { db.fetch_one("SELECT COUNT(*) FROM segment_size", Vec::new()).await.unwrap().get::<i64>(0).unwrap() })
            });
            (count == 3).then_some(())
        });
        serve.signal("TERM");
        assert_eq!(serve.wait(20).0, 0);
    }
);
