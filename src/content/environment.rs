//! The sandbox marketers' templates run in: no files, no other templates, bounded work, and output
//! that is always escaped for where it goes.

use std::fmt::Write as _;

use minijinja::value::{Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::context;

/// Work one part of one mail may cost: steps, and one for every 64 bytes written or copied. A long
/// newsletter takes about 3,000; this allows some 16 MB of copying and ends within milliseconds.
const FUEL: u64 = 250_000;
/// Nesting of macros and of recursive loops.
const RECURSION_LIMIT: usize = 50;
/// Longest pattern of the `date` filter, in bytes.
const MAX_DATE_PATTERN_BYTES: usize = 200;

/// Name of the template of the HTML part; its ending switches escaping on.
pub(super) const HTML: &str = "body.html";
/// Name of the template of the text part.
pub(super) const TEXT: &str = "body.txt";
/// Name of the template of the subject line.
pub(super) const SUBJECT: &str = "subject.txt";
/// Name of the template of the preheader.
pub(super) const PREHEADER: &str = "preheader.txt";

/// A fresh sandbox.
pub(super) fn sandbox() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    // Makes errors say which field was undefined; costs nothing until there is an error.
    environment.set_debug(true);
    environment.set_auto_escape_callback(|name| if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None });
    environment.set_formatter(write_value);
    // `indent` and `format` make any length from a short number; `safe` switches escaping off;
    // `debug` would print the whole context.
    for name in ["indent", "format", "safe", "pprint", "tojson"] {
        environment.remove_filter(name);
    }
    environment.remove_global("debug");
    environment.add_filter("escape", |value: Value| value);
    environment.add_filter("e", |value: Value| value);
    environment.add_filter("default", default_filter);
    environment.add_filter("d", default_filter);
    environment.add_filter("date", date_filter);
    environment.add_test("defined", |value: &Value| !context::is_nothing(value) || value.is_none());
    environment.add_test("undefined", |value: &Value| context::is_nothing(value) && !value.is_none());
    environment.add_filter("urlencode", |value: &Value| percent_encode(&value.to_string()));
    environment.add_filter(URL_PART_FILTER, |value: &Value| Value::from_safe_string(percent_encode(&value.to_string())));
    environment.add_filter(WHOLE_URL_FILTER, |value: &Value| Value::from_safe_string(without_blanks(&value.to_string())));
    environment
}

/// Filter that this room puts around a field inside an address.
pub(super) const URL_PART_FILTER: &str = "optin_url_part";
/// Filter that this room puts around a field an address begins with.
pub(super) const WHOLE_URL_FILTER: &str = "optin_url";

/// Prints a value where it stands. minijinja's own escaper writes `/` as `&#x2f;`, which makes
/// every address in a mail unreadable for the machines that check them.
fn write_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if context::is_nothing(value) {
        return Ok(());
    }
    if value.is_safe()
        && let Some(text) = value.as_str()
    {
        return out.write_str(text).map_err(Error::from);
    }
    let escape = matches!(state.auto_escape(), AutoEscape::Html);
    if value.kind() == ValueKind::Bool {
        // As the configuration and the segment language write it, not as Python does.
        return out.write_str(if value.is_true() { "true" } else { "false" }).map_err(Error::from);
    }
    match value.as_str() {
        Some(text) => write_text(out, text, escape),
        None => write_text(out, &value.to_string(), escape),
    }
    .map_err(Error::from)
}

fn write_text(out: &mut Output<'_>, text: &str, escape: bool) -> std::fmt::Result {
    let mut done = 0;
    for (at, byte) in text.bytes().enumerate() {
        let replacement = match byte {
            b'&' if escape => "&amp;",
            b'<' if escape => "&lt;",
            b'>' if escape => "&gt;",
            b'"' if escape => "&quot;",
            b'\'' if escape => "&#39;",
            b'\n' | b'\t' | 0x20.. => continue,
            _ => "",
        };
        out.write_str(&text[done..at])?;
        out.write_str(replacement)?;
        done = at + 1;
    }
    out.write_str(&text[done..])
}

/// HTML-escapes a text.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

/// Like Jinja's, and also replaces an empty text: a name that is there but empty greets nobody.
fn default_filter(value: &Value, other: Rest<Value>) -> Value {
    let empty = context::is_nothing(value) || value.as_str().is_some_and(|text| text.trim().is_empty());
    let lax = other.get(1).is_some_and(Value::is_true) && !value.is_true();
    if empty || lax { other.first().cloned().unwrap_or_else(|| Value::from("")) } else { value.clone() }
}

/// `{{ contact.birthday | date("%d %B") }}`: strftime. Nothing for a date that is not set.
fn date_filter(value: &Value, pattern: Option<&str>) -> Result<String, Error> {
    let pattern = pattern.unwrap_or("%Y-%m-%d");
    if context::is_nothing(value) || value.as_str() == Some("") {
        return Ok(String::new());
    }
    if pattern.len() > MAX_DATE_PATTERN_BYTES {
        return Err(Error::new(ErrorKind::InvalidOperation, "the pattern of `date` is too long"));
    }
    let broken = context::broken_down_time(value)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("`date` needs a date, and `{value}` is none")))?;
    let mut out = String::new();
    write!(out, "{}", jiff_display(&broken, pattern)?).map_err(Error::from)?;
    Ok(out)
}

fn jiff_display(broken: &jiff::fmt::strtime::BrokenDownTime, pattern: &str) -> Result<String, Error> {
    broken
        .to_string(pattern)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("`date` cannot use the pattern `{pattern}`: {error}")))
}

/// Everything but the unreserved characters of RFC 3986 (section 2.3), so that a value stays within
/// the part of the address it was put in.
pub(super) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn without_blanks(text: &str) -> String {
    text.trim().chars().filter(|character| !character.is_control()).collect()
}
