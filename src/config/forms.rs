//! What people fill in: `profile.toml` (the fields they may see and change) and `forms.toml` (ways to
//! subscribe).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::check;
use super::load::{Topics, each_table};
use super::localised::{Localised, names, texts};
use super::reader::Report;
use super::settings::checked;
use super::{AttributeType, Located, Place};

/// One field of `profile.toml`: a built-in field or declared attribute that people may fill in.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileField {
    /// Where its table starts.
    pub place: Option<Place>,
    /// The field.
    pub name: String,
    /// What it holds: text for built-in fields.
    pub kind: AttributeType,
    /// What people read beside it.
    pub label: Localised,
    /// A remark below it.
    pub help: Localised,
    /// The values to choose from, with what people read; without any, they write.
    pub choices: Vec<(String, Localised)>,
    /// Shown and changeable in the preference centre.
    pub editable: bool,
    /// Asked for at a later visit while it is empty, one question at a time (in the order of the file).
    pub ask: bool,
}

/// One table of `forms.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// Where its table starts.
    pub place: Option<Place>,
    /// Its name, as in `/subscribe/NAME`.
    pub name: String,
    /// Topics to choose from, in this order; with one, nothing is to be ticked.
    pub topics: Vec<Located<String>>,
    /// Above the form.
    pub title: Localised,
    /// Below the title.
    pub text: Localised,
    /// What people agree to, as shown beside the button; recorded with the consent. Empty: the words of the
    /// language's own file.
    pub wording: Localised,
    /// The version of that wording, for people.
    pub version: Option<String>,
    /// Profile fields asked for beside the address.
    pub fields: Vec<Located<String>>,
    /// Those among them that must not be empty.
    pub required: Vec<String>,
    /// Sites that may show the form (`https://tea.example`): their visitors' browsers may send it.
    pub sites: Vec<String>,
}

/// Reads `profile.toml`.
pub(super) fn profile(
    dir: &Path,
    attributes: &BTreeMap<String, AttributeType>,
    languages: &BTreeSet<String>,
    report: &mut Report,
) -> Vec<ProfileField> {
    let mut fields = Vec::new();
    let _ = each_table(&dir.join("profile.toml"), "profile field", report, |key, section, report| {
        let place = section.place();
        let built_in = check::BUILT_IN_FIELDS.contains(&key) && key != "email" && key != "external_id";
        let kind = if built_in { Some(AttributeType::Text) } else { attributes.get(key).copied() };
        if let (None, Some(place)) = (kind, &place) {
            let hint = format!("declare it in `optin.toml`: `[attributes]`, then `{key} = \"text\"`");
            report.at(&place.file, place.span.clone(), format!("there is no field `{key}` that people could fill in"), hint);
        }
        let [mut label, help] = texts(section, ["label", "help"], languages, report);
        if label.is_empty() {
            label.text = key.replace('_', " ");
        }
        let values = names(section, "choices", check::line, report);
        let mut choices: Vec<(String, Localised)> =
            values.into_iter().map(|value| (value.value.clone(), Localised::plain(value.value))).collect();
        // `[interests.choice.oolong] label = "Oolong"`, with translations below it.
        let mut named = section.section("choice", report);
        for (value, _) in named.keys() {
            let mut one = named.section(&value, report);
            let [label] = texts(&mut one, ["label"], languages, report);
            one.finish(report);
            let label = if label.is_empty() { Localised::plain(value.clone()) } else { label };
            match choices.iter_mut().find(|(known, _)| *known == value) {
                Some((_, known)) => *known = label,
                None => choices.push((value, label)),
            }
        }
        named.finish(report);
        let flag = |key: &str, default: bool, section: &mut super::reader::Section<'_>, report: &mut Report| {
            section.raw(key, None).and_then(|raw| raw.boolean(report)).unwrap_or(default)
        };
        let editable = flag("editable", true, section, report);
        let ask = flag("ask", false, section, report);
        fields.extend(kind.map(|kind| ProfileField { place, name: key.to_owned(), kind, label, help, choices, editable, ask }));
    });
    fields
}

/// Reads `forms.toml`.
pub(super) fn forms(
    dir: &Path,
    topics: &Topics,
    profile: &[ProfileField],
    languages: &BTreeSet<String>,
    report: &mut Report,
) -> BTreeMap<String, Form> {
    let mut forms = BTreeMap::new();
    let _ = each_table(&dir.join("forms.toml"), "form", report, |key, section, report| {
        let place = section.place();
        let known_topic = |text: &str| {
            if topics.names.contains(text) || !topics.complete {
                Ok(())
            } else {
                Err((format!("there is no topic `{text}`"), format!("declare it in `topics.toml`: `[{text}]`")))
            }
        };
        let topic_list = names(section, "topics", known_topic, report);
        if topic_list.is_empty() {
            section.missing("topics", "say what people subscribe to: `topics = [\"tea-letter\"]`", report);
        }
        let known_field = |text: &str| {
            if profile.iter().any(|field| field.name == text) {
                Ok(())
            } else {
                Err((format!("`{text}` is no field of `profile.toml`"), format!("add it there: `[{text}]`, then `label = \"..\"`")))
            }
        };
        let fields = names(section, "fields", known_field, report);
        let among = |text: &str| {
            if fields.iter().any(|field| field.value == text) {
                Ok(())
            } else {
                Err((format!("`{text}` is required and not among the `fields`"), format!("add it: `fields = [.., \"{text}\"]`")))
            }
        };
        let required = names(section, "required", among, report).into_iter().map(|field| field.value).collect();
        let sites = names(section, "sites", |text| check::site_url(text).map(|_| ()), report);
        let [title, text, wording] = texts(section, ["title", "text", "wording"], languages, report);
        let version = checked(section, "version", None, check::line, report).map(|version| version.value);
        if !topic_list.is_empty() {
            let form = Form {
                place,
                name: key.to_owned(),
                topics: topic_list.into_iter().map(super::reader::Value::located).collect(),
                title,
                text,
                wording,
                version,
                fields: fields.iter().cloned().map(super::reader::Value::located).collect(),
                required,
                sites: sites.into_iter().map(|site| site.value.trim_end_matches('/').to_owned()).collect(),
            };
            forms.insert(key.to_owned(), form);
        }
    });
    forms
}
