//! Mails through the local `sendmail` program (Postfix, Exim, msmtp and others bring one), which queues them itself.

use super::Carrier;
use super::message::Parcel;
use super::outcome::Attempt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// Hands mails to a program.
pub struct Sendmail {
    program: PathBuf,
    timeout: Duration,
}

impl Sendmail {
    /// `program` is usually `/usr/sbin/sendmail`; it is killed after `timeout`.
    #[must_use]
    pub fn new(program: PathBuf, timeout: Duration) -> Self {
        Sendmail { program, timeout }
    }

    async fn run(&self, parcel: &Parcel) -> std::io::Result<std::process::Output> {
        let mut child = tokio::process::Command::new(&self.program)
            // -i: a line with a single dot does not end the mail. Recipients are arguments and never parsed from the text.
            .args(["-i", "-f", parcel.from.as_ref(), "--"])
            .args(parcel.to.iter().map(ToString::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let unix = String::from_utf8_lossy(&parcel.bytes).replace("\r\n", "\n"); // sendmail speaks Unix line ends
        let feed = async move {
            let fed = stdin.write_all(unix.as_bytes()).await;
            drop(stdin);
            fed
        };
        let (fed, output) = tokio::join!(feed, child.wait_with_output());
        let output = output?;
        match fed {
            // A program that ends before it has read all says why by its exit code.
            Err(error) if output.status.success() => Err(error),
            _ => Ok(output),
        }
    }
}

impl Carrier for Sendmail {
    async fn send(&mut self, parcel: &Parcel) -> Attempt {
        let name = self.program.display();
        let output = match tokio::time::timeout(self.timeout, self.run(parcel)).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Attempt::retry(format!("running {name}: {error}")),
            Err(_) => return Attempt::retry(format!("{name} did not end within {} s", self.timeout.as_secs())),
        };
        let said = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        let said: String = said.chars().take(500).collect();
        match output.status.code() {
            Some(0) => Attempt::delivered(&parcel.to, format!("taken by {name}")),
            // sysexits.h: EX_DATAERR, EX_NOUSER, EX_NOHOST speak of this mail; all else (no memory, bad configuration,
            // EX_TEMPFAIL) of the program, and someone will mend that.
            Some(code @ (65 | 67 | 68)) => Attempt::permanent(format!("{name} exited with {code}: {said}")),
            _ => Attempt::retry(format!("{name}: {}: {said}", output.status)),
        }
    }

    async fn rest(&mut self) {}
}
