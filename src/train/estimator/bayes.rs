//! Gaussian naive Bayes.

use smartcore::naive_bayes::gaussian::{GaussianNB, GaussianNBParameters};

use crate::model::{Block, NaiveBayes, Predictor};

use super::super::Error;
use super::linear::Standardised;
use super::{HyperParameters, refused};

const VAR_SMOOTHING: f64 = 1e-9;
/// The most that is added to a column's variance, as a share of it: a column of a small scale beside one of a large scale
/// would otherwise drown in what is added to all.
const SMOOTHING_SHARE_MAX: f64 = 1e-3;

/// Fits on standardised columns, folds the scale back, and smooths the variances as scikit-learn does: a share of the
/// largest variance is added to all. A constant column says nothing: it gets the same distribution in every class.
pub(super) fn gaussian(
    hyper: &HyperParameters,
    block: &Block,
    classes: usize,
    codes: &[u32],
) -> Result<Predictor, Error> {
    let standardised = Standardised::new(block);
    if standardised.kept.is_empty() {
        return Err(Error::Fit("every column is constant: there is nothing to learn from".to_owned()));
    }
    let fitted = GaussianNB::fit(&standardised.matrix(), &codes.to_vec(), GaussianNBParameters::default())
        .map_err(|error| refused(&error))?;
    if fitted.classes().len() != classes {
        return Err(Error::Fit("a class has no row to be fitted on".to_owned()));
    }
    let share = hyper.var_smoothing.unwrap_or(VAR_SMOOTHING);
    let largest =
        standardised.deviations.iter().fold(0.0, |largest: f64, deviation| largest.max(deviation * deviation));
    let constant: Vec<f64> = (0..block.columns()).map(|column| f64::from(block.row(0)[column])).collect();
    let mut means: Vec<f64> = (0..classes).flat_map(|_| constant.iter().copied()).collect();
    let mut variances = vec![1.0; classes * block.columns()];
    for class in 0..classes {
        for (index, column) in standardised.kept.iter().enumerate() {
            let (mean, deviation) = (standardised.means[index], standardised.deviations[index]);
            let (place, variance) = (class * block.columns() + column, deviation * deviation);
            let smoothing = (share * largest).min(SMOOTHING_SHARE_MAX.max(share) * variance);
            means[place] = mean + deviation * fitted.theta()[class][index];
            variances[place] = variance * fitted.var()[class][index] + smoothing;
        }
    }
    let log_priors = fitted.class_priors().iter().map(|prior| prior.ln()).collect();
    Ok(Predictor::NaiveBayes(NaiveBayes { log_priors, means, variances }))
}
