//! Who is known as a machine: agents and networks of `data/machines.toml`.

use std::net::IpAddr;
use std::sync::LazyLock;

use serde::Deserialize;

const SHIPPED: &str = include_str!("../../data/machines.toml");

static MACHINES: LazyLock<Machines> =
    LazyLock::new(|| toml::from_str(SHIPPED).map(Machines::new).expect("data/machines.toml is part of this program and tested"));

/// What a network is known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Owner {
    /// Loads images for everybody, read or not.
    Relay,
    /// Scans mail.
    Scanner,
    /// A computing centre.
    Datacentre,
}

/// What an agent says of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agent {
    /// Nothing was sent.
    Missing,
    /// Acts for a person who opens just now.
    PersonProxy,
    /// Loads images before anybody opens.
    Prefetch,
    /// Loads images for everybody.
    Relay,
    /// Scans mail.
    Scanner,
    /// A robot, a library or a preview.
    Machine,
    /// A browser or a program for mail, as it seems.
    Ordinary,
    /// Nothing that is known as a robot, and not what browsers say either.
    Odd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    agents: Agents,
    gateways: Gateways,
    network: Vec<Network>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Agents {
    person_proxy: Vec<String>,
    prefetch: Vec<String>,
    relay: Vec<String>,
    scanner: Vec<String>,
    machine: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateways {
    providers: Vec<String>,
    mx: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(rename = "owner")]
    _owner: String,
    kind: Owner,
    ranges: Vec<String>,
}

/// The table, ready to be asked.
pub(super) struct Machines {
    agents: Agents,
    gateways: Gateways,
    /// First and last address, as numbers, by first; IPv4 addresses as they are mapped into IPv6.
    networks: Vec<(u128, u128, Owner)>,
}

/// The shipped table.
pub(super) fn machines() -> &'static Machines {
    &MACHINES
}

impl Machines {
    fn new(file: File) -> Machines {
        let range = |text: &String, kind| range(text).map(|(first, last)| (first, last, kind));
        let mut networks: Vec<_> =
            file.network.iter().flat_map(|network| network.ranges.iter().filter_map(move |text| range(text, network.kind))).collect();
        networks.sort_unstable_by_key(|network| network.0);
        Machines { agents: file.agents, gateways: file.gateways, networks }
    }

    /// What an agent says.
    pub(super) fn agent(&self, agent: &str) -> Agent {
        let agent = agent.trim().to_lowercase();
        let holds = |parts: &[String]| parts.iter().any(|part| agent.contains(part.as_str()));
        if agent.is_empty() {
            return Agent::Missing;
        }
        if holds(&self.agents.person_proxy) {
            return Agent::PersonProxy;
        }
        if self.agents.prefetch.iter().any(|end| agent.ends_with(end.as_str())) {
            return Agent::Prefetch;
        }
        if self.agents.relay.contains(&agent) {
            return Agent::Relay;
        }
        if holds(&self.agents.scanner) {
            return Agent::Scanner;
        }
        // Cubot makes telephones.
        let spoken = agent.replace("cubot", "");
        if spoken.ends_with("bot") || self.agents.machine.iter().any(|part| spoken.contains(part.as_str())) {
            return Agent::Machine;
        }
        let ordinary = ["mozilla/", "opera", "outlook", "thunderbird", "dalvik", "lynx", "w3m", "microsoft office", "mail"];
        if ordinary.iter().any(|part| agent.contains(part)) { Agent::Ordinary } else { Agent::Odd }
    }

    /// What a network is known for.
    pub(super) fn network(&self, address: IpAddr) -> Option<Owner> {
        let number = number(address);
        let after = self.networks.partition_point(|network| network.0 <= number);
        // Ranges do not overlap (a test holds that), so the last that begins before is the only one.
        after.checked_sub(1).map(|at| self.networks[at]).filter(|network| number <= network.1).map(|network| network.2)
    }

    /// Whether scanners stand in front of mailboxes, by provider or by the host that takes their mail.
    pub(super) fn is_gateway(&self, provider: &str, mx: Option<&str>) -> bool {
        let host = mx.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        let below = |suffix: &String| host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.gateways.providers.iter().any(|known| known == provider) || self.gateways.mx.iter().any(below)
    }
}

fn number(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn range(text: &str) -> Option<(u128, u128)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    let bits = if address.is_ipv4() { bits + 96 } else { bits };
    let mask = u128::MAX.checked_shr(bits).unwrap_or(0);
    (bits <= 128 && number(address) & mask == 0).then(|| (number(address), number(address) | mask))
}

/// The neighbourhood of an address, in which one client may change its address: /24, or /64.
pub(super) fn neighbourhood(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}")
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(address: &str) -> Option<Owner> {
        machines().network(address.parse().expect("an address"))
    }

    #[test]
    fn the_shipped_table_is_whole() {
        let file: File = toml::from_str(SHIPPED).expect("it reads");
        for text in file.network.iter().flat_map(|network| &network.ranges) {
            assert!(range(text).is_some(), "{text} is no network");
        }
        for pair in machines().networks.windows(2) {
            assert!(pair[0].1 < pair[1].0, "two networks overlap: {pair:x?}");
        }
        let agents = [&file.agents.person_proxy, &file.agents.prefetch, &file.agents.relay, &file.agents.scanner, &file.agents.machine];
        for part in agents.into_iter().flatten() {
            assert_eq!(*part, part.to_lowercase());
        }
    }

    #[test]
    fn networks_are_known_by_their_ends() {
        for (address, expected) in [
            ("209.222.80.0", Some(Owner::Scanner)),
            ("209.222.87.255", Some(Owner::Scanner)),
            ("209.222.88.0", None),
            ("::ffff:209.222.80.9", Some(Owner::Scanner)),
            ("40.94.20.7", Some(Owner::Datacentre)),
            ("17.58.1.2", Some(Owner::Relay)),
            ("2a02:26f7:c1c4::1", Some(Owner::Relay)),
            ("127.0.0.1", None),
            ("203.0.113.9", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(owner(address), expected, "{address}");
        }
        assert_eq!(neighbourhood("203.0.113.9".parse().expect("an address")), "203.0.113");
        assert_eq!(neighbourhood("2001:db8:1:2::9".parse().expect("an address")), "2001:db8:1:2");
    }

    #[test]
    fn a_mail_host_tells_a_gateway_at_a_label() {
        for (provider, mx, expected) in [
            ("mimecast", None, true),
            ("other", Some("us-smtp-inbound-1.mimecast.com."), true),
            ("other", Some("notmimecast.com"), false),
            ("gmail", Some("aspmx.l.google.com"), false),
            ("other", None, false),
        ] {
            assert_eq!(machines().is_gateway(provider, mx), expected, "{provider} {mx:?}");
        }
    }
}
