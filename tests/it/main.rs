//! The integration tests: one binary, so that they link once and share one PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop, and say where")]

mod support;

mod addresses;
mod campaign;
mod check;
mod cli;
mod config;
mod confirm;
mod consent;
mod corpora;
mod demo;
mod dkim;
mod example;
mod faults;
mod harness;
mod import;
mod limits;
mod message_lane;
mod messages;
mod nodes;
mod polite;
mod providers;
mod python_mail;
mod relays;
mod retention;
mod rights;
mod rights_pages;
mod segment;
mod send;
mod session;
mod tidy;
mod web;
