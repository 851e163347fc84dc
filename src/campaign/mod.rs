//! Who gets what, when: campaign definitions, schedules, runs and their audience, and the one
//! function that decides about a person.

mod decide;
mod definition;
pub mod ops;
pub mod run;
pub mod schedule;
pub mod sql;

pub use decide::{Facts, Reason, Verdict, decide};
pub use definition::{Definition, DeliverySettings, LinkParameters, TopicFrame};
pub use run::{Command, Run, RunState};
