//! A sent mail as a web page.

use axum::extract::{Path, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::{Mark, Message, Page, answer, html, not_ours};
use crate::token::Purpose;
use crate::web::Shared;
use crate::web::visitor::Visitor;

/// A mail may show images and its own styles. It runs no script, sends no form, and stands in an
/// origin of its own, so that it can do nothing to our pages.
const POLICY: &str = "default-src 'none'; img-src http: https: data:; style-src 'unsafe-inline'; font-src https: data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      sandbox allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation";

/// `GET /v/{token}`: the mail as it was sent, or a page that says it is gone.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    let delivery_id = match app.keys.verify(Purpose::View, &token).as_deref() {
        Ok([delivery_id]) => *delivery_id,
        _ => return not_ours(&app, &visitor),
    };
    let work = async {
        if let Some(mail) = app.views.view(delivery_id).await? {
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
                (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            ];
            return Ok((headers, mail).into_response());
        }
        let page = Page::new(&app, &visitor, None, |words| words.view_gone_title.to_owned());
        let paragraphs = vec![page.words().view_gone_text.to_owned()];
        Ok(html(StatusCode::GONE, &Message { page, mark: Mark::Quiet, paragraphs, link: None }))
    };
    answer(&app, &visitor, None, work).await
}
