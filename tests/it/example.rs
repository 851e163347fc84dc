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

/// Copies the example into a folder of its own.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, target).unwrap();
        }
    }
}

/// What may stand in a table, as `check` tells whoever writes something else there.
fn known_keys(file: &str, table: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    copy(&repository().join("config"), dir.path());
    let path = dir.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let stranger = "zzzzzzzzzzzz = 1\n";
    let changed = match table {
        "" => format!("{stranger}{text}"),
        table if text.contains(&format!("\n[{table}]\n")) => text.replace(&format!("\n[{table}]\n"), &format!("\n[{table}]\n{stranger}")),
        table => format!("{text}\n[{table}]\n{stranger}"),
    };
    std::fs::write(&path, changed).unwrap();
    let problems = load(dir.path(), &Environment::default()).expect_err("nobody knows zzzzzzzzzzzz");
    let stranger = problems.list.iter().find(|problem| problem.message.contains("zzzzzzzzzzzz")).unwrap_or_else(|| panic!("{problems:?}"));
    let known = stranger.hint.strip_prefix("known here: ").unwrap_or_else(|| panic!("{}", stranger.hint));
    known.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

#[test]
fn the_example_shows_every_setting() {
    let tables: &[(&str, &[&str])] = &[
        (
            "optin.toml",
            &["", "site", "smtp", "limits", "provider.gmail", "sender", "delivery", "consent", "forms", "retention", "rights", "log"],
        ),
        ("topics.toml", &["tea-letter"]),
        ("forms.toml", &["tea"]),
        ("profile.toml", &["city"]),
        ("segments.toml", &["quiet"]),
        ("campaigns/spring-leaves.toml", &["", "tracking", "delivery"]),
        ("messages/order-confirmation.toml", &[""]),
    ];
    let (mut seen, mut missing) = (0, Vec::new());
    for (file, tables) in tables {
        let file = std::path::Path::new(file);
        // What one campaign does not show, another one does.
        let folder = repository().join("config").join(file.parent().unwrap());
        let beside = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| {
            path.extension().is_some_and(|end| end == "toml") && (file.components().count() > 1 || path.file_name() == file.file_name())
        });
        let text: String = beside.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let file = file.to_str().unwrap();
        for table in *tables {
            for key in known_keys(file, table) {
                seen += 1;
                let shown = text.lines().map(|line| line.trim_start_matches("# ")).any(|line| {
                    let table_of_it = line.trim_matches(['[', ']']);
                    let as_key = line.strip_prefix(&key).is_some_and(|rest| rest.starts_with(" = "));
                    as_key || (line.starts_with('[') && table_of_it.split('.').any(|part| part == key))
                });
                if !shown {
                    missing.push(format!("{file}: {key} of [{table}]"));
                }
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    assert!(seen > 90, "only {seen} keys: the hints do not tell all of them");
}

#[test]
fn what_does_nothing_or_not_what_it_seems_to_is_said_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    copy(&repository().join("config"), &config);
    let warnings = || {
        let checked = crate::support::command(&["check", "--json"]).dir(dir.path()).run().exits(0).json();
        let warnings = checked["warnings"].as_array().unwrap().clone();
        warnings.iter().map(|one| format!("{} {}", one["line"], one["message"].as_str().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(warnings(), Vec::<String>::new());
    let change = |file: &str, from: &str, to: &str| {
        let path = config.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    change("optin.toml", "hit_days = 760", "hit_days = 90");
    change("optin.toml", "inactive_months = 0", "inactive_months = 24");
    change("optin.toml", "# DE = ", "DE = ");
    change("optin.toml", "\ncountry_attribute = ", "\n# country_attribute = ");
    change("optin.toml", "url = \"http://127.0.0.1:8080\"", "url = \"http://news.tea.example\"");
    change("topics.toml", "# coupons = ", "coupons = ");
    change("topics.toml", "\nwelcome = ", "\n# welcome = ");
    let said = warnings();
    let expected = [
        "`http://news.tea.example` is not https",
        "`inactive_months = 24`",
        "`tracking_by_country` holds for nobody",
        "no code of `first-cup`",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for part in expected {
        assert!(said.iter().any(|one| one.contains(part) && !one.starts_with("0 ")), "{part}\n{said:#?}");
    }
}
