//! Mistakes that only several rooms together can tell, shown beside those of keys and types.

use crate::support::{self, TestDatabase};

#[test]
fn mistakes_of_every_kind_and_file_come_at_once_with_their_place() {
    let instance = support::instance(
        &TestDatabase::sqlite(),
        &[
            ("topics.toml", "[letter]\nname = \"Letter\"\nopt_in = \"single\"\n"),
            ("segments.toml", "[old]\nwhere = \"agee > 3\"\n\n[odd]\nwhere = \"clicked(campaign: 'weekly')\"\n"),
            (
                "campaigns/weekly.toml",
                "topic = \"letter\"\nsubject = \"{{ contact.frist_name }}\"\nlayout = \"newletter\"\nbody = \"weekly.md\"\n[schedule]\ncron = \"0 25 * * TUE\"\ntimezone = \"Asia/Taipai\"\n",
            ),
            ("campaigns/weekly.md", "Hello\n\n{% if contact.locale %}never closed\n"),
        ],
    );
    let found = instance.optin(&["check", "--json"]).exits(1).json();
    let shown: Vec<String> = found["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            let file = problem["file"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned();
            format!("{file}:{}:{} {}", problem["line"], problem["column"], problem["message"].as_str().unwrap())
        })
        .collect();
    for (place, part) in [
        ("weekly.md:3:", "template"),
        ("weekly.toml:2:23 ", "frist_name"),
        ("weekly.toml:3:", "newletter"),
        ("weekly.toml:6:11 ", "25"),
        ("weekly.toml:7:", "Asia/Taipai"),
        ("segments.toml:2:10 ", "agee"),
    ] {
        assert!(shown.iter().any(|line| line.starts_with(place) && line.contains(part)), "{place} {part} in {shown:#?}");
    }
    // A campaign that is there but broken is known all the same, and no rule is blamed for it.
    assert_eq!(shown.len(), 6, "{shown:#?}");
}
