//! An SMTP server for tests: speaks the protocol over real sockets (STARTTLS, implicit TLS, AUTH PLAIN and LOGIN), keeps
//! what it took, and misbehaves on request at any step. What it does not do is relay.

#![allow(dead_code)] // each test binary uses a part of it

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where in the dialogue a fault may strike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Ehlo,
    Auth,
    Mail,
    Rcpt(String),
    Data,
    /// The message has been read to its end and is not yet answered.
    Message,
    /// The first bytes of the message have been read.
    InsideMessage,
}

/// What to do instead of what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Say this.
    Reply(&'static str),
    /// Close without a word.
    Close,
    /// Say nothing until the server is dropped.
    Hang,
    /// Wait, then go on.
    Slow(Duration),
    /// At `Message`: keep the mail, then close without an answer.
    TakeAndClose,
}

/// One mail, as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub from: String,
    pub to: Vec<String>,
    pub data: String,
    pub user: Option<String>,
    pub encrypted: bool,
    /// Which connection, from 0.
    pub connection: usize,
    /// Whether the answer was written to the socket.
    pub answered: bool,
    /// When its first byte was asked for, and when it had been read to its end.
    pub began: std::time::Instant,
    /// See above.
    pub at: std::time::Instant,
}

impl Received {
    /// The value of a header, unfolded; empty if it is not there.
    pub fn header(&self, name: &str) -> String {
        let head = self.data.split("\r\n\r\n").next().unwrap_or("");
        let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        let prefix = format!("{}:", name.to_ascii_lowercase());
        let line = unfolded.split("\r\n").find(|l| l.to_ascii_lowercase().starts_with(&prefix));
        line.map(|l| l[prefix.len()..].trim().to_owned()).unwrap_or_default()
    }
}

/// Offered protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    None,
    Starttls,
    Implicit,
}

type Script = dyn Fn(usize, &Stage) -> Fault + Send + Sync;

struct Shared {
    script: Box<Script>,
    tls: Tls,
    config: Option<Arc<rustls::ServerConfig>>,
    login: Option<(String, String)>,
    received: Mutex<Vec<Received>>,
    stop: AtomicBool,
}

/// Lives until dropped.
pub struct SmtpServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accept: Option<std::thread::JoinHandle<()>>,
}

/// A CA and a certificate for `localhost` made for this test alone.
pub struct Certificates {
    pub ca_file: PathBuf,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    config: Arc<rustls::ServerConfig>,
}

impl Certificates {
    /// Writes the files into `dir`.
    pub fn make(dir: &Path) -> Self {
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "soakd test CA");
        let ca_certificate = ca.self_signed(&ca_key).expect("signs itself");
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let certificate = leaf.signed_by(&key, &issuer).expect("signs");
        let (ca_file, certificate_file, key_file) = (dir.join("ca.pem"), dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&ca_file, ca_certificate.pem()).expect("written");
        std::fs::write(&certificate_file, certificate.pem()).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("a certificate with its key");
        Certificates { ca_file, certificate_file, key_file, config: Arc::new(config) }
    }
}

impl SmtpServer {
    /// A server that behaves.
    pub fn start() -> Self {
        Self::with(Tls::None, None, None, |_, _| Fault::None)
    }

    /// A plain server that misbehaves as `script` says: connection number and stage in, fault out.
    pub fn faulty(script: impl Fn(usize, &Stage) -> Fault + Send + Sync + 'static) -> Self {
        Self::with(Tls::None, None, None, script)
    }

    /// All choices.
    pub fn with(
        tls: Tls,
        certificates: Option<&Certificates>,
        login: Option<(&str, &str)>,
        script: impl Fn(usize, &Stage) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            tls,
            config: certificates.map(|c| Arc::clone(&c.config)),
            login: login.map(|(u, p)| (u.to_owned(), p.to_owned())),
            received: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let for_accept = Arc::clone(&shared);
        let accept = std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if for_accept.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&for_accept);
                std::thread::spawn(move || {
                    if let Ok(stream) = stream {
                        let _ = serve(&shared, number, stream); // a client that goes away mid-dialogue is no fault here
                    }
                });
            }
        });
        SmtpServer { address, shared, accept: Some(accept) }
    }

    /// What it took so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no panic holds it").clone()
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept loop
        if let Some(thread) = self.accept.take() {
            let _ = thread.join();
        }
    }
}

/// Plain or encrypted, with the bytes read ahead.
struct Wire {
    stream: Stream,
    ahead: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

impl Wire {
    fn read_line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
                self.ahead.drain(..end + 2);
                return Ok(line);
            }
            let mut buffer = [0u8; 4096];
            let read = match &mut self.stream {
                Stream::Plain(s) => s.read(&mut buffer)?,
                Stream::Tls(s) => s.read(&mut buffer)?,
            };
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead.extend_from_slice(&buffer[..read]);
        }
    }

    fn say(&mut self, line: &str) -> std::io::Result<()> {
        let bytes = format!("{line}\r\n");
        match &mut self.stream {
            Stream::Plain(s) => s.write_all(bytes.as_bytes()).and_then(|()| s.flush()),
            Stream::Tls(s) => s.write_all(bytes.as_bytes()).and_then(|()| s.flush()),
        }
    }

    fn encrypt(self, config: &Arc<rustls::ServerConfig>) -> std::io::Result<Wire> {
        let Stream::Plain(tcp) = self.stream else { unreachable!("only a plain stream is encrypted") };
        let connection = rustls::ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
        let stream = Stream::Tls(Box::new(rustls::StreamOwned::new(connection, tcp)));
        Ok(Wire { stream, ahead: Vec::new() })
    }
}

/// Gives true to go on, false when a reply took the place of the normal one.
fn fault(shared: &Shared, number: usize, stage: &Stage, wire: &mut Wire) -> std::io::Result<bool> {
    match (shared.script)(number, stage) {
        Fault::None | Fault::TakeAndClose => Ok(true),
        Fault::Reply(line) => wire.say(line).map(|()| false),
        Fault::Close => Err(std::io::ErrorKind::ConnectionAborted.into()),
        Fault::Hang => {
            while !shared.stop.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(std::io::ErrorKind::TimedOut.into())
        }
        Fault::Slow(wait) => {
            std::thread::sleep(wait);
            Ok(true)
        }
    }
}

fn serve(shared: &Shared, number: usize, tcp: TcpStream) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(60)))?;
    tcp.set_nodelay(true)?;
    let mut wire = Wire { stream: Stream::Plain(tcp), ahead: Vec::new() };
    let mut encrypted = false;
    if shared.tls == Tls::Implicit {
        wire = wire.encrypt(shared.config.as_ref().expect("TLS needs certificates"))?;
        encrypted = true;
    }
    if fault(shared, number, &Stage::Greeting, &mut wire)? {
        wire.say("220 test ESMTP")?;
    }
    let (mut user, mut from, mut to): (Option<String>, Option<String>, Vec<String>) = (None, None, Vec::new());
    loop {
        let line = wire.read_line()?;
        let upper = line.to_ascii_uppercase();
        if upper.starts_with("EHLO") || upper.starts_with("HELO") {
            if fault(shared, number, &Stage::Ehlo, &mut wire)? {
                wire.say("250-test greets you")?;
                if shared.tls == Tls::Starttls && !encrypted {
                    wire.say("250-STARTTLS")?;
                }
                if shared.login.is_some() && (encrypted || shared.tls == Tls::None) {
                    wire.say("250-AUTH PLAIN LOGIN")?;
                }
                wire.say("250 8BITMIME")?;
            }
        } else if upper == "STARTTLS" && shared.tls == Tls::Starttls {
            wire.say("220 go ahead")?;
            wire = wire.encrypt(shared.config.as_ref().expect("TLS needs certificates"))?;
            encrypted = true;
        } else if upper.starts_with("AUTH ") {
            if fault(shared, number, &Stage::Auth, &mut wire)? {
                user = auth(shared, &line, &mut wire)?;
            }
        } else if upper.starts_with("MAIL FROM:") {
            if shared.login.is_some() && user.is_none() {
                wire.say("530 5.7.0 log in first")?;
            } else if fault(shared, number, &Stage::Mail, &mut wire)? {
                from = Some(angle(&line));
                to.clear();
                wire.say("250 OK")?;
            }
        } else if upper.starts_with("RCPT TO:") {
            let address = angle(&line);
            if fault(shared, number, &Stage::Rcpt(address.clone()), &mut wire)? {
                to.push(address);
                wire.say("250 OK")?;
            }
        } else if upper == "DATA" {
            if to.is_empty() {
                wire.say("554 no valid recipients")?;
            } else if fault(shared, number, &Stage::Data, &mut wire)? {
                wire.say("354 go on")?;
                let envelope = (from.take().unwrap_or_default(), std::mem::take(&mut to), user.clone(), encrypted);
                message(shared, number, &mut wire, envelope)?;
            }
        } else if upper == "QUIT" {
            return wire.say("221 bye");
        } else if upper == "RSET" || upper == "NOOP" {
            wire.say("250 OK")?;
        } else {
            wire.say("500 what?")?;
        }
    }
}

fn message(
    shared: &Shared,
    number: usize,
    wire: &mut Wire,
    (from, to, user, encrypted): (String, Vec<String>, Option<String>, bool),
) -> std::io::Result<()> {
    let began = std::time::Instant::now();
    let mut data = String::new();
    loop {
        let line = wire.read_line()?;
        if line == "." {
            break;
        }
        data.push_str(line.strip_prefix('.').unwrap_or(&line));
        data.push_str("\r\n");
        if (shared.script)(number, &Stage::InsideMessage) == Fault::Close {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
    }
    let keep = |answered| {
        let at = std::time::Instant::now();
        let mail = Received { from, to, data, user, encrypted, connection: number, answered, began, at };
        shared.received.lock().expect("no panic holds it").push(mail);
    };
    if (shared.script)(number, &Stage::Message) == Fault::TakeAndClose {
        keep(false);
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    if fault(shared, number, &Stage::Message, wire)? {
        // Kept before it is answered, as a real server does: RFC 5321 makes the answer the promise.
        keep(true);
        wire.say("250 2.0.0 queued")?;
    }
    Ok(())
}

fn auth(shared: &Shared, line: &str, wire: &mut Wire) -> std::io::Result<Option<String>> {
    let mut words = line.split_whitespace().skip(1);
    let mechanism = words.next().unwrap_or("").to_ascii_uppercase();
    let (user, password) = if mechanism == "PLAIN" {
        let blob = if let Some(initial) = words.next() {
            initial.to_owned()
        } else {
            wire.say("334 ")?;
            wire.read_line()?
        };
        let plain = base64(&blob);
        let mut parts = plain.split(|b| *b == 0).skip(1).map(|p| String::from_utf8_lossy(p).into_owned());
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    } else {
        wire.say("334 VXNlcm5hbWU6")?;
        let user = String::from_utf8_lossy(&base64(&wire.read_line()?)).into_owned();
        wire.say("334 UGFzc3dvcmQ6")?;
        (user, String::from_utf8_lossy(&base64(&wire.read_line()?)).into_owned())
    };
    if shared.login == Some((user.clone(), password)) {
        wire.say("235 2.7.0 welcome")?;
        return Ok(Some(user));
    }
    wire.say("535 5.7.8 wrong user or password")?;
    Ok(None)
}

fn angle(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map(|(address, _)| address.to_owned()).unwrap_or_default()
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for value in text.bytes().filter_map(|b| ALPHABET.iter().position(|a| *a == b)) {
        bits = (bits << 6) | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}
