//! The features of a signature, compiled for looking them up by name, and one row that is being filled.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::ops::Range;

use super::record::{DeadLetter, Excerpt, Reason};
use crate::model::Signature;
use crate::model::signature::{CategoryRule, Feature, FeatureFault, FeatureKind, Value};

/// The features of one version: from a name to the feature and its columns. Compiled once, shared by all lanes.
#[derive(Debug)]
pub(super) struct FeaturePlan {
    features: Vec<Feature>,
    /// Where each feature's columns start; one more entry, the number of columns, ends the last.
    starts: Vec<usize>,
    by_name: HashMap<String, usize>,
}

impl FeaturePlan {
    pub(super) fn new(signature: &Signature) -> FeaturePlan {
        let mut starts = vec![0];
        for feature in &signature.features {
            starts.push(starts[starts.len() - 1] + feature.columns());
        }
        let names = signature.features.iter().map(|feature| feature.name.clone());
        FeaturePlan {
            features: signature.features.clone(),
            starts,
            by_name: names.enumerate().map(|(index, name)| (name, index)).collect(),
        }
    }

    pub(super) fn features(&self) -> &[Feature] {
        &self.features
    }

    pub(super) fn columns(&self) -> usize {
        self.starts[self.features.len()]
    }

    fn columns_of(&self, feature: usize) -> Range<usize> {
        self.starts[feature]..self.starts[feature + 1]
    }
}

/// Whether the feature's rule accepts that it is missing.
pub(super) fn may_be_missing(feature: &Feature) -> bool {
    match &feature.kind {
        FeatureKind::Numeric { fill } => fill.is_some(),
        FeatureKind::Categorical { missing, .. } => *missing == CategoryRule::NoCategory,
    }
}

/// A value as a record carries it, before it is known whether its feature is a number or a word.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Boolean(bool),
    /// Wide enough for every `i64` and `u64`.
    Integer(i128),
    Float(f64),
    Text(&'a str),
    /// An object, an array, or anything else that is no single value.
    Composite,
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Null => f.write_str("null"),
            Cell::Boolean(truth) => write!(f, "{truth}"),
            Cell::Integer(number) => write!(f, "{number}"),
            Cell::Float(number) => write!(f, "{number:?}"),
            Cell::Text(text) => write!(f, "{}", Excerpt(text)),
            Cell::Composite => f.write_str("a composite value"),
        }
    }
}

/// What a lane remembers between rows, so that a row costs no allocation.
#[derive(Debug, Default)]
pub(super) struct RowMemory {
    /// The row in which each feature was last seen.
    seen: Vec<u64>,
    row: u64,
    /// The features in the order in which the last records carried them. Only a guess for the next: each is compared by name.
    order: Vec<usize>,
}

impl RowMemory {
    /// Makes the memory fit a plan; keeps what it learned about the order while the number of features stays.
    pub(super) fn fit(&mut self, plan: &FeaturePlan) {
        let features = plan.features.len();
        if self.order.len() != features {
            self.order = (0..features).collect();
            self.seen = vec![self.row; features];
        }
    }
}

/// One row of a block while a record's values arrive in any order.
pub(super) struct Row<'a> {
    plan: &'a FeaturePlan,
    memory: &'a mut RowMemory,
    columns: &'a mut [f32],
    seen: usize,
}

impl<'a> Row<'a> {
    /// Starts a row in `columns`, which hold zeros; `memory` fits `plan`.
    pub(super) fn new(plan: &'a FeaturePlan, memory: &'a mut RowMemory, columns: &'a mut [f32]) -> Row<'a> {
        memory.row += 1;
        Row { plan, memory, columns, seen: 0 }
    }

    /// The number of features that a whole row has.
    pub(super) fn features(&self) -> usize {
        self.plan.features.len()
    }

    /// The feature of this name. Records mostly carry their fields in the same order, so the feature that stood here in
    /// the last record is compared first.
    pub(super) fn find(&mut self, name: &str) -> Option<usize> {
        let guess = self.memory.order.get(self.seen).copied();
        if let Some(guess) = guess.filter(|guess| self.plan.features[*guess].name == name) {
            return Some(guess);
        }
        let feature = *self.plan.by_name.get(name)?;
        if let Some(place) = self.memory.order.get_mut(self.seen) {
            *place = feature;
        }
        Some(feature)
    }

    /// Encodes the value of a feature by the signature's rule.
    pub(super) fn put(&mut self, feature: usize, cell: Cell<'_>) -> Result<(), DeadLetter> {
        let seen = std::mem::replace(&mut self.memory.seen[feature], self.memory.row);
        if seen == self.memory.row {
            let name = Excerpt(&self.plan.features[feature].name);
            return Err(DeadLetter::new(Reason::Undecodable, format!("the feature {name} stands twice")));
        }
        self.seen += 1;
        self.encode(feature, cell)
    }

    /// Applies the missing-value rule to every feature that did not come.
    pub(super) fn finish(mut self) -> Result<(), DeadLetter> {
        if self.seen == self.features() {
            return Ok(());
        }
        for feature in 0..self.features() {
            if self.memory.seen[feature] != self.memory.row {
                self.encode(feature, Cell::Null)?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, index: usize, cell: Cell<'_>) -> Result<(), DeadLetter> {
        let feature = &self.plan.features[index];
        let mut word = Word::default();
        let encoded = match value(feature, cell, &mut word) {
            Some(value) => feature.encode(value, &mut self.columns[self.plan.columns_of(index)]),
            None => Err(FeatureFault::WrongType),
        };
        encoded.map_err(|fault| refused(feature, fault, cell))
    }
}

/// What a cell means to a feature; `None` when it can mean nothing to it.
///
/// A number or a truth value given for a category stands for the category with its text: `1` for `"1"`, `true` for `"true"`.
fn value<'a>(feature: &Feature, cell: Cell<'a>, word: &'a mut Word) -> Option<Value<'a>> {
    match (cell, &feature.kind) {
        (Cell::Null, _) => Some(Value::Missing),
        (Cell::Text(text), _) => Some(Value::Category(text)),
        (Cell::Integer(number), FeatureKind::Numeric { .. }) => Some(Value::Number(number as f64)),
        (Cell::Float(number), FeatureKind::Numeric { .. }) => Some(Value::Number(number)),
        (Cell::Float(number), FeatureKind::Categorical { .. }) if number.is_nan() => Some(Value::Missing),
        (Cell::Float(number), FeatureKind::Categorical { categories, .. }) => {
            let text = word.set(format_args!("{number:?}"));
            let known = categories.iter().any(|category| category == text);
            Some(Value::Category(if known { text } else { text.strip_suffix(".0").unwrap_or(text) }))
        }
        (Cell::Integer(number), FeatureKind::Categorical { .. }) => {
            Some(Value::Category(word.set(format_args!("{number}"))))
        }
        (Cell::Boolean(truth), FeatureKind::Categorical { .. }) => {
            Some(Value::Category(if truth { "true" } else { "false" }))
        }
        (Cell::Boolean(_), FeatureKind::Numeric { .. }) | (Cell::Composite, _) => None,
    }
}

fn refused(feature: &Feature, fault: FeatureFault, cell: Cell<'_>) -> DeadLetter {
    let name = Excerpt(&feature.name);
    let message = match (fault, &feature.kind) {
        (FeatureFault::Missing, _) => format!("the feature {name} is missing, and the model has no rule for that"),
        (FeatureFault::NonFinite, _) => format!("the feature {name} is {cell}, which is no finite 32-bit number"),
        (FeatureFault::UnknownCategory, FeatureKind::Categorical { categories, .. }) => {
            format!("the feature {name} is {cell}, which is none of its {} categories", categories.len())
        }
        (FeatureFault::WrongType, FeatureKind::Categorical { .. }) => {
            format!("the feature {name} is {cell} where a word is expected")
        }
        (FeatureFault::UnknownCategory | FeatureFault::WrongType, FeatureKind::Numeric { .. }) => {
            format!("the feature {name} is {cell} where a number is expected")
        }
    };
    DeadLetter::new(fault.into(), message)
}

/// The text of a number, without an allocation. The longest is a `u64` or an `f64` with 17 digits and exponent: 24 bytes.
#[derive(Default)]
struct Word {
    bytes: [u8; 32],
    length: usize,
}

impl Word {
    fn set(&mut self, text: fmt::Arguments<'_>) -> &str {
        self.length = 0;
        // What does not fit is cut, and then is no known category.
        let _ = self.write_fmt(text);
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

impl fmt::Write for Word {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let place = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::testing::{category, number, signature};

    fn fill(plan: &FeaturePlan, memory: &mut RowMemory, cells: &[(&str, Cell<'_>)]) -> Result<Vec<f32>, DeadLetter> {
        let mut columns = vec![0.0; plan.columns()];
        memory.fit(plan);
        let mut row = Row::new(plan, memory, &mut columns);
        for (name, cell) in cells {
            if let Some(feature) = row.find(name) {
                row.put(feature, *cell)?;
            }
        }
        row.finish()?;
        Ok(columns)
    }

    fn mixed() -> FeaturePlan {
        FeaturePlan::new(&signature(vec![
            number("x", None),
            category("grade", &["1", "2.0", "true"]),
            number("y", Some(7.0)),
        ]))
    }

    #[test]
    fn any_order_fills_the_same_columns_and_is_remembered() {
        let (plan, mut memory) = (mixed(), RowMemory::default());
        let cells =
            [("y", Cell::Float(2.5)), ("other", Cell::Null), ("x", Cell::Integer(3)), ("grade", Cell::Text("1"))];
        assert_eq!(fill(&plan, &mut memory, &cells), Ok(vec![3.0, 1.0, 0.0, 0.0, 2.5]));
        assert_eq!(memory.order, [2, 0, 1]);
        let cells = [("x", Cell::Integer(3)), ("grade", Cell::Text("1")), ("y", Cell::Float(2.5))];
        assert_eq!(fill(&plan, &mut memory, &cells), Ok(vec![3.0, 1.0, 0.0, 0.0, 2.5]));
    }

    #[test]
    fn what_does_not_come_follows_its_rule() {
        let (plan, mut memory) = (mixed(), RowMemory::default());
        let cells = [("x", Cell::Integer(3)), ("grade", Cell::Text("1"))];
        assert_eq!(fill(&plan, &mut memory, &cells), Ok(vec![3.0, 1.0, 0.0, 0.0, 7.0]));
        let missing = fill(&plan, &mut memory, &[("y", Cell::Integer(3))]).expect_err("x has no rule");
        assert_eq!(missing.reason(), Reason::MissingFeature);
        assert!(missing.message().contains("\"x\""), "{}", missing.message());
    }

    #[test]
    fn a_feature_comes_once() {
        let (plan, mut memory) = (mixed(), RowMemory::default());
        let twice = fill(&plan, &mut memory, &[("y", Cell::Integer(3)), ("y", Cell::Integer(3))]);
        assert_eq!(twice.map_err(|dead| dead.reason()), Err(Reason::Undecodable));
    }

    #[test]
    fn numbers_and_truth_stand_for_the_category_of_their_text() {
        let (plan, mut memory) = (mixed(), RowMemory::default());
        let mut grade = |cell| {
            let row = fill(&plan, &mut memory, &[("x", Cell::Integer(0)), ("grade", cell)]);
            row.map(|row| row[1..4].iter().position(|column| *column == 1.0)).map_err(|dead| dead.reason())
        };
        assert_eq!(grade(Cell::Integer(1)), Ok(Some(0)));
        assert_eq!(grade(Cell::Float(1.0)), Ok(Some(0)));
        assert_eq!(grade(Cell::Float(2.0)), Ok(Some(1)));
        assert_eq!(grade(Cell::Boolean(true)), Ok(Some(2)));
        assert_eq!(grade(Cell::Integer(-9)), Err(Reason::UnknownCategory));
        assert_eq!(grade(Cell::Float(f64::MIN_POSITIVE)), Err(Reason::UnknownCategory));
        assert_eq!(grade(Cell::Composite), Err(Reason::WrongType));
    }

    #[test]
    fn a_number_is_not_read_from_text_or_truth() {
        let (plan, mut memory) = (mixed(), RowMemory::default());
        for cell in [Cell::Text("1"), Cell::Boolean(true), Cell::Composite] {
            let refused = fill(&plan, &mut memory, &[("x", cell)]).expect_err("no number");
            assert_eq!(refused.reason(), Reason::WrongType);
        }
    }

    #[test]
    fn another_plan_with_as_many_features_is_not_misled_by_the_order() {
        let mut memory = RowMemory::default();
        let first = FeaturePlan::new(&signature(vec![number("a", None), number("b", None)]));
        let second = FeaturePlan::new(&signature(vec![number("b", None), number("a", None)]));
        let cells = [("b", Cell::Integer(2)), ("a", Cell::Integer(1))];
        assert_eq!(fill(&first, &mut memory, &cells), Ok(vec![1.0, 2.0]));
        assert_eq!(fill(&second, &mut memory, &cells), Ok(vec![2.0, 1.0]));
    }
}
