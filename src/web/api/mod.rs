//! The API: JSON over HTTP for programs that hold a token. Every answer is JSON, also an error:
//! `{"error":{"code","message","hint"}}`, with `field` where one field is to blame.

mod body;
mod contacts;
mod events;
mod messages;
mod once;
mod openapi;
mod subscriptions;
pub mod tokens;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::{Value, json};

use super::{App, Shared};
use crate::db::DbError;

/// Most bytes of a request: the biggest honest message (HTML and text as long as they may be, quoted
/// as JSON) fits.
const BODY_BYTES: usize = 1024 * 1024;
/// When to come back after the database was away, in seconds.
const RETRY_SECONDS: &str = "10";

/// One address of the API.
struct Route {
    path: &'static str,
    /// As in the description, lower case.
    methods: &'static [&'static str],
    handler: MethodRouter<Shared>,
}

fn table() -> Vec<Route> {
    vec![
        Route { path: "/api/v1/messages", methods: &["post"], handler: post(messages::accept) },
        Route { path: "/api/v1/messages/{id}", methods: &["get"], handler: get(messages::show) },
        Route {
            path: "/api/v1/subscriptions",
            methods: &["post", "delete"],
            handler: post(subscriptions::subscribe).delete(subscriptions::withdraw),
        },
        Route { path: "/api/v1/subscriptions/withdraw", methods: &["post"], handler: post(subscriptions::withdraw) },
        Route { path: "/api/v1/contacts", methods: &["post"], handler: post(contacts::save) },
        Route { path: "/api/v1/contacts/{contact}", methods: &["get"], handler: get(contacts::show) },
        Route { path: "/api/v1/events", methods: &["post"], handler: post(events::record) },
        Route { path: "/api/v1/openapi.json", methods: &["get"], handler: get(openapi::document) },
    ]
}

/// Every address of the API.
pub(super) fn routes() -> Router<Shared> {
    let mut router = Router::new();
    for route in table() {
        let allow = HeaderValue::from_str(&route.methods.join(", ").to_uppercase()).expect("methods are ASCII");
        router = router.route(route.path, route.handler.fallback(move || wrong_method(allow.clone())));
    }
    router.route("/api/{*rest}", axum::routing::any(no_such_address)).layer(DefaultBodyLimit::max(BODY_BYTES))
}

async fn wrong_method(allow: HeaderValue) -> Response {
    let error = Error::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address does not take that method");
    let mut response = error.hint(format!("use {}", allow.to_str().unwrap_or_default())).into_response();
    response.headers_mut().insert(ALLOW, allow);
    response
}

async fn no_such_address() -> Error {
    Error::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address").hint("`/api/v1/openapi.json` lists what there is")
}

/// An answer of JSON.
struct Json(Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.0.to_string()).into_response()
    }
}

/// An error as callers see it.
#[derive(Debug)]
struct Error {
    status: StatusCode,
    /// For programs: stable.
    code: &'static str,
    message: String,
    hint: Option<String>,
    field: Option<String>,
    /// When to come back, in seconds.
    retry_seconds: Option<i64>,
}

impl Error {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Error { status, code, message: message.into(), hint: None, field: None, retry_seconds: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "cannot answer a request of the API");
        Error::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the database does not answer")
            .hint("repeat the request with the same Idempotency-Key")
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message, "hint": self.hint });
        if let Some(field) = self.field {
            error["field"] = Value::String(field);
        }
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"optin\""));
        }
        if let Some(seconds) = self.retry_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response
    }
}

/// The instance behind the API.
fn instance(app: &App) -> Result<&crate::instance::Instance, Error> {
    app.instance.as_deref().ok_or_else(|| {
        Error::new(StatusCode::NOT_FOUND, "not_found", "this server has no contacts").hint("`optin serve` runs one that does")
    })
}

/// The client behind a request, if its token has `scope`.
async fn client(app: &App, headers: &HeaderMap, scope: &str) -> Result<tokens::Client, Error> {
    let missing = |message: &str| {
        Error::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .hint("send `Authorization: Bearer TOKEN`; `optin token create --scope SCOPE --name NAME` makes a token")
    };
    let header = headers.get("authorization").ok_or_else(|| missing("the request has no token"))?;
    let token = header.to_str().ok().and_then(|text| text.split_once(' '));
    let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(missing("the Authorization header is no bearer token"));
    };
    let Some(client) = tokens::find(&mut app.db.clone(), token.trim()).await? else {
        return Err(missing("this token is unknown or revoked"));
    };
    if !client.scopes.iter().any(|has| has == scope) {
        let message = format!("this token has no scope `{scope}`");
        return Err(Error::new(StatusCode::FORBIDDEN, "forbidden", message).hint(format!("make one with `--scope {scope}`")));
    }
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_every_address_and_no_other() {
        let described = openapi::description();
        let mut ours: Vec<(String, String)> =
            table().iter().flat_map(|route| route.methods.iter().map(|method| (route.path.to_owned(), (*method).to_owned()))).collect();
        let paths = described["paths"].as_object().expect("paths");
        let mut theirs: Vec<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| item.as_object().expect("a path").keys().map(|method| (path.clone(), method.clone())))
            .collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn every_reference_of_the_description_leads_somewhere() {
        let described = openapi::description();
        let text = described.to_string();
        let references: Vec<&str> = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(references.len() > 3);
        for reference in references {
            assert!(described.pointer(reference).is_some(), "{reference}");
        }
    }
}
