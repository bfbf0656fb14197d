//! One question to a probe of its own, for commands that want readings once and must not hang with the driver.

use super::protocol::{FromProbe, Readings, Setup, Tick, ToProbe, Tree, Watched};
use crate::wire::{self, Decoder};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Starts `soakd` (this binary) as a probe, asks once about `pids`, and ends it. The error is prose.
///
/// Takes at most `patience`, however the driver behaves; a probe that the kernel does not let go of is left behind.
pub fn ask_once(soakd: &Path, setup: Setup, pids: &[i32], patience: Duration) -> Result<Readings, String> {
    let mut child = Command::new(soakd)
        .arg("internal-probe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start {} internal-probe: {error}", soakd.display()))?;
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let processes = pids.iter().map(|pid| Watched { pid: *pid, tree: Tree::default() }).collect();
    let mut question = wire::encode(&ToProbe::Start(setup));
    question.extend(wire::encode(&ToProbe::Tick(Tick { tick: 1, processes, read_pss: false })));
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = answer.send(stdin.write_all(&question).map_err(|e| e.to_string()).and_then(|()| receive(&mut stdout)));
        drop(stdin); // the probe ends with its stdin
    });
    let result = match answered.recv_timeout(patience) {
        Ok(result) => result,
        Err(_) => Err(format!("the probe did not answer within {} s", patience.as_secs())),
    };
    let _ = child.kill();
    let _ = child.try_wait(); // not wait(): a process that hangs in the kernel is not to hang us
    result
}

fn receive(stdout: &mut impl Read) -> Result<Readings, String> {
    let (mut decoder, mut buffer) = (Decoder::default(), [0u8; 16 << 10]);
    loop {
        match decoder.next::<FromProbe>().map_err(|error| error.to_string())? {
            Some(FromProbe::Readings(readings)) => return Ok(*readings),
            Some(FromProbe::Ready { .. }) => {}
            None => match stdout.read(&mut buffer).map_err(|error| error.to_string())? {
                0 => return Err("the probe ended without an answer".to_owned()),
                count => decoder.push(&buffer[..count]),
            },
        }
    }
}
