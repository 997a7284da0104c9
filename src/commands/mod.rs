//! One verb a file, thin: wire the parts, print.
