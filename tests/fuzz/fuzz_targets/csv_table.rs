#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| modelstream_fuzz::csv_table::check(bytes));
