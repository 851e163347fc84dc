//! Markdown bodies. The tags of the template keep out of the way: a line that holds only blocks
//! (`{% for .. %}`) makes no paragraph, may stand between the items of a list or the rows of a
//! table, and a paragraph that is one `{% if %} .. {% endif %}` vanishes whole where it is false.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::template::Kind;
use super::vault::{Piece, Vault};

/// Converts a body. A paragraph that is only a bold link (`**[Order now](https://..)**`) becomes a
/// button.
pub(super) fn to_html(source: &str, vault: &mut Vault) -> String {
    let first = vault.len();
    let text = vault.protect(source, |vault, piece| match piece {
        Piece::Text(text) => text.to_owned(),
        Piece::Tag { index, .. } => vault.word(index),
    });
    let tags = first..vault.len();
    let (text, structural) = place_block_lines(&text, vault, tags.start);
    let events: Vec<Event<'_>> = Parser::new_ext(&text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH).collect();
    let mut html = String::with_capacity(text.len() * 2);
    pulldown_cmark::html::push_html(&mut html, with_buttons(events).into_iter());
    for index in structural {
        html = lift(&html, &vault.word(index));
    }
    let html = unescape_comments(html, vault, tags.clone());
    lift_conditions(html, vault, tags)
}

/// What the lines inside a block are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Items,
    Rows,
    Other,
}

/// Rewrites the lines that hold only block tags. Answers the text, and the tags that were made
/// items or rows of their own.
fn place_block_lines(text: &str, vault: &Vault, first: usize) -> (String, Vec<usize>) {
    let lines: Vec<&str> = text.split('\n').collect();
    let alone: Vec<Vec<usize>> = lines.iter().map(|line| blocks_alone(line, vault)).collect();
    let mut structural = Vec::new();
    let mut out = Vec::with_capacity(lines.len());
    for (number, line) in lines.iter().enumerate() {
        if alone[number].is_empty() {
            out.push((*line).to_owned());
            continue;
        }
        let indent = &line[..line.len() - line.trim_start_matches([' ', '\t', '>']).len()];
        let inside = alone[number]
            .iter()
            .map(|index| inside_of(*index, vault, first, &lines, &alone))
            .reduce(|a, b| if a == b { a } else { Inside::Other });
        match inside {
            Some(Inside::Items) => {
                let marker = nearest_item(number, &lines, &alone).unwrap_or("-");
                for index in &alone[number] {
                    structural.push(*index);
                    out.push(format!("{marker} {}", vault.word(*index)));
                }
            }
            Some(Inside::Rows) => {
                for index in &alone[number] {
                    structural.push(*index);
                    out.push(format!("{indent}| {} |", vault.word(*index)));
                }
            }
            _ => {
                let words: String = alone[number].iter().map(|index| format!("<!--{}-->", vault.word(*index))).collect();
                out.push(format!("{indent}{words}"));
            }
        }
    }
    (out.join("\n"), structural)
}

/// The block tags of a line that holds nothing else.
fn blocks_alone(line: &str, vault: &Vault) -> Vec<usize> {
    let mut out = Vec::new();
    for piece in vault.pieces(line.trim_start_matches([' ', '\t', '>'])) {
        match piece {
            Piece::Tag { index, .. } if vault.item(index).kind == Kind::Block => out.push(index),
            Piece::Text(text) if text.trim().is_empty() => {}
            _ => return Vec::new(),
        }
    }
    out
}

/// What stands between the first and the last tag of the group that tag `index` belongs to.
fn inside_of(index: usize, vault: &Vault, first: usize, lines: &[&str], alone: &[Vec<usize>]) -> Inside {
    let Some(group) = vault.item(index).group else { return Inside::Other };
    let members: Vec<usize> = (first..vault.len()).filter(|other| vault.item(*other).group == Some(group)).collect();
    let line_of = |index: &usize| alone.iter().position(|tags| tags.contains(index));
    let places: Option<Vec<usize>> = members.iter().map(line_of).collect();
    let Some((start, end)) = places.and_then(|places| Some((*places.first()?, *places.last()?))) else { return Inside::Other };
    let content: Vec<&str> = (start..end)
        .filter(|number| alone[*number].is_empty())
        .map(|number| lines[number])
        .filter(|line| !line.trim().is_empty())
        .collect();
    let is_row = |line: &str| line.trim_start().starts_with('|');
    let is_delimiter = |line: &str| is_row(line) && line.contains('-') && line.chars().all(|c| matches!(c, '|' | '-' | ':' | ' ' | '\t'));
    if content.is_empty() {
        Inside::Other
    } else if content.iter().all(|line| is_row(line)) && !content.iter().any(|line| is_delimiter(line)) {
        Inside::Rows
    } else if item_marker(content[0]).is_some() && content.iter().all(|line| item_marker(line).is_some() || line.starts_with("  ")) {
        Inside::Items
    } else {
        Inside::Other
    }
}

/// The indent and marker of a list item: `  -`, `1.`
fn item_marker(line: &str) -> Option<&str> {
    let trimmed = line.trim_start_matches([' ', '\t', '>']);
    let indent = line.len() - trimmed.len();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let marker = if digits > 0 && digits < 10 && matches!(trimmed.as_bytes().get(digits), Some(b'.' | b')')) {
        digits + 1
    } else if trimmed.starts_with(['-', '*', '+']) {
        1
    } else {
        return None;
    };
    trimmed[marker..].starts_with([' ', '\t']).then(|| &line[..indent + marker])
}

fn nearest_item<'a>(number: usize, lines: &[&'a str], alone: &[Vec<usize>]) -> Option<&'a str> {
    let plain = |at: &usize| alone[*at].is_empty();
    let after = (number..lines.len()).filter(plain).find_map(|at| item_marker(lines[at]));
    let before = (0..number).rev().filter(plain).find_map(|at| item_marker(lines[at]));
    let opens = (number + 1 < lines.len()).then(|| item_marker(lines[number + 1])).flatten();
    opens.or(before).or(after)
}

/// A tag that was made an item or a row of its own takes the place of that item or row.
fn lift(html: &str, word: &str) -> String {
    let Some(at) = html.find(word) else { return html.to_owned() };
    for (open, close) in [("<li>", "</li>"), ("<tr>", "</tr>")] {
        let Some(start) = html[..at].rfind(open) else { continue };
        let Some(end) = html[at..].find(close).map(|end| at + end + close.len()) else { continue };
        let inside: String = without_markup(&html[start..end]);
        if inside.trim() == word {
            return format!("{}<!--{word}-->{}", &html[..start], &html[end..]);
        }
    }
    html.to_owned()
}

fn without_markup(html: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for character in html.chars() {
        match character {
            '<' => inside = true,
            '>' => inside = false,
            _ if !inside => out.push(character),
            _ => {}
        }
    }
    out
}

/// In a code block a comment is text; there the tag stands by itself.
fn unescape_comments(mut html: String, vault: &Vault, tags: std::ops::Range<usize>) -> String {
    if html.contains("&lt;!--") {
        for index in tags {
            let word = vault.word(index);
            html = html.replace(&format!("&lt;!--{word}--&gt;"), &word);
        }
    }
    html
}

/// `<p>{% if x %}..{% endif %}</p>` would leave an empty paragraph where x is false, and so would a
/// paragraph that only defines a macro.
fn lift_conditions(html: String, vault: &Vault, tags: std::ops::Range<usize>) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html.as_str();
    while let Some(start) = rest.find("<p>") {
        let Some(end) = rest[start..].find("</p>").map(|end| start + end) else { break };
        let inside = &rest[start + 3..end];
        out.push_str(&rest[..start]);
        match whole_block(inside, vault, tags.clone()) {
            Some(("if", open, close)) => {
                let body = &inside[open.len()..inside.len() - close.len()];
                out.push_str(&format!("<!--{open}--><p>{body}</p><!--{close}-->"));
            }
            Some(("macro" | "set", ..)) => out.push_str(inside),
            _ => out.push_str(&rest[start..end + 4]),
        }
        rest = &rest[end + 4..];
    }
    out.push_str(rest);
    out
}

/// Keyword and the words of the first and last tag, where a text is one block without branches.
fn whole_block<'a>(inside: &str, vault: &'a Vault, tags: std::ops::Range<usize>) -> Option<(&'a str, String, String)> {
    let pieces = vault.pieces(inside);
    let (Piece::Tag { index: open, .. }, Piece::Tag { index: close, .. }) = (pieces.first()?, pieces.last()?) else { return None };
    let group = vault.item(*open).group?;
    let members: Vec<usize> = tags.filter(|index| vault.item(*index).group == Some(group)).collect();
    if members != [*open, *close] {
        return None;
    }
    let source = &vault.item(*open).source;
    let keyword = super::template::Segment { kind: Kind::Block, range: 0..source.len() }.keyword(source);
    Some((keyword, vault.word(*open), vault.word(*close)))
}

/// Turns paragraphs of one bold link into buttons.
fn with_buttons(events: Vec<Event<'_>>) -> Vec<Event<'_>> {
    let mut out = Vec::with_capacity(events.len());
    let mut at = 0;
    while at < events.len() {
        if let Some(end) = button_end(&events[at..]) {
            out.push(Event::Html(BUTTON_START.into()));
            let inner = &events[at + 1..at + end];
            out.extend(inner.iter().filter(|event| !matches!(event, Event::Start(Tag::Strong) | Event::End(TagEnd::Strong))).cloned());
            out.push(Event::Html(BUTTON_END.into()));
            at += end + 1;
        } else {
            out.push(events[at].clone());
            at += 1;
        }
    }
    out
}

/// A button is a table of one cell: Outlook gives padding to nothing else.
const BUTTON_START: &str = "<table role=\"presentation\" class=\"button\" border=\"0\" cellpadding=\"0\" cellspacing=\"0\"><tr><td>";
const BUTTON_END: &str = "</td></tr></table>\n";

/// Where the paragraph that begins `events` ends, if it is only a bold link.
fn button_end(events: &[Event<'_>]) -> Option<usize> {
    let [Event::Start(Tag::Paragraph), first, second, ..] = events else { return None };
    let bold_link = matches!(
        (first, second),
        (Event::Start(Tag::Strong), Event::Start(Tag::Link { .. })) | (Event::Start(Tag::Link { .. }), Event::Start(Tag::Strong))
    );
    let end = events.iter().position(|event| matches!(event, Event::End(TagEnd::Paragraph)))?;
    let closes = |event: &Event<'_>| matches!(event, Event::End(TagEnd::Strong | TagEnd::Link));
    let links = events[..end].iter().filter(|event| matches!(event, Event::Start(Tag::Link { .. }))).count();
    let strongs = events[..end].iter().filter(|event| matches!(event, Event::Start(Tag::Strong))).count();
    (bold_link && links == 1 && strongs == 1 && closes(&events[end - 1]) && closes(&events[end - 2])).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::super::vault::Target;
    use super::*;

    fn html(source: &str) -> String {
        let mut vault = Vault::new(&[source]);
        let html = to_html(source, &mut vault);
        vault.restore(&html, Target::Html).trim().to_owned()
    }

    #[test]
    fn fields_stand_in_text_links_and_emphasis() {
        assert_eq!(
            html("Hi **{{ contact.first_name }}**, [you](https://a.example/?b={{ c | default('x|y') }})"),
            "<p>Hi <strong>{{ contact.first_name }}</strong>, <a href=\"https://a.example/?b={{ c | default('x|y') }}\">you</a></p>"
        );
    }

    #[test]
    fn blocks_on_lines_of_their_own_make_no_paragraphs() {
        assert_eq!(
            html("Hello\n{% if a %}\nyes\n{% else %}\nno\n{% endif %}\nbye"),
            "<p>Hello</p>\n{% if a %}\n<p>yes</p>\n{% else %}\n<p>no</p>\n{% endif %}\n<p>bye</p>"
        );
    }

    #[test]
    fn blocks_between_items_stay_inside_the_list() {
        assert_eq!(
            html("- a\n{% for x in y %}\n- {{ x }}\n{% endfor %}\n- b"),
            "<ul>\n<li>a</li>\n{% for x in y %}\n<li>{{ x }}</li>\n{% endfor %}\n<li>b</li>\n</ul>"
        );
        assert_eq!(html("{% for x in y %}\n1. {{ x }}\n{% endfor %}"), "<ol>\n{% for x in y %}\n<li>{{ x }}</li>\n{% endfor %}\n</ol>");
    }

    #[test]
    fn a_block_around_a_paragraph_and_a_list_stays_outside() {
        assert_eq!(html("{% if a %}\nDear:\n\n- b\n{% endif %}"), "{% if a %}\n<p>Dear:</p>\n<ul>\n<li>b</li>\n</ul>\n{% endif %}");
    }

    #[test]
    fn blocks_between_rows_stay_inside_the_table() {
        let html = html("| a | b |\n|---|---|\n{% for x in y %}\n| {{ x }} | 1 |\n{% endfor %}");
        assert!(html.contains("<tbody>\n{% for x in y %}\n<tr><td>{{ x }}</td><td>1</td></tr>\n{% endfor %}\n</tbody>"), "{html}");
    }

    #[test]
    fn a_condition_that_is_a_whole_paragraph_leaves_nothing_behind() {
        assert_eq!(html("{% if a %}**b**{% endif %}"), "{% if a %}<p><strong>b</strong></p>{% endif %}");
        assert_eq!(html("{% if a %}b{% else %}c{% endif %}"), "<p>{% if a %}b{% else %}c{% endif %}</p>");
        assert_eq!(html("{% macro a() %}b{% endmacro %}\n\nc"), "{% macro a() %}b{% endmacro %}\n<p>c</p>");
    }

    #[test]
    fn code_keeps_its_blocks_as_text() {
        assert_eq!(html("```\n{% if a %}\n<b>\n{% endif %}\n```"), "<pre><code>{% if a %}\n&lt;b&gt;\n{% endif %}\n</code></pre>");
    }

    #[test]
    fn a_bold_link_alone_is_a_button() {
        let html = html("**[Order](https://a.example)**\n\ntext **[Order](https://a.example)**");
        assert_eq!(html.matches("class=\"button\"").count(), 1, "{html}");
        assert!(html.contains("<td><a href=\"https://a.example\">Order</a></td>"), "{html}");
    }

    #[test]
    fn quotes_and_dashes_stay_as_written() {
        assert_eq!(html("\"a\" -- 'b' ~~c~~"), "<p>\"a\" -- 'b' <del>c</del></p>");
    }
}
