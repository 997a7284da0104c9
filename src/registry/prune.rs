//! Remove old versions: tombstones for their manifests and for the chunks that no other version needs.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::kafka::Connection;
use crate::kafka::producer::UNTAGGED;
use crate::model::Manifest;
use crate::model::control::Decision;

use super::record::version_key;
use super::selector::is_model_name;
use super::state::{Entry, State};
use super::writer::{Author, WRITE_TIMEOUT, Writer};
use super::{Error, Topics, decide};

/// What is removed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The versions, the oldest first.
    pub versions: Vec<u64>,
    /// The manifests whose chunks nobody needs any more.
    pub artifacts: Vec<Manifest>,
    /// Old versions that stay, with what holds them: an alias or a pin.
    pub held: Vec<(u64, String)>,
}

impl Plan {
    /// The bytes of the chunks that are removed.
    pub fn bytes(&self) -> u64 {
        self.artifacts.iter().map(Manifest::stored_bytes).sum()
    }

    /// Removes all but the newest `keep` versions of a model, except those that an alias or a pin holds.
    fn new(state: &State, model: &str, keep: usize) -> Plan {
        let Some(versions) = state.versions(model) else { return Plan::default() };
        let steering = state.steering(model);
        let holder = |version: u64| {
            let pin = (steering.pin == Some(version)).then(|| "pin".to_owned());
            steering.aliases_of(version).next().map(|alias| format!("alias {alias}")).or(pin)
        };
        let mut plan = Plan::default();
        // The newest stays, whatever is asked for.
        for version in versions.keys().rev().skip(keep.max(1)) {
            match holder(*version) {
                Some(holder) => plan.held.push((*version, holder)),
                None => plan.versions.push(*version),
            }
        }
        plan.versions.reverse();
        plan.artifacts = orphans(state, model, &plan.versions);
        plan
    }
}

/// The manifests of `removed` whose chunks no version that stays names by the same keys.
fn orphans(state: &State, model: &str, removed: &[u64]) -> Vec<Manifest> {
    let first_key = |manifest: &Manifest| manifest.chunk_key(0);
    let manifests = state.models().flat_map(|(name, versions)| versions.iter().map(move |entry| (name, entry)));
    let (mut needed, mut orphans) = (BTreeSet::new(), Vec::new());
    for (name, (version, entry)) in manifests {
        let Entry::Manifest(manifest) = entry else { continue };
        if name == model && removed.contains(version) {
            orphans.push(manifest.as_ref().clone());
        } else {
            needed.insert(first_key(manifest));
        }
    }
    // Of several versions with the same chunks, one is enough to name them.
    orphans.retain(|manifest| needed.insert(first_key(manifest)));
    orphans
}

/// Removes all but the newest `keep` versions of a model; what was removed. With `dry_run`, what would be.
///
/// # Errors
/// [`Error::Outrun`] when somebody else wrote about this model meanwhile; when the model log cannot be read or written.
pub fn prune(
    connection: &Connection,
    topics: &Topics,
    author: &Author,
    model: &str,
    keep: usize,
    why: &str,
    dry_run: bool,
) -> Result<Plan, Error> {
    if !is_model_name(model) {
        return Err(Error::BadName(model.to_owned()));
    }
    if dry_run {
        return Ok(Plan::new(&super::follow::read_state(connection, topics)?, model, keep));
    }
    let (writer, state) = Writer::take_over(connection, topics, author, model, WRITE_TIMEOUT)?;
    let plan = Plan::new(&state, model, keep);
    if plan.versions.is_empty() {
        return Ok(plan);
    }
    let deadline = Instant::now() + WRITE_TIMEOUT;
    writer.transact(|| {
        for (sequence, version) in (state.next_sequence(model)..).zip(&plan.versions) {
            let decision = Decision::Pruned { version: *version };
            decide::put(&writer, &decide::control(model, sequence, author, decision, why))?;
            writer.put(&version_key(model, *version), None)?;
        }
        for manifest in &plan.artifacts {
            for index in 0..manifest.chunks.count {
                writer.put_chunk(manifest.chunks.partition, &manifest.chunk_key(index), None, UNTAGGED, deadline)?;
            }
        }
        Ok(())
    })?;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::super::record::{LogRecord, control_key};
    use super::super::testing;
    use super::*;
    use crate::model::Digest;

    fn apply(state: &mut State, key: &str, value: &[u8]) {
        state.apply(&LogRecord { key: key.as_bytes(), value: Some(value), ..LogRecord::default() });
    }

    fn decide(state: &mut State, decision: Decision) {
        let author = Author { name: "test@host".into(), key: None };
        let control = decide::control("iris", state.next_sequence("iris"), &author, decision, "");
        apply(state, &control_key("iris", control.sequence), &control.encode().expect("small"));
    }

    /// Five versions, of which 1, 2 and 5 have the same bytes.
    fn state() -> State {
        let mut state = State::default();
        for version in 1..=5 {
            let mut manifest = testing::manifest(version, version);
            if [1, 2, 5].contains(&version) {
                manifest.digest = Digest::of(b"the same");
            }
            apply(&mut state, &version_key("iris", version), &manifest.encode().expect("small"));
        }
        state
    }

    #[test]
    fn what_an_alias_or_a_pin_holds_stays_and_so_do_chunks_that_others_need() {
        let mut state = state();
        let plan = Plan::new(&state, "iris", 2);
        assert_eq!(plan.versions, [1, 2, 3]);
        let artifacts: Vec<u64> = plan.artifacts.iter().map(|manifest| manifest.version).collect();
        assert_eq!(artifacts, [3], "version 5 needs the bytes of 1 and 2");
        decide(&mut state, Decision::AliasSet { alias: "champion".into(), version: 3 });
        decide(&mut state, Decision::Pinned { version: 1 });
        let plan = Plan::new(&state, "iris", 1);
        assert_eq!(plan.versions, [2, 4]);
        assert_eq!(plan.held, [(3, "alias champion".into()), (1, "pin".into())]);
    }

    #[test]
    fn the_newest_stays_and_chunks_are_named_once() {
        let plan = Plan::new(&state(), "iris", 0);
        assert_eq!(plan.versions, [1, 2, 3, 4]);
        assert_eq!(plan.artifacts.len(), 2);
        assert_eq!(plan.bytes(), 16);
        assert_eq!(Plan::new(&state(), "other", 1), Plan::default());
    }
}
