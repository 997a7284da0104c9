//! The integration tests: one binary, a file for each promise.

mod formats;
mod harness;
mod records;
mod serving;
