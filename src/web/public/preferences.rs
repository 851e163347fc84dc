//! The preference centre: what a person receives, how often, in which language, and what we may learn.
//!
//! Mails get forwarded, so the link of a mail is a right to take back and to ask, not to see or to allow: it
//! shows a masked address and no field of the profile, and whoever wants more than before (to be
//! tracked, to be profiled) gets a fresh link by mail first. That link ([`Purpose::Profile`]) goes only to
//! the address itself and works for a day; with it the profile is shown and may be changed, too.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use url::form_urlencoded;

use super::choices::{self, Choice};
use super::fields::{self, Asked, Input, Typed, Widget};
use super::{Page, Target, answer, foreign, gone, html, not_ours, sentence};
use crate::clock::{HOUR, Time};
use crate::consent::tracking::Why;
use crate::consent::{Frequency, Tracking};
use crate::contact::{self, Address, Contact};
use crate::delivery::messages::{Content, NewMessage, NotAccepted};
use crate::text::i18n::{Lang, Words, fill};
use crate::token::Purpose;
use crate::tracking;
use crate::web::seam::{Act, Change, Choices, Resubscribed, Standing, TopicStanding, Way};
use crate::web::visitor::Visitor;
use crate::web::{App, Shared};

/// Hours that a fresh link works at least.
const FRESH_HOURS: i64 = 24;
/// Who asks for the mails of this page, among the clients of the messages.
const CLIENT: &str = "optin:preferences";

/// Who came, by which link.
#[derive(Debug, Clone, Copy)]
struct Visit {
    target: Target,
    /// By a link that was mailed to the address itself within the last day.
    fresh: bool,
    /// By such a link, later than that.
    late: bool,
}

impl Visit {
    fn of(app: &App, token: &str) -> Option<Visit> {
        if let Some((target, _)) = Target::of(app, &[Purpose::Preferences], token) {
            return Some(Visit { target, fresh: false, late: false });
        }
        let fields = app.keys.verify(Purpose::Profile, token).ok()?;
        let [contact_id, expires] = <[i64; 2]>::try_from(fields).ok()?;
        let fresh = app.clock.now() < Time::from_millis(expires);
        Some(Visit { target: Target { contact_id, topic_id: 0, delivery_id: None }, fresh, late: !fresh })
    }
}

/// One topic as a part of the form.
struct Line {
    id: i64,
    title: String,
    description: String,
    ticked: bool,
    /// A remark below it, such as "waiting for your confirmation".
    note: Option<String>,
    /// How often and pauses, where the topic comes.
    often: Vec<Choice>,
    pauses: Vec<Choice>,
    /// What holds now: sent along, so that only what was touched changes.
    was_often: &'static str,
    was_pause: &'static str,
}

/// One way of being tracked.
struct Tracked {
    choice: Choice,
    help: &'static str,
}

#[derive(Template)]
#[template(path = "public/preferences.html")]
struct Form<'a> {
    page: Page<'a>,
    text: String,
    lines: Vec<Line>,
    /// For all topics at once, where more than one comes.
    all_often: Vec<Choice>,
    all_pauses: Vec<Choice>,
    /// The day of pauses "until the day below".
    day: String,
    tomorrow: String,
    wrong_day: bool,
    languages: Vec<Choice>,
    was_language: &'static str,
    tracking: Vec<Tracked>,
    /// Why somebody is tracked so.
    why: String,
    was_tracking: &'static str,
    profiling_refused: bool,
    was_profiling: &'static str,
    /// The profile, for whoever came by a fresh link.
    inputs: Vec<Input>,
    /// What is said instead of it; empty where there is no profile, or it is shown.
    profile_hidden: String,
    /// Something can be withdrawn.
    subscribed: bool,
    /// Where requests for a copy or erasure go.
    data: String,
    data_text: String,
    /// What the last POST did, or why it did nothing.
    notices: Vec<String>,
    wrong: bool,
}

/// A form as sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sent {
    /// Topics that stood on the page: only they can be unticked.
    shown: BTreeSet<i64>,
    ticked: BTreeSet<i64>,
    leave_all: bool,
    wants_profile: bool,
    pairs: Vec<(String, String)>,
}

impl Sent {
    fn of(body: &[u8]) -> Sent {
        let mut sent = Sent::default();
        for (name, value) in form_urlencoded::parse(body) {
            match (name.as_ref(), value.parse::<i64>()) {
                ("shown", Ok(id)) => drop(sent.shown.insert(id)),
                ("topic", Ok(id)) => drop(sent.ticked.insert(id)),
                ("leave", Err(_)) if value == "all" => sent.leave_all = true,
                ("action", Err(_)) if value == "profile" => sent.wants_profile = true,
                _ => sent.pairs.push((name.into_owned(), value.into_owned())),
            }
        }
        sent
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A field that says otherwise than the page did when it was shown: what a person did not touch stays as it
    /// is now, also where that changed since.
    fn touched(&self, name: &str) -> Option<&str> {
        self.field(name).filter(|value| self.field(&format!("was.{name}")) != Some(value))
    }

    fn day(&self) -> &str {
        self.field("day").unwrap_or_default()
    }

    /// What is asked about a topic: its own choice, else the one for all of them.
    fn of_topic(&self, name: &str, topic_id: i64) -> Option<&str> {
        self.touched(&format!("{name}.{topic_id}")).or_else(|| self.field(&format!("{name}.all")).filter(|value| !value.is_empty()))
    }

    fn typed(&self) -> Typed {
        Typed::of_form(self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
}

/// `GET /p/{token}`: shows where the person stands.
pub(in crate::web) async fn page(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor) -> Response {
    let Some(visit) = Visit::of(&app, &token) else { return not_ours(&app, &visitor) };
    let after =
        After { notices: &|words, _| if visit.late { vec![words.prefs_link_old.to_owned()] } else { Vec::new() }, ..After::nothing() };
    answer(&app, &visitor, Some(visit.target.mailto(&app)), form(&app, &visitor, visit, after)).await
}

/// `POST /p/{token}`: makes what was changed on the page true, all of it or nothing.
pub(in crate::web) async fn submit(State(app): State<Shared>, Path(token): Path<String>, visitor: Visitor, body: Bytes) -> Response {
    let Some(visit) = Visit::of(&app, &token) else { return not_ours(&app, &visitor) };
    if visitor.foreign {
        return foreign(&app, &visitor);
    }
    let sent = Sent::of(&body);
    answer(&app, &visitor, Some(visit.target.mailto(&app)), save(&app, visitor.clone(), visit, &sent)).await
}

async fn save(app: &App, mut visitor: Visitor, visit: Visit, sent: &Sent) -> anyhow::Result<Response> {
    let Some(contact) = read_contact(app, visit).await? else { return Ok(gone(app, &visitor)) };
    if sent.wants_profile {
        mail_fresh_link(app, &visitor, &contact).await?;
        let notices = |words: &Words, contact: &Contact| vec![sentence(words.prefs_profile_sent, "", contact)];
        return form(app, &visitor, visit, After { notices: &notices, ..After::nothing() }).await;
    }
    let lang = visitor.lang(&app.languages, contact.locale.as_deref());
    let before = app.permission.standings(visit.target.contact_id).await?;
    let Some(choices) = app.permission.choices(visit.target.contact_id).await? else { return Ok(gone(app, &visitor)) };
    let plan = match plan(app, visit, sent, &contact, &before, &choices, lang) {
        Ok(plan) => plan,
        Err(wrong) => {
            let notices = |words: &Words, _: &Contact| vec![words.prefs_wrong.to_owned()];
            return form(app, &visitor, visit, After { notices: &notices, sent: Some(sent), wrong: Some(wrong) }).await;
        }
    };
    let done = carry_out(app, &visitor, visit.target, &plan, &before).await?;
    if plan.more {
        mail_fresh_link(app, &visitor, &contact).await?;
    }
    if done.iter().any(|done| matches!(done, Done::Changed(Change::Locale(_)))) {
        // From here on the page speaks the language that was chosen, not the one of its address.
        visitor = visitor.without_choice();
    }
    let language = visitor.lang(&app.languages, None);
    let notices = |words: &Words, contact: &Contact| {
        let lang = contact.locale.as_deref().and_then(|tag| app.languages.find(tag)).unwrap_or(language);
        notices(app, words, lang, contact, &before, &done, &plan)
    };
    form(app, &visitor, visit, After { notices: &notices, ..After::nothing() }).await
}

/// What is to be done.
#[derive(Debug, Default)]
struct Plan {
    leave_all: bool,
    leave: Vec<i64>,
    join: Vec<i64>,
    changes: Vec<Change>,
    /// More was asked for than the link allows.
    more: bool,
}

/// What cannot be saved as it was sent.
#[derive(Debug, Default)]
struct Wrong {
    day: bool,
    fields: BTreeMap<String, String>,
}

fn plan(
    app: &App,
    visit: Visit,
    sent: &Sent,
    contact: &Contact,
    before: &[TopicStanding],
    choices: &Choices,
    lang: Lang,
) -> Result<Plan, Wrong> {
    let mut plan = Plan { leave_all: sent.leave_all, ..Plan::default() };
    let mut wrong = Wrong::default();
    if sent.leave_all {
        return Ok(plan);
    }
    for topic in before {
        let ticked = sent.ticked.contains(&topic.topic_id);
        if topic.standing.can_withdraw() && sent.shown.contains(&topic.topic_id) && !ticked {
            plan.leave.push(topic.topic_id);
        } else if topic.standing.can_withdraw() {
            plan_topic(app, sent, contact, topic, &mut plan, &mut wrong);
        } else if ticked && app.topics.contains_key(&topic.topic) {
            plan.join.push(topic.topic_id);
        }
    }
    if let Some(lang) = sent.touched("language").and_then(|tag| app.languages.find(tag)) {
        plan.changes.push(Change::Locale(lang.tag().to_owned()));
    }
    if let Some(tracking) = sent.touched("tracking").and_then(Tracking::from_stored).filter(|tracking| *tracking != choices.tracking) {
        // In the order of `Tracking`, more comes first.
        if tracking > choices.tracking || visit.fresh { plan.changes.push(Change::Tracking(tracking)) } else { plan.more = true }
    }
    if sent.field("was.profiling").is_some() {
        let refused = sent.field("profiling") == Some("refused");
        if refused != choices.profiling_refused && sent.field("was.profiling") != Some(if refused { "refused" } else { "allowed" }) {
            if refused || visit.fresh { plan.changes.push(Change::Profiling { refused }) } else { plan.more = true }
        }
    }
    if visit.fresh && sent.field("profile").is_some() {
        let read = fields::read(&asked(app), &sent.typed(), &app.schema, &app.languages, lang);
        wrong.fields = read.errors;
        plan.changes.push(Change::Profile { values: read.values, emptied: read.emptied });
    }
    if wrong.day || !wrong.fields.is_empty() { Err(wrong) } else { Ok(plan) }
}

/// Frequency and pause of a topic that comes.
fn plan_topic(app: &App, sent: &Sent, contact: &Contact, topic: &TopicStanding, plan: &mut Plan, wrong: &mut Wrong) {
    let topic_id = topic.topic_id;
    if let Some(often) = sent.of_topic("often", topic_id) {
        let frequency = Frequency::from_stored(often);
        if (frequency.is_some() || often == "every") && frequency != topic.frequency {
            plan.changes.push(Change::Frequency { topic_id, frequency });
        }
    }
    match sent.of_topic("pause", topic_id) {
        None | Some("keep") => {}
        Some("none") if topic.standing == Standing::Paused => plan.changes.push(Change::Resume { topic_id }),
        Some("none") => {}
        Some(_) if topic.standing == Standing::Pending => {}
        Some(span) => match choices::pause_end(span, sent.day(), contact, app.clock.now()) {
            Some(until) => plan.changes.push(Change::Pause { topic_id, until }),
            None => wrong.day = true,
        },
    }
}

/// What was done.
#[derive(Debug)]
enum Done {
    LeftAll,
    Left(i64),
    Joined(i64),
    /// A confirmation mail goes out first.
    Asked(i64),
    Changed(Change),
}

/// Makes a plan true, in one transaction.
async fn carry_out(app: &App, visitor: &Visitor, target: Target, plan: &Plan, before: &[TopicStanding]) -> anyhow::Result<Vec<Done>> {
    let act: Act = target.act(app.clock.now(), Way::Preferences, visitor);
    let mut done = Vec::new();
    let mut tx = app.db.begin().await?;
    if plan.leave_all && app.permission.withdraw_all(&mut tx, &act).await? {
        done.push(Done::LeftAll);
    }
    for topic_id in &plan.leave {
        if app.permission.withdraw(&mut tx, &act, *topic_id).await? {
            done.push(Done::Left(*topic_id));
        }
    }
    let from_mail = done.iter().any(|done| matches!(done, Done::LeftAll) || matches!(done, Done::Left(id) if *id == target.topic_id));
    if let (true, Some(delivery_id)) = (from_mail, target.delivery_id) {
        tracking::ops::note_unsubscribe(&mut tx, delivery_id, target.contact_id, act.at, act.way.text()).await?;
    }
    for topic_id in &plan.join {
        let pending = before.iter().any(|topic| topic.topic_id == *topic_id && topic.standing == Standing::Pending);
        match app.permission.resubscribe(&mut tx, &act, *topic_id).await? {
            Resubscribed::Pending => done.push(Done::Asked(*topic_id)),
            Resubscribed::Before if !pending => done.push(Done::Joined(*topic_id)),
            Resubscribed::Before => {}
        }
    }
    for change in &plan.changes {
        if app.permission.change(&mut tx, &act, change).await? {
            done.push(Done::Changed(change.clone()));
        }
    }
    tx.commit().await?;
    Ok(done)
}

/// What a page says after it: exactly what changed, and what waits.
fn notices(app: &App, words: &Words, lang: Lang, contact: &Contact, before: &[TopicStanding], done: &[Done], plan: &Plan) -> Vec<String> {
    let title = |id: &i64| before.iter().find(|topic| topic.topic_id == *id).map_or("", |topic| choices::title(app, lang, &topic.topic));
    let about = |text: &str, id: &i64, more: (&str, &str)| fill(text, &[("topic", title(id)), more]);
    let said: Vec<String> = done
        .iter()
        .map(|done| match done {
            Done::LeftAll => words.changed_left_all.to_owned(),
            Done::Left(id) => about(words.changed_left, id, ("", "")),
            Done::Joined(id) => about(words.changed_joined, id, ("", "")),
            Done::Asked(id) => about(words.preferences_confirm_first, id, ("", "")),
            Done::Changed(Change::Pause { topic_id, until }) => {
                about(words.changed_paused, topic_id, ("date", &choices::day(*until, contact)))
            }
            Done::Changed(Change::Resume { topic_id }) => about(words.changed_resumed, topic_id, ("", "")),
            Done::Changed(Change::Frequency { topic_id, frequency }) => {
                about(words.changed_often, topic_id, ("often", choices::often(words, *frequency)))
            }
            Done::Changed(Change::Tracking(tracking)) => {
                fill(words.changed_tracking, &[("tracking", choices::tracked(words, *tracking).0)])
            }
            Done::Changed(Change::Profiling { refused: true }) => words.changed_profiling_refused.to_owned(),
            Done::Changed(Change::Profiling { refused: false }) => words.changed_profiling_allowed.to_owned(),
            Done::Changed(Change::Locale(_)) => fill(words.changed_language, &[("language", lang.name())]),
            Done::Changed(Change::Profile { .. }) => words.changed_profile.to_owned(),
        })
        .collect();
    let mut out = Vec::new();
    if done.iter().any(|done| !matches!(done, Done::Asked(_))) {
        out.push(words.preferences_saved.to_owned());
    }
    out.extend(said);
    if plan.more {
        out.push(sentence(words.prefs_more_by_mail, "", contact));
    }
    if done.iter().any(|done| matches!(done, Done::LeftAll | Done::Left(_))) {
        out.push(words.done_on_its_way.to_owned());
    }
    if out.is_empty() {
        out.push(words.preferences_unchanged.to_owned());
    }
    out
}

/// Mails the link that shows the profile and allows more, once an hour at most: to the address itself, so
/// that whoever a mail was forwarded to never sees it.
async fn mail_fresh_link(app: &App, visitor: &Visitor, contact: &Contact) -> anyhow::Result<()> {
    let Some(intake) = &app.intake else { return Ok(()) };
    let now = app.clock.now();
    // The same link within an hour, so that asking again is the same request.
    let hour = now.millis() / HOUR;
    let token = app.keys.sign(Purpose::Profile, &[contact.id, (hour + 1 + FRESH_HOURS) * HOUR]);
    let lang = visitor.lang(&app.languages, contact.locale.as_deref());
    let words = lang.words();
    let content = Content::Inline {
        subject: words.profile_mail_subject.to_owned(),
        html: None,
        text: Some(fill(words.profile_mail_text, &[("link", &format!("{}/p/{token}", app.site))])),
    };
    let message = NewMessage {
        client: CLIENT.to_owned(),
        idempotency_key: Some(format!("profile {} {hour}", contact.id)),
        to: Address::parse(&contact.email).map_err(|error| anyhow::anyhow!("a stored address cannot be read: {error}"))?,
        content,
        locale: None,
        expires_hours: Some(FRESH_HOURS as u32),
        at: None,
    };
    match intake.accept(&message, now).await {
        // In another language: the first one is on its way.
        Ok(_) | Err(NotAccepted::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn read_contact(app: &App, visit: Visit) -> anyhow::Result<Option<Contact>> {
    Ok(contact::sql::by_ids(&mut app.db.clone(), &app.schema, &[visit.target.contact_id]).await?.pop())
}

/// The fields of the profile that people may change. (The language has a place of its own on the page.)
fn asked(app: &App) -> Vec<Asked<'_>> {
    app.profile.iter().filter(|field| field.editable && field.name != "locale").map(|field| Asked { field, required: false }).collect()
}

/// What a page knows beside the database.
struct After<'a> {
    notices: &'a (dyn Fn(&Words, &Contact) -> Vec<String> + Sync),
    /// A form that could not be saved: it is shown as it was sent.
    sent: Option<&'a Sent>,
    wrong: Option<Wrong>,
}

impl After<'_> {
    fn nothing() -> Self {
        After { notices: &|_, _| Vec::new(), sent: None, wrong: None }
    }
}

async fn form(app: &App, visitor: &Visitor, visit: Visit, after: After<'_>) -> anyhow::Result<Response> {
    let Some(contact) = read_contact(app, visit).await? else { return Ok(gone(app, visitor)) };
    let Some(chosen) = app.permission.choices(contact.id).await? else { return Ok(gone(app, visitor)) };
    let standings = app.permission.standings(contact.id).await?;
    let page = Page::new(app, visitor, contact.locale.as_deref(), |words| words.preferences_title.to_owned());
    let words = page.words();
    let blank = Sent::default();
    let sent = after.sent.unwrap_or(&blank);
    let lines: Vec<Line> = standings.iter().filter_map(|topic| line(app, &page, topic, &contact, after.sent)).collect();
    let come = lines.iter().filter(|line| !line.often.is_empty()).count();
    let text = if lines.is_empty() { words.preferences_nothing.to_owned() } else { sentence(words.preferences_text, "", &contact) };
    let tracking_now = sent.field("tracking").and_then(Tracking::from_stored).unwrap_or(chosen.tracking);
    let profile = asked(app);
    let wrong = after.wrong.unwrap_or_default();
    let (mut inputs, mut profile_hidden) = (Vec::new(), String::new());
    if visit.fresh {
        let typed = if after.sent.is_some() { sent.typed() } else { Typed::of_contact(&contact, profile.iter().map(|asked| asked.field)) };
        inputs = fields::inputs(&profile, &typed, &wrong.fields, &app.languages, page.lang);
    } else if !profile.is_empty() {
        profile_hidden = sentence(words.prefs_profile_hidden, "", &contact);
    }
    let language = contact.locale.as_deref().and_then(|tag| app.languages.find(tag)).unwrap_or(page.lang);
    let is_wrong = wrong.day || !wrong.fields.is_empty();
    let notices = (after.notices)(words, &contact);
    let form = Form {
        text,
        lines,
        all_often: if come > 1 {
            for_all(words, choices::frequencies(words), words.often_every, "every", sent.field("often.all"))
        } else {
            Vec::new()
        },
        all_pauses: if come > 1 {
            for_all(words, with_day(words, choices::spans(words)), words.prefs_resume_all, "none", sent.field("pause.all"))
        } else {
            Vec::new()
        },
        day: sent.day().to_owned(),
        tomorrow: choices::tomorrow(app.clock.now(), &contact),
        wrong_day: wrong.day,
        languages: app
            .languages
            .all()
            .map(|lang| Choice::new(lang.tag(), lang.name(), sent.field("language").unwrap_or(language.tag()) == lang.tag()))
            .collect(),
        was_language: language.tag(),
        tracking: Tracking::ALL
            .into_iter()
            .map(|tracking| {
                let (label, help) = choices::tracked(words, tracking);
                Tracked { choice: Choice::new(tracking.as_str(), label, tracking == tracking_now), help }
            })
            .collect(),
        why: match &chosen.why {
            Why::Chosen => words.tracking_chosen.to_owned(),
            Why::Country(country) => fill(words.tracking_of_country, &[("country", country)]),
            Why::Instance => words.tracking_of_instance.to_owned(),
        },
        was_tracking: chosen.tracking.as_str(),
        was_profiling: if chosen.profiling_refused { "refused" } else { "allowed" },
        profiling_refused: if after.sent.is_some() { sent.field("profiling") == Some("refused") } else { chosen.profiling_refused },
        inputs,
        profile_hidden,
        subscribed: standings.iter().any(|topic| topic.standing.can_withdraw()),
        data: super::preferences_address(app, visit.target, &page).replacen(&page.query(), "", 1) + "/data" + &page.query(),
        data_text: sentence(words.prefs_data_text, "", &contact),
        notices,
        wrong: is_wrong,
        page,
    };
    Ok(html(if is_wrong { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }, &form))
}

/// Choices for all topics: first "as above", then the one that undoes, then the others.
fn for_all(words: &Words, rest: Vec<Choice>, undo: &str, undo_value: &str, sent: Option<&str>) -> Vec<Choice> {
    let mut out = vec![Choice::new("", words.prefs_as_above, false), Choice::new(undo_value, undo, false)];
    out.extend(rest);
    mark(&mut out, sent.unwrap_or_default());
    out
}

fn with_day(words: &Words, mut spans: Vec<Choice>) -> Vec<Choice> {
    spans.push(Choice::new("day", words.pause_day, false));
    spans
}

fn mark(choices: &mut [Choice], value: &str) {
    choices.iter_mut().for_each(|choice| choice.chosen = choice.value == value);
}

/// A topic's line; a topic that left the configuration shows only while it can be withdrawn.
fn line(app: &App, page: &Page<'_>, topic: &TopicStanding, contact: &Contact, sent: Option<&Sent>) -> Option<Line> {
    let configured = app.topics.get(&topic.topic);
    if configured.is_none() && !topic.standing.can_withdraw() {
        return None;
    }
    let words = page.words();
    let id = topic.topic_id;
    let paused = topic.standing == Standing::Paused;
    let until = |text: &str| {
        let in_words = |until| fill(text, &[("date", &choices::day(until, contact))]);
        topic.until.map_or(words.pause_open.to_owned(), in_words)
    };
    let note = match topic.standing {
        Standing::Pending => Some(words.preferences_pending.to_owned()),
        Standing::Paused => Some(until(words.pause_keep)),
        Standing::None | Standing::Subscribed | Standing::Unsubscribed => None,
    };
    let (mut often, mut pauses) = (Vec::new(), Vec::new());
    if paused || topic.standing == Standing::Subscribed {
        often.push(Choice::new("every", words.often_every, false));
        often.extend(choices::frequencies(words));
        mark(
            &mut often,
            sent.and_then(|sent| sent.field(&format!("often.{id}"))).unwrap_or(topic.frequency.map_or("every", Frequency::as_str)),
        );
        if paused {
            pauses.push(Choice::new("keep", until(words.pause_until), false));
        }
        pauses.push(Choice::new("none", words.pause_none, false));
        pauses.extend(with_day(words, choices::spans(words)));
        mark(&mut pauses, sent.and_then(|sent| sent.field(&format!("pause.{id}"))).unwrap_or(if paused { "keep" } else { "none" }));
    }
    Some(Line {
        id,
        title: choices::title(app, page.lang, &topic.topic).to_owned(),
        description: configured.map(|topic| topic.description_in(page.lang.tag()).to_owned()).unwrap_or_default(),
        ticked: sent.map_or(topic.standing.can_withdraw(), |sent| sent.ticked.contains(&id)),
        note,
        often,
        pauses,
        was_often: topic.frequency.map_or("every", Frequency::as_str),
        was_pause: if paused { "keep" } else { "none" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_and_nonsense_in_it_left_out() {
        let sent =
            Sent::of(b"shown=1&shown=2&topic=2&topic=x&leave=none&shown=&often.1=weekly&was.often.1=every&pause.2=none&was.pause.2=none");
        assert_eq!((sent.shown.clone(), sent.ticked.clone(), sent.leave_all), ([1, 2].into(), [2].into(), false));
        assert_eq!((sent.of_topic("often", 1), sent.of_topic("pause", 2), sent.of_topic("often", 2)), (Some("weekly"), None, None));
        assert!(Sent::of(b"leave=all").leave_all);
        let all = Sent::of(b"often.1=every&was.often.1=every&often.all=monthly&pause.all=");
        assert_eq!(
            (all.of_topic("often", 1), all.of_topic("often", 7), all.of_topic("pause", 1)),
            (Some("monthly"), Some("monthly"), None)
        );
    }
}
