//! An instance, its receiver and its nodes; and the judgement at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use optin::clock::Clock;
use serde_json::Value;
use tempfile::TempDir;

use crate::receiver::{Log, Manners, Receiver};
use crate::support::process::{Call, Output, Running};
use crate::support::{Instance, TestDatabase, instance};

/// Connections of a node for campaigns, and as many for messages: what one kill may leave in doubt.
pub const CONNECTIONS: usize = 4;
/// The campaign of every scenario, and the domain of those who get it.
const WEEKLY: (&str, &str) = ("weekly", "customer.example");
/// A second one.
pub const OFFERS: (&str, &str) = ("offers", "guest.example");
/// The domain of those who get messages.
pub const MESSAGES: &str = "order.example";
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
const TOPICS: &str =
    "[tea-letter]\nname = \"Tea letter\"\ndescription = \"What is fresh, every Tuesday\"\n[tea-offers]\nname = \"Tea offers\"\n";
const CAMPAIGN: &str = "topic = \"tea-letter\"\nsubject = \"Fresh leaves\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n";
const BODY: &str = "# Fresh\n\nDear {{ contact.first_name | default('tea lover') }},\n\n[Three new oolongs](https://tea.example/oolong) came in.\n.and a line with a dot\n";

const ORDER: &str = "subject = \"Order {{ data.order }}\"\nbody = \"order.md\"\n";
const ORDER_BODY: &str = "Dear {{ contact.first_name | default('friend') }}: we have order {{ data.order }}.\n";

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
    /// Campaigns under way, each with the domain of its people.
    campaigns: Vec<(&'static str, &'static str)>,
    /// Messages that were accepted: to whom, with which id.
    pub messages: BTreeMap<String, String>,
    /// Whether the first node serves pages and the API too.
    pub pages: bool,
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
        let files = [
            ("optin.toml", OPTIN),
            ("topics.toml", TOPICS),
            ("campaigns/weekly.toml", CAMPAIGN),
            ("campaigns/weekly.md", BODY),
            ("messages/order.toml", ORDER),
            ("messages/order.md", ORDER_BODY),
        ];
        let shop = instance(&database, &files).with_env("OPTIN_SMTP__URL", &format!("smtp://127.0.0.1:{}", receiver.port()));
        subscribe(&shop, people, WEEKLY.1, "tea-letter");
        Stage {
            nodes: (0..setting.nodes).map(|_| None).collect(),
            people,
            receiver,
            shop,
            kills: 0,
            more_doubt: 0,
            resend: false,
            campaigns: vec![WEEKLY],
            messages: BTreeMap::new(),
            pages: false,
            wiring: Box::new(|call, _| call),
            _folder: folder,
            database,
        }
    }

    /// Changes how each node is started from now on.
    pub fn wire(&mut self, wiring: impl Fn(Call, usize) -> Call + Send + 'static) {
        self.wiring = Box::new(wiring);
    }

    /// A second campaign to as many other people.
    pub fn add_offers(&mut self) {
        subscribe(&self.shop, self.people, OFFERS.1, "tea-offers");
        self.shop.write("campaigns/offers.toml", CAMPAIGN.replace("tea-letter", "tea-offers"));
        self.campaigns.push(OFFERS);
    }

    /// Makes the runs; nodes that serve send it at once.
    pub fn schedule(&self) {
        let now = Clock::system().now();
        let at = now.to_string();
        let before = now.plus(-3_600_000).to_string();
        for (campaign, _) in &self.campaigns {
            let made = self.shop.command(&["send", campaign, "--json", "--at", &at]).clock(&before).run().exits(0).json();
            assert_eq!(made["state"], "scheduled", "{made}");
        }
    }

    /// How node `index` is started.
    pub fn node_call(&self, index: usize) -> Call {
        let serve: &[&str] = if self.pages && index == 0 { &["serve"] } else { &["serve", "--only", "worker"] };
        (self.wiring)(self.shop.command(serve).env("OPTIN_LOG__LEVEL", "info"), index)
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

    /// The newest run of the first campaign; `None` while the database does not answer.
    pub fn run(&self) -> Option<Value> {
        self.run_of(WEEKLY.0)
    }

    fn run_of(&self, campaign: &str) -> Option<Value> {
        let output = self.shop.optin(&["run", "list", "--json"]);
        let runs = (output.code == 0).then(|| output.json()["runs"].clone())?;
        Some(runs.as_array()?.iter().find(|run| run["campaign"] == campaign)?.clone())
    }

    /// One of `optin run ..`.
    pub fn run_command(&self, action: &str) -> Output {
        self.command_for(WEEKLY.0, action)
    }

    /// People of the first campaign in doubt whose mail the receiver has.
    pub fn doubtful_and_taken(&self) -> Vec<String> {
        let (shown, log) = (self.run_command("show").exits(0).json(), self.receiver.log());
        named(&shown, "in_doubt").into_iter().filter(|person| log.taken.contains_key(person)).collect()
    }

    fn command_for(&self, campaign: &str, action: &str) -> Output {
        let run = self.run_of(campaign).expect("the database answers")["run"].to_string();
        self.shop.optin(&["run", action, &run, "--json"])
    }

    /// Waits until all runs are done.
    pub fn finish(&mut self) {
        for (campaign, _) in self.campaigns.clone() {
            self.finish_run(campaign);
        }
    }

    fn finish_run(&mut self, campaign: &str) {
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_SECONDS);
        loop {
            let run = self.run_of(campaign);
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
        self.finish_messages();
        self.terminate();
        let log = self.receiver.log();
        let (mut lost, mut in_doubt) = (0, 0);
        for (campaign, domain) in &self.campaigns {
            let shown = self.command_for(campaign, "show").exits(0).json();
            let report = self.shop.optin(&["report", campaign, "--json"]).exits(0).json();
            let log = log.of(domain);
            let verdict = Verdict::of(&self, domain, &shown, &log);
            let problems = verdict.problems(&self, &shown, &report, &log);
            assert!(problems.is_empty(), "{}\nthe run: {}", problems.join("\n"), brief(&shown));
            lost += verdict.lost.len();
            in_doubt += verdict.doubtful.len();
        }
        in_doubt += self.judge_messages(&log.of(MESSAGES));
        assert!(in_doubt <= self.bound(), "{in_doubt} in doubt in all, at most {}", self.bound());
        Line {
            kills: self.kills,
            people: self.people * self.campaigns.len() + self.messages.len(),
            lost,
            doubled: log.doubled(),
            in_doubt,
            bound: self.bound(),
        }
    }

    /// Where each message is, by its recipient.
    fn message_states(&self) -> BTreeMap<String, (String, String)> {
        let listed = self.shop.optin(&["message", "list", "--json"]).exits(0).json();
        let text = |message: &Value, name: &str| message[name].as_str().expect("text").to_owned();
        let messages = listed["messages"].as_array().expect("a list of messages").iter();
        messages.map(|message| (text(message, "to"), (text(message, "id"), text(message, "state")))).collect()
    }

    fn finish_messages(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.messages.is_empty() {
            let states = self.message_states();
            let open: Vec<_> =
                states.iter().filter(|(_, (_, state))| ["queued", "sending", "deferred"].contains(&state.as_str())).collect();
            if open.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{} messages are still open: {:?}", open.len(), open.first());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Each message arrived once, or is in doubt by its id. Answers how many are in doubt.
    fn judge_messages(&self, log: &Log) -> usize {
        if self.messages.is_empty() {
            assert!(log.taken.is_empty(), "messages that nobody asked for");
            return 0;
        }
        let states = self.message_states();
        let mut in_doubt = 0;
        for (to, id) in &self.messages {
            let copies = log.taken.get(to).map_or(0, Vec::len);
            let (known, state) = states.get(to).unwrap_or_else(|| panic!("message {id} to {to} was accepted and is lost"));
            assert_eq!(known, id, "two messages to {to}");
            match state.as_str() {
                "sent" => assert_eq!(copies, 1, "message {id} is sent, and {copies} arrived"),
                "in_doubt" => {
                    assert!(copies <= 1, "message {id} arrived {copies} times");
                    in_doubt += 1;
                }
                other => panic!("message {id} is {other}"),
            }
        }
        assert_eq!(states.len(), self.messages.len(), "messages that nobody asked for");
        in_doubt
    }

    fn bound(&self) -> usize {
        let lanes = if self.messages.is_empty() { 1 } else { 2 };
        self.kills * lanes * CONNECTIONS + self.more_doubt
    }
}

/// So many people of a domain, subscribed to a topic.
fn subscribe(shop: &Instance, people: usize, domain: &str, topic: &str) {
    let lines: String = (0..people).map(|i| format!("p{i}@{domain},Person {i}\n")).collect();
    shop.write("../people.csv", format!("email,first_name\n{lines}"));
    let import = ["import", "contacts", "people.csv", "--topic", topic, "--consent", "confirmed", "--source", "fair", "--json"];
    assert_eq!(shop.optin(&import).exits(0).json()["added"], people);
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
    fn of(stage: &Stage, domain: &str, shown: &Value, log: &Log) -> Verdict {
        let (doubtful, bounced) = (named(shown, "in_doubt"), named(shown, "bounced"));
        let unsent: BTreeSet<String> = named(shown, "failed").union(&named(shown, "skipped")).cloned().collect();
        let told = |person: &String| doubtful.contains(person) || bounced.contains(person) || unsent.contains(person);
        let everybody = (0..stage.people).map(|i| format!("p{i}@{domain}"));
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
