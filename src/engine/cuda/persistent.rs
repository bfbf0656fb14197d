//! The persistent path: a decode step of the whole model in one kernel (`kernels/step.cu`, which documents the method).
//!
//! Here are the host's parts: which models it can run, repacking weights into tiles at load, where everything lies in
//! shared memory, and the launch. Structures that the kernel reads are mirrored here; the kernel reports its sizes at
//! load and a mismatch is an error.

use super::driver::{Buffer, Device, Function, Module, launch};
use super::tiles::{COLS, ROWS, has_tiles, tile_bytes};
use super::upload::Uploader;
use super::{COLUMNS, Columns, CudaOptions, plain, rope_table, step_ptx};
use crate::engine::EngineError;
use crate::engine::weights::{Model, Tensor};
use std::sync::Arc;

/// CTAs: one a multiprocessor, but not more than these, among which the usual widths divide.
const GRID: u32 = 128;
/// Places for sums of squares of a column (`GRID_MAX` in exchange.cuh).
const GRID_MAX: usize = 160;
/// Row groups of the residual stream that a CTA can own.
const OWN_MAX: usize = 16;
/// Floats of a head that the kernel's attention takes.
const HEAD_WIDTH: usize = 128;
/// Cached positions that a warp takes at once.
const CHUNK: usize = 32;
/// Most query heads of one key/value head.
const GROUP_MAX: usize = 8;
/// Reads as "not there yet" in the buffers that CTAs exchange.
const EMPTY: u32 = u32::MAX;
/// Compute warps of a CTA.
const WARPS: usize = 8;
/// Tiles of a stage of the ring: one a compute warp.
const STAGE_TILES: usize = WARPS;
/// A stage needs this many bytes of barriers: four full, one empty.
const STAGE_BARRIER_BYTES: usize = 40;

/// How the kernel is launched. The defaults are the fastest that were measured (`kernels/NOTES.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Most bytes of weights on their way at a time, a CTA: more only lengthens the queues that everything else waits in.
    pub window_bytes: u32,
    /// Most stages of the ring; less where shared memory is.
    pub depth_max: u32,
    /// Fetch cached keys and values into L2 before they are wanted, for one column: with more it is in the weights' way.
    pub prefetch: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { window_bytes: 40 << 10, depth_max: 32, prefetch: true }
    }
}

/// Why the persistent kernel cannot run a model; `None` if it can.
pub(super) fn refusal(model: &Model) -> Option<String> {
    let arch = &model.arch;
    if arch.head_width != HEAD_WIDTH || arch.rope.width != HEAD_WIDTH {
        return Some(format!(
            "heads of {} floats, {} rotated; it takes {HEAD_WIDTH}",
            arch.head_width, arch.rope.width
        ));
    }
    let group = arch.heads / arch.kv_heads;
    if group > GROUP_MAX {
        return Some(format!("{group} query heads a key/value head; it takes {GROUP_MAX}"));
    }
    let matrices =
        || model.tensors[1..].iter().chain([model.head()]).filter(|tensor| !tensor.name.ends_with("_norm.weight"));
    if let Some(tensor) = matrices().find(|tensor| !has_tiles(tensor.ty)) {
        return Some(format!("{} is {}, which has no tiles", tensor.name, tensor.ty));
    }
    if let Some(tensor) = matrices().find(|tensor| tensor.cols % COLS != 0) {
        return Some(format!("{} has rows of {} weights, no multiple of {COLS}", tensor.name, tensor.cols));
    }
    for layer in 0..arch.layers {
        let ty = |part: &str| model.tensor(&format!("blk.{layer}.{part}.weight")).map(|tensor| tensor.ty);
        if ty("ffn_gate") != ty("ffn_up") {
            return Some(format!("gate and up of layer {layer} have different types"));
        }
    }
    None
}

/// `Part` of step.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Part {
    at: u32,
    ty: u32,
}

/// `Shape` of step.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Shape {
    supers: i32,
    groups: [i32; 3],
}

/// `Step` of step.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Step {
    columns: Columns,
    tiles: u64,
    parts: u64,
    shape: [Shape; 5],
    layers: i32,
    width: i32,
    heads: i32,
    kv_heads: i32,
    vocab: i32,
    slots: i32,
    context: i32,
    chunks: i32,
    group: i32,
    depth: i32,
    stage_bytes: i32,
    ahead: i32,
    window: i32,
    head: i32,
    prefetch: i32,
    zero: i32,
    table_type: i32,
    epsilon: f32,
    turn_a: i32,
    turn_b: i32,
    barrier_base: u32,
    parts_base: [u32; COLUMNS],
    x: [[u64; 3]; 4],
    squares_a: [u64; 3],
    squares_b: [u64; 3],
    table: u64,
    row_bytes: u64,
    gain: u64,
    rope: u64,
    q: u64,
    keys: u64,
    values: u64,
    part: u64,
    part_max: u64,
    parts_there: u64,
    logits: u64,
    barrier: u64,
}

/// The kernel's template argument: columns that it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    One,
    Eight,
    Sixteen,
}

impl Width {
    const ALL: [Width; 3] = [Width::One, Width::Eight, Width::Sixteen];

    fn of(columns: usize) -> Width {
        match columns {
            0..=1 => Width::One,
            2..=8 => Width::Eight,
            _ => Width::Sixteen,
        }
    }

    const fn columns(self) -> usize {
        match self {
            Width::One => 1,
            Width::Eight => 8,
            Width::Sixteen => 16,
        }
    }

    /// Bytes of shared memory that each warp has for activations on their way (`Ahead` in activations.cuh): nine planes of 64 bytes a column.
    const fn ahead_bytes(self) -> usize {
        match self {
            Width::Eight => 0,
            Width::One | Width::Sixteen => 9 * 64 * self.columns(),
        }
    }
}

/// Bytes of shared memory before the ring and without its barriers: the kernel's `lay_out`, line by line.
fn shared_before_ring(width: Width, shapes: &[Shape; 5], ctas: u32, layers: usize, layout: &Layout) -> usize {
    let residual = (layout.common_bytes as usize).next_multiple_of(128);
    let parts = residual + own_groups(shapes, ctas) * width.columns() * 64;
    let red = (parts + (6 * layers + 1) * size_of::<Part>()).next_multiple_of(128);
    red + layout.red_bytes[width as usize] as usize + WARPS * width.ahead_bytes()
}

/// Row groups of the residual stream that a CTA has at most.
fn own_groups(shapes: &[Shape; 5], ctas: u32) -> usize {
    (shapes[1].groups[0] as usize).div_ceil(ctas as usize)
}

/// For 1, 8 and 16 columns: stages of the ring and all bytes of shared memory, as the launch would have them on a chip of so many
/// multiprocessors. `layout` is what the kernel reports.
pub(super) fn rings(model: &Model, multiprocessors: u32, shared_max: usize, layout: &Layout) -> [(usize, usize); 3] {
    let shapes = shapes(model);
    Width::ALL.map(|width| {
        let before = shared_before_ring(width, &shapes, multiprocessors.min(GRID), model.arch.layers, layout);
        ring(before, STAGE_TILES * most_tile_bytes(model), shared_max, Tuning::default().depth_max as usize)
    })
}

/// Bytes of the structure that the kernel reads.
pub(super) const STEP_BYTES: usize = size_of::<Step>();

/// Stages of the ring that fit, and all bytes of shared memory with them.
fn ring(before: usize, stage_bytes: usize, shared_max: usize, depth_max: usize) -> (usize, usize) {
    let spare = shared_max.saturating_sub(before + 128);
    let depth = (spare / (stage_bytes + STAGE_BARRIER_BYTES)).min(depth_max);
    let start = (before + depth * STAGE_BARRIER_BYTES).next_multiple_of(128);
    (depth, start + depth * stage_bytes)
}

/// One variant of the kernel, with its ring.
struct Variant {
    function: Function,
    depth: usize,
    shared_bytes: usize,
}

/// What the kernels exchange, for 16 columns.
struct Exchange {
    x: [Buffer; 4],
    squares: Buffer,
    rest: Vec<Buffer>,
}

pub(super) struct Persistent {
    device: Arc<Device>,
    module: Module,
    step: Step,
    variants: Vec<Variant>,
    exchange: Exchange,
    /// The norms' weights.
    gains: Buffer,
    /// Which kernel and how many columns the exchange buffers stand for.
    last: Option<(Width, usize)>,
    ctas: u32,
    before_ring: [usize; 3],
    layout: Layout,
    tuning: Tuning,
}

impl Persistent {
    pub(super) fn new(device: &Arc<Device>, model: &Model, options: CudaOptions) -> Result<Self, EngineError> {
        if let Some(reason) = refusal(model) {
            return Err(EngineError::Request(format!("the persistent kernel cannot run {}: {reason}", model.path)));
        }
        let arch = &model.arch;
        let Some(ptx) = step_ptx(device.facts().compute) else {
            return Err(EngineError::Request(format!("{} has no persistent kernel", device.facts().name)));
        };
        let module = Module::new(device, "step", ptx)?;
        let layout = check_layout(device, &module)?;
        let uploader = Uploader::new(device)?;
        // The embedding table stays as it lies in the file.
        let tensor = &model.tensors[0];
        let table = Buffer::new(device, "embedding table", tensor.bytes as u64)?;
        uploader.put(model, tensor, &table, 0)?;
        let (tiles, parts) = pack(&uploader, model)?;
        let parts = Buffer::of(device, "table of matrices", &parts)?;
        let stage_bytes = STAGE_TILES * most_tile_bytes(model);
        let shapes = shapes(model);
        let functions = [module.function("step1")?, module.function("step8")?, module.function("step16")?];
        let shared_max = device.facts().shared_bytes_max as usize;
        for function in &functions {
            module.allow_shared(function, shared_max as u32)?;
        }
        // All resident at once, one a multiprocessor.
        let ctas = device.facts().multiprocessors.min(GRID);
        let own_groups = own_groups(&shapes, ctas);
        if own_groups > OWN_MAX {
            return Err(EngineError::Request(format!(
                "{} rows of the residual stream on {ctas} multiprocessors; the kernel takes {} on each",
                arch.width,
                OWN_MAX * ROWS
            )));
        }
        let before_ring = Width::ALL.map(|width| shared_before_ring(width, &shapes, ctas, arch.layers, &layout));
        let exchange = Exchange::new(device, model, options)?;
        let mut step = base_step(model, options, &tiles, &parts, shapes, stage_bytes);
        exchange.point(&mut step);
        let mut exchange = exchange;
        (step.table, step.table_type) = (table.at(), tensor.ty.gguf_id() as i32);
        step.row_bytes = (tensor.bytes / tensor.rows) as u64;
        exchange.rest.extend([tiles, parts, table]);
        let gains = Buffer::of(device, "norms", &plain::gains(model))?;
        let rope = Buffer::of(device, "rotary table", &rope_table(arch, options.context_tokens))?;
        (step.gain, step.rope) = (gains.at(), rope.at());
        exchange.rest.push(rope);
        let mut made = Persistent {
            device: Arc::clone(device),
            step,
            variants: Vec::new(),
            exchange,
            gains,
            last: None,
            ctas,
            before_ring,
            layout,
            tuning: options.tuning,
            module,
        };
        made.variants = made.lay_out(functions)?;
        Ok(made)
    }

    /// The norms' weights.
    pub(super) fn gains(&self) -> &Buffer {
        &self.gains
    }

    fn lay_out(&self, functions: [Function; 3]) -> Result<Vec<Variant>, EngineError> {
        let shared_max = self.device.facts().shared_bytes_max as usize;
        let variants = functions.into_iter().zip(self.before_ring).map(|(function, before)| {
            let depth_max = self.tuning.depth_max as usize;
            let (depth, shared_bytes) = ring(before, self.step.stage_bytes as usize, shared_max, depth_max);
            if depth < 2 {
                let name = &self.device.facts().name;
                return Err(EngineError::Request(format!(
                    "{name} has {shared_max} bytes of shared memory a block, too few for this model's persistent kernel"
                )));
            }
            Ok(Variant { function, depth, shared_bytes })
        });
        variants.collect()
    }

    pub(super) fn tune(&mut self, tuning: Tuning) -> Result<(), EngineError> {
        self.tuning = tuning;
        let functions =
            [self.module.function("step1")?, self.module.function("step8")?, self.module.function("step16")?];
        self.variants = self.lay_out(functions)?;
        Ok(())
    }

    pub(super) fn run(&mut self, columns: &Columns, logits: &Buffer) -> Result<(), EngineError> {
        let count = columns.count as usize;
        let width = Width::of(count);
        if self.last != Some((width, count)) {
            // Other columns take part, or lie elsewhere: start the exchange afresh.
            self.exchange.clear()?;
            (self.step.turn_a, self.step.turn_b) = (0, 0);
            self.last = Some((width, count));
        }
        let variant = &self.variants[width as usize];
        let step = &mut self.step;
        step.columns = *columns;
        step.logits = logits.at();
        step.head = i32::from(columns.used().iter().any(|column| column.want == 1));
        let most = columns.used().iter().map(|column| column.position as usize / CHUNK + 1).max().unwrap_or(1);
        step.chunks = most as i32;
        step.depth = variant.depth as i32;
        step.ahead = width.ahead_bytes() as i32;
        // A copy is two tiles, a quarter of a stage.
        let copy_bytes = step.stage_bytes as u32 / 4;
        step.window = ((self.tuning.window_bytes + copy_bytes / 2) / copy_bytes).max(1) as i32;
        step.prefetch = i32::from(self.tuning.prefetch && width == Width::One);
        let ctas = self.ctas;
        launch!(self.device, variant.function, (ctas, 1), self.layout.threads, variant.shared_bytes as u32; *step)?;
        step.turn_a = (step.turn_a + step.layers + 1) % 3;
        step.turn_b = (step.turn_b + step.layers) % 3;
        step.barrier_base = step.barrier_base.wrapping_add(step.layers as u32 * ctas);
        for (base, column) in step.parts_base.iter_mut().zip(columns.used()) {
            *base = base.wrapping_add(step.layers as u32 * (column.position as u32 / CHUNK as u32 + 1));
        }
        Ok(())
    }
}

/// What the kernel says of its structures (`step_layout`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Layout {
    /// Of the structure that it reads.
    pub step_bytes: u32,
    /// Of what comes first in shared memory.
    pub common_bytes: u32,
    /// Of partial sums, for 1, 8 and 16 columns.
    pub red_bytes: [u32; 3],
    /// Threads of a CTA.
    pub threads: u32,
}

/// Compares the kernel's idea of its structures with ours.
fn check_layout(device: &Arc<Device>, module: &Module) -> Result<Layout, EngineError> {
    let out = Buffer::filled(device, "layout", size_of::<Layout>() as u64, 0)?;
    let report = module.function("step_layout")?;
    launch!(device, report, (1, 1), 1, 0; out.at())?;
    let mut layout = [Layout::default()];
    out.download(0, &mut layout)?;
    let [layout] = layout;
    if layout.step_bytes as usize != STEP_BYTES {
        let (theirs, ours) = (layout.step_bytes, STEP_BYTES);
        return Err(EngineError::Request(format!(
            "the persistent kernel has a Step of {theirs} bytes, the host one of {ours}: rebuild the PTX"
        )));
    }
    Ok(layout)
}

fn most_tile_bytes(model: &Model) -> usize {
    let matrices = model.tensors[1..].iter().chain([model.head()]).filter(|tensor| has_tiles(tensor.ty));
    matrices.map(|tensor| tile_bytes(tensor.ty)).max().unwrap_or(0)
}

fn groups(rows: usize) -> i32 {
    rows.div_ceil(ROWS) as i32
}

/// Super-blocks a row and row groups of the five operations.
fn shapes(model: &Model) -> [Shape; 5] {
    let arch = &model.arch;
    let shape = |cols: usize, groups: [i32; 3]| Shape { supers: (cols / COLS) as i32, groups };
    [
        shape(arch.width, [groups(arch.q_width()), groups(arch.kv_width()), groups(arch.kv_width())]),
        shape(arch.q_width(), [groups(arch.width), 0, 0]),
        shape(arch.width, [groups(2 * arch.feed_forward), 0, 0]),
        shape(arch.feed_forward, [groups(arch.width), 0, 0]),
        shape(arch.width, [groups(arch.vocab), 0, 0]),
    ]
}

/// One matrix of the step as it is packed: tensors that lie interleaved by row groups (gate and up), or one.
fn packed(model: &Model) -> Result<Vec<Vec<&Tensor>>, EngineError> {
    let arch = &model.arch;
    let find = |name: String| {
        model.tensor(&name).ok_or_else(|| EngineError::Request(format!("{}: tensor {name} is missing", model.path)))
    };
    let mut all = Vec::new();
    for layer in 0..arch.layers {
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            all.push(vec![find(format!("blk.{layer}.{part}.weight"))?]);
        }
        all.push(vec![find(format!("blk.{layer}.ffn_gate.weight"))?, find(format!("blk.{layer}.ffn_up.weight"))?]);
        all.push(vec![find(format!("blk.{layer}.ffn_down.weight"))?]);
    }
    all.push(vec![model.head()]);
    Ok(all)
}

/// Repacks all matrices into tiles; gives the tiles and the kernel's table of them.
fn pack(uploader: &Uploader, model: &Model) -> Result<(Buffer, Vec<Part>), EngineError> {
    let device = &uploader.device;
    let all = packed(model)?;
    let bytes = |tensors: &[&Tensor]| {
        let tiles = |tensor: &Tensor| groups(tensor.rows) as usize * (tensor.cols / COLS) * tile_bytes(tensor.ty);
        tensors.iter().map(|tensor| tiles(tensor) as u64).sum::<u64>()
    };
    let total: u64 = all.iter().map(|tensors| bytes(tensors)).sum();
    let tiles = Buffer::new(device, &format!("weights of {}", model.path), total)?;
    let largest = all.iter().flatten().map(|tensor| tensor.bytes).max().unwrap_or(0);
    let raw = Buffer::new(device, "one tensor while it is repacked", largest as u64)?;
    let (mut parts, mut at) = (Vec::new(), 0_u64);
    for tensors in &all {
        let ty = tensors[0].ty.gguf_id();
        parts.push(Part { at: (at / 16) as u32, ty });
        let stride = tensors.len() as i32;
        for (offset, &tensor) in tensors.iter().enumerate() {
            uploader.put(model, tensor, &raw, 0)?;
            let (rows, supers) = (tensor.rows as i32, (tensor.cols / COLS) as i32);
            let groups = groups(tensor.rows);
            let grid = (((groups as u64 * supers as u64).div_ceil(4)) as u32, 1);
            launch!(device, uploader.pack, grid, 128, 0;
                ty as i32, raw.at(), rows, supers, groups, stride, offset as i32, tiles.at() + at)?;
        }
        at += bytes(tensors);
    }
    device.wait("repacking the weights")?;
    Ok((tiles, parts))
}

/// All of a step that does not change from call to call; addresses of the exchange come later.
fn base_step(
    model: &Model,
    options: CudaOptions,
    tiles: &Buffer,
    parts: &Buffer,
    shape: [Shape; 5],
    stage_bytes: usize,
) -> Step {
    let arch = &model.arch;
    Step {
        columns: Columns::default(),
        tiles: tiles.at(),
        parts: parts.at(),
        shape,
        layers: arch.layers as i32,
        width: arch.width as i32,
        heads: arch.heads as i32,
        kv_heads: arch.kv_heads as i32,
        vocab: arch.vocab as i32,
        slots: options.slots as i32,
        context: options.context_tokens.next_multiple_of(CHUNK) as i32,
        chunks: 1,
        group: (arch.heads / arch.kv_heads) as i32,
        depth: 0,
        stage_bytes: stage_bytes as i32,
        ahead: 0,
        window: 0,
        head: 0,
        prefetch: 0,
        zero: 0,
        table_type: 0,
        epsilon: arch.norm_epsilon,
        turn_a: 0,
        turn_b: 0,
        barrier_base: 0,
        parts_base: [0; COLUMNS],
        x: [[0; 3]; 4],
        squares_a: [0; 3],
        squares_b: [0; 3],
        table: 0,
        row_bytes: 0,
        gain: 0,
        rope: 0,
        q: 0,
        keys: 0,
        values: 0,
        part: 0,
        part_max: 0,
        parts_there: 0,
        logits: 0,
        barrier: 0,
    }
}

impl Exchange {
    fn new(device: &Arc<Device>, model: &Model, options: CudaOptions) -> Result<Self, EngineError> {
        let arch = &model.arch;
        let input = |cols: usize| Buffer::filled(device, "activations", 3 * input_bytes(cols), EMPTY);
        let x = [input(arch.width)?, input(arch.q_width())?, input(arch.width)?, input(arch.feed_forward)?];
        let squares = Buffer::filled(device, "sums of squares", 6 * SQUARES_BYTES, EMPTY)?;
        let context = options.context_tokens.next_multiple_of(CHUNK);
        let cache = (2 * arch.layers * options.slots * context) as u64 * arch.kv_width() as u64;
        let items = (COLUMNS * context / CHUNK * arch.heads) as u64;
        let rest = vec![
            Buffer::filled(device, "queries", (2 * COLUMNS * arch.q_width()) as u64, 0)?,
            // Zero, because positions past the last are multiplied by zero, and what lies there must not be a NaN.
            Buffer::filled(device, "cached keys", cache, 0)?,
            Buffer::filled(device, "cached values", cache, 0)?,
            Buffer::filled(device, "partial attention", items * HEAD_WIDTH as u64 * 4, 0)?,
            Buffer::filled(device, "maxima of partial attention", items * 8, 0)?,
            Buffer::filled(device, "grid barrier", 128, 0)?,
            Buffer::filled(device, "counts of partial attention", (4 * COLUMNS * arch.kv_heads) as u64, 0)?,
        ];
        Ok(Exchange { x, squares, rest })
    }

    /// Puts the addresses into `step`.
    fn point(&self, step: &mut Step) {
        for (buffer, turns) in self.x.iter().zip(&mut step.x) {
            *turns = [0, 1, 2].map(|turn| buffer.at() + turn * (buffer.bytes() / 3));
        }
        let each = self.squares.bytes() / 6;
        step.squares_a = [0, 1, 2].map(|turn| self.squares.at() + turn * each);
        step.squares_b = [3, 4, 5].map(|turn| self.squares.at() + turn * each);
        let at = |index: usize| self.rest[index].at();
        (step.q, step.keys, step.values) = (at(0), at(1), at(2));
        (step.part, step.part_max, step.barrier, step.parts_there) = (at(3), at(4), at(5), at(6));
    }

    fn clear(&self) -> Result<(), EngineError> {
        self.x.iter().chain([&self.squares]).try_for_each(|buffer| buffer.fill(EMPTY))
    }
}

/// Bytes of the activations of `cols` features, 16 columns: f16, and a ninth for the sums.
fn input_bytes(cols: usize) -> u64 {
    (cols / COLS * 9 * COLUMNS * 64) as u64
}

/// Bytes of the sums of squares of each column, by CTAs.
const SQUARES_BYTES: u64 = (4 * COLUMNS * GRID_MAX) as u64;
