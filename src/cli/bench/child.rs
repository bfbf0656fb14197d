//! The measuring child as its parent sees it: started, asked, ended.

use super::super::CannotStart;
use crate::wire;
use crate::worker::bench::protocol::{Answer, Measured, OpenedModel, Order};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// A running child. It is killed when dropped.
pub(in crate::cli) struct Child {
    process: std::process::Child,
    decoder: wire::Decoder,
}

impl Child {
    /// Starts this very program as the child.
    pub(in crate::cli) fn start() -> Result<Child, CannotStart> {
        let program = std::env::current_exe()
            .map_err(|error| CannotStart(format!("cannot find this program's own file: {error}")))?;
        let process = Command::new(&program)
            .arg("internal-bench")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| CannotStart(format!("{}: cannot be started: {error}", program.display())))?;
        Ok(Child { process, decoder: wire::Decoder::default() })
    }

    /// Gives an order and waits for the answer. `Err` is the reason in prose, the child's end included.
    pub(in crate::cli) fn ask(&mut self, order: &Order) -> Result<Answer, String> {
        let gone = |process: &mut std::process::Child| match process.wait() {
            Ok(status) => format!("the measuring process ended in the middle ({status})"),
            Err(error) => format!("the measuring process is lost: {error}"),
        };
        let Some(stdin) = self.process.stdin.as_mut() else { return Err("the child has no stdin".into()) };
        if stdin.write_all(&wire::encode(order)).and_then(|()| stdin.flush()).is_err() {
            return Err(gone(&mut self.process));
        }
        let mut buffer = [0; 65_536];
        loop {
            match self.decoder.next::<Answer>() {
                Ok(Some(Answer::Failed { reason })) => return Err(reason),
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) => return Err(format!("the measuring process is not understood: {error}")),
            }
            let Some(stdout) = self.process.stdout.as_mut() else { return Err("the child has no stdout".into()) };
            match stdout.read(&mut buffer) {
                Ok(0) | Err(_) => return Err(gone(&mut self.process)),
                Ok(count) => self.decoder.push(&buffer[..count]),
            }
        }
    }

    /// An [`Order::Open`].
    pub(in crate::cli) fn open(&mut self, order: &Order) -> Result<OpenedModel, String> {
        match self.ask(order)? {
            Answer::Opened(opened) => Ok(opened),
            other => Err(format!("the measuring process answered {other:?}")),
        }
    }

    /// An [`Order::Decode`] or [`Order::Serve`].
    pub(in crate::cli) fn measure(&mut self, order: &Order) -> Result<Measured, String> {
        match self.ask(order)? {
            Answer::Measured(measured) => Ok(measured),
            other => Err(format!("the measuring process answered {other:?}")),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended already
        let _ = self.process.wait();
    }
}
