//! The plain path: an operation a kernel (`kernels/plain.cu`), every tensor type, every shape, compute capability 7.5.
//!
//! Weights stay as they lie in the file. Activations and caches are f32.

use super::driver::{Buffer, Device, Function, Module, launch};
use super::upload::Uploader;
use super::{COLUMNS, Columns, CudaOptions, rope_table};
use crate::engine::EngineError;
use crate::engine::arch::Architecture;
use crate::engine::weights::{Model, Tensor};
use std::sync::Arc;

/// A matrix in device memory.
struct Matrix {
    at: u64,
    ty: i32,
    row_bytes: u64,
    rows: i32,
    cols: i32,
}

/// The matrices of one layer, and where its norms start in `gains`.
struct Layer {
    q: Matrix,
    k: Matrix,
    v: Matrix,
    out: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

struct Kernels {
    embed: Function,
    norm: Function,
    matrix1: Function,
    matrix8: Function,
    rope: Function,
    attention: Function,
    silu: Function,
}

/// Buffers of 16 columns.
struct Scratch {
    h: Buffer,
    x: Buffer,
    qkv: Buffer,
    attended: Buffer,
    gate_up: Buffer,
    inner: Buffer,
    logits: Buffer,
}

pub(super) struct Plain {
    device: Arc<Device>,
    arch: Architecture,
    kernels: Kernels,
    embedding: Matrix,
    layers: Vec<Layer>,
    head: Matrix,
    /// `[2 × layers + 1][width]`.
    gains: Buffer,
    rope: Buffer,
    keys: Buffer,
    values: Buffer,
    scratch: Scratch,
    slots: i32,
    context: i32,
    _weights: Buffer,
}

/// The norms of a model in the order in which a token meets them.
pub(super) fn gains(model: &Model) -> Vec<f32> {
    model
        .tensors
        .iter()
        .filter(|tensor| tensor.name.ends_with("_norm.weight"))
        .flat_map(|tensor| model.floats(tensor))
        .collect()
}

impl Plain {
    pub(super) fn new(
        device: &Arc<Device>,
        module: &Module,
        model: &Model,
        options: CudaOptions,
    ) -> Result<Self, EngineError> {
        let arch = model.arch.clone();
        let matrices: Vec<&Tensor> =
            model.tensors.iter().filter(|tensor| !tensor.name.ends_with("_norm.weight")).collect();
        let total: u64 = matrices.iter().map(|tensor| (tensor.bytes as u64).next_multiple_of(256)).sum();
        let weights = Buffer::new(device, &format!("weights of {}", model.path), total)?;
        let uploader = Uploader::new(device)?;
        let mut offset = 0;
        let mut placed = Vec::new();
        for tensor in &matrices {
            uploader.put(model, tensor, &weights, offset)?;
            placed.push(Matrix {
                at: weights.at() + offset,
                ty: tensor.ty.gguf_id() as i32,
                row_bytes: (tensor.bytes / tensor.rows) as u64,
                rows: tensor.rows as i32,
                cols: tensor.cols as i32,
            });
            offset += (tensor.bytes as u64).next_multiple_of(256);
        }
        device.wait("loading the weights")?;
        let tied = std::ptr::eq(model.head(), &raw const model.tensors[0]);
        let mut placed = placed.into_iter();
        let missing = || EngineError::Request("a model with fewer tensors than its architecture".into());
        let mut next = || placed.next().ok_or_else(missing);
        let embedding = next()?;
        let mut layers = Vec::new();
        for _ in 0..arch.layers {
            let (q, k, v, out) = (next()?, next()?, next()?, next()?);
            layers.push(Layer { q, k, v, out, gate: next()?, up: next()?, down: next()? });
        }
        let head = if tied { Matrix { ..embedding } } else { next()? };
        let cache = 4 * (arch.layers * options.slots * options.context_tokens) as u64 * arch.kv_width() as u64;
        let columns = |what: &str, floats: usize| Buffer::filled(device, what, (4 * COLUMNS * floats) as u64, 0);
        let scratch = Scratch {
            h: columns("residual stream", arch.width)?,
            x: columns("normed activations", arch.width)?,
            qkv: columns("queries, keys and values", arch.q_width() + 2 * arch.kv_width())?,
            attended: columns("attention output", arch.q_width())?,
            gate_up: columns("gate and up", 2 * arch.feed_forward)?,
            inner: columns("feed-forward activations", arch.feed_forward)?,
            logits: columns("logits of one pass", arch.vocab)?,
        };
        let kernels = Kernels {
            embed: module.function("embed")?,
            norm: module.function("rms_norm")?,
            matrix1: module.function("matrix1")?,
            matrix8: module.function("matrix8")?,
            rope: module.function("rope_and_cache")?,
            attention: module.function("attention")?,
            silu: module.function("silu_mul")?,
        };
        Ok(Plain {
            keys: Buffer::filled(device, "cached keys", cache, 0)?,
            values: Buffer::filled(device, "cached values", cache, 0)?,
            gains: Buffer::of(device, "norms", &gains(model))?,
            rope: Buffer::of(device, "rotary table", &rope_table(&arch, options.context_tokens))?,
            device: Arc::clone(device),
            arch,
            kernels,
            embedding,
            layers,
            head,
            scratch,
            slots: options.slots as i32,
            context: options.context_tokens as i32,
            _weights: weights,
        })
    }

    /// The norms' weights.
    pub(super) fn gains(&self) -> &Buffer {
        &self.gains
    }

    pub(super) fn run(&self, columns: &Columns, logits: &Buffer) -> Result<(), EngineError> {
        let (device, arch, s) = (&self.device, &self.arch, &self.scratch);
        let count = columns.count as u32;
        let width = arch.width as i32;
        let e = &self.embedding;
        let grid = ((arch.width as u32).div_ceil(256 * 8), count);
        launch!(device, self.kernels.embed, grid, 256, 0; *columns, e.ty, e.at, e.row_bytes, width, s.h.at())?;
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(columns, index, layer)?;
            self.norm(2 * index + 1, count)?;
            let inner = arch.feed_forward as i32;
            self.matrix(&layer.gate, &s.x, s.gate_up.at(), 2 * inner, count, false)?;
            self.matrix(&layer.up, &s.x, s.gate_up.at() + 4 * inner as u64, 2 * inner, count, false)?;
            let grid = ((inner as u32).div_ceil(256), count);
            launch!(device, self.kernels.silu, grid, 256, 0; s.gate_up.at(), s.inner.at(), inner)?;
            self.matrix(&layer.down, &s.inner, s.h.at(), width, count, true)?;
        }
        if columns.used().iter().all(|column| column.want == 0) {
            return Ok(());
        }
        self.norm(2 * self.layers.len(), count)?;
        self.matrix(&self.head, &s.x, s.logits.at(), arch.vocab as i32, count, false)?;
        let row = 4 * arch.vocab as u64;
        for (index, column) in columns.used().iter().enumerate().filter(|(_, column)| column.want == 1) {
            logits.copy_from(column.slot as u64 * row, &s.logits, index as u64 * row, row)?;
        }
        Ok(())
    }

    /// Norm, q, k, v, cache, attention, output matrix.
    fn attend(&self, columns: &Columns, index: usize, layer: &Layer) -> Result<(), EngineError> {
        let (device, arch, s) = (&self.device, &self.arch, &self.scratch);
        let count = columns.count as u32;
        let (heads, kv_heads, head_dim) = (arch.heads as i32, arch.kv_heads as i32, arch.head_width as i32);
        let stride = (arch.q_width() + 2 * arch.kv_width()) as i32;
        self.norm(2 * index, count)?;
        self.matrix(&layer.q, &s.x, s.qkv.at(), stride, count, false)?;
        self.matrix(&layer.k, &s.x, s.qkv.at() + 4 * arch.q_width() as u64, stride, count, false)?;
        let v_at = s.qkv.at() + 4 * (arch.q_width() + arch.kv_width()) as u64;
        self.matrix(&layer.v, &s.x, v_at, stride, count, false)?;
        let (rotated, context, slots, layer_index) = (arch.rope.width as i32, self.context, self.slots, index as i32);
        let grid = ((stride as u32 / 2).div_ceil(128), count);
        launch!(device, self.kernels.rope, grid, 128, 0;
            *columns, s.qkv.at(), self.rope.at(), self.keys.at(), self.values.at(), heads, kv_heads, head_dim, rotated,
            context, slots, layer_index)?;
        let scale = (1.0 / (arch.head_width as f64).sqrt()) as f32;
        let shared = 4 * (2 * arch.head_width as u32 + 128);
        launch!(device, self.kernels.attention, (arch.heads as u32, count), 128, shared;
            *columns, s.qkv.at(), self.keys.at(), self.values.at(), s.attended.at(), heads, kv_heads, head_dim,
            context, slots, layer_index, scale)?;
        self.matrix(&layer.out, &s.attended, s.h.at(), arch.width as i32, count, true)
    }

    fn norm(&self, which: usize, count: u32) -> Result<(), EngineError> {
        let (device, s, width) = (&self.device, &self.scratch, self.arch.width);
        let gain = self.gains.at() + 4 * (which * width) as u64;
        launch!(device, self.kernels.norm, (count, 1), 256, 0; s.h.at(), gain, s.x.at(), width as i32, self.arch.norm_epsilon)
    }

    fn matrix(&self, m: &Matrix, x: &Buffer, y: u64, stride: i32, count: u32, add: bool) -> Result<(), EngineError> {
        let (device, rows) = (&self.device, (m.rows as u32).div_ceil(8));
        let (function, per) = if count == 1 { (self.kernels.matrix1, 1) } else { (self.kernels.matrix8, 8) };
        launch!(device, function, (rows, count.div_ceil(per)), 256, 0;
            m.ty, m.at, m.row_bytes, m.rows, m.cols, x.at(), y, stride, count as i32, i32::from(add))
    }
}
