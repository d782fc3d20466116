//! The rules one by one, and the invariants over random histories.

mod ends;
mod histories;
mod homes;
mod links;
mod offers;
mod picks;
mod reads;
mod rules;
mod single;
