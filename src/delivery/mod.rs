//! How it leaves.
pub mod engine;
pub mod journal;
pub mod limit;
pub mod links;
pub mod message;
pub mod mime;
pub mod ops;
pub mod question;
pub mod smtp;
pub mod sql;
pub mod state;

pub use state::State;
