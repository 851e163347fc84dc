//! The image that records an open, and tracked links. Neither looks anything up: the token says all.

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::visitor::Visitor;
use super::{Shared, public};
use crate::clock::Time;
use crate::token::Purpose;
use crate::tracking::Hit;

/// A transparent GIF of one pixel, the smallest that every client draws.
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// `GET /o/{token}.gif`: the same bytes for everybody, also for tokens we do not know, and without
/// waiting for the database: nobody can tell from outside which tokens are real.
pub(super) async fn open(State(app): State<Shared>, Path(file): Path<String>, visitor: Visitor) -> Response {
    let token = file.strip_suffix(".gif").unwrap_or(&file);
    if let Some(whose) = opened(&app, token).filter(|_| !visitor.looks_only) {
        app.recorder.record_later(whose.hit(None, app.clock.now(), visitor));
    }
    let headers = [(CONTENT_TYPE, "image/gif"), (CACHE_CONTROL, "no-store, max-age=0")];
    (headers, PIXEL).into_response()
}

/// `GET /c/{token}/{target}`: records the click and leads on. The token is bound to the target, so
/// an altered or foreign target gets no redirect (never an open one).
///
/// The status is 302: every client follows it with GET, and no cache keeps it (301 and 308 are
/// cached by default and would hide later clicks; 303 and 307 say nothing more for a GET).
pub(super) async fn click(State(app): State<Shared>, Path((token, encoded)): Path<(String, String)>, visitor: Visitor) -> Response {
    let Some((whose, link, target)) = verify(&app, &token, &encoded) else {
        return public::not_ours(&app, &visitor);
    };
    let target = match whose {
        Whose::Delivery(delivery_id) => public::beacon::lead(&app, target, delivery_id),
        Whose::Run(_) => target,
    };
    let Some(location) = location(&target) else {
        tracing::warn!(?whose, link, "a tracked link leads to no web address, check the campaign's links");
        return public::not_ours(&app, &visitor);
    };
    if !visitor.looks_only {
        app.recorder.record(whose.hit(Some(link), app.clock.now(), visitor)).await;
    }
    (StatusCode::FOUND, [(LOCATION, location)]).into_response()
}

/// What a token tells about the mail it stood in.
#[derive(Debug, Clone, Copy)]
enum Whose {
    /// A delivery.
    Delivery(i64),
    /// Some mail of a run.
    Run(i64),
}

impl Whose {
    fn hit(self, link: Option<i64>, at: Time, visitor: Visitor) -> Hit {
        match (self, link) {
            (Whose::Delivery(delivery_id), None) => Hit::open(delivery_id, at, visitor.ip, visitor.agent),
            (Whose::Delivery(delivery_id), Some(link)) => Hit::click(delivery_id, link, at, visitor.ip, visitor.agent),
            (Whose::Run(run_id), link) => Hit::anonymous(run_id, link, at, visitor.ip, visitor.agent),
        }
    }
}

fn opened(app: &Shared, token: &str) -> Option<Whose> {
    let one = |purpose| app.keys.verify(purpose, token).ok().and_then(|fields| <[i64; 1]>::try_from(fields).ok());
    let delivery = one(Purpose::Open).map(|[delivery_id]| Whose::Delivery(delivery_id));
    delivery.or_else(|| one(Purpose::AnonymousOpen).map(|[run_id]| Whose::Run(run_id)))
}

fn verify(app: &Shared, token: &str, encoded: &str) -> Option<(Whose, i64, String)> {
    let target = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
    let two = |purpose| app.keys.verify_bound(purpose, token, &target).ok().and_then(|fields| <[i64; 2]>::try_from(fields).ok());
    let delivery = two(Purpose::Click).map(|[delivery_id, link]| (Whose::Delivery(delivery_id), link));
    let (whose, link) = delivery.or_else(|| two(Purpose::AnonymousClick).map(|[run_id, link]| (Whose::Run(run_id), link)))?;
    Some((whose, link, target))
}

/// The target as a header: only `http` and `https`, as ASCII (other characters percent-encoded).
fn location(target: &str) -> Option<HeaderValue> {
    let url = url::Url::parse(target).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    // As it was written where that is possible: some shops sign their addresses byte by byte.
    let text = if target.bytes().all(|byte| byte.is_ascii_graphic()) { target } else { url.as_str() };
    HeaderValue::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_are_led_to() {
        let to = |target: &str| location(target).map(|value| value.to_str().unwrap_or("?").to_owned());
        assert_eq!(to("https://tea.example/a?b=%7Ec&d={e}").as_deref(), Some("https://tea.example/a?b=%7Ec&d={e}"));
        assert_eq!(to("https://茶.example/烏龍?x=一").as_deref(), Some("https://xn--cl1a.example/%E7%83%8F%E9%BE%8D?x=%E4%B8%80"));
        assert_eq!(to("https://tea.example/\r\nSet-Cookie: a=b").as_deref(), Some("https://tea.example/Set-Cookie:%20a=b"));
        for bad in ["javascript:alert(1)", "data:text/html,x", "//tea.example", "tea.example", "ftp://tea.example", ""] {
            assert_eq!(to(bad), None, "{bad}");
        }
    }
}
