//! Email addresses: parsed once, then carried in three forms (shown, compared, on the wire).
//!
//! What is accepted is what a sign-up form should accept: RFC 5321 mailboxes (and RFC 6531 ones with
//! Unicode) at a registrable domain. Comments, folding white space, domain literals and the other
//! obsolete forms of RFC 5322 are refused: in a list they are typing mistakes or attacks. A quoted
//! local part is legal, so it is accepted, but [`Address::is_unusual`] says that it wants a look.

use std::borrow::Cow;
use std::fmt;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization;

/// Longest local part, in octets (RFC 5321 4.5.3.1.1).
pub const LOCAL_PART_OCTETS: usize = 64;
/// Longest domain, in octets (RFC 5321 4.5.3.1.2).
pub const DOMAIN_OCTETS: usize = 255;
/// Longest address, in octets: a path may have 256 with its angle brackets (RFC 5321 4.5.3.1.3).
pub const ADDRESS_OCTETS: usize = 254;

/// An address that can be mailed to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    key: String,
    /// Only where it differs from `text`.
    wire: Option<String>,
    quoted: bool,
}

/// Why a text is no address. Offsets count characters of the trimmed text, from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("the address is empty")]
    Empty,
    /// No `@`.
    #[error("the address has no `@`")]
    NoAt,
    /// The look-alike of `@` that Chinese and Japanese keyboards write.
    #[error("the address has a full-width `＠` at character {}: write `@`", .0 + 1)]
    FullWidthAt(usize),
    /// Two `@` outside quotes.
    #[error("the address has a second `@` at character {}", .0 + 1)]
    SecondAt(usize),
    /// `Name <a@b.c>` or `mailto:a@b.c`.
    #[error("this is more than an address: write only `name@domain`, without a display name, `mailto:` or angle brackets")]
    DisplayForm,
    /// Several addresses in one field.
    #[error("several addresses in one field (`{}` at character {}): one row holds one address", .character, .offset + 1)]
    Several {
        /// `,` or `;`
        character: char,
        /// Where it stands.
        offset: usize,
    },
    /// A comment in parentheses.
    #[error("comments in parentheses are not accepted (character {})", .0 + 1)]
    Comment(usize),
    /// A line break, NUL or another control character.
    #[error("control character {} at character {}", shown(*.character), .offset + 1)]
    Control {
        /// The character.
        character: char,
        /// Where it stands.
        offset: usize,
    },
    /// A character that is not seen, or that turns the reading direction.
    #[error("invisible character {} at character {}: retype the address", shown(*.character), .offset + 1)]
    Invisible {
        /// The character.
        character: char,
        /// Where it stands.
        offset: usize,
    },
    /// Nothing before the `@`.
    #[error("nothing stands before the `@`")]
    NoLocalPart,
    /// A character that may not stand before the `@`.
    #[error("`{}` at character {} may not stand before the `@`", .character, .offset + 1)]
    LocalCharacter {
        /// The character.
        character: char,
        /// Where it stands.
        offset: usize,
    },
    /// A dot at the start or end of the local part, or two in a row.
    #[error("a dot at character {} stands at an end of the part before the `@`, or beside another dot", .0 + 1)]
    Dot(usize),
    /// A quote that is never closed, or followed by something.
    #[error("the quoted part before the `@` is broken at character {}", .0 + 1)]
    Quote(usize),
    /// More than [`LOCAL_PART_OCTETS`].
    #[error("the part before the `@` has {0} bytes, at most {LOCAL_PART_OCTETS} are allowed")]
    LongLocalPart(usize),
    /// More than [`ADDRESS_OCTETS`].
    #[error("the address has {0} bytes, at most {ADDRESS_OCTETS} are allowed")]
    Long(usize),
    /// Nothing after the `@`.
    #[error("nothing stands after the `@`")]
    NoDomain,
    /// `[192.0.2.1]`
    #[error("an IP address in brackets is not accepted: write a domain")]
    DomainLiteral,
    /// A domain that DNS or IDNA does not allow.
    #[error("`{0}` is not a domain")]
    Domain(String),
    /// Longer than [`DOMAIN_OCTETS`], or a label longer than 63.
    #[error("the domain is too long: {DOMAIN_OCTETS} bytes in all and 63 between dots are allowed")]
    LongDomain,
    /// `localhost`, `com`
    #[error("the domain `{0}` has no dot: did its ending get lost?")]
    NoDot(String),
    /// A public suffix such as `co.uk`, under which domains are registered.
    #[error("`{0}` is an ending under which domains are registered, not a domain of somebody")]
    PublicSuffix(String),
    /// `1.2.3.4`
    #[error("the domain `{0}` ends in a number: an IP address is not accepted")]
    NumericEnding(String),
}

fn shown(character: char) -> String {
    format!("U+{:04X}", u32::from(character))
}

impl Address {
    /// Parses an address. Blanks and invisible marks around it (spreadsheets leave them) are removed;
    /// within it they are errors. Line breaks are errors everywhere: they would end a header line.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::parse_with(text, Domain::parse)
    }

    /// As [`Address::parse`], with the caller's way to a domain (an import remembers those it has seen).
    pub(crate) fn parse_with<D: std::ops::Deref<Target = Domain>>(
        text: &str,
        domain: impl FnOnce(&str) -> Result<D, AddressError>,
    ) -> Result<Self, AddressError> {
        let text = trim(text);
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        // A megabyte that is no address should not be walked through: nothing valid is longer, in
        // Unicode form, than four times the octets of its wire form.
        if text.len() > 4 * ADDRESS_OCTETS {
            return Err(AddressError::Long(text.len()));
        }
        let split = split(text)?;
        let domain = domain(&text[split.at + 1..])?;
        build(&split, &domain)
    }

    /// As shown to people: the local part as given (NFC), the domain in lower case and in Unicode.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As compared: two addresses with one key are one contact and one suppression. The local part
    /// is lower-cased (mailboxes that tell `Joe` from `joe` are not found in practice), the domain
    /// is in A-labels.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// As written into SMTP commands: the case of the local part kept (RFC 5321 2.4), the domain in
    /// A-labels, so that a server without SMTPUTF8 can take it when the local part is ASCII.
    pub fn wire(&self) -> &str {
        self.wire.as_deref().unwrap_or(&self.text)
    }

    /// True when only a server with SMTPUTF8 (RFC 6531) can take it.
    pub fn needs_smtputf8(&self) -> bool {
        !self.wire().is_ascii()
    }

    /// True for a quoted local part: legal, but mostly a mistake.
    pub fn is_unusual(&self) -> bool {
        self.quoted
    }

    /// The domain in A-labels, lower case.
    pub fn domain(&self) -> &str {
        self.key.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// Moves the two stored forms out: as shown and as compared.
    pub(crate) fn into_text_and_key(self) -> (String, String) {
        (self.text, self.key)
    }
}

/// Masked, for logs and messages: `j***@example.com`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.text))
    }
}

/// Masked like `Display`: an address must not reach a log through `{:?}` either.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", masked(&self.text))
    }
}

/// The first character and the domain; the rest as stars. Of a text that is no address only stars.
pub fn masked(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((local, domain)) => format!("{}***@{domain}", local.chars().next().unwrap_or('*')),
        None => "***".to_owned(),
    }
}

/// Removes white space (but no line break) and invisible marks around a text.
fn trim(text: &str) -> &str {
    let bytes = text.as_bytes();
    let plain = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_graphic());
    if plain(bytes.first()) && plain(bytes.last()) {
        return text;
    }
    text.trim_matches(|c: char| matches!(c, ' ' | '\t' | '\u{a0}' | '\u{3000}' | '\u{200b}' | '\u{2060}' | '\u{feff}'))
}

/// Where the parts of an address are.
struct Split<'a> {
    /// Byte offset of the `@`.
    at: usize,
    /// The local part; of a quoted one what the quotes hold, without its backslashes.
    local: Cow<'a, str>,
    quoted: bool,
}

fn split(text: &str) -> Result<Split<'_>, AddressError> {
    let bytes = text.as_bytes();
    // The usual case in one pass over bytes.
    if let Some(at) = bytes.iter().position(|b| !is_atom_byte(*b) && *b != b'.')
        && bytes[at] == b'@'
        && bytes[at + 1..].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
    {
        let local = &text[..at];
        check_dots(local)?;
        return Ok(Split { at, local: Cow::Borrowed(local), quoted: false });
    }
    check_characters(text)?;
    if text.starts_with('"') { split_quoted(text) } else { split_plain(text) }
}

/// What may stand nowhere in an address, with the most telling reason.
fn check_characters(text: &str) -> Result<(), AddressError> {
    for (offset, character) in text.chars().enumerate() {
        if character.is_control() {
            return Err(AddressError::Control { character, offset });
        }
        if is_invisible(character) {
            return Err(AddressError::Invisible { character, offset });
        }
    }
    let outside_quotes = !text.starts_with('"') || text.ends_with('>');
    if outside_quotes && (text.ends_with('>') || text.starts_with('<') || starts_with_mailto(text)) {
        return Err(AddressError::DisplayForm);
    }
    Ok(())
}

fn starts_with_mailto(text: &str) -> bool {
    text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("mailto:"))
}

fn split_plain(text: &str) -> Result<Split<'_>, AddressError> {
    let mut at = None;
    for (offset, (byte, character)) in text.char_indices().enumerate() {
        match character {
            '@' if at.is_some() => return Err(AddressError::SecondAt(offset)),
            '@' => at = Some(byte),
            '＠' => return Err(AddressError::FullWidthAt(offset)),
            ',' | ';' => return Err(AddressError::Several { character, offset }),
            '(' | ')' => return Err(AddressError::Comment(offset)),
            '.' => {}
            _ if at.is_some() || is_local_character(character) => {}
            _ => return Err(AddressError::LocalCharacter { character, offset }),
        }
    }
    let at = at.ok_or(AddressError::NoAt)?;
    check_dots(&text[..at])?;
    Ok(Split { at, local: Cow::Borrowed(&text[..at]), quoted: false })
}

fn check_dots(local: &str) -> Result<(), AddressError> {
    if local.is_empty() {
        return Err(AddressError::NoLocalPart);
    }
    let mut before = '.';
    for (offset, character) in local.chars().enumerate() {
        if character == '.' && before == '.' {
            return Err(AddressError::Dot(offset));
        }
        before = character;
    }
    if before == '.' { Err(AddressError::Dot(local.chars().count() - 1)) } else { Ok(()) }
}

/// `"..."@domain`: printable ASCII and Unicode, `\` before any printable ASCII (RFC 5321 4.1.2, RFC 6531 3.3).
fn split_quoted(text: &str) -> Result<Split<'_>, AddressError> {
    let mut local = String::new();
    let mut characters = text.char_indices().enumerate().skip(1);
    while let Some((offset, (byte, character))) = characters.next() {
        match character {
            '"' if local.is_empty() => return Err(AddressError::NoLocalPart),
            '"' if text[byte + 1..].starts_with('@') => return Ok(Split { at: byte + 1, local: Cow::Owned(local), quoted: true }),
            '"' => return Err(AddressError::Quote(offset + 1)),
            '\\' => match characters.next() {
                Some((_, (_, escaped))) if escaped.is_ascii() => local.push(escaped),
                _ => return Err(AddressError::Quote(offset)),
            },
            _ => local.push(character),
        }
    }
    Err(AddressError::Quote(0))
}

fn build(split: &Split<'_>, domain: &Domain) -> Result<Address, AddressError> {
    let plain: Cow<'_, str> = if split.local.is_ascii() { Cow::Borrowed(&*split.local) } else { Cow::Owned(split.local.nfc().collect()) };
    // A quoted part that needs no quotes is the same mailbox as the plain one (RFC 5321 4.1.2).
    let quoted = split.quoted && !is_dot_atom(&plain);
    let local = if quoted { Cow::Owned(quote(&plain)) } else { plain };
    if local.len() > LOCAL_PART_OCTETS {
        return Err(AddressError::LongLocalPart(local.len()));
    }
    let octets = local.len() + 1 + domain.ascii.len();
    if octets > ADDRESS_OCTETS {
        return Err(AddressError::Long(octets));
    }
    let join = |local: &str, domain: &str| {
        let mut out = String::with_capacity(local.len() + 1 + domain.len());
        out.push_str(local);
        out.push('@');
        out.push_str(domain);
        out
    };
    let key = if local.is_ascii() {
        let mut key = join(&local, &domain.ascii);
        key.make_ascii_lowercase();
        key
    } else {
        join(&local.to_lowercase().nfc().collect::<String>(), &domain.ascii)
    };
    let shown = domain.unicode.as_deref();
    Ok(Address {
        text: join(&local, shown.unwrap_or(&domain.ascii)),
        key,
        wire: shown.map(|_| join(&local, &domain.ascii)),
        quoted: split.quoted,
    })
}

fn quote(local: &str) -> String {
    let mut out = String::with_capacity(local.len() + 2);
    out.push('"');
    for character in local.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
    out
}

fn is_dot_atom(local: &str) -> bool {
    check_dots(local).is_ok() && local.chars().all(|c| c == '.' || is_local_character(c))
}

/// `atext` of RFC 5322 3.2.3.
fn is_atom_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_local_character(character: char) -> bool {
    match u8::try_from(character) {
        Ok(byte) if byte.is_ascii() => is_atom_byte(byte),
        _ => !character.is_whitespace(),
    }
}

/// Characters that are not seen: bidirectional controls, zero-width marks, fillers, noncharacters.
fn is_invisible(character: char) -> bool {
    matches!(u32::from(character),
        0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0
        | 0xfff0..=0xffff | 0xfdd0..=0xfdef | 0xe0000..=0xe0fff | 0xf0000..)
}

/// The part behind the `@`, checked.
#[derive(Debug, Clone)]
pub(crate) struct Domain {
    /// Lower case, A-labels.
    ascii: String,
    /// In Unicode, where that differs.
    unicode: Option<String>,
}

impl std::ops::Deref for Domain {
    type Target = Domain;

    fn deref(&self) -> &Domain {
        self
    }
}

impl Domain {
    /// Lower case, A-labels.
    pub(crate) fn ascii(&self) -> &str {
        &self.ascii
    }

    /// Checks by UTS 46 (non-transitional), DNS lengths and the public suffix list.
    pub(crate) fn parse(text: &str) -> Result<Box<Domain>, AddressError> {
        if text.is_empty() {
            return Err(AddressError::NoDomain);
        }
        if text.starts_with('[') {
            return Err(AddressError::DomainLiteral);
        }
        let uts46 = Uts46::new();
        // Only the first and last hyphen of a label are checked: `c--n.com` is registered.
        let ascii = uts46
            .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Ignore)
            .map_err(|_| AddressError::Domain(text.to_owned()))?;
        let labels = || ascii.split('.');
        if labels().any(str::is_empty) {
            return Err(AddressError::Domain(text.to_owned()));
        }
        if ascii.len() > DOMAIN_OCTETS || labels().any(|label| label.len() > 63) {
            return Err(AddressError::LongDomain);
        }
        let Some((_, ending)) = ascii.rsplit_once('.') else { return Err(AddressError::NoDot(text.to_owned())) };
        if ending.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AddressError::NumericEnding(text.to_owned()));
        }
        // Private suffixes (`github.io`) have mailboxes; an ending nobody knows (`.example`) counts as one label.
        let suffix = psl::suffix(ascii.as_bytes());
        if suffix.is_some_and(|s| s.typ() == Some(psl::Type::Icann) && s.as_bytes() == ascii.as_bytes()) {
            return Err(AddressError::PublicSuffix(text.to_owned()));
        }
        let (unicode, _) = uts46.to_unicode(ascii.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
        let unicode = (unicode != ascii).then(|| unicode.into_owned());
        Ok(Box::new(Domain { ascii: ascii.into_owned(), unicode }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn parse(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_case_of_the_local_part_is_kept_on_the_wire_and_ignored_in_the_key() {
        let address = parse("Joe@Example.COM");
        assert_eq!(address.as_str(), "Joe@example.com");
        assert_eq!(address.wire(), "Joe@example.com");
        assert_eq!(address.key(), "joe@example.com");
        assert_eq!(address.domain(), "example.com");
        assert!(!address.needs_smtputf8());
    }

    #[test]
    fn international_domains_are_shown_in_unicode_and_sent_in_a_labels() {
        let address = parse("Jörg@MÜNCHEN.example");
        assert_eq!(address.as_str(), "Jörg@münchen.example");
        assert_eq!(address.wire(), "Jörg@xn--mnchen-3ya.example");
        assert_eq!(address.key(), "jörg@xn--mnchen-3ya.example");
        assert!(address.needs_smtputf8());
        assert!(!parse("a@münchen.example").needs_smtputf8());
        assert_eq!(parse("a@xn--mnchen-3ya.example"), parse("a@münchen.example"));
        assert_eq!(parse("用户@例子.example").wire(), "用户@xn--fsqu00a.example");
        assert_eq!(parse("a@例子。example").key(), "a@xn--fsqu00a.example");
    }

    #[test]
    fn composed_and_decomposed_letters_are_one_address() {
        assert_eq!(parse("jo\u{308}rg@a.example"), parse("jörg@a.example"));
    }

    #[test]
    fn blanks_and_marks_around_an_address_are_removed() {
        assert_eq!(parse(" \u{feff}a@b.example\u{200b}\u{a0}\t").as_str(), "a@b.example");
    }

    #[test]
    fn a_quoted_local_part_is_accepted_and_marked_as_unusual() {
        let address = parse("\"a b\"@c.example");
        assert!(address.is_unusual());
        assert_eq!(address.wire(), "\"a b\"@c.example");
        assert_eq!(parse("\"test\"@c.example").key(), parse("test@c.example").key());
        assert_eq!(parse(r#""a\"b"@c.example"#).wire(), r#""a\"b"@c.example"#);
        assert_eq!(parse(r#""a@b"@c.example"#).domain(), "c.example");
    }

    #[test]
    fn limits_are_those_of_rfc_5321() {
        let local = "a".repeat(64);
        parse(&format!("{local}@b.example"));
        assert_eq!(Address::parse(&format!("{local}a@b.example")), Err(AddressError::LongLocalPart(65)));
        let label = "b".repeat(63);
        let domain = |last: usize| format!("{label}.{label}.{}", "c".repeat(last));
        parse(&format!("{local}@{}", domain(61)));
        assert_eq!(Address::parse(&format!("{local}@{}", domain(62))), Err(AddressError::Long(255)));
        assert_eq!(Address::parse(&format!("a@{}b.example", label)), Err(AddressError::LongDomain));
        assert!(matches!(Address::parse(&"x".repeat(1_000_000)), Err(AddressError::Long(_))));
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        use AddressError::*;
        let cases: Vec<(&str, AddressError)> = vec![
            ("", Empty),
            ("  ", Empty),
            ("joe", NoAt),
            ("@b.example", NoLocalPart),
            ("\"\"@b.example", NoLocalPart),
            ("joe@", NoDomain),
            ("joe@localhost", NoDot("localhost".into())),
            ("joe@co.uk", PublicSuffix("co.uk".into())),
            ("joe@1.2.3.4", NumericEnding("1.2.3.4".into())),
            ("joe@[1.2.3.4]", DomainLiteral),
            ("joe@b..example", Domain("b..example".into())),
            ("joe@b.example.", Domain("b.example.".into())),
            ("joe@-b.example", Domain("-b.example".into())),
            ("joe@b_c.example", Domain("b_c.example".into())),
            ("joe@b.example/x", Domain("b.example/x".into())),
            ("a..b@c.example", Dot(2)),
            (".a@c.example", Dot(0)),
            ("a.@c.example", Dot(1)),
            ("a@b@c.example", SecondAt(3)),
            ("a＠b.example", FullWidthAt(1)),
            ("a b@c.example", LocalCharacter { character: ' ', offset: 1 }),
            ("a\u{3000}b@c.example", LocalCharacter { character: '\u{3000}', offset: 1 }),
            ("a(x)@c.example", Comment(1)),
            ("a@c.example, b@c.example", Several { character: ',', offset: 11 }),
            ("Joe <joe@c.example>", DisplayForm),
            ("\"Joe\" <joe@c.example>", DisplayForm),
            ("mailto:joe@c.example", DisplayForm),
            ("a@c.example\r\nBcc: x@y.example", Control { character: '\r', offset: 11 }),
            ("a@c.example\n", Control { character: '\n', offset: 11 }),
            ("a\0@c.example", Control { character: '\0', offset: 1 }),
            ("\"a\nb\"@c.example", Control { character: '\n', offset: 2 }),
            ("a\u{202e}b@c.example", Invisible { character: '\u{202e}', offset: 1 }),
            ("a@c\u{200b}.example", Invisible { character: '\u{200b}', offset: 3 }),
            ("\"a@c.example", Quote(0)),
            ("\"a\"b@c.example", Quote(3)),
        ];
        for (text, expected) in cases {
            assert_eq!(Address::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn an_address_prints_masked() {
        assert_eq!(parse("joe@b.example").to_string(), "j***@b.example");
        assert_eq!(format!("{:?}", parse("joe@b.example")), "Address(j***@b.example)");
        assert_eq!(masked("no address"), "***");
    }

    #[test]
    fn what_is_shown_parses_back_to_itself() {
        for text in ["Joe@Example.COM", "用户@例子.example", "\"a b\"@c.example", "a@xn--mnchen-3ya.example"] {
            let address = parse(text);
            assert_eq!(Address::parse(address.as_str()).unwrap(), address);
            assert_eq!(Address::parse(address.wire()).unwrap(), address);
        }
    }
}
