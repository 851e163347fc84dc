//! The integration tests: one binary, so that they link once and share one PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop, and say where")]

mod support;

mod addresses;
mod api_subscriptions;
mod browser;
mod campaign;
mod check;
mod cli;
mod config;
mod confirm;
mod consent;
mod corpora;
mod coupons;
mod demo;
mod digest;
mod dkim;
mod example;
mod faults;
mod flows;
mod forms;
mod frame;
mod harness;
mod import;
mod ledger;
mod ledger_life;
mod limits;
mod lint;
mod message_lane;
mod messages;
mod nodes;
mod polite;
mod prefs;
mod providers;
mod python_mail;
mod relays;
mod retention;
mod rights;
mod rights_pages;
mod segment;
mod send;
mod session;
mod shown;
mod suppressions;
mod tidy;
mod tracking_consent;
mod tracking_intake;
mod web;
