//! What the tests stand on: databases, instances on disk, the program as a process, an SMTP
//! server that misbehaves on demand, and a small HTTP client.

pub mod database;
pub mod dns;
pub mod http;
pub mod instance;
pub mod postgres;
pub mod process;
pub mod smtp;

pub(crate) use database::on_each_database;
pub use database::{TestDatabase, databases};
pub use instance::{Instance, instance};
pub use process::{command, optin};

/// A port on 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().unwrap().port()
}

/// Waits until `probe` answers something. Panics with `what` after `seconds`.
pub fn wait_until<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "waited {seconds} s in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A figure worth reading in the log of a test run.
pub fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
