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
        };
        match optin::content::prepare(&definition, &Schema::default()) {
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
