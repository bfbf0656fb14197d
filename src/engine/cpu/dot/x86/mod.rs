//! The dot products with 256-bit registers: AVX2, and the same with VNNI's one-instruction dot product.
//!
//! One text serves both: `V` chooses how 4 × 8 products become a lane (`VPDPBUSD`, or multiply-add pairs twice, which
//! cannot saturate for the magnitudes here). Weights are unpacked once for up to `C` columns of activations.

#![allow(clippy::wildcard_imports)] // intrinsics

mod blocks;
mod floats;
mod supers;

use super::super::acts::ActRow;
use super::super::isa::Isa;
use super::{Rows, checked};
use crate::engine::block::BlockType;
use std::arch::x86_64::*;

/// Columns that a pass over the weights serves at once: what the register file holds.
const COLUMNS: usize = 4;

/// One type's dot product: a row at `row`, `cols` wide, with `C` columns.
trait Dot {
    const TY: BlockType;

    /// # Safety
    /// AVX2, FMA and F16C (and AVX-512 VL and VNNI if `V`) must be there; `row` must hold a row of `cols` weights, and
    /// each column must be `cols` wide.
    unsafe fn dot<const V: bool, const C: usize>(row: *const u8, cols: usize, acts: [&ActRow<'_>; C]) -> [f32; C];
}

/// All rows with all columns, [`COLUMNS`] at a time.
#[inline(always)]
unsafe fn all_rows<D: Dot, const V: bool>(weights: &[u8], cols: usize, acts: &[ActRow<'_>], out: &mut [f32]) {
    let rows = checked(D::TY, weights, cols, acts, out);
    let row_bytes = weights.len() / rows;
    let mut c = 0;
    while c < acts.len() {
        let width = match acts.len() - c {
            left if left >= COLUMNS => COLUMNS,
            left if left >= 2 => 2,
            _ => 1,
        };
        for r in 0..rows {
            let row = &weights[r * row_bytes..][..row_bytes];
            let mut put = |k: usize, sum: f32| out[(c + k) * rows + r] = sum;
            // SAFETY: the caller vouches for the instructions; `checked` has compared every length with `cols`.
            unsafe {
                match width {
                    COLUMNS => {
                        let columns = [&acts[c], &acts[c + 1], &acts[c + 2], &acts[c + 3]];
                        let sums = D::dot::<V, COLUMNS>(row.as_ptr(), cols, columns);
                        (0..COLUMNS).for_each(|k| put(k, sums[k]));
                    }
                    2 => {
                        let sums = D::dot::<V, 2>(row.as_ptr(), cols, [&acts[c], &acts[c + 1]]);
                        (0..2).for_each(|k| put(k, sums[k]));
                    }
                    _ => put(0, D::dot::<V, 1>(row.as_ptr(), cols, [&acts[c]])[0]),
                }
            }
        }
        c += width;
    }
}

macro_rules! kernels {
    ($($ty:ident),*) => {
        /// Picks the kernel of `ty`; `isa` must be there, and at least AVX2.
        pub(super) fn kernel(ty: BlockType, isa: Isa) -> Rows {
            assert!(isa >= Isa::Avx2 && isa <= Isa::detected());
            match (ty, isa) {
                $(
                    (BlockType::$ty, Isa::Vnni) => {
                        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
                        fn vnni(weights: &[u8], cols: usize, acts: &[ActRow<'_>], out: &mut [f32]) {
                            // SAFETY: the features are enabled right here.
                            unsafe { all_rows::<types::$ty, true>(weights, cols, acts, out) }
                        }
                        // SAFETY: `isa` was detected on this machine.
                        |weights, cols, acts, out| unsafe { vnni(weights, cols, acts, out) }
                    }
                    (BlockType::$ty, _) => {
                        #[target_feature(enable = "avx2,fma,f16c")]
                        fn avx2(weights: &[u8], cols: usize, acts: &[ActRow<'_>], out: &mut [f32]) {
                            // SAFETY: the features are enabled right here.
                            unsafe { all_rows::<types::$ty, false>(weights, cols, acts, out) }
                        }
                        // SAFETY: `isa` was detected on this machine.
                        |weights, cols, acts, out| unsafe { avx2(weights, cols, acts, out) }
                    }
                )*
            }
        }
    };
}

kernels!(F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K);

/// A marker a type, named as the type.
#[allow(non_camel_case_types)]
mod types {
    pub(super) struct F32;
    pub(super) struct F16;
    pub(super) struct BF16;
    pub(super) struct Q4_0;
    pub(super) struct Q4_1;
    pub(super) struct Q5_0;
    pub(super) struct Q5_1;
    pub(super) struct Q8_0;
    pub(super) struct Q2_K;
    pub(super) struct Q3_K;
    pub(super) struct Q4_K;
    pub(super) struct Q5_K;
    pub(super) struct Q6_K;
}

/// Lanes of 4 products each: unsigned weights × signed activations.
#[inline(always)]
unsafe fn lanes_unsigned<const V: bool>(weights: __m256i, acts: __m256i) -> __m256i {
    // SAFETY: the caller vouches for the instructions. Pairs of products stay below 2 × 63 × 127 < 2¹⁵.
    unsafe {
        if V {
            _mm256_dpbusd_epi32(_mm256_setzero_si256(), weights, acts)
        } else {
            _mm256_madd_epi16(_mm256_maddubs_epi16(weights, acts), _mm256_set1_epi16(1))
        }
    }
}

/// Lanes of 4 products each: signed weights × signed activations (|activations| ≤ 127).
#[inline(always)]
unsafe fn lanes_signed<const V: bool>(weights: __m256i, acts: __m256i) -> __m256i {
    // SAFETY: the caller vouches for the instructions. |−128| is 128 as an unsigned byte, and pairs of products stay
    // below 2 × 128 × 127 < 2¹⁵.
    unsafe { lanes_unsigned::<V>(_mm256_abs_epi8(weights), _mm256_sign_epi8(acts, weights)) }
}

#[inline(always)]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: the caller vouches for 32 bytes.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

#[inline(always)]
unsafe fn half(at: *const u8) -> f32 {
    // SAFETY: the caller vouches for 2 bytes and F16C.
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(at.cast::<u16>().read_unaligned())))) }
}

/// `fold8` of a register.
#[inline(always)]
unsafe fn fold(v: __m256) -> f32 {
    // SAFETY: the caller vouches for AVX.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
