//! A marketer's template as text: where its tags are, what their words are. No evaluation here;
//! minijinja does that. This exists because minijinja's own parser is not public, and because tags
//! must be found in texts that are Markdown, MJML or HTML at the same time.

use std::ops::Range;

/// What a stretch of a template is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything that is not a tag.
    Text,
    /// `{{ .. }}`
    Expression,
    /// `{% .. %}`
    Block,
    /// `{# .. #}`
    Comment,
    /// `{% raw %} .. {% endraw %}`, whole.
    Raw,
}

/// A stretch of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub kind: Kind,
    /// Bytes of the source.
    pub range: Range<usize>,
}

impl Segment {
    /// The bytes between the delimiters and their whitespace marks, of an expression or block.
    pub fn inner(&self, source: &str) -> Range<usize> {
        let bytes = source.as_bytes();
        let (mut start, mut end) = (self.range.start + 2, self.range.end.saturating_sub(2).max(self.range.start + 2));
        if start < end && matches!(bytes[start], b'-' | b'+') {
            start += 1;
        }
        if start < end && matches!(bytes[end - 1], b'-' | b'+') {
            end -= 1;
        }
        start..end
    }

    /// The first word of a block: `if`, `endfor`.
    pub fn keyword<'a>(&self, source: &'a str) -> &'a str {
        let inner = source[self.inner(source)].trim_start();
        let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
        &inner[..end]
    }
}

/// Cuts a template into text and tags; the ranges cover the source without gaps. A tag that does
/// not end is text (minijinja has reported it by then).
pub(super) fn segments(source: &str) -> Vec<Segment> {
    let bytes = source.as_bytes();
    let mut out = Vec::new();
    let (mut text_start, mut at) = (0, 0);
    while at + 1 < bytes.len() {
        let tag = match (bytes[at], bytes[at + 1]) {
            (b'{', b'{') => tag_end(bytes, at + 2, b'}').map(|end| (Kind::Expression, end)),
            (b'{', b'%') => tag_end(bytes, at + 2, b'%').map(|end| (Kind::Block, end)),
            (b'{', b'#') => source[at + 2..].find("#}").map(|found| (Kind::Comment, at + 2 + found + 2)),
            _ => None,
        };
        let Some((mut kind, mut end)) = tag else {
            at += 1;
            continue;
        };
        if kind == Kind::Block
            && (Segment { kind, range: at..end }).keyword(source) == "raw"
            && let Some(raw_end) = end_of_raw(source, end)
        {
            (kind, end) = (Kind::Raw, raw_end);
        }
        if text_start < at {
            out.push(Segment { kind: Kind::Text, range: text_start..at });
        }
        out.push(Segment { kind, range: at..end });
        at = end;
        text_start = end;
    }
    if text_start < source.len() {
        out.push(Segment { kind: Kind::Text, range: text_start..source.len() });
    }
    out
}

/// The end of a tag that closes with `close` and `}`: strings may hold the delimiter, and so may
/// braces that are open.
fn tag_end(bytes: &[u8], mut at: usize, close: u8) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    while at < bytes.len() {
        let byte = bytes[at];
        match quote {
            Some(_) if byte == b'\\' => at += 1,
            Some(mark) if byte == mark => quote = None,
            Some(_) => {}
            None => match byte {
                b'"' | b'\'' => quote = Some(byte),
                _ if depth == 0 && byte == close && bytes.get(at + 1) == Some(&b'}') => return Some(at + 2),
                b'{' | b'[' | b'(' => depth += 1,
                b'}' | b']' | b')' => depth = depth.saturating_sub(1),
                _ => {}
            },
        }
        at += 1;
    }
    None
}

fn end_of_raw(source: &str, mut at: usize) -> Option<usize> {
    while let Some(found) = source[at..].find("{%") {
        let start = at + found;
        let end = start + source[start..].find("%}")? + 2;
        if (Segment { kind: Kind::Block, range: start..end }).keyword(source) == "endraw" {
            return Some(end);
        }
        at = start + 2;
    }
    None
}

/// What a word inside a tag is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WordKind {
    Name,
    Text,
    Number,
    Sign,
}

/// A word inside a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub kind: WordKind,
    pub text: &'a str,
    /// Bytes of the source.
    pub range: Range<usize>,
}

impl Word<'_> {
    pub fn is_sign(&self, sign: &str) -> bool {
        self.kind == WordKind::Sign && self.text == sign
    }

    pub fn is_name(&self, name: &str) -> bool {
        self.kind == WordKind::Name && self.text == name
    }
}

/// The words of `source[range]`, the inside of a tag.
pub(super) fn words(source: &str, range: Range<usize>) -> Vec<Word<'_>> {
    let bytes = source.as_bytes();
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let start = at;
        let byte = bytes[at];
        let kind = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'"' | b'\'' => {
                at += 1;
                while at < range.end && bytes[at] != byte {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(range.end);
                WordKind::Text
            }
            b'0'..=b'9' => {
                while at < range.end && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                    at += 1;
                }
                WordKind::Number
            }
            _ if byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 => {
                while at < range.end && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' || bytes[at] >= 0x80) {
                    at += 1;
                }
                WordKind::Name
            }
            _ => {
                at += 1;
                WordKind::Sign
            }
        };
        while !source.is_char_boundary(at) {
            at += 1;
        }
        out.push(Word { kind, text: &source[start..at], range: start..at });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(source: &str) -> Vec<(Kind, &str)> {
        segments(source).into_iter().map(|segment| (segment.kind, &source[segment.range])).collect()
    }

    #[test]
    fn tags_end_where_they_end_and_not_inside_a_string_or_a_brace() {
        use Kind::*;
        assert_eq!(
            cut(r#"a{{ "}}" }}b{% if x == '%}' %}c{# }} #}{{ {"a": {"b": 1}} }}"#),
            [
                (Text, "a"),
                (Expression, r#"{{ "}}" }}"#),
                (Text, "b"),
                (Block, "{% if x == '%}' %}"),
                (Text, "c"),
                (Comment, "{# }} #}"),
                (Expression, r#"{{ {"a": {"b": 1}} }}"#)
            ]
        );
        assert_eq!(cut("{% raw %}{{ x }}{%- endraw -%}y"), [(Raw, "{% raw %}{{ x }}{%- endraw -%}"), (Text, "y")]);
        assert_eq!(cut("{ {{ open"), [(Text, "{ {{ open")]);
    }

    #[test]
    fn a_block_knows_its_keyword() {
        for (source, keyword) in [("{% if x %}", "if"), ("{%- endfor -%}", "endfor"), ("{%+set a=1%}", "set"), ("{%%}", "")] {
            assert_eq!(segments(source)[0].keyword(source), keyword, "{source}");
        }
    }

    #[test]
    fn words_keep_their_places() {
        let source = "{{ contact.city|default('a\\'b') }}";
        let texts: Vec<_> = words(source, 2..source.len() - 2).into_iter().map(|word| word.text).collect();
        assert_eq!(texts, ["contact", ".", "city", "|", "default", "(", "'a\\'b'", ")"]);
    }
}
