//! The only folder naming rdkafka. Bytes and positions; knows no model, no schema.
