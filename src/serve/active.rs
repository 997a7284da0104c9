//! The slot with the active model: one writer, many readers, a reader never waits.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use crate::pipeline::ServedModel;

use super::memory;

/// The model that the next batch is scored with.
#[derive(Default)]
pub struct Active(ArcSwapOption<ServedModel>);

impl Active {
    /// An empty slot.
    pub fn new() -> Active {
        Active::default()
    }

    /// The active model. Hold it for one batch: all of a batch is scored with one version.
    pub fn load(&self) -> Guard<Option<Arc<ServedModel>>> {
        self.0.load()
    }

    /// The most records of a batch: `usual`, fewer where the model's rows are wide.
    pub fn batch_records(&self, usual: usize) -> usize {
        self.0.load().as_ref().map_or(usual, |model| memory::batch_records(usual, model.scored_bytes_max()))
    }

    /// Whether there is a model.
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }

    /// Puts `model` in and returns the former one, which lanes may still hold.
    pub(super) fn swap(&self, model: Arc<ServedModel>) -> Option<Arc<ServedModel>> {
        self.0.swap(Some(model))
    }

    /// Empties the slot and returns what was in it, which lanes may still hold.
    pub(super) fn clear(&self) -> Option<Arc<ServedModel>> {
        self.0.swap(None)
    }
}
