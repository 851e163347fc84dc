//! What people see and what becomes of it.

use super::{FORM, encoded, site, value, values};
use crate::support::http::{post, request};
use crate::support::on_each_database;

on_each_database! {
    async fn a_form_speaks_three_languages_and_records_what_it_showed(database) {
        let site = site(&database, "").await;
        for (tag, title, wording) in [("en", "Tea in your mailbox", "By subscribing"), ("zh-Hans", "Tea in your mailbox", "点击订阅"), ("zh-Hant", "Tea in your mailbox", "按下訂閱")] {
            let shown = site.page(&format!("/subscribe/tea?lang={tag}"));
            let page = shown.text();
            assert_eq!(shown.status, 200, "{page}");
            assert!(page.contains(&format!("<html lang=\"{tag}\">")) && page.contains(title) && page.contains(wording), "{page}");
            assert!(!page.contains("\" checked") && !page.contains("<script"), "nothing is ticked beforehand: {page}");
            assert!(page.contains("autocomplete=\"email\"") && page.contains("autocomplete=\"given-name\"") && page.contains("inputmode=\"decimal\""));
            let policy = shown.header("content-security-policy").unwrap();
            assert!(!policy.contains("script-src") && policy.contains("frame-ancestors 'none'"), "{policy}");
            let email = format!("{}@tea.example", tag.to_lowercase());
            let sent = [("email", email.as_str()), ("topic", "letter"), ("topic", "offers"), ("f.first_name", "Mei"), ("wording", &value(&page, "wording"))];
            let answer = post(&site.url(&format!("/subscribe/tea?lang={tag}")), FORM, encoded(&sent).as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(site.standings(&email).await, [("letter".into(), "pending".into()), ("offers".into(), "pending".into())]);
            let contact = site.contact(&email).await.unwrap();
            assert_eq!((contact.locale.as_deref(), contact.first_name), (Some(tag), None), "what was typed waits for the confirmation");
        }
        let kept = "SELECT COUNT(*) FROM consent_wording WHERE kind = 'form' AND version = '7' AND first_shown_at IS NOT NULL AND locale IN ('en', 'zh-Hans', 'zh-Hant')";
        assert_eq!(site.count(kept).await, 3);
        assert_eq!(site.count("SELECT COUNT(*) FROM consent_event WHERE source = 'form tea' AND wording_hash IS NOT NULL").await, 6);
        assert!(site.page("/subscribe/letter?lang=zh-Hant").text().contains("「茶訊」"));
        assert_eq!(site.page("/subscribe/nothing").status, 404);
        let list = site.page("/subscribe").text();
        assert!(list.contains("/subscribe/tea") && list.contains("/subscribe/letter"), "{list}");
    }
}

on_each_database! {
    async fn mistakes_keep_what_was_typed_and_write_nothing(database) {
        let site = site(&database, "").await;
        let wrong = site.subscribe("tea", "192.0.2.1", &[("email", "mei(at)tea"), ("f.first_name", "<Mei>\""), ("f.age", "old")]);
        let page = wrong.text();
        assert_eq!(wrong.status, 422, "{page}");
        for part in ["value=\"mei(at)tea\"", "&#60;Mei&#62;&#34;", "aria-describedby=\"email-error\"", "id=\"topics-error\"", "id=\"f-age-error\"", "aria-invalid=\"true\"", "role=\"alert\""] {
            assert!(page.contains(part), "{part} in {page}");
        }
        let missing = site.subscribe("letter", "192.0.2.1", &[("email", "mei@tea.example")]);
        assert!(missing.status == 422 && missing.text().contains("“First name” is needed."), "{}", missing.text());
        // The words were others when the person saw them: they are asked to read again.
        let stale = site.post("plain", "192.0.2.1", &[("email", "mei@tea.example"), ("wording", "of yesterday")]);
        assert!(stale.status == 422 && stale.text().contains("other ones than you saw"), "{}", stale.text());
        assert_eq!(site.count("SELECT COUNT(*) FROM contact").await, 0);
        // Ticked boxes stay ticked after a mistake.
        let ticked = site.subscribe("tea", "192.0.2.1", &[("email", "x"), ("topic", "offers")]).text();
        assert!(ticked.contains("value=\"offers\" checked") && !ticked.contains("value=\"letter\" checked"), "{ticked}");
    }
}

on_each_database! {
    async fn the_answer_never_tells_whether_an_address_is_known(database) {
        let site = site(&database, "").await;
        for known in ["known@tea.example", "blocked@tea.example", "left@tea.example"] {
            assert_eq!(site.subscribe("news", "192.0.2.1", &[("email", known), ("f.first_name", "Mei")]).status, 200);
            assert_eq!(site.standing(known, "news").await, "subscribed", "single opt-in: at once");
        }
        site.suppress("blocked@tea.example").await;
        site.suppress("stranger@tea.example").await;
        site.withdraw("left@tea.example").await;
        let events = site.count("SELECT COUNT(*) FROM consent_event").await;
        let mut answers = Vec::new();
        for (at, form) in ["news", "letter"].into_iter().enumerate() {
            for email in ["known@tea.example", "blocked@tea.example", "left@tea.example", "new@tea.example", "stranger@tea.example"] {
                let begun = std::time::Instant::now();
                let answer = site.subscribe(form, &format!("192.0.2.{}", 10 + at), &[("email", email), ("f.first_name", "Other")]);
                assert!(begun.elapsed() >= std::time::Duration::from_millis(250), "an answer that comes early tells something");
                let headers: Vec<_> = answer.headers.iter().filter(|(name, _)| name != "date" && name != "content-length").cloned().collect();
                answers.push((answer.status, headers, answer.text().replace(email, "ADDRESS")));
            }
        }
        let first = answers[0].clone();
        assert_eq!(first.0, 200, "{}", first.2);
        for answer in &answers {
            assert_eq!(*answer, first);
        }
        // Suppressed: nothing at all. Withdrawn: only a question. Nobody's name is changed by a stranger.
        assert_eq!((site.confirmations("blocked@tea.example").await, site.contact("stranger@tea.example").await), (0, None));
        assert_eq!((site.standing("left@tea.example", "news").await.as_str(), site.confirmations("left@tea.example").await), ("unsubscribed", 2));
        assert_eq!(site.contact("known@tea.example").await.unwrap().first_name.as_deref(), Some("Mei"));
        assert_eq!(site.contact("new@tea.example").await.unwrap().first_name.as_deref(), Some("Other"));
        // known: letter; left: news, letter; new: news, letter.
        assert_eq!(site.count("SELECT COUNT(*) FROM consent_event").await, events + 5);
        // Only a confirmation brings back who left.
        let link = site.confirmation("left@tea.example", &["news"]).await;
        assert_eq!(post(&link, FORM, b"confirm=1").status, 200);
        assert_eq!(site.standing("left@tea.example", "news").await, "subscribed");
        assert_eq!(site.standing("left@tea.example", "letter").await, "unsubscribed");
    }
}

on_each_database! {
    async fn one_link_confirms_several_topics_and_one_question_follows(database) {
        let site = site(&database, "").await;
        site.subscribe("tea", "192.0.2.1", &[("email", "mei@tea.example"), ("topic", "letter"), ("topic", "offers"), ("f.first_name", "Mei"), ("f.age", "41")]);
        let link = site.confirmation("mei@tea.example", &["letter", "offers"]).await;
        let asked = crate::support::http::get(&link).text();
        assert!(asked.contains("<li>Letter</li>") && asked.contains("<li>Offers</li>"), "{asked}");
        assert_eq!(site.standing("mei@tea.example", "letter").await, "pending", "a GET confirms nothing");
        let done = post(&link, FORM, b"confirm=1").text();
        assert_eq!(site.standings("mei@tea.example").await, [("letter".into(), "subscribed".into()), ("offers".into(), "subscribed".into())]);
        let contact = site.contact("mei@tea.example").await.unwrap();
        assert_eq!(contact.first_name.as_deref(), Some("Mei"), "what was typed is known now");
        assert_eq!(contact.attributes["age"], optin::contact::AttributeValue::Number(41.0));
        assert_eq!(site.count("SELECT COUNT(*) FROM confirmation WHERE profile IS NOT NULL").await, 0);
        // The first field to ask for that is empty, and the way to all choices.
        assert!(done.contains("name=\"f.city\"") && !done.contains("name=\"f.age\"") && done.contains("href=\"/p/"), "{done}");
        assert_eq!(value(&done, "answer"), "city");
        let wrong = post(&link, FORM, b"answer=city&f.city=Paris").text();
        assert!(wrong.contains("from the list"), "{wrong}");
        // Other fields than the one asked for are not taken.
        post(&link, FORM, b"answer=first_name&f.first_name=Other");
        let thanks = post(&link, FORM, b"answer=city&f.city=Taipei&f.first_name=Other").text();
        assert!(thanks.contains("href=\"/p/") && !thanks.contains("name=\"f."), "one question: {thanks}");
        post(&link, FORM, b"answer=city&f.city=Tainan");
        let contact = site.contact("mei@tea.example").await.unwrap();
        assert_eq!((contact.first_name.as_deref(), &contact.attributes["city"]), (Some("Mei"), &optin::contact::AttributeValue::Text("Taipei".into())));
        // Skipped: nothing is stored. Typed by a stranger, confirmed by the owner: fills in what is empty only.
        site.subscribe("letter", "192.0.2.1", &[("email", "joe@tea.example"), ("f.first_name", "Joe")]);
        let link = site.confirmation("joe@tea.example", &["letter"]).await;
        post(&link, FORM, b"confirm=1");
        assert_eq!(post(&link, FORM, b"answer=city&f.city=Taipei&skip=1").status, 200);
        assert!(site.contact("joe@tea.example").await.unwrap().attributes.is_empty());
        site.subscribe("tea", "192.0.2.1", &[("email", "joe@tea.example"), ("topic", "offers"), ("f.first_name", "Mallory"), ("f.age", "7")]);
        post(&site.confirmation("joe@tea.example", &["offers"]).await, FORM, b"confirm=1");
        let joe = site.contact("joe@tea.example").await.unwrap();
        assert_eq!((joe.first_name.as_deref(), joe.attributes.len()), (Some("Joe"), 1));
    }
}

on_each_database! {
    async fn another_site_subscribes_nobody_behind_their_back(database) {
        let site = site(&database, "").await;
        let wording = site.wording("tea");
        let sent = [("email", "mei@tea.example"), ("topic", "letter"), ("wording", wording.as_str())];
        for headers in [
            vec![("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")],
            vec![("Origin", "https://evil.example")],
            vec![("Origin", "null")],
        ] {
            let answer = site.post_with("tea", &headers, &sent);
            let page = answer.text();
            assert!(answer.status == 200 && page.contains("press the button here") && values(&page, "email") == ["mei@tea.example"], "{page}");
            assert!(page.contains("value=\"letter\" checked"), "{page}");
        }
        assert_eq!(site.count("SELECT COUNT(*) FROM contact").await, 0);
        // A listed site's form is taken, and so is ours; only listed sites may frame the form.
        assert!(site.post_with("tea", &[("Origin", "https://tea.example"), ("Sec-Fetch-Site", "cross-site")], &sent).text().contains("Thank you"));
        assert_eq!(site.standing("mei@tea.example", "letter").await, "pending");
        let framed = site.page("/subscribe/tea/embed");
        assert!(framed.header("content-security-policy").unwrap().contains("frame-ancestors https://tea.example"), "{framed:?}");
        assert!(framed.text().contains("action=\"/subscribe/tea/embed?lang=en\""));
        assert_eq!(site.page("/subscribe/letter/embed").status, 404, "no site is listed");
    }
}

on_each_database! {
    async fn a_form_stands_on_other_sites_as_plain_html(database) {
        let site = site(&database, "").await;
        let instance = &site.files;
        let listed = instance.optin(&["form", "list", "--json"]).exits(0).json();
        assert_eq!(listed["forms"].as_array().unwrap().len(), 4, "{listed}");
        let html = instance.optin(&["form", "show", "tea", "--lang", "zh-TW"]).exits(0).stdout;
        assert!(html.contains("lang=\"zh-Hant\"") && !html.contains("<script") && !html.contains("checked"), "{html}");
        // What it says is what is recorded: its words are those of the page.
        let wording = value(&html, "wording");
        let sent = encoded(&[("email", "mei@tea.example"), ("topic", "letter"), ("wording", &wording)]);
        let answer = request("POST", &site.url("/subscribe/tea?lang=zh-Hant"), &[("Content-Type", FORM), ("Origin", "https://tea.example")], sent.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(site.standing("mei@tea.example", "letter").await, "pending");
        let refused = instance.optin(&["form", "show", "te"]).exits(2);
        assert!(refused.stderr.contains("did you mean `tea`?"), "{refused}");
        instance.optin(&["form", "show", "tea", "--lang", "xx"]).exits(2);
    }
}
