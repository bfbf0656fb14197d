//! A terminal that goes away under a run, as when an ssh session drops, or stands still under it, as at Ctrl-S: it takes nothing
//! along but what was drawn on it.

use crate::soak::Soak;
use nix::fcntl::OFlag;
use nix::libc;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{FlowArg, tcflow};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

const MAILS: &str = "[mail]\ntransport = \"folder\"\n";

/// A run on a terminal: with the side of the terminal's window, and that of the program. No child inherits either: while
/// somebody has the window's side, it is not closed.
fn on_terminal() -> (Soak, File, File) {
    let window = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a terminal");
    grantpt(&window).and_then(|()| unlockpt(&window)).expect("ours");
    let path = ptsname_r(&window).expect("its name");
    let program = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).expect("it opens");
    let mut window = File::from(std::os::fd::OwnedFd::from(window));
    let soak = Soak::on_terminal(&program, MAILS, &["--duration", "15s"]);
    soak.until("SELECT count(*) > 3 FROM work_sample");
    let (mut seen, mut buffer) = (String::new(), [0; 4_096]);
    while !seen.contains(" elapsed, ") {
        let n = window.read(&mut buffer).expect("somebody writes");
        seen += &String::from_utf8_lossy(&buffer[..n]);
    }
    (soak, window, program)
}

/// Kills the worker, and looks whether that is told.
fn crash(soak: &Soak) {
    soak.kill(soak.pid("worker"), libc::SIGKILL);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_crash'");
    soak.until("SELECT count(*) = 1 FROM run WHERE state = 'finished' AND verdict IS NOT NULL");
}

fn is_told(soak: &Soak) {
    let mailed = "SELECT count(*) FROM outbox WHERE state = 'sent' AND kind = 'alert' AND labels LIKE '%crash%'";
    assert_eq!(soak.number(mailed), 1, "and mailed");
    assert_eq!(soak.number("SELECT count(*) FROM outbox WHERE state = 'sent' AND kind = 'finished'"), 1);
    let mails = std::fs::read_dir(soak.folder().join("mail")).expect("mails").count();
    assert!(mails >= 2, "the crash and the end, but there are {mails}");
    assert!(soak.folder().join("soak-run-1.html").is_file(), "and the report is there");
}

#[test]
fn a_terminal_that_closes_ends_nothing_and_hides_no_crash() {
    let (mut soak, window, program) = on_terminal();
    drop((window, program));
    crash(&soak);
    assert_eq!(soak.wait(), 1, "as without a terminal");
    is_told(&soak);
}

#[test]
fn a_terminal_that_stands_still_holds_nothing_up() {
    let (mut soak, window, program) = on_terminal();
    tcflow(&program, FlowArg::TCOOFF).expect("stopped");
    crash(&soak);
    tcflow(&program, FlowArg::TCOON).expect("goes on");
    assert_eq!(soak.wait(), 1, "it had only its summary to print");
    is_told(&soak);
    drop(window);
}
