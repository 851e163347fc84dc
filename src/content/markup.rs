//! HTML and MJML as written: where in the markup the tags of a template stand, and MJML's turn into
//! HTML.

use std::ops::Range;

use super::problem::{ContentProblem, Part};
use super::template::Kind;
use super::vault::{Piece, Vault};
use crate::config::diagnostics::did_you_mean;

/// Where a reader of markup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    /// Between `<` and `>`, outside quotes.
    Tag,
    /// After the `=` of an attribute.
    Value,
    Quoted(u8),
    Comment,
    /// Inside an element whose content is no markup.
    RawText(&'static str),
}

/// Elements whose content is no markup.
const RAW_TEXT: &[&str] = &["script", "style", "title", "textarea", "mj-style", "mj-title", "mj-preview"];

struct Reader {
    place: Place,
    /// The last bytes read, lower case, enough to see `</textarea` and `<!--`.
    recent: String,
    tag: String,
}

impl Reader {
    fn read(&mut self, text: &str) {
        for character in text.chars() {
            self.step(character);
        }
    }

    fn step(&mut self, character: char) {
        self.recent.push(character.to_ascii_lowercase());
        if self.recent.len() > 32 {
            let cut = self.recent.char_indices().nth(8).map_or(0, |(at, _)| at);
            self.recent.drain(..cut);
        }
        self.place = match (self.place, character) {
            (Place::Text, '<') => {
                self.tag.clear();
                Place::Text
            }
            (Place::Text, _) if self.recent.ends_with("<!--") => Place::Comment,
            (Place::Text, c) if (c.is_ascii_alphabetic() || c == '/') && before_last(&self.recent) == Some('<') => {
                self.tag.push(c.to_ascii_lowercase());
                Place::Tag
            }
            (Place::Comment, '>') if self.recent.ends_with("-->") => Place::Text,
            (Place::Tag | Place::Value, '>') => {
                let name: &str = self.tag.split([' ', '\n', '\t', '/']).next().unwrap_or_default();
                let closed = before_last(&self.recent) == Some('/');
                RAW_TEXT.iter().find(|raw| **raw == name && !closed).map_or(Place::Text, |raw| Place::RawText(raw))
            }
            (Place::Tag, '=') => Place::Value,
            (Place::Value, '"') => Place::Quoted(b'"'),
            (Place::Value, '\'') => Place::Quoted(b'\''),
            (Place::Value, c) if c.is_whitespace() && before_last(&self.recent) != Some('=') => Place::Tag,
            (Place::Tag, c) => {
                if self.tag.len() < 40 {
                    self.tag.push(if c.is_whitespace() { ' ' } else { c.to_ascii_lowercase() });
                }
                Place::Tag
            }
            (Place::Quoted(quote), c) if c as u32 == u32::from(quote) => Place::Tag,
            (Place::RawText(name), '>') if self.recent.trim_end_matches('>').trim_end().ends_with(&format!("</{name}")) => Place::Text,
            (place, _) => place,
        };
    }
}

fn before_last(text: &str) -> Option<char> {
    text.chars().rev().nth(1)
}

/// Protects the tags of an HTML or MJML source. Between elements they become comments, which may
/// stand anywhere, also between the rows of a table. Reports fields where they would be obeyed
/// as markup.
pub(super) fn protect(part: Part, source: &str, vault: &mut Vault, problems: &mut Vec<ContentProblem>) -> String {
    let mut reader = Reader { place: Place::Text, recent: String::new(), tag: String::new() };
    vault.protect(source, |vault, piece| match piece {
        Piece::Text(text) => {
            reader.read(text);
            text.to_owned()
        }
        Piece::Tag { index, at } => {
            let word = vault.word(index);
            let item = vault.item(index);
            match reader.place {
                Place::Text => return format!("<!--{word}-->"),
                Place::Tag if item.kind == Kind::Expression => {
                    let hint = "write it inside the quotes of an attribute: `title=\"{{ contact.city }}\"`";
                    problems.push(ContentProblem::new(part, at..at + item.source.len(), "a field cannot stand here in an HTML tag", hint));
                }
                Place::RawText("script") => {
                    let hint = "mail programs run no scripts; remove the element";
                    problems.push(ContentProblem::new(part, at..at + item.source.len(), "a field cannot stand in a script", hint));
                }
                _ => {}
            }
            reader.read(&word);
            word
        }
    })
}

/// Elements inside elements. The CSS inliner and MJML's converter walk them recursively; layouts
/// made of tables come to 40.
const MAX_DEPTH: usize = 200;

/// How far the end of a tag is looked for.
const MAX_TAG_BYTES: usize = 4_096;

/// Elements without an end, or whose end tag people leave out.
const NOT_NESTED: &[&str] = &[
    "area", "base", "br", "col", "dd", "dt", "hr", "img", "input", "li", "link", "meta", "option", "p", "source", "tbody", "td", "tfoot",
    "th", "thead", "tr", "wbr",
];

/// Refuses markup that is nested so deeply that nobody can have meant it.
pub(super) fn check_depth(part: Part, markup: &str) -> Result<(), ContentProblem> {
    let mut depth = 0_usize;
    for (at, _) in markup.match_indices('<') {
        let after = &markup[at + 1..];
        if let Some(closing) = after.strip_prefix('/') {
            let name = tag_name(closing);
            if !NOT_NESTED.contains(&name.as_str()) {
                depth = depth.saturating_sub(1);
            }
        } else if after.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let end = after.bytes().take(MAX_TAG_BYTES).position(|byte| byte == b'>');
            let closed = end.is_some_and(|end| end > 0 && after.as_bytes()[end - 1] == b'/');
            if !closed && !NOT_NESTED.contains(&tag_name(after).as_str()) {
                depth += 1;
            }
        }
        if depth > MAX_DEPTH {
            let message = format!("elements are nested more than {MAX_DEPTH} deep");
            return Err(ContentProblem::new(part, None, message, "close the elements that are left open"));
        }
    }
    Ok(())
}

fn tag_name(text: &str) -> String {
    text.chars().take(20).take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>().to_ascii_lowercase()
}

/// The elements of MJML.
const MJML_ELEMENTS: &[&str] = &[
    "mj-accordion",
    "mj-accordion-element",
    "mj-accordion-text",
    "mj-accordion-title",
    "mj-all",
    "mj-attributes",
    "mj-body",
    "mj-breakpoint",
    "mj-button",
    "mj-carousel",
    "mj-carousel-image",
    "mj-class",
    "mj-column",
    "mj-divider",
    "mj-font",
    "mj-group",
    "mj-head",
    "mj-hero",
    "mj-image",
    "mj-include",
    "mj-navbar",
    "mj-navbar-link",
    "mj-preview",
    "mj-raw",
    "mj-section",
    "mj-social",
    "mj-social-element",
    "mj-spacer",
    "mj-style",
    "mj-table",
    "mj-text",
    "mj-title",
    "mj-wrapper",
];

/// Elements that MJML does not have: its converter would pass them on as they are.
pub(super) fn unknown_mjml(source: &str) -> Vec<ContentProblem> {
    let mut problems = Vec::new();
    for (at, _) in source.match_indices("<mj-") {
        let length = source[at + 1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(source.len() - at - 1);
        let name = &source[at + 1..at + 1 + length];
        if MJML_ELEMENTS.contains(&name) {
            continue;
        }
        let hint = match did_you_mean(name, MJML_ELEMENTS.iter().copied()) {
            Some(similar) => format!("did you mean `<{similar}>`?"),
            None => "plain HTML belongs inside `<mj-text>` or `<mj-raw>`".to_owned(),
        };
        problems.push(ContentProblem::new(Part::Body, at + 1..at + 1 + length, format!("MJML has no element `<{name}>`"), hint));
    }
    problems
}

/// Converts protected MJML. `source` is what the marketer wrote, for the places of problems.
pub(super) fn mjml_to_html(protected: &str, source: &str, vault: &Vault) -> Result<String, ContentProblem> {
    use mrml::prelude::parser::Error;
    let problem = |span: Option<Range<usize>>, message: String| {
        ContentProblem::new(Part::Body, span, message, "a body in MJML is `<mjml><mj-body><mj-section><mj-column> .. `")
    };
    let at = |position: &mrml::prelude::parser::Span| {
        let (start, end) = (position.start, position.end);
        Some(source_range(protected, source, start..end, vault))
    };
    let parsed = mrml::parse(protected).map_err(|error| match &error {
        Error::UnexpectedElement { position, .. } => problem(at(position), "MJML: this element cannot stand here".to_owned()),
        Error::UnexpectedToken { position, .. } => problem(at(position), "MJML: this cannot stand here".to_owned()),
        Error::MissingAttribute { name, position, .. } => problem(at(position), format!("MJML: the attribute `{name}` is missing")),
        Error::InvalidAttribute { position, .. } => problem(at(position), "MJML: this attribute cannot stand here".to_owned()),
        Error::InvalidFormat { position, .. } => problem(at(position), "MJML: this value is malformed".to_owned()),
        Error::IncludeLoaderError { position, .. } => problem(at(position), "MJML: other files cannot be included".to_owned()),
        Error::EndOfStream { .. } => problem(unclosed(source), "MJML: this element is not closed".to_owned()),
        Error::ParserError { source, .. } => problem(None, format!("MJML: {source}")),
        _ => problem(None, format!("MJML: {error}")),
    })?;
    // Without its list of fonts: a mail that names one of them would make its reader call Google.
    let options = mrml::prelude::render::RenderOptions { fonts: std::collections::HashMap::new(), ..Default::default() };
    parsed.element.render(&options).map_err(|error| problem(None, format!("MJML: {error}")))
}

/// The name of the first MJML element that is not closed where it should be.
fn unclosed(source: &str) -> Option<Range<usize>> {
    let mut open: Vec<Range<usize>> = Vec::new();
    for (at, _) in source.match_indices('<') {
        let closes = source[at + 1..].starts_with('/');
        let start = at + 1 + usize::from(closes);
        let length = source[start..].find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(source.len() - start);
        let name = start..start + length;
        if !source[name.clone()].starts_with("mj") {
            continue;
        }
        let end = source[name.end..].find('>').map_or(source.len(), |end| name.end + end);
        if !closes && !source[..end].ends_with('/') {
            open.push(name);
        } else if closes {
            let expected = open.pop()?;
            if source[expected.clone()] != source[name] {
                return Some(expected);
            }
        }
    }
    open.pop()
}

/// Maps a range of the protected text to the source: text is the same in both, tags differ in
/// length, comments of the template are gone.
fn source_range(protected: &str, source: &str, range: Range<usize>, vault: &Vault) -> Range<usize> {
    // The n-th kept tag of the protected text is the n-th kept tag of the source.
    let tags: Vec<Range<usize>> = super::template::segments(source)
        .into_iter()
        .filter(|segment| !matches!(segment.kind, Kind::Text | Kind::Comment))
        .map(|segment| segment.range)
        .collect();
    let to_source = |offset: usize| {
        let mut offset = offset.min(protected.len());
        while !protected.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = vault.indexes(&protected[..offset]).len();
        let line_text = protected[..offset].rsplit("-->").next().unwrap_or_default();
        let tail = vault.pieces(line_text).last().map_or(0, |piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Tag { .. } => 0,
        });
        let start = before.checked_sub(1).and_then(|at| tags.get(at)).map_or(0, |tag| tag.end);
        (start + if before == 0 { offset } else { tail }).min(source.len())
    };
    let (start, end) = (to_source(range.start), to_source(range.end));
    start..end.max(start)
}

/// The parts of a body that is a whole document: what its head holds of style, and the inside of
/// its body. `None` for a fragment.
pub(super) fn split_document(html: &str) -> Option<(String, String)> {
    if !is_document(html) {
        return None;
    }
    let lower = html.to_ascii_lowercase();
    let body = lower.find("<body").and_then(|start| lower[start..].find('>').map(|end| start + end + 1));
    let start = body.unwrap_or(0);
    let end = lower.rfind("</body").filter(|end| *end >= start).unwrap_or(html.len());
    let mut styles = String::new();
    let mut from = 0;
    while let Some(open) = lower[from..start].find("<style").map(|at| from + at) {
        let Some(close) = lower[open..start].find("</style>").map(|at| open + at + 8) else { break };
        styles.push_str(&html[open..close]);
        from = close;
    }
    Some((styles, html[start..end].to_owned()))
}

/// Whether a body is a whole document rather than a fragment.
pub(super) fn is_document(html: &str) -> bool {
    let start: String = html.trim_start().chars().take(2_000).collect::<String>().to_ascii_lowercase();
    start.starts_with("<!doctype") || start.contains("<html") || start.contains("<body")
}

#[cfg(test)]
mod tests {
    use super::super::vault::Target;
    use super::*;

    fn protected(source: &str) -> (String, String, usize) {
        let mut vault = Vault::new(&[source]);
        let mut problems = Vec::new();
        let text = protect(Part::Body, source, &mut vault, &mut problems);
        (vault.restore(&text, Target::Html), text, problems.len())
    }

    #[test]
    fn tags_between_elements_become_comments_and_elsewhere_words() {
        let source = "<p title=\"{{ a }}\">{{ b }}</p><table>{% for x in y %}<tr {% if z %}class=\"q\"{% endif %}></tr>{% endfor %}</table><style>a{color:{{ c }}}</style><!-- {{ d }} --><a href={{ e }}>{{ f }}";
        let (restored, text, problems) = protected(source);
        assert_eq!(restored, source);
        assert_eq!((text.matches("<!--zq").count(), problems), (4, 0), "{text}");
    }

    #[test]
    fn a_field_that_could_become_markup_is_refused() {
        assert_eq!(protected("<p {{ a }}>").2, 1);
        assert_eq!(protected("<script>{{ a }}</script>").2, 1);
        assert_eq!(protected("<p title='{{ a }}' {% if b %}c{% endif %}>{{ d }}").2, 0);
        assert_eq!(protected("a < b {{ c }}").2, 0);
    }

    #[test]
    fn documents_are_told_from_fragments() {
        assert!(!is_document("<p>x</p>"));
        let (styles, body) =
            split_document("<!DOCTYPE html><HTML><head><style>a{}</style></head><BODY class=x>y</BODY></HTML>").expect("a document");
        assert_eq!((styles.as_str(), body.as_str()), ("<style>a{}</style>", "y"));
    }
}
