//! Mails that went all the way, from a CSV file over SMTP, read by another implementation: Python's
//! `email` package (see `tests/python/check_mail.py` for the rules).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::support::process::{call, repository};
use crate::support::smtp::Sink;
use crate::support::{TestDatabase, instance};

const SETTINGS: &str = r#"[site]
url = "http://127.0.0.1:8080"
[sender]
name = "Zoë \"Z\" O'Neil, Ltd. 茶館"
email = "letters@tea.example"
reply_to = "hello@tea.example"
postal_address = "1 Leaf Street, Taipei"
[attributes]
note = "text"
"#;

const TOPICS: &str = r#"[letter]
name = "Tea letter 茶訊, fresh"
description = "What is fresh"
opt_in = "single"
"#;

const CAMPAIGN: &str = r#"topic = "letter"
subject = "For {{ contact.first_name | default('-') }}"
preheader = "Three new oolongs"
layout = "newsletter"
body = "weekly.md"
[tracking]
opens = true
clicks = true
"#;

const BODY: &str = "# Fresh 新茶\n\n«{{ contact.note | default('-') }}»\n\n**[Look](https://tea.example/look)**\n";

/// Strings that break careless programs: ours, and the big list of naughty strings where it is there.
fn naughty() -> Vec<String> {
    let read = |path: std::path::PathBuf| -> Option<Vec<String>> {
        std::fs::read_to_string(path).ok().map(|text| serde_json::from_str(&text).expect("a list of strings"))
    };
    let mut strings = read(repository().join("tests/fixtures/naughty.json")).expect("our own list");
    strings.extend(read(repository().join("../shared/corpora/naughty-strings/blns.json")).unwrap_or_default());
    strings
}

/// Who gets a mail: name and note. Long texts without a blank only fit a note.
fn people() -> BTreeMap<String, (String, String)> {
    let strings = naughty().into_iter().map(|text| (text.clone(), text));
    let long = ["x".repeat(5_000), "𠮷".repeat(1_500), "茶 ".repeat(1_000), format!("{}\r\n.\r\n", "y ".repeat(600))];
    let long = long.into_iter().map(|text| ("小明".to_owned(), text));
    strings.chain(long).enumerate().map(|(number, person)| (format!("reader-{number}@example.com"), person)).collect()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[test]
fn every_mail_is_read_by_python_as_it_was_meant() {
    let database = TestDatabase::sqlite();
    let sink = Sink::start();
    let site = "https://news.tea.example";
    let files = [("optin.toml", SETTINGS), ("topics.toml", TOPICS), ("campaigns/weekly.toml", CAMPAIGN), ("campaigns/weekly.md", BODY)];
    let instance = instance(&database, &files).with_smtp(&sink).with_env("OPTIN_SITE__URL", site);
    let mut people = people();
    let mut list = String::from("email,first_name,note\r\n");
    for (address, (name, note)) in &people {
        write!(list, "{address},{},{}\r\n", quoted(name), quoted(note)).unwrap();
    }
    std::fs::write(instance.root().join("list.csv"), list).unwrap();
    let import = ["--json", "import", "contacts", "list.csv", "--topic", "letter", "--consent", "confirmed", "--source", "a test"];
    let imported = instance.optin(&[&import[..], &["--encoding", "utf-8", "--rejects", "rejects.csv"]].concat()).exits(0).json();
    // Names that are too long for a name are refused at the door, each by its own row.
    if imported["rejected"] != 0 {
        let rejects = std::fs::read_to_string(instance.root().join("rejects.csv")).unwrap();
        assert!(rejects.lines().filter(|line| line.contains("longer than")).count() as u64 == imported["rejected"], "{rejects}");
        people.retain(|address, _| !rejects.contains(&format!("{address},")));
    }
    assert_eq!(imported["added"], people.len(), "{imported}");
    let sent = instance.optin(&["--json", "send", "weekly"]).exits(0).json();
    assert_eq!(sent["sent"], people.len(), "{sent}");

    let received = sink.wait_for(people.len(), 10);
    assert_eq!((received.len(), sink.breaches()), (people.len(), Vec::new()));
    let folder = instance.root().join("mails");
    std::fs::create_dir(&folder).unwrap();
    for (number, mail) in received.iter().enumerate() {
        assert_eq!((mail.from.as_str(), mail.to.len()), ("letters@tea.example", 1));
        assert!(people.contains_key(&mail.to[0]), "{:?}", mail.to);
        std::fs::write(folder.join(format!("{number:04}.eml")), &mail.data).unwrap();
    }
    let expected = json!({
        "from": ["Zoë \"Z\" O'Neil, Ltd. 茶館", "letters@tea.example"],
        "reply_to": "hello@tea.example",
        "topic": "Tea letter 茶訊, fresh",
        "site": site,
        "postal_address": "1 Leaf Street, Taipei",
        "people": people.iter().map(|(address, (name, note))| {
            let local = address.split('@').next().unwrap();
            (address.clone(), json!({ "local": local, "name": name, "value": note }))
        }).collect::<serde_json::Map<_, _>>(),
    });
    std::fs::write(folder.join("expected.json"), expected.to_string()).unwrap();
    assert_eq!(check(&folder), (0, json!({ "mails": people.len(), "problems": [] })));

    // The checker sees a header that came in, a letter that went missing, and an element too many.
    let mail = String::from_utf8(received[0].data.clone()).unwrap();
    let broken =
        [format!("Bcc: x@example.org\r\n{mail}"), mail.replacen("tea.example>", "tee.example>", 1), mail.replacen("</h1>", "</h1><b>", 1)];
    for mail in broken {
        std::fs::write(folder.join("0000.eml"), mail).unwrap();
        let (code, answer) = check(&folder);
        assert!(code == 1 && answer["problems"].as_array().is_some_and(|problems| !problems.is_empty()), "{answer}");
    }
}

fn check(folder: &Path) -> (i32, serde_json::Value) {
    let script = repository().join("tests/python/check_mail.py");
    let checked = call("python3", &[script.to_str().unwrap(), folder.to_str().unwrap()]).run();
    (checked.code, checked.json())
}
