//! What can be written here, for editors and people: the language with the names of this instance.

use serde::Serialize;

use super::Catalog;
use super::reference::{
    self, FUNCTIONS, KEYWORDS, Kind, Parameter, SCORES, STAGES, UNITS, Word, operators, response_operators, with_names,
};
use super::regions;
use crate::config::AttributeType;
use crate::contact::BUILT_IN_FIELDS;

/// Completion data; its keys are documented in `docs/segments.md`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Completion {
    /// What stands before an operator.
    pub fields: Vec<FieldEntry>,
    /// Calls.
    pub functions: Vec<FunctionEntry>,
    /// Words of the language.
    pub keywords: Vec<WordEntry>,
    /// Units of durations.
    pub units: Vec<WordEntry>,
    /// Topics, by key.
    pub topics: Vec<String>,
    /// Campaigns, by name.
    pub campaigns: Vec<String>,
    /// Segments, with their rules.
    pub segments: Vec<SegmentEntry>,
    /// Events, with their properties.
    pub events: Vec<EventEntry>,
    /// Stages of engagement.
    pub stages: &'static [&'static str],
    /// Regions, with their countries.
    pub regions: Vec<RegionEntry>,
    /// The attribute that says in which country somebody lives.
    pub country: Option<String>,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldEntry {
    /// As written in rules.
    pub name: String,
    /// `text`, `number`, `boolean`, `date`, `list`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where it comes from: `attribute`, `built_in`, `score`, `engagement`; of an event `property`.
    pub source: &'static str,
    /// What may stand behind it; empty: nothing, it stands alone.
    pub operators: Vec<&'static str>,
    /// One condition with it.
    pub example: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<&'static str>,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionEntry {
    /// Its name.
    pub name: &'static str,
    /// For people.
    pub summary: &'static str,
    /// One of this instance.
    pub example: String,
    /// What it takes.
    pub arguments: Vec<ArgumentEntry>,
}

/// What a call takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArgumentEntry {
    /// Its name.
    pub name: &'static str,
    /// What fits.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `first` (the value alone), `named` (`within: 30d`), `compared` (`sum >= 100`).
    pub form: &'static str,
    /// Whether the call needs it.
    pub required: bool,
    /// As it is written.
    pub example: String,
    /// For people.
    pub summary: &'static str,
}

/// A word.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WordEntry {
    /// As written.
    pub text: &'static str,
    /// One use of it.
    pub example: &'static str,
    /// For people.
    pub summary: &'static str,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SegmentEntry {
    /// Its name.
    pub name: String,
    /// Its rule.
    #[serde(rename = "where")]
    pub rule: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventEntry {
    /// Its name.
    pub name: String,
    /// What `where:` may ask.
    pub properties: Vec<FieldEntry>,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionEntry {
    /// Its name.
    pub name: &'static str,
    /// For people.
    pub description: &'static str,
    /// Two letters of ISO 3166 each.
    pub countries: &'static [String],
}

/// All that can be written with this catalog.
pub fn completion(catalog: &Catalog) -> Completion {
    let owned = |names: &std::collections::BTreeSet<String>| names.iter().cloned().collect();
    Completion {
        fields: fields(catalog),
        functions: FUNCTIONS.iter().map(|known| function(known, catalog)).collect(),
        keywords: KEYWORDS.iter().map(entry).collect(),
        units: UNITS.iter().map(entry).collect(),
        topics: owned(&catalog.topics),
        campaigns: owned(&catalog.campaigns),
        segments: catalog.segments.iter().map(|(name, rule)| SegmentEntry { name: name.clone(), rule: rule.clone() }).collect(),
        events: catalog
            .events
            .iter()
            .map(|(name, event)| EventEntry {
                name: name.clone(),
                properties: event.properties.iter().map(|(name, kind)| property(name, *kind)).collect(),
            })
            .collect(),
        stages: STAGES,
        regions: regions::all()
            .map(|(name, region)| RegionEntry { name, description: &region.description, countries: &region.countries })
            .collect(),
        country: catalog.country.clone(),
    }
}

fn fields(catalog: &Catalog) -> Vec<FieldEntry> {
    let field = |name: &str, kind: AttributeType, source| FieldEntry {
        name: name.to_owned(),
        kind: kind_name(kind),
        source,
        operators: operators(kind).to_vec(),
        example: example(name, kind),
        summary: None,
    };
    let attributes = catalog.schema.attributes().map(|(name, kind)| field(name, kind, "attribute"));
    let built_in = BUILT_IN_FIELDS.iter().map(|name| field(name, AttributeType::Text, "built_in"));
    // An attribute of the same name stands before a score.
    let scores = SCORES.iter().filter(|score| catalog.schema.attribute(score.name).is_none());
    let scores = scores.map(|score| FieldEntry {
        example: score.example.to_owned(),
        summary: Some(score.summary),
        ..field(score.name, score.kind, "score")
    });
    let engagement = reference::responses().filter_map(|parameter| {
        let Kind::Response(what) = parameter.kind else { return None };
        Some(FieldEntry {
            name: format!("engagement.{}", parameter.name),
            kind: parameter.kind.name(),
            source: "engagement",
            operators: response_operators(what).to_vec(),
            example: format!("engagement.{}", parameter.example),
            summary: Some(parameter.summary),
        })
    });
    attributes.chain(built_in).chain(scores).chain(engagement).collect()
}

/// A property of an event; days around today are for dates of people.
fn property(name: &str, kind: AttributeType) -> FieldEntry {
    let operators = operators(kind).iter().copied().filter(|operator| !["in next", "in last", "is today"].contains(operator));
    FieldEntry {
        name: name.to_owned(),
        kind: kind_name(kind),
        source: "property",
        operators: operators.collect(),
        example: example(name, kind),
        summary: None,
    }
}

fn function(function: &'static reference::Function, catalog: &Catalog) -> FunctionEntry {
    let argument = |parameter: &'static Parameter, form, required, example: String| ArgumentEntry {
        name: parameter.name,
        kind: parameter.kind.name(),
        form,
        required,
        example: with_names(&example, catalog),
        summary: parameter.summary,
    };
    let first = function.first.iter().map(|first| argument(first, "first", true, first.example.to_owned()));
    let named = function.named.iter();
    let named = named.map(|parameter| argument(parameter, "named", false, format!("{}: {}", parameter.name, parameter.example)));
    let compared = function.compared.iter().map(|parameter| argument(parameter, "compared", false, parameter.example.to_owned()));
    FunctionEntry {
        name: function.name,
        summary: function.summary,
        example: with_names(function.example, catalog),
        arguments: first.chain(named).chain(compared).collect(),
    }
}

fn entry(word: &Word) -> WordEntry {
    WordEntry { text: word.text, example: word.example, summary: word.summary }
}

fn example(name: &str, kind: AttributeType) -> String {
    match kind {
        AttributeType::Text => format!("{name} = '..'"),
        AttributeType::Number => format!("{name} >= 1"),
        AttributeType::Boolean => name.to_owned(),
        AttributeType::Date => format!("{name} >= today - 30d"),
        AttributeType::List => format!("{name} contains '..'"),
    }
}

fn kind_name(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::Text => "text",
        AttributeType::Number => "number",
        AttributeType::Boolean => "boolean",
        AttributeType::Date => "date",
        AttributeType::List => "list",
    }
}
