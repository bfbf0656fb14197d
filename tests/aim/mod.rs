//! What the tests of `soakd run -- COMMAND` share: the stand-in server, a run of soakd on it, and what it recorded.

#![allow(dead_code)] // each test file uses its own part

use soakd::store::sql::{Limits, Reader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The example that cargo built beside this test.
pub fn stand_in() -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    let path = test.parent().and_then(Path::parent).expect("target/PROFILE").join("examples/leaky_server");
    assert!(path.exists(), "{}: cargo test builds examples; with --test, add --example leaky_server", path.display());
    path
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Runs `soakd run` in `dir` with mails to nowhere, no canary and quick timeouts.
pub fn soak(dir: &Path, args: &[&str], command: &[&str]) -> Output {
    soak_with(dir, "stall = \"2s\"\n[worker]\nbackoff_min = \"200ms\"\n", args, command)
}

/// The same with `target` as the rest of the configuration, from the middle of its [target].
pub fn soak_with(dir: &Path, target: &str, args: &[&str], command: &[&str]) -> Output {
    let toml = format!("[mail]\ntransport = \"none\"\n[canary]\nenabled = false\n[target]\n{target}");
    std::fs::write(dir.join("soak.toml"), toml).expect("written");
    let mut soakd = Command::new(env!("CARGO_BIN_EXE_soakd"));
    soakd.current_dir(dir).arg("run").args(args).stdin(Stdio::null());
    if !command.is_empty() {
        soakd.arg("--").args(command);
    }
    soakd.output().expect("runs")
}

pub fn rows(dir: &Path, sql: &str) -> Vec<Vec<serde_json::Value>> {
    try_rows(dir, sql).expect("rows")
}

/// The same while a run may only just be making its database.
pub fn try_rows(dir: &Path, sql: &str) -> Result<Vec<Vec<serde_json::Value>>, String> {
    let limits = Limits { rows_max: 10_000, expired: Box::new(|| false) };
    let reader = Reader::open(dir.join("soak.db")).map_err(|error| error.to_string())?;
    Ok(reader.query_rows(sql, &[], limits).map_err(|error| error.to_string())?.rows)
}

pub fn events(dir: &Path, kind: &str) -> Vec<String> {
    rows(dir, &format!("SELECT summary FROM event WHERE kind = '{kind}'"))
        .into_iter()
        .map(|row| row[0].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// A stand-in that is not soakd's child.
pub struct Stranger(pub Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}
