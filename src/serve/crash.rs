//! Crash points: the steps of a lane's loop at which a test may kill, stop or disturb the process.
//!
//! Compiled in by the feature `crash-points`, which only this package's own tests switch on; otherwise a point is nothing.
//! `MODELSTREAM_CRASH_POINTS` says what happens: `before-offsets=abort/3,swap=kill@2` aborts every third transaction and kills
//! the process at its second swap.

/// A step of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Partitions are being taken.
    Assign,
    /// Records were fetched and nothing was done yet.
    AfterPoll,
    /// A new version is about to be taken up.
    Swap,
    /// The block is about to be predicted; a panic here is the model's.
    Predict,
    /// A transaction was begun and nothing was sent.
    AfterBegin,
    /// Half a batch was sent.
    MidProduce,
    /// A whole batch was sent.
    AfterProduce,
    /// Everything of a commit is still to be done.
    BeforeOffsets,
    /// The offsets are part of the transaction, or its outputs are delivered; the commit follows.
    BeforeCommit,
    /// The commit was answered.
    AfterCommit,
    /// Partitions are being given back.
    Revoke,
    /// The lane is about to go back to the committed offsets.
    Rewind,
}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(super) fn at(_: Point) -> Result<(), crate::kafka::Error> {
    Ok(())
}

#[cfg(feature = "crash-points")]
pub(super) use armed::at;

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::Point;
    use crate::kafka;

    const VARIABLE: &str = "MODELSTREAM_CRASH_POINTS";
    /// Longer than any test: what hangs, hangs.
    const FOR_EVER: Duration = Duration::from_secs(3600);
    /// Longer than the shortest `max.poll.interval.ms` that a test sets, shorter than a transaction may take.
    const NAP: Duration = Duration::from_secs(8);
    /// About as long as a commit takes, so that the kill meets it on its way.
    const SOON: Duration = Duration::from_millis(3);
    /// Longer than any linger: what was produced before is at the broker when the process stands still.
    const PRODUCED: Duration = Duration::from_millis(200);

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum What {
        Kill,
        KillSoon,
        Stop,
        Panic,
        Hang,
        Nap,
        Abort,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum When {
        /// At this pass, counted from 1.
        At(u64),
        /// At each pass whose number is a multiple of this.
        Every(u64),
    }

    struct Charge {
        point: String,
        what: What,
        when: When,
        passes: AtomicU64,
    }

    impl Charge {
        fn parse(text: &str) -> Charge {
            let (point, rest) = text.split_once('=').expect("POINT=WHAT@N or POINT=WHAT/N");
            let (what, number, every) = match (rest.split_once('@'), rest.split_once('/')) {
                (Some((what, number)), _) => (what, number, false),
                (_, Some((what, number))) => (what, number, true),
                _ => (rest, "1", false),
            };
            let number = number.parse().expect("a number of passes");
            let what = match what {
                "kill" => What::Kill,
                "kill-soon" => What::KillSoon,
                "stop" => What::Stop,
                "panic" => What::Panic,
                "hang" => What::Hang,
                "nap" => What::Nap,
                "abort" => What::Abort,
                other => panic!("{VARIABLE}: no such thing: {other}"),
            };
            let when = if every { When::Every(number) } else { When::At(number) };
            Charge { point: point.to_owned(), what, when, passes: AtomicU64::new(0) }
        }

        fn is_due(&self) -> bool {
            let pass = self.passes.fetch_add(1, Ordering::Relaxed) + 1;
            match self.when {
                When::At(number) => pass == number,
                When::Every(number) => pass.is_multiple_of(number),
            }
        }
    }

    fn charges() -> &'static [Charge] {
        static CHARGES: OnceLock<Vec<Charge>> = OnceLock::new();
        CHARGES.get_or_init(|| {
            let text = std::env::var(VARIABLE).unwrap_or_default();
            text.split(',').filter(|charge| !charge.is_empty()).map(Charge::parse).collect()
        })
    }

    pub(in crate::serve) fn at(point: Point) -> Result<(), kafka::Error> {
        let name = name(point);
        let due = charges().iter().find(|charge| charge.point == name && charge.is_due());
        let Some(charge) = due else { return Ok(()) };
        match charge.what {
            What::Kill => signal("KILL"),
            What::KillSoon => drop(std::thread::spawn(|| {
                std::thread::sleep(SOON);
                signal("KILL");
            })),
            What::Stop => {
                std::thread::sleep(PRODUCED);
                signal("STOP");
            }
            What::Panic => panic!("crash point {name}"),
            What::Hang => std::thread::sleep(FOR_EVER),
            What::Nap => std::thread::sleep(NAP),
            What::Abort => {
                let cause = "a crash point".to_owned();
                return Err(kafka::Error::Abortable { doing: name.to_owned(), cause });
            }
        }
        Ok(())
    }

    fn name(point: Point) -> &'static str {
        match point {
            Point::Assign => "assign",
            Point::AfterPoll => "after-poll",
            Point::Swap => "swap",
            Point::Predict => "predict",
            Point::AfterBegin => "after-begin",
            Point::MidProduce => "mid-produce",
            Point::AfterProduce => "after-produce",
            Point::BeforeOffsets => "before-offsets",
            Point::BeforeCommit => "before-commit",
            Point::AfterCommit => "after-commit",
            Point::Revoke => "revoke",
            Point::Rewind => "rewind",
        }
    }

    fn signal(name: &str) {
        let id = std::process::id().to_string();
        std::process::Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
    }
}
