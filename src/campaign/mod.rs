//! Who gets what, when.

mod definition;

pub use definition::Definition;
