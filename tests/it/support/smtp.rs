//! An SMTP server in the test process. It records what it was given, byte for byte, notes every
//! breach of protocol by the client, and misbehaves as its script says.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A client that says nothing for so long has forgotten us.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One accepted mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Number of the session it came in, from 0.
    pub session: usize,
    /// MAIL FROM, without brackets.
    pub from: String,
    /// What followed the address in MAIL FROM, such as `BODY=8BITMIME`.
    pub parameters: String,
    /// Every accepted RCPT TO, without brackets.
    pub to: Vec<String>,
    /// The message, dots unstuffed, CRLF kept, without the final dot line.
    pub data: Vec<u8>,
    /// Whether it came over TLS.
    pub encrypted: bool,
    /// Who had signed in, and how: `mei PLAIN`.
    pub login: Option<String>,
    /// When it was there as a whole.
    pub at: Instant,
}

impl Received {
    /// The message as text (invalid UTF-8 replaced).
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// How the end of a mail goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// As the protocol says.
    #[default]
    Proper,
    /// The connection closes instead of the `354`.
    CloseAtData,
    /// The connection closes in the middle of the message.
    CloseAfterData,
    /// The whole message is taken and kept, then the connection closes without a reply.
    CloseBeforeReply,
}

/// TLS, with a certificate of `tests/fixtures/tls` (`server`, `elsewhere`, `expired`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// None.
    #[default]
    Never,
    /// Offered as STARTTLS.
    StartTls(&'static str),
    /// From the first byte.
    Implicit(&'static str),
    /// STARTTLS is offered and accepted; then the connection closes.
    BrokenStartTls,
}

/// Who may send, and how they sign in.
#[derive(Debug, Clone)]
pub struct Login {
    /// What EHLO offers, such as `PLAIN LOGIN`.
    pub mechanisms: &'static str,
    /// The one user.
    pub user: &'static str,
    /// Its password or token.
    pub password: &'static str,
}

/// Answers a reply (`450 4.2.0 later`) to refuse, `None` to accept.
pub type Refusal = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What the server does. [`Script::default`] is a polite one.
#[derive(Clone)]
pub struct Script {
    /// Wait before the greeting.
    pub greeting_delay: Duration,
    /// Wait before every other reply.
    pub reply_delay: Duration,
    /// The greeting.
    pub greeting: String,
    /// EHLO keywords. Without `PIPELINING`, `8BITMIME` or `SMTPUTF8` their use is a breach.
    pub extensions: Vec<String>,
    /// Given the sender.
    pub refuse_mail: Option<Refusal>,
    /// Given the recipient.
    pub refuse_rcpt: Option<Refusal>,
    /// Given the message; answered after the final dot, the message is not kept.
    pub refuse_message: Option<Refusal>,
    /// How a mail ends.
    pub ending: Ending,
    /// Everything is answered with this instead of SMTP.
    pub nonsense: Option<Vec<u8>>,
    /// Sessions end with 421 after so many mails; 0 means never.
    pub mails_per_session: usize,
    /// Sessions beyond so many are refused with 421 at once; 0: any number.
    pub sessions_at_a_time: usize,
    /// TLS.
    pub encryption: Encryption,
    /// Whoever sends must have signed in.
    pub login: Option<Login>,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            greeting_delay: Duration::ZERO,
            reply_delay: Duration::ZERO,
            greeting: "220 sink.example ESMTP".to_owned(),
            extensions: ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 52428800"].map(str::to_owned).to_vec(),
            refuse_mail: None,
            refuse_rcpt: None,
            refuse_message: None,
            ending: Ending::Proper,
            nonsense: None,
            mails_per_session: 0,
            sessions_at_a_time: 0,
            encryption: Encryption::Never,
            login: None,
        }
    }
}

impl Script {
    /// Refuses recipients that hold `part`, with `reply`.
    pub fn refusing(part: &'static str, reply: &'static str) -> Self {
        Script { refuse_rcpt: Some(Arc::new(move |rcpt| rcpt.contains(part).then(|| reply.to_owned()))), ..Script::default() }
    }

    /// Without one EHLO keyword.
    pub fn without(mut self, extension: &str) -> Self {
        self.extensions.retain(|offered| offered != extension);
        self
    }
}

#[derive(Default)]
struct Record {
    received: Vec<Received>,
    breaches: Vec<String>,
    open: Vec<TcpStream>,
}

struct Shared {
    script: Mutex<Script>,
    record: Mutex<Record>,
    sessions: AtomicUsize,
    at_a_time: AtomicUsize,
    most_at_a_time: AtomicUsize,
    up: AtomicBool,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self) -> Script {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The server; ends when dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Sink {
    /// A polite one.
    pub fn start() -> Self {
        Self::with(Script::default())
    }

    /// One that follows `script`.
    pub fn with(script: Script) -> Self {
        let mut sink = Self::down(script);
        sink.come_up();
        sink
    }

    /// One that is not there yet, at a port that [`Sink::come_up`] will use.
    pub fn down(script: Script) -> Self {
        let shared = Shared {
            script: Mutex::new(script),
            record: Mutex::default(),
            sessions: AtomicUsize::new(0),
            at_a_time: AtomicUsize::new(0),
            most_at_a_time: AtomicUsize::new(0),
            up: AtomicBool::new(false),
        };
        Sink { address: SocketAddr::from(([127, 0, 0, 1], super::free_port())), shared: Arc::new(shared), accepting: None }
    }

    /// Starts to listen, at the port it always had.
    pub fn come_up(&mut self) {
        if self.accepting.is_some() {
            return;
        }
        let address = self.address;
        let listener = super::wait_until("the sink's port is free", 20, || TcpListener::bind(address).ok());
        self.shared.up.store(true, Ordering::SeqCst);
        let shared = self.shared.clone();
        self.accepting = Some(std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !shared.up.load(Ordering::SeqCst) {
                    break;
                }
                let shared = shared.clone();
                std::thread::spawn(move || serve(&shared, stream));
            }
        }));
    }

    /// Stops listening and cuts every session.
    pub fn go_down(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.up.store(false, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = accepting.join();
        for stream in self.shared.record().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Changes the script; sessions that are open see it at their next command.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.script.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// For `OPTIN_SMTP__URL`.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Every mail accepted so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.record().received.clone()
    }

    /// Waits for `count` mails.
    pub fn wait_for(&self, count: usize, seconds: u64) -> Vec<Received> {
        super::wait_until(&format!("{count} mails in the sink"), seconds, || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
    }

    /// What clients did that they must not: bare CR or LF, lines over 998 octets, 8-bit data or
    /// UTF-8 addresses that were not offered, pipelining that was not offered, commands out of order.
    pub fn breaches(&self) -> Vec<String> {
        self.shared.record().breaches.clone()
    }

    /// Sessions so far.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::SeqCst)
    }

    /// The most sessions that were open at one time.
    pub fn most_at_a_time(&self) -> usize {
        self.shared.most_at_a_time.load(Ordering::SeqCst)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.go_down();
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    let number = shared.sessions.fetch_add(1, Ordering::SeqCst);
    let at_a_time = shared.at_a_time.fetch_add(1, Ordering::SeqCst) + 1;
    let most = shared.script().sessions_at_a_time;
    if most > 0 && at_a_time > most {
        let _ = (&stream).write_all(b"421 4.3.2 sink.example too many connections\r\n");
        shared.at_a_time.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    shared.most_at_a_time.fetch_max(at_a_time, Ordering::SeqCst);
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(IDLE_TIMEOUT));
    if let (Ok(kept), Ok(closing)) = (stream.try_clone(), stream.try_clone()) {
        shared.record().open.push(kept);
        let stream = match shared.script().encryption {
            Encryption::Implicit(certificate) => Stream::encrypt(stream, certificate),
            _ => Stream::Clear(stream),
        };
        let mut session = Session { shared, number, stream: BufReader::new(stream), mail: Mail::default(), mails: 0, login: None };
        // An error is the client's hanging up or our own cutting: both end the session.
        let _ = session.run();
        let _ = session.stream.get_mut().flush();
        let _ = closing.shutdown(Shutdown::Both);
    }
    shared.at_a_time.fetch_sub(1, Ordering::SeqCst);
}

enum Stream {
    Clear(TcpStream),
    Encrypted(Box<StreamOwned<ServerConnection, TcpStream>>),
    Gone,
}

impl Stream {
    fn encrypt(stream: TcpStream, certificate: &str) -> Stream {
        let folder = super::process::repository().join("tests/fixtures/tls");
        let chain = vec![CertificateDer::from_pem_file(folder.join(format!("{certificate}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        Stream::Encrypted(Box::new(StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream)))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Clear(stream) => stream.read(buffer),
            Stream::Encrypted(stream) => stream.read(buffer),
            Stream::Gone => Ok(0),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Clear(stream) => stream.write(bytes),
            Stream::Encrypted(stream) => stream.write(bytes),
            Stream::Gone => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Stream::Clear(stream) => stream.flush(),
            Stream::Encrypted(stream) => stream.flush(),
            Stream::Gone => Ok(()),
        }
    }
}

#[derive(Default)]
struct Mail {
    from: Option<String>,
    parameters: String,
    to: Vec<String>,
}

struct Session<'a> {
    shared: &'a Shared,
    number: usize,
    stream: BufReader<Stream>,
    mail: Mail,
    mails: usize,
    login: Option<String>,
}

/// What a command leaves to do.
enum Next {
    Reply(String),
    Data,
    Close(Option<&'static str>),
}

impl Session<'_> {
    fn run(&mut self) -> std::io::Result<()> {
        let script = self.shared.script();
        std::thread::sleep(script.greeting_delay);
        match &script.nonsense {
            Some(nonsense) => self.stream.get_mut().write_all(nonsense)?,
            None => self.reply(&script.greeting)?,
        }
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let script = self.shared.script();
            std::thread::sleep(script.reply_delay);
            if let Some(nonsense) = &script.nonsense {
                self.stream.get_mut().write_all(nonsense)?;
                continue;
            }
            if !line.ends_with(b"\r\n") {
                self.breach("a command line without CRLF");
            }
            if !self.stream.buffer().is_empty() && !offers(&script, "PIPELINING") {
                self.breach("pipelining that was not offered");
            }
            let command = String::from_utf8_lossy(&line).trim_end().to_owned();
            if command == "STARTTLS" && self.offers_starttls(&script) {
                if !self.start_tls(&script)? {
                    return Ok(());
                }
                continue;
            }
            if let (Some(rest), Some(login)) = (command.strip_prefix("AUTH "), &script.login) {
                let reply = self.sign_in(login, rest)?;
                self.reply(&reply)?;
                continue;
            }
            match self.answer(&script, &command) {
                Next::Reply(reply) => self.reply(&reply)?,
                Next::Data => {
                    if !self.data(&script)? {
                        return Ok(());
                    }
                }
                Next::Close(last) => return last.map_or(Ok(()), |last| self.reply(last)),
            }
        }
    }

    fn offers_starttls(&self, script: &Script) -> bool {
        matches!(script.encryption, Encryption::StartTls(_) | Encryption::BrokenStartTls)
            && matches!(self.stream.get_ref(), Stream::Clear(_))
    }

    /// Answers whether the session goes on.
    fn start_tls(&mut self, script: &Script) -> std::io::Result<bool> {
        self.reply("220 2.0.0 go ahead")?;
        if !self.stream.buffer().is_empty() {
            self.breach("something after STARTTLS in clear text");
        }
        self.mail = Mail::default();
        let Encryption::StartTls(certificate) = script.encryption else { return Ok(false) };
        if let Stream::Clear(stream) = std::mem::replace(self.stream.get_mut(), Stream::Gone) {
            *self.stream.get_mut() = Stream::encrypt(stream, certificate);
        }
        Ok(true)
    }

    /// The client's next line, out of base64.
    fn response(&mut self, challenge: &str) -> std::io::Result<String> {
        self.reply(&format!("334 {}", STANDARD.encode(challenge)))?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(String::from_utf8_lossy(&STANDARD.decode(line.trim_end()).unwrap_or_default()).into_owned())
    }

    fn sign_in(&mut self, login: &Login, command: &str) -> std::io::Result<String> {
        let (mechanism, initial) = command.split_once(' ').unwrap_or((command, ""));
        if !login.mechanisms.split(' ').any(|offered| offered == mechanism) {
            self.breach(&format!("AUTH {mechanism} that was not offered"));
        }
        let initial = String::from_utf8_lossy(&STANDARD.decode(initial).unwrap_or_default()).into_owned();
        let (user, password) = (login.user, login.password);
        let right = match mechanism {
            "PLAIN" => initial == format!("\0{user}\0{password}"),
            "LOGIN" => {
                let said = (self.response("Username:")?, self.response("Password:")?);
                said == (user.to_owned(), password.to_owned())
            }
            "XOAUTH2" => {
                let right = initial == format!("user={user}\x01auth=Bearer {password}\x01\x01");
                if !right && !self.response("{\"status\":\"invalid_token\"}")?.is_empty() {
                    self.breach("an answer to the reason of a refusal");
                }
                right
            }
            _ => false,
        };
        self.login = right.then(|| format!("{user} {mechanism}"));
        Ok(if right { "235 2.7.0 welcome" } else { "535 5.7.8 bad credentials" }.to_owned())
    }

    fn answer(&mut self, script: &Script, command: &str) -> Next {
        let upper = command.to_ascii_uppercase();
        if !command.is_ascii() && !offers(script, "SMTPUTF8") {
            self.breach("UTF-8 in a command that was not offered");
        }
        if upper.starts_with("EHLO") {
            self.mail = Mail::default();
            return Next::Reply(ehlo(script, self.offers_starttls(script)));
        }
        if upper.starts_with("HELO") || upper == "RSET" {
            self.mail = Mail::default();
            return Next::Reply("250 2.0.0 ok".to_owned());
        }
        if upper.starts_with("MAIL FROM:") {
            return Next::Reply(self.mail_from(script, command));
        }
        if upper.starts_with("RCPT TO:") {
            return Next::Reply(self.rcpt_to(script, command));
        }
        match upper.as_str() {
            "DATA" if self.mail.to.is_empty() => Next::Reply("554 5.5.1 no valid recipients".to_owned()),
            "DATA" if script.ending == Ending::CloseAtData => Next::Close(None),
            "DATA" => Next::Data,
            "NOOP" => Next::Reply("250 2.0.0 ok".to_owned()),
            "QUIT" => Next::Close(Some("221 2.0.0 bye")),
            _ => {
                self.breach(&format!("an unknown command `{command}`"));
                Next::Reply("502 5.5.2 unknown command".to_owned())
            }
        }
    }

    fn mail_from(&mut self, script: &Script, command: &str) -> String {
        if self.mail.from.is_some() {
            self.breach("MAIL inside a mail");
            return "503 5.5.1 nested MAIL".to_owned();
        }
        if script.login.is_some() && self.login.is_none() {
            return "530 5.7.0 sign in first".to_owned();
        }
        let (from, parameters) = path_and_parameters(command);
        if parameters.contains("SMTPUTF8") && !offers(script, "SMTPUTF8") {
            self.breach("SMTPUTF8 that was not offered");
        }
        if let Some(reply) = script.refuse_mail.as_ref().and_then(|refuse| refuse(&from)) {
            return reply;
        }
        self.mail = Mail { from: Some(from), parameters, to: Vec::new() };
        "250 2.1.0 ok".to_owned()
    }

    fn rcpt_to(&mut self, script: &Script, command: &str) -> String {
        if self.mail.from.is_none() {
            return "503 5.5.1 need MAIL before RCPT".to_owned();
        }
        let (to, _) = path_and_parameters(command);
        if let Some(reply) = script.refuse_rcpt.as_ref().and_then(|refuse| refuse(&to)) {
            return reply;
        }
        self.mail.to.push(to);
        "250 2.1.5 ok".to_owned()
    }

    /// Takes a message. Answers whether the session goes on.
    fn data(&mut self, script: &Script) -> std::io::Result<bool> {
        self.reply("354 go ahead")?;
        if script.ending == Ending::CloseAfterData {
            // Some of it, so that the client is in the middle.
            let mut some = [0; 64];
            let _ = self.stream.read(&mut some)?;
            return Ok(false);
        }
        let Some(data) = self.read_message(script)? else { return Ok(false) };
        let mail = std::mem::take(&mut self.mail);
        let refused = script.refuse_message.as_ref().and_then(|refuse| refuse(&String::from_utf8_lossy(&data)));
        if let Some(reply) = refused {
            self.reply(&reply)?;
            return Ok(true);
        }
        let received = Received {
            session: self.number,
            from: mail.from.unwrap_or_default(),
            parameters: mail.parameters,
            to: mail.to,
            data,
            encrypted: matches!(self.stream.get_ref(), Stream::Encrypted(_)),
            login: self.login.clone(),
            at: Instant::now(),
        };
        self.shared.record().received.push(received);
        self.mails += 1;
        if script.ending == Ending::CloseBeforeReply {
            return Ok(false);
        }
        std::thread::sleep(script.reply_delay);
        self.reply("250 2.0.0 taken")?;
        if script.mails_per_session > 0 && self.mails >= script.mails_per_session {
            self.reply("421 4.7.0 enough for one session")?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Reads up to the line with the single dot; `None` when the client hung up before it.
    fn read_message(&mut self, script: &Script) -> std::io::Result<Option<Vec<u8>>> {
        let eight_bit = offers(script, "8BITMIME") && self.mail.parameters.contains("8BITMIME");
        let (mut data, mut line) = (Vec::new(), Vec::new());
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            if line == b".\r\n" {
                return Ok(Some(data));
            }
            let content = line.strip_suffix(b"\r\n").unwrap_or_else(|| {
                self.breach("a bare LF in a message");
                line.strip_suffix(b"\n").unwrap_or(&line)
            });
            let content = content.strip_prefix(b".").unwrap_or(content);
            if content.contains(&b'\r') {
                self.breach("a bare CR in a message");
            }
            if content.contains(&0) {
                self.breach("a NUL in a message");
            }
            if content.len() > 998 {
                self.breach(&format!("a line of {} octets", content.len()));
            }
            if !content.is_ascii() && !eight_bit {
                self.breach("8-bit data without BODY=8BITMIME");
            }
            data.extend_from_slice(content);
            data.extend_from_slice(b"\r\n");
        }
    }

    fn reply(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(format!("{text}\r\n").as_bytes())
    }

    fn breach(&self, what: &str) {
        self.shared.record().breaches.push(what.to_owned());
    }
}

fn offers(script: &Script, extension: &str) -> bool {
    script.extensions.iter().any(|offered| offered == extension)
}

fn ehlo(script: &Script, starttls: bool) -> String {
    let mut lines = vec!["sink.example".to_owned()];
    lines.extend(script.extensions.iter().cloned());
    lines.extend(starttls.then(|| "STARTTLS".to_owned()));
    lines.extend(script.login.iter().map(|login| format!("AUTH {}", login.mechanisms)));
    let last = lines.len() - 1;
    let replies: Vec<String> =
        lines.iter().enumerate().map(|(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' })).collect();
    replies.join("\r\n")
}

/// `MAIL FROM:<a@b.example> BODY=8BITMIME` gives `a@b.example` and `BODY=8BITMIME`.
fn path_and_parameters(command: &str) -> (String, String) {
    let rest = command.split_once(':').map_or("", |(_, rest)| rest).trim_start();
    // A quoted local part may hold a `>`: the last one before the parameters closes.
    let end = rest.rfind('>').unwrap_or(rest.len());
    let path = rest[..end].trim_start_matches('<').to_owned();
    let parameters = rest.get(end + 1..).unwrap_or("").trim().to_ascii_uppercase();
    (path, parameters)
}
