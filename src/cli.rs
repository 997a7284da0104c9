//! Every flag, documented on its field. The only file naming clap.
