//! `soakd drill` itself: every alarm that should ring does, through a folder and through a real SMTP dialogue; one that cannot
//! ring is not said to have; and the user's own database is not touched.

#[path = "support/smtp_server.rs"]
mod smtp_server;

use serde_json::Value;
use smtp_server::SmtpServer;
use std::path::Path;
use std::process::Command;

const CONFIG: &str = "
[worker]
hang_after = \"6s\"
backoff_min = \"200ms\"
[alerts]
evaluate_every = \"1s\"
";

/// A drill in a folder of its own: exit code, what it printed, what it said meanwhile.
fn drill(folder: &Path, config: &str, args: &[&str]) -> (i32, String, String) {
    std::fs::write(folder.join("soak.toml"), format!("{CONFIG}{config}")).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_soakd"))
        .arg("drill")
        .args(args)
        .current_dir(folder)
        .env("TMPDIR", folder)
        .output()
        .expect("soakd starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn subjects(folder: &Path) -> Vec<String> {
    let mails = std::fs::read_dir(folder.join("mail")).expect("a folder of mails");
    let subject = |entry: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a mail");
        text.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned)).expect("a subject")
    };
    mails.map(subject).collect()
}

#[test]
fn every_alarm_rings_and_the_database_of_the_user_is_not_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("soak.db"), "the user's own").expect("written");
    let (code, out, said) = drill(folder.path(), "", &["--format", "json", "--patience", "10m"]);
    assert_eq!(code, 0, "{out}\n{said}");
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(document["passed"], true);
    let faults = document["faults"].as_array().expect("a list");
    let names: Vec<&str> = faults.iter().filter_map(|fault| fault["fault"].as_str()).collect();
    assert_eq!(names, ["crash", "hang", "leak-rss", "leak-vram", "corruption", "outage", "supervisor", "fallback"]);
    for fault in faults.iter().filter(|fault| fault["skipped"].is_null()) {
        assert_eq!(fault["rang"], true, "{fault:#}");
        let (recorded, mailed) = (fault["recorded_s"].as_f64(), fault["mailed_s"].as_f64());
        assert!(recorded.is_some() && mailed >= recorded, "it is recorded before it is mailed: {fault:#}");
    }
    let of = |name: &str| faults.iter().find(|fault| fault["fault"] == name).expect(name);
    assert!(of("leak-rss")["speeded_up"].as_str().is_some_and(|how| how.contains("9m36s")), "{out}");
    assert!(of("hang")["recorded_s"].as_f64().is_some_and(|s| s >= 5.0), "a hang takes hang_after: {out}");
    assert!(of("crash")["recovered_s"].is_number() && of("corruption")["recovered_s"].is_null(), "{out}");
    let subjects = subjects(folder.path());
    assert!(subjects.len() >= 7 && subjects.iter().all(|subject| subject.starts_with("[DRILL] ")), "{subjects:?}");
    assert_eq!(std::fs::read_to_string(folder.path().join("soak.db")).expect("it is there"), "the user's own");
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 3, "soak.toml, soak.db and mail; the drill cleans up: {left:?}");
}

#[test]
fn mails_wait_for_a_server_that_is_down_and_arrive_marked_as_a_drill() {
    let server = SmtpServer::start();
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nretry_min = \"1s\"\n\
         [mail.routes]\ndefault = [\"oncall@example.org\"]\n",
        server.address.port()
    );
    let (code, out, said) = drill(folder.path(), &config, &["--only", "outage", "--patience", "10m"]);
    assert_eq!(code, 0, "{out}\n{said}");
    let got = server.received();
    assert_eq!(got.len(), 1, "once: {out}\n{said}");
    assert!(got[0].header("Subject").starts_with("[DRILL] [PAGE] "), "{}", got[0].header("Subject"));
    assert!(out.contains("attempts failed; delivered") && out.contains("Every alarm rang."), "{out}");
}

#[test]
fn an_alarm_that_cannot_ring_is_told_and_fails_the_drill() {
    let folder = tempfile::tempdir().expect("a folder");
    let mute = "[[rule]]\nname = \"worker_crash\"\nseverity = \"page\"\nsummary = \"never\"\nsql = \"SELECT 1 AS n WHERE 0\"\n";
    std::fs::write(folder.path().join("mute.toml"), mute).expect("written");
    let config = CONFIG.replace("[alerts]", "[alerts]\nrules = [\"mute.toml\"]");
    std::fs::write(folder.path().join("mute-soak.toml"), config).expect("written");
    let args = ["--config", "mute-soak.toml", "--only", "crash", "--patience", "60s"];
    let (code, out, said) = drill(folder.path(), "", &args);
    assert_eq!(code, 1, "{out}\n{said}");
    let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("NOT EVERY ALARM RANG: crash.") && said.contains("DID NOT RING"), "{out}\n{said}");
    assert!(said.contains("in vain for the mail to leave"), "{said}");
}

#[test]
fn what_cannot_start_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let nobody = format!("[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\n");
    let cases: [(&str, &[&str], &str); 4] = [
        (&nobody, &[], "the mail server cannot be used, so no alarm would ring"),
        ("", &["--only", "flood"], "invalid value 'flood'"),
        ("", &["--config", "missing.toml"], "missing.toml"),
        ("[model]\nbackend = \"cpu\"\n", &["--only", "leak-vram"], "leak-vram needs a GPU: model.backend is cpu"),
    ];
    for (config, args, says) in cases {
        let (code, out, said) = drill(folder.path(), config, args);
        assert_eq!(code, 2, "{args:?}: {out}\n{said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let (code, out, _) = drill(folder.path(), "", &["--list"]);
    assert!(code == 0 && out.contains("leak-vram"), "{out}");
}
