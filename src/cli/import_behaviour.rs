//! `optin import orders|events FILE`

use std::path::PathBuf;

use serde_json::json;

use super::Context;
use super::import::{create, open, split_map};
use super::out::{Outcome, counted};
use crate::behaviour::import::{self, Import, Options};
use crate::behaviour::ops::Recording;
use crate::instance::Instance;

pub(super) const ORDERS_HELP: &str = "Columns: order_id, email or external_id, at, amount (what was paid for the line) or unit_price\n\
    and quantity; where known currency, product_id, product, category, quantity, refunded (`true`\n\
    or an amount). A negative amount or quantity gives back. Columns whose header equals a field\n\
    map by themselves; `--map` names others.\n\
    A later file that has an order's purchases says all of it anew; one that has only returns of\n\
    it takes them off, also where it comes before the order. The same file twice changes nothing.\n\n\
    Examples:\n  optin import orders orders.csv --dry-run --rejects rejects.csv\n  \
    optin import orders orders.csv --map 'InvoiceNo=order_id' --map 'CustomerID=external_id' \\\n      \
    --map 'InvoiceDate=at' --map 'UnitPrice=unit_price' --currency GBP --timezone Europe/London\n  \
    optin import orders orders.csv --create";

pub(super) const EVENTS_HELP: &str = "Each line is an object: id, type, email or external_id, at, properties; where needed revision\n\
    (of two statements about one id the higher one holds) and retracted (it did not happen). The\n\
    types `order` and `refund` are known by themselves: see docs/behaviour.md. The same file twice\n\
    changes nothing.\n\n\
    Examples:\n  optin import events visits.jsonl --rejects rejects.csv\n  \
    zcat visits.jsonl.gz | optin import events - --ignore-unknown";

/// Rejected rows shown on the terminal.
const SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Orders {
    /// The file; `-` for standard input.
    file: PathBuf,
    /// `Column=field`, for headers that are not a field's name.
    #[arg(long, value_name = "COLUMN=FIELD")]
    map: Vec<String>,
    /// The currency of lines that name none; without it, that of `[behaviour]`.
    #[arg(long, value_name = "CODE")]
    currency: Option<String>,
    /// The zone of times that have none.
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = zone)]
    timezone: jiff::tz::TimeZone,
    /// The encoding, where it should not be detected.
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Events {
    /// The file; `-` for standard input.
    file: PathBuf,
    /// Leave out fields and properties that are not declared, instead of refusing the event.
    #[arg(long)]
    ignore_unknown: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Make contacts of addresses nobody knows, without permission to mail them; else their rows are refused.
    #[arg(long)]
    create: bool,
    /// Read and check everything, write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Rows that were not taken go here, with line, column and reason.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
}

fn zone(text: &str) -> Result<jiff::tz::TimeZone, String> {
    jiff::tz::TimeZone::get(text).map_err(|_| format!("`{text}` is not a time zone such as `Asia/Taipei`"))
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Orders,
    Events,
}

impl Orders {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let map = self.map.iter().map(|pair| split_map(pair)).collect::<Result<_, _>>()?;
        let options = Options {
            map,
            dry_run: self.common.dry_run,
            encoding: self.encoding.clone(),
            zone: self.timezone.clone(),
            currency: self.currency.clone(),
            ignore_unknown: false,
        };
        run(context, What::Orders, &self.file, &self.common, &options).await
    }
}

impl Events {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let options = Options { dry_run: self.common.dry_run, ignore_unknown: self.ignore_unknown, ..Options::default() };
        run(context, What::Events, &self.file, &self.common, &options).await
    }
}

async fn run(context: &Context, what: What, file: &std::path::Path, common: &Common, options: &Options) -> Outcome {
    let instance = context.instance().await?;
    let (source, bytes) = open(file)?;
    let rejects = common.rejects.as_deref().map(create).transpose()?;
    let bar = context.out.bar(bytes, "import");
    let mut told = |progress: import::Progress| {
        bar.set_position(progress.bytes);
        bar.set_message(format!("{} rows", progress.rows));
    };
    let (money, digests) = (instance.money(), instance.digests());
    let import = Import {
        db: &instance.db,
        recording: Recording {
            events: &instance.events,
            schema: &instance.schema,
            digests: &digests,
            entropy: &instance.entropy,
            create: common.create,
        },
        money: &money,
        now: context.clock.now(),
        options,
    };
    let outcome = match what {
        What::Orders => import.orders(source, rejects, &mut told).await,
        What::Events => import.events(source, rejects, &mut told).await,
    };
    bar.finish_and_clear();
    say(context, &instance, what, common, &outcome?)
}

fn say(context: &Context, instance: &Instance, what: What, common: &Common, outcome: &import::Outcome) -> Outcome {
    for header in &outcome.ignored {
        context.out.say(format!("column `{header}` is left out: no field has this name"));
    }
    for reject in outcome.rejects.iter().take(SHOWN) {
        context.out.say(reject.to_string());
    }
    let counts = outcome.counts;
    if counts.rejected > SHOWN as u64 && common.rejects.is_none() {
        context.out.say(format!("and {} more; `--rejects FILE` writes them all", counts.rejected - SHOWN as u64));
    }
    if !common.create && outcome.rejects.iter().any(|reject| reject.reason.starts_with("nobody is known")) {
        context.out.say("`--create` makes contacts of addresses nobody knows, without permission to mail them");
    }
    if what == What::Events && instance.events.is_empty() {
        context.out.say("no kinds of events are declared: events.toml");
    }
    if context.out.json {
        let mut document = serde_json::to_value(counts)?;
        if let Some(object) = document.as_object_mut() {
            let things = if what == What::Orders { "orders" } else { "events" };
            object.insert(things.to_owned(), serde_json::to_value(outcome.items)?);
            object.insert("people_added".to_owned(), json!(outcome.people));
            object.insert("refunds_without_order".to_owned(), json!(outcome.waiting));
            object.insert("ignored_columns".to_owned(), json!(outcome.ignored));
            object.insert("encoding".to_owned(), json!(outcome.encoding));
            object.insert("dry_run".to_owned(), json!(common.dry_run));
        }
        return context.out.document(&document);
    }
    let dry = if common.dry_run { " (dry run: nothing was written)" } else { "" };
    context.out.data(format!(
        "{} read: {} added, {} updated, {} unchanged, {} rejected{dry}",
        counted(counts.read, "row"),
        counts.added,
        counts.updated,
        counts.unchanged,
        counts.rejected,
    ));
    if outcome.people > 0 {
        context.out.data(format!("{} were made, without permission to mail them", counted(outcome.people, "contact")));
    }
    if outcome.waiting > 0 {
        context.out.data(format!("{} of orders that have not come so far", counted(outcome.waiting, "refund")));
    }
    Ok(())
}
