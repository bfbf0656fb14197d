//! The load generator in this process, against servers of the test's own: it asks for no more than it was told to, hides no
//! stall, backs off from a server that is down, and speaks TLS.

use soakd::model::run::Lengths;
use soakd::model::sample::LatencyKind;
use soakd::target::http::{Client, Endpoint, HttpError, Question, Taken};
use soakd::target::load::{Job, Means};
use soakd::target::prompts::Prompts;
use soakd::target::tls::Tls;
use soakd::worker::protocol::{FromWorker, LoadPlan, Scenario, TargetPlan};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n\
                      data: {\"choices\":[{\"text\":\" a\"}]}\n\ndata: {\"choices\":[{\"text\":\" b\"}]}\n\ndata: [DONE]\n\n";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";

/// What a server has seen.
#[derive(Default)]
struct Seen {
    at_once: AtomicI64,
    at_once_max: AtomicI64,
    arrivals: Mutex<Vec<Instant>>,
}

/// Reads a request to its end and gives its head.
fn request(stream: &mut dyn Read) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body); // a client that goes away is its own affair
    head
}

/// A server that answers request `n` after a pause, with a text. Its port, and what it sees.
fn server(answer: impl Fn(usize) -> (Duration, &'static str) + Send + Sync + 'static) -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (seen, answer) = (Arc::new(Seen::default()), Arc::new(answer));
    let watched = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (seen, answer) = (Arc::clone(&watched), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut stream = stream;
                let number = {
                    let mut arrivals = seen.arrivals.lock().expect("nobody panics");
                    arrivals.push(Instant::now());
                    arrivals.len() - 1
                };
                seen.at_once_max.fetch_max(seen.at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                request(&mut stream);
                let (pause, text) = answer(number);
                std::thread::sleep(pause);
                seen.at_once.fetch_sub(1, Ordering::SeqCst); // before the client can know, so that its next one is none too many
                let _ = stream.write_all(text.as_bytes());
            });
        }
    });
    (port, seen)
}

fn load_plan(streams: usize) -> LoadPlan {
    LoadPlan {
        backend: "none".into(),
        fallback_to_cpu: false,
        model: String::new(),
        variant: String::new(),
        streams,
        context_tokens: 0,
        threads: 0,
        device: 0,
        seed: 1,
        prompts: 4,
        prompt_tokens: 8,
        answer_tokens: 2,
        scenario: Scenario::Steady,
        beat_ms: 1_000,
        golden: Vec::new(),
        target: None,
    }
}

/// Drives the server on `port` for a while; the job with its results.
fn drive(port: u16, streams: usize, rate_per_s: Option<f64>, time: Duration) -> std::rc::Rc<Job> {
    let target = TargetPlan {
        load: format!("openai:http://127.0.0.1:{port}/v1"),
        rate_per_s,
        stall_ms: 10_000,
        ..TargetPlan::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let means = Means::of(&target).expect("a load");
    let job = Job::new(means, "m".into(), Prompts::made(1, 4, 8, 2, Lengths::Fixed), load_plan(streams), target);
    tokio::task::LocalSet::new().block_on(&runtime, async {
        job.start();
        tokio::time::sleep(time).await;
    });
    job
}

#[test]
fn no_more_requests_at_a_time_than_streams() {
    let (port, seen) = server(|_| (Duration::from_millis(20), ANSWER));
    let job = drive(port, 3, None, Duration::from_secs(2));
    assert_eq!(seen.at_once_max.load(Ordering::SeqCst), 3);
    let reading = job.stats.borrow().reading;
    assert!(reading.requests > 10 && reading.failures == 0 && reading.tokens == 2 * reading.requests, "{reading:?}");
}

#[test]
fn no_more_requests_a_second_than_the_rate() {
    let (port, seen) = server(|_| (Duration::ZERO, ANSWER));
    let began = Instant::now();
    drive(port, 1, Some(50.0), Duration::from_secs(3));
    let (took, arrivals) = (began.elapsed(), seen.arrivals.lock().expect("nobody panics"));
    // A busy machine may give it longer than three seconds; at no time were more due than this.
    let most = took.as_secs_f64() * 50.0 + 1.0;
    assert!(arrivals.len() as f64 <= most, "{} requests in {took:?} at 50 a second", arrivals.len());
    assert!(arrivals.len() > 20, "{} requests: it did not drive at all", arrivals.len());
}

#[test]
fn a_stall_shows_in_the_latency_of_every_request_that_was_due_in_it() {
    // The tenth request finds the server standing still for two seconds, and so do all that come meanwhile.
    let stalled: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (port, _) = server(move |number| {
        let mut since = stalled.lock().expect("nobody panics");
        if number == 10 {
            *since = Some(Instant::now());
        }
        (since.map_or(Duration::ZERO, |at| Duration::from_secs(2).saturating_sub(at.elapsed())), ANSWER)
    });
    let job = drive(port, 1, Some(40.0), Duration::from_secs(4));
    let mut stats = job.stats.borrow_mut();
    let reports = stats.latencies.take(4_000);
    let of = |kind| reports.iter().find(|report| report.kind == kind).expect("measured");
    for kind in [LatencyKind::Request, LatencyKind::FirstToken] {
        let report = of(kind);
        // Eighty of some 160 were due while it stood still; a closed loop would have seen one.
        assert!(report.max_us > 1_700_000, "{kind:?}: {} us at most", report.max_us);
        assert!(report.p50_us < report.p95_us && report.p95_us > 1_000_000, "{kind:?}: p95 {} us", report.p95_us);
    }
    assert!(of(LatencyKind::Token).count > 0);
}

#[test]
fn a_server_that_is_down_is_knocked_at_ever_more_rarely_and_told_of_once() {
    for rate in [None, Some(100.0)] {
        let (port, seen) = server(|number| if number < 5 { (Duration::ZERO, ANSWER) } else { (Duration::ZERO, BUSY) });
        let job = drive(port, 2, rate, Duration::from_secs(5));
        let knocks = seen.arrivals.lock().expect("nobody panics").len();
        // Half a second, one, two: three or four knocks a stream; at a rate, what was under way when it went down besides.
        assert!((7..60).contains(&knocks), "{knocks} requests at rate {rate:?}");
        let stats = job.stats.borrow();
        let told: Vec<&FromWorker> = stats.messages.iter().collect();
        assert!(matches!(told[..], [FromWorker::EndpointDown { .. }]), "{told:?}"); // an answer that was under way ends nothing
        assert!(stats.reading.failures >= 2 && stats.reading.requests == 5, "{:?}", stats.reading);
    }
}

#[test]
fn one_failure_among_answers_is_counted_and_told_with_its_end() {
    let (port, _) = server(|number| (Duration::from_millis(5), if number == 7 { BUSY } else { ANSWER }));
    let job = drive(port, 2, None, Duration::from_secs(2));
    let stats = job.stats.borrow();
    assert_eq!(stats.reading.failures, 1);
    assert!(
        matches!(&stats.messages[..], [FromWorker::EndpointDown { reason }, FromWorker::EndpointUp { .. }] if reason.contains("503")),
        "{:?}",
        stats.messages
    );
}

/// A TLS server with a certificate of its own for localhost; its port, its certificate, and the heads of what it was asked.
fn tls_server() -> (u16, String, Arc<Mutex<Vec<String>>>) {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a configuration");
    let (listener, config) = (TcpListener::bind("127.0.0.1:0").expect("a port"), Arc::new(config));
    let port = listener.local_addr().expect("an address").port();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let asked = Arc::clone(&heads);
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
            let mut stream = rustls::StreamOwned::new(connection, tcp);
            let head = request(&mut stream);
            if !head.is_empty() {
                asked.lock().expect("nobody panics").push(head);
            }
            let _ = stream.write_all(ANSWER.as_bytes()); // a client that trusts nobody is gone
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (port, own.cert.pem(), heads)
}

fn ask(client: &Client) -> (Result<(), HttpError>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut text = Vec::new();
    let mut take = |_: &soakd::target::http::Head, bytes: &[u8]| {
        text.extend_from_slice(bytes);
        Taken::Useful
    };
    let question = Question { method: "POST", path: "/completions", body: "{}", patience: Duration::from_secs(10) };
    let asked = runtime.block_on(client.ask(question, &mut take));
    (asked.map(|_| ()), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn https_is_spoken_to_a_server_that_is_trusted_and_to_no_other() {
    let (port, certificate, heads) = tls_server();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, certificate).expect("written");
    let endpoint = |host: &str| Endpoint::parse(&format!("https://{host}:{port}/v1")).expect("an address");
    let trusting = Tls::new(Some(&file)).expect("certificates");
    let (asked, text) = ask(&Client::new(endpoint("localhost"), Some(trusting.clone()), Some("a-key")));
    assert_eq!(asked, Ok(()));
    assert!(text.contains("data: [DONE]"), "{text}");
    let head = heads.lock().expect("nobody panics").concat();
    assert!(head.starts_with("POST /v1/completions ") && head.contains("Authorization: Bearer a-key\r\n"), "{head}");
    for (client, says) in [
        (Client::new(endpoint("localhost"), Some(Tls::new(None).expect("certificates")), None), "target.ca_file"),
        (Client::new(endpoint("127.0.0.1"), Some(trusting), None), "not valid for"),
    ] {
        let (asked, _) = ask(&client);
        let said = asked.expect_err("not trusted").to_string();
        assert!(said.contains("TLS") && said.contains(says), "{said}");
    }
    assert_eq!(heads.lock().expect("nobody panics").len(), 1, "nothing was said to one who is not trusted");
    // Spoken to without TLS, such a server is no HTTP server, and that is said.
    let plain = Endpoint::parse(&format!("http://127.0.0.1:{port}/v1")).expect("an address");
    assert!(ask(&Client::new(plain, None, None)).0.is_err());
}

#[test]
fn files_that_hold_no_certificate_or_no_key_are_refused_by_name() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, "sk-123\n").expect("written");
    let refused = Tls::new(Some(&file)).err().expect("no certificate");
    assert!(refused.contains("secret") && refused.contains("BEGIN CERTIFICATE"), "{refused}");
    let load = "openai:http://127.0.0.1:1/v1".to_owned();
    let plan = TargetPlan { load, api_key_file: Some(file.clone()), ..TargetPlan::default() };
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("set");
    let refused = Means::of(&plan).err().expect("open to all");
    assert!(refused.contains("chmod 600"), "{refused}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
    assert!(Means::of(&plan).is_ok());
}
