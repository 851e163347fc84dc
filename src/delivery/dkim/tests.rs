use super::*;
use crate::config::Located;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dkim");
/// 2026-11-22 16:00:00 UTC
const NOW: Time = Time::from_millis(1_795_363_200_000);

fn declared(domain: &str, selector: &str, file: &str) -> DkimKey {
    let text = |text: &str| Located::default_value(text.to_owned());
    DkimKey { place: None, domain: text(domain), selector: text(selector), key_file: text(file) }
}

fn load(keys: &[(&str, &str, &str)]) -> Result<Signers, Vec<KeyProblem>> {
    let keys: Vec<DkimKey> = keys.iter().map(|(domain, selector, file)| declared(domain, selector, file)).collect();
    Signers::load(&keys, Path::new(FIXTURES))
}

fn messages(keys: &[(&str, &str, &str)]) -> Vec<String> {
    load(keys)
        .expect_err("problems")
        .into_iter()
        .map(|problem| format!("{} {:?} {}", problem.index, problem.part, problem.message))
        .collect()
}

/// The message of RFC 8463 appendix A.3, and its signature by the key of RFC 8032 section 7.1.
#[test]
fn the_published_vector_comes_out() {
    const FIELD: &str = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
    const SIGNATURE: &str = "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==";
    const MESSAGE: &[u8] = b"From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\nSubject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\nMessage-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\nHi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
    let parts = canonical::parts(MESSAGE);
    let body = canonical::body(&MESSAGE[parts.body..]);
    assert_eq!(BASE64.encode(digest::digest(&digest::SHA256, &body)), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
    let mut text = Vec::new();
    for name in ["from", "to", "subject", "date", "message-id"] {
        let field = parts.fields.iter().map(|field| &MESSAGE[field.clone()]).find(|field| canonical::is_named(field, name));
        canonical::push_field(&mut text, field.expect("it is there"));
        text.extend_from_slice(b"\r\n");
    }
    canonical::push_field(&mut text, FIELD.as_bytes());
    let key = PrivateKey::parse(b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n").expect("a seed");
    assert_eq!(key.record(), Ok("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=".to_owned()));
    let signature = key.sign(&digest::digest(&digest::SHA256, &text)).expect("a signature");
    assert_eq!(BASE64.encode(signature), SIGNATURE);
}

#[test]
fn a_field_keeps_to_its_lines_and_says_what_it_must() {
    let domain = format!("{}.tea.example", "long-label-of-a-brand.".repeat(5).trim_end_matches('.'));
    let signers = load(&[(&domain, "e", "ed25519.pem"), (&domain, "a-selector-of-some-length", "rsa-2048-pkcs8.pem")]).expect("keys");
    let mut message = b"From: a@tea.example\r\nSUBJECT : x\r\nX-Other: y\r\nFrom: b@tea.example\r\nCc: c@d.example\r\n\r\nHello".to_vec();
    let before = message.clone();
    assert_eq!(signers.sign(&domain, &mut message, NOW), Ok(2));
    assert!(message.ends_with(&before));
    let text = String::from_utf8(message).expect("ASCII");
    let fields: Vec<&str> = text[..text.len() - before.len()].split_inclusive("DKIM-Signature:").skip(1).collect();
    assert_eq!(fields.len(), 2);
    assert!(fields[0].contains(" a=rsa-sha256;") && fields[1].contains(" a=ed25519-sha256;"), "the one everybody knows is on top");
    for field in fields {
        let tags = field.replace("\r\n ", "").replace(' ', "");
        assert!(tags.contains("c=relaxed/relaxed;"), "{tags}");
        assert!(tags.contains(&format!("d={domain};")) && tags.contains("t=1795363200;"), "{tags}");
        let names = "h=from:from:from:subject:subject:to:date:reply-to:cc:cc:message-id:list-unsubscribe:list-unsubscribe-post;";
        assert!(tags.contains(names), "{tags}");
        assert!(!tags.contains("l=") && !tags.contains("i=@") && !tags.contains("x="), "{tags}");
    }
    for line in text.lines() {
        assert!(line.len() <= LINE || line.contains(&domain), "{line}");
    }
}

#[test]
fn the_nearest_declared_domain_signs() {
    let rsa = "rsa-2048-pkcs8.pem";
    let signers = load(&[("Tea.Example", "a", rsa), ("shop.tea.example", "b", rsa), ("xn--cl1a.example", "c", rsa)]).expect("keys");
    let found = |domain: &str| signers.for_domain(domain).map(|(domain, signers)| format!("{}._domainkey.{domain}", signers[0].selector));
    assert_eq!(found("tea.example").as_deref(), Some("a._domainkey.tea.example"));
    assert_eq!(found("NEWS.tea.example").as_deref(), Some("a._domainkey.tea.example"));
    assert_eq!(found("a.shop.tea.example").as_deref(), Some("b._domainkey.shop.tea.example"));
    assert_eq!(found("茶.example").as_deref(), Some("c._domainkey.xn--cl1a.example"));
    assert_eq!((found("example"), found("eviltea.example"), found("tea.example.net"), found("")), (None, None, None, None));
    let mut message = b"From: a@b.example\r\n\r\nx".to_vec();
    assert_eq!(signers.sign("b.example", &mut message, NOW), Ok(0));
    assert!(message.starts_with(b"From:"));
}

#[test]
fn every_form_of_a_key_is_read() {
    for (file, kind) in [
        ("rsa-2048-pkcs8.pem", KeyType::Rsa),
        ("rsa-2048-pkcs1.pem", KeyType::Rsa),
        ("ed25519.pem", KeyType::Ed25519),
        ("ed25519-seed.txt", KeyType::Ed25519),
    ] {
        let key = PrivateKey::read(&Path::new(FIXTURES).join(file)).unwrap_or_else(|error| panic!("{file}: {error:?}"));
        assert_eq!(key.kind(), kind, "{file}");
        let again = PrivateKey::parse(key.to_pem().expect("PEM").as_bytes()).expect("what we write we read");
        assert_eq!(again.record(), key.record(), "{file}");
    }
}

#[test]
fn made_keys_are_read_again_and_never_the_same() {
    for kind in [KeyType::Rsa, KeyType::Ed25519] {
        let (one, other) = (PrivateKey::generate(kind).expect("a key"), PrivateKey::generate(kind).expect("a key"));
        assert_eq!(one.kind(), kind);
        assert_ne!(one.record(), other.record());
        let record = one.record().expect("a record");
        assert_eq!(txt_strings(&record).concat(), record);
        assert!(txt_strings(&record).iter().all(|string| string.len() <= 255));
    }
}

#[test]
fn mistakes_are_named_all_at_once() {
    let found = messages(&[
        ("tea.example", "a", "nowhere.pem"),
        ("tea.example", "b", "rsa-1024.pem"),
        ("tea.example", "c", "ec-p256.pem"),
        ("tea.example", "d", "public.pem"),
        ("tea.example", "e", "locked.pem"),
        ("tea.example", "f", "README.md"),
        ("tea.example", "g", "."),
    ]);
    let expected = [
        "0 File",
        "nowhere.pem`: there is no such file",
        "1 File",
        "less than 2048 bits",
        "2 File",
        "no RSA and no Ed25519",
        "3 File",
        "public half",
        "4 File",
        "password",
        "5 File",
        "no private key",
        "6 File",
        "no key file",
    ];
    assert_eq!(found.len(), 7, "{found:#?}");
    for (line, words) in found.iter().zip(expected.chunks(2)) {
        assert!(line.starts_with(words[0]) && line.contains(words[1]), "{line}: {words:?}");
    }
    let found = messages(&[("tea.example", "a", "ed25519.pem"), ("b.example", "a", "rsa-2048-pkcs8.pem")]);
    assert_eq!(found, ["0 Domain `tea.example` has an Ed25519 key and no RSA key"]);
}
