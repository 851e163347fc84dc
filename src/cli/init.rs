//! `optin init DIR`

use std::path::{Path, PathBuf};

use super::out::Outcome;
use super::{Context, refused};
use crate::config::scaffold;

/// Writes a commented instance that passes `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "`./config` is where optin looks by itself. A folder that is not empty is refused.\n\n\
        Examples:\n  optin init config\n  optin init shop && optin --config shop check")]
pub struct Init {
    /// The folder to make; `DIR/optin.toml` is the instance's main file.
    dir: PathBuf,
}

impl Init {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let mut bytes = [0; 24];
        context.entropy.fill(&mut bytes);
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match scaffold::write(&self.dir, &secret) {
            Ok(files) => {
                if context.out.json {
                    return context.out.document(&serde_json::json!({ "dir": self.dir, "files": files }));
                }
                for file in &files {
                    context.out.data(file.display().to_string());
                }
                let dir = self.dir.strip_prefix(".").unwrap_or(&self.dir);
                let option = if dir == Path::new("config") { String::new() } else { format!("--config {} ", self.dir.display()) };
                context.out.say(format!("\n{} files written. Next: `optin {option}check`", files.len()));
                Ok(())
            }
            Err(scaffold::ScaffoldError::NotEmpty(dir)) => {
                refused(format!("`{}` is not empty; nothing was written\nhint: name a folder that does not exist yet", dir.display()))
            }
            Err(error) => Err(error.into()),
        }
    }
}
