//! A weighted sum of the columns, as it is or through a logistic or softmax link.

use serde::{Deserialize, Serialize};

use super::columns::sum_columns;
use super::{Block, Predictions, Scratch, argmax, avro, softmax};

/// Coefficients of a linear model, one row of `columns` for each score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// How the scores become a prediction.
    pub link: Link,
    /// Score after score, a coefficient for each column.
    #[serde(with = "avro::f64_bytes")]
    pub coefficients: Vec<f64>,
    /// One for each score.
    #[serde(with = "avro::f64_bytes")]
    pub intercepts: Vec<f64>,
}

/// How the scores of a linear model become its prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// One score, which is the value (regression).
    Identity,
    /// One score `s`; the second class's probability is `1 / (1 + exp(-s))` (two classes).
    Logistic,
    /// A score for each class; `exp(s_k) / sum_j exp(s_j)`.
    Softmax,
}

impl Linear {
    pub(super) fn predict(&self, block: &Block, scratch: &mut Scratch, predictions: &mut Predictions) {
        let term = |parameter| {
            let weight = self.coefficients[parameter];
            move |value| weight * value
        };
        sum_columns(block, self.intercepts.len(), scratch, term, |scores| {
            scores.iter_mut().zip(&self.intercepts).for_each(|(score, intercept)| *score += intercept);
            match self.link {
                Link::Identity => predictions.push_value(scores[0]),
                Link::Logistic => {
                    let second = 1.0 / (1.0 + (-scores[0]).exp());
                    predictions.push_class(usize::from(scores[0] > 0.0), &[1.0 - second, second]);
                }
                Link::Softmax => {
                    let class = argmax(scores);
                    softmax(scores);
                    predictions.push_class(class, scores);
                }
            }
        });
    }
}
