//! How it leaves.
mod collected;
mod counts;
pub mod dkim;
pub mod engine;
pub mod forget;
pub mod journal;
pub mod limit;
pub mod links;
pub mod message;
pub mod messages;
pub mod mime;
pub mod mx;
pub mod ops;
pub mod provider;
pub mod smtp;
pub mod sql;
pub mod state;
pub mod throttles;
pub mod verdict;

pub use state::State;
