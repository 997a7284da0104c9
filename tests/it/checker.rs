//! Reads outputs and dead letters as a user's read_committed consumer does, while faults happen and afterwards, and counts what
//! must never be: in the words of Jepsen's tests of Kafka where they have one.
//!
//! [`Ledger`] is the pure part: it is told what was read. [`Checker`] reads, in a thread of its own.
//! Independent of the other tests, so that other programs can include it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::flow::Flow;
use crate::harness::Cluster;

/// Offsets of one partition that the checker keeps a bit for: 32 MiB.
const OFFSETS_MAX: usize = 1 << 28;
/// Partitions of one topic; a source that names a higher one is none.
const PARTITIONS_MAX: usize = 4096;
/// Violations that are described, not only counted.
const EXAMPLES_MAX: usize = 20;
/// How long the broker may take to answer one question.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading a topic once more may take.
const SCAN_DEADLINE: Duration = Duration::from_secs(120);
/// How long the reader that saw it all may lag behind one that has just read everything.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(20);
/// Between two questions whether something holds at last.
const PAUSE: Duration = Duration::from_millis(100);

/// Partition and offset of a record of the input.
pub type Source = (i32, i64);

/// Where the result of a record may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    Output,
    DeadLetters,
}

/// Where a result was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub topic: Topic,
    pub partition: i32,
    pub offset: i64,
}

/// A set of offsets for each partition.
#[derive(Debug, Clone, Default)]
pub struct Offsets(Vec<Vec<u64>>);

impl Offsets {
    /// The first `count` offsets of each partition: a topic that was written once, without transactions.
    pub fn dense(counts: &[u64]) -> Offsets {
        let mut offsets = Offsets::default();
        for (partition, count) in counts.iter().enumerate() {
            for offset in 0..*count as i64 {
                offsets.insert(partition as i32, offset);
            }
        }
        offsets
    }

    /// These.
    pub fn at(sources: impl IntoIterator<Item = Source>) -> Offsets {
        let mut offsets = Offsets::default();
        for (partition, offset) in sources {
            offsets.insert(partition, offset).expect("within the checker's limits");
        }
        offsets
    }

    /// Whether it was not in it yet; `None` if it cannot be.
    pub fn insert(&mut self, partition: i32, offset: i64) -> Option<bool> {
        let index = usize::try_from(partition).ok().filter(|index| *index < PARTITIONS_MAX)?;
        let offset = usize::try_from(offset).ok().filter(|offset| *offset < OFFSETS_MAX)?;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Vec::new);
        }
        let (word, bit) = (offset / 64, 1 << (offset % 64));
        let words = &mut self.0[index];
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let new = words[word] & bit == 0;
        words[word] |= bit;
        Some(new)
    }

    pub fn count(&self) -> u64 {
        self.0.iter().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Behind the last offset of each partition.
    pub fn ends(&self) -> Vec<i64> {
        let end = |words: &Vec<u64>| {
            let last = words.iter().rposition(|word| *word != 0);
            last.map_or(0, |word| (word * 64 + 64) as i64 - i64::from(words[word].leading_zeros()))
        };
        self.0.iter().map(end).collect()
    }

    /// Those that `other` does not have.
    pub fn without(&self, other: &Offsets) -> Offsets {
        let word =
            |partition: usize, index: usize| other.0.get(partition).and_then(|words| words.get(index)).unwrap_or(&0);
        let partitions = self.0.iter().enumerate().map(|(partition, words)| {
            words.iter().enumerate().map(|(index, mine)| mine & !word(partition, index)).collect()
        });
        Offsets(partitions.collect())
    }

    /// The first few.
    fn some(&self) -> Vec<Source> {
        let bits = |word: u64| (0..64).filter(move |bit| word & 1 << bit != 0);
        let of = |(partition, words): (usize, &Vec<u64>)| {
            let offsets =
                words.iter().enumerate().flat_map(|(index, word)| bits(*word).map(move |bit| index as i64 * 64 + bit));
            offsets.map(|offset| (partition as i32, offset)).take(EXAMPLES_MAX).collect::<Vec<Source>>()
        };
        self.0.iter().enumerate().flat_map(of).take(EXAMPLES_MAX).collect()
    }
}

/// What was read, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Ledger {
    sources: Offsets,
    outputs: Offsets,
    dead_letters: Offsets,
    /// The last source offset by topic, partition and source partition.
    last: HashMap<(Topic, i32, i32), i64>,
    report: Report,
}

impl Ledger {
    /// A read_committed reader was shown this: the result of `source`, where it says so, with what `belongs` to it.
    pub fn read(&mut self, place: Place, source: Option<Source>, belongs: bool) {
        self.report.read += 1;
        if !self.places(place.topic).insert(place.partition, place.offset).expect("within the checker's limits") {
            self.report.reordered += 1;
            self.example(format!("reordered: {place:?} was read before"));
        }
        let new = source.and_then(|(partition, offset)| self.sources.insert(partition, offset));
        let (Some(source), Some(new)) = (source, new) else {
            self.report.phantom += 1;
            self.example(format!("phantom: {place:?} comes from {source:?}"));
            return;
        };
        if !belongs {
            self.report.torn += 1;
            self.example(format!("torn: {place:?} has not what belongs to {source:?}"));
        }
        if !new {
            self.report.duplicate += 1;
            self.example(format!("duplicate: {source:?} again at {place:?}"));
            return;
        }
        let last = self.last.entry((place.topic, place.partition, source.0)).or_insert(-1);
        if source.1 < *last {
            let last = *last;
            self.report.reordered += 1;
            self.example(format!("reordered: {source:?} at {place:?} after {last}"));
        } else {
            *last = source.1;
        }
    }

    /// Compares with the input and with what another read_committed reader was shown later, when all was calm.
    pub fn settle(mut self, input: &Offsets, later: &Ledger) -> Report {
        let lost = input.without(&self.sources);
        let phantom = self.sources.without(input);
        self.report.expected = input.count();
        self.report.lost = lost.count();
        self.report.phantom += phantom.count();
        self.report.skipped = later.places_without(&self);
        self.report.aborted_read = self.places_without(later);
        lost.some().iter().for_each(|source| self.example(format!("lost: {source:?}")));
        phantom.some().iter().for_each(|source| self.example(format!("phantom: {source:?} is not in the input")));
        self.report
    }

    fn places(&mut self, topic: Topic) -> &mut Offsets {
        match topic {
            Topic::Output => &mut self.outputs,
            Topic::DeadLetters => &mut self.dead_letters,
        }
    }

    /// How many results were shown here and not there.
    fn places_without(&self, other: &Ledger) -> u64 {
        self.outputs.without(&other.outputs).count() + self.dead_letters.without(&other.dead_letters).count()
    }

    fn example(&mut self, text: String) {
        if self.report.examples.len() < EXAMPLES_MAX {
            self.report.examples.push(text);
        }
    }
}

/// How often it was seen what must never be, and how much was looked at. Displayed as a line of a table below [`Report::HEAD`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records of the input.
    pub expected: u64,
    /// Results that were read.
    pub read: u64,
    /// Results of aborted transactions, which a read_uncommitted reader sees: no violation, but a proof that there were some.
    pub aborted: u64,
    /// Records without a result.
    pub lost: u64,
    /// Results of a record that had one.
    pub duplicate: u64,
    /// Results of no record.
    pub phantom: u64,
    /// Results behind those of later records of the same partition, or read again.
    pub reordered: u64,
    /// Results that have not what belongs to their record.
    pub torn: u64,
    /// Results that were not shown to the reader that had read past them.
    pub skipped: u64,
    /// Results that a read_committed reader was shown, and that are of no committed transaction.
    pub aborted_read: u64,
    /// Offsets that an open transaction still hides from read_committed readers.
    pub unseen: u64,
    /// Offsets of the input that the group has not committed.
    pub uncommitted: u64,
    /// The first violations, in words.
    pub examples: Vec<String>,
}

impl Report {
    pub const HEAD: &str = " expected      read   aborted |   lost duplicate phantom reordered  torn skipped aborted-read unseen uncommitted";

    /// Whether each record has exactly one result, and everything came to rest.
    pub fn is_exactly_once(&self) -> bool {
        self.duplicate == 0 && self.is_at_least_once()
    }

    /// As [`Report::is_exactly_once`], apart from duplicates.
    pub fn is_at_least_once(&self) -> bool {
        self.lost == 0 && self.others() == 0
    }

    /// Violations other than lost and duplicate results.
    pub fn others(&self) -> u64 {
        let Report { phantom, reordered, torn, skipped, aborted_read, unseen, uncommitted, .. } = self;
        phantom + reordered + torn + skipped + aborted_read + unseen + uncommitted
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { expected, read, aborted, lost, duplicate, phantom, reordered, torn, .. } = self;
        let Report { skipped, aborted_read, unseen, uncommitted, .. } = self;
        write!(f, "{expected:9} {read:9} {aborted:9} | {lost:6} {duplicate:9} {phantom:7} {reordered:9} {torn:5} ")?;
        write!(f, "{skipped:7} {aborted_read:12} {unseen:6} {uncommitted:11}")
    }
}

/// What is checked.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Bootstrap addresses, past all faults.
    pub brokers: String,
    pub input: String,
    pub output: String,
    pub dead_letters: String,
    pub group: String,
}

impl Subject {
    /// The results of `flow` as `group` makes them; `cluster` is the way past all faults.
    pub fn of(cluster: &Cluster, flow: &Flow, group: &str) -> Subject {
        Subject {
            brokers: cluster.brokers.clone(),
            input: flow.input.clone(),
            output: flow.output.clone(),
            dead_letters: flow.dead_letters.clone(),
            group: group.to_owned(),
        }
    }
}

/// A running reader of the results.
pub struct Checker {
    subject: Subject,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Checker {
    /// Starts to read, from the beginning. `belongs` says whether a result has what belongs to its record.
    pub fn start(subject: Subject, belongs: impl Fn(Source, &BorrowedMessage<'_>) -> bool + Send + 'static) -> Checker {
        let (ledger, stop) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(AtomicBool::new(false)));
        let reader = Reader::open(&subject, "read_committed");
        let (theirs, stopped) = (Arc::clone(&ledger), Arc::clone(&stop));
        let reader = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                reader.next(|place, source, message| {
                    let belongs = source.is_some_and(|source| belongs(source, message));
                    lock(&theirs).read(place, source, belongs);
                });
            }
        });
        Checker { subject, ledger, stop, reader: Some(reader) }
    }

    /// How many results were read so far.
    pub fn read(&self) -> u64 {
        lock(&self.ledger).report.read
    }

    /// What was wrong so far; what is missing shows at the end only.
    pub fn so_far(&self) -> Report {
        lock(&self.ledger).report.clone()
    }

    /// Waits until the group has committed the whole `input` and no transaction is open, at most `wait`; then looks at everything
    /// once more. Nothing may write to the input any more.
    pub fn finish(mut self, input: &Offsets, wait: Duration) -> Report {
        let deadline = Instant::now() + wait;
        let asking = consumer(&self.subject, "read_committed");
        let uncommitted = until_zero(deadline, || uncommitted(&asking, &self.subject.input, input));
        let hidden = Hidden::now(&self.subject);
        let unseen = until_zero(deadline, || hidden.left());
        let later = scan(&self.subject, "read_committed");
        let all = scan(&self.subject, "read_uncommitted");

        let deadline = Instant::now() + CATCH_UP_DEADLINE;
        until_zero(deadline, || later.places_without(&lock(&self.ledger)));
        self.stop.store(true, Ordering::SeqCst);
        self.reader.take().expect("it runs until here").join().expect("the results can be read");
        let ledger = std::mem::take(&mut *lock(&self.ledger));
        Report { uncommitted, unseen, aborted: all.places_without(&later), ..ledger.settle(input, &later) }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until the answer is zero; the last answer.
fn until_zero(deadline: Instant, ask: impl Fn() -> u64) -> u64 {
    loop {
        let left = ask();
        if left == 0 || Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(PAUSE);
    }
}

fn consumer(subject: &Subject, isolation: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &subject.brokers).set("isolation.level", isolation);
    // Its committed offsets are read; it never joins.
    config.set("group.id", &subject.group).set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("auto.offset.reset", "error").set("check.crcs", "true");
    config.create().expect("valid settings")
}

/// Asks again while the broker is away.
fn ask<T>(what: &str, question: impl Fn() -> Result<T, KafkaError>) -> T {
    let deadline = Instant::now() + SCAN_DEADLINE;
    loop {
        match question() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{what}: {error}"),
        }
        std::thread::sleep(PAUSE);
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> i32 {
    ask(topic, || {
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
        match metadata.topics().first().map_or(0, |topic| topic.partitions().len()) {
            0 => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
            count => Ok(count as i32),
        }
    })
}

/// Reads both topics of results.
struct Reader {
    consumer: BaseConsumer,
    output: String,
    partitions: usize,
}

impl Reader {
    fn open(subject: &Subject, isolation: &str) -> Reader {
        let consumer = consumer(subject, isolation);
        let mut list = TopicPartitionList::new();
        for topic in [&subject.output, &subject.dead_letters] {
            for partition in 0..partitions(&consumer, topic) {
                list.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
            }
        }
        consumer.assign(&list).expect("valid partitions");
        Reader { consumer, output: subject.output.clone(), partitions: list.count() }
    }

    /// Hands on the next result, if one comes soon; whether a partition was read to its end.
    fn next(&self, seen: impl FnOnce(Place, Option<Source>, &BorrowedMessage<'_>)) -> bool {
        match self.consumer.poll(PAUSE) {
            None => false,
            Some(Err(KafkaError::PartitionEOF(_))) => true,
            Some(Ok(message)) => {
                let topic = if message.topic() == self.output { Topic::Output } else { Topic::DeadLetters };
                let place = Place { topic, partition: message.partition(), offset: message.offset() };
                seen(place, source_of(&message), &message);
                false
            }
            Some(Err(error)) => {
                let gone = [Some(RDKafkaErrorCode::AutoOffsetReset), Some(RDKafkaErrorCode::OffsetOutOfRange)];
                let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
                assert!(!fatal && !gone.contains(&error.rdkafka_error_code()), "the results cannot be read: {error}");
                false
            }
        }
    }
}

fn source_of(message: &BorrowedMessage<'_>) -> Option<Source> {
    let headers = message.headers()?;
    let text = |name: &str| headers.iter().find(|header| header.key == name).and_then(|header| header.value);
    let text = |name| std::str::from_utf8(text(name)?).ok();
    Some((text("modelstream-source-partition")?.parse().ok()?, text("modelstream-source-offset")?.parse().ok()?))
}

/// What a new reader is shown, from the beginning to the end.
fn scan(subject: &Subject, isolation: &str) -> Ledger {
    let (reader, mut ledger) = (Reader::open(subject, isolation), Ledger::default());
    let (mut ended, deadline) = (0, Instant::now() + SCAN_DEADLINE);
    // Nothing writes any more: each partition ends once.
    while ended < reader.partitions {
        assert!(Instant::now() < deadline, "the results are read within {SCAN_DEADLINE:?}");
        ended += usize::from(reader.next(|place, source, _| ledger.read(place, source, true)));
    }
    ledger
}

/// How far the committed offsets of the consumer's group are behind the end of the input.
fn uncommitted(consumer: &BaseConsumer, topic: &str, input: &Offsets) -> u64 {
    let ends = input.ends();
    let mut list = TopicPartitionList::new();
    for partition in 0..ends.len() {
        list.add_partition(topic, partition as i32);
    }
    // Offsets in an open transaction are none yet: the broker does not tell.
    let Ok(committed) = consumer.committed_offsets(list, REQUEST_TIMEOUT) else {
        return ends.iter().sum::<i64>() as u64;
    };
    let behind = committed.elements().into_iter().map(|element| {
        let committed = if let Offset::Offset(offset) = element.offset() { offset } else { 0 };
        (ends[element.partition() as usize] - committed).max(0) as u64
    });
    behind.sum()
}

/// The partitions that transactions write to, with the ends that they have now.
struct Hidden {
    committed: BaseConsumer,
    ends: Vec<(String, i32, i64)>,
}

impl Hidden {
    fn now(subject: &Subject) -> Hidden {
        let all = consumer(subject, "read_uncommitted");
        let topics = [&subject.output, &subject.dead_letters];
        let results =
            topics.iter().flat_map(|topic| (0..partitions(&all, topic)).map(|partition| ((*topic).clone(), partition)));
        let offsets = "__consumer_offsets".to_owned();
        let of_group = partition_of_group(&subject.group, partitions(&all, &offsets));
        let ends = results.chain([(offsets, of_group)]).map(|(topic, partition)| {
            let (_, end) = ask(&topic, || all.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT));
            (topic, partition, end)
        });
        Hidden { ends: ends.collect(), committed: consumer(subject, "read_committed") }
    }

    /// How many of the offsets that there were are still hidden: what came later is of no concern.
    fn left(&self) -> u64 {
        let hidden = self.ends.iter().map(|(topic, partition, end)| {
            // To a read_committed consumer a partition ends with its last stable offset.
            let (_, stable) = ask(topic, || self.committed.fetch_watermarks(topic, *partition, REQUEST_TIMEOUT));
            (end - stable).max(0) as u64
        });
        hidden.sum()
    }
}

/// Where a broker keeps a group's committed offsets: by Java's hash of its name.
fn partition_of_group(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(offset: i64) -> Place {
        Place { topic: Topic::Output, partition: 0, offset }
    }

    fn dead(offset: i64) -> Place {
        Place { topic: Topic::DeadLetters, partition: 0, offset }
    }

    /// Where it was read, of which record, with what belongs to it or not.
    type Shown = (Place, Option<Source>, bool);

    /// What the checker says when these are read, of an input of three records in one partition and one in another.
    fn report(read: &[Shown]) -> Report {
        let ledger = |read: &[Shown]| {
            let mut ledger = Ledger::default();
            read.iter().for_each(|(place, source, belongs)| ledger.read(*place, *source, *belongs));
            ledger
        };
        let report = ledger(read).settle(&Offsets::dense(&[3, 1]), &ledger(read));
        Report { expected: 0, read: 0, examples: Vec::new(), ..report }
    }

    fn good() -> Vec<Shown> {
        vec![
            (out(0), Some((0, 0)), true),
            (out(1), Some((1, 0)), true),
            (dead(0), Some((0, 1)), true),
            // An offset is free behind each transaction.
            (out(3), Some((0, 2)), true),
        ]
    }

    #[test]
    fn a_clean_run_is_clean() {
        assert_eq!(report(&good()), Report::default());
        assert!(Report::default().is_exactly_once());
    }

    #[test]
    fn each_planted_violation_is_found_and_nothing_else() {
        let spoil = |change: fn(&mut Vec<Shown>)| {
            let mut read = good();
            change(&mut read);
            report(&read)
        };
        let clean = Report::default();
        assert_eq!(spoil(|read| read.truncate(3)), Report { lost: 1, ..clean.clone() });
        assert_eq!(spoil(|read| read.retain(|(place, ..)| *place != out(1))), Report { lost: 1, ..clean.clone() });
        assert_eq!(spoil(|read| read.push((out(4), Some((0, 0)), true))), Report { duplicate: 1, ..clean.clone() });
        let other_topic = spoil(|read| read.push((dead(4), Some((0, 0)), true)));
        assert_eq!(other_topic, Report { duplicate: 1, ..clean.clone() }, "once over both topics");
        assert_eq!(spoil(|read| read.push((out(4), Some((0, 3)), true))), Report { phantom: 1, ..clean.clone() });
        assert_eq!(spoil(|read| read.push((out(4), Some((7, 0)), true))), Report { phantom: 1, ..clean.clone() });
        assert_eq!(spoil(|read| read.push((out(4), Some((-1, 0)), true))), Report { phantom: 1, ..clean.clone() });
        assert_eq!(
            spoil(|read| read.push((out(4), Some((0, i64::MAX)), true))),
            Report { phantom: 1, ..clean.clone() }
        );
        assert_eq!(spoil(|read| read.push((out(4), None, false))), Report { phantom: 1, ..clean.clone() });
        assert_eq!(spoil(|read| read[2].2 = false), Report { torn: 1, ..clean.clone() });
        let swapped = spoil(|read| (read[0].1, read[3].1) = (read[3].1, read[0].1));
        assert_eq!(swapped, Report { reordered: 1, ..clean.clone() });
        // Partition 0 of the input may overtake itself where other partitions or topics are read.
        assert_eq!(spoil(|read| read.swap(0, 2)), clean);
    }

    #[test]
    fn a_reader_that_is_led_back_is_noticed() {
        let mut ledger = Ledger::default();
        ledger.read(out(0), Some((0, 0)), true);
        ledger.read(out(0), Some((0, 1)), true);
        assert_eq!(ledger.report.reordered, 1);
    }

    #[test]
    fn two_readers_that_are_shown_different_things_are_compared() {
        let (mut live, mut later) = (Ledger::default(), Ledger::default());
        for place in [out(0), out(5), dead(70)] {
            live.read(place, Some((0, place.offset)), true);
        }
        for place in [out(0), dead(70), dead(71), out(200)] {
            later.read(place, Some((0, place.offset)), true);
        }
        let report = live.settle(&Offsets::default(), &later);
        assert_eq!((report.skipped, report.aborted_read), (2, 1));
    }

    #[test]
    fn every_violation_breaks_the_promise() {
        let with = |change: fn(&mut Report)| {
            let mut report = Report { expected: 9, read: 9, aborted: 9, ..Report::default() };
            change(&mut report);
            (report.is_exactly_once(), report.is_at_least_once())
        };
        assert_eq!(with(|_| {}), (true, true));
        assert_eq!(with(|report| report.duplicate = 1), (false, true));
        let violations: [fn(&mut Report); 8] = [
            |report| report.lost = 1,
            |report| report.phantom = 1,
            |report| report.reordered = 1,
            |report| report.torn = 1,
            |report| report.skipped = 1,
            |report| report.aborted_read = 1,
            |report| report.unseen = 1,
            |report| report.uncommitted = 1,
        ];
        violations.into_iter().for_each(|violation| assert_eq!(with(violation), (false, false)));
    }

    #[test]
    fn sets_of_offsets_count_end_and_differ() {
        let mut offsets = Offsets::dense(&[0, 64, 65]);
        assert_eq!((offsets.count(), offsets.ends()), (129, vec![0, 64, 65]));
        assert_eq!((offsets.insert(0, 1_000), offsets.insert(0, 1_000)), (Some(true), Some(false)));
        assert_eq!(offsets.ends(), [1_001, 64, 65]);
        assert_eq!(offsets.without(&Offsets::dense(&[0, 63, 70])).some(), [(0, 1_000), (1, 63)]);
        assert_eq!(offsets.insert(0, OFFSETS_MAX as i64), None);
    }

    #[test]
    fn the_table_has_a_column_for_each_count() {
        let line = Report { uncommitted: 7, ..Report::default() }.to_string();
        assert_eq!((line.len(), line.ends_with('7')), (Report::HEAD.len(), true), "\n{}\n{line}", Report::HEAD);
    }

    #[test]
    fn a_group_is_where_java_puts_it() {
        // Its hash is the one that has no positive counterpart.
        assert_eq!(partition_of_group("polygenelubricants", 4), 0);
        assert_eq!(partition_of_group("abc", 50), 96_354 % 50);
    }
}
