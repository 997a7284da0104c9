//! `modelstream train`

use std::path::Path;

use serde::Serialize;

use crate::cli;
use crate::model::Digest;
use crate::model::signature::{CategoryRule, Encoding};
use crate::registry::publish::{Request, Source};
use crate::train::dataset::ReadSettings;
use crate::train::estimator::{Algorithm, Criterion, HyperParameters, MaxFeatures};
use crate::train::evaluate::{Report, Requirement};
use crate::train::{self, Settings, Task, Trained, train};

use super::publish::publish_with_bar;
use super::{Error, print, rows};

/// What a training prints as JSON.
#[derive(Serialize)]
struct Document<'a> {
    algorithm: &'a str,
    task: &'a str,
    train_rows: u64,
    test_rows: u64,
    report: Option<&'a Report>,
    folds: &'a [Report],
    digest: String,
    bytes: usize,
    file: Option<&'a Path>,
    published: Option<super::publish::Report>,
}

/// Fits a model, reports how good it is, writes or publishes it.
///
/// # Errors
/// When the data or the settings do not fit, or the model is below the bar (exit code 8).
pub fn run(common: &cli::Common, train: &cli::Train) -> Result<(), Error> {
    let settings = settings(train)?;
    let bar = print::progress(Some(0), "trees");
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let trained = self::train(rows::open(&train.data)?, &settings, &progress);
    bar.finish_and_clear();
    let trained = trained?;
    let bytes = encode(&trained)?;
    if let Some(path) = &train.out {
        std::fs::write(path, &bytes)
            .map_err(|source| Error::Io { doing: format!("writing {}", path.display()), source })?;
    }
    let published = match &train.model {
        Some(model) if train.publish => {
            let source = Source::Bytes(&bytes);
            let request = Request { model, version: None, source, note: train.note.clone() };
            let published = publish_with_bar(common, &train.signing, &request, bytes.len() as u64)?;
            Some(super::publish::Report::new(&published))
        }
        _ => None,
    };
    show(common, train, &trained, &bytes, published)
}

/// Fits on a CSV text as `train` does with its defaults; the artifact's bytes and its accuracy on unseen rows.
pub(super) fn fit_csv(
    csv: &[u8],
    target: &str,
    algorithm: &str,
    max_depth: Option<u16>,
) -> Result<(Vec<u8>, f64), Error> {
    let mut settings = Settings::new(target, Algorithm::parse(algorithm)?);
    settings.hyper.max_depth = max_depth;
    let trained = train(csv, &settings, &|_, _| {})?;
    let accuracy = trained.artifact.evaluation.metrics.get("accuracy").copied().unwrap_or_default();
    Ok((encode(&trained)?, accuracy))
}

fn encode(trained: &Trained) -> Result<Vec<u8>, Error> {
    let refused = |refusal| Error::Refused { what: "the fitted model".to_owned(), refusal };
    trained.artifact.encode().map_err(refused)
}

fn settings(train: &cli::Train) -> Result<Settings, train::Error> {
    let hyper = &train.hyper;
    let criterion = match hyper.criterion.as_deref() {
        None => None,
        Some("gini") => Some(Criterion::Gini),
        Some("entropy") => Some(Criterion::Entropy),
        Some(other) => {
            return Err(train::Error::Setting(format!("--criterion {other}: expected gini or entropy")));
        }
    };
    let read = ReadSettings {
        task: train.task.as_deref().map(|task| match task {
            "regression" => Task::Regression,
            _ => Task::Classification,
        }),
        drop: train.drop.clone(),
        categorical: train.categorical.clone(),
        encoding: if train.encoding == "ordinal" { Encoding::Ordinal } else { Encoding::OneHot },
        unknown: if train.unknown_category == "ignore" { CategoryRule::NoCategory } else { CategoryRule::Refuse },
        drop_missing_target: train.drop_missing_target,
        ..ReadSettings::new(&train.target)
    };
    Ok(Settings {
        read,
        hyper: HyperParameters {
            n_estimators: hyper.n_estimators,
            max_depth: hyper.max_depth,
            min_samples_leaf: hyper.min_samples_leaf,
            min_samples_split: hyper.min_samples_split,
            max_features: hyper.max_features.as_deref().map(MaxFeatures::parse).transpose()?,
            criterion,
            C: hyper.c,
            alpha: hyper.alpha,
            l1_ratio: hyper.l1_ratio,
            learning_rate: hyper.learning_rate,
            subsample: hyper.subsample,
            var_smoothing: hyper.var_smoothing,
            max_iter: hyper.max_iter,
            tol: hyper.tol,
        },
        test_size: train.test_size,
        seed: train.seed,
        folds: train.folds.map(|folds| folds as usize),
        requirements: train.require.iter().map(|text| Requirement::parse(text)).collect::<Result<_, _>>()?,
        ..Settings::new(&train.target, Algorithm::parse(&train.algorithm)?)
    })
}

fn show(
    common: &cli::Common,
    train: &cli::Train,
    trained: &Trained,
    bytes: &[u8],
    published: Option<super::publish::Report>,
) -> Result<(), Error> {
    let artifact = &trained.artifact;
    let task = if artifact.signature.is_classification() { Task::Classification } else { Task::Regression };
    let (train_rows, test_rows) = (artifact.evaluation.train_rows, artifact.evaluation.test_rows);
    let digest = Digest::of(bytes).to_string();
    if common.json {
        return print::json(&Document {
            algorithm: &artifact.algorithm,
            task: task.name(),
            train_rows,
            test_rows,
            report: trained.report.as_ref(),
            folds: &trained.folds,
            digest,
            bytes: bytes.len(),
            file: train.out.as_deref(),
            published,
        });
    }
    let mut text = format!("{} {}, {train_rows} rows to fit", artifact.algorithm, task.name());
    match &trained.report {
        Some(report) => text += &format!(", {test_rows} unseen rows to evaluate:\n\n{}", report.text()),
        None => text += "; nothing was evaluated\n",
    }
    text += &folds_text(&trained.folds);
    text += &format!("\ndigest {digest}, {} bytes", bytes.len());
    match (&train.out, &published) {
        (None, None) => text += "; --out FILE.model keeps it, --publish --model NAME publishes it",
        (out, published) => {
            text += &out.as_ref().map_or_else(String::new, |path| format!(", written to {}", path.display()));
            text += &published.as_ref().map_or_else(String::new, |report| format!("\n{}", report.text()));
        }
    }
    print::line(&text)
}

/// Mean and standard deviation of each metric over the folds.
fn folds_text(folds: &[Report]) -> String {
    let mut text = String::new();
    let Some(first) = folds.first() else { return text };
    for name in first.metrics().keys() {
        let values: Vec<f64> = folds.iter().filter_map(|fold| fold.metrics().get(name).copied()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        text += &format!("{name} over {} folds: {mean:.4} ± {:.4}\n", values.len(), variance.sqrt());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_has_the_trainers_defaults() {
        let line = ["modelstream", "train", "x.csv", "--target", "y"].map(Into::into);
        let cli::Verb::Train(typed) = cli::try_parse(line).expect("valid").verb else { panic!("another verb") };
        let settings = settings(&typed).expect("valid");
        let defaults = Settings::new("y", Algorithm::RandomForest);
        assert_eq!(format!("{settings:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn the_command_line_knows_the_trainers_algorithms() {
        assert_eq!(Algorithm::ALL.map(|(_, name)| name), cli::ALGORITHMS);
    }
}
