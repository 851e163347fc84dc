//! `optin lint`: what should be looked at before a campaign is sent.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::send::{WEEKLY, shop};
use crate::support::smtp::Sink;
use crate::support::{Instance, TestDatabase, on_each_database};

fn lint(shop: &Instance) -> (i32, Vec<Value>) {
    let output = shop.optin(&["lint", "weekly", "--json"]);
    (output.code, output.json()["findings"].as_array().unwrap().clone())
}

fn rules(findings: &[Value], severity: &str) -> BTreeSet<String> {
    findings.iter().filter(|finding| finding["severity"] == severity).map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What holds a shop up, and the shop.
fn ready() -> ((Sink, TestDatabase), Instance) {
    let (sink, database) = (Sink::start(), TestDatabase::sqlite());
    let shop = shop(&database, &sink).with_env("OPTIN_SITE__URL", "https://news.tea.example");
    ((sink, database), shop)
}

on_each_database!(
    async fn a_sound_campaign_has_no_findings_and_a_local_site_only_warnings(database) {
        let sink = Sink::start();
        let local = shop(&database, &sink);
        let (code, findings) = lint(&local);
        assert_eq!((code, rules(&findings, "warning"), rules(&findings, "error")), (0, set(&["site-local"]), set(&[])));
        let open = shop(&database, &sink).with_env("OPTIN_SITE__URL", "http://news.tea.example");
        assert_eq!(rules(&lint(&open).1, "warning"), set(&["site-https"]));
        let checked = open.optin(&["check"]).exits(0);
        assert!(checked.stderr.contains("warning: `http://news.tea.example` is not https"), "{checked}");
        let shop = local.with_env("OPTIN_SITE__URL", "https://news.tea.example");
        let (code, findings) = lint(&shop);
        assert_eq!((code, findings), (0, vec![]));
        let shown = shop.optin(&["lint"]).exits(0);
        assert_eq!(shown.stdout, "0 errors, 0 warnings\n");
        shop.optin(&["lint", "weakly"]).exits(2);
    }
);

on_each_database!(
    async fn languages_that_the_audience_reads_and_nobody_wrote_are_errors(database) {
        let sink = Sink::start();
        let shop = shop(&database, &sink).with_env("OPTIN_SITE__URL", "https://news.tea.example");
        crate::send::import(&shop, "email,locale\na@one.test,en\nb@one.test,zh-TW\nc@one.test,zh-CN\nd@one.test,de-AT\n", "confirmed");
        let (code, findings) = lint(&shop);
        assert_eq!(code, 1);
        assert_eq!(rules(&findings, "error"), set(&["language-missing", "topic-language"]), "{findings:#?}");
        assert_eq!(rules(&findings, "warning"), set(&["content-language"]));
        let missing = findings.iter().find(|finding| finding["rule"] == "language-missing").unwrap();
        assert_eq!(missing["message"], "1 in the audience read `de-AT`, and the frame of their mails is English");
        assert!(missing["hint"].as_str().unwrap().contains("languages/de.toml"));
        let topic = findings.iter().find(|finding| finding["rule"] == "topic-language").unwrap();
        assert!(topic["file"].as_str().unwrap().ends_with("topics.toml") && topic["line"] == 1 && topic["campaign"] == "weekly", "{topic}");
        let shown = shop.optin(&["lint", "weekly"]).exits(1);
        assert!(shown.stdout.contains("topics.toml:1:1: weekly: people who read `en`, `zh-Hans` and `zh-Hant` get the same name"), "{shown}");
        let translated = "[tea-letter]\nname = \"Tea letter\"\n[tea-letter.zh-Hant]\nname = \"茶訊\"\n[tea-letter.zh-Hans]\nname = \"茶讯\"\n\
                          [offers]\nname = \"Offers\"\n";
        shop.write("topics.toml", translated);
        shop.write("campaigns/weekly.md", "{% if contact.locale %}Hi{% endif %}\n");
        let (_, findings) = lint(&shop);
        assert_eq!(rules(&findings, "error"), set(&["language-missing"]), "{findings:#?}");
        assert_eq!(rules(&findings, "warning"), set(&[]));
    }
);

#[test]
fn subjects_that_pretend_or_say_too_much_are_found() {
    let (_held, shop) = ready();
    let subject = |text: &str| {
        let campaign =
            WEEKLY.lines().map(|line| if line.starts_with("subject") { format!("subject = \"{text}\"") } else { line.to_owned() });
        shop.write("campaigns/weekly.toml", campaign.collect::<Vec<_>>().join("\n"));
        let (_, findings) = lint(&shop);
        findings.iter().map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    for text in ["Re: your order", "FWD: hello", "回复：春茶", "aw: x"] {
        assert_eq!(subject(text), set(&["subject-reply"]), "{text}");
    }
    for text in ["Tea: the new leaves", "Reply: soon", "Red: a tea"] {
        assert_eq!(subject(text), set(&[]), "{text}");
    }
    assert_eq!(subject("【广告】春茶"), set(&["ad-label"]));
    assert_eq!(subject("{{ contact.first_name | default('') }}"), set(&["subject-empty"]));
}

#[test]
fn advertising_topics_are_looked_at() {
    let (_held, shop) = ready();
    shop.write("topics.toml", "[tea-letter]\nname = \"Tea letter\"\nadvertising = true\n[offers]\nname = \"Offers\"\n");
    shop.write("campaigns/weekly.toml", WEEKLY.replace("subject = \"", "subject = \"AD "));
    let (code, findings) = lint(&shop);
    assert_eq!((code, rules(&findings, "warning")), (0, set(&["ad-country", "ad-label"])), "{findings:#?}");
}

#[test]
fn who_writes_and_from_where_must_be_told() {
    let (_held, shop) = ready();
    let sender = "\n[sender]\nname = \"letters@tea.example\"\nemail = \"no-reply@tea.example\"\npostal_address = \"tba\"\n";
    shop.write("campaigns/weekly.toml", format!("{WEEKLY}{sender}"));
    let (code, findings) = lint(&shop);
    assert_eq!(code, 1);
    assert_eq!(rules(&findings, "error"), set(&["postal-address", "sender-identity"]), "{findings:#?}");
    assert_eq!(rules(&findings, "warning"), set(&["no-reply"]));
    // Hidden where nobody sees it: in the HTML part, and not in the text part.
    shop.write("campaigns/weekly.toml", WEEKLY.replace("newsletter", "mine"));
    let layout = "<html><body>{{ content }}<div style=\"display:none\"><a href=\"{{ links.unsubscribe }}\">x</a></div></body></html>";
    shop.write("layouts/mine.html", layout);
    let (_, findings) = lint(&shop);
    assert_eq!(rules(&findings, "error"), set(&["unsubscribe-text"]), "{findings:#?}");
}

#[test]
fn forms_profiles_and_welcomes_speak_every_language_they_have_readers_in() {
    let (_held, shop) = ready();
    crate::send::import(&shop, "email,locale\na@one.test,en\nb@one.test,zh-TW\nc@one.test,zh-CN\n", "none");
    let topics = "[tea-letter]\nname = \"Tea letter\"\nopt_in = \"single\"\nwelcome = \"hello\"\n[offers]\nname = \"Offers\"\n";
    shop.write("topics.toml", topics);
    shop.write("messages/hello.toml", "subject = \"Hello\"\nbody = \"hello.md\"\n");
    shop.write("messages/hello.md", "Welcome.\n");
    shop.write("profile.toml", "[city]\nchoices = [\"taipei_city\", \"other\"]\n");
    shop.write("forms.toml", "[tea]\ntopics = [\"tea-letter\"]\nwording = \"I agree\"\n[tea.zh-Hant]\nwording = \"我同意\"\n");
    let (code, findings) = lint(&shop);
    assert_eq!(code, 1);
    assert_eq!(rules(&findings, "error"), set(&["form-language"]), "{findings:#?}");
    assert_eq!(rules(&findings, "warning"), set(&["double-opt-in", "profile-label", "welcome-language"]), "{findings:#?}");
    let form = findings.iter().find(|finding| finding["rule"] == "form-language").unwrap();
    assert_eq!(form["message"], "the wording of the form `tea` is not translated for `en` and `zh-Hans`");
    shop.write("forms.toml", "[tea]\ntopics = [\"tea-letter\"]\nwording = \"I agree\"\n[tea.zh-Hant]\nwording = \"我同意\"\n[tea.zh-Hans]\nwording = \"我同意\"\n");
    assert_eq!(rules(&lint(&shop).1, "error"), set(&[]));
}
