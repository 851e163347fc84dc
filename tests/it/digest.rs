//! Fewer mails: what a topic sent is collected, and comes when it was wanted.

use optin::args;
use optin::db::Db;

use crate::flows::{import, link, serve, shop, stop, subject};
use crate::support::smtp::Sink;
use crate::support::{Instance, http, on_each_database};

/// Until the choice was taken over, or forgotten.
async fn follows(db: &Db, digests: usize) {
    let mut left = 300;
    while db.fetch_all("SELECT topic_id FROM digest", args![]).await.unwrap().len() != digests {
        left -= 1;
        assert!(left > 0, "the choice is taken over");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Sends a campaign on a day; it is held back for whoever wants fewer mails.
async fn letter(shop: &Instance, db: &Db, name: &str, clock: &str) {
    shop.write(
        &format!("campaigns/{name}.toml"),
        format!("topic = \"offers\"\nsubject = \"{name} for {{{{ contact.email }}}}\"\nbody = \"{name}.md\"\n"),
    );
    shop.write(&format!("campaigns/{name}.md"), format!("The text of {name}.\n"));
    shop.command(&["send", name, "--json"]).clock(clock).run().exits(0);
    let sql = "UPDATE delivery SET state = 'skipped', reason = 'digest'
               WHERE contact_id IN (SELECT contact_id FROM subscription WHERE frequency IS NOT NULL)";
    db.execute(sql, args![]).await.unwrap();
}

on_each_database! {
    async fn a_week_of_letters_comes_as_one_mail(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "mei@tea.example,zh_TW\n", &["offers"], "confirmed", "2026-03-02T08:00:00Z");
        let db = database.open().await;
        db.execute("UPDATE subscription SET frequency = 'weekly'", args![]).await.unwrap();
        let serving = serve(&shop, "2026-03-02T08:00:00Z");
        follows(&db, 1).await;
        stop(serving);
        letter(&shop, &db, "first", "2026-03-03T09:00:00Z").await;
        letter(&shop, &db, "second", "2026-03-05T09:00:00Z").await;
        let before = sink.received().len();
        let serving = serve(&shop, "2026-03-09T07:00:00Z");
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(sink.received().len(), before, "the week is not over");
        stop(serving);
        let serving = serve(&shop, "2026-03-09T08:05:00Z");
        let mails = sink.wait_for(before + 1, 20);
        let digest = &mails[before];
        assert_eq!(subject(digest), "Offers：2 封新信");
        let raw = digest.text();
        assert!(raw.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click") && raw.contains("offers."), "{raw}");
        let parsed = mail_parser::MessageParser::default().parse(&digest.data).unwrap();
        let body = parsed.body_text(0).unwrap().into_owned();
        let (second, first) = (body.find("second for mei@tea.example"), body.find("first for mei@tea.example"));
        assert!(second.unwrap() < first.unwrap(), "newest first: {body}");
        assert!(body.contains("2026-03-05") && body.contains("恢復逐封寄送") && body.contains("/p/"), "{body}");
        let page = http::get(&link(digest, "/v/"));
        assert!(page.status == 200 && page.text().contains("The text of second."), "{}", page.text());
        assert_eq!(http::get(&link(digest, "/p/")).status, 200);
        stop(serving);

        // A week in which nothing came: no mail. Then one letter, and each letter again: what waits is not sent.
        let serving = serve(&shop, "2026-03-16T08:10:00Z");
        std::thread::sleep(std::time::Duration::from_secs(1));
        stop(serving);
        letter(&shop, &db, "third", "2026-03-17T09:00:00Z").await;
        let before = sink.received().len();
        db.execute("UPDATE subscription SET frequency = NULL", args![]).await.unwrap();
        let serving = serve(&shop, "2026-03-30T08:10:00Z");
        follows(&db, 0).await;
        std::thread::sleep(std::time::Duration::from_secs(1));
        stop(serving);
        assert_eq!(sink.received().len(), before, "nothing is sent that nobody expects");
    }
}

on_each_database! {
    async fn whoever_left_or_paused_gets_no_digest(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink);
        import(&shop, "gone@tea.example,en\naway@tea.example,en\n", &["offers"], "confirmed", "2026-03-02T08:00:00Z");
        let db = database.open().await;
        db.execute("UPDATE subscription SET frequency = 'daily'", args![]).await.unwrap();
        let serving = serve(&shop, "2026-03-02T08:00:00Z");
        follows(&db, 2).await;
        stop(serving);
        letter(&shop, &db, "first", "2026-03-02T09:00:00Z").await;
        let before = sink.received().len();
        shop.optin(&["consent", "withdraw", "gone@tea.example", "--topic", "offers", "--source", "phone"]).exits(0);
        let of_away = "contact_id = (SELECT id FROM contact WHERE email = 'away@tea.example')";
        db.execute(&format!("UPDATE subscription SET standing = 'paused' WHERE {of_away}"), args![]).await.unwrap();
        let serving = serve(&shop, "2026-03-03T08:05:00Z");
        follows(&db, 1).await;
        std::thread::sleep(std::time::Duration::from_secs(1));
        stop(serving);
        assert_eq!(sink.received().len(), before);
        // What was held back before the pause comes with the first digest after it.
        db.execute(&format!("UPDATE subscription SET standing = 'subscribed' WHERE {of_away}"), args![]).await.unwrap();
        let serving = serve(&shop, "2026-03-04T08:10:00Z");
        let mails = sink.wait_for(before + 1, 20);
        assert_eq!((subject(&mails[before]).as_str(), mails[before].to[0].as_str()), ("Offers: one letter", "away@tea.example"));
        stop(serving);
    }
}
