//! `modelstream dead-letters`

mod letter;
mod replay;
mod scan;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cli::{self, DeadLetters};
use crate::config::{self, DeadLetterSelection};
use crate::kafka::Connection;
use crate::model;
use crate::pipeline::Reason;
use crate::serve::output::headers::format_time;

use super::print::{cut, printable};
use super::{Error, print};
use letter::{Facts, Letter};
use scan::{Scan, Step};

/// The dead letters that `list` shows where the user does not say: a screen or two.
const LIST_LIMIT: u32 = 100;
/// The bytes of a key or value that `show` prints; `--value-only` writes all.
const SHOWN_BYTES_MAX: usize = 16 * 1024;

/// Runs one of the verbs of `dead-letters`.
///
/// # Errors
/// When the topic cannot be read, or what is replayed cannot be sent.
pub fn run(common: &cli::Common, dead_letters: &DeadLetters) -> Result<(), Error> {
    let connection = config::connection(common)?;
    match dead_letters {
        DeadLetters::List(list) => {
            let selection = config::dead_letters(&list.topic, &list.filter, SystemTime::now())?;
            run_list(common, &connection, &selection, list.limit)
        }
        DeadLetters::Show(show) => {
            let selection = config::dead_letter_at(&show.topic, &show.position)?;
            run_show(common, &connection, &selection, show)
        }
        DeadLetters::Replay(replay) => replay::run(common, &connection, replay),
    }
}

/// How many there are by reason. A closed set: what another version wrote counts as [`Tally::OTHER`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    const OTHER: &'static str = "other";

    fn count(&mut self, reason: &str) {
        let known = Reason::ALL.map(Reason::as_str).into_iter().find(|known| *known == reason);
        *self.0.entry(known.unwrap_or(Tally::OTHER)).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// `: undecodable 7, wrong_type 5`; nothing where nothing was counted.
    fn text(&self) -> String {
        let counts: Vec<String> = self.0.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) }
    }
}

fn run_list(
    common: &cli::Common,
    connection: &Connection,
    selection: &DeadLetterSelection,
    limit: Option<u32>,
) -> Result<(), Error> {
    let mut scan = Scan::open(connection, selection)?;
    let (mut tally, mut newest) = (Tally::default(), BTreeMap::new());
    let keep = limit.unwrap_or(LIST_LIMIT) as usize;
    loop {
        let facts = match scan.step()? {
            Step::Letter(letter) => letter.facts,
            Step::Other | Step::Waiting => continue,
            Step::Finished => break,
        };
        tally.count(&facts.reason);
        if common.json && limit.is_none() {
            print::json(&facts.document())?;
            continue;
        }
        newest.insert((facts.failed_at.unwrap_or(UNIX_EPOCH), facts.partition, facts.offset), facts);
        if newest.len() > keep {
            newest.pop_first();
        }
    }
    if common.json {
        newest.values().try_for_each(|facts| print::json(&facts.document()))?;
    } else if !newest.is_empty() {
        print::line(&table(newest.values()))?;
    }
    let cut = match newest.len() as u64 {
        0 => String::new(),
        shown if shown < tally.total() => format!(", of which the last {shown} are shown (--limit shows more)"),
        _ => String::new(),
    };
    print::say(&format!("{} dead letters in {}{}{cut}", tally.total(), selection.topic, tally.text()));
    say_left_out(selection, &scan);
    Ok(())
}

/// Records of the topic that were not looked at further, so that their absence is no riddle.
fn say_left_out(selection: &DeadLetterSelection, scan: &Scan<'_>) {
    if scan.elsewhere > 0 {
        let input = selection.input.as_deref().unwrap_or_default();
        print::say(&format!("{} dead letters did not come from {input} (--topic alone shows all)", scan.elsewhere));
    }
    if scan.foreign > 0 {
        print::say(&format!("{} records are no dead letters of modelstream", scan.foreign));
    }
}

fn table<'f>(letters: impl Iterator<Item = &'f Facts>) -> String {
    let mut table =
        print::table(&["partition", "offset", "failed", "reason", "source", "model", "version", "attempt", "message"]);
    for facts in letters {
        table.add_row([
            facts.partition.to_string(),
            facts.offset.to_string(),
            facts.failed_at.map(format_time).unwrap_or_default(),
            printable(&facts.reason),
            printable(&facts.source()),
            printable(&facts.model),
            printable(&facts.version),
            facts.attempt.to_string(),
            if facts.stub { format!("(stub) {}", cut(&facts.message)) } else { cut(&facts.message) },
        ]);
    }
    table.trim_fmt()
}

fn run_show(
    common: &cli::Common,
    connection: &Connection,
    selection: &DeadLetterSelection,
    show: &cli::DeadLettersShow,
) -> Result<(), Error> {
    let mut scan = Scan::open(connection, selection)?;
    loop {
        match scan.step()? {
            Step::Letter(letter) if show.value_only => return value_only(&letter),
            Step::Letter(letter) if common.json => return print::json(&document(&letter)),
            Step::Letter(letter) => return print::line(&description(selection, &letter)),
            Step::Other | Step::Waiting => {}
            Step::Finished => break,
        }
    }
    let (topic, at) = (&selection.topic, &show.position);
    Err(Error::Data(format!(
        "{topic} has no dead letter at {at}; `modelstream dead-letters list` shows those that it has"
    )))
}

fn value_only(letter: &Letter<'_>) -> Result<(), Error> {
    if letter.facts.stub {
        let (at, source) = (letter.facts.position(), letter.facts.source());
        return Err(Error::Data(format!("{at} is a stub, its value was too large to copy: read it at {source}")));
    }
    print::bytes(letter.record.payload().unwrap_or_default())
}

fn document(letter: &Letter<'_>) -> Value {
    let bytes = |bytes: Option<&[u8]>| match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => Value::Null,
        Some((Ok(text), _)) => json!({ "text": text }),
        Some((Err(_), bytes)) => json!({ "hex": model::hex(bytes) }),
    };
    let headers: Vec<Value> =
        letter.record.headers().map(|(name, value)| json!({"name": name, "value": bytes(value)})).collect();
    json!({
        "partition": letter.facts.partition,
        "offset": letter.facts.offset,
        "timestamp": letter.facts.timestamp_ms,
        "stub": letter.facts.stub,
        "headers": headers,
        "key": bytes(letter.record.key()),
        "value": bytes(letter.record.payload()),
    })
}

fn description(selection: &DeadLetterSelection, letter: &Letter<'_>) -> String {
    let mut text = format!("dead letter {} of {}\n\nheaders\n", letter.facts.position(), selection.topic);
    for (name, value) in letter.record.headers() {
        text += &format!("  {} = {}\n", printable(name), value.map_or("(none)".to_owned(), shown));
    }
    let time = letter.facts.timestamp_ms.map_or("none".to_owned(), |millis| millis.to_string());
    text += &format!("\ntimestamp: {time}\n");
    for (what, bytes) in [("key", letter.record.key()), ("value", letter.record.payload())] {
        text += &match bytes {
            None if what == "value" && letter.facts.stub => format!(
                "\nvalue: too large to copy; it is at {} as long as that is kept\n",
                printable(&letter.facts.source())
            ),
            None => format!("\n{what}: none\n"),
            Some(bytes) => format!("\n{what}, {} bytes\n{}\n", bytes.len(), shown(bytes)),
        };
    }
    text.trim_end().to_owned()
}

/// Text where it is text, else hexadecimal; a long one cut.
fn shown(bytes: &[u8]) -> String {
    let more = match bytes.len().saturating_sub(SHOWN_BYTES_MAX) {
        0 => String::new(),
        more => format!("… and {more} more bytes (--value-only writes a value's all)"),
    };
    let kept = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    match std::str::from_utf8(kept) {
        Ok(text) => printable(text) + &more,
        // The cut went through a character.
        Err(error) if error.error_len().is_none() && !more.is_empty() => {
            printable(&String::from_utf8_lossy(&kept[..error.valid_up_to()])) + &more
        }
        Err(_) => model::hex(kept) + &more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_knows_every_reason() {
        assert_eq!(cli::REASONS, Reason::ALL.map(Reason::as_str));
    }

    #[test]
    fn bytes_are_shown_as_text_or_hexadecimal_and_cut() {
        assert_eq!(shown("größer".as_bytes()), "größer");
        assert_eq!(shown(b"\xff\x00"), "ff00");
        let long = format!("x{}", "ä".repeat(SHOWN_BYTES_MAX));
        assert!(
            shown(long.as_bytes())
                .ends_with(&format!("ä… and {} more bytes (--value-only writes a value's all)", SHOWN_BYTES_MAX + 1))
        );
    }

    #[test]
    fn an_unknown_reason_is_counted_without_a_name_of_its_own() {
        let mut tally = Tally::default();
        ["undecodable", "of the future", "another", "undecodable"].iter().for_each(|reason| tally.count(reason));
        assert_eq!((tally.total(), tally.text().as_str()), (4, ": other 2, undecodable 2"));
    }
}
