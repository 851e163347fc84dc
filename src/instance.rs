//! A checked instance: everything the files say, proven across rooms, with its database, clock and
//! keys. Worker, pages and commands receive this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::behaviour::money::Money;
use crate::behaviour::{self, EventSchema};
use crate::campaign::ops::Timing;
use crate::campaign::{Definition, schedule};
use crate::clock::{Clock, Time};
use crate::config::{self, Campaign, Config, Draft, Environment, Located, MessageTemplate, Place, Problem, Problems, When};
use crate::consent::suppression::Digests;
use crate::contact::{self, Schema};
use crate::content::message::{MessageDefinition, prepare_message};
use crate::content::{self, ContentProblem, FrameSettings, Part};
use crate::db::{Db, DbError, OpenOptions};
use crate::delivery::dkim::{self, KeyPart, Signers};
use crate::delivery::messages::{Composer, Intake};
use crate::delivery::mx;
use crate::delivery::provider::Providers;
use crate::delivery::smtp::SmtpSettings;
use crate::entropy::Entropy;
use crate::rights::retention;
use crate::segment::{self, Catalog, Rule};
use crate::text::i18n::Languages;
use crate::token::Keys;

/// Everything a command or a server works with.
#[derive(Clone)]
pub struct Instance {
    /// The checked files.
    pub config: Arc<Config>,
    /// The database, migrated, with a column for every declared attribute.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// Randomness and ids.
    pub entropy: Entropy,
    /// Signs links.
    pub keys: Keys,
    /// The languages of pages and mails.
    pub languages: Languages,
    /// What the frame of every mail is made from.
    pub frame: Arc<FrameSettings>,
    /// Signs mails.
    pub signers: Arc<Signers>,
    /// Told when this process accepts a transactional message.
    pub message_accepted: Arc<Notify>,
    /// Which address domains belong to one mailbox provider.
    pub providers: Arc<Providers>,
    /// Declared attributes.
    pub schema: Schema,
    /// What segment rules may speak of.
    pub catalog: Arc<Catalog>,
    /// Declared kinds of events, each with a table.
    pub events: Arc<BTreeMap<String, EventSchema>>,
}

/// Why an instance does not start.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The files have mistakes.
    #[error("the configuration has {} problem{}", .0.list.len(), if .0.list.len() == 1 { "" } else { "s" })]
    Config(Problems),
    /// No secret is set.
    #[error("no secret is set, so links could not be signed")]
    NoSecret,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Where time and chance come from: the system, unless the environment sets them for a rehearsal.
pub fn sources(environment: &Environment) -> Result<(Clock, Entropy), String> {
    let clock = match environment.get("OPTIN_CLOCK") {
        Some(text) => Clock::starting_at(Time::parse(text).map_err(|error| format!("`OPTIN_CLOCK`: {error}"))?),
        None => Clock::system(),
    };
    let entropy = match environment.get("OPTIN_SEED") {
        Some(text) => Entropy::seeded(text.parse().map_err(|_| format!("`OPTIN_SEED`: `{text}` is not a whole number"))?),
        None => Entropy::system(),
    };
    Ok((clock, entropy))
}

/// Loads the files and checks them across all rooms. Every mistake of every file comes at once.
pub fn load_checked(dir: &Path, environment: &Environment) -> Result<Config, Problems> {
    let mut draft = config::draft(dir, environment)?;
    let found = check(&draft);
    draft.problems.extend(found);
    if draft.problems.is_empty() { Ok(draft.config) } else { Err(Problems::new(draft.problems, draft.config.sources)) }
}

impl Instance {
    /// Opens the instance of a checked configuration.
    pub async fn open(config: Config, clock: Clock, entropy: Entropy) -> Result<Instance, InstanceError> {
        Self::open_with(config, clock, entropy, OpenOptions::default()).await
    }

    /// Like [`Instance::open`], with a database that may be thrown away.
    pub async fn open_with(config: Config, clock: Clock, entropy: Entropy, options: OpenOptions) -> Result<Instance, InstanceError> {
        let secret = config.secret.as_ref().ok_or(InstanceError::NoSecret)?;
        let keys = Keys::new(&secret.value, &config.retired_secrets);
        let signers = signers(&config).map_err(|list| InstanceError::Config(Problems::new(list, config.sources.clone())))?;
        let languages = languages(&config).map_err(|list| InstanceError::Config(Problems::new(list, config.sources.clone())))?;
        let schema = Schema::new(&config.attributes);
        let lease = std::time::Duration::from_secs(config.delivery.lease_seconds.into());
        let db = Db::open(&config.database_url.value, OpenOptions { lease: Some(lease), ..options }).await?;
        contact::ops::ensure_columns(&db, &schema).await?;
        let events = EventSchema::all(&config.events);
        behaviour::ops::ensure_tables(&db, &events, clock.now()).await?;
        let catalog = Arc::new(Catalog::new(&config));
        let providers = Arc::new(Providers::new(&config.providers));
        providers.remember(mx::load(&db).await?);
        Ok(Instance {
            frame: Arc::new(FrameSettings::new(&config, &languages)),
            languages,
            config: Arc::new(config),
            message_accepted: Arc::default(),
            providers,
            db,
            clock,
            entropy,
            keys,
            signers: Arc::new(signers),
            schema,
            catalog,
            events: Arc::new(events),
        })
    }

    /// The campaign of this name, or what to do instead.
    pub fn campaign(&self, name: &str) -> Result<&Campaign, String> {
        self.config.campaigns.get(name).ok_or_else(|| {
            let meant = config::diagnostics::did_you_mean(name, self.config.campaigns.keys().map(String::as_str));
            match meant {
                Some(meant) => format!("there is no campaign `{name}`; did you mean `{meant}`?"),
                None => {
                    format!("there is no campaign `{name}`; campaigns are the files in `{}`", self.config.dir.join("campaigns").display())
                }
            }
        })
    }

    /// The rule behind a campaign's audience.
    pub fn audience(&self, audience: Option<&str>) -> Result<Rule, Vec<segment::SegmentError>> {
        audience.map_or_else(|| Ok(Rule::everyone()), |source| segment::rule(source, &self.catalog))
    }

    /// The folder of the logs of opens and clicks: the configured one, else beside the file of SQLite, else in the
    /// working directory.
    pub fn hit_log_folder(&self) -> PathBuf {
        if let Some(folder) = &self.config.tracking.log_dir {
            return folder.clone();
        }
        let url = &self.config.database_url.value;
        let file = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        let file = file.map(|file| Path::new(file.split('?').next().unwrap_or(file)));
        file.and_then(Path::parent).unwrap_or(Path::new("")).join("optin-hits")
    }

    /// The keys under which erased addresses are remembered.
    pub fn digests(&self) -> Digests {
        Digests::new(&self.keys)
    }

    /// The currency of amounts, and what others are worth.
    pub fn money(&self) -> Money {
        Money::new(&self.config.behaviour)
    }

    /// Accepts transactional messages.
    pub fn message_intake(&self) -> Intake {
        Intake::new(
            self.config.clone(),
            self.db.clone(),
            Composer::new(self.schema.clone(), self.frame.clone()),
            self.entropy.clone(),
            self.digests(),
            self.providers.clone(),
            self.message_accepted.clone(),
        )
    }

    /// The relays for single mails (confirmations, tests) from an address, in the order in which they
    /// are asked: those for its domain before others, reserves last.
    pub fn relays_for(&self, from: &str) -> Result<Vec<SmtpSettings>, String> {
        let domain = from.rsplit_once('@').map_or("", |(_, domain)| domain);
        let mut relays: Vec<&config::Relay> = self.config.relays.iter().filter(|relay| relay.messages).collect();
        if relays.is_empty() {
            relays.extend(&self.config.relays);
        }
        relays.sort_by_key(|relay| (relay.backup, !relay.serves(domain)));
        let settings = relays.into_iter().map(|relay| SmtpSettings::from_relay(relay, &self.config.dir));
        settings.collect::<Result<_, _>>().map_err(|problem| problem.to_string())
    }

    /// The host name of the site: what we greet relays with.
    pub fn host(&self) -> String {
        url::Url::parse(&self.config.site.url.value)
            .ok()
            .and_then(|url| match url.host()? {
                url::Host::Domain(domain) => Some(domain.to_owned()),
                url::Host::Ipv4(address) => Some(format!("[{address}]")),
                url::Host::Ipv6(address) => Some(format!("[IPv6:{address}]")),
            })
            .unwrap_or_else(|| "localhost".to_owned())
    }
}

/// What only several rooms together can tell about the files. Where a part is incomplete because of
/// a mistake that is reported already, what depends on it is not blamed for that.
pub fn check(draft: &Draft) -> Vec<Problem> {
    let mut problems = Vec::new();
    let config = &draft.config;
    let mut catalog = Catalog::new(config);
    catalog.campaigns.extend(draft.campaign_names.iter().cloned());
    catalog.topics.extend(draft.topic_names.iter().cloned());
    let schema = Schema::new(&config.attributes);
    let rules = draft.attributes_whole && draft.segments_whole;
    check_site(config, &mut problems);
    check_providers(config, &mut problems);
    problems.extend(signers(config).err().unwrap_or_default());
    let frame = match languages(config) {
        Ok(languages) => FrameSettings::new(config, &languages),
        Err(wrong) => {
            problems.extend(wrong);
            FrameSettings::new(config, &Languages::built_in())
        }
    };
    for segment in config.segments.values().filter(|_| rules) {
        if let Err(errors) = segment::rule(&segment.rule.value, &catalog) {
            rule_problems(config, &segment.rule, errors, &mut problems);
        }
    }
    for campaign in config.campaigns.values() {
        if let Some(audience) = campaign.audience.as_ref().filter(|_| rules)
            && let Err(errors) = segment::rule(&audience.value, &catalog)
        {
            rule_problems(config, audience, errors, &mut problems);
        }
        check_schedule(config, campaign, &mut problems);
        if draft.attributes_whole
            && let Err(errors) = content::prepare(&Definition::new(config, campaign), &schema, &frame)
        {
            let parts = ContentPlaces::of_campaign(campaign);
            problems.extend(errors.into_iter().map(|error| content_problem(config, &parts, error)));
        }
    }
    for template in config.messages.values().filter(|_| draft.attributes_whole) {
        if let Err(errors) = prepare_message(&MessageDefinition::of_template(config, template), &schema, &frame) {
            let parts = ContentPlaces::of_message(template);
            problems.extend(errors.into_iter().map(|error| content_problem(config, &parts, error)));
        }
    }
    problems
}

/// A provider that nobody knows and that says no domain is a slip of the pen: its limits would hold
/// nobody back.
fn check_providers(config: &Config, problems: &mut Vec<Problem>) {
    let shipped = Providers::shipped();
    for (name, settings) in &config.providers {
        if shipped.names().any(|known| known == name) || !settings.domains.is_empty() || !settings.mx.is_empty() {
            continue;
        }
        let hint = match config::diagnostics::did_you_mean(name, shipped.names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "say whose mails these are: `domains = [\"leaf.example\"]`, or `mx = [\"mx.leaf.example\"]`".to_owned(),
        };
        let message = format!("no mailbox provider is called `{name}`, and it has no domains of its own");
        problems.push(config.sources.problem(settings.place.as_ref(), message, hint));
    }
}

fn check_site(config: &Config, problems: &mut Vec<Problem>) {
    for relay in &config.relays {
        if let Err(problem) = SmtpSettings::from_relay(relay, &config.dir) {
            let hint = "relays are written as `smtp://user:password@host:587?tls=required` or `smtps://host`";
            problems.push(config.sources.problem(problem.place.as_ref(), problem.message, hint));
        }
    }
    let senders = std::iter::once(&config.sender)
        .chain(config.campaigns.values().filter_map(|campaign| campaign.sender.as_ref()))
        .chain(config.messages.values().filter_map(|template| template.sender.as_ref()));
    for sender in senders {
        for address in std::iter::once(&sender.email).chain(&sender.reply_to) {
            if let Err(error) = contact::Address::parse(address) {
                let place = find_text(config, address);
                problems.push(config.sources.problem(
                    place.as_ref(),
                    format!("`{address}` is no address to send from: {error}"),
                    "write one address, such as `letters@tea.example`",
                ));
            }
        }
    }
}

/// The languages, or what is wrong with the instance's own.
pub fn languages(config: &Config) -> Result<Languages, Vec<Problem>> {
    Languages::load(&config.languages).map_err(|found| {
        let place = |file, span| Place { file, span };
        found.into_iter().map(|found| config.sources.problem(Some(&place(found.file, found.span)), found.message, found.hint)).collect()
    })
}

/// The declared DKIM keys, or what is wrong with them.
pub fn signers(config: &Config) -> Result<Signers, Vec<Problem>> {
    Signers::load(&config.dkim, &config.dir).map_err(|problems| {
        let place = |index: usize, part: KeyPart| {
            let key = &config.dkim[index];
            let setting = match part {
                KeyPart::Domain => &key.domain,
                KeyPart::File => &key.key_file,
            };
            setting.place.as_ref().or(key.place.as_ref())
        };
        problems.into_iter().map(|found| config.sources.problem(place(found.index, found.part), found.message, found.hint)).collect()
    })
}

/// What may be meant, and should be looked at all the same: nothing stops because of it.
pub fn warnings(config: &Config) -> Vec<Problem> {
    let mut warnings: Vec<Problem> = content::lint::instance::in_the_open(&config.site)
        .into_iter()
        .map(|found| config.sources.problem(found.place.as_ref(), found.message, found.hint))
        .collect();
    permission_warnings(config, &mut warnings);
    let Ok(signers) = signers(config) else { return warnings };
    for key in &config.dkim {
        let file = dkim::key_path(&config.dir, key);
        if dkim::everybody_may_read(&file) {
            warnings.push(config.sources.problem(
                key.key_file.place.as_ref(),
                format!("every user of this machine may read the private key `{}`", file.display()),
                format!("take that away: `chmod 600 {}`", file.display()),
            ));
        }
    }
    // Somebody who signs nothing lets the relay sign; somebody who signs for one sender forgot the other.
    let senders = std::iter::once(&config.sender).chain(config.campaigns.values().filter_map(|campaign| campaign.sender.as_ref()));
    for sender in senders.filter(|_| !signers.is_empty()) {
        let domain = sender.email.rsplit_once('@').map_or("", |(_, domain)| domain);
        if signers.for_domain(domain).is_none() {
            warnings.push(config.sources.problem(
                find_text(config, &sender.email).as_ref(),
                format!("mails from `{}` leave unsigned: no key is declared for `{domain}`", sender.email),
                format!("`optin dkim new {domain} --selector NAME` makes one; fine as it is where your mail server signs"),
            ));
        }
    }
    Problems::new(warnings, config.sources.clone()).list
}

/// Settings about permission and privacy that do nothing, or not what they seem to.
fn permission_warnings(config: &Config, warnings: &mut Vec<Problem>) {
    if let Some(message) = retention::contradiction(&config.retention) {
        let needed = retention::hit_days_needed(&config.retention);
        let hint = format!("nobody is erased for inactivity until `hit_days` is 0 or at least {needed}");
        warnings.push(config.sources.problem(find_text(config, "inactive_months").as_ref(), message, hint));
    }
    if !config.consent.tracking_by_country.is_empty() && config.consent.country_attribute.is_none() {
        let message = "`tracking_by_country` holds for nobody: which attribute is a person's country is not said";
        let hint = "in `[consent]`, write `country_attribute = \"country\"`, and declare it in `[attributes]`";
        warnings.push(config.sources.problem(find_text(config, "tracking_by_country").as_ref(), message, hint));
    }
    for (name, topic) in &config.topics {
        if let (Some(pool), None) = (&topic.coupons, &topic.welcome) {
            let message = format!("no code of `{pool}` is ever given: the topic `{name}` has no welcome to bring it");
            warnings.push(config.sources.problem(topic.place.as_ref(), message, "write `welcome = \"TEMPLATE\"`, or remove `coupons`"));
        }
    }
}

/// Where a text stands in `optin.toml` (sender addresses carry no place of their own).
fn find_text(config: &Config, text: &str) -> Option<Place> {
    let file = config.dir.join("optin.toml");
    let at = config.sources.text(&file)?.find(text)?;
    Some(Place { file, span: at..at + text.len() })
}

fn rule_problems(config: &Config, rule: &Located<String>, errors: Vec<segment::SegmentError>, problems: &mut Vec<Problem>) {
    for error in errors {
        let place = inside(rule, &error.span);
        problems.push(config.sources.problem(place.as_ref(), error.message, error.hint));
    }
}

/// A range inside a value, as a range of its file.
fn inside(value: &Located<String>, span: &std::ops::Range<usize>) -> Option<Place> {
    value.place.as_ref().map(|place| {
        let start = (place.span.start + span.start).min(place.span.end);
        Place { file: place.file.clone(), span: start..(place.span.start + span.end).clamp(start, place.span.end) }
    })
}

fn check_schedule(config: &Config, campaign: &Campaign, problems: &mut Vec<Problem>) {
    let Some(schedule) = &campaign.schedule else { return };
    match &schedule.when {
        When::Cron(expression) => {
            if let Err(error) = schedule::Cron::parse(&expression.value) {
                problems.push(config.sources.problem(inside(expression, &error.span).as_ref(), error.message, error.hint));
            }
        }
        When::At(text) => {
            if let Err(message) = Timing::new(schedule) {
                problems.push(config.sources.problem(
                    text.place.as_ref(),
                    message,
                    "write a local date and time, such as `2026-12-01T09:00`",
                ));
            }
        }
    }
}

/// Where the parts of a content stand.
struct ContentPlaces<'a> {
    subject: &'a Located<String>,
    preheader: Option<&'a Located<String>>,
    layout: &'a Located<String>,
    body: &'a config::SourceText,
    parameters: Vec<&'a Located<String>>,
}

impl<'a> ContentPlaces<'a> {
    fn of_campaign(campaign: &'a Campaign) -> Self {
        let Campaign { subject, preheader, layout, body_source: body, utm, .. } = campaign;
        ContentPlaces { subject, preheader: preheader.as_ref(), layout, body, parameters: utm.values().collect() }
    }

    fn of_message(template: &'a MessageTemplate) -> Self {
        let MessageTemplate { subject, preheader, layout, body_source: body, .. } = template;
        ContentPlaces { subject, preheader: preheader.as_ref(), layout, body, parameters: Vec::new() }
    }
}

fn content_problem(config: &Config, parts: &ContentPlaces<'_>, error: ContentProblem) -> Problem {
    let whole = |value: &Located<String>| match &error.span {
        Some(span) => inside(value, span),
        None => value.place.clone(),
    };
    let source = |file: &config::SourceText| Some(Place { file: file.file.clone(), span: error.span.clone().unwrap_or(0..0) });
    let place = match error.part {
        Part::Subject => whole(parts.subject),
        Part::Preheader => parts.preheader.and_then(whole),
        Part::Body => source(parts.body),
        Part::Layout => match config.layouts.get(&parts.layout.value) {
            Some(layout) => source(layout),
            None => parts.layout.place.clone(),
        },
        Part::Parameter(at) => parts.parameters.get(at).copied().and_then(whole),
    };
    config.sources.problem(place.as_ref(), error.message, error.hint)
}
