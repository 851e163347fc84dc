//! `optin coupon import|list|show`

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::Context;
use super::out::{Failure, Outcome, counted, refused, shown, table};
use crate::config::check_name;
use crate::consent::coupons;

/// Codes written in one transaction.
const BLOCK: usize = 5_000;
/// Characters of a code: what somebody still types.
const MAX_CODE_CHARS: usize = 100;
/// Codes that `show` lists, where nobody says otherwise.
const LISTED: u32 = 20;

/// Codes to give away.
#[derive(Debug, clap::Args)]
pub struct CouponCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Add codes to a pool, one a line; those it has stay as they are.
    #[command(after_help = "A topic gives them away with `coupons = \"POOL\"` in topics.toml: each welcome\n\
        (`welcome = \"TEMPLATE\"`) brings one as `{{ data.coupon }}`.\n\n\
        Example:\n  optin coupon import spring codes.txt")]
    Import {
        /// The pool; made with its first code.
        pool: String,
        /// A text file.
        file: PathBuf,
    },
    /// All pools: how many codes are left.
    #[command(after_help = "Welcomes wait for codes while a pool is empty. With `--low` the exit code is 1 where a pool\n\
        has fewer left: for a monitor.\n\n\
        Examples:\n  optin coupon list\n  optin coupon list --low 100")]
    List {
        /// Complain about pools with fewer codes left.
        #[arg(long, value_name = "N")]
        low: Option<i64>,
    },
    /// A pool, and who got its codes last.
    #[command(after_help = "Example:\n  optin coupon show spring --limit 100")]
    Show {
        /// The pool.
        pool: String,
        /// How many of the codes given last are listed.
        #[arg(long, default_value_t = LISTED)]
        limit: u32,
    },
}

impl CouponCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        match self.action {
            Action::Import { pool, file } => import(context, &pool, &file).await,
            Action::List { low } => list(context, low).await,
            Action::Show { pool, limit } => show(context, &pool, limit).await,
        }
    }
}

async fn import(context: &Context, pool: &str, file: &std::path::Path) -> Outcome {
    check_name("coupon pool", pool).map_err(|(message, hint)| Failure::Failed(anyhow::anyhow!("{message}\nhint: {hint}")))?;
    let instance = context.instance().await?;
    let opened = std::fs::File::open(file)
        .with_context(|| format!("cannot read `{}`\nhint: name a text file with one code a line", file.display()))?;
    let mut lines = BufReader::new(opened).lines().enumerate();
    let (mut read, mut added) = (0_u64, 0_u64);
    // All or nothing: a file with a broken line is mended and imported again.
    let mut tx = instance.db.begin().await?;
    loop {
        let mut block = Vec::new();
        for (at, line) in lines.by_ref() {
            let line = line.with_context(|| format!("line {} of `{}` is not text in UTF-8", at + 1, file.display()))?;
            let code = line.trim_start_matches('\u{feff}').trim();
            if code.is_empty() {
                continue;
            }
            if code.chars().count() > MAX_CODE_CHARS || code.chars().any(char::is_control) {
                let hint = format!("a code is one line of at most {MAX_CODE_CHARS} characters");
                return refused(format!("line {} of `{}` is no code; nothing was imported\nhint: {hint}", at + 1, file.display()));
            }
            block.push(code.to_owned());
            if block.len() == BLOCK {
                break;
            }
        }
        if block.is_empty() {
            break;
        }
        read += block.len() as u64;
        added += coupons::import(&mut tx, pool, block).await?;
    }
    tx.commit().await?;
    if context.out.json {
        return context.out.document(&json!({ "pool": pool, "read": read, "added": added }));
    }
    let known = if added == read { String::new() } else { format!(" ({} it had already)", read - added) };
    context.out.data(format!("{} added to `{pool}`{known}", counted(added, "code")));
    Ok(())
}

async fn list(context: &Context, low: Option<i64>) -> Outcome {
    let instance = context.instance().await?;
    let mut pools = coupons::pools(&mut instance.db.clone()).await?;
    // A pool that a topic gives from and that nobody has filled is the emptiest of all.
    for pool in instance.config.topics.values().filter_map(|topic| topic.coupons.as_ref()) {
        if !pools.iter().any(|known| known.name == *pool) {
            pools.push(coupons::Pool { name: pool.clone(), total: 0, given: 0 });
        }
    }
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    let short: Vec<&str> = pools.iter().filter(|pool| low.is_some_and(|low| pool.left() < low)).map(|pool| pool.name.as_str()).collect();
    if context.out.json {
        let listed: Vec<_> =
            pools.iter().map(|pool| json!({ "pool": pool.name, "codes": pool.total, "given": pool.given, "left": pool.left() })).collect();
        context.out.document(&json!({ "pools": listed, "low": short }))?;
    } else {
        let rows = pools
            .iter()
            .map(|pool| vec![pool.name.clone(), pool.total.to_string(), pool.given.to_string(), pool.left().to_string()])
            .collect();
        context.out.data(table(&["pool", "codes", "given", "left"], rows));
    }
    match short.as_slice() {
        [] => Ok(()),
        pools => refused(format!("running low: {}\nhint: `optin coupon import POOL FILE` brings codes", pools.join(", "))),
    }
}

async fn show(context: &Context, pool: &str, limit: u32) -> Outcome {
    let instance = context.instance().await?;
    let db = &mut instance.db.clone();
    let Some(found) = coupons::pools(db).await?.into_iter().find(|known| known.name == pool) else {
        return refused(format!("there is no coupon pool `{pool}`\nhint: `optin coupon import {pool} FILE` makes it"));
    };
    let given = coupons::latest(db, pool, i64::from(limit)).await?;
    if context.out.json {
        let listed: Vec<_> =
            given.iter().map(|given| json!({ "code": given.code, "email": given.email, "at": given.at.to_string() })).collect();
        let left = found.left();
        return context.out.document(&json!({ "pool": pool, "codes": found.total, "given": found.given, "left": left, "latest": listed }));
    }
    context.out.data(format!("{pool}: {} of {} left", found.left(), counted(found.total, "code")));
    let rows: Vec<Vec<String>> = given
        .into_iter()
        .map(|given| vec![shown(&given.at.to_string()), given.code, given.email.unwrap_or_else(|| "(erased)".to_owned())])
        .collect();
    if !rows.is_empty() {
        context.out.data(format!("\n{}", table(&["given (UTC)", "code", "to"], rows)));
    }
    Ok(())
}
