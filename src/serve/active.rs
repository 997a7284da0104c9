//! The slot with the active model: one writer, many readers, a reader never waits.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use crate::pipeline::ServedModel;
use crate::registry::Selector;

/// The version of one model that the next batch is scored with.
#[derive(Debug)]
pub struct Active {
    selector: Selector,
    slot: ArcSwapOption<ServedModel>,
}

impl Active {
    /// An empty slot for what `selector` selects.
    pub fn new(selector: Selector) -> Active {
        Active { selector, slot: ArcSwapOption::empty() }
    }

    /// What it is for.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The active model. Hold it for one batch: all of a batch is scored with one version.
    pub fn load(&self) -> Guard<Option<Arc<ServedModel>>> {
        self.slot.load()
    }

    /// Whether there is a version.
    pub fn is_set(&self) -> bool {
        self.slot.load().is_some()
    }

    /// Puts `model` in and returns the former one, which lanes may still hold.
    pub fn swap(&self, model: Arc<ServedModel>) -> Option<Arc<ServedModel>> {
        self.slot.swap(Some(model))
    }

    /// Takes out what is in, because it may not serve any more and nothing takes its place; lanes may still hold it for the batch
    /// that they have. They take no record until there is a version again.
    pub fn clear(&self) -> Option<Arc<ServedModel>> {
        self.slot.swap(None)
    }
}
