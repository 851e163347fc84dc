//! `optin serve`

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Context;
use super::out::{Failure, Outcome};
use crate::config::Config;
use crate::consent::tracking::TrackingRules;
use crate::db::DbError;
use crate::instance::Instance;
use crate::telemetry;
use crate::tracking::{Policy, Recorder, RecorderSettings};
use crate::web::inbox::Inbox;
use crate::web::{self, backend};
use crate::worker;

/// Runs schedules, sender and web until SIGTERM, then drains.
#[derive(Debug, clap::Args)]
#[command(after_help = "Prints one line with its address when it is ready. SIGTERM or Ctrl-C: conversations\n\
    end, claims are returned, recorded hits are kept; a second signal ends at once.\n\n\
    Examples:\n  optin serve\n  optin serve --dev-inbox\n  optin serve --only web")]
pub struct Serve {
    /// Only these parts: web, worker.
    #[arg(long, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Catch all mail in a built-in inbox of this machine, with a page under /inbox; nothing leaves.
    /// It takes the place of the relay of [smtp] where that is on this machine, so that `optin send`
    /// from another terminal reaches it too.
    #[arg(long)]
    dev_inbox: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Part {
    /// Recipients' pages, tracking, health.
    Web,
    /// Schedules and sending.
    Worker,
}

impl Serve {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let mut config = context.config()?;
        telemetry::start(&config.log.level, config.log.json, context.out.terminal).map_err(anyhow::Error::msg)?;
        let parts: BTreeSet<Part> =
            if self.only.is_empty() { [Part::Web, Part::Worker].into() } else { self.only.iter().copied().collect() };
        let inbox = if self.dev_inbox { Some(dev_inbox(context, &mut config).await?) } else { None };
        let with_inbox = inbox.is_some();
        let listen = config.site.listen;
        let instance = Arc::new(Instance::open(config, context.clock.clone(), context.entropy.clone()).await?);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(pass_on(context.stop.clone(), stop.clone()));
        let mut tasks = tokio::task::JoinSet::new();
        if parts.contains(&Part::Web) {
            let listener = bind(listen).await?;
            let address = listener.local_addr()?;
            let site = Site::start(instance.clone(), listener, inbox, stopped.clone()).await?;
            tasks.spawn(async move {
                site.ended().await;
                Ok(())
            });
            if with_inbox {
                context.out.say(format!("Read it at http://{address}/inbox, the numbers at http://{address}/report."));
            }
            ready(context, Some(address))?;
        } else {
            ready(context, None)?;
        }
        if parts.contains(&Part::Worker) {
            tasks.spawn(worker::work(instance.clone(), stopped.clone()));
        }
        let mut failed = None;
        while let Some(ended) = tasks.join_next().await {
            // One part that ends ends all: a half-working engine is worse than one that restarts.
            let _ = stop.send(true);
            if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|ended| ended.map_err(anyhow::Error::from)) {
                failed = Some(error);
            }
        }
        instance.db.close().await;
        failed.map_or(Ok(()), |error| Err(Failure::Failed(error)))
    }
}

/// Listens, or says what to do.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::Failed(anyhow::anyhow!(
            "cannot listen on {address}: {error}\nhint: set another `listen` under [site], or stop what uses the port"
        ))
    })
}

/// Starts the built-in inbox and points the configuration at it.
pub(super) async fn dev_inbox(context: &Context, config: &mut Config) -> Result<Inbox, Failure> {
    let configured = config.relays.first().and_then(|relay| loopback_relay(&relay.url.value));
    let inbox = match configured {
        Some(address) => Inbox::start(address, context.clock.clone()).await.ok(),
        None => None,
    };
    let (inbox, others) = match inbox {
        Some(inbox) => (inbox, "`optin send` from another terminal reaches it".to_owned()),
        None => {
            let inbox = Inbox::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), context.clock.clone()).await?;
            let why = match configured {
                Some(address) => format!("{address} is taken"),
                None => "the relay of [smtp] is not a plain one on this machine".to_owned(),
            };
            let others = format!("{why}, so other commands reach it with OPTIN_SMTP__URL='smtp://{}?tls=none'", inbox.address());
            (inbox, others)
        }
    };
    let url = format!("smtp://{}?tls=none", inbox.address());
    for relay in &mut config.relays {
        // Nothing may leave this machine: neither a mail nor a question about a recipient's domain.
        relay.url.value.clone_from(&url);
        (relay.auth, relay.ca_file) = (None, None);
    }
    config.delivery.mx_lookups = false;
    context.out.say(format!("Mail goes to the built-in inbox at {}; {others}.", inbox.address()));
    Ok(inbox)
}

/// Where the configured relay listens, when it is on this machine and speaks plain SMTP: then the inbox
/// can stand in for it.
fn loopback_relay(url: &str) -> Option<SocketAddr> {
    let url = url::Url::parse(url).ok().filter(|url| url.scheme() == "smtp" && url.username().is_empty())?;
    if url.query_pairs().any(|(key, value)| key == "tls" && value == "required") {
        return None;
    }
    // Without a special scheme the URL's host is plain text.
    let host = url.host_str()?.trim_matches(['[', ']']);
    let ip: IpAddr = if host == "localhost" { Ipv4Addr::LOCALHOST.into() } else { host.parse().ok()? };
    ip.is_loopback().then(|| SocketAddr::new(ip, url.port().unwrap_or(25)))
}

/// The one line that says that everything runs.
fn ready(context: &Context, address: Option<SocketAddr>) -> Outcome {
    let url = address.map(|address| format!("http://{address}"));
    if context.out.json {
        return context.out.document(&serde_json::json!({ "ready": true, "url": url }));
    }
    context.out.data(match url {
        Some(url) => format!("optin is ready at {url}"),
        None => "optin is ready (worker only)".to_owned(),
    });
    Ok(())
}

/// The web part, running.
pub(super) struct Site {
    serving: tokio::task::JoinHandle<()>,
    recorder: Recorder,
    recording: tokio::task::JoinHandle<()>,
}

impl Site {
    pub(super) async fn start(
        instance: Arc<Instance>,
        listener: TcpListener,
        inbox: Option<Inbox>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<Site, DbError> {
        let settings = RecorderSettings {
            db: instance.db.clone(),
            entropy: instance.entropy.clone(),
            rules: Policy::new(TrackingRules::new(&instance.config.consent), &instance.config.tracking),
            folder: instance.hit_log_folder(),
        };
        let (recorder, recording) = Recorder::start(settings).await?;
        let router = web::router(backend::app(instance, recorder.clone(), inbox));
        let serving = tokio::spawn(web::serve(listener, router, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        Ok(Site { serving, recorder, recording })
    }

    /// Waits for the last page and the last hit.
    pub(super) async fn ended(self) {
        let _ = self.serving.await;
        self.recorder.shut_down().await;
        // The task ends when nobody can give it a hit any more.
        drop(self.recorder);
        let _ = self.recording.await;
    }

    /// Waits until every hit so far is in the database.
    pub(super) async fn flush(&self) {
        self.recorder.flush().await;
    }
}

/// Passes the process's stop on to the parts, which may also stop each other.
async fn pass_on(mut signal: watch::Receiver<bool>, stop: watch::Sender<bool>) {
    if signal.wait_for(|stop| *stop).await.is_ok() {
        let _ = stop.send(true);
    }
}

/// Says stop at the first SIGTERM or Ctrl-C; at the second one the process ends at once. Installed
/// once for the whole process: a handler cannot be taken away again.
pub(super) fn stop_on_signals() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            return;
        };
        let mut wait = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        wait().await;
        let _ = stop.send(true);
        wait().await;
        tracing::warn!("second signal: stopping at once; what was under way is settled at the next start");
        std::process::abort();
    });
    stopped
}
