//! Data to standard output, talk to standard error, and how a command ends.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::config::Problems;

/// Whether the one JSON document was printed; standard output is one for the whole process as well.
static DOCUMENT_PRINTED: AtomicBool = AtomicBool::new(false);

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
        DOCUMENT_PRINTED.store(false, Ordering::Relaxed);
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
        let text = serde_json::to_string_pretty(value)?;
        if !DOCUMENT_PRINTED.swap(true, Ordering::Relaxed) {
            self.data(text);
        }
        Ok(())
    }

    /// How the command failed: for people on standard error, and as the document where there is none yet.
    pub fn failed(self, text: &str) {
        self.say(text);
        if self.json {
            let text = text.trim_start_matches("error: ");
            let (message, hint) = text.split_once("\nhint: ").map_or((text, None), |(message, hint)| (message, Some(hint)));
            let _ = self.document(&serde_json::json!({ "error": message.replace("\n  because ", ": "), "hint": hint }));
        }
    }

    /// The problems found in what somebody wrote, with the places, and how many they are.
    pub fn problems(self, problems: &Problems, message: String) -> Failure {
        self.say(problems.render(self.terminal).trim_end());
        if self.json {
            let _ = self.document(&serde_json::json!({ "error": message, "hint": null, "problems": problems.list }));
        }
        Failure::Failed(anyhow::Error::msg(message))
    }

    /// Talk, on standard error.
    pub fn say(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// A progress bar of `total` steps (0: not known yet); hidden when nobody watches.
    pub fn bar(self, total: u64, what: &str) -> ProgressBar {
        let target = if self.terminal { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total), target);
        let style = ProgressStyle::with_template("{prefix:>18} {bar:32} {human_pos}/{human_len}, {rate}, {eta} left {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", whole_rate));
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Steps a second, without decimals.
fn whole_rate(state: &ProgressState, text: &mut dyn std::fmt::Write) {
    let _ = write!(text, "{:.0}/s", state.per_sec());
}

/// `1 contact`, `2 contacts`; the number with its noun, which takes an `s`.
pub fn counted(count: impl Into<i128>, noun: &str) -> String {
    let count = count.into();
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A time of the JSON documents as people read it: to the second, in UTC.
pub fn shown(time: &str) -> String {
    time.get(..19).map_or_else(|| time.to_owned(), |seconds| seconds.replace('T', " "))
}

/// Seconds as people say them: `45 s`, `12 min`, `3 h 20 min`.
pub fn duration(seconds: i64) -> String {
    match seconds {
        ..=90 => format!("{seconds} s"),
        91..=5_400 => format!("{} min", (seconds + 59) / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
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
