//! DKIM signatures, verified by two implementations that are not ours (`tests/python/check_dkim.py`):
//! dkimpy and the library of OpenDKIM.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use optin::clock::Time;
use optin::config::{DkimKey, Located};
use optin::delivery::dkim::{PrivateKey, Signers};
use serde_json::{Value, json};

use crate::support::process::{call, repository};
use crate::support::smtp::Sink;
use crate::support::{self, Instance, TestDatabase};

const RSA: &str = "rsa-2048-pkcs8.pem";
const OTHER_RSA: &str = "rsa-2048-pkcs1.pem";
const ED25519: &str = "ed25519.pem";

fn fixtures() -> PathBuf {
    repository().join("tests/fixtures/dkim")
}

/// Declared keys of `tea.example`: selector and file.
fn signers(keys: &[(&str, &str)]) -> Signers {
    let text = |text: &str| Located::default_value(text.to_owned());
    let keys: Vec<DkimKey> = keys
        .iter()
        .map(|(selector, file)| DkimKey { place: None, domain: text("tea.example"), selector: text(selector), key_file: text(file) })
        .collect();
    Signers::load(&keys, &fixtures()).unwrap()
}

/// What the DNS says, in the form both verifiers read.
fn records(keys: &[(&str, &str)]) -> String {
    keys.iter()
        .map(|(selector, file)| {
            format!("{selector}._domainkey.tea.example {}\n", PrivateKey::read(&fixtures().join(file)).unwrap().record().unwrap())
        })
        .collect()
}

fn signed(signers: &Signers, message: &str) -> Vec<u8> {
    let mut message = message.as_bytes().to_vec();
    signers.sign("tea.example", &mut message, Time::parse("2026-11-22T16:00:00Z").unwrap()).unwrap();
    message
}

/// Results of every mail by its name, as both verifiers say. A message gets its last CRLF here, as SMTP does it.
fn verified(mails: &BTreeMap<String, Vec<u8>>, records: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys.txt"), records).unwrap();
    for (name, mail) in mails {
        let end: &[u8] = if mail.ends_with(b"\r\n") { b"" } else { b"\r\n" };
        std::fs::write(folder.path().join(format!("{name}.eml")), [mail.as_slice(), end].concat()).unwrap();
    }
    let script = repository().join("tests/python/check_dkim.py");
    // Debian's Python has Debian's dkimpy.
    call("/usr/bin/python3", &[script.to_str().unwrap(), folder.path().to_str().unwrap()]).run().exits(0).json()
}

#[track_caller]
fn assert_passed(found: &Value, mail: &str, signatures: usize) {
    let all = json!(vec![true; signatures]);
    assert_eq!(found[mail], json!({ "dkimpy": all, "opendkim": all }), "{mail}");
}

#[track_caller]
fn assert_broken(found: &Value, mail: &str, signatures: usize) {
    for verifier in ["dkimpy", "opendkim"] {
        let results = found[mail][verifier].as_array().unwrap();
        assert!(results.len() == signatures && results.iter().all(|result| *result != json!(true)), "{mail} {verifier}: {results:?}");
    }
}

const HEAD: &str = "Date: Sun, 22 Nov 2026 16:00:00 +0000\r\nFrom: =?utf-8?B?6Iy26aSo?=\r\n <letters@tea.example>\r\nTo: mei@example.com\r\nSubject: =?utf-8?B?5paw6Iy2?=\r\n =?utf-8?B?5LiK5biC?=\r\nMessage-ID: <1.optin@tea.example>\r\nList-Unsubscribe: <https://news.tea.example/u/abc>,\r\n <mailto:letters@tea.example?subject=unsubscribe%20abc>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nMIME-Version: 1.0\r\n";

#[test]
fn every_kind_of_body_and_header_verifies_and_a_change_breaks_it() {
    let keys = [("r2026", RSA), ("e2026", ED25519)];
    let signers = signers(&keys);
    let body = "Hello\r\n.\r\n..dots\r\n.a\r\n";
    let mail = |name: &str, message: String| (name.to_owned(), signed(&signers, &message));
    let long = format!("{HEAD}X-Long: {}\r\nReply-To: {}\r\n\r\nx", "y".repeat(900), "a@b.example,\r\n\t".repeat(60) + "c@d.example");
    let mut mails = BTreeMap::from([
        mail("dots", format!("{HEAD}\r\n{body}")),
        mail("blanks", format!("{HEAD}\r\n  a \t b  \r\n\t\r\nend \t\r\n\r\n\r\n \t")),
        mail("unended", format!("{HEAD}Content-Type: multipart/alternative;\r\n boundary=\"x\"\r\n\r\n--x\r\n\r\na\r\n--x--")),
        mail("long", long),
        mail("empty", format!("{HEAD}\r\n")),
        mail("bare", HEAD.to_owned()),
        mail("eight_bit", format!("{HEAD}Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n新茶上市\r\n")),
        mail("twice", format!("Cc: a@b.example\r\n{HEAD}cc: c@d.example\r\n\r\nx")),
    ]);
    let unbroken: Vec<String> = mails.keys().cloned().collect();
    let good = String::from_utf8(mails["dots"].clone()).unwrap();
    let mut broken = Vec::new();
    let mut tamper = |name: &str, text: String| {
        assert_ne!(text, good);
        broken.push((name.to_owned(), text.into_bytes()));
    };
    tamper("from_above", format!("From: evil@b.example\r\n{good}"));
    tamper("from_below", good.replace("MIME-Version", "From: evil@b.example\r\nMIME-Version"));
    tamper("url", good.replace("/u/abc", "/u/abd"));
    tamper("one_click_added", good.replace("MIME-Version", "List-Unsubscribe: <https://evil.example/>\r\nMIME-Version"));
    tamper("reply_to_added", good.replace("MIME-Version", "Reply-To: evil@b.example\r\nMIME-Version"));
    tamper("subject", good.replace("5LiK5biC", "5LiL5biC"));
    tamper("body", good.replace("Hello", "Hallo"));
    tamper("body_added", format!("{good}more\r\n"));
    let broken_names: Vec<String> = broken.iter().map(|(name, _)| name.clone()).collect();
    mails.extend(broken);
    // What relays do on their way breaks nothing.
    mails
        .insert("refolded".to_owned(), good.replace(",\r\n <mailto", ",\r\n\t   <mailto").replace("Hello\r\n", "Hello  \r\n").into_bytes());
    mails.insert("traced".to_owned(), format!("Received: from a by b\r\n{good}").into_bytes());

    let found = verified(&mails, &records(&keys));
    for name in unbroken.iter().map(String::as_str).chain(["refolded", "traced"]) {
        assert_passed(&found, name, 2);
    }
    for name in &broken_names {
        assert_broken(&found, name, 2);
    }
    // The verifiers look at the key, too.
    let swapped = records(&[("r2026", OTHER_RSA), ("e2026", ED25519)]);
    let found = verified(&BTreeMap::from([("dots".to_owned(), good.into_bytes())]), &swapped);
    for verifier in ["dkimpy", "opendkim"] {
        let results = &found["dots"][verifier];
        assert!(results[0] != json!(true) && results[1] == json!(true), "{verifier}: {results}");
    }
}

const SETTINGS: &str = r#"[site]
url = "https://news.tea.example"
[sender]
name = "Tea House 茶館"
email = "letters@news.tea.example"
postal_address = "1 Leaf Street, Taipei"
"#;

const CAMPAIGN: &str = "topic = \"letter\"\nsubject = \"新茶 {{ contact.first_name }}\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n";

fn shop(database: &TestDatabase, dkim: &str) -> Instance {
    let settings = format!("{SETTINGS}{dkim}");
    let files = [
        ("optin.toml", settings.as_str()),
        ("topics.toml", "[letter]\nname = \"Letter 茶訊\"\nopt_in = \"single\"\n"),
        ("campaigns/weekly.toml", CAMPAIGN),
        ("campaigns/weekly.md", "# 新茶\n\n.dot at the start\n\nFrom here  on, **[look](https://tea.example/look)**.\n"),
    ];
    let instance = support::instance(database, &files);
    for file in [RSA, OTHER_RSA, ED25519, "rsa-1024.pem"] {
        let target = instance.dir().join(file);
        std::fs::copy(fixtures().join(file), &target).unwrap();
        std::fs::set_permissions(target, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    instance
}

fn declaration(domain: &str, selector: &str, file: &str) -> String {
    format!("[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey_file = \"{file}\"\n")
}

fn import_mei(instance: &Instance) {
    std::fs::write(instance.root().join("list.csv"), "email,first_name\nmei@example.com,美玲\n").unwrap();
    let consent = ["--topic", "letter", "--consent", "confirmed", "--source", "a test"];
    instance.optin(&[&["import", "contacts", "list.csv"][..], &consent].concat()).exits(0);
}

/// Three keys at a time, as in the middle of a change: all verify, on what is previewed and on what is sent.
#[test]
fn mails_verify_as_previewed_and_as_received() {
    let keys = [("old", RSA), ("new", OTHER_RSA), ("e", ED25519)];
    let dkim: String = keys.iter().map(|(selector, file)| declaration("tea.example", selector, file)).collect();
    let sink = Sink::start();
    let database = TestDatabase::sqlite();
    let instance = shop(&database, &dkim).with_smtp(&sink);
    import_mei(&instance);
    let previewed = instance.optin(&["preview", "weekly", "--to", "mei@example.com"]).exits(0).stdout;
    instance.optin(&["test", "weekly", "--to", "me@tea.example", "--as", "mei@example.com"]).exits(0);
    let tested = sink.wait_for(1, 10).remove(0).data;
    let shown = instance.optin(&["dkim", "show", "--json"]).exits(0).json();
    let records: String = shown["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| format!("{} {}\n", record["name"].as_str().unwrap(), record["value"].as_str().unwrap()))
        .collect();
    assert_eq!(records.lines().count(), 3, "{shown}");
    let mails = BTreeMap::from([("previewed".to_owned(), previewed.into_bytes()), ("tested".to_owned(), tested)]);
    let found = verified(&mails, &records);
    for name in mails.keys() {
        assert_passed(&found, name, 3);
    }
}

fn problems(instance: &Instance) -> Vec<String> {
    let found = instance.optin(&["check", "--json"]).exits(1).json();
    let problems = found["problems"].as_array().unwrap();
    problems.iter().map(|problem| format!("{}: {}", problem["line"], problem["message"].as_str().unwrap())).collect()
}

#[test]
fn check_names_every_mistake_with_its_line() {
    let dkim = [
        declaration("a.example", "s1", "nowhere.pem"),
        declaration("b.example", "s1", "rsa-1024.pem"),
        declaration("c.example", "s1", ED25519),
        declaration("d.example", "s1", "optin.toml"),
        declaration("e.example", "s1", RSA),
        declaration("e.example", "s1", OTHER_RSA),
    ]
    .concat();
    let found = problems(&shop(&TestDatabase::sqlite(), &dkim));
    let first = SETTINGS.lines().count() + 1;
    for (line, part) in [
        (first + 3, "nowhere.pem`: there is no such file"),
        (first + 7, "less than 2048 bits"),
        (first + 9, "`c.example` has an Ed25519 key and no RSA key"),
        (first + 15, "there is no private key in this file"),
        (first + 22, "two keys `s1` of `e.example`"),
    ] {
        assert!(
            found.iter().any(|problem| problem.starts_with(&format!("{line}: ")) && problem.contains(part)),
            "{line} {part}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn check_warns_of_open_keys_and_of_senders_without_one() {
    let instance = shop(&TestDatabase::sqlite(), &declaration("shop.example", "s1", RSA));
    std::fs::set_permissions(instance.dir().join(RSA), std::fs::Permissions::from_mode(0o644)).unwrap();
    let found = instance.optin(&["check", "--json"]).exits(0).json();
    let warnings: Vec<&str> = found["warnings"].as_array().unwrap().iter().map(|warning| warning["message"].as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("every user of this machine may read")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("no key is declared for `news.tea.example`")), "{warnings:?}");
    let text = instance.optin(&["check"]).exits(0);
    assert!(text.stderr.contains("warning: config/optin.toml:") && text.stderr.contains("chmod 600"), "{text}");
    // Who declares no key lets the mail server sign: nothing to say.
    let found = shop(&TestDatabase::sqlite(), "").optin(&["check", "--json"]).exits(0).json();
    assert_eq!(found["warnings"], json!([]));
}

#[test]
fn a_made_key_is_private_declared_as_shown_and_never_overwritten() {
    let instance = shop(&TestDatabase::sqlite(), "");
    let made =
        |selector: &str, kind: &str| instance.optin(&["dkim", "new", "tea.example", "--selector", selector, "--type", kind, "--json"]);
    let mut settings = SETTINGS.to_owned();
    for (selector, kind) in [("r1", "rsa"), ("e1", "ed25519")] {
        let new = made(selector, kind).exits(0).json();
        let file = instance.root().join(new["key_file"].as_str().unwrap());
        assert_eq!(file, instance.dir().join(format!("keys/tea.example.{selector}.pem")));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let before = std::fs::read(&file).unwrap();
        let again = made(selector, kind).exits(1);
        assert!(again.stdout.contains("is there already"), "{again}");
        assert_eq!(std::fs::read(&file).unwrap(), before);
        settings.push_str(new["declaration"].as_str().unwrap());
        settings.push('\n');
        instance.write("optin.toml", &settings);
        if selector == "r1" {
            let shown = instance.optin(&["dkim", "show", "tea.example", "--json"]).exits(0).json();
            assert_eq!(shown["records"][0]["value"], new["record"]["value"]);
        }
    }
    let checked = instance.optin(&["check", "--json"]).exits(0).json();
    assert_eq!(checked["warnings"], json!([]));
    let shown = instance.optin(&["dkim", "show"]).exits(0).stdout;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 2, "{shown}");
    assert!(lines[0].starts_with("r1._domainkey.tea.example. IN TXT ( \"v=DKIM1; k=rsa; p=MII"), "{shown}");
    assert!(lines[0].matches('"').count() == 4 && lines[1].starts_with("e1._domainkey.tea.example. IN TXT ( \"v=DKIM1; k=ed25519; p="));
    let text = instance.optin(&["dkim", "new", "tea.example", "--selector", "r2", "--out", "elsewhere.pem"]).exits(0);
    let whole = std::path::absolute(instance.root().join("elsewhere.pem")).unwrap();
    assert!(text.stdout.contains("[[dkim]]") && text.stdout.contains(&format!("key_file = \"{}\"", canonical(&whole))), "{text}");
    instance.optin(&["dkim", "new", "not a domain", "--selector", "r2"]).exits(2);
    instance.optin(&["dkim", "new", "tea.example", "--selector", "r 2"]).exits(2);
    instance.optin(&["dkim", "show", "other.example"]).exits(1);
}

fn canonical(path: &Path) -> String {
    std::fs::canonicalize(path).unwrap().display().to_string()
}
