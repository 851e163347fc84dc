//! Who asks: what a request tells about its client.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use axum::http::header::{ACCEPT_LANGUAGE, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use url::form_urlencoded;

use crate::text::i18n::{Lang, Languages};

/// The other end of the connection, put into each request by [`super::serve`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

/// A request's client. Reading it never fails: odd headers count as missing.
#[derive(Debug, Clone, Default)]
pub(super) struct Visitor {
    /// `?lang=`
    chosen: Option<String>,
    accept_language: Option<String>,
    pub ip: Option<String>,
    pub agent: Option<String>,
    /// A browser says that a form of another website sent this (Fetch Metadata; `Origin` where a browser knows
    /// only that). Our own pages send `Origin: null`, for they tell nobody where their visitors go.
    pub foreign: bool,
    /// HEAD looks and does not count.
    pub looks_only: bool,
    /// What else the request tells of its client (see [`crate::tracking::Hit::traits`]).
    pub traits: String,
}

impl Visitor {
    /// The language for somebody whose locale is known or not.
    pub fn lang(&self, languages: &Languages, contact_locale: Option<&str>) -> Lang {
        languages.negotiate(self.chosen.as_deref(), contact_locale, self.accept_language.as_deref())
    }

    /// The same visitor on a page whose address chose no language.
    pub fn without_choice(self) -> Visitor {
        Visitor { chosen: None, ..self }
    }

    /// The language chosen on the page, so that forms and links keep it.
    pub fn chosen_lang(&self, languages: &Languages) -> Option<Lang> {
        self.chosen.as_deref().and_then(|tag| languages.find(tag))
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let text = |name| parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let chosen = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .find(|(name, _)| name == "lang")
            .map(|(_, value)| value.into_owned());
        Ok(Visitor {
            chosen,
            accept_language: text(ACCEPT_LANGUAGE),
            ip: parts.extensions.get::<Peer>().map(|peer| client_ip(peer.0.ip(), &parts.headers).to_string()),
            agent: text(USER_AGENT),
            foreign: is_foreign(&parts.headers),
            looks_only: parts.method == Method::HEAD,
            traits: super::track::traits(&parts.headers),
        })
    }
}

fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    let Some(origin) = text("origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host) else { return false };
    // A proxy may have put a name of its own into `Host`.
    ![text("x-forwarded-host"), text("host")].into_iter().flatten().any(|host| host.eq_ignore_ascii_case(origin))
}

/// The peer, or what a proxy on this machine says: the last address of `X-Forwarded-For` is the one
/// the proxy itself saw, those before it are the client's claims.
pub(super) fn client_ip(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let peer = peer.to_canonical();
    if !peer.is_loopback() {
        return peer;
    }
    headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|address| address.trim().parse().ok())
        .next_back()
        .unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_other_websites_are_told_by_what_browsers_say() {
        let foreign = |pairs: &[(&'static str, &'static str)]| {
            is_foreign(&pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect())
        };
        for (pairs, expected) in [
            (&[][..], false),
            (&[("host", "tea.example"), ("origin", "null")], false),
            (&[("host", "tea.example"), ("origin", "https://tea.example")], false),
            (&[("host", "127.0.0.1:8080"), ("x-forwarded-host", "tea.example"), ("origin", "https://tea.example")], false),
            (&[("host", "tea.example"), ("origin", "https://evil.example")], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", "null")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "null")], true),
            (&[("sec-fetch-site", "same-site")], true),
        ] {
            assert_eq!(foreign(pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn only_a_proxy_on_this_machine_is_believed_and_only_its_own_word() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6, 1.2.3.4".parse().expect("a header"));
        headers.append("x-forwarded-for", "2001:db8::1".parse().expect("a header"));
        let from = |peer: &str, headers: &HeaderMap| client_ip(peer.parse().expect("an address"), headers).to_string();
        assert_eq!(from("127.0.0.1", &headers), "2001:db8::1");
        assert_eq!(from("::ffff:127.0.0.1", &headers), "2001:db8::1");
        assert_eq!(from("203.0.113.9", &headers), "203.0.113.9");
        assert_eq!(from("::1", &HeaderMap::new()), "::1");
    }
}
