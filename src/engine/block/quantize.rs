//! Floats to blocks: how weights become a type, for measuring what each type costs in precision.
//!
//! Scales are searched: for each sub-block some candidates around the obvious scale are tried, each with the least
//! squares fit of its rounding, and the one with the least squared error is kept. That is the idea behind the K types'
//! reference quantiser without its importance weights; the tests hold the error against candle's.

use super::{BlockType, SUPER};

/// Turns whole blocks of floats into blocks of type `ty`.
///
/// # Panics
/// If `weights` is no whole number of blocks.
#[must_use]
pub fn quantize(ty: BlockType, weights: &[f32]) -> Vec<u8> {
    assert_eq!(weights.len() % ty.block_weights(), 0, "{ty}: a partial block");
    let mut out = Vec::with_capacity(weights.len() / ty.block_weights() * ty.block_bytes());
    for block in weights.chunks_exact(ty.block_weights()) {
        match ty {
            BlockType::F32 => out.extend_from_slice(&block[0].to_le_bytes()),
            BlockType::F16 => out.extend_from_slice(&half::f16::from_f32(block[0]).to_le_bytes()),
            BlockType::BF16 => out.extend_from_slice(&half::bf16::from_f32(block[0]).to_le_bytes()),
            BlockType::Q4_0 => symmetric_32(block, 8, &mut out),
            BlockType::Q5_0 => symmetric_32(block, 16, &mut out),
            BlockType::Q4_1 => affine_32(block, 15, &mut out),
            BlockType::Q5_1 => affine_32(block, 31, &mut out),
            BlockType::Q8_0 => q8_0(block, &mut out),
            BlockType::Q2_K => q2_k(block, &mut out),
            BlockType::Q3_K => q3_k(block, &mut out),
            BlockType::Q4_K => k4(block, false, &mut out),
            BlockType::Q5_K => k4(block, true, &mut out),
            BlockType::Q6_K => q6_k(block, &mut out),
        }
    }
    out
}

/// `scale` such that x ≈ scale × q with q in `-n ..= n - 1`.
fn fit_symmetric(x: &[f32], n: i32) -> f32 {
    let top = x.iter().copied().fold(0.0_f32, |top, x| if x.abs() > top.abs() { x } else { top });
    if top == 0.0 {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    for step in -9..=9 {
        // The greatest weight becomes about −n, the one value more on the negative side.
        let inverse = -(n as f32 + 0.1 * step as f32) / top;
        let (mut xq, mut qq) = (0.0, 0.0);
        for &x in x {
            let q = (x * inverse).round_ties_even().clamp(-n as f32, (n - 1) as f32);
            xq += x * q;
            qq += q * q;
        }
        if qq > 0.0 && xq * xq > best.0 * qq {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// `(scale, minimum)` such that x ≈ scale × q − minimum with q in `0 ..= n` and a minimum that is not negative.
fn fit_affine(x: &[f32], n: i32) -> (f32, f32) {
    let low = x.iter().copied().fold(0.0_f32, f32::min);
    let high = x.iter().copied().fold(low, f32::max);
    if high == low {
        return (0.0, -low);
    }
    let error = |scale: f32, low: f32| -> f32 {
        let q = |x: f32| ((x - low) / scale).round_ties_even().clamp(0.0, n as f32);
        x.iter().map(|&x| (scale * q(x) + low - x).powi(2)).sum()
    };
    let mut best = ((high - low) / n as f32, low);
    let mut least = error(best.0, best.1);
    for step in -10..=10 {
        let inverse = (n as f32 + 0.1 * step as f32) / (high - low);
        let (mut q1, mut q2, mut x1, mut xq) = (0.0, 0.0, 0.0, 0.0);
        for &x in x {
            let q = ((x - low) * inverse).round_ties_even().clamp(0.0, n as f32);
            q1 += q;
            q2 += q * q;
            x1 += x;
            xq += x * q;
        }
        let count = x.len() as f32;
        let spread = count * q2 - q1 * q1;
        if spread <= 0.0 {
            continue;
        }
        let mut scale = (count * xq - x1 * q1) / spread;
        let mut offset = (q2 * x1 - q1 * xq) / spread;
        if offset > 0.0 {
            (scale, offset) = (xq / q2, 0.0);
        }
        if scale > 0.0 && error(scale, offset) < least {
            least = error(scale, offset);
            best = (scale, offset);
        }
    }
    (best.0, -best.1)
}

/// A single as a half: its bytes, and what they mean.
fn half_of(x: f32) -> ([u8; 2], f32) {
    let half = half::f16::from_f32(x);
    (half.to_le_bytes(), half.to_f32())
}

/// `x / scale` rounded into `low ..= high`; 0 where there is no scale.
fn level(x: f32, scale: f32, low: i32, high: i32) -> i32 {
    if scale == 0.0 { 0.clamp(low, high) } else { (x / scale).round_ties_even().clamp(low as f32, high as f32) as i32 }
}

/// 32 numbers of 4 or 5 bits as nibbles, the fifth bits apart.
fn pack_32(quants: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let nibbles = std::array::from_fn(|j| (quants[j] & 15) | ((quants[j + 16] & 15) << 4));
    let mut high = [0; 4];
    for (j, quant) in quants.iter().enumerate() {
        high[j / 8] |= (quant >> 4) << (j % 8);
    }
    (nibbles, high)
}

fn symmetric_32(x: &[f32], n: i32, out: &mut Vec<u8>) {
    let (bytes, d) = half_of(fit_symmetric(x, n));
    let (nibbles, high) = pack_32(&std::array::from_fn(|j| (level(x[j], d, -n, n - 1) + n) as u8));
    out.extend_from_slice(&bytes);
    if n > 8 {
        out.extend_from_slice(&high);
    }
    out.extend_from_slice(&nibbles);
}

fn affine_32(x: &[f32], n: i32, out: &mut Vec<u8>) {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let ((d_bytes, d), (m_bytes, m)) = (half_of((high - low) / n as f32), half_of(low));
    let (nibbles, fifth) = pack_32(&std::array::from_fn(|j| level(x[j] - m, d, 0, n) as u8));
    out.extend_from_slice(&d_bytes);
    out.extend_from_slice(&m_bytes);
    if n > 15 {
        out.extend_from_slice(&fifth);
    }
    out.extend_from_slice(&nibbles);
}

fn q8_0(x: &[f32], out: &mut Vec<u8>) {
    let top = x.iter().fold(0.0_f32, |top, x| top.max(x.abs()));
    let (bytes, d) = half_of(top / 127.0);
    out.extend_from_slice(&bytes);
    out.extend(x.iter().map(|&x| level(x, d, -127, 127) as i8 as u8));
}

/// Sub-block scales and minima as small integers times two halves.
struct Affine<const N: usize> {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [u8; N],
    minima: [u8; N],
    /// What they mean.
    pairs: [(f32, f32); N],
}

/// Fits each of `N` sub-blocks, then expresses scales and minima as `0 ..= levels` of two shared halves.
fn share_affine<const N: usize>(x: &[f32], n: i32, levels: i32) -> Affine<N> {
    let fits: [(f32, f32); N] = std::array::from_fn(|j| fit_affine(&x[j * SUPER / N..(j + 1) * SUPER / N], n));
    let top = |pick: fn(&(f32, f32)) -> f32| fits.iter().map(pick).fold(0.0_f32, f32::max);
    let (d_bytes, d) = half_of(top(|fit| fit.0) / levels as f32);
    let (m_bytes, dmin) = half_of(top(|fit| fit.1) / levels as f32);
    let scales: [u8; N] = std::array::from_fn(|j| level(fits[j].0, d, 0, levels) as u8);
    let minima: [u8; N] = std::array::from_fn(|j| level(fits[j].1, dmin, 0, levels) as u8);
    let pairs = std::array::from_fn(|j| (d * f32::from(scales[j]), dmin * f32::from(minima[j])));
    Affine { d: d_bytes, dmin: m_bytes, scales, minima, pairs }
}

fn q2_k(x: &[f32], out: &mut Vec<u8>) {
    let shared = share_affine::<16>(x, 3, 15);
    out.extend((0..16).map(|j| shared.scales[j] | (shared.minima[j] << 4)));
    let mut packed = [0_u8; 64];
    for (k, &x) in x.iter().enumerate() {
        let (scale, minimum) = shared.pairs[k / 16];
        let quant = level(x + minimum, scale, 0, 3) as u8;
        packed[32 * (k / 128) + k % 32] |= quant << (2 * ((k / 32) % 4));
    }
    out.extend_from_slice(&packed);
    out.extend_from_slice(&shared.d);
    out.extend_from_slice(&shared.dmin);
}

/// Q4_K, and with fifth bits Q5_K.
fn k4(x: &[f32], fifth: bool, out: &mut Vec<u8>) {
    let n = if fifth { 31 } else { 15 };
    let shared = share_affine::<8>(x, n, 63);
    out.extend_from_slice(&shared.d);
    out.extend_from_slice(&shared.dmin);
    let mut packed = [0_u8; 12];
    for j in 0..8 {
        let (scale, minimum) = (shared.scales[j], shared.minima[j]);
        if j < 4 {
            packed[j] |= scale;
            packed[j + 4] |= minimum;
        } else {
            packed[j + 4] = (scale & 15) | ((minimum & 15) << 4);
            packed[j - 4] |= (scale >> 4) << 6;
            packed[j] |= (minimum >> 4) << 6;
        }
    }
    out.extend_from_slice(&packed);
    let (mut nibbles, mut high) = ([0_u8; 128], [0_u8; 32]);
    for (k, &x) in x.iter().enumerate() {
        let (scale, minimum) = shared.pairs[k / 32];
        let quant = level(x + minimum, scale, 0, n) as u8;
        nibbles[32 * (k / 64) + k % 32] |= (quant & 15) << (4 * ((k / 32) % 2));
        high[k % 32] |= (quant >> 4) << (k / 32);
    }
    if fifth {
        out.extend_from_slice(&high);
    }
    out.extend_from_slice(&nibbles);
}

/// Sub-block scales as integers in `-levels ..= levels - 1` times one half: its bytes, the integers, what they mean.
fn share_symmetric(x: &[f32], n: i32, levels: i32) -> ([u8; 2], [i32; 16], [f32; 16]) {
    let fits: [f32; 16] = std::array::from_fn(|j| fit_symmetric(&x[16 * j..16 * j + 16], n));
    let top = fits.iter().copied().fold(0.0_f32, |top, fit| if fit.abs() > top.abs() { fit } else { top });
    let (bytes, d) = half_of(-top / levels as f32);
    let scales: [i32; 16] = std::array::from_fn(|j| level(fits[j], d, -levels, levels - 1));
    (bytes, scales, std::array::from_fn(|j| d * scales[j] as f32))
}

fn q3_k(x: &[f32], out: &mut Vec<u8>) {
    let (d, scales, means) = share_symmetric(x, 4, 32);
    let (mut high, mut low, mut packed) = ([0_u8; 32], [0_u8; 64], [0_u8; 12]);
    for (k, &x) in x.iter().enumerate() {
        let quant = (level(x, means[k / 16], -4, 3) + 4) as u8;
        low[32 * (k / 128) + k % 32] |= (quant & 3) << (2 * ((k / 32) % 4));
        high[k % 32] |= (quant >> 2) << (k / 32);
    }
    for (j, scale) in scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        packed[j % 8] |= (scale & 15) << (4 * (j / 8));
        packed[8 + j % 4] |= (scale >> 4) << (2 * (j / 4));
    }
    out.extend_from_slice(&high);
    out.extend_from_slice(&low);
    out.extend_from_slice(&packed);
    out.extend_from_slice(&d);
}

fn q6_k(x: &[f32], out: &mut Vec<u8>) {
    let (d, scales, means) = share_symmetric(x, 32, 128);
    let (mut low, mut high) = ([0_u8; 128], [0_u8; 64]);
    for (k, &x) in x.iter().enumerate() {
        let quant = (level(x, means[k / 16], -32, 31) + 32) as u8;
        let (half, quarter, l) = (k / 128, (k / 32) % 4, k % 32);
        low[64 * half + 32 * (quarter % 2) + l] |= (quant & 15) << (4 * (quarter / 2));
        high[32 * half + l] |= (quant >> 4) << (2 * quarter);
    }
    out.extend_from_slice(&low);
    out.extend_from_slice(&high);
    out.extend(scales.iter().map(|&scale| scale as i8 as u8));
    out.extend_from_slice(&d);
}
