//! Tiles of 16 rows × 256 columns: which types have them, how large they are, and packing and unpacking on the host.
//!
//! The layout is documented in `kernels/tiles.cuh`; the device packs with `kernels/pack.cu`. The host's versions here are
//! written from the documentation alone and hold both to it: tests unpack what is packed, and the device's tiles are
//! compared with these byte for byte.

use crate::engine::block::BlockType;

/// Rows of a tile.
pub const ROWS: usize = 16;
/// Columns of a tile.
pub const COLS: usize = 256;

/// Whether weights of this type can be tiles.
#[must_use]
pub const fn has_tiles(ty: BlockType) -> bool {
    use BlockType::{Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0};
    matches!(ty, Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | Q8_0)
}

/// Bytes of a tile: those of its 16 × 256 weights in the file.
#[must_use]
pub const fn tile_bytes(ty: BlockType) -> usize {
    ROWS * (COLS / ty.block_weights()) * ty.block_bytes()
}

/// Packs a matrix of `rows` rows of `cols` weights, as `kernels/pack.cu` does: row group r becomes row group
/// `r × stride + offset`; rows past the matrix's own are zero.
///
/// # Panics
/// If `bytes` is not that matrix, or `ty` has no tiles.
#[must_use]
pub fn pack(ty: BlockType, rows: usize, cols: usize, bytes: &[u8], stride: usize, offset: usize) -> Vec<u8> {
    assert!(has_tiles(ty) && cols.is_multiple_of(COLS));
    let (supers, super_bytes) = (cols / COLS, tile_bytes(ty) / ROWS);
    assert_eq!(bytes.len(), rows * supers * super_bytes);
    let groups = rows.div_ceil(ROWS);
    let mut out = vec![0; groups * stride * supers * tile_bytes(ty)];
    let zero = Super::zero(ty);
    for group in 0..groups {
        let to = group * stride + offset;
        for at in 0..supers {
            let tile: Vec<Super> = (group * ROWS..(group + 1) * ROWS)
                .map(|row| match row < rows {
                    true => Super::read(ty, &bytes[(row * supers + at) * super_bytes..][..super_bytes]),
                    false => zero.clone(),
                })
                .collect();
            let index = to * supers + at;
            write_tile(ty, &tile, &mut out[index * tile_bytes(ty)..][..tile_bytes(ty)]);
        }
    }
    out
}

/// A super-block taken apart: 256 quants as stored (unsigned but for Q8_0), scales and minima of its sub-blocks, halves.
#[derive(Debug, Clone)]
struct Super {
    quants: Vec<i32>,
    /// Of 32 weights for Q4_K and Q5_K, of 16 for the others; Q6_K's are signed, Q3_K's carry their offset 32.
    scales: Vec<i32>,
    minima: Vec<i32>,
    /// d and dmin; for Q8_0 eight d.
    halves: Vec<u16>,
}

impl Super {
    fn zero(ty: BlockType) -> Super {
        let quant = match ty {
            BlockType::Q6_K => 32,
            BlockType::Q3_K => 4,
            _ => 0,
        };
        let scale = if ty == BlockType::Q3_K { 32 } else { 0 };
        Super { quants: vec![quant; COLS], scales: vec![scale; 16], minima: vec![0; 16], halves: vec![0; 8] }
    }

    fn read(ty: BlockType, b: &[u8]) -> Super {
        let mut s = Super::zero(ty);
        let half = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        match ty {
            BlockType::Q4_K | BlockType::Q5_K => {
                let quants = if ty == BlockType::Q4_K { 16 } else { 48 };
                for k in 0..COLS {
                    let byte = b[quants + 32 * (k / 64) + k % 32];
                    s.quants[k] = i32::from(if k % 64 < 32 { byte & 15 } else { byte >> 4 });
                    if ty == BlockType::Q5_K {
                        s.quants[k] |= i32::from(b[16 + k % 32] >> (k / 32) & 1) << 4;
                    }
                }
                for j in 0..8 {
                    let (scale, min) = crate::engine::block::scale_min_k4(j, &b[4..16]);
                    (s.scales[j], s.minima[j]) = (scale.into(), min.into());
                }
                s.halves = vec![half(0), half(2)];
            }
            BlockType::Q6_K => {
                for k in 0..COLS {
                    let (n, quarter, l) = (k / 128, k % 128 / 32, k % 32);
                    let byte = b[64 * n + l + 32 * (quarter & 1)];
                    let low = if quarter < 2 { byte & 15 } else { byte >> 4 };
                    s.quants[k] = i32::from(low) | i32::from(b[128 + 32 * n + l] >> (2 * quarter) & 3) << 4;
                }
                s.scales = b[192..208].iter().map(|&x| i32::from(x as i8)).collect();
                s.halves = vec![half(208)];
            }
            BlockType::Q2_K => {
                for k in 0..COLS {
                    s.quants[k] = i32::from(b[16 + 32 * (k / 128) + k % 32] >> (2 * (k % 128 / 32)) & 3);
                }
                s.scales = b[..16].iter().map(|&x| i32::from(x & 15)).collect();
                s.minima = b[..16].iter().map(|&x| i32::from(x >> 4)).collect();
                s.halves = vec![half(80), half(82)];
            }
            BlockType::Q3_K => {
                for k in 0..COLS {
                    let low = b[32 + 32 * (k / 128) + k % 32] >> (2 * (k % 128 / 32)) & 3;
                    s.quants[k] = i32::from(low) | i32::from(b[k % 32] >> (k / 32) & 1) << 2;
                }
                s.scales = (0..16).map(|j| i32::from(crate::engine::block::scale_q3k(j, &b[96..108])) + 32).collect();
                s.halves = vec![half(108)];
            }
            _ => {
                s.quants = (0..COLS).map(|k| i32::from(b[34 * (k / 32) + 2 + k % 32] as i8)).collect();
                s.halves = (0..8).map(|j| half(34 * j)).collect();
            }
        }
        s
    }
}

/// Ors `value` into the little-endian word at `at`.
fn or(out: &mut [u8], at: usize, value: u32) {
    for (byte, bits) in out[at..].iter_mut().zip(value.to_le_bytes()) {
        *byte |= bits;
    }
}

fn put_half(out: &mut [u8], at: usize, bits: u16) {
    out[at..at + 2].copy_from_slice(&bits.to_le_bytes());
}

/// Bits of the eight nibbles of a word: step m takes bits 0, 16, 8, 24 of it (as f16 pairs, second pair shifted), m + 1 four above.
const NIBBLES: [u32; 8] = [0, 16, 8, 24, 4, 20, 12, 28];
const PAIRS: [u32; 4] = [0, 16, 8, 24];

/// Lays 16 super-blocks out as a tile (zeroed before).
fn write_tile(ty: BlockType, rows: &[Super], out: &mut [u8]) {
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for high in 0..2 {
            let row = &rows[g + 8 * high];
            for k in 0..64 {
                write_quant(ty, row.quants[64 * t + k], lane, high, k, out);
            }
            let d = row.halves[0];
            match ty {
                BlockType::Q4_K | BlockType::Q5_K => {
                    let at = if ty == BlockType::Q4_K { 2240 } else { 2752 } + g * 8 + high * 4;
                    put_half(out, at, d);
                    put_half(out, at + 2, row.halves[1]);
                }
                BlockType::Q6_K => {
                    for v in 0..4 {
                        out[3072 + high * 128 + lane * 4 + v] = (row.scales[4 * t + v] + 128) as u8;
                    }
                    put_half(out, 3328 + g * 4 + high * 2, d);
                }
                BlockType::Q2_K => {
                    for v in 0..4 {
                        out[1024 + high * 128 + lane * 4 + v] =
                            (row.scales[4 * t + v] | row.minima[4 * t + v] << 4) as u8;
                    }
                    put_half(out, 1280 + g * 8 + high * 4, d);
                    put_half(out, 1280 + g * 8 + high * 4 + 2, row.halves[1]);
                }
                BlockType::Q3_K => {
                    for v in 0..4 {
                        let scale = row.scales[4 * t + v] as u32;
                        or(out, 1536 + lane * 4, (scale & 15) << (8 * v + 4 * high));
                        let bits = (scale >> 4) << (4 * (1 - high) + 8 * (v & 1) + (v & 2));
                        or(out, 1664 + lane * 2, bits);
                    }
                    put_half(out, 1728 + g * 4 + high * 2, d);
                }
                _ => {
                    for j in 0..2 {
                        put_half(out, 4096 + lane * 8 + high * 4 + j * 2, row.halves[2 * t + j]);
                    }
                }
            }
        }
        if matches!(ty, BlockType::Q4_K | BlockType::Q5_K) {
            let at = if ty == BlockType::Q4_K { 2048 } else { 2560 };
            let (a, b) = (&rows[g], &rows[g + 8]);
            let six = |values: &[i32]| (values[2 * t] as u64, values[2 * t + 1] as u64);
            let ((s0, s1), (s2, s3)) = (six(&a.scales), six(&b.scales));
            let ((m0, m1), (m2, m3)) = (six(&a.minima), six(&b.minima));
            let w = s0 | s1 << 6 | s2 << 12 | s3 << 18 | m0 << 24 | (m3 & 3) << 30;
            or(out, at + lane * 4, w as u32);
            put_half(out, at + 128 + lane * 2, (m1 | m2 << 6 | (m3 >> 2) << 12) as u16);
        }
    }
}

/// Weight `k` of the 64 that `lane` owns in its lower (`high` 0) or upper row.
fn write_quant(ty: BlockType, quant: i32, lane: usize, high: usize, k: usize, out: &mut [u8]) {
    let (q, word) = (quant as u32, k / 8);
    let pair = (k / 2 % 2) as u32; // first or second pair of the step's four
    let base = if k % 8 < 4 { 4 } else { 8 } + 16 * (k as u32 % 2);
    match ty {
        BlockType::Q4_K | BlockType::Q5_K | BlockType::Q6_K => {
            or(out, (word / 4 * 2 + high) * 512 + lane * 16 + word % 4 * 4, (q & 15) << NIBBLES[k % 8]);
            if ty == BlockType::Q5_K {
                let place = [-4, -2, 4, 6][word % 4] + pair as i32;
                or(out, 2048 + lane * 16 + high * 8 + word / 4 * 4, (q >> 4) << (base as i32 + place));
            }
            if ty == BlockType::Q6_K {
                let place = [-4, 4][word % 2] + 2 * pair as i32;
                or(out, 2048 + high * 512 + lane * 16 + word / 2 * 4, (q >> 4) << (base as i32 + place));
            }
        }
        BlockType::Q2_K | BlockType::Q3_K => {
            let bit = PAIRS[k % 4] + 2 * (k as u32 / 4 % 4);
            or(out, high * 512 + lane * 16 + k / 16 * 4, (q & 3) << bit);
            if ty == BlockType::Q3_K {
                or(out, 1024 + lane * 16 + high * 8 + k / 32 * 4, (q >> 2) << (bit + (k as u32 / 16 % 2)));
            }
        }
        _ => out[(high * 4 + k / 16) * 512 + lane * 16 + k % 16] = (quant + 128) as u8,
    }
}
