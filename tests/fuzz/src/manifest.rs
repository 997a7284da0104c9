//! Manifests: what is read is written again as the same, its numbers can be, and reading takes little memory.

use std::sync::LazyLock;

use modelstream::model::Manifest;
use modelstream::model::manifest::SCHEMA;

use super::choices::Choices;
use super::{allocations, frame, generate};

static FRAME: LazyLock<Vec<u8>> = LazyLock::new(|| frame(SCHEMA));

/// Strings, lists and the maps of a manifest; a list's items are larger in memory than in a datum.
fn memory_cap(bytes: usize) -> usize {
    (1 << 20) + 128 * bytes
}

pub fn check(bytes: &[u8]) {
    check_decoding(bytes);
    check_decoding(&[&FRAME[..], bytes].concat());
    let made = generate::manifest(&mut Choices::new(bytes));
    if let Ok(bytes) = made.encode() {
        check_decoding(&bytes);
        if let Ok(read) = Manifest::decode(&bytes) {
            assert_eq!(format!("{read:?}"), format!("{made:?}"), "what is written is read");
        }
    }
}

fn check_decoding(bytes: &[u8]) {
    let Ok(manifest) = allocations::within(memory_cap(bytes.len()), || Manifest::decode(bytes)) else { return };
    let chunks = manifest.chunks;
    assert!(manifest.version > 0 && chunks.count > 0 && u64::from(chunks.count) <= manifest.artifact_bytes);
    assert!(chunks.first_offset >= 0 && chunks.last_offset - chunks.first_offset >= i64::from(chunks.count) - 1);
    // A time beyond the year 9999 has no text, and showing it would panic.
    assert!((0..=253_402_300_799_999).contains(&manifest.published_at_ms), "{}", manifest.published_at_ms);
    let written = manifest.encode().expect("what was read can be written");
    let again = Manifest::decode(&written).expect("what was written can be read");
    // By their text, because a metric may be NaN, which differs from itself.
    assert_eq!(format!("{again:?}"), format!("{manifest:?}"));
}
