//! What the files say. This folder reads `config/*.toml`, layers environment variables over them,
//! and answers either a complete, typed [`Config`] or every problem with its place. It knows keys
//! and types; what an expression, a template or a schedule means is checked by the room that owns
//! it (`instance.rs` brings them together).

mod campaigns;
mod check;
mod colour;
pub mod diagnostics;
mod env;
mod forms;
mod limits;
mod load;
mod localised;
pub mod messages;
mod permission;
mod reader;
mod relays;
mod response;
pub mod scaffold;
mod settings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use colour::Colour;
pub use diagnostics::{Problem, Problems, SourceFile, Sources};
pub use env::Environment;
pub use forms::{Form, ProfileField};
pub use limits::{Limit, ProviderSettings, Rate, WarmUp};
pub use load::{Draft, draft, load};
pub use localised::{BUILT_IN_LANGUAGES, Localised};
pub use messages::MessageTemplate;
pub use permission::{Challenge, Consent, FormLimits, Retention, Rights, TrackingDefault};
pub use relays::{AuthMechanism, DEFAULT_RELAY, DkimKey, Relay};
pub use response::{Attribution, AttributionModel, Behaviour, CampaignAttribution, EngagementSettings, EventType, TrackingSettings, VISIT};

/// A value and where it stands, so that a later check can point at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands; `None` for a default or an environment variable.
    pub place: Option<Place>,
}

impl<T> Located<T> {
    /// A value from nowhere: a default.
    pub fn default_value(value: T) -> Self {
        Located { value, place: None }
    }
}

impl<T> std::ops::Deref for Located<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// A stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path as shown to people (relative to the working directory where possible).
    pub file: PathBuf,
    /// Byte range in that file. For a string it covers the text between the quotes, so that an
    /// offset inside the value can be added to `start`.
    pub span: std::ops::Range<usize>,
}

/// The whole configuration, checked for keys and types.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that holds `optin.toml`.
    pub dir: PathBuf,
    /// `[site]`
    pub site: Site,
    /// `[database] url`
    pub database_url: Located<String>,
    /// `[smtp]` and `[[relay]]`, at least one.
    pub relays: Vec<Relay>,
    /// `[limits]`: all mail of the instance.
    pub limits: Limit,
    /// `[provider.NAME]`
    pub providers: BTreeMap<String, ProviderSettings>,
    /// `[[dkim]]`
    pub dkim: Vec<DkimKey>,
    /// `[sender]`
    pub sender: Sender,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[log]`
    pub log: Log,
    /// `secret`: signs links. `None` until one is set; commands that need it say so.
    pub secret: Option<Located<String>>,
    /// `retired_secrets`: earlier secrets, so that links in old mails keep working.
    pub retired_secrets: Vec<String>,
    /// `[attributes]`: name to type.
    pub attributes: BTreeMap<String, AttributeType>,
    /// `topics.toml`
    pub topics: BTreeMap<String, Topic>,
    /// `segments.toml`
    pub segments: BTreeMap<String, Segment>,
    /// `campaigns/*.toml`, by file name without `.toml`.
    pub campaigns: BTreeMap<String, Campaign>,
    /// `messages/*.toml`, by file name without `.toml`.
    pub messages: BTreeMap<String, MessageTemplate>,
    /// `[consent]`
    pub consent: Consent,
    /// `[forms]`
    pub form_limits: FormLimits,
    /// `[retention]`
    pub retention: Retention,
    /// `[behaviour]`
    pub behaviour: Behaviour,
    /// `events.toml`, by name.
    pub events: BTreeMap<String, EventType>,
    /// `[tracking]`
    pub tracking: TrackingSettings,
    /// `[engagement]`
    pub engagement: EngagementSettings,
    /// `[attribution]`
    pub attribution: Attribution,
    /// `[rights]`
    pub rights: Rights,
    /// `profile.toml`, in the order of the file.
    pub profile: Vec<ProfileField>,
    /// `forms.toml`
    pub forms: BTreeMap<String, Form>,
    /// `languages/*.toml`: languages of the marketer's own, or other words for ours, by tag.
    pub languages: BTreeMap<String, SourceText>,
    /// `layouts/*.html`: layouts of the marketer's own, by file name without `.html`.
    pub layouts: BTreeMap<String, SourceText>,
    /// The text of every file read, for pointing at problems.
    pub sources: Sources,
}

/// A text file of the instance that is a template.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceText {
    /// Path as shown to people.
    pub file: PathBuf,
    /// Its content.
    pub text: String,
}

/// `[site]`: where recipients reach us.
#[derive(Debug, Clone)]
pub struct Site {
    /// Public base address without a trailing slash, such as `https://news.tea.example`.
    pub url: Located<String>,
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// The colour of buttons and links on recipients' pages, instead of optin's green.
    pub accent: Option<Colour>,
}

/// `[sender]`: who writes.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sender {
    /// Display name.
    pub name: String,
    /// The one From address.
    pub email: String,
    /// Reply-To, where it differs.
    pub reply_to: Option<String>,
    /// Postal address, shown in every mail (CAN-SPAM, CASL).
    pub postal_address: String,
}

/// `[delivery]`
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What happens to mails whose SMTP reply was pending at a crash.
    pub in_doubt: InDoubt,
    /// Hours after which a mail that is still refused with 4xx is given up.
    pub retry_hours: u32,
    /// Waits between tries, in seconds; the last one repeats.
    pub retry_seconds: Vec<u32>,
    /// Seconds after which the work of a worker that went silent is taken over by another.
    pub lease_seconds: u32,
    /// Look up by DNS which provider is behind a domain that we do not know by name.
    pub mx_lookups: bool,
    /// The name server for that; `None`: the system's.
    pub resolver: Option<SocketAddr>,
    /// An IANA zone: where a day of `per_day` and of a warm-up begins.
    pub timezone: Located<String>,
}

/// See [`Delivery::in_doubt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InDoubt {
    /// Shown in the report; a person decides.
    Hold,
    /// Sent again with the same Message-ID.
    Resend,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// A filter such as `info` or `optin=debug`.
    pub level: String,
    /// `text` or `json`.
    pub json: bool,
}

/// The type of a declared attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttributeType {
    /// Any text.
    Text,
    /// A finite 64-bit floating point number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A calendar date.
    Date,
    /// Several texts.
    List,
}

/// One topic of `topics.toml`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topic {
    /// Where its table starts.
    pub place: Option<Place>,
    /// Shown to recipients.
    pub name: String,
    /// Shown to recipients.
    pub description: String,
    /// `double` needs a confirmation.
    pub double_opt_in: bool,
    /// Name and description in other languages.
    pub texts: [Localised; 2],
    /// What its mails are for, recorded with each consent.
    pub purpose: String,
    /// Its mails advertise: they are marked as such where the law asks for it (China: `AD` or `广告` at the
    /// front of the subject).
    pub advertising: bool,
    /// The message template sent to whoever has just subscribed.
    pub welcome: Option<Located<String>>,
    /// The pool of coupon codes from which the welcome gives one.
    pub coupons: Option<String>,
}

impl Topic {
    /// The name in the language of a tag.
    pub fn name_in(&self, tag: &str) -> &str {
        self.texts[0].in_language(tag)
    }

    /// The description in the language of a tag.
    pub fn description_in(&self, tag: &str) -> &str {
        self.texts[1].in_language(tag)
    }
}

/// One segment of `segments.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// The rule, in the segment language.
    pub rule: Located<String>,
    /// For people.
    pub description: Option<String>,
    /// Keep who is in it, so that who joins and who leaves can be told.
    pub history: bool,
}

/// One campaign file.
#[derive(Debug, Clone, PartialEq)]
pub struct Campaign {
    /// The file's name without `.toml`.
    pub name: String,
    /// The campaign's file, as shown to people.
    pub file: PathBuf,
    /// The topic it rides on.
    pub topic: Located<String>,
    /// A segment's name or an expression; `None` means everyone subscribed.
    pub audience: Option<Located<String>>,
    /// Template.
    pub subject: Located<String>,
    /// Template; the grey line beside the subject.
    pub preheader: Option<Located<String>>,
    /// Layout name.
    pub layout: Located<String>,
    /// The body's file name as written.
    pub body: Located<String>,
    /// The body's text.
    pub body_source: SourceText,
    /// How to read the body.
    pub body_kind: BodyKind,
    /// `[sender]` of the campaign where it overrides the instance's.
    pub sender: Option<Sender>,
    /// When it fires by itself.
    pub schedule: Option<Schedule>,
    /// Record opens.
    pub track_opens: bool,
    /// Record clicks.
    pub track_clicks: bool,
    /// Parameters (`utm_source` and the like, as a template each) that links to websites get.
    pub utm: BTreeMap<String, Located<String>>,
    /// Hosts whose links get them, with those below; empty: all.
    pub utm_hosts: Vec<String>,
    /// `[delivery]` of the campaign.
    pub delivery: CampaignDelivery,
    /// `[attribution]` of the campaign.
    pub attribution: CampaignAttribution,
}

/// `[delivery]` of a campaign: how its mails leave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CampaignDelivery {
    /// Mails in a time, of each run.
    pub limit: Limit,
    /// The one relay to use; `None`: any that takes it.
    pub relay: Option<Located<String>>,
    /// Hours after which a mail that is still refused with 4xx is given up; `None`: as the instance.
    pub give_up_hours: Option<u32>,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyKind {
    /// `.md`
    Markdown,
    /// `.html`
    Html,
    /// `.mjml`
    Mjml,
}

/// `[schedule]` of a campaign.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Exactly one of cron and at.
    pub when: When,
    /// An IANA zone name. (`recipient` comes with the contact policy.)
    pub timezone: Located<String>,
}

/// See [`Schedule`].
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// Recurring: a cron expression of five or six fields.
    Cron(Located<String>),
    /// Once: a local date and time, `2026-12-01T09:00`.
    At(Located<String>),
}

/// A URL without its password, for messages.
fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.rsplit_once('@') {
        Some((credentials, host)) => format!("{scheme}://{}:***@{host}", credentials.split(':').next().unwrap_or_default()),
        None => url.to_owned(),
    }
}

/// Whether a name has the form of all names in the files; else what is wrong, and what to do.
pub fn check_name(what: &str, name: &str) -> Result<(), (String, String)> {
    check::name(what, name)
}
