//! Forms under fire: limits, challenges, bombs, and people who are still served.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use optin::consent::requests;

use super::{FORM, Site, encoded, site, solve, value};
use crate::flows::{link, stop};
use crate::support::http::{get, post};
use crate::support::process::Running;
use crate::support::smtp::Sink;
use crate::support::{on_each_database, wait_until};

/// Posts of one bomb.
const POSTS: usize = 10_000;
/// Bots at a time.
const BOTS: usize = 16;

/// Sends `POSTS` forms made by `make(number) -> (client, address)`. Answers how many were thanked, how many
/// were asked for a proof, how many got 429.
fn bomb(site: &Site, make: impl Fn(usize) -> (String, String) + Sync) -> (usize, usize, usize) {
    bomb_around(site, make, || ())
}

/// The same; `meanwhile` happens once half of them were sent.
fn bomb_around(site: &Site, make: impl Fn(usize) -> (String, String) + Sync, meanwhile: impl FnOnce() + Send) -> (usize, usize, usize) {
    let wording = site.wording("plain");
    let (next, counts) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 3]);
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_until("half of the bomb", 120, || (next.load(Ordering::Relaxed) >= POSTS / 2).then_some(()));
                meanwhile();
            });
            for _ in 0..BOTS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= POSTS {
                            break;
                        }
                        let (client, email) = make(number);
                        let answer = site.post("plain", &client, &[("email", &email), ("wording", &wording)]);
                        let text = answer.text();
                        let kind = match answer.status {
                            200 if text.contains("data-challenge") => 1,
                            200 => 0,
                            429 => 2,
                            status => panic!("{status}: {text}"),
                        };
                        counts[kind].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    });
    let [thanked, proof, refused] = counts.map(AtomicUsize::into_inner);
    (thanked, proof, refused)
}

/// A person with an ordinary browser, from elsewhere: fills in, solves what they are asked, and is served.
async fn served(site: &Site, email: &str, client: &str) {
    let answer = site.subscribe("plain", client, &[("email", email)]);
    let page = answer.text();
    let page = if page.contains("data-challenge") { proved(site, client, &page).text() } else { page };
    assert!(page.contains("Thank you"), "{page}");
    assert_eq!(site.confirmations(email).await, 1);
}

/// The worker that sends what forms ask for, as a process of its own, to `sink`.
fn worker(site: &Site, sink: &Sink) -> Running {
    let call = site.files.command(&["serve", "--only", "worker"]).env("OPTIN_SMTP__URL", sink.url());
    let mut running = call.clock(&super::NOW.to_string()).spawn();
    running.wait_for_line("optin is ready", 20);
    running
}

/// A person who comes in the middle of a bomb: is served, gets their mail, confirms. Answers how long that took.
fn subscribes(site: &Site, sink: &Sink, email: &str, client: &str) -> Duration {
    let started = Instant::now();
    let page = site.subscribe("plain", client, &[("email", email)]).text();
    let page = if page.contains("data-challenge") { proved(site, client, &page).text() } else { page };
    assert!(page.contains("Thank you"), "{page}");
    let mail = wait_until("the mail of somebody real", 20, || sink.received().into_iter().find(|mail| mail.to == [email]));
    let confirm = link(&mail, "/s/");
    let answer = post(&site.url(&confirm[confirm.find("/s/").unwrap()..]), FORM, b"confirm=1");
    assert_eq!(answer.status, 200, "{}", answer.text());
    started.elapsed()
}

/// Whether the mails of the bomb have all left: nothing is waiting to be written or sent.
async fn all_sent(site: &Site) {
    for _ in 0..400 {
        let waiting = site.count("SELECT COUNT(*) FROM confirmation WHERE sent_at IS NULL").await;
        if waiting + site.count("SELECT COUNT(*) FROM delivery WHERE state <> 'sent'").await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("mails are left unsent");
}

/// Sends a page with a challenge on, solved.
fn proved(site: &Site, client: &str, page: &str) -> crate::support::http::Response {
    let challenge = value(page, "challenge");
    let bits = page.split("data-bits=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    let (solution, email, wording) = (solve(&challenge, bits), value(page, "email"), value(page, "wording"));
    site.post("plain", client, &[("email", &email), ("wording", &wording), ("challenge", &challenge), ("solution", &solution)])
}

on_each_database! {
    async fn ten_thousand_posts_for_one_address_send_one_mail(database) {
        let site = site(&database, "challenge_bits = 8").await;
        let (sink, mut took) = (Sink::start(), Duration::ZERO);
        let sending = worker(&site, &sink);
        let bots = |number| (format!("198.{}.{}.{}", 18 + number / 65_536, number / 256 % 256, number % 256), "victim@tea.example".to_owned());
        let (thanked, proof, refused) = bomb_around(&site, bots, || took = subscribes(&site, &sink, "joe@tea.example", "203.0.113.4"));
        assert_eq!(site.standing("joe@tea.example", "letter").await, "subscribed");
        all_sent(&site).await;
        let to_victim = sink.received().iter().filter(|mail| mail.to == ["victim@tea.example"]).count();
        assert_eq!((to_victim, sink.received().len()), (1, 2), "at the mail server");
        let of_victim = "SELECT COUNT(*) FROM consent_event e JOIN contact c ON c.id = e.contact_id WHERE c.email_key = 'victim@tea.example'";
        let (mails, asked) = (site.confirmations("victim@tea.example").await, site.count(of_victim).await);
        served(&site, "mei@tea.example", "203.0.113.5").await;
        crate::support::say(format!("{}: one address, {POSTS} clients: {thanked} taken, {proof} asked for a proof, {refused} refused; {to_victim} mail at the server; somebody else subscribed and confirmed in the middle within {took:?}", database.name));
        assert_eq!((mails, asked, thanked + proof + refused), (1, 1, POSTS));
        assert_eq!(thanked, 5, "per_address");
        // An hour later the address may ask again, and still gets no second mail within its day.
        site.clock.advance(3_600_000);
        assert_eq!(site.subscribe("plain", "203.0.113.9", &[("email", "victim@tea.example")]).status, 200);
        assert_eq!(site.count("SELECT COUNT(*) FROM consent_event WHERE action = 'requested'").await, 3, "the victim's one, Joe's and Mei's");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(sink.received().iter().filter(|mail| mail.to == ["victim@tea.example"]).count(), 1);
        stop(sending);
        let mut tx = site.instance.db.begin().await.unwrap();
        assert!(requests::forget(&mut tx, site.clock.now().plus(86_400_000)).await.unwrap() > 5);
        tx.commit().await.unwrap();
        assert_eq!(site.count("SELECT COUNT(*) FROM form_bucket").await, 0, "nothing is kept of who asked");
    }
}

on_each_database! {
    async fn ten_thousand_addresses_from_one_client_stay_within_its_limit(database) {
        let site = site(&database, "challenge_bits = 8").await;
        // All of one /64, as one machine has it.
        let (sink, mut took) = (Sink::start(), Duration::ZERO);
        let sending = worker(&site, &sink);
        let victims = |number| (format!("2001:db8:7:7::{number:x}"), format!("victim{number}@tea.example"));
        let (thanked, proof, refused) = bomb_around(&site, victims, || took = subscribes(&site, &sink, "ann@tea.example", "203.0.113.4"));
        assert_eq!(site.standing("ann@tea.example", "letter").await, "subscribed");
        all_sent(&site).await;
        let without = sink.received().iter().filter(|mail| mail.to != ["ann@tea.example"]).count();
        served(&site, "mei@tea.example", "203.0.113.5").await;
        // The bot learns to solve: up to the client's burst, and no further.
        let mut solved = 0;
        for number in 0..20 {
            let email = format!("more{number}@tea.example");
            let page = site.subscribe("plain", "2001:db8:7:7::1", &[("email", &email)]).text();
            solved += usize::from(page.contains("data-challenge") && proved(&site, "2001:db8:7:7::1", &page).status == 200);
        }
        all_sent(&site).await;
        let mails = sink.received().len();
        crate::support::say(format!("{}: one client, {POSTS} addresses: {thanked} taken, {proof} asked for a proof, {refused} refused; {without} mails at the server, {solved} more after solved challenges; somebody else subscribed and confirmed in the middle within {took:?}", database.name));
        assert_eq!((thanked, without, thanked + proof + refused), (5, 5, POSTS));
        assert_eq!((solved, mails), (5, 12), "burst 10, Ann's and Mei's");
        served(&site, "joe@tea.example", "203.0.113.6").await;
        stop(sending);
    }
}

on_each_database! {
    async fn many_bots_leave_a_share_to_people_who_prove_themselves(database) {
        let site = site(&database, "challenge_bits = 8\nall = \"100/h\"").await;
        let (thanked, proof, _) = bomb(&site, |number| (format!("198.18.{}.{}", number / 256, number % 256), format!("victim{number}@tea.example")));
        assert!(thanked <= 5 && proof > 9_000, "{thanked} {proof}");
        for number in 0..4 {
            served(&site, &format!("person{number}@tea.example"), &format!("203.0.113.{number}")).await;
        }
        // Everybody's share is gone, and a solved challenge opens the reserved one.
        let reserved = "SELECT COALESCE(MAX(spent_until), 0) FROM form_bucket WHERE name = 'solved'";
        assert_eq!(site.count(reserved).await, 0);
        served(&site, "last@tea.example", "203.0.113.77").await;
        assert!(site.count(reserved).await > 0);
        crate::support::say(format!("{POSTS} clients and addresses, 100 an hour: {thanked} taken, {proof} asked for a proof; 5 people of 5 served"));
    }
}

on_each_database! {
    async fn who_has_no_script_waits_and_each_proof_is_good_once(database) {
        let site = site(&database, "challenge = \"always\"\nchallenge_bits = 8").await;
        let form = site.page("/subscribe/plain");
        assert!(form.header("content-security-policy").unwrap().contains("script-src 'self'"), "{form:?}");
        assert!(form.text().contains("<script src=\"/assets/pow.js\"") && get(&site.url("/assets/pow.js")).text().contains("crypto.subtle"));
        let page = site.subscribe("plain", "192.0.2.1", &[("email", "mei@tea.example")]).text();
        assert!(page.contains("wait 15 seconds") && site.contact("mei@tea.example").await.is_none(), "{page}");
        let (wait, wording) = (value(&page, "wait"), value(&page, "wording"));
        let send = |email: &str, wait: &str| site.post("plain", "192.0.2.1", &[("email", email), ("wording", &wording), ("wait", wait)]).text();
        site.clock.advance(5_000);
        let early = send("mei@tea.example", &wait);
        assert!(early.contains("10 more seconds") && value(&early, "wait") == wait, "{early}");
        site.clock.advance(10_000);
        assert!(send("other@tea.example", &wait).contains("data-challenge"), "a ticket is for its address");
        assert!(send("mei@tea.example", &wait).contains("Thank you"));
        assert!(send("mei@tea.example", &wait).contains("data-challenge"), "and good once");
        assert_eq!(site.confirmations("mei@tea.example").await, 1);
        // The same of a solved challenge; one of another form, or a forged one, is none.
        let challenge = value(&site.page("/subscribe/plain").text(), "challenge");
        let solution = solve(&challenge, 8);
        let prove = |form: &str, email: &str, challenge: &str, solution: &str| {
            let wording = site.wording(form);
            site.post(form, "192.0.2.2", &[("email", email), ("wording", &wording), ("f.first_name", "X"), ("challenge", challenge), ("solution", solution)]).text()
        };
        assert!(prove("letter", "a@tea.example", &challenge, &solution).contains("data-challenge"));
        assert!(prove("plain", "a@tea.example", "AAAA", &solve("AAAA", 8)).contains("data-challenge"));
        let unsolved = (0..).map(|n: u32| n.to_string()).find(|text| !requests::solves(&challenge, text, 8)).unwrap();
        assert!(prove("plain", "a@tea.example", &challenge, &unsolved).contains("data-challenge"));
        assert!(prove("plain", "a@tea.example", &challenge, &solution).contains("Thank you"));
        assert!(prove("plain", "b@tea.example", &challenge, &solution).contains("data-challenge"));
        // Its time runs out.
        let late = value(&site.page("/subscribe/plain").text(), "challenge");
        site.clock.advance(requests::CHALLENGE_MS);
        assert!(prove("plain", "c@tea.example", &late, &solve(&late, 8)).contains("data-challenge"));
    }
}

on_each_database! {
    async fn a_trap_catches_machines_and_nobody_else_notices(database) {
        let site = site(&database, "").await;
        let wording = site.wording("plain");
        let trapped = site.post("plain", "192.0.2.1", &[("email", "bot@tea.example"), ("wording", &wording), ("website", "http://spam.example")]);
        let honest = site.subscribe("plain", "192.0.2.1", &[("email", "mei@tea.example")]);
        assert_eq!(trapped.text().replace("bot@", "mei@"), honest.text());
        assert!(site.contact("bot@tea.example").await.is_none() && site.contact("mei@tea.example").await.is_some());
        let metrics = get(&site.url("/metrics")).text();
        assert!(metrics.contains("optin_form_requests_total{outcome=\"trapped\"} 1"), "{metrics}");
        assert!(metrics.contains("optin_form_requests_total{outcome=\"accepted\"} 1"), "{metrics}");
    }
}

on_each_database! {
    async fn over_the_limit_people_are_told_when_to_come_back(database) {
        let site = site(&database, "per_client = \"2/h\"\nburst = 2\nchallenge = \"off\"").await;
        for number in 0..2 {
            assert_eq!(site.subscribe("plain", "192.0.2.1", &[("email", &format!("p{number}@tea.example"))]).status, 200);
        }
        let wording = value(&site.page("/subscribe/plain?lang=zh-Hant").text(), "wording");
        let sent = encoded(&[("email", "late@tea.example"), ("wording", &wording)]);
        let answer = crate::support::http::request(
            "POST",
            &site.url("/subscribe/plain?lang=zh-Hant"),
            &[("Content-Type", FORM), ("X-Forwarded-For", "192.0.2.1")],
            sent.as_bytes(),
        );
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1800")), "{}", answer.text());
        assert!(answer.text().contains("請稍後再試") && answer.text().contains("30"), "{}", answer.text());
        assert!(site.contact("late@tea.example").await.is_none());
        site.clock.advance(1_800_000);
        assert_eq!(site.subscribe("plain", "192.0.2.1", &[("email", "late@tea.example")]).status, 200);
    }
}
