//! Opens and clicks: redirects, the image, groups, machines, and a database that is slow or away.

use super::*;

on_each_database!(
    async fn an_altered_target_is_not_led_to_and_a_genuine_one_is_counted(database) {
        let site = site(&database).await;
        let target = "https://shop.example/茶?a=1&b=2";
        let link = site.click_link(0, target);
        let response = request("GET", &link, &[("User-Agent", PHONE)], b"");
        assert_eq!((response.status, response.header("location")), (302, Some("https://shop.example/%E8%8C%B6?a=1&b=2")));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let (token, _) = link.rsplit_once('/').unwrap();
        for other in ["https://evil.example/", "https://shop.example/茶?a=1&b=3", "javascript:alert(1)", ""] {
            let response = get(&format!("{token}/{}", URL_SAFE_NO_PAD.encode(other)));
            assert!((400..500).contains(&response.status), "{other}");
            assert_eq!(response.header("location"), None);
        }
        assert_eq!(get(&format!("{token}/%FF")).header("location"), None);
        assert_eq!(get(&site.click_link(0, "javascript:alert(1)")).status, 404, "even signed by ourselves");
        site.recorder.flush().await;
        let counts = ops::counts(&mut site.db.clone(), RUN).await.unwrap();
        assert_eq!((counts.clicks.human, counts.clicks.machine, counts.clicks.unique), (1, 0, 1));
        assert_eq!(site.count("SELECT COUNT(*) FROM hit WHERE kind = 'click' AND link = 0 AND ip = '127.0.0.1'").await, 1);
    }
);

on_each_database!(
    async fn the_image_is_the_same_for_known_and_unknown_tokens(database) {
        let site = site(&database).await;
        let known = get(&(site.link('o', Purpose::Open, &[DELIVERY]) + ".gif"));
        let mut headers = known.headers.clone();
        headers.retain(|(name, _)| name != "date");
        assert_eq!((known.status, known.header("content-type"), known.body.len()), (200, Some("image/gif"), 43));
        assert!(known.header("cache-control").unwrap().contains("no-store"));
        for other in [site.link('o', Purpose::Open, &[999]), site.link('o', Purpose::View, &[DELIVERY]), site.url("/o/nonsense")] {
            let mut unknown = get(&(other + ".gif"));
            unknown.headers.retain(|(name, _)| name != "date");
            assert_eq!((unknown.status, unknown.headers, unknown.body), (200, headers.clone(), known.body.clone()));
        }
        assert_eq!(site.count("SELECT COUNT(*) FROM hit").await, 1);
        assert_eq!(site.count("SELECT COUNT(*) FROM hit WHERE verdict = 'machine' AND signals LIKE 'no_agent:%' AND kind = 'open'").await, 1);
    }
);

on_each_database!(
    async fn a_scanner_that_follows_every_link_counts_no_human_click(database) {
        let site = site(&database).await;
        for position in [0, 1, 2] {
            request("GET", &site.click_link(position, "https://a.example"), &[("User-Agent", PHONE)], b"");
            // Each in a group of its own: the first two were taken for a person's until the third.
            site.recorder.flush().await;
            site.clock.advance(1_000);
        }
        let counts = ops::counts(&mut site.db.clone(), RUN).await.unwrap();
        assert_eq!((counts.clicks.human, counts.clicks.machine, counts.clicks.unique), (0, 3, 0));
        assert_eq!(site.count("SELECT COUNT(*) FROM hit WHERE signals LIKE '%burst:120%'").await, 3);
        // A minute later, the person.
        site.clock.advance(60_000);
        request("GET", &site.click_link(1, "https://b.example"), &[("User-Agent", PHONE)], b"");
        request("GET", &(site.link('o', Purpose::Open, &[DELIVERY]) + ".gif"), &[("User-Agent", PHONE)], b"");
        site.recorder.flush().await;
        let counts = ops::counts(&mut site.db.clone(), RUN).await.unwrap();
        assert_eq!((counts.clicks.human, counts.clicks.machine, counts.clicks.unique, counts.opens.human), (1, 3, 1, 1));
        let by_link: Vec<(i64, i64, i64)> =
            counts.by_link.iter().map(|link| (link.counts.human, link.counts.machine, link.counts.unique)).collect();
        assert_eq!(by_link, [(0, 1, 0), (1, 1, 1)]);
    }
);

on_each_database!(
    async fn thousands_of_hits_are_written_in_groups_and_none_is_lost(database) {
        let site = site(&database).await;
        let mut tasks = Vec::new();
        for task in 0..50 {
            let (recorder, now) = (site.recorder.clone(), site.clock.now());
            tasks.push(tokio::spawn(async move {
                for hit in 0..40 {
                    let delivery = if hit % 4 == 0 { 999 } else { DELIVERY };
                    recorder.record(optin::tracking::Hit::open(delivery, now.plus(task), None, Some(PHONE.into()))).await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(site.count("SELECT COUNT(*) FROM hit").await, 50 * 30);
        assert_eq!(site.recorder.dropped(), 0);
    }
);

on_each_database!(
    async fn a_redirect_does_not_wait_for_a_locked_database_and_the_click_is_kept(database) {
        let site = site(&database).await;
        let mut lock = site.db.begin().await.unwrap();
        if database.name == "postgres" {
            lock.execute("LOCK TABLE hit IN EXCLUSIVE MODE", Vec::new()).await.unwrap();
        }
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(request("GET", &site.click_link(0, "https://a.example"), &[("User-Agent", PHONE)], b"").status, 302);
        }
        assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
        lock.rollback().await.unwrap();
        assert_eq!(site.count("SELECT COUNT(*) FROM hit").await, 20);
    }
);

on_each_database!(
    async fn without_a_database_pages_say_so_and_offer_mail_while_links_go_on(database) {
        let site = site(&database).await;
        assert_eq!(get(&site.url("/readyz")).status, 200);
        site.db.close().await;
        for response in [get(&site.body_link()), post(&site.header_link(), FORM, b"List-Unsubscribe=One-Click")] {
            check_page(&response, 503);
            assert_eq!(response.header("retry-after"), Some("60"));
            assert!(response.text().contains("mailto:letters@tea.example?subject=unsubscribe%20"), "{}", response.text());
        }
        assert_eq!(get(&site.url("/readyz")).status, 503);
        assert_eq!(get(&site.url("/healthz")).status, 200);
        assert_eq!(get(&site.click_link(0, "https://a.example")).status, 302);
        assert_eq!(get(&(site.link('o', Purpose::Open, &[DELIVERY]) + ".gif")).status, 200);
    }
);
