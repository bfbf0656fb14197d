//! `soakd internal-probe`: the child in which /proc and NVML are read. Hidden: only `soakd run` starts it.

use super::{CannotStart, Done, Outcome};
use crate::probe::child;
use clap::Args as ClapArgs;

/// No flags: everything comes by frames on stdin.
#[derive(Debug, ClapArgs)]
pub struct Args {}

/// Answers frames until stdin ends.
pub fn execute(_: &Args) -> Done {
    let frames = child::claim_stdout().map_err(CannotStart::because)?;
    match child::serve(std::io::stdin().lock(), frames) {
        Ok(()) => Ok(Outcome::Passed),
        Err(error) => {
            eprintln!("soakd internal-probe: {error}");
            Ok(Outcome::Failed)
        }
    }
}
