//! The record's way: bytes in, predictions out. Pure: no I/O, no clock, no logging.
