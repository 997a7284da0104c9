//! Pure: records of the model log become models and versions.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::model::{Manifest, Refusal};

use super::Error;

/// The longest name of a model: with its prefix and version it stays a readable key.
pub const NAME_BYTES_MAX: usize = 200;

/// The largest version: a manifest carries it as Avro's `long`, and one more is still a number.
const VERSION_MAX: u64 = i64::MAX as u64;

/// Which version of which model: `iris` or `iris:7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The model's name.
    pub model: String,
    /// The version.
    pub pick: Pick,
}

/// Which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The newest that is good.
    Newest,
    /// This one, for ever.
    Version(u64),
}

/// A `NAME[:VERSION]` that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectorError {
    #[error("{0:?} is no name for a model: 1 to {NAME_BYTES_MAX} of the characters a-z A-Z 0-9 . _ -")]
    Name(String),
    #[error("{0:?} is no version: a whole number from 1")]
    Version(String),
    #[error("{0:?} names an alias; this version of modelstream knows NAME and NAME:VERSION")]
    Alias(String),
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        if text.contains('@') {
            return Err(SelectorError::Alias(text.to_owned()));
        }
        let (model, version) = match text.split_once(':') {
            Some((model, version)) => (model, Some(version)),
            None => (text, None),
        };
        if !is_model_name(model) {
            return Err(SelectorError::Name(model.to_owned()));
        }
        let pick = match version {
            None => Pick::Newest,
            Some(version) => match version.parse() {
                Ok(number) if number > 0 => Pick::Version(number),
                _ => return Err(SelectorError::Version(version.to_owned())),
            },
        };
        Ok(Selector { model: model.to_owned(), pick })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pick {
            Pick::Newest => f.write_str(&self.model),
            Pick::Version(version) => write!(f, "{}:{version}", self.model),
        }
    }
}

/// Whether `name` may name a model: it becomes part of keys, metric labels and file names.
pub fn is_model_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// What the model log says about one version.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A manifest that could be read.
    Manifest(Box<Manifest>),
    /// One that could not: it is shown, and never served.
    Refused(Refusal),
}

/// Everything that the model log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    models: BTreeMap<String, BTreeMap<u64, Entry>>,
}

/// What a record of the model log changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A version came, or its manifest could not be read.
    Version(String, u64),
    /// A version was removed.
    Removed(String, u64),
    /// A key that this binary does not know: another binary's business.
    None,
}

impl State {
    /// Takes in the next record of the models topic.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Change {
        let Some((model, version)) = std::str::from_utf8(key).ok().and_then(parse_version_key) else {
            return Change::None;
        };
        let versions = self.models.entry(model.to_owned()).or_default();
        let Some(value) = value else {
            versions.remove(&version);
            return Change::Removed(model.to_owned(), version);
        };
        let entry = match Manifest::decode(value) {
            Ok(manifest) if manifest.model == model && manifest.version == version => {
                Entry::Manifest(Box::new(manifest))
            }
            Ok(manifest) => Entry::Refused(Refusal::Undecodable(format!(
                "the manifest of {}:{} stands under the key of {model}:{version}",
                manifest.model, manifest.version
            ))),
            Err(refusal) => Entry::Refused(refusal),
        };
        // Versions never change: a different manifest under the same key is not the version that was published.
        match versions.get(&version) {
            Some(Entry::Manifest(first)) if matches!(&entry, Entry::Manifest(new) if new.digest != first.digest) => {
                Change::None
            }
            Some(Entry::Manifest(_)) if matches!(entry, Entry::Refused(_)) => Change::None,
            _ => {
                versions.insert(version, entry);
                Change::Version(model.to_owned(), version)
            }
        }
    }

    /// The models by name, each with its versions.
    pub fn models(&self) -> impl Iterator<Item = (&str, &BTreeMap<u64, Entry>)> {
        self.models
            .iter()
            .filter(|(_, versions)| !versions.is_empty())
            .map(|(name, versions)| (name.as_str(), versions))
    }

    /// The versions of a model; `None` when there are none.
    pub fn versions(&self, model: &str) -> Option<&BTreeMap<u64, Entry>> {
        self.models.get(model).filter(|versions| !versions.is_empty())
    }

    /// The number that the next version of `model` gets.
    pub fn next_version(&self, model: &str) -> u64 {
        self.versions(model).and_then(|versions| versions.last_key_value()).map_or(1, |(newest, _)| newest + 1)
    }

    /// The versions that `selector` would have, best first: a server takes the first one that passes every check.
    pub fn candidates(&self, selector: &Selector) -> Vec<(u64, &Entry)> {
        let Some(versions) = self.versions(&selector.model) else { return Vec::new() };
        match selector.pick {
            Pick::Newest => versions.iter().rev().map(|(version, entry)| (*version, entry)).collect(),
            Pick::Version(version) => versions.get(&version).map(|entry| (version, entry)).into_iter().collect(),
        }
    }

    /// The manifest that a command means by `selector`.
    ///
    /// # Errors
    /// When there is no such model or version (the text names those that there are), or its manifest cannot be read.
    pub fn find(&self, selector: &Selector) -> Result<&Manifest, Error> {
        match self.candidates(selector).first() {
            Some((_, Entry::Manifest(manifest))) => Ok(manifest),
            Some((version, Entry::Refused(refusal))) => {
                Err(Error::Refused { model: selector.model.clone(), version: *version, refusal: refusal.clone() })
            }
            None => Err(Error::NotFound(self.not_found(selector))),
        }
    }

    fn not_found(&self, selector: &Selector) -> String {
        match self.versions(&selector.model) {
            Some(versions) => {
                let known: Vec<String> = versions.keys().map(u64::to_string).collect();
                format!("{} has no such version as {selector}; there are: {}", selector.model, known.join(", "))
            }
            None => {
                let known: Vec<&str> = self.models().map(|(name, _)| name).collect();
                let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
                format!("the model log has no model {}; there are: {known}", selector.model)
            }
        }
    }
}

/// The key of a version's manifest.
pub fn version_key(model: &str, version: u64) -> String {
    format!("version/{model}/{version}")
}

fn parse_version_key(key: &str) -> Option<(&str, u64)> {
    let (model, version) = key.strip_prefix("version/")?.rsplit_once('/')?;
    // One key for each version: no sign, no leading zeros.
    if version.starts_with(['0', '+']) {
        return None;
    }
    let version = version.parse().ok().filter(|version| *version <= VERSION_MAX)?;
    is_model_name(model).then_some((model, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_name_or_a_name_and_a_version() {
        let newest = Selector { model: "iris".into(), pick: Pick::Newest };
        assert_eq!("iris".parse(), Ok(newest));
        assert_eq!("iris:7".parse(), Ok(Selector { model: "iris".into(), pick: Pick::Version(7) }));
        assert_eq!("iris:0".parse::<Selector>(), Err(SelectorError::Version("0".into())));
        assert_eq!("a/b".parse::<Selector>(), Err(SelectorError::Name("a/b".into())));
        assert_eq!("iris@champion".parse::<Selector>(), Err(SelectorError::Alias("iris@champion".into())));
    }

    #[test]
    fn a_damaged_manifest_is_shown_and_does_not_hide_older_versions() {
        let mut state = State::default();
        assert_eq!(state.apply(b"version/iris/2", Some(b"junk")), Change::Version("iris".into(), 2));
        assert!(matches!(state.versions("iris").and_then(|versions| versions.get(&2)), Some(Entry::Refused(_))));
        assert_eq!(state.next_version("iris"), 3);
        assert!(matches!(state.find(&"iris:2".parse().expect("valid")), Err(Error::Refused { version: 2, .. })));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let mut state = State::default();
        for key in [
            &b"alias/iris/champion"[..],
            b"version/iris",
            b"version/iris/x",
            b"version/a b/1",
            b"\xff",
            b"version/iris/0",
            b"version/iris/01",
            b"version/iris/+1",
        ] {
            assert_eq!(state.apply(key, Some(b"x")), Change::None);
        }
        assert_eq!(state.models().count(), 0);
    }

    #[test]
    fn no_version_is_so_large_that_there_is_no_next_one() {
        let mut state = State::default();
        assert_eq!(state.apply(format!("version/iris/{}", u64::MAX).as_bytes(), Some(b"junk")), Change::None);
        let last = i64::MAX as u64;
        let key = version_key("iris", last);
        assert_eq!(state.apply(key.as_bytes(), Some(b"junk")), Change::Version("iris".into(), last));
        assert_eq!(state.next_version("iris"), last + 1);
    }

    #[test]
    fn a_missing_model_names_those_that_there_are() {
        let error = State::default().find(&"iris".parse().expect("valid")).expect_err("nothing there");
        assert_eq!(error.to_string(), "the model log has no model iris; there are: none yet");
    }
}
