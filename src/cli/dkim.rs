//! `optin dkim new|show`

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Context;
use super::out::{Outcome, refused};
use crate::delivery::dkim::{self, KeyType, PrivateKey, txt_strings};
use crate::instance;

/// Keys that sign your mails (DKIM), and the DNS records they need.
#[derive(Debug, clap::Args)]
pub struct DkimCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a key: writes its file, shows the DNS record to publish and the lines for optin.toml.
    #[command(after_help = "The file can be read by you only, and a file that is there is never overwritten. Publish the record first,\n\
        wait until it is seen everywhere, then declare the key. To change a key, declare the new one beside the\n\
        old one; take the old record away a week after the old key.\n\n\
        Examples:\n  optin dkim new tea.example --selector s2026\n  optin dkim new tea.example --selector e2026 --type ed25519 --out /etc/optin/e2026.pem")]
    New {
        /// The domain of your From address, or the one above it.
        domain: String,
        /// The key's name in the DNS: SELECTOR._domainkey.DOMAIN. A new key takes a new name.
        #[arg(long)]
        selector: String,
        /// RSA is what every receiver verifies; Ed25519 may stand beside it.
        #[arg(long = "type", value_enum, default_value = "rsa")]
        kind: Kind,
        /// Where the key goes; `keys/DOMAIN.SELECTOR.pem` in the instance's folder otherwise.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// The DNS records of the keys in optin.toml.
    #[command(after_help = "Examples:\n  optin dkim show\n  optin dkim show tea.example --json")]
    Show {
        /// Of this domain only.
        domain: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// RSA, 2048 bits.
    Rsa,
    /// Ed25519 (RFC 8463).
    Ed25519,
}

impl DkimCommand {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self.action {
            Action::New { domain, selector, kind, out } => new(context, &domain, &selector, kind, out),
            Action::Show { domain } => show(context, domain.as_deref()),
        }
    }
}

fn new(context: &Context, domain: &str, selector: &str, kind: Kind, out: Option<PathBuf>) -> Outcome {
    let Some(domain) = dkim::ascii_domain(domain) else {
        return Err(anyhow::anyhow!("`{domain}` is not a domain\nhint: name the one of your From address, such as tea.example").into());
    };
    if !dkim::is_selector(selector) {
        return Err(anyhow::anyhow!("`{selector}` is not a selector\nhint: use letters, digits and `-`, such as s2026").into());
    }
    let file = out.unwrap_or_else(|| context.dir.join("keys").join(format!("{domain}.{selector}.pem")));
    let key = PrivateKey::generate(match kind {
        Kind::Rsa => KeyType::Rsa,
        Kind::Ed25519 => KeyType::Ed25519,
    })?;
    if let Err(error) = write_new(&file, &key.to_pem()?) {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return refused(format!(
                "`{}` is there already, and stays as it is\nhint: a new key takes a new selector, or `--out FILE`",
                file.display()
            ));
        }
        return Err(anyhow::anyhow!("cannot write `{}`: {error}", file.display()).into());
    }
    let record = record(&domain, selector, &key)?;
    let declaration = format!(
        "[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey_file = {}",
        toml::Value::String(from_config(&context.dir, &file).display().to_string())
    );
    if context.out.json {
        return context.out.document(&json!({ "key_file": file, "record": record, "declaration": declaration }));
    }
    context.out.say(format!("The private key is in {}; only you can read it. Publish this record:\n", file.display()));
    context.out.data(zone_line(&record));
    context.out.say("\nand when it is seen, add to optin.toml:\n");
    context.out.data(format!("\n{declaration}"));
    Ok(())
}

/// Writes a file that only its owner can read; fails where there is one.
fn write_new(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()
}

/// The file as `key_file` names it: relative to the instance's folder where it lies below it.
fn from_config(dir: &Path, file: &Path) -> PathBuf {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (dir, file) = (whole(dir), whole(file));
    file.strip_prefix(&dir).map(Path::to_owned).unwrap_or(file)
}

fn show(context: &Context, domain: Option<&str>) -> Outcome {
    let config = context.config()?;
    let wanted = match domain {
        Some(domain) => match dkim::ascii_domain(domain) {
            Some(domain) => Some(domain),
            None => return Err(anyhow::anyhow!("`{domain}` is not a domain").into()),
        },
        None => None,
    };
    let signers = instance::signers(&config).map_err(|list| {
        context.out.problems(&crate::config::Problems::new(list, config.sources.clone()), "a key cannot be used".to_owned())
    })?;
    let mut records = Vec::new();
    for (domain, signers) in signers.domains().filter(|(domain, _)| wanted.as_deref().is_none_or(|wanted| wanted == *domain)) {
        for signer in signers {
            let mut record = record(domain, &signer.selector, &signer.key)?;
            record["key_file"] = json!(signer.key_file);
            records.push(record);
        }
    }
    if context.out.json {
        return context.out.document(&json!({ "records": records }));
    }
    if records.is_empty() {
        let whose = wanted.map_or_else(String::new, |domain| format!(" for `{domain}`"));
        return refused(format!("optin.toml declares no key{whose}\nhint: `optin dkim new DOMAIN --selector NAME` makes one"));
    }
    for record in &records {
        context.out.data(zone_line(record));
    }
    Ok(())
}

fn record(domain: &str, selector: &str, key: &PrivateKey) -> anyhow::Result<Value> {
    let value = key.record()?;
    Ok(json!({
        "name": format!("{selector}._domainkey.{domain}"),
        "type": "TXT",
        "value": value,
        "strings": txt_strings(&value),
        "domain": domain,
        "selector": selector,
        "key_type": key.kind().as_str(),
    }))
}

/// A line of a zone file. Forms of DNS providers take what is in quotes, put together.
fn zone_line(record: &Value) -> String {
    let strings = record["strings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let strings: Vec<String> = strings.map(|string| format!("\"{string}\"")).collect();
    format!("{}. IN TXT ( {} )", record["name"].as_str().unwrap_or_default(), strings.join(" "))
}
