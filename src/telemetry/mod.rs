//! The only folder naming prometheus: metrics, HTTP, logs.

pub mod http;
pub mod logging;
pub mod metrics;

pub use metrics::{LaneMetrics, Metrics, ModelMetrics, Stage, replayed_record};
