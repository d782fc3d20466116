//! The rules one by one, and the invariants over random histories.

mod bad;
mod excerpts;
mod field;
mod histories;
mod moves;
mod pace;
mod policy;
mod preheat;
mod public;
mod rules;
mod sizing;
mod soak;
mod zones;
