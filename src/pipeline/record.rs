//! What a record becomes when it cannot be scored: a dead letter with its reason.

use std::fmt;

use crate::model::signature::FeatureFault;

/// The longest message of a dead letter: it travels as a header, and a broker counts headers into the record's size.
pub const DEAD_LETTER_MESSAGE_BYTES_MAX: usize = 1024;
/// The longest piece of a record's text that a message quotes: enough to recognise a value, too little to leak a record.
const EXCERPT_BYTES_MAX: usize = 64;

/// Why a record could not be scored. A closed set: the same word is the metric label, the header and the log field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The record has no value (a tombstone).
    NullValue,
    /// The value is larger than [`super::decode::RECORD_BYTES_MAX`].
    Oversize,
    /// The frame in front of an Avro datum is not the one that is configured.
    UnknownSchema,
    /// The bytes are not of the configured format: broken JSON, a name that stands twice, a datum too short or too long.
    Undecodable,
    /// JSON, but no object or array of features, or an array of another length.
    WrongShape,
    /// A feature is absent or `null`, and its rule refuses that.
    MissingFeature,
    /// A feature has a value of another type.
    WrongType,
    /// A number is NaN, infinite, or beyond what `f32` holds.
    NonFinite,
    /// A word that the trainer never saw, and the feature's rule refuses that.
    UnknownCategory,
    /// The model's answer is not finite, or the model panicked.
    ModelError,
    /// The prediction with its key and headers is larger than the output topic takes.
    OutputOversize,
    /// It names no model, or one that is not served here.
    UnknownModel,
}

impl Reason {
    /// Every reason, so that each metric series exists from the start.
    pub const ALL: [Reason; 12] = [
        Reason::NullValue,
        Reason::Oversize,
        Reason::UnknownSchema,
        Reason::Undecodable,
        Reason::WrongShape,
        Reason::MissingFeature,
        Reason::WrongType,
        Reason::NonFinite,
        Reason::UnknownCategory,
        Reason::ModelError,
        Reason::OutputOversize,
        Reason::UnknownModel,
    ];

    /// The word for this reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NullValue => "null_value",
            Reason::Oversize => "oversize",
            Reason::UnknownSchema => "unknown_schema",
            Reason::Undecodable => "undecodable",
            Reason::WrongShape => "wrong_shape",
            Reason::MissingFeature => "missing_feature",
            Reason::WrongType => "wrong_type",
            Reason::NonFinite => "non_finite",
            Reason::UnknownCategory => "unknown_category",
            Reason::ModelError => "model_error",
            Reason::OutputOversize => "output_oversize",
            Reason::UnknownModel => "unknown_model",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<FeatureFault> for Reason {
    fn from(fault: FeatureFault) -> Reason {
        match fault {
            FeatureFault::Missing => Reason::MissingFeature,
            FeatureFault::NonFinite => Reason::NonFinite,
            FeatureFault::UnknownCategory => Reason::UnknownCategory,
            FeatureFault::WrongType => Reason::WrongType,
        }
    }
}

/// A record that could not be scored, and why. The record's bytes stay with whoever holds the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    reason: Reason,
    message: String,
}

impl DeadLetter {
    /// A dead letter; a `message` beyond [`DEAD_LETTER_MESSAGE_BYTES_MAX`] is cut, never within a character.
    pub fn new(reason: Reason, message: impl Into<String>) -> DeadLetter {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(DEAD_LETTER_MESSAGE_BYTES_MAX));
        DeadLetter { reason, message }
    }

    /// Why, as a word of a closed set.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Why, in words for a person; at most [`DEAD_LETTER_MESSAGE_BYTES_MAX`] bytes.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Shows the beginning of a record's text, quoted, with control characters escaped.
pub(super) struct Excerpt<'a>(pub(super) &'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.0[..self.0.floor_char_boundary(EXCERPT_BYTES_MAX)];
        write!(f, "{cut:?}{}", if cut.len() < self.0.len() { "…" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let mut words: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
        // The last variant's number says how many there are.
        assert_eq!(Reason::UnknownModel as usize + 1, Reason::ALL.len());
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let dead = DeadLetter::new(Reason::Undecodable, "ä".repeat(DEAD_LETTER_MESSAGE_BYTES_MAX) + "x");
        assert_eq!(dead.message().len(), DEAD_LETTER_MESSAGE_BYTES_MAX);
        let odd = DeadLetter::new(Reason::Undecodable, format!("x{}", "ä".repeat(DEAD_LETTER_MESSAGE_BYTES_MAX)));
        assert_eq!(odd.message().len(), DEAD_LETTER_MESSAGE_BYTES_MAX - 1);
    }

    #[test]
    fn an_excerpt_is_short_and_harmless() {
        assert_eq!(Excerpt("a\n\"b").to_string(), r#""a\n\"b""#);
        let long = Excerpt(&"é".repeat(500)).to_string();
        assert!(long.ends_with("\"…") && long.len() < 80, "{long}");
    }
}
