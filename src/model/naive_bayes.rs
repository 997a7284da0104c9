//! Gaussian naive Bayes.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::{Block, Predictions, argmax, avro, softmax};

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

impl NaiveBayes {
    pub(super) fn predict(&self, block: &Block, predictions: &mut Predictions) {
        let columns = block.columns();
        let mut scores = vec![0.0; self.log_priors.len()];
        for row in block.iter() {
            for (k, score) in scores.iter_mut().enumerate() {
                let class = k * columns..(k + 1) * columns;
                let parameters = self.means[class.clone()].iter().zip(&self.variances[class]);
                let log_density = |((mean, variance), value): ((&f64, &f64), &f32)| {
                    let distance = f64::from(*value) - mean;
                    (2.0 * PI * variance).ln() + distance * distance / variance
                };
                *score = self.log_priors[k] - 0.5 * parameters.zip(row).map(log_density).sum::<f64>();
            }
            let class = argmax(&scores);
            softmax(&mut scores);
            predictions.push_class(class, scores.iter().copied());
        }
    }
}
