//! The bytes of a message (RFC 5322, RFC 2045 to 2047), written so that nothing a person or a
//! marketer typed can add a header or break a line limit.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::clock::Time;

/// Longest line we write, without CRLF (RFC 5322 section 2.1.1 recommends 78, RFC 2045 section 6.7
/// and RFC 2047 section 2 demand 76 for encoded text).
const LINE: usize = 76;
/// Payload bytes of one encoded-word: `=?utf-8?B?` and `?=` leave 63 base64 characters, 45 bytes.
const ENCODED_WORD_BYTES: usize = 45;
/// More non-ASCII than one byte in so many: base64 is shorter and easier to read in quoted-printable
/// otherwise.
const BASE64_ABOVE_SHARE: usize = 6;

/// A header field: its name, and a body that is already encoded and folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    name: &'static str,
    body: String,
}

impl Header {
    /// Free text such as a subject: ASCII as it is, anything else as encoded-words.
    pub fn text(name: &'static str, text: &str) -> Header {
        let clean = clean_line(text);
        let body = if clean.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && !clean.contains("=?") {
            fold(name.len() + 2, &clean)
        } else {
            encoded_words(name.len() + 2, &clean)
        };
        Header { name, body }
    }

    /// A mailbox: display name and address. The address must be clean already (see
    /// [`crate::contact::Address`]); control characters are dropped all the same.
    pub fn mailbox(name: &'static str, display: &str, address: &str) -> Header {
        let address: String = address.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>')).collect();
        let display = clean_line(display);
        let body = if display.is_empty() {
            address
        } else if display.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" -!'*+/_".contains(&byte)) {
            format!("{}\r\n <{address}>", fold(name.len() + 2, &display))
        } else if display.is_ascii() && !display.contains("=?") {
            let quoted = display.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{quoted}\"\r\n <{address}>")
        } else {
            format!("{}\r\n <{address}>", encoded_words(name.len() + 2, &display))
        };
        Header { name, body }
    }

    /// A structured body that we made ourselves; items are folded where the caller put CRLF SPACE.
    pub fn structured(name: &'static str, body: String) -> Header {
        debug_assert!(body.replace("\r\n ", " ").chars().all(|c| !c.is_control()), "{name}: {body:?}");
        Header { name, body }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(self.body.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// One line: control characters and line separators become a space, runs of them one.
pub fn clean_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c };
        if c != ' ' || !out.ends_with(' ') {
            out.push(c);
        }
    }
    out.trim().to_owned()
}

/// Folds at blanks so that lines stay within the limit where there are blanks.
fn fold(used: usize, text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut column = used;
    for (index, word) in text.split(' ').enumerate() {
        // A word that no line can hold would break the 998 limit at most if it were enormous;
        // such text goes out as encoded-words.
        if word.len() > 900 {
            return encoded_words(used, text);
        }
        if index > 0 {
            if column + 1 + word.len() > LINE {
                out.push_str("\r\n ");
                column = 1;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += word.len();
    }
    out
}

/// RFC 2047: base64 words of whole characters, each on its own line after the first.
fn encoded_words(used: usize, text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    // The first word shares its line with the field's name.
    let mut room = ENCODED_WORD_BYTES.saturating_sub(used * 3 / 4).max(12);
    let mut start = 0;
    let mut end = 0;
    for (at, c) in text.char_indices() {
        if at + c.len_utf8() - start > room {
            push_word(&mut out, &text[start..end]);
            start = at;
            room = ENCODED_WORD_BYTES;
        }
        end = at + c.len_utf8();
    }
    push_word(&mut out, &text[start..end]);
    out
}

fn push_word(out: &mut String, text: &str) {
    if !out.is_empty() {
        out.push_str("\r\n ");
    }
    out.push_str("=?utf-8?B?");
    BASE64.encode_string(text.as_bytes(), out);
    out.push_str("?=");
}

/// RFC 5322 section 3.3, always in UTC with a numeric zone.
pub fn date(now: Time) -> String {
    now.timestamp().to_zoned(jiff::tz::TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// A multipart/alternative message: text first, HTML last. Lines end in CRLF; the last line has no
/// line end (SMTP adds it with the final dot).
pub fn alternative(headers: &[Header], boundary_seed: u64, text: &str, html: &str) -> Vec<u8> {
    // `=_` cannot occur in quoted-printable or base64 (RFC 2045 section 6.7).
    let boundary = format!("=_optin_{boundary_seed:016x}");
    let mut out = Vec::with_capacity((text.len() + html.len()) * 5 / 4 + 2048);
    for header in headers {
        header.write(&mut out);
    }
    out.extend_from_slice(format!("MIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n boundary=\"{boundary}\"\r\n").as_bytes());
    for (kind, body) in [("plain", text), ("html", html)] {
        out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        push_part(&mut out, kind, body);
    }
    out.extend_from_slice(format!("\r\n--{boundary}--").as_bytes());
    out
}

/// A message that is only text. Lines end in CRLF; the last line has no line end.
pub fn only_text(headers: &[Header], text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 5 / 4 + 2048);
    for header in headers {
        header.write(&mut out);
    }
    out.extend_from_slice(b"MIME-Version: 1.0\r\n");
    push_part(&mut out, "plain", text);
    out
}

/// The header of a part of text, and its body.
fn push_part(out: &mut Vec<u8>, kind: &str, body: &str) {
    let non_ascii = body.bytes().filter(|byte| !byte.is_ascii()).count();
    let base64 = non_ascii * BASE64_ABOVE_SHARE > body.len();
    let encoding = if base64 { "base64" } else { "quoted-printable" };
    out.extend_from_slice(format!("Content-Type: text/{kind}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n").as_bytes());
    if base64 {
        push_base64(out, body);
    } else {
        push_quoted_printable(out, body);
    }
}

/// Base64 in lines of 76, of text with CRLF line ends.
fn push_base64(out: &mut Vec<u8>, body: &str) {
    let canonical = canonical_line_ends(body);
    // 57 bytes make 76 characters.
    for (index, chunk) in canonical.as_bytes().chunks(57).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        let start = out.len();
        out.resize(start + chunk.len().div_ceil(3) * 4, 0);
        let written = BASE64.encode_slice(chunk, &mut out[start..]).expect("the room was measured");
        out.truncate(start + written);
    }
}

fn canonical_line_ends(body: &str) -> String {
    let mut out = String::with_capacity(body.len() + body.len() / 40);
    let mut previous = '\0';
    for c in body.chars() {
        match c {
            '\n' if previous == '\r' => {}
            '\r' | '\n' => out.push_str("\r\n"),
            '\0' => {}
            other => out.push(other),
        }
        previous = c;
    }
    out
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// What may stand for itself inside a line of quoted-printable, blanks among them.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'=' as usize;
        byte += 1;
    }
    plain[b'\t' as usize] = true;
    plain
};

/// How many bytes at the start of `bytes` go out as they are, at most `room`: most of a mail, so they
/// are copied together.
fn plain_run(bytes: &[u8], room: usize) -> usize {
    let run = bytes.iter().take(room).take_while(|byte| PLAIN[usize::from(**byte)]).count();
    // A blank at the end of a line must be encoded.
    let ends_line = matches!(bytes.get(run), None | Some(b'\r' | b'\n'));
    if ends_line && run > 0 && matches!(bytes[run - 1], b' ' | b'\t') { run - 1 } else { run }
}

/// RFC 2045 section 6.7. A dot at the start of a line and `From ` are encoded too, so that no relay
/// on the way changes them.
fn push_quoted_printable(out: &mut Vec<u8>, body: &str) {
    let bytes = body.as_bytes();
    let mut column = 0;
    let mut index = 0;
    while index < bytes.len() {
        let byte = bytes[index];
        if column > 0 || !matches!(byte, b'.' | b'F') {
            let run = plain_run(&bytes[index..], LINE - 1 - column);
            if run > 0 {
                out.extend_from_slice(&bytes[index..index + run]);
                column += run;
                index += run;
                continue;
            }
        }
        match byte {
            b'\r' | b'\n' => {
                if byte == b'\r' && bytes.get(index + 1) == Some(&b'\n') {
                    index += 1;
                }
                out.extend_from_slice(b"\r\n");
                column = 0;
                index += 1;
                continue;
            }
            0 => {
                index += 1;
                continue;
            }
            _ => {}
        }
        let ends_line = matches!(bytes.get(index + 1), None | Some(b'\r' | b'\n'));
        let plain = match byte {
            b'=' => false,
            b' ' | b'\t' => !ends_line,
            b'.' => column > 0,
            b'F' => column > 0 || !bytes[index..].starts_with(b"From "),
            0x21..=0x7e => true,
            _ => false,
        };
        let width = if plain { 1 } else { 3 };
        // One column is kept for the `=` of a soft line break.
        if column + width > LINE - 1 {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            // What was plain in the middle of a line may need encoding at its start.
            continue;
        }
        if plain {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        column += width;
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> mail_parser::Message<'_> {
        mail_parser::MessageParser::default().parse(bytes).expect("a message")
    }

    #[test]
    fn a_name_cannot_add_a_header() {
        let message = alternative(
            &[
                Header::mailbox("From", "Eve\r\nBcc: x@y.example", "a@b.example"),
                Header::text("Subject", "Hi\r\nBcc: z@y.example\u{2028}!\0"),
            ],
            1,
            "t",
            "<p>h</p>",
        );
        let text = String::from_utf8(message.clone()).expect("ASCII");
        assert!(!text.contains("\r\nBcc:"), "{text}");
        assert_eq!(parse(&message).subject(), Some("Hi Bcc: z@y.example !"));
    }

    #[test]
    fn dates_are_rfc_5322() {
        assert_eq!(date(Time::parse("2026-12-01T09:00:00Z").expect("time")), "Tue, 01 Dec 2026 09:00:00 +0000");
    }

    #[test]
    fn display_names_survive() {
        for name in ["Tea House", "Zoë \"Z\" O'Neil, Ltd.", "小明", "a \\ b", "Müller & Söhne (Wien)", "x".repeat(300).as_str()] {
            let message = alternative(&[Header::mailbox("From", name, "a@b.example")], 1, "t", "h");
            let parsed = parse(&message);
            let from = parsed.from().and_then(|from| from.first()).expect("a sender");
            assert_eq!((from.name(), from.address()), (Some(name), Some("a@b.example")));
        }
    }

    proptest! {
        #[test]
        fn subjects_and_bodies_come_back_and_lines_stay_short(subject in "\\PC{0,200}", text in "(\\PC|\n|\t| ){0,400}", html in "([ -~]|茶|é|\n){0,600}") {
            let message = alternative(&[Header::text("Subject", &subject)], 7, &text, &html);
            for line in message.split(|byte| *byte == b'\n') {
                prop_assert!(line.len() <= 79, "{}", String::from_utf8_lossy(line));
            }
            prop_assert!(message.is_ascii());
            let parsed = parse(&message);
            let wanted = clean_line(&subject);
            prop_assert_eq!(parsed.subject().unwrap_or_default(), wanted.as_str());
            prop_assert_eq!(parsed.body_text(0).unwrap_or_default().replace("\r\n", "\n"), text);
            prop_assert_eq!(parsed.body_html(0).unwrap_or_default().replace("\r\n", "\n"), html);
        }
    }
}
