//! Simulated recipients: they read their mail in the inbox and act over real HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use tokio::net::TcpStream;

use crate::entropy::Entropy;
use crate::web::inbox::{Inbox, Received};

/// Recipients acting at the same time.
const AT_A_TIME: usize = 12;
/// Of all recipients: whose mail program or gateway fetches every link at once.
const SCANNED: f64 = 0.03;
/// Of all recipients: who opens the mail.
const OPENS: f64 = 0.42;
/// Of those who open: who follows a link, and who leaves.
const CLICKS: f64 = 0.30;
const LEAVES: f64 = 0.03;

const AGENTS: &[&str] = &[
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile Safari/537.36",
];

/// What the recipients did, as they remember it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub opened: AtomicU64,
    pub clicked: AtomicU64,
    pub left: AtomicU64,
    pub scanned: AtomicU64,
}

/// Who acts on a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Gateways that look at every link, right after delivery.
    Scanners,
    /// The people it was written for, later.
    People,
}

/// Lets the recipients of the mails after `since` act once. What somebody does follows from `salt` and
/// the address, not from who else acts just now.
pub(super) async fn act(
    who: Who,
    inbox: &Inbox,
    address: std::net::SocketAddr,
    since: u64,
    salt: u64,
    bar: &ProgressBar,
) -> anyhow::Result<Memory> {
    let mails: Vec<Arc<Received>> = inbox.messages().into_iter().filter(|mail| mail.id > since).collect();
    bar.set_length(mails.len() as u64);
    let memory = Arc::new(Memory::default());
    let mails = Arc::new(std::sync::Mutex::new(mails));
    let mut people = tokio::task::JoinSet::new();
    for _ in 0..AT_A_TIME {
        let (mails, memory, bar) = (mails.clone(), memory.clone(), bar.clone());
        people.spawn(async move {
            let mut browser = Browser::connect(address).await?;
            loop {
                let next = mails.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                let Some(mail) = next else { return anyhow::Ok(()) };
                let chances = Entropy::seeded(salt ^ number(&format!("{who:?} {}", mail.to.concat())));
                match who {
                    Who::Scanners => one_scanner(&mut browser, &mail, &chances, &memory).await?,
                    Who::People => one_person(&mut browser, &mail, &chances, &memory).await?,
                }
                bar.inc(1);
            }
        });
    }
    while let Some(done) = people.join_next().await {
        done??;
    }
    Ok(Arc::into_inner(memory).unwrap_or_default())
}

/// A text as a number (FNV-1a).
fn number(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

async fn one_scanner(browser: &mut Browser, mail: &Received, entropy: &Entropy, memory: &Memory) -> anyhow::Result<()> {
    if !entropy.chance(SCANNED) {
        return Ok(());
    }
    let links = Links::read(mail);
    browser.agent = AGENTS[entropy.below(AGENTS.len() as u64) as usize];
    for link in &links.clicks {
        browser.get(link).await?;
    }
    // It follows the unsubscribe link as well: a GET that withdraws nobody.
    browser.get(&links.unsubscribe).await?;
    memory.scanned.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn one_person(browser: &mut Browser, mail: &Received, entropy: &Entropy, memory: &Memory) -> anyhow::Result<()> {
    if !entropy.chance(OPENS) {
        return Ok(());
    }
    let links = Links::read(mail);
    browser.agent = AGENTS[entropy.below(AGENTS.len() as u64) as usize];
    browser.get(&links.pixel).await?;
    memory.opened.fetch_add(1, Ordering::Relaxed);
    if entropy.chance(CLICKS) && !links.clicks.is_empty() {
        let link = &links.clicks[entropy.below(links.clicks.len() as u64) as usize];
        browser.get(link).await?;
        memory.clicked.fetch_add(1, Ordering::Relaxed);
    }
    if entropy.chance(LEAVES) {
        browser.get(&links.unsubscribe).await?;
        // Half by the page's button, half by their mail program's (RFC 8058).
        if entropy.chance(0.5) {
            browser.post(&links.unsubscribe, "leave=topic").await?;
        } else {
            browser.post(&links.one_click, "List-Unsubscribe=One-Click").await?;
        }
        memory.left.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Paths of a mail's links.
struct Links {
    pixel: String,
    clicks: Vec<String>,
    unsubscribe: String,
    one_click: String,
}

impl Links {
    fn read(mail: &Received) -> Links {
        let paths = links(mail);
        let with = |prefix: &str| paths.iter().find(|path| path.starts_with(prefix)).cloned().unwrap_or_default();
        let mut clicks: Vec<String> = paths.iter().filter(|path| path.starts_with("/c/")).cloned().collect();
        clicks.dedup();
        let header = mail.header("List-Unsubscribe");
        let one_click = header.split(['<', '>']).find_map(path).unwrap_or_default();
        Links { pixel: with("/o/"), unsubscribe: with("/u/"), clicks, one_click }
    }
}

/// Paths of all links of a mail.
pub(super) fn links(mail: &Received) -> Vec<String> {
    mail.html().split(['"', '\'']).filter_map(path).collect()
}

fn path(text: &str) -> Option<String> {
    url::Url::parse(text).ok().filter(|url| url.scheme().starts_with("http") && url.port().is_some()).map(|url| url.path().to_owned())
}

/// One connection, kept open like a browser's.
pub(super) struct Browser {
    requests: SendRequest<Full<Bytes>>,
    address: std::net::SocketAddr,
    agent: &'static str,
}

impl Browser {
    pub(super) async fn connect(address: std::net::SocketAddr) -> anyhow::Result<Browser> {
        Ok(Browser { requests: Self::open(address).await?, address, agent: AGENTS[0] })
    }

    async fn open(address: std::net::SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(requests)
    }

    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<()> {
        self.request("GET", path, "").await.map(drop)
    }

    /// What a page says, as HTML.
    pub(super) async fn page(&mut self, path: &str) -> anyhow::Result<String> {
        let body = self.request("GET", path, "").await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    pub(super) async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<()> {
        self.request("POST", path, body).await.map(drop)
    }

    async fn request(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<Bytes> {
        if self.requests.ready().await.is_err() {
            self.requests = Self::open(self.address).await?;
        }
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("Host", self.address.to_string())
            .header("User-Agent", self.agent)
            .header("Accept-Language", "en")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let response = self.requests.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status < 400, "{method} of a page was answered with {status}");
        Ok(body)
    }
}
