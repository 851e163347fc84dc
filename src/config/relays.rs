//! Through whom mails leave: `[smtp]`, `[[relay]]`, `[[dkim]]`, and whether every sender has a relay.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{self, Complaint};
use super::diagnostics::did_you_mean;
use super::env::PREFIX;
use super::limits::{self, Limit, WarmUp};
use super::reader::{Overrides, Report, Section, Value, list, variable_part};
use super::settings::{boolean, checked, number, pass, required, texts};
use super::{Campaign, Located, Place, Sender};

/// Sessions to one relay at a time: more is never polite and costs memory.
pub(super) const MAX_CONNECTIONS: u32 = 1_000;
/// Seconds of patience with an SMTP reply: RFC 5321 4.5.3.2 asks for up to ten minutes.
const MAX_TIMEOUT_SECONDS: u32 = 600;
/// Shares of one relay among its equals.
const MAX_WEIGHT: u32 = 1_000;
/// Mails of one session: beyond this a limit of the session limits nothing.
const MAX_MAILS_PER_CONNECTION: u32 = 1_000_000;
/// Relays of one instance: each has sessions, buckets and a health of its own.
const MAX_RELAYS: usize = 100;
/// The relay of `[smtp]`.
pub const DEFAULT_RELAY: &str = "default";

/// A server that takes our mails: `[smtp]` is the one called `default`, `[[relay]]` adds more.
#[derive(Debug, Clone, PartialEq)]
pub struct Relay {
    /// `[a-z0-9][a-z0-9_-]*`, unique.
    pub name: String,
    /// Where its table starts; `None` without `[smtp]`.
    pub place: Option<Place>,
    /// `smtp://user:password@host:port`, `smtps://..`, `?tls=required|opportunistic|none`.
    pub url: Located<String>,
    /// Sessions at a time.
    pub connections: u32,
    /// Seconds to wait for any one reply.
    pub timeout_seconds: u32,
    /// Its share of the mails among the relays that could take them, 1 to 1000.
    pub weight: u32,
    /// Used only while no other relay can take a mail.
    pub backup: bool,
    /// Domains of From addresses it serves, lower case, in the form of the wire; empty: all.
    pub sender_domains: Vec<String>,
    /// It takes mails of campaigns.
    pub campaigns: bool,
    /// It takes transactional messages and confirmation mails.
    pub messages: bool,
    /// All mails through it.
    pub limit: Limit,
    /// For a new address: a cap for each provider and day.
    pub warm_up: Option<WarmUp>,
    /// Mails until a session is opened anew; 0: any number.
    pub mails_per_connection: u32,
    /// Certificates (PEM) to trust beside the usual ones, as written: a relative path starts at the
    /// folder of the configuration.
    pub ca_file: Option<Located<String>>,
    /// How to sign in; `None`: the best of what the relay offers.
    pub auth: Option<AuthMechanism>,
}

impl Relay {
    /// Whether it takes mails From an address of this domain (in any form).
    pub fn serves(&self, from_domain: &str) -> bool {
        self.sender_domains.is_empty() || check::domain(from_domain).is_ok_and(|domain| self.sender_domains.contains(&domain))
    }
}

/// A way to sign in (SASL, RFC 4954).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMechanism {
    /// User and password at once (RFC 4616).
    Plain,
    /// User and password, one after the other.
    Login,
    /// A token of OAuth 2.0 stands where the password does.
    Xoauth2,
}

/// `[[dkim]]`: a key that signs what leaves From a domain (RFC 6376).
#[derive(Debug, Clone, PartialEq)]
pub struct DkimKey {
    /// Where its table starts.
    pub place: Option<Place>,
    /// The domain that signs (`d=`), lower case, in the form of the wire.
    pub domain: Located<String>,
    /// The key's name in the DNS (`s=`).
    pub selector: Located<String>,
    /// The private key (PEM), as written: a relative path starts at the folder of the configuration.
    pub key_file: Located<String>,
}

/// All relays. `[smtp]` is the first of them; without it and without its variables there is one only
/// if there is no other.
pub(super) fn read(smtp: Section<'_>, tables: Vec<Section<'_>>, overrides: &mut Overrides<'_>, report: &mut Report) -> Vec<Relay> {
    let mut relays = Vec::new();
    let variables = overrides.environment.iter().any(|(name, value)| name.starts_with(&format!("{PREFIX}SMTP__")) && !value.is_empty());
    if smtp.exists() || variables || tables.is_empty() {
        relays.extend(relay(DEFAULT_RELAY.to_owned(), smtp, overrides, report));
    } else {
        // Read all the same, so that its variables are known by name.
        let _ = relay(DEFAULT_RELAY.to_owned(), smtp, overrides, report);
    }
    // Variables know no difference between `a-b` and `a_b`, so two such relays could not be told apart.
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for (at, mut table) in tables.into_iter().enumerate() {
        if at == MAX_RELAYS {
            if let Some(place) = table.place() {
                report.at(&place.file, place.span, format!("more than {MAX_RELAYS} relays"), "remove those that are not used");
            }
            break;
        }
        let unique = |name: &str| {
            check::name("relay", name)?;
            let hint = "give each relay a name of its own".to_owned();
            if name == DEFAULT_RELAY {
                return Err(("`default` is the relay of `[smtp]`".to_owned(), hint));
            }
            match names.get(&variable_part(name)) {
                Some(first) if first == name => Err((format!("there are two relays `{name}`"), hint)),
                Some(first) => Err((format!("the variables of the relays `{first}` and `{name}` would have the same names"), hint)),
                None => Ok(()),
            }
        };
        let hint = "campaigns and reports call it so: `name = \"ses\"`";
        let name = required(&mut table, "name", None, unique, hint, report);
        if let Some(name) = &name {
            names.insert(variable_part(&name.value), name.value.clone());
            table.call(&name.value);
        }
        let known = name.is_some();
        // Without a name its variables have none either, but its other mistakes are shown.
        let relay = relay(name.map(|name| name.value).unwrap_or_default(), table, overrides, report);
        relays.extend(relay.filter(|_| known));
    }
    relays
}

fn relay(name: String, mut section: Section<'_>, overrides: &mut Overrides<'_>, report: &mut Report) -> Option<Relay> {
    let place = section.place();
    let url = if name == DEFAULT_RELAY {
        let url = checked(&mut section, "url", Some(overrides), check::smtp_url, report);
        Some(url.map_or_else(|| Located::default_value("smtp://127.0.0.1:25".to_owned()), Value::located))
    } else {
        let hint = "say where it listens: `url = \"smtp://user:password@host:587?tls=required\"`";
        required(&mut section, "url", Some(overrides), check::smtp_url, hint, report).map(Value::located)
    };
    let auth_words = [("plain", AuthMechanism::Plain), ("login", AuthMechanism::Login), ("xoauth2", AuthMechanism::Xoauth2)];
    let auth = section.raw("auth", Some(overrides)).and_then(|raw| raw.text(report));
    let auth = auth.and_then(|text| pass(check::one_of(&text.value, &auth_words), &text, report));
    let lane = |text: &str| check::one_of(text, &[("campaigns", true), ("messages", false)]);
    let lanes = texts(&mut section, "lanes", Some(overrides), lane, report).unwrap_or_else(|| vec![true, false]);
    let warm_up_section = section.section("warm_up", report);
    let relay = Relay {
        name,
        place,
        connections: number(&mut section, "connections", overrides, 1..=MAX_CONNECTIONS, 20, report),
        timeout_seconds: number(&mut section, "timeout_seconds", overrides, 1..=MAX_TIMEOUT_SECONDS, 60, report),
        weight: number(&mut section, "weight", overrides, 1..=MAX_WEIGHT, 1, report),
        backup: boolean(&mut section, "backup", overrides, false, report),
        sender_domains: texts(&mut section, "sender_domains", Some(overrides), check::domain, report).unwrap_or_default(),
        campaigns: lanes.contains(&true),
        messages: lanes.contains(&false),
        limit: limits::limit(&mut section, Some(overrides), report),
        warm_up: limits::warm_up(warm_up_section, overrides, report),
        mails_per_connection: number(&mut section, "mails_per_connection", overrides, 0..=MAX_MAILS_PER_CONNECTION, 0, report),
        ca_file: checked(&mut section, "ca_file", Some(overrides), check::line, report).map(Value::located),
        auth,
        url: url.clone().unwrap_or_else(|| Located::default_value(String::new())),
    };
    section.finish(report);
    url.map(|_| relay)
}

/// `[[dkim]]`, all of them.
pub(super) fn dkim(tables: Vec<Section<'_>>, report: &mut Report) -> Vec<DkimKey> {
    let mut keys: Vec<DkimKey> = Vec::new();
    for mut table in tables {
        let place = table.place();
        let domain = required(&mut table, "domain", None, check::domain, "whose mails it signs: `domain = \"tea.example\"`", report);
        let selector_hint = "the name of its record, SELECTOR._domainkey.DOMAIN: `selector = \"s1\"`";
        let selector = required(&mut table, "selector", None, check::selector, selector_hint, report);
        let file_hint = "where the private key lies: `key_file = \"keys/s1.pem\"`";
        let key_file = required(&mut table, "key_file", None, check::line, file_hint, report);
        table.finish(report);
        let (Some(domain), Some(selector), Some(key_file)) = (domain, selector, key_file) else { continue };
        let mut domain = domain.located();
        domain.value = check::domain(&domain.value).unwrap_or(domain.value);
        let selector_origin = selector.origin.clone();
        let key = DkimKey { place, domain, selector: selector.located(), key_file: key_file.located() };
        if keys.iter().any(|other| other.domain.value == key.domain.value && other.selector.value.eq_ignore_ascii_case(&key.selector.value))
        {
            let message = format!("there are two keys `{}` of `{}`", key.selector.value, key.domain.value);
            report.value(&selector_origin, message, "a new key gets a new selector, so that mails on their way can still be checked");
            continue;
        }
        keys.push(key);
    }
    keys
}

/// Whether every mail finds a relay: those of each campaign, and messages of the instance's sender.
pub(super) fn check_routes(relays: &[Relay], sender: Option<&Sender>, campaigns: &BTreeMap<String, Campaign>, report: &mut Report) {
    if relays.is_empty() {
        // Every `[[relay]]` has a mistake that is shown already.
        return;
    }
    for campaign in campaigns.values() {
        let Some(from) = campaign.sender.as_ref().or(sender) else { continue };
        if let Err((message, hint)) = route(relays, campaign, from) {
            match campaign.delivery.relay.as_ref().and_then(|relay| relay.place.as_ref()) {
                Some(place) => report.at(&place.file, place.span.clone(), message, hint),
                None => report.file(&campaign.file, message, hint),
            }
        }
    }
    let Some(sender) = sender else { return };
    let domain = domain_of(sender);
    if !relays.iter().any(|relay| relay.messages && relay.serves(domain)) {
        let message = format!("no relay takes messages from `{domain}`, such as the mails that ask for a confirmation");
        let hint = "one relay without `lanes` and `sender_domains`, or with `\"messages\"` and this domain among them, must be there";
        match relays.iter().find_map(|relay| relay.place.as_ref()) {
            Some(place) => report.at(&place.file, place.span.clone(), message, hint),
            None => report.list.push(report.sources.problem(None, message, hint)),
        }
    }
}

fn route(relays: &[Relay], campaign: &Campaign, from: &Sender) -> Result<(), Complaint> {
    let domain = domain_of(from);
    let Some(wanted) = &campaign.delivery.relay else {
        if relays.iter().any(|relay| relay.campaigns && relay.serves(domain)) {
            return Ok(());
        }
        let hint = format!("add `{domain}` to the `sender_domains` of a relay that takes campaigns, or send from another address");
        return Err((format!("no relay takes the campaign `{}`: it is sent from `{}`", campaign.name, from.email), hint));
    };
    let Some(relay) = relays.iter().find(|relay| relay.name == wanted.value) else {
        let names: BTreeSet<&str> = relays.iter().map(|relay| relay.name.as_str()).collect();
        let hint = match did_you_mean(&wanted.value, names.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("relays of this instance: {}", list(names)),
        };
        return Err((format!("there is no relay `{}`", wanted.value), hint));
    };
    if !relay.campaigns {
        let hint = "add `\"campaigns\"` to its `lanes`, or name another relay".to_owned();
        return Err((format!("the relay `{}` takes no campaigns", relay.name), hint));
    }
    if !relay.serves(domain) {
        let hint = format!("add `{domain}` to its `sender_domains`, or name another relay");
        return Err((
            format!("the relay `{}` takes nothing from `{}`, which sends the campaign `{}`", relay.name, from.email, campaign.name),
            hint,
        ));
    }
    Ok(())
}

fn domain_of(sender: &Sender) -> &str {
    sender.email.rsplit_once('@').map_or("", |(_, domain)| domain)
}
