//! The image that records an open, and tracked links. Neither looks anything up: the token says all.
//!
//! They are answered before any routing, as most requests are for them. What is not theirs goes on to the routes.

use std::fmt::Write as _;
use std::net::IpAddr;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_TYPE, LOCATION, REFERER, REFERRER_POLICY, USER_AGENT, VIA, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::guard::ROBOTS_TAG;
use super::visitor::{Visitor, client_ip};
use super::{App, Shared, public};
use crate::clock::Time;
use crate::token::Purpose;
use crate::tracking::Hit;

/// A transparent GIF of one pixel, the smallest that every client draws.
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";
/// Longest value of Fetch Metadata that is kept; those of the standard are shorter.
const MAX_METADATA_CHARS: usize = 16;

/// A request for an image or a link whose token fits.
#[derive(Debug)]
pub(super) enum Tracked {
    /// Whose image was asked for; nobody's, where the token is not ours.
    Image(Option<Whose>),
    /// A link, and where it leads.
    Link { whose: Whose, link: i64, location: HeaderValue },
}

impl Tracked {
    /// `GET /o/{token}.gif` and `GET /c/{token}/{target}`; `None` for all else, also for links that are not ours.
    pub(super) fn of(app: &App, method: &Method, uri: &Uri) -> Option<Tracked> {
        if method != Method::GET && method != Method::HEAD {
            return None;
        }
        let path = uri.path();
        if let Some(file) = path.strip_prefix("/o/") {
            let token = file.strip_suffix(".gif").unwrap_or(file);
            return (!file.is_empty() && !file.contains('/')).then(|| Tracked::Image(opened(app, token)));
        }
        let (token, encoded) = path.strip_prefix("/c/")?.split_once('/')?;
        let (whose, link, target) = verify(app, token, encoded)?;
        let Some(location) = location(&target) else {
            tracing::warn!(?whose, link, "a tracked link leads to no web address, check the campaign's links");
            return None;
        };
        Some(Tracked::Link { whose, link, location })
    }

    /// Records the hit and answers once it is on the disk.
    ///
    /// The image is the same for everybody, also for tokens we do not know, and takes as long: nobody can tell
    /// from outside which tokens are real. A link's token is bound to its target, so an altered or foreign target
    /// gets no redirect (never an open one).
    ///
    /// The status is 302: every client follows it with GET, and no cache keeps it (301 and 308 are cached by
    /// default and would hide later clicks; 303 and 307 say nothing more for a GET).
    pub(super) async fn answer(self, app: &App, peer: IpAddr, method: &Method, headers: &HeaderMap) -> Response {
        let hit = |whose: Whose, link| whose.hit(link, app.clock.now(), &Client { peer, headers, looked: method == Method::HEAD });
        let mut response = match self {
            Tracked::Image(whose) => {
                app.recorder.note(whose.map(|whose| hit(whose, None))).await;
                let mut response = Response::new(Body::from(Bytes::from_static(PIXEL)));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("image/gif"));
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store, max-age=0"));
                response
            }
            Tracked::Link { whose, link, location } => {
                app.recorder.record(hit(whose, Some(link))).await;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::FOUND;
                response.headers_mut().insert(LOCATION, location);
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
        };
        let headers = response.headers_mut();
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(ROBOTS_TAG, HeaderValue::from_static("noindex, nofollow"));
        response
    }
}

/// What is left for the routes: a link that is not ours.
pub(super) async fn not_ours(State(app): State<Shared>, visitor: Visitor) -> Response {
    public::not_ours(&app, &visitor)
}

/// `GET /t/{token}`: the link no person sees. A plain page that says nothing, whoever asks.
pub(super) async fn trap(State(app): State<Shared>, axum::extract::Path(token): axum::extract::Path<String>, visitor: Visitor) -> Response {
    let delivery = app.keys.verify(Purpose::Trap, &token).ok().and_then(|fields| <[i64; 1]>::try_from(fields).ok());
    let hit = delivery.map(|[delivery_id]| trapped(delivery_id, "trap=link", app.clock.now(), &visitor));
    app.recorder.note(hit).await;
    let page =
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"robots\" content=\"noindex, nofollow\"><title>-</title>";
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// Somebody fetched an address of this mail that no person sees.
pub(super) fn trapped(delivery_id: i64, which: &str, at: Time, visitor: &Visitor) -> Hit {
    let traits = match visitor.traits.as_str() {
        "" => which.to_owned(),
        traits => format!("{which},{traits}"),
    };
    Hit::trap(delivery_id, at, visitor.ip.clone(), visitor.agent.clone()).seen_as(visitor.looks_only, Some(traits))
}

/// Who asks.
struct Client<'a> {
    peer: IpAddr,
    headers: &'a HeaderMap,
    looked: bool,
}

/// What a token tells about the mail it stood in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose {
    /// A delivery.
    Delivery(i64),
    /// Some mail of a run.
    Run(i64),
}

impl Whose {
    fn hit(self, link: Option<i64>, at: Time, client: &Client<'_>) -> Hit {
        let ip = Some(client_ip(client.peer, client.headers).to_string());
        let agent = client.headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned());
        let hit = match (self, link) {
            (Whose::Delivery(delivery_id), None) => Hit::open(delivery_id, at, ip, agent),
            (Whose::Delivery(delivery_id), Some(link)) => Hit::click(delivery_id, link, at, ip, agent),
            (Whose::Run(run_id), link) => Hit::anonymous(run_id, link, at, ip, agent),
        };
        hit.seen_as(client.looked, Some(traits(client.headers)))
    }
}

/// What else a request tells of its client, as [`Hit::traits`] says.
pub(super) fn traits(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut out = String::with_capacity(64);
    let mut add = |word: &str| {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(word);
    };
    if headers.contains_key(ACCEPT_LANGUAGE) {
        add("lang");
    }
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match accept.split([',', ';']).next().unwrap_or_default().trim() {
        "" => {}
        "*/*" => add("any"),
        first if first.contains("html") => add("html"),
        first if first.starts_with("image/") => add("image"),
        _ => {}
    }
    if text("sec-fetch-user") == "?1" {
        add("user");
    }
    if text("sec-purpose").contains("prefetch") || text("purpose") == "prefetch" || text("x-moz") == "prefetch" {
        add("prefetch");
    }
    if headers.contains_key(REFERER) {
        add("ref");
    }
    if headers.contains_key(VIA) {
        add("via");
    }
    for (word, header) in [("site", "sec-fetch-site"), ("mode", "sec-fetch-mode"), ("dest", "sec-fetch-dest")] {
        let value = text(header);
        if !value.is_empty() && value.len() <= MAX_METADATA_CHARS && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            let _ = write!(out, "{}{word}={value}", if out.is_empty() { "" } else { "," });
        }
    }
    out
}

fn opened(app: &App, token: &str) -> Option<Whose> {
    let one = |purpose| app.keys.verify(purpose, token).ok().and_then(|fields| <[i64; 1]>::try_from(fields).ok());
    let delivery = one(Purpose::Open).map(|[delivery_id]| Whose::Delivery(delivery_id));
    delivery.or_else(|| one(Purpose::AnonymousOpen).map(|[run_id]| Whose::Run(run_id)))
}

fn verify(app: &App, token: &str, encoded: &str) -> Option<(Whose, i64, String)> {
    let target = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
    let two = |purpose| app.keys.verify_bound(purpose, token, &target).ok().and_then(|fields| <[i64; 2]>::try_from(fields).ok());
    let delivery = two(Purpose::Click).map(|[delivery_id, link]| (Whose::Delivery(delivery_id), link));
    let (whose, link) = delivery.or_else(|| two(Purpose::AnonymousClick).map(|[run_id, link]| (Whose::Run(run_id), link)))?;
    Some((whose, link, target))
}

/// The target as a header: only `http` and `https`. It stays byte for byte, for some shops sign their addresses;
/// what a header cannot hold is percent-encoded, as a browser would.
fn location(target: &str) -> Option<HeaderValue> {
    let rest = target.strip_prefix("https://").or_else(|| target.strip_prefix("http://"));
    let host_is_plain = rest.is_some_and(|rest| rest.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()));
    if host_is_plain && target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return HeaderValue::from_str(target).ok();
    }
    let url = url::Url::parse(target).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let path = rest.and_then(|rest| rest.find(['/', '?', '#'])).map(|at| target.len() - rest.map_or(0, str::len) + at);
    let (start, end) = target.split_at(path.unwrap_or(target.len()));
    if !host_is_plain || !start.bytes().all(|byte| byte.is_ascii_graphic()) || end.chars().any(char::is_control) {
        return HeaderValue::from_str(url.as_str()).ok();
    }
    let mut out = String::with_capacity(target.len() * 2);
    out.push_str(start);
    for byte in end.bytes() {
        match byte.is_ascii_graphic() {
            true => out.push(byte as char),
            false => drop(write!(out, "%{byte:02X}")),
        }
    }
    HeaderValue::from_str(&out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traits_are_few_words_whatever_a_stranger_sends() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            traits(&pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect())
        };
        assert_eq!(of(&[]), "");
        let browser = [
            ("accept", "text/html,application/xhtml+xml;q=0.9"),
            ("accept-language", "zh-TW"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-user", "?1"),
        ];
        assert_eq!(of(&browser), "lang,html,user,site=cross-site,mode=navigate,dest=document");
        assert_eq!(
            of(&[("accept", "image/avif,image/webp"), ("sec-purpose", "prefetch;prerender"), ("via", "1.1 x")]),
            "image,prefetch,via"
        );
        assert_eq!(of(&[("accept", "*/*"), ("sec-fetch-dest", "a,b=c"), ("sec-fetch-mode", "abcdefghijklmnopqrstuvwxyz")]), "any");
    }

    #[test]
    fn only_web_addresses_are_led_to() {
        let to = |target: &str| location(target).map(|value| value.to_str().unwrap_or("?").to_owned());
        assert_eq!(to("https://tea.example/a?b=%7Ec&d={e}").as_deref(), Some("https://tea.example/a?b=%7Ec&d={e}"));
        assert_eq!(to("https://tea.example/茶/../a b?x=%7e&y='").as_deref(), Some("https://tea.example/%E8%8C%B6/../a%20b?x=%7e&y='"));
        assert_eq!(to("https://茶.example/烏龍?x=一").as_deref(), Some("https://xn--cl1a.example/%E7%83%8F%E9%BE%8D?x=%E4%B8%80"));
        assert_eq!(to("https://tea.example/\r\nSet-Cookie: a=b").as_deref(), Some("https://tea.example/Set-Cookie:%20a=b"));
        for bad in ["javascript:alert(1)", "data:text/html,x", "//tea.example", "tea.example", "ftp://tea.example", ""] {
            assert_eq!(to(bad), None, "{bad}");
        }
    }
}
