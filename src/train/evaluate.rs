//! How good a model is on rows that it has not seen: splits, metrics, a report like scikit-learn's.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::model::Predictions;

use super::Error;
use super::dataset::Targets;
use super::rng::SplitMix64;

/// Rows to fit on and rows to evaluate on, each in the table's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// To fit on.
    pub train: Vec<usize>,
    /// To evaluate on.
    pub test: Vec<usize>,
}

/// Puts a share of the rows aside, of each class the same share; a class keeps at least one row to be fitted on.
pub fn train_test_split(targets: &Targets, test_size: f64, seed: u64) -> Split {
    let mut split = Split { train: Vec::new(), test: Vec::new() };
    for rows in shuffled_groups(targets, seed) {
        let wanted = (rows.len() as f64 * test_size).round() as usize;
        let (test, train) = rows.split_at(wanted.min(rows.len().saturating_sub(1)));
        split.test.extend(test);
        split.train.extend(train);
    }
    split.train.sort_unstable();
    split.test.sort_unstable();
    split
}

/// `folds` splits whose test rows are disjoint and together all rows, of each class about the same share in each.
pub fn k_fold(targets: &Targets, folds: usize, seed: u64) -> Vec<Split> {
    let mut fold_of = vec![0; rows_of(targets)];
    let mut next = 0;
    for rows in shuffled_groups(targets, seed) {
        for row in rows {
            fold_of[row] = next % folds;
            next += 1;
        }
    }
    let split = |fold| {
        let (test, train) = (0..fold_of.len()).partition(|row| fold_of[*row] == fold);
        Split { train, test }
    };
    (0..folds).map(split).filter(|split| !split.test.is_empty() && !split.train.is_empty()).collect()
}

fn rows_of(targets: &Targets) -> usize {
    match targets {
        Targets::Classes { codes, .. } => codes.len(),
        Targets::Values(values) => values.len(),
    }
}

/// The rows of each class, shuffled; of a regression all rows as one group.
fn shuffled_groups(targets: &Targets, seed: u64) -> Vec<Vec<usize>> {
    let mut rng = SplitMix64::new(seed);
    let mut groups = match targets {
        Targets::Values(values) => vec![(0..values.len()).collect::<Vec<usize>>()],
        Targets::Classes { labels, codes } => {
            let mut groups = vec![Vec::new(); labels.len()];
            for (row, code) in codes.iter().enumerate() {
                groups[*code as usize].push(row);
            }
            groups
        }
    };
    groups.iter_mut().for_each(|group| rng.shuffle(group));
    groups
}

/// What a model got right.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// Of a classification.
    Classification(ClassificationReport),
    /// Of a regression.
    Regression(RegressionReport),
}

/// As scikit-learn's `classification_report`; a ratio without a denominator is 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassificationReport {
    /// One for each class, in class order.
    pub classes: Vec<ClassScores>,
    /// Unweighted means over the classes that occur.
    pub macro_average: ClassScores,
    /// Means weighted by support.
    pub weighted_average: ClassScores,
    /// The share of rows with the right class.
    pub accuracy: f64,
    /// Rows by true class (outer) and predicted class (inner).
    pub confusion_matrix: Vec<Vec<u64>>,
}

/// The scores of one class, or an average.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassScores {
    /// The class, or the average's name.
    pub label: String,
    /// Of the rows that were predicted to be this class, the share that is.
    pub precision: f64,
    /// Of the rows that are this class, the share that was predicted to be.
    pub recall: f64,
    /// The harmonic mean of both.
    pub f1: f64,
    /// The number of rows that are this class.
    pub support: u64,
}

/// How far the predictions are from the values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegressionReport {
    /// Mean absolute error.
    pub mae: f64,
    /// Root of the mean squared error.
    pub rmse: f64,
    /// 1 minus the ratio of the squared errors to those of predicting the mean.
    pub r2: f64,
    /// The number of rows.
    pub support: u64,
}

impl Report {
    /// Compares predictions with the truth.
    pub fn new(targets: &Targets, predictions: &Predictions) -> Report {
        match targets {
            Targets::Classes { labels, codes } => {
                let mut matrix = vec![vec![0; labels.len()]; labels.len()];
                for (row, code) in codes.iter().enumerate() {
                    let predicted = predictions.class(row).unwrap_or_default();
                    matrix[*code as usize][predicted] += 1;
                }
                Report::Classification(ClassificationReport::new(labels, matrix))
            }
            Targets::Values(values) => Report::Regression(RegressionReport::new(values, predictions)),
        }
    }

    /// The metrics by the names that [`Requirement`] knows. `precision`, `recall` and `f1` are macro averages.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let metrics: Vec<(&str, f64)> = match self {
            Report::Classification(report) => {
                let average = &report.macro_average;
                vec![
                    ("accuracy", report.accuracy),
                    ("precision", average.precision),
                    ("recall", average.recall),
                    ("f1", average.f1),
                ]
            }
            Report::Regression(report) => vec![("mae", report.mae), ("rmse", report.rmse), ("r2", report.r2)],
        };
        metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The confusion matrix; empty for a regression.
    pub fn confusion_matrix(&self) -> Vec<Vec<u64>> {
        match self {
            Report::Classification(report) => report.confusion_matrix.clone(),
            Report::Regression(_) => Vec::new(),
        }
    }

    /// The report for a person.
    pub fn text(&self) -> String {
        match self {
            Report::Classification(report) => report.text(),
            Report::Regression(RegressionReport { mae, rmse, r2, support }) => {
                format!("MAE {mae:.4}\nRMSE {rmse:.4}\nR² {r2:.4}\n({support} rows)\n")
            }
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

impl ClassificationReport {
    fn new(labels: &[String], confusion_matrix: Vec<Vec<u64>>) -> ClassificationReport {
        let (mut right, mut total) = (0, 0);
        let mut classes = Vec::with_capacity(labels.len());
        for (class, label) in labels.iter().enumerate() {
            let hits = confusion_matrix[class][class];
            let support: u64 = confusion_matrix[class].iter().sum();
            let predicted: u64 = confusion_matrix.iter().map(|row| row[class]).sum();
            let (precision, recall) = (ratio(hits as f64, predicted as f64), ratio(hits as f64, support as f64));
            let f1 = ratio(2.0 * precision * recall, precision + recall);
            classes.push(ClassScores { label: label.clone(), precision, recall, f1, support });
            right += hits;
            total += support;
        }
        let accuracy = ratio(right as f64, total as f64);
        let occurring = |class: &ClassScores| f64::from(u8::from(class.support > 0));
        let macro_average = average("macro avg", &classes, total, occurring);
        let weighted_average = average("weighted avg", &classes, total, |class| class.support as f64);
        ClassificationReport { classes, macro_average, weighted_average, accuracy, confusion_matrix }
    }

    fn text(&self) -> String {
        let labels = self.classes.iter().map(|class| class.label.chars().count());
        let width = labels.max().unwrap_or(0).max("weighted avg".len());
        let mut text = format!("{:>width$}  precision    recall  f1-score   support\n\n", "");
        let mut line = |scores: &ClassScores| {
            let ClassScores { label, precision, recall, f1, support } = scores;
            // Writing to a string does not fail.
            let _ = writeln!(text, "{label:>width$} {precision:>10.3}{recall:>10.3}{f1:>10.3}{support:>10}");
        };
        self.classes.iter().for_each(&mut line);
        line(&self.macro_average);
        line(&self.weighted_average);
        let (accuracy, support) = (self.accuracy, self.macro_average.support);
        let _ = writeln!(text, "{:>width$} {:>10}{:>10}{accuracy:>10.3}{support:>10}", "accuracy", "", "");
        let _ = writeln!(text, "\nconfusion matrix (rows: true, columns: predicted)");
        for (class, row) in self.classes.iter().zip(&self.confusion_matrix) {
            let counts: String = row.iter().map(|count| format!("{count:>8}")).collect();
            let _ = writeln!(text, "{:>width$} {counts}", class.label);
        }
        text
    }
}

fn average(name: &str, classes: &[ClassScores], support: u64, weight: impl Fn(&ClassScores) -> f64) -> ClassScores {
    let whole: f64 = classes.iter().map(&weight).sum();
    let mean =
        |score: fn(&ClassScores) -> f64| ratio(classes.iter().map(|class| weight(class) * score(class)).sum(), whole);
    let (precision, recall, f1) = (mean(|class| class.precision), mean(|class| class.recall), mean(|class| class.f1));
    ClassScores { label: name.to_owned(), precision, recall, f1, support }
}

impl RegressionReport {
    fn new(values: &[f64], predictions: &Predictions) -> RegressionReport {
        let rows = values.len() as f64;
        let mean = values.iter().sum::<f64>() / rows;
        let errors = values.iter().enumerate().map(|(row, value)| value - predictions.outputs(row)[0]);
        let (absolute, squared) =
            errors.fold((0.0, 0.0), |(absolute, squared), error| (absolute + error.abs(), squared + error * error));
        let spread: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        // scikit-learn's convention for a constant target: 1 when every value is met, else 0.
        let r2 = match spread == 0.0 {
            true => f64::from(u8::from(squared == 0.0)),
            false => 1.0 - squared / spread,
        };
        RegressionReport { mae: absolute / rows, rmse: (squared / rows).sqrt(), r2, support: values.len() as u64 }
    }
}

/// A bar that a model must reach: `f1>=0.95`.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirement {
    metric: String,
    relation: Relation,
    value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Relation {
    AtLeast,
    Above,
    AtMost,
    Below,
}

impl Requirement {
    const METRICS: [&'static str; 7] = ["accuracy", "precision", "recall", "f1", "mae", "rmse", "r2"];

    /// Reads `METRIC>=VALUE`; also with `>`, `<=`, `<`.
    ///
    /// # Errors
    /// When it is none, or the metric is not known (with those that are).
    pub fn parse(text: &str) -> Result<Requirement, Error> {
        let relations =
            [(">=", Relation::AtLeast), ("<=", Relation::AtMost), (">", Relation::Above), ("<", Relation::Below)];
        let found = relations.iter().find_map(|(sign, relation)| {
            let (metric, value) = text.split_once(sign)?;
            Some((metric.trim(), *relation, value.trim().parse::<f64>().ok().filter(|value| value.is_finite())?))
        });
        let bad = |why: String| Error::Setting(format!("--require {text}: {why}"));
        let (metric, relation, value) = found.ok_or_else(|| bad("expected METRIC>=VALUE".to_owned()))?;
        if !Requirement::METRICS.contains(&metric) {
            return Err(bad(format!("the metrics are: {}", Requirement::METRICS.join(", "))));
        }
        Ok(Requirement { metric: metric.to_owned(), relation, value })
    }

    /// Checks the bar.
    ///
    /// # Errors
    /// [`Error::BelowTheBar`] when it is not reached; [`Error::Setting`] when the metric is of the other task, or nothing was
    /// evaluated.
    pub fn check(&self, metrics: &BTreeMap<String, f64>) -> Result<(), Error> {
        let Requirement { metric, relation, value } = self;
        let Some(actual) = metrics.get(metric) else {
            let known: Vec<&str> = metrics.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none, for nothing was evaluated".to_owned() } else { known.join(", ") };
            return Err(Error::Setting(format!("--require {metric}: this model's metrics are: {known}")));
        };
        let (reached, sign) = match relation {
            Relation::AtLeast => (actual >= value, ">="),
            Relation::Above => (actual > value, ">"),
            Relation::AtMost => (actual <= value, "<="),
            Relation::Below => (actual < value, "<"),
        };
        if reached {
            Ok(())
        } else {
            Err(Error::BelowTheBar(format!("{metric} is {actual:.4}, required is {sign} {value}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(codes: &[u32]) -> Targets {
        Targets::Classes { labels: vec!["a".into(), "b".into(), "c".into()], codes: codes.to_vec() }
    }

    #[test]
    fn a_split_keeps_the_shares_of_the_classes_and_every_row_once() {
        let codes: Vec<u32> = (0..100).map(|row| u32::from(row % 10 == 0)).collect();
        let split = train_test_split(&classes(&codes), 0.2, 7);
        assert_eq!((split.train.len(), split.test.len()), (80, 20));
        assert_eq!(split.test.iter().filter(|row| codes[**row] == 1).count(), 2);
        let mut all = [split.train.clone(), split.test.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert_eq!(split, train_test_split(&classes(&codes), 0.2, 7));
        assert_ne!(split, train_test_split(&classes(&codes), 0.2, 8));
    }

    #[test]
    fn a_class_of_one_row_is_fitted_on() {
        let split = train_test_split(&classes(&[0, 0, 0, 0, 1]), 0.9, 7);
        assert!(split.train.contains(&4));
        assert!(train_test_split(&classes(&[0, 1, 0, 1]), 0.0, 7).test.is_empty());
    }

    #[test]
    fn folds_test_every_row_once() {
        let splits = k_fold(&Targets::Values(vec![0.0; 10]), 3, 7);
        let mut tested: Vec<usize> = splits.iter().flat_map(|split| split.test.clone()).collect();
        tested.sort_unstable();
        assert_eq!(tested, (0..10).collect::<Vec<_>>());
        assert!(splits.iter().all(|split| split.train.len() + split.test.len() == 10));
    }

    #[test]
    fn a_report_has_scikit_learns_numbers() {
        // classification_report(['a','a','a','b','b','c'], ['a','a','b','b','b','a'], zero_division=0)
        let matrix = vec![vec![2, 1, 0], vec![0, 2, 0], vec![1, 0, 0]];
        let labels = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let report = ClassificationReport::new(&labels, matrix);
        let rounded = |scores: &ClassScores| {
            [scores.precision, scores.recall, scores.f1].map(|score| (score * 1e6).round() / 1e6)
        };
        assert_eq!(rounded(&report.classes[0]), [0.666_667, 0.666_667, 0.666_667]);
        assert_eq!(rounded(&report.classes[1]), [0.666_667, 1.0, 0.8]);
        assert_eq!(rounded(&report.macro_average), [0.444_444, 0.555_556, 0.488_889]);
        assert_eq!(rounded(&report.weighted_average), [0.555_556, 0.666_667, 0.6]);
        assert!((report.accuracy - 4.0 / 6.0).abs() < 1e-12);
        assert!(report.text().contains("macro avg"), "{}", report.text());
    }

    #[test]
    fn a_requirement_is_read_and_checked() {
        let metrics = BTreeMap::from([("f1".to_owned(), 0.9)]);
        assert!(Requirement::parse("f1>=0.9").expect("valid").check(&metrics).is_ok());
        let below = Requirement::parse("f1 > 0.9").expect("valid").check(&metrics).expect_err("not above");
        assert_eq!(below.to_string(), "f1 is 0.9000, required is > 0.9");
        assert!(matches!(Requirement::parse("r2>=0.5").expect("valid").check(&metrics), Err(Error::Setting(_))));
        for bad in ["f1", "f1=0.9", "f1>=x", "auc>=0.9", "f1>=nan"] {
            assert!(Requirement::parse(bad).is_err(), "{bad}");
        }
    }
}
