//! Fits: the only folder naming smartcore.
//!
//! smartcore fits, we keep the parameters: its models' fields are private but visible through serde, from where they become
//! our own predictors. Its own serialization is never stored.

mod bayes;
mod linear;
mod trees;

use smartcore::linalg::basic::matrix::DenseMatrix;

use crate::model::{Block, Predictor};

use super::dataset::Targets;
use super::{Error, Task};

/// The columns as smartcore takes them.
type Matrix = DenseMatrix<f64>;

/// smartcore's boosted trees are nested objects; deeper ones than this cannot be read from it.
const BOOSTING_DEPTH_MAX: u16 = 100;

/// The algorithms by the names of `train --algorithm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Trees on bootstrap samples that vote, or whose leaves are averaged.
    RandomForest,
    /// One tree.
    DecisionTree,
    /// Trees with random thresholds, averaged.
    ExtraTrees,
    /// Softmax of linear scores with an L2 penalty.
    LogisticRegression,
    /// Ordinary least squares.
    LinearRegression,
    /// Least squares with an L2 penalty.
    Ridge,
    /// Least squares with an L1 penalty.
    Lasso,
    /// Least squares with both.
    ElasticNet,
    /// Independent normal distributions for each class.
    GaussianNaiveBayes,
    /// Trees that each correct those before (smartcore's XGRegressor).
    GradientBoosting,
}

impl Algorithm {
    /// Every algorithm with its name.
    pub const ALL: [(Algorithm, &'static str); 10] = [
        (Algorithm::RandomForest, "random-forest"),
        (Algorithm::DecisionTree, "decision-tree"),
        (Algorithm::ExtraTrees, "extra-trees"),
        (Algorithm::LogisticRegression, "logistic-regression"),
        (Algorithm::LinearRegression, "linear-regression"),
        (Algorithm::Ridge, "ridge"),
        (Algorithm::Lasso, "lasso"),
        (Algorithm::ElasticNet, "elastic-net"),
        (Algorithm::GaussianNaiveBayes, "gaussian-naive-bayes"),
        (Algorithm::GradientBoosting, "gradient-boosting"),
    ];

    /// The algorithm of a name.
    ///
    /// # Errors
    /// When there is none, with the names that there are.
    pub fn parse(name: &str) -> Result<Algorithm, Error> {
        let found = Algorithm::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(algorithm, _)| *algorithm).ok_or_else(|| {
            let known: Vec<&str> = Algorithm::ALL.iter().map(|(_, name)| *name).collect();
            Error::Setting(format!("there is no algorithm {name}; there are: {}", known.join(", ")))
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Algorithm::ALL.iter().find(|(algorithm, _)| *algorithm == self).map_or("", |(_, name)| name)
    }

    /// Whether it can fit this task.
    pub fn fits(self, task: Task) -> bool {
        use Algorithm as A;
        match self {
            A::RandomForest | A::DecisionTree => true,
            A::LogisticRegression | A::GaussianNaiveBayes => task == Task::Classification,
            A::ExtraTrees | A::LinearRegression | A::Ridge | A::Lasso | A::ElasticNet | A::GradientBoosting => {
                task == Task::Regression
            }
        }
    }

    /// The hyper-parameters that it has.
    fn hyper_parameters(self, task: Task) -> &'static [&'static str] {
        const TREE: [&str; 3] = ["max_depth", "min_samples_leaf", "min_samples_split"];
        const TREE_CLASSES: [&str; 4] = ["max_depth", "min_samples_leaf", "min_samples_split", "criterion"];
        const FOREST: [&str; 5] =
            ["n_estimators", "max_depth", "min_samples_leaf", "min_samples_split", "max_features"];
        const FOREST_CLASSES: [&str; 6] =
            ["n_estimators", "max_depth", "min_samples_leaf", "min_samples_split", "max_features", "criterion"];
        match (self, task) {
            (Algorithm::RandomForest, Task::Classification) => &FOREST_CLASSES,
            (Algorithm::RandomForest | Algorithm::ExtraTrees, _) => &FOREST,
            (Algorithm::DecisionTree, Task::Classification) => &TREE_CLASSES,
            (Algorithm::DecisionTree, Task::Regression) => &TREE,
            (Algorithm::LogisticRegression, _) => &["C"],
            (Algorithm::LinearRegression, _) => &[],
            (Algorithm::Ridge, _) => &["alpha"],
            (Algorithm::Lasso, _) => &["alpha", "max_iter", "tol"],
            (Algorithm::ElasticNet, _) => &["alpha", "l1_ratio", "max_iter", "tol"],
            (Algorithm::GaussianNaiveBayes, _) => &["var_smoothing"],
            (Algorithm::GradientBoosting, _) => &["n_estimators", "max_depth", "learning_rate", "subsample"],
        }
    }
}

/// Hyper-parameters by scikit-learn's names; `None` takes scikit-learn's default.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(non_snake_case, reason = "scikit-learn's name for the inverse strength of the penalty is C")]
pub struct HyperParameters {
    /// Trees of a forest, rounds of boosting (100).
    pub n_estimators: Option<usize>,
    /// The deepest that a tree may grow (none; 3 for boosting).
    pub max_depth: Option<u16>,
    /// The fewest rows of a leaf (1).
    pub min_samples_leaf: Option<usize>,
    /// The fewest rows of a node that is split (2).
    pub min_samples_split: Option<usize>,
    /// Columns that a split chooses from (`sqrt` for classes, all for numbers).
    pub max_features: Option<MaxFeatures>,
    /// How a split is judged (Gini).
    pub criterion: Option<Criterion>,
    /// Inverse strength of the penalty of logistic regression (1).
    pub C: Option<f64>,
    /// Strength of the penalty of ridge, lasso, elastic-net (1).
    pub alpha: Option<f64>,
    /// Share of L1 in elastic-net's penalty (0.5).
    pub l1_ratio: Option<f64>,
    /// How much each boosting round counts (0.1).
    pub learning_rate: Option<f64>,
    /// Share of the rows that each boosting round sees (1).
    pub subsample: Option<f64>,
    /// Share of the largest variance that is added to all (1e-9).
    pub var_smoothing: Option<f64>,
    /// The most iterations of a solver (1000).
    pub max_iter: Option<usize>,
    /// When a solver stops (1e-4).
    pub tol: Option<f64>,
}

/// How many columns a split chooses from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxFeatures {
    /// The square root of their number.
    Sqrt,
    /// Its binary logarithm.
    Log2,
    /// So many.
    Count(usize),
    /// This share of them.
    Share(f64),
}

impl MaxFeatures {
    /// Reads `sqrt`, `log2`, a whole number from 1, or a share such as `0.5` or `1.0`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<MaxFeatures, Error> {
        let share = |share: &f64| *share > 0.0 && *share <= 1.0;
        match text {
            "sqrt" => Ok(MaxFeatures::Sqrt),
            "log2" => Ok(MaxFeatures::Log2),
            _ if text.contains('.') => {
                text.parse().ok().filter(share).map(MaxFeatures::Share).ok_or_else(|| MaxFeatures::bad(text))
            }
            _ => {
                let count = text.parse().ok().filter(|count| *count > 0);
                count.map(MaxFeatures::Count).ok_or_else(|| MaxFeatures::bad(text))
            }
        }
    }

    fn bad(text: &str) -> Error {
        Error::Setting(format!(
            "--max-features {text}: expected sqrt, log2, a whole number from 1 or a share up to 1.0"
        ))
    }

    fn of(self, columns: usize) -> usize {
        let count = match self {
            MaxFeatures::Sqrt => (columns as f64).sqrt() as usize,
            MaxFeatures::Log2 => (columns as f64).log2() as usize,
            MaxFeatures::Count(count) => count,
            MaxFeatures::Share(share) => (columns as f64 * share) as usize,
        };
        count.clamp(1, columns)
    }

    fn text(self) -> String {
        match self {
            MaxFeatures::Sqrt => "sqrt".to_owned(),
            MaxFeatures::Log2 => "log2".to_owned(),
            MaxFeatures::Count(count) => count.to_string(),
            MaxFeatures::Share(share) => format!("{share:?}"),
        }
    }
}

/// How a split of a classification tree is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criterion {
    /// Gini impurity.
    Gini,
    /// Information gain.
    Entropy,
}

impl HyperParameters {
    /// Those that were set, by name, as text for the model card.
    pub fn named(&self) -> Vec<(&'static str, String)> {
        let number = |value: &f64| format!("{value:?}");
        let criterion = |criterion: &Criterion| match criterion {
            Criterion::Gini => "gini".to_owned(),
            Criterion::Entropy => "entropy".to_owned(),
        };
        let all = [
            ("n_estimators", self.n_estimators.map(|value| value.to_string())),
            ("max_depth", self.max_depth.map(|value| value.to_string())),
            ("min_samples_leaf", self.min_samples_leaf.map(|value| value.to_string())),
            ("min_samples_split", self.min_samples_split.map(|value| value.to_string())),
            ("max_features", self.max_features.map(MaxFeatures::text)),
            ("criterion", self.criterion.as_ref().map(criterion)),
            ("C", self.C.as_ref().map(number)),
            ("alpha", self.alpha.as_ref().map(number)),
            ("l1_ratio", self.l1_ratio.as_ref().map(number)),
            ("learning_rate", self.learning_rate.as_ref().map(number)),
            ("subsample", self.subsample.as_ref().map(number)),
            ("var_smoothing", self.var_smoothing.as_ref().map(number)),
            ("max_iter", self.max_iter.map(|value| value.to_string())),
            ("tol", self.tol.as_ref().map(number)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Checks that the algorithm has what was set, and each value's range.
    ///
    /// # Errors
    /// For the first that does not fit.
    pub fn check(&self, algorithm: Algorithm, task: Task) -> Result<(), Error> {
        let known = algorithm.hyper_parameters(task);
        if let Some((name, _)) = self.named().into_iter().find(|(name, _)| !known.contains(name)) {
            let (algorithm, task) = (algorithm.name(), task.name());
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::Setting(format!("{algorithm} ({task}) has no hyper-parameter {name}; it has: {known}")));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        let share = |value: f64| positive(value) && value <= 1.0;
        range("n_estimators", self.n_estimators, |count| (1..=10_000).contains(&count), "from 1 to 10000")?;
        if algorithm == Algorithm::GradientBoosting {
            range("max_depth", self.max_depth, |depth| depth <= BOOSTING_DEPTH_MAX, "at most 100 for boosting")?;
        }
        range("max_depth", self.max_depth, |depth| depth >= 1, "from 1")?;
        range("min_samples_leaf", self.min_samples_leaf, |rows| rows >= 1, "from 1")?;
        range("min_samples_split", self.min_samples_split, |rows| rows >= 2, "from 2")?;
        range("C", self.C, positive, "above 0")?;
        range("alpha", self.alpha, not_negative, "from 0")?;
        range("l1_ratio", self.l1_ratio, |value| (0.0..=1.0).contains(&value), "from 0 to 1")?;
        range("learning_rate", self.learning_rate, share, "above 0, at most 1")?;
        range("subsample", self.subsample, share, "above 0, at most 1")?;
        range("var_smoothing", self.var_smoothing, positive, "above 0")?;
        range("max_iter", self.max_iter, |count| count >= 1, "from 1")?;
        range("tol", self.tol, positive, "above 0")
    }
}

fn range<T: Copy + std::fmt::Debug>(
    name: &str,
    value: Option<T>,
    fits: impl Fn(T) -> bool,
    expected: &str,
) -> Result<(), Error> {
    match value {
        Some(value) if !fits(value) => Err(Error::Setting(format!("{name} is {value:?}; expected {expected}"))),
        _ => Ok(()),
    }
}

/// What a fit is told besides the data.
pub struct Fit<'a> {
    /// How to fit.
    pub algorithm: Algorithm,
    /// With which hyper-parameters; checked.
    pub hyper: &'a HyperParameters,
    /// Everything random comes from here.
    pub seed: u64,
    /// Threads of a forest; the result does not depend on it.
    pub threads: usize,
    /// Told (done, total) as trees are fitted.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl Fit<'_> {
    /// Fits the rows of `block` to `targets`.
    ///
    /// # Errors
    /// When the algorithm does not serve the task, or cannot fit these rows.
    pub fn run(&self, block: &Block, targets: &Targets) -> Result<Predictor, Error> {
        match (self.algorithm, targets) {
            (Algorithm::RandomForest, Targets::Classes { labels, codes }) => {
                trees::classification_forest(self, &matrix(block), labels.len(), codes)
            }
            (Algorithm::RandomForest, Targets::Values(values)) => {
                trees::regression_forest(self, &matrix(block), values, trees::Splits::Best)
            }
            (Algorithm::ExtraTrees, Targets::Values(values)) => {
                trees::regression_forest(self, &matrix(block), values, trees::Splits::Random)
            }
            (Algorithm::DecisionTree, Targets::Classes { codes, .. }) => {
                trees::classification_tree(self, &matrix(block), codes)
            }
            (Algorithm::DecisionTree, Targets::Values(values)) => trees::regression_tree(self, &matrix(block), values),
            (Algorithm::GradientBoosting, Targets::Values(values)) => trees::boosting(self, &matrix(block), values),
            (Algorithm::LogisticRegression, Targets::Classes { labels, codes }) => {
                linear::logistic(self.hyper, block, labels.len(), codes)
            }
            (
                Algorithm::LinearRegression | Algorithm::Ridge | Algorithm::Lasso | Algorithm::ElasticNet,
                Targets::Values(values),
            ) => linear::regression(self.algorithm, self.hyper, block, values),
            (Algorithm::GaussianNaiveBayes, Targets::Classes { labels, codes }) => {
                bayes::gaussian(self.hyper, block, labels.len(), codes)
            }
            (algorithm, targets) => Err(wrong_task(algorithm, targets)),
        }
    }
}

fn wrong_task(algorithm: Algorithm, targets: &Targets) -> Error {
    let task = if matches!(targets, Targets::Values(_)) { Task::Regression } else { Task::Classification };
    let fitting = Algorithm::ALL.iter().filter(|(algorithm, _)| algorithm.fits(task)).map(|(_, name)| *name);
    let fitting: Vec<&str> = fitting.collect();
    let (name, task) = (algorithm.name(), task.name());
    Error::Setting(format!("{name} does not fit a {task}; these do: {}", fitting.join(", ")))
}

/// The rows as smartcore takes them.
fn matrix(block: &Block) -> Matrix {
    let values: Vec<f64> = block.iter().flatten().map(|value| f64::from(*value)).collect();
    DenseMatrix::new(block.rows(), block.columns(), values, false).expect("a block has rows times columns values")
}

/// smartcore's refusal to fit.
fn refused(error: &smartcore::error::Failed) -> Error {
    Error::Fit(error.to_string())
}
