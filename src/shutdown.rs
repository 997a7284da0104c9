//! Signals become one stop token; the drain has a deadline.
