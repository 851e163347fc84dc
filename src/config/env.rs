//! The only reader of environment variables.

use std::collections::BTreeMap;

/// A copy of the variables that concern us, taken once at start (or given by a test).
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// Every setting can come from a variable with this prefix.
pub const PREFIX: &str = "OPTIN_";

/// Variables with our prefix that are no settings: the clock's start and the seed of rehearsals and
/// tests, and the folder of the configuration.
pub const RESERVED: &[&str] = &[
    "OPTIN_CLOCK",
    "OPTIN_SEED",
    "OPTIN_CONFIG",
    // Where a rehearsal ends or freezes the process; release builds do not know it.
    #[cfg(debug_assertions)]
    "OPTIN_FAULT",
];

impl Environment {
    /// Reads the process environment.
    pub fn from_process() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
        let variables = std::env::vars_os();
        Environment(
            variables
                // A value that is not UTF-8 is kept in a form that its check will refuse.
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value.to_string_lossy().into_owned())))
                .filter(|(key, _)| key.starts_with(PREFIX) || key == "NO_COLOR")
                .collect(),
        )
    }

    /// An environment of one's own.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Environment(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// A variable's value; an empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables with our prefix, for finding those that mean nothing.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}
