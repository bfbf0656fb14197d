//! The forward pass: embeddings, layers of attention and feed-forward, logits.
//!
//! The tokens of a step (one per decoding stream, many per prompt) are rows that go through the layers together, up to
//! [`ROWS_MAX`] at a time. Keys and values of all rows are written before any row attends.

use super::acts::Acts;
use super::matmul::{Matrix, Product, Shared, gate_and_up, multiply};
use super::pool::Pool;
use super::{CpuOptions, isa};
use crate::engine::arch::Architecture;
use crate::engine::block::dequantize;
use crate::engine::weights::{Model, Tensor};
use crate::engine::{EngineError, Feed};

/// Rows that go through the layers together: enough to use each weight many times while it is in a register or in the
/// cache, few enough that the buffers stay small.
const ROWS_MAX: usize = 32;

struct Layer {
    attn_norm: Vec<f32>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    output: Matrix,
    ffn_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A token on its way: where it belongs.
#[derive(Debug, Clone, Copy)]
struct Row {
    token: u32,
    slot: usize,
    position: usize,
    /// The last token that its stream is fed: its logits are wanted.
    last: bool,
}

/// Weights, caches and buffers of the pass.
pub(super) struct Pass {
    arch: Architecture,
    context: usize,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    head: Matrix,
    pool: Pool,
    /// Cosines, then sines: `[position][pair]` each.
    turns: [Vec<f32>; 2],
    /// Keys, then values: `[slot][layer][kv_head][position][head_width]` each.
    cache: [Vec<f32>; 2],
    rows: Vec<Row>,
    buffers: Buffers,
}

/// Activations of the rows under way, `[row][...]`.
struct Buffers {
    state: Vec<f32>,
    acts: Acts,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    hidden: Vec<f32>,
    /// `[thread][position]`.
    scores: Vec<f32>,
    /// States whose logits are wanted, `[stream]`, and their activations.
    finals: Vec<f32>,
    final_acts: Acts,
    final_slots: Vec<usize>,
    head_out: Vec<f32>,
}

/// A buffer of zeros whose pages are really there, so that resident memory does not creep up during a soak.
fn touched(len: usize, what: &str) -> Result<Vec<f32>, EngineError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| EngineError::Memory {
        what: what.into(),
        needed_bytes: len as u64 * 4,
        free_bytes: super::available_bytes().unwrap_or(0),
    })?;
    buffer.resize(len, 0.0);
    Ok(buffer)
}

impl Pass {
    /// Flips a bit of the output matrix: its row's logit changes, and with it the hash of every position.
    pub(super) fn flip_a_weight(&mut self) {
        self.head.flip_a_bit();
    }

    pub(super) fn new(model: &Model, options: CpuOptions) -> Result<Pass, EngineError> {
        let arch = model.arch.clone();
        let CpuOptions { slots, context_tokens: context, threads } = options;
        let find = |name: &str| -> Result<&Tensor, EngineError> {
            model.tensor(name).ok_or_else(|| EngineError::Model {
                path: model.path.clone(),
                what: format!("tensor {name}"),
                reason: "is missing".into(),
            })
        };
        let mut layers = Vec::with_capacity(arch.layers);
        for layer in 0..arch.layers {
            let part = |part: &str| find(&format!("blk.{layer}.{part}.weight"));
            let matrix = |name: &str| Ok::<_, EngineError>(Matrix::new(model, part(name)?));
            layers.push(Layer {
                attn_norm: model.floats(part("attn_norm")?),
                q: matrix("attn_q")?,
                k: matrix("attn_k")?,
                v: matrix("attn_v")?,
                output: matrix("attn_output")?,
                ffn_norm: model.floats(part("ffn_norm")?),
                gate: matrix("ffn_gate")?,
                up: matrix("ffn_up")?,
                down: matrix("ffn_down")?,
            });
        }
        let embedding = Matrix::new(model, find("token_embd.weight")?);
        let head = if std::ptr::eq(model.head(), &raw const model.tensors[0]) {
            embedding.clone()
        } else {
            Matrix::new(model, model.head())
        };
        let pool =
            Pool::new(threads).map_err(|error| EngineError::Request(format!("cannot start threads: {error}")))?;
        let cache_len = slots * arch.layers * context * arch.kv_width();
        let widest = arch.width.max(arch.q_width()).max(arch.feed_forward);
        let rows = ROWS_MAX;
        let buffers = Buffers {
            state: vec![0.0; rows * arch.width],
            acts: Acts::new(rows, widest),
            q: vec![0.0; rows * arch.q_width()],
            k: vec![0.0; rows * arch.kv_width()],
            v: vec![0.0; rows * arch.kv_width()],
            hidden: vec![0.0; rows * arch.feed_forward.max(arch.q_width())],
            scores: vec![0.0; pool.threads() * context],
            finals: vec![0.0; slots * arch.width],
            final_acts: Acts::new(slots, arch.width),
            final_slots: Vec::with_capacity(slots),
            head_out: vec![0.0; slots * arch.vocab],
        };
        Ok(Pass {
            context,
            embedding,
            layers,
            output_norm: model.floats(find("output_norm.weight")?),
            head,
            pool,
            turns: turns(&arch, context),
            cache: [touched(cache_len, "the key cache")?, touched(cache_len, "the value cache")?],
            rows: Vec::with_capacity(slots * context),
            buffers,
            arch,
        })
    }

    /// Heap bytes: generated weights, caches, buffers.
    pub(super) fn held_bytes(&self) -> u64 {
        let matrices = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down]);
        let weights: usize = matrices.map(Matrix::held_bytes).sum();
        let tied =
            self.head.held_bytes() > 0 && std::ptr::eq(self.head.rows_bytes(0, 1), self.embedding.rows_bytes(0, 1));
        let ends = self.embedding.held_bytes() + if tied { 0 } else { self.head.held_bytes() };
        let norms: usize = self.layers.iter().map(|layer| layer.attn_norm.len() + layer.ffn_norm.len()).sum();
        let b = &self.buffers;
        let floats = [&b.state, &b.q, &b.k, &b.v, &b.hidden, &b.scores, &b.finals, &b.head_out];
        let floats: usize = floats.iter().map(|buffer| buffer.len()).sum::<usize>()
            + self.turns.iter().chain(&self.cache).map(Vec::len).sum::<usize>()
            + norms
            + self.output_norm.len();
        let rows = self.rows.capacity() * size_of::<Row>();
        (weights + ends + 4 * floats + b.acts.bytes() + b.final_acts.bytes() + rows) as u64
    }

    /// Feeds a checked batch; slot s has `lengths[s]` positions cached. Writes the logits of each fed slot's last token
    /// to `logits[slot]`.
    pub(super) fn run(&mut self, batch: &[Feed<'_>], lengths: &[usize], logits: &mut [f32]) {
        self.rows.clear();
        for feed in batch {
            for (i, &token) in feed.tokens.iter().enumerate() {
                let position = lengths[feed.slot] + i;
                self.rows.push(Row { token, slot: feed.slot, position, last: i + 1 == feed.tokens.len() });
            }
        }
        self.buffers.final_slots.clear();
        for first in (0..self.rows.len()).step_by(ROWS_MAX) {
            let end = (first + ROWS_MAX).min(self.rows.len());
            self.layers_of(first, end);
        }
        self.logits_of_finals(logits);
    }

    /// Takes rows `first .. end` through all layers.
    fn layers_of(&mut self, first: usize, end: usize) {
        let width = self.arch.width;
        let count = end - first;
        for (i, row) in self.rows[first..end].iter().enumerate() {
            let bytes = self.embedding.rows_bytes(row.token as usize, row.token as usize + 1);
            dequantize(self.embedding.ty, bytes, &mut self.buffers.state[i * width..][..width]);
        }
        for layer in 0..self.layers.len() {
            self.attention(layer, first, count);
            self.feed_forward(layer, count);
        }
        for (i, row) in self.rows[first..end].iter().enumerate().filter(|(_, row)| row.last) {
            let at = self.buffers.final_slots.len() * width;
            self.buffers.finals[at..at + width].copy_from_slice(&self.buffers.state[i * width..][..width]);
            self.buffers.final_slots.push(row.slot);
        }
    }

    fn attention(&mut self, layer: usize, first: usize, count: usize) {
        let Self { arch, layers, pool, buffers: b, .. } = self;
        let (width, q_width, kv_width) = (arch.width, arch.q_width(), arch.kv_width());
        let weights = &layers[layer];
        normalize(&mut b.acts, &b.state, count, width, &weights.attn_norm, arch.norm_epsilon);
        let product = |matrix, out, stride| Product { matrix, out: Shared::new(out), stride };
        let products = [
            product(&weights.q, &mut b.q, q_width),
            product(&weights.k, &mut b.k, kv_width),
            product(&weights.v, &mut b.v, kv_width),
        ];
        multiply(pool, &b.acts, count, &products);
        self.rotate_and_cache(layer, first, count);
        self.attend(layer, first, count);
        let Self { layers, pool, buffers: b, .. } = self;
        for i in 0..count {
            b.acts.floats_mut(i, q_width).copy_from_slice(&b.hidden[i * q_width..][..q_width]);
            b.acts.quantize(i, q_width);
        }
        // q is free again: it takes the projection before that is added to the state.
        let out = &mut b.hidden;
        multiply(pool, &b.acts, count, &[product_of(&layers[layer].output, out, width)]);
        add(&mut b.state[..count * width], &b.hidden);
    }

    /// Turns queries and keys by their positions, and files keys and values in the cache.
    fn rotate_and_cache(&mut self, layer: usize, first: usize, count: usize) {
        let arch = &self.arch;
        let (q_width, kv_width, head) = (arch.q_width(), arch.kv_width(), arch.head_width);
        let pairs = arch.rope.width / 2;
        for (i, row) in self.rows[first..first + count].iter().enumerate() {
            let turn = |which: usize| &self.turns[which][row.position * pairs..][..pairs];
            let keys = &mut self.buffers.k[i * kv_width..][..kv_width];
            isa::rotate(&mut self.buffers.q[i * q_width..][..q_width], head, turn(0), turn(1));
            isa::rotate(keys, head, turn(0), turn(1));
            let values = &self.buffers.v[i * kv_width..][..kv_width];
            for kv_head in 0..arch.kv_heads {
                let at = cache_at(arch, self.context, row.slot, layer, kv_head) + row.position * head;
                let part = kv_head * head..(kv_head + 1) * head;
                self.cache[0][at..at + head].copy_from_slice(&keys[part.clone()]);
                self.cache[1][at..at + head].copy_from_slice(&values[part]);
            }
        }
    }

    /// Every query head of every row over its stream's cache, into `hidden`.
    fn attend(&mut self, layer: usize, first: usize, count: usize) {
        let Self { arch, context, pool, cache, rows, buffers: b, .. } = self;
        let (head, q_width) = (arch.head_width, arch.q_width());
        let group = arch.heads / arch.kv_heads;
        let out = Shared::new(&mut b.hidden);
        let scores = Shared::new(&mut b.scores);
        let (context, rows, q) = (*context, &rows[first..first + count], &b.q);
        pool.run(count * arch.kv_heads, &|thread, task| {
            let (i, kv_head) = (task / arch.kv_heads, task % arch.kv_heads);
            let row = rows[i];
            let positions = row.position + 1;
            let at = cache_at(arch, context, row.slot, layer, kv_head);
            let (keys, values) = (&cache[0][at..][..positions * head], &cache[1][at..][..positions * head]);
            // SAFETY: a thread has one task at a time, and each has scores of its own.
            let scores = unsafe { scores.slice(thread * context, positions) };
            for query_head in kv_head * group..(kv_head + 1) * group {
                let place = i * q_width + query_head * head;
                // SAFETY: each (row, query head) belongs to one task.
                let out = unsafe { out.slice(place, head) };
                isa::attend(&q[place..place + head], keys, values, scores, out);
            }
        });
    }

    fn feed_forward(&mut self, layer: usize, count: usize) {
        let Self { arch, layers, pool, buffers: b, .. } = self;
        let (width, inner) = (arch.width, arch.feed_forward);
        let weights = &layers[layer];
        normalize(&mut b.acts, &b.state, count, width, &weights.ffn_norm, arch.norm_epsilon);
        let out = product_of(&weights.gate, &mut b.hidden, inner);
        gate_and_up(pool, &b.acts, count, &weights.gate, &weights.up, &out);
        for i in 0..count {
            b.acts.floats_mut(i, inner).copy_from_slice(&b.hidden[i * inner..][..inner]);
            b.acts.quantize(i, inner);
        }
        multiply(pool, &b.acts, count, &[product_of(&weights.down, &mut b.hidden, width)]);
        add(&mut b.state[..count * width], &b.hidden);
    }

    fn logits_of_finals(&mut self, logits: &mut [f32]) {
        let Self { arch, pool, buffers: b, .. } = self;
        let count = b.final_slots.len();
        normalize(&mut b.final_acts, &b.finals, count, arch.width, &self.output_norm, arch.norm_epsilon);
        multiply(pool, &b.final_acts, count, &[product_of(&self.head, &mut b.head_out, arch.vocab)]);
        for (i, &slot) in b.final_slots.iter().enumerate() {
            logits[slot * arch.vocab..][..arch.vocab].copy_from_slice(&b.head_out[i * arch.vocab..][..arch.vocab]);
        }
    }
}

fn product_of<'a>(matrix: &'a Matrix, out: &'a mut [f32], stride: usize) -> Product<'a> {
    Product { matrix, out: Shared::new(out), stride }
}

/// Where a head's cache starts.
fn cache_at(arch: &Architecture, context: usize, slot: usize, layer: usize, kv_head: usize) -> usize {
    ((slot * arch.layers + layer) * arch.kv_heads + kv_head) * context * arch.head_width
}

/// Normalises and quantises `count` rows of `state` into `acts`.
fn normalize(acts: &mut Acts, state: &[f32], count: usize, width: usize, weight: &[f32], epsilon: f32) {
    for i in 0..count {
        isa::rms_norm(&state[i * width..][..width], weight, epsilon, acts.floats_mut(i, width));
        acts.quantize(i, width);
    }
}

fn add(state: &mut [f32], more: &[f32]) {
    for (state, &more) in state.iter_mut().zip(more) {
        *state += more;
    }
}

/// Cosines and sines of every position and pair, worked out in double precision.
fn turns(arch: &Architecture, context: usize) -> [Vec<f32>; 2] {
    let rope = &arch.rope;
    let angles = || (0..context).flat_map(|p| rope.frequencies.iter().map(move |frequency| p as f64 * frequency));
    let cosines = angles().map(|angle| (angle.cos() * rope.magnitude) as f32).collect();
    [cosines, angles().map(|angle| (angle.sin() * rope.magnitude) as f32).collect()]
}
