//! Keeps the tags of templates out of the way of Markdown, MJML, the CSS inliner and the link
//! rewriter: each tag is replaced by an inert word, and put back at the end.
//!
//! A word is lower-case ASCII letters and digits, so that it survives as text, as an attribute's
//! value or name, in an address and in CSS. Its beginning is chosen so that none of the texts of
//! the campaign contains it: nothing a marketer writes can be mistaken for one.

use super::template::{self, Kind};

/// What surrounds a tag that stands between elements: a comment may stand where text may not, such
/// as between the rows of a table.
const COMMENT: (&str, &str) = ("<!--", "-->");

/// One tag that is kept.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The template source that comes back in the HTML part.
    pub source: String,
    /// The same for the text part.
    pub text_source: String,
    pub kind: Kind,
    /// Blocks that belong together (`if`, `else`, `endif`) share a number.
    pub group: Option<usize>,
}

/// The kept tags.
#[derive(Debug)]
pub(super) struct Vault {
    prefix: String,
    items: Vec<Item>,
    groups: usize,
}

/// Which part the tags come back in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Html,
    Text,
}

impl Vault {
    /// An empty vault whose words occur in none of `texts`.
    pub fn new(texts: &[&str]) -> Self {
        let texts: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let mut number = 0_usize;
        loop {
            let prefix = format!("zq{}j", letters(number));
            if !texts.iter().any(|text| text.contains(&prefix)) {
                return Vault { prefix, items: Vec::new(), groups: 0 };
            }
            number += 1;
        }
    }

    /// Keeps a tag and answers its word.
    pub fn keep(&mut self, kind: Kind, source: impl Into<String>, text_source: impl Into<String>) -> String {
        self.items.push(Item { source: source.into(), text_source: text_source.into(), kind, group: None });
        self.word(self.items.len() - 1)
    }

    /// Keeps an expression written by this room.
    pub fn keep_expression(&mut self, expression: &str) -> String {
        let source = format!("{{{{ {expression} }}}}");
        self.keep(Kind::Expression, source.clone(), source)
    }

    /// The word of an item.
    pub fn word(&self, index: usize) -> String {
        format!("{}{index}x", self.prefix)
    }

    pub fn item(&self, index: usize) -> &Item {
        &self.items[index]
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Replaces each tag of `source` by what `place` makes of its item's index; comments vanish.
    /// `place` also sees the text before, bit by bit, and answers what comes in its stead.
    pub fn protect(&mut self, source: &str, mut place: impl FnMut(&Vault, Piece<'_>) -> String) -> String {
        let mut out = String::with_capacity(source.len() + source.len() / 4);
        let mut open: Vec<(usize, &str)> = Vec::new();
        for segment in template::segments(source) {
            let text = &source[segment.range.clone()];
            match segment.kind {
                Kind::Text => out.push_str(&place(self, Piece::Text(text))),
                Kind::Comment => {}
                kind => {
                    let group = if kind == Kind::Block { self.group(segment.keyword(source), text, &mut open) } else { None };
                    self.items.push(Item { source: text.to_owned(), text_source: text.to_owned(), kind, group });
                    out.push_str(&place(self, Piece::Tag { index: self.items.len() - 1, at: segment.range.start }));
                }
            }
        }
        out
    }

    fn group<'a>(&mut self, keyword: &'a str, tag: &str, open: &mut Vec<(usize, &'a str)>) -> Option<usize> {
        if let Some(opened) = keyword.strip_prefix("end") {
            return match open.pop() {
                Some((group, name)) if name == opened => Some(group),
                _ => None,
            };
        }
        let opens = matches!(keyword, "if" | "for" | "macro" | "call" | "with" | "filter") || (keyword == "set" && !tag.contains('='));
        if opens {
            self.groups += 1;
            open.push((self.groups, keyword));
        }
        open.last().filter(|_| opens || matches!(keyword, "else" | "elif")).map(|(group, _)| *group)
    }

    /// Cuts a text at the words of kept tags.
    pub fn pieces<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        let mut out = Vec::new();
        let (mut done, mut from) = (0, 0);
        while let Some(found) = text[from..].find(&self.prefix) {
            let start = from + found;
            let digits_start = start + self.prefix.len();
            let digits = text[digits_start..].bytes().take_while(u8::is_ascii_digit).count();
            let end = digits_start + digits;
            let index = text[digits_start..end].parse::<usize>().ok().filter(|index| *index < self.items.len());
            let (Some(index), true) = (index, text[end..].starts_with('x')) else {
                from = digits_start;
                continue;
            };
            if done < start {
                out.push(Piece::Text(&text[done..start]));
            }
            out.push(Piece::Tag { index, at: start });
            done = end + 1;
            from = done;
        }
        if done < text.len() {
            out.push(Piece::Text(&text[done..]));
        }
        out
    }

    /// The indexes of all kept tags in a text.
    pub fn indexes(&self, text: &str) -> Vec<usize> {
        self.pieces(text)
            .into_iter()
            .filter_map(|piece| match piece {
                Piece::Tag { index, .. } => Some(index),
                Piece::Text(_) => None,
            })
            .collect()
    }

    /// Puts the tags back: the result is a template. What looks like a tag otherwise (an entity or
    /// a backslash hid it) is printed as it stands.
    pub fn restore(&self, text: &str, target: Target) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 4);
        let pieces = self.pieces(text);
        let text_at = |at: usize| match pieces.get(at) {
            Some(Piece::Text(literal)) => literal,
            _ => "",
        };
        let is_comment = |at: usize| at > 0 && text_at(at - 1).ends_with(COMMENT.0) && text_at(at + 1).starts_with(COMMENT.1);
        let mut inside_tag = false;
        for (at, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Text(literal) => {
                    let mut literal = *literal;
                    if at > 0 && is_comment(at - 1) {
                        literal = literal.strip_prefix(COMMENT.1).unwrap_or(literal);
                    } else if at > 0 && inside_tag {
                        // The HTML parser gave an attribute that is only a tag an empty value.
                        literal = literal.strip_prefix("=\"\"").unwrap_or(literal);
                    }
                    if is_comment(at + 1) {
                        literal = literal.strip_suffix(COMMENT.0).unwrap_or(literal);
                    }
                    if let Some(mark) = literal.rfind(['<', '>']) {
                        inside_tag = literal.as_bytes()[mark] == b'<';
                    }
                    push_literal(&mut out, literal);
                }
                Piece::Tag { index, .. } => {
                    let item = &self.items[*index];
                    out.push_str(if target == Target::Html { &item.source } else { &item.text_source });
                }
            }
        }
        out
    }

    /// Puts the tags back for a person to read.
    pub fn restore_for_people(&self, text: &str) -> String {
        self.pieces(text)
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(literal) => literal,
                Piece::Tag { index, .. } => self.items[index].source.as_str(),
            })
            .collect()
    }
}

/// A bit of a protected text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Text(&'a str),
    /// A kept tag, and the byte where it stands.
    Tag {
        index: usize,
        at: usize,
    },
}

/// Writes a text so that minijinja prints it unchanged.
pub(super) fn push_literal(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if matches!(from.as_bytes().get(1), Some(b'{' | b'%' | b'#')) || (from.len() == 1) {
            out.push_str("{{ '{' }}");
        } else {
            out.push('{');
        }
        rest = &from[1..];
    }
    out.push_str(rest);
}

fn letters(mut number: usize) -> String {
    let mut out = String::new();
    loop {
        out.push((b'a' + (number % 8) as u8) as char);
        number /= 8;
        if number == 0 {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(source: &str) -> String {
        let mut vault = Vault::new(&[source]);
        let text = vault.protect(source, |vault, piece| match piece {
            Piece::Text(text) => text.to_owned(),
            Piece::Tag { index, .. } => vault.word(index),
        });
        vault.restore(&text, Target::Html)
    }

    #[test]
    fn what_goes_in_comes_out_without_comments() {
        assert_eq!(through("a {{ b }}{# c #} {% if d %}e{% endif %}"), "a {{ b }} {% if d %}e{% endif %}");
    }

    #[test]
    fn a_text_that_looks_like_a_word_of_ours_stays_as_it_is() {
        let source = "zqaj0x ZQBJ0X zqajzqaj1x {{ a }} zqcj";
        assert_eq!(through(source), source);
    }

    #[test]
    fn hidden_tags_are_printed_and_not_obeyed() {
        let mut out = String::new();
        push_literal(&mut out, "{{ x }} {% y {# z { a }");
        assert_eq!(minijinja::Environment::new().render_str(&out, ()).expect("renders"), "{{ x }} {% y {# z { a }");
    }

    #[test]
    fn comments_around_tags_and_empty_values_vanish() {
        let mut vault = Vault::new(&[]);
        let word = vault.keep_expression("x");
        let html = format!("<td {word}=\"\" a=\"b\"><!--{word}--><!--{word}--> {word}=\"\" <!--{word} [if]-->");
        assert_eq!(vault.restore(&html, Target::Html), "<td {{ x }} a=\"b\">{{ x }}{{ x }} {{ x }}=\"\" <!--{{ x }} [if]-->");
    }

    #[test]
    fn blocks_that_belong_together_share_a_group() {
        let mut vault = Vault::new(&[]);
        vault.protect("{% if a %}{% for b in c %}{% else %}{% endfor %}{% else %}{% set x = 1 %}{% endif %}", |_, _| String::new());
        let groups: Vec<_> = (0..vault.len()).map(|index| vault.item(index).group).collect();
        assert_eq!(groups, [Some(1), Some(2), Some(2), Some(2), Some(1), None, Some(1)]);
    }
}
