//! F32, F16 and BF16 rows with unquantised activations.

#![allow(clippy::wildcard_imports)] // intrinsics

use super::super::super::acts::ActRow;
use super::{Dot, fold, half, types};
use crate::engine::block::BlockType;
use std::arch::x86_64::*;

/// How 8 weights, or one, become floats.
trait Widen {
    const TY: BlockType;
    unsafe fn eight(at: *const u8) -> __m256;
    unsafe fn one(at: *const u8) -> f32;
}

#[inline(always)]
unsafe fn row_dot<W: Widen, const C: usize>(row: *const u8, cols: usize, acts: [&ActRow<'_>; C]) -> [f32; C] {
    // SAFETY: the caller vouches for the instructions, and that the row and each column hold `cols` weights.
    unsafe {
        let size = W::TY.block_bytes();
        let zero = _mm256_setzero_ps();
        let (mut lower, mut upper) = ([zero; C], [zero; C]);
        let whole = cols / 16 * 16;
        for i in (0..whole).step_by(16) {
            let weights = [W::eight(row.add(i * size)), W::eight(row.add((i + 8) * size))];
            for c in 0..C {
                let x = acts[c].floats.as_ptr().add(i);
                lower[c] = _mm256_fmadd_ps(weights[0], _mm256_loadu_ps(x), lower[c]);
                upper[c] = _mm256_fmadd_ps(weights[1], _mm256_loadu_ps(x.add(8)), upper[c]);
            }
        }
        std::array::from_fn(|c| {
            let mut lanes = [0.0_f32; 16];
            _mm256_storeu_ps(lanes.as_mut_ptr(), lower[c]);
            _mm256_storeu_ps(lanes.as_mut_ptr().add(8), upper[c]);
            for i in whole..cols {
                let lane = &mut lanes[i - whole];
                *lane = W::one(row.add(i * size)).mul_add(*acts[c].floats.get_unchecked(i), *lane);
            }
            fold(_mm256_add_ps(_mm256_loadu_ps(lanes.as_ptr()), _mm256_loadu_ps(lanes.as_ptr().add(8))))
        })
    }
}

macro_rules! dot_by_floats {
    ($ty:ident, |$at:ident| $eight:expr, $one:expr) => {
        impl Widen for types::$ty {
            const TY: BlockType = BlockType::$ty;

            #[inline(always)]
            unsafe fn eight($at: *const u8) -> __m256 {
                // SAFETY: the caller vouches for 8 weights, AVX2 and F16C.
                unsafe { $eight }
            }

            #[inline(always)]
            unsafe fn one($at: *const u8) -> f32 {
                // SAFETY: the caller vouches for a weight and F16C.
                unsafe { $one }
            }
        }

        impl Dot for types::$ty {
            const TY: BlockType = BlockType::$ty;

            #[inline(always)]
            unsafe fn dot<const V: bool, const C: usize>(
                row: *const u8,
                cols: usize,
                acts: [&ActRow<'_>; C],
            ) -> [f32; C] {
                // SAFETY: the caller vouches for all that `row_dot` asks.
                unsafe { row_dot::<types::$ty, C>(row, cols, acts) }
            }
        }
    };
}

dot_by_floats!(F32, |at| _mm256_loadu_ps(at.cast()), at.cast::<f32>().read_unaligned());
dot_by_floats!(F16, |at| _mm256_cvtph_ps(_mm_loadu_si128(at.cast())), half(at));
dot_by_floats!(
    BF16,
    |at| _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())), 16)),
    f32::from_bits(u32::from(at.cast::<u16>().read_unaligned()) << 16)
);
