//! Rows of quantized weights times columns of 8-bit activations.
//!
//! # The sum, exactly
//!
//! Every instruction set computes the same sum in the same order, so that results agree bit for bit. A row is taken in
//! blocks `b` of 32 weights; lane `l` (of 8) of a block holds weights `4l .. 4l + 4`.
//! - `I[b][l]`: sum of integer weight × activation quant over the lane. Exact.
//! - `S[b][l]`: single-precision scale of the lane's weights (`d`, or `d × sub-scale`) × activation scale. Two roundings.
//! - `acc[b mod 2][l] = fma(I[b][l], S[b][l], acc[b mod 2][l])`.
//! - Types with minima: `low[k] = fma(minimum, sum, low[k])` with the activations' sum over the sub-block, where `k` is
//!   the sub-block's number within the super-block (Q4_K, Q5_K: 8; Q2_K: 16, of which k and k + 8 are added at the end),
//!   or `b mod 2` for Q4_1 and Q5_1. The K types' minimum is `dmin × m`, rounded, and subtracted in the end.
//! - The result is `fold(acc[0] + acc[1]) ∓ fold(low)`, where `fold` adds lanes l and l + 4, then l + 2, then l + 1.
//!
//! F32, F16 and BF16 rows meet the unquantised activations: 16 lanes, `acc[i mod 16] = fma(w, x, acc[i mod 16])`, and
//! `fold` of the lower and upper eight added.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::acts::ActRow;
use super::isa::Isa;
use crate::engine::block::BlockType;

/// `out[c * rows + r]` = row r of `weights` times column c of `acts`, for all whole rows in `weights`.
pub type Rows = fn(weights: &[u8], cols: usize, acts: &[ActRow<'_>], out: &mut [f32]);

/// The kernel for a type on an instruction set that this machine has.
#[must_use]
pub fn kernel(ty: BlockType, isa: Isa) -> Rows {
    #[cfg(target_arch = "x86_64")]
    {
        let isa = isa.min(Isa::detected());
        if isa >= Isa::Avx2 {
            return x86::kernel(ty, isa);
        }
    }
    let _ = isa;
    portable::kernel(ty)
}

/// Adds 8 lanes in the documented order.
#[inline(always)]
fn fold8(v: [f32; 8]) -> f32 {
    let four = [v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]];
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Checks what every kernel relies on: whole rows, one width, room for the results. Returns the rows' count.
fn checked(ty: BlockType, weights: &[u8], cols: usize, acts: &[ActRow<'_>], out: &[f32]) -> usize {
    let row_bytes = cols / ty.block_weights() * ty.block_bytes();
    assert!(cols.is_multiple_of(ty.block_weights()) && row_bytes > 0, "{ty}: rows of {cols}");
    let rows = weights.len() / row_bytes;
    assert!(rows > 0 && weights.len() == rows * row_bytes, "{ty}: a partial row");
    assert!(out.len() >= rows * acts.len(), "no room for the results");
    for act in acts {
        assert_eq!(act.floats.len(), cols);
        if ty.block_weights() > 1 {
            assert!(act.quants.len() == cols && act.scales.len() * 32 == cols);
            assert!(act.sums32.len() * 32 == cols && act.sums16.len() * 16 == cols);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::acts::Acts;
    use super::*;
    use crate::engine::block::dequantize;
    use crate::engine::synth::Generator;

    /// Random rows of weights and columns of activations, from a seed.
    fn case(ty: BlockType, seed: u64, cols: usize, rows: usize, columns: usize) -> (Vec<u8>, Acts) {
        let mut weights = vec![0; rows * cols / ty.block_weights() * ty.block_bytes()];
        Generator::new(seed, "blk.0.ffn_up.weight", ty, cols, 4).fill(0, &mut weights);
        let mut acts = Acts::new(columns, cols);
        for column in 0..columns {
            let floats = acts.floats_mut(column, cols);
            for (i, x) in floats.iter_mut().enumerate() {
                let hash = crate::engine::synth::mix(seed ^ ((column * cols + i) as u64) << 20);
                *x = (hash >> 40) as f32 / 8_388_608.0 - 1.0;
            }
            acts.quantize(column, cols);
        }
        (weights, acts)
    }

    fn widths(ty: BlockType) -> Vec<usize> {
        match ty.block_weights() {
            1 => vec![1, 15, 16, 37, 576],
            32 => vec![32, 96, 576],
            _ => vec![256, 768],
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for ty in BlockType::ALL {
            for cols in widths(ty) {
                for columns in [1, 2, 3, 7] {
                    let (weights, acts) = case(ty, 5, cols, 3, columns);
                    let views: Vec<ActRow<'_>> = (0..columns).map(|c| acts.row(c, cols)).collect();
                    let mut expected = vec![0.0; 3 * columns];
                    kernel(ty, Isa::Portable)(&weights, cols, &views, &mut expected);
                    for isa in Isa::available() {
                        let mut out = vec![f32::NAN; 3 * columns];
                        kernel(ty, isa)(&weights, cols, &views, &mut out);
                        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&out), bits(&expected), "{ty} {cols} × {columns} on {}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_quants_do_not_saturate() {
        for ty in BlockType::ALL.into_iter().filter(|ty| ty.block_weights() > 1) {
            for fill in [0x00, 0x7F, 0x80, 0xFF] {
                let mut weights = vec![fill; ty.block_bytes() * 256 / ty.block_weights()];
                let (d, m) = crate::engine::synth::fields(ty);
                for block in weights.chunks_exact_mut(ty.block_bytes()) {
                    block[d..d + 2].copy_from_slice(&half::f16::from_f32(0.25).to_le_bytes());
                    if let Some(m) = m {
                        block[m..m + 2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
                    }
                }
                let mut acts = Acts::new(1, 256);
                acts.floats_mut(0, 256)
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, x)| *x = if i % 3 == 0 { -1.0 } else { 1.0 });
                acts.quantize(0, 256);
                let view = [acts.row(0, 256)];
                let mut expected = [0.0];
                kernel(ty, Isa::Portable)(&weights, 256, &view, &mut expected);
                for isa in Isa::available() {
                    let mut out = [f32::NAN];
                    kernel(ty, isa)(&weights, 256, &view, &mut out);
                    assert_eq!(out[0].to_bits(), expected[0].to_bits(), "{ty} filled with {fill:#x} on {}", isa.name());
                }
            }
        }
    }

    /// Exact emulation of the 8-bit activations in double precision.
    #[test]
    fn the_sum_is_that_of_the_dequantised_weights_and_activations() {
        for ty in BlockType::ALL {
            for cols in widths(ty) {
                let (weights, acts) = case(ty, 9, cols, 2, 1);
                let act = acts.row(0, cols);
                let mut floats = vec![0.0; 2 * cols];
                dequantize(ty, &weights, &mut floats);
                let mut out = [0.0; 2];
                kernel(ty, Isa::detected())(&weights, cols, &[act], &mut out);
                for (row, &got) in floats.chunks_exact(cols).zip(&out) {
                    let x = |i: usize| match ty.block_weights() {
                        1 => f64::from(act.floats[i]),
                        _ => f64::from(act.scales[i / 32]) * f64::from(act.quants[i]),
                    };
                    let terms = || row.iter().enumerate().map(|(i, &w)| f64::from(w) * x(i));
                    let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    assert!((f64::from(got) - sum).abs() <= 1e-5 * size + 1e-12, "{ty} {cols}: {got} for {sum}");
                }
            }
        }
    }
}
