//! An instance, its receiver and its nodes; and the judgement at the end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use optin::clock::Clock;
use serde_json::Value;
use tempfile::TempDir;

use crate::receiver::{Log, Manners, Receiver};
use crate::support::process::{Call, Output, Running};
use crate::support::{Instance, TestDatabase, instance};

/// Connections of a node: what one kill may leave in doubt.
pub const CONNECTIONS: usize = 4;
/// Longest wait for the end of a run, in seconds.
const PATIENCE_SECONDS: u64 = 120;

const OPTIN: &str = r#"[site]
url = "http://127.0.0.1:8080"
[smtp]
connections = 4
timeout_seconds = 5
[sender]
name = "Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Taipei"
[delivery]
retry_seconds = [1]
retry_hours = 1
"#;
const TOPICS: &str = "[tea-letter]\nname = \"Tea letter\"\ndescription = \"What is fresh, every Tuesday\"\n";
const WEEKLY: &str = "topic = \"tea-letter\"\nsubject = \"Fresh leaves\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n";
const BODY: &str = "# Fresh\n\nDear {{ contact.first_name | default('tea lover') }},\n\n[Three new oolongs](https://tea.example/oolong) came in.\n.and a line with a dot\n";

/// Where a scenario plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// `sqlite` or `postgres`.
    pub engine: &'static str,
    /// Nodes that send.
    pub nodes: usize,
}

/// How a node is wired.
type Wiring = Box<dyn Fn(Call, usize) -> Call + Send>;

/// Everything of one scenario. Dropped, it ends all its processes.
pub struct Stage {
    pub people: usize,
    pub receiver: Receiver,
    pub shop: Instance,
    pub nodes: Vec<Option<Running>>,
    /// Kills, freezes and lost receivers: each may leave [`CONNECTIONS`] mails in doubt.
    pub kills: usize,
    /// More that may be in doubt, for other reasons.
    pub more_doubt: usize,
    /// Whether doubtful mails are sent again.
    pub resend: bool,
    wiring: Wiring,
    _folder: TempDir,
    pub database: TestDatabase,
}

/// What is quoted: a line of the table.
#[derive(Debug, Clone)]
pub struct Line {
    pub kills: usize,
    pub people: usize,
    pub lost: usize,
    pub doubled: usize,
    pub in_doubt: usize,
    pub bound: usize,
}

impl Stage {
    /// People subscribed, the receiver running, no node yet.
    pub fn new(setting: Setting, people: usize, manners: Manners) -> Stage {
        let database = if setting.engine == "sqlite" { TestDatabase::sqlite() } else { TestDatabase::postgres() };
        Stage::on(database, setting, people, manners)
    }

    /// The same, on a database made before.
    pub fn on(database: TestDatabase, setting: Setting, people: usize, manners: Manners) -> Stage {
        let folder = tempfile::Builder::new().prefix("optin-chaos-").tempdir().expect("a temporary folder");
        let receiver = Receiver::start(folder.path(), manners);
        let files = [("optin.toml", OPTIN), ("topics.toml", TOPICS), ("campaigns/weekly.toml", WEEKLY), ("campaigns/weekly.md", BODY)];
        let shop = instance(&database, &files).with_env("OPTIN_SMTP__URL", &format!("smtp://127.0.0.1:{}", receiver.port()));
        let lines: String = (0..people).map(|i| format!("p{i}@customer.example,Person {i}\n")).collect();
        shop.write("../people.csv", format!("email,first_name\n{lines}"));
        let import = ["import", "contacts", "people.csv", "--topic", "tea-letter", "--consent", "confirmed", "--source", "fair", "--json"];
        assert_eq!(shop.optin(&import).exits(0).json()["added"], people);
        Stage {
            nodes: (0..setting.nodes).map(|_| None).collect(),
            people,
            receiver,
            shop,
            kills: 0,
            more_doubt: 0,
            resend: false,
            wiring: Box::new(|call, _| call),
            _folder: folder,
            database,
        }
    }

    /// Changes how each node is started from now on.
    pub fn wire(&mut self, wiring: impl Fn(Call, usize) -> Call + Send + 'static) {
        self.wiring = Box::new(wiring);
    }

    /// Makes the run; nodes that serve send it at once.
    pub fn schedule(&self) {
        let now = Clock::system().now();
        let at = now.to_string();
        let before = now.plus(-3_600_000).to_string();
        let made = self.shop.command(&["send", "weekly", "--json", "--at", &at]).clock(&before).run().exits(0).json();
        assert_eq!(made["state"], "scheduled", "{made}");
    }

    /// How node `index` is started.
    pub fn node_call(&self, index: usize) -> Call {
        (self.wiring)(self.shop.command(&["serve", "--only", "worker"]).env("OPTIN_LOG__LEVEL", "info"), index)
    }

    /// Starts node `index`.
    pub fn start(&mut self, index: usize) {
        let call = self.node_call(index);
        self.nodes[index] = Some(call.spawn());
    }

    /// Starts all that do not run.
    pub fn start_all(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_none() {
                self.start(index);
            }
        }
    }

    /// `kill -9`, and a new one in its place.
    pub fn kill(&mut self, index: usize) {
        drop(self.nodes[index].take());
        self.kills += 1;
        self.start(index);
    }

    /// SIGTERM to all; they must end by themselves, with exit code 0.
    pub fn terminate(&mut self) {
        for running in self.nodes.iter().flatten() {
            running.signal("TERM");
        }
        for node in &mut self.nodes {
            if let Some(running) = node.take() {
                let (code, output) = running.wait(30);
                assert_eq!(code, 0, "a node did not end well after SIGTERM:\n{}", output.join("\n"));
            }
        }
    }

    /// The newest run; `None` while the database does not answer.
    pub fn run(&self) -> Option<Value> {
        let output = self.shop.optin(&["run", "list", "--json"]);
        (output.code == 0).then(|| output.json()["runs"][0].clone())
    }

    /// Its id.
    pub fn run_id(&self) -> String {
        self.run().expect("the database answers")["run"].to_string()
    }

    /// One of `optin run ..`.
    pub fn run_command(&self, action: &str) -> Output {
        self.shop.optin(&["run", action, &self.run_id(), "--json"])
    }

    /// Waits until the run is done.
    pub fn finish(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_SECONDS);
        loop {
            let run = self.run();
            if run.as_ref().is_some_and(|run| run["state"] == "done") {
                return;
            }
            assert!(run.as_ref().is_none_or(|run| run["state"] != "failed"), "the run failed: {}", run.unwrap_or_default());
            if Instant::now() >= deadline {
                let mails = self.receiver.log().mails;
                let said: Vec<String> = self.nodes.iter_mut().flatten().map(|node| node.tail(12)).collect();
                panic!(
                    "the run is not done after {PATIENCE_SECONDS} s; the receiver has {mails} mails\n{}\n{}",
                    run.unwrap_or_default(),
                    said.join("\n--- the next node\n")
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits for the end, stops the nodes, and holds what optin says against the receiver's log.
    pub fn judge(mut self) -> Line {
        self.finish();
        self.terminate();
        let shown = self.run_command("show").exits(0).json();
        let report = self.shop.optin(&["report", "weekly", "--json"]).exits(0).json();
        let log = self.receiver.log();
        let verdict = Verdict::of(&self, &shown, &log);
        let problems = verdict.problems(&self, &shown, &report, &log);
        assert!(problems.is_empty(), "{}\nthe run: {}", problems.join("\n"), brief(&shown));
        Line {
            kills: self.kills,
            people: self.people,
            lost: verdict.lost.len(),
            doubled: log.doubled(),
            in_doubt: verdict.doubtful.len(),
            bound: self.bound(),
        }
    }

    fn bound(&self) -> usize {
        self.kills * CONNECTIONS + self.more_doubt
    }
}

/// Without the lists of mails.
fn brief(shown: &Value) -> Value {
    let mut shown = shown.clone();
    if let Some(object) = shown.as_object_mut() {
        object.retain(|name, _| !name.ends_with("_mails"));
    }
    shown
}

struct Verdict {
    lost: Vec<String>,
    doubtful: BTreeSet<String>,
    bounced: BTreeSet<String>,
    unsent: BTreeSet<String>,
}

fn named(shown: &Value, state: &str) -> BTreeSet<String> {
    let list = shown[format!("{state}_mails")].as_array().expect("a list of mails");
    list.iter().map(|mail| mail["email"].as_str().expect("an address").to_owned()).collect()
}

fn few(names: impl IntoIterator<Item = impl ToString>) -> String {
    names.into_iter().take(5).map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

impl Verdict {
    fn of(stage: &Stage, shown: &Value, log: &Log) -> Verdict {
        let (doubtful, bounced) = (named(shown, "in_doubt"), named(shown, "bounced"));
        let unsent: BTreeSet<String> = named(shown, "failed").union(&named(shown, "skipped")).cloned().collect();
        let told = |person: &String| doubtful.contains(person) || bounced.contains(person) || unsent.contains(person);
        let everybody = (0..stage.people).map(|i| format!("p{i}@customer.example"));
        let lost = everybody.filter(|person| !log.taken.contains_key(person) && !told(person)).collect();
        Verdict { lost, doubtful, bounced, unsent }
    }

    fn problems(&self, stage: &Stage, shown: &Value, report: &Value, log: &Log) -> Vec<String> {
        let mut problems = Vec::new();
        let mut hold = |right: bool, what: String| {
            if !right {
                problems.push(what);
            }
        };
        let number = |document: &Value, name: &str| document[name].as_u64().unwrap_or(u64::MAX) as usize;
        hold(self.lost.is_empty(), format!("{} lost: {}", self.lost.len(), few(&self.lost)));
        hold(self.unsent.is_empty(), format!("{} failed or skipped: {}", self.unsent.len(), few(&self.unsent)));
        if stage.resend {
            let (most, copies) = log.taken.iter().map(|(to, ids)| (ids.len(), to)).max().map_or((0, ""), |(most, to)| (most, to.as_str()));
            hold(most <= 1 + stage.kills, format!("{copies} has {most} copies after {} kills", stage.kills));
            hold(log.doubled() <= stage.bound(), format!("{} more copies, at most {} could be doubtful", log.doubled(), stage.bound()));
        } else {
            let twice = log.taken.iter().filter(|(_, ids)| ids.len() > 1).map(|(to, _)| to);
            hold(log.doubled() == 0, format!("{} copies too many: {}", log.doubled(), few(twice)));
        }
        let other_ids = log.taken.iter().filter(|(_, ids)| ids.iter().any(|id| *id != ids[0])).map(|(to, _)| to);
        let other_ids: Vec<_> = other_ids.collect();
        hold(other_ids.is_empty(), format!("copies with another Message-ID: {}", few(other_ids)));
        let ids: BTreeSet<&String> = log.taken.values().filter_map(|ids| ids.first()).collect();
        hold(ids.len() == log.taken.len(), "two people have the same Message-ID".to_owned());
        hold(log.breaches.is_empty(), format!("{} breaches of the protocol: {}", log.breaches.len(), few(&log.breaches)));
        hold(self.doubtful.len() <= stage.bound(), format!("{} in doubt, at most {}", self.doubtful.len(), stage.bound()));
        let arrived = log.taken.keys().filter(|to| !self.doubtful.contains(*to)).count();
        hold(number(shown, "sent") == arrived, format!("`run show` says {} sent; {arrived} arrived", number(shown, "sent")));
        let accounted = stage.people - self.bounced.len() - self.doubtful.len() - self.unsent.len();
        hold(arrived == accounted, format!("{arrived} arrived for certain, {accounted} should have"));
        hold(self.bounced == log.never, format!("{} bounced, {} were refused for good", self.bounced.len(), log.never.len()));
        for mail in shown["bounced_mails"].as_array().into_iter().flatten() {
            let expected = format!("550 5.1.1 no such user {}", mail["email"].as_str().unwrap_or_default());
            hold(mail["reply"] == expected.as_str(), format!("a bounce without its reply: {mail}"));
        }
        for (name, count) in [
            ("audience", stage.people),
            ("in_doubt", self.doubtful.len()),
            ("bounced", self.bounced.len()),
            ("failed", 0),
            ("deferred", 0),
            ("sent", arrived),
        ] {
            for (place, document) in [("run show", shown), ("report", report)] {
                let said = number(document, name);
                hold(said == count, format!("`{place}` says {said} {name}; {count} is right"));
            }
        }
        hold(number(shown, "due") == 0, format!("{} still due", number(shown, "due")));
        problems
    }
}
