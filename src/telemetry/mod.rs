//! The only folder naming prometheus: metrics, HTTP, logs.
