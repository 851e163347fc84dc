//! A receiver in a process of its own: this binary, run again with `receiver` as its first word.
//!
//! It writes what it took to a file before it says so, one line an event, so that the truth is known
//! also when the receiver itself is killed. It misbehaves by share, the same way for the same seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use optin::clock::Clock;

use crate::support::{free_port, wait_until};

/// Longest line in a body, without its end (RFC 5321 section 4.5.3.1.6).
const MAX_BODY_LINE: usize = 998;

/// How it behaves. Shares are in thousandths of the recipients.
#[derive(Debug, Clone)]
pub struct Manners {
    /// Chooses who is refused.
    pub seed: u64,
    /// Refused with 4xx at the first `tries` tries, taken at the next one.
    pub later: u64,
    /// Tries that a recipient of `later` is refused.
    pub tries: u64,
    /// Refused with 5xx always.
    pub never: u64,
    /// The connection closes after the final dot, before the reply; every other one is taken before.
    pub close: u64,
    /// Wait before each reply to MAIL, RCPT and DATA.
    pub command_ms: u64,
    /// Wait before the reply to the final dot.
    pub message_ms: u64,
    /// Whether PIPELINING is offered.
    pub pipelining: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Manners { seed: 1, later: 0, tries: 1, never: 0, close: 0, command_ms: 0, message_ms: 0, pipelining: true }
    }
}

impl Manners {
    fn to_line(&self) -> String {
        let Manners { seed, later, tries, never, close, command_ms, message_ms, pipelining } = self;
        format!("{seed} {later} {tries} {never} {close} {command_ms} {message_ms} {}", u64::from(*pipelining))
    }

    fn from_line(line: &str) -> Option<Manners> {
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [seed, later, tries, never, close, command_ms, message_ms, pipelining] = numbers[..] else { return None };
        Some(Manners { seed, later, tries, never, close, command_ms, message_ms, pipelining: pipelining == 1 })
    }

    /// A number from 0 to 999 for this recipient and question.
    fn lot(&self, question: &str, recipient: &str) -> u64 {
        // FNV-1a with a last stir: the same in every process, which a `HashMap`'s hasher is not.
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in question.bytes().chain(recipient.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (hash ^ (hash >> 29)) % 1_000
    }
}

/// What a log says.
#[derive(Debug, Default, Clone)]
pub struct Log {
    /// Message-IDs of the mails taken, by recipient.
    pub taken: BTreeMap<String, Vec<String>>,
    /// Mails taken.
    pub mails: usize,
    /// When each of them was, in milliseconds since 1970.
    pub at_ms: Vec<u64>,
    /// Taken or dropped, and the connection closed before the reply.
    pub closed: BTreeSet<String>,
    /// Refused for good at least once.
    pub never: BTreeSet<String>,
    /// Refused for now at least once.
    pub later: BTreeSet<String>,
    /// Breaches of the protocol.
    pub breaches: Vec<String>,
    /// Bodies that ended in the middle.
    pub broken_off: usize,
}

impl Log {
    fn add(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let (kind, to, rest) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned(), words.next().unwrap_or(""));
        match kind {
            "taken" => {
                let (id, at_ms) = rest.split_once(' ').unwrap_or((rest, ""));
                self.mails += 1;
                self.at_ms.extend(at_ms.parse::<u64>());
                self.taken.entry(to).or_default().push(id.to_owned());
            }
            "closed" => drop(self.closed.insert(to)),
            "never" => drop(self.never.insert(to)),
            "later" => drop(self.later.insert(to)),
            "broken" => self.broken_off += 1,
            _ => self.breaches.push(line.to_owned()),
        }
    }

    /// What concerns the people of one domain; breaches concern all.
    pub fn of(&self, domain: &str) -> Log {
        let theirs = |person: &String| person.rsplit_once('@').is_some_and(|(_, theirs)| theirs == domain);
        let some = |people: &BTreeSet<String>| people.iter().filter(|person| theirs(person)).cloned().collect();
        let taken: BTreeMap<_, _> = self.taken.iter().filter(|(to, _)| theirs(to)).map(|(to, ids)| (to.clone(), ids.clone())).collect();
        Log {
            mails: taken.values().map(Vec::len).sum(),
            taken,
            at_ms: Vec::new(),
            closed: some(&self.closed),
            never: some(&self.never),
            later: some(&self.later),
            breaches: self.breaches.clone(),
            broken_off: self.broken_off,
        }
    }

    /// The most mails taken within one second, wherever it begins.
    pub fn most_in_a_second(&self) -> usize {
        let mut at_ms = self.at_ms.clone();
        at_ms.sort_unstable();
        (0..at_ms.len()).map(|first| at_ms[first..].partition_point(|at| *at < at_ms[first] + 1_000)).max().unwrap_or(0)
    }

    /// The longest time between two mails, in milliseconds.
    pub fn longest_silence_ms(&self) -> u64 {
        self.at_ms.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0)
    }

    /// Copies beyond the first.
    pub fn doubled(&self) -> usize {
        self.mails - self.taken.len()
    }
}

/// A receiver, running or not; its process ends with it.
pub struct Receiver {
    port: u16,
    log: PathBuf,
    manners: Manners,
    child: Option<Child>,
    read: Mutex<(u64, Log)>,
}

impl Receiver {
    /// Listens on all addresses, on a port of its own; logs into `folder`.
    pub fn start(folder: &Path, manners: Manners) -> Receiver {
        let mut receiver = Receiver::down(folder, manners);
        receiver.come_up();
        receiver
    }

    /// The same, not yet listening.
    pub fn down(folder: &Path, manners: Manners) -> Receiver {
        Receiver { port: free_port(), log: folder.join("receiver.log"), manners, child: None, read: Mutex::default() }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the process, on the same port and log as before.
    pub fn come_up(&mut self) {
        assert!(self.child.is_none(), "the receiver runs already");
        let program = std::env::current_exe().expect("this binary has a path");
        let mut child = Command::new(program)
            .args(["receiver", &self.port.to_string()])
            .arg(&self.log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the receiver starts");
        writeln!(child.stdin.as_mut().expect("piped"), "{}", self.manners.to_line()).expect("it reads its manners");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut ready).expect("it answers");
        assert_eq!(ready.trim(), "ready", "the receiver did not start on port {}", self.port);
        self.child = Some(child);
    }

    /// Changes its manners; from the next command on.
    pub fn manners(&mut self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.manners);
        if let Some(child) = &mut self.child {
            writeln!(child.stdin.as_mut().expect("piped"), "{}", self.manners.to_line()).expect("it reads its manners");
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it logged so far.
    pub fn log(&self) -> Log {
        let mut read = self.read.lock().unwrap();
        let (offset, log) = &mut *read;
        if let Ok(mut file) = File::open(&self.log) {
            file.seek(SeekFrom::Start(*offset)).unwrap();
            let mut fresh = String::new();
            file.read_to_string(&mut fresh).expect("the log is text");
            // A line still being written is read the next time.
            let whole = fresh.rfind('\n').map_or(0, |end| end + 1);
            fresh[..whole].lines().for_each(|line| log.add(line));
            *offset += whole as u64;
        }
        log.clone()
    }

    /// Waits until it took `count` mails.
    pub fn wait_for(&self, count: usize, seconds: u64) {
        wait_until(&format!("the receiver has {count} mails (it has {})", self.log().mails), seconds, || {
            std::thread::sleep(Duration::from_millis(5));
            (self.log().mails >= count).then_some(())
        });
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Shared {
    manners: RwLock<Manners>,
    log: Mutex<File>,
    tries: Mutex<HashMap<String, u64>>,
}

impl Shared {
    /// One write a line: after it the line outlives this process.
    fn note(&self, line: &str) {
        let _ = self.log.lock().unwrap().write_all(format!("{}\n", line.replace(['\r', '\n'], " ")).as_bytes());
    }
}

/// The process: `receiver PORT LOG`, manners as lines on standard input; its end is ours.
pub fn serve(port: &str, log: &str) {
    let log = OpenOptions::new().create(true).append(true).open(log).expect("the log can be written");
    let mut input = std::io::stdin().lines().map_while(Result::ok);
    let manners = input.next().and_then(|line| Manners::from_line(&line)).expect("manners on the first line");
    let port: u16 = port.parse().expect("a port");
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    let shared = Arc::new(Shared { manners: RwLock::new(manners), log: Mutex::new(log), tries: Mutex::default() });
    writeln!(std::io::stdout(), "ready").expect("somebody listens");
    let accepting = shared.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let shared = accepting.clone();
            std::thread::spawn(move || {
                // A connection that breaks is what we are here for.
                let _ = Conversation::new(stream, shared).and_then(Conversation::hold);
            });
        }
    });
    for line in input {
        *shared.manners.write().unwrap() = Manners::from_line(&line).expect("manners");
    }
}

struct Conversation {
    reader: BufReader<TcpStream>,
    out: Vec<u8>,
    shared: Arc<Shared>,
    greeted: bool,
    from: bool,
    to: Option<String>,
}

impl Conversation {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Conversation {
            reader: BufReader::with_capacity(64 * 1024, stream),
            out: Vec::new(),
            shared,
            greeted: false,
            from: false,
            to: None,
        })
    }

    fn manners(&self) -> Manners {
        self.shared.manners.read().unwrap().clone()
    }

    fn breach(&self, what: &str) {
        self.shared.note(&format!("breach {what}"));
    }

    /// Replies go out together once nothing more waits to be read.
    fn say(&mut self, reply: &str) -> std::io::Result<()> {
        self.out.extend_from_slice(reply.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        if self.reader.buffer().is_empty() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let out = std::mem::take(&mut self.out);
        self.reader.get_mut().write_all(&out)
    }

    fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        if self.reader.buffer().is_empty() {
            self.flush()?;
        }
        self.reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(None);
        }
        line.pop();
        if line.pop_if(|byte| *byte == b'\r').is_none() {
            self.breach("a line without CR");
        }
        Ok(Some(line))
    }

    fn hold(mut self) -> std::io::Result<()> {
        self.say("220 receiver.example ESMTP")?;
        while let Some(line) = self.line()? {
            let line = String::from_utf8_lossy(&line).into_owned();
            let manners = self.manners();
            let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
            if !manners.pipelining && !self.reader.buffer().is_empty() {
                self.breach(&format!("{verb} with more behind it, though PIPELINING is not offered"));
            }
            if ["MAIL", "RCPT", "DATA"].contains(&verb.as_str()) {
                std::thread::sleep(Duration::from_millis(manners.command_ms));
            }
            match verb.as_str() {
                "EHLO" | "HELO" => {
                    self.greeted = true;
                    (self.from, self.to) = (false, None);
                    let pipelining = if manners.pipelining { "250-PIPELINING\r\n" } else { "" };
                    self.say(&format!("250-receiver.example\r\n{pipelining}250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES"))?;
                }
                "MAIL" if !self.greeted || self.from => {
                    self.breach(if self.greeted { "MAIL inside a transaction" } else { "MAIL before EHLO" });
                    self.say("503 5.5.1 bad sequence")?;
                }
                "MAIL" => {
                    self.from = true;
                    self.say("250 2.1.0 ok")?;
                }
                "RCPT" => self.recipient(&line, &manners)?,
                "DATA" if self.to.is_none() => self.say("503 5.5.1 no recipient")?,
                "DATA" => {
                    self.out.extend_from_slice(b"354 go on\r\n");
                    self.flush()?;
                    if !self.body(&manners)? {
                        return Ok(());
                    }
                }
                "RSET" => {
                    (self.from, self.to) = (false, None);
                    self.say("250 2.0.0 ok")?;
                }
                "NOOP" => self.say("250 2.0.0 ok")?,
                "QUIT" => {
                    self.say("221 2.0.0 bye")?;
                    return self.flush();
                }
                _ => {
                    self.breach(&format!("unknown command {}", line.chars().take(60).collect::<String>()));
                    self.say("500 5.5.2 what?")?;
                }
            }
        }
        Ok(())
    }

    fn recipient(&mut self, line: &str, manners: &Manners) -> std::io::Result<()> {
        let to = line.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>')).map_or("", |(to, _)| to).to_owned();
        if !self.from {
            // Pipelined behind a refused MAIL this is right; we refuse no MAIL.
            self.breach("RCPT without MAIL");
            return self.say("503 5.5.1 no sender");
        }
        if self.to.is_some() {
            self.breach(&format!("a second recipient in one mail: {to}"));
        }
        // Half of the refusals come here, half at the end of the data.
        if manners.lot("where", &to) < 500
            && let Some(refusal) = self.refusal(&to, manners)
        {
            return self.say(&refusal);
        }
        self.to = Some(to);
        self.say("250 2.1.5 ok")
    }

    fn refusal(&self, to: &str, manners: &Manners) -> Option<String> {
        if manners.lot("never", to) < manners.never {
            self.shared.note(&format!("never {to}"));
            return Some(format!("550 5.1.1 no such user {to}"));
        }
        if manners.lot("later", to) < manners.later {
            let mut tries = self.shared.tries.lock().unwrap();
            let tries = tries.entry(to.to_owned()).or_default();
            *tries += 1;
            if *tries <= manners.tries {
                self.shared.note(&format!("later {to}"));
                return Some(format!("451 4.7.1 later {to}"));
            }
        }
        None
    }

    /// Reads a mail to its final dot; false when the connection is over.
    fn body(&mut self, manners: &Manners) -> std::io::Result<bool> {
        let to = self.to.take().unwrap_or_default();
        self.from = false;
        let mut id = None;
        let mut in_head = true;
        loop {
            let Ok(Some(line)) = self.line() else {
                self.shared.note(&format!("broken {to}"));
                return Ok(false);
            };
            if line == b"." {
                break;
            }
            if line.len() > MAX_BODY_LINE || line.contains(&b'\r') {
                self.breach(&format!("a body line too long or with a bare CR, to {to}"));
            }
            in_head &= !line.is_empty();
            if in_head && line.to_ascii_lowercase().starts_with(b"message-id:") {
                id = Some(String::from_utf8_lossy(&line[11..]).trim().to_owned());
            }
        }
        let Some(id) = id else {
            self.breach(&format!("no Message-ID, to {to}"));
            self.say("554 5.6.0 no Message-ID")?;
            return Ok(true);
        };
        std::thread::sleep(Duration::from_millis(manners.message_ms));
        if manners.lot("where", &to) >= 500
            && let Some(refusal) = self.refusal(&to, manners)
        {
            self.say(&refusal)?;
            return Ok(true);
        }
        let close = manners.lot("close", &to) < manners.close;
        if !close || manners.lot("kept", &to) < 500 {
            self.shared.note(&format!("taken {to} {id} {}", Clock::system().now().millis()));
        }
        if close {
            self.shared.note(&format!("closed {to}"));
            return Ok(false);
        }
        self.say("250 2.0.0 taken")?;
        Ok(true)
    }
}
