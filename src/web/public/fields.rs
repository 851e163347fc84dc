//! Profile fields (`profile.toml`) as inputs of a page, and a posted form back as values.
//!
//! [`inputs`] makes what `templates/public/fields.html` shows (`{% include "public/fields.html" %}` in a
//! template that has `page` and `inputs: Vec<Input>`, in a module that imports [`Widget`]), [`read`] reads the same inputs from a POST. What stands in them
//! travels as [`Typed`]: from a contact ([`Typed::of_contact`]) or as it was sent ([`Typed::of_form`]), so that
//! a mistake loses nobody's typing.

use std::collections::BTreeMap;

use crate::config::{AttributeType, ProfileField};
use crate::contact::{AttributeValue, Contact, Schema, field};
use crate::text::i18n::{Lang, Languages, fill};

/// Begins the name of every field's input.
const PREFIX: &str = "f.";

/// A field that a page asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// What `profile.toml` says.
    pub field: &'a ProfileField,
    /// It must not be empty.
    pub required: bool,
}

/// What stands in the inputs, by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Typed(BTreeMap<String, Vec<String>>);

impl Typed {
    /// What is known of somebody.
    pub fn of_contact<'a>(contact: &Contact, fields: impl IntoIterator<Item = &'a ProfileField>) -> Typed {
        let texts = |value: AttributeValue| match value {
            AttributeValue::List(values) => values,
            AttributeValue::Boolean(flag) => vec![if flag { "true" } else { "false" }.to_owned()],
            AttributeValue::Text(text) => vec![text],
            AttributeValue::Number(number) => vec![number.to_string()],
            AttributeValue::Date(date) => vec![date.to_string()],
        };
        let known = |field: &ProfileField| Some((field.name.clone(), texts(field::of_contact(contact, &field.name)?)));
        Typed(fields.into_iter().filter_map(known).collect())
    }

    /// What was sent: pairs of a form, others than fields left out.
    pub fn of_form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Typed {
        let mut typed = Typed::default();
        for (name, value) in pairs {
            if let Some(name) = name.strip_prefix(PREFIX) {
                typed.0.entry(name.to_owned()).or_default().push(value.to_owned());
            }
        }
        typed
    }

    /// Names and values of inputs, for a page that carries them on.
    pub fn pairs(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().flat_map(|(name, values)| values.iter().map(move |value| (format!("{PREFIX}{name}"), value.as_str())))
    }

    fn first(&self, name: &str) -> &str {
        self.0.get(name).and_then(|values| values.first()).map_or("", String::as_str)
    }

    fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A posted form, read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    /// Fields with their values.
    pub values: Vec<(String, AttributeValue)>,
    /// Fields that were shown and left empty. (Boxes nobody ticked are not sent at all: this is how to tell.)
    pub emptied: Vec<String>,
    /// What is wrong, by field, for [`inputs`].
    pub errors: BTreeMap<String, String>,
}

/// Reads the inputs of these fields. Others are not looked at: a form changes only what it showed.
pub(super) fn read(fields: &[Asked<'_>], typed: &Typed, schema: &Schema, languages: &Languages, lang: Lang) -> Read {
    let words = lang.words();
    let mut out = Read::default();
    for asked in fields {
        let name = asked.field.name.as_str();
        let choices = choices(asked.field, languages, lang);
        let known = |value: &String| choices.is_empty() || choices.iter().any(|(choice, _)| choice == value);
        let value = if asked.field.kind == AttributeType::List && !choices.is_empty() {
            let ticked = typed.all(name).to_vec();
            if ticked.iter().all(known) { field::from_list(ticked) } else { Err(String::new()) }
        } else {
            let text = typed.first(name).to_owned();
            if text.trim().is_empty() || known(&text) { field::from_text(schema, name, &text) } else { Err(String::new()) }
        };
        match value {
            Ok(Some(value)) => out.values.push((name.to_owned(), value)),
            Ok(None) if asked.required => drop(out.errors.insert(name.to_owned(), words.field_required.to_owned())),
            Ok(None) => out.emptied.push(name.to_owned()),
            // The reason is in English and for programs: people read what the field wants.
            Err(_) => {
                let wanted = match asked.field.kind {
                    _ if !choices.is_empty() => words.field_wants_choice,
                    AttributeType::Number => words.field_wants_number,
                    AttributeType::Date => words.field_wants_date,
                    _ if name == "timezone" => words.field_wants_zone,
                    _ => words.field_too_long,
                };
                out.errors.insert(name.to_owned(), wanted.to_owned());
            }
        }
    }
    out
}

/// How an input looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Widget {
    /// `<input>` of a type.
    Line(&'static str),
    /// `<select>`
    Select,
    /// One of few, each with a button.
    Radio,
    /// Any of them, each with a box.
    Boxes,
}

/// One choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// As sent.
    pub value: String,
    /// As read.
    pub label: String,
    /// It stands so now.
    pub chosen: bool,
}

/// An input of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// Of the element; parts of it are `ID-1`, its help `ID-help`, its error `ID-error`.
    pub id: String,
    /// As sent.
    pub name: String,
    /// Beside it.
    pub label: String,
    /// Below it.
    pub help: String,
    /// How it looks.
    pub widget: Widget,
    /// What stands in a line.
    pub value: String,
    /// What to choose from.
    pub choices: Vec<Choice>,
    /// It must not be empty.
    pub required: bool,
    /// What is wrong with what was sent.
    pub error: Option<String>,
    /// WCAG 2.2, 1.3.5: what it is, so that browsers fill it in.
    pub autocomplete: Option<&'static str>,
    /// Which keys a phone shows.
    pub inputmode: Option<&'static str>,
}

impl Input {
    /// The ids of what describes it, for `aria-describedby`; empty where nothing does.
    pub fn described_by(&self) -> String {
        let parts =
            [(!self.help.is_empty()).then(|| format!("{}-help", self.id)), self.error.as_ref().map(|_| format!("{}-error", self.id))];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// For the template.
    pub fn kind(&self) -> &'static str {
        match self.widget {
            Widget::Line(kind) => kind,
            Widget::Select => "select",
            Widget::Radio => "radio",
            Widget::Boxes => "checkbox",
        }
    }
}

/// Up to so many choices are shown as buttons.
const MAX_RADIOS: usize = 4;

/// The inputs of these fields, in this order.
pub(super) fn inputs(
    fields: &[Asked<'_>],
    typed: &Typed,
    errors: &BTreeMap<String, String>,
    languages: &Languages,
    lang: Lang,
) -> Vec<Input> {
    fields.iter().map(|asked| input(asked, typed, errors.get(&asked.field.name).cloned(), languages, lang)).collect()
}

fn input(asked: &Asked<'_>, typed: &Typed, error: Option<String>, languages: &Languages, lang: Lang) -> Input {
    let (field, name) = (asked.field, asked.field.name.as_str());
    let choices = choices(field, languages, lang);
    let widget = match field.kind {
        AttributeType::List if !choices.is_empty() => Widget::Boxes,
        AttributeType::Boolean => Widget::Radio,
        // Whoever chose one of several buttons cannot choose none again: only what must be filled in gets them.
        _ if !choices.is_empty() && choices.len() <= MAX_RADIOS && asked.required => Widget::Radio,
        _ if !choices.is_empty() => Widget::Select,
        AttributeType::Date => Widget::Line("date"),
        _ if name == "phone" => Widget::Line("tel"),
        _ => Widget::Line("text"),
    };
    let chosen =
        |value: &str| if widget == Widget::Boxes { typed.all(name).iter().any(|one| one == value) } else { typed.first(name) == value };
    Input {
        id: format!("f-{}", name.replace('_', "-")),
        name: format!("{PREFIX}{name}"),
        label: field.label.in_language(lang.tag()).to_owned(),
        help: match field.help.in_language(lang.tag()) {
            "" if field.kind == AttributeType::List && widget != Widget::Boxes => lang.words().field_list_help.to_owned(),
            help => help.to_owned(),
        },
        widget,
        value: if field.kind == AttributeType::List { typed.all(name).join("; ") } else { typed.first(name).to_owned() },
        choices: choices.into_iter().map(|(value, label)| Choice { chosen: chosen(&value), value, label }).collect(),
        required: asked.required,
        error: error.map(|error| fill(&error, &[("field", field.label.in_language(lang.tag()))])),
        autocomplete: match name {
            "first_name" => Some("given-name"),
            "last_name" => Some("family-name"),
            "phone" => Some("tel"),
            "birthday" | "birthdate" | "date_of_birth" => Some("bday"),
            "city" => Some("address-level2"),
            "country" => Some("country"),
            "company" | "organisation" | "organization" => Some("organization"),
            "postcode" | "postal_code" | "zip" => Some("postal-code"),
            "locale" => Some("language"),
            _ => None,
        },
        inputmode: (field.kind == AttributeType::Number && widget == Widget::Line("text")).then_some("decimal"),
    }
}

/// What people choose from: the declared choices; for the language those of the pages; yes and no.
fn choices(field: &ProfileField, languages: &Languages, lang: Lang) -> Vec<(String, String)> {
    let words = lang.words();
    if !field.choices.is_empty() {
        return field.choices.iter().map(|(value, label)| (value.clone(), label.in_language(lang.tag()).to_owned())).collect();
    }
    match (field.kind, field.name.as_str()) {
        (AttributeType::Boolean, _) => {
            vec![("true".to_owned(), words.field_yes.to_owned()), ("false".to_owned(), words.field_no.to_owned())]
        }
        (_, "locale") => languages.all().map(|lang| (lang.tag().to_owned(), lang.name().to_owned())).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Localised;

    fn field(name: &str, kind: AttributeType, choices: &[&str]) -> ProfileField {
        ProfileField {
            place: None,
            name: name.to_owned(),
            kind,
            label: Localised::plain(name),
            help: Localised::default(),
            choices: choices.iter().map(|choice| ((*choice).to_owned(), Localised::plain(choice.to_uppercase()))).collect(),
            editable: true,
            ask: false,
        }
    }

    fn fields() -> Vec<ProfileField> {
        vec![
            field("first_name", AttributeType::Text, &[]),
            field("age", AttributeType::Number, &[]),
            field("vip", AttributeType::Boolean, &[]),
            field("birthday", AttributeType::Date, &[]),
            field("likes", AttributeType::List, &["oolong", "green"]),
            field("city", AttributeType::Text, &["Taipei", "Tainan"]),
        ]
    }

    fn schema() -> Schema {
        Schema::new(&fields()[1..].iter().map(|field| (field.name.clone(), field.kind)).collect())
    }

    fn read_form(body: &[(&str, &str)], required: bool) -> Read {
        let fields = fields();
        let asked: Vec<Asked<'_>> = fields.iter().map(|field| Asked { field, required }).collect();
        let languages = Languages::built_in();
        read(&asked, &Typed::of_form(body.iter().copied()), &schema(), &languages, languages.english())
    }

    #[test]
    fn what_was_typed_becomes_values_and_only_of_these_fields() {
        let read = read_form(
            &[
                ("f.first_name", " Mei "),
                ("f.age", "41"),
                ("f.vip", "false"),
                ("f.birthday", "1990-12-31"),
                ("f.likes", "green"),
                ("f.likes", "oolong"),
                ("f.city", "Taipei"),
                ("f.external_id", "9"),
                ("email", "x"),
            ],
            true,
        );
        let names: Vec<&str> = read.values.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, read.errors.len()), (vec!["first_name", "age", "vip", "birthday", "likes", "city"], 0));
        assert_eq!(read.values[4].1, AttributeValue::List(vec!["green".to_owned(), "oolong".to_owned()]));
    }

    #[test]
    fn mistakes_are_told_by_field_and_nothing_is_required_that_is_not() {
        let read = read_form(&[("f.age", "many"), ("f.birthday", "1990-02-31"), ("f.likes", "coffee"), ("f.city", "Paris")], false);
        assert_eq!(read.errors.keys().collect::<Vec<_>>(), ["age", "birthday", "city", "likes"]);
        assert_eq!(read.emptied, ["first_name", "vip"]);
        assert_eq!(read_form(&[], true).errors.len(), 6);
        assert_eq!(read_form(&[], false).emptied.len(), 6);
    }

    #[test]
    fn inputs_show_what_stands_in_them() {
        let fields = fields();
        let asked: Vec<Asked<'_>> = fields.iter().map(|field| Asked { field, required: false }).collect();
        let languages = Languages::built_in();
        let typed = Typed::of_form([("f.age", "41"), ("f.likes", "green")]);
        let errors = BTreeMap::from([("age".to_owned(), "“{field}”".to_owned())]);
        let shown = inputs(&asked, &typed, &errors, &languages, languages.english());
        assert_eq!(
            (shown[1].value.as_str(), shown[1].error.as_deref(), shown[1].described_by().as_str()),
            ("41", Some("“age”"), "f-age-error")
        );
        assert_eq!(shown[4].choices.iter().map(|choice| choice.chosen).collect::<Vec<_>>(), [false, true]);
        assert_eq!((shown[0].autocomplete, shown[1].inputmode, shown[3].kind()), (Some("given-name"), Some("decimal"), "date"));
        assert_eq!(typed.pairs().count(), 2);
    }
}
