//! What is measured, as a process of its own: started, listened to, looked at, stopped.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cli;
use crate::config::bench::Subject;

use super::super::Error;
use super::Names;

/// The last lines that a process said, for the message when it ends too soon.
const LINES_KEPT: usize = 12;
/// How long a process may take to end after SIGTERM: more than a serving process drains.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// The same where the run has failed already.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);
const STOP_POLL: Duration = Duration::from_millis(20);
/// `sysconf(_SC_CLK_TCK)`, which Linux has fixed for its user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds of CPU time, in user space and in the kernel.
    pub cpu_seconds: f64,
    /// The most memory that it had resident.
    pub peak_memory_bytes: u64,
}

#[derive(Default)]
struct Heard {
    last: VecDeque<String>,
    memory_bound_bytes: Option<u64>,
}

/// A running process and those that it started: a process group.
pub struct Process {
    child: Mutex<Child>,
    /// Of the process and of its group.
    id: u32,
    name: &'static str,
    started: Instant,
    heard: Arc<Mutex<Heard>>,
}

impl Process {
    /// Starts what is measured. Brokers and properties go through its stdin, not its command line, which anyone may read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        common: &cli::Common,
        subject: &Subject,
        names: &Names,
        selector: &str,
        schema: Option<&str>,
    ) -> Result<Process, Error> {
        let (name, mut command) = match subject {
            Subject::Serve { .. } => ("modelstream serve", own_binary()?),
            Subject::PassThrough { .. } => ("modelstream pass-through", own_binary()?),
            Subject::Command(_) => ("the command", Command::new("sh")),
        };
        match subject {
            Subject::Command(line) => {
                command.args(["-c", line]).stdin(Stdio::null());
                command.env("BENCH_BROKERS", common.brokers()).env("BENCH_GROUP", &names.group);
                command.env("BENCH_INPUT", &names.input).env("BENCH_OUTPUT", &names.output);
            }
            ours => {
                command.args(arguments(ours, names, selector, schema)).stdin(Stdio::piped());
            }
        }
        let failed = |source| Error::Io { doing: format!("starting {name}"), source };
        let started = Instant::now();
        // A group of its own: what it starts is measured and stopped with it.
        let mut child =
            command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(settings_file(common).as_bytes()).map_err(failed)?;
        }
        let heard = Arc::new(Mutex::new(Heard::default()));
        if let Some(stderr) = child.stderr.take() {
            let heard = Arc::clone(&heard);
            std::thread::spawn(move || {
                BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| listen(&heard, line));
            });
        }
        Ok(Process { id: child.id(), child: Mutex::new(child), name, started, heard })
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The memory bound that a serving process says it keeps.
    pub fn memory_bound_bytes(&self) -> Option<u64> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).memory_bound_bytes
    }

    /// Checks that it still runs.
    ///
    /// # Errors
    /// When it has ended, with what it said last.
    pub fn check(&self) -> Result<(), Error> {
        match self.status() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&format!("ended too soon ({status})"))),
            Err(error) => Err(error),
        }
    }

    /// How it ended; `None` while it runs.
    fn status(&self) -> Result<Option<ExitStatus>, Error> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().map_err(|source| Error::Io { doing: format!("waiting for {}", self.name), source })
    }

    fn ended(&self, how: &str) -> Error {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let last: Vec<&str> = heard.last.iter().map(String::as_str).collect();
        let said =
            if last.is_empty() { "it said nothing".to_owned() } else { format!("it said:\n{}", last.join("\n")) };
        Error::CheckFailed(format!("{} {how}; {said}", self.name))
    }

    /// What it and those that it started used so far; `None` where the system does not tell.
    pub fn usage(&self) -> Option<Usage> {
        let mut usage = Usage::default();
        let mut found = false;
        for entry in std::fs::read_dir("/proc").ok()?.flatten() {
            let path = entry.path();
            // One may end while it is looked at.
            let Some(cpu_seconds) =
                std::fs::read_to_string(path.join("stat")).ok().and_then(|stat| cpu(&stat, self.id))
            else {
                continue;
            };
            found = true;
            usage.cpu_seconds += cpu_seconds;
            usage.peak_memory_bytes += std::fs::read_to_string(path.join("status")).map_or(0, |status| peak(&status));
        }
        found.then_some(usage)
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// When it does not end in time; or one of ours does not end well: it has not delivered what it read.
    pub fn stop(self) -> Result<(), Error> {
        let ours = self.name != "the command";
        self.signal("TERM");
        let deadline = Instant::now() + STOP_TIMEOUT;
        let status = loop {
            match self.status()? {
                Some(status) => break status,
                None if Instant::now() < deadline => std::thread::sleep(STOP_POLL),
                None => return Err(self.ended(&format!("did not end within {} s", STOP_TIMEOUT.as_secs()))),
            }
        };
        if ours && !status.success() { Err(self.ended(&format!("did not end well ({status})"))) } else { Ok(()) }
    }

    /// The standard library can only kill; every shell can do better.
    fn signal(&self, signal: &str) {
        let line = format!("kill -s {signal} -- -{}", self.id);
        let _ = Command::new("sh").args(["-c", &line]).stderr(Stdio::null()).status();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.status(), Ok(None)) {
            return;
        }
        // A member that leaves its group by itself keeps nobody waiting, the deletion of the group least of all.
        self.signal("TERM");
        let deadline = Instant::now() + LAST_TIMEOUT;
        while matches!(self.status(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(STOP_POLL);
        }
        if matches!(self.status(), Ok(None)) {
            self.signal("KILL");
            let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn own_binary() -> Result<Command, Error> {
    let path = std::env::current_exe()
        .map_err(|source| Error::Io { doing: "looking for this program's own file".to_owned(), source })?;
    let mut command = Command::new(path);
    // What was typed, exported or written into a file is decided already; the process hears it once.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MODELSTREAM_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

fn arguments(subject: &Subject, names: &Names, selector: &str, schema: Option<&str>) -> Vec<String> {
    let mut line: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
    match subject {
        Subject::Serve { flags, delivery, commit_interval, lanes } => {
            let log = &names.log;
            let interval = humantime::format_duration(*commit_interval).to_string().replace(' ', "");
            add(&["serve", "--model", selector, "--dead-letters", &names.dead_letters, "--listen", "127.0.0.1:0"]);
            add(&["--models-topic", &log.models, "--artifacts-topic", &log.artifacts, "--status-topic", &log.status]);
            add(&["--lanes", &lanes.to_string()]);
            add(&["--delivery", delivery, "--commit-interval", &interval]);
            if let Some(schema) = schema {
                add(&["--input-format", "avro", "--input-schema", schema]);
            }
            add(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Subject::PassThrough { headers: true } => add(&["pass-through", "--headers"]),
        Subject::PassThrough { headers: false } | Subject::Command(_) => add(&["pass-through"]),
    }
    add(&["--input", &names.input, "--output", &names.output, "--group", &names.group]);
    add(&["--config", "/dev/stdin", "--log-format", "text"]);
    line
}

/// A settings file with what may hold secrets.
fn settings_file(common: &cli::Common) -> String {
    let mut settings = toml::Table::new();
    settings.insert("brokers".to_owned(), common.brokers().into());
    if !common.properties.is_empty() {
        settings.insert("property".to_owned(), common.properties.clone().into());
    }
    settings.to_string()
}

fn listen(heard: &Mutex<Heard>, line: String) {
    tracing::debug!(target: "bench", "{line}");
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, rest)) = line.split_once("memory_bound_mib=") {
        let mib = rest.split(' ').next().and_then(|mib| mib.parse::<u64>().ok());
        heard.memory_bound_bytes = mib.map(|mib| mib * 1024 * 1024);
    }
    if heard.last.len() == LINES_KEPT {
        heard.last.pop_front();
    }
    heard.last.push_back(line);
}

/// CPU seconds of a process of `group`: proc_pid_stat(5), where children that have ended count too.
fn cpu(stat: &str, group: u32) -> Option<f64> {
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    (number(2)? == u64::from(group)).then_some(())?;
    let ticks = (11..=14).map(number).sum::<Option<u64>>()?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}

fn peak(status: &str) -> u64 {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_that_of_the_group_alone() {
        let stat = "71 (a ) b) S 1 70 70 0 -1 4194560 1 2 3 4 100 20 7 3 20 0 1 0 1 1 1";
        assert_eq!(cpu(stat, 70), Some(1.3));
        assert_eq!(cpu(stat, 71), None);
        assert_eq!(cpu("", 70), None);
    }

    #[test]
    fn a_memory_bound_is_heard_and_few_lines_are_kept() {
        let heard = Mutex::new(Heard::default());
        (0..100).for_each(|index| listen(&heard, format!("{index}")));
        listen(&heard, "INFO serving lanes=1 memory_bound_mib=3 memory_base_mib=2".to_owned());
        let heard = heard.into_inner().expect("not poisoned");
        assert_eq!((heard.last.len(), heard.memory_bound_bytes), (LINES_KEPT, Some(3 << 20)));
    }
}
