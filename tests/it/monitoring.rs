//! What operators look at: metrics, rules and dashboard agree, and a real Prometheus finds data for each.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use modelstream::telemetry::Metrics;

use crate::harness::{Cluster, DEADLINE, real_kafka, root, tool, wait_until};

fn rules() -> std::path::PathBuf {
    root().join("ops/prometheus/modelstream.rules.yml")
}

fn dashboard() -> serde_json::Value {
    let path = root().join("ops/grafana/dashboards/modelstream.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the dashboard")).expect("JSON")
}

/// Title and query of each panel.
fn panel_queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in dashboard()["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
            queries.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    assert!(queries.len() > 20, "the dashboard has queries");
    queries
}

/// Name and expression of each rule.
fn rule_expressions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(rules()).expect("the rules");
    let mut named = Vec::new();
    let mut name = String::new();
    for line in text.lines().map(str::trim_start) {
        if let Some(found) = line.strip_prefix("- alert: ").or(line.strip_prefix("- record: ")) {
            name = found.to_owned();
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            named.push((name.clone(), expression.to_owned()));
        }
    }
    assert!(named.len() > 8, "the rules were found");
    named
}

/// Every `modelstream_…` and `process_…` word of an expression, without a histogram's suffix.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let metrics = words.filter(|word| word.starts_with("modelstream_") || word.starts_with("process_"));
    metrics
        .map(|word| {
            let plain = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
            plain.unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn the_rules_are_valid_and_each_alert_fires_when_it_should() {
    tool(Command::new("promtool").args(["check", "rules"]).arg(rules()));
    let tests = root().join("ops/prometheus/modelstream.rules.test.yml");
    tool(Command::new("promtool").args(["test", "rules"]).arg(&tests));
    let tests = std::fs::read_to_string(tests).expect("the tests");
    for (name, _) in rule_expressions().iter().filter(|(name, _)| name.starts_with("Modelstream")) {
        assert_eq!(tests.matches(&format!("alertname: {name}")).count(), 2, "{name} is tested silent and firing");
    }
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_exist() {
    let documented: BTreeSet<String> = Metrics::new().documented().iter().map(|metric| metric.name.clone()).collect();
    for (name, expression) in panel_queries().into_iter().chain(rule_expressions()) {
        for metric in metrics_in(&expression) {
            assert!(documented.contains(&metric), "{name} asks for {metric}, which there is not");
        }
    }
}

#[test]
fn the_dashboard_shows_every_metric_of_ours() {
    let shown: BTreeSet<String> = panel_queries().iter().flat_map(|(_, query)| metrics_in(query)).collect();
    for metric in Metrics::new().documented() {
        let ours = metric.name.starts_with("modelstream_") && metric.name != "modelstream_build_info";
        assert!(!ours || shown.contains(&metric.name), "no panel shows {}", metric.name);
    }
}

/// Labels whose values are few and known: enums of ours, what was configured, lanes, partitions, versions that were served. Keys,
/// offsets and texts of errors are none.
const LABELS: [&str; 12] = [
    "algorithm",
    "class",
    "digest",
    "kind",
    "lane",
    "model",
    "partition",
    "reason",
    "result",
    "stage",
    "topic",
    "version",
];

#[test]
fn no_label_is_made_of_what_records_hold() {
    for metric in Metrics::new().documented() {
        for label in &metric.labels {
            assert!(LABELS.contains(&label.as_str()), "{}: is {label} bounded?", metric.name);
        }
    }
}

/// `MODELSTREAM_BLESS=1 cargo test --test it metrics_table` writes it anew.
#[test]
fn the_metrics_table_is_fresh() {
    let mut table = String::from("# Metrics\n\n| metric | type | labels | what it says |\n|---|---|---|---|\n");
    for metric in Metrics::new().documented() {
        let (name, kind, labels, help) = (&metric.name, metric.kind, metric.labels.join(", "), &metric.help);
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").expect("in memory");
    }
    let path = root().join("ops/prometheus/METRICS.md");
    if std::env::var_os("MODELSTREAM_BLESS").is_some() {
        std::fs::write(&path, &table).expect("writable");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == table,
        "ops/prometheus/METRICS.md is stale: MODELSTREAM_BLESS=1 cargo test --test it metrics_table"
    );
}

/// A real Prometheus that scrapes one target every second.
struct Prometheus {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: &str) -> Prometheus {
        let dir = tempfile::tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let rules = rules();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\n\
             scrape_configs:\n  - job_name: modelstream\n    static_configs: [{{ targets: [\"{target}\"] }}]\n"
        );
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("writable");
        let address = format!("127.0.0.1:{port}");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed");
        let prometheus = Prometheus { child, address, _dir: dir };
        wait_until("Prometheus is ready", || ureq::get(prometheus.url("/-/ready")).call().is_ok());
        prometheus
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The number of series that an expression has now.
    fn series(&self, expression: &str) -> usize {
        let answer = ureq::get(self.url("/api/v1/query")).query("query", expression).call();
        let text = answer.expect("a valid query").body_mut().read_to_string().expect("text");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        answer["data"]["result"].as_array().map_or(0, Vec::len)
    }

    fn wait_for_series(&self, what: &str, expression: &str) {
        wait_until(&format!("{what} has data: {expression}"), || self.series(expression) > 0);
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An alert that does not fire has no data: what stands before its threshold must have.
fn without_threshold(expression: &str) -> &str {
    let end = [" unless ", " > ", " < "].iter().filter_map(|sign| expression.rfind(sign)).min();
    end.map_or(expression, |end| &expression[..end])
}

fn keep_sending(cluster: &Cluster, input: &str, until: Instant) {
    let good = br#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;
    while Instant::now() < until {
        cluster.send(input, [(None, Some(&good[..])), (None, Some(&b"bad"[..]))]);
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_real_prometheus_finds_every_metric_panel_and_rule() {
    let Some(cluster) = real_kafka("monitoring") else { return };
    let (input, output) = (cluster.topic("in", 2), cluster.topic("out", 2));
    cluster.topic("in.dead-letters", 2);
    cluster.publish_iris("iris", "7");
    let mut serving = cluster.serve(&["--model", "iris", "--input", &input, "--output", &output]);
    serving.wait_until_ready();
    let prometheus = Prometheus::start(&serving.address);
    keep_sending(&cluster, &input, Instant::now() + Duration::from_secs(6));

    let (_, text) = serving.get("/metrics");
    assert_lints_clean(&text);
    std::thread::scope(|scope| {
        scope.spawn(|| keep_sending(&cluster, &input, Instant::now() + DEADLINE / 4));
        for metric in Metrics::new().documented() {
            let name = if metric.kind == "histogram" { format!("{}_count", metric.name) } else { metric.name.clone() };
            prometheus.wait_for_series("a documented metric", &name);
        }
        for (title, query) in panel_queries() {
            prometheus.wait_for_series(&title, &query);
        }
        for (name, expression) in rule_expressions() {
            prometheus.wait_for_series(&name, without_threshold(&expression));
            if name.contains(':') {
                prometheus.wait_for_series("what is recorded", &name);
            }
        }
    });
    assert_eq!(serving.stop(), Some(0));
}

fn assert_lints_clean(metrics: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), metrics.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "promtool check metrics: {said}");
}

#[test]
fn the_provisioned_files_are_where_grafana_and_prometheus_look() {
    for file in ["ops/prometheus/prometheus.yml", "ops/grafana/provisioning/datasources/prometheus.yml"] {
        assert!(Path::new(root()).join(file).is_file(), "{file}");
    }
    let config = root().join("ops/prometheus/prometheus.yml");
    tool(Command::new("promtool").args(["check", "config"]).arg(config));
}
