//! The integration tests: one binary, so that they link once and share one PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop, and say where")]

mod support;

mod addresses;
mod campaign;
mod config;
mod consent;
mod example;
mod faults;
mod harness;
mod import;
mod segment;
mod send;
mod tidy;
mod web;
