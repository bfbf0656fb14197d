//! Damage on purpose, for `soakd drill` and for tests: what a worker does to itself when it is told to.
//!
//! Nothing here runs unless the supervisor sends [`super::protocol::ToWorker::Sabotage`]; an ordinary run never does.
//! The corrupted token is the inference loop's own affair (`soak`), as is the deadlock's place.

use super::protocol::Sabotage;
use crate::clock;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Does the damage that needs neither the loop nor the pipe. Returns if the process survives it.
pub fn perform(sabotage: Sabotage) {
    match sabotage {
        Sabotage::Exit { code } => {
            eprintln!("worker: told to exit with code {code}");
            std::process::exit(code);
        }
        Sabotage::Abort => {
            eprintln!("worker: told to abort");
            std::process::abort();
        }
        Sabotage::Segfault => {
            eprintln!("worker: told to read through a null pointer");
            // SAFETY: not sound, on purpose: this raises SIGSEGV, which is what was asked for. The fault is in this
            // process only, which exists to be able to fault.
            unsafe {
                let nowhere: *const u8 = std::hint::black_box(std::ptr::null());
                std::hint::black_box(std::ptr::read_volatile(nowhere));
            }
        }
        Sabotage::Leak { bytes_per_second } => leak_for_ever(bytes_per_second),
        Sabotage::FloodStderr { bytes } => flood(bytes),
        Sabotage::LeaveOrphan => leave_orphan(),
        Sabotage::Deadlock
        | Sabotage::LoopForever
        | Sabotage::CorruptToken
        | Sabotage::FlipWeight
        | Sabotage::LeakDevice { .. }
        | Sabotage::Garble => {}
    }
}

/// In steps of a tenth of a second: a drill that is speeded up must not see a staircase.
fn leak_for_ever(bytes_per_second: u64) {
    std::thread::spawn(move || {
        let began_us = clock::micros();
        let mut leaked_bytes = 0;
        loop {
            let due_bytes = (clock::micros() - began_us).max(0) as u64 / 1_000 * bytes_per_second / 1_000;
            // Written to, or the kernel would never give the pages.
            let piece: Vec<u8> = vec![0xa5; (due_bytes - leaked_bytes) as usize];
            std::mem::forget(std::hint::black_box(piece));
            leaked_bytes = due_bytes;
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

fn flood(bytes: u64) {
    let line = [b'x'; 199];
    let mut stderr = std::io::stderr().lock();
    for _ in 0..bytes / 200 {
        if stderr.write_all(&line).and_then(|()| stderr.write_all(b"\n")).is_err() {
            return; // nobody reads, so nobody is flooded
        }
    }
}

fn leave_orphan() {
    let child = Command::new("sleep")
        .arg("600")
        .process_group(0) // out of our own group: killing the group does not reach it
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Ok(child) => eprintln!("worker: leaves an orphan, pid {}", child.id()),
        Err(error) => eprintln!("worker: could not leave an orphan: {error}"),
    }
    std::process::exit(7);
}
