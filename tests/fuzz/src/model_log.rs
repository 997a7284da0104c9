//! The model log's records in any order: what was published stays what it is until it is removed, the next version and decision
//! are new ones, and nobody is given what is revoked.

use std::collections::BTreeMap;

use modelstream::model::Digest;
use modelstream::registry::State;
use modelstream::registry::record::{LogRecord, control_key, version_key};
use modelstream::registry::state::{Change, Entry};

use super::choices::Choices;
use super::generate;

const RECORDS_MAX: usize = 24;

pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut state = State::default();
    let mut published: BTreeMap<(String, u64), Digest> = BTreeMap::new();
    for _ in 0..RECORDS_MAX {
        if choices.are_over() {
            break;
        }
        let (key, value) = record(&mut choices);
        let record = LogRecord { key: key.as_bytes(), value: value.as_deref(), ..LogRecord::default() };
        match state.apply(&record) {
            Change::Version(model, version) => {
                assert_eq!(version_key(&model, version), key, "a version has one key");
                let entry = state.versions(&model).and_then(|versions| versions.get(&version));
                if let Some(Entry::Manifest(manifest)) = entry {
                    published.entry((model, version)).or_insert(manifest.digest);
                }
            }
            Change::Removed(model, version) => {
                assert_eq!(version_key(&model, version), key, "a version has one key");
                published.remove(&(model, version));
            }
            Change::Decided(model) => {
                let pruned = state.steering(&model).pruned;
                published.retain(|(name, version), _| *name != model || !pruned.contains(version));
            }
            Change::KeyRevoked(_) | Change::Ignored { .. } | Change::None => {}
        }
        check_state(&state, &published);
    }
}

fn record(choices: &mut Choices<'_>) -> (String, Option<Vec<u8>>) {
    let mut manifest = generate::manifest(choices);
    manifest.model = ["iris", "a"][choices.below(2)].into();
    manifest.version = [1, 2, i64::MAX as u64][choices.below(3)];
    if choices.below(2) == 1 {
        let sequence = 1 + choices.below(6) as u64;
        let control = generate::control(choices, &manifest.model, sequence);
        let value = (choices.below(8) > 0).then(|| control.encode().expect("small"));
        return (control_key(&manifest.model, sequence), value);
    }
    let key = match choices.below(8) {
        0 => choices.text(40),
        1 => format!("version/iris/{}", choices.u64()),
        2 => format!("version/iris/{}", choices.text(20)),
        _ => version_key(&manifest.model, manifest.version),
    };
    let value = match choices.below(4) {
        0 => None,
        1 => Some(choices.bytes(20).to_vec()),
        _ => manifest.encode().ok(),
    };
    (key, value)
}

fn check_state(state: &State, published: &BTreeMap<(String, u64), Digest>) {
    for ((model, version), digest) in published {
        let entry = state.versions(model).and_then(|versions| versions.get(version));
        assert!(matches!(entry, Some(Entry::Manifest(manifest)) if manifest.digest == *digest), "{model}:{version}");
    }
    for (model, versions) in state.models() {
        let next = state.next_version(model);
        assert!(versions.keys().all(|version| *version < next), "{model}: {next} is not new");
        let next = state.next_sequence(model);
        assert!(state.decisions(model).all(|(sequence, _)| sequence < next), "{model}: {next} is not new");
        for selector in [model.to_owned(), format!("{model}@champion"), format!("{model}:1")] {
            let candidates = state.candidates(&selector.parse().expect("a selector"));
            let withdrawn = |version: u64| state.steering(model).revoked.contains_key(&version);
            assert!(candidates.iter().all(|(version, _)| !withdrawn(*version)), "{selector}: it is revoked");
        }
    }
}
