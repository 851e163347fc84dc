//! The development inbox: takes any mail by SMTP on this machine, keeps the last ones in memory,
//! and shows them as web pages. For the demo and for trying campaigns out; nothing leaves it.

pub(super) mod pages;
mod smtp;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use mail_parser::{Address, MessageParser};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock::{Clock, Time};

/// Mails kept; older ones go.
const MESSAGES: usize = 20_000;
/// Bytes of mails kept; older ones go.
const BYTES: usize = 256 * 1024 * 1024;

/// A running inbox; cheap to clone. It stops taking mail when [`Inbox::stop`] is called.
#[derive(Clone)]
pub struct Inbox {
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    clock: Clock,
    kept: Mutex<Kept>,
    /// How many mails were taken so far: tests and the demo wait on it.
    received: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct Kept {
    messages: VecDeque<Arc<Received>>,
    bytes: usize,
    next_id: u64,
}

/// A mail as it was taken.
#[derive(Debug)]
pub struct Received {
    /// From 1, in the order of arrival.
    pub id: u64,
    /// When.
    pub at: Time,
    /// The envelope's sender, empty for a bounce.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// The mail, byte by byte as its sender wrote it (dots unstuffed).
    pub raw: Vec<u8>,
    summary: OnceLock<Summary>,
}

/// What a list of mails shows; read from the mail when somebody first looks.
#[derive(Debug)]
pub struct Summary {
    /// Decoded.
    pub subject: String,
    /// The From field, decoded.
    pub from: String,
}

impl Received {
    /// Subject and sender, decoded.
    pub fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| {
            let message = MessageParser::default().parse_headers(&self.raw);
            let subject = message.as_ref().and_then(|message| message.subject()).unwrap_or_default().to_owned();
            let from = message.as_ref().and_then(|message| message.from()).map_or_else(|| self.from.clone(), show_address);
            Summary { subject, from }
        })
    }

    /// The HTML part, decoded; empty where there is none.
    pub fn html(&self) -> String {
        let message = MessageParser::default().parse(&self.raw);
        message.and_then(|message| message.body_html(0).map(|html| html.into_owned())).unwrap_or_default()
    }

    /// A header field as it stands in the mail, unfolded; empty where there is none.
    pub fn header(&self, name: &'static str) -> String {
        let message = MessageParser::default().parse_headers(&self.raw);
        let raw = message.as_ref().and_then(|message| message.header_raw(name)).unwrap_or_default();
        raw.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn matches(&self, words: &[String]) -> bool {
        let summary = self.summary();
        let text = format!("{}\n{}\n{}\n{}", summary.subject, summary.from, self.from, self.to.join(" ")).to_lowercase();
        words.iter().all(|word| text.contains(word))
    }
}

fn show_address(address: &Address<'_>) -> String {
    let one = |address: &mail_parser::Addr<'_>| match (address.name(), address.address()) {
        (Some(name), Some(email)) => format!("{name} <{email}>"),
        (name, email) => name.or(email).unwrap_or_default().to_owned(),
    };
    address.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inbox({})", self.shared.address)
    }
}

impl Inbox {
    /// Listens on `address`, which must belong to this machine only: whoever can reach the inbox
    /// can read all its mails. Errors say so, or that the port is taken.
    pub async fn start(address: SocketAddr, clock: Clock) -> std::io::Result<Inbox> {
        if !address.ip().is_loopback() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("the development inbox listens on this machine only, not on `{address}`: use `127.0.0.1`"),
            ));
        }
        let listener = TcpListener::bind(address).await?;
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            clock,
            kept: Mutex::default(),
            received: watch::channel(0).0,
            stop: watch::channel(false).0,
        });
        let inbox = Inbox { shared };
        tokio::spawn(smtp::run(listener, inbox.clone(), inbox.shared.stop.subscribe()));
        Ok(inbox)
    }

    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// How many mails were taken since the start.
    pub fn received(&self) -> u64 {
        *self.shared.received.borrow()
    }

    /// Waits until at least `count` mails were taken since the start.
    pub async fn wait_for(&self, count: u64) {
        // The sender lives in `shared`, which we hold.
        self.shared.received.subscribe().wait_for(|received| *received >= count).await.ok();
    }

    /// The mails kept, newest first.
    pub fn messages(&self) -> Vec<Arc<Received>> {
        self.kept().messages.iter().rev().cloned().collect()
    }

    /// The mails kept whose subject, senders or recipients hold every word of `search`, newest first.
    pub fn search(&self, search: &str) -> Vec<Arc<Received>> {
        let words: Vec<String> = search.split_whitespace().map(str::to_lowercase).collect();
        let all = self.messages();
        if words.is_empty() { all } else { all.into_iter().filter(|message| message.matches(&words)).collect() }
    }

    /// One mail, if it is still kept.
    pub fn get(&self, id: u64) -> Option<Arc<Received>> {
        let kept = self.kept();
        let first = kept.messages.front()?.id;
        kept.messages.get(usize::try_from(id.checked_sub(first)?).ok()?).cloned()
    }

    /// Forgets every mail.
    pub fn clear(&self) {
        let mut kept = self.kept();
        kept.messages.clear();
        kept.bytes = 0;
    }

    /// Takes no more mail.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
    }

    fn keep(&self, from: String, to: Vec<String>, mut raw: Vec<u8>) -> u64 {
        // The limit counts what is used, so nothing beyond it may be held.
        raw.shrink_to_fit();
        let mut kept = self.kept();
        kept.next_id += 1;
        let id = kept.next_id;
        kept.bytes += raw.len();
        kept.messages.push_back(Arc::new(Received { id, at: self.shared.clock.now(), from, to, raw, summary: OnceLock::new() }));
        while kept.messages.len() > MESSAGES || (kept.bytes > BYTES && kept.messages.len() > 1) {
            if let Some(oldest) = kept.messages.pop_front() {
                kept.bytes -= oldest.raw.len();
            }
        }
        drop(kept);
        self.shared.received.send_modify(|received| *received += 1);
        id
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
