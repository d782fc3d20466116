//! The mirror front, the rights and the registry client against registries that behave
//! and registries that do not: whole proxies, driven over HTTP, all on loopback.

mod ahead;
mod attacks;
mod before;
mod bench;
mod clock;
mod input;
mod kinds;
mod names;
mod registry;
mod rights;
mod secrets;
mod sharing;
mod steering;
mod swarmed;
mod tags;
mod within;
