//! Ways in: hosted forms over real connections, on an instance in this process with a clock of its own.

mod abuse;
mod pages;

use std::net::SocketAddr;
use std::sync::Arc;

use optin::args;
use optin::clock::{Clock, Time};
use optin::consent::requests::solves;
use optin::contact::{self, Contact};
use optin::db::OpenOptions;
use optin::entropy::Entropy;
use optin::instance::Instance;
use optin::token::Purpose;
use optin::tracking::{Recorder, RecorderSettings};
use optin::web::{backend, router, serve};
use tokio::sync::oneshot;

use crate::support::http::{Response, get, request};
use crate::support::{self, TestDatabase};

pub const NOW: Time = Time::from_millis(1_764_579_600_000);
pub const FORM: &str = "application/x-www-form-urlencoded";

const TOPICS: &str = "[letter]\nname = \"Letter\"\nopt_in = \"double\"\n[letter.zh-Hant]\nname = \"茶訊\"\n\n\
    [news]\nname = \"News\"\nopt_in = \"single\"\n\n[offers]\nname = \"Offers\"\nopt_in = \"double\"\n";
const PROFILE: &str = "[first_name]\nlabel = \"First name\"\n[first_name.zh-Hant]\nlabel = \"名字\"\n\n\
    [city]\nlabel = \"City\"\nchoices = [\"Taipei\", \"Tainan\"]\nask = true\n\n[age]\nlabel = \"Age\"\nask = true\n";
const FORMS: &str = "[tea]\ntopics = [\"letter\", \"news\", \"offers\"]\ntitle = \"Tea in your mailbox\"\nversion = \"7\"\nfields = [\"first_name\", \"age\"]\n\
    sites = [\"https://tea.example\"]\n\n[letter]\ntopics = [\"letter\"]\nfields = [\"first_name\"]\nrequired = [\"first_name\"]\n\n[news]\ntopics = [\"news\"]\nfields = [\"first_name\"]\n\n[plain]\ntopics = [\"letter\"]\n";

/// A server in this process.
pub struct Site {
    pub instance: Arc<Instance>,
    pub clock: Clock,
    pub files: support::Instance,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.take();
    }
}

pub async fn site(database: &TestDatabase, limits: &str) -> Site {
    let optin = format!(
        "[site]\nurl = \"http://127.0.0.1:8080\"\n[sender]\nname = \"Tea House\"\nemail = \"letters@tea.example\"\n\
         postal_address = \"1 Leaf Street, Taipei\"\n[attributes]\ncity = \"text\"\nage = \"number\"\nlikes = \"list\"\n[forms]\n{limits}\n"
    );
    let files =
        support::instance(database, &[("optin.toml", &optin), ("topics.toml", TOPICS), ("profile.toml", PROFILE), ("forms.toml", FORMS)]);
    let config = files.load().unwrap();
    let clock = Clock::manual(NOW);
    let options = OpenOptions { relaxed: true, ..OpenOptions::default() };
    let instance = Arc::new(Instance::open_with(config, clock.clone(), Entropy::seeded(7), options).await.unwrap());
    let settings = RecorderSettings {
        db: instance.db.clone(),
        entropy: Entropy::seeded(1),
        rules: optin::consent::tracking::TrackingRules::new(&instance.config.consent).into(),
        folder: files.root().join("hits"),
    };
    let (recorder, _) = Recorder::start(settings).await.unwrap();
    let router = router(backend::app(instance.clone(), recorder, None));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move { serve(listener, router, async { drop(stopped.await) }).await });
    Site { instance, clock, files, address, stop: Some(stop) }
}

/// How long the link of a confirmation mail works: `confirm_days` as it comes.
const CONFIRM_MS: i64 = 7 * 86_400_000;

/// A body of a form.
pub fn encoded(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The values of a field in a page, in order.
pub fn values(page: &str, name: &str) -> Vec<String> {
    page.split("<input ")
        .skip(1)
        .filter_map(|input| input.split('>').next())
        .filter(|input| input.contains(&format!("name=\"{name}\"")))
        .filter_map(|input| input.split("value=\"").nth(1)?.split('"').next().map(str::to_owned))
        .collect()
}

pub fn value(page: &str, name: &str) -> String {
    values(page, name).into_iter().next().unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// Solves a proof of work as the script does.
pub fn solve(challenge: &str, bits: u32) -> String {
    (0_u64..).map(|n| n.to_string()).find(|solution| solves(challenge, solution, bits)).unwrap()
}

impl Site {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn page(&self, path: &str) -> Response {
        get(&self.url(path))
    }

    /// Posts a form as a browser behind a proxy on this machine, from a client's address.
    pub fn post(&self, form: &str, from: &str, pairs: &[(&str, &str)]) -> Response {
        self.post_with(form, &[("X-Forwarded-For", from)], pairs)
    }

    pub fn post_with(&self, form: &str, headers: &[(&str, &str)], pairs: &[(&str, &str)]) -> Response {
        let headers: Vec<(&str, &str)> = headers.iter().copied().chain([("Content-Type", FORM)]).collect();
        request("POST", &self.url(&format!("/subscribe/{form}")), &headers, encoded(pairs).as_bytes())
    }

    /// The hash of a form's words, as its page has it.
    pub fn wording(&self, form: &str) -> String {
        value(&self.page(&format!("/subscribe/{form}")).text(), "wording")
    }

    /// Posts what a person would.
    pub fn subscribe(&self, form: &str, from: &str, pairs: &[(&str, &str)]) -> Response {
        let wording = self.wording(form);
        let all: Vec<(&str, &str)> = pairs.iter().copied().chain([("wording", wording.as_str()), ("website", "")]).collect();
        self.post(form, from, &all)
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.instance.db.fetch_one(sql, Vec::new()).await.unwrap().get(0).unwrap()
    }

    pub async fn contact(&self, email: &str) -> Option<Contact> {
        contact::sql::by_email_key(&mut self.instance.db.clone(), &self.instance.schema, email).await.unwrap()
    }

    /// Topic and standing of a person, by topic.
    pub async fn standings(&self, email: &str) -> Vec<(String, String)> {
        let Some(contact) = self.contact(email).await else { return Vec::new() };
        let found = optin::consent::ops::standings(&mut self.instance.db.clone(), contact.id).await.unwrap();
        found.into_iter().map(|(topic, standing, _)| (topic, standing.to_string())).collect()
    }

    pub async fn standing(&self, email: &str, topic: &str) -> String {
        self.standings(email)
            .await
            .into_iter()
            .find(|(known, _)| known == topic)
            .map_or_else(|| "none".to_owned(), |(_, standing)| standing)
    }

    pub async fn topic_id(&self, name: &str) -> i64 {
        optin::consent::ops::ensure_topic(&self.instance.db, name, &self.instance.entropy, NOW).await.unwrap()
    }

    /// How many confirmation mails wait for an address.
    pub async fn confirmations(&self, email: &str) -> i64 {
        let Some(contact) = self.contact(email).await else { return 0 };
        let sql = "SELECT COUNT(*) FROM confirmation WHERE contact_id = $1";
        self.instance.db.fetch_one(sql, args![contact.id]).await.unwrap().get(0).unwrap()
    }

    /// The link of a confirmation mail.
    pub async fn confirmation(&self, email: &str, topics: &[&str]) -> String {
        let contact = self.contact(email).await.unwrap();
        let mut fields = vec![contact.id, self.topic_id(topics[0]).await, self.clock.now().plus(CONFIRM_MS).millis()];
        for topic in &topics[1..] {
            fields.push(self.topic_id(topic).await);
        }
        self.url(&format!("/s/{}", self.instance.keys.sign(Purpose::Confirm, &fields)))
    }

    pub async fn suppress(&self, email: &str) {
        let mut tx = self.instance.db.begin().await.unwrap();
        optin::consent::ops::suppress(&mut tx, vec![(email.to_owned(), "complaint".to_owned())], "test", NOW).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn withdraw(&self, email: &str) {
        let contact = self.contact(email).await.unwrap();
        let event = optin::consent::NewEvent::new(contact.id, 0, optin::consent::Action::Withdrawn, "test");
        let mut tx = self.instance.db.begin().await.unwrap();
        optin::consent::ops::withdraw(&mut tx, &event, self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
    }
}
