//! Data to standard output, talk to standard error, and how a command ends.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where a command speaks.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// One JSON document on standard output instead of text.
    pub json: bool,
    /// Colours and progress bars are welcome.
    pub terminal: bool,
}

/// How a command ended without success.
#[derive(Debug)]
pub enum Failure {
    /// Refused, or findings (exit code 1). The text says why and what to do; empty when it was said.
    Refused(String),
    /// Wrong use or a failure (exit code 2).
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

/// What commands answer.
pub type Outcome = Result<(), Failure>;

/// A refusal.
pub fn refused<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(text.into()))
}

impl Out {
    /// For this process.
    pub fn new(json: bool, no_colour: bool) -> Self {
        Out { json, terminal: std::io::stderr().is_terminal() && !no_colour }
    }

    /// A line of data. A reader that went away is no failure.
    pub fn data(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
    }

    /// Data without a line end of ours.
    pub fn raw(self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes);
        let _ = out.flush();
    }

    /// The one JSON document.
    pub fn document(self, value: &impl serde::Serialize) -> Outcome {
        self.data(serde_json::to_string_pretty(value)?);
        Ok(())
    }

    /// Talk, on standard error.
    pub fn say(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// A progress bar of `total` steps; hidden when nobody watches.
    pub fn bar(self, total: u64, what: &str) -> ProgressBar {
        let target = if self.terminal { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template("{prefix:>12} {bar:32} {human_pos}/{human_len} {per_sec} {eta} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Rows under headings, in plain columns.
pub fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(headings.to_vec());
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}
