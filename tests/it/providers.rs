//! Providers behind domains, learned from a name server on loopback.

use optin::args;
use optin::clock::{DAY, Time};
use optin::db::Db;
use optin::delivery::mx::{self, Learner, Resolver};
use optin::delivery::provider::Providers;

use crate::support::dns::NameServer;
use crate::support::on_each_database;

const NOW: Time = Time::from_millis(1_800_000_000_000);

async fn contacts(db: &Db, emails: &[&str], first_id: i64) {
    for (id, email) in (first_id..).zip(emails) {
        db.execute("INSERT INTO contact (id, email, email_key, created_at, updated_at) VALUES ($1, $2, $2, 1, 1)", args![id, *email])
            .await
            .unwrap();
    }
}

fn servers() -> NameServer {
    NameServer::start(&[
        ("oak.example", &[(20, "alt.mx.example"), (10, "aspmx.l.google.com")]),
        ("elm.example", &[(0, "elm-example.mail.protection.outlook.com")]),
        ("fir.example", &[(5, "mx.fir.example")]),
        ("xn--mnchen-3ya.example", &[(5, "mxbiz1.qq.com")]),
        ("late.example", &[(5, "mxbiz1.qq.com")]),
    ])
}

on_each_database!(
    async fn a_domain_learns_its_provider_from_its_mx_and_remembers_it_for_a_week(database) {
        let db = database.open().await;
        let server = servers();
        let resolver = Resolver::at(server.address);
        let (providers, mut learner) = (Providers::shipped(), Learner::default());
        contacts(&db, &["a@oak.example", "b@Oak.example", "c@elm.example", "d@fir.example", "e@gone.example", "f@gmail.com", "g@münchen.example"], 1).await;

        let learned = learner.learn(&db, &providers, &resolver, NOW).await.unwrap();
        assert_eq!((learned.contacts, learned.answered, learned.failed), (7, 5, 0));
        assert_eq!(server.asked(), ["elm.example", "fir.example", "gone.example", "oak.example", "xn--mnchen-3ya.example"], "gmail.com is known by name");
        for (domain, provider) in
            [("oak.example", "gmail"), ("elm.example", "microsoft365"), ("fir.example", "other"), ("gone.example", "other"), ("münchen.example", "qq")]
        {
            assert_eq!(providers.of(domain), provider, "{domain}");
        }

        // Nothing new, nothing old: nobody is asked, by this process or by another.
        assert!(learner.learn(&db, &providers, &resolver, NOW.plus(DAY)).await.unwrap().is_idle());
        let (others, mut another) = (Providers::shipped(), Learner::default());
        others.remember(mx::load(&db).await.unwrap());
        assert_eq!((others.of("oak.example"), others.of("fir.example")), ("gmail", "other"));
        assert_eq!(another.learn(&db, &others, &resolver, NOW.plus(DAY)).await.unwrap().answered, 0);
        assert_eq!(server.asked(), Vec::<String>::new());

        // New people are followed; after a week all is asked again, also what had no answer.
        contacts(&db, &["h@late.example"], 100).await;
        assert_eq!(learner.learn(&db, &providers, &resolver, NOW.plus(DAY)).await.unwrap().answered, 1);
        assert_eq!((server.asked(), providers.of("late.example")), (vec!["late.example".to_owned()], "qq"));
        assert_eq!(learner.learn(&db, &providers, &resolver, NOW.plus(7 * DAY + 1)).await.unwrap().answered, 5);
        assert_eq!(learner.learn(&db, &providers, &resolver, NOW.plus(8 * DAY + 1)).await.unwrap().answered, 1);
    }
);

on_each_database!(
    async fn one_call_is_bounded_and_the_largest_domains_come_first(database) {
        let db = database.open().await;
        let server = servers();
        let small: Vec<String> = (0..70).map(|number| format!("a@small{number}.example")).collect();
        contacts(&db, &small.iter().map(String::as_str).collect::<Vec<_>>(), 1).await;
        contacts(&db, &["a@oak.example", "b@oak.example"], 1_000).await;
        let (providers, mut learner) = (Providers::shipped(), Learner::default());
        let first = learner.learn(&db, &providers, &Resolver::at(server.address), NOW).await.unwrap();
        assert_eq!((first.answered, providers.of("oak.example")), (50, "gmail"));
        let second = learner.learn(&db, &providers, &Resolver::at(server.address), NOW).await.unwrap();
        assert_eq!((second.answered, server.asked().len()), (21, 71));
        assert!(learner.learn(&db, &providers, &Resolver::at(server.address), NOW).await.unwrap().is_idle());
    }
);

on_each_database!(
    async fn without_a_name_server_nothing_is_learned_and_nothing_is_lost(database) {
        let db = database.open().await;
        contacts(&db, &["a@oak.example"], 1).await;
        let (providers, mut learner) = (Providers::shipped(), Learner::default());
        let nobody = Resolver::at(format!("127.0.0.1:{}", crate::support::free_port()).parse().unwrap());
        let learned = learner.learn(&db, &providers, &nobody, NOW).await.unwrap();
        assert_eq!((learned.answered, learned.failed, providers.of("oak.example")), (0, 1, "other"));
        let server = servers();
        learner.learn(&db, &providers, &Resolver::at(server.address), NOW).await.unwrap();
        assert_eq!(providers.of("oak.example"), "gmail");
    }
);
