//! A run that is over is told: what that takes must not look like death to those who watch the watcher.

use crate::soak::Soak;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

/// What a service manager is told, by a thread that reads it at once: its socket holds only a few words.
fn told(socket: UnixDatagram) -> Arc<Mutex<Vec<String>>> {
    let words = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&words);
    std::thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while let Ok(n) = socket.recv(&mut buffer) {
            kept.lock().expect("nobody panics with it").push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
    });
    words
}

#[test]
fn a_report_that_takes_long_starves_neither_the_watchdog_nor_the_heartbeat() {
    let mut words = None;
    let mut soak = Soak::under(&["--duration", "3s"], |folder| {
        // A disk that is slow beyond measure: the report is written into a pipe that nobody reads yet.
        nix::unistd::mkfifo(&folder.join("soak-run-1.html"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let notify = folder.join("notify");
        words = Some(told(UnixDatagram::bind(&notify).expect("a socket")));
        vec![("NOTIFY_SOCKET", notify), ("WATCHDOG_USEC", "30000000".into())]
    });
    let words = words.expect("made");
    let fed = || words.lock().expect("nobody panics with it").iter().filter(|word| word.contains("WATCHDOG=1")).count();
    soak.until("SELECT count(*) = 1 FROM run WHERE state = 'finished'");
    soak.until("SELECT count(*) = 0 FROM process WHERE role <> 'supervisor' AND ended_unix_ms IS NULL");
    let (beat, before) = (soak.number("SELECT unix_ms FROM heartbeat WHERE role = 'supervisor'"), fed());
    soak.wait_for("the watchdog to be fed", || fed() > before + 5);
    // Two beats, so that one of them is of the time in which it was being told.
    soak.until(&format!(
        "SELECT unix_ms > {beat} + 15000 AND expects_unix_ms > unix_ms FROM heartbeat WHERE role = 'supervisor'"
    ));
    let ours = "SELECT count(*) FROM process WHERE role = 'supervisor' AND ended_unix_ms IS NULL";
    assert_eq!(soak.number(ours), 1, "it has not left: {}", soak.said());
    let page = std::fs::read_to_string(soak.folder().join("soak-run-1.html")).expect("the pipe");
    assert!(page.contains("</html>"), "the page is whole");
    assert!([0, 3].contains(&soak.wait()), "{}", soak.said());
    assert!(soak.said().contains("Verdict: "), "{}", soak.said());
    assert_eq!(soak.number(ours), 0, "and then it leaves");
}
