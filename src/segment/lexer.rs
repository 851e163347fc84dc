//! Cuts a rule into words, values and signs. What people write from habit in other languages
//! (`==`, `&&`, curly or double quotes, full-width signs) is understood and reported with the right
//! form, so that the rest of the rule is still checked.

use std::ops::Range;

use super::SegmentError;
use super::ast::{Op, Period, Unit};

/// Largest number of units in a duration: 100,000 days are 274 years.
const MAX_PERIOD_AMOUNT: i64 = 100_000;

/// One piece of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// A name or keyword.
    Word,
    Text(String),
    Number(f64),
    Duration(Period),
    /// Millionths.
    Percent(u32),
    Operator(Op),
    Open,
    Close,
    Comma,
    Colon,
    Dot,
    Plus,
    Minus,
    /// `&&` was written; stands for `and`.
    And,
    /// `||` was written; stands for `or`.
    Or,
    /// `!` was written; stands for `not`.
    Not,
    /// A value that could not be read; reported.
    Unreadable,
    End,
}

/// All pieces (the last one is `End`) and the problems met on the way.
pub(super) fn tokens(source: &str) -> (Vec<Token>, Vec<SegmentError>) {
    let mut lexer = Lexer { source, at: 0, tokens: Vec::new(), errors: Vec::new() };
    lexer.run();
    (lexer.tokens, lexer.errors)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    tokens: Vec<Token>,
    errors: Vec<SegmentError>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(next) = self.rest().chars().next() {
            if next.is_whitespace() || next == '\u{feff}' {
                self.at += next.len_utf8();
            } else if next.is_ascii_digit() {
                self.number();
            } else if next.is_alphabetic() || next == '_' {
                self.word();
            } else if next == '\'' {
                self.text();
            } else if let Some(close) = closing_quote(next) {
                self.foreign_text(next, close);
            } else {
                self.sign(next);
            }
        }
        self.push(TokenKind::End, self.at..self.at);
    }

    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: TokenKind, span: Range<usize>) {
        self.at = span.end;
        self.tokens.push(Token { kind, span });
    }

    fn error(&mut self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(SegmentError { span, message: message.into(), hint: hint.into() });
    }

    fn word(&mut self) {
        let length = self.rest().find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(self.rest().len());
        self.push(TokenKind::Word, self.at..self.at + length);
    }

    fn text(&mut self) {
        let start = self.at;
        let mut value = String::new();
        let mut rest = self.source[start + 1..].char_indices().peekable();
        let mut end = None;
        while let Some((offset, c)) = rest.next() {
            if c != '\'' {
                value.push(c);
            } else if rest.next_if(|(_, c)| *c == '\'').is_some() {
                value.push('\'');
            } else {
                end = Some(start + 1 + offset + 1);
                break;
            }
        }
        let Some(end) = end else {
            let line_end = self.rest().find('\n').map_or(self.source.len(), |length| start + length);
            self.error(start..line_end, "this text has no closing quote", "end it with `'`; a quote inside a text is doubled: `'it''s'`");
            self.push(TokenKind::Unreadable, start..self.source.len());
            return;
        };
        self.finish_text(value, start..end);
    }

    fn foreign_text(&mut self, open: char, close: char) {
        let start = self.at;
        let inside = start + open.len_utf8();
        let Some(length) = self.source[inside..].find(close) else {
            self.error(start..inside, format!("texts stand in single quotes, not in `{open}`"), "write `'Taipei'`");
            self.push(TokenKind::Unreadable, start..self.source.len());
            return;
        };
        let value = self.source[inside..inside + length].to_owned();
        let span = start..inside + length + close.len_utf8();
        let written = &self.source[span.clone()];
        let message = format!("texts stand in single quotes, not in `{open}{close}`");
        let hint = format!("write `{}` instead of `{written}`", super::ast::quote(&value));
        self.error(span.clone(), message, hint);
        self.push(TokenKind::Text(value), span);
    }

    fn finish_text(&mut self, value: String, span: Range<usize>) {
        if let Some(control) = value.chars().find(|c| c.is_control()) {
            let message = format!("a text cannot hold the control character U+{:04X}", u32::from(control));
            self.error(span.clone(), message, "remove it; line ends and tabs are control characters too");
        }
        self.push(TokenKind::Text(value), span);
    }

    /// A number, and what is written right behind it: a unit or a percent sign.
    fn number(&mut self) {
        let start = self.at;
        if let Some(length) = bare_date(self.rest()) {
            let span = start..start + length;
            let date = self.source[span.clone()].to_owned();
            self.error(span.clone(), "a date stands in single quotes", format!("write `'{date}'`"));
            self.push(TokenKind::Text(date), span);
            return;
        }
        let digits = number_length(self.rest());
        let end_of_digits = start + digits;
        let behind = &self.source[end_of_digits..];
        let unit_length = behind.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(behind.len());
        let span = start..end_of_digits + unit_length;
        if unit_length > 0 {
            return self.duration(start..end_of_digits, span);
        }
        let value = self.source[span.clone()].parse::<f64>().unwrap_or(f64::INFINITY);
        let spaces = behind.len() - behind.trim_start_matches(' ').len();
        if behind[spaces..].starts_with(['%', '％']) {
            let sign = if behind[spaces..].starts_with('%') { 1 } else { '％'.len_utf8() };
            return self.percent(value, start..end_of_digits + spaces + sign);
        }
        if !value.is_finite() {
            self.error(span.clone(), "this number is too large", "numbers go up to about 1.7e308");
            return self.push(TokenKind::Unreadable, span);
        }
        self.push(TokenKind::Number(value), span);
    }

    fn duration(&mut self, number: Range<usize>, span: Range<usize>) {
        let written = self.source[number.clone()].to_owned();
        let suffix = self.source[number.end..span.end].to_owned();
        let unit = match suffix.to_ascii_lowercase().as_str() {
            "h" => Some(Unit::Hour),
            "d" => Some(Unit::Day),
            "w" => Some(Unit::Week),
            "mo" => Some(Unit::Month),
            "y" => Some(Unit::Year),
            _ => None,
        };
        let Some(unit) = unit else {
            let message = format!("`{written}{suffix}` is neither a number nor a duration");
            self.error(span.clone(), message, unit_hint(&written, &suffix));
            return self.push(TokenKind::Unreadable, span);
        };
        match written.parse::<i64>() {
            Ok(amount) if amount <= MAX_PERIOD_AMOUNT => self.push(TokenKind::Duration(Period { amount, unit }), span),
            Ok(_) => {
                self.error(span.clone(), "this duration is too long", format!("write at most {MAX_PERIOD_AMOUNT} of a unit"));
                self.push(TokenKind::Unreadable, span);
            }
            Err(_) => {
                self.error(span.clone(), "a duration is a whole number of a unit", "write `36h` rather than `1.5d`");
                self.push(TokenKind::Unreadable, span);
            }
        }
    }

    fn percent(&mut self, value: f64, span: Range<usize>) {
        let millionths = value * 10_000.0;
        if !(0.0..=1_000_000.0).contains(&millionths) || (millionths - millionths.round()).abs() > 1e-6 {
            let message = format!("`{}` is no share of the people", &self.source[span.clone()]);
            self.error(span.clone(), message, "write 0% to 100%, with at most four decimals");
            return self.push(TokenKind::Unreadable, span);
        }
        self.push(TokenKind::Percent(millionths.round() as u32), span);
    }

    fn sign(&mut self, next: char) {
        use TokenKind::*;
        // Longest first; the third part is the form to write where it is another one.
        const SIGNS: &[(&str, TokenKind, &str)] = &[
            ("<=", Operator(Op::AtMost), ""),
            (">=", Operator(Op::AtLeast), ""),
            ("!=", Operator(Op::NotEqual), ""),
            ("===", Operator(Op::Equal), "="),
            ("==", Operator(Op::Equal), "="),
            ("<>", Operator(Op::NotEqual), "!="),
            ("=<", Operator(Op::AtMost), "<="),
            ("=>", Operator(Op::AtLeast), ">="),
            ("=!", Operator(Op::NotEqual), "!="),
            ("≤", Operator(Op::AtMost), "<="),
            ("≥", Operator(Op::AtLeast), ">="),
            ("≠", Operator(Op::NotEqual), "!="),
            ("＝", Operator(Op::Equal), "="),
            ("＜", Operator(Op::Less), "<"),
            ("＞", Operator(Op::More), ">"),
            ("&&", And, "and"),
            ("||", Or, "or"),
            ("&", And, "and"),
            ("|", Or, "or"),
            ("!", Not, "not"),
            ("！", Not, "not"),
            ("（", Open, "("),
            ("）", Close, ")"),
            ("，", Comma, ","),
            ("、", Comma, ","),
            ("：", Colon, ":"),
            ("−", Minus, "-"),
            ("–", Minus, "-"),
            ("=", Operator(Op::Equal), ""),
            ("<", Operator(Op::Less), ""),
            (">", Operator(Op::More), ""),
            ("(", Open, ""),
            (")", Close, ""),
            (",", Comma, ""),
            (":", Colon, ""),
            (".", Dot, ""),
            ("+", Plus, ""),
            ("-", Minus, ""),
        ];
        let start = self.at;
        for (sign, kind, instead) in SIGNS {
            if self.rest().starts_with(sign) {
                let span = start..start + sign.len();
                if !instead.is_empty() {
                    self.error(span.clone(), format!("`{sign}` is not used in segments"), format!("write `{instead}`"));
                }
                return self.push(kind.clone(), span);
            }
        }
        let span = start..start + next.len_utf8();
        let shown = if next.is_control() { format!("U+{:04X}", u32::from(next)) } else { next.to_string() };
        let hint = match next {
            '%' => "a percent sign stands behind a number: `random(10%)`",
            ';' => "join conditions with `and` or `or`",
            '[' | ']' | '{' | '}' => "lists and groups stand in parentheses: `city in ('Taipei', 'Tainan')`",
            '#' if self.rest().starts_with("# ") => "rules have no comments: write them above the rule in `segments.toml`",
            '$' | '@' | '#' => "an attribute is written by its name alone: `city = 'Taipei'`",
            _ => "remove it, or put it in a text: `'..'`",
        };
        self.error(span.clone(), format!("`{shown}` has no meaning here"), hint);
        self.push(TokenKind::Unreadable, span);
    }
}

/// The closing partner of a quotation mark that is not ours.
fn closing_quote(open: char) -> Option<char> {
    match open {
        '"' => Some('"'),
        '`' => Some('`'),
        '\u{2018}' | '\u{2019}' => Some('\u{2019}'),
        '\u{201c}' | '\u{201d}' => Some('\u{201d}'),
        '「' => Some('」'),
        '『' => Some('』'),
        '＇' => Some('＇'),
        '＂' => Some('＂'),
        _ => None,
    }
}

/// Length of `2026-12-01` at the start of `text`, written without quotes.
fn bare_date(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let year = digits(0);
    let separator = bytes.get(year).filter(|byte| matches!(byte, b'-' | b'/'))?;
    let month = digits(year + 1);
    let second = year + 1 + month;
    let day = digits(second + 1);
    let fits = year == 4 && (1..=2).contains(&month) && bytes.get(second) == Some(separator) && (1..=2).contains(&day);
    fits.then_some(second + 1 + day)
}

/// Length of the number at the start of `text`: digits, a fraction, an exponent.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut length = digits(0);
    if bytes.get(length) == Some(&b'.') && digits(length + 1) > 0 {
        length += 1 + digits(length + 1);
    }
    if matches!(bytes.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits(length + 1 + sign);
        if exponent > 0 {
            length += 1 + sign + exponent;
        }
    }
    length
}

fn unit_hint(number: &str, suffix: &str) -> String {
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "hr" | "hrs" | "hour" | "hours" => "h",
        "day" | "days" => "d",
        "wk" | "week" | "weeks" => "w",
        "m" | "mon" | "month" | "months" => "mo",
        "yr" | "year" | "years" | "a" => "y",
        "min" | "mins" | "minutes" | "s" | "sec" | "seconds" | "ms" => return "the shortest unit is the hour: `1h`".to_owned(),
        _ if suffix.starts_with('_') => return "write numbers without separators: `1000`".to_owned(),
        _ => return "durations are `12h`, `30d`, `2w`, `6mo` or `1y`".to_owned(),
    };
    format!("write `{number}{unit}`")
}
