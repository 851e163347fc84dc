//! The configuration: every mistake at once, each with its place; the environment over the files.

use std::path::Path;

use optin::campaign::Definition;
use optin::config::{AttributeType, AuthMechanism, BodyKind, Config, Environment, InDoubt, Problems, When, load, scaffold};
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
    assert_eq!((config.relays[0].connections, config.relays[0].timeout_seconds), (20, 60));
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
    assert_eq!((config.relays[0].connections, config.delivery.in_doubt), (3, InDoubt::Resend));
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

const TEA: (&str, &str) = ("topics.toml", "[tea]\nname = \"Tea\"\n");
const LETTER: (&str, &str) = ("campaigns/letter.md", "hi");

/// `optin.toml` with more at its end, and a campaign `a` with more at its end.
fn with_relays(settings: &str, campaign: &str, variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let campaign = format!("topic = \"tea\"\nsubject = \"s\"\nbody = \"letter.md\"\n{campaign}");
    load_files(&[("optin.toml", &format!("{OPTIN_TOML}{settings}")), TEA, LETTER, ("campaigns/a.toml", &campaign)], variables)
}

fn names(config: &Config) -> Vec<&str> {
    config.relays.iter().map(|relay| relay.name.as_str()).collect()
}

/// A line of the example with its `# `, where it is a key or a table and no sentence.
fn uncommented(line: &str) -> &str {
    let key = |rest: &str| rest.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    match line.strip_prefix("# ") {
        Some(rest) if !rest.contains("secret") && (rest.starts_with('[') || key(rest)) => rest,
        _ => line,
    }
}

#[test]
fn every_key_that_the_example_shows_as_a_comment_is_one() {
    let example = std::fs::read_to_string(repository().join("config/optin.toml")).unwrap();
    let lines: Vec<&str> = example.lines().map(uncommented).collect();
    let config = load_files(&[("optin.toml", &lines.join("\n"))], &[]).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert_eq!(names(&config), ["default", "ses"]);
    let [default, ses] = &config.relays[..] else { panic!() };
    assert_eq!((default.limit.rate, default.limit.per_day), (Some("50/s".parse().unwrap()), Some(50_000)));
    assert_eq!((default.auth, default.ca_file.is_some()), (Some(AuthMechanism::Plain), true));
    let warm_up = default.warm_up.as_ref().unwrap();
    assert_eq!((warm_up.start.to_string().as_str(), warm_up.per_day.len()), ("2026-12-01", 10));
    assert_eq!((ses.weight, ses.backup, ses.campaigns, ses.messages), (3, false, true, true));
    assert_eq!(config.providers["gmail"].connections, Some(10));
    assert_eq!((config.limits.per_day, config.dkim[0].selector.value.as_str()), (Some(100_000), "s1"));
    let campaign = std::fs::read_to_string(repository().join("config/campaigns/spring-leaves.toml")).unwrap();
    for key in ["rate", "per_day", "relay", "give_up_hours", "model", "within_days"] {
        assert!(campaign.contains(&format!("# {key} = ")), "{key}");
    }
}

#[test]
fn the_default_relay_is_there_when_it_is_named_or_alone() {
    let ses = "[[relay]]\nname = \"ses\"\nurl = \"smtp://ses.example\"\n";
    assert_eq!(names(&with_relays("", "", &[]).unwrap()), ["default"]);
    assert_eq!(names(&with_relays("[smtp]\n", "", &[]).unwrap()), ["default"]);
    let only = with_relays(ses, "", &[]).unwrap();
    assert_eq!((names(&only), only.relays[0].url.value.as_str()), (vec!["ses"], "smtp://ses.example"));
    assert_eq!(names(&with_relays(ses, "", &[("OPTIN_SMTP__URL", "smtp://here.example")]).unwrap()), ["default", "ses"]);
    assert_eq!(names(&with_relays(&format!("[smtp]\n{ses}"), "", &[]).unwrap()), ["default", "ses"]);
}

#[test]
fn variables_reach_relays_and_providers_by_name() {
    let settings = "[[relay]]\nname = \"eu-1\"\nurl = \"smtp://a.example\"\n[provider.gmail]\nrate = \"5/s\"\n";
    let config = with_relays(
        settings,
        "",
        &[
            ("OPTIN_RELAY__EU_1__URL", "smtp://b.example"),
            ("OPTIN_RELAY__EU_1__LANES", "messages, campaigns"),
            ("OPTIN_RELAY__EU_1__SENDER_DOMAINS", "Tea.example,茶.example"),
            ("OPTIN_RELAY__EU_1__WARM_UP__START", "2026-12-01"),
            ("OPTIN_RELAY__EU_1__WARM_UP__PER_DAY", "50, 50, 100"),
            ("OPTIN_PROVIDER__GMAIL__RATE", "7/min"),
            ("OPTIN_LIMITS__RATE", "9/h"),
            ("OPTIN_DELIVERY__LEASE_SECONDS", "5"),
            ("OPTIN_DELIVERY__MX_LOOKUPS", "false"),
            ("OPTIN_DELIVERY__TIMEZONE", "Asia/Taipei"),
        ],
    )
    .unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let relay = &config.relays[0];
    assert_eq!((relay.name.as_str(), relay.url.value.as_str()), ("eu-1", "smtp://b.example"));
    assert_eq!(relay.sender_domains, ["tea.example", "xn--cl1a.example"]);
    assert!(relay.serves("TEA.example") && relay.serves("茶.example") && !relay.serves("news.tea.example"));
    assert_eq!(relay.warm_up.as_ref().map(|warm_up| warm_up.per_day.clone()), Some(vec![50, 50, 100]));
    assert_eq!(config.providers["gmail"].limit.rate.unwrap().to_string(), "7/min");
    assert_eq!(config.limits.rate.unwrap().to_string(), "9/h");
    let delivery = &config.delivery;
    assert_eq!((delivery.lease_seconds, delivery.mx_lookups, delivery.timezone.value.as_str()), (5, false, "Asia/Taipei"));
    let problems = with_relays(settings, "", &[("OPTIN_RELAY__EU1__URL", "smtp://b.example")]).unwrap_err();
    assert!(short(&problems)[0].contains("did you mean `OPTIN_RELAY__EU_1__URL`?"), "{:?}", short(&problems));
}

#[test]
fn mistakes_in_relays_and_limits_have_a_place_and_a_way_out() {
    let relay = |more: &str| format!("[[relay]]\nname = \"a\"\nurl = \"smtp://a.example\"\n{more}\n");
    for (settings, expected) in [
        ("relay = 3".to_owned(), "unknown key `relay` in `[sender]`"),
        ("[relay]\nname = \"a\"".to_owned(), "`relay` must be a list of tables, not a table (write `[[relay]]`"),
        ("[[relay]]\nurl = \"smtp://a.example\"".to_owned(), "optin.toml:7:1 `relay.name` is missing (campaigns and reports"),
        ("[[relay]]\nname = \"a\"".to_owned(), "`relay.url` is missing"),
        (relay("urll = 1"), "optin.toml:10:1 unknown key `urll` in `[[relay]]` (did you mean `url`?)"),
        (relay("") + &relay(""), "optin.toml:12:9 there are two relays `a`"),
        (relay("").replace("\"a\"", "\"a-b\"") + &relay("").replace("\"a\"", "\"a_b\""), "the variables of the relays `a-b` and `a_b`"),
        (relay("").replace("\"a\"", "\"default\""), "`default` is the relay of `[smtp]`"),
        (relay("").replace("\"a\"", "\"A b\""), "`A b` cannot be the name of a relay"),
        (relay("weight = 0"), "`0` is not a whole number from 1 to 1000"),
        (relay("lanes = []"), "this list is empty"),
        (relay("lanes = [\"campaign\"]"), "unknown value `campaign` (did you mean `campaigns`?)"),
        (relay("auth = \"cram-md5\""), "unknown value `cram-md5`"),
        (relay("backup = \"yes\""), "expected `true` or `false`"),
        (relay("rate = \"5/d\""), "`5/d` is not a rate (a day's number of mails has its own key: `per_day = 5`)"),
        (relay("rate = 5"), "expected text, found a whole number"),
        (relay("per_day = 0"), "is not a whole number from 1 to"),
        (relay("sender_domains = [\"a@tea.example\", \"tea.example\"]"), "`a@tea.example` is not a domain"),
        (relay("warm_up = { per_day = [5] }"), "`relay.warm_up.start` is missing"),
        (relay("warm_up = { start = 2026-12-01 }"), "`relay.warm_up.per_day` is missing"),
        (relay("warm_up = { start = 2026-12-01, per_day = [] }"), "a warm-up has 1 to 366 days, not 0"),
        (relay("warm_up = { start = 2026-12-01, per_day = [100, 50] }"), "the plan goes down, from 100 to 50"),
        (relay("warm_up = { start = 2026-12-01T09:00:00, per_day = [5] }"), "is not a day"),
        (relay("[relay.warm_up]\nstart = \"soon\"\nper_day = [5]"), "optin.toml:11:10 `soon` is not a day"),
        ("[limits]\nrate = \"fast\"".to_owned(), "`fast` is not a rate (write `100/s`"),
        ("[limits]\nratee = \"1/s\"".to_owned(), "unknown key `ratee` in `[limits]` (did you mean `rate`?)"),
        ("[delivery]\nlease_seconds = 4".to_owned(), "is not a whole number from 5 to 600"),
        ("[delivery]\ntimezone = \"Asia/Tapei\"".to_owned(), "did you mean `Asia/Taipei`?"),
        ("[provider.other]\ndomains = [\"a.example\"]".to_owned(), "`other` is every domain that belongs to no provider"),
        (
            "[provider.a]\ndomains = [\"A.example\"]\n[provider.b]\ndomains = [\"a.example\"]".to_owned(),
            "`a.example` stands in `domains` of two providers",
        ),
        ("[provider.Gmail]\nrate = \"1/s\"".to_owned(), "`Gmail` cannot be the name of a provider"),
        ("[[dkim]]\ndomain = \"tea.example\"\nselector = \"s 1\"\nkey_file = \"k\"".to_owned(), "`s 1` is not a selector"),
        ("[[dkim]]\ndomain = \"tea.example\"\nselector = \"s\"".to_owned(), "`dkim.key_file` is missing"),
        ("[[dkim]]\ndomain = \"tea.example\"\nselector = \"s\"\nkey_file = \"k\"\n".repeat(2), "two keys `s` of `tea.example`"),
    ] {
        let settings = format!("{OPTIN_TOML}{settings}");
        one_problem(&[("optin.toml", &settings)], &[], expected);
    }
}

#[test]
fn every_mail_finds_a_relay_or_the_check_says_why_not() {
    let relay = |name: &str, more: &str| format!("[[relay]]\nname = \"{name}\"\nurl = \"smtp://a.example\"\n{more}\n");
    let both = relay("one", "sender_domains = [\"coffee.example\"]") + &relay("two", "lanes = [\"messages\"]");
    let other_sender = "[sender]\nname = \"C\"\nemail = \"c@COFFEE.example\"\npostal_address = \"x\"\n";
    assert!(with_relays(&both, other_sender, &[]).is_ok());
    for (settings, campaign, expected) in [
        (both.clone(), "", "a.toml:0:0 no relay takes the campaign `a`: it is sent from `letters@tea.example` (add `tea.example`"),
        (both.clone(), "[delivery]\nrelay = \"on\"\n", "a.toml:5:10 there is no relay `on` (did you mean `one`?)"),
        (both.clone(), "[delivery]\nrelay = \"one\"\n", "the relay `one` takes nothing from `letters@tea.example`"),
        (both.clone(), "[delivery]\nrelay = \"two\"\n", "the relay `two` takes no campaigns"),
        (relay("one", "lanes = [\"campaigns\"]"), "", "optin.toml:7:1 no relay takes messages from `tea.example`"),
        (String::new(), "[delivery]\nrate = \"5/d\"\n", "`5/d` is not a rate"),
        (String::new(), "[delivery]\ngive_up_hours = 0\n", "is not a whole number from 1 to 240"),
        (String::new(), "[delivery]\nrelays = \"default\"\n", "unknown key `relays` in `[delivery]` (did you mean `relay`?)"),
    ] {
        let found = short(&with_relays(&settings, campaign, &[]).unwrap_err());
        assert!(found.len() == 1 && found[0].contains(expected), "expected `{expected}`, found {found:#?}");
    }
}

#[test]
fn what_a_campaign_says_about_its_delivery_is_frozen_with_it_and_old_runs_can_still_be_read() {
    let silent = with_relays("", "", &[]).unwrap();
    let silent = Definition::new(&silent, &silent.campaigns["a"]);
    // Exactly what was stored before there was such a table: the hash stays too.
    assert!(!silent.to_json().contains("delivery"), "{}", silent.to_json());
    assert_eq!(serde_json::from_str::<Definition>(&silent.to_json()).unwrap(), silent);
    let loud = "[delivery]\nrate = \"20/min\"\nper_day = 5\nrelay = \"default\"\ngive_up_hours = 3\n";
    let loud = with_relays("", loud, &[]).unwrap();
    let loud = Definition::new(&loud, &loud.campaigns["a"]);
    assert!(loud.to_json().contains(r#""delivery":{"limit":{"rate":"20/min","per_day":5},"relay":"default","give_up_hours":3}"#));
    assert_eq!(serde_json::from_str::<Definition>(&loud.to_json()).unwrap(), loud);
    assert_ne!(loud.hash(), silent.hash());
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
