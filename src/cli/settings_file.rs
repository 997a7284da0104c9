//! The settings file: its keys are the defaults of the flags of their names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A settings file that does not fit.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read the settings file {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the settings file {path} is not TOML: {message}")]
    Toml { path: PathBuf, message: String },
    #[error("the settings file {path} sets `{key}`, which is no setting{table}; there are: {known}")]
    Unknown { path: PathBuf, key: String, table: String, known: String },
}

/// The settings file's path: `--config` is looked for before the real parse, because the file sets the real parse's defaults.
pub(super) fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            break;
        }
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("MODELSTREAM_CONFIG").map(PathBuf::from)
}

pub(super) fn with_config(command: clap::Command, path: &Path) -> Result<clap::Command, ConfigFileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigFileError::Toml {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    with_defaults(command, &table, path, "")
}

/// Makes each key of `table` the default of the flag of that name; a table goes to the verb of its name.
fn with_defaults(
    mut command: clap::Command,
    table: &toml::Table,
    path: &Path,
    verb: &str,
) -> Result<clap::Command, ConfigFileError> {
    for (key, value) in table {
        if let (toml::Value::Table(inner), Some(subcommand)) = (value, command.find_subcommand(key).cloned()) {
            let changed = with_defaults(subcommand, inner, path, key)?;
            command = command.mut_subcommand(key, |_| changed);
            continue;
        }
        let Some(id) = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(key.as_str()) && key != "config")
            .map(|arg| arg.get_id().clone())
        else {
            return Err(unknown_key(&command, key, path, verb));
        };
        let defaults = default_values(value);
        command = command.mut_arg(id, |arg| arg.required(false).default_values(defaults));
    }
    Ok(command)
}

fn unknown_key(command: &clap::Command, key: &str, path: &Path, verb: &str) -> ConfigFileError {
    let known: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let table = if verb.is_empty() { String::new() } else { format!(" of `{verb}`") };
    ConfigFileError::Unknown { path: path.to_owned(), key: key.to_owned(), table, known: known.join(", ") }
}

fn default_values(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Array(values) => values.iter().flat_map(default_values).collect(),
        other => vec![other.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::cli::{Cli, Verb, command};

    #[test]
    fn the_settings_file_sets_what_the_command_line_does_not() {
        let table: toml::Table =
            "brokers = 'a:1'\n[serve]\nlanes = 3\noutput = 'out'\nmodel = ['iris', 'wine:2']\nno-probabilities = true\n"
                .parse()
                .expect("TOML");
        let command = with_defaults(command(), &table, Path::new("x.toml"), "").expect("known keys");
        let line = ["modelstream", "serve", "--input", "in", "--lanes", "5"];
        let matches = command.try_get_matches_from(line).expect("a valid line");
        let cli = Cli::from_arg_matches(&matches).expect("a valid line");
        assert_eq!(cli.common.brokers(), "a:1");
        let Verb::Serve(serve) = cli.verb else { panic!("another verb") };
        assert_eq!((serve.lanes, serve.output.as_str(), serve.no_probabilities), (5, "out", true));
        assert_eq!((serve.model, serve.input), (vec!["iris".to_owned(), "wine:2".to_owned()], vec!["in".to_owned()]));
    }

    #[test]
    fn an_unknown_key_names_those_that_there_are() {
        let table: toml::Table = "[serve]\nlane = 3\n".parse().expect("TOML");
        let error = with_defaults(command(), &table, Path::new("x.toml"), "").expect_err("no such key");
        let text = error.to_string();
        assert!(text.contains("`lane`") && text.contains("of `serve`") && text.contains("lanes"), "{text}");
    }
}
