//! `soakd analyze ... | head -1`: a reader that goes away ends the command quietly. It used to panic.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut csv = tempfile::NamedTempFile::new().expect("a file");
    writeln!(csv, "unix_s,bytes").expect("a header");
    for minute in 0..600 {
        writeln!(csv, "{},{}", 1_790_000_000 + minute * 60, 1_000_000_000 + minute % 7 * 4096).expect("a row");
    }
    csv.flush().expect("rows");
    // Help longer than a pipe's buffer does not exist, so the reader leaves before the writer has started.
    for args in [vec!["analyze", csv.path().to_str().expect("a path")], vec!["query"], vec!["rules", "--help"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_soakd"))
            .args(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("soakd starts");
        drop(child.stdout.take());
        let errors: Vec<String> =
            BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok).collect();
        child.wait().expect("it ends");
        assert!(!errors.iter().any(|line| line.contains("panicked")), "{args:?}: {errors:?}");
    }
}
