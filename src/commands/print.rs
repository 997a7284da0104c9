//! Data on stdout, talk on stderr.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Error;

/// A write to stdout that failed.
pub fn failed(source: io::Error) -> Error {
    Error::Io { doing: "writing to stdout".to_owned(), source }
}

/// Writes bytes as they are. A reader that went away (`| head`) ends the process quietly, as it does other tools.
///
/// # Errors
/// When stdout cannot be written.
pub fn bytes(bytes: &[u8]) -> Result<(), Error> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(failed),
    }
}

/// Writes a text and a line's end.
///
/// # Errors
/// When stdout cannot be written.
pub fn line(text: &str) -> Result<(), Error> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes one JSON document on one line.
///
/// # Errors
/// When stdout cannot be written.
pub fn json(document: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(document).map_err(|error| failed(error.into()))?;
    line(&text)
}

/// A text from a topic without the characters that a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// Says something to the person, not to the data's reader.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table without lines around every cell.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(Cell::new));
    table
}

/// A progress bar on stderr when that is a terminal, else nothing.
pub fn progress(total: Option<u64>, unit: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match total {
        Some(_) => format!("{{bar:40}} {{human_pos}}/{{human_len}} {unit} {{per_sec}} {{eta}}"),
        None => format!("{{spinner}} {{human_pos}} {unit} {{per_sec}}"),
    };
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
