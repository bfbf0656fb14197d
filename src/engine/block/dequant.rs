//! Blocks to floats, one function a type: the definition of what each type means.
//!
//! The order of the float operations is part of the definition (it is that of ggml and candle, bit for bit); the tests
//! hold it against candle's. Nothing here is fast; the back ends take dot products without leaving integers.

use super::{BlockType, SUPER, half_at, scale_min_k4, scale_q3k};

/// Turns whole blocks of type `ty` into floats.
///
/// # Panics
/// If `bytes` and `out` do not hold the same whole number of blocks.
pub fn dequantize(ty: BlockType, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.len() / ty.block_bytes();
    assert_eq!(bytes.len(), blocks * ty.block_bytes(), "{ty}: a partial block");
    assert_eq!(out.len(), blocks * ty.block_weights(), "{ty}: output length");
    let one: fn(&[u8], &mut [f32]) = match ty {
        BlockType::F32 => f32_one,
        BlockType::F16 => f16_one,
        BlockType::BF16 => bf16_one,
        BlockType::Q4_0 => q4_0,
        BlockType::Q4_1 => q4_1,
        BlockType::Q5_0 => q5_0,
        BlockType::Q5_1 => q5_1,
        BlockType::Q8_0 => q8_0,
        BlockType::Q2_K => q2_k,
        BlockType::Q3_K => q3_k,
        BlockType::Q4_K => q4_k,
        BlockType::Q5_K => q5_k,
        BlockType::Q6_K => q6_k,
    };
    for (block, out) in bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_weights())) {
        one(block, out);
    }
}

fn f32_one(b: &[u8], out: &mut [f32]) {
    out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
}

fn f16_one(b: &[u8], out: &mut [f32]) {
    out[0] = half_at(b, 0);
}

fn bf16_one(b: &[u8], out: &mut [f32]) {
    out[0] = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
}

fn q4_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for j in 0..16 {
        out[j] = f32::from(i16::from(b[2 + j] & 15) - 8) * d;
        out[j + 16] = f32::from(i16::from(b[2 + j] >> 4) - 8) * d;
    }
}

fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for j in 0..16 {
        out[j] = f32::from(b[4 + j] & 15) * d + m;
        out[j + 16] = f32::from(b[4 + j] >> 4) * d + m;
    }
}

/// The two 5-bit numbers of byte `j`: nibbles at `quants`, fifth bits at `high`.
fn five_bits(b: &[u8], high: usize, quants: usize, j: usize) -> (u8, u8) {
    let bit = |k: usize| ((b[high + k / 8] >> (k % 8)) & 1) << 4;
    ((b[quants + j] & 15) | bit(j), (b[quants + j] >> 4) | bit(j + 16))
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for j in 0..16 {
        let (lo, hi) = five_bits(b, 2, 6, j);
        out[j] = f32::from(i16::from(lo) - 16) * d;
        out[j + 16] = f32::from(i16::from(hi) - 16) * d;
    }
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for j in 0..16 {
        let (lo, hi) = five_bits(b, 4, 8, j);
        out[j] = f32::from(lo) * d + m;
        out[j + 16] = f32::from(hi) * d + m;
    }
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for j in 0..32 {
        out[j] = f32::from(b[2 + j] as i8) * d;
    }
}

fn q2_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (k, out) in out.iter_mut().enumerate() {
        let q = (b[16 + 32 * (k / 128) + k % 32] >> (2 * ((k / 32) % 4))) & 3;
        let scale = b[k / 16];
        *out = (d * f32::from(scale & 15)) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

fn q3_k(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 108);
    for (k, out) in out.iter_mut().enumerate() {
        let low = (b[32 + 32 * (k / 128) + k % 32] >> (2 * ((k / 32) % 4))) & 3;
        let high = (b[k % 32] >> (k / 32)) & 1;
        let q = low as i8 - if high == 0 { 4 } else { 0 };
        *out = (d * f32::from(scale_q3k(k / 16, &b[96..108]))) * f32::from(q);
    }
}

fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (k, out) in out.iter_mut().enumerate() {
        let (scale, min) = scale_min_k4(k / 32, &b[4..16]);
        let q = (b[16 + 32 * (k / 64) + k % 32] >> (4 * ((k / 32) % 2))) & 15;
        *out = (d * f32::from(scale)) * f32::from(q) - dmin * f32::from(min);
    }
}

fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (k, out) in out.iter_mut().enumerate() {
        let (scale, min) = scale_min_k4(k / 32, &b[4..16]);
        let low = (b[48 + 32 * (k / 64) + k % 32] >> (4 * ((k / 32) % 2))) & 15;
        let high = (b[16 + k % 32] >> (k / 32)) & 1;
        *out = (d * f32::from(scale)) * f32::from(low | (high << 4)) - dmin * f32::from(min);
    }
}

fn q6_k(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 208);
    for k in 0..SUPER {
        let (half, l) = (k / 128, k % 32);
        let quarter = (k / 32) % 4;
        let low = (b[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2))) & 15;
        let high = (b[128 + 32 * half + l] >> (2 * quarter)) & 3;
        let q = (low | (high << 4)) as i8 - 32;
        out[k] = d * f32::from(b[192 + k / 16] as i8) * f32::from(q);
    }
}
