//! The ledger shows every tampering, also to outsiders, and entries of earlier releases keep verifying.

use std::collections::BTreeMap;

use optin::args;
use optin::clock::{DAY, Time};
use optin::consent::checkpoint::{self, Signer};
use optin::consent::ledger::{self, Kind, Verification};
use optin::consent::{self, ALL_TOPICS, Action, Basis, Frequency, NewEvent, Wording};
use optin::db::{Db, Tx};
use optin::entropy::Entropy;
use optin::token::Keys;
use sha2::{Digest as _, Sha256};

use crate::support::process::{call, repository};
use crate::support::{Instance, TestDatabase, instance, on_each_database};

const NOW: Time = Time::from_millis(1_790_000_000_000);

fn signer() -> Signer {
    Signer::new(&Keys::new("a secret for rehearsals", &[]))
}

async fn check(tx: &mut Tx) -> Verification {
    ledger::verify(tx, &[], signer().known()).await.unwrap()
}

/// The rule of `docs/ledger.md`, written a second time. `numbers`: seq, at, contact, line.
fn link(version: u8, before: &[u8], numbers: [i64; 4], first: [Option<&str>; 5], until: Option<i64>, later: [Option<&str>; 6]) -> Vec<u8> {
    let mut bytes = format!("optin consent ledger {version}").into_bytes();
    bytes.extend((before.len() as u64).to_be_bytes());
    bytes.extend(before);
    numbers.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
    let text = |bytes: &mut Vec<u8>, text: &Option<&str>| match text {
        Some(text) => {
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        None => bytes.extend([0xff; 8]),
    };
    first.iter().for_each(|field| text(&mut bytes, field));
    if version == 2 {
        bytes.extend(until.unwrap_or(i64::MIN).to_be_bytes());
        later.iter().for_each(|field| text(&mut bytes, field));
    }
    Sha256::digest(&bytes).to_vec()
}

/// A ledger with something of everything: erased people, dropped origins, wordings, pauses, choices.
async fn a_rich_ledger(db: &Db, people: i64) {
    let entropy = Entropy::seeded(7);
    let mut tx = db.begin().await.unwrap();
    let tea = consent::ops::topic_id(&mut tx, "tea-letter", &entropy, NOW).await.unwrap();
    let offers = consent::ops::topic_id(&mut tx, "offers", &entropy, NOW).await.unwrap();
    let wording = Wording { text: "Yes, send me the tea letter.", locale: Some("en"), kind: Some("form"), version: Some("3") };
    let hash = consent::ops::keep_wording(&mut tx, &wording, NOW).await.unwrap();
    for person in 1..=people {
        let now = NOW.plus(person * 1_000);
        let event = |topic, action| NewEvent {
            purpose: Some("marketing".to_owned()),
            basis: Some(Basis::Consent),
            evidence: Some(consent::ops::evidence(&entropy, serde_json::json!({ "address": format!("p{person}@x.example") }))),
            origin: consent::ops::origin(&entropy, Some("203.0.113.7"), Some("Mozilla/5.0")),
            ..NewEvent::new(person, topic, action, "form tea")
        };
        let asked = NewEvent { wording_hash: Some(hash.clone()), ..event(tea, Action::Requested) };
        ledger::append(&mut tx, &[asked], now).await.unwrap();
        ledger::append(&mut tx, &[event(tea, Action::Confirmed), event(offers, Action::Granted)], now).await.unwrap();
        if person % 3 == 0 {
            consent::ops::pause(&mut tx, &event(tea, Action::Paused), Some(now.plus(DAY)), now).await.unwrap();
        }
        if person % 4 == 0 {
            consent::ops::set_frequency(&mut tx, &event(offers, Action::Changed), Some(Frequency::Weekly), now).await.unwrap();
            consent::ops::set_tracking(&mut tx, &event(ALL_TOPICS, Action::Changed), Some(consent::Tracking::None), now).await.unwrap();
        }
        if person % 7 == 0 {
            consent::ops::erase(&mut tx, person, "page privacy", now).await.unwrap();
        }
        if person == people / 2 {
            assert!(consent::ops::expire_origins(&mut tx, NOW.plus(people * 250), now).await.unwrap() > 0);
        }
    }
    tx.commit().await.unwrap();
}

async fn rows(tx: &mut Tx, sql: &str) -> Vec<i64> {
    tx.fetch_all(sql, args![]).await.unwrap().iter().map(|row| row.get(0).unwrap()).collect()
}

fn any(entropy: &Entropy, from: &[i64]) -> i64 {
    from[entropy.below(from.len() as u64) as usize]
}

/// One way to tamper: its name, and whether it could be done (some need an entry of a kind).
async fn tamper(tx: &mut Tx, entropy: &Entropy, way: usize, last: i64) -> &'static str {
    let seq = 1 + entropy.below(last as u64) as i64;
    let mut run = async |sql: String| tx.execute(&sql, args![]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    const FIELDS: [&str; 19] = [
        "at = at + 1",
        "contact_id = contact_id + 1",
        "topic_id = topic_id + 1",
        "action = 'refreshed'",
        "source = 'form coffee'",
        "source_line = 17",
        "wording_hash = 'ab'",
        "evidence_digest = 'ab'",
        "origin_digest = 'ab'",
        "version = 3 - version",
        "channel = 'sms'",
        "purpose = 'service'",
        "basis = 'contract'",
        "frequency = 'monthly'",
        "until = 1",
        "detail = 'x'",
        "source = ''",
        "channel = NULL",
        "hash = prior.hash",
    ];
    match way {
        0..=8 => {
            let field = FIELDS[entropy.below(FIELDS.len() as u64) as usize];
            if field.starts_with("hash") {
                let other = if seq == 1 { 2 } else { seq - 1 };
                run(format!("UPDATE consent_event SET hash = (SELECT hash FROM consent_event WHERE seq = {other}) WHERE seq = {seq}"))
                    .await;
            } else {
                run(format!("UPDATE consent_event SET {field} WHERE seq = {seq}")).await;
            }
            "a field edited"
        }
        9..=11 => {
            run(format!("DELETE FROM consent_event WHERE seq >= {seq} AND seq < {}", seq + 1 + entropy.below(3) as i64)).await;
            "rows deleted"
        }
        12..=13 => {
            let copy = "at, contact_id, topic_id, action, source, hash, version, channel";
            let place = if way == 12 { last + 1 } else { -(entropy.below(9) as i64) };
            run(format!("INSERT INTO consent_event (seq, {copy}) SELECT {place}, {copy} FROM consent_event WHERE seq = {seq}")).await;
            "a row inserted"
        }
        14..=15 => {
            let other = if seq == last { 1 } else { seq + 1 };
            run(format!("UPDATE consent_event SET seq = {} WHERE seq = {seq}", last + 50)).await;
            run(format!("UPDATE consent_event SET seq = {seq} WHERE seq = {other}")).await;
            run(format!("UPDATE consent_event SET seq = {other} WHERE seq = {}", last + 50)).await;
            "two rows swapped"
        }
        16..=17 => {
            run(format!("DELETE FROM consent_event WHERE seq >= {seq}")).await;
            run(format!(
                "UPDATE consent_head SET seq = {}, hash = COALESCE((SELECT hash FROM consent_event WHERE seq = {}), hash)",
                seq - 1,
                seq - 1
            ))
            .await;
            "truncated, head rewritten"
        }
        18..=21 => {
            let column = if way % 2 == 0 { "evidence" } else { "origin" };
            let kept = rows(tx, &format!("SELECT seq FROM consent_event WHERE {column} IS NOT NULL ORDER BY seq")).await;
            let seq = any(entropy, &kept);
            let value = if way < 20 { "NULL".to_owned() } else { format!("{column} || ' '") };
            tx.execute(&format!("UPDATE consent_event SET {column} = {value} WHERE seq = {seq}"), args![]).await.unwrap();
            if way < 20 { "a proof or origin removed" } else { "a proof or origin edited" }
        }
        22 => {
            let bare = "SELECT seq FROM consent_event WHERE evidence IS NULL OR origin IS NULL ORDER BY seq";
            let seq = any(entropy, &rows(tx, bare).await);
            let sql = format!(
                "UPDATE consent_event SET evidence = COALESCE(evidence, '{{}}'), origin = COALESCE(origin, '{{}}') WHERE seq = {seq}"
            );
            tx.execute(&sql, args![]).await.unwrap();
            "a proof or origin added"
        }
        23 => {
            let change = ["wording = wording || '!'", "locale = 'de'", "kind = NULL", "version = '4'", "hash = 'ab'"];
            run(format!("UPDATE consent_wording SET {}", change[entropy.below(5) as usize])).await;
            "a wording edited"
        }
        _ => {
            rewrite_from(tx, seq).await;
            "the whole chain rewritten behind a checkpoint"
        }
    }
}

/// What somebody with all the access does: change an entry and make every hash after it fit again, and the head.
async fn rewrite_from(tx: &mut Tx, seq: i64) {
    tx.execute("UPDATE consent_event SET source = 'form coffee' WHERE seq = $1", args![seq]).await.unwrap();
    let sql = "SELECT e.seq, e.at, e.contact_id, COALESCE(e.source_line, -1), COALESCE(t.name, ''), e.action, e.source, e.wording_hash,
                 e.evidence_digest, e.until, e.channel, e.purpose, e.basis, e.frequency, e.detail, e.origin_digest
               FROM consent_event e LEFT JOIN topic t ON t.id = e.topic_id ORDER BY e.seq";
    let mut before = Vec::new();
    let mut last = 0;
    for row in tx.fetch_all(sql, args![]).await.unwrap() {
        let number = |at: usize| row.get::<i64>(at).unwrap();
        let texts: Vec<Option<String>> = [4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15].iter().map(|at| row.get(*at).unwrap()).collect();
        let text = |at: usize| texts[at].as_deref();
        before = link(
            2,
            &before,
            [number(0), number(1), number(2), number(3)],
            [text(0), text(1), text(2), text(3), text(4)],
            row.get(9).unwrap(),
            [text(5), text(6), text(7), text(8), text(9), text(10)],
        );
        last = number(0);
        if last >= seq {
            tx.execute("UPDATE consent_event SET hash = $1 WHERE seq = $2", args![before.clone(), last]).await.unwrap();
        }
    }
    tx.execute("UPDATE consent_head SET hash = $1, seq = $2", args![before, last]).await.unwrap();
}

async fn tampering_is_found(db: &Db, tries: usize) {
    a_rich_ledger(db, 24).await;
    let mut tx = db.begin().await.unwrap();
    let whole = check(&mut tx).await;
    assert!(whole.valid, "{whole:?}");
    let signed = checkpoint::of_head(&mut tx, &signer(), NOW).await.unwrap();
    checkpoint::keep(&mut tx, &signed, NOW).await.unwrap();
    let entropy = Entropy::seeded(1_000);
    let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for try_number in 0..tries {
        tx.execute("SAVEPOINT whole", args![]).await.unwrap();
        let way = tamper(&mut tx, &entropy, try_number % 26, whole.events).await;
        let found = check(&mut tx).await;
        let count = counts.entry(way).or_default();
        count.0 += 1;
        count.1 += u32::from(!found.valid);
        assert!(!found.valid && found.first_broken.is_some(), "try {try_number}, {way}: not found");
        if way.starts_with("the whole") {
            assert!(found.findings.iter().all(|finding| finding.kind == Kind::Checkpoint), "{found:?}");
        }
        tx.execute("ROLLBACK TO SAVEPOINT whole", args![]).await.unwrap();
    }
    assert_eq!(check(&mut tx).await.checkpoints, 1);
    assert!(check(&mut tx).await.valid, "what was undone is whole again");
    for (way, (tried, found)) in &counts {
        eprintln!("{way}: {tried} tried, {found} found");
    }
    assert!(counts.len() >= 9, "{counts:?}");
}

mod a_thousand_tampering_tries_are_all_found {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        tampering_is_found(&TestDatabase::sqlite().open().await, 1_000).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        let database = TestDatabase::postgres();
        tampering_is_found(&database.open().await, 130).await;
    }
}

on_each_database!(
    async fn the_ledger_of_an_earlier_release_verifies_and_goes_on(database) {
        let db = database.open().await;
        let entropy = Entropy::seeded(1);
        let topic = consent::ops::ensure_topic(&db, "tea-letter", &entropy, NOW).await.unwrap();
        let mut before = Vec::new();
        let proof = r#"{"ip":"203.0.113.7","salt":"00"}"#;
        let digest: String = Sha256::digest(proof).iter().map(|byte| format!("{byte:02x}")).collect();
        for seq in 1..=40_i64 {
            let (evidence, evidence_digest) = if seq % 5 == 0 { (Some(proof), Some(digest.as_str())) } else { (None, None) };
            let action = if seq <= 30 { "granted" } else { "withdrawn" };
            let contact = if seq <= 30 { seq } else { seq - 30 };
            let numbers = [seq, NOW.millis(), contact, seq + 1];
            before = link(1, &before, numbers, [Some("tea-letter"), Some(action), Some("spring fair"), None, evidence_digest], None, [None; 6]);
            db.execute(
                "INSERT INTO consent_event (seq, at, contact_id, topic_id, action, source, source_line, hash, evidence, evidence_digest)
                 VALUES ($1, $2, $3, $4, $5, 'spring fair', $6, $7, $8, $9)",
                args![seq, NOW, contact, topic, action, seq + 1, before.clone(), evidence, evidence_digest],
            )
            .await
            .unwrap();
            db.execute(
                "INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (topic_id, contact_id) DO UPDATE SET standing = excluded.standing, last_seq = excluded.last_seq",
                args![topic, contact, if seq <= 30 { "subscribed" } else { "unsubscribed" }, NOW, seq],
            )
            .await
            .unwrap();
        }
        db.execute("UPDATE consent_head SET seq = 40, hash = $1", args![before]).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let old = check(&mut tx).await;
        assert!(old.valid && old.events == 40, "{old:?}");
        assert_eq!(ledger::rebuild(&mut tx, false).await.unwrap().differing, 0);
        let event = NewEvent { basis: Some(Basis::Consent), ..NewEvent::new(3, topic, Action::Confirmed, "mail") };
        ledger::append(&mut tx, &[event], NOW).await.unwrap();
        let both = check(&mut tx).await;
        assert!(both.valid && both.events == 41, "{both:?}");
        for tampering in [
            "UPDATE consent_event SET purpose = 'x' WHERE seq = 7",
            "UPDATE consent_event SET version = 2 WHERE seq = 7",
            "UPDATE consent_event SET version = 1, basis = NULL, channel = NULL WHERE seq = 41",
            "UPDATE consent_event SET source = 'x' WHERE seq = 40",
            "UPDATE consent_event SET evidence = NULL WHERE seq = 10",
            "UPDATE consent_event SET origin = '{}' WHERE seq = 10",
        ] {
            tx.execute("SAVEPOINT whole", args![]).await.unwrap();
            tx.execute(tampering, args![]).await.unwrap();
            assert!(!check(&mut tx).await.valid, "{tampering}");
            tx.execute("ROLLBACK TO SAVEPOINT whole", args![]).await.unwrap();
        }
    }
);

on_each_database!(
    async fn erasure_and_retention_leave_a_ledger_that_verifies_and_nothing_personal(database) {
        let db = database.open().await;
        a_rich_ledger(&db, 21).await;
        let mut tx = db.begin().await.unwrap();
        let erased = "contact_id IN (7, 14, 21)";
        for (what, sql) in [
            ("proofs", format!("SELECT COUNT(*) FROM consent_event WHERE {erased} AND (evidence IS NOT NULL OR origin IS NOT NULL)")),
            ("standings", format!("SELECT COUNT(*) FROM subscription WHERE {erased}")),
            ("choices", format!("SELECT COUNT(*) FROM consent_choice WHERE {erased}")),
        ] {
            assert_eq!(rows(&mut tx, &sql).await, [0], "{what}");
        }
        assert!(check(&mut tx).await.valid);
        assert_eq!(ledger::rebuild(&mut tx, false).await.unwrap().differing, 0);
        // A backup of one table that brings the erased proof back.
        tx.execute("UPDATE consent_event SET evidence = '{}' WHERE contact_id = 7", args![]).await.unwrap();
        assert!(!check(&mut tx).await.valid);
    }
);

on_each_database!(
    async fn a_checkpoint_kept_elsewhere_shows_a_rewritten_chain_and_an_outsider_can_check_the_export(database) {
        let shop = instance(&database, &[]);
        a_rich_ledger(&database.open().await, 12).await;
        shop.optin(&["consent", "checkpoint", "--out", "kept.json"]).exits(0);
        let verified = shop.optin(&["consent", "verify", "--checkpoint", "kept.json", "--json"]).exits(0).json();
        assert_eq!((&verified["checkpoints"], &verified["standings"]["differing"]), (&1.into(), &0.into()), "{verified}");
        let exported = shop.optin(&["consent", "export", "ledger.jsonl", "--json"]).exits(0).json();
        assert_eq!(exported["entries"], verified["events"]);
        let text = std::fs::read_to_string(shop.root().join("ledger.jsonl")).unwrap();
        for personal in ["x.example", "203.0.113.7", "Mozilla"] {
            assert!(!text.contains(personal), "`{personal}` is in the export");
        }
        let checked = outsider(&shop, "ledger.jsonl", 0);
        assert_eq!((&checked["entries"], &checked["checkpoints"], &checked["wordings"]), (&verified["events"], &2.into(), &1.into()), "{checked}");
        shop.write("../altered.jsonl", text.replacen("form tea", "form pea", 1));
        assert!(outsider(&shop, "altered.jsonl", 1)["problems"][0].as_str().unwrap().contains("entry 1 "), "an edit is found");

        let db = database.open().await;
        let mut tx = db.begin().await.unwrap();
        rewrite_from(&mut tx, 5).await;
        tx.commit().await.unwrap();
        shop.optin(&["consent", "verify"]).exits(0);
        let found = shop.optin(&["consent", "verify", "--checkpoint", "kept.json"]).exits(1);
        assert!(found.stderr.contains("the chain does not have the entry that was signed"), "{found}");
        shop.optin(&["consent", "export", "rewritten.jsonl"]).exits(0);
        assert!(outsider(&shop, "rewritten.jsonl", 1)["problems"].to_string().contains("that was signed"));

        // A checkpoint that somebody else signed proves nothing until its key is named.
        let foreign = Signer::new(&Keys::new("another", &[]));
        let signed = checkpoint::of_head(&mut db.clone(), &foreign, NOW).await.unwrap();
        shop.write("../foreign.json", serde_json::to_string(&signed).unwrap());
        let refused = shop.optin(&["consent", "verify", "--checkpoint", "foreign.json"]).exits(1);
        assert!(refused.stderr.contains("--public-key"), "{refused}");
        shop.optin(&["consent", "verify", "--checkpoint", "foreign.json", "--public-key", &signed.public_key]).exits(0);
    }
);

fn outsider(shop: &Instance, export: &str, code: i32) -> serde_json::Value {
    let script = repository().join("tests/python/check_ledger.py");
    let file = |name: &str| shop.root().join(name).to_str().unwrap().to_owned();
    call("/usr/bin/python3", &[script.to_str().unwrap(), &file(export), &file("kept.json")]).run().exits(code).json()
}
