//! Which version of which model: `iris`, `iris:7` or `iris@champion`.

use std::fmt;
use std::str::FromStr;

/// The longest name of a model or an alias: with its prefix and number it stays a readable key.
pub const NAME_BYTES_MAX: usize = 200;

/// Which version of which model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The model's name.
    pub model: String,
    /// The version.
    pub pick: Pick,
}

/// Which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The newest that is good, or the one that is pinned.
    Newest,
    /// This one, for ever.
    Version(u64),
    /// The one that the alias names.
    Alias(String),
}

/// A `NAME[:VERSION|@ALIAS]` that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectorError {
    #[error("{0:?} is no name for a model: 1 to {NAME_BYTES_MAX} of the characters a-z A-Z 0-9 . _ -")]
    Name(String),
    #[error("{0:?} is no version: a whole number from 1")]
    Version(String),
    #[error("{0:?} is no name for an alias: 1 to {NAME_BYTES_MAX} of the characters a-z A-Z 0-9 . _ -")]
    Alias(String),
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        let (model, pick) = if let Some((model, alias)) = text.split_once('@') {
            if !is_model_name(alias) {
                return Err(SelectorError::Alias(alias.to_owned()));
            }
            (model, Pick::Alias(alias.to_owned()))
        } else if let Some((model, version)) = text.split_once(':') {
            match version.parse() {
                Ok(number) if number > 0 => (model, Pick::Version(number)),
                _ => return Err(SelectorError::Version(version.to_owned())),
            }
        } else {
            (text, Pick::Newest)
        };
        if !is_model_name(model) {
            return Err(SelectorError::Name(model.to_owned()));
        }
        Ok(Selector { model: model.to_owned(), pick })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pick {
            Pick::Newest => f.write_str(&self.model),
            Pick::Version(version) => write!(f, "{}:{version}", self.model),
            Pick::Alias(alias) => write!(f, "{}@{alias}", self.model),
        }
    }
}

/// Whether `name` may name a model or an alias: it becomes part of keys, metric labels and file names.
pub fn is_model_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_name_alone_or_with_a_version_or_an_alias() {
        let selector = |pick| Ok(Selector { model: "iris".into(), pick });
        assert_eq!("iris".parse(), selector(Pick::Newest));
        assert_eq!("iris:7".parse(), selector(Pick::Version(7)));
        assert_eq!("iris@champion".parse(), selector(Pick::Alias("champion".into())));
        assert_eq!("iris:0".parse::<Selector>(), Err(SelectorError::Version("0".into())));
        assert_eq!("a/b".parse::<Selector>(), Err(SelectorError::Name("a/b".into())));
        assert_eq!("iris@".parse::<Selector>(), Err(SelectorError::Alias("".into())));
        for text in ["iris", "iris:7", "iris@champion"] {
            assert_eq!(text.parse::<Selector>().map(|selector| selector.to_string()), Ok(text.to_owned()));
        }
    }
}
