//! The signature: names, types, order and missing-value rule of the features, and what comes out.
//!
//! A record carries *features*; a predictor reads *columns*. A numeric feature is one column; a categorical feature is
//! one column (ordinal) or one for each category (one-hot). The rule that turns one into the other lives here, so the
//! trainer and the server cannot disagree.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// The most features that a signature may name: a tree's node holds the column as `u16`, the largest value means a leaf.
pub const COLUMNS_MAX: usize = u16::MAX as usize;
/// The most classes of a classification: beyond it a prediction's probabilities no longer fit a record.
pub const CLASSES_MAX: usize = 1_000;

/// What a model expects and what it returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// The features in the order in which they become columns, and in which a record by position carries them.
    pub features: Vec<Feature>,
    /// What comes out.
    pub target: Target,
}

/// One named input of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// The name by which a record carries it.
    pub name: String,
    /// Its type and its rules.
    pub kind: FeatureKind,
}

/// The type of a feature, and what happens to values that are missing or unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FeatureKind {
    /// A number, one column.
    Numeric {
        /// What stands in for a missing number (absent, `null`, NaN); `None` refuses the record.
        fill: Option<f32>,
    },
    /// One of a set of words.
    Categorical {
        /// The words that the trainer saw, in the order of their codes.
        categories: Vec<String>,
        /// How a word becomes columns.
        encoding: Encoding,
        /// What happens to a missing word (absent, `null`).
        missing: CategoryRule,
        /// What happens to a word that the trainer never saw.
        unknown: CategoryRule,
    },
}

/// How a category becomes columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// One column a category: 1 in the category's column, 0 in the others; no category is all zeros.
    OneHot,
    /// One column with the category's code: 0, 1, 2 …; no category is -1.
    Ordinal,
}

/// What happens to a category that is missing or unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CategoryRule {
    /// The record is refused.
    Refuse,
    /// The feature counts as having no category.
    NoCategory,
}

/// What a model returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The column that the trainer learned to predict.
    pub name: String,
    /// Class labels in the order of their codes; empty for a regression.
    pub classes: Vec<String>,
}

/// A value of a record, before a feature's rule was applied to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Absent or `null`.
    Missing,
    /// A number.
    Number(f64),
    /// A word.
    Category(&'a str),
}

/// Why a value does not become columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureFault {
    /// The value is missing, and the feature's rule refuses that.
    Missing,
    /// The value is NaN, infinite, or beyond what `f32` holds.
    NonFinite,
    /// A word that the trainer never saw, and the feature's rule refuses that.
    UnknownCategory,
    /// A word where a number is expected, or the reverse.
    WrongType,
}

impl Signature {
    /// The number of columns of a row.
    pub fn columns(&self) -> usize {
        self.features.iter().map(Feature::columns).sum()
    }

    /// The number of outputs of a row: a probability for each class, or one value.
    pub fn outputs(&self) -> usize {
        self.target.classes.len().max(1)
    }

    /// Whether the model returns a class, not a number.
    pub fn is_classification(&self) -> bool {
        !self.target.classes.is_empty()
    }

    /// Whether no name stands twice among the features, nor among the classes.
    pub fn names_are_unique(&self) -> bool {
        let mut features = HashSet::new();
        let mut classes = HashSet::new();
        self.features.iter().all(|feature| features.insert(&feature.name))
            && self.target.classes.iter().all(|class| classes.insert(class))
    }
}

impl Feature {
    /// The number of columns that this feature becomes.
    pub fn columns(&self) -> usize {
        match &self.kind {
            FeatureKind::Categorical { categories, encoding: Encoding::OneHot, .. } => categories.len(),
            FeatureKind::Categorical { .. } | FeatureKind::Numeric { .. } => 1,
        }
    }

    /// Writes `value` into this feature's `columns`, which hold zeros, by the feature's rule.
    ///
    /// # Errors
    /// The [`FeatureFault`] when the rule refuses the value; `columns` may then hold anything.
    pub fn encode(&self, value: Value<'_>, columns: &mut [f32]) -> Result<(), FeatureFault> {
        match &self.kind {
            FeatureKind::Numeric { fill } => {
                columns[0] = number(value, *fill)?;
                Ok(())
            }
            FeatureKind::Categorical { categories, encoding, missing, unknown } => {
                let code = match value {
                    Value::Missing => refuse_or_none(*missing, FeatureFault::Missing)?,
                    Value::Number(_) => return Err(FeatureFault::WrongType),
                    Value::Category(word) => match categories.iter().position(|category| category == word) {
                        Some(code) => Some(code),
                        None => refuse_or_none(*unknown, FeatureFault::UnknownCategory)?,
                    },
                };
                match (encoding, code) {
                    (Encoding::OneHot, Some(code)) => columns[code] = 1.0,
                    (Encoding::OneHot, None) => {}
                    (Encoding::Ordinal, Some(code)) => columns[0] = code as f32,
                    (Encoding::Ordinal, None) => columns[0] = -1.0,
                }
                Ok(())
            }
        }
    }
}

fn number(value: Value<'_>, fill: Option<f32>) -> Result<f32, FeatureFault> {
    match (value, fill) {
        (Value::Category(_), _) => Err(FeatureFault::WrongType),
        (Value::Missing, Some(fill)) => Ok(fill),
        (Value::Missing, None) => Err(FeatureFault::Missing),
        (Value::Number(number), Some(fill)) if number.is_nan() => Ok(fill),
        (Value::Number(number), _) => {
            let rounded = number as f32;
            if rounded.is_finite() { Ok(rounded) } else { Err(FeatureFault::NonFinite) }
        }
    }
}

fn refuse_or_none(rule: CategoryRule, fault: FeatureFault) -> Result<Option<usize>, FeatureFault> {
    match rule {
        CategoryRule::Refuse => Err(fault),
        CategoryRule::NoCategory => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(fill: Option<f32>) -> Feature {
        Feature { name: "x".into(), kind: FeatureKind::Numeric { fill } }
    }

    fn colour(encoding: Encoding, rule: CategoryRule) -> Feature {
        let categories = vec!["blue".to_string(), "red".to_string()];
        Feature {
            name: "colour".into(),
            kind: FeatureKind::Categorical { categories, encoding, missing: rule, unknown: rule },
        }
    }

    fn encoded(feature: &Feature, value: Value<'_>) -> Result<Vec<f32>, FeatureFault> {
        let mut columns = vec![0.0; feature.columns()];
        feature.encode(value, &mut columns).map(|()| columns)
    }

    #[test]
    fn a_number_is_rounded_to_f32_and_must_stay_finite() {
        assert_eq!(encoded(&numeric(None), Value::Number(0.1)), Ok(vec![0.1f32]));
        assert_eq!(encoded(&numeric(None), Value::Number(1e300)), Err(FeatureFault::NonFinite));
        assert_eq!(encoded(&numeric(None), Value::Number(f64::NAN)), Err(FeatureFault::NonFinite));
        assert_eq!(encoded(&numeric(Some(2.0)), Value::Number(f64::INFINITY)), Err(FeatureFault::NonFinite));
    }

    #[test]
    fn a_missing_number_is_filled_or_refused_by_the_rule() {
        assert_eq!(encoded(&numeric(Some(2.0)), Value::Missing), Ok(vec![2.0]));
        assert_eq!(encoded(&numeric(Some(2.0)), Value::Number(f64::NAN)), Ok(vec![2.0]));
        assert_eq!(encoded(&numeric(None), Value::Missing), Err(FeatureFault::Missing));
        assert_eq!(encoded(&numeric(None), Value::Category("1")), Err(FeatureFault::WrongType));
    }

    #[test]
    fn a_category_is_one_hot_or_ordinal() {
        let one_hot = colour(Encoding::OneHot, CategoryRule::NoCategory);
        assert_eq!(encoded(&one_hot, Value::Category("red")), Ok(vec![0.0, 1.0]));
        assert_eq!(encoded(&one_hot, Value::Category("green")), Ok(vec![0.0, 0.0]));
        let ordinal = colour(Encoding::Ordinal, CategoryRule::NoCategory);
        assert_eq!(encoded(&ordinal, Value::Category("red")), Ok(vec![1.0]));
        assert_eq!(encoded(&ordinal, Value::Missing), Ok(vec![-1.0]));
        let strict = colour(Encoding::OneHot, CategoryRule::Refuse);
        assert_eq!(encoded(&strict, Value::Category("green")), Err(FeatureFault::UnknownCategory));
        assert_eq!(encoded(&strict, Value::Missing), Err(FeatureFault::Missing));
        assert_eq!(encoded(&strict, Value::Number(1.0)), Err(FeatureFault::WrongType));
    }
}
