//! The same form as plain HTML for the marketer's own site.

use askama::Template;

use super::fields::{Asked, Input, Typed, Widget, inputs};
use super::subscribe::{record, title, wording};
use crate::config::Form;
use crate::instance::Instance;
use crate::text::i18n::{Lang, Words, fill};

/// What the included inputs ask of a page.
struct Speaker(Lang);

impl Speaker {
    fn words(&self) -> &'static Words {
        self.0.words()
    }
}

#[derive(Template)]
#[template(path = "public/snippet.html")]
struct Snippet {
    page: Speaker,
    title: String,
    action: String,
    tag: &'static str,
    /// Key and name; empty where there is nothing to choose.
    topics: Vec<(String, String)>,
    inputs: Vec<Input>,
    wording: String,
    wording_hash: String,
    privacy: String,
}

/// The form as HTML that posts to the instance's site. It holds no script, and its few styles in itself.
///
/// # Errors
/// None that a form of a checked configuration could cause.
pub fn snippet(instance: &Instance, form: &Form, lang: Lang) -> Result<String, askama::Error> {
    let config = &instance.config;
    let topic = |name: &String| config.topics.get(name).map_or(name.as_str(), |topic| topic.name_in(lang.tag())).to_owned();
    let topics: Vec<(String, String)> = form.topics.iter().map(|name| (name.value.clone(), topic(&name.value))).collect();
    let asked: Vec<Asked<'_>> = form
        .fields
        .iter()
        .filter_map(|name| {
            let field = config.profile.iter().find(|field| field.name == name.value)?;
            Some(Asked { field, required: form.required.contains(&name.value) })
        })
        .collect();
    let words = wording(instance, form, lang);
    Snippet {
        title: title(form, lang),
        action: format!("{}/subscribe/{}?lang={}", config.site.url.value, form.name, lang.tag()),
        tag: lang.tag(),
        topics: if topics.len() > 1 { topics } else { Vec::new() },
        inputs: inputs(&asked, &Typed::default(), &Default::default(), &instance.languages, lang),
        wording_hash: record(form, &words, lang).hash(),
        wording: words,
        privacy: fill(lang.words().subscribe_privacy, &[("sender", config.sender.name.as_str())]),
        page: Speaker(lang),
    }
    .render()
}
