//! The integration tests: one binary, a file for each promise.

mod formats;
mod records;
