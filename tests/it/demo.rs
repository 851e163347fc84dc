//! `optin demo` as a newcomer runs it: the whole job, with numbers that add up.

use std::path::Path;

use crate::support::command;
use crate::support::process::Output;

/// With this seed somebody clicks a link of the first mail and unsubscribes before the second.
const SEED: u64 = 2;
const CONTACTS: i64 = 200;

fn demo(dir: &Path, more: &[&str]) -> Output {
    let contacts = CONTACTS.to_string();
    let arguments = [&["demo", "--contacts", &contacts, "--json"], more].concat();
    command(&arguments).seed(SEED).dir(dir).env("TMPDIR", dir).run().exits(0)
}

fn folders(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn number(value: &serde_json::Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("`{value}` is no number"))
}

#[test]
fn the_numbers_add_up_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(dir.path(), &[]);
    assert_eq!(folders(dir.path()), Vec::<String>::new());
    let shown = output.json();
    let (first, second) = (&shown["reports"][0], &shown["reports"][1]);
    assert_eq!((number(&first["sent"]), number(&first["delivered"])), (CONTACTS, CONTACTS));

    // What the recipients remember is what was recorded; scanners are in no number of people.
    assert_eq!(first["opens"]["unique"], shown["recipients"]["opened"]);
    assert_eq!(first["clicks"]["unique"], shown["recipients"]["clicked"]);
    assert_eq!(first["unsubscribed"], shown["recipients"]["unsubscribed"]);
    assert!(number(&first["clicks"]["machine"]) > 0, "no scanner came by\n{output}");
    for report in [first, second] {
        let links = report["clicks"]["by_link"].as_array().unwrap();
        for kind in ["human", "machine"] {
            assert_eq!(links.iter().map(|link| number(&link[kind])).sum::<i64>(), number(&report["clicks"][kind]), "{kind}");
        }
    }

    // Everybody who clicked is in the second campaign, or left out because they unsubscribed meanwhile.
    let run = &shown["runs"][1];
    let left_out: i64 = run["excluded"].as_object().unwrap().values().map(number).sum();
    assert!(left_out > 0, "nobody clicked and unsubscribed: choose another seed\n{output}");
    assert_eq!(number(&run["sent"]) + left_out, number(&first["clicks"]["unique"]));
    assert_eq!(run["sent"], second["sent"]);
    assert_eq!(run["state"], "done");
    let permission = &shown["permission"];
    assert_eq!(permission["whole"], true, "{permission}");
    assert!(number(&permission["entries"]) > CONTACTS, "{permission}");
}

#[test]
fn the_second_campaign_reaches_only_those_who_clicked_the_first_and_stayed() {
    let dir = tempfile::tempdir().unwrap();
    let shown = demo(dir.path(), &["--keep"]).json();
    let folder = folders(dir.path()).into_iter().find(|name| name.starts_with("optin-demo-")).expect("the folder is kept");
    let folder = dir.path().join(folder);
    // Two days on, so that everything the demo did lies in the past.
    let later = optin::clock::Clock::system().now().plus(2 * optin::clock::DAY).to_string();
    let count = |rule: &str| {
        let output = command(&["segment", "count", rule, "--json"]).dir(&folder).clock(&later).run().exits(0);
        number(&output.json()["count"])
    };
    let (first, second) = (&shown["reports"][0], &shown["reports"][1]);
    let got_it = "sent(campaign: 'first-flush-offer')";
    assert_eq!(count(got_it), number(&second["sent"]));
    assert_eq!(count(&format!("{got_it} and not clicked(campaign: 'spring-leaves')")), 0);
    assert_eq!(count(&format!("{got_it} and not subscribed('tea-letter')")), number(&second["unsubscribed"]));
    assert_eq!(count("not subscribed('tea-letter')"), number(&first["unsubscribed"]) + number(&second["unsubscribed"]));
    command(&["consent", "verify"]).dir(&folder).clock(&later).run().exits(0);
}

#[test]
fn a_folder_that_cannot_be_written_is_no_obstacle() {
    // The working directory and the home folder are never written to, only the temporary folder.
    let dir = tempfile::tempdir().unwrap();
    let output =
        command(&["demo", "--contacts", "20"]).dir(Path::new("/proc")).env("HOME", "/proc").env("TMPDIR", dir.path()).run().exits(0);
    for part in ["spring-leaves (1 run)", "first-flush-offer", "Report: http://127.0.0.1:", "Inbox:  http://127.0.0.1:"] {
        assert!(output.stdout.contains(part), "{part}\n{output}");
    }
}
