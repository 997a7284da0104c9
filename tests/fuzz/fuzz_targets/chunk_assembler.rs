#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| modelstream_fuzz::chunk_assembler::check(bytes));
