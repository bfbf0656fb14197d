//! A database as two days leave it, in a minute or so: to look at a report, to time a view, to try a query, without soaking.
//!
//! ```text
//! cargo run --release --example two_days -- two-days.db [seed=N] [hours=N] [workers=N] [lives=N] [incidents=N] [leak=BYTES/H]
//! ```
//! The rows go through soakd's own writer. What they say is made up, and the run says so: its GPU is called "Generated GPU".

use soakd::store::generate::{Fill, fill};
use soakd::store::{Mode, Store};
use std::process::ExitCode;

fn main() -> ExitCode {
    match make(std::env::args().skip(1)) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("two_days: {why}");
            ExitCode::from(2)
        }
    }
}

fn make(mut args: impl Iterator<Item = String>) -> Result<String, String> {
    let path = args.next().ok_or("which file? The first argument names it")?;
    let mut what = Fill { incidents: 24, ..Fill::default() };
    for arg in args {
        let (name, value) = arg.split_once('=').ok_or_else(|| format!("`{arg}` is not NAME=NUMBER"))?;
        let number: i64 = value.parse().map_err(|_| format!("`{value}` of `{arg}` is not a whole number"))?;
        match name {
            "hours" => what.seconds = number * 3_600,
            "workers" => what.workers = u32::try_from(number).map_err(|e| format!("`{arg}`: {e}"))?,
            "lives" => what.lives = number,
            "incidents" => what.incidents = number,
            "leak" => what.leak_bytes_per_hour = number,
            "seed" => what.seed = number.cast_unsigned(),
            _ => return Err(format!("`{name}` is none of seed, hours, workers, lives, incidents, leak")),
        }
    }
    let mut store = Store::open(&path, Mode::Write).map_err(|e| e.to_string())?;
    let run_id = fill(&mut store, &what).map_err(|e| e.to_string())?;
    Ok(format!("{path}: run {run_id}, {:.1} MB", store.size_bytes() as f64 / 1e6))
}
