//! The model's way, first half: a table becomes a proven artifact.

/// placeholder
#[derive(Debug, thiserror::Error)]
pub enum Error {}
