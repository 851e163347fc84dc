//! Counts for Prometheus, read back by a strict parser of its text format.

use super::*;

/// Family to kind, and every sample with its labels as written. Panics where a line is no line of the
/// format, a sample belongs to no family above it, or a family or sample is there twice.
fn parse(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    let (mut kinds, mut helped, mut samples) = (BTreeMap::new(), std::collections::BTreeSet::new(), BTreeMap::new());
    let mut family = String::new();
    assert!(text.ends_with('\n'));
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && !help.is_empty() && helped.insert(name.to_owned()), "{line}");
            family = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name == family && ["gauge", "counter"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').map_or((series, None), |(name, labels)| (name, Some(labels)));
            assert!(name == family && kinds.contains_key(name), "{line}");
            if let Some(labels) = labels {
                check_labels(labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}")), &is_name);
            }
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    (kinds, samples)
}

/// `name="value"`, separated by commas; in a value only `\\`, `\"` and `\n` are escapes.
fn check_labels(labels: &str, is_name: &impl Fn(&str) -> bool) {
    let mut rest = labels;
    loop {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(is_name(name), "{labels}");
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("no end: {labels}")) {
                (_, '\\') => assert!(matches!(chars.next(), Some((_, '\\' | '"' | 'n'))), "{labels}"),
                (at, '"') => break at,
                _ => {}
            }
        };
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return assert_eq!(rest, "", "{labels}"),
        }
    }
}

on_each_database!(
    async fn the_numbers_are_those_of_the_database_and_odd_names_break_nothing(database) {
        let site = site(&database).await;
        let now = NOW.millis();
        let mut tx = site.db.begin().await.unwrap();
        for sql in [
            format!("INSERT INTO worker (id, name, started_at, lease_until, status) VALUES (1, 'a\"b\\c\nd', 0, {}, '{{\"sent\": 5, \"x\": [1]}}')", now + 30_000),
            format!("INSERT INTO worker (id, name, started_at, lease_until, status) VALUES (2, 'two', 0, {}, 'no json')", now - 1_500),
            format!("INSERT INTO throttle (relay, provider, paused_until, per_hour, strikes, reason, changed_at) VALUES ('ses', 'gmail', {}, 600, 1, '421', 0)", now + 90_000),
            "INSERT INTO bucket (name, spent_until, day, used, taken_at) VALUES ('all', 0, 7, 42, 0), ('relay:old', 0, 6, 9, 0)".to_owned(),
        ] {
            tx.execute(&sql, args![]).await.unwrap();
        }
        tx.commit().await.unwrap();
        let response = get(&site.url("/metrics"));
        assert_eq!((response.status, response.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
        let (kinds, samples) = parse(&response.text());
        assert_eq!(kinds["optin_hits_total"], "counter");
        for (series, expected) in [
            (r#"optin_deliveries{lane="campaigns",state="sent"}"#, 1.0),
            (r#"optin_runs{state="done"}"#, 1.0),
            (r#"optin_worker_lease_seconds{worker="a\"b\\c\nd"}"#, 30.0),
            (r#"optin_worker_lease_seconds{worker="two"}"#, -1.5),
            (r#"optin_worker_status{worker="a\"b\\c\nd",value="sent"}"#, 5.0),
            (r#"optin_throttle_paused_seconds{relay="ses",provider="gmail"}"#, 90.0),
            (r#"optin_throttle_per_hour{relay="ses",provider="gmail"}"#, 600.0),
            (r#"optin_limit_used{limit="all"}"#, 42.0),
            ("optin_hits_total", 0.0),
            ("optin_journal_rows", 0.0),
        ] {
            assert_eq!(samples.get(series), Some(&expected), "{series} of {samples:#?}");
        }
        assert!(!samples.contains_key(r#"optin_limit_used{limit="relay:old"}"#), "that was yesterday");
        assert!(samples["optin_database_bytes"] > 10_000.0 && samples["optin_resident_memory_bytes"] > 1e6);
        // Asked again within seconds, nothing is counted again.
        site.db.execute("DELETE FROM bucket", args![]).await.unwrap();
        assert_eq!(parse(&get(&site.url("/metrics")).text()).1[r#"optin_limit_used{limit="all"}"#], 42.0);
        // Through a proxy there is no such page.
        assert_eq!(request("GET", &site.url("/metrics"), &[("X-Forwarded-For", "127.0.0.1")], b"").status, 404);
    }
);
