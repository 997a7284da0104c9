#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| modelstream_fuzz::status_topic::check(bytes));
