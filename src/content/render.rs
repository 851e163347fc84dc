//! From a rendered template to the text that leaves: links become personal, stray control
//! characters vanish, lines are tidied.
//!
//! A link stands in the rendered part as `START position PAYLOAD address END`, three control
//! characters that no value can bring along (see `context::without_controls`).

use std::borrow::Cow;

use url::Url;

use super::LinkMaker;
use super::environment::escape;
use super::parameters::Parameters;

/// Begins a link in a rendered part.
pub(super) const START: char = '\u{1}';
/// Ends it.
pub(super) const END: char = '\u{2}';
/// Stands before its address.
pub(super) const PAYLOAD: char = '\u{3}';
/// Before a position, or instead of one: this address is not tracked.
pub(super) const UNTRACKED: char = '-';
/// First of all: this address was checked when the campaign was prepared.
pub(super) const CHECKED: char = '=';
/// Instead of a position: here comes the image that records an open.
pub(super) const PIXEL: &str = "pixel";
/// Instead of a position: here comes the link that no person sees.
pub(super) const TRAP: &str = "trap";

/// Characters that turn text around: in a subject line they make one thing look like another.
/// (Unicode UAX #9, the explicit directional formatting characters and marks.)
const BIDI_CONTROLS: &[char] = &[
    '\u{061c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}',
    '\u{2069}',
];

/// One line: every control character and line separator is a space, bidirectional overrides vanish.
pub(super) fn one_line(text: &str) -> String {
    let replaced: String = text
        .chars()
        .filter(|character| !BIDI_CONTROLS.contains(character))
        .map(|character| if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') { ' ' } else { character })
        .collect();
    replaced.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The HTML part with its personal links.
pub(super) fn finish_html(rendered: &str, links: &dyn LinkMaker, parameters: &Parameters) -> Result<String, String> {
    let mut out = String::with_capacity(rendered.len() + rendered.len() / 4);
    finish(rendered, links, parameters, &mut out, |out, link| match link {
        Written::Address(address) => out.push_str(&escape(&address)),
        Written::Pixel(address) => {
            out.push_str("<img src=\"");
            out.push_str(&escape(&address));
            out.push_str("\" width=\"1\" height=\"1\" alt=\"\" style=\"display:block;width:1px;height:1px;border:0\">");
        }
        Written::Trap(address) => {
            out.push_str("<a href=\"");
            out.push_str(&escape(&address));
            out.push_str("\" aria-hidden=\"true\" tabindex=\"-1\" rel=\"nofollow\" style=\"display:none\"></a>");
        }
    })?;
    Ok(out)
}

/// The text part with its personal links: no blanks at line ends, no two empty lines in a row.
pub(super) fn finish_text(rendered: &str, links: &dyn LinkMaker, parameters: &Parameters) -> Result<String, String> {
    let mut text = String::with_capacity(rendered.len() + rendered.len() / 4);
    finish(rendered, links, parameters, &mut text, |out, link| {
        if let Written::Address(address) = link {
            out.push_str(&address);
        }
    })?;
    let mut out = String::with_capacity(text.len());
    let mut empty_lines = 0;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if empty_lines > 0 { "\n\n" } else { "\n" });
        }
        empty_lines = 0;
        out.push_str(line);
    }
    out.push('\n');
    Ok(out)
}

enum Written {
    Address(String),
    Pixel(String),
    Trap(String),
}

fn finish(
    rendered: &str,
    links: &dyn LinkMaker,
    parameters: &Parameters,
    out: &mut String,
    mut write: impl FnMut(&mut String, Written),
) -> Result<(), String> {
    let mut rest = rendered;
    while let Some(at) = next_control(rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let from = &rest[at..];
        rest = &from[1..];
        if !from.starts_with(START) {
            continue;
        }
        let Some(end) = rest.find(END) else { continue };
        let link = &rest[..end];
        rest = &rest[end + END.len_utf8()..];
        if link == PIXEL {
            if let Some(address) = links.open_pixel() {
                write(out, Written::Pixel(address));
            }
        } else if link == TRAP {
            if let Some(address) = links.trap() {
                write(out, Written::Trap(address));
            }
        } else if let Some((position, address)) = link.split_once(PAYLOAD) {
            write(out, Written::Address(personal_address(position, address, links, parameters)?));
        }
    }
    out.push_str(rest);
    Ok(())
}

/// Where the next control character is that is neither a line end nor a tab. Whole blocks without
/// one are passed over at once (the compiler makes a few vector instructions of it): most of a mail.
fn next_control(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 64;
    let is_control = |byte: &u8| (*byte < 0x20 && *byte != b'\n' && *byte != b'\t') || *byte == 0x7f;
    let mut done = 0;
    for block in bytes.chunks(BLOCK) {
        if block.iter().fold(false, |found, byte| found | is_control(byte)) {
            return block.iter().position(is_control).map(|at| done + at);
        }
        done += block.len();
    }
    None
}

fn personal_address(position: &str, address: &str, links: &dyn LinkMaker, parameters: &Parameters) -> Result<String, String> {
    let (position, address) = match position.strip_prefix(CHECKED) {
        Some(position) => (position, Cow::Borrowed(address)),
        None => (position, Cow::Owned(web_address(address)?)),
    };
    let (tracked, number) = match position.strip_prefix(UNTRACKED) {
        Some(number) => (false, number),
        None => (true, position),
    };
    // Without a number it is an image's.
    let Ok(number) = number.parse::<usize>() else { return Ok(address.into_owned()) };
    if links.is_personal_page(&address) {
        return Ok(address.into_owned());
    }
    let address = parameters.added(number, &address);
    Ok(if tracked { links.track(number as i64, &address) } else { address.into_owned() })
}

/// An address of the web, in the form browsers would send it; anything else is refused, also
/// `javascript:` and `data:`.
pub(super) fn web_address(text: &str) -> Result<String, String> {
    let problem = |what: &str| {
        let shown: String = text.chars().filter(|character| !character.is_control()).take(100).collect();
        format!("the link `{shown}` {what}; a link leads to an http or https address")
    };
    let url = Url::parse(text.trim()).map_err(|error| problem(&format!("is no address ({error})")))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url.into()),
        _ => Err(problem("does not lead to the web")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_comes_in() {
        assert_eq!(one_line(" a\r\nBcc: x@y\0b\u{2028}c\u{85}d\u{202e}e\u{7f} "), "a Bcc: x@y b c de");
    }

    #[test]
    fn control_characters_are_found_wherever_they_stand() {
        for at in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![b'a'; 201];
            bytes[at] = 1;
            assert_eq!(next_control(&bytes), Some(at));
        }
        assert_eq!(next_control("\n\t茶".as_bytes()), None);
    }

    #[test]
    fn only_the_web_is_linked_to() {
        assert_eq!(web_address("HTTPS://Shop.Example/a b?x=茶").as_deref(), Ok("https://shop.example/a%20b?x=%E8%8C%B6"));
        for bad in
            ["javascript:alert(1)", "data:text/html,x", "", "/relative", "https://", "ftp://x", "mailto:a@b", "java\nscript:alert(1)"]
        {
            assert!(web_address(bad).is_err(), "{bad}");
        }
    }
}
