//! Synthetic models: llama shapes whose weights come from a seed, block by block, the same on every back end.
//!
//! # The generator, exactly
//!
//! All arithmetic is on wrapping unsigned 64-bit integers. `mix` is the finaliser of SplitMix64:
//! ```text
//! mix(x): x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB; x ^= x >> 31
//! key(seed, name)   = mix(seed ^ fnv1a64(name))          name: the tensor's GGUF name, as bytes
//! word(key, i)      = mix(key + (i + 1) * 0x9E3779B97F4A7C15)
//! ```
//! Block `b` of a tensor (blocks counted along rows, row after row, as they lie in the file) whose type has `S` bytes a
//! block uses the words `b*W .. b*W + W` with `W = ceil(S / 8)`. Byte `k` of the block is byte `k % 8` (little-endian)
//! of word `b*W + k/8`. Then the block's half-precision fields are overwritten with two constants of the tensor, `d`
//! and `m` ([`Scales`], computed on the host):
//!
//! | type | `d` at byte | `m` at byte | | type | `d` at byte | `m` at byte |
//! |---|---|---|---|---|---|---|
//! | Q4_0 | 0 | | | Q2_K | 80 | 82 |
//! | Q4_1 | 0 | 2 | | Q3_K | 108 | |
//! | Q5_0 | 0 | | | Q4_K | 0 | 2 |
//! | Q5_1 | 0 | 2 | | Q5_K | 0 | 2 |
//! | Q8_0 | 0 | | | Q6_K | 208 | |
//!
//! F32, F16 and BF16 have one weight a block, and `W = 1`: weight `i` is `low + step × (word(key, i) >> 40)` in single
//! precision (one product, one sum, each rounded to nearest), then rounded to the type. `low` and `step` are in [`Scales`] too.
//!
//! # Why these scales
//!
//! Matrices have standard deviation 1/√(row length), so that they keep the variance of what they multiply; those that
//! write into the residual stream (`attn_output`, `ffn_down`) have that divided by √(2 × layers), so that the stream
//! stays of order one however many layers there are; embeddings have 1; norms lie between 0.75 and 1.25. Minimum and
//! scale are tied so that weights average zero (but for half a quant in Q4_0 and Q5_0, which have one value more below). With quants, sub-block scales and minima uniform over all their
//! values, the standard deviation of a block's weights is a constant times `d`, worked out in [`spread`].

use super::EngineError;
use super::arch::{Architecture, Rope, RopeScaling};
use super::block::BlockType;
use super::gguf::{Planned, Value, Writer};
use super::recipe::Variant;
use super::weights::{Model, Origin, Tensor};
use std::io::Write;

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The constants that a tensor's blocks share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Bits of the half-precision scale.
    pub d: u16,
    /// Bits of the half-precision minimum, for the types that have one.
    pub m: u16,
    /// Least weight, for the float types.
    pub low: f32,
    /// Step between weights, for the float types.
    pub step: f32,
}

/// All that a back end needs to generate one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Generator {
    /// `key(seed, name)` of the module's documentation.
    pub key: u64,
    /// Type of its blocks.
    pub ty: BlockType,
    /// Shared constants.
    pub scales: Scales,
}

impl Generator {
    /// The generator of tensor `name` with rows of `cols` weights in a model of `layers` layers.
    #[must_use]
    pub fn new(seed: u64, name: &str, ty: BlockType, cols: usize, layers: usize) -> Generator {
        Generator { key: mix(seed ^ fnv1a64(name.as_bytes())), ty, scales: scales(name, ty, cols, layers) }
    }

    /// Writes blocks `first ..` until `out` is full.
    ///
    /// # Panics
    /// If `out` is no whole number of blocks.
    pub fn fill(&self, first: u64, out: &mut [u8]) {
        let size = self.ty.block_bytes();
        assert_eq!(out.len() % size, 0, "a partial block");
        let words = size.div_ceil(8) as u64;
        for (block, out) in (first..).zip(out.chunks_exact_mut(size)) {
            if self.ty.block_weights() == 1 {
                self.float(block, out);
                continue;
            }
            for (word, bytes) in (block * words..).zip(out.chunks_mut(8)) {
                bytes.copy_from_slice(&self.word(word).to_le_bytes()[..bytes.len()]);
            }
            let (d, m) = fields(self.ty);
            out[d..d + 2].copy_from_slice(&self.scales.d.to_le_bytes());
            if let Some(m) = m {
                out[m..m + 2].copy_from_slice(&self.scales.m.to_le_bytes());
            }
        }
    }

    fn word(&self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    fn float(&self, index: u64, out: &mut [u8]) {
        let weight = self.scales.low + self.scales.step * (self.word(index) >> 40) as f32;
        match self.ty {
            BlockType::F16 => out.copy_from_slice(&half::f16::from_f32(weight).to_le_bytes()),
            BlockType::BF16 => out.copy_from_slice(&half::bf16::from_f32(weight).to_le_bytes()),
            _ => out.copy_from_slice(&weight.to_le_bytes()),
        }
    }
}

/// Finaliser of SplitMix64.
#[must_use]
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// FNV-1a, 64 bits.
#[must_use]
pub const fn fnv1a64(bytes: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01B3);
        i += 1;
    }
    hash
}

/// Byte offsets of a block's half-precision scale and, if it has one, minimum.
///
/// # Panics
/// For the float types, which have neither.
#[must_use]
pub const fn fields(ty: BlockType) -> (usize, Option<usize>) {
    match ty {
        BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => (0, None),
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4_K | BlockType::Q5_K => (0, Some(2)),
        BlockType::Q2_K => (80, Some(82)),
        BlockType::Q3_K => (108, None),
        BlockType::Q6_K => (208, None),
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => panic!("a float has no scale"),
    }
}

/// Standard deviation of a random block's weights in units of `d`, and the minimum that centres them, in units of `d`.
///
/// With q uniform on n values (variance v = (n²−1)/12, mean c), scale s and minimum m uniform and independent:
/// `d s q − (c d) m` has variance `d² (E[s²] v + c² × 2 Var[s])`. A type without minima has `d s q`, `E[s²] E[q²]`.
const fn spread(ty: BlockType) -> (f64, f64) {
    match ty {
        BlockType::Q4_0 => (4.637, 0.0),   // √21.5
        BlockType::Q4_1 => (4.610, -7.5),  // √21.25; the minimum is added
        BlockType::Q5_0 => (9.247, 0.0),   // √85.5
        BlockType::Q5_1 => (9.233, -15.5), // √85.25
        BlockType::Q8_0 => (73.90, 0.0),   // √5461.5
        BlockType::Q2_K => (13.87, 1.5),   // √(77.5 × 1.25 + 2.25 × 42.5)
        BlockType::Q3_K => (43.34, 0.0),   // √(341.5 × 5.5)
        BlockType::Q4_K => (258.3, 7.5),   // √(1333.5 × 21.25 + 56.25 × 682.5)
        BlockType::Q5_K => (526.9, 15.5),  // √(1333.5 × 85.25 + 240.25 × 682.5)
        BlockType::Q6_K => (1365.7, 0.0),  // √(5461.5 × 341.5)
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => (1.0, 0.0),
    }
}

fn scales(name: &str, ty: BlockType, cols: usize, layers: usize) -> Scales {
    if name.ends_with("_norm.weight") {
        return Scales { d: 0, m: 0, low: 0.75, step: 0.5 / 16_777_216.0 };
    }
    let mut deviation = 1.0 / (cols as f64).sqrt();
    if name == "token_embd.weight" {
        deviation = 1.0;
    } else if name.ends_with("attn_output.weight") || name.ends_with("ffn_down.weight") {
        deviation /= (2.0 * layers as f64).sqrt();
    }
    let (units, centre) = spread(ty);
    let d = half::f16::from_f64(deviation / units);
    let m = half::f16::from_f64(d.to_f64() * centre);
    let reach = deviation * 3.0_f64.sqrt(); // uniform on ±reach has this deviation
    Scales { d: d.to_bits(), m: m.to_bits(), low: -reach as f32, step: (2.0 * reach / 16_777_216.0) as f32 }
}

/// Names of the shapes, smallest first.
pub const SHAPES: [&str; 4] = ["tiny", "small", "8b", "22b"];

/// The shape that `synthetic:NAME` stands for. `tiny` is for tests; `small` is the CPU's default (59 MB as Q4_K);
/// `8b` and `22b` are the shapes that GPU figures are quoted for.
#[must_use]
pub fn shape(name: &str) -> Option<Architecture> {
    let (layers, width, feed_forward, heads, kv_heads, vocab, context_tokens) = match name {
        "tiny" => (2, 256, 512, 4, 2, 512, 1024),
        "small" => (12, 768, 2048, 12, 4, 16_384, 4096),
        "8b" => (32, 4096, 14_336, 32, 8, 128_256, 8192),
        "22b" => (56, 6144, 16_384, 48, 8, 32_768, 32_768),
        _ => return None,
    };
    let head_width = width / heads;
    Some(Architecture {
        layers,
        width,
        feed_forward,
        heads,
        kv_heads,
        head_width,
        vocab,
        context_tokens,
        norm_epsilon: 1e-5,
        rope: Rope::new(head_width, rope_base(name), RopeScaling::None, None),
    })
}

/// Base of the rotary frequencies of a shape, for writing it as GGUF.
#[must_use]
pub fn rope_base(name: &str) -> f64 {
    match name {
        "8b" => 500_000.0,
        "22b" => 1_000_000.0,
        _ => 10_000.0,
    }
}

/// Metadata that describe a shape, as GGUF has them.
fn metadata(shape: &str, arch: &Architecture, variant: Variant, seed: u64) -> Vec<(&'static str, Value)> {
    let count = |n: usize| Value::Unsigned(n as u64);
    vec![
        ("general.architecture", Value::Text("llama".into())),
        ("general.name", Value::Text(format!("synthetic:{shape} {variant} seed {seed}"))),
        ("llama.block_count", count(arch.layers)),
        ("llama.context_length", count(arch.context_tokens)),
        ("llama.embedding_length", count(arch.width)),
        ("llama.feed_forward_length", count(arch.feed_forward)),
        ("llama.attention.head_count", count(arch.heads)),
        ("llama.attention.head_count_kv", count(arch.kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Float(f64::from(arch.norm_epsilon))),
        ("llama.rope.dimension_count", count(arch.rope.width)),
        ("llama.rope.freq_base", Value::Float(rope_base(shape))),
        ("llama.vocab_size", count(arch.vocab)),
    ]
}

/// Blocks that are generated before they are written: some megabytes.
const BLOCKS_AT_ONCE: usize = 1 << 15;

/// Writes the model `synthetic:shape` as a GGUF file.
pub fn write_gguf(shape: &str, variant: Variant, seed: u64, out: &mut dyn Write) -> Result<(), EngineError> {
    let model = Model::synthetic(shape, variant, seed)?;
    let failed = |error: std::io::Error| EngineError::File {
        path: model.path.clone(),
        reason: format!("cannot be written: {error}; check the free space of the disk"),
    };
    let dims = |tensor: &Tensor| {
        let cols = tensor.cols as u64;
        if tensor.name.ends_with("_norm.weight") { vec![cols] } else { vec![cols, tensor.rows as u64] }
    };
    let planned = model.tensors.iter();
    let planned = planned.map(|t| Planned { name: t.name.clone(), ty: t.ty, dims: dims(t) }).collect();
    let keys = metadata(shape, &model.arch, variant, seed);
    let mut writer = Writer::new(out, &keys, planned).map_err(failed)?;
    let mut buffer = Vec::new();
    for tensor in &model.tensors {
        let Origin::Generated(generator) = &tensor.origin else { unreachable!("synthetic tensors are generated") };
        let blocks = tensor.bytes / tensor.ty.block_bytes();
        for first in (0..blocks).step_by(BLOCKS_AT_ONCE) {
            let count = (blocks - first).min(BLOCKS_AT_ONCE);
            buffer.resize(count * tensor.ty.block_bytes(), 0);
            generator.fill(first as u64, &mut buffer);
            writer.part(&buffer).map_err(failed)?;
        }
    }
    writer.finish().map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::block::dequantize;

    #[test]
    fn weights_of_every_type_have_the_mean_and_deviation_that_the_scales_promise() {
        for ty in BlockType::ALL {
            let generator = Generator::new(7, "blk.1.ffn_gate.weight", ty, 1024, 4);
            let blocks = 65_536 / ty.block_weights();
            let mut bytes = vec![0; blocks * ty.block_bytes()];
            generator.fill(0, &mut bytes);
            let mut weights = vec![0.0; 65_536];
            dequantize(ty, &bytes, &mut weights);
            let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / 65_536.0;
            let square = weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / 65_536.0;
            let deviation = square.sqrt() * 32.0;
            assert!((deviation - 1.0).abs() < 0.03, "{ty}: deviation {deviation}");
            assert!(mean.abs() * 32.0 < 0.12, "{ty}: mean {mean}"); // Q4_0 runs from −8 to 7: −0.5 d
        }
    }

    #[test]
    fn a_block_does_not_depend_on_where_filling_starts() {
        for ty in BlockType::ALL {
            let generator = Generator::new(1, "output.weight", ty, 512, 4);
            let size = ty.block_bytes();
            let mut all = vec![0; 6 * size];
            generator.fill(0, &mut all);
            let mut tail = vec![0; 2 * size];
            generator.fill(4, &mut tail);
            assert_eq!(all[4 * size..], tail, "{ty}");
        }
    }

    #[test]
    fn the_generator_is_the_documented_one() {
        // Worked out independently from the module's text (Python, arbitrary precision, masked to 64 bits).
        assert_eq!(mix(1), 0x5692161D100B05E5);
        assert_eq!(fnv1a64(b"output.weight"), FNV_OUTPUT_WEIGHT);
        let generator = Generator::new(42, "output.weight", BlockType::Q8_0, 512, 4);
        assert_eq!(generator.key, KEY_OUTPUT_42);
        let mut block = [0; 68];
        generator.fill(0, &mut block);
        assert_eq!(block[2..8], BLOCK0_BYTES_2_TO_8);
        assert_eq!(block[36..40], BLOCK1_BYTES_2_TO_6);
    }

    const FNV_OUTPUT_WEIGHT: u64 = 0x6D1CF81EF83B28C6;
    const KEY_OUTPUT_42: u64 = 0xB70E8A0E51D7ACCF;
    const BLOCK0_BYTES_2_TO_8: [u8; 6] = [232, 199, 86, 98, 10, 118];
    const BLOCK1_BYTES_2_TO_6: [u8; 4] = [64, 36, 3, 131];
}
