//! `soakd drill`: the fire drill before a weekend. It breaks things on purpose, each in a short soak of its own, and shows
//! whether the alarm rang: recorded, mailed, recovered, and how long each took.
//!
//! This file knows the flags, the order and the exit code. `fault` lists what is broken and what is expected, `stage` breaks
//! it and waits, `scratch` makes the soak it happens in, `way` is the road to the mail server that can be closed, and
//! `table` shows it all. The user's own database is never opened.

mod fault;
mod scratch;
mod stage;
mod table;
mod way;

use super::check::gpu;
use super::mail::setup;
use super::{CannotStart, Done, Format, Outcome};
use crate::config::{self, Backend, Config, Transport};
use crate::mail::AnyCarrier;
use fault::{Fault, Played};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// As the flags' defaults.
const REHEARSAL_PATIENCE: Duration = Duration::from_secs(300);
const REHEARSAL_JOBS: u8 = 3;

/// Break things on purpose, and show that the alarm rings.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd drill                              everything, with soak.toml's own mail settings
  soakd drill --config /etc/soakd/soak.toml
  soakd drill --only crash,outage          two of the faults
  soakd drill --list                       what is broken, and what should happen then
  soakd drill --model configured           with the configuration's own model (each fault loads it)
  soakd drill --format json | jq '.faults[] | select(.rang == false and .skipped == null)'

Each fault is a real `soakd run` of this program, with your configuration, in a database of its own \
that is thrown away; your soak.db is never opened. Mails go the way you configured, marked [DRILL] \
in the subject: tell whoever is on call, and look whether they arrived. Where a drill cannot wait as \
long as real life (a leak over 48 h), it is speeded up, and the table says how.

Exit code: 0 every alarm rang, 1 one did not, 2 could not start.")]
pub struct Args {
    /// Configuration [default: ./soak.toml if it is there, else the embedded default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only these faults
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT,...")]
    only: Vec<Fault>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    list: bool,
    /// What soaks meanwhile: a GGUF file, synthetic:NAME, or `configured` for the configuration's own
    #[arg(long, value_name = "MODEL", default_value = "synthetic:tiny")]
    model: String,
    /// Give up on an alarm after this time
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = super::run::time)]
    patience: Duration,
    /// How many faults at a time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    jobs: u8,
    /// Keep the databases, mails and logs of the drill here
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Breaks, waits, tells.
pub fn execute(args: &Args) -> Done {
    let config = config::load(args.config.as_deref()).map_err(CannotStart::because)?;
    let chosen: Vec<Fault> =
        Fault::ALL.into_iter().filter(|fault| args.only.is_empty() || args.only.contains(fault)).collect();
    if args.list {
        table::list(&chosen, args.format);
        return Ok(Outcome::Passed);
    }
    can_mail_leave(&config)?;
    let scratch = scratch::Scratch::new(&config, args.keep.as_deref(), &args.model, args.patience)?;
    let gpu = gpu_to_leak(&config);
    if let (Err(why), [Fault::LeakVram]) = (&gpu, args.only.as_slice()) {
        return Err(CannotStart(format!("leak-vram needs a GPU: {why}")));
    }
    let live = table::Live::new(&chosen, &config, args.format);
    let played = play_all(&chosen, &scratch, gpu.err().as_deref(), args.jobs, &live);
    live.clear();
    let rang = played.iter().all(|played| played.rang || played.skipped.is_some());
    let kept = scratch.clean_up(rang);
    table::print(&played, &config, kept.as_deref(), args.format);
    Ok(if rang { Outcome::Passed } else { Outcome::Failed })
}

/// All faults with the embedded default's small model, for `soakd check --drill`: what [`execute`] does, without a table.
pub(super) fn rehearse(config: &Config) -> Result<Vec<Played>, CannotStart> {
    can_mail_leave(config)?;
    let scratch = scratch::Scratch::new(config, None, "synthetic:tiny", REHEARSAL_PATIENCE)?;
    let gpu = gpu_to_leak(config);
    let live = table::Live::new(&Fault::ALL, config, Format::Text);
    let played = play_all(&Fault::ALL, &scratch, gpu.err().as_deref(), REHEARSAL_JOBS, &live);
    live.clear();
    scratch.clean_up(true); // `soakd drill --keep` is for looking closer
    Ok(played)
}

/// Several at a time, the slow ones first; the result in the order of the list.
fn play_all(
    chosen: &[Fault],
    scratch: &scratch::Scratch,
    no_gpu: Option<&str>,
    jobs: u8,
    live: &table::Live,
) -> Vec<Played> {
    let mut slow_first = chosen.to_vec();
    slow_first.sort_by_key(|fault| std::cmp::Reverse(fault.usual_seconds()));
    slow_first.reverse(); // taken from the end
    let (todo, done) = (Mutex::new(slow_first), Mutex::new(Vec::new()));
    std::thread::scope(|threads| {
        for _ in 0..jobs {
            threads.spawn(|| {
                loop {
                    let Some(fault) = todo.lock().ok().and_then(|mut todo| todo.pop()) else { return };
                    let said = |what: &str| live.say(fault, what);
                    let played = stage::play(fault, scratch, no_gpu, &said);
                    live.end(&played);
                    if let Ok(mut done) = done.lock() {
                        done.push(played);
                    }
                }
            });
        }
    });
    let mut played = done.into_inner().unwrap_or_default();
    played.sort_by_key(|played| chosen.iter().position(|fault| *fault == played.fault));
    played
}

/// An alarm that cannot reach anybody does not ring: better said now than after every patience is used up.
fn can_mail_leave(config: &Config) -> Result<(), CannotStart> {
    if config.mail.transport == Transport::None {
        return Ok(()); // then mails are left in a folder of the drill's own
    }
    setup::routes(config).map_err(CannotStart)?;
    let carrier = setup::carrier(config).map_err(CannotStart)?;
    if let AnyCarrier::Smtp(mut smtp) = carrier {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CannotStart(format!("cannot start the event loop: {error}")))?;
        runtime.block_on(smtp.hello()).map_err(|error| {
            CannotStart(format!(
                "the mail server cannot be used, so no alarm would ring: {error}; see `soakd mail --test`"
            ))
        })?;
    }
    Ok(())
}

/// Whether there is a GPU whose memory can be leaked; if not, why.
fn gpu_to_leak(config: &Config) -> Result<(), String> {
    if config.model.backend == Backend::Cpu {
        return Err("model.backend is cpu".to_owned());
    }
    let soakd = std::env::current_exe().map_err(|error| error.to_string())?;
    match gpu::ask_cuda(&soakd) {
        Ok(devices) if devices.iter().any(|device| device.kernels.is_some()) => Ok(()),
        Ok(_) => Err("CUDA shows no device that soakd can use".to_owned()),
        Err(why) => Err(why),
    }
}
