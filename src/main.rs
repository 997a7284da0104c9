//! `modelstream`: parse, start logging, run one verb, turn its error into an exit code.

use std::ffi::c_long;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use libmimalloc_sys::{mi_option_set_default, mi_option_t};
use modelstream::cli;
use modelstream::commands;
use modelstream::telemetry::logging;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
/// `mi_option_page_reclaim_on_free`, for which the crate has no name (mimalloc 3.3, `mi_option_e` in `mimalloc.h`).
const PAGE_RECLAIM_ON_FREE: mi_option_t = 35;
/// A thread that frees a block of a page that was full takes the page over, up to 32 pages of a size.
const ACROSS_THREADS: c_long = 1;

/// How long a process that ends waits for a stderr that nobody reads.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // A lane allocates what others free, record after record: without this each block costs atomic operations on a page that has
    // no owner. Whoever sets `MIMALLOC_PAGE_RECLAIM_ON_FREE` has their way.
    // SAFETY: a number is stored.
    unsafe { mi_option_set_default(PAGE_RECLAIM_ON_FREE, ACROSS_THREADS) };
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return fail(&error.into()),
    };
    let json = cli.common.log_format == cli::LogFormat::Json;
    let _logging = logging::start(logging::Settings { json, verbosity: cli.verbosity() });
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &commands::Error) -> ExitCode {
    let text = format!("modelstream: {error}");
    let (said, heard) = channel();
    std::thread::spawn(move || {
        eprintln!("{text}");
        said.send(())
    });
    // Either it is said, or the end of the process, which the watchdog may have called for, is more important.
    let _ = heard.recv_timeout(LAST_WORDS);
    ExitCode::from(error.exit_code())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use libmimalloc_sys::mi_option_get;

    use super::PAGE_RECLAIM_ON_FREE;

    /// In a process of its own: mimalloc reads the environment once, at its start, and by name.
    #[test]
    fn the_allocators_option_has_the_number_that_is_set() {
        const NAME: &str = "MIMALLOC_PAGE_RECLAIM_ON_FREE";
        const UNUSUAL: &str = "-1";
        if std::env::var(NAME).is_ok_and(|value| value == UNUSUAL) {
            // SAFETY: a number is read.
            assert_eq!(unsafe { mi_option_get(PAGE_RECLAIM_ON_FREE) }.to_string(), UNUSUAL);
            return;
        }
        let this = ["--exact", "tests::the_allocators_option_has_the_number_that_is_set"];
        let child = Command::new(std::env::current_exe().expect("a path")).args(this).env(NAME, UNUSUAL).output();
        let child = child.expect("it starts");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "it is the test that ran");
    }
}
