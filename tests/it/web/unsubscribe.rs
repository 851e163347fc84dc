//! Unsubscribe: one-click and the page, and links that are not ours.

use super::*;

/// A form as in RFC 7578, with a boundary as a mail client writes it.
fn multipart(boundary: &str) -> (String, Vec<u8>) {
    let body = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--{boundary}--\r\n");
    (format!("multipart/form-data; boundary={boundary}"), body.into_bytes())
}

on_each_database!(
    async fn every_form_of_one_click_withdraws_that_topic_at_once_and_answers_200(database) {
        let site = site(&database).await;
        let (kind, proper) = multipart("----FormBoundaryjWmhtjORrn");
        // RFC 8058 8.3 as printed: its delimiters lack two hyphens, its length is 124 as it says.
        let printed = b"---FormBoundaryjWmhtjORrn\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n---FormBoundaryjWmhtjORrn--";
        assert_eq!(printed.len(), 124);
        let bodies: Vec<(&str, &[u8])> = vec![
            (FORM, b"List-Unsubscribe=One-Click"),
            ("application/x-www-form-urlencoded; charset=utf-8", b"List-Unsubscribe=One-Click\r\n"),
            (&kind, &proper),
            ("multipart/form-data; boundary=---FormBoundaryjWmhtjORrn", printed),
            ("application/json", b"{\"List-Unsubscribe\":\"One-Click\"}"),
            ("text/plain", b""),
            ("", b"\xff\x00\xfe"),
        ];
        for link in [site.header_link(), site.body_link()] {
            for (kind, body) in &bodies {
                site.reset().await;
                let response = post(&link, kind, body);
                assert_eq!(response.status, 200, "{kind}");
                assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
                assert_eq!((response.header("location"), response.header("set-cookie")), (None, None));
                assert!(response.text().len() < 200);
                assert_eq!(site.standing(TEA).await, Standing::Unsubscribed, "{kind}");
                assert_eq!(site.standing(OFFERS).await, Standing::Subscribed, "only the topic of the mail");
                assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe WHERE way = 'one_click' AND run_id = 50").await, 1);
            }
        }
    }
);

on_each_database!(
    async fn one_click_repeated_and_all_at_once_keeps_the_first_time(database) {
        let site = site(&database).await;
        let link = site.header_link();
        let posts: Vec<_> = (0..10)
            .map(|_| {
                let link = link.clone();
                tokio::task::spawn_blocking(move || post(&link, FORM, b"List-Unsubscribe=One-Click").status)
            })
            .collect();
        for status in posts {
            assert_eq!(status.await.unwrap(), 200);
        }
        let before = site.state().await;
        site.clock.advance(400 * DAY);
        assert_eq!(post(&link, FORM, b"List-Unsubscribe=One-Click").status, 200);
        assert_eq!(site.state().await, before);
        assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe").await, 1);
    }
);

on_each_database!(
    async fn looking_changes_nothing(database) {
        let site = site(&database).await;
        let expires = NOW.plus(DAY).millis();
        site.db.execute("UPDATE subscription SET standing = 'pending' WHERE topic_id = 2", Vec::new()).await.unwrap();
        let before = site.state().await;
        let click = site.click_link(0, "https://a.example");
        for link in [
            site.header_link(),
            site.body_link(),
            site.link('p', Purpose::Preferences, &[MEI, TEA, DELIVERY]),
            site.link('s', Purpose::Confirm, &[MEI, OFFERS, expires]),
            site.link('v', Purpose::View, &[DELIVERY]),
        ] {
            for method in ["GET", "HEAD", "OPTIONS", "GET", "PUT", "DELETE"] {
                let response = request(method, &link, &[], b"");
                assert!(response.status < 500, "{method} {link}: {}", response.status);
            }
            assert_eq!(get(&link).status, 200);
        }
        // An image and a link are there to be counted, but not on HEAD.
        for link in [click, site.link('o', Purpose::Open, &[DELIVERY]) + ".gif"] {
            assert!(head(&link).status < 400);
            request("OPTIONS", &link, &[], b"");
        }
        assert_eq!(site.state().await, before);
    }
);

on_each_database!(
    async fn the_page_withdraws_and_says_what_really_happened(database) {
        let site = site(&database).await;
        let link = site.body_link();
        let question = get(&link);
        check_page(&question, 200);
        assert!(question.text().contains("M***@tea.example"), "{}", question.text());
        assert!(question.text().contains("&#60;script&#62;"), "{}", question.text());

        let done = post(&link, FORM, b"leave=topic");
        check_page(&done, 200);
        assert!(done.text().contains("You are unsubscribed"));
        assert_eq!((site.standing(TEA).await, site.standing(OFFERS).await), (Standing::Unsubscribed, Standing::Subscribed));
        let again = post(&link, FORM, b"leave=topic");
        check_page(&again, 200);
        assert!(again.text().contains("You were unsubscribed already"));
        assert!(get(&link).text().contains("not subscribed to"));

        let all = post(&link, FORM, b"leave=all");
        check_page(&all, 200);
        assert!(all.text().contains("any letters"), "{}", all.text());
        assert_eq!(site.standing(OFFERS).await, Standing::Unsubscribed);
        assert!(post(&link, FORM, b"leave=all").text().contains("not subscribed to anything"));
        assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe WHERE way = 'page'").await, 1);
    }
);

on_each_database!(
    async fn links_work_after_everything_they_came_from_is_gone(database) {
        let site = site(&database).await;
        for table in ["delivery", "run", "run_link"] {
            site.db.execute(&format!("DELETE FROM {table}"), Vec::new()).await.unwrap();
        }
        // A topic that left the configuration, then even the list of topics.
        site.db.execute("UPDATE subscription SET topic_id = 3 WHERE topic_id = 1", Vec::new()).await.unwrap();
        let link = site.link('u', Purpose::UnsubscribeBody, &[MEI, 3, DELIVERY]);
        check_page(&get(&link), 200);
        site.db.execute("DELETE FROM topic", Vec::new()).await.unwrap();
        check_page(&get(&link), 200);
        let done = post(&link, FORM, b"leave=topic");
        check_page(&done, 200);
        assert!(done.text().contains("You are unsubscribed"));
        assert_eq!(site.standing(3).await, Standing::Unsubscribed);
        assert_eq!(site.count("SELECT COUNT(*) FROM unsubscribe").await, 0);
        assert_eq!(get(&site.click_link(0, "https://a.example")).status, 302);
        assert_eq!(site.count("SELECT COUNT(*) FROM hit").await, 0);
    }
);

on_each_database!(
    async fn an_erased_person_gets_a_friendly_answer_and_nothing_is_written(database) {
        let site = site(&database).await;
        let before = site.state().await;
        let link = site.link('u', Purpose::UnsubscribeHeader, &[ERASED, TEA, DELIVERY]);
        check_page(&get(&link), 200);
        assert_eq!(post(&link, FORM, b"List-Unsubscribe=One-Click").status, 200);
        check_page(&post(&link, FORM, b"leave=all"), 200);
        let preferences = site.link('p', Purpose::Preferences, &[ERASED, TEA, 0]);
        check_page(&get(&preferences), 200);
        check_page(&post(&preferences, FORM, b"leave=all"), 200);
        check_page(&post(&site.link('s', Purpose::Confirm, &[ERASED, TEA, NOW.plus(DAY).millis()]), FORM, b""), 200);
        assert_eq!(site.state().await, before);
    }
);

on_each_database!(
    async fn altered_foreign_and_misused_tokens_do_nothing_and_all_look_alike(database) {
        let site = site(&database).await;
        let before = site.state().await;
        let fields = [MEI, TEA, DELIVERY];
        let genuine = site.keys.sign(Purpose::UnsubscribeHeader, &fields);
        let mut bad: Vec<String> = vec!["x".into(), "A".repeat(500), genuine[..genuine.len() - 1].to_owned(), format!("{genuine}A"), "%00".into()];
        let bytes = URL_SAFE_NO_PAD.decode(&genuine).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            bad.push(URL_SAFE_NO_PAD.encode(changed));
        }
        bad.push(Keys::new("another secret", &[]).sign(Purpose::UnsubscribeHeader, &fields));
        for purpose in [Purpose::Open, Purpose::View, Purpose::Preferences, Purpose::Confirm, Purpose::UnsubscribeMail, Purpose::Click] {
            bad.push(site.keys.sign(purpose, &fields));
        }
        bad.push(site.keys.sign(Purpose::UnsubscribeHeader, &[MEI]));
        let page = get(&site.url("/u/x")).text();
        for token in &bad {
            let url = site.url(&format!("/u/{token}"));
            for response in [get(&url), post(&url, FORM, b"List-Unsubscribe=One-Click"), post(&url, FORM, b"leave=all")] {
                check_page(&response, 404);
                assert_eq!(response.text(), page, "{token}");
            }
        }
        for letter in ['p', 's', 'v'] {
            let url = site.url(&format!("/{letter}/{genuine}"));
            check_page(&get(&url), 404);
            assert!(post(&url, FORM, b"leave=all").status >= 400);
        }
        assert_eq!(site.state().await, before);
    }
);
