//! Reads the files of an instance.

use std::path::Path;

use super::{Config, Environment, Problems};

/// Loads the instance in `dir` with the environment layered over it.
pub fn load(dir: &Path, environment: &Environment) -> Result<Config, Problems> {
    let _ = (dir, environment);
    Err(Problems::default())
}
