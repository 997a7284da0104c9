//! Fault 15: somebody sets the wall clock while records flow.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::flow::{Flow, GOOD, outputs_by_source};
use crate::harness::{real_kafka, root, tool};

const HOUR: i64 = 3_600;
/// The shortest that a broker takes.
const SESSION: Duration = Duration::from_secs(6);

/// A wall clock for processes that are started with its environment (`tests/it/wall_clock.c`).
struct WallClock {
    dir: tempfile::TempDir,
    library: PathBuf,
}

impl WallClock {
    fn new() -> WallClock {
        let dir = tempfile::tempdir().expect("a directory");
        let library = dir.path().join("wall_clock.so");
        let source = root().join("tests/it/wall_clock.c");
        tool(Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source));
        let clock = WallClock { dir, library };
        clock.put(0);
        clock
    }

    fn offset(&self) -> PathBuf {
        self.dir.path().join("offset")
    }

    fn environment(&self) -> [(String, String); 2] {
        let text = |path: PathBuf| path.to_str().expect("text").to_owned();
        [("LD_PRELOAD".into(), text(self.library.clone())), ("WALL_CLOCK_OFFSET".into(), text(self.offset()))]
    }

    /// Puts it so many seconds before the real time.
    fn put(&self, ahead: i64) {
        // In place: processes have the file mapped.
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(self.offset());
        file.expect("a file").write_all_at(&ahead.to_ne_bytes(), 0).expect("eight bytes");
    }
}

#[test]
fn a_clock_that_is_put_forward_and_back_by_an_hour_changes_nothing() {
    let Some(cluster) = real_kafka("clock") else { return };
    let (clock, flow) = (WallClock::new(), Flow::new(&cluster, 2));
    cluster.publish_iris("iris", "7");
    let group = cluster.name("group");
    let session = format!("session.timeout.ms={}", SESSION.as_millis());
    let environment = clock.environment();
    let environment = environment.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut serving = cluster.serve_in(&environment, &flow.arguments(&["--group", &group, "-X", &session]));
    serving.wait_until_ready();
    let changes = || ["lane_restarts", "rebalances"].map(|name| serving.metric(&format!("modelstream_{name}_total")));
    let before = changes();

    let mut sent = 0;
    // One record at last: of the two producers of a lane one sends it, and the other has had nothing to do since.
    for (ahead, records) in [(HOUR, 10), (-HOUR, 1)] {
        clock.put(ahead);
        // What is to be seen is that nothing happens for longer than the group waits for a heartbeat.
        std::thread::sleep(SESSION + SESSION / 2);
        assert_eq!(cluster.members(&group), 1, "it is {ahead} s ahead");
        assert_eq!(changes(), before, "it is {ahead} s ahead");
        cluster.send(&flow.input, vec![(None, Some(GOOD)); records]);
        sent += records;
        let outputs = cluster.read(&flow.output, sent);
        assert_eq!(outputs_by_source(&outputs).len(), sent);
        assert_eq!(outputs.len(), sent, "each record once");
    }
    let transactions = serving.metric("modelstream_transactions_total");
    assert!(transactions.values().sum::<f64>() <= sent as f64, "no more than there were records: {transactions:?}");
    assert!(
        transactions.iter().all(|(labels, count)| !labels.contains("aborted") || *count == 0.0),
        "{transactions:?}"
    );
    assert_eq!(serving.stop(), Some(0), "{:#?}", serving.drain_log());
}
