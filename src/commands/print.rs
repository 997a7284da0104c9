//! Data on stdout, talk on stderr.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Error;

/// The characters of a message in a table: enough to tell failures apart, one line each.
const MESSAGE_CHARS: usize = 80;

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

/// The beginning of a message from outside, on one line.
pub fn cut(message: &str) -> String {
    let shown = printable(&message.chars().take(MESSAGE_CHARS).collect::<String>()).replace('\n', " ");
    if message.chars().nth(MESSAGE_CHARS).is_some() { shown + "…" } else { shown }
}

/// A text from outside without what a terminal would obey.
pub fn printable(text: &str) -> String {
    let escaped = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_cannot_command_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a\\u{1b}[2Jb\\r\nc");
        assert_eq!(cut("a\nb"), "a b");
        assert_eq!(cut(&"ä".repeat(200)).chars().count(), MESSAGE_CHARS + 1);
    }
}
