//! What can be wrong: with a campaign's content as written, and with one person's mail.

use std::fmt;
use std::ops::Range;

/// The piece of a campaign's content a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The subject line.
    Subject,
    /// The preview text.
    Preheader,
    /// The body file.
    Body,
    /// The marketer's own layout.
    Layout,
    /// One of the parameters that links get, by its place among them.
    Parameter(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Subject => "subject",
            Part::Preheader => "preheader",
            Part::Body => "body",
            Part::Layout => "layout",
            Part::Parameter(_) => "parameter of links",
        })
    }
}

/// One mistake in a campaign's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentProblem {
    /// Where.
    pub part: Part,
    /// Byte range in that part's own source text, where it can be told.
    pub span: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl ContentProblem {
    pub(super) fn new(part: Part, span: impl Into<Option<Range<usize>>>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        ContentProblem { part, span: span.into(), message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for ContentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.message)
    }
}

/// Why the mail of one person could not be written. Says nothing about anybody else's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {part} cannot be written for this person: {message}")]
pub struct RenderError {
    /// Where.
    pub part: Part,
    /// What is wrong, and what to do.
    pub message: String,
}
