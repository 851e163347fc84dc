//! One layout of a rule: on one line where it fits, else with `and` and `or` at the beginning of lines and what is
//! in parentheses two spaces further in.
//!
//! The layout depends on nothing but the rule itself, so formatting twice changes nothing; and it parses back to the
//! same rule, because only blanks and line ends are put between its pieces.

use super::ast::{Argument, Expr, ExprKind, Literal, Name, strength};
use super::check::{is_dashed_name, rule};
use super::parse::parse;
use super::{Catalog, SegmentError};

/// Longest line, in characters: what fits beside a diff.
pub const LINE_WIDTH: usize = 100;
/// How far what is inside stands in.
const STEP: usize = 2;

/// The rule in its layout, without a line end behind it. Only mistakes of writing are told, names are not looked at.
///
/// A text that is nothing but the name of a segment stays that name.
pub fn formatted(source: &str, catalog: &Catalog) -> Result<String, Vec<SegmentError>> {
    let name = source.trim();
    if catalog.segments.contains_key(name) {
        return Ok(name.to_owned());
    }
    if is_dashed_name(name)
        && let Err(errors) = rule(source, catalog)
    {
        return Err(errors);
    }
    parse(source).map(|expr| format(&expr))
}

/// The layout of an expression.
pub fn format(expr: &Expr) -> String {
    let mut layout = Layout { text: String::new() };
    layout.put(expr, 0, 0);
    layout.text
}

struct Layout {
    text: String,
}

impl Layout {
    /// Characters of the last line so far.
    fn column(&self) -> usize {
        self.text.chars().rev().take_while(|c| *c != '\n').count()
    }

    fn fits(&self, flat: &str, behind: usize) -> bool {
        self.column() + flat.chars().count() + behind <= LINE_WIDTH
    }

    fn line(&mut self, indent: usize) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n(' ', indent));
    }

    /// Writes from where the text ends; further lines stand in by `indent`. So many characters follow `behind`
    /// the last line.
    fn put(&mut self, expr: &Expr, indent: usize, behind: usize) {
        let flat = expr.to_string();
        if self.fits(&flat, behind) {
            return self.text.push_str(&flat);
        }
        match &expr.kind {
            ExprKind::Or(terms) => self.terms(terms, "or ", 1, indent, behind),
            ExprKind::And(terms) => self.terms(terms, "and ", 2, indent, behind),
            ExprKind::Not(inner) => match &inner.kind {
                ExprKind::In(name, values) => self.list(name, "not in", values, indent),
                ExprKind::IsSet(_) | ExprKind::Recurs(..) => self.text.push_str(&flat),
                _ => {
                    self.text.push_str("not ");
                    self.operand(inner, 2, indent, behind);
                }
            },
            ExprKind::In(name, values) => self.list(name, "in", values, indent),
            ExprKind::Call(name, arguments) if !arguments.is_empty() => self.call(name, arguments, indent),
            _ => self.text.push_str(&flat),
        }
    }

    fn terms(&mut self, terms: &[Expr], between: &str, least: u8, indent: usize, behind: usize) {
        for (index, term) in terms.iter().enumerate() {
            if index > 0 {
                self.line(indent);
                self.text.push_str(between);
            }
            let behind = if index + 1 == terms.len() { behind } else { 0 };
            self.operand(term, least, indent, behind);
        }
    }

    /// A part of `and`, `or` or `not`, in parentheses where it binds less tightly than `least`.
    fn operand(&mut self, term: &Expr, least: u8, indent: usize, behind: usize) {
        if strength(&term.kind) >= least {
            // Lines of `and` under an `or` stand in: it binds tighter.
            let inside = if matches!(term.kind, ExprKind::And(_) | ExprKind::Or(_)) { indent + STEP } else { indent };
            return self.put(term, inside, behind);
        }
        let flat = format!("({term})");
        if self.fits(&flat, behind) {
            return self.text.push_str(&flat);
        }
        self.text.push('(');
        self.line(indent + STEP);
        self.put(term, indent + STEP, 0);
        self.line(indent);
        self.text.push(')');
    }

    /// `city in (..)`, as many values on a line as fit.
    fn list(&mut self, name: &Name, word: &str, values: &[Literal], indent: usize) {
        self.text.push_str(&format!("{name} {word} ("));
        self.line(indent + STEP);
        for (index, value) in values.iter().enumerate() {
            let last = index + 1 == values.len();
            let flat = format!("{value}{}", if last { "" } else { "," });
            if index > 0 {
                if self.fits(&flat, 1) {
                    self.text.push(' ');
                } else {
                    self.line(indent + STEP);
                }
            }
            self.text.push_str(&flat);
        }
        self.line(indent);
        self.text.push(')');
    }

    /// A call with an argument a line.
    fn call(&mut self, name: &Name, arguments: &[Argument], indent: usize) {
        self.text.push_str(&format!("{name}("));
        for (index, argument) in arguments.iter().enumerate() {
            let comma = usize::from(index + 1 < arguments.len());
            self.line(indent + STEP);
            match argument {
                Argument::Where(key, condition) => {
                    self.text.push_str(&format!("{key}: "));
                    self.put(condition, indent + 2 * STEP, comma);
                }
                other => self.text.push_str(&other.to_string()),
            }
            if comma > 0 {
                self.text.push(',');
            }
        }
        self.line(indent);
        self.text.push(')');
    }
}
