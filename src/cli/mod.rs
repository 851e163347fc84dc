//! The only terminal: one file per command.

mod check;
mod choices;
mod consent;
mod contact;
mod contact_data;
mod contact_merge;
mod coupon;
mod demo;
mod dkim;
mod form;
mod import;
mod import_behaviour;
mod inbound;
mod init;
mod lint;
mod message;
mod out;
mod preview;
mod report;
mod rights;
mod run;
mod segment;
mod send;
mod serve;
mod suppression;
mod token;
mod tracking;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::clock::Clock;
use crate::config::{Config, Environment};
use crate::entropy::Entropy;
use crate::instance::{self, Instance, InstanceError};
use crate::telemetry;
use out::{Failure, Out, Outcome, counted, refused};

/// Permission-based email marketing: campaigns as code, a ledger that proves itself.
#[derive(Debug, Parser)]
#[command(name = "optin", version, about, propagate_version = true, disable_help_subcommand = false)]
#[command(after_help = "`optin help COMMAND` explains a command, with examples.\n\n\
    Exit codes: 0 done; 1 refused, or findings; 2 wrong use or failure.\n\
    Every setting can come from the environment, by section and key:\n\
    OPTIN_DATABASE__URL, OPTIN_SMTP__URL, OPTIN_SITE__URL, OPTIN_SECRET, ..\n\n\
    Examples:\n  optin demo\n  optin init config\n  optin check\n  optin serve --dev-inbox")]
struct Arguments {
    /// Folder of the instance (the file `optin.toml` is in it). Also OPTIN_CONFIG.
    #[arg(long, global = true, value_name = "DIR", display_order = 900, help_heading = "Everywhere")]
    config: Option<PathBuf>,
    /// Print exactly one JSON document on standard output.
    #[arg(long, global = true, display_order = 901, help_heading = "Everywhere")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented example instance into a new folder.
    Init(init::Init),
    /// Check every file of the instance; all problems at once.
    Check(check::Check),
    /// Bring in contacts, orders, events or suppressions from a file.
    Import(import::Import),
    /// Show, export, correct or erase one contact.
    Contact(contact::ContactCommand),
    /// Grant, withdraw, show and verify consent.
    Consent(consent::ConsentCommand),
    /// Who gets nothing, whatever they subscribed to.
    Suppression(suppression::SuppressionCommand),
    /// Bring in codes to give away, and see how many are left.
    Coupon(coupon::CouponCommand),
    /// Count and list who a segment picks.
    Segment(segment::SegmentCommand),
    /// Look at campaigns before they are sent: the law, and their readers.
    Lint(lint::Lint),
    /// Print a campaign's mail exactly as one person would get it.
    Preview(preview::Preview),
    /// Send one marked test mail; it counts nowhere.
    Test(preview::Test),
    /// Send a campaign now, in the foreground, to its end.
    Send(send::Send),
    /// List, show, pause, resume or cancel runs, and release doubtful mails.
    Run(run::RunCommand),
    /// List subscription forms, and print one as HTML for a site of your own.
    Form(form::FormCommand),
    /// Make DKIM keys and show their DNS records.
    Dkim(dkim::DkimCommand),
    /// Read what came back by mail: requests to unsubscribe.
    Inbound(inbound::InboundCommand),
    /// A campaign in numbers.
    Report(report::Report),
    /// Judge opens and clicks again, and check what is added up.
    Tracking(tracking::TrackingCommand),
    /// What people demand by their rights, and until when it must be answered.
    Rights(rights::RightsCommand),
    /// Forget what is older than it may be.
    Retention(rights::RetentionCommand),
    /// Queue transactional messages and see how they fare.
    Message(message::MessageCommand),
    /// Make, list and revoke tokens of the API.
    Token(token::TokenCommand),
    /// Run schedules, sender and web until SIGTERM.
    Serve(serve::Serve),
    /// Show the whole job on sample data with a built-in inbox.
    Demo(demo::Demo),
}

/// What every command works with.
struct Context {
    out: Out,
    dir: PathBuf,
    environment: Environment,
    clock: Clock,
    entropy: Entropy,
    /// Turns true when the process is asked to stop. Commands that finish what they began watch it;
    /// see [`Command::drains`].
    stop: tokio::sync::watch::Receiver<bool>,
}

impl Command {
    /// Whether a signal lets the command end in its own time; the others end at once, as the system
    /// does, and lose nothing (what they did is committed or rolled back).
    fn drains(&self) -> bool {
        match self {
            Command::Send(_) | Command::Serve(_) | Command::Demo(_) => true,
            Command::Init(_)
            | Command::Check(_)
            | Command::Import(_)
            | Command::Contact(_)
            | Command::Consent(_)
            | Command::Suppression(_)
            | Command::Coupon(_)
            | Command::Segment(_)
            | Command::Lint(_)
            | Command::Preview(_)
            | Command::Test(_)
            | Command::Run(_)
            | Command::Form(_)
            | Command::Dkim(_)
            | Command::Inbound(_)
            | Command::Message(_)
            | Command::Token(_)
            | Command::Rights(_)
            | Command::Retention(_)
            | Command::Tracking(_)
            | Command::Report(_) => false,
        }
    }
}

impl Context {
    /// The checked configuration, or all its problems on standard error.
    fn config(&self) -> Result<Config, Failure> {
        instance::load_checked(&self.dir, &self.environment).map_err(|problems| {
            let message = format!("the configuration has {}; nothing was started", counted(problems.list.len() as i64, "problem"));
            self.out.problems(&problems, message)
        })
    }

    /// The instance, with its database.
    async fn instance(&self) -> Result<Arc<Instance>, Failure> {
        self.instance_logging("warn").await
    }

    /// The same for a command that says itself what goes wrong: `quiet` is logged unless the environment
    /// asks for more.
    async fn instance_logging(&self, quiet: &str) -> Result<Arc<Instance>, Failure> {
        let config = self.config()?;
        telemetry::start(&self.log_level(&config, quiet), config.log.json, self.out.terminal).map_err(anyhow::Error::msg)?;
        match Instance::open(config, self.clock.clone(), self.entropy.clone()).await {
            Ok(instance) => Ok(Arc::new(instance)),
            Err(InstanceError::NoSecret) => Err(Failure::Failed(anyhow::anyhow!(
                "no secret is set, so links could not be signed\nhint: set `secret = \"..\"` in optin.toml (or OPTIN_SECRET) to 32 random characters or more, and keep it"
            ))),
            Err(error) => Err(Failure::Failed(error.into())),
        }
    }

    /// What is logged: the configured level for servers, warnings only for commands.
    fn log_level(&self, config: &Config, quiet: &str) -> String {
        if self.environment.get("OPTIN_LOG__LEVEL").is_some() { config.log.level.clone() } else { quiet.to_owned() }
    }
}

/// Runs one command line. `arguments` holds the program's name first. Answers the exit code.
pub async fn run(arguments: Vec<OsString>, environment: Environment) -> u8 {
    let json = arguments.iter().any(|argument| argument == "--json");
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            if json {
                // The first paragraph says what is wrong; usage and advice were for a person.
                let text = error.render().to_string();
                let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
                let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
                let hint = "`optin help COMMAND` shows its options with examples";
                let _ = Out::new(true, true).document(&serde_json::json!({ "error": message, "hint": hint }));
            }
            return 2;
        }
        Err(help) => {
            let _ = help.print();
            return 0;
        }
    };
    let out = Out::new(parsed.json, environment.get("NO_COLOR").is_some());
    let outcome = dispatch(parsed, out, environment).await;
    match outcome {
        Ok(()) => 0,
        Err(Failure::Refused(text)) => {
            if !text.is_empty() {
                out.failed(&text);
            }
            1
        }
        Err(Failure::Failed(error)) => {
            let mut text = format!("error: {error}");
            for cause in error.chain().skip(1) {
                text.push_str(&format!("\n  because {cause}"));
            }
            out.failed(&text);
            2
        }
    }
}

async fn dispatch(parsed: Arguments, out: Out, environment: Environment) -> Outcome {
    let (clock, entropy) = instance::sources(&environment).map_err(anyhow::Error::msg)?;
    let dir = parsed.config.or_else(|| environment.get("OPTIN_CONFIG").map(PathBuf::from)).unwrap_or_else(|| PathBuf::from("./config"));
    let stop = if parsed.command.drains() { serve::stop_on_signals() } else { tokio::sync::watch::channel(false).1 };
    let context = Context { out, dir, environment, clock, entropy, stop };
    match parsed.command {
        Command::Init(command) => command.run(&context),
        Command::Check(command) => command.run(&context),
        Command::Import(command) => command.run(&context).await,
        Command::Contact(command) => command.run(&context).await,
        Command::Consent(command) => command.run(&context).await,
        Command::Suppression(command) => command.run(&context).await,
        Command::Coupon(command) => command.run(&context).await,
        Command::Segment(command) => command.run(&context).await,
        Command::Lint(command) => command.run(&context).await,
        Command::Preview(command) => command.run(&context).await,
        Command::Test(command) => command.run(&context).await,
        Command::Send(command) => command.run(&context).await,
        Command::Run(command) => command.run(&context).await,
        Command::Form(command) => command.run(&context).await,
        Command::Dkim(command) => command.run(&context),
        Command::Inbound(command) => command.run(&context).await,
        Command::Report(command) => command.run(&context).await,
        Command::Message(command) => command.run(&context).await,
        Command::Token(command) => command.run(&context).await,
        Command::Rights(command) => command.run(&context).await,
        Command::Retention(command) => command.run(&context).await,
        Command::Tracking(command) => command.run(&context).await,
        Command::Serve(command) => command.run(&context).await,
        Command::Demo(command) => command.run(&context).await,
    }
}

/// The contact of an address, or a refusal.
async fn contact_by_email(instance: &Instance, email: &str) -> Result<crate::contact::Contact, Failure> {
    let address = parse_address(email)?;
    match crate::contact::sql::by_email_key(&mut instance.db.clone(), &instance.schema, address.key()).await? {
        Some(contact) => Ok(contact),
        None => refused(format!(
            "no contact has the address `{email}`\nhint: `optin import contacts FILE` brings contacts in; `optin suppression check` knows who was erased"
        )),
    }
}

fn parse_address(email: &str) -> Result<crate::contact::Address, Failure> {
    crate::contact::Address::parse(email).map_err(|error| Failure::Failed(anyhow::anyhow!("`{email}` is not an email address: {error}")))
}

/// A campaign's name, checked.
fn known_campaign(instance: &Instance, name: &str) -> Result<(), Failure> {
    instance.campaign(name).map(drop).map_err(|text| Failure::Failed(anyhow::Error::msg(text)))
}

/// A topic's name, checked.
fn known_topic(instance: &Instance, name: &str) -> Result<(), Failure> {
    if instance.config.topics.contains_key(name) {
        return Ok(());
    }
    let topics: Vec<&str> = instance.config.topics.keys().map(String::as_str).collect();
    let hint = match crate::config::diagnostics::did_you_mean(name, topics.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("topics.toml declares {}", topics.join(", ")),
    };
    Err(Failure::Failed(anyhow::anyhow!("there is no topic `{name}`\nhint: {hint}")))
}
