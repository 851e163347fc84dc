//! Cells of a file as values of a contact's fields.

use std::collections::HashMap;
use std::sync::Arc;

use super::mapping::Kind;
use crate::config::AttributeType;
use crate::contact::{Date, LIST_MARK};
use crate::db::ColumnData;

/// Different texts remembered, so that a million rows do not look up the same zone a million times.
const REMEMBERED: usize = 4_096;

/// A cell, typed.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Text, and lists with their marks.
    Text(Arc<str>),
    /// A number.
    Number(f64),
    /// Yes or no.
    Boolean(bool),
    /// A date as stored.
    Date(i64),
}

/// Types cells; remembers the zones it has seen.
#[derive(Debug, Default)]
pub struct Cells {
    zones: HashMap<String, Option<Arc<str>>>,
}

impl Cells {
    /// The value of a cell; `None` for an empty one, which leaves what is there. The error is a
    /// reason for the rejects file.
    pub fn parse(&mut self, kind: Kind, text: &str) -> Result<Option<Cell>, String> {
        let text = trim(text);
        if text.is_empty() {
            return Ok(None);
        }
        match kind {
            Kind::Line(characters) => line(text, characters).map(Some),
            Kind::Locale => locale(text)
                .map(|tag| Some(Cell::Text(tag.into())))
                .ok_or_else(|| not(text, "a language such as `en`, `zh-TW` or `zh-Hant`")),
            Kind::Timezone => {
                self.zone(text).map(|zone| Some(Cell::Text(zone))).ok_or_else(|| not(text, "a time zone such as `Asia/Taipei`"))
            }
            Kind::Attribute(AttributeType::Text) => Ok(Some(Cell::Text(unix_lines(text)))),
            Kind::Attribute(AttributeType::Number) => {
                number(text).map(|number| Some(Cell::Number(number))).ok_or_else(|| not(text, "a number such as `1234.5`"))
            }
            Kind::Attribute(AttributeType::Boolean) => {
                boolean(text).map(|flag| Some(Cell::Boolean(flag))).ok_or_else(|| not(text, "`true`, `false`, `yes`, `no`, `1` or `0`"))
            }
            Kind::Attribute(AttributeType::Date) => {
                date(text).map(|date| Some(Cell::Date(date))).ok_or_else(|| not(text, "a date such as `2026-12-01`"))
            }
            Kind::Attribute(AttributeType::List) => Ok(list(text).map(|list| Cell::Text(list.into()))),
        }
    }

    fn zone(&mut self, text: &str) -> Option<Arc<str>> {
        if let Some(known) = self.zones.get(text) {
            return known.clone();
        }
        let zone = jiff::tz::db().get(text).ok().and_then(|zone| zone.iana_name().map(Arc::from));
        if self.zones.len() < REMEMBERED && text.len() <= 64 {
            self.zones.insert(text.to_owned(), zone.clone());
        }
        zone
    }
}

/// An empty column for cells of this kind.
pub fn empty_column(kind: Kind) -> ColumnData {
    match kind {
        Kind::Attribute(AttributeType::Number) => ColumnData::F64(Vec::new()),
        Kind::Attribute(AttributeType::Boolean) => ColumnData::Bool(Vec::new()),
        Kind::Attribute(AttributeType::Date) => ColumnData::I64(Vec::new()),
        _ => ColumnData::Shared(Vec::new()),
    }
}

/// Appends a cell to a column of its kind.
pub fn push(column: &mut ColumnData, cell: Option<Cell>) {
    match (column, cell) {
        (ColumnData::Shared(values), Some(Cell::Text(text))) => values.push(Some(text)),
        (ColumnData::F64(values), Some(Cell::Number(number))) => values.push(Some(number)),
        (ColumnData::Bool(values), Some(Cell::Boolean(flag))) => values.push(Some(flag)),
        (ColumnData::I64(values), Some(Cell::Date(date))) => values.push(Some(date)),
        (ColumnData::Text(values), _) => values.push(None),
        (ColumnData::Shared(values), _) => values.push(None),
        (ColumnData::F64(values), _) => values.push(None),
        (ColumnData::Bool(values), _) => values.push(None),
        (ColumnData::I64(values), _) => values.push(None),
        (ColumnData::Bytes(values), _) => values.push(None),
    }
}

fn not(text: &str, what: &str) -> String {
    const SHOWN: usize = 60;
    let cut: String = text.chars().take(SHOWN).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("`{cut}{more}` is not {what}")
}

fn trim(text: &str) -> &str {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) if first.is_ascii_graphic() && last.is_ascii_graphic() => text,
        _ => text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}')),
    }
}

/// Names and numbers stand in subjects and headers: control characters, line ends among them, become
/// blanks.
fn line(text: &str, characters: usize) -> Result<Cell, String> {
    if text.len() > characters && text.chars().count() > characters {
        return Err(format!("the text is longer than {characters} characters"));
    }
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f || byte == 0xc2 || byte == 0xe2) {
        let blank = |c: char| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c };
        return Ok(Cell::Text(text.chars().map(blank).collect::<String>().into()));
    }
    Ok(Cell::Text(text.into()))
}

/// Line ends as `\n`.
fn unix_lines(text: &str) -> Arc<str> {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

/// Digits with a decimal point, a sign, an exponent. Not `inf`, `nan`, `1,000` or `0x1`: what these
/// mean differs from file to file.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    if !plain {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

fn boolean(text: &str) -> Option<bool> {
    const YES: [&str; 6] = ["true", "yes", "y", "t", "1", "是"];
    const NO: [&str; 6] = ["false", "no", "n", "f", "0", "否"];
    let is = |words: [&str; 6]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is(YES) { Some(true) } else { is(NO).then_some(false) }
}

fn date(text: &str) -> Option<i64> {
    if let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] | [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T' | b' ', ..] = text.as_bytes() {
        let digits = [y1, y2, y3, y4, m1, m2, d1, d2];
        if digits.iter().all(|digit| digit.is_ascii_digit()) {
            let number = digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(**digit - b'0'));
            return Date::from_number(number).filter(|_| number >= 10_000).map(Date::number);
        }
    }
    Date::parse(text).map(Date::number)
}

/// Values separated by `;`, stored with a mark around each. `None` where nothing is left.
fn list(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(LIST_MARK);
    for value in text.split(';').map(str::trim).filter(|value| !value.is_empty()) {
        out.extend(value.chars().filter(|c| *c != LIST_MARK));
        out.push(LIST_MARK);
    }
    (out.len() > 1).then_some(out)
}

/// A language tag in its usual spelling: `zh_tw.UTF-8` becomes `zh-TW`, `ZH-hant` becomes `zh-Hant`
/// (BCP 47, 2.1.1).
pub fn locale(text: &str) -> Option<String> {
    let text = text.split(['.', '@']).next()?;
    let mut out = String::with_capacity(text.len());
    for (index, part) in text.split(['-', '_']).enumerate() {
        let letters = part.bytes().all(|byte| byte.is_ascii_alphabetic());
        let fits = if index == 0 { letters && (2..=3).contains(&part.len()) } else { (1..=8).contains(&part.len()) };
        if !fits || !part.bytes().all(|byte| byte.is_ascii_alphanumeric()) || index > 5 {
            return None;
        }
        if index > 0 {
            out.push('-');
        }
        match part.len() {
            2 if index > 0 => out.push_str(&part.to_ascii_uppercase()),
            4 if letters && index > 0 => {
                out.push_str(&part[..1].to_ascii_uppercase());
                out.push_str(&part[1..].to_ascii_lowercase());
            }
            _ => out.push_str(&part.to_ascii_lowercase()),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: Kind, text: &str) -> Result<Option<Cell>, String> {
        Cells::default().parse(kind, text)
    }

    fn attribute(kind: AttributeType, text: &str) -> Result<Option<Cell>, String> {
        parse(Kind::Attribute(kind), text)
    }

    fn text(value: &str) -> Result<Option<Cell>, String> {
        Ok(Some(Cell::Text(value.into())))
    }

    #[test]
    fn cells_become_values_of_the_declared_type() {
        use AttributeType::*;
        assert_eq!(attribute(Number, " 12.5 "), Ok(Some(Cell::Number(12.5))));
        assert_eq!(attribute(Number, "-1e3"), Ok(Some(Cell::Number(-1000.0))));
        assert_eq!(attribute(Boolean, "Yes"), Ok(Some(Cell::Boolean(true))));
        assert_eq!(attribute(Boolean, "否"), Ok(Some(Cell::Boolean(false))));
        for date in ["2026-12-01", "2026/12/01", "2026-12-01T09:00:00+08:00", "2026-12-01 09:00"] {
            assert_eq!(attribute(Date, date), Ok(Some(Cell::Date(20_261_201))), "{date}");
        }
        assert_eq!(attribute(List, " oolong; green ;;"), text("\u{1f}oolong\u{1f}green\u{1f}"));
        assert_eq!(attribute(List, "a\u{1f}b"), text("\u{1f}ab\u{1f}"));
        assert_eq!(attribute(List, ";"), Ok(None));
        assert_eq!(attribute(Text, "=cmd|' /C calc'!A0"), text("=cmd|' /C calc'!A0"));
        assert_eq!(attribute(Text, "1 Leaf St\r\nTaipei"), text("1 Leaf St\nTaipei"));
        assert_eq!(attribute(Text, " \u{200b}"), Ok(None));
    }

    #[test]
    fn a_cell_of_another_type_says_so() {
        use AttributeType::*;
        assert_eq!(attribute(Number, "abc"), Err("`abc` is not a number such as `1234.5`".to_owned()));
        for wrong in ["1,000", "nan", "inf", "1e999", "0x10", "１"] {
            assert!(attribute(Number, wrong).is_err(), "{wrong}");
        }
        for wrong in ["2026-02-30", "01.12.2026", "2026-13-01", "0000-01-01", "tomorrow"] {
            assert!(attribute(Date, wrong).is_err(), "{wrong}");
        }
        assert!(attribute(Boolean, "maybe").is_err());
        assert!(attribute(Number, &"x".repeat(1_000)).is_err_and(|reason| reason.len() < 150));
    }

    #[test]
    fn names_are_one_line() {
        assert_eq!(parse(Kind::Line(9), "Joe\r\nBcc:"), text("Joe  Bcc:"));
        assert_eq!(parse(Kind::Line(9), "a\u{85}b\u{2028}c"), text("a b c"));
        assert_eq!(parse(Kind::Line(3), "吴秀兰"), text("吴秀兰"));
        assert!(parse(Kind::Line(3), "abcd").is_err());
    }

    #[test]
    fn languages_get_their_usual_spelling_and_zones_must_exist() {
        for (given, expected) in
            [("zh_CN", "zh-CN"), ("ZH-hant-tw", "zh-Hant-TW"), ("de_DE.UTF-8", "de-DE"), ("en", "en"), ("es-419", "es-419")]
        {
            assert_eq!(parse(Kind::Locale, given), text(expected));
        }
        for wrong in ["english", "e", "zh CN", "中文", "en--US"] {
            assert!(parse(Kind::Locale, wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse(Kind::Timezone, "asia/taipei"), text("Asia/Taipei"));
        assert!(parse(Kind::Timezone, "Asia/Atlantis").is_err());
    }
}
