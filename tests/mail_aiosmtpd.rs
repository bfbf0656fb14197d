//! `soakd mail` against aiosmtpd, an SMTP server written by others: TLS in both ways, login, refusal, order and pictures.
//!
//! Needs a Python that has aiosmtpd, named by SOAKD_TEST_AIOSMTPD (CI installs one: `python3 -m venv V; V/bin/pip install
//! aiosmtpd`). Without it these tests say so and pass: `cargo test` needs nothing but cargo.

#[path = "support/smtp_server.rs"]
mod smtp_server;

use smtp_server::Certificates;
use soakd::model::alert::{OutboxMail, PlotSpec};
use soakd::model::mail::message_id;
use soakd::model::time::UnixMillis;
use soakd::store::{Mode, Store};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// The server's process; killed with the test.
struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    port: u64,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be gone
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(python: &str, mode: &str, certificates: &Certificates) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/aiosmtpd_server.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(mode)
            .args([&certificates.certificate_file, &certificates.key_file])
            .args(["soakd", "s3cret"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("SOAKD_TEST_AIOSMTPD={python}: {e}"));
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut server = Server { child, lines, port: 0 };
        server.port = server.line()["port"].as_u64().expect("a port");
        server
    }

    /// The next line: a mail that the server took. It comes before the server's answer, so it never has to be waited for.
    fn line(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("reads");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("aiosmtpd said {line:?}: {e}"))
    }
}

fn python() -> Option<String> {
    let python = std::env::var("SOAKD_TEST_AIOSMTPD").ok().filter(|p| !p.is_empty());
    if python.is_none() {
        println!("skipped: SOAKD_TEST_AIOSMTPD names no Python with aiosmtpd");
    }
    python
}

fn configure(dir: &Path, port: u64, tls: &str, password: &str, certificates: &Certificates) {
    let secret = dir.join("password");
    std::fs::write(&secret, password).expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let toml = format!(
        "[mail]\ntransport = \"smtp\"\nhost = \"localhost\"\nport = {port}\ntls = \"{tls}\"\nfrom = \"soakd@x.org\"\n\
         username = \"soakd\"\npassword_file = \"password\"\nca_file = \"{}\"\ntimeout = \"5s\"\n\
         [mail.routes]\ndefault = [\"ops@x.org\", \"gone@x.org\", \"b@x.org\"]\n",
        certificates.ca_file.display()
    );
    std::fs::write(dir.join("soak.toml"), toml).expect("written");
}

fn soakd(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_soakd")).current_dir(dir).arg("mail").args(args).output().expect("runs")
}

fn mail(id: &str, parent: Option<&str>) -> OutboxMail {
    OutboxMail {
        at: UnixMillis(1_772_333_600_000),
        kind: "alert".into(),
        message_id: message_id(&["test", id], "host"),
        in_reply_to: parent.map(|parent| message_id(&["test", parent], "host")),
        route: "default".into(),
        subject: format!("[PAGE] gpu-07: mail {id} ±50 MB\r\nBcc: evil@x.org"),
        text: format!("text of {id}: ±50 MB\n.\nand on\n"),
        html: format!("<p>html of {id}</p>"),
        plot: Some(PlotSpec { run_id: 1, series: vec![], from: UnixMillis(0), to: UnixMillis(1) }),
        labels: BTreeMap::new(),
    }
}

#[test]
fn both_kinds_of_tls_with_login_order_threads_and_refusals() {
    let Some(python) = python() else { return };
    for (mode, tls) in [("starttls", "starttls"), ("implicit", "implicit")] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let certificates = Certificates::make(dir.path());
        let mut server = Server::start(&python, mode, &certificates);
        configure(dir.path(), server.port, tls, "s3cret\n", &certificates);
        let mut store = Store::open(dir.path().join("soak.db"), Mode::Write).expect("a new database");
        for i in 0..5 {
            store.enqueue(None, &mail(&i.to_string(), (i > 0).then_some("0"))).expect("queued");
        }
        let out = soakd(dir.path(), &["--once"]);
        assert_eq!(out.status.code(), Some(0), "{mode}: {out:?}");
        for i in 0..5 {
            let got = server.line();
            let data = got["data"].as_str().expect("text");
            assert!(
                data.contains(&format!("Message-ID: {}\r\n", message_id(&["test", &i.to_string()], "host"))),
                "{data}"
            );
            assert_eq!(i > 0, data.contains("In-Reply-To: <test.0@host.soakd>\r\n"), "{data}");
            assert!(!data.contains("\r\nBcc:"), "{data}");
            assert_eq!(got["to"], serde_json::json!(["ops@x.org", "b@x.org"]), "{mode}");
            assert_eq!((got["tls"].as_bool(), got["user"].as_str()), (Some(true), Some("soakd")), "{mode}");
        }
    }
}

#[test]
fn a_wrong_password_is_said_and_no_mail_is_lost() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let certificates = Certificates::make(dir.path());
    let mut server = Server::start(&python, "starttls", &certificates);
    configure(dir.path(), server.port, "starttls", "wr0ng", &certificates);
    let mut store = Store::open(dir.path().join("soak.db"), Mode::Write).expect("a new database");
    store.enqueue(None, &mail("0", None)).expect("queued");
    let out = soakd(dir.path(), &["--test"]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.code() == Some(1) && said.contains("535") && !said.contains("wr0ng"), "{said}");
    let out = soakd(dir.path(), &["--once"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(store.outbox_counts().expect("counts").queued, 1, "the mail waits for the password to be mended");
    configure(dir.path(), server.port, "starttls", "s3cret", &certificates);
    let out = soakd(dir.path(), &["--test"]);
    assert_eq!(out.status.code(), Some(1), "gone@x.org is refused, and that is said: {out:?}");
    let data = server.line()["data"].as_str().expect("text").to_owned();
    assert!(data.contains("Subject: [TEST] ") && data.contains("image/png"), "{data}");
}
