//! The example instance: its campaigns as the mails that people in three languages get.

use std::collections::BTreeMap;

use optin::campaign::Definition;
use optin::clock::Time;
use optin::config::{Config, Environment, load};
use optin::contact::{AttributeValue, Contact, Schema};
use optin::content::{FrameSettings, LinkMaker, Mail, Recipient, prepare};

use crate::support::process::repository;

struct Links;

impl LinkMaker for Links {
    fn unsubscribe(&self) -> String {
        "https://news.tea.example/u/TOKEN".to_owned()
    }

    fn preferences(&self) -> String {
        "https://news.tea.example/p/TOKEN".to_owned()
    }

    fn view(&self) -> String {
        "https://news.tea.example/v/TOKEN".to_owned()
    }

    fn open_pixel(&self) -> Option<String> {
        Some("https://news.tea.example/o/TOKEN.gif".to_owned())
    }

    fn track(&self, _position: i64, url: &str) -> String {
        url.to_owned()
    }
}

fn example() -> Config {
    load(&repository().join("config"), &Environment::default()).unwrap_or_else(|problems| panic!("{}", problems.render(false)))
}

fn contact(first_name: Option<&str>, locale: Option<&str>, attributes: &[(&str, AttributeValue)]) -> Contact {
    Contact {
        id: 1,
        email: "mei@example.com".to_owned(),
        email_key: "mei@example.com".to_owned(),
        first_name: first_name.map(str::to_owned),
        last_name: None,
        locale: locale.map(str::to_owned),
        timezone: None,
        phone: None,
        external_id: None,
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<BTreeMap<_, _>>(),
    }
}

fn mail(config: &Config, campaign: &str, contact: &Contact) -> Mail {
    let definition = Definition::new(config, &config.campaigns[campaign]);
    let prepared = prepare(&definition, &Schema::new(&config.attributes), &FrameSettings::default())
        .unwrap_or_else(|problems| panic!("{campaign}: {problems:#?}"));
    let recipient = Recipient { contact, links: &Links, grounds: None, now: Time::parse("2026-04-21T01:00:00Z").unwrap() };
    prepared.render(&recipient).unwrap_or_else(|error| panic!("{campaign}: {error}"))
}

#[test]
fn every_campaign_reads_well_in_three_languages() {
    let config = example();
    let vip = [("vip", AttributeValue::Boolean(true)), ("city", AttributeValue::Text("Taipei".to_owned()))];
    let people = [
        ("English", contact(Some("Ana"), Some("en"), &vip)),
        ("繁體", contact(Some("小明"), Some("zh-Hant-TW"), &vip)),
        ("简体", contact(Some("小红"), Some("zh-Hans-CN"), &[])),
        ("nothing known", contact(None, None, &[])),
    ];
    let mut shown = String::new();
    for name in config.campaigns.keys() {
        for (who, contact) in &people {
            let mail = mail(&config, name, contact);
            assert!(!mail.html.contains("{{") && !mail.html.contains("{%"), "{name} for {who}");
            shown +=
                &format!("===== {name}, {who}\nSubject: {}\nPreheader: {}\n\n{}\n\n", mail.subject, mail.preheader, mail.text.trim_end());
        }
    }
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("example_mails", shown);
    });
}

#[test]
fn the_spring_letter_has_links_worth_tracking() {
    let config = example();
    let definition = Definition::new(&config, &config.campaigns["spring-leaves"]);
    let prepared = prepare(&definition, &Schema::new(&config.attributes), &FrameSettings::default()).unwrap();
    assert!(prepared.links().len() >= 12, "four and more in each language");
}

#[test]
fn every_segment_and_audience_is_understood() {
    let config = example();
    let catalog = optin::segment::Catalog::new(&config);
    let audiences = config.campaigns.values().filter_map(|campaign| campaign.audience.as_ref()).map(|audience| &audience.value);
    let rules: Vec<&String> = config.segments.values().map(|segment| &segment.rule.value).chain(audiences).collect();
    assert!(rules.len() >= 6);
    for rule in rules {
        if let Err(errors) = optin::segment::rule(rule, &catalog) {
            panic!("{}", optin::segment::problems("rule", rule, &errors).render(false));
        }
    }
}

#[test]
fn the_layout_that_the_readme_shows_works() {
    let mut config = example();
    let readme = std::fs::read_to_string(repository().join("config/layouts/README.md")).unwrap();
    let shown = readme.split("```html\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the README shows a layout");
    let text = optin::config::SourceText { file: "layouts/winter.html".into(), text: shown.to_owned() };
    config.layouts.insert("winter".to_owned(), text);
    config.campaigns.get_mut("spring-leaves").unwrap().layout.value = "winter".to_owned();
    let mail = mail(&config, "spring-leaves", &contact(Some("Ana"), Some("en"), &[]));
    assert!(mail.html.contains("1 Leaf Street") && mail.html.contains("https://news.tea.example/u/TOKEN"), "{}", mail.html);
    assert!(mail.html.contains("The spring leaves are in"));
}
