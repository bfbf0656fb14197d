//! A server that leaks so many bytes a request, soaked live: the leak is found in the child that has it, stated per request
//! within a tenth of the truth, and mailed. The detector takes each second for five minutes, as in a drill, or this test
//! would take an hour; everything else is as it is: the processes, the requests, the memory, the database, the mail.

mod aim;

use aim::{free_port, rows, stand_in, try_rows};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LEAK_BYTES: f64 = 100_000.0;
const PACE: &str = "300";

struct Run(Child);

impl Run {
    fn interrupt(&self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT); // it may have ended by itself
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill(); // gone already is as good
        let _ = self.0.wait();
    }
}

/// The mails as text without line breaks, neither those of the transfer encoding nor those of the layout.
fn mails(dir: &Path) -> Vec<String> {
    let folder = std::fs::read_dir(dir.join("mail")).into_iter().flatten().flatten();
    let texts = folder.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts
        .map(|text| text.replace("=\r\n", "").replace("=\n", "").split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn a_leak_is_found_stated_per_request_and_mailed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Two days are 576 s at this pace. Thirty requests a second lose 3 MB a second: 1.7 GB over the horizon, 35 tolerances.
    let toml = "[run]\nhorizon = \"576s\"\nsample_interval = \"200ms\"\nlook_every = \"1s\"\n[canary]\nenabled = false\n\
                [mail]\ntransport = \"folder\"\nfolder = \"mail\"\n[mail.routes]\ndefault = [\"oncall@example.org\"]\n";
    std::fs::write(dir.path().join("soak.toml"), toml).expect("written");
    let (port, leak) = (free_port(), (LEAK_BYTES as u64).to_string());
    let mut run = Run(Command::new(env!("CARGO_BIN_EXE_soakd"))
        .current_dir(dir.path())
        .args(["run", "--duration", "10m", "--pace", PACE, "--rate", "30"])
        .args(["--load", &format!("openai:http://127.0.0.1:{port}/v1"), "--"])
        .arg(stand_in())
        .args([&port.to_string(), "--worker", "--leak", &leak])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("soakd starts"));
    let found = "SELECT s.name, f.slope_bytes_per_request, f.shape FROM series AS s JOIN finding AS f USING (series_id)
                 WHERE f.alarmed = 1 AND s.judged = 1 AND s.name = 'worker-0.anon_swap' ORDER BY f.unix_ms DESC LIMIT 1";
    let told = |dir: &Path| {
        mails(dir).into_iter().find(|mail| mail.contains("worker-0.anon_swap") && mail.contains("bytes a request"))
    };
    let mut seen = None;
    for _ in 0..300 {
        std::thread::sleep(Duration::from_secs(1));
        let is_found = try_rows(dir.path(), found).is_ok_and(|rows| !rows.is_empty());
        if is_found && told(dir.path()).is_some() {
            seen = told(dir.path());
            break;
        }
        assert_eq!(run.0.try_wait().expect("asks"), None, "it ended by itself");
    }
    let mail = seen.unwrap_or_else(|| panic!("no mail: {:?}\n{:#?}", rows(dir.path(), found), mails(dir.path())));
    run.interrupt();
    let code = run.0.wait().expect("ends").code();
    assert_eq!(code, Some(1), "a leak fails the run");
    let last = &rows(dir.path(), found)[0];
    let said = last[1].as_f64().unwrap_or_else(|| panic!("not stated per request: {last:?}"));
    assert!((said / LEAK_BYTES - 1.0).abs() < 0.1, "{said:.0} bytes a request where {LEAK_BYTES} leak: {last:?}");
    // The mail says it too, and the role that has it is found beside the whole.
    assert!(mail.contains("oncall@example.org"), "{mail}");
    let roles = "SELECT f.slope_bytes_per_request FROM v_drift AS d JOIN series AS s ON s.name = d.series JOIN finding AS f USING (series_id)
                 WHERE d.command = 'leaky_server/1' AND f.slope_bytes_per_request IS NOT NULL ORDER BY f.unix_ms DESC LIMIT 1";
    let role = rows(dir.path(), roles);
    let each =
        role.first().and_then(|row| row[0].as_f64()).unwrap_or_else(|| panic!("the role is not named: {role:?}"));
    assert!((each / LEAK_BYTES - 1.0).abs() < 0.1, "{each:.0} bytes a request in the child that serves");
}
