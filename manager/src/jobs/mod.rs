//! Jobs: images and files that hosts are to have before anybody pulls them.
//!
//! [`wish`] is what is asked for, [`progress`] what hosts have said, [`table`] keeps both,
//! [`runner`] has them done by a scheduler, or by several where [`choosing`] says who asks whom.
//! A job lives in the database alone: whichever
//! manager has its lease runs it, and one that was killed is followed by another, or by itself,
//! once the lease is over; hosts that hold everything say so at once.

mod choosing;
mod forgotten;
mod image;
mod progress;
mod runner;
mod state;
mod subject;
mod table;
mod wish;

pub use darter_api::preheat::Scope;
pub(crate) use forgotten::Forgotten;
pub(crate) use image::Image;
pub(crate) use progress::{Content, Failure, Host, Progress, Summary};
pub(crate) use runner::Runner;
pub(crate) use state::State;
pub(crate) use subject::Subject;
pub(crate) use table::{Change, CreateError, Job, Jobs};
pub(crate) use wish::{Request, Secret, Wish, WishError};
