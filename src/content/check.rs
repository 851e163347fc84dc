//! Finds every mistake of a template before anybody is mailed: its syntax, its fields, its filters.
//!
//! minijinja reports a wrong filter or field only when that line is rendered, for the one person it
//! is rendered for. Here all of them are found in the source, each with its place.

use std::collections::BTreeSet;
use std::ops::Range;

use minijinja::Environment;

use super::Lane;
use super::frame::FRAME_FIELDS;
use super::problem::{ContentProblem, Part};
use super::template::{self, Kind, Word, WordKind};
use crate::config::diagnostics::did_you_mean;
use crate::contact::{BUILT_IN_FIELDS, Schema};

/// Filters a marketer may use: those of minijinja that cannot be made to eat memory, and ours.
/// `escape` and `e` do nothing (escaping is always on); `safe` is not among them, since merge fields
/// hold what other people typed.
pub(super) const FILTERS: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "date",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "groupby",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "trim",
    "unique",
    "upper",
    "urlencode",
    "zip",
];

/// Tests a marketer may use.
pub(super) const TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "int",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
    "upper",
];

/// Functions a marketer may use, and the names minijinja gives a meaning inside blocks.
const GLOBALS: &[&str] = &["range", "dict", "namespace", "loop", "caller"];

/// Blocks that would read other templates, or switch escaping off.
const FORBIDDEN_BLOCKS: &[&str] = &["include", "import", "from", "extends", "block", "endblock", "autoescape", "endautoescape"];

/// What stands behind each variable that is no field of a contact.
type Objects = &'static [(&'static str, &'static [&'static str])];

const SENDER: (&str, &[&str]) = ("sender", &["name", "email", "postal_address"]);
const CAMPAIGN_OBJECTS: Objects =
    &[("campaign", &["name"]), ("frame", FRAME_FIELDS), ("links", &["unsubscribe", "preferences", "view"]), SENDER, ("topic", &["name"])];
/// What a parameter of links may speak of.
const PARAMETER_OBJECTS: Objects = &[("campaign", &["name"]), ("link", &["name", "position"]), ("topic", &["name"])];
/// What is in `data` is the caller's affair: the first rendering tells, before a message is accepted.
const MESSAGE_OBJECTS: Objects = &[SENDER];

/// Finds all mistakes of one template. `environment` is the one it will be rendered in.
pub(super) fn check(lane: Lane, part: Part, source: &str, schema: &Schema, environment: &Environment<'_>) -> Vec<ContentProblem> {
    let objects = if lane == Lane::Campaigns { CAMPAIGN_OBJECTS } else { MESSAGE_OBJECTS };
    check_with(lane, objects, part, source, schema, environment)
}

fn check_with(
    lane: Lane,
    objects: Objects,
    part: Part,
    source: &str,
    schema: &Schema,
    environment: &Environment<'_>,
) -> Vec<ContentProblem> {
    let compiled = match environment.template_from_named_str("checked", source) {
        Ok(compiled) => compiled,
        Err(error) => {
            let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            let hint = "a field is written `{{ contact.first_name }}`, a condition `{% if contact.first_name %} .. {% endif %}`";
            return vec![ContentProblem::new(part, error.range(), format!("template syntax: {message}"), hint)];
        }
    };
    let mut checker = Checker { lane, objects, part, schema, problems: Vec::new() };
    let mut all_words = Vec::new();
    for segment in template::segments(source) {
        if !matches!(segment.kind, Kind::Expression | Kind::Block) {
            continue;
        }
        let mut words = template::words(source, segment.inner(source));
        if segment.kind == Kind::Block && !words.is_empty() {
            checker.block(segment.keyword(source), words[0].range.clone());
            if segment.keyword(source) != "filter" {
                words.remove(0);
            }
        }
        checker.words(&words, segment.keyword(source) == "filter" && segment.kind == Kind::Block);
        all_words.extend(words);
    }
    checker.roots(&compiled.undeclared_variables(false).into_iter().collect(), &all_words);
    checker.problems.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
    checker.problems
}

/// Finds all mistakes of a parameter of links. It is the same for everybody, so it may speak of nobody.
pub(super) fn check_parameter(part: Part, source: &str, environment: &Environment<'_>) -> Vec<ContentProblem> {
    check_with(Lane::Campaigns, PARAMETER_OBJECTS, part, source, &Schema::default(), environment)
}

/// Whether a template uses `{{ links.unsubscribe }}` or the like: `object.field` in any of its tags.
pub(super) fn uses(source: &str, object: &str, field: &str) -> bool {
    template::segments(source).iter().filter(|segment| matches!(segment.kind, Kind::Expression | Kind::Block)).any(|segment| {
        let words = template::words(source, segment.inner(source));
        words.windows(3).any(|three| three[0].is_name(object) && three[1].is_sign(".") && three[2].is_name(field))
    })
}

/// Whether a template uses a variable by that name.
pub(super) fn uses_root(source: &str, name: &str) -> bool {
    template::segments(source)
        .iter()
        .filter(|segment| matches!(segment.kind, Kind::Expression | Kind::Block))
        .any(|segment| template::words(source, segment.inner(source)).iter().any(|word| word.is_name(name)))
}

struct Checker<'a> {
    lane: Lane,
    objects: Objects,
    part: Part,
    schema: &'a Schema,
    problems: Vec<ContentProblem>,
}

impl Checker<'_> {
    fn report(&mut self, span: Range<usize>, message: String, hint: String) {
        self.problems.push(ContentProblem::new(self.part, span, message, hint));
    }

    fn block(&mut self, keyword: &str, span: Range<usize>) {
        if !FORBIDDEN_BLOCKS.contains(&keyword) {
            return;
        }
        let hint = match keyword {
            "autoescape" | "endautoescape" => "fields are always escaped, since other people typed them; remove the block",
            _ => "write the text here; the frame of a mail is its `layout`",
        };
        self.report(span, format!("`{{% {keyword} %}}` cannot be used in a mail"), hint.to_owned());
    }

    fn words(&mut self, words: &[Word<'_>], filter_block: bool) {
        if filter_block && let Some(name) = words.get(1) {
            self.filter(name);
        }
        for (at, word) in words.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| &words[at]);
            let after_dot = before.is_some_and(|before| before.is_sign("."));
            match word.kind {
                WordKind::Sign if word.text == "|" => match words.get(at + 1) {
                    Some(name) if name.kind == WordKind::Name => self.filter(name),
                    _ => {}
                },
                WordKind::Name if word.text == "is" && !after_dot => {
                    let named = if words.get(at + 1).is_some_and(|next| next.is_name("not")) { at + 2 } else { at + 1 };
                    if let Some(name) = words.get(named).filter(|name| name.kind == WordKind::Name) {
                        self.test(name);
                    }
                }
                WordKind::Name if after_dot => {
                    let object_is_loop = at >= 2 && words[at - 2].is_name("loop");
                    if words.get(at + 1).is_some_and(|next| next.is_sign("(")) && !object_is_loop {
                        let hint = format!("values have no methods; a filter may do it: `{{{{ .. | {} }}}}`", word.text);
                        self.report(word.range.clone(), format!("`.{}()` cannot be called", word.text), hint);
                    }
                }
                WordKind::Name => {
                    self.field(words, at);
                    self.call(words, at);
                }
                _ => {}
            }
        }
    }

    fn filter(&mut self, name: &Word<'_>) {
        if FILTERS.contains(&name.text) {
            return;
        }
        let hint = match (name.text, did_you_mean(name.text, FILTERS.iter().copied())) {
            ("safe", _) => "fields are always escaped, since other people typed them; write HTML in the body itself".to_owned(),
            (_, Some(similar)) => format!("did you mean `{similar}`?"),
            (_, None) => format!("filters are {}", list(FILTERS)),
        };
        self.report(name.range.clone(), format!("there is no filter `{}`", name.text), hint);
    }

    fn test(&mut self, name: &Word<'_>) {
        if TESTS.contains(&name.text) {
            return;
        }
        let hint = match did_you_mean(name.text, TESTS.iter().copied()) {
            Some(similar) => format!("did you mean `is {similar}`?"),
            None => format!("tests are {}", list(TESTS)),
        };
        self.report(name.range.clone(), format!("there is no test `{}`", name.text), hint);
    }

    /// A value written like a function: `now()`.
    fn call(&mut self, words: &[Word<'_>], at: usize) {
        let name = &words[at];
        let is_value = matches!(name.text, "contact" | "now") || self.objects.iter().any(|(object, _)| *object == name.text);
        if is_value && words.get(at + 1).is_some_and(|next| next.is_sign("(")) {
            self.report(name.range.clone(), format!("`{}` is no function", name.text), "leave out the parentheses".to_owned());
        }
    }

    /// A name that stands at the beginning of `object.field` or `object['field']`.
    fn field(&mut self, words: &[Word<'_>], at: usize) {
        let object = words[at].text;
        let field = match (words.get(at + 1), words.get(at + 2)) {
            (Some(dot), Some(field)) if dot.is_sign(".") && field.kind == WordKind::Name => Some((field.text, field.range.clone())),
            (Some(open), Some(field))
                if open.is_sign("[")
                    && field.kind == WordKind::Text
                    && field.text.len() >= 2
                    && words.get(at + 3).is_some_and(|close| close.is_sign("]")) =>
            {
                Some((&field.text[1..field.text.len() - 1], field.range.clone()))
            }
            _ => None,
        };
        let Some((field, range)) = field else { return };
        if object == "contact" && !matches!(self.part, Part::Parameter(_)) {
            if BUILT_IN_FIELDS.contains(&field) || self.schema.attribute(field).is_some() {
                return;
            }
            let known: Vec<&str> = BUILT_IN_FIELDS.iter().copied().chain(self.schema.attributes().map(|(name, _)| name)).collect();
            let hint = match did_you_mean(field, known.iter().copied()) {
                Some(similar) => format!("did you mean `contact.{similar}`?"),
                None => format!("declare it under `[attributes]`, or use one of {}", list(&known)),
            };
            self.report(range, format!("contacts have no field `{field}`"), hint);
        } else if let Some((_, fields)) = self.objects.iter().find(|(name, _)| *name == object)
            && !fields.contains(&field)
        {
            let hint = match did_you_mean(field, fields.iter().copied()) {
                Some(similar) => format!("did you mean `{object}.{similar}`?"),
                None => format!("`{object}` has {}", list(fields)),
            };
            self.report(range, format!("there is no `{object}.{field}`"), hint);
        }
    }

    /// Names that nothing stands behind, where the template does not give them a value itself.
    fn roots(&mut self, undeclared: &BTreeSet<String>, words: &[Word<'_>]) {
        let of_links = matches!(self.part, Part::Parameter(_));
        let mut known: Vec<&str> = if of_links { Vec::new() } else { vec!["contact", "now"] };
        known.extend(self.objects.iter().map(|(name, _)| *name));
        if self.lane != Lane::Campaigns {
            known.push("data");
        }
        if self.part == Part::Layout {
            known.extend(["content", "subject", "preheader"]);
        }
        for name in undeclared.iter().filter(|name| !known.contains(&name.as_str()) && !GLOBALS.contains(&name.as_str())) {
            let found = words.iter().enumerate().find(|(at, word)| {
                word.is_name(name) && !at.checked_sub(1).is_some_and(|before| words[before].is_sign(".") || words[before].is_sign("|"))
            });
            let called = found.is_some_and(|(at, _)| words.get(at + 1).is_some_and(|next| next.is_sign("(")));
            let what = if called { "function" } else { "variable" };
            let field = BUILT_IN_FIELDS.contains(&name.as_str()) || self.schema.attribute(name).is_some();
            let hint = if of_links && (name == "contact" || field) {
                "a parameter says where a visitor came from, never who it is; it may speak of `campaign.name`, `topic.name`, `link.name`, `link.position`"
                    .to_owned()
            } else if field {
                format!("did you mean `contact.{name}`?")
            } else if let Some(similar) = did_you_mean(name, known.iter().chain(GLOBALS).copied()) {
                format!("did you mean `{similar}`?")
            } else if called {
                "functions are `range`, `dict` and `namespace`".to_owned()
            } else {
                format!("variables are {}; a contact's fields are written `contact.city`", list(&known))
            };
            let span = found.map(|(_, word)| word.range.clone());
            self.problems.push(ContentProblem::new(self.part, span, format!("there is no {what} `{name}`"), hint));
        }
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
