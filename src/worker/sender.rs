//! The engine's settings, from the instance's.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RunError;
use crate::delivery::engine::{Relay, Sender};
use crate::delivery::limit::Limits;
use crate::delivery::messages::Composer;
use crate::delivery::mx;
use crate::delivery::provider::{Entry, Providers};
use crate::instance::Instance;

/// Everything that the sender needs to know, ready to use.
pub(super) async fn of(instance: &Instance) -> Result<Sender, RunError> {
    let config = &instance.config;
    let mut relays = Vec::with_capacity(config.relays.len());
    for relay in &config.relays {
        let settings = instance.smtp_settings(relay).map_err(RunError::Refused)?;
        relays.push(Arc::new(Relay::new(settings, relay)));
    }
    let providers = Arc::new(Providers::new(&overrides(instance)));
    providers.remember(mx::load(&mut instance.db.clone()).await?);
    Ok(Sender {
        db: instance.db.clone(),
        clock: instance.clock.clone(),
        entropy: instance.entropy.clone(),
        keys: instance.keys.clone(),
        composer: Composer::new(instance.schema.clone()),
        signers: instance.signers.clone(),
        schema: instance.schema.clone(),
        site: config.site.url.value.clone(),
        relays,
        providers,
        limits: Arc::new(Limits::new(config).map_err(RunError::Refused)?),
        hello: instance.host(),
        in_doubt: config.delivery.in_doubt,
        retry_seconds: config.delivery.retry_seconds.clone(),
        retry_hours: config.delivery.retry_hours,
        lease_ms: i64::from(config.delivery.lease_seconds) * crate::clock::SECOND,
    })
}

/// What the configuration says of mailbox providers.
fn overrides(instance: &Instance) -> BTreeMap<String, Entry> {
    let entry = |settings: &crate::config::ProviderSettings| Entry {
        domains: settings.domains.clone(),
        mx: settings.mx.clone(),
        connections: settings.connections,
        rate: settings.limit.rate.map(|rate| (rate.mails, rate.per_seconds)),
        per_day: settings.limit.per_day,
    };
    instance.config.providers.iter().map(|(name, settings)| (name.clone(), entry(settings))).collect()
}
