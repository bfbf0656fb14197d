//! Mails that do not arrive: the end of a run says how many, and the commands that it prints do what they say.

use crate::smtp_server::{Fault, SmtpServer, Stage};
use crate::soak::{self, Soak};

/// What `sh` makes of a command that soakd printed, and its exit code.
fn paste(soak: &Soak, command: &str) -> (i32, String) {
    let folder = std::path::PathBuf::from(soak::binary()).parent().expect("a folder").to_owned();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = std::process::Command::new("sh");
    let output = shell.args(["-c", command]).current_dir(soak.folder()).env("PATH", path).output().expect("a shell");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

/// The command in backticks on the line that has `words`.
fn command(said: &str, words: &str) -> String {
    let line = said.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("no {words:?} in {said}"));
    line.split('`').nth(1).unwrap_or_else(|| panic!("no command in {line:?}")).to_owned()
}

fn smtp(port: u16, retry: &str) -> String {
    format!(
        "[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\nfrom = \"soakd@x.org\"\n\
         retry_min = \"{retry}\"\nretry_max = \"{retry}\"\n[mail.routes]\ndefault = [\"ops@x.org\"]\n"
    )
}

#[test]
fn mails_that_wait_are_sent_where_they_were_to_go_or_wait_on_and_say_why() {
    // Nobody listens there, and the configuration has a name that a shell would take for two.
    let prepare =
        |folder: &std::path::Path| std::fs::write(folder.join("of prod.toml"), smtp(1, "1s")).expect("written");
    let flags = ["--config", "of prod.toml", "--model", "synthetic:tiny", "--threads", "1", "--duration", "3s"];
    let mut soak = Soak::prepared("", &flags, prepare);
    assert!([0, 3].contains(&soak.wait()), "{}", soak.said());
    std::thread::sleep(std::time::Duration::from_millis(1_100)); // the next try is due
    let (code, said) = paste(&soak, &command(&soak.said(), "still wait in the outbox"));
    assert_eq!(code, 1, "{said}");
    assert_eq!(soak.number("SELECT count(*) FROM outbox WHERE state = 'sent'"), 0, "gone elsewhere: {said}");
    assert!(said.contains("next try not before 20") && said.contains("refused"), "when, and why not yet: {said}");
}

#[test]
fn mails_that_are_refused_are_told_at_the_end_and_by_whoever_lists_them() {
    let server = SmtpServer::faulty(|_, stage| match stage {
        Stage::Rcpt(_) => Fault::Reply("550 5.1.1 no such user"),
        _ => Fault::None,
    });
    let mut soak = Soak::with(&smtp(server.address.port(), "5m"), &["--duration", "3s"]);
    assert!([0, 3].contains(&soak.wait()), "{}", soak.said());
    assert!(soak.said().contains("INFO to be mailed: "), "no more is known then: {}", soak.said());
    let refused = soak.number("SELECT count(*) FROM outbox WHERE state = 'failed'");
    let again = command(&soak.said(), &format!("REFUSED for good: {refused}"));
    assert!(refused > 0 && again.starts_with("soakd mail --requeue --once --db "), "{again}");
    let (_, once) = paste(&soak, "soakd mail --once");
    assert!(once.contains(&format!("refused for good, in all: {refused}")) && once.contains("--requeue"), "{once}");
    let (_, alerts) = paste(&soak, "soakd alerts --all");
    assert!(alerts.contains("REFUSED 20"), "{alerts}");
    assert_eq!(soak.text("SELECT mail_state FROM v_alerts WHERE rule = 'run_finished'"), "failed");
    assert!(paste(&soak, &again).1.contains(&format!("put back into the queue: {refused}")), "{again}");
}
