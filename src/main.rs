//! Arguments in, exit code out. Everything else is in the library, so that tests can call it.

use std::process::ExitCode;

fn main() -> ExitCode {
    soakd::run(std::env::args_os())
}
