//! Preferences, confirmation, languages, the mail as a page, limits, the end of the server.

use super::*;

on_each_database!(
    async fn preferences_withdraw_at_once_and_subscribe_only_after_a_confirmation(database) {
        let site = site(&database).await;
        site.db.execute("DELETE FROM subscription WHERE topic_id = 2", Vec::new()).await.unwrap();
        let link = site.link('p', Purpose::Preferences, &[MEI, TEA, DELIVERY]);
        let form = get(&link);
        check_page(&form, 200);
        assert!(form.text().contains("name=\"topic\" value=\"1\" checked"), "{}", form.text());
        assert!(form.text().contains("name=\"topic\" value=\"2\">"), "{}", form.text());
        assert!(!form.text().contains("gone-topic"));

        let saved = post(&link, FORM, b"shown=1&shown=2&topic=2&save=1");
        check_page(&saved, 200);
        assert!(saved.text().contains("once you follow the link"), "{}", saved.text());
        assert_eq!((site.standing(TEA).await, site.standing(OFFERS).await), (Standing::Unsubscribed, Standing::Pending));
        assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe WHERE way = 'preferences'").await, 1);
        let same = site.state().await;
        // The same choice again, and a form from before a topic was there: nothing changes.
        check_page(&post(&link, FORM, b"shown=1&shown=2&topic=2&save=1"), 200);
        check_page(&post(&link, FORM, b"save=1"), 200);
        check_page(&post(&link, FORM, b"shown=3&topic=3&topic=99&save=1"), 200);
        assert_eq!(site.state().await, same);
        assert!(post(&link, FORM, b"leave=all").text().contains("Saved."));
        assert_eq!(site.standing(OFFERS).await, Standing::Unsubscribed);
    }
);

on_each_database!(
    async fn a_confirmation_needs_the_button_once_and_in_time(database) {
        let site = site(&database).await;
        site.db.execute("UPDATE subscription SET standing = 'pending' WHERE topic_id = 2", Vec::new()).await.unwrap();
        let link = site.link('s', Purpose::Confirm, &[MEI, OFFERS, NOW.plus(DAY).millis()]);
        let question = get(&link);
        check_page(&question, 200);
        assert!(question.text().contains("Yes, subscribe me"));
        let late = site.link('s', Purpose::Confirm, &[MEI, OFFERS, NOW.millis()]);
        check_page(&post(&late, FORM, b"confirm=1"), 410);
        assert_eq!(site.standing(OFFERS).await, Standing::Pending);
        check_page(&post(&link, FORM, b"confirm=1"), 200);
        assert_eq!(site.standing(OFFERS).await, Standing::Subscribed);
        assert!(post(&link, FORM, b"confirm=1").text().contains("confirmed this before"));
        // Left again: the old link does not bring them back.
        post(&site.link('u', Purpose::UnsubscribeBody, &[MEI, OFFERS, 0]), FORM, b"leave=topic");
        assert!(post(&link, FORM, b"confirm=1").text().contains("nothing to confirm"));
        assert_eq!(site.standing(OFFERS).await, Standing::Unsubscribed);
    }
);

on_each_database!(
    async fn the_language_is_the_choice_then_the_contacts_then_the_browsers(database) {
        let site = site(&database).await;
        let link = site.body_link();
        let lang = |url: &str, accept: &str| {
            let text = request("GET", url, &[("Accept-Language", accept)], b"").text();
            text.split("<html lang=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        assert_eq!(lang(&link, "de, zh-TW;q=0.5"), "zh-Hant");
        assert_eq!(lang(&link, "fr"), "en");
        site.db.execute("UPDATE contact SET locale = 'zh_CN'", Vec::new()).await.unwrap();
        assert_eq!(lang(&link, "zh-TW"), "zh-Hans");
        assert_eq!(lang(&format!("{link}?lang=zh-Hant"), "en"), "zh-Hant");
        assert!(post(&link, FORM, b"leave=topic").text().contains("您已退订"));
        assert_eq!(lang(&site.url("/nowhere?lang=zh-Hant"), ""), "zh-Hant");
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_is_shown_again_in_an_origin_of_its_own() {
    let database = TestDatabase::sqlite();
    let site = site(&database).await;
    let shown = get(&site.link('v', Purpose::View, &[DELIVERY]));
    assert_eq!((shown.status, shown.text().as_str()), (200, "<h1 style=\"color:red\">Oolong</h1>"));
    let policy = shown.header("content-security-policy").unwrap();
    assert!(policy.contains("sandbox") && !policy.contains("allow-scripts") && policy.contains("default-src 'none'"), "{policy}");
    assert_eq!(shown.header("x-robots-tag"), Some("noindex, nofollow"));
    check_page(&get(&site.link('v', Purpose::View, &[999])), 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sends_is_bounded() {
    let database = TestDatabase::sqlite();
    let site = site(&database).await;
    let before = site.state().await;
    assert_eq!(post(&site.header_link(), FORM, &vec![b'a'; 65 * 1024]).status, 413);
    assert_eq!(site.state().await, before);
    let long = "x".repeat(200_000);
    assert_eq!(request("GET", &site.url("/"), &[("X-Long", &long)], b"").status, 431);
    assert_eq!(get(&site.url("/robots.txt")).text(), "User-agent: *\nDisallow: /\n");
    check_page(&get(&site.url("/")), 200);
    check_page(&get(&site.url("/wp-login.php")), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_stop_ends_idle_connections_and_takes_no_new_ones() {
    let database = TestDatabase::sqlite();
    let mut site = site(&database).await;
    let mut idle = tokio::net::TcpStream::connect(site.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4_096];
    let read = idle.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    drop(site.stop.take());
    let end = tokio::time::timeout(Duration::from_secs(5), idle.read(&mut answer)).await.expect("closed in time").unwrap();
    assert_eq!(end, 0);
    assert!(tokio::net::TcpStream::connect(site.address).await.is_err());
}
