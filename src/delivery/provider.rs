//! Mailbox providers: who is behind a domain, and how gently they want to be treated.
//!
//! A provider judges a sender over all its domains at once (Gmail by the MX, so companies' domains on
//! Google Workspace count with gmail.com), so a request to slow down is kept for the provider, and one
//! that asks for it never holds up the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, PoisonError, RwLock};

use serde::Deserialize;

use crate::config::ProviderSettings;

/// The provider of every domain that nobody knows.
pub const OTHER: &str = "other";

/// The shipped table, checked by the tests below.
const SHIPPED: &str = include_str!("../../data/providers.toml");

static TABLE: LazyLock<BTreeMap<String, Entry>> =
    LazyLock::new(|| toml::from_str(SHIPPED).expect("data/providers.toml is part of this program and tested"));

/// What is known of a provider, shipped or from `[provider.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    domains: Vec<String>,
    #[serde(default)]
    mx: Vec<String>,
    connections: Option<u32>,
    rate: Option<(u64, u64)>,
    per_day: Option<u64>,
}

impl From<&ProviderSettings> for Entry {
    fn from(settings: &ProviderSettings) -> Entry {
        Entry {
            domains: settings.domains.clone(),
            mx: settings.mx.clone(),
            connections: settings.connections,
            rate: settings.limit.rate.map(|rate| (rate.mails, rate.per_seconds)),
            per_day: settings.limit.per_day,
        }
    }
}

/// How a provider wants to be treated. `None`: no limit but the relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manners {
    /// Sessions at a time that carry its mails, as the configuration says.
    pub connections: Option<u32>,
    /// The same while it asks us to slow down: the configuration's, or the shipped table's. The table
    /// speaks of sessions with the provider itself; a relay in between has its own, so that this number
    /// holds nobody back before the provider says a word.
    pub connections_when_asked: Option<u32>,
    /// So many mails in so many seconds.
    pub rate: Option<(u64, u64)>,
    /// Mails a day.
    pub per_day: Option<u64>,
}

/// All providers of an instance: the shipped table and what the configuration says.
#[derive(Debug)]
pub struct Providers {
    /// By name, [`OTHER`] included.
    names: Vec<String>,
    manners: Vec<Manners>,
    /// Index into `names`.
    by_domain: HashMap<String, usize>,
    by_mx: HashMap<String, usize>,
    /// Domains whose MX was looked up. Behind a lock: it grows while mails go out.
    learned: RwLock<HashMap<String, usize>>,
}

impl Providers {
    /// The shipped table alone.
    pub fn shipped() -> Providers {
        Providers::new(&BTreeMap::new())
    }

    /// The shipped table with `overrides` over it: their domains and MX suffixes come on top (and win
    /// where the table says otherwise), a limit given replaces the shipped one. A new name is a new
    /// provider; `other` may have limits too.
    pub fn new(overrides: &BTreeMap<String, ProviderSettings>) -> Providers {
        let mut providers = Providers {
            names: Vec::new(),
            manners: Vec::new(),
            by_domain: HashMap::new(),
            by_mx: HashMap::new(),
            learned: RwLock::new(HashMap::new()),
        };
        providers.add(OTHER, &Entry::default());
        for (name, entry) in TABLE.iter() {
            providers.add(name, entry);
        }
        for (name, settings) in overrides {
            let index = providers.add(name, &Entry::from(settings));
            providers.manners[index].connections = settings.connections;
        }
        providers
    }

    fn add(&mut self, name: &str, entry: &Entry) -> usize {
        let index = self.index(name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.manners.push(Manners::default());
            self.names.len() - 1
        });
        self.by_domain.extend(entry.domains.iter().map(|domain| (normal(domain), index)));
        self.by_mx.extend(entry.mx.iter().map(|suffix| (normal(suffix).trim_start_matches('.').to_owned(), index)));
        let manners = &mut self.manners[index];
        manners.connections_when_asked = entry.connections.or(manners.connections_when_asked);
        manners.rate = entry.rate.or(manners.rate);
        manners.per_day = entry.per_day.or(manners.per_day);
        index
    }

    /// The provider of an address domain: by the table, then by what was learned from its MX, else
    /// [`OTHER`].
    pub fn of(&self, domain: &str) -> &str {
        let domain = normal(domain);
        let known = self.by_domain.get(&domain).copied();
        known.or_else(|| self.read_learned().get(&domain).copied()).map_or(OTHER, |index| &self.names[index])
    }

    /// Whether the table knows the domain, so that its MX needs no look-up.
    pub fn knows(&self, domain: &str) -> bool {
        self.by_domain.contains_key(&normal(domain))
    }

    /// The provider whose MX suffix fits `host`; the longest one wins.
    pub fn by_mx(&self, host: &str) -> Option<&str> {
        let host = normal(host);
        let mut rest = host.as_str();
        loop {
            if let Some(index) = self.by_mx.get(rest) {
                return Some(&self.names[*index]);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    /// Takes what look-ups found, domain to provider. `other` and names that are gone forget the domain.
    pub fn remember(&self, learned: impl IntoIterator<Item = (String, String)>) {
        let mut known = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        for (domain, provider) in learned {
            match self.index(&provider).filter(|_| provider != OTHER) {
                Some(index) => known.insert(normal(&domain), index),
                None => known.remove(&normal(&domain)),
            };
        }
    }

    /// How `provider` wants to be treated; a name that is not known has no limits of its own.
    pub fn manners(&self, provider: &str) -> Manners {
        self.index(provider).map(|index| self.manners[index]).unwrap_or_default()
    }

    /// Every provider's name, `other` first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    fn read_learned(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, usize>> {
        self.learned.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The domain of an address, for [`Providers::of`]; the whole text where there is no `@`.
pub fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, domain)| domain)
}

/// Lower case without the root's dot.
fn normal(domain: &str) -> String {
    domain.trim().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limit;

    #[test]
    fn domains_of_the_world_are_known() {
        let providers = Providers::shipped();
        for (address, provider) in [
            ("a@gmail.com", "gmail"),
            ("a@GoogleMail.com", "gmail"),
            ("a@rocketmail.com", "yahoo"),
            ("a@yahoo.com.tw", "yahoo"),
            ("a@aol.com", "yahoo"),
            ("a@yahoo.co.jp", "yahoo-japan"),
            ("a@hotmail.fr", "outlook"),
            ("a@live.co.uk", "outlook"),
            ("a@msn.com", "outlook"),
            ("a@me.com", "icloud"),
            ("a@foxmail.com", "qq"),
            ("a@126.com", "netease"),
            ("a@yeah.net", "netease"),
            ("a@188.com", "netease"),
            ("a@web.de", "gmx"),
            ("a@wanadoo.fr", "orange"),
            ("a@bk.ru", "mail-ru"),
            ("a@hanmail.net", "kakao"),
            ("a@o2.pl", "wp"),
            ("a@msa.hinet.net", "hinet"),
            ("a@qq.com.", "qq"),
            ("a@leaf.example", "other"),
            ("a@notgmail.com", "other"),
            ("a@mail.gmail.com", "other"),
            ("", "other"),
        ] {
            assert_eq!(providers.of(domain_of(address)), provider, "{address}");
        }
    }

    #[test]
    fn mail_servers_tell_the_provider_at_a_label() {
        let providers = Providers::shipped();
        for (host, provider) in [
            ("aspmx.l.google.com.", Some("gmail")),
            ("ALT1.ASPMX.L.GOOGLE.COM", Some("gmail")),
            ("aspmx2.googlemail.com", Some("gmail")),
            ("leaf-example.mail.protection.outlook.com", Some("microsoft365")),
            ("leaf-example.a-v1.mx.microsoft", Some("microsoft365")),
            ("hotmail-com.olc.protection.outlook.com", Some("outlook")),
            ("mta5.am0.yahoodns.net", Some("yahoo")),
            ("mxbiz1.qq.com", Some("qq")),
            ("qiye163mx01.mxmail.netease.com", Some("netease")),
            ("us-smtp-inbound-1.mimecast.com", Some("mimecast")),
            ("mx.notgoogle.com", None),
            ("com", None),
            ("", None),
        ] {
            assert_eq!(providers.by_mx(host), provider, "{host}");
        }
    }

    #[test]
    fn the_shipped_table_is_whole() {
        let (mut domains, mut suffixes) = (HashMap::new(), HashMap::new());
        for (name, entry) in TABLE.iter() {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
            assert!(!entry.domains.is_empty() || !entry.mx.is_empty(), "{name} is nobody");
            assert!(entry.connections.is_none_or(|connections| connections > 0), "{name}");
            assert_eq!(
                (entry.rate, entry.per_day),
                (None, None),
                "{name}: a published rate needs its source in data/README.md, and this test changed"
            );
            for domain in &entry.domains {
                assert!(*domain == normal(domain) && domain.contains('.'), "{name}: {domain}");
                assert_eq!(domains.insert(domain, name), None, "{domain} is in two places");
            }
            for suffix in &entry.mx {
                assert!(*suffix == normal(suffix) && suffix.contains('.'), "{name}: {suffix}");
                assert_eq!(suffixes.insert(suffix, name), None, "{suffix} is in two places");
            }
        }
        assert!(TABLE.len() > 100 && domains.len() > 500, "{} providers, {} domains", TABLE.len(), domains.len());
        assert!(!TABLE.contains_key(OTHER));
    }

    #[test]
    fn the_configuration_adds_and_replaces() {
        let rate = crate::config::Rate { mails: 100, per_seconds: 60 };
        let gmail = ProviderSettings {
            connections: Some(2),
            limit: Limit { rate: Some(rate), per_day: None },
            domains: vec!["Leaf.example".to_owned()],
            ..ProviderSettings::default()
        };
        let house = ProviderSettings {
            domains: vec!["gmx.de".to_owned()],
            mx: vec![".house.example".to_owned()],
            limit: Limit { rate: None, per_day: Some(9) },
            ..ProviderSettings::default()
        };
        let other = ProviderSettings { connections: Some(3), ..ProviderSettings::default() };
        let overrides = BTreeMap::from([("gmail".to_owned(), gmail), ("house".to_owned(), house), ("other".to_owned(), other)]);
        let providers = Providers::new(&overrides);
        let gmail = Manners { connections: Some(2), connections_when_asked: Some(2), rate: Some((100, 60)), per_day: None };
        assert_eq!(providers.manners("gmail"), gmail);
        assert_eq!(providers.manners("other").connections, Some(3));
        let shipped = Manners { connections_when_asked: Some(5), ..Manners::default() };
        assert_eq!(Providers::shipped().manners("gmail"), shipped, "the table's number holds only while somebody asks for it");
        assert_eq!((providers.of("leaf.example"), providers.of("gmail.com")), ("gmail", "gmail"));
        assert_eq!(
            (providers.of("gmx.de"), providers.of("gmx.net"), providers.by_mx("mx1.house.example")),
            ("house", "gmx", Some("house"))
        );
        assert_eq!(providers.manners("house").per_day, Some(9));
        assert_eq!(providers.manners("nobody"), Manners::default());
    }

    #[test]
    fn what_was_learned_is_used_and_the_table_stays_right() {
        let providers = Providers::shipped();
        let learn = |domain: &str, provider: &str| providers.remember([(domain.to_owned(), provider.to_owned())]);
        learn("leaf.example", "gmail");
        learn("gmail.com", "qq");
        learn("oak.example", "a-provider-that-is-gone");
        assert_eq!((providers.of("LEAF.example"), providers.of("gmail.com"), providers.of("oak.example")), ("gmail", "gmail", "other"));
        learn("leaf.example", "other");
        assert_eq!(providers.of("leaf.example"), "other");
    }
}
