#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| modelstream_fuzz::model_log::check(bytes));
