//! Structured logs, on standard error: text for people, JSON for machines.

use tracing_subscriber::EnvFilter;

/// Starts logging with a filter such as `info` or `optin=debug`. A second call changes nothing.
///
/// # Errors
/// The filter does not parse; says what is wrong with it.
pub fn start(level: &str, json: bool, colour: bool) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|error| format!("`{level}` is not a log filter: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.with_target(false).try_init() };
    Ok(())
}
