//! Downloads: the pure core that decides, and the driver that does.

pub mod core;
pub mod driver;
