//! The engine's settings, from the instance's.

use std::sync::Arc;

use super::RunError;
use crate::consent::tracking::TrackingRules;
use crate::delivery::engine::{Relay, Sender};
use crate::delivery::limit::Limits;
use crate::delivery::messages::Composer;
use crate::delivery::smtp::SmtpSettings;
use crate::instance::Instance;

/// Everything that the sender needs to know, ready to use.
pub(super) fn of(instance: &Instance) -> Result<Sender, RunError> {
    let config = &instance.config;
    let mut relays = Vec::with_capacity(config.relays.len());
    for relay in &config.relays {
        let settings = SmtpSettings::from_relay(relay, &config.dir).map_err(|problem| RunError::Refused(problem.to_string()))?;
        relays.push(Arc::new(Relay::new(settings, relay)));
    }
    Ok(Sender {
        db: instance.db.clone(),
        clock: instance.clock.clone(),
        entropy: instance.entropy.clone(),
        keys: instance.keys.clone(),
        message_accepted: instance.message_accepted.clone(),
        composer: Composer::new(instance.schema.clone(), instance.frame.clone()),
        signers: instance.signers.clone(),
        schema: instance.schema.clone(),
        tracking: TrackingRules::new(&config.consent),
        site: config.site.url.value.clone(),
        relays,
        providers: instance.providers.clone(),
        limits: Arc::new(Limits::new(config).map_err(RunError::Refused)?),
        hello: instance.host(),
        in_doubt: config.delivery.in_doubt,
        retry_seconds: config.delivery.retry_seconds.clone(),
        retry_hours: config.delivery.retry_hours,
        lease_ms: i64::from(config.delivery.lease_seconds) * crate::clock::SECOND,
    })
}
