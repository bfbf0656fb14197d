//! `soakd internal-worker`: the child that does inference. Hidden: only `soakd run` starts it.

use crate::worker::{open, process};
use std::process::ExitCode;

/// No flags: everything comes by frames on stdin.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Works until told to stop.
pub fn execute(_: &Args) -> ExitCode {
    process::run(&mut open::open)
}
