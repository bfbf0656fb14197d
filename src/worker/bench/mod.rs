//! The child of `soakd bench` and `soakd load`: owns the engine while it is measured, so that a fault of a device ends a
//! measurement and not the program that books it.
//!
//! One order in, one answer out ([`protocol`]), as [`crate::wire`] frames over stdin and stdout. Requests and decoding are
//! timed in [`serve`], precision is taken in [`quality`]. Statistics over the answers are left to others.

pub mod protocol;
pub mod quality;
pub mod serve;

use crate::engine::{self, Backend, Engine, EngineError, LoadOptions, Variant};
use crate::{clock, wire};
use protocol::{Answer, BenchPlan, OpenedModel, Order};
use std::io::{Read, Write};
use std::process::ExitCode;

/// Works through orders until stdin closes.
pub fn run() -> ExitCode {
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    let mut child = Child::default();
    let mut decoder = wire::Decoder::default();
    let mut buffer = [0; 4096];
    loop {
        match decoder.next::<Order>() {
            Ok(Some(order)) => {
                let answer =
                    child.carry_out(order).unwrap_or_else(|error| Answer::Failed { reason: error.to_string() });
                if output.write_all(&wire::encode(&answer)).and_then(|()| output.flush()).is_err() {
                    return ExitCode::SUCCESS; // nobody listens any more
                }
            }
            Ok(None) => match input.read(&mut buffer) {
                Ok(0) | Err(_) => return ExitCode::SUCCESS,
                Ok(count) => decoder.push(&buffer[..count]),
            },
            Err(error) => {
                eprintln!("bench child: {error}");
                return ExitCode::from(1);
            }
        }
    }
}

/// What is loaded.
#[derive(Default)]
struct Child {
    engine: Option<Box<dyn Engine>>,
    seed: u64,
}

fn backend(name: &str, device: u32) -> Result<Backend, EngineError> {
    match name {
        "cpu" => Ok(Backend::Cpu),
        "cuda" => Ok(Backend::Cuda { device }),
        other => Err(EngineError::Request(format!("no back end is called {other:?}; there are cpu and cuda"))),
    }
}

fn variant(name: &str) -> Result<Variant, EngineError> {
    name.parse().map_err(EngineError::Request)
}

impl Child {
    fn carry_out(&mut self, order: Order) -> Result<Answer, EngineError> {
        match order {
            Order::Open(plan) => self.open(&plan),
            Order::Decode { streams, prompt_tokens, warm_up_steps, steps } => {
                let engine = self.engine()?;
                serve::decode(engine, streams, prompt_tokens, warm_up_steps, steps, &serve::RealClock)
                    .map(Answer::Measured)
            }
            Order::Serve(load) => {
                let seed = self.seed;
                serve::serve(self.engine()?, &load, seed, &serve::RealClock).map(Answer::Measured)
            }
            Order::Ceiling { backend: name, device, threads } => ceiling(backend(&name, device)?, threads),
            Order::Quality { model, variant: name, seed, positions, threads } => {
                quality::compare(&model, variant(&name)?, seed, positions, all_cores(threads))
            }
        }
    }

    fn open(&mut self, plan: &BenchPlan) -> Result<Answer, EngineError> {
        self.engine = None; // its memory is needed
        let from = clock::micros();
        let engine = engine::load(&LoadOptions {
            model: plan.model.clone(),
            backend: backend(&plan.backend, plan.device)?,
            variant: variant(&plan.variant)?,
            slots: plan.streams,
            context_tokens: Some(plan.context_tokens),
            threads: plan.threads,
            seed: plan.seed,
        })?;
        let (facts, held) = (engine.facts(), engine.held());
        let opened = OpenedModel {
            name: facts.name.clone(),
            context_tokens: facts.context_tokens,
            weight_bytes: facts.weight_bytes,
            weight_bytes_per_token: facts.weight_bytes_per_token,
            held_host_bytes: held.host_bytes,
            held_device_bytes: held.device_bytes,
            kernel: facts.kernel.clone(),
            took_us: clock::micros() - from,
        };
        self.engine = Some(engine);
        self.seed = plan.seed;
        Ok(Answer::Opened(opened))
    }

    fn engine(&mut self) -> Result<&mut dyn Engine, EngineError> {
        match &mut self.engine {
            Some(engine) => Ok(engine.as_mut()),
            None => Err(EngineError::Request("nothing is open".into())),
        }
    }
}

fn all_cores(threads: usize) -> usize {
    if threads > 0 { threads } else { std::thread::available_parallelism().map_or(1, std::num::NonZero::get) }
}

fn ceiling(backend: Backend, threads: usize) -> Result<Answer, EngineError> {
    match backend {
        Backend::Cpu => {
            let (read, copied) = engine::cpu::ceiling(all_cores(threads), &clock::micros)
                .map_err(|error| EngineError::Request(format!("cannot start threads: {error}")))?;
            Ok(Answer::Ceiling { read_bytes_per_s: read, copy_bytes_per_s: Some(copied), device: processor_name() })
        }
        Backend::Cuda { device } => {
            let facts =
                engine::cuda::devices()?.into_iter().find(|facts| facts.ordinal == device).ok_or_else(|| {
                    EngineError::Request(format!(
                        "there is no CUDA device {device}; use --backend cpu or another device"
                    ))
                })?;
            let read = engine::cuda::bench::read_ceiling(device)?;
            Ok(Answer::Ceiling { read_bytes_per_s: read, copy_bytes_per_s: None, device: facts.name })
        }
    }
}

/// As /proc/cpuinfo names it.
fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned())
}
