//! The files for Docker say what this version can do. No daemon is needed.

use std::io::Write as _;
use std::process::Command;

use crate::harness::root;

fn compose() -> String {
    std::fs::read_to_string(root().join("docker-compose.yml")).expect("the compose file")
}

/// The words of each `command: [...]` of a service that runs our image.
fn our_commands() -> Vec<Vec<String>> {
    let verbs = ["serve", "topics", "train", "produce"];
    let text = compose();
    let lists = text.lines().filter_map(|line| line.trim_start().strip_prefix("command: "));
    let lists = lists.map(|list| serde_json::from_str::<Vec<String>>(list).expect("a list of words"));
    lists.filter(|words| verbs.contains(&words[0].as_str())).collect()
}

#[test]
fn every_command_of_the_compose_file_parses() {
    let commands = our_commands();
    assert_eq!(commands.len(), 4, "{commands:?}");
    for words in commands {
        let line = std::iter::once("modelstream".to_owned()).chain(words.clone());
        let parsed = modelstream::cli::try_parse(line.map(Into::into));
        assert!(parsed.is_ok(), "{words:?}: {}", parsed.expect_err("not parsed"));
    }
}

#[test]
fn every_mounted_file_exists() {
    let text = compose();
    let mounts: Vec<&str> = text.lines().filter_map(|line| line.trim_start().strip_prefix("- ./")).collect();
    assert_eq!(mounts.len(), 4);
    for mount in mounts {
        let file = mount.split(':').next().expect("a path");
        assert!(root().join(file).exists(), "{file}");
    }
    for (line, file) in our_commands().iter().flatten().filter_map(|word| Some((word, word.strip_prefix("/data/")?))) {
        assert!(root().join("tests/data").join(file).is_file(), "{line}");
    }
}

#[test]
fn every_image_is_pinned() {
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).expect("the Dockerfile");
    let text = compose();
    let images = text.lines().filter_map(|line| line.trim_start().strip_prefix("image: "));
    let bases = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM "));
    let pinned = |image: &str| {
        let tag = image.split_whitespace().next().and_then(|name| name.split_once(':')).map_or("", |(_, tag)| tag);
        tag.contains(|c: char| c.is_ascii_digit()) && tag != "latest"
    };
    let all: Vec<&str> = images.chain(bases).collect();
    assert_eq!(all.len(), 6, "{all:?}");
    all.iter().for_each(|image| assert!(pinned(image), "{image}"));
    assert!(dockerfile.contains("\nUSER 65532"), "it does not run as root");
    assert!(text.contains(&format!("image: modelstream:{}", env!("CARGO_PKG_VERSION"))));
}

/// The rule that Prometheus asks for and the targets that it scrapes are those of the compose file.
#[test]
fn prometheus_scrapes_the_serving_processes() {
    let config = std::fs::read_to_string(root().join("ops/prometheus/prometheus.yml")).expect("the configuration");
    for service in ["serve-1", "serve-2"] {
        assert!(
            config.contains(&format!("\"{service}:9464\"")) && compose().contains(&format!("\n  {service}: *serve"))
        );
    }
    assert!(compose().contains("0.0.0.0:9464"), "the metrics can be reached from another container");
}

/// Every line of the README that starts with our name is one that our command line takes.
#[test]
fn every_command_of_the_readme_parses() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let lines = readme.lines().filter(|line| line.starts_with("modelstream ") && !line.contains(" scores "));
    let commands: Vec<&str> = lines.map(|line| line.trim_end_matches(" &")).collect();
    assert!(commands.len() >= 8, "{commands:#?}");
    for command in commands {
        let words = command.split_whitespace().map(|word| word.trim_matches('\'').into());
        let parsed = modelstream::cli::try_parse(words);
        assert!(parsed.is_ok(), "{command}: {}", parsed.expect_err("not parsed"));
    }
}

/// Where the compose plugin is installed it reads the file as `docker compose up` would.
#[test]
fn docker_compose_reads_the_file() {
    let answers = |command: &mut Command| command.arg("version").output().is_ok_and(|output| output.status.success());
    let (mut tool, file) = if answers(Command::new("docker").arg("compose")) {
        let mut docker = Command::new("docker");
        docker.arg("compose");
        (docker, compose())
    } else if answers(&mut Command::new("docker-compose")) {
        // Debian's is older than the project's name in the file.
        let file = compose();
        let lines = file.lines().filter(|line| !line.starts_with("name:"));
        (Command::new("docker-compose"), lines.collect::<Vec<_>>().join("\n"))
    } else {
        return crate::harness::skip(
            "docker_compose_reads_the_file",
            "neither docker compose nor docker-compose is installed",
        );
    };
    let mut copy = tempfile::NamedTempFile::new().expect("a file");
    copy.write_all(file.as_bytes()).expect("room");
    tool.arg("--project-directory").arg(root()).arg("--file").arg(copy.path()).args(["config", "--quiet"]);
    crate::harness::tool(&mut tool);
}

/// Name of each test of the sources, by the file as `ops/RELIABILITY.md` names it: `network`, `src/kafka/fault.rs`.
fn is_a_test(file: &str, test: &str) -> bool {
    let path = if file.starts_with("src/") { file.to_owned() } else { format!("tests/it/{file}.rs") };
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let name = format!("fn {test}()");
    lines.iter().position(|line| line.starts_with(&name)).is_some_and(|at| lines[..at].ends_with(&["#[test]"]))
}

/// The faults that we know of have each a row, and what a row says of tests is true.
#[test]
fn each_fault_has_its_test_or_a_reason() {
    let text = std::fs::read_to_string(root().join("ops/RELIABILITY.md")).expect("the table");
    let (faults, _soak) = text.split_once("## The soak").expect("the soak's own table comes last");
    let rows = faults.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let number = cells[0].parse::<u32>().ok()?;
        Some((number, cells[1], cells[2]))
    });
    let rows: Vec<(u32, &str, &str)> = rows.collect();
    let numbers: Vec<u32> = rows.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=64).collect::<Vec<u32>>());
    for (number, _, covered) in rows {
        let named: Vec<(&str, &str)> =
            covered.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
        for (file, test) in &named {
            assert!(is_a_test(file, test), "fault {number}: there is no test {test} in {file}");
        }
        assert!(!named.is_empty() || covered.starts_with("not covered: "), "fault {number}: {covered}");
    }
}
