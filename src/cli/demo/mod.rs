//! `optin demo`: the whole job on sample data, in a folder of its own.

mod people;
mod permission;
mod visitors;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::out::{Failure, Outcome};
use super::serve::{Site, bind};
use super::{Context, report, send};
use crate::campaign::ops as runs;
use crate::clock::{DAY, HOUR};
use crate::config::{Environment, scaffold};
use crate::consent::Basis;
use crate::consent::ops::{self as consents, Declared, DeclaredConsent};
use crate::contact::import::{AfterBatch, Import, ImportOptions, ImportedRow};
use crate::db::{DbError, OpenOptions, Tx};
use crate::instance::{self, Instance};
use crate::report::campaign_report;
use crate::telemetry;
use crate::web::inbox::Inbox;
use crate::worker::start_run;
use permission::Story;
use visitors::{Memory, Who};

/// The two campaigns of the example instance that the demo sends.
const NEWSLETTER: &str = "spring-leaves";
const OFFER: &str = "first-flush-offer";
/// How long the demo stays for a relay that is down: its own inbox is never down for long.
const WAIT_SECONDS: u32 = 10;

/// Shows the whole job: import, send into a built-in inbox, opens, clicks, a second campaign, permission, report.
#[derive(Debug, clap::Args)]
#[command(after_help = "Works in a temporary folder and sends nothing out of this machine. In a terminal it\n\
    stays up for a look around until Ctrl-C; otherwise it ends by itself. With --keep the\n\
    folder is made here and stays, to go on with it.\n\n\
    Examples:\n  optin demo\n  optin demo --contacts 20000\n  optin demo --keep")]
pub struct Demo {
    /// Keep the folder with the instance and its database.
    #[arg(long)]
    keep: bool,
    /// How many sample customers.
    #[arg(long, default_value_t = 3_000, value_name = "N")]
    contacts: usize,
    /// Port of the web pages; any free one by default.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

impl Demo {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let folder = Folder::make(context, self.keep)?;
        let outcome = self.show(context, &folder.path).await;
        if self.keep {
            context.out.say(format!("Kept. Go on with: cd {} && optin report {NEWSLETTER}", folder.path.display()));
        }
        outcome
    }

    async fn show(&self, context: &Context, folder: &Path) -> Outcome {
        let out = context.out;
        // Drawn before anything runs side by side, so that a seed repeats the whole story.
        let salts = [context.entropy.u64(), context.entropy.u64()];
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        let address = listener.local_addr()?;
        let inbox = Inbox::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), context.clock.clone()).await?;
        let instance = Arc::new(open(context, folder, address, &inbox).await?);
        let (stop, stopped) = watch::channel(false);
        let site = Site::start(instance.clone(), listener, Some(inbox.clone()), stopped).await?;
        out.say(format!("The Tea House, a sample shop, in {}", folder.display()));
        out.say("All mail goes to the built-in inbox; nothing leaves this machine.\n");

        self.import(context, &instance, folder).await?;
        self.send(context, &instance, NEWSLETTER).await?;
        let (scanned, read) = self.recipients(context, &inbox, &site, address, 0, salts[0]).await?;
        out.say(format!(
            "Two hours later: {} opened, {} followed a link, {} unsubscribed; {} scanners fetched every link.\n",
            read.opened.load(Ordering::Relaxed),
            read.clicked.load(Ordering::Relaxed),
            read.left.load(Ordering::Relaxed),
            scanned.scanned.into_inner()
        ));
        context.clock.advance(DAY);
        let before = inbox.messages().iter().map(|mail| mail.id).max().unwrap_or(0);
        self.send(context, &instance, OFFER).await?;
        self.recipients(context, &inbox, &site, address, before, salts[1]).await?;
        context.out.say("");
        let permission = permission::show(context, &instance, &inbox, address).await?;

        self.report(context, &instance, address, &read, &permission).await?;
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            out.say("\nHave a look around; Ctrl-C ends the demo.");
            let _ = context.stop.clone().wait_for(|stop| *stop).await;
        }
        let _ = stop.send(true);
        site.ended().await;
        instance.db.close().await;
        Ok(())
    }

    async fn import(&self, context: &Context, instance: &Instance, folder: &Path) -> Outcome {
        let file = folder.join("customers.csv");
        people::write(&file, self.contacts, &context.entropy)?;
        let now = context.clock.now();
        let mut topics = Vec::new();
        for topic in topics_of(instance) {
            let purpose = instance.config.topics.get(&topic).map_or_else(String::new, |topic| topic.purpose.clone());
            topics.push((consents::ensure_topic(&instance.db, &topic, &instance.entropy, now).await?, purpose));
        }
        let options = ImportOptions::default();
        let import = Import { db: &instance.db, schema: &instance.schema, entropy: &instance.entropy, now, options: &options };
        let bar = context.out.bar(std::fs::metadata(&file)?.len(), "import");
        let mut grants = Grants { topics, now };
        let outcome = import.run(std::fs::File::open(&file)?, None, &mut grants, &mut |progress| bar.set_position(progress.bytes)).await?;
        bar.finish_and_clear();
        context.out.say(format!("Imported {} customers with their consent.", outcome.counts.added));
        Ok(())
    }

    async fn send(&self, context: &Context, instance: &Arc<Instance>, campaign: &str) -> Outcome {
        let (run, _) = start_run(instance, campaign, true, None).await.map_err(anyhow::Error::from)?;
        send::drive(context, instance, &run, WAIT_SECONDS).await?;
        let db = &mut instance.db.clone();
        if let Some(run) = runs::run(db, run.id).await? {
            let summary = crate::report::run_summary(db, &run).await?;
            let left_out: i64 = summary.excluded.values().sum::<i64>() + summary.skipped.values().sum::<i64>();
            context.out.say(format!("Sent `{campaign}` to {} of them; {left_out} left out who no longer want it.", summary.sent));
        }
        Ok(())
    }

    /// Scanners at once, people two hours later; what they did is recorded when this returns.
    async fn recipients(
        &self,
        context: &Context,
        inbox: &Inbox,
        site: &Site,
        address: SocketAddr,
        since: u64,
        salt: u64,
    ) -> Result<(Memory, Memory), Failure> {
        let bar = context.out.bar(0, "recipients");
        let scanned = visitors::act(Who::Scanners, inbox, address, since, salt, &bar).await?;
        bar.reset();
        context.clock.advance(2 * HOUR);
        let read = visitors::act(Who::People, inbox, address, since, salt, &bar).await?;
        bar.finish_and_clear();
        site.flush().await;
        Ok((scanned, read))
    }

    async fn report(&self, context: &Context, instance: &Instance, address: SocketAddr, first: &Memory, permission: &Story) -> Outcome {
        let db = &mut instance.db.clone();
        let (mut reports, mut summaries) = (Vec::new(), Vec::new());
        for campaign in [NEWSLETTER, OFFER] {
            for run in runs::list(db, Some(campaign), 1).await? {
                summaries.push(crate::report::run_summary(db, &run).await?);
            }
            reports.push(campaign_report(db, &instance.config.behaviour.currency, campaign, None).await?);
        }
        if context.out.json {
            return context.out.document(&serde_json::json!({
                "recipients": {
                    "opened": first.opened.load(Ordering::Relaxed),
                    "clicked": first.clicked.load(Ordering::Relaxed),
                    "unsubscribed": first.left.load(Ordering::Relaxed),
                },
                "permission": permission,
                "runs": summaries,
                "reports": reports,
                "report_url": format!("http://{address}/report"),
                "inbox_url": format!("http://{address}/inbox"),
            }));
        }
        for shown in &reports {
            context.out.data(report::render(shown));
            context.out.data("");
        }
        context.out.data(format!("Report: http://{address}/report"));
        context.out.data(format!("Inbox:  http://{address}/inbox"));
        Ok(())
    }
}

/// Topics that the demo's campaigns ride on.
fn topics_of(instance: &Instance) -> BTreeSet<String> {
    [NEWSLETTER, OFFER]
        .iter()
        .filter_map(|name| instance.config.campaigns.get(*name))
        .map(|campaign| campaign.topic.value.clone())
        .collect()
}

/// The example instance, its files written anew, pointed at our own ports.
async fn open(context: &Context, folder: &Path, address: SocketAddr, inbox: &Inbox) -> Result<Instance, Failure> {
    let mut bytes = [0; 24];
    context.entropy.fill(&mut bytes);
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let config_dir = folder.join("config");
    scaffold::write(&config_dir, &secret)?;
    // The codes of the welcome, which a new instance has none of.
    let topics = config_dir.join("topics.toml");
    let text = std::fs::read_to_string(&topics)?.replace("\n# coupons = ", "\ncoupons = ");
    std::fs::write(&topics, text)?;
    let database = format!("sqlite://{}", folder.join("optin.db").display());
    let environment = Environment::from_pairs([
        ("OPTIN_DATABASE__URL", database),
        ("OPTIN_SITE__URL", format!("http://{address}")),
        ("OPTIN_SITE__LISTEN", address.to_string()),
        ("OPTIN_SMTP__URL", format!("smtp://{}?tls=none", inbox.address())),
        // Nothing leaves this machine, no question to a name server either.
        ("OPTIN_DELIVERY__MX_LOOKUPS", "false".to_owned()),
    ]);
    let config = instance::load_checked(&config_dir, &environment).map_err(|problems| anyhow::anyhow!(problems.render(false)))?;
    telemetry::start("error", false, context.out.terminal).map_err(anyhow::Error::msg)?;
    Ok(Instance::open_with(config, context.clock.clone(), context.entropy.clone(), OpenOptions { relaxed: true, ..OpenOptions::default() })
        .await?)
}

/// The demo's folder; removed at the end unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(context: &Context, keep: bool) -> Result<Folder, Failure> {
        let name = format!("optin-demo-{:08x}", context.entropy.u64() as u32);
        let path = if keep { PathBuf::from(name) } else { std::env::temp_dir().join(name) };
        std::fs::create_dir(&path).map_err(|error| anyhow::anyhow!("cannot make the folder `{}`: {error}", path.display()))?;
        Ok(Folder { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Sample customers agreed at the till.
struct Grants {
    topics: Vec<(i64, String)>,
    now: crate::clock::Time,
}

impl AfterBatch for Grants {
    async fn suppressed(&mut self, _: &mut Tx, _: &[Arc<str>]) -> Result<Vec<usize>, DbError> {
        // The demo's database is new.
        Ok(Vec::new())
    }

    async fn batch(&mut self, tx: &mut Tx, rows: &[ImportedRow]) -> Result<(), DbError> {
        let rows: Vec<(i64, u64, bool)> = rows.iter().map(|row| (row.contact_id, row.line, row.added)).collect();
        let declared = Declared {
            consent: DeclaredConsent::Confirmed,
            source: "sample data: asked at the till".to_owned(),
            basis: Basis::Consent,
            until: None,
        };
        consents::record_import(tx, &rows, &self.topics, &declared, self.now).await
    }
}
