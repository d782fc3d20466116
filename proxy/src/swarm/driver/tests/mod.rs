//! Real stores, links and piece servers in one process, against a source with faults.

#[path = "../../../../tests/front/clock.rs"]
mod clock;
mod cuts;
mod endless;
mod ends;
mod excerpts;
mod full;
mod host;
mod limits;
mod lone;
mod lying;
mod origin;
mod peers;
