//! `soakd internal-target`: the child that keeps the user's own process under soak. Hidden: only `soakd run` starts it.

use crate::target::keeper;
use std::process::ExitCode;

/// No flags: everything comes by frames on stdin.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Keeps it until told to stop.
pub fn execute(_: &Args) -> ExitCode {
    keeper::run()
}
