//! The model's way, first half: a table becomes a proven artifact.
//!
//! - [`dataset`]: a CSV table becomes features by their signature's rules
//! - [`estimator`] fits: the only place naming smartcore
//! - [`evaluate`]: how good a model is on rows that it has not seen
//! - [`golden`]: inputs whose outputs every loader must reproduce

pub mod dataset;
pub mod estimator;
pub mod evaluate;
pub mod golden;
pub mod rng;

use std::collections::BTreeMap;
use std::io::Read;

use crate::model::artifact::{Evaluation, FORMAT};
use crate::model::{Artifact, Model, Predictions, Predictor, Refusal, Signature};

use dataset::{Dataset, ReadSettings, Targets};
use estimator::{Algorithm, Fit, HyperParameters};
use evaluate::{Report, Requirement};

/// Classes or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// One of a set of labels.
    Classification,
    /// A number.
    Regression,
}

impl Task {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Task::Classification => "classification",
            Task::Regression => "regression",
        }
    }
}

/// What a training ends with when it does not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A broken row; the text names its line.
    #[error("the table is not valid CSV: {0}")]
    Csv(csv::Error),
    /// A column that is not there.
    #[error("there is no column {name:?}; the columns are: {columns}")]
    NoColumn {
        /// The name.
        name: String,
        /// Those that there are.
        columns: String,
    },
    /// The data does not do.
    #[error("{0}")]
    Data(String),
    /// A setting does not fit.
    #[error("{0}")]
    Setting(String),
    /// The fit failed.
    #[error("the model cannot be fitted: {0}")]
    Fit(String),
    /// The fitted model fails the checks of a loader.
    #[error("the fitted model fails its own checks: {0}")]
    Refused(#[from] Refusal),
    /// The model is not good enough.
    #[error("{0}")]
    BelowTheBar(String),
}

/// What a training is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How the table is read.
    pub read: ReadSettings,
    /// How to fit.
    pub algorithm: Algorithm,
    /// With which hyper-parameters.
    pub hyper: HyperParameters,
    /// The share of the rows that the model is evaluated on and never sees.
    pub test_size: f64,
    /// Everything random comes from here.
    pub seed: u64,
    /// Also evaluate by cross-validation.
    pub folds: Option<usize>,
    /// Bars that the model must reach.
    pub requirements: Vec<Requirement>,
    /// Threads of a forest; the result does not depend on it.
    pub threads: usize,
}

/// The share of the rows that is put aside where the user does not say.
pub const TEST_SIZE: f64 = 0.2;
/// The seed where the user does not say.
pub const SEED: u64 = 7;

impl Settings {
    /// The defaults of `modelstream train`, on all cores.
    pub fn new(target: &str, algorithm: Algorithm) -> Settings {
        Settings {
            read: ReadSettings::new(target),
            algorithm,
            hyper: HyperParameters::default(),
            test_size: TEST_SIZE,
            seed: SEED,
            folds: None,
            requirements: Vec::new(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// What a training brought.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The model. It was fitted on the train rows alone: what was evaluated is what is published.
    pub artifact: Artifact,
    /// How good it is on the test rows; none when there are none.
    pub report: Option<Report>,
    /// How good each fold's model is on its test rows.
    pub folds: Vec<Report>,
}

/// Fits a model on a table and evaluates it. The same table, settings and seed give the same artifact.
///
/// # Errors
/// When the table or a setting does not do, or the model is below a bar.
pub fn train(
    input: impl Read,
    settings: &Settings,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Trained, Error> {
    if !(0.0..1.0).contains(&settings.test_size) {
        return Err(Error::Setting(format!("--test-size {}: expected from 0 to below 1", settings.test_size)));
    }
    let data = Dataset::read(input, &settings.read)?;
    settings.hyper.check(settings.algorithm, data.task())?;
    let split = evaluate::train_test_split(data.targets(), settings.test_size, settings.seed);
    if split.train.is_empty() {
        return Err(Error::Data(format!("{} rows are too few to put some aside", data.rows())));
    }
    let signature = data.signature(&split.train);
    let predictor = fit(&data, settings, &signature, &split.train, progress)?;
    let model = Model::new(signature.clone(), predictor.clone())?;
    let report = match split.test.is_empty() {
        true => None,
        false => Some(report(&data, &model, &split.test)?),
    };
    let metrics = report.as_ref().map(Report::metrics).unwrap_or_default();
    settings.requirements.iter().try_for_each(|requirement| requirement.check(&metrics))?;
    let folds = cross_validate(&data, settings)?;
    let golden_rows = golden::choose(&data, &model, &split.train);
    let evaluation = Evaluation {
        train_rows: split.train.len() as u64,
        test_rows: split.test.len() as u64,
        metrics,
        confusion_matrix: report.as_ref().map(Report::confusion_matrix).unwrap_or_default(),
    };
    let artifact = Artifact {
        format: FORMAT,
        algorithm: settings.algorithm.name().to_owned(),
        hyper_parameters: hyper_parameters(settings),
        signature,
        predictor,
        evaluation,
        golden_rows,
    };
    artifact.clone().into_model()?;
    Ok(Trained { artifact, report, folds })
}

fn hyper_parameters(settings: &Settings) -> BTreeMap<String, String> {
    let named = settings.hyper.named().into_iter().map(|(name, value)| (name.to_owned(), value));
    named.chain([("random_state".to_owned(), settings.seed.to_string())]).collect()
}

fn fit(
    data: &Dataset,
    settings: &Settings,
    signature: &Signature,
    rows: &[usize],
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Predictor, Error> {
    let block = data.encode(signature, rows)?;
    let targets = data.targets().pick(rows);
    check_classes(&targets)?;
    let (algorithm, hyper, seed, threads) = (settings.algorithm, &settings.hyper, settings.seed, settings.threads);
    Fit { algorithm, hyper, seed, threads, progress }.run(&block, &targets)
}

/// A class without a row cannot be learned.
fn check_classes(targets: &Targets) -> Result<(), Error> {
    let Targets::Classes { labels, codes } = targets else { return Ok(()) };
    let absent = labels.iter().zip(0..).find(|(_, code)| !codes.contains(code));
    match absent {
        Some((label, _)) => Err(Error::Data(format!("the class {label} has no row to be fitted on: use fewer folds"))),
        None => Ok(()),
    }
}

fn report(data: &Dataset, model: &Model, rows: &[usize]) -> Result<Report, Error> {
    let mut predictions = Predictions::default();
    model.predict(&data.encode(model.signature(), rows)?, &mut predictions);
    Ok(Report::new(&data.targets().pick(rows), &predictions))
}

fn cross_validate(data: &Dataset, settings: &Settings) -> Result<Vec<Report>, Error> {
    let Some(folds) = settings.folds else { return Ok(Vec::new()) };
    let splits = evaluate::k_fold(data.targets(), folds, settings.seed);
    splits
        .iter()
        .map(|split| {
            let signature = data.signature(&split.train);
            let predictor = fit(data, settings, &signature, &split.train, &|_, _| {})?;
            report(data, &Model::new(signature, predictor)?, &split.test)
        })
        .collect()
}
