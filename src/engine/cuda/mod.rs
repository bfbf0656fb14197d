//! The CUDA back end: kernels of our own (`kernels/*.cu`), embedded as PTX and compiled by the driver when a model loads.
//!
//! Two paths through the same model. [`plain`] runs every tensor type and shape on every chip from compute capability 7.5
//! on, an operation a kernel. [`persistent`] runs the whole step as one kernel where chip and model allow it
//! ([`Path::choose`] says which, and why not). Both take *columns*: one token of one stream at one position, up to 16 at a
//! time; decoding gives a column a stream, a prompt many columns of one stream. A column's arithmetic does not depend on
//! its company, so neither do a stream's tokens. All device memory is allocated when the engine is made.

pub mod bench;
pub mod check;
mod driver;
mod persistent;
mod plain;
pub mod tiles;
mod upload;

pub use driver::{DeviceFacts, devices};
pub use persistent::Tuning;

use super::arch::Architecture;
use super::weights::Model;
use super::{Damage, Engine, EngineError, Feed, Held, ModelFacts, Next};
use driver::{Buffer, Device, Function, Mapped, Module, launch};
use std::sync::Arc;

/// CTAs that choose a token together, and their threads (plain.cu).
const CHOOSE_PARTS: u32 = 32;
const CHOOSE_THREADS: u32 = 512;

/// Columns that go through together.
pub const COLUMNS: usize = 16;

/// PTX for compute capability 7.5 and later.
const PLAIN_PTX: &str = include_str!("../../../kernels/ptx/plain.compute_75.ptx");
/// Repacking and generating weights; 7.5 and later.
const PACK_PTX: &str = include_str!("../../../kernels/ptx/pack.compute_75.ptx");
/// The persistent step for compute capability 9.0 (registers move between warps) and for what came later.
const STEP_PTX: [&str; 2] = [
    include_str!("../../../kernels/ptx/step.compute_90a.ptx"),
    include_str!("../../../kernels/ptx/step.compute_90.ptx"),
];

/// The persistent step's PTX for a chip, if there is one.
fn step_ptx(compute: (i32, i32)) -> Option<&'static str> {
    match compute {
        (9, 0) => Some(STEP_PTX[0]),
        later if later > (9, 0) => Some(STEP_PTX[1]),
        _ => None,
    }
}

/// What the CUDA engine is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaOptions {
    /// CUDA ordinal.
    pub device: u32,
    /// Streams.
    pub slots: usize,
    /// Positions of each stream's cache.
    pub context_tokens: usize,
    /// Which path; `None`: the fastest that runs.
    pub path: Option<Path>,
    /// How the persistent kernel is launched.
    pub tuning: Tuning,
}

/// Which kernels run a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// A kernel an operation; compute capability 7.5, every type and shape.
    Plain,
    /// One kernel a step; compute capability 9.0.
    Persistent,
}

impl Path {
    /// The fastest path for a model on a chip, and in words why it is not the fastest of all.
    #[must_use]
    pub fn choose(device: &DeviceFacts, model: &Model) -> (Path, Option<String>) {
        if device.compute < (9, 0) {
            let (major, minor) = device.compute;
            return (Path::Plain, Some(format!("compute capability {major}.{minor} is below 9.0")));
        }
        match persistent::refusal(model) {
            Some(reason) => (Path::Plain, Some(reason)),
            None => (Path::Persistent, None),
        }
    }

    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Path::Plain => "plain (compute_75)",
            Path::Persistent => "persistent (compute_90)",
        }
    }
}

/// A path by its name and a digest of its PTX: figures of two kernels are not mistaken for one another's.
fn kernel_name(path: Path, compute: (i32, i32)) -> String {
    let ptx = match path {
        Path::Plain => Some(PLAIN_PTX),
        Path::Persistent => step_ptx(compute),
    };
    // FNV-1a: a name for a text, the same on every machine and in every version of the compiler.
    let digest = |text: &str| {
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    };
    format!("{} {:08x}", path.name(), ptx.map_or(0, digest))
}

/// What `soakd check` can say of a device without loading a model: which kernels it can run.
pub fn fastest_path(device: &DeviceFacts) -> Result<Path, String> {
    match device.compute {
        (major, minor) if (major, minor) < (7, 5) => {
            Err(format!("compute capability {major}.{minor}, and the kernels need 7.5 (Turing) or later"))
        }
        compute if compute < (9, 0) => Ok(Path::Plain),
        _ => Ok(Path::Persistent),
    }
}

/// One token of one stream at one position, as the kernels have it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Column {
    token: i32,
    slot: i32,
    position: i32,
    /// 1: the logits of this column are needed.
    want: i32,
}

/// The columns of one pass, as the kernels have them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Columns {
    count: i32,
    at: [Column; COLUMNS],
}

impl Columns {
    fn used(&self) -> &[Column] {
        &self.at[..self.count as usize]
    }
}

/// Greedy choice and hash, as `choose` in plain.cu writes them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Choice {
    hash: u64,
    token: u32,
    unused: u32,
}

#[allow(clippy::large_enum_variant)] // one of them exists, once, for the life of a worker
enum Pass {
    Plain(plain::Plain),
    Persistent(Box<persistent::Persistent>),
}

/// A model on one GPU.
pub struct CudaEngine {
    facts: ModelFacts,
    path: Path,
    lengths: Vec<usize>,
    pass: Pass,
    choose: Function,
    /// `[slot][vocab]`.
    logits: Buffer,
    /// Each CTA's part of the choice, and how many have come; both by slot.
    parts: Buffer,
    tickets: Buffer,
    choices: Mapped<Choice>,
    _module: Module,
    device: Arc<Device>,
}

impl CudaEngine {
    /// Opens the device, loads or generates the weights, and allocates everything.
    pub fn new(model: &Model, options: CudaOptions) -> Result<Self, EngineError> {
        let arch = &model.arch;
        check_options(model, options)?;
        let device = Device::open(options.device)?;
        fastest_path(device.facts())
            .map_err(|reason| EngineError::Request(format!("{}: {reason}", device.facts().name)))?;
        device.enter()?;
        let module = Module::new(&device, "plain", PLAIN_PTX)?;
        let path = options.path.unwrap_or_else(|| Path::choose(device.facts(), model).0);
        let slots = options.slots as u64;
        let logits = Buffer::filled(&device, "logits", slots * arch.vocab as u64 * 4, 0)?;
        let parts = Buffer::new(&device, "parts of greedy choices", slots * u64::from(CHOOSE_PARTS) * 16)?;
        let tickets = Buffer::filled(&device, "tickets of greedy choices", slots * 4, 0)?;
        let choices = Mapped::new(&device, options.slots)?;
        let pass = match path {
            Path::Plain => Pass::Plain(plain::Plain::new(&device, &module, model, options)?),
            Path::Persistent => Pass::Persistent(Box::new(persistent::Persistent::new(&device, model, options)?)),
        };
        device.wait("loading the model")?;
        let facts = ModelFacts {
            name: model.name.clone(),
            vocab: arch.vocab as u32,
            layers: arch.layers as u32,
            width: arch.width as u32,
            context_tokens: options.context_tokens as u32,
            weight_bytes_per_token: model.weight_bytes_per_token(),
            weight_bytes: model.weight_bytes(),
            types: model.types(),
            kernel: kernel_name(path, device.facts().compute),
        };
        let choose = module.function("choose")?;
        let lengths = vec![0; options.slots];
        Ok(CudaEngine { facts, path, lengths, pass, choose, logits, parts, tickets, choices, _module: module, device })
    }

    /// Which kernels it uses.
    pub fn path(&self) -> Path {
        self.path
    }

    /// The device it is on.
    pub fn device(&self) -> &DeviceFacts {
        self.device.facts()
    }

    /// Free and total bytes of the device.
    pub fn device_memory(&self) -> Result<(u64, u64), EngineError> {
        self.device.enter()?;
        self.device.memory()
    }

    /// Changes how the persistent kernel is launched, for measurements.
    pub fn tune(&mut self, tuning: Tuning) -> Result<(), EngineError> {
        self.device.enter()?;
        match &mut self.pass {
            Pass::Plain(_) => Ok(()),
            Pass::Persistent(pass) => pass.tune(tuning),
        }
    }

    fn check(&self, batch: &[Feed<'_>]) -> Result<(), EngineError> {
        let mut fed = vec![false; self.lengths.len()];
        for feed in batch {
            let slot = feed.slot;
            let refuse = |reason: String| Err(EngineError::Request(reason));
            if slot >= fed.len() {
                return refuse(format!("stream {slot} of {}", fed.len()));
            }
            if std::mem::replace(&mut fed[slot], true) {
                return refuse(format!("stream {slot} is fed twice in one step"));
            }
            if feed.tokens.is_empty() {
                return refuse(format!("stream {slot} is fed no token"));
            }
            if let Some(token) = feed.tokens.iter().find(|&&token| token >= self.facts.vocab) {
                return refuse(format!("token {token} in a vocabulary of {}", self.facts.vocab));
            }
            let end = self.lengths[slot] + feed.tokens.len();
            if end > self.facts.context_tokens as usize {
                return refuse(format!("stream {slot}: {end} tokens in a context of {}", self.facts.context_tokens));
            }
        }
        Ok(())
    }

    /// Runs up to 16 columns.
    fn pass(&mut self, columns: &Columns) -> Result<(), EngineError> {
        match &mut self.pass {
            Pass::Plain(pass) => pass.run(columns, &self.logits)?,
            Pass::Persistent(pass) => pass.run(columns, &self.logits)?,
        }
        if columns.used().iter().all(|column| column.want == 0) {
            return Ok(());
        }
        let (device, grid) = (&self.device, (columns.count as u32, CHOOSE_PARTS));
        launch!(device, self.choose, grid, CHOOSE_THREADS, 0;
            *columns, self.logits.at(), self.facts.vocab as i32, self.parts.at(), self.tickets.at(), self.choices.at())
    }
}

fn check_options(model: &Model, options: CudaOptions) -> Result<(), EngineError> {
    if options.slots == 0 {
        return Err(EngineError::Request("at least one stream is needed".into()));
    }
    let most = model.arch.context_tokens;
    if options.context_tokens == 0 || options.context_tokens > most {
        let asked = options.context_tokens;
        return Err(EngineError::Request(format!(
            "a context of {asked} tokens: {} was made for 1 to {most}",
            model.path
        )));
    }
    Ok(())
}

impl Engine for CudaEngine {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn slots(&self) -> usize {
        self.lengths.len()
    }

    fn held(&self) -> Held {
        let host = self.choices.bytes() + size_of_val(self.lengths.as_slice()) as u64;
        Held { host_bytes: host, device_bytes: Some(self.device.held_bytes()) }
    }

    fn step(&mut self, batch: &[Feed<'_>], out: &mut Vec<Next>) -> Result<(), EngineError> {
        self.check(batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        self.device.enter()?;
        let mut columns = Columns::default();
        for feed in batch {
            for (i, &token) in feed.tokens.iter().enumerate() {
                columns.at[columns.count as usize] = Column {
                    token: token as i32,
                    slot: feed.slot as i32,
                    position: (self.lengths[feed.slot] + i) as i32,
                    want: i32::from(i + 1 == feed.tokens.len()),
                };
                columns.count += 1;
                if columns.count as usize == COLUMNS {
                    self.pass(&columns)?;
                    columns = Columns::default();
                }
            }
            self.lengths[feed.slot] += feed.tokens.len();
        }
        if columns.count > 0 {
            self.pass(&columns)?;
        }
        let choices = self.choices.after("step")?;
        for feed in batch {
            let choice = choices[feed.slot];
            out.push(Next { slot: feed.slot, token: choice.token, logits_hash: choice.hash });
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
        self.device.enter()?;
        let vocab = self.facts.vocab as usize;
        let mut logits = vec![0.0_f32; vocab];
        self.logits.download((slot * vocab * 4) as u64, &mut logits)?;
        Ok(logits)
    }

    fn damage(&mut self, what: Damage) -> Result<(), EngineError> {
        self.device.enter()?;
        match what {
            Damage::FlipWeight => {
                let gains = match &self.pass {
                    Pass::Plain(pass) => pass.gains(),
                    Pass::Persistent(pass) => pass.gains(),
                };
                // Of the last norm, which every logit goes through: its last weight, the highest bit of the mantissa.
                let (mut word, at) = ([0_u32], gains.bytes() / 4 * 4 - 4);
                gains.download(at, &mut word)?;
                gains.upload(at, &[word[0] ^ 0x0040_0000])
            }
            Damage::LeakDevice { bytes } => {
                std::mem::forget(Buffer::filled(&self.device, "a leak on purpose", bytes, 0)?);
                Ok(())
            }
        }
    }
}

/// Cosine and sine of every position and pair, `[position][pairs]`, worked out in f64.
fn rope_table(arch: &Architecture, positions: usize) -> Vec<[f32; 2]> {
    let rope = &arch.rope;
    let of = |position: usize, frequency: f64| {
        let (sine, cosine) = (position as f64 * frequency).sin_cos();
        [(cosine * rope.magnitude) as f32, (sine * rope.magnitude) as f32]
    };
    (0..positions).flat_map(|position| rope.frequencies.iter().map(move |&frequency| of(position, frequency))).collect()
}
