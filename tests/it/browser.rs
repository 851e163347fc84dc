//! The pages that recipients see, in a real browser: this builds the stage (sites, people, mails they
//! got), `tests/browser/run.mjs` plays on it. Pictures are in `target/browser`.
//!
//! `ONLY=unsubscribe cargo test --test it browser::` runs what has that in its name; `TIMES=1` says how long
//! each scenario took.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mail_parser::MessageParser;
use optin::clock::{Clock, DAY};
use optin::token::{Keys, Purpose};
use serde_json::{Value, json};

use crate::support::instance::SECRET;
use crate::support::process::{Running, repository};
use crate::support::smtp::{Received, Sink};
use crate::support::{self, Instance, TestDatabase};

/// Each scenario takes somebody for itself.
const PEOPLE: usize = 120;
/// Topics everybody is subscribed to, in the order of the import.
const TOPICS: [&str; 2] = ["tea-letter", "offers"];
/// Nobody has such an id.
const NOBODY: i64 = 999_999;
/// When a confirmation link has expired long ago.
const LATER: i64 = 60 * DAY;

/// Nothing can be read in this colour on white.
const ACCENT: &str = "#ffd400";

const OPTIN_TOML: &str = r#"[site]
url = "http://127.0.0.1:8080"
[sender]
name = "茶屋 Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Da'an District, Taipei 106, Taiwan"
[attributes]
city = "text"
[forms]
per_client = "5000/h"
all = "5000/h"
burst = 1000
"#;

const TOPICS_TOML: &str = r#"[tea-letter]
name = "Tea letter 茶訊"
description = "What is fresh, who grew it, and how to brew it. Every Tuesday. 每週二：新茶、茶園、沖泡。"
opt_in = "double"
[offers]
name = "Offers 優惠"
description = "Prices that do not last, a few times a year."
opt_in = "double"
"#;

const PROFILE_TOML: &str = r#"[first_name]
label = "First name"
[first_name.zh-Hant]
label = "名字"
[first_name.zh-Hans]
label = "名字"
[city]
label = "City"
help = "So that you hear of tastings near you."
choices = ["Taipei", "Tainan", "Hsinchu"]
ask = true
[city.zh-Hant]
label = "城市"
help = "我們會告訴您附近的品茶活動。"
[city.zh-Hans]
label = "城市"
help = "我们会告诉您附近的品茶活动。"
"#;

const FORMS_TOML: &str = r#"[tea]
topics = ["tea-letter", "offers"]
title = "Tea in your mailbox"
text = "Two letters, one table: choose what you like."
fields = ["first_name"]
[tea.zh-Hant]
title = "把茶送進信箱"
text = "兩種電子報，任您選擇。"
[tea.zh-Hans]
title = "把茶送进邮箱"
text = "两种邮件，任您选择。"
[letter]
topics = ["tea-letter"]
title = "The tea letter"
"#;

const FILES: &[(&str, &str)] = &[
    ("optin.toml", OPTIN_TOML),
    ("topics.toml", TOPICS_TOML),
    ("profile.toml", PROFILE_TOML),
    ("forms.toml", FORMS_TOML),
    (
        "campaigns/weekly.toml",
        "topic = \"tea-letter\"\nsubject = \"春茶到了 — this week's leaves\"\nlayout = \"newsletter\"\nbody = \"weekly.md\"\n",
    ),
    ("campaigns/weekly.md", "# Fresh\n\n[Three new oolongs](https://tea.example/oolong) came in. 三種新烏龍。\n"),
];

/// A mail as the scenarios read it.
fn readable(mail: &Received) -> Value {
    let parsed = MessageParser::default().parse(&mail.data).expect("a mail");
    let headers: serde_json::Map<String, Value> =
        parsed.headers_raw().map(|(name, value)| (name.to_ascii_lowercase(), Value::from(value.replace("\r\n ", " ").trim()))).collect();
    json!({
        "to": mail.to,
        "subject": parsed.subject(),
        "text": parsed.body_text(0),
        "html": parsed.body_html(0),
        "headers": headers,
    })
}

/// Lays every mail into a folder as it arrives; ends when dropped.
struct Postman {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Postman {
    fn start(sink: Arc<Sink>, folder: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut delivered = 0;
            while !told.load(Ordering::SeqCst) {
                let received = sink.received();
                for mail in &received[delivered..] {
                    // Under its name only once it is whole.
                    let file = folder.join(format!("{delivered:06}"));
                    std::fs::write(&file, readable(mail).to_string()).unwrap();
                    std::fs::rename(&file, file.with_extension("json")).unwrap();
                    delivered += 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Postman { stop, thread: Some(thread) }
    }
}

impl Drop for Postman {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// People subscribed to every topic who got a letter.
fn populate(instance: &Instance, count: usize) -> Vec<String> {
    let people: Vec<String> = (0..count).map(|i| format!("p{i}@customer.example")).collect();
    instance.write("../people.csv", format!("email\n{}\n", people.join("\n")));
    for topic in TOPICS {
        let args = ["import", "contacts", "people.csv", "--topic", topic, "--consent", "confirmed", "--source", "spring fair"];
        instance.optin(&args).exits(0);
    }
    instance.optin(&["send", "weekly", "--json"]).exits(0);
    people
}

fn serve(call: support::process::Call) -> Running {
    let mut running = call.spawn();
    running.wait_for_line("optin is ready", 20);
    running
}

/// A site on the same data at another port.
fn twin(instance: &Instance, port: u16) -> support::process::Call {
    instance.command(&["serve", "--only", "web"]).env("OPTIN_SITE__LISTEN", format!("127.0.0.1:{port}"))
}

/// A site whose records are gone: what people see on a very bad day.
async fn broken_site() -> (TestDatabase, Instance, Running) {
    let database = TestDatabase::sqlite();
    let instance = support::instance(&database, FILES);
    instance.optin(&["check"]).exits(0);
    let running = serve(instance.command(&["serve", "--only", "web"]));
    database.open().await.execute("ALTER TABLE contact RENAME TO lost", Vec::new()).await.unwrap();
    (database, instance, running)
}

fn path_of(letter: char, purpose: Purpose, fields: &[i64]) -> String {
    format!("/{letter}/{}", Keys::new(SECRET, &[]).sign(purpose, fields))
}

/// Runs the scenarios on the stage and shows what they say.
fn play(stage: &Path) {
    let browser = repository().join("tests/browser");
    assert!(
        browser.join("node_modules").is_dir(),
        "the browser tests' packages are missing: run `./test`, or `npm ci --ignore-scripts` in tests/browser"
    );
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("node")
        .arg(browser.join("run.mjs"))
        .arg(stage)
        .current_dir(&browser)
        .env("HOME", home.path())
        .output()
        .unwrap_or_else(|error| panic!("cannot run `node` ({error}): run `./test`, which installs it"));
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the browser found problems:\n{said}{errors}");
    crate::support::say(format!("{said}"));
}

/// The stage on one database; `pages`: also every page in every language and size, beside the ways in and out.
async fn stage(database: TestDatabase, pages: bool) {
    let sink = Arc::new(Sink::start());
    let instance = support::instance(&database, FILES).with_smtp(&sink);
    let people = populate(&instance, if pages { PEOPLE } else { PEOPLE / 4 });
    let mailbox = instance.root().join("mailbox");
    std::fs::create_dir(&mailbox).unwrap();
    let _postman = Postman::start(sink.clone(), mailbox.clone());
    let _site = serve(instance.command(&["serve"]));
    let later = support::free_port();
    let _later = serve(twin(&instance, later).clock(&Clock::system().now().plus(LATER).to_string()));
    let branded = support::free_port();
    let _branded = serve(twin(&instance, branded).env("OPTIN_SITE__ACCENT", ACCENT));
    let guarded = support::free_port();
    let call = twin(&instance, guarded).env("OPTIN_FORMS__CHALLENGE", "always").env("OPTIN_FORMS__CHALLENGE_BITS", "12");
    let _guarded = serve(call.env("OPTIN_SITE__URL", format!("http://127.0.0.1:{guarded}")));
    let (_lost, broken, _broken) = broken_site().await;

    let pictures = repository().join("target/browser");
    if pages {
        let _ = std::fs::remove_dir_all(&pictures);
        std::fs::create_dir_all(&pictures).unwrap();
    }
    let here = |port: u16| format!("http://127.0.0.1:{port}");
    let file = instance.root().join("stage.json");
    let stage = json!({
        "repository": repository(),
        "pictures": pictures,
        "pages": pages,
        "tags": optin::config::BUILT_IN_LANGUAGES,
        "topics": TOPICS,
        "people": people,
        "mailbox": mailbox,
        "program": env!("CARGO_BIN_EXE_optin"),
        "folder": instance.root(),
        "environment": instance.variables(),
        "sites": { "site": instance.url(""), "later": here(later), "branded": here(branded), "guarded": here(guarded), "broken": broken.url("") },
        "signed": {
            "gone": path_of('u', Purpose::UnsubscribeBody, &[NOBODY, 1, 0]),
            "view_gone": path_of('v', Purpose::View, &[NOBODY]),
            "unsubscribe": path_of('u', Purpose::UnsubscribeBody, &[1, 1, 0]),
        },
    });
    std::fs::write(&file, stage.to_string()).unwrap();
    if let Err(error) = tokio::task::spawn_blocking(move || play(&file)).await {
        std::panic::resume_unwind(error.into_panic());
    }
    instance.optin(&["consent", "verify"]).exits(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_and_every_way_in_a_browser() {
    stage(TestDatabase::sqlite(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_a_browser_on_postgres() {
    stage(TestDatabase::postgres(), false).await;
}
