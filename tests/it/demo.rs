//! The first command of the README, without a terminal.

use crate::harness::{modelstream, real_kafka};

fn summary(arguments: &[&str]) -> serde_json::Value {
    let output = modelstream(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert!(stderr.contains("kcat -C -b") && stderr.contains("http://127.0.0.1:"), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("one document")
}

fn assert_went_well(summary: &serde_json::Value) {
    assert!(summary["records"].as_u64().is_some_and(|records| records > 500), "{summary}");
    assert_eq!(summary["predictions"], summary["records"], "{summary}");
    assert_eq!((&summary["lost"], &summary["dead_letters"]), (&0.into(), &0.into()), "{summary}");
    let versions = summary["versions"].as_array().expect("versions");
    assert_eq!(versions.len(), 2, "{summary}");
    let accuracy = |index: usize| versions[index]["accuracy"].as_f64().expect("a number");
    assert!(accuracy(0) < 0.8 && accuracy(1) > 0.9, "the second version is better: {summary}");
}

#[test]
fn on_the_embedded_broker_nothing_is_lost_and_the_second_version_is_better() {
    assert_went_well(&summary(&["demo", "--seconds", "4", "--rate", "300", "--json"]));
}

#[test]
fn on_real_kafka_it_does_the_same() {
    let Some(cluster) = real_kafka("demo") else { return };
    assert_went_well(&summary(&["demo", "--seconds", "4", "--rate", "300", "--json", "--brokers", &cluster.brokers]));
}
