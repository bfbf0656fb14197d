//! Types with blocks of 256: eight steps of 32 weights, with 8 or 16 sub-scales.

#![allow(clippy::wildcard_imports)] // intrinsics

use super::super::super::acts::ActRow;
use super::{Dot, fold, half, lanes_signed, lanes_unsigned, load, types};
use crate::engine::block::BlockType;
use std::arch::x86_64::*;

/// How a super-block is unpacked.
trait Super {
    const TY: BlockType;
    /// Weights that share a scale: 32 or 16.
    const SCALED: usize;
    /// Quants come out signed; otherwise there are minima.
    const SIGNED: bool;

    /// The 32 quants of step `J`.
    unsafe fn quants<const J: usize>(block: *const u8) -> __m256i;
    /// `d ×` sub-scale; 8 of them in the first register, or 16 in both.
    unsafe fn scales(block: *const u8) -> [__m256; 2];
    /// `dmin ×` sub-minimum, laid out as the scales.
    #[inline(always)]
    unsafe fn minima(_block: *const u8) -> [__m256; 2] {
        // SAFETY: the caller vouches for AVX.
        unsafe { [_mm256_setzero_ps(); 2] }
    }
}

/// Shifts 16-bit lanes right by a number that is constant where this is inlined.
#[inline(always)]
unsafe fn shift(v: __m256i, by: usize) -> __m256i {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        match by {
            0 => v,
            1 => _mm256_srli_epi16(v, 1),
            2 => _mm256_srli_epi16(v, 2),
            3 => _mm256_srli_epi16(v, 3),
            4 => _mm256_srli_epi16(v, 4),
            5 => _mm256_srli_epi16(v, 5),
            6 => _mm256_srli_epi16(v, 6),
            _ => _mm256_srli_epi16(v, 7),
        }
    }
}

/// The low `bits` of each byte of `v >> by`.
#[inline(always)]
unsafe fn field(v: __m256i, by: usize, bits: u32) -> __m256i {
    // SAFETY: the caller vouches for AVX2.
    unsafe { _mm256_and_si256(shift(v, by), _mm256_set1_epi8((1_i8 << bits) - 1)) }
}

/// Scales of one column for the 8 steps of a super-block.
#[derive(Clone, Copy)]
struct StepScales([__m256; 2]);

/// Adds step `J` of a super-block to the accumulators of its parity.
#[inline(always)]
unsafe fn step<S: Super, const J: usize, const V: bool, const C: usize>(
    block: *const u8,
    quants_at: usize,
    acts: &[&ActRow<'_>; C],
    scales: &[StepScales; C],
    acc: &mut [__m256; C],
) {
    // SAFETY: the caller vouches for the instructions and the lengths.
    unsafe {
        let weights = S::quants::<J>(block);
        for c in 0..C {
            let quants = load(acts[c].quants.as_ptr().add(quants_at + 32 * J).cast());
            let sums =
                if S::SIGNED { lanes_signed::<V>(weights, quants) } else { lanes_unsigned::<V>(weights, quants) };
            let scale = if S::SCALED == 32 {
                _mm256_permutevar8x32_ps(scales[c].0[0], _mm256_set1_epi32(J as i32))
            } else {
                let (a, b) = ((2 * J % 8) as i32, ((2 * J + 1) % 8) as i32);
                _mm256_permutevar8x32_ps(scales[c].0[J / 4], _mm256_setr_epi32(a, a, a, a, b, b, b, b))
            };
            acc[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, acc[c]);
        }
    }
}

#[inline(always)]
unsafe fn row_dot<S: Super, const V: bool, const C: usize>(
    row: *const u8,
    cols: usize,
    acts: [&ActRow<'_>; C],
) -> [f32; C] {
    // SAFETY: the caller vouches for the instructions, and that the row and each column hold `cols / 256` super-blocks.
    unsafe {
        let zero = _mm256_setzero_ps();
        let (mut even, mut odd, mut low) = ([zero; C], [zero; C], [[zero; 2]; C]);
        for s in 0..cols / 256 {
            let block = row.add(s * S::TY.block_bytes());
            let weight_scales = S::scales(block);
            let minima = S::minima(block);
            let mut scales = [StepScales([zero; 2]); C];
            for c in 0..C {
                let act_scales = _mm256_loadu_ps(acts[c].scales.as_ptr().add(8 * s));
                if S::SCALED == 32 {
                    scales[c].0[0] = _mm256_mul_ps(weight_scales[0], act_scales);
                    if !S::SIGNED {
                        let sums = _mm256_loadu_ps(acts[c].sums32.as_ptr().add(8 * s));
                        low[c][0] = _mm256_fmadd_ps(minima[0], sums, low[c][0]);
                    }
                } else {
                    let lower = _mm256_permutevar8x32_ps(act_scales, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
                    let upper = _mm256_permutevar8x32_ps(act_scales, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
                    scales[c].0 = [_mm256_mul_ps(weight_scales[0], lower), _mm256_mul_ps(weight_scales[1], upper)];
                    if !S::SIGNED {
                        let sums = acts[c].sums16.as_ptr().add(16 * s);
                        low[c][0] = _mm256_fmadd_ps(minima[0], _mm256_loadu_ps(sums), low[c][0]);
                        low[c][1] = _mm256_fmadd_ps(minima[1], _mm256_loadu_ps(sums.add(8)), low[c][1]);
                    }
                }
            }
            let at = 256 * s;
            step::<S, 0, V, C>(block, at, &acts, &scales, &mut even);
            step::<S, 1, V, C>(block, at, &acts, &scales, &mut odd);
            step::<S, 2, V, C>(block, at, &acts, &scales, &mut even);
            step::<S, 3, V, C>(block, at, &acts, &scales, &mut odd);
            step::<S, 4, V, C>(block, at, &acts, &scales, &mut even);
            step::<S, 5, V, C>(block, at, &acts, &scales, &mut odd);
            step::<S, 6, V, C>(block, at, &acts, &scales, &mut even);
            step::<S, 7, V, C>(block, at, &acts, &scales, &mut odd);
        }
        std::array::from_fn(|c| fold(_mm256_add_ps(even[c], odd[c])) - fold(_mm256_add_ps(low[c][0], low[c][1])))
    }
}

macro_rules! dot_by_supers {
    ($($ty:ident),*) => {
        $(
            impl Dot for types::$ty {
                const TY: BlockType = BlockType::$ty;

                #[inline(always)]
                unsafe fn dot<const V: bool, const C: usize>(
                    row: *const u8,
                    cols: usize,
                    acts: [&ActRow<'_>; C],
                ) -> [f32; C] {
                    // SAFETY: the caller vouches for all that `row_dot` asks.
                    unsafe { row_dot::<types::$ty, V, C>(row, cols, acts) }
                }
            }
        )*
    };
}

dot_by_supers!(Q2_K, Q3_K, Q4_K, Q5_K, Q6_K);

/// 8 unsigned bytes as floats.
#[inline(always)]
unsafe fn floats_unsigned(bytes: u64) -> __m256 {
    // SAFETY: the caller vouches for AVX2.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes.cast_signed()))) }
}

/// The 8 scales and 8 minima of Q4_K and Q5_K, a byte each.
#[inline(always)]
unsafe fn unpack_k4(packed: *const u8) -> (u64, u64) {
    // SAFETY: the caller vouches for 12 bytes.
    let word = |i: usize| u64::from(unsafe { packed.cast::<u32>().add(i).read_unaligned() });
    let (a, b, c) = (word(0), word(1), word(2));
    let upper_scales = (c & 0x0F0F_0F0F) | (((a >> 6) & 0x0303_0303) << 4);
    let upper_minima = ((c >> 4) & 0x0F0F_0F0F) | (((b >> 6) & 0x0303_0303) << 4);
    ((a & 0x3F3F_3F3F) | (upper_scales << 32), (b & 0x3F3F_3F3F) | (upper_minima << 32))
}

#[inline(always)]
unsafe fn scales_k4(block: *const u8) -> [__m256; 2] {
    // SAFETY: the caller vouches for a whole block and AVX2.
    unsafe {
        let scales = floats_unsigned(unpack_k4(block.add(4)).0);
        [_mm256_mul_ps(_mm256_set1_ps(half(block)), scales), _mm256_setzero_ps()]
    }
}

#[inline(always)]
unsafe fn minima_k4(block: *const u8) -> [__m256; 2] {
    // SAFETY: the caller vouches for a whole block and AVX2.
    unsafe {
        let minima = floats_unsigned(unpack_k4(block.add(4)).1);
        [_mm256_mul_ps(_mm256_set1_ps(half(block.add(2))), minima), _mm256_setzero_ps()]
    }
}

impl Super for types::Q4_K {
    const TY: BlockType = BlockType::Q4_K;
    const SCALED: usize = 32;
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn quants<const J: usize>(block: *const u8) -> __m256i {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe { field(load(block.add(16 + 32 * (J / 2))), 4 * (J % 2), 4) }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [__m256; 2] {
        // SAFETY: as the caller's.
        unsafe { scales_k4(block) }
    }

    #[inline(always)]
    unsafe fn minima(block: *const u8) -> [__m256; 2] {
        // SAFETY: as the caller's.
        unsafe { minima_k4(block) }
    }
}

impl Super for types::Q5_K {
    const TY: BlockType = BlockType::Q5_K;
    const SCALED: usize = 32;
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn quants<const J: usize>(block: *const u8) -> __m256i {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe {
            let low = field(load(block.add(48 + 32 * (J / 2))), 4 * (J % 2), 4);
            let high = field(load(block.add(16)), J, 1);
            _mm256_or_si256(low, _mm256_slli_epi16(high, 4))
        }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [__m256; 2] {
        // SAFETY: as the caller's.
        unsafe { scales_k4(block) }
    }

    #[inline(always)]
    unsafe fn minima(block: *const u8) -> [__m256; 2] {
        // SAFETY: as the caller's.
        unsafe { minima_k4(block) }
    }
}

impl Super for types::Q2_K {
    const TY: BlockType = BlockType::Q2_K;
    const SCALED: usize = 16;
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn quants<const J: usize>(block: *const u8) -> __m256i {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe { field(load(block.add(16 + 32 * (J / 4))), 2 * (J % 4), 2) }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [__m256; 2] {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe { halves_of_bytes(block, 0, half(block.add(80))) }
    }

    #[inline(always)]
    unsafe fn minima(block: *const u8) -> [__m256; 2] {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe { halves_of_bytes(block, 4, half(block.add(82))) }
    }
}

/// `factor ×` the four bits from `by` of each of 16 bytes.
#[inline(always)]
unsafe fn halves_of_bytes(at: *const u8, by: u32, factor: f32) -> [__m256; 2] {
    // SAFETY: the caller vouches for 16 bytes and AVX2.
    unsafe {
        let word = |i: usize| (at.cast::<u64>().add(i).read_unaligned() >> by) & 0x0F0F_0F0F_0F0F_0F0F;
        let factor = _mm256_set1_ps(factor);
        [_mm256_mul_ps(factor, floats_unsigned(word(0))), _mm256_mul_ps(factor, floats_unsigned(word(1)))]
    }
}

/// `factor ×` 16 signed bytes.
#[inline(always)]
unsafe fn floats_signed(bytes: __m128i, factor: f32) -> [__m256; 2] {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let factor = _mm256_set1_ps(factor);
        let lower = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        let upper = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)));
        [_mm256_mul_ps(factor, lower), _mm256_mul_ps(factor, upper)]
    }
}

impl Super for types::Q3_K {
    const TY: BlockType = BlockType::Q3_K;
    const SCALED: usize = 16;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn quants<const J: usize>(block: *const u8) -> __m256i {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe {
            let low = field(load(block.add(32 + 32 * (J / 4))), 2 * (J % 4), 2);
            let high = field(load(block), J, 1);
            _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 2)), _mm256_set1_epi8(4))
        }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [__m256; 2] {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe {
            let word = |i: usize| block.add(96).cast::<u32>().add(i).read_unaligned();
            let (a, b, high) = (word(0), word(1), word(2));
            let (nibble, pair) = (0x0F0F_0F0F, 0x0303_0303);
            let quad = |low: u32, i: u32| ((low & nibble) | (((high >> (2 * i)) & pair) << 4)).cast_signed();
            let bytes = _mm_setr_epi32(quad(a, 0), quad(b, 1), quad(a >> 4, 2), quad(b >> 4, 3));
            floats_signed(_mm_sub_epi8(bytes, _mm_set1_epi8(32)), half(block.add(108)))
        }
    }
}

impl Super for types::Q6_K {
    const TY: BlockType = BlockType::Q6_K;
    const SCALED: usize = 16;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn quants<const J: usize>(block: *const u8) -> __m256i {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe {
            let (part, quarter) = (J / 4, J % 4);
            let low = field(load(block.add(64 * part + 32 * (quarter % 2))), 4 * (quarter / 2), 4);
            let high = field(load(block.add(128 + 32 * part)), 2 * quarter, 2);
            _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 4)), _mm256_set1_epi8(32))
        }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [__m256; 2] {
        // SAFETY: the caller vouches for a whole block and AVX2.
        unsafe { floats_signed(_mm_loadu_si128(block.add(192).cast()), half(block.add(208))) }
    }
}
