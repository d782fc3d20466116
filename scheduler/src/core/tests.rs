//! The rules one by one, and the invariants over random histories.

mod bad;
mod excerpts;
mod field;
mod histories;
mod lab;
mod moves;
mod pace;
mod policy;
mod preheat;
mod public;
mod readers;
mod rules;
mod silence;
mod sizes;
mod sizing;
mod soak;
mod zones;
