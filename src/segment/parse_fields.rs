//! The parser's part for what follows the name of a field.

use std::ops::Range;

use super::ast::{Expr, ExprKind, Literal, Name, Period, Stretch, Unit};
use super::lexer::TokenKind;
use super::parse::Parser;
use crate::config::diagnostics::did_you_mean;

impl Parser<'_> {
    /// What follows the name of a field.
    pub(super) fn test(&mut self, name: Name) -> Expr {
        let start = name.span.start;
        let finish = |parser: &Self, kind| Expr { kind, span: start..parser.end() };
        if let TokenKind::Operator(op) = *self.kind() {
            self.advance();
            let value = self.literal();
            return finish(self, ExprKind::Compare(name, op, value));
        }
        let negated = self.keyword("not") && (self.keyword_ahead(1, "in") || self.keyword_ahead(1, "contains"));
        if negated {
            self.advance();
        }
        let expr = if self.eat_keyword("in") {
            self.inside(name)
        } else if self.eat_keyword("contains") {
            let value = self.literal();
            finish(self, ExprKind::Contains(name, value))
        } else if self.keyword("is") {
            return self.is(name);
        } else if let Some(expr) = self.foreign_test(&name) {
            return expr;
        } else if self.kind() == &TokenKind::Unreadable {
            return Expr { kind: ExprKind::Unreadable, span: name.span };
        } else {
            finish(self, ExprKind::Field(name))
        };
        if negated { Expr { span: expr.span.clone(), kind: ExprKind::Not(Box::new(expr)) } } else { expr }
    }

    /// What follows `in`: a list, a region, or days around today.
    fn inside(&mut self, name: Name) -> Expr {
        let start = name.span.start;
        let the = self.keyword("the") && (self.keyword_ahead(1, "next") || self.keyword_ahead(1, "last"));
        if the {
            let span = self.span();
            self.error(span, "`the` is not used in segments", format!("write `{name} in next 7 days`, without it"));
            self.advance();
        }
        if self.keyword("next") || self.keyword("last") {
            let stretch = self.stretch();
            let span = start..self.end();
            return match stretch {
                Some(stretch) => Expr { kind: ExprKind::Recurs(name, stretch), span },
                None => Expr { kind: ExprKind::Unreadable, span },
            };
        }
        if let Some((word, meant)) = self.spoken_days() {
            let span = self.span();
            self.error(span, format!("expected `(`, `next` or `last` after `in`, found `{word}`"), format!("write `{name} in {meant}`"));
            self.recover();
            return Expr { kind: ExprKind::Unreadable, span: start..self.end() };
        }
        let values = if self.at_region() { vec![self.literal()] } else { self.values() };
        Expr { kind: ExprKind::In(name, values), span: start..self.end() }
    }

    /// Whether `region(` stands here.
    pub(super) fn at_region(&self) -> bool {
        self.keyword("region") && self.kind_ahead(1) == &TokenKind::Open
    }

    /// `in 7 days`, `in coming 7 days`, `in this week`: what is meant by it.
    fn spoken_days(&self) -> Option<(String, String)> {
        let word = self.source[self.span()].to_lowercase();
        let after = |count: usize| match *self.kind_ahead(count) {
            TokenKind::Number(number) => Some(format!("{number} days")),
            TokenKind::Duration(Period { amount, unit: Unit::Day }) => Some(format!("{amount} days")),
            TokenKind::Duration(Period { amount, unit: Unit::Week }) => Some(format!("{amount} weeks")),
            _ => None,
        };
        let number = matches!(self.kind(), TokenKind::Number(_)) && ["day", "days"].iter().any(|unit| self.keyword_ahead(1, unit));
        if number || matches!(self.kind(), TokenKind::Duration(_)) {
            return Some((word, format!("next {}", after(0).unwrap_or_else(|| "7 days".to_owned()))));
        }
        match word.as_str() {
            "coming" | "upcoming" | "following" => Some((word, format!("next {}", after(1).unwrap_or_else(|| "7 days".to_owned())))),
            "past" | "previous" => Some((word, format!("last {}", after(1).unwrap_or_else(|| "7 days".to_owned())))),
            "this" => Some((word, "next 7 days".to_owned())),
            _ => None,
        }
    }

    /// `next 7 days`, `last 2 weeks`; how many are too many is judged by the checker.
    fn stretch(&mut self) -> Option<Stretch> {
        let next = self.keyword("next");
        let word = if next { "next" } else { "last" };
        let start = self.span().start;
        self.advance();
        let found = self.kind().clone();
        let period = match found {
            TokenKind::Number(number) if matches!(self.kind_ahead(1), TokenKind::Word) => {
                self.advance();
                let unit = self.source[self.span()].to_lowercase();
                match unit.as_str() {
                    "d" | "day" | "days" => self.whole_days(number, Unit::Day, word, start),
                    "w" | "week" | "weeks" => self.whole_days(number, Unit::Week, word, start),
                    "and" | "or" | "not" => {
                        let span = start..self.end();
                        self.error(span, "a number of what?", format!("write `{word} {number} days`"));
                        return None;
                    }
                    _ => self.other_unit(number, &unit, word, start),
                }
            }
            TokenKind::Number(number) => {
                self.advance();
                self.error(start..self.end(), "a number of what?", format!("write `{word} {number} days`"));
                None
            }
            TokenKind::Duration(period) if matches!(period.unit, Unit::Day | Unit::Week) => {
                self.advance();
                Some(period)
            }
            TokenKind::Duration(period) => self.other_unit(period.amount as f64, period.unit.symbol(), word, start),
            TokenKind::Unreadable => {
                self.advance();
                None
            }
            TokenKind::Word if !self.keyword("and") && !self.keyword("or") => {
                let unit = self.source[self.span()].to_lowercase();
                self.other_unit(1.0, &unit, word, start)
            }
            _ => {
                let shown = self.shown();
                let message = format!("expected a number of days after `{word}`, found {shown}");
                self.error(start..self.end(), message, format!("write `{word} 7 days`"));
                None
            }
        };
        if period.is_none() {
            self.recover();
        }
        Some(if next { Stretch::Next(period?) } else { Stretch::Last(period?) })
    }

    /// A number with its unit, which stands here.
    fn whole_days(&mut self, number: f64, unit: Unit, word: &str, start: usize) -> Option<Period> {
        self.advance();
        if number.fract() == 0.0 && number < 1e6 {
            return Some(Period { amount: number as i64, unit });
        }
        let hint = format!("write whole days: `{word} {} days`", days(number, unit.symbol()));
        self.error(start..self.end(), "days are counted whole", hint);
        None
    }

    /// `next month`, `last 2 years`, `next 36h`: only days and weeks are counted.
    fn other_unit(&mut self, number: f64, unit: &str, word: &str, start: usize) -> Option<Period> {
        self.advance();
        let hint = format!("write `{word} {} days`", days(number, unit));
        self.error(start..self.end(), format!("`{word}` counts days and weeks"), hint);
        None
    }

    /// `is set`, `is not set`, `is today`, `is not today`.
    fn is(&mut self, name: Name) -> Expr {
        let start = name.span.start;
        let is = self.span();
        self.advance();
        let negated = self.eat_keyword("not");
        let kind = if self.eat_keyword("set") {
            ExprKind::IsSet(name)
        } else if self.eat_keyword("today") {
            ExprKind::Recurs(name, Stretch::Today)
        } else {
            return self.is_other(name, negated, is);
        };
        let span = start..self.end();
        let expr = Expr { kind, span: span.clone() };
        if negated { Expr { kind: ExprKind::Not(Box::new(expr)), span } } else { expr }
    }

    /// Something else behind `is` (at `is`).
    fn is_other(&mut self, name: Name, negated: bool, is: Range<usize>) -> Expr {
        let start = name.span.start;
        let (shown, value) = (self.shown(), self.source[self.span()].to_ascii_lowercase());
        let not = if negated { "not " } else { "" };
        let hint = match value.as_str() {
            "null" | "empty" | "missing" | "none" | "unknown" | "unset" | "blank" if negated => format!("write `{name} is set`"),
            "null" | "empty" | "missing" | "none" | "unknown" | "unset" | "blank" => format!("write `{name} is not set`"),
            "in" => format!("write `{name} {not}in ..`, without `is`"),
            "tomorrow" => format!("write `{name} in next 2 days and {name} is not today`"),
            "yesterday" => format!("write `{name} in last 2 days and {name} is not today`"),
            "true" | "false" => format!("write `{name}` or `not {name}`"),
            _ if self.kind() == &TokenKind::End => format!("write `{name} is set` or `{name} is not set`"),
            _ if negated => format!("write `{name} != ..` to compare, or `{name} is not set`"),
            _ => format!("write `{name} = ..` to compare, or `{name} is set`"),
        };
        let span = if self.kind() == &TokenKind::End { is } else { self.span() };
        self.error(span, format!("expected `set` after `is`, found {shown}"), hint);
        self.recover();
        Expr { kind: ExprKind::Unreadable, span: start..self.end() }
    }

    /// Tests of other languages.
    fn foreign_test(&mut self, name: &Name) -> Option<Expr> {
        if self.kind() != &TokenKind::Word || self.keyword("and") || self.keyword("or") || self.keyword("not") {
            return None;
        }
        let span = self.span();
        let word = self.source[span.clone()].to_ascii_lowercase();
        let hint = match word.as_str() {
            "like" | "ilike" | "matches" | "regexp" | "startswith" | "starts" | "endswith" | "ends" | "includes" | "has" | "contain" => {
                format!("write `{name} contains '..'`")
            }
            "between" => format!("write `{name} >= .. and {name} <= ..`"),
            "equals" | "eq" | "equal" => format!("write `{name} = ..`"),
            "ne" | "neq" => format!("write `{name} != ..`"),
            "gt" | "after" => format!("write `{name} > ..`"),
            "lt" | "before" => format!("write `{name} < ..`"),
            "gte" | "ge" => format!("write `{name} >= ..`"),
            "lte" | "le" => format!("write `{name} <= ..`"),
            "exists" => format!("write `{name} is set`"),
            "next" | "last" => format!("write `{name} in {word} 7 days`"),
            "within" => format!("write `{name} in next 7 days` or `{name} in last 7 days`"),
            "today" => format!("write `{name} is today`"),
            other => match did_you_mean(other, ["contains", "in", "is", "and", "or"].into_iter().filter(|_| other.len() > 2)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => return None,
            },
        };
        self.error(span.clone(), format!("`{word}` is not used in segments"), hint);
        self.recover();
        // `between 1 and 2`: its `and` joins values, not conditions.
        if word == "between"
            && self.keyword("and")
            && matches!(self.kind_ahead(1), TokenKind::Number(_) | TokenKind::Text(_) | TokenKind::Minus)
        {
            self.advance();
            self.recover();
        }
        Some(Expr { kind: ExprKind::Unreadable, span: name.span.start..self.end() })
    }

    /// `region('EU')`, which stands here. The name is judged by the checker.
    pub(super) fn region(&mut self) -> Literal {
        use super::ast::LiteralKind::{Region, Unreadable};
        let start = self.span().start;
        self.advance();
        self.advance();
        let inside = self.span();
        if let (TokenKind::Text(name), TokenKind::Close) = (self.kind().clone(), self.kind_ahead(1).clone()) {
            self.advance();
            self.advance();
            return Literal { kind: Region(name), span: start..self.end() };
        }
        let more = matches!((self.kind(), self.kind_ahead(1)), (TokenKind::Text(_), TokenKind::Comma));
        if self.kind() != &TokenKind::Unreadable {
            let hint = if more { "for two of them write `country in (region('EU'), region('EFTA'))`" } else { "write `region('EU')`" };
            self.error(inside, "`region` takes one name", hint);
        }
        let mut level = 0_usize;
        loop {
            match self.kind() {
                TokenKind::End => break,
                TokenKind::Open => level += 1,
                TokenKind::Close if level == 0 => {
                    self.advance();
                    break;
                }
                TokenKind::Close => level -= 1,
                _ => {}
            }
            self.advance();
        }
        Literal { kind: Unreadable, span: start..self.end() }
    }
}

/// About how many days that is, between 1 and 366.
fn days(number: f64, unit: &str) -> i64 {
    let each = match unit {
        unit if unit.starts_with("mo") => 30.0,
        unit if unit.starts_with('y') => 365.0,
        unit if unit.starts_with('w') => 7.0,
        unit if unit.starts_with('h') => 1.0 / 24.0,
        unit if unit.starts_with("quarter") => 91.0,
        _ => 1.0,
    };
    (number * each).ceil().clamp(1.0, 366.0) as i64
}
