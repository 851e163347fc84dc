//! Messages beside a campaign, two runs at once, a rate, a schedule: each through kills.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::receiver::Manners;
use crate::stage::{MESSAGES, Setting, Stage};
use crate::support::wait_until;
use crate::{Form, Played, Seed};

/// Mails a second in the scenario of a rate.
const RATE: usize = 100;
/// What may leave at once at that rate: a quarter of a second and the mail that is due (see
/// `delivery::limit::burst`).
const BURST: usize = RATE / 4 + 1;
/// Mails are counted when they are claimed, and leave a moment later; on a busy machine these moments
/// differ by up to a quarter of a second.
const JITTER: usize = RATE / 4;

/// A client of the API that repeats each request until it has an answer, and earlier ones now and then.
struct Caller {
    port: u16,
    token: String,
}

impl Caller {
    /// Status and body; `None` when there was no answer or the node could not give one.
    fn post(&self, to: &str) -> Option<(u16, Value)> {
        let body = format!(r#"{{"to":"{to}","template":"order","data":{{"order":"{to}"}}}}"#);
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let head = format!(
            "POST /api/v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nIdempotency-Key: key-{to}\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status: u16 = answer.split(' ').nth(1)?.parse().ok()?;
        assert!(!(300..500).contains(&status), "{to}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n")?;
        (status < 300).then_some((status, serde_json::from_str(body).ok()?))
    }

    /// The id of the message, whatever it takes.
    fn ask(&self, to: &str) -> String {
        wait_until(&format!("message to {to} is accepted"), 60, || {
            let answer = self.post(to);
            if answer.is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            Some(answer?.1["id"].as_str()?.to_owned())
        })
    }

    /// Asks for `count` messages; answers who got which id.
    fn ask_all(&self, count: usize, mut seed: Seed) -> BTreeMap<String, String> {
        let mut asked: BTreeMap<String, String> = BTreeMap::new();
        for i in 0..count {
            let to = format!("m{i}@{MESSAGES}");
            asked.insert(to.clone(), self.ask(&to));
            let earlier = format!("m{}@{MESSAGES}", seed.below(i as u64 + 1));
            if seed.below(3) == 0 {
                assert_eq!(self.ask(&earlier), asked[&earlier], "the same key gave two messages to {earlier}");
            }
            std::thread::sleep(Duration::from_millis(seed.below(60)));
        }
        for (to, id) in &asked {
            assert_eq!(self.ask(to), *id, "the same key gave two messages to {to}");
        }
        asked
    }
}

/// Messages posted to a node that is killed again and again, while a campaign leaves.
pub fn messages(setting: Setting, form: &Form) -> Played {
    let mut seed = Seed::new(form.seed, &format!("messages {setting:?}"));
    let manners = Manners { seed: form.seed, message_ms: 8, ..Manners::default() };
    let mut stage = Stage::new(setting, if form.long { 2_000 } else { 200 }, manners);
    stage.pages = true;
    let token = stage.shop.optin(&["token", "create", "--scope", "messages", "--name", "shop", "--json"]).exits(0).json();
    let caller = Caller { port: stage.shop.port(), token: token["token"].as_str().expect("a token").to_owned() };
    stage.schedule();
    stage.start_all();
    let done = Arc::new(AtomicBool::new(false));
    let (told, posts, count) = (done.clone(), Seed::new(form.seed, "posts"), if form.long { 180 } else { 60 });
    let posting = std::thread::spawn(move || {
        let asked = std::panic::catch_unwind(|| caller.ask_all(count, posts));
        told.store(true, Ordering::SeqCst);
        asked
    });
    let most = if form.long { 20 } else { 5 };
    while !done.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(300 + seed.below(400)));
        if stage.kills < most {
            // The node that is asked dies most often.
            let node = seed.below(2) * seed.below(setting.nodes as u64);
            stage.kill(node as usize);
        }
    }
    stage.messages = posting.join().expect("it was caught").unwrap_or_else(|problem| std::panic::resume_unwind(problem));
    Played::Line(stage.judge())
}

/// Two runs share nodes and sessions, and the kills.
pub fn two_runs(setting: Setting, form: &Form) -> Played {
    let mut seed = Seed::new(form.seed, &format!("two runs {setting:?}"));
    let people = if form.long { 2_000 } else { 220 };
    let manners = Manners { seed: form.seed, command_ms: 1, message_ms: 8, ..Manners::default() };
    let mut stage = Stage::new(setting, people, manners);
    stage.add_offers();
    stage.schedule();
    stage.start_all();
    let kills = if form.long { 12 } else { 4 };
    for kill in 1..=kills {
        stage.receiver.wait_for(2 * people * kill / (kills + 2), 60);
        std::thread::sleep(Duration::from_millis(seed.below(15)));
        stage.kill(seed.below(setting.nodes as u64) as usize);
    }
    Played::Line(stage.judge())
}

/// A rate holds for all nodes together, also through kills.
pub fn rate(setting: Setting, form: &Form) -> Played {
    let mut seed = Seed::new(form.seed, &format!("rate {setting:?}"));
    let people = if form.long { 1_500 } else { 400 };
    let mut stage = Stage::new(setting, people, Manners { seed: form.seed, ..Manners::default() });
    stage.wire(|call, _| call.env("OPTIN_LIMITS__RATE", format!("{RATE}/s")));
    stage.schedule();
    stage.start_all();
    let kills = if form.long { 6 } else { 3 };
    for kill in 1..=kills {
        stage.receiver.wait_for(people * kill / (kills + 2), 60);
        std::thread::sleep(Duration::from_millis(seed.below(200)));
        stage.kill(seed.below(setting.nodes as u64) as usize);
    }
    stage.finish();
    let most = stage.receiver.log().most_in_a_second();
    assert!(most <= RATE + BURST + JITTER, "{most} mails within a second, at most {} may be", RATE + BURST + JITTER);
    assert!(most >= RATE / 2, "only {most} mails within any second: the rate was not what held them back");
    Played::Line(stage.judge())
}

/// The only node is killed and started again: a schedule that comes due then fires, without waiting
/// for what the dead one held.
pub fn schedule(setting: Setting, form: &Form) -> Played {
    let mut stage = Stage::new(setting, 40, Manners { seed: form.seed, ..Manners::default() });
    stage.shop.write(
        "campaigns/weekly.toml",
        "topic = \"tea-letter\"\nsubject = \"Fresh leaves\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n[schedule]\ncron = \"0 9 * * *\"\ntimezone = \"UTC\"\n",
    );
    stage.wire(|call, _| call.clock("2026-12-01T08:59:50Z"));
    stage.start_all();
    stage.nodes[0].as_mut().expect("it runs").wait_for_line("optin is ready", 20);
    std::thread::sleep(Duration::from_secs(1));
    stage.wire(|call, _| call.clock("2026-12-01T08:59:58Z"));
    stage.kill(0);
    let begun = Instant::now();
    stage.receiver.wait_for(1, 60);
    assert!(begun.elapsed() < Duration::from_secs(15), "the schedule fired {:?} after the restart", begun.elapsed());
    Played::Line(stage.judge())
}
