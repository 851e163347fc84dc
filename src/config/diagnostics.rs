//! Problems with their places, and how they are shown: file, line, column, a caret and a hint.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Place;

/// One mistake in one file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Path as shown to people.
    pub file: PathBuf,
    /// From 1; 0 when the problem is about the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Byte range in the file's text.
    #[serde(skip)]
    pub span: Option<Range<usize>>,
}

/// A file's text, kept for pointing into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Path as shown to people.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
}

/// All texts read, by path.
#[derive(Debug, Clone, Default)]
pub struct Sources(BTreeMap<PathBuf, String>);

impl Sources {
    /// Keeps a text.
    pub fn add(&mut self, file: impl Into<PathBuf>, text: impl Into<String>) {
        self.0.insert(file.into(), text.into());
    }

    /// The text of a file read before.
    pub fn text(&self, file: &Path) -> Option<&str> {
        self.0.get(file).map(String::as_str)
    }

    /// A problem at a place.
    pub fn problem(&self, place: Option<&Place>, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        match place {
            Some(place) => self.problem_at(&place.file, place.span.clone(), message, hint),
            None => Problem { file: PathBuf::new(), line: 0, column: 0, message: message.into(), hint: hint.into(), span: None },
        }
    }

    /// A problem at a byte range of a file.
    pub fn problem_at(&self, file: &Path, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        let (line, column) = self.text(file).map_or((0, 0), |text| line_and_column(text, span.start));
        Problem { file: file.to_owned(), line, column, message: message.into(), hint: hint.into(), span: Some(span) }
    }
}

/// Line and column (both from 1; the column in characters) of a byte offset.
pub fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[start..].chars().count() + 1)
}

/// Byte range of a line (from 1), without its line end.
pub fn line_span(text: &str, line: usize) -> Range<usize> {
    let start = text.match_indices('\n').map(|(at, _)| at + 1).nth(line.wrapping_sub(2)).unwrap_or(0);
    let start = if line <= 1 { 0 } else { start };
    let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    start..end
}

/// All problems found, with the texts they point into.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    /// In the order of files and lines.
    pub list: Vec<Problem>,
    /// The texts.
    pub sources: Sources,
}

impl Problems {
    /// Sorted by file and line, without doubles.
    pub fn new(mut list: Vec<Problem>, sources: Sources) -> Self {
        list.sort_by(|a, b| (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message)));
        list.dedup();
        Problems { list, sources }
    }

    /// Every problem as a person reads it.
    pub fn render(&self, colour: bool) -> String {
        use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for problem in &self.list {
            let title = Level::ERROR.primary_title(problem.message.as_str());
            let text = self.sources.text(&problem.file).map(masked);
            let text = text.as_deref();
            let path = problem.file.display().to_string();
            let mut group = match (&problem.span, text) {
                (Some(span), Some(text)) => {
                    let span = clamp(span, text);
                    Group::with_title(title).element(
                        Snippet::source(text).line_start(1).path(path.as_str()).fold(true).annotation(AnnotationKind::Primary.span(span)),
                    )
                }
                _ if path.is_empty() => Group::with_title(title),
                _ => Group::with_title(title).element(annotate_snippets::Origin::path(path.as_str())),
            };
            if !problem.hint.is_empty() {
                group = group.element(Level::HELP.with_name("hint").message(problem.hint.as_str()));
            }
            let _ = writeln!(out, "{}\n", renderer.render(&[group]));
        }
        out
    }
}

/// The text with the passwords of its URLs and its secrets starred out, byte for byte, so that a
/// problem beside one does not carry it into a log.
fn masked(text: &str) -> String {
    let star = |part: &str| "*".repeat(part.len());
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let key = line.split('=').next().unwrap_or("").trim();
        let quoted = line.find('"').zip(line.rfind('"')).filter(|(start, end)| start < end);
        match (key, quoted) {
            ("secret" | "retired_secrets", Some((start, end))) => {
                out.extend([&line[..=start], &star(&line[start + 1..end]), &line[end..]]);
            }
            _ => match password(line) {
                Some(range) => out.extend([&line[..range.start], &star(&line[range.clone()]), &line[range.end..]]),
                None => out.push_str(line),
            },
        }
    }
    out
}

/// `smtp://user:PASSWORD@host`
fn password(line: &str) -> Option<Range<usize>> {
    let start = line.find("://")? + 3;
    let rest = &line[start..];
    let rest = &rest[..rest.find(['"', '\'', ' ', '/']).unwrap_or(rest.len())];
    let end = rest.rfind('@')?;
    let colon = rest[..end].find(':')?;
    Some(start + colon + 1..start + end)
}

fn clamp(span: &Range<usize>, text: &str) -> Range<usize> {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

/// The candidate that looks most like `word`, if one is close enough to be meant.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Damerau-Levenshtein distance with adjacent transpositions (optimal string alignment).
fn edit_distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let cost = usize::from(left[i - 1] != right[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        assert_eq!(did_you_mean("subjcet", ["subject", "schedule"]), Some("subject"));
        assert_eq!(did_you_mean("colour", ["subject", "schedule"]), None);
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(line_and_column("a\n茶葉x", "a\n茶葉".len()), (2, 3));
    }

    #[test]
    fn secrets_and_passwords_are_starred_out_and_nothing_moves() {
        let text = "secret = \"geheim\"\nurl = \"smtp://mei:geheim@h\" # https://tea.example/@mei\n茶 = \"a@b\"\n";
        let shown = masked(text);
        assert_eq!(shown, text.replace("geheim", "******"));
        assert_eq!(shown.len(), text.len());
    }

    #[test]
    fn lines_are_found() {
        assert_eq!(line_span("ab\ncd\nef", 1), 0..2);
        assert_eq!(line_span("ab\ncd\nef", 2), 3..5);
        assert_eq!(line_span("ab\ncd\nef", 3), 6..8);
    }
}
