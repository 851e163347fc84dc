//! The file of rejected rows.

use std::io::{self, Write};

use crate::contact::csv::write_row;

/// How many rejected rows a result shows.
const EXAMPLES: usize = 20;

/// A row that was not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Its line in the file, from 1.
    pub line: u64,
    /// The header of the column that is wrong, several with commas; empty where the whole row is.
    pub column: String,
    /// Why.
    pub reason: String,
    /// The row as it stands in the file (the start of a long one).
    pub row: String,
}

impl std::fmt::Display for Reject {
    /// `line 4, email: what is wrong`; without a column where the whole row is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Reject { line, column, reason, .. } = self;
        let joint = if column.is_empty() { "" } else { ", " };
        write!(f, "line {line}{joint}{column}: {reason}")
    }
}

/// Writes rejected rows as CSV with the columns `line`, `column`, `reason`, `row`; keeps the first ones.
pub struct Rejects {
    out: Option<Box<dyn Write + Send>>,
    examples: Vec<Reject>,
    started: bool,
}

impl Rejects {
    /// Rows go to `out`; without it, only the first ones are kept.
    pub fn new(out: Option<Box<dyn Write + Send>>) -> Self {
        Rejects { out, examples: Vec::new(), started: false }
    }

    /// Adds one.
    pub fn add(&mut self, reject: Reject) -> io::Result<()> {
        if let Some(out) = &mut self.out {
            if !self.started {
                write_row(out, ["line", "column", "reason", "row"])?;
                self.started = true;
            }
            write_row(out, [&reject.line.to_string(), reject.column.as_str(), &reject.reason, &reject.row])?;
        }
        if self.examples.len() < EXAMPLES {
            self.examples.push(reject);
        }
        Ok(())
    }

    /// Ends the file; answers its first entries.
    pub fn finish(mut self) -> io::Result<Vec<Reject>> {
        if let Some(out) = &mut self.out {
            out.flush()?;
        }
        Ok(self.examples)
    }
}
