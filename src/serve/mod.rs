//! The serving process.
