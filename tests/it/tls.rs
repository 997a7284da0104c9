//! Brokers that speak TLS: with a certificate that holds records flow, with one that does not nobody is spoken to.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::flow::{Flow, GOOD};
use crate::harness::{Cluster, OwnBroker, failed_with, succeeded, tool};

/// The broker's listener behind the TCP forwarding is the one with TLS.
const LISTENERS: &str = "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SSL";
const PASSWORD: &str = "changeit";

/// A broker of one test's own with a TLS listener.
struct TlsBroker {
    _broker: OwnBroker,
    /// The cluster without TLS.
    plain: Cluster,
    /// The same by the TLS listener.
    tls: Cluster,
    /// The property that makes a client trust the broker's certificate.
    trust: String,
    _dir: tempfile::TempDir,
}

impl TlsBroker {
    /// Starts it, with a certificate of its own that keytool makes with these arguments; `None` as for
    /// [`crate::harness::real_kafka`].
    fn start(test: &str, certificate: &[&str]) -> Option<TlsBroker> {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, ca) = (dir.path().join("broker.p12"), dir.path().join("ca.pem"));
        let make = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-dname", "CN=broker"];
        keytool(&store, &[&make[..], certificate].concat());
        keytool(&store, &["-exportcert", "-rfc", "-file", ca.to_str().expect("text")]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let advertised = listener.local_addr().expect("it listens");
        let settings = [
            LISTENERS.to_owned(),
            format!("listener.name.proxied.ssl.keystore.location={}", store.display()),
            "listener.name.proxied.ssl.keystore.type=PKCS12".to_owned(),
            format!("listener.name.proxied.ssl.keystore.password={PASSWORD}"),
            format!("listener.name.proxied.ssl.key.password={PASSWORD}"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let (broker, plain, behind) = OwnBroker::start_behind(test, advertised.port(), &settings)?;
        std::thread::spawn(move || forward(&listener, behind));
        let tls = plain.through(&advertised.to_string());
        let trust = format!("ssl.ca.location={}", ca.display());
        Some(TlsBroker { _broker: broker, plain, tls, trust, _dir: dir })
    }

    /// `words`, and what makes the client trust the broker's certificate.
    fn trusting<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [words, &["-X", "security.protocol=ssl", "-X", &self.trust]].concat()
    }
}

fn keytool(store: &Path, arguments: &[&str]) {
    // Where JAVA_HOME says which Java the broker runs with, it has its tools beside it.
    let beside = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/keytool"));
    let keytool = beside.filter(|path| path.is_file()).unwrap_or_else(|| "keytool".into());
    let common = ["-alias", "broker", "-storetype", "PKCS12", "-storepass", PASSWORD, "-keystore"];
    tool(Command::new(keytool).args(arguments).args(common).arg(store));
}

/// Copies bytes both ways, whatever they mean.
fn forward(listener: &TcpListener, to: SocketAddr) {
    for client in listener.incoming().map_while(Result::ok) {
        let Ok(broker) = TcpStream::connect(to) else { continue };
        for (mut from, mut to) in [(&client, &broker), (&broker, &client)]
            .map(|(from, to)| (from.try_clone().expect("a second handle"), to.try_clone().expect("a second handle")))
        {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    }
}

#[test]
fn records_flow_exactly_once_over_tls() {
    let Some(broker) = TlsBroker::start("tls-flow", &["-ext", "san=ip:127.0.0.1"]) else { return };
    let flow = Flow::new(&broker.plain, 1);
    broker.plain.publish_iris("iris", "7");
    let listed = succeeded(&broker.tls.arguments(&broker.trusting(&["models", "list"])));
    assert!(listed.contains("iris"), "{listed}");
    let mut serving = broker.tls.serve(&broker.trusting(&flow.arguments(&[])));
    broker.plain.send(&flow.input, [(None, Some(GOOD)), (None, Some(GOOD))]);
    let outputs = broker.plain.read(&flow.output, 2);
    assert_eq!(outputs.iter().map(|output| output.source()).collect::<Vec<_>>(), [(0, 0), (0, 1)]);
    assert_eq!(serving.stop(), Some(0));
}

/// Fault 34.
#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let Some(broker) = TlsBroker::start("tls-unknown", &["-ext", "san=ip:127.0.0.1"]) else { return };
    assert_certificate_is_refused(&broker.tls.arguments(&["models", "list", "-X", "security.protocol=ssl"]));
}

/// Fault 34.
#[test]
fn a_certificate_of_another_host_is_refused() {
    let Some(broker) = TlsBroker::start("tls-host", &["-ext", "san=dns:elsewhere.example"]) else { return };
    assert_certificate_is_refused(&broker.tls.arguments(&broker.trusting(&["models", "list"])));
}

/// Fault 34.
#[test]
fn an_expired_certificate_is_refused() {
    let past = ["-ext", "san=ip:127.0.0.1", "-startdate", "-10d", "-validity", "5"];
    let Some(broker) = TlsBroker::start("tls-expired", &past) else { return };
    assert_certificate_is_refused(&broker.tls.arguments(&broker.trusting(&["models", "list"])));
}

fn assert_certificate_is_refused(line: &[&str]) {
    let said = failed_with(4, line);
    assert!(said.contains("certificate verify failed"), "{said}");
}
