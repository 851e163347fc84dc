//! A name server on loopback that knows the MX of some domains, and counts what it was asked.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Runs until it is dropped.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    alive: Arc<()>,
}

impl NameServer {
    /// Answers with these hosts (preference and name) for these domains, NXDOMAIN for others.
    pub fn start(zones: &[(&str, &[(u16, &str)])]) -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let zones: BTreeMap<String, Vec<(u16, String)>> = zones
            .iter()
            .map(|(domain, hosts)| {
                ((*domain).to_owned(), hosts.iter().map(|(preference, host)| (*preference, (*host).to_owned())).collect())
            })
            .collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let alive = Arc::new(());
        let (log, owner) = (Arc::clone(&asked), Arc::downgrade(&alive));
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while owner.upgrade().is_some() {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                let (domain, end) = question(&buffer[..length]);
                let answer = answer(&buffer[..end], zones.get(&domain));
                log.lock().unwrap().push(domain);
                socket.send_to(&answer, peer).unwrap();
            }
        });
        NameServer { address, asked, alive }
    }

    /// Every domain that was asked for since the last call, sorted.
    pub fn asked(&self) -> Vec<String> {
        assert_eq!(Arc::strong_count(&self.alive), 1);
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked
    }
}

/// The name asked for, and where the question ends.
fn question(bytes: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while bytes[at] != 0 {
        let length = usize::from(bytes[at]);
        labels.push(String::from_utf8(bytes[at + 1..=at + length].to_vec()).unwrap());
        at += 1 + length;
    }
    (labels.join("."), at + 5)
}

fn answer(question: &[u8], hosts: Option<&Vec<(u16, String)>>) -> Vec<u8> {
    let mut bytes = question.to_vec();
    bytes[2] = 0x81;
    bytes[3] = if hosts.is_some() { 0x80 } else { 0x83 };
    let hosts = hosts.map_or(&[][..], Vec::as_slice);
    bytes[6..8].copy_from_slice(&u16::try_from(hosts.len()).unwrap().to_be_bytes());
    for (preference, host) in hosts {
        let mut name = Vec::new();
        for label in host.split('.') {
            name.push(u8::try_from(label.len()).unwrap());
            name.extend(label.as_bytes());
        }
        name.push(0);
        bytes.extend([0xc0, 12, 0, 15, 0, 1, 0, 0, 1, 0]);
        bytes.extend(u16::try_from(name.len() + 2).unwrap().to_be_bytes());
        bytes.extend(preference.to_be_bytes());
        bytes.extend(name);
    }
    bytes
}
