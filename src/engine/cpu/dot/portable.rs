//! The dot products in plain Rust: the definition that the others are held against, and the fallback.

use super::super::acts::ActRow;
use super::{Rows, checked, fold8};
use crate::engine::block::{BlockType, half_at, scale_min_k4, scale_q3k};

/// 32 weights as integers, with their scales: of lanes 0 to 3 and of lanes 4 to 7.
struct Unpacked {
    quants: [i8; 32],
    scales: [f32; 2],
}

/// Picks the kernel of `ty`.
pub(super) fn kernel(ty: BlockType) -> Rows {
    match ty {
        BlockType::F32 => floats::<4>,
        BlockType::F16 => f16,
        BlockType::BF16 => floats::<2>,
        BlockType::Q4_0 => |w, cols, acts, out| plain(BlockType::Q4_0, w, cols, acts, out, q4_0, no_minimum),
        BlockType::Q4_1 => |w, cols, acts, out| plain(BlockType::Q4_1, w, cols, acts, out, q4_1, minimum_at_2),
        BlockType::Q5_0 => |w, cols, acts, out| plain(BlockType::Q5_0, w, cols, acts, out, q5_0, no_minimum),
        BlockType::Q5_1 => |w, cols, acts, out| plain(BlockType::Q5_1, w, cols, acts, out, q5_1, minimum_at_2),
        BlockType::Q8_0 => |w, cols, acts, out| plain(BlockType::Q8_0, w, cols, acts, out, q8_0, no_minimum),
        BlockType::Q2_K => |w, cols, acts, out| supers(BlockType::Q2_K, w, cols, acts, out, q2_k, minima_q2_k),
        BlockType::Q3_K => |w, cols, acts, out| supers(BlockType::Q3_K, w, cols, acts, out, q3_k, no_minima),
        BlockType::Q4_K => |w, cols, acts, out| supers(BlockType::Q4_K, w, cols, acts, out, q4_k, minima_k4),
        BlockType::Q5_K => |w, cols, acts, out| supers(BlockType::Q5_K, w, cols, acts, out, q5_k, minima_k4),
        BlockType::Q6_K => |w, cols, acts, out| supers(BlockType::Q6_K, w, cols, acts, out, q6_k, no_minima),
    }
}

/// Adds one block of 32 to the accumulators.
fn accumulate(acc: &mut [f32; 8], unpacked: &Unpacked, act: &ActRow<'_>, block: usize) {
    let quants = &act.quants[block * 32..][..32];
    for (lane, acc) in acc.iter_mut().enumerate() {
        let sum: i32 = (4 * lane..4 * lane + 4).map(|i| i32::from(unpacked.quants[i]) * i32::from(quants[i])).sum();
        *acc = (sum as f32).mul_add(unpacked.scales[lane / 4] * act.scales[block], *acc);
    }
}

fn added(acc: &[[f32; 8]; 2]) -> f32 {
    fold8(std::array::from_fn(|lane| acc[0][lane] + acc[1][lane]))
}

/// Types with blocks of 32.
fn plain(
    ty: BlockType,
    weights: &[u8],
    cols: usize,
    acts: &[ActRow<'_>],
    out: &mut [f32],
    unpack: fn(&[u8]) -> Unpacked,
    minimum: fn(&[u8]) -> f32,
) {
    let rows = checked(ty, weights, cols, acts, out);
    for (r, row) in weights.chunks_exact(weights.len() / rows).enumerate() {
        for (c, act) in acts.iter().enumerate() {
            let mut acc = [[0.0; 8]; 2];
            let mut low = [0.0_f32; 2];
            for (b, block) in row.chunks_exact(ty.block_bytes()).enumerate() {
                accumulate(&mut acc[b % 2], &unpack(block), act, b);
                low[b % 2] = minimum(block).mul_add(act.sums32[b], low[b % 2]);
            }
            out[c * rows + r] = added(&acc) + (low[0] + low[1]);
        }
    }
}

/// Types with blocks of 256.
fn supers(
    ty: BlockType,
    weights: &[u8],
    cols: usize,
    acts: &[ActRow<'_>],
    out: &mut [f32],
    unpack: fn(&[u8], usize) -> Unpacked,
    minima: fn(&[u8], &ActRow<'_>, usize, &mut [f32; 16]),
) {
    let rows = checked(ty, weights, cols, acts, out);
    for (r, row) in weights.chunks_exact(weights.len() / rows).enumerate() {
        for (c, act) in acts.iter().enumerate() {
            let mut acc = [[0.0; 8]; 2];
            let mut low = [0.0_f32; 16];
            for (s, block) in row.chunks_exact(ty.block_bytes()).enumerate() {
                for j in 0..8 {
                    accumulate(&mut acc[j % 2], &unpack(block, j), act, 8 * s + j);
                }
                minima(block, act, s, &mut low);
            }
            let low = fold8(std::array::from_fn(|k| low[k] + low[k + 8]));
            out[c * rows + r] = added(&acc) - low;
        }
    }
}

fn no_minimum(_: &[u8]) -> f32 {
    0.0
}

fn minimum_at_2(b: &[u8]) -> f32 {
    half_at(b, 2)
}

fn no_minima(_: &[u8], _: &ActRow<'_>, _: usize, _: &mut [f32; 16]) {}

fn minima_k4(b: &[u8], act: &ActRow<'_>, s: usize, low: &mut [f32; 16]) {
    let dmin = half_at(b, 2);
    for k in 0..8 {
        let minimum = dmin * f32::from(scale_min_k4(k, &b[4..16]).1);
        low[k] = minimum.mul_add(act.sums32[8 * s + k], low[k]);
    }
}

fn minima_q2_k(b: &[u8], act: &ActRow<'_>, s: usize, low: &mut [f32; 16]) {
    let dmin = half_at(b, 82);
    for k in 0..16 {
        low[k] = (dmin * f32::from(b[k] >> 4)).mul_add(act.sums16[16 * s + k], low[k]);
    }
}

fn q4_0(b: &[u8]) -> Unpacked {
    Unpacked { quants: std::array::from_fn(|i| nibble(&b[2..], i) as i8 - 8), scales: [half_at(b, 0); 2] }
}

fn q4_1(b: &[u8]) -> Unpacked {
    Unpacked { quants: std::array::from_fn(|i| nibble(&b[4..], i) as i8), scales: [half_at(b, 0); 2] }
}

fn q5_0(b: &[u8]) -> Unpacked {
    let quant = |i: usize| (nibble(&b[6..], i) | (((b[2 + i / 8] >> (i % 8)) & 1) << 4)) as i8 - 16;
    Unpacked { quants: std::array::from_fn(quant), scales: [half_at(b, 0); 2] }
}

fn q5_1(b: &[u8]) -> Unpacked {
    let quant = |i: usize| (nibble(&b[8..], i) | (((b[4 + i / 8] >> (i % 8)) & 1) << 4)) as i8;
    Unpacked { quants: std::array::from_fn(quant), scales: [half_at(b, 0); 2] }
}

fn q8_0(b: &[u8]) -> Unpacked {
    Unpacked { quants: std::array::from_fn(|i| b[2 + i] as i8), scales: [half_at(b, 0); 2] }
}

/// Weight `i` of 32 whose lower halves stand before the upper ones.
fn nibble(quants: &[u8], i: usize) -> u8 {
    if i < 16 { quants[i] & 15 } else { quants[i - 16] >> 4 }
}

fn q2_k(b: &[u8], j: usize) -> Unpacked {
    let quant = |i: usize| ((b[16 + 32 * (j / 4) + i] >> (2 * (j % 4))) & 3) as i8;
    let scale = |k: usize| half_at(b, 80) * f32::from(b[2 * j + k] & 15);
    Unpacked { quants: std::array::from_fn(quant), scales: [scale(0), scale(1)] }
}

fn q3_k(b: &[u8], j: usize) -> Unpacked {
    let quant = |i: usize| {
        let low = (b[32 + 32 * (j / 4) + i] >> (2 * (j % 4))) & 3;
        (low | (((b[i] >> j) & 1) << 2)) as i8 - 4
    };
    let scale = |k: usize| half_at(b, 108) * f32::from(scale_q3k(2 * j + k, &b[96..108]));
    Unpacked { quants: std::array::from_fn(quant), scales: [scale(0), scale(1)] }
}

fn q4_k(b: &[u8], j: usize) -> Unpacked {
    let quant = |i: usize| ((b[16 + 32 * (j / 2) + i] >> (4 * (j % 2))) & 15) as i8;
    Unpacked { quants: std::array::from_fn(quant), scales: [scale_k4(b, j); 2] }
}

fn q5_k(b: &[u8], j: usize) -> Unpacked {
    let quant = |i: usize| {
        let low = (b[48 + 32 * (j / 2) + i] >> (4 * (j % 2))) & 15;
        (low | (((b[16 + i] >> j) & 1) << 4)) as i8
    };
    Unpacked { quants: std::array::from_fn(quant), scales: [scale_k4(b, j); 2] }
}

fn scale_k4(b: &[u8], j: usize) -> f32 {
    half_at(b, 0) * f32::from(scale_min_k4(j, &b[4..16]).0)
}

fn q6_k(b: &[u8], j: usize) -> Unpacked {
    let (half, quarter) = (j / 4, j % 4);
    let quant = |i: usize| {
        let low = (b[64 * half + 32 * (quarter % 2) + i] >> (4 * (quarter / 2))) & 15;
        let high = (b[128 + 32 * half + i] >> (2 * quarter)) & 3;
        (low | (high << 4)) as i8 - 32
    };
    let scale = |k: usize| half_at(b, 208) * f32::from(b[192 + 2 * j + k] as i8);
    Unpacked { quants: std::array::from_fn(quant), scales: [scale(0), scale(1)] }
}

/// F32 (`SIZE` 4) and BF16 (`SIZE` 2): the upper bytes of a single.
fn floats<const SIZE: usize>(weights: &[u8], cols: usize, acts: &[ActRow<'_>], out: &mut [f32]) {
    let ty = if SIZE == 4 { BlockType::F32 } else { BlockType::BF16 };
    float_rows(ty, weights, cols, acts, out, |bytes| {
        let mut single = [0; 4];
        single[4 - SIZE..].copy_from_slice(bytes);
        f32::from_le_bytes(single)
    });
}

fn f16(weights: &[u8], cols: usize, acts: &[ActRow<'_>], out: &mut [f32]) {
    float_rows(BlockType::F16, weights, cols, acts, out, |bytes| half_at(bytes, 0));
}

fn float_rows(
    ty: BlockType,
    weights: &[u8],
    cols: usize,
    acts: &[ActRow<'_>],
    out: &mut [f32],
    weight: impl Fn(&[u8]) -> f32,
) {
    let rows = checked(ty, weights, cols, acts, out);
    for (r, row) in weights.chunks_exact(weights.len() / rows).enumerate() {
        for (c, act) in acts.iter().enumerate() {
            let mut acc = [0.0_f32; 16];
            for (i, (bytes, &x)) in row.chunks_exact(ty.block_bytes()).zip(act.floats).enumerate() {
                acc[i % 16] = weight(bytes).mul_add(x, acc[i % 16]);
            }
            out[c * rows + r] = fold8(std::array::from_fn(|lane| acc[lane] + acc[lane + 8]));
        }
    }
}
