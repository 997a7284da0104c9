//! The flags of `train`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::Signing;

/// The values of `train --algorithm`; a test compares them with those that the trainer knows.
pub const ALGORITHMS: [&str; 10] = [
    "random-forest",
    "decision-tree",
    "extra-trees",
    "logistic-regression",
    "linear-regression",
    "ridge",
    "lasso",
    "elastic-net",
    "gaussian-naive-bayes",
    "gradient-boosting",
];

/// `modelstream train`
#[derive(Debug, Args)]
pub struct Train {
    /// A CSV file with a header; `-` reads stdin.
    #[arg(value_name = "DATA.csv")]
    pub data: PathBuf,
    /// The column to predict.
    #[arg(long, value_name = "COLUMN")]
    pub target: String,
    /// What kind of target it is; taken from the data when not given.
    #[arg(long, value_parser = PossibleValuesParser::new(["classification", "regression"]))]
    pub task: Option<String>,
    /// How to fit.
    #[arg(long, default_value = "random-forest", value_parser = PossibleValuesParser::new(ALGORITHMS))]
    pub algorithm: String,
    /// Columns to leave out, comma-separated.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub drop: Vec<String>,
    /// Columns to treat as words although they look like numbers, comma-separated.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub categorical: Vec<String>,
    /// How categories become columns.
    #[arg(long, default_value = "one-hot", value_parser = PossibleValuesParser::new(["one-hot", "ordinal"]))]
    pub encoding: String,
    /// What the server does with a category that the trainer never saw: a dead letter, or a row without that category.
    #[arg(long, default_value = "refuse", value_parser = PossibleValuesParser::new(["refuse", "ignore"]))]
    pub unknown_category: String,
    /// Leave out rows without a target instead of failing.
    #[arg(long)]
    pub drop_missing_target: bool,
    /// The share of the rows that the model is evaluated on and never sees; 0 evaluates nothing.
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    pub test_size: f64,
    /// Seed of the split and of the algorithm; same data and seed, same digest.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Also evaluate by K-fold cross-validation.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..=100))]
    pub folds: Option<u32>,
    /// Refuse to write or publish a model below the bar, for example `f1>=0.95` or `rmse<=2.5` (exit code 8). May be given
    /// more than once.
    #[arg(long, value_name = "METRIC>=VALUE")]
    pub require: Vec<String>,
    /// Write the artifact to this file.
    #[arg(long, value_name = "FILE.model")]
    pub out: Option<PathBuf>,
    /// Publish the artifact as a new version of `--model`.
    #[arg(long, requires = "model")]
    pub publish: bool,
    /// The name of the model to publish.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// A sentence for the model card.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub note: String,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub hyper: Hyper,
}

/// Hyper-parameters by scikit-learn's names; one that the algorithm lacks is an error.
#[derive(Debug, Args)]
#[command(next_help_heading = "Hyper-parameters (scikit-learn's names)")]
pub struct Hyper {
    /// Trees of a forest, rounds of boosting.
    #[arg(long, value_name = "N")]
    pub n_estimators: Option<usize>,
    /// The deepest that a tree may grow.
    #[arg(long, value_name = "N")]
    pub max_depth: Option<u16>,
    /// The fewest rows of a leaf.
    #[arg(long, value_name = "N")]
    pub min_samples_leaf: Option<usize>,
    /// The fewest rows of a node that is split.
    #[arg(long, value_name = "N")]
    pub min_samples_split: Option<usize>,
    /// Columns that a split chooses from: `sqrt`, `log2`, a number of columns, or a share such as `0.5`.
    #[arg(long, value_name = "sqrt|log2|N|SHARE")]
    pub max_features: Option<String>,
    /// How a classification tree judges a split: `gini`, `entropy`.
    #[arg(long, value_name = "NAME")]
    pub criterion: Option<String>,
    /// Inverse strength of logistic regression's L2 penalty.
    #[arg(long = "C", value_name = "VALUE")]
    pub c: Option<f64>,
    /// Strength of the penalty of ridge, lasso, elastic-net.
    #[arg(long, value_name = "VALUE")]
    pub alpha: Option<f64>,
    /// Share of L1 in elastic-net's penalty.
    #[arg(long, value_name = "SHARE")]
    pub l1_ratio: Option<f64>,
    /// How much each boosting round counts.
    #[arg(long, value_name = "VALUE")]
    pub learning_rate: Option<f64>,
    /// Share of the rows that each boosting round sees.
    #[arg(long, value_name = "SHARE")]
    pub subsample: Option<f64>,
    /// Share of the largest variance that naive Bayes adds to all variances.
    #[arg(long, value_name = "VALUE")]
    pub var_smoothing: Option<f64>,
    /// The most iterations of an iterative solver.
    #[arg(long, value_name = "N")]
    pub max_iter: Option<usize>,
    /// When an iterative solver stops.
    #[arg(long, value_name = "VALUE")]
    pub tol: Option<f64>,
}
