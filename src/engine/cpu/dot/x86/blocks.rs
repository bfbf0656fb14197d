//! Types with blocks of 32.

#![allow(clippy::wildcard_imports)] // intrinsics

use super::super::super::acts::ActRow;
use super::{Dot, fold, half, lanes_signed, lanes_unsigned, load, types};
use crate::engine::block::BlockType;
use std::arch::x86_64::*;

/// 16 bytes of nibble pairs: lower halves in the lower lane, upper halves in the upper one.
#[inline(always)]
unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: the caller vouches for 16 bytes.
    unsafe {
        let packed = _mm_loadu_si128(at.cast());
        let both = _mm256_set_m128i(_mm_srli_epi16(packed, 4), packed);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// 32 bits to 32 bytes of 0 or 16.
#[inline(always)]
unsafe fn fifth_bits(at: *const u8) -> __m256i {
    // SAFETY: the caller vouches for 4 bytes.
    unsafe {
        let bits = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
        let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let bytes = _mm256_shuffle_epi8(bits, spread);
        let mask = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, mask), mask);
        _mm256_and_si256(set, _mm256_set1_epi8(16))
    }
}

/// A type with blocks of 32: how its quants are unpacked.
trait Plain {
    const TY: BlockType;
    /// Quants are unsigned (and a minimum stands at byte 2).
    const HAS_MINIMUM: bool;
    unsafe fn unpack(block: *const u8) -> __m256i;
}

impl<P: Plain> Dot for P {
    const TY: BlockType = <P as Plain>::TY;

    #[inline(always)]
    unsafe fn dot<const V: bool, const C: usize>(row: *const u8, cols: usize, acts: [&ActRow<'_>; C]) -> [f32; C] {
        // SAFETY: the caller vouches for the instructions and the lengths: blocks below `cols / 32` lie inside `row`
        // and inside every column.
        unsafe {
            let (mut even, mut odd) = ([_mm256_setzero_ps(); C], [_mm256_setzero_ps(); C]);
            let (mut even_low, mut odd_low) = ([0.0_f32; C], [0.0_f32; C]);
            let blocks = cols / 32;
            for pair in 0..blocks / 2 {
                step::<P, V, C>(row, 2 * pair, &acts, &mut even, &mut even_low);
                step::<P, V, C>(row, 2 * pair + 1, &acts, &mut odd, &mut odd_low);
            }
            if blocks % 2 == 1 {
                step::<P, V, C>(row, blocks - 1, &acts, &mut even, &mut even_low);
            }
            std::array::from_fn(|c| fold(_mm256_add_ps(even[c], odd[c])) + (even_low[c] + odd_low[c]))
        }
    }
}

/// Adds block `b` to the accumulators of its parity.
#[inline(always)]
unsafe fn step<P: Plain, const V: bool, const C: usize>(
    row: *const u8,
    b: usize,
    acts: &[&ActRow<'_>; C],
    acc: &mut [__m256; C],
    low: &mut [f32; C],
) {
    // SAFETY: the caller vouches for the instructions, and that block `b` lies inside the row and every column.
    unsafe {
        let block = row.add(b * <P as Plain>::TY.block_bytes());
        let weights = P::unpack(block);
        let d = half(block);
        for c in 0..C {
            let quants = load(acts[c].quants.as_ptr().add(b * 32).cast());
            let sums =
                if P::HAS_MINIMUM { lanes_unsigned::<V>(weights, quants) } else { lanes_signed::<V>(weights, quants) };
            let scale = _mm256_set1_ps(d * *acts[c].scales.get_unchecked(b));
            acc[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, acc[c]);
            if P::HAS_MINIMUM {
                low[c] = half(block.add(2)).mul_add(*acts[c].sums32.get_unchecked(b), low[c]);
            }
        }
    }
}

macro_rules! plain {
    ($ty:ident, $has_minimum:literal, |$block:ident| $unpack:expr) => {
        impl Plain for types::$ty {
            const TY: BlockType = BlockType::$ty;
            const HAS_MINIMUM: bool = $has_minimum;

            #[inline(always)]
            unsafe fn unpack($block: *const u8) -> __m256i {
                // SAFETY: the caller vouches for a whole block and for AVX2.
                unsafe { $unpack }
            }
        }
    };
}

plain!(Q4_0, false, |b| _mm256_sub_epi8(nibbles(b.add(2)), _mm256_set1_epi8(8)));
plain!(Q4_1, true, |b| nibbles(b.add(4)));
plain!(Q5_0, false, |b| _mm256_sub_epi8(
    _mm256_or_si256(nibbles(b.add(6)), fifth_bits(b.add(2))),
    _mm256_set1_epi8(16)
));
plain!(Q5_1, true, |b| _mm256_or_si256(nibbles(b.add(8)), fifth_bits(b.add(4))));
plain!(Q8_0, false, |b| load(b.add(2)));
