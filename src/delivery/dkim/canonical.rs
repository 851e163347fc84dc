//! The relaxed canonical form of bodies and header fields (RFC 6376 section 3.4): what is hashed, so
//! that a relay that changes blanks or folding breaks no signature. One pass, no recursion, so that a
//! header of any length costs no stack.

use std::ops::Range;

/// Where the parts of a message are.
pub(super) struct Parts {
    /// Every header field with its folded lines and the CRLF at its end, if it has one.
    pub(super) fields: Vec<Range<usize>>,
    /// Where the body starts; the message's length where there is none.
    pub(super) body: usize,
}

/// Finds the header fields and the body.
pub(super) fn parts(message: &[u8]) -> Parts {
    let mut fields: Vec<Range<usize>> = Vec::with_capacity(24);
    let mut at = 0;
    while at < message.len() {
        let end = line_end(message, at);
        if message[at..end] == *b"\r\n" {
            return Parts { fields, body: end };
        }
        match fields.last_mut() {
            Some(field) if is_blank(message[at]) => field.end = end,
            _ => fields.push(at..end),
        }
        at = end;
    }
    Parts { fields, body: message.len() }
}

/// The end of the line that starts at `at`, behind its CRLF.
fn line_end(message: &[u8], at: usize) -> usize {
    let mut from = at;
    while let Some(found) = message[from..].iter().position(|byte| *byte == b'\n') {
        let end = from + found + 1;
        // A bare LF ends no line of a mail (RFC 5322 section 2.3).
        if found > 0 && message[end - 2] == b'\r' {
            return end;
        }
        from = end;
    }
    message.len()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Whether a field has this name (in lower case).
pub(super) fn is_named(field: &[u8], name: &str) -> bool {
    let Some((start, rest)) = field.split_at_checked(name.len()) else { return false };
    start.eq_ignore_ascii_case(name.as_bytes()) && rest.trim_ascii_start().starts_with(b":")
}

/// Appends a field in relaxed form (section 3.4.2), without a line end: the name in lower case, the
/// body unfolded, blanks put together, none around the colon or at the end.
pub(super) fn push_field(out: &mut Vec<u8>, field: &[u8]) {
    let colon = field.iter().position(|byte| *byte == b':').unwrap_or(field.len());
    out.extend(field[..colon].trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let mut blank = false;
    let mut empty = true;
    let value = field.get(colon + 1..).unwrap_or_default();
    for (index, byte) in value.iter().enumerate() {
        match byte {
            b' ' | b'\t' => blank = true,
            b'\r' if matches!(value.get(index + 1), Some(b'\n')) => {}
            b'\n' if index > 0 && value[index - 1] == b'\r' => {}
            byte => {
                if blank && !empty {
                    out.push(b' ');
                }
                blank = false;
                empty = false;
                out.push(*byte);
            }
        }
    }
}

/// A body in relaxed form (section 3.4.4): blanks put together and none at the end of a line, no empty
/// lines at the end. A last line without CRLF gets one, as the receiver sees it: SMTP puts one before
/// the final dot. An empty body stays empty.
pub(super) fn body(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 2);
    // Line ends seen since the last byte that counts: they only count when another one follows.
    let mut line_ends = 0;
    let mut blank = false;
    let mut at = 0;
    while at < body.len() {
        match body[at] {
            b' ' | b'\t' => {
                blank = true;
                at += 1;
            }
            b'\r' if body.get(at + 1) == Some(&b'\n') => {
                blank = false;
                line_ends += 1;
                at += 2;
            }
            first => {
                for _ in 0..line_ends {
                    out.extend_from_slice(b"\r\n");
                }
                line_ends = 0;
                if blank {
                    out.push(b' ');
                    blank = false;
                }
                // Most of a mail: words with one blank between them are copied together. `first` may be
                // a bare CR, which is an ordinary byte.
                let run = if first == b'\r' { 1 } else { plain_run(&body[at..]) };
                out.extend_from_slice(&body[at..at + run]);
                at += run;
            }
        }
    }
    if !out.is_empty() {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// How many bytes at the start of `bytes` stay as they are; the first is neither blank nor CR.
fn plain_run(bytes: &[u8]) -> usize {
    let mut run = 0;
    loop {
        run += bytes[run..].iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\r')).unwrap_or(bytes.len() - run);
        // One space with a word behind it stays, too.
        match (bytes.get(run), bytes.get(run + 1)) {
            (Some(b' '), Some(next)) if !matches!(next, b' ' | b'\t' | b'\r') => run += 1,
            _ => return run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Section 3.4.4, word for word, on lines.
    fn body_by_the_book(text: &[u8]) -> Vec<u8> {
        let text = String::from_utf8(text.to_vec()).expect("ASCII");
        let mut lines: Vec<String> = text
            .split("\r\n")
            .map(|line| {
                let joined: Vec<&str> =
                    line.split([' ', '\t']).enumerate().filter(|(at, word)| *at == 0 || !word.is_empty()).map(|(_, word)| word).collect();
                let joined = joined.join(" ");
                // A line that ends in blanks lost them; one that starts with blanks keeps one.
                joined.trim_end_matches(' ').to_owned()
            })
            .collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect()
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 6376 section 3.4.5.
        let message = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n";
        let found = parts(message);
        let mut headers = Vec::new();
        for field in &found.fields {
            push_field(&mut headers, &message[field.clone()]);
            headers.extend_from_slice(b"\r\n");
        }
        assert_eq!(String::from_utf8_lossy(&headers), "a:X\r\nb:Y Z\r\n");
        assert_eq!(String::from_utf8_lossy(&body(&message[found.body..])), " C\r\nD E\r\n");
    }

    #[test]
    fn a_message_may_lack_its_last_line_end_or_its_body() {
        assert_eq!(body(b"a\r\n--x--"), b"a\r\n--x--\r\n");
        assert_eq!(body(b"a \r\n \t\r\n\r\n "), b"a\r\n");
        assert_eq!((body(b""), body(b"\r\n"), body(b" \t ")), (Vec::new(), Vec::new(), Vec::new()));
        let found = parts(b"From: a@b.example\r\nTo: c\r\n d");
        assert_eq!((found.fields.len(), found.body), (2, 28));
        assert_eq!(parts(b"").body, 0);
    }

    #[test]
    fn a_long_header_costs_no_stack() {
        let long = [b"X: ".as_slice(), &b"a \r\n\t".repeat(200_000)].concat();
        let mut out = Vec::new();
        push_field(&mut out, &long);
        assert_eq!(out.len(), 2 + 2 * 200_000 - 1);
    }

    #[test]
    fn bare_line_ends_are_bytes_like_others() {
        assert_eq!(body(b"a\rb\nc \rd\r\n"), b"a\rb\nc \rd\r\n");
    }

    proptest! {
        #[test]
        fn the_fast_way_and_the_book_agree(pieces in prop::collection::vec(prop::sample::select(vec!["a", " ", "\t", "\r\n", "=20", "."]), 0..40)) {
            let text = pieces.concat();
            prop_assert_eq!(body(text.as_bytes()), body_by_the_book(text.as_bytes()));
            // What SMTP adds at the end is covered by the hash.
            prop_assert_eq!(body(text.as_bytes()), body(format!("{text}\r\n").as_bytes()));
        }
    }
}
