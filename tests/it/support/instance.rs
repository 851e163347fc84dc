//! An instance in a temporary folder, wired to a test's database, SMTP server and port.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use optin::config::{Config, Environment, Problems};
use tempfile::TempDir;

use super::process::{Call, Output, command, repository};
use super::{TestDatabase, free_port, smtp};

/// A secret for links, the same in every test.
pub const SECRET: &str = "a-secret-for-tests-0123456789abcdef";

/// The least an instance needs; a test's own files replace it.
const OPTIN_TOML: &str = r#"[site]
url = "http://127.0.0.1:8080"
[sender]
name = "Tea House"
email = "letters@tea.example"
postal_address = "1 Leaf Street, Taipei"
"#;

/// A folder with `config/` in it, and the variables that wire it up.
pub struct Instance {
    root: TempDir,
    environment: BTreeMap<String, String>,
    port: u16,
}

/// Writes `files` (paths below `config/`) and points the instance at `database`. Without an
/// `optin.toml` among them, a small valid one is written.
pub fn instance(database: &TestDatabase, files: &[(&str, &str)]) -> Instance {
    let instance = Instance::new(&database.url);
    if !files.iter().any(|(path, _)| *path == "optin.toml") {
        instance.write("optin.toml", OPTIN_TOML);
    }
    for (path, text) in files {
        instance.write(path, text);
    }
    instance
}

impl Instance {
    fn new(database_url: &str) -> Self {
        let root = tempfile::Builder::new().prefix("optin-instance-").tempdir().expect("a temporary folder");
        std::fs::create_dir(root.path().join("config")).unwrap();
        let port = free_port();
        let environment = BTreeMap::from([
            ("OPTIN_DATABASE__URL".to_owned(), database_url.to_owned()),
            ("OPTIN_SITE__LISTEN".to_owned(), format!("127.0.0.1:{port}")),
            ("OPTIN_SITE__URL".to_owned(), format!("http://127.0.0.1:{port}")),
            ("OPTIN_SECRET".to_owned(), SECRET.to_owned()),
        ]);
        Instance { root, environment, port }
    }

    /// A copy of the example instance of the repository.
    pub fn example(database: &TestDatabase) -> Self {
        let instance = Instance::new(&database.url);
        copy_folder(&repository().join("config"), &instance.dir());
        instance
    }

    /// Its mails go to `sink`.
    pub fn with_smtp(self, sink: &smtp::Sink) -> Self {
        self.with_env("OPTIN_SMTP__URL", &sink.url())
    }

    /// Sets a variable for all its calls.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The working directory of its calls: the folder above `config/`.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `config/`.
    pub fn dir(&self) -> PathBuf {
        self.root.path().join("config")
    }

    /// The port it listens on when it serves.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// An address of the site.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Writes a file below `config/`.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let file = self.dir().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    /// The variables that wire it up.
    pub fn environment(&self) -> Environment {
        Environment::from_pairs(self.environment.clone())
    }

    /// The same by name, for a program that calls `optin` itself.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// Loads it in this process.
    pub fn load(&self) -> Result<Config, Problems> {
        optin::config::load(&self.dir(), &self.environment())
    }

    /// A call of the program in its folder.
    pub fn command(&self, args: &[&str]) -> Call {
        self.environment.iter().fold(command(args).dir(self.root()), |call, (name, value)| call.env(name, value))
    }

    /// Runs the program in its folder.
    pub fn optin(&self, args: &[&str]) -> Output {
        self.command(args).run()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap_or_else(|error| panic!("cannot read {}: {error}", from.display())) {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
