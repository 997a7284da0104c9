//! Rows of a table with a header: what offline scoring reads. The same rules as for records; only, every cell is text.

use crate::model::Signature;
use crate::model::signature::FeatureKind;
use crate::pipeline::features::{Cell, Row, may_be_missing};
use crate::pipeline::record::{DeadLetter, Reason};

/// Cells that hold no value: what R, pandas and spreadsheets write for a missing one.
const MISSING_CELLS: [&str; 6] = ["", "NA", "N/A", "NaN", "nan", "null"];

/// Whether a cell holds no value: nothing, blanks, or one of `NA`, `N/A`, `NaN`, `nan`, `null`.
pub fn is_missing(cell: &str) -> bool {
    MISSING_CELLS.contains(&cell.trim())
}

/// A header that does not fit a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The model needs columns that are not there. A feature with a rule for missing values may be absent.
    #[error("the header has no column {missing}, which the model needs; it has: {present}")]
    Missing {
        /// What the model needs, comma-separated.
        missing: String,
        /// What the header has, comma-separated.
        present: String,
    },
    /// Two columns have the same name, so it is not clear which is meant.
    #[error("the header has two columns {0:?}: rename one")]
    Twice(String),
}

/// Which column of a table is which feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvColumns {
    /// The feature of each column of the table, if it is one.
    features: Vec<Option<usize>>,
    /// Whether that feature is a number, by feature.
    numeric: Vec<bool>,
}

impl CsvColumns {
    /// Finds the features of `signature` in a header; other columns are ignored.
    ///
    /// # Errors
    /// When a feature that has no rule for missing values is absent, or a feature's name stands twice.
    pub fn new<'h>(
        header: impl IntoIterator<Item = &'h str>,
        signature: &Signature,
    ) -> Result<CsvColumns, HeaderError> {
        let names: Vec<&str> = header.into_iter().map(str::trim).collect();
        let feature_of = |name: &&str| signature.features.iter().position(|feature| feature.name == **name);
        let features: Vec<Option<usize>> = names.iter().map(feature_of).collect();
        let mut missing = Vec::new();
        for (index, feature) in signature.features.iter().enumerate() {
            match features.iter().filter(|found| **found == Some(index)).count() {
                0 if may_be_missing(feature) => {}
                0 => missing.push(feature.name.as_str()),
                1 => {}
                _ => return Err(HeaderError::Twice(feature.name.clone())),
            }
        }
        if !missing.is_empty() {
            return Err(HeaderError::Missing { missing: missing.join(", "), present: names.join(", ") });
        }
        let is_numeric = |kind: &FeatureKind| matches!(kind, FeatureKind::Numeric { .. });
        let numeric = signature.features.iter().map(|feature| is_numeric(&feature.kind)).collect();
        Ok(CsvColumns { features, numeric })
    }

    /// Fills a row from the cells of one line.
    pub(in crate::pipeline) fn decode<'c>(
        &self,
        cells: impl IntoIterator<Item = &'c str>,
        mut row: Row<'_>,
    ) -> Result<(), DeadLetter> {
        let mut count = 0;
        for (cell, feature) in cells.into_iter().zip(&self.features) {
            count += 1;
            if let Some(feature) = *feature {
                row.put(feature, self.cell(feature, cell.trim()))?;
            }
        }
        if count < self.features.len() {
            let message = format!("the line has {count} cells, the header {}", self.features.len());
            return Err(DeadLetter::new(Reason::WrongShape, message));
        }
        row.finish()
    }

    /// A word where a number is expected stays a word, and is refused as one.
    fn cell<'c>(&self, feature: usize, text: &'c str) -> Cell<'c> {
        if is_missing(text) {
            Cell::Null
        } else if self.numeric[feature] {
            text.parse().map_or(Cell::Text(text), Cell::Float)
        } else {
            Cell::Text(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::testing::{JSON_IN, JSON_OUT, category, decimal, number, served};
    use crate::pipeline::{Outcome, Scorer, ServedModel};

    fn mixed() -> ServedModel {
        let features = vec![number("x", None), number("y", Some(7.0)), category("grade", &["1", "2"])];
        served(decimal(features), &JSON_IN, JSON_OUT)
    }

    fn scored(served: &ServedModel, header: &[&str], line: &[&str]) -> Result<String, Reason> {
        let columns = CsvColumns::new(header.iter().copied(), served.model.signature()).expect("a header that fits");
        let mut scorer = Scorer::new();
        scorer.decode_csv(served, &columns, [line.iter().copied()]);
        scorer.predict(served);
        scorer.encode(served);
        match scorer.outcomes().next().expect("one outcome") {
            Outcome::Prediction { bytes, .. } => Ok(String::from_utf8_lossy(&bytes[..20]).into_owned()),
            Outcome::DeadLetter(dead) => Err(dead.reason()),
        }
    }

    #[test]
    fn cells_follow_the_header_and_the_rules_of_records() {
        let served = mixed();
        let header = ["grade", "label", "x", " y"];
        assert_eq!(scored(&served, &header, &["2", "?", " 1.0", "3"]), Ok(r#"{"prediction":1031.0"#.into()));
        assert_eq!(scored(&served, &header, &["2", "", "1", "NA"]), Ok(r#"{"prediction":1071.0"#.into()));
        assert_eq!(scored(&served, &header[..3], &["1", "", "1"]), Ok(r#"{"prediction":171.0,"#.into()));
        assert_eq!(scored(&served, &header, &["2", "", "", "3"]), Err(Reason::MissingFeature));
        assert_eq!(scored(&served, &header, &["2", "", "one", "3"]), Err(Reason::WrongType));
        assert_eq!(scored(&served, &header, &["2", "", "inf", "3"]), Err(Reason::NonFinite));
        assert_eq!(scored(&served, &header, &["3", "", "1", "3"]), Err(Reason::UnknownCategory));
        assert_eq!(scored(&served, &header, &["2", "", "1"]), Err(Reason::WrongShape));
    }

    #[test]
    fn a_header_that_does_not_fit_says_what_is_missing() {
        let served = mixed();
        let missing = CsvColumns::new(["y", "z"], served.model.signature()).expect_err("no x, no grade");
        let text = "the header has no column x, grade, which the model needs; it has: y, z";
        assert_eq!(missing.to_string(), text);
        let twice = CsvColumns::new(["x", "grade", "x"], served.model.signature()).expect_err("x twice");
        assert_eq!(twice, HeaderError::Twice("x".into()));
    }
}
