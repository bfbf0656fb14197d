//! `soakd mail` as a process: killed at random, without its supervisor, beside another of its kind, on a bad day.

#[path = "support/smtp_server.rs"]
mod smtp_server;

use smtp_server::{Fault, SmtpServer, Stage, Tls};
use soakd::model::alert::OutboxMail;
use soakd::model::mail::message_id;
use soakd::model::run::RunPlan;
use soakd::model::time::UnixMillis;
use soakd::store::{Mode, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn now() -> UnixMillis {
    soakd::clock::now().wall
}

fn host() -> String {
    soakd::probe::host::hostname()
}

/// A folder with a database and a configuration.
struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    run_id: i64,
}

impl Bench {
    fn new(mail_toml: &str, started: UnixMillis) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("soak.toml"), mail_toml).expect("written");
        let mut store = Store::open(dir.path().join("soak.db"), Mode::Write).expect("a new database");
        let plan = RunPlan {
            started,
            duration_ms: 172_800_000,
            horizon_ms: 172_800_000,
            tolerance_bytes: 50_000_000,
            backend: "cpu".into(),
            model: "synthetic:tiny".into(),
            variant: "q4_k".into(),
            streams: 1,
            scenario: "steady".into(),
            seed: 7,
            host: host(),
            facts: serde_json::json!({}),
            config_toml: String::new(),
        };
        let run_id = store.start_run(&plan).expect("a run");
        Bench { dir, store, run_id }
    }

    fn smtp(server: &SmtpServer, routes: &str) -> Self {
        let port = server.address.port();
        let toml = format!(
            "[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\nfrom = \"soakd@x.org\"\n\
             timeout = \"2s\"\nretry_min = \"100ms\"\nretry_max = \"300ms\"\n[mail.routes]\n{routes}\n"
        );
        Self::new(&toml, now())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&mut self, mail: &OutboxMail) {
        let run_id = self.run_id;
        self.store.enqueue(Some(run_id), mail).expect("queued");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soakd"));
        command.current_dir(self.dir.path()).arg("mail").args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("runs")
    }

    /// A mailer that goes on until it is killed; what it says goes to a file.
    fn start(&self, args: &[&str]) -> Mailer {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let child = self.command(args).stdout(log.try_clone().expect("a handle")).stderr(log).spawn();
        Mailer(child.expect("starts"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn eml(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("mail")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "eml"));
        paths.sort();
        paths.iter().map(|p| std::fs::read_to_string(p).expect("text")).collect()
    }

    fn wait_for(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !done(self) {
            assert!(Instant::now() < deadline, "waited 90 s for {what}; the mailer said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Mailer(Child);

impl Mailer {
    /// SIGKILL, and gone.
    fn kill(mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        self.0.wait().expect("reaped");
    }
}

fn mail(id: &str, route: &str, in_reply_to: Option<&str>) -> OutboxMail {
    OutboxMail {
        at: now(),
        kind: if in_reply_to.is_some() { "resolved" } else { "alert" }.into(),
        message_id: message_id(&["test", id], "host"),
        in_reply_to: in_reply_to.map(|parent| message_id(&["test", parent], "host")),
        route: route.into(),
        subject: format!("mail {id}"),
        text: format!("text of {id}\n"),
        html: format!("<p>html of {id}</p>"),
        plot: None,
        labels: BTreeMap::new(),
    }
}

fn seed() -> u64 {
    std::env::var("SOAKD_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_260_301)
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[test]
fn killed_200_times_it_loses_nothing_and_repeats_only_what_it_could_not_know() {
    const KILLS: usize = 200;
    let seed = seed();
    println!("seed {seed} (set SOAKD_TEST_SEED to repeat)");
    let mut dice = Dice(seed);
    // Which life of the mailer each connection belongs to.
    let life = Arc::new(AtomicUsize::new(0));
    let lives: Arc<Mutex<BTreeMap<usize, usize>>> = Arc::default();
    let (life_now, lives_seen) = (Arc::clone(&life), Arc::clone(&lives));
    let server = SmtpServer::faulty(move |connection, stage| match stage {
        Stage::Greeting => {
            lives_seen.lock().expect("no panic holds it").insert(connection, life_now.load(Ordering::SeqCst));
            Fault::None
        }
        // One connection in nine loses its answer though nobody was killed.
        Stage::Message if connection % 9 == 8 => Fault::TakeAndClose,
        Stage::Message => Fault::Slow(Duration::from_millis(4)),
        _ => Fault::None,
    });
    let mut bench = Bench::smtp(&server, "default = [\"ops@x.org\"]\ncto = [\"cto@x.org\", \"b@x.org\"]");
    let connected = |life: usize| lives.lock().expect("no panic holds it").values().any(|l| *l == life);
    for kill in 0..KILLS {
        life.store(kill, Ordering::SeqCst);
        let route = if dice.roll(3) == 0 { "cto" } else { "default" };
        let (firing, resolved) = (format!("f{kill}"), format!("r{kill}"));
        bench.write(&mail(&firing, route, None));
        bench.write(&mail(&resolved, route, Some(&firing)));
        let mailer = bench.start(&[]);
        if dice.roll(4) > 0 {
            // Three times in four: not before it talks to the server, so that it dies with a mail in its hands.
            let patience = Instant::now() + Duration::from_secs(5);
            while !connected(kill) && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        std::thread::sleep(Duration::from_millis(dice.roll(40)));
        mailer.kill();
    }
    life.store(KILLS, Ordering::SeqCst);
    let mailer = bench.start(&[]);
    bench.wait_for("the queue to empty", |b| b.store.outbox_counts().expect("counts").queued == 0);
    mailer.kill();

    let got = server.received();
    let lives = lives.lock().expect("no panic holds it").clone();
    let life_of = |i: usize| lives[&got[i].connection];
    let mut copies: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, mail) in got.iter().enumerate() {
        copies.entry(mail.header("Message-ID")).or_default().push(i);
    }
    assert_eq!(copies.len(), 2 * KILLS, "each mail arrived, under its own Message-ID (seed {seed})");
    let mut repeats = 0;
    for (id, copies) in &copies {
        for &copy in &copies[..copies.len() - 1] {
            repeats += 1;
            // The mailer died with this mail in its hands: nothing came after it in that life. Or the server hung up.
            let last_of_its_life = (copy + 1..got.len()).all(|later| life_of(later) != life_of(copy));
            assert!(
                last_of_its_life || !got[copy].answered,
                "{id} came twice though its answer was not lost (seed {seed})"
            );
        }
    }
    for route in ["ops@x.org", "cto@x.org"] {
        let mut seen: Vec<String> = Vec::new();
        for mail in got.iter().filter(|m| m.to[0] == route) {
            let (id, parent) = (mail.header("Message-ID"), mail.header("In-Reply-To"));
            assert!(parent.is_empty() || seen.contains(&parent), "{id} came before {parent} (seed {seed})");
            if !seen.contains(&id) {
                seen.push(id);
            }
        }
        let number =
            |id: &String| id.trim_start_matches(|c: char| !c.is_ascii_digit()).split('@').next().map(str::to_owned);
        let order: Vec<u32> = seen.iter().filter_map(number).filter_map(|n| n.parse().ok()).collect();
        assert!(order.is_sorted(), "{route}: out of order: {order:?} (seed {seed})");
    }
    println!("{KILLS} kills, {} mails, {repeats} repeats, {} connections", copies.len(), lives.len());
}

#[test]
fn once_says_what_happened_by_its_exit_code() {
    let server = SmtpServer::faulty(|_, stage| match stage {
        Stage::Rcpt(a) if a == "gone@x.org" => Fault::Reply("550 5.1.1 no such user"),
        _ => Fault::None,
    });
    let mut bench = Bench::smtp(&server, "default = [\"gone@x.org\"]\ncto = [\"ops@x.org\"]");
    bench.write(&mail("1", "cto", None));
    let out = bench.run(&["--once"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("sent 1, set aside 0, still queued 0"), "{out:?}");

    bench.write(&mail("2", "default", None));
    bench.write(&mail("3", "cto", None));
    let out = bench.run(&["--once", "--format", "json"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!((json["sent"].as_u64(), json["set_aside"].as_u64()), (Some(2), Some(1)), "{json}");
    let got: Vec<String> = server.received().iter().map(|m| m.header("Subject")).collect();
    assert_eq!(got.len(), 3, "1, 3, and a report of 2 to someone who is there: {got:?}");
    let report = &server.received()[2];
    assert!(report.to == ["ops@x.org"] && got[2].contains("cannot be delivered"), "{got:?}");
    let events = soakd::store::sql::Reader::open(bench.path("soak.db"))
        .expect("opens")
        .query_rows(
            "SELECT summary FROM event WHERE kind = 'mail_failed'",
            &[],
            soakd::store::sql::Limits { rows_max: 10, expired: Box::new(|| false) },
        )
        .expect("rows");
    assert_eq!(events.rows.len(), 1);
    assert!(events.rows[0][0].as_str().is_some_and(|s| s.contains("no such user")), "{events:?}");

    // The route is mended; what was set aside goes out.
    let toml = std::fs::read_to_string(bench.path("soak.toml")).expect("reads").replace("gone@x.org", "new@x.org");
    std::fs::write(bench.path("soak.toml"), toml).expect("written");
    let out = bench.run(&["--once", "--requeue"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!(server.received()[3].to, ["new@x.org"]);
}

#[test]
fn one_of_two_recipients_who_refused_stands_in_the_row_of_the_mail() {
    let server = SmtpServer::faulty(|_, stage| match stage {
        Stage::Rcpt(a) if a == "gone@x.org" => Fault::Reply("550 5.1.1 no such user"),
        _ => Fault::None,
    });
    let mut bench = Bench::smtp(&server, "default = [\"gone@x.org\", \"ops@x.org\"]");
    bench.write(&mail("1", "default", None));
    let out = bench.run(&["--once"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let limits = soakd::store::sql::Limits { rows_max: 10, expired: Box::new(|| false) };
    let reader = soakd::store::sql::Reader::open(bench.path("soak.db")).expect("opens");
    let rows = reader.query_rows("SELECT state, last_error FROM v_mails", &[], limits).expect("rows").rows;
    assert_eq!(rows[0][0], "sent", "the other one has it");
    assert!(rows[0][1].as_str().is_some_and(|why| why.contains("gone@x.org: ") && why.contains("550")), "{rows:?}");
}

#[test]
fn what_cannot_start_says_why() {
    let server = SmtpServer::start();
    let mut bench = Bench::smtp(&server, "default = [\"ops@x.org\"]");
    let failing = |bench: &Bench, args: &[&str], says: &str| {
        let out = bench.run(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {out:?}");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains(says), "{args:?}: {said:?} lacks {says:?}");
    };
    failing(&bench, &["--once", "--db", "missing.db"], "missing.db");
    failing(&bench, &["--config", "missing.toml"], "missing.toml");
    failing(&bench, &["--test", "--route", "ceo"], "there is no route \"ceo\"; configured: default");
    let mailer = bench.start(&[]);
    bench.write(&mail("1", "default", None));
    bench.wait_for("the mail", |_| server.received().len() == 1);
    failing(&bench, &["--once"], "another soakd mail");
    mailer.kill();
    let base = std::fs::read_to_string(bench.path("soak.toml")).expect("reads");
    for (from, to, says) in [
        ("host = \"127.0.0.1\"", "host = \"mail.example.org\"", "clear text"),
        ("ops@x.org", "ops", "ops"),
        ("\"smtp\"", "\"none\"", "stay in the outbox"),
    ] {
        std::fs::write(bench.path("soak.toml"), base.replace(from, to)).expect("written");
        failing(&bench, &[], says);
    }
}

#[test]
fn a_test_mail_tells_what_happened_on_each_route() {
    let server = SmtpServer::with(Tls::None, None, None, |_, stage| match stage {
        Stage::Rcpt(a) if a == "gone@x.org" => Fault::Reply("550 no such user"),
        _ => Fault::None,
    });
    let bench = Bench::smtp(&server, "default = [\"ops@x.org\"]\ncto = [\"gone@x.org\"]");
    let out = bench.run(&["--test"]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("default: sent (") && said.contains("cto: NOT SENT") && said.contains("no such user"),
        "{said}"
    );
    let got = &server.received()[0];
    assert!(got.header("Subject").starts_with("[TEST] ") && got.data.contains("image/png"), "{}", got.data);
    let out = bench.run(&["--test", "--route", "default", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(json["routes"][0]["outcome"], "delivered");
}

#[test]
fn the_death_of_the_supervisor_is_mailed_once_and_so_is_its_return() {
    let toml = "[mail]\ntransport = \"folder\"\n[mailer]\nsupervisor_silent_after = \"10s\"\n";
    let mut bench = Bench::new(toml, now());
    let run_id = bench.run_id;
    let beat = |store: &mut Store, expects_in_ms: i64| {
        let at = now();
        let expects = Some(UnixMillis(at.0 + expects_in_ms));
        store.record(|to| to.heartbeat("supervisor", at, Some(run_id), expects)).expect("beats");
    };
    beat(&mut bench.store, 1_000);
    let mailer = bench.start(&[]);
    bench.wait_for("the alarm", |b| !b.eml().is_empty());
    mailer.kill();
    // Another mailer knows that this was said.
    let mailer = bench.start(&[]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(bench.eml().len(), 1, "{}", bench.log());
    beat(&mut bench.store, 60_000);
    bench.wait_for("the return", |b| b.eml().len() == 2);
    mailer.kill();
    let mails = bench.eml();
    let header = |mail: &str, name: &str| -> String {
        let line = mail.replace("\r\n ", " ").lines().find(|l| l.starts_with(name)).map(str::to_owned);
        line.and_then(|l| l.split_once(": ").map(|(_, v)| v.to_owned())).unwrap_or_default()
    };
    let lost = mails.iter().find(|m| header(m, "Subject").starts_with("[PAGE]")).expect("the alarm");
    let back = mails.iter().find(|m| header(m, "Subject").starts_with("[RESOLVED]")).expect("the return");
    assert_eq!(header(back, "In-Reply-To"), header(lost, "Message-ID"));
    assert!(header(lost, "Subject").contains(&format!("run {run_id}")), "{lost}");
    // This test is the supervisor: it beat under its own process number, and it is alive.
    assert!(lost.contains("soakd itself hangs"), "{lost}");
}

#[test]
fn a_supervised_mailer_ends_after_its_supervisor_and_not_before_the_last_mail() {
    let mut bench = Bench::new("[mail]\ntransport = \"folder\"\n", now());
    let run_id = bench.run_id;
    let at = now();
    let due = Some(UnixMillis(at.0 + 600_000));
    bench.store.record(|to| to.heartbeat("supervisor", at, Some(run_id), due)).expect("beats");
    let mut mailer = bench.start(&["--supervised", &std::process::id().to_string()]);
    bench.wait_for("the mailer", |b| b.store.heartbeat_of("mailer").expect("reads").is_some());
    let last = mail("last", "default", None);
    bench
        .store
        .record(|to| {
            to.enqueue(Some(run_id), &last)?;
            to.heartbeat("supervisor", now(), Some(run_id), None)
        })
        .expect("the clean end");
    let mut status = None;
    bench.wait_for("the mailer's end", |_| {
        status = mailer.0.try_wait().expect("waits");
        status.is_some()
    });
    assert_eq!(status.and_then(|s| s.code()), Some(0), "{}", bench.log());
    assert_eq!(bench.eml().len(), 1, "the last mail went out first");
}

#[test]
fn a_supervised_mailer_whose_supervisor_was_dead_before_it_looked_ends_too() {
    let bench = Bench::new("[mail]\ntransport = \"folder\"\n", now());
    // Its parent is this test and not the supervisor: as for one that was adopted in its first milliseconds.
    let mut mailer = bench.start(&["--supervised", "4194305"]);
    let mut status = None;
    bench.wait_for("the mailer's end", |_| {
        status = mailer.0.try_wait().expect("waits");
        status.is_some()
    });
    assert_eq!(status.and_then(|s| s.code()), Some(0), "{}", bench.log());
}

#[test]
fn a_database_that_somebody_locks_is_waited_for_and_the_mail_goes_once() {
    let mut bench = Bench::new("[mail]\ntransport = \"folder\"\n", now());
    bench.write(&mail("1", "default", None));
    let other = rusqlite::Connection::open(bench.path("soak.db")).expect("it opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let mailer = bench.start(&[]);
    bench.wait_for("a word about the lock", |b| b.log().contains("soakd mail: waiting"));
    assert_eq!(bench.eml().len(), 0, "what cannot be recorded as sent is not sent: {}", bench.log());
    other.execute_batch("COMMIT").expect("unlocked");
    bench.wait_for("the mail", |b| b.log().contains("soakd mail: going on") && b.eml().len() == 1);
    mailer.kill();
    assert_eq!(bench.eml().len(), 1, "once");
}

#[test]
fn sigterm_ends_it_cleanly() {
    let bench = Bench::new("[mail]\ntransport = \"folder\"\n", now());
    let mut mailer = bench.start(&[]);
    bench.wait_for("the mailer", |b| b.store.heartbeat_of("mailer").expect("reads").is_some());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(mailer.0.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .expect("signals");
    assert_eq!(mailer.0.wait().expect("ends").code(), Some(0), "{}", bench.log());
    let beat = bench.store.heartbeat_of("mailer").expect("reads").expect("a row");
    assert_eq!(beat.expects, None, "a clean end says so");
}

#[test]
fn a_database_that_comes_later_or_is_replaced_is_taken_up() {
    let mut bench = Bench::new("[mail]\ntransport = \"folder\"\n", now());
    let path: &Path = &bench.path("soak.db");
    std::fs::rename(path, bench.path("elsewhere")).expect("moved");
    let mailer = bench.start(&[]);
    bench.wait_for("a word about the missing database", |b| b.log().contains("waiting"));
    std::fs::rename(bench.path("elsewhere"), path).expect("moved back");
    bench.write(&mail("1", "default", None));
    bench.wait_for("the first mail", |b| b.eml().len() == 1);
    // The user starts over: another file under the same name.
    for end in ["", "-wal", "-shm", "-lock"] {
        let _ = std::fs::remove_file(bench.path(&format!("soak.db{end}"))); // some may not be there
    }
    bench.store = Store::open(path, Mode::Write).expect("a new database");
    bench.store.enqueue(None, &mail("2", "default", None)).expect("queued");
    bench.wait_for("the mail from the new database", |b| b.eml().len() == 2);
    mailer.kill();
}
