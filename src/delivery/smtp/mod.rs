//! One SMTP session: lettre's connection over a socket of our own.
//!
//! lettre's pool never sets TCP_NODELAY (44 ms a message on loopback) and closes a connection on any
//! 4xx or 5xx, so sessions are driven command by command here. Where the server offers PIPELINING
//! (RFC 2920), MAIL, RCPT and DATA go in one write, and a mail's body takes the next mail's envelope
//! along: one round trip a mail.

mod auth;
mod open;
mod reply;
mod session;
mod settings;
mod tls;
mod wire;

pub use reply::{Failure, Reply, Stage};
pub use session::Session;
pub use settings::{SettingsProblem, SmtpSettings};
