//! The preference page: which topics a person receives.

use std::collections::BTreeSet;

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use url::form_urlencoded;

use super::{Page, Target, answer, gone, html, not_ours, person, sentence, topic_title};
use crate::text::i18n::fill;
use crate::token::Purpose;
use crate::tracking;
use crate::web::seam::{Resubscribed, Standing, TopicStanding, Way};
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

const PURPOSES: &[Purpose] = &[Purpose::Preferences];

/// One topic as a line of the form.
struct Line {
    id: i64,
    title: String,
    description: String,
    ticked: bool,
    /// A remark below, such as "waiting for your confirmation".
    note: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "public/preferences.html")]
struct Form<'a> {
    page: Page<'a>,
    text: String,
    lines: Vec<Line>,
    /// Something can be withdrawn.
    subscribed: bool,
    /// What the last POST did.
    notices: Vec<String>,
}

/// A form as sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Choice {
    /// Topics that stood on the page: only they can be unticked.
    shown: BTreeSet<i64>,
    ticked: BTreeSet<i64>,
    leave_all: bool,
}

impl Choice {
    fn of(body: &[u8]) -> Choice {
        let mut choice = Choice::default();
        for (name, value) in form_urlencoded::parse(body) {
            match (name.as_ref(), value.parse::<i64>()) {
                ("shown", Ok(id)) => drop(choice.shown.insert(id)),
                ("topic", Ok(id)) => drop(choice.ticked.insert(id)),
                ("leave", Err(_)) if value == "all" => choice.leave_all = true,
                _ => {}
            }
        }
        choice
    }
}

/// `GET /p/{token}`: shows where the person stands.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    let Some((target, _)) = Target::of(&app, PURPOSES, &token) else { return not_ours(&app, &visitor) };
    answer(&app, &visitor, Some(target.mailto(&app)), form(&app, &visitor, target, |_| Vec::new())).await
}

/// `POST /p/{token}`: withdraws what was unticked; what was newly ticked waits for a confirmation
/// mail, so that a forwarded letter cannot subscribe its owner to anything.
pub(in crate::web) async fn submit(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor, body: Bytes) -> Response {
    let Some((target, _)) = Target::of(&app, PURPOSES, &token) else { return not_ours(&app, &visitor) };
    let choice = Choice::of(&body);
    let work = async {
        if person(&mut app.db.clone(), target.contact_id).await?.is_none() {
            return Ok(gone(&app, &visitor));
        }
        let before = app.permission.standings(target.contact_id).await?;
        let (withdrawn, pending) = apply(&app, &visitor, target, &choice, &before).await?;
        form(&app, &visitor, target, |page| {
            let words = page.words();
            let mut notices: Vec<String> =
                pending.iter().map(|topic| fill(words.preferences_confirm_first, &[("topic", topic_title(&app, topic))])).collect();
            if withdrawn {
                notices.insert(0, words.preferences_saved.to_owned());
                notices.push(words.done_on_its_way.to_owned());
            } else if notices.is_empty() {
                notices.push(words.preferences_unchanged.to_owned());
            }
            notices
        })
        .await
    };
    answer(&app, &visitor, Some(target.mailto(&app)), work).await
}

/// Makes the choice true. Answers whether something was withdrawn, and which topics now wait for a
/// confirmation.
async fn apply(
    app: &App,
    visitor: &Visitor,
    target: Target,
    choice: &Choice,
    before: &[TopicStanding],
) -> anyhow::Result<(bool, Vec<String>)> {
    let act = target.act(app.clock.now(), Way::Preferences, visitor);
    let mut tx = app.db.begin().await?;
    let (mut withdrawn, mut withdrawn_from_mail, mut pending) = (false, false, Vec::new());
    if choice.leave_all {
        withdrawn = app.permission.withdraw_all(&mut tx, &act).await?;
        withdrawn_from_mail = withdrawn;
    } else {
        for topic in before {
            let (id, ticked) = (topic.topic_id, choice.ticked.contains(&topic.topic_id));
            if choice.shown.contains(&id) && !ticked && topic.standing.can_withdraw() {
                let changed = app.permission.withdraw(&mut tx, &act, id).await?;
                withdrawn |= changed;
                withdrawn_from_mail |= changed && id == target.topic_id;
            } else if ticked && !topic.standing.can_withdraw() && app.topics.contains_key(&topic.topic) {
                let answer = app.permission.resubscribe(&mut tx, &act, id).await?;
                if answer == Resubscribed::Pending {
                    pending.push(topic.topic.clone());
                }
            }
        }
    }
    if let (true, Some(delivery_id)) = (withdrawn_from_mail, target.delivery_id) {
        tracking::ops::note_unsubscribe(&mut tx, delivery_id, target.contact_id, act.at, act.way.text()).await?;
    }
    tx.commit().await?;
    Ok((withdrawn, pending))
}

async fn form(app: &App, visitor: &Visitor, target: Target, notices: impl FnOnce(&Page<'_>) -> Vec<String>) -> anyhow::Result<Response> {
    let Some(contact) = person(&mut app.db.clone(), target.contact_id).await? else { return Ok(gone(app, visitor)) };
    let standings = app.permission.standings(target.contact_id).await?;
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.preferences_title.to_owned());
    let lines: Vec<Line> = standings.iter().filter_map(|topic| line(app, &page, topic)).collect();
    let text =
        if lines.is_empty() { page.words().preferences_nothing.to_owned() } else { sentence(page.words().preferences_text, "", &contact) };
    let subscribed = standings.iter().any(|topic| topic.standing.can_withdraw());
    let notices = notices(&page);
    Ok(html(StatusCode::OK, &Form { text, lines, subscribed, notices, page }))
}

/// A topic's line; a topic that left the configuration shows only while it can be withdrawn.
fn line(app: &App, page: &Page<'_>, topic: &TopicStanding) -> Option<Line> {
    let configured = app.topics.get(&topic.topic);
    if configured.is_none() && !topic.standing.can_withdraw() {
        return None;
    }
    let note = match topic.standing {
        Standing::Pending => Some(page.words().preferences_pending),
        Standing::Paused => Some(page.words().preferences_paused),
        Standing::None | Standing::Subscribed | Standing::Unsubscribed => None,
    };
    Some(Line {
        id: topic.topic_id,
        title: topic_title(app, &topic.topic).to_owned(),
        description: configured.map(|topic| topic.description.clone()).unwrap_or_default(),
        ticked: topic.standing.can_withdraw(),
        note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_and_nonsense_in_it_left_out() {
        let choice = Choice::of(b"shown=1&shown=2&topic=2&topic=x&leave=none&shown=&other=3");
        assert_eq!(choice, Choice { shown: [1, 2].into(), ticked: [2].into(), leave_all: false });
        assert!(Choice::of(b"leave=all").leave_all);
    }
}
