//! The one question asked of the DNS: a domain's MX, over UDP (RFC 1035).
//!
//! A stub of a hundred lines: a resolver library brings a cache, a runtime layer and some thirty crates
//! for an answer that only sorts domains into groups. Whoever delivers to MX hosts needs one of those.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Patience with one try; then it is asked once more.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Tries of one look-up.
const TRIES: usize = 2;
/// The largest answer read, in bytes (RFC 1035 section 2.3.4 says 512 over UDP; larger ones are cut).
const MAX_ANSWER: usize = 4096;
const TYPE_MX: u16 = 15;
const CLASS_IN: u16 = 1;
/// NXDOMAIN, RFC 1035 section 4.1.1.
const NO_SUCH_NAME: u8 = 3;
/// Labels and pointers of one name: 255 octets hold no more, and pointers may form a loop.
const MAX_STEPS: usize = 130;

/// What came of one look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The hosts, most preferred first; `.` alone (RFC 7505) is an empty name.
    Hosts(Vec<String>),
    /// The domain has no MX, or does not exist.
    Nothing,
    /// No answer, or none that can be read.
    Failed,
}

/// A name server to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolver {
    server: SocketAddr,
}

impl Resolver {
    /// Asks this name server.
    pub fn at(server: SocketAddr) -> Resolver {
        Resolver { server }
    }

    /// Asks the system's first name server; `None` where `/etc/resolv.conf` names none.
    pub fn system() -> Option<Resolver> {
        let file = std::fs::read_to_string("/etc/resolv.conf").ok()?;
        first_name_server(&file).map(|ip| Resolver::at(SocketAddr::new(ip, 53)))
    }

    /// Looks up all `domains` at once.
    pub async fn mail_exchangers(self, domains: Vec<String>) -> Vec<(String, Answer)> {
        let mut running = JoinSet::new();
        for (number, domain) in domains.into_iter().enumerate() {
            // The socket's random port and its fixed peer tell answers apart; the number guards against
            // late ones. An answer that somebody forges sorts a domain into the wrong group, no more.
            let id = u16::try_from(number % 60_000).unwrap_or(0) + 1;
            running.spawn(async move {
                let answer = self.ask(&domain, id).await;
                (domain, answer)
            });
        }
        let mut answers = Vec::new();
        while let Some(joined) = running.join_next().await {
            answers.extend(joined.ok());
        }
        answers
    }

    async fn ask(self, domain: &str, id: u16) -> Answer {
        let Some(question) = idna::domain_to_ascii(domain).ok().and_then(|name| question(&name, id)) else {
            return Answer::Nothing;
        };
        for _ in 0..TRIES {
            match tokio::time::timeout(TIMEOUT, self.exchange(&question)).await {
                Ok(Ok(answer)) if answer != Answer::Failed => return answer,
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
        }
        Answer::Failed
    }

    async fn exchange(self, question: &[u8]) -> std::io::Result<Answer> {
        let local = if self.server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let socket = UdpSocket::bind((local, 0)).await?;
        socket.connect(self.server).await?;
        socket.send(question).await?;
        let mut buffer = [0; MAX_ANSWER];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let answer = &buffer[..length];
            if answer.get(..2) == question.get(..2) {
                return Ok(read(answer).unwrap_or(Answer::Failed));
            }
        }
    }
}

fn first_name_server(file: &str) -> Option<IpAddr> {
    file.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") { words.next()?.parse().ok() } else { None }
    })
}

/// The bytes of one question; `None` for what is no name.
fn question(domain: &str, id: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(domain.len() + 18);
    // Flags: recursion desired; one question.
    for word in [id, 0x0100, 1, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    for label in domain.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(TYPE_MX.to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    (domain.len() <= 253).then_some(bytes)
}

/// Reads an answer; `None` when it is cut or no answer at all.
fn read(bytes: &[u8]) -> Option<Answer> {
    let flags = word(bytes, 2)?;
    let code = flags.to_be_bytes()[1] & 0x0f;
    if flags & 0x8000 == 0 || (code != 0 && code != NO_SUCH_NAME) {
        return None;
    }
    let (questions, records) = (word(bytes, 4)?, word(bytes, 6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name(bytes, at)?.1 + 4;
    }
    let mut found = Vec::new();
    for _ in 0..records {
        // A cut answer keeps the records it has.
        let Some((kind, data, next)) = record(bytes, at) else { break };
        if kind == TYPE_MX {
            found.push((word(bytes, data)?, name(bytes, data + 2)?.0));
        }
        at = next;
    }
    found.sort();
    Some(if found.is_empty() { Answer::Nothing } else { Answer::Hosts(found.into_iter().map(|(_, host)| host).collect()) })
}

/// Type, start of the data, start of the next record.
fn record(bytes: &[u8], at: usize) -> Option<(u16, usize, usize)> {
    let (_, after) = name(bytes, at)?;
    let length = usize::from(word(bytes, after + 8)?);
    let (data, next) = (after + 10, after + 10 + length);
    (next <= bytes.len()).then_some((word(bytes, after)?, data, next))
}

/// A name with its pointers followed (RFC 1035 section 4.1.4), and where it ends.
fn name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut text, mut at, mut end) = (String::new(), start, None);
    for _ in 0..MAX_STEPS {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some((text, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = bytes.get(at + 1..at + 1 + usize::from(length))?;
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&String::from_utf8_lossy(label).to_lowercase());
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                end = end.or(Some(at + 2));
                at = usize::from(word(bytes, at)? & 0x3fff);
            }
            _ => return None,
        }
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer to `question` with the given MX, the second one's name by a pointer to the question's.
    fn answer(code: u8) -> Vec<u8> {
        let mut bytes = question("leaf.example", 7).expect("a name");
        bytes[2..4].copy_from_slice(&[0x81, code]);
        bytes[7] = 2;
        for (preference, host) in [(20_u8, b"\x02b1\xc0\x0c".as_slice()), (10, b"\x02A2\xc0\x11".as_slice())] {
            bytes.extend([0xc0, 12, 0, 15, 0, 1, 0, 0, 0, 60, 0, 2 + host.len() as u8, 0, preference]);
            bytes.extend(host);
        }
        bytes
    }

    #[test]
    fn hosts_come_by_preference_with_pointers_followed() {
        assert_eq!(read(&answer(0x80)), Some(Answer::Hosts(vec!["a2.example".to_owned(), "b1.leaf.example".to_owned()])));
        assert_eq!(read(&question("leaf.example", 7).expect("a name")), None, "a question is no answer");
        assert_eq!(read(&answer(0x82)), None, "SERVFAIL");
        let mut none = question("leaf.example", 7).expect("a name");
        none[2..4].copy_from_slice(&[0x81, 0x83]);
        assert_eq!(read(&none), Some(Answer::Nothing));
    }

    #[test]
    fn a_pointer_to_itself_ends() {
        assert_eq!(name(&[0xc0, 0], 0), None);
    }

    #[test]
    fn what_is_no_name_is_not_asked() {
        assert_eq!(question("a..b", 1), None);
        assert_eq!(question(&"a".repeat(64), 1), None);
        assert_eq!(question(&"a.".repeat(200), 1), None);
    }

    #[test]
    fn the_systems_first_name_server_is_taken() {
        assert_eq!(
            first_name_server("# x\nsearch leaf.example\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n"),
            "192.0.2.53".parse().ok()
        );
        assert_eq!(first_name_server("options edns0\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(at in 0_usize..80, value in any::<u8>(), cut in 0_usize..80, noise in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = answer(0x80);
            let place = at % bytes.len();
            bytes[place] = value;
            bytes.truncate(bytes.len().saturating_sub(cut));
            let _ = read(&bytes);
            let _ = read(&noise);
        }
    }
}
