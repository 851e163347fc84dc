//! A new instance on disk, for `optin init`: the example instance of the repository, embedded.

use std::path::{Path, PathBuf};

/// The files, relative to the instance's folder. The example instance is their one source.
const FILES: &[(&str, &str)] = &[
    ("optin.toml", include_str!("../../config/optin.toml")),
    ("topics.toml", include_str!("../../config/topics.toml")),
    ("forms.toml", include_str!("../../config/forms.toml")),
    ("profile.toml", include_str!("../../config/profile.toml")),
    ("segments.toml", include_str!("../../config/segments.toml")),
    ("events.toml", include_str!("../../config/events.toml")),
    ("campaigns/spring-leaves.toml", include_str!("../../config/campaigns/spring-leaves.toml")),
    ("campaigns/spring-leaves.md", include_str!("../../config/campaigns/spring-leaves.md")),
    ("campaigns/first-flush-offer.toml", include_str!("../../config/campaigns/first-flush-offer.toml")),
    ("campaigns/first-flush-offer.md", include_str!("../../config/campaigns/first-flush-offer.md")),
    ("campaigns/tuesday-letter.toml", include_str!("../../config/campaigns/tuesday-letter.toml")),
    ("campaigns/tuesday-letter.mjml", include_str!("../../config/campaigns/tuesday-letter.mjml")),
    ("messages/order-confirmation.toml", include_str!("../../config/messages/order-confirmation.toml")),
    ("messages/order-confirmation.md", include_str!("../../config/messages/order-confirmation.md")),
    ("messages/welcome.toml", include_str!("../../config/messages/welcome.toml")),
    ("messages/welcome.md", include_str!("../../config/messages/welcome.md")),
    ("languages/README.md", include_str!("../../config/languages/README.md")),
    ("layouts/README.md", include_str!("../../config/layouts/README.md")),
];

/// The line of `optin.toml` that a new instance's own secret replaces.
const SECRET_LINE: &str = "# secret = \"\"";

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// There is something already.
    #[error("`{0}` is not empty: choose another folder, or move its files away; nothing was written")]
    NotEmpty(PathBuf),
    /// The disk said no.
    #[error("cannot write `{file}`: check the folder's permissions and the space on the disk")]
    Write {
        /// What was being written.
        file: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
}

/// Writes a commented instance into `dir`, with `secret` (random text without quotes or
/// backslashes) to sign its links. Answers the files written. Refuses a folder that is not empty.
pub fn write(dir: &Path, secret: &str) -> Result<Vec<PathBuf>, ScaffoldError> {
    let failed = |file: &Path, source| ScaffoldError::Write { file: file.to_owned(), source };
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(ScaffoldError::NotEmpty(dir.to_owned()));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(dir, error)),
    }
    let mut written = Vec::new();
    for (path, text) in FILES {
        let file = dir.join(path);
        let folder = file.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        let text = text.replacen(SECRET_LINE, &format!("secret = \"{secret}\""), 1);
        std::fs::write(&file, text).map_err(|error| failed(&file, error))?;
        written.push(file);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_the_line_that_the_secret_replaces() {
        let (_, text) = FILES[0];
        assert_eq!(text.matches(&format!("\n{SECRET_LINE}\n")).count(), 1);
    }
}
