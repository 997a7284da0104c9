//! What the command line says and ends with.

use crate::harness::{failed_with, modelstream, succeeded};

/// A port of the loopback interface on which nothing listens.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn a_broker_that_is_away_is_exit_code_4_with_what_to_check() {
    std::thread::scope(|scope| {
        for line in ["models list", "tail --topic t", "topics init", "status", "dead-letters list --topic t"] {
            scope.spawn(move || {
                let verb: Vec<&str> = line.split(' ').collect();
                let said = failed_with(4, &[&verb[..], &["--brokers", NOBODY]].concat());
                assert!(said.contains(NOBODY) && said.contains("--brokers"), "{said}");
            });
        }
    });
}

#[test]
fn a_wrong_flag_says_what_was_meant() {
    let said = failed_with(2, &["serve", "--modle", "iris"]);
    assert!(said.contains("'--model'"), "{said}");
    let said = failed_with(2, &["trian"]);
    assert!(said.contains("train"), "{said}");
}

#[test]
fn settings_that_do_not_go_together_are_exit_code_3() {
    let serve = ["serve", "--model", "iris", "--input", "a", "--output"];
    let cases: [(&[&str], &str); 8] = [
        (&["a"], "same topic"),
        (&["b", "--dead-letters", "a"], "same topic"),
        (&["b", "--input-format", "avro"], "--input-schema"),
        (&["b", "--input-schema", "x.avsc"], "--input-format avro"),
        (&["b", "--commit-interval", "5m"], "--commit-interval"),
        (&["b", "-X", "enable.auto.commit=true"], "enable.auto.commit"),
        (&["b", "-X", "nonsense"], "KEY=VALUE"),
        (&["b", "--listen", "nowhere"], "HOST:PORT"),
    ];
    for (rest, expected) in cases {
        let said = failed_with(3, &[&serve[..], rest].concat());
        assert!(said.contains(expected), "{rest:?}: {said}");
    }
    let said = failed_with(3, &["models", "show", "iris@"]);
    assert!(said.contains("alias"), "{said}");
    let said = failed_with(3, &["dead-letters", "show", "17", "--topic", "t"]);
    assert!(said.contains("PARTITION:OFFSET"), "{said}");
    let said = failed_with(3, &["models", "list", "-X", "no.such.property=1"]);
    assert!(said.contains("no.such.property"), "{said}");
}

#[test]
fn the_environment_and_the_settings_file_fill_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("settings.toml");
    std::fs::write(&file, format!("brokers = \"{NOBODY}\"\n[models]\n")).expect("writable");
    let said = failed_with(4, &["models", "list", "--config", file.to_str().expect("text")]);
    assert!(said.contains(NOBODY), "{said}");
    std::fs::write(&file, "broker = \"x\"\n").expect("writable");
    let said = failed_with(3, &["models", "list", "--config", file.to_str().expect("text")]);
    assert!(said.contains("`broker`") && said.contains("brokers"), "{said}");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_modelstream"))
        .args(["models", "list"])
        .env("MODELSTREAM_BROKERS", "127.0.0.1:2")
        .output()
        .expect("the binary runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:2"));
}

#[test]
fn completions_and_the_manual_page_are_printed() {
    assert!(succeeded(&["completions", "zsh"]).contains("modelstream"));
    assert!(succeeded(&["man"]).contains(".TH"));
    assert!(modelstream(&["--version"]).status.success());
}
