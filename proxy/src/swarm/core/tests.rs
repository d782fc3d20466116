//! The rules one by one, and the invariants over random histories.

mod histories;
mod homes;
mod reads;
mod rules;
