#![no_main]

#[allow(dead_code, reason = "the binary uses the rest")]
#[path = "../../darter/src/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| config::configuration(data));
