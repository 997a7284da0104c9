//! The status topic: a report that is read is written as the same, and no report hides that another was heard.

use modelstream::registry::fleet::{FLEET_BYTES_MAX, Fleet, REPORT_BYTES_MAX, Report, Verdict, View, have_converged};
use modelstream::registry::{State, Topics, Trust};

use super::allocations;

const NOW_MS: u64 = 1_800_000_000_000;
/// The key and the report of another replica.
const OTHER: (&str, &[u8]) = ("other/replica", b"{\"format\":2}");

/// Strings and lists; the items of a list are larger in memory than `{}`, and a lane without a word is the smallest.
fn memory_cap(bytes: usize) -> usize {
    (1 << 16) + 64 * bytes
}

pub fn check(bytes: &[u8]) {
    // The key is what the report says of itself, where it can be read at all.
    let key = key_of(bytes).unwrap_or_else(|| "g/a".to_owned());
    let read = allocations::within(memory_cap(bytes.len()), || Report::decode(&key, bytes));
    if let Ok(report) = &read {
        assert_eq!(report.key(), key);
        if let Ok(written) = report.encode() {
            assert!(written.len() <= REPORT_BYTES_MAX);
            assert_eq!(Report::decode(&key, &written).as_ref(), Ok(report), "what is written is read");
        }
    }
    let mut fleet = Fleet::default();
    fleet.apply(OTHER.0.as_bytes(), Some(OTHER.1), Some(NOW_MS as i64));
    if key == OTHER.0 {
        return;
    }
    fleet.apply(key.as_bytes(), Some(bytes), Some(NOW_MS as i64));
    assert!(bytes.len() > FLEET_BYTES_MAX || !fleet.is_cut());
    let (state, topics) = (State::default(), topics());
    let view = View { state: &state, topics: &topics, group: None, model: None, now_ms: NOW_MS };
    let standings = fleet.standings(&view);
    assert!(standings.iter().any(|standing| standing.key == OTHER.0 && standing.verdict == Verdict::Unreadable));
    assert!(!have_converged(&standings, 1), "nobody serves a version that there is not");
    assert!(standings.iter().all(|standing| standing.verdict != Verdict::Converged));
}

fn key_of(bytes: &[u8]) -> Option<String> {
    let report: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(format!("{}/{}", report.get("group")?.as_str()?, report.get("instance")?.as_str()?))
}

fn topics() -> Topics {
    Topics { models: "models".into(), artifacts: "artifacts".into(), status: "status".into(), trust: Trust::default() }
}
