//! What bytes from a topic must never do to modelstream: one `check` for each place where they enter.
//!
//! The fuzzer (`fuzz_targets/`) and the property tests (`tests/it/hostile.rs`, which includes this file) call the same
//! checks. Each takes any bytes, builds what it needs from them and panics when something does not hold.

pub mod allocations;
pub mod artifact;
pub mod avro_record;
mod choices;
pub mod chunk_assembler;
pub mod csv_table;
mod generate;
pub mod json_record;
pub mod manifest;
pub mod model_log;
mod records;
pub mod status_topic;

/// A check, and the name of its target, of its corpus and of its findings.
pub type Check = (&'static str, fn(&[u8]));

/// Every check.
pub const CHECKS: [Check; 8] = [
    ("json_record", json_record::check),
    ("avro_record", avro_record::check),
    ("csv_table", csv_table::check),
    ("manifest", manifest::check),
    ("model_log", model_log::check),
    ("status_topic", status_topic::check),
    ("chunk_assembler", chunk_assembler::check),
    ("artifact", artifact::check),
];

/// What stands in front of a datum of this schema in Avro's single-object encoding, so that a fuzzer need not guess it.
fn frame(schema: &str) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(schema).expect("our schemas are valid");
    let fingerprint = schema.fingerprint::<apache_avro::rabin::Rabin>();
    [[0xC3, 0x01].as_slice(), &fingerprint.bytes].concat()
}
