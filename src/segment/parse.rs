//! From pieces to an expression, by recursive descent. A mistake is reported where it is, then
//! reading goes on behind it: the next `and`, `or`, comma or parenthesis is a fresh start, so that
//! one pass names every mistake.

use std::ops::Range;

use super::ast::{Expr, ExprKind, LiteralKind, Name};
use super::lexer::{Token, TokenKind, tokens};
use super::{MAX_DEPTH, MAX_ERRORS, MAX_SOURCE_BYTES, SegmentError};

/// Words with a meaning of their own.
pub(super) const KEYWORDS: &[&str] = &["and", "or", "not", "in", "contains", "is", "set", "true", "false", "today"];

/// Reads a rule. Answers all mistakes of writing at once; names and types are looked at by
/// [`super::check`].
pub fn parse(source: &str) -> Result<Expr, Vec<SegmentError>> {
    let (expr, errors) = parse_all(source);
    if errors.is_empty() { Ok(expr) } else { Err(errors) }
}

/// Reads what can be read ([`ExprKind::Unreadable`] stands for the rest) and tells the mistakes.
pub(super) fn parse_all(source: &str) -> (Expr, Vec<SegmentError>) {
    let unreadable = Expr { kind: ExprKind::Unreadable, span: 0..source.len() };
    if source.len() > MAX_SOURCE_BYTES {
        let message = format!("this rule is longer than {MAX_SOURCE_BYTES} bytes");
        return (unreadable, vec![SegmentError::new(0..0, message, "split it into several segments and join them with `segment('..')`")]);
    }
    let (tokens, errors) = tokens(source);
    let mut parser = Parser { source, tokens, at: 0, depth: 0, errors, extras: Vec::new() };
    if parser.kind() == &TokenKind::End {
        if parser.errors.is_empty() {
            parser.errors.push(SegmentError::new(0..source.len(), "the rule is empty", "write a condition, such as `city = 'Taipei'`"));
        }
        return (unreadable, parser.errors);
    }
    let expr = parser.whole();
    let mut errors = parser.errors;
    errors.sort_by_key(|error| (error.span.start, error.span.end));
    errors.dedup();
    errors.truncate(MAX_ERRORS);
    (expr, errors)
}

pub(super) struct Parser<'a> {
    pub(super) source: &'a str,
    tokens: Vec<Token>,
    pub(super) at: usize,
    depth: usize,
    errors: Vec<SegmentError>,
    /// Conditions behind a mistake of joining, kept so that names in them are checked too.
    extras: Vec<Expr>,
}

impl Parser<'_> {
    // What stands here -------------------------------------------------------------------------

    pub(super) fn token(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    pub(super) fn kind(&self) -> &TokenKind {
        &self.token().kind
    }

    pub(super) fn kind_ahead(&self, count: usize) -> &TokenKind {
        &self.tokens[(self.at + count).min(self.tokens.len() - 1)].kind
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.token().span.clone()
    }

    /// The end of the piece before this one.
    pub(super) fn end(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |before| self.tokens[before].span.end)
    }

    pub(super) fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    pub(super) fn eat(&mut self, kind: &TokenKind) -> bool {
        let found = self.kind() == kind;
        if found {
            self.advance();
        }
        found
    }

    /// Whether the word `keyword` stands `count` pieces ahead.
    pub(super) fn keyword_ahead(&self, count: usize, keyword: &str) -> bool {
        let token = &self.tokens[(self.at + count).min(self.tokens.len() - 1)];
        match token.kind {
            TokenKind::Word => self.source[token.span.clone()].eq_ignore_ascii_case(keyword),
            TokenKind::And => keyword == "and",
            TokenKind::Or => keyword == "or",
            TokenKind::Not => keyword == "not",
            _ => false,
        }
    }

    pub(super) fn keyword(&self, keyword: &str) -> bool {
        self.keyword_ahead(0, keyword)
    }

    pub(super) fn eat_keyword(&mut self, keyword: &str) -> bool {
        let found = self.keyword(keyword);
        if found {
            self.advance();
        }
        found
    }

    /// What stands here, as named in a message.
    pub(super) fn shown(&self) -> String {
        match self.kind() {
            TokenKind::End => "the end of the rule".to_owned(),
            _ => format!("`{}`", &self.source[self.span()]),
        }
    }

    pub(super) fn error(&mut self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(SegmentError::new(span, message, hint));
    }

    /// How many mistakes were told so far.
    pub(super) fn told(&self) -> usize {
        self.errors.len()
    }

    /// Goes on at the next `and`, `or`, comma or closing parenthesis of this level.
    pub(super) fn recover(&mut self) {
        let mut level = 0_usize;
        loop {
            match self.kind() {
                TokenKind::End => return,
                TokenKind::Close if level == 0 => return,
                TokenKind::Close => level -= 1,
                TokenKind::Open => level += 1,
                TokenKind::Comma if level == 0 => return,
                _ if level == 0 && (self.keyword("and") || self.keyword("or")) => return,
                _ => {}
            }
            self.advance();
        }
    }

    // Conditions -------------------------------------------------------------------------------

    fn whole(&mut self) -> Expr {
        let mut parts = vec![self.any_of()];
        while self.kind() != &TokenKind::End {
            let (span, shown) = (self.span(), self.shown());
            // Each branch takes at least one piece, so this ends.
            if self.eat(&TokenKind::Close) {
                self.error(span, "this `)` closes nothing", "remove it, or add the `(` it belongs to");
                if !(self.eat_keyword("and") || self.eat_keyword("or")) {
                    continue;
                }
            } else if self.kind() == &TokenKind::Comma {
                self.comma();
                continue;
            } else if self.kind() == &TokenKind::Unreadable {
                self.skip_unreadable();
                continue;
            } else if self.starts_condition() {
                self.error(span, format!("expected `and` or `or` before {shown}"), self.run_on_hint());
            } else {
                self.error(span, format!("expected `and`, `or` or the end, found {shown}"), self.run_on_hint());
                self.advance();
                self.recover();
                if !(self.eat_keyword("and") || self.eat_keyword("or")) {
                    continue;
                }
            }
            if self.kind() != &TokenKind::End {
                parts.push(self.any_of());
            }
        }
        parts.append(&mut self.extras);
        if parts.len() == 1 { parts.remove(0) } else { Expr { kind: ExprKind::And(parts), span: 0..self.source.len() } }
    }

    /// A comma between conditions, or within a number.
    fn comma(&mut self) {
        let span = self.span();
        let before = self.at.checked_sub(1).map(|before| self.tokens[before].clone());
        self.advance();
        if let (Some(Token { kind: TokenKind::Number(_), span: digits }), TokenKind::Number(_)) = (before, self.kind()) {
            let span = digits.start..self.span().end;
            let plain: String = self.source[span.clone()].chars().filter(|c| !c.is_whitespace() && *c != ',').collect();
            self.error(span, "a number has no commas", format!("write `{plain}`"));
            self.advance();
            if self.eat_keyword("and") || self.eat_keyword("or") {
                self.extra();
            }
            return;
        }
        self.error(span, "a comma does not join conditions", "write `and` or `or`");
        if !matches!(self.kind(), TokenKind::End | TokenKind::Close) {
            self.extra();
        }
    }

    /// What could not be read is reported already: goes on behind it.
    fn skip_unreadable(&mut self) {
        self.advance();
        self.recover();
        if self.eat_keyword("and") || self.eat_keyword("or") {
            self.extra();
        }
    }

    /// Reads a condition for its mistakes alone; the rule is refused anyhow.
    fn extra(&mut self) {
        let expr = self.nested(Self::any_of);
        self.extras.push(expr);
    }

    fn starts_condition(&self) -> bool {
        matches!(self.kind(), TokenKind::Open | TokenKind::Not) || (matches!(self.kind(), TokenKind::Word) && self.at > 0)
    }

    /// What a person may have meant who wrote two things with nothing between them.
    fn run_on_hint(&self) -> String {
        let before = self.at.checked_sub(1).map(|before| &self.tokens[before]);
        let word = |token: &Token| self.source[token.span.clone()].to_owned();
        match (before, self.kind()) {
            (Some(before), TokenKind::Text(_)) if before.kind == TokenKind::Word => {
                format!("did you mean `{} = {}`?", word(before), word(self.token()))
            }
            _ => "join conditions with `and` or `or`".to_owned(),
        }
    }

    pub(super) fn any_of(&mut self) -> Expr {
        self.terms("or", Self::all_of, ExprKind::Or)
    }

    fn all_of(&mut self) -> Expr {
        self.terms("and", Self::negation, ExprKind::And)
    }

    fn terms(&mut self, between: &str, term: fn(&mut Self) -> Expr, join: fn(Vec<Expr>) -> ExprKind) -> Expr {
        let first = term(self);
        if !self.keyword(between) {
            return first;
        }
        let start = first.span.start;
        let mut terms = vec![first];
        while self.eat_keyword(between) {
            terms.push(term(self));
        }
        Expr { kind: join(terms), span: start..self.end() }
    }

    fn negation(&mut self) -> Expr {
        let start = self.span().start;
        if !self.keyword("not") {
            return self.nested(Self::primary);
        }
        self.advance();
        let inner = self.nested(Self::negation);
        Expr { span: start..inner.span.end.max(start), kind: ExprKind::Not(Box::new(inner)) }
    }

    /// Runs `read` one level deeper, unless that is too deep.
    pub(super) fn nested(&mut self, read: fn(&mut Self) -> Expr) -> Expr {
        if self.depth >= MAX_DEPTH {
            let span = self.span();
            self.error(
                span.clone(),
                format!("this rule is nested more than {MAX_DEPTH} deep"),
                "move an inner part into a segment of its own",
            );
            self.at = self.tokens.len() - 1;
            return Expr { kind: ExprKind::Unreadable, span };
        }
        self.depth += 1;
        let expr = read(self);
        self.depth -= 1;
        expr
    }

    pub(super) fn primary(&mut self) -> Expr {
        let span = self.span();
        match self.kind().clone() {
            TokenKind::Open => self.group(),
            TokenKind::Word if self.keyword("true") || self.keyword("false") || self.keyword("today") => self.literal_first(),
            TokenKind::Word => {
                let text = &self.source[span.clone()];
                if let Some(keyword) = KEYWORDS.iter().find(|keyword| text.eq_ignore_ascii_case(keyword)) {
                    return self.no_condition(span, keyword);
                }
                let name = self.name();
                match self.kind() {
                    TokenKind::Open => self.call(name),
                    TokenKind::Minus => self.dashed_name(name),
                    _ => self.test(name),
                }
            }
            TokenKind::Text(_) | TokenKind::Number(_) | TokenKind::Duration(_) | TokenKind::Percent(_) | TokenKind::Minus => {
                self.literal_first()
            }
            TokenKind::Unreadable => {
                self.advance();
                self.recover();
                Expr { kind: ExprKind::Unreadable, span }
            }
            _ => self.no_condition(span, ""),
        }
    }

    /// Something that cannot start a condition stands here.
    fn no_condition(&mut self, span: Range<usize>, keyword: &str) -> Expr {
        let shown = self.shown();
        let hint = match keyword {
            "and" | "or" => format!("remove this `{keyword}`, or write a condition before it"),
            _ => "write a condition, such as `city = 'Taipei'` or `opened(within: 30d)`".to_owned(),
        };
        self.error(span.clone(), format!("expected a condition, found {shown}"), hint);
        if !matches!(keyword, "and" | "or") && !matches!(self.kind(), TokenKind::Close | TokenKind::End | TokenKind::And | TokenKind::Or) {
            self.advance();
            self.recover();
        }
        Expr { kind: ExprKind::Unreadable, span }
    }

    fn group(&mut self) -> Expr {
        let open = self.span();
        self.advance();
        let inner = self.any_of();
        loop {
            if self.eat(&TokenKind::Close) {
                return Expr { kind: inner.kind, span: open.start..self.end() };
            }
            let (span, shown) = (self.span(), self.shown());
            match self.kind() {
                TokenKind::End => {
                    self.error(open.clone(), "this `(` is never closed", "add the `)` where the group ends");
                    return Expr { kind: inner.kind, span: open.start..self.end() };
                }
                TokenKind::Comma => self.comma(),
                TokenKind::Unreadable => self.skip_unreadable(),
                _ if self.starts_condition() => {
                    self.error(span, format!("expected `and` or `or` before {shown}"), self.run_on_hint());
                    self.extra();
                }
                _ => {
                    self.error(span, format!("expected `and`, `or` or `)`, found {shown}"), self.run_on_hint());
                    self.advance();
                    self.recover();
                    if self.eat_keyword("and") || self.eat_keyword("or") {
                        self.extra();
                    }
                }
            }
        }
    }

    /// `18 <= age`: the field comes first in this language.
    fn literal_first(&mut self) -> Expr {
        let start = self.span().start;
        let value = self.literal();
        let span = start..self.end();
        if let TokenKind::Operator(op) = *self.kind()
            && matches!(self.kind_ahead(1), TokenKind::Word)
        {
            self.advance();
            let name = self.name();
            let span = start..self.end();
            let hint = format!("write `{name} {} {value}`", op.flipped().symbol());
            self.error(span.clone(), "the attribute comes first", hint);
            return Expr { kind: ExprKind::Compare(name, op.flipped(), value), span };
        }
        let shown = &self.source[span.clone()];
        let (message, hint) = match value.kind {
            LiteralKind::Boolean(_) => (format!("`{shown}` alone is no condition"), "name a boolean attribute, such as `vip`".to_owned()),
            LiteralKind::Unreadable => (String::new(), String::new()),
            _ => (
                format!("expected a condition, found the value `{shown}`"),
                format!("name the attribute it is compared with: `city = {value}`"),
            ),
        };
        if !message.is_empty() {
            self.error(span.clone(), message, hint);
        }
        self.recover();
        Expr { kind: ExprKind::Unreadable, span }
    }

    /// A name with its dotted parts.
    pub(super) fn name(&mut self) -> Name {
        let start = self.span().start;
        self.advance();
        while self.kind() == &TokenKind::Dot && matches!(self.kind_ahead(1), TokenKind::Word) {
            self.advance();
            self.advance();
        }
        let span = start..self.end();
        let text: String = self.source[span.clone()].split_whitespace().collect();
        Name { text, span }
    }

    /// `weekly-buyers`: only a segment can be called that, and here it is not read as one name.
    fn dashed_name(&mut self, name: Name) -> Expr {
        let start = name.span.start;
        while self.kind() == &TokenKind::Minus && matches!(self.kind_ahead(1), TokenKind::Word | TokenKind::Number(_)) {
            self.advance();
            self.advance();
        }
        let span = start..self.end();
        let written = self.source[span.clone()].to_owned();
        if written == name.text {
            return self.test(name);
        }
        let hint = match written.contains(char::is_whitespace) {
            true => "nothing is computed here: compare with one number or day".to_owned(),
            false => format!("a name with `-` is a segment's: write `segment('{written}')`"),
        };
        self.error(span.clone(), format!("`{written}` is no attribute"), hint);
        self.recover();
        Expr { kind: ExprKind::Unreadable, span }
    }
}
