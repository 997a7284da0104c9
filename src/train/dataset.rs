//! A CSV table becomes features by their signature's rules, and a target.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use csv::StringRecord;

use crate::model::Block;
use crate::model::signature::{CategoryRule, Encoding, Feature, FeatureFault, FeatureKind, Signature, Target, Value};
use crate::pipeline::decode::is_missing;

use super::{Error, Task};

/// The most rows that are read: the table is held in memory.
pub const ROWS_MAX: usize = 50_000_000;
/// A whole-numbered target with at most this many different values is taken for classes.
const INFERRED_CLASSES_MAX: usize = 20;
/// ... when each stands for at least this many rows on average.
const INFERRED_ROWS_A_CLASS: usize = 5;

/// How a table is read.
#[derive(Debug, Clone)]
pub struct ReadSettings {
    /// The column to predict.
    pub target: String,
    /// Classes or a number; `None` looks at the target.
    pub task: Option<Task>,
    /// Columns to leave out.
    pub drop: Vec<String>,
    /// Columns to treat as words although they look like numbers.
    pub categorical: Vec<String>,
    /// How categories become columns.
    pub encoding: Encoding,
    /// What happens to a category that the table does not have.
    pub unknown: CategoryRule,
    /// Rows without a target are left out, not an error.
    pub drop_missing_target: bool,
}

impl ReadSettings {
    /// All columns but the target, each as what it looks like.
    pub fn new(target: &str) -> ReadSettings {
        ReadSettings {
            target: target.to_owned(),
            task: None,
            drop: Vec::new(),
            categorical: Vec::new(),
            encoding: Encoding::OneHot,
            unknown: CategoryRule::Refuse,
            drop_missing_target: false,
        }
    }
}

/// A table, ready to be split and encoded.
#[derive(Debug, Clone)]
pub struct Dataset {
    features: Vec<Column>,
    target_name: String,
    targets: Targets,
    /// The line of each row in the file, for messages.
    lines: Vec<u64>,
    encoding: Encoding,
    unknown: CategoryRule,
}

/// What is to be predicted, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Class labels, and each row's index among them.
    Classes {
        /// Sorted; as numbers where all are numbers.
        labels: Vec<String>,
        /// One for each row.
        codes: Vec<u32>,
    },
    /// Numbers.
    Values(Vec<f64>),
}

impl Targets {
    /// Those of `rows`.
    pub fn pick(&self, rows: &[usize]) -> Targets {
        match self {
            Targets::Classes { labels, codes } => {
                Targets::Classes { labels: labels.clone(), codes: rows.iter().map(|row| codes[*row]).collect() }
            }
            Targets::Values(values) => Targets::Values(rows.iter().map(|row| values[*row]).collect()),
        }
    }
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    cells: Cells,
}

#[derive(Debug, Clone)]
enum Cells {
    /// NaN is missing.
    Numbers(Vec<f64>),
    /// `None` is missing.
    Words { words: Vec<String>, codes: Vec<Option<u32>> },
}

impl Dataset {
    /// Reads a CSV table with a header.
    ///
    /// # Errors
    /// When a row is broken (with its line), a named column is not there (with those that are), the target is missing in a
    /// row, or there is nothing to learn.
    pub fn read(input: impl Read, settings: &ReadSettings) -> Result<Dataset, Error> {
        let mut reader = csv::Reader::from_reader(input);
        let header: Vec<String> =
            reader.headers().map_err(Error::Csv)?.iter().map(|name| name.trim().to_owned()).collect();
        check_columns(&header, settings)?;
        let mut rows: Vec<StringRecord> = Vec::new();
        for record in reader.into_records() {
            if rows.len() == ROWS_MAX {
                return Err(Error::Data(format!("the table has more than {ROWS_MAX} rows")));
            }
            rows.push(record.map_err(Error::Csv)?);
        }
        let target = header.iter().position(|name| *name == settings.target).unwrap_or_default();
        drop_rows_without_target(&mut rows, target, settings)?;
        if rows.is_empty() {
            return Err(Error::Data("the table has no rows with a target".to_owned()));
        }
        let lines = rows.iter().map(|row| row.position().map_or(0, csv::Position::line)).collect();
        let targets = targets(&rows, target, settings)?;
        let wanted = |name: &String| *name != settings.target && !settings.drop.contains(name);
        let features: Vec<Column> = header
            .iter()
            .enumerate()
            .filter(|(_, name)| wanted(name))
            .map(|(index, name)| Column {
                name: name.clone(),
                cells: cells(&rows, index, settings.categorical.contains(name)),
            })
            .collect();
        if features.is_empty() {
            return Err(Error::Data("the table has no column besides the target".to_owned()));
        }
        let (encoding, unknown) = (settings.encoding, settings.unknown);
        Ok(Dataset { features, target_name: settings.target.clone(), targets, lines, encoding, unknown })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.lines.len()
    }

    /// What is to be predicted.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// What is predicted: classes or a number.
    pub fn task(&self) -> Task {
        match self.targets {
            Targets::Classes { .. } => Task::Classification,
            Targets::Values(_) => Task::Regression,
        }
    }

    /// The signature of a model that is fitted on `rows`: where a number is missing anywhere in the table, the median of
    /// these rows stands in for it; where a word is missing, it counts as no category; elsewhere a record without the value
    /// is refused.
    pub fn signature(&self, rows: &[usize]) -> Signature {
        let features = self.features.iter().map(|column| {
            let kind = match &column.cells {
                Cells::Numbers(numbers) => FeatureKind::Numeric { fill: fill(numbers, rows) },
                Cells::Words { words, codes } => FeatureKind::Categorical {
                    categories: words.clone(),
                    encoding: self.encoding,
                    missing: match codes.contains(&None) {
                        true => CategoryRule::NoCategory,
                        false => CategoryRule::Refuse,
                    },
                    unknown: self.unknown,
                },
            };
            Feature { name: column.name.clone(), kind }
        });
        let classes = match &self.targets {
            Targets::Classes { labels, .. } => labels.clone(),
            Targets::Values(_) => Vec::new(),
        };
        Signature { features: features.collect(), target: Target { name: self.target_name.clone(), classes } }
    }

    /// The features of `rows` as columns, by the rules of `signature`.
    ///
    /// # Errors
    /// When a number is beyond what `f32` holds (with its line and column).
    pub fn encode(&self, signature: &Signature, rows: &[usize]) -> Result<Block, Error> {
        let mut block = Block::new(signature.columns());
        for row in rows {
            let mut columns = block.push_row();
            for (index, feature) in signature.features.iter().enumerate() {
                let (own, rest) = columns.split_at_mut(feature.columns());
                feature.encode(self.value(*row, index), own).map_err(|fault| self.fault(*row, index, fault))?;
                columns = rest;
            }
        }
        Ok(block)
    }

    /// The value of a feature in a row, before its rule is applied.
    pub fn value(&self, row: usize, feature: usize) -> Value<'_> {
        match &self.features[feature].cells {
            Cells::Numbers(numbers) if numbers[row].is_nan() => Value::Missing,
            Cells::Numbers(numbers) => Value::Number(numbers[row]),
            Cells::Words { words, codes } => {
                codes[row].map_or(Value::Missing, |code| Value::Category(&words[code as usize]))
            }
        }
    }

    fn fault(&self, row: usize, feature: usize, fault: FeatureFault) -> Error {
        let (line, column) = (self.lines[row], &self.features[feature].name);
        Error::Data(match fault {
            FeatureFault::NonFinite => format!("line {line}, column {column}: the number is too large for 32 bits"),
            FeatureFault::Missing => format!("line {line}, column {column}: the value is missing"),
            FeatureFault::UnknownCategory | FeatureFault::WrongType => {
                format!("line {line}, column {column}: the value does not fit")
            }
        })
    }
}

fn check_columns(header: &[String], settings: &ReadSettings) -> Result<(), Error> {
    let named = std::iter::once(&settings.target).chain(&settings.drop).chain(&settings.categorical);
    for name in named {
        if !header.contains(name) {
            return Err(Error::NoColumn { name: name.clone(), columns: header.join(", ") });
        }
    }
    let mut seen = BTreeSet::new();
    match header.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(Error::Data(format!("the header names {twice:?} twice"))),
        None => Ok(()),
    }
}

fn drop_rows_without_target(rows: &mut Vec<StringRecord>, target: usize, settings: &ReadSettings) -> Result<(), Error> {
    let has_target = |row: &StringRecord| row.get(target).is_some_and(|cell| !is_missing(cell));
    if settings.drop_missing_target {
        rows.retain(has_target);
    }
    match rows.iter().find(|row| !has_target(row)) {
        Some(row) => {
            let line = row.position().map_or(0, csv::Position::line);
            let target = &settings.target;
            Err(Error::Data(format!(
                "line {line}, column {target}: the target is missing; --drop-missing-target leaves such rows out"
            )))
        }
        None => Ok(()),
    }
}

fn cell(row: &StringRecord, index: usize) -> &str {
    row.get(index).unwrap_or_default().trim()
}

fn parse_number(cell: &str) -> Option<f64> {
    cell.parse().ok().filter(|number: &f64| number.is_finite())
}

fn cells(rows: &[StringRecord], index: usize, as_words: bool) -> Cells {
    let numeric = !as_words
        && rows.iter().map(|row| cell(row, index)).all(|cell| is_missing(cell) || parse_number(cell).is_some())
        && rows.iter().any(|row| !is_missing(cell(row, index)));
    if numeric {
        return Cells::Numbers(rows.iter().map(|row| parse_number(cell(row, index)).unwrap_or(f64::NAN)).collect());
    }
    let present = rows.iter().map(|row| cell(row, index)).filter(|cell| !is_missing(cell));
    let words: Vec<String> = present.collect::<BTreeSet<&str>>().into_iter().map(str::to_owned).collect();
    let code_of: BTreeMap<&str, u32> = words.iter().map(String::as_str).zip(0..).collect();
    let codes = rows.iter().map(|row| code_of.get(cell(row, index)).copied()).collect();
    Cells::Words { words, codes }
}

/// The median of `rows`, as the `f32` that a record's number becomes; nothing where no number is missing.
fn fill(numbers: &[f64], rows: &[usize]) -> Option<f32> {
    if !numbers.iter().any(|number| number.is_nan()) {
        return None;
    }
    let mut present: Vec<f64> = rows.iter().map(|row| numbers[*row]).filter(|number| !number.is_nan()).collect();
    present.sort_by(f64::total_cmp);
    let middle = present.len() / 2;
    let median = match present.len() {
        0 => 0.0,
        even if even % 2 == 0 => (present[middle - 1] + present[middle]) / 2.0,
        _ => present[middle],
    };
    Some(median as f32).filter(|median| median.is_finite())
}

fn targets(rows: &[StringRecord], index: usize, settings: &ReadSettings) -> Result<Targets, Error> {
    let numbers: Option<Vec<f64>> = rows.iter().map(|row| parse_number(cell(row, index))).collect();
    let distinct: BTreeSet<&str> = rows.iter().map(|row| cell(row, index)).collect();
    let task = settings.task.unwrap_or_else(|| infer_task(numbers.as_deref(), distinct.len()));
    match (task, numbers) {
        (Task::Regression, Some(numbers)) => Ok(Targets::Values(numbers)),
        (Task::Regression, None) => {
            let bad = rows.iter().find(|row| parse_number(cell(row, index)).is_none());
            let line = bad.and_then(StringRecord::position).map_or(0, csv::Position::line);
            let (word, target) = (bad.map_or("", |row| cell(row, index)), &settings.target);
            Err(Error::Data(format!("line {line}, column {target}: {word:?} is no number, which a regression needs")))
        }
        (Task::Classification, numbers) => {
            let mut labels: Vec<&str> = distinct.into_iter().collect();
            if numbers.is_some() {
                let order = |label: &str| parse_number(label).unwrap_or(f64::MAX);
                labels.sort_by(|one, other| order(one).total_cmp(&order(other)).then(one.cmp(other)));
            }
            if labels.len() < 2 {
                let (target, label) = (&settings.target, labels.concat());
                return Err(Error::Data(format!("every row has {target} = {label}: there is nothing to tell apart")));
            }
            let code_of: BTreeMap<&str, u32> = labels.iter().copied().zip(0..).collect();
            let codes = rows.iter().map(|row| code_of[cell(row, index)]).collect();
            Ok(Targets::Classes { labels: labels.into_iter().map(str::to_owned).collect(), codes })
        }
    }
}

fn infer_task(numbers: Option<&[f64]>, distinct: usize) -> Task {
    match numbers {
        Some(numbers) => {
            let whole = numbers.iter().all(|number| number.fract() == 0.0);
            let few = distinct <= INFERRED_CLASSES_MAX && distinct * INFERRED_ROWS_A_CLASS <= numbers.len();
            if whole && few { Task::Classification } else { Task::Regression }
        }
        None => Task::Classification,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(target: &str) -> ReadSettings {
        ReadSettings::new(target)
    }

    fn error(text: &str, settings: &ReadSettings) -> String {
        Dataset::read(text.as_bytes(), settings).expect_err("bad data").to_string()
    }

    #[test]
    fn numbers_words_and_missing_cells_are_told_apart() {
        let text = "a,colour,y\n1,red,p\nNA,,q\n3.5,blue,p\n8,red,q\n";
        let data = Dataset::read(text.as_bytes(), &settings("y")).expect("valid");
        let signature = data.signature(&[0, 1, 2]);
        assert_eq!(signature.features[0].kind, FeatureKind::Numeric { fill: Some(2.25) });
        let FeatureKind::Categorical { categories, missing, .. } = &signature.features[1].kind else { panic!() };
        assert_eq!((categories.join(" "), *missing), ("blue red".to_owned(), CategoryRule::NoCategory));
        let block = data.encode(&signature, &[0, 1, 2, 3]).expect("small numbers");
        assert_eq!(block.row(0), [1.0, 0.0, 1.0]);
        assert_eq!(block.row(1), [2.25, 0.0, 0.0]);
        assert_eq!(data.task(), Task::Classification);
    }

    #[test]
    fn bad_tables_say_where_and_what() {
        assert_eq!(error("a,b\n1,2\n", &settings("z")), "there is no column \"z\"; the columns are: a, b");
        assert!(error("a,y\n1,p\n2\n", &settings("y")).contains("line: 3"));
        assert!(error("a,y\n1,p\n2,\n", &settings("y")).contains("line 3, column y"));
        assert!(error("a,y\n1,p\n2,p\n", &settings("y")).contains("nothing to tell apart"));
        assert!(error("a,a,y\n1,1,p\n", &settings("y")).contains("twice"));
        assert!(error("y\np\nq\n", &settings("y")).contains("no column besides"));
        assert!(error("a,y\n", &settings("y")).contains("no rows"));
        let regression = ReadSettings { task: Some(Task::Regression), ..settings("y") };
        assert!(error("a,y\n1,2\n2,x\n", &regression).contains("line 3, column y: \"x\" is no number"));
    }

    #[test]
    fn a_number_beyond_f32_is_named_by_line_and_column() {
        let data = Dataset::read("a,y\n1,p\n1e300,q\n".as_bytes(), &settings("y")).expect("valid");
        let fault = data.encode(&data.signature(&[0, 1]), &[0, 1]).expect_err("too large");
        assert_eq!(fault.to_string(), "line 3, column a: the number is too large for 32 bits");
    }

    #[test]
    fn the_task_is_inferred_when_plain() {
        let labels: String = (0..40).map(|row| format!("{row},{}\n", row % 3)).collect();
        let task = |text: String| Dataset::read(text.as_bytes(), &settings("y")).expect("valid").task();
        assert_eq!(task(format!("a,y\n{labels}")), Task::Classification);
        let values: String = (0..40).map(|row| format!("{row},{}\n", row)).collect();
        assert_eq!(task(format!("a,y\n{values}")), Task::Regression);
        assert_eq!(task("a,y\n1,1.5\n2,2\n".to_owned()), Task::Regression);
    }

    #[test]
    fn numeric_labels_are_in_numeric_order() {
        let text = "a,y\n1,10\n2,9\n3,10\n4,9\n";
        let classes = ReadSettings { task: Some(Task::Classification), ..settings("y") };
        let data = Dataset::read(text.as_bytes(), &classes).expect("valid");
        assert_eq!(
            data.targets(),
            &Targets::Classes { labels: vec!["9".into(), "10".into()], codes: vec![1, 0, 1, 0] }
        );
    }
}
