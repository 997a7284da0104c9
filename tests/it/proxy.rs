//! A TCP proxy between clients and one broker that understands just enough of Kafka to spoil a chosen request or answer.
//!
//! It splits both directions into Kafka's frames and reads the headers of requests; so it knows which answer belongs to which
//! request, and never ends in the middle of a frame. The broker must advertise the proxy's port (`ops/kafka/broker
//! --proxied-port`), since clients go where its metadata say. Connections are plaintext.
//!
//! Independent of the other tests, so that other programs can include it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::decode_request_header_from_buffer;

/// The largest frame: more than a broker takes (`socket.request.max.bytes`, 100 MiB) or a client asks for.
const FRAME_BYTES_MAX: usize = 128 << 20;
/// Frames of one direction of a connection that wait for their time; then the sender waits.
const FRAMES_WAITING_MAX: usize = 64;
/// How long the broker may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From a loss to the end of its connection: time for what was sent before to arrive.
const CLOSE_DELAY: Duration = Duration::from_millis(100);

/// What is done to the requests of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub api: ApiKey,
    pub what: What,
    pub when: When,
}

/// What is done to a request or its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// The broker gets the request, and all that follows on its connection, later: even when the client has left meanwhile.
    DelayRequest(Duration),
    /// The broker never gets the request.
    DropRequest(Afterwards),
    /// The client gets the answer, and all that follows on its connection, later.
    DelayResponse(Duration),
    /// The broker has done what the request wants, and the client never gets the answer.
    DropResponse(Afterwards),
    /// The connection ends as soon as the broker was sent the request: whether it did what the request wants is open.
    CutConnectionBeforeResponse,
}

impl What {
    /// Whether the answer is not simply forwarded.
    fn concerns_the_answer(&self) -> bool {
        matches!(self, What::DelayResponse(_) | What::DropResponse(_) | What::CutConnectionBeforeResponse)
    }
}

/// What becomes of a connection on which something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It goes on; the client waits until its own timeout.
    Silence,
    /// It ends after a short while, as TCP connections do that lose something.
    Close,
}

/// To which of the matching requests it is done.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// To this many that come next.
    Next(u32),
    /// To each with this probability; the same seed chooses the same ones.
    Chance { probability: f64, seed: u64 },
}

/// A running proxy; it ends, with its connections, when this is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// Forwards what connects to `listener` to the broker that listens at `broker`.
    pub fn start(listener: TcpListener, broker: SocketAddr) -> Proxy {
        let address = listener.local_addr().expect("it listens");
        let shared =
            Arc::new(Shared { broker, state: Mutex::default(), changed: Condvar::new(), applied: AtomicU64::new(0) });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(&listener));
        Proxy { shared, address }
    }

    /// A port for clients to connect to, before there is a broker to be told about it.
    pub fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free")
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `fault` happens too. Of several that match a request the oldest does.
    pub fn fault(&self, fault: Fault) {
        let seed = if let When::Chance { seed, .. } = fault.when { seed } else { 0 };
        self.shared.state().faults.push(Armed { fault, random: SplitMix(seed) });
    }

    /// How many faults have happened: a delay is counted when it is over, a loss when it is one.
    pub fn applied(&self) -> u64 {
        self.shared.applied.load(Ordering::SeqCst)
    }

    /// How many requests of this kind have come from clients.
    pub fn requests(&self, api: ApiKey) -> u64 {
        self.shared.state().requests.get(&(api as i16)).copied().unwrap_or(0)
    }

    /// Connections stay open and new ones are accepted, but nothing goes through any more, until [`Proxy::heal`]: then all
    /// that was held back does.
    pub fn pause(&self) {
        self.shared.change(|state| state.line = Line::Paused);
    }

    /// Ends all connections; new ones end at once.
    pub fn cut(&self) {
        self.shared.change(|state| {
            state.line = Line::Cut;
            state.connections.values().for_each(|connection| connection.end());
        });
    }

    /// Every frame arrives half of `rtt` later.
    pub fn latency(&self, rtt: Duration) {
        self.shared.change(|state| state.latency = rtt / 2);
    }

    /// All connections together carry this many bytes a second in each direction.
    pub fn bandwidth(&self, bytes_per_second: u64) {
        self.shared.change(|state| state.bytes_per_second = Some(bytes_per_second.max(1)));
    }

    /// From now on nothing is spoiled; faults that have not happened yet are forgotten.
    pub fn heal(&self) {
        self.shared.change(|state| {
            state.line = Line::Open;
            state.latency = Duration::ZERO;
            state.bytes_per_second = None;
            state.faults.clear();
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.line = Line::Closed;
            state.connections.values().for_each(|connection| connection.end());
        });
        // The accepting thread looks at the line when something connects.
        let _ = TcpStream::connect(self.address);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Line {
    #[default]
    Open,
    Paused,
    Cut,
    /// The proxy is gone.
    Closed,
}

#[derive(Default)]
struct State {
    line: Line,
    latency: Duration,
    bytes_per_second: Option<u64>,
    /// When the line has carried what it was given, towards the broker and towards the clients.
    free_at: [Option<Instant>; 2],
    faults: Vec<Armed>,
    requests: HashMap<i16, u64>,
    connections: HashMap<u64, Arc<Connection>>,
    next_connection: u64,
}

struct Armed {
    fault: Fault,
    random: SplitMix,
}

impl Armed {
    /// Whether it happens to the request at hand.
    fn strikes(&mut self) -> bool {
        match &mut self.fault.when {
            When::Next(0) => false,
            When::Next(left) => {
                *left -= 1;
                true
            }
            When::Chance { probability, .. } => self.random.unit() < *probability,
        }
    }
}

/// Random numbers by splitmix64: the same ones from the same seed, on every machine.
struct SplitMix(u64);

impl SplitMix {
    /// A number from 0 to below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

struct Shared {
    broker: SocketAddr,
    state: Mutex<State>,
    /// The line is another one.
    changed: Condvar,
    applied: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn count_fault(&self) {
        self.applied.fetch_add(1, Ordering::SeqCst);
    }

    fn accept(self: &Arc<Shared>, listener: &TcpListener) {
        for client in listener.incoming() {
            match self.state().line {
                Line::Closed => return,
                Line::Cut => continue,
                Line::Open | Line::Paused => {}
            }
            let (Ok(client), shared) = (client, Arc::clone(self)) else { continue };
            std::thread::spawn(move || {
                // A broker that is away is what the client sees: its connection ends.
                let Ok(broker) = TcpStream::connect_timeout(&shared.broker, CONNECT_TIMEOUT) else { return };
                if let Err(error) = shared.serve(client, broker) {
                    eprintln!("proxy: {error}");
                }
            });
        }
    }

    /// Forwards both ways until both sides have ended.
    fn serve(&self, client: TcpStream, broker: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let connection = Arc::new(Connection { client, broker, unanswered: Mutex::default() });
        let id = {
            let mut state = self.state();
            if matches!(state.line, Line::Cut | Line::Closed) {
                return Ok(());
            }
            state.next_connection += 1;
            let id = state.next_connection;
            state.connections.insert(id, Arc::clone(&connection));
            id
        };
        std::thread::scope(|scope| {
            let (requests, requests_due) = sync_channel(FRAMES_WAITING_MAX);
            let (responses, responses_due) = sync_channel(FRAMES_WAITING_MAX);
            let connection = &connection;
            scope.spawn(move || self.read_requests(connection, &requests));
            scope.spawn(move || self.write_requests(connection, requests_due));
            scope.spawn(move || self.read_responses(connection, &responses));
            scope.spawn(move || self.write_responses(connection, responses_due));
        });
        self.state().connections.remove(&id);
        Ok(())
    }

    /// Returns when the line is not paused.
    fn await_line(&self) {
        let paused = |state: &mut State| state.line == Line::Paused;
        drop(self.changed.wait_while(self.state(), paused).unwrap_or_else(PoisonError::into_inner));
    }

    /// When a frame that comes now has arrived at the other end.
    fn arrival(&self, way: Way, bytes: usize) -> Instant {
        let mut state = self.state();
        let now = Instant::now();
        let sent = match state.bytes_per_second {
            None => now,
            Some(rate) => {
                let free_at = state.free_at[way as usize].unwrap_or(now).max(now);
                free_at + Duration::from_secs_f64(bytes as f64 / rate as f64)
            }
        };
        state.free_at[way as usize] = Some(sent);
        sent + state.latency
    }

    /// What is to be done to a request and its answer.
    fn choose(&self, api: i16) -> Option<What> {
        let mut state = self.state();
        *state.requests.entry(api).or_default() += 1;
        let strikes = |armed: &mut Armed| armed.fault.api as i16 == api && armed.strikes();
        state.faults.iter_mut().find_map(|armed| strikes(armed).then_some(armed.fault.what))
    }

    fn read_requests(&self, connection: &Connection, due: &SyncSender<Due>) {
        while let Ok(frame) = read_frame(&connection.client) {
            self.await_line();
            // What is no request of a known kind is forwarded untouched.
            let request = request_of(&frame);
            let what = request.and_then(|(api, _)| self.choose(api));
            if let (Some((_, correlation)), Some(what)) = (request, what.filter(What::concerns_the_answer)) {
                connection.unanswered().insert(correlation, what);
            }
            let at = self.arrival(Way::ToBroker, frame.len());
            if due.send(Due { frame, at, what }).is_err() {
                break;
            }
        }
    }

    fn write_requests(&self, connection: &Connection, due: Receiver<Due>) {
        for Due { frame, at, what } in due {
            sleep_until(at);
            if let Some(What::DelayRequest(delay)) = what {
                std::thread::sleep(delay);
            }
            self.await_line();
            if let Some(What::DropRequest(afterwards)) = what {
                self.count_fault();
                if afterwards == Afterwards::Close {
                    std::thread::sleep(CLOSE_DELAY);
                    connection.end();
                }
                continue;
            }
            if write_frame(&connection.broker, &frame).is_err() {
                connection.end();
                return;
            }
            match what {
                Some(What::DelayRequest(_)) => self.count_fault(),
                Some(What::CutConnectionBeforeResponse) => {
                    self.count_fault();
                    connection.end();
                }
                _ => {}
            }
        }
        // The client has left; the broker still gets what the client sent before.
        let _ = connection.broker.shutdown(Shutdown::Write);
    }

    fn read_responses(&self, connection: &Connection, due: &SyncSender<Due>) {
        while let Ok(frame) = read_frame(&connection.broker) {
            let correlation = frame.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
            let what = correlation.and_then(|correlation| connection.unanswered().remove(&correlation));
            let at = self.arrival(Way::ToClient, frame.len());
            if due.send(Due { frame, at, what }).is_err() {
                break;
            }
        }
    }

    fn write_responses(&self, connection: &Connection, due: Receiver<Due>) {
        for Due { frame, at, what } in due {
            sleep_until(at);
            if let Some(What::DelayResponse(delay)) = what {
                std::thread::sleep(delay);
            }
            self.await_line();
            // The answer can be here before the connection is cut.
            if what == Some(What::CutConnectionBeforeResponse) {
                continue;
            }
            if let Some(What::DropResponse(afterwards)) = what {
                self.count_fault();
                if afterwards == Afterwards::Close {
                    std::thread::sleep(CLOSE_DELAY);
                    connection.end();
                }
                continue;
            }
            // A client that has left must not keep what it sent before from the broker: go on without it.
            let _ = write_frame(&connection.client, &frame);
            if what.is_some() {
                self.count_fault();
            }
        }
        connection.end();
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    ToBroker,
    ToClient,
}

/// A client's connection and the one that carries it on.
struct Connection {
    client: TcpStream,
    broker: TcpStream,
    /// What is to be done to answers that have not come yet, by correlation id.
    unanswered: Mutex<HashMap<i32, What>>,
}

impl Connection {
    fn unanswered(&self) -> MutexGuard<'_, HashMap<i32, What>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends both sides; its threads see it.
    fn end(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.broker.shutdown(Shutdown::Both);
    }
}

/// A frame on its way.
struct Due {
    /// Without its length.
    frame: Vec<u8>,
    at: Instant,
    what: Option<What>,
}

fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// The API key and correlation id of a request.
fn request_of(frame: &[u8]) -> Option<(i16, i32)> {
    // Key, version, correlation id: the decoder takes it for granted that they are there.
    frame.first_chunk::<8>()?;
    let header = decode_request_header_from_buffer(&mut &frame[..]).ok()?;
    Some((header.request_api_key, header.correlation_id))
}

fn read_frame(mut from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        eprintln!("proxy: a frame of {length} bytes, more than {FRAME_BYTES_MAX}: this is not Kafka");
        from.shutdown(Shutdown::Both)?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = Vec::new();
    // Memory grows with what comes, not with what a length announces.
    let read = from.take(length as u64).read_to_end(&mut frame)?;
    if read < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(frame) }
}

fn write_frame(mut to: &TcpStream, frame: &[u8]) -> io::Result<()> {
    to.write_all(&[&(frame.len() as u32).to_be_bytes()[..], frame].concat())
}
