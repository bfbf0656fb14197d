//! Measuring on the device: the read ceiling, and decoding at several numbers of streams.

use super::driver::{Buffer, Device, Module, Stopwatch, launch};
use super::{CudaEngine, PLAIN_PTX};
use crate::engine::{Engine, EngineError, Feed};
use std::time::Instant;

/// Bytes a second that reading 8 GiB once gives at best, the median of nine; the memory is freed again.
pub fn read_ceiling(device: u32) -> Result<f64, EngineError> {
    let device = Device::open(device)?;
    device.enter()?;
    let module = Module::new(&device, "plain", PLAIN_PTX)?;
    let read = module.function("read_all")?;
    let bytes = 8_u64 << 30;
    let data = Buffer::filled(&device, "the read ceiling's data", bytes, 0x0102_0304)?;
    let out = Buffer::filled(&device, "the read ceiling's result", 16, 0)?;
    let mut seconds = Vec::new();
    for _ in 0..12 {
        let watch = Stopwatch::start(&device)?;
        let grid = (device.facts().multiprocessors * 4, 1);
        launch!(device, read, grid, 512, 0; data.at(), bytes / 16, out.at())?;
        seconds.push(f64::from(watch.stop()?) / 1e3);
    }
    let mut seconds = seconds.split_off(3);
    seconds.sort_by(f64::total_cmp);
    Ok(bytes as f64 / seconds[seconds.len() / 2])
}

/// What decoding took.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    /// Streams.
    pub streams: usize,
    /// Seconds of each step, sorted.
    pub step_seconds: Vec<f64>,
    /// Seconds that the prompts took.
    pub prompt_seconds: f64,
}

impl Decoding {
    /// Seconds of the median step.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Seconds that a fraction of the steps stayed under.
    #[must_use]
    pub fn quantile(&self, fraction: f64) -> f64 {
        let last = self.step_seconds.len() - 1;
        self.step_seconds[(last as f64 * fraction).round() as usize]
    }
}

/// Fills `streams` slots with prompts of `prompt` tokens, decodes `warm` steps, then times `steps`, each with the wait for its
/// tokens: what a worker sees. Slots are emptied first.
pub fn decode(
    engine: &mut CudaEngine,
    streams: usize,
    prompt: usize,
    warm: usize,
    steps: usize,
) -> Result<Decoding, EngineError> {
    let vocab = engine.facts().vocab;
    let mut tokens = vec![0_u32; streams];
    let mut out = Vec::with_capacity(streams);
    for slot in 0..engine.slots() {
        engine.reset(slot);
    }
    let started = Instant::now();
    for (slot, token) in tokens.iter_mut().enumerate() {
        let prompt: Vec<u32> = (0..prompt as u32).map(|i| (i * 7919 + slot as u32 * 104_729 + 1) % vocab).collect();
        out.clear();
        engine.step(&[Feed { slot, tokens: &prompt }], &mut out)?;
        *token = out[0].token;
    }
    let prompt_seconds = started.elapsed().as_secs_f64();
    let mut step_seconds = Vec::with_capacity(steps);
    for index in 0..warm + steps {
        let started = Instant::now();
        out.clear();
        let batch: Vec<Feed<'_>> =
            tokens.iter().enumerate().map(|(slot, token)| Feed { slot, tokens: std::slice::from_ref(token) }).collect();
        engine.step(&batch, &mut out)?;
        for next in &out {
            tokens[next.slot] = next.token;
        }
        if index >= warm {
            step_seconds.push(started.elapsed().as_secs_f64());
        }
    }
    step_seconds.sort_by(f64::total_cmp);
    Ok(Decoding { streams, step_seconds, prompt_seconds })
}
