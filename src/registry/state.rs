//! Pure: records of the model log become models, versions, aliases, pins and revocations.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::control::Decision;
use crate::model::{Control, Manifest, Refusal};

use super::record::{Key, LogRecord, NUMBER_MAX};
use super::selector::{Pick, Selector};
use super::trust::{KeyId, Trust};
use super::{Error, Topics};

/// What the model log says about one version.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A manifest that could be read.
    Manifest(Box<Manifest>),
    /// One that could not, or that nobody vouches for: it is shown, and never served.
    Refused(Refusal),
}

/// Something that was decided about a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The decision.
    pub control: Control,
    /// Who signed it, where signatures are asked for.
    pub signed_by: Option<KeyId>,
}

/// Everything that the model log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The models topic's name, which signatures are bound to.
    topic: String,
    trust: Trust,
    models: BTreeMap<String, ModelState>,
    /// What was signed with them is not trusted any more.
    revoked_keys: BTreeSet<KeyId>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ModelState {
    versions: BTreeMap<u64, Entry>,
    /// Who signed a version's manifest, where signatures are asked for.
    signers: BTreeMap<u64, KeyId>,
    /// By sequence.
    decisions: BTreeMap<u64, Decided>,
    /// The highest sequence that was ever taken in: what a key that is revoked had signed keeps its place.
    last_sequence: u64,
}

/// What a record of the model log changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A version came, or its manifest could not be read.
    Version(String, u64),
    /// A version was removed.
    Removed(String, u64),
    /// Something was decided about a model.
    Decided(String),
    /// A signing key was revoked: any model may have other versions now.
    KeyRevoked(KeyId),
    /// The record stands under a key of ours and counts for nothing.
    Ignored {
        /// The key.
        key: String,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing: it was known, or the key is another binary's business.
    None,
}

/// What the decisions about a model come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steering {
    /// The versions that an alias named, the present one last.
    pub aliases: BTreeMap<String, Vec<u64>>,
    /// Where those stay that follow the newest version.
    pub pin: Option<u64>,
    /// The versions that nobody may serve, with the reason.
    pub revoked: BTreeMap<u64, String>,
    /// The versions that were removed.
    pub pruned: BTreeSet<u64>,
}

impl Steering {
    fn take(&mut self, control: &Control) {
        match &control.decision {
            Decision::AliasSet { alias, version } | Decision::RolledBack { alias, version } => {
                let named = self.aliases.entry(alias.clone()).or_default();
                named.retain(|former| former != version);
                named.push(*version);
            }
            Decision::AliasDeleted { alias } => drop(self.aliases.remove(alias)),
            Decision::Pinned { version } => self.pin = Some(*version),
            Decision::Unpinned => self.pin = None,
            Decision::Revoked { version } => drop(self.revoked.insert(*version, control.why.clone())),
            Decision::Pruned { version } => drop(self.pruned.insert(*version)),
            Decision::KeyRevoked { .. } => {}
        }
    }

    /// The version that an alias names.
    pub fn alias(&self, alias: &str) -> Option<u64> {
        self.aliases.get(alias)?.last().copied()
    }

    /// The aliases that name `version`.
    pub fn aliases_of(&self, version: u64) -> impl Iterator<Item = &str> {
        let named = self.aliases.iter().filter(move |(_, named)| named.last() == Some(&version));
        named.map(|(alias, _)| alias.as_str())
    }

    /// The version that an alias named before the present one and that may be served.
    pub fn former(&self, alias: &str) -> Option<u64> {
        let served = |version: &&u64| !self.revoked.contains_key(version) && !self.pruned.contains(version);
        self.aliases.get(alias)?.iter().rev().skip(1).find(served).copied()
    }
}

impl State {
    /// Nothing yet, of a model log whose records must be signed as `topics` says.
    pub fn new(topics: &Topics) -> State {
        State { topic: topics.models.clone(), trust: topics.trust.clone(), ..State::default() }
    }

    /// Takes in the next record of the models topic. Who wrote it is checked before what it says is looked at.
    pub fn apply(&mut self, record: &LogRecord<'_>) -> Change {
        let Some(key) = Key::parse(record.key) else { return Change::None };
        let signed_by = self.trust.check(&self.topic, record).and_then(|signed_by| match signed_by {
            Some(id) if self.revoked_keys.contains(&id) => Err(revoked_key(&id)),
            signed_by => Ok(signed_by),
        });
        match (key, record.value, signed_by) {
            (Key::Version(model, version), Some(_), Err(refusal)) => self.refuse(model, version, refusal),
            (_, _, Err(refusal)) => ignored(record, refusal),
            (Key::Version(model, version), Some(value), Ok(signed_by)) => {
                self.take_version(record, value, model, version, signed_by)
            }
            (Key::Version(model, version), None, Ok(_)) => {
                let known = self.models.get_mut(&model).and_then(|model| model.versions.remove(&version));
                if known.is_some() { Change::Removed(model, version) } else { Change::None }
            }
            (Key::Control(model, sequence), Some(value), Ok(signed_by)) => {
                self.take_control(record, value, model, sequence, signed_by)
            }
            (Key::Revocation(id), Some(value), Ok(_)) => self.take_key_revocation(record, value, id),
            // The history has no end: a decision is undone by another one.
            (Key::Control(..) | Key::Revocation(_), None, Ok(_)) => Change::None,
        }
    }

    fn take_version(
        &mut self,
        record: &LogRecord<'_>,
        value: &[u8],
        model: String,
        version: u64,
        signed_by: Option<KeyId>,
    ) -> Change {
        let manifest = match Manifest::decode(value) {
            Ok(manifest) if manifest.model == model && manifest.version == version => manifest,
            Ok(manifest) => {
                let (named, number) = (manifest.model, manifest.version);
                let message = format!("the manifest of {named}:{number} stands under the key of {model}:{version}");
                return self.refuse(model, version, Refusal::Undecodable(message));
            }
            Err(refusal) => {
                let refusal = record.needs().map_or(refusal.clone(), |needs| refusal.needing(needs));
                return self.refuse(model, version, refusal);
            }
        };
        let of_model = self.models.entry(model.clone()).or_default();
        if of_model.is_pruned(version) {
            let refusal = Refusal::Untrusted("the version was removed, and comes again".to_owned());
            return ignored(record, refusal);
        }
        // Versions never change: a different manifest under the same key is not the version that was published.
        match of_model.versions.get(&version) {
            Some(Entry::Manifest(first)) if manifest.digest != first.digest => return Change::None,
            Some(Entry::Manifest(first)) if **first == manifest => return Change::None,
            _ => {}
        }
        of_model.last_sequence = of_model.last_sequence.max(manifest.sequence);
        of_model.versions.insert(version, Entry::Manifest(Box::new(manifest)));
        match signed_by {
            Some(id) => of_model.signers.insert(version, id),
            None => of_model.signers.remove(&version),
        };
        Change::Version(model, version)
    }

    /// A version that cannot be read, or that nobody vouches for. It takes no good one's place.
    fn refuse(&mut self, model: String, version: u64, refusal: Refusal) -> Change {
        let versions = &mut self.models.entry(model.clone()).or_default().versions;
        if matches!(versions.get(&version), Some(Entry::Manifest(_))) {
            return Change::None;
        }
        versions.insert(version, Entry::Refused(refusal));
        Change::Version(model, version)
    }

    fn take_control(
        &mut self,
        record: &LogRecord<'_>,
        value: &[u8],
        model: String,
        sequence: u64,
        signed_by: Option<KeyId>,
    ) -> Change {
        let control = match Control::decode(value) {
            Ok(control) if control.model == model && control.sequence == sequence => control,
            Ok(_) => return ignored(record, Refusal::Undecodable("it stands under another one's key".to_owned())),
            Err(refusal) => return ignored(record, refusal),
        };
        let of_model = self.models.entry(model.clone()).or_default();
        if let Some(known) = of_model.decisions.get(&sequence) {
            let again = known.control == control;
            let refusal = Refusal::Untrusted(format!("decision {sequence} of {model} was made already"));
            return if again { Change::None } else { ignored(record, refusal) };
        }
        if let Decision::Pruned { version } = control.decision {
            of_model.versions.remove(&version);
        }
        of_model.last_sequence = of_model.last_sequence.max(sequence);
        of_model.decisions.insert(sequence, Decided { control, signed_by });
        Change::Decided(model)
    }

    fn take_key_revocation(&mut self, record: &LogRecord<'_>, value: &[u8], id: KeyId) -> Change {
        match Control::decode(value) {
            Ok(Control { decision: Decision::KeyRevoked { key }, .. }) if key == id.to_string() => {}
            Ok(_) => return ignored(record, Refusal::Undecodable("it stands under another one's key".to_owned())),
            Err(refusal) => return ignored(record, refusal),
        }
        if !self.revoked_keys.insert(id.clone()) {
            return Change::None;
        }
        for model in self.models.values_mut() {
            for (version, _) in model.signers.extract_if(.., |_, signer| *signer == id) {
                model.versions.insert(version, Entry::Refused(revoked_key(&id)));
            }
            model.decisions.retain(|_, decided| decided.signed_by.as_ref() != Some(&id));
        }
        Change::KeyRevoked(id)
    }

    /// The models by name, each with its versions.
    pub fn models(&self) -> impl Iterator<Item = (&str, &BTreeMap<u64, Entry>)> {
        let known = self.models.iter().map(|(name, model)| (name.as_str(), &model.versions));
        known.filter(|(_, versions)| !versions.is_empty())
    }

    /// The versions of a model; `None` when there are none.
    pub fn versions(&self, model: &str) -> Option<&BTreeMap<u64, Entry>> {
        self.models.get(model).map(|model| &model.versions).filter(|versions| !versions.is_empty())
    }

    /// Who signed a version's manifest, where signatures are asked for.
    pub fn signed_by(&self, model: &str, version: u64) -> Option<&KeyId> {
        self.models.get(model)?.signers.get(&version)
    }

    /// What was decided about a model, by sequence.
    pub fn decisions(&self, model: &str) -> impl Iterator<Item = (u64, &Decided)> {
        let decisions = self.models.get(model).into_iter().flat_map(|model| &model.decisions);
        decisions.map(|(sequence, decided)| (*sequence, decided))
    }

    /// What the decisions about a model come to.
    pub fn steering(&self, model: &str) -> Steering {
        let mut steering = Steering::default();
        self.decisions(model).for_each(|(_, decided)| steering.take(&decided.control));
        steering
    }

    /// Why a version must not be served any more, where that is so.
    pub fn withdrawn(&self, model: &str, version: u64) -> Option<String> {
        if let Some(why) = self.steering(model).revoked.remove(&version) {
            return Some(format!("the version is revoked: {why}"));
        }
        match self.versions(model)?.get(&version)? {
            Entry::Refused(refusal @ Refusal::Untrusted(_)) => Some(refusal.to_string()),
            Entry::Refused(_) | Entry::Manifest(_) => None,
        }
    }

    /// The number that the next version of `model` gets: never one that was there.
    pub fn next_version(&self, model: &str) -> u64 {
        let Some(of_model) = self.models.get(model) else { return 1 };
        let removed = self.steering(model).pruned.last().copied();
        of_model.versions.keys().last().copied().max(removed).map_or(1, |newest| newest + 1)
    }

    /// The place in the order that the next decision or version of `model` gets.
    pub fn next_sequence(&self, model: &str) -> u64 {
        self.models.get(model).map_or(0, |model| model.last_sequence).min(NUMBER_MAX) + 1
    }

    /// The versions that `selector` would have, best first: a server takes the first one that passes every check. Those that
    /// are revoked are not among them.
    pub fn candidates(&self, selector: &Selector) -> Vec<(u64, &Entry)> {
        let Some(versions) = self.versions(&selector.model) else { return Vec::new() };
        let steering = self.steering(&selector.model);
        let wanted: Vec<u64> = match &selector.pick {
            // From a pin it falls back to older versions, as from the newest.
            Pick::Newest => {
                versions.range(..=steering.pin.unwrap_or(u64::MAX)).rev().map(|(number, _)| *number).collect()
            }
            Pick::Version(version) => vec![*version],
            Pick::Alias(alias) => steering.aliases.get(alias).into_iter().flatten().rev().copied().collect(),
        };
        let served = wanted.into_iter().filter(|version| !steering.revoked.contains_key(version));
        served.filter_map(|version| Some((version, versions.get(&version)?))).collect()
    }

    /// The version that `selector` would have, whether it passes every check or not.
    pub fn wanted(&self, selector: &Selector) -> Option<u64> {
        self.candidates(selector).first().map(|(version, _)| *version)
    }

    /// The manifest that a command means by `selector`: a version that is named may be one that is revoked.
    ///
    /// # Errors
    /// When there is no such model or version (the text names those that there are), or its manifest cannot be read.
    pub fn find(&self, selector: &Selector) -> Result<&Manifest, Error> {
        let found = match selector.pick {
            Pick::Version(version) => {
                self.versions(&selector.model).and_then(|versions| Some((version, versions.get(&version)?)))
            }
            Pick::Newest | Pick::Alias(_) => self.candidates(selector).first().copied(),
        };
        match found {
            Some((_, Entry::Manifest(manifest))) => Ok(manifest),
            Some((version, Entry::Refused(refusal))) => {
                Err(Error::Refused { model: selector.model.clone(), version, refusal: refusal.clone() })
            }
            None => Err(Error::NotFound(self.not_found(selector))),
        }
    }

    fn not_found(&self, selector: &Selector) -> String {
        let Some(versions) = self.versions(&selector.model) else {
            let known: Vec<&str> = self.models().map(|(name, _)| name).collect();
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            return format!("the model log has no model {}; there are: {known}", selector.model);
        };
        let (known, what): (Vec<String>, &str) = match selector.pick {
            Pick::Alias(_) => (self.steering(&selector.model).aliases.into_keys().collect(), "alias"),
            Pick::Newest | Pick::Version(_) => (versions.keys().map(u64::to_string).collect(), "version"),
        };
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        format!("{} has no such {what} as {selector} that may be served; there are: {known}", selector.model)
    }
}

impl ModelState {
    fn is_pruned(&self, version: u64) -> bool {
        let pruned = Decision::Pruned { version };
        self.decisions.values().any(|decided| decided.control.decision == pruned)
    }
}

fn revoked_key(id: &KeyId) -> Refusal {
    Refusal::Untrusted(format!("it is signed with key {id}, which is revoked"))
}

fn ignored(record: &LogRecord<'_>, refusal: Refusal) -> Change {
    Change::Ignored { key: String::from_utf8_lossy(record.key).into_owned(), refusal }
}

#[cfg(test)]
mod tests {
    use super::super::record::{control_key, revocation_key, version_key};
    use super::super::testing;
    use super::super::trust::SigningKey;
    use super::*;

    fn manifest(version: u64, sequence: u64) -> Vec<u8> {
        testing::manifest(version, sequence).encode().expect("small")
    }

    fn control(model: &str, sequence: u64, decision: Decision) -> Vec<u8> {
        let (decided_by, why) = ("test@host".to_owned(), "because".to_owned());
        let control = Control { format: 1, model: model.into(), sequence, decision, decided_at_ms: 0, decided_by, why };
        control.encode().expect("small")
    }

    /// Applies a record that nobody signed.
    fn apply(state: &mut State, key: &str, value: Option<&[u8]>) -> Change {
        state.apply(&LogRecord { key: key.as_bytes(), value, ..LogRecord::default() })
    }

    fn with_versions(count: u64) -> State {
        let mut state = State::default();
        for version in 1..=count {
            apply(&mut state, &version_key("iris", version), Some(&manifest(version, version)));
        }
        state
    }

    fn decide(state: &mut State, decision: Decision) -> Change {
        let sequence = state.next_sequence("iris");
        apply(state, &control_key("iris", sequence), Some(&control("iris", sequence, decision)))
    }

    fn candidates(state: &State, selector: &str) -> Vec<u64> {
        let selector = selector.parse().expect("a selector");
        state.candidates(&selector).into_iter().map(|(version, _)| version).collect()
    }

    #[test]
    fn a_damaged_manifest_is_shown_and_does_not_hide_older_versions() {
        let mut state = State::default();
        assert_eq!(apply(&mut state, "version/iris/2", Some(b"junk")), Change::Version("iris".into(), 2));
        assert!(matches!(state.versions("iris").and_then(|versions| versions.get(&2)), Some(Entry::Refused(_))));
        assert_eq!(state.next_version("iris"), 3);
        assert!(matches!(state.find(&"iris:2".parse().expect("valid")), Err(Error::Refused { version: 2, .. })));
    }

    #[test]
    fn no_version_is_so_large_that_there_is_no_next_one() {
        let mut state = State::default();
        assert_eq!(apply(&mut state, &version_key("iris", u64::MAX), Some(b"junk")), Change::None);
        let last = NUMBER_MAX;
        assert_eq!(apply(&mut state, &version_key("iris", last), Some(b"junk")), Change::Version("iris".into(), last));
        assert_eq!(state.next_version("iris"), last + 1);
    }

    #[test]
    fn a_missing_model_names_those_that_there_are() {
        let error = State::default().find(&"iris".parse().expect("valid")).expect_err("nothing there");
        assert_eq!(error.to_string(), "the model log has no model iris; there are: none yet");
        let error = with_versions(1).find(&"iris@best".parse().expect("valid")).expect_err("no alias");
        assert!(error.to_string().contains("no such alias as iris@best"), "{error}");
    }

    #[test]
    fn an_alias_names_a_version_and_falls_back_to_those_before() {
        let mut state = with_versions(3);
        let champion = |version| Decision::AliasSet { alias: "champion".into(), version };
        assert_eq!(candidates(&state, "iris@champion"), Vec::<u64>::new());
        assert_eq!(decide(&mut state, champion(1)), Change::Decided("iris".into()));
        decide(&mut state, champion(3));
        assert_eq!(candidates(&state, "iris@champion"), [3, 1]);
        assert_eq!(state.steering("iris").former("champion"), Some(1));
        decide(&mut state, Decision::Revoked { version: 3 });
        assert_eq!(candidates(&state, "iris@champion"), [1]);
        assert_eq!(candidates(&state, "iris"), [2, 1]);
        assert!(state.withdrawn("iris", 3).is_some_and(|why| why.contains("because")));
        assert_eq!(state.withdrawn("iris", 1), None);
        decide(&mut state, Decision::AliasDeleted { alias: "champion".into() });
        assert_eq!(candidates(&state, "iris@champion"), Vec::<u64>::new());
    }

    #[test]
    fn a_pin_holds_the_newest_back_until_it_is_taken_off() {
        let mut state = with_versions(3);
        decide(&mut state, Decision::Pinned { version: 2 });
        assert_eq!(candidates(&state, "iris"), [2, 1]);
        assert_eq!(candidates(&state, "iris:3"), [3]);
        decide(&mut state, Decision::Unpinned);
        assert_eq!(candidates(&state, "iris"), [3, 2, 1]);
    }

    #[test]
    fn versions_and_decisions_count_up_together_whatever_comes_again() {
        let mut state = with_versions(2);
        assert_eq!(state.next_sequence("iris"), 3);
        let alias = |version| control("iris", 3, Decision::AliasSet { alias: "champion".into(), version });
        assert_eq!(apply(&mut state, "control/iris/3", Some(&alias(1))), Change::Decided("iris".into()));
        assert_eq!(apply(&mut state, "control/iris/3", Some(&alias(1))), Change::None);
        assert!(matches!(apply(&mut state, "control/iris/3", Some(&alias(2))), Change::Ignored { .. }));
        assert!(matches!(apply(&mut state, "control/iris/4", Some(&alias(2))), Change::Ignored { .. }));
        assert_eq!(apply(&mut state, "control/iris/3", None), Change::None);
        assert_eq!(state.steering("iris").alias("champion"), Some(1));
        assert_eq!(state.next_sequence("iris"), 4);
    }

    #[test]
    fn a_pruned_version_stays_away_and_its_number_is_not_given_again() {
        let mut state = with_versions(2);
        decide(&mut state, Decision::Pruned { version: 2 });
        assert_eq!(candidates(&state, "iris"), [1]);
        let again = apply(&mut state, "version/iris/2", Some(&manifest(2, 2)));
        assert!(matches!(again, Change::Ignored { .. }), "{again:?}");
        assert_eq!(state.next_version("iris"), 3);
    }

    #[test]
    fn nothing_that_nobody_trusted_signed_has_any_effect() {
        let key = SigningKey::generate().expect("random numbers");
        let topics = Topics {
            models: "models".into(),
            artifacts: "artifacts".into(),
            status: "status".into(),
            trust: Trust::new(vec![key.public()]),
        };
        let mut state = State::new(&topics);
        let mut apply = |key: &str, value: Option<&[u8]>, signer: Option<&SigningKey>| {
            let signature = signer.map(|signer| signer.sign("models", key, value));
            let signature = signature.as_ref().map(String::as_bytes);
            let change = state.apply(&LogRecord { key: key.as_bytes(), value, signature, needs: None });
            (change, candidates(&state, "iris"))
        };
        let stranger = SigningKey::generate().expect("random numbers");
        let (first, second) = (manifest(1, 1), manifest(2, 2));
        assert_eq!(apply("version/iris/1", Some(&first), Some(&key)).1, [1]);
        for signer in [None, Some(&stranger)] {
            let (change, _) = apply("version/iris/2", Some(&second), signer);
            assert_eq!(change, Change::Version("iris".into(), 2), "it is shown as refused");
            let revoked = control("iris", 2, Decision::Revoked { version: 1 });
            assert!(matches!(apply("control/iris/2", Some(&revoked), signer).0, Change::Ignored { .. }));
            let (change, left) = apply("version/iris/1", None, signer);
            assert!(matches!(change, Change::Ignored { .. }) && left.contains(&1), "{change:?}");
        }
        assert_eq!(apply("version/iris/2", Some(&second), Some(&key)).1, [2, 1]);
        let pin = control("iris", 3, Decision::Pinned { version: 1 });
        assert_eq!(apply("control/iris/3", Some(&pin), Some(&key)).1, [1]);
        // A key is given up by whoever has one that is trusted.
        let id = key.public().id();
        let revocation = control("", 0, Decision::KeyRevoked { key: id.to_string() });
        assert_eq!(apply(&revocation_key(&id), Some(&revocation), Some(&key)).0, Change::KeyRevoked(id));
        let (change, _) = apply("version/iris/3", Some(&manifest(3, 3)), Some(&key));
        assert_eq!(change, Change::Version("iris".into(), 3));
        assert!(state.versions("iris").expect("three").values().all(|entry| matches!(entry, Entry::Refused(_))));
        assert!(state.withdrawn("iris", 1).is_some_and(|why| why.contains("revoked")));
        assert_eq!(state.steering("iris"), Steering::default());
        assert_eq!(state.next_sequence("iris"), 4, "the place of what does not count any more is not given again");
    }
}
