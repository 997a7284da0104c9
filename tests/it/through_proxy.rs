//! The proxy spoils what it is told to and nothing else: without that, a test of faults proves nothing.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use modelstream::kafka::Connection;
use modelstream::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::harness::{Cluster, DEADLINE, OwnBroker, ProxiedBroker, wait_until};
use crate::proxy::{Afterwards, ApiKey, Fault, Proxy, What, When};

/// Long enough to be told from no delay, for lower bounds only.
const DELAY: Duration = Duration::from_millis(1500);
/// How long a test looks whether nothing comes.
const QUIET: Duration = Duration::from_millis(300);

fn next(api: ApiKey, times: u32, what: What) -> Fault {
    Fault { api, what, when: When::Next(times) }
}

fn record<'a>(topic: &'a str, value: &'a [u8]) -> Outgoing<'a> {
    Outgoing { topic, partition: None, key: None, value: Some(value), timestamp_ms: None, headers: Headers::default() }
}

fn values(cluster: &Cluster, topic: &str, count: usize) -> Vec<String> {
    let received = cluster.read(topic, count);
    received.into_iter().map(|received| String::from_utf8(received.value.expect("a value")).expect("text")).collect()
}

#[test]
fn clients_work_through_it_and_nowhere_else() {
    let Some(ProxiedBroker { proxy, cluster, broker: _broker, .. }) = OwnBroker::start_proxied("proxy-through") else {
        return;
    };
    let topic = cluster.topic("in", 3);
    let sent: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    cluster.send(&topic, sent.iter().map(|value| (Some(value.as_bytes()), Some(value.as_bytes()))));
    assert_eq!(cluster.read(&topic, sent.len()).len(), sent.len());
    assert!(proxy.requests(ApiKey::Produce) > 0 && proxy.requests(ApiKey::Fetch) > 0);
    assert_eq!(proxy.applied(), 0);
    assert_eq!(proxy.requests(ApiKey::EndTxn), 0);
}

/// The broker has written the records, their producer sends them again, and they are there once, in order.
#[test]
fn a_lost_answer_to_an_idempotent_producer_doubles_nothing() {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied("proxy-produce")
    else {
        return;
    };
    for (number, afterwards) in [Afterwards::Close, Afterwards::Silence].into_iter().enumerate() {
        let topic = direct.topic(&number.to_string(), 1);
        // Where nothing tells the client, only its timeout does.
        let impatient = ["socket.timeout.ms=1000".to_owned(), "request.timeout.ms=1000".to_owned()];
        let connection = Connection::new(&cluster.brokers, &impatient).expect("valid");
        let producer = Producer::idempotent(&connection).expect("valid settings");
        let sent: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
        let before = proxy.applied();
        proxy.fault(next(ApiKey::Produce, 2, What::DropResponse(afterwards)));
        for value in &sent {
            producer
                .send_waiting(|| record(&topic, value.as_bytes()), UNTAGGED, Instant::now() + DEADLINE)
                .expect("room");
        }
        assert!(producer.flush(DEADLINE), "delivered at last");
        assert!(producer.take_failure().is_none());
        assert_eq!(proxy.applied() - before, 2, "{afterwards:?}");
        assert_eq!(values(&direct, &topic, sent.len()), sent, "{afterwards:?}");
    }
}

/// The test above could not fail if the broker never got what its answer was lost to: a producer that is not idempotent doubles.
#[test]
fn a_lost_answer_to_a_plain_producer_doubles() {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied("proxy-plain")
    else {
        return;
    };
    let topic = direct.topic("out", 1);
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", &cluster.brokers).set("enable.idempotence", "false");
    let producer: BaseProducer = config.create().expect("valid settings");
    proxy.fault(next(ApiKey::Produce, 1, What::DropResponse(Afterwards::Close)));
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).payload(&b"twice"[..])).expect("room");
    wait_until("it is delivered", || {
        producer.poll(QUIET);
        producer.in_flight_count() == 0
    });
    assert_eq!(values(&direct, &topic, 2), ["twice", "twice"]);
    assert_eq!(proxy.applied(), 1);
}

/// The client leaves and comes again, and the broker never saw the first attempt.
#[test]
fn a_lost_request_is_sent_again() {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied("proxy-request")
    else {
        return;
    };
    let topic = direct.topic("out", 1);
    proxy.fault(next(ApiKey::Produce, 1, What::DropRequest(Afterwards::Close)));
    cluster.send(&topic, [(None, Some(&b"once"[..]))]);
    assert_eq!((proxy.applied(), proxy.requests(ApiKey::Produce)), (1, 2));
    assert_eq!(values(&direct, &topic, 1), ["once"]);
}

#[test]
fn a_delayed_end_of_a_transaction_really_is() {
    let Some(ProxiedBroker { proxy, cluster, direct, broker: _broker }) = OwnBroker::start_proxied("proxy-end") else {
        return;
    };
    let topic = direct.topic("out", 1);
    let producer = Producer::transactional(&cluster.connection, &cluster.name("id"), DEADLINE).expect("a producer");
    for (number, what) in [What::DelayRequest(DELAY), What::DelayResponse(DELAY)].into_iter().enumerate() {
        proxy.fault(next(ApiKey::EndTxn, 1, what));
        producer.begin_transaction().expect("a transaction");
        producer.send_waiting(|| record(&topic, b"x"), UNTAGGED, Instant::now() + DEADLINE).expect("room");
        let started = Instant::now();
        producer.commit_transaction().expect("committed");
        assert!(started.elapsed() >= DELAY, "{what:?}");
        assert_eq!(proxy.applied(), 1 + number as u64);
        assert_eq!(values(&direct, &topic, 1 + number).len(), 1 + number);
    }
    // What is armed for nobody stays armed, and is not counted.
    proxy.fault(next(ApiKey::OffsetDelete, 1, What::DropRequest(Afterwards::Close)));
    proxy.heal();
    assert_eq!(proxy.applied(), 2);
}

/// A broker that answers each request with its correlation id and body, and reports what it was sent.
fn echo() -> (SocketAddr, Receiver<i32>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it listens");
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || {
                while let Some(frame) = receive(&stream) {
                    let _ = sender.send(i32::from_be_bytes(frame[4..8].try_into().expect("four bytes")));
                    send(&stream, &frame[4..]);
                }
            });
        }
    });
    (address, received)
}

fn receive(mut from: &TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut frame).ok()?;
    Some(frame)
}

fn send(mut to: &TcpStream, frame: &[u8]) {
    // Whether anyone is there to receive it is for the receiver's assertion to say.
    let _ = to.write_all(&[&(frame.len() as u32).to_be_bytes()[..], frame].concat());
}

/// A request of version 0, without a client id.
fn request(api: ApiKey, correlation: i32, body: &[u8]) -> Vec<u8> {
    [&(api as i16).to_be_bytes()[..], &[0, 0], &correlation.to_be_bytes(), &[0xff, 0xff], body].concat()
}

fn before_echo() -> (Proxy, Receiver<i32>) {
    let (address, received) = echo();
    (Proxy::start(Proxy::listener(), address), received)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Which of `count` requests are answered.
fn answered(proxy: &Proxy, count: i32) -> Vec<i32> {
    let stream = connect(proxy);
    (0..count).for_each(|correlation| send(&stream, &request(ApiKey::EndTxn, correlation, b"")));
    // Nothing spoils this one: all answers before it have come or never will.
    send(&stream, &request(ApiKey::Metadata, count, b""));
    let answers = std::iter::from_fn(|| receive(&stream))
        .map(|frame| i32::from_be_bytes(frame[..4].try_into().expect("four bytes")));
    answers.take_while(|correlation| *correlation < count).collect()
}

#[test]
fn the_same_seed_spoils_the_same_requests() {
    let chance = |seed| {
        let (proxy, received) = before_echo();
        let when = When::Chance { probability: 0.3, seed };
        proxy.fault(Fault { api: ApiKey::EndTxn, what: What::DropResponse(Afterwards::Silence), when });
        let answered = answered(&proxy, 200);
        assert_eq!(proxy.applied() as usize, 200 - answered.len());
        assert_eq!(received.try_iter().count(), 201, "the broker got them all");
        answered
    };
    let first = chance(7);
    assert!((100..180).contains(&first.len()), "{}", first.len());
    assert_eq!(chance(7), first);
    assert_ne!(chance(8), first);
}

#[test]
fn a_fault_happens_as_often_as_it_was_told_to() {
    let (proxy, received) = before_echo();
    proxy.fault(next(ApiKey::EndTxn, 3, What::DropRequest(Afterwards::Silence)));
    assert_eq!(answered(&proxy, 10), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(received.try_iter().collect::<Vec<i32>>(), [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!((proxy.applied(), proxy.requests(ApiKey::EndTxn), proxy.requests(ApiKey::Metadata)), (3, 10, 1));
}

#[test]
fn a_delayed_request_arrives_though_its_client_has_left() {
    let (proxy, received) = before_echo();
    proxy.fault(next(ApiKey::EndTxn, 1, What::DelayRequest(DELAY)));
    let started = Instant::now();
    send(&connect(&proxy), &request(ApiKey::EndTxn, 5, b""));
    assert_eq!(received.recv_timeout(DEADLINE), Ok(5));
    assert!(started.elapsed() >= DELAY);
    wait_until("it is counted", || proxy.applied() == 1);
}

#[test]
fn a_lost_answer_and_a_cut_end_the_connection() {
    let (proxy, received) = before_echo();
    for what in [What::DropResponse(Afterwards::Close), What::CutConnectionBeforeResponse] {
        proxy.fault(next(ApiKey::EndTxn, 1, what));
        let stream = connect(&proxy);
        send(&stream, &request(ApiKey::EndTxn, 1, b""));
        assert_eq!(receive(&stream), None, "{what:?}");
        assert_eq!(received.recv_timeout(DEADLINE), Ok(1), "the broker got it: {what:?}");
    }
    assert_eq!(proxy.applied(), 2);
}

#[test]
fn what_is_paused_comes_later_and_what_is_cut_never() {
    let (proxy, received) = before_echo();
    let stream = connect(&proxy);
    send(&stream, &request(ApiKey::Fetch, 1, b""));
    assert!(receive(&stream).is_some());
    received.recv_timeout(DEADLINE).expect("the first request");

    proxy.pause();
    let second = connect(&proxy);
    for stream in [&stream, &second] {
        send(stream, &request(ApiKey::Fetch, 2, b""));
        stream.set_read_timeout(Some(QUIET)).expect("a timeout");
        let silence = (&*stream).read(&mut [0]).expect_err("nothing comes");
        assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    }
    assert!(received.try_recv().is_err(), "the broker got nothing");
    proxy.heal();
    assert!(receive(&stream).is_some() && receive(&second).is_some());

    proxy.cut();
    assert_eq!(receive(&stream), None);
    assert_eq!(receive(&connect(&proxy)), None);
    proxy.heal();
    let third = connect(&proxy);
    send(&third, &request(ApiKey::Fetch, 3, b""));
    assert!(receive(&third).is_some());
}

#[test]
fn a_slow_line_is_slow_and_keeps_many_requests_under_way() {
    let (proxy, _received) = before_echo();
    proxy.latency(DELAY);
    let started = Instant::now();
    assert_eq!(answered(&proxy, 50).len(), 50);
    let elapsed = started.elapsed();
    assert!(elapsed >= DELAY && elapsed < DELAY * 50, "{elapsed:?}");

    proxy.heal();
    proxy.bandwidth(100_000);
    let (stream, body) = (connect(&proxy), vec![0; 100_000]);
    let started = Instant::now();
    send(&stream, &request(ApiKey::Produce, 1, &body));
    assert!(receive(&stream).is_some());
    assert!(started.elapsed() >= Duration::from_secs(2), "once there, once back");
}

#[test]
fn what_is_not_kafka_ends_its_connection() {
    let (proxy, _received) = before_echo();
    let mut stream = connect(&proxy);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(receive(&stream), None);
}
