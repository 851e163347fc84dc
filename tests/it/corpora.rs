//! Real data, where it is there: `../shared/corpora` beside the checkout. Nothing of it is part of
//! this repository.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use optin::campaign::Definition;
use optin::config::{BodyKind, Sender};
use optin::contact::Schema;

/// The folder of one corpus, or a word that it is not here.
fn corpus(name: &str) -> Option<PathBuf> {
    let folder = crate::support::process::repository().join("../shared/corpora").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    say(&format!("corpora/{name}: not here"));
    None
}

/// Past the test's capture, so that what was not tested is seen.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn html_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            html_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            found.push(path);
        }
    }
}

/// Templates people really use as bodies: each is prepared, or refused with words, and never more.
#[test]
fn real_templates_are_prepared_or_refused_with_a_reason() {
    let Some(folder) = corpus("html-email") else { return };
    let mut files = Vec::new();
    html_files(&folder, &mut files);
    assert!(files.len() > 100, "only {} templates", files.len());
    let (mut prepared, mut refused) = (0, Vec::new());
    for file in files {
        let Ok(body) = std::fs::read_to_string(&file) else { continue };
        // Templates leave their links open; a marketer fills them in.
        let body = body.replace("\"http://\"", "\"https://tea.example/\"");
        let definition = Definition {
            campaign: "corpus".to_owned(),
            topic: "letter".to_owned(),
            topic_name: "Letter".to_owned(),
            audience: None,
            subject: "Hello".to_owned(),
            preheader: None,
            layout: "newsletter".to_owned(),
            layout_text: None,
            body,
            body_kind: BodyKind::Html,
            sender: Sender {
                name: "Tea House".to_owned(),
                email: "letters@tea.example".to_owned(),
                reply_to: None,
                postal_address: "1 Leaf Street".to_owned(),
            },
            track_opens: true,
            track_clicks: true,
            delivery: Default::default(),
            topic_frame: Default::default(),
            attribution: Default::default(),
            link_parameters: Default::default(),
            honeypot: false,
        };
        match optin::content::prepare(&definition, &Schema::default(), &optin::content::FrameSettings::default()) {
            Ok(_) => prepared += 1,
            Err(problems) => {
                assert!(problems.iter().all(|problem| !problem.message.is_empty()), "{}", file.display());
                refused.push((file, problems[0].message.clone()));
            }
        }
    }
    say(&format!("corpora/html-email: {prepared} prepared, {} refused", refused.len()));
    // What is left are merge tags of other engines, in the same braces as ours.
    assert!(refused.iter().all(|(_, why)| why.starts_with("there is no") || why.starts_with("template syntax")), "{refused:?}");
    assert!(prepared > refused.len(), "{prepared} prepared, {} refused", refused.len());
}

/// The quoted texts of `file` after `key =`, with the name of the provider in the nearest header above.
fn phrases(file: &Path) -> Vec<(String, String)> {
    let table: toml::Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let mut found = Vec::new();
    let mut take = |name: &str, entry: &toml::Value| {
        for rule in entry.get("automation").and_then(toml::Value::as_array).into_iter().flatten() {
            let texts: Vec<&str> = match &rule["regex"] {
                toml::Value::Array(texts) => texts.iter().filter_map(toml::Value::as_str).collect(),
                text => text.as_str().into_iter().collect(),
            };
            found.extend(texts.into_iter().map(|text| (name.to_owned(), text.to_owned())));
        }
    };
    for (name, entry) in &table {
        if name == "provider" {
            entry.as_table().unwrap().iter().for_each(|(name, entry)| take(name, entry));
        } else {
            take(name, entry);
        }
    }
    found
}

/// A reply that the pattern fits: the one that a server would write, as far as the pattern tells.
fn reply_for(pattern: &str) -> (u16, String) {
    let mut text = pattern.replace("^(?!.*KumoMTA internal)", "").replace(r"\d+\.\d+\.\d+\.\d+", "192.0.2.1").replace("TS?S", "TSS");
    for (from, to) in [(".*", " x "), (".+", " x "), ("weren.t", "weren't"), ("SPM*", "SPM"), ("^", ""), ("$", ""), ("\\", "")] {
        text = text.replace(from, to);
    }
    let text = text.trim();
    let code = text.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit())).and_then(|code| code.parse().ok());
    (code.unwrap_or(421), text.strip_prefix(&code.map_or(String::new(), |code: u16| code.to_string())).unwrap_or(text).trim().to_owned())
}

/// What operators of a large mail server throttle on is a request to slow down for us, but for what
/// speaks of one mail.
#[test]
fn throttling_replies_of_the_field_slow_us_down() {
    use optin::delivery::smtp::Stage;
    use optin::delivery::verdict::{Verdict, read_reply};
    let Some(folder) = corpus("throttling") else { return };
    let names = [
        ("google", "gmail"),
        ("apple", "icloud"),
        ("office365", "microsoft365"),
        ("yahoo.co.jp", "yahoo-japan"),
        ("gmx.net_web.de", "gmx"),
        ("qq.com", "qq"),
        ("163.com", "netease"),
        ("comcast.net", "comcast"),
        ("default", "other"),
    ];
    let (mut slow, mut not) = (0, Vec::new());
    for file in ["community/shaping.toml", "policy-extras/shaping.toml"] {
        for (name, pattern) in phrases(&folder.join(file)) {
            let provider = names.iter().find(|(theirs, _)| *theirs == name).map_or(name.as_str(), |(_, ours)| ours);
            let (code, text) = reply_for(&pattern);
            match read_reply(code, &text, Stage::Rcpt, provider) {
                Verdict::SlowDown(_) => slow += 1,
                other => not.push(format!("{provider}: {code} {text} -> {}", other.rule())),
            }
        }
    }
    say(&format!("corpora/throttling: {slow} slow down, {} do not: {}", not.len(), not.join("; ")));
    // Content of one mail, greylisting, and a session that timed out.
    let meant = ["qq-content", "netease-content", "mimecast-greylisted", "-> temporary"];
    assert!(not.iter().all(|line| meant.iter().any(|rule| line.ends_with(rule))), "{not:?}");
    assert!(slow >= 45 && not.len() <= 4, "{slow} of {}", slow + not.len());
}

/// What says that one mail bounced never throttles a group.
#[test]
fn bounces_of_the_field_slow_nobody_down() {
    use optin::delivery::smtp::Stage;
    use optin::delivery::verdict::{Verdict, read_reply};
    let Some(folder) = corpus("throttling") else { return };
    let table: toml::Table = std::fs::read_to_string(folder.join("community/bounces.toml")).unwrap().parse().unwrap();
    let (mut all, mut wrong, mut dead, mut of_dead) = (0, Vec::new(), 0, Vec::new());
    for (class, patterns) in table["rules"].as_table().unwrap() {
        for pattern in patterns.as_array().unwrap().iter().filter_map(toml::Value::as_str) {
            let (code, text) = reply_for(pattern);
            let verdict = read_reply(code, &text, Stage::Rcpt, "other");
            all += 1;
            if matches!(verdict, Verdict::SlowDown(_)) {
                wrong.push(format!("{class}: {code} {text} -> {}", verdict.rule()));
            }
            if class == "InvalidRecipient" {
                match verdict {
                    Verdict::Bounce { class, .. } if class.address_is_dead() => dead += 1,
                    other => of_dead.push(format!("{code} {text} -> {}", other.rule())),
                }
            }
        }
    }
    say(&format!("corpora/throttling: {all} bounces; of dead addresses {dead} found, not: {}", of_dead.join("; ")));
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(dead >= 25, "{dead} found, not: {of_dead:?}");
}
