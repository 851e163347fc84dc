//! The parser's part for values, lists and calls.

use std::ops::Range;

use super::ast::{Argument, Expr, ExprKind, Literal, LiteralKind, Name, Period, Unit};
use super::lexer::TokenKind;
use super::parse::{KEYWORDS, Parser};

impl Parser<'_> {
    /// `('Taipei', 'Tainan')`
    pub(super) fn values(&mut self) -> Vec<Literal> {
        let open = self.span();
        if !self.eat(&TokenKind::Open) {
            let shown = self.shown();
            self.error(open, format!("expected `(` after `in`, found {shown}"), "write a list: `city in ('Taipei', 'Tainan')`");
            self.recover();
            return Vec::new();
        }
        let mut values = Vec::new();
        if self.eat(&TokenKind::Close) {
            self.error(open.start..self.end(), "this list is empty", "name at least one value: `city in ('Taipei')`");
            return values;
        }
        self.items("value", open, |parser| {
            let value = parser.literal();
            values.push(value);
        });
        values
    }

    /// Items with commas between them up to the closing parenthesis; `open` is where it began.
    pub(super) fn items(&mut self, what: &str, open: Range<usize>, mut item: impl FnMut(&mut Self)) {
        let mut before = usize::MAX;
        loop {
            item(self);
            if self.at == before {
                // A word that is no value, already reported: without this step it would stand here for ever.
                self.advance();
            }
            before = self.at;
            let (span, shown) = (self.span(), self.shown());
            match self.kind() {
                TokenKind::Comma => self.advance(),
                TokenKind::Close => return self.advance(),
                TokenKind::End => return self.error(open, "this `(` is never closed", format!("add `)` after the last {what}")),
                _ if self.keyword("and") || self.keyword("or") => {
                    self.error(span, format!("expected `,` or `)`, found {shown}"), format!("separate each {what} with a comma"));
                    self.advance();
                }
                TokenKind::Text(_) | TokenKind::Number(_) | TokenKind::Word => {
                    self.error(span, format!("expected `,` or `)`, found {shown}"), format!("separate each {what} with a comma"));
                }
                _ => {
                    self.error(span, format!("expected `,` or `)`, found {shown}"), format!("separate each {what} with a comma"));
                    self.recover();
                    if !self.eat(&TokenKind::Comma) {
                        self.eat(&TokenKind::Close);
                        return;
                    }
                }
            }
            if self.eat(&TokenKind::Close) {
                return;
            }
        }
    }

    pub(super) fn literal(&mut self) -> Literal {
        let span = self.span();
        let found = |kind, span| Literal { kind, span };
        match self.kind().clone() {
            TokenKind::Text(text) => self.take(LiteralKind::Text(text)),
            TokenKind::Number(number) => {
                let literal = self.take(LiteralKind::Number(number));
                self.spaced_duration(&literal).unwrap_or(literal)
            }
            TokenKind::Duration(period) => self.take(LiteralKind::Duration(period)),
            TokenKind::Percent(millionths) => self.take(LiteralKind::Percent(millionths)),
            TokenKind::Unreadable => self.take(LiteralKind::Unreadable),
            TokenKind::Minus | TokenKind::Plus if matches!(self.kind_ahead(1), TokenKind::Number(_)) => {
                let sign = if self.kind() == &TokenKind::Minus { -1.0 } else { 1.0 };
                self.advance();
                let TokenKind::Number(number) = *self.kind() else { return found(LiteralKind::Unreadable, span) };
                self.advance();
                found(LiteralKind::Number(sign * number), span.start..self.end())
            }
            TokenKind::Word if self.keyword("true") => self.take(LiteralKind::Boolean(true)),
            TokenKind::Word if self.keyword("false") => self.take(LiteralKind::Boolean(false)),
            TokenKind::Word if self.keyword("today") => self.today(),
            TokenKind::Word if self.at_region() => self.region(),
            TokenKind::Word if !KEYWORDS.iter().any(|keyword| self.keyword(keyword)) => self.unquoted(),
            _ => {
                let shown = self.shown();
                let before = self.end().saturating_sub(1)..self.end();
                let place = if self.kind() == &TokenKind::End { before } else { span.clone() };
                self.error(
                    place,
                    format!("expected a value, found {shown}"),
                    "write a text `'Taipei'`, a number `30`, a date `'2026-12-01'` or `true`",
                );
                if matches!(
                    self.kind(),
                    TokenKind::Operator(_) | TokenKind::Colon | TokenKind::Dot | TokenKind::Plus | TokenKind::Minus | TokenKind::Open
                ) {
                    self.recover();
                }
                found(LiteralKind::Unreadable, span)
            }
        }
    }

    fn take(&mut self, kind: LiteralKind) -> Literal {
        let span = self.span();
        self.advance();
        Literal { kind, span }
    }

    /// `30 d`: its unit belongs right behind the number.
    fn spaced_duration(&mut self, number: &Literal) -> Option<Literal> {
        let span = number.span.start..self.span().end;
        let unit = self.source[self.span()].to_ascii_lowercase();
        let known = ["h", "d", "w", "mo", "y", "hour", "day", "week", "month", "year", "hours", "days", "weeks", "months", "years"];
        if self.kind() != &TokenKind::Word || !known.contains(&unit.as_str()) {
            return None;
        }
        let letters = if unit.starts_with("mo") { 2 } else { 1 };
        self.error(span.clone(), "a duration is written together", format!("write `{number}{}`", &unit[..letters]));
        self.advance();
        Some(Literal { kind: LiteralKind::Unreadable, span })
    }

    /// `today`, `today - 30d`
    fn today(&mut self) -> Literal {
        let start = self.span().start;
        self.advance();
        let mut kind = LiteralKind::Today(Period { amount: 0, unit: Unit::Day });
        let sign = match self.kind() {
            TokenKind::Minus => -1,
            TokenKind::Plus => 1,
            _ => return Literal { kind, span: start..self.end() },
        };
        self.advance();
        if let TokenKind::Duration(period) = *self.kind() {
            self.advance();
            kind = LiteralKind::Today(Period { amount: sign * period.amount, unit: period.unit });
        } else {
            let (span, shown) = (self.span(), self.shown());
            if self.kind() != &TokenKind::Unreadable {
                let hint = match self.kind() {
                    TokenKind::Number(number) => format!("write a unit behind it: `{number}d`"),
                    _ => "write `today - 30d`, `today + 2w`, `today - 18y`".to_owned(),
                };
                self.error(span, format!("expected a duration, found {shown}"), hint);
            }
            if matches!(self.kind(), TokenKind::Number(_) | TokenKind::Unreadable | TokenKind::Text(_) | TokenKind::Percent(_)) {
                self.advance();
            }
            kind = LiteralKind::Unreadable;
        }
        Literal { kind, span: start..self.end() }
    }

    /// A text without its quotes.
    fn unquoted(&mut self) -> Literal {
        let start = self.span().start;
        self.advance();
        while matches!(self.kind(), TokenKind::Minus | TokenKind::Dot)
            && matches!(self.kind_ahead(1), TokenKind::Word | TokenKind::Number(_))
            && self.span().start == self.end()
        {
            self.advance();
            self.advance();
        }
        while self.kind() == &TokenKind::Word && !["and", "or", "not", "in", "is", "contains"].iter().any(|word| self.keyword(word)) {
            self.advance();
        }
        let span = start..self.end();
        let written = self.source[span.clone()].to_owned();
        let hint = match written.to_ascii_lowercase().as_str() {
            "null" | "nil" | "none" | "undefined" => "an attribute without a value is found by `is not set`".to_owned(),
            "yes" | "on" => format!("write `true`, or a text: `'{written}'`"),
            "no" | "off" => format!("write `false`, or a text: `'{written}'`"),
            "now" => "write `today`".to_owned(),
            _ => format!("a text stands in single quotes: `'{written}'`"),
        };
        self.error(span.clone(), format!("expected a value, found `{written}`"), hint);
        Literal { kind: LiteralKind::Unreadable, span }
    }

    // Calls ------------------------------------------------------------------------------------

    pub(super) fn call(&mut self, name: Name) -> Expr {
        let start = name.span.start;
        let open = self.span();
        self.advance();
        let mut arguments = Vec::new();
        if !self.eat(&TokenKind::Close) {
            self.items("argument", open, |parser| {
                let argument = parser.argument();
                arguments.push(argument);
            });
        }
        Expr { kind: ExprKind::Call(name, arguments), span: start..self.end() }
    }

    fn argument(&mut self) -> Argument {
        if self.kind() != &TokenKind::Word {
            return Argument::Plain(self.literal());
        }
        if self.keyword("where") && !matches!(self.kind_ahead(1), TokenKind::Operator(_) | TokenKind::Comma | TokenKind::Close) {
            return self.filter();
        }
        match *self.kind_ahead(1) {
            TokenKind::Colon => {
                let name = self.name();
                self.advance();
                Argument::Named(name, self.literal())
            }
            TokenKind::Operator(op) => {
                let name = self.name();
                self.advance();
                Argument::Condition(name, op, self.literal())
            }
            TokenKind::Word if ["in", "is", "contains", "not"].iter().any(|word| self.keyword_ahead(1, word)) => self.test_argument(),
            _ => Argument::Plain(self.literal()),
        }
    }

    /// `where: page = '/oolong' and duration > 3`: up to the next comma or the end of the call.
    fn filter(&mut self) -> Argument {
        let name = Name { text: "where".to_owned(), span: self.span() };
        self.advance();
        if !self.eat(&TokenKind::Colon) {
            self.error(name.span.clone(), "`where` needs its colon", "write `where: page = '/oolong'`");
        }
        Argument::Where(name, Box::new(self.nested(Self::any_of)))
    }

    /// `stage in ('cooling', 'dormant')` where only comparisons stand.
    fn test_argument(&mut self) -> Argument {
        let name = self.name();
        let start = name.span.start;
        let told = self.told();
        self.test(name);
        let span = start..self.end();
        if self.told() == told {
            let hint = "compare with `=`, `<`, `>=` and so on; for several values join several calls with `or`";
            self.error(span.clone(), "between these parentheses stand comparisons only", hint);
        }
        Argument::Plain(Literal { kind: LiteralKind::Unreadable, span })
    }
}
