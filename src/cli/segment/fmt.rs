//! `optin segment fmt`

use std::ops::Range;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::super::Context;
use super::super::out::{Failure, Outcome, counted, refused};
use crate::config::Config;
use crate::segment::{self, Catalog};

/// Where segments stand.
const FILE: &str = "segments.toml";

/// Rules in one layout.
#[derive(Debug, clap::Args)]
pub(super) struct Fmt {
    /// Names of segments, or expressions; without any, every segment of segments.toml.
    #[arg(value_name = "NAME_OR_EXPRESSION")]
    rules: Vec<String>,
    /// Print nothing but the names of those that are not formatted; exit code 1 where there are any.
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Write the rules back into segments.toml. Everything else in it stays as it is, byte for byte.
    #[arg(long)]
    write: bool,
}

/// A rule and its layout.
struct Rule {
    /// The segment; `None` for an expression.
    name: Option<String>,
    formatted: String,
    /// It is written otherwise.
    differs: bool,
    /// The bytes between its quotes in [`FILE`].
    inside: Option<Range<usize>>,
}

impl Fmt {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let config = context.config()?;
        let rules = self.rules(context, &config)?;
        if self.write {
            return write(context, &config, &rules);
        }
        let differing: Vec<&str> =
            rules.iter().filter(|rule| rule.differs).map(|rule| rule.name.as_deref().unwrap_or("expression")).collect();
        if context.out.json {
            context.out.document(&json!({ "rules": rules.iter().map(entry).collect::<Vec<_>>() }))?;
        } else if self.check {
            differing.iter().for_each(|name| context.out.data(name));
        } else {
            rules.iter().for_each(|rule| context.out.data(shown(rule, rules.len() > 1)));
        }
        if self.check && !differing.is_empty() {
            let count = counted(differing.len() as i64, "rule");
            let are = if differing.len() == 1 { "is" } else { "are" };
            let hint =
                if rules.iter().any(|rule| rule.name.is_some()) { "\nhint: `optin segment fmt --write` formats segments.toml" } else { "" };
            return refused(format!("{count} {are} not formatted: {}{hint}", differing.join(", ")));
        }
        Ok(())
    }

    fn rules(&self, context: &Context, config: &Config) -> Result<Vec<Rule>, Failure> {
        let catalog = Catalog::new(config);
        let names: Vec<&String> = if self.rules.is_empty() { config.segments.keys().collect() } else { self.rules.iter().collect() };
        let mut rules = Vec::new();
        for name in names {
            let segment = config.segments.get(name);
            let source = segment.map_or(name, |segment| &segment.rule.value);
            let formatted = segment::formatted(source, &catalog).map_err(|errors| {
                let message = format!("the expression has {}", counted(errors.len() as i64, "mistake"));
                context.out.problems(&segment::problems("expression", source, &errors), message)
            })?;
            let differs = match segment {
                Some(_) => source.replace("\r\n", "\n") != value(&formatted),
                None => *source != formatted,
            };
            if self.write && segment.is_none() {
                return Err(Failure::Failed(anyhow::anyhow!(
                    "`--write` rewrites {FILE}, and `{name}` is no segment of it\nhint: leave out `--write` to see the expression formatted"
                )));
            }
            let inside = segment.and_then(|segment| segment.rule.place.as_ref()).map(|place| place.span.clone());
            rules.push(Rule { name: segment.map(|_| name.clone()), formatted, differs, inside });
        }
        Ok(rules)
    }
}

fn entry(rule: &Rule) -> serde_json::Value {
    json!({ "segment": rule.name, "where": rule.formatted, "changed": rule.differs })
}

/// The rule for people: as in the file where there are several, else alone.
fn shown(rule: &Rule, several: bool) -> String {
    match &rule.name {
        Some(name) if several => format!("[{name}]\nwhere = {}\n", token(&rule.formatted, "\n")),
        _ => rule.formatted.clone(),
    }
}

/// The text that a formatted rule is in the file: one of several lines ends with a line end.
fn value(formatted: &str) -> String {
    if formatted.contains('\n') { format!("{formatted}\n") } else { formatted.to_owned() }
}

/// The rule as TOML, on one line or in triple quotes.
fn token(formatted: &str, line_end: &str) -> String {
    let escaped = formatted.replace('\\', "\\\\");
    if !formatted.contains('\n') {
        return format!("\"{}\"", escaped.replace('"', "\\\""));
    }
    // Two quotes in a row are text in triple quotes, three are not.
    let escaped = escaped.replace("\"\"\"", "\"\"\\\"");
    format!("\"\"\"\n{escaped}\n\"\"\"").replace('\n', line_end)
}

fn write(context: &Context, config: &Config, rules: &[Rule]) -> Outcome {
    let path = config.dir.join(FILE);
    let differing: Vec<&Rule> = rules.iter().filter(|rule| rule.differs).collect();
    if !differing.is_empty() {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let changed = rewritten(&text, &differing).ok_or_else(|| {
            let hint = "write its rules as `where = \"..\"` below `[NAME]`, one table a segment";
            anyhow::anyhow!("`{}` cannot be rewritten without touching other parts of it\nhint: {hint}", path.display())
        })?;
        replace(&path, &changed).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    if context.out.json {
        let list: Vec<_> = rules.iter().map(entry).collect();
        return context.out.document(&json!({ "file": path, "rules": list }));
    }
    for rule in &differing {
        context.out.data(rule.name.as_deref().unwrap_or_default());
    }
    context.out.say(format!("{} of {} rewritten in {}", differing.len(), counted(rules.len() as i64, "rule"), path.display()));
    Ok(())
}

/// The file with these rules formatted. `None` where it would not then say what is meant: that is tried before
/// anything is written.
fn rewritten(text: &str, rules: &[&Rule]) -> Option<String> {
    let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for rule in rules {
        edits.push((quoted(text, rule.inside.clone()?)?, token(&rule.formatted, line_end)));
    }
    edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut changed = text.to_owned();
    for (span, token) in edits {
        changed.replace_range(span, &token);
    }
    let table: toml::Table = changed.parse().ok()?;
    let said = |rule: &&Rule| {
        let found = table.get(rule.name.as_deref()?)?.get("where")?.as_str()?;
        (found.replace("\r\n", "\n") == value(&rule.formatted)).then_some(())
    };
    rules.iter().all(|rule| said(rule).is_some()).then_some(changed)
}

/// The string with its quotes, from what is between them (and behind the line end that TOML drops).
fn quoted(text: &str, inside: Range<usize>) -> Option<Range<usize>> {
    let (before, behind) = (text.get(..inside.start)?, text.get(inside.end..)?);
    ["\"\"\"\n", "\"\"\"\r\n", "'''\n", "'''\r\n", "\"\"\"", "'''", "\"", "'"].iter().find_map(|open| {
        let close = open.trim_end();
        (before.ends_with(open) && behind.starts_with(close)).then(|| inside.start - open.len()..inside.end + close.len())
    })
}

/// Puts a whole new file in the place of the old one, so that there is never half of it.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let target = path.canonicalize()?;
    let unfinished = target.with_extension("toml.new");
    std::fs::write(&unfinished, text)?;
    std::fs::set_permissions(&unfinished, std::fs::metadata(&target)?.permissions())?;
    std::fs::rename(&unfinished, &target)
}
