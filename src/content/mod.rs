//! What it says: a campaign's definition becomes a prepared template once, and a mail per person.
//!
//! [`prepare`] does all that is the same for everybody, in this order: find the mistakes of the
//! templates; keep their tags out of the way (`vault`); Markdown, MJML or HTML (`markdown`,
//! `markup`); the layout (`frame`); CSS into the elements; links, preheader, pixel (`links`); the
//! text part (`plain_text`); compile. [`Prepared::render`] merges one person's fields and puts in
//! their personal links.
//!
//! What marketers may rely on in a body:
//! - fields of the person and campaign, escaped for where they stand: `{{ contact.first_name }}`;
//! - a field that is not set prints nothing, is false in `{% if %}`, takes `default('..')`;
//! - `{% if %}`, `{% for %}` on lines of their own, also around list items and table rows;
//! - in Markdown, a paragraph that is only a bold link (`**[Order now](https://..)**`) is a button.

mod check;
mod context;
mod environment;
mod frame;
mod lawful;
mod links;
pub mod lint;
mod markdown;
mod markup;
pub mod message;
mod parameters;
mod plain_text;
mod prepare;
mod problem;
mod render;
pub mod system;
mod template;
#[cfg(test)]
mod tests;
mod vault;

pub use frame::{LAYOUTS, MESSAGE_LAYOUT};
pub use lawful::FrameSettings;
pub use links::MAX_LINKS;
pub(crate) use parameters::is_personal_page;
pub use prepare::{Prepared, prepare};
pub use problem::{ContentProblem, Part, RenderError};

use crate::clock::Time;
use crate::consent::Grounds;
use crate::contact::Contact;

/// Which of the two kinds of mail a content is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Mail people subscribed to.
    Campaigns,
    /// Transactional messages.
    Messages,
    /// Templates of messages, sent to whoever has just subscribed: they say how to leave.
    Welcomes,
}

impl Lane {
    /// The layouts that come with optin.
    fn layouts(self) -> &'static [&'static str] {
        match self {
            Lane::Campaigns => LAYOUTS,
            Lane::Messages | Lane::Welcomes => &[MESSAGE_LAYOUT],
        }
    }
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lane::Campaigns => "campaigns",
            Lane::Messages | Lane::Welcomes => "messages",
        })
    }
}

/// One link of a prepared campaign that is tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Number within the campaign, from 0, in the order of the HTML part.
    pub position: i64,
    /// Its address as written (may hold merge fields).
    pub url: String,
    /// For people: what its author called it (`data-name`, in Markdown the title `name: hero`), else its text, else its
    /// address.
    pub name: String,
}

/// Makes the addresses that are personal to one delivery.
pub trait LinkMaker {
    /// Unsubscribe page, for the body.
    fn unsubscribe(&self) -> String;
    /// Preference centre.
    fn preferences(&self) -> String;
    /// The mail as a web page.
    fn view(&self) -> String;
    /// The image that records an open; `None` where opens are not recorded.
    fn open_pixel(&self) -> Option<String>;
    /// A tracked address that leads to `url`.
    fn track(&self, position: i64, url: &str) -> String;
    /// The link that no person sees; `None` where there is none.
    fn trap(&self) -> Option<String> {
        None
    }
    /// Whether `url` is a page of ours that belongs to one person: then it stays as it is.
    fn is_personal_page(&self, _url: &str) -> bool {
        false
    }
}

/// The person a mail is rendered for.
pub struct Recipient<'a> {
    /// Their fields.
    pub contact: &'a Contact,
    /// Their links.
    pub links: &'a dyn LinkMaker,
    /// When and where they subscribed, where that is known.
    pub grounds: Option<&'a Grounds>,
    /// The moment of rendering.
    pub now: Time,
}

/// A personal message, not yet MIME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// One line, no control characters.
    pub subject: String,
    /// One line; may be empty.
    pub preheader: String,
    /// The HTML part.
    pub html: String,
    /// The text part.
    pub text: String,
}
