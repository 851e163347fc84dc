//! The configuration: every mistake at once, each with its place; the environment over the files.

use std::path::Path;

use optin::config::{AttributeType, BodyKind, Config, Environment, InDoubt, Problems, When, load, scaffold};
use proptest::prelude::*;

use crate::support::process::repository;
use crate::support::{Instance, TestDatabase, instance};

const OPTIN_TOML: &str = r#"[site]
url = "https://news.tea.example/"
[sender]
name = "Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Taipei"
"#;

/// Writes files into a folder `config` and loads it with `variables`.
fn load_files(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Config, Problems> {
    load_bytes(&files.iter().map(|(path, text)| (*path, text.as_bytes())).collect::<Vec<_>>(), variables)
}

fn load_bytes(files: &[(&str, &[u8])], variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let root = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let file = root.path().join("config").join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    load(&root.path().join("config"), &Environment::from_pairs(variables.to_vec()))
}

/// `file:line:column message (hint)`, one a line, without the temporary folder.
fn short(problems: &Problems) -> Vec<String> {
    let short = |problem: &optin::config::Problem| {
        let file = problem.file.display().to_string();
        let file = file.rsplit_once("config/").map_or(file.as_str(), |(_, file)| file);
        format!("{file}:{}:{} {} ({})", problem.line, problem.column, problem.message, problem.hint)
    };
    problems.list.iter().map(short).collect()
}

/// The one problem of an `optin.toml` (with valid rest) must hold `expected`.
#[track_caller]
fn one_problem(files: &[(&str, &str)], variables: &[(&str, &str)], expected: &str) {
    match load_files(files, variables) {
        Ok(_) => panic!("no problem found, expected `{expected}`"),
        Err(problems) => {
            let found = short(&problems);
            assert!(found.len() == 1 && found[0].contains(expected), "expected `{expected}`, found {found:#?}");
        }
    }
}

#[test]
fn the_example_instance_loads() {
    let config =
        load(&repository().join("config"), &Environment::default()).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert_eq!(config.campaigns.keys().collect::<Vec<_>>(), ["first-flush-offer", "spring-leaves", "tuesday-letter"]);
    assert_eq!(config.attributes["interests"], AttributeType::List);
    assert!(config.topics["tea-letter"].double_opt_in && !config.topics["offers"].double_opt_in);
    assert_eq!(config.campaigns["tuesday-letter"].body_kind, BodyKind::Mjml);
    assert!(matches!(&config.campaigns["tuesday-letter"].schedule.as_ref().unwrap().when, When::Cron(cron) if cron.value == "0 9 * * TUE"));
    assert!(config.secret.is_none(), "a secret in a public repository is none");
    assert_eq!(config.delivery.in_doubt, InDoubt::Hold);
}

#[test]
fn a_new_instance_is_the_example_with_a_secret_of_its_own_and_nothing_is_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("shop");
    let written = scaffold::write(&dir, "c2VjcmV0LXNlY3JldC1zZWNyZXQ").unwrap();
    assert!(written.contains(&dir.join("optin.toml")) && written.len() >= 8);
    let config = load(&dir, &Environment::default()).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert_eq!(config.secret.unwrap().value, "c2VjcmV0LXNlY3JldC1zZWNyZXQ");
    let error = scaffold::write(&dir, "another").unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
    // Every file of the example is scaffolded.
    let count = |dir: &Path| count_files(dir);
    assert_eq!(count(&repository().join("config")), count(&dir));
}

fn count_files(dir: &Path) -> usize {
    let count = |path: std::path::PathBuf| if path.is_dir() { count_files(&path) } else { 1 };
    std::fs::read_dir(dir).unwrap().map(|entry| count(entry.unwrap().path())).sum()
}

#[test]
fn defaults_stand_under_the_files() {
    let config = load_files(&[("optin.toml", OPTIN_TOML)], &[]).unwrap();
    assert_eq!((config.site.url.value.as_str(), config.site.listen.port()), ("https://news.tea.example", 8080));
    assert_eq!(config.database_url.value, "sqlite://optin.db");
    assert_eq!((config.smtp.connections, config.smtp.timeout_seconds), (20, 60));
    assert_eq!((config.delivery.retry_hours, config.delivery.retry_seconds.len()), (72, 6));
    assert_eq!((config.log.level.as_str(), config.log.json), ("info", false));
}

#[test]
fn the_environment_stands_over_the_files_and_is_typed_the_same_way() {
    let files = [("optin.toml", OPTIN_TOML)];
    let config = load_files(
        &files,
        &[
            ("OPTIN_SITE__URL", "https://other.example"),
            ("OPTIN_SITE__LISTEN", "0.0.0.0:9000"),
            ("OPTIN_DATABASE__URL", "postgres://u:p@h/d"),
            ("OPTIN_SMTP__CONNECTIONS", "3"),
            ("OPTIN_DELIVERY__IN_DOUBT", "resend"),
            ("OPTIN_DELIVERY__RETRY_SECONDS", "1, 2,3"),
            ("OPTIN_LOG__FORMAT", "json"),
            ("OPTIN_SECRET", "0123456789abcdef"),
            ("OPTIN_RETIRED_SECRETS", "fedcba9876543210"),
            ("OPTIN_SENDER__NAME", ""),
            ("OPTIN_CLOCK", "2026-12-01T09:00:00Z"),
            ("NO_COLOR", "1"),
        ],
    )
    .unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert_eq!((config.site.url.value.as_str(), config.site.listen.port()), ("https://other.example", 9000));
    assert_eq!((config.database_url.value.as_str(), &config.database_url.place), ("postgres://u:p@h/d", &None));
    assert_eq!((config.smtp.connections, config.delivery.in_doubt), (3, InDoubt::Resend));
    assert_eq!((config.delivery.retry_seconds, config.log.json), (vec![1, 2, 3], true));
    assert_eq!(config.secret.map(|secret| secret.value).as_deref(), Some("0123456789abcdef"));
    assert_eq!(config.retired_secrets, ["fedcba9876543210"]);
    assert_eq!(config.sender.name, "Tea House", "an empty variable counts as not set");

    one_problem(
        &files,
        &[("OPTIN_SMTP__CONNECTIONS", "many")],
        "environment variable `OPTIN_SMTP__CONNECTIONS`: `many` is not a whole number",
    );
    one_problem(&files, &[("OPTIN_SITE__LISTEN", "8080")], "`8080` is not an address and a port");
    one_problem(&files, &[("OPTIN_SMPT__URL", "smtp://h")], "did you mean `OPTIN_SMTP__URL`?");
    one_problem(&files, &[("OPTIN_SECRET", "short")], "shorter than 16");
    one_problem(&files, &[("OPTIN_DATABASE__URL", "mysql://root:geheim@h/d")], "`mysql://root:***@h/d` is not a database URL");
}

#[test]
fn a_variable_repairs_what_the_file_leaves_out() {
    one_problem(
        &[("optin.toml", OPTIN_TOML.split_once("[sender]").unwrap().0)],
        &[("OPTIN_SENDER__NAME", "a"), ("OPTIN_SENDER__EMAIL", "a@b.example")],
        "`sender.postal_address` is missing",
    );
    let text = OPTIN_TOML.replace("url = \"https://news.tea.example/\"", "");
    one_problem(&[("optin.toml", &text)], &[], "optin.toml:1:1 `site.url` is missing");
    assert!(load_files(&[("optin.toml", &text)], &[("OPTIN_SITE__URL", "http://127.0.0.1:1")]).is_ok());
}

#[test]
fn a_missing_instance_says_how_to_make_one() {
    one_problem(&[("topics.toml", "")], &[], "optin.toml:0:0 there is no such file (create one with `optin init");
}

#[test]
fn a_file_that_is_not_utf_8_names_the_byte() {
    let problems = load_bytes(&[("optin.toml", OPTIN_TOML.as_bytes()), ("topics.toml", b"[tea]\nname = \"caf\xe9\"\n")], &[]).unwrap_err();
    assert_eq!(
        short(&problems),
        ["topics.toml:2:12 the file is not UTF-8: the byte at offset 17 does not belong there (save it as UTF-8)"]
    );
}

#[test]
fn a_file_that_no_person_wrote_is_not_read() {
    one_problem(&[("optin.toml", OPTIN_TOML), ("segments.toml", &"# tea\n".repeat(200_000))], &[], "larger than 1048576 bytes");
}

#[test]
fn a_byte_order_mark_is_no_mistake() {
    assert!(load_files(&[("optin.toml", &format!("\u{feff}{OPTIN_TOML}"))], &[]).is_ok());
}

#[test]
fn a_body_outside_the_folder_is_refused_also_through_a_link() {
    let campaign = |body: &str| format!("topic = \"tea\"\nsubject = \"s\"\nbody = \"{body}\"\n");
    let topics = ("topics.toml", "[tea]\nname = \"Tea\"\n");
    for (body, expected) in [
        ("/etc/hostname.md", "relative to the file that names it"),
        ("../../outside.md", "there is no file"),
        ("letter.txt", "is not a body"),
        ("", "is not a body"),
        ("lettre.md", "did you mean `letter.md`?"),
    ] {
        let files = [("optin.toml", OPTIN_TOML), topics, ("campaigns/a.toml", &campaign(body)), ("campaigns/letter.md", "hi")];
        one_problem(&files, &[], expected);
    }
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("config");
    std::fs::create_dir_all(dir.join("campaigns")).unwrap();
    for (path, text) in [("optin.toml", OPTIN_TOML), topics, ("campaigns/a.toml", &campaign("letter.md")), ("../secret.md", "private")] {
        std::fs::write(dir.join(path), text).unwrap();
    }
    std::os::unix::fs::symlink(root.path().join("secret.md"), dir.join("campaigns/letter.md")).unwrap();
    let found = short(&load(&dir, &Environment::default()).unwrap_err());
    assert!(found.len() == 1 && found[0].contains("lies outside"), "{found:?}");
}

#[test]
fn a_place_inside_a_string_is_the_value_itself() {
    let files = [("optin.toml", OPTIN_TOML), ("segments.toml", "# 茶\n[a]\nwhere = \"city = 'Taipei'\"\n[b]\nwhere = '''\nvip'''\n")];
    let config = load_files(&files, &[]).unwrap();
    for segment in config.segments.values() {
        let place = segment.rule.place.as_ref().unwrap();
        assert_eq!(&config.sources.text(&place.file).unwrap()[place.span.clone()], segment.rule.value);
    }
}

#[test]
fn every_mistake_of_a_broken_instance_is_shown_at_once_with_its_place() {
    let broken = repository().join("tests/fixtures/broken");
    let problems = load(&broken, &Environment::from_pairs([("OPTIN_SMTP__CONNECTION", "3")])).unwrap_err();
    assert!(problems.list.len() >= 25, "only {} problems", problems.list.len());
    let root = format!("{}/", repository().display());
    let text = problems.render(false).replace(&root, "");
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("broken_instance", text);
    });
}

#[test]
fn the_harness_builds_instances_that_load() {
    let database = TestDatabase::sqlite();
    let config = instance(&database, &[("topics.toml", "[tea]\nname = \"Tea\"\n")])
        .load()
        .unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert_eq!(config.database_url.value, database.url);
    let example = Instance::example(&database).load().unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert!(example.campaigns.contains_key("spring-leaves"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever lies in `optin.toml`, there is an answer, and every place lies in its file.
    #[test]
    fn any_bytes_give_a_configuration_or_a_problem(bytes in bytes_like_a_file()) {
        let valid = OPTIN_TOML.as_bytes();
        for files in [
            &[("optin.toml", &bytes[..])][..],
            &[("optin.toml", valid), ("topics.toml", &bytes), ("segments.toml", &bytes), ("campaigns/a.toml", &bytes)],
        ] {
            let Err(problems) = load_bytes(files, &[]) else { continue };
            prop_assert!(!problems.list.is_empty());
            for problem in &problems.list {
                prop_assert!(problem.line > 0 || problem.span.is_none());
            }
            let shown = problems.render(true);
            prop_assert!(!shown.is_empty());
        }
    }
}

/// Random bytes, and a valid file with a stretch of it overwritten.
fn bytes_like_a_file() -> impl Strategy<Value = Vec<u8>> {
    let valid = std::fs::read(repository().join("config/optin.toml")).unwrap();
    let damaged = (0..valid.len(), proptest::collection::vec(any::<u8>(), 0..6), 0..40_usize).prop_map(move |(at, bytes, cut)| {
        let end = (at + cut).min(valid.len());
        [&valid[..at], &bytes[..], &valid[end..]].concat()
    });
    let tokens = proptest::sample::select(vec![
        "[", "]", "[[", "=", "\"", "'''", "\n", "\r\n", ".", "site", "url", "{", "}", ",", "1e9", "茶", "#", "\\u12", "true",
    ]);
    let soup = proptest::collection::vec(tokens, 0..40).prop_map(|tokens| tokens.concat().into_bytes());
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), damaged, soup]
}
