//! A person's own data by the pages: only a fresh mail to the address gives it, once a day, and the
//! register knows.

use crate::support::smtp::Sink;
use crate::support::{self, Instance, http, on_each_database};

const FILES: &[(&str, &str)] = &[
    ("topics.toml", "[letter]\nname = \"Letter\"\ndescription = \"Weekly\"\n"),
    ("campaigns/hello.toml", "topic = \"letter\"\nsubject = \"Hello\"\nbody = \"hello.md\"\n"),
    ("campaigns/hello.md", "Hello\n"),
];
const FORM: &str = "application/x-www-form-urlencoded";

fn link(text: &str, part: &str) -> String {
    text.split(['<', '>', ' ', '\n', '\r', '(', ')', '"'])
        .find(|word| word.contains(part))
        .unwrap_or_else(|| panic!("no {part} in {text}"))
        .to_owned()
}

fn text_part(raw: &[u8]) -> String {
    mail_parser::MessageParser::default().parse(raw).unwrap().body_text(0).unwrap().into_owned()
}

fn letter(instance: &Instance, sink: &Sink) -> String {
    instance.optin(&["consent", "grant", "mei@tea.example", "--topic", "letter", "--source", "form 17"]).exits(0);
    instance.optin(&["send", "hello", "--json"]).exits(0);
    link(&text_part(&sink.wait_for(1, 20)[0].data), "/p/")
}

fn requests(instance: &Instance) -> Vec<serde_json::Value> {
    instance.optin(&["rights", "list", "--all", "--json"]).exits(0).json()["requests"].as_array().unwrap().clone()
}

on_each_database! {
    async fn only_the_link_of_a_fresh_mail_gives_a_copy_or_erases(database) {
        let sink = Sink::start();
        let instance = support::instance(&database, FILES).with_smtp(&sink);
        let page = letter(&instance, &sink);
        let mut serving = instance.command(&["serve"]).spawn();
        serving.wait_for_line("optin is ready", 20);
        let ask = |action: &str| http::post(&format!("{page}/data"), FORM, format!("action={action}").as_bytes());
        let first = ask("export");
        let second = ask("export");
        assert_eq!((first.status, second.status), (200, 200), "{}", first.text());
        assert_eq!(first.text(), second.text(), "the answer tells nobody how often somebody asked");
        assert!(!first.text().contains("mei@tea.example"));
        let mails = sink.wait_for(2, 20);
        let copy = link(&text_part(&mails[1].data), "/r/");
        assert_eq!(mails[1].to, ["mei@tea.example"]);

        // Looking does nothing, however often.
        for _ in 0..2 {
            let question = http::get(&copy);
            assert_eq!(question.status, 200, "{}", question.text());
            assert_eq!(http::head(&copy).status, 200);
        }
        assert_eq!(requests(&instance)[0]["state"], "asked");
        let archive = http::post(&copy, FORM, b"confirm=1");
        assert_eq!((archive.status, archive.header("content-type")), (200, Some("application/zip")));
        let file = instance.root().join("copy.zip");
        std::fs::write(&file, &archive.body).unwrap();
        let listed = support::process::call("unzip", &["-t", file.to_str().unwrap()]).run().exits(0);
        assert!(listed.stdout.contains("index.html") && listed.stdout.contains("data.json"), "{}", listed.stdout);
        let data = support::process::call("unzip", &["-p", file.to_str().unwrap(), "data.json"]).run().exits(0);
        let data: serde_json::Value = serde_json::from_str(&data.stdout).unwrap();
        assert_eq!(data["person"]["fields"]["email"], "mei@tea.example");
        assert_eq!(requests(&instance)[0]["state"], "done");

        // A link of one purpose, or one that was touched, serves no other.
        for wrong in [copy.replace("/r/", "/p/"), copy.replace("/r/", "/s/"), page.replace("/p/", "/r/"), copy.replacen("/r/", "/r/x", 1)] {
            assert_eq!(http::get(&wrong).status, 404, "{wrong}");
        }
        assert_eq!(ask("nonsense").status, 404);

        assert_eq!(ask("erase").status, 200);
        let erase = link(&text_part(&sink.wait_for(3, 20)[2].data), "/r/");
        assert_eq!(http::get(&erase).status, 200);
        instance.optin(&["contact", "show", "mei@tea.example"]).exits(0);
        let erased = http::post(&erase, FORM, b"");
        assert_eq!(erased.status, 200);
        instance.optin(&["contact", "show", "mei@tea.example"]).exits(1);
        for gone in [&erase, &copy] {
            let again = http::post(gone, FORM, b"");
            assert!(again.status < 400 && !again.text().contains("tea.example\""), "{}", again.text());
        }
        assert!(ask("export").status < 400);
        serving.signal("TERM");
        assert_eq!(serving.wait(20).0, 0);
        assert_eq!(sink.received().len(), 3);
        let done: Vec<_> = requests(&instance).iter().map(|request| (request["kind"].clone(), request["state"].clone(), request["email"].clone())).collect();
        assert!(done.iter().all(|(_, state, email)| state == "done" && email.is_null()), "{done:?}");
    }
}

on_each_database! {
    async fn an_operator_answers_where_nothing_is_automatic(database) {
        let sink = Sink::start();
        let instance = support::instance(&database, FILES).with_smtp(&sink).with_env("OPTIN_RIGHTS__AUTOMATIC", "false");
        let page = letter(&instance, &sink);
        let mut serving = instance.command(&["serve"]).spawn();
        serving.wait_for_line("optin is ready", 20);
        http::post(&format!("{page}/data"), FORM, b"action=erase");
        let erase = link(&text_part(&sink.wait_for(2, 20)[1].data), "/r/");
        assert_eq!(http::post(&erase, FORM, b"").status, 200);
        instance.optin(&["contact", "show", "mei@tea.example"]).exits(0);
        let metrics = http::get(&instance.url("/metrics")).text();
        serving.signal("TERM");
        serving.wait(20);
        assert!(metrics.contains("optin_rights_overdue 0"), "{metrics}");
        let open = &requests(&instance)[0];
        assert_eq!((open["state"].as_str(), open["overdue"].as_bool()), (Some("open"), Some(false)));
        instance.optin(&["rights", "list", "--overdue"]).exits(0);
        let later = (optin::clock::Clock::system().now().plus(31 * optin::clock::DAY)).to_string();
        let late = instance.command(&["rights", "list", "--overdue"]).clock(&later).run().exits(1);
        assert!(late.stdout.contains("OVERDUE"), "{}", late.stdout);
        let id = open["id"].as_str().unwrap();
        let refused = instance.optin(&["rights", "close", id]).exits(1);
        assert!(refused.stderr.contains("is not erased"), "{}", refused.stderr);
        instance.optin(&["contact", "erase", "mei@tea.example", "--yes"]).exits(0);
        assert_eq!(requests(&instance)[0]["state"], "done");
    }
}

on_each_database! {
    async fn a_correction_keeps_what_somebody_refused(database) {
        let instance = support::instance(&database, FILES);
        instance.optin(&["consent", "grant", "mei@tea.example", "--topic", "letter", "--source", "form 17"]).exits(0);
        instance.optin(&["consent", "grant", "mai@tea.example", "--topic", "letter", "--source", "form 18"]).exits(0);
        let clash = instance.optin(&["contact", "change", "mei@tea.example", "--email", "MAI@tea.example"]).exits(1);
        assert!(clash.stderr.contains("another contact"), "{}", clash.stderr);
        let unknown = instance.optin(&["contact", "change", "mei@tea.example", "--set", "fist_name=Mei"]).exits(2);
        assert!(unknown.stderr.contains("did you mean `first_name`?"), "{}", unknown.stderr);
        instance.write("../bounced.csv", "mei@tea.example\n");
        let list = instance.root().join("bounced.csv");
        instance.optin(&["import", "suppressions", list.to_str().unwrap(), "--source", "old system"]).exits(0);
        let moved = instance.optin(&["contact", "change", "mei@tea.example", "--set", "first_name=Mei", "--email", "new@leaf.example", "--json"]).exits(0).json();
        assert!(moved["suppressed"].is_string(), "{moved:#}");
        let shown = instance.optin(&["contact", "show", "new@leaf.example", "--json"]).exits(0).json();
        assert_eq!((shown["suppressed"].as_bool(), shown["topics"][0]["standing"].as_str()), (Some(true), Some("subscribed")));
        assert_eq!(shown["attributes"]["first_name"], "Mei");
        let history = instance.optin(&["consent", "history", "new@leaf.example", "--json"]).exits(0).json().to_string();
        assert!(history.contains("changed") && history.contains("mei@tea.example"), "{history}");
        instance.optin(&["contact", "show", "mei@tea.example"]).exits(1);
        instance.optin(&["consent", "verify"]).exits(0);
    }
}
