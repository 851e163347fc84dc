//! By what people are known: what is kept, found, refused, and shown.

use optin::clock::Time;
use optin::contact::identity::{self, Added, Kind, Person, Resolved};
use optin::db::Db;
use optin::entropy::Entropy;

use crate::support::{self, Instance, on_each_database};

const NOW: Time = Time::from_millis(1_800_000_000_000);

async fn resolve(db: &Db, asked: &[(Kind, &str)]) -> Vec<Resolved> {
    let mut tx = db.begin().await.unwrap();
    let found = identity::resolve_many(&mut tx, asked).await.unwrap();
    tx.commit().await.unwrap();
    found
}

async fn id_of(db: &Db, email: &str) -> i64 {
    db.fetch_one("SELECT id FROM contact WHERE email_key = $1", optin::args![email]).await.unwrap().get(0).unwrap()
}

fn person(id: i64) -> Resolved {
    Resolved::Person(Person { contact_id: id, known_as: id })
}

fn import(instance: &Instance, csv: &str) {
    instance.write("../people.csv", csv);
    instance.optin(&["import", "contacts", "people.csv", "--consent", "none", "--source", "shop"]).exits(0);
}

on_each_database! {
    async fn people_are_found_by_all_they_are_known_by_and_nobody_is_picked_from_several(database) {
        let instance = support::instance(&database, &[]);
        import(
            &instance,
            "email,external_id,phone\nmei@tea.example,C-1,+886 912-345-678\nanna@tea.example,C-2,0049 (0)30 1234567\n\
             ben@tea.example,C-3,02 1111 2222\ncai@tea.example,C-3,02-1111-2222\n",
        );
        let db = database.open().await;
        let (mei, anna) = (id_of(&db, "mei@tea.example").await, id_of(&db, "anna@tea.example").await);
        let found = resolve(
            &db,
            &[
                (Kind::Email, "MEI@tea.example"),
                (Kind::ExternalId, "C-2"),
                (Kind::Phone, "00886912345678"),
                (Kind::Phone, "+49 30 1234567"),
                (Kind::ExternalId, "c-2"),
                (Kind::Email, "no address"),
                (Kind::Device, "unknown"),
                (Kind::ExternalId, "C-2"),
            ],
        )
        .await;
        assert_eq!(
            found,
            [person(mei), person(anna), person(mei), person(anna), Resolved::Unknown, Resolved::Unknown, Resolved::Unknown, person(anna)]
        );

        // Several have it: all are named, and none is picked.
        let several = resolve(&db, &[(Kind::ExternalId, "C-3"), (Kind::Phone, "(02) 11112222")]).await;
        for (kind, value, found) in [(Kind::ExternalId, "C-3", &several[0]), (Kind::Phone, "0211112222", &several[1])] {
            let Resolved::Ambiguous(contacts) = found else { panic!("{found:?}") };
            let text = identity::describe_ambiguity(&mut db.clone(), kind, value, contacts).await.unwrap();
            assert!(text.contains("of 2 contacts: b***@tea.example, c***@tea.example") && text.contains("hint: "), "{text}");
            assert!(!text.contains("ben@"), "{text}");
        }
    }
}

on_each_database! {
    async fn identities_are_added_shown_and_removed_and_what_is_anothers_stays_theirs(database) {
        let instance = support::instance(&database, &[]);
        import(&instance, "email,external_id,phone\nmei@tea.example,C-1,0912345678\nanna@tea.example,C-2,\n");
        let add = |email: &str, kind: &str, value: &str| {
            instance.optin(&["contact", "identity", "add", email, kind, value, "--source", "by telephone", "--json"])
        };
        assert_eq!(add("mei@tea.example", "email", "Mei@Work.example").exits(0).json()["value"], "mei@work.example");
        assert_eq!(add("mei@tea.example", "phone", "+886 912 345 678").exits(0).json()["added"], true);
        assert_eq!(add("mei@tea.example", "phone", "00886-912345678").exits(0).json()["added"], false);
        for (email, kind, value) in [
            ("anna@tea.example", "email", "mei@work.example"),
            ("anna@tea.example", "external_id", "C-1"),
            ("anna@tea.example", "phone", "0912 345 678"),
        ] {
            let refused = add(email, kind, value).exits(1);
            assert!(refused.stderr.contains("is of mei@tea.example") && refused.stderr.contains("contact merge"), "{refused}");
        }
        add("mei@tea.example", "email", "nothing").exits(2);
        add("mei@tea.example", "colour", "red").exits(2);

        let shown = instance.optin(&["contact", "identity", "list", "mei@tea.example", "--json"]).exits(0).json();
        let list: Vec<(&str, &str)> = shown["identities"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["kind"].as_str().unwrap(), one["value"].as_str().unwrap()))
            .collect();
        let all = [("email", "mei@tea.example"), ("external_id", "C-1"), ("phone", "0912345678"), ("email", "mei@work.example"), ("phone", "+886912345678")];
        assert_eq!(list, all);
        let words = instance.optin(&["contact", "show", "mei@tea.example"]).exits(0).stdout;
        assert!(words.contains("also known by email mei@work.example"), "{words}");

        // Data that a person gets, and what is left of them, say the same.
        let copy = instance.optin(&["contact", "export", "mei@tea.example", "--json"]).exits(0).json();
        assert_eq!(copy["person"]["identities"].as_array().unwrap().len(), 5, "{copy}");
        instance.optin(&["contact", "identity", "remove", "mei@tea.example", "email", "MEI@work.example"]).exits(0);
        instance.optin(&["contact", "identity", "remove", "mei@tea.example", "email", "mei@work.example"]).exits(1);
        let db = database.open().await;
        assert_eq!(resolve(&db, &[(Kind::Email, "mei@work.example")]).await, [Resolved::Unknown]);
        instance.optin(&["contact", "erase", "mei@tea.example", "--yes"]).exits(0);
        assert_eq!(db.fetch_one("SELECT COUNT(*) FROM identity", vec![]).await.unwrap().get::<i64>(0).unwrap(), 0);
    }
}

on_each_database! {
    async fn a_customer_number_that_was_replaced_still_finds_them_unless_it_is_somebody_elses_now(database) {
        let instance = support::instance(&database, &[]);
        import(&instance, "email,external_id\nmei@tea.example,C-1\nanna@tea.example,C-2\n");
        // Old and new numbers in one file, and once more: nothing is written twice.
        for _ in 0..2 {
            import(&instance, "email,external_id\nmei@tea.example,N-1\nanna@tea.example,N-2\nben@tea.example,N-3\n");
        }
        let db = database.open().await;
        let (mei, anna) = (id_of(&db, "mei@tea.example").await, id_of(&db, "anna@tea.example").await);
        let asked = [(Kind::ExternalId, "C-1"), (Kind::ExternalId, "N-1"), (Kind::ExternalId, "C-2")];
        assert_eq!(resolve(&db, &asked).await, [person(mei), person(mei), person(anna)]);
        let kept = db.fetch_all("SELECT value, source FROM identity ORDER BY value", vec![]).await.unwrap();
        let kept: Vec<(String, String)> = kept.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap())).collect();
        assert_eq!(kept, [("C-1".to_owned(), "import".to_owned()), ("C-2".to_owned(), "import".to_owned())]);

        // The number is given to somebody else: it is theirs.
        import(&instance, "email,external_id\nnew@tea.example,C-1\n");
        let new = id_of(&db, "new@tea.example").await;
        assert_eq!(resolve(&db, &[(Kind::ExternalId, "C-1")]).await, [person(new)]);
        let likely = instance.optin(&["contact", "duplicates", "--json"]).exits(0).json();
        assert_eq!(likely["duplicates"][0]["reason"], "identity", "{likely}");
        assert_eq!(likely["duplicates"][0]["contacts"], serde_json::json!(["mei@tea.example", "new@tea.example"]));

        // A correction says that it never was theirs.
        instance.optin(&["contact", "change", "ben@tea.example", "--set", "external_id=N-4"]).exits(0);
        assert_eq!(resolve(&db, &[(Kind::ExternalId, "N-3")]).await, [Resolved::Unknown]);
    }
}

on_each_database! {
    async fn likely_duplicates_are_listed_with_their_reason(database) {
        let instance = support::instance(&database, &[]);
        import(
            &instance,
            "email,external_id,phone\na.b+tea@gmail.com,,\nab@googlemail.com,,\nab@tea.example,,\n\
             one@tea.example,7,+886 2 1234\ntwo@tea.example,7,\nthree@tea.example,8,00886-2-1234\nfour@tea.example,,12\nfive@tea.example,,1 2\n",
        );
        let found = instance.optin(&["contact", "duplicates", "--json"]).exits(0).json();
        let groups: Vec<(String, Vec<String>)> = found["duplicates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| {
                let contacts = group["contacts"].as_array().unwrap().iter().map(|email| email.as_str().unwrap().to_owned());
                (group["reason"].as_str().unwrap().to_owned(), contacts.collect())
            })
            .collect();
        let group = |reason: &str, contacts: [&str; 2]| (reason.to_owned(), contacts.map(str::to_owned).to_vec());
        assert_eq!(
            groups,
            [
                group("external_id", ["one@tea.example", "two@tea.example"]),
                group("gmail", ["a.b+tea@gmail.com", "ab@googlemail.com"]),
                group("phone", ["one@tea.example", "three@tea.example"]),
            ]
        );
        // Who was merged is no duplicate any more.
        instance.optin(&["contact", "merge", "one@tea.example", "two@tea.example", "--source", "same card"]).exits(0);
        let words = instance.optin(&["contact", "duplicates"]).exits(0).stdout;
        assert!(!words.contains("two@tea.example") && words.contains("one Gmail mailbox"), "{words}");
    }
}

on_each_database! {
    async fn many_are_resolved_at_once(database) {
        let db = database.open().await;
        let entropy = Entropy::seeded(4);
        let mut tx = db.begin().await.unwrap();
        let mut ids = Vec::new();
        for number in 0..450 {
            let address = optin::contact::Address::parse(&format!("p{number}@tea.example")).unwrap();
            let fields = [("external_id", optin::contact::AttributeValue::Text(format!("C{number}")))];
            ids.push(optin::contact::ops::upsert(&mut tx, &Default::default(), &entropy, NOW, &address, &fields).await.unwrap().id);
            if number % 3 == 0 {
                let added = identity::add(&mut tx, ids[number], Kind::Device, &format!("d{number}"), "test", NOW).await.unwrap();
                assert_eq!(added, Added::Added);
            }
        }
        tx.commit().await.unwrap();
        let names: Vec<(Kind, String)> = (0..1_350)
            .map(|at| match at % 3 {
                0 => (Kind::Email, format!("P{}@tea.example", at / 3)),
                1 => (Kind::ExternalId, format!("C{}", at / 3)),
                _ => (Kind::Device, format!("d{}", at / 3)),
            })
            .collect();
        let asked: Vec<(Kind, &str)> = names.iter().map(|(kind, value)| (*kind, value.as_str())).collect();
        for (at, found) in resolve(&db, &asked).await.into_iter().enumerate() {
            let known = at % 3 < 2 || (at / 3) % 3 == 0;
            assert_eq!(found, if known { person(ids[at / 3]) } else { Resolved::Unknown }, "{:?}", asked[at]);
        }
    }
}
