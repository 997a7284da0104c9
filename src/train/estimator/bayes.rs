//! Gaussian naive Bayes.

use smartcore::naive_bayes::gaussian::{GaussianNB, GaussianNBParameters};

use crate::model::{Block, NaiveBayes, Predictor};

use super::super::Error;
use super::linear::Standardised;
use super::{HyperParameters, refused};

const VAR_SMOOTHING: f64 = 1e-9;

/// Fits on standardised columns, smooths the variances there, and folds the scale back. A constant column says nothing: it
/// gets the same distribution in every class.
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
    // The largest variance of a standardised column is 1.
    let smoothing = hyper.var_smoothing.unwrap_or(VAR_SMOOTHING);
    let constant: Vec<f64> = (0..block.columns()).map(|column| f64::from(block.row(0)[column])).collect();
    let mut means: Vec<f64> = (0..classes).flat_map(|_| constant.iter().copied()).collect();
    let mut variances = vec![1.0; classes * block.columns()];
    for class in 0..classes {
        for (index, column) in standardised.kept.iter().enumerate() {
            let (mean, deviation) = (standardised.means[index], standardised.deviations[index]);
            let place = class * block.columns() + column;
            means[place] = mean + deviation * fitted.theta()[class][index];
            variances[place] = deviation * deviation * (fitted.var()[class][index] + smoothing);
        }
    }
    let log_priors = fitted.class_priors().iter().map(|prior| prior.ln()).collect();
    Ok(Predictor::NaiveBayes(NaiveBayes { log_priors, means, variances }))
}
