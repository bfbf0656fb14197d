//! `soakd internal-canary`: leaks at a known rate, on purpose, so that a run can show that its detector sees. Hidden: only
//! `soakd run` starts it, and its memory is left out of every verdict.

use super::{Done, Outcome};
use std::io::Read;
use std::time::Duration;

/// How fast.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bytes leaked every second
    #[arg(long)]
    bytes_per_second: usize,
}

/// Leaks until stdin closes, which it does when the supervisor ends.
pub fn execute(args: &Args) -> Done {
    let leak = args.bytes_per_second;
    std::thread::spawn(move || {
        loop {
            // Written to, or the kernel would never give the pages.
            std::mem::forget(std::hint::black_box(vec![0xc5_u8; leak]));
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let _ = std::io::stdin().lock().read(&mut [0; 1]); // nothing is ever sent: this returns at the end
    Ok(Outcome::Passed)
}
