//! The model's way, first half: a table becomes a proven artifact.
