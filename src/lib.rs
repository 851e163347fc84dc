//! optin: a permission-based email marketing engine. `ARCHITECTURE.md` is the map.
//!
//! The modules stand in the order in which a message lives; a room may use only rooms that stand
//! before it (`tests/it/tidy.rs` holds that).

pub mod clock;
pub mod config;
pub mod db;
pub mod entropy;
pub mod fault;
pub mod telemetry;
pub mod text;
pub mod token;

pub mod behaviour;
pub mod campaign;
pub mod cli;
pub mod consent;
pub mod contact;
pub mod content;
pub mod delivery;
pub mod inbound;
pub mod instance;
pub mod report;
pub mod rights;
pub mod segment;
pub mod tracking;
pub mod web;
pub mod worker;
