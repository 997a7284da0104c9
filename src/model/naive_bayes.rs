//! Gaussian naive Bayes.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::columns::sum_columns;
use super::{Block, Predictions, Scratch, argmax, avro, softmax};

/// For each class a prior, and for each class and column a mean and a variance.
///
/// The score of class `k` is `ln P(k) - 1/2 sum_j (ln(2 pi v_kj) + (x_j - m_kj)^2 / v_kj)`; probabilities are the softmax of
/// the scores (scikit-learn's `GaussianNB` has the same formula).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NaiveBayes {
    /// The natural logarithm of each class's prior probability.
    #[serde(with = "avro::f64_bytes")]
    pub log_priors: Vec<f64>,
    /// Class after class, the mean of each column.
    #[serde(with = "avro::f64_bytes")]
    pub means: Vec<f64>,
    /// Class after class, the variance of each column; positive.
    #[serde(with = "avro::f64_bytes")]
    pub variances: Vec<f64>,
}

/// The densities, with the logarithms taken once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kernel {
    log_priors: Vec<f64>,
    /// Class after class, of each column.
    densities: Vec<Density>,
}

/// A column's density in a class.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Density {
    mean: f64,
    variance: f64,
    /// `ln(2 pi variance)`.
    log_scale: f64,
}

impl Kernel {
    pub(super) fn new(bayes: NaiveBayes) -> Kernel {
        let density = |(mean, variance)| Density { mean, variance, log_scale: (2.0 * PI * variance).ln() };
        let densities = bayes.means.into_iter().zip(bayes.variances).map(density).collect();
        Kernel { log_priors: bayes.log_priors, densities }
    }

    pub(super) fn predict(&self, block: &Block, scratch: &mut Scratch, predictions: &mut Predictions) {
        let term = |parameter| {
            let Density { mean, variance, log_scale } = self.densities[parameter];
            move |value| {
                let distance: f64 = value - mean;
                log_scale + distance * distance / variance
            }
        };
        sum_columns(block, self.log_priors.len(), scratch, term, |scores| {
            scores.iter_mut().zip(&self.log_priors).for_each(|(score, log_prior)| *score = log_prior - 0.5 * *score);
            let class = argmax(scores);
            softmax(scores);
            predictions.push_class(class, scores);
        });
    }
}
