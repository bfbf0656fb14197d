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

#[cfg(test)]
mod tests {
    use super::super::outcome::Outcome;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A program of ours in the place of sendmail: keeps its arguments and what it reads, then does `then`.
    fn program(folder: &std::path::Path, then: &str) -> PathBuf {
        let path = folder.join("sendmail");
        let (said, read) = (folder.join("arguments").display().to_string(), folder.join("read").display().to_string());
        let script = format!("#!/bin/sh\nfor a; do echo \"$a\"; done >'{said}'\ncat >'{read}'\n{then}\n");
        std::fs::write(&path, script).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("allowed");
        path
    }

    fn send(program: PathBuf, timeout: Duration) -> Attempt {
        let address = |text: &str| text.parse().expect("an address");
        let parcel = Parcel {
            from: address("soakd@x.org"),
            to: vec![address("ops@x.org"), address("night@x.org")],
            message_id: "<1@x>".to_owned(),
            file_stem: "1".to_owned(),
            bytes: b"Subject: one\r\n\r\nfirst\r\n.\r\nlast\r\n".to_vec(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut sendmail = Sendmail::new(program, timeout);
        loop {
            let attempt = runtime.block_on(sendmail.send(&parcel));
            // Another test that forks just now holds the file that was written a moment ago.
            match &attempt.outcome {
                Outcome::Retry { reason, .. } if reason.contains("busy") => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return attempt,
            }
        }
    }

    #[test]
    fn a_mail_goes_out_whole_and_its_recipients_are_arguments() {
        let folder = tempfile::tempdir().expect("a folder");
        let attempt = send(program(folder.path(), "exit 0"), Duration::from_secs(60));
        assert!(matches!(attempt.outcome, Outcome::Delivered { .. }), "{attempt:?}");
        assert_eq!(attempt.settled.len(), 2, "both have it");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("it was run");
        assert_eq!(read("arguments"), "-i\n-f\nsoakd@x.org\n--\nops@x.org\nnight@x.org\n");
        assert_eq!(read("read"), "Subject: one\n\nfirst\n.\nlast\n", "a lone dot ends nothing");
    }

    #[test]
    fn what_speaks_of_the_mail_is_final_and_what_speaks_of_the_program_is_not() {
        let cases = [
            ("no such user", "echo 'no such user' >&2; exit 67", true, "no such user"),
            ("no such host", "exit 68", true, "exited with 68"),
            ("try later", "echo 'queue is full' >&2; exit 75", false, "queue is full"),
            ("a bad configuration", "exit 78", false, "exit status: 78"),
            ("killed", "kill -9 $$", false, "signal: 9"),
        ];
        for (what, then, is_final, says) in cases {
            let folder = tempfile::tempdir().expect("a folder");
            let attempt = send(program(folder.path(), then), Duration::from_secs(60));
            let (reason, permanent) = match &attempt.outcome {
                Outcome::Permanent { reason } => (reason, true),
                Outcome::Retry { reason, .. } => (reason, false),
                Outcome::Delivered { .. } => panic!("{what}: {attempt:?}"),
            };
            assert_eq!(permanent, is_final, "{what}: {reason}");
            assert!(reason.contains(says) && attempt.settled.is_empty(), "{what}: {attempt:?}");
        }
    }

    #[test]
    fn a_program_that_hangs_or_is_not_there_is_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let hangs = send(program(folder.path(), "exec sleep 600"), Duration::from_millis(300));
        assert!(matches!(&hangs.outcome, Outcome::Retry { reason, .. } if reason.contains("did not end")), "{hangs:?}");
        let absent = send(folder.path().join("nothing"), Duration::from_secs(60));
        assert!(matches!(&absent.outcome, Outcome::Retry { reason, .. } if reason.contains("nothing")), "{absent:?}");
    }
}
