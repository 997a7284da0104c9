//! Chunks in any order, doubled, missing, of others, empty, too long: bytes come out only when they are the promised ones.

use modelstream::model::manifest::{FORMAT, chunk_key};
use modelstream::model::{Digest, Manifest};
use modelstream::registry::chunks::Assembler;

use super::choices::Choices;
use super::{allocations, generate};

const ARTIFACT_BYTES_MAX: usize = 200;
const CHUNKS_MAX: usize = 6;
const RECORDS_MAX: usize = 24;

/// A record of the artifacts topic.
struct Record {
    offset: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let length = 1 + choices.below(ARTIFACT_BYTES_MAX);
    let mut artifact = choices.bytes(length).to_vec();
    artifact.resize(length, 0);
    let chunks: Vec<&[u8]> = artifact.chunks(artifact.len().div_ceil(1 + choices.below(CHUNKS_MAX))).collect();
    let manifest = promise(&mut choices, &artifact, chunks.len());
    let mut records = Vec::new();
    let mut offset = manifest.chunks.first_offset;
    while records.len() < RECORDS_MAX && !choices.are_over() {
        // Aborted publishes and compaction leave gaps.
        offset += choices.below(2) as i64;
        records.push(record(&mut choices, offset, &manifest, &chunks));
        offset += 1;
    }
    let held: usize = records.iter().filter_map(|record| record.value.as_ref()).map(Vec::len).sum();
    // The bytes double as they grow, and come out once more; a key and a message are small.
    allocations::within(4096 + 4 * held, || follow(&manifest, &records, &artifact));
}

fn promise(choices: &mut Choices<'_>, artifact: &[u8], chunks: usize) -> Manifest {
    let mut manifest = Manifest { stored: None, ..generate::manifest(&mut Choices::new(&[])) };
    manifest.digest = Digest::of(artifact);
    manifest.artifact_bytes = artifact.len() as u64;
    manifest.chunks.count = chunks as u32;
    manifest.chunks.first_offset = choices.below(3) as i64;
    manifest.chunks.last_offset = manifest.chunks.first_offset + RECORDS_MAX as i64;
    match choices.below(16) {
        0 => manifest.artifact_bytes = choices.u64(),
        1 => manifest.chunks.count = choices.u32().max(1),
        2 => manifest.chunks.last_offset = manifest.chunks.first_offset + choices.below(8) as i64,
        3 => manifest.digest = Digest::of(b"another"),
        _ => {}
    }
    manifest
}

fn record(choices: &mut Choices<'_>, offset: i64, manifest: &Manifest, chunks: &[&[u8]]) -> Record {
    let index = choices.below(chunks.len());
    let (key, value) = (manifest.chunk_key(index as u32).into_bytes(), chunks[index].to_vec());
    let mut record = Record { offset, key: Some(key), value: Some(value) };
    match choices.below(16) {
        0 => record.value = None,
        1 => record.value = Some(Vec::new()),
        2 => record.value = Some(choices.bytes(ARTIFACT_BYTES_MAX).to_vec()),
        3 => record.key = None,
        4 => record.key = Some(choices.bytes(70).to_vec()),
        5 => record.key = Some(chunk_key(FORMAT, "iris", &Digest::of(b"others"), index as u32).into_bytes()),
        6 => record.offset = choices.u64() as i64,
        _ => {}
    }
    record
}

fn follow(manifest: &Manifest, records: &[Record], artifact: &[u8]) {
    let Ok(mut assembler) = Assembler::new(manifest) else {
        assert!(manifest.artifact_bytes > modelstream::model::artifact::ARTIFACT_BYTES_MAX as u64);
        return;
    };
    let mut next = 0;
    let mut taken = Vec::new();
    for record in records {
        let ours = record.key.as_deref() == Some(manifest.chunk_key(next).as_bytes());
        let value = record.value.as_deref().unwrap_or_default();
        let room = manifest.artifact_bytes - taken.len() as u64;
        let fits = (1..=room).contains(&(value.len() as u64));
        let refuse = record.offset > manifest.chunks.last_offset || ours && !fits;
        let result = assembler.take(record.offset, record.key.as_deref(), record.value.as_deref());
        assert_eq!(result.is_err(), refuse, "{result:?}");
        if let Err(refusal) = result {
            assert_eq!(refusal.reason(), "chunks");
            return;
        }
        if ours {
            taken.extend_from_slice(value);
            next += 1;
        }
        assert_eq!(assembler.is_complete(), next == manifest.chunks.count);
        if assembler.is_complete() {
            break;
        }
    }
    let right = taken.len() as u64 == manifest.artifact_bytes && Digest::of(&taken) == manifest.digest;
    match assembler.finish() {
        Ok(stored) => {
            let mut bytes = Vec::new();
            stored.write_to(&mut bytes).expect("its digest was right").expect("memory");
            assert!(right && bytes == artifact, "bytes that were not promised");
        }
        Err(refusal) => assert!(!right && matches!(refusal.reason(), "chunks" | "digest"), "{refusal}"),
    }
}
