//! Bytes that nobody meant: the fuzzer's checks as property tests, and again with every input that is kept.

#[path = "../fuzz/src/lib.rs"]
pub mod fuzz;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use proptest::prelude::*;

use crate::harness::root;

fn files(folder: &str, check: &str) -> Vec<PathBuf> {
    let folder = root().join("tests/fuzz").join(folder).join(check);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

/// Runs every kept input of a folder through its check, and names those that fail.
fn replay(folder: &str) -> usize {
    let mut replayed = 0;
    let mut failed = Vec::new();
    for (name, check) in fuzz::CHECKS {
        for file in files(folder, name) {
            let bytes = std::fs::read(&file).expect("readable");
            if catch_unwind(AssertUnwindSafe(|| check(&bytes))).is_err() {
                failed.push(file);
            }
            replayed += 1;
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    replayed
}

#[test]
fn the_corpus_holds() {
    assert!(replay("corpus") >= fuzz::CHECKS.len(), "each target has a corpus");
}

#[test]
fn what_was_found_once_is_not_found_again() {
    assert!(replay("findings") > 0);
}

#[test]
fn each_check_has_a_target_and_a_corpus() {
    for (name, _) in fuzz::CHECKS {
        let target = root().join(format!("tests/fuzz/fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(target).expect("a target of the check's name");
        assert!(text.contains(&format!("{name}::check(")), "{text}");
        assert!(!files("corpus", name).is_empty(), "{name} has no corpus");
    }
}

/// An input of the corpus with some of its bytes changed, cut or doubled; or any bytes.
fn hostile(check: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let read = |file: PathBuf| std::fs::read(file).expect("readable");
    let corpus: Vec<Vec<u8>> = files("corpus", check).into_iter().map(read).collect();
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..6);
    let changed = (prop::sample::select(corpus), changes).prop_map(|(mut bytes, changes)| {
        for (place, byte, what) in changes {
            let place = place.index(bytes.len() + 1);
            match what {
                0 => bytes.insert(place, byte),
                1 => bytes.truncate(bytes.len().max(1) - usize::from(byte) % bytes.len().max(1)),
                2 => bytes.extend_from_within(place..),
                _ => bytes.iter_mut().skip(place).take(1).for_each(|old| *old = byte),
            }
        }
        bytes
    });
    prop_oneof![2 => changed, 1 => proptest::collection::vec(any::<u8>(), 0..300)]
}

fn property(name: &str, cases: u32) {
    let (_, check) = fuzz::CHECKS.into_iter().find(|(check, _)| *check == name).expect("a check of this name");
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bytes in hostile(name))| check(&bytes));
}

#[test]
fn hostile_json_has_one_outcome() {
    property("json_record", 1000);
}

#[test]
fn hostile_avro_has_one_outcome() {
    property("avro_record", 1000);
}

#[test]
fn hostile_tables_have_one_outcome_a_line() {
    property("csv_table", 500);
}

#[test]
fn hostile_manifests_are_refused_or_sound() {
    property("manifest", 500);
}

#[test]
fn a_hostile_model_log_changes_nothing_that_was_published() {
    property("model_log", 300);
}

#[test]
fn hostile_reports_hide_no_replica() {
    property("status_topic", 1000);
}

#[test]
fn hostile_chunks_are_never_taken_for_the_artifact() {
    property("chunk_assembler", 1000);
}

#[test]
fn hostile_artifacts_are_refused_or_score() {
    property("artifact", 500);
}
