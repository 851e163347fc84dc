//! The beacon: a script on the marketer's own pages that says who of those who came by a letter looked at what.
//!
//! A click on a tracked link brings a short signed token to the page ([`with_visitor`]); the script sends it back with
//! the visit. Who came without one, and agreed to nothing, is not recorded at all. What the person chose about being
//! tracked is looked at when the visit arrives.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL,
    CONTENT_TYPE, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use crate::behaviour::ops::{Recording, record};
use crate::behaviour::{Item, NewEvent, Who};
use crate::clock::{DAY, MINUTE, Time};
use crate::config::VISIT;
use crate::consent::Tracking;
use crate::consent::tracking::{TrackingRules, effective};
use crate::contact::identity::{self, Kind, Resolved};
use crate::contact::import::Cell;
use crate::contact::{self, Address, Schema};
use crate::db::Tx;
use crate::delivery;
use crate::instance::Instance;
use crate::token::Purpose;
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

/// The script, as it is served. Under 2 KB: it is on every page of a shop.
const SCRIPT: &str = include_str!("../../../templates/public/beacon.js");
/// Browsers keep it for an hour.
const SCRIPT_KEPT: &str = "public, max-age=3600";
/// The parameter that a click adds to its target.
const PARAMETER: &str = "oc";
/// How long a token in an address is good for: somebody bookmarks the page, or sends it to a friend.
const TOKEN_MS: i64 = 30 * DAY;
/// Visits of one network (an address, or the /64 of IPv6) a minute: a household reads fast, a script faster.
const VISITS_A_MINUTE: u32 = 120;
/// Networks whose visits are counted at a time: bounds the memory to some megabytes.
const MAX_NETWORKS: usize = 50_000;
/// Devices of one person: more have no meaning.
const MAX_DEVICES: usize = 20;
/// Characters of a path, a title and a referrer that are kept.
const MAX_CHARACTERS: usize = 500;
/// Characters of the id that the script makes.
const MAX_ID: usize = 40;
/// Longest time in the database for one visit: nobody waits for the answer.
const DATABASE_TIME: Duration = Duration::from_secs(10);

/// The addresses of the beacon; none where it is off.
pub(in crate::web) fn routes(instance: &Instance) -> Router<Shared> {
    if !instance.config.behaviour.beacon {
        return Router::new();
    }
    Router::new().route("/b.js", get(script)).route("/b", post(visit).options(preflight))
}

async fn script() -> Response {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8"), (CACHE_CONTROL, SCRIPT_KEPT)], SCRIPT).into_response()
}

/// Where a click on a link of `delivery_id` leads: its target, with a token where the beacon waits for it. Only mails
/// to people who may be tracked have links that name a delivery.
pub(in crate::web) fn lead(app: &App, target: String, delivery_id: i64) -> String {
    let Some(behaviour) = app.instance.as_deref().map(|instance| &instance.config.behaviour).filter(|behaviour| behaviour.beacon) else {
        return target;
    };
    let expires = app.clock.now().plus(TOKEN_MS).millis();
    with_visitor(&target, &behaviour.beacon_origins, || app.keys.sign(Purpose::Visit, &[delivery_id, expires])).unwrap_or(target)
}

/// `target` with a token at the end of its query, where its origin is one of `origins`. Every other byte stays: some
/// shops sign their addresses.
pub(in crate::web) fn with_visitor(target: &str, origins: &[String], token: impl FnOnce() -> String) -> Option<String> {
    let origin = url::Url::parse(target).ok()?.origin();
    if !is_listed(&origin.ascii_serialization(), origins) {
        return None;
    }
    let (address, fragment) = target.find('#').map_or((target, ""), |at| target.split_at(at));
    let joint = match address.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some((_, query)) if query.ends_with('&') => "",
        Some(_) => "&",
    };
    Some(format!("{address}{joint}{PARAMETER}={}{fragment}", token()))
}

fn is_listed(origin: &str, origins: &[String]) -> bool {
    let serialised = |listed: &String| url::Url::parse(listed).map(|url| url.origin().ascii_serialization());
    origins.iter().any(|listed| listed == origin || serialised(listed).is_ok_and(|listed| listed == origin))
}

/// Counts visits of networks, so that nobody fills the database from a page.
#[derive(Debug, Default)]
pub(in crate::web) struct Visits {
    minute: std::sync::Mutex<(i64, HashMap<IpAddr, u32>)>,
}

impl Visits {
    fn admit(&self, ip: Option<&str>, now: Time) -> bool {
        let network = ip.and_then(|ip| ip.parse().ok()).map(network);
        let minute = now.millis() / MINUTE;
        let mut counted = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != minute {
            *counted = (minute, HashMap::new());
        }
        // Nobody's address, or more networks than a shop has visitors: all of those share one number.
        let key = network.filter(|network| counted.1.len() < MAX_NETWORKS || counted.1.contains_key(network));
        let count = counted.1.entry(key.unwrap_or(IpAddr::from([0, 0, 0, 0]))).or_insert(0);
        *count = count.saturating_add(1);
        *count <= VISITS_A_MINUTE
    }
}

/// An address of IPv4, the /64 of one of IPv6.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        ip => ip,
    }
}

/// What the script sends.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sent {
    /// Its id of the visit: sent twice, it is one visit.
    v: String,
    /// The token of a link.
    t: Option<String>,
    /// The device of somebody who agreed.
    d: Option<String>,
    /// They agree to be known here.
    #[serde(deserialize_with = "flag")]
    c: bool,
    /// They agree no more.
    #[serde(deserialize_with = "flag")]
    x: bool,
    /// The path of the page.
    p: String,
    /// Its title.
    n: String,
    /// Where they came from, without a query.
    r: String,
}

/// `1`, `true` and their opposites.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_bool().unwrap_or(value.as_i64() == Some(1)))
}

/// The page's origin, where its visits are taken.
fn origin_of<'a>(instance: &Instance, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    is_listed(origin.to_str().ok()?, &instance.config.behaviour.beacon_origins).then_some(origin)
}

fn readable(mut response: Response, origin: &HeaderValue) -> Response {
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    response.headers_mut().insert(VARY, HeaderValue::from_static("Origin"));
    response
}

fn foreign() -> Response {
    (StatusCode::FORBIDDEN, "visits are taken from the origins of `beacon_origins` only\n").into_response()
}

/// `OPTIONS /b`: for those who send JSON as JSON.
async fn preflight(State(app): State<Shared>, headers: HeaderMap) -> Response {
    let Some(origin) = app.instance.as_deref().and_then(|instance| origin_of(instance, &headers)) else { return foreign() };
    let allowed = [
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST")),
        (ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type")),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600")),
    ];
    readable((StatusCode::NO_CONTENT, allowed).into_response(), origin)
}

/// `POST /b`: a visit. The answer is the same for every token, also for those that are not ours.
async fn visit(State(app): State<Shared>, headers: HeaderMap, visitor: Visitor, body: Bytes) -> Response {
    let Some(instance) = app.instance.clone() else { return foreign() };
    let Some(origin) = origin_of(&instance, &headers) else { return foreign() };
    let Ok(sent) = serde_json::from_slice::<Sent>(&body) else {
        return readable((StatusCode::BAD_REQUEST, "this is no visit\n").into_response(), origin);
    };
    let now = app.clock.now();
    if !app.visits.admit(visitor.ip.as_deref(), now) {
        return readable((StatusCode::TOO_MANY_REQUESTS, "too many visits\n").into_response(), origin);
    }
    // Who does not want to be tracked anywhere is not tracked here; taking back is always heard.
    let says = |name: &str| headers.get(name).is_some_and(|value| value == "1");
    if !sent.x && (says("sec-gpc") || says("dnt")) {
        return readable(StatusCode::NO_CONTENT.into_response(), origin);
    }
    let answer = match tokio::time::timeout(DATABASE_TIME, take(&instance, &sent, now)).await {
        Ok(Ok(Some(device))) => ([(CONTENT_TYPE, "application/json")], serde_json::json!({ "device": device }).to_string()).into_response(),
        Ok(Ok(None)) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => {
            tracing::error!(error = %format!("{error:#}"), "cannot record a visit");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Err(_) => {
            tracing::error!("cannot record a visit: the database is slow");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    };
    readable(answer, origin)
}

/// Records a visit of somebody we know; answers the device that this browser is from now on.
async fn take(instance: &Instance, sent: &Sent, now: Time) -> anyhow::Result<Option<String>> {
    let delivery_id = sent.t.as_deref().and_then(|token| match instance.keys.verify(Purpose::Visit, token).ok()?[..] {
        [delivery_id, expires] if now.millis() < expires => Some(delivery_id),
        _ => None,
    });
    let device = sent.d.as_deref().filter(|device| is_id(device));
    // Nobody in particular costs nothing.
    if delivery_id.is_none() && device.is_none() {
        return Ok(None);
    }
    let mut tx = instance.db.begin().await?;
    let known = match device {
        Some(device) => match identity::find(&mut tx, Kind::Device, device).await? {
            Resolved::Person(person) => Some(person.known_as),
            _ => None,
        },
        None => None,
    };
    let by_mail = match delivery_id {
        Some(delivery_id) => delivery::ops::about(&mut tx, delivery_id).await?.map(|(_, contact_id)| contact_id),
        None => None,
    };
    if let (true, Some(device), Some(known)) = (sent.x, device, known) {
        identity::remove(&mut tx, known, Kind::Device, device).await?;
        tx.commit().await?;
        return Ok(None);
    }
    let whose = by_mail.or(known).filter(|_| !sent.x);
    let Some(contact) = (match whose {
        Some(contact_id) => contact::sql::by_ids(&mut tx, &Schema::default(), &[contact_id]).await?.pop(),
        None => None,
    }) else {
        return Ok(tx.rollback().await.map(|()| None)?);
    };
    if !may_be_known(&mut tx, instance, contact.id).await? {
        // Nor may the browser stay theirs.
        if let (Some(device), Some(known)) = (device, known) {
            identity::remove(&mut tx, known, Kind::Device, device).await?;
        }
        tx.commit().await?;
        return Ok(None);
    }
    write(&mut tx, instance, &contact, sent, now).await?;
    let tied = tie(&mut tx, instance, contact.id, device.zip(known), sent.c && by_mail.is_some(), now).await?;
    tx.commit().await?;
    Ok(tied)
}

/// What the script and we make up: letters and digits.
fn is_id(text: &str) -> bool {
    (8..=MAX_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether the person, by this contact and the one it counts for, is tracked in full now.
async fn may_be_known(tx: &mut Tx, instance: &Instance, contact_id: i64) -> anyhow::Result<bool> {
    let person = identity::persons(tx, &[contact_id]).await?.remove(&contact_id).unwrap_or(contact_id);
    let people: Vec<i64> = if person == contact_id { vec![person] } else { vec![person, contact_id] };
    let tracking = effective(tx, &TrackingRules::new(&instance.config.consent), &people).await?;
    Ok(people.iter().all(|id| tracking.get(id) == Some(&Tracking::Full)))
}

async fn write(tx: &mut Tx, instance: &Instance, contact: &contact::Contact, sent: &Sent, now: Time) -> anyhow::Result<()> {
    let (Some(schema), Ok(address)) = (instance.events.get(VISIT), Address::parse(&contact.email)) else { return Ok(()) };
    if !is_id(&sent.v) {
        return Ok(());
    }
    // A query or a fragment may hold anything, so none is kept.
    let path = |text: &'_ str| text.split(['?', '#']).next().unwrap_or_default().to_owned();
    let said = [("page", path(&sent.p)), ("title", sent.n.clone()), ("referrer", path(&sent.r))];
    let value = |name: &String| said.iter().find(|(known, _)| known == name).and_then(|(_, text)| clean(text)).map(Cell::Text);
    let event = NewEvent {
        // Ids of different people never meet.
        key: format!("beacon:{}:{}", contact.id, sent.v).into(),
        who: Who { address: Some(address), external_id: None },
        at: now,
        revision: 0,
        retracted: false,
        values: schema.properties.keys().map(value).collect(),
    };
    let digests = instance.digests();
    let with =
        Recording { events: &instance.events, schema: &instance.schema, digests: &digests, entropy: &instance.entropy, create: false };
    record(tx, &with, vec![Item::Event { kind: VISIT.to_owned(), event }], now).await?;
    Ok(())
}

/// Pages choose these texts: one line, bounded.
fn clean(text: &str) -> Option<Arc<str>> {
    let kept: String = text.chars().filter(|c| !c.is_control()).take(MAX_CHARACTERS).collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| Arc::from(kept))
}

/// Makes this browser the person's: it becomes theirs where they agreed just now, and follows the latest letter where
/// they agreed before. Answers a device that is new.
async fn tie(
    tx: &mut Tx,
    instance: &Instance,
    contact_id: i64,
    device: Option<(&str, i64)>,
    agreed: bool,
    now: Time,
) -> anyhow::Result<Option<String>> {
    if let Some((device, known)) = device {
        if known != contact_id {
            identity::remove(tx, known, Kind::Device, device).await?;
            identity::add(tx, contact_id, Kind::Device, device, "beacon", now).await?;
        }
        return Ok(None);
    }
    if !agreed {
        return Ok(None);
    }
    let known = identity::of_contact(tx, contact_id).await?;
    let devices: Vec<_> = known.iter().filter(|one| one.kind == Kind::Device).collect();
    for oldest in devices.iter().take((devices.len() + 1).saturating_sub(MAX_DEVICES)) {
        identity::remove(tx, contact_id, Kind::Device, &oldest.value).await?;
    }
    let device = format!("{:016x}{:016x}", instance.entropy.u64(), instance.entropy.u64());
    identity::add(tx, contact_id, Kind::Device, &device, "beacon", now).await?;
    Ok(Some(device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_script_is_under_two_kilobytes_and_touches_no_cookie() {
        assert!(SCRIPT.len() < 2_048, "{} bytes", SCRIPT.len());
        assert!(!SCRIPT.contains("cookie") && SCRIPT.is_ascii());
    }

    #[test]
    fn a_token_comes_last_and_every_other_byte_stays() {
        let origins = ["https://shop.example".to_owned(), "http://127.0.0.1:8090".to_owned()];
        for (target, expected) in [
            ("https://shop.example", Some("https://shop.example?oc=T")),
            ("https://shop.example/", Some("https://shop.example/?oc=T")),
            ("https://shop.example:443/a", Some("https://shop.example:443/a?oc=T")),
            ("https://SHOP.example/a?b=c%2F&d", Some("https://SHOP.example/a?b=c%2F&d&oc=T")),
            ("https://shop.example/a?", Some("https://shop.example/a?oc=T")),
            ("https://shop.example/a?b&", Some("https://shop.example/a?b&oc=T")),
            ("https://shop.example/a#x?y", Some("https://shop.example/a?oc=T#x?y")),
            ("https://shop.example/a?b=1#/c?d", Some("https://shop.example/a?b=1&oc=T#/c?d")),
            ("http://127.0.0.1:8090/a", Some("http://127.0.0.1:8090/a?oc=T")),
            ("http://shop.example/", None),
            ("https://shop.example.evil.example/", None),
            ("https://www.shop.example/", None),
            ("https://shop.example:8443/", None),
            ("mailto:mei@shop.example", None),
            ("shop.example", None),
        ] {
            assert_eq!(with_visitor(target, &origins, || "T".to_owned()).as_deref(), expected, "{target}");
        }
    }

    proptest! {
        #[test]
        fn without_its_token_an_address_is_as_it_was(path in "[a-z/%.-]{0,12}", query in proptest::option::of("[a-z=%/+;-][a-z=&%/?+;-]{0,15}[a-z]"), fragment in proptest::option::of("[a-z?&=/-]{0,9}")) {
            let mut target = format!("https://shop.example/{path}");
            target.extend(query.iter().map(|query| format!("?{query}")));
            target.extend(fragment.iter().map(|fragment| format!("#{fragment}")));
            let led = with_visitor(&target, &["https://shop.example".to_owned()], || "T".to_owned()).expect("a listed origin");
            prop_assert_eq!(led.replacen("?oc=T", "", 1).replacen("&oc=T", "", 1), target);
        }
    }

    #[test]
    fn networks_have_a_limit_of_their_own() {
        let visits = Visits::default();
        let now = Time::from_millis(1_800_000_000_000);
        let admitted = |ip: &str, now: Time| (0..200).filter(|_| visits.admit(Some(ip), now)).count();
        assert_eq!(admitted("203.0.113.1", now), VISITS_A_MINUTE as usize);
        assert_eq!(admitted("203.0.113.2", now), VISITS_A_MINUTE as usize);
        assert_eq!(admitted("2001:db8::1", now), VISITS_A_MINUTE as usize);
        assert_eq!(admitted("2001:db8::2", now), 0, "one network");
        assert_eq!(admitted("203.0.113.1", now.plus(MINUTE)), VISITS_A_MINUTE as usize);
    }
}
