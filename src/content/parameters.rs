//! What links to websites get besides: the parameters of `[tracking.utm]`, so that a shop's own statistics know
//! where a visitor came from. They are the same for everybody: no person's data stands in them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use minijinja::{Environment, Value};
use url::{Url, form_urlencoded};

use super::environment::percent_encode;
use super::problem::{ContentProblem, Part};
use super::{Link, check};
use crate::campaign::{Definition, LinkParameters};

/// Longest value of a parameter, in characters: web statistics cut off what is longer.
const MAX_VALUE_CHARS: usize = 200;
/// The first part of the paths of pages that belong to one person.
const PERSONAL_PAGES: &[&str] = &["u", "p", "v", "r", "s", "c", "o", "t"];

/// The parameters of each link of a prepared content.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    /// Only websites of these hosts and those below get them; all, where it is empty. As in addresses, lower case.
    hosts: Vec<String>,
    /// Name and encoded value, by the number of the link.
    of_links: Vec<Vec<(String, String)>>,
}

impl Parameters {
    /// Evaluates the templates for each link.
    ///
    /// # Errors
    /// Those of the templates that cannot be evaluated.
    pub fn new(definition: &Definition, links: &[Link], environment: &Environment<'_>) -> Result<Self, Vec<ContentProblem>> {
        let LinkParameters { parameters, hosts } = &definition.link_parameters;
        let hosts = hosts.iter().map(|host| ascii_host(host)).collect();
        let mut of_links = Vec::with_capacity(links.len());
        for link in links.iter().filter(|_| !parameters.is_empty()) {
            let mut values = Vec::with_capacity(parameters.len());
            for (at, (name, template)) in parameters.iter().enumerate() {
                let value = evaluate(template, definition, link, environment).map_err(|error| {
                    let message = format!("`{name}` cannot be written for the link `{}`: {error}", link.name);
                    vec![ContentProblem::new(
                        Part::Parameter(at),
                        None,
                        message,
                        "it may speak of `campaign.name`, `topic.name`, `link.name`, `link.position`",
                    )]
                })?;
                if !value.is_empty() {
                    values.push((name.clone(), percent_encode(&value)));
                }
            }
            of_links.push(values);
        }
        Ok(Parameters { hosts, of_links })
    }

    /// The address as it stands in a mail.
    pub fn added<'a>(&self, number: usize, address: &'a str) -> Cow<'a, str> {
        match self.of_links.get(number) {
            Some(parameters) if !parameters.is_empty() && self.is_meant(address) => with_parameters(address, parameters),
            _ => Cow::Borrowed(address),
        }
    }

    fn is_meant(&self, address: &str) -> bool {
        if self.hosts.is_empty() {
            return true;
        }
        let Ok(url) = Url::parse(address) else { return false };
        let host = url.host_str().unwrap_or_default();
        self.hosts.iter().any(|meant| host.strip_suffix(meant.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.')))
    }
}

fn evaluate(template: &str, definition: &Definition, link: &Link, environment: &Environment<'_>) -> Result<String, String> {
    let object = |pairs: Vec<(&'static str, Value)>| Value::from(pairs.into_iter().collect::<BTreeMap<_, _>>());
    let context = BTreeMap::from([
        ("campaign", object(vec![("name", Value::from(definition.campaign.as_str()))])),
        ("topic", object(vec![("name", Value::from(definition.topic_name.as_str()))])),
        ("link", object(vec![("name", Value::from(link.name.as_str())), ("position", Value::from(link.position))])),
    ]);
    let text = environment
        .render_named_str("parameter.txt", template, context)
        .map_err(|error| error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))?;
    Ok(text.trim().chars().take(MAX_VALUE_CHARS).collect())
}

/// All mistakes of the templates.
pub(super) fn problems(definition: &Definition, environment: &Environment<'_>) -> Vec<ContentProblem> {
    let templates = definition.link_parameters.parameters.values().enumerate();
    templates.flat_map(|(at, template)| check::check_parameter(Part::Parameter(at), template, environment)).collect()
}

/// Puts parameters behind the query and before the fragment; those that an address has already stay as they are.
/// All else of the address stays byte for byte.
fn with_parameters<'a>(address: &'a str, parameters: &[(String, String)]) -> Cow<'a, str> {
    let (base, fragment) = address.split_at(address.find('#').unwrap_or(address.len()));
    let query = base.split_once('?').map(|(_, query)| query);
    let has = |name: &str| query.is_some_and(|query| form_urlencoded::parse(query.as_bytes()).any(|(known, _)| known == name));
    let mut out = base.to_owned();
    let mut separator = match query {
        None => "?",
        Some(query) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    for (name, value) in parameters.iter().filter(|(name, _)| !has(name)) {
        out.push_str(separator);
        out.push_str(name);
        out.push('=');
        out.push_str(value);
        separator = "&";
    }
    if out.len() == base.len() {
        return Cow::Borrowed(address);
    }
    out.push_str(fragment);
    Cow::Owned(out)
}

/// A host as it stands in a parsed address.
fn ascii_host(host: &str) -> String {
    match url::Host::parse(host) {
        Ok(host) => host.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    }
}

/// Whether an address leads to a page of `site` that belongs to one person, such as the one to unsubscribe:
/// it is never tracked, however it came into a mail.
pub(crate) fn is_personal_page(site: &str, address: &str) -> bool {
    let (Ok(site), Ok(url)) = (Url::parse(site), Url::parse(address)) else { return false };
    if site.origin() != url.origin() {
        return false;
    }
    let rest = url.path().strip_prefix(site.path().trim_end_matches('/'));
    let mut parts = rest.unwrap_or_default().trim_start_matches('/').split('/');
    parts.next().is_some_and(|first| PERSONAL_PAGES.contains(&first)) && parts.next().is_some_and(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn utm() -> Vec<(String, String)> {
        [("utm_medium", "email"), ("utm_source", "tea%20house")].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    #[test]
    fn parameters_stand_behind_the_query_and_before_the_fragment() {
        for (address, expected) in [
            ("https://a.example", "https://a.example?utm_medium=email&utm_source=tea%20house"),
            ("https://a.example/x#top", "https://a.example/x?utm_medium=email&utm_source=tea%20house#top"),
            ("https://a.example/?b=%7Ec&d={e}#f?g", "https://a.example/?b=%7Ec&d={e}&utm_medium=email&utm_source=tea%20house#f?g"),
            ("https://a.example/?", "https://a.example/?utm_medium=email&utm_source=tea%20house"),
            ("https://a.example/?b&", "https://a.example/?b&utm_medium=email&utm_source=tea%20house"),
            ("https://a.example/?utm_medium=print", "https://a.example/?utm_medium=print&utm_source=tea%20house"),
            ("https://a.example/?utm%5Fsource=x&utm_medium", "https://a.example/?utm%5Fsource=x&utm_medium"),
        ] {
            assert_eq!(with_parameters(address, &utm()), expected);
        }
    }

    #[test]
    fn only_the_hosts_that_are_meant_get_them() {
        let parameters = Parameters { hosts: vec!["tea.example".to_owned(), ascii_host("茶.example")], of_links: vec![utm()] };
        for (address, meant) in [
            ("https://tea.example/", true),
            ("https://shop.tea.example/", true),
            ("https://TEA.example:8443/", true),
            ("https://茶.example/", true),
            ("https://green-tea.example/", false),
            ("https://tea.example.evil.example/", false),
        ] {
            assert_eq!(parameters.added(0, address) != address, meant, "{address}");
        }
        assert_eq!(parameters.added(1, "https://tea.example/"), "https://tea.example/");
    }

    #[test]
    fn pages_of_one_person_are_told_from_others() {
        let site = "https://news.tea.example/mail";
        for (address, personal) in [
            ("https://news.tea.example/mail/u/abc", true),
            ("https://NEWS.tea.example:443/mail/p/abc?lang=de", true),
            ("https://news.tea.example/mail/subscribe/tea", false),
            ("https://news.tea.example/u/abc", false),
            ("https://shop.tea.example/mail/u/abc", false),
            ("https://news.tea.example/mail/u/", false),
        ] {
            assert_eq!(is_personal_page(site, address), personal, "{address}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_stays_and_every_parameter_is_there_once(path in "[a-z/]{0,8}", query in proptest::option::of("[a-z=&%0-9_]{0,16}"), fragment in proptest::option::of("[a-z?&]{0,6}")) {
            let base = format!("https://a.example/{path}{}", query.map(|query| format!("?{query}")).unwrap_or_default());
            let address = format!("{base}{}", fragment.map(|fragment| format!("#{fragment}")).unwrap_or_default());
            let added = with_parameters(&address, &utm()).into_owned();
            prop_assert!(added.starts_with(&base));
            prop_assert!(added.ends_with(&address[base.len()..]));
            let url = Url::parse(&added).expect("still an address");
            for (name, _) in utm() {
                prop_assert_eq!(url.query_pairs().filter(|(known, _)| *known == name).count(), 1);
            }
            prop_assert_eq!(with_parameters(&added, &utm()), added.as_str());
        }
    }
}
