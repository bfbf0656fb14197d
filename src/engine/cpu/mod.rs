//! The CPU back end: one llama forward pass over mapped weights, in plain Rust with SIMD where the machine has it.
//!
//! Results are the same bit for bit on every instruction set, with any number of threads, and whatever else is in the
//! batch: sums are taken in documented orders (`dot`, `math`), and tasks never share a sum. Everything is allocated and
//! touched when the engine is made; a step allocates nothing that grows.

mod acts;
mod ceiling;
mod dot;
mod forward;
mod isa;
mod math;
mod matmul;
mod pool;

pub use ceiling::ceiling;
pub use isa::Isa;

use super::weights::Model;
use super::{Damage, Engine, EngineError, Feed, Held, ModelFacts, Next};
use forward::Pass;

/// What the CPU engine is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Streams.
    pub slots: usize,
    /// Positions of each stream's cache.
    pub context_tokens: usize,
    /// Threads that compute, the caller included.
    pub threads: usize,
}

/// A model on the CPU.
pub struct CpuEngine {
    facts: ModelFacts,
    pass: Pass,
    lengths: Vec<usize>,
    logits: Vec<f32>,
}

impl CpuEngine {
    /// Maps or generates the weights, and allocates caches and buffers.
    pub fn new(model: &Model, options: CpuOptions) -> Result<Self, EngineError> {
        let CpuOptions { slots, context_tokens, .. } = options;
        if slots == 0 {
            return Err(EngineError::Request("at least one stream is needed".into()));
        }
        let arch = &model.arch;
        if context_tokens == 0 || context_tokens > arch.context_tokens {
            return Err(EngineError::Request(format!(
                "a context of {context_tokens} tokens: {} was made for 1 to {}",
                model.path, arch.context_tokens
            )));
        }
        let facts = ModelFacts {
            name: model.name.clone(),
            vocab: arch.vocab as u32,
            layers: arch.layers as u32,
            width: arch.width as u32,
            context_tokens: context_tokens as u32,
            weight_bytes_per_token: model.weight_bytes_per_token(),
            weight_bytes: model.weight_bytes(),
            types: model.types(),
            kernel: isa::isa().name().to_owned(),
        };
        require_memory(model, options)?;
        let pass = Pass::new(model, options)?;
        Ok(CpuEngine { facts, pass, lengths: vec![0; slots], logits: vec![0.0; slots * arch.vocab] })
    }

    fn check(&self, batch: &[Feed<'_>]) -> Result<(), EngineError> {
        let mut fed = vec![false; self.lengths.len()];
        for feed in batch {
            let slot = feed.slot;
            if slot >= fed.len() {
                return Err(EngineError::Request(format!("stream {slot} of {}", fed.len())));
            }
            if std::mem::replace(&mut fed[slot], true) {
                return Err(EngineError::Request(format!("stream {slot} is fed twice in one step")));
            }
            if feed.tokens.is_empty() {
                return Err(EngineError::Request(format!("stream {slot} is fed no token")));
            }
            if let Some(token) = feed.tokens.iter().find(|&&token| token >= self.facts.vocab) {
                let vocab = self.facts.vocab;
                return Err(EngineError::Request(format!("token {token} in a vocabulary of {vocab}")));
            }
            let end = self.lengths[slot] + feed.tokens.len();
            if end > self.facts.context_tokens as usize {
                let context = self.facts.context_tokens;
                return Err(EngineError::Request(format!("stream {slot}: {end} tokens in a context of {context}")));
            }
        }
        Ok(())
    }
}

impl Engine for CpuEngine {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn slots(&self) -> usize {
        self.lengths.len()
    }

    fn held(&self) -> Held {
        let own = (self.logits.len() * 4 + self.lengths.len() * 8) as u64;
        Held { host_bytes: own + self.pass.held_bytes(), device_bytes: None }
    }

    fn step(&mut self, batch: &[Feed<'_>], out: &mut Vec<Next>) -> Result<(), EngineError> {
        self.check(batch)?;
        self.pass.run(batch, &self.lengths, &mut self.logits);
        let vocab = self.facts.vocab as usize;
        for feed in batch {
            self.lengths[feed.slot] += feed.tokens.len();
            let logits = &self.logits[feed.slot * vocab..][..vocab];
            out.push(Next { slot: feed.slot, token: super::greedy(logits), logits_hash: super::hash_logits(logits) });
        }
        Ok(())
    }

    fn reset(&mut self, slot: usize) {
        if let Some(length) = self.lengths.get_mut(slot) {
            *length = 0;
        }
    }

    fn logits(&mut self, slot: usize) -> Result<Vec<f32>, EngineError> {
        if slot >= self.lengths.len() || self.lengths[slot] == 0 {
            return Err(EngineError::Request(format!("stream {slot} has been fed nothing")));
        }
        let vocab = self.facts.vocab as usize;
        Ok(self.logits[slot * vocab..][..vocab].to_vec())
    }

    fn damage(&mut self, what: Damage) -> Result<(), EngineError> {
        match what {
            Damage::FlipWeight => {
                self.pass.flip_a_weight();
                Ok(())
            }
            Damage::LeakDevice { .. } => Err(EngineError::Request("the CPU has no device memory to leak".into())),
        }
    }
}

/// Refuses what the host's free memory cannot hold, before the kernel's out-of-memory killer has to.
fn require_memory(model: &Model, options: CpuOptions) -> Result<(), EngineError> {
    let arch = &model.arch;
    let cache = 8_u64 // a key and a value, singles
        .saturating_mul(options.slots as u64)
        .saturating_mul(options.context_tokens as u64)
        .saturating_mul((arch.layers * arch.kv_width()) as u64);
    let weights = if model.file().is_some() { 0 } else { model.weight_bytes() };
    let needed_bytes = cache.saturating_add(weights);
    match available_bytes() {
        Some(free_bytes) if needed_bytes > free_bytes => Err(EngineError::Memory {
            what: format!(
                "{} on the CPU with {} streams of {} tokens",
                model.path, options.slots, options.context_tokens
            ),
            needed_bytes,
            free_bytes,
        }),
        _ => Ok(()),
    }
}

/// `MemAvailable` of the host, where there is such a figure.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
