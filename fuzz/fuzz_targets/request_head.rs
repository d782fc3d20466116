#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_runtime::fuzzing::request_head(data));
