#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| modelstream_fuzz::json_record::check(bytes));
