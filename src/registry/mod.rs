//! The model log as its users see it.
