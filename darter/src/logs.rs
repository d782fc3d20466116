//! Logs: structured, to standard error, as text or as JSON.

use tracing_subscriber::EnvFilter;

use crate::{
    colour,
    config::{Format, Log},
};

pub(crate) fn start(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that can't be written (a full disk) must not end requests: the default
        // would print that error to the same place, and panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(colour::is_wanted(&std::io::stderr()));
    match log.format {
        Format::Text => builder.init(),
        Format::Json => builder.json().init(),
    }
}
