//! The rules of the house: which room may use which, which file may name which crate, what stays out of pure code.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::root;

/// A room and the rooms that it may use: those below it.
const ROOMS: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("pipeline", &["model"]),
    ("train", &["model", "pipeline"]),
    ("kafka", &[]),
    ("registry", &["model", "kafka"]),
    ("telemetry", &[]),
    ("shutdown", &[]),
    ("serve", &["model", "pipeline", "kafka", "registry", "telemetry", "shutdown"]),
    ("cli", &[]),
    ("config", &["cli", "kafka", "pipeline", "registry", "serve"]),
];

/// A crate and the only places that may name it.
const CRATES: [(&str, &[&str]); 8] = [
    ("rdkafka", &["src/kafka/"]),
    ("rdkafka_sys", &["src/kafka/"]),
    ("prometheus", &["src/telemetry/"]),
    ("smartcore", &["src/train/estimator/"]),
    ("clap", &["src/cli.rs", "src/cli/"]),
    ("ed25519_dalek", &["src/registry/trust.rs"]),
    ("zstd", &["src/registry/stored.rs"]),
    ("libmimalloc_sys", &["src/main.rs"]),
];

/// Of a file without its tests.
const LINES_MAX: usize = 500;

/// Where the time of day is asked for, and what for: always to be shown or written, never to decide when something is due. A clock
/// that jumps makes no timeout and no commit.
const WALL_CLOCK: [(&str, &str); 12] = [
    ("src/config.rs", "--since and --until, where an age is typed"),
    ("src/commands/dead_letters.rs", "the same, and times that are shown"),
    ("src/commands/dead_letters/letter.rs", "times that are shown"),
    ("src/commands/dead_letters/replay.rs", "--since and --until"),
    ("src/commands/demo/mod.rs", "times that are shown, and a seed"),
    ("src/commands/demo/traffic.rs", "times that are shown"),
    ("src/registry/publish.rs", "when a version was published"),
    ("src/serve/lag.rs", "the age of a record, a metric, and of a report, which is shown"),
    ("src/serve/model_watch.rs", "since when a version is active, in /status"),
    ("src/serve/output.rs", "when a record became a dead letter"),
    ("src/serve/output/headers.rs", "how that is written"),
    ("src/serve/report.rs", "when the process started and reported, which is shown"),
];

struct Source {
    path: String,
    /// Without tests and comments.
    code: Vec<String>,
}

fn tracked_files() -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output().expect("git runs");
    assert!(listed.status.success(), "git ls-files");
    let names = String::from_utf8(listed.stdout).expect("text");
    names.lines().map(|name| root().join(name)).filter(|path| path.is_file()).collect()
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_str().expect("text").to_owned();
                if matches!(name.rsplit('/').next(), Some("testing.rs" | "oracle.rs")) {
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("text");
                let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
                let code = code.filter(|line| !line.trim_start().starts_with("//"));
                sources.push(Source { path: name, code: code.map(str::to_owned).collect() });
            }
        }
    }
    assert!(sources.len() > 40, "the sources were found");
    sources
}

fn room_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").expect("a source");
    inside.split(['/', '.']).next().expect("a name")
}

/// The words that follow each `prefix` in a line.
fn words_after<'l>(line: &'l str, prefix: &str) -> Vec<&'l str> {
    let word = |rest: &'l str| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
    line.split(prefix).skip(1).map(word).collect()
}

#[test]
fn rooms_use_only_what_stands_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.into_iter().collect();
    for source in sources() {
        let room = room_of(&source.path);
        let Some(below) = allowed.get(room) else {
            assert!(["main", "lib", "commands"].contains(&room), "{}: a room without a rule", source.path);
            continue;
        };
        for line in &source.code {
            for used in words_after(line, "crate::") {
                let fine = used == room || below.contains(&used) || !allowed.contains_key(used) && used != "commands";
                assert!(fine, "{}: {room} may not use {used}: {line}", source.path);
            }
        }
    }
}

#[test]
fn each_crate_is_named_in_its_place_alone() {
    for source in sources() {
        for (name, places) in CRATES {
            let named = source.code.iter().find(|line| {
                let path = format!("{name}::");
                line.match_indices(&path)
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            assert!(allowed || named.is_none(), "{} names {name}: {named:?}", source.path);
        }
    }
}

#[test]
fn pure_rooms_have_no_io_no_clock_no_logging() {
    // A source of bytes that is handed in may be read; none is opened.
    let impure =
        ["tokio", "rdkafka", "tracing", "std::fs", "io::std", "std::net", "std::env", "std::time", "std::thread"];
    for source in sources() {
        if matches!(room_of(&source.path), "model" | "pipeline") {
            for word in impure {
                let named = source.code.iter().find(|line| line.contains(word));
                assert!(named.is_none(), "{} names {word}: {named:?}", source.path);
            }
        }
    }
}

#[test]
fn sources_have_no_shortcuts() {
    let todo = ["todo", "unimplemented"].map(|name| format!("{name}!("));
    for source in sources() {
        for line in &source.code {
            assert!(!line.contains(".unwrap()"), "{}: say why it cannot fail: {line}", source.path);
            assert!(!line.contains("#[allow"), "{}: #[expect(.., reason = \"…\")]: {line}", source.path);
            assert!(!todo.iter().any(|todo| line.contains(todo)), "{}: {line}", source.path);
        }
        let lines = source.code.len();
        assert!(lines <= LINES_MAX, "{} has {lines} lines of code: split it by meaning", source.path);
    }
}

#[test]
fn the_time_of_day_decides_nothing() {
    for source in sources() {
        let named = source.code.iter().find(|line| line.contains("SystemTime"));
        let allowed = WALL_CLOCK.iter().any(|(path, _)| *path == source.path);
        assert!(allowed || named.is_none(), "{} asks for the time of day: {named:?}", source.path);
        assert!(!allowed || named.is_some(), "{} needs no exception any more", source.path);
    }
}

#[test]
fn no_file_names_a_machine() {
    // Written in parts, so that this file does not name them.
    let words = [["/ro", "ot/"], ["/wo", "rk/"], ["/ho", "me/"], ["host", ".docker"]].map(|parts| parts.concat());
    for path in tracked_files() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} names {word}", path.display());
        }
    }
}
