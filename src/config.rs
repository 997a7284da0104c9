//! What was typed becomes what is used; every relation between settings is checked here, once.
