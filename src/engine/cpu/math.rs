//! Float operations of the forward pass, written once for every instruction set.
//!
//! Each function is plain Rust over fixed lanes with explicit fused multiply-adds, so that its result does not depend on
//! how the compiler vectorises it: the portable build and the AVX2 build of the same text (see `isa`) agree bit for bit.

use super::acts::BLOCK;

/// Lanes of the sums below: what one AVX-512 register or two AVX2 registers hold.
const LANES: usize = 16;

/// Adds 16 lanes in a fixed order.
#[inline(always)]
pub fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Scalar product.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_whole, b_whole) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_whole.remainder(), b_whole.remainder());
    for (a, b) in a_whole.zip(b_whole) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for i in 0..a_rest.len().min(b_rest.len()) {
        lanes[i] = a_rest[i].mul_add(b_rest[i], lanes[i]);
    }
    fold(lanes)
}

/// RMSNorm: `out = x / √(mean(x²) + epsilon) × weight`.
#[inline(always)]
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let mean = dot(x, x) / x.len() as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// eˣ to within 2 units in the last place, 0 below −87 and +∞ above 88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.7);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, clamped));
    // Minimax polynomial of (eʳ − 1 − r) / r² on ±ln2/2 (Cephes expf).
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let e = p.mul_add(r * r, r) + 1.0;
    // 2ⁿ in two factors, since n = 128 has no exponent of its own.
    let half = (n as i32) >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    let e = e * power(half) * power(n as i32 - half);
    if x < -87.3 {
        0.0
    } else if x > 88.7 {
        f32::INFINITY
    } else {
        e // and NaN stays NaN
    }
}

/// `gate = silu(gate) × up`.
#[inline(always)]
pub fn silu_times(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// Rotates the first `2 × cos.len()` floats of each head, in pairs (2i, 2i + 1).
#[inline(always)]
pub fn rotate(heads: &mut [f32], head_width: usize, cos: &[f32], sin: &[f32]) {
    for head in heads.chunks_exact_mut(head_width) {
        for ((pair, &c), &s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
            let (x, y) = (pair[0], pair[1]);
            pair[0] = x * c - y * s;
            pair[1] = x * s + y * c;
        }
    }
}

/// One query head over `scores.len()` cached positions: `keys` and `values` are `[position][head_width]`.
#[inline(always)]
pub fn attend(query: &[f32], keys: &[f32], values: &[f32], scores: &mut [f32], out: &mut [f32]) {
    let width = query.len();
    let scale = 1.0 / (width as f32).sqrt();
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(width)) {
        *score = dot(query, key) * scale;
    }
    let mut top = [f32::NEG_INFINITY; LANES];
    for chunk in scores.chunks(LANES) {
        for (top, &score) in top.iter_mut().zip(chunk) {
            *top = if score > *top { score } else { *top };
        }
    }
    let top = top.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0_f32; LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp(*score - top);
            *sum += *score;
        }
    }
    let inverse = 1.0 / fold(sums);
    out.fill(0.0);
    for (&score, value) in scores.iter().zip(values.chunks_exact(width)) {
        let weight = score * inverse;
        for (out, &value) in out.iter_mut().zip(value) {
            *out = weight.mul_add(value, *out);
        }
    }
}

/// Blocks of 32 activations to 8 bits, as `acts` defines it.
#[inline(always)]
pub fn quantize(floats: &[f32], quants: &mut [i8], scales: &mut [f32], sums32: &mut [f32], sums16: &mut [f32]) {
    for (block, (floats, quants)) in floats.chunks_exact(BLOCK).zip(quants.chunks_exact_mut(BLOCK)).enumerate() {
        let mut top = [0.0_f32; 8];
        for chunk in floats.chunks_exact(8) {
            for i in 0..8 {
                let magnitude = chunk[i].abs();
                top[i] = if magnitude > top[i] { magnitude } else { top[i] };
            }
        }
        let top = top.into_iter().fold(0.0, f32::max);
        let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
        let scale = top / 127.0;
        let mut sums = [0_i32; 2];
        for half in 0..2 {
            for i in half * 16..half * 16 + 16 {
                let quant = (floats[i] * inverse).round_ties_even() as i32;
                quants[i] = quant as i8;
                sums[half] += quant;
            }
        }
        scales[block] = scale;
        sums16[2 * block] = scale * sums[0] as f32;
        sums16[2 * block + 1] = scale * sums[1] as f32;
        sums32[block] = scale * (sums[0] + sums[1]) as f32;
    }
}
