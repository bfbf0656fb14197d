//! Tensor types of GGUF: their names, numbers and block sizes, and how a block of each becomes floats.
//!
//! A quantized row is a sequence of blocks; a block holds 32 or 256 weights. Byte offsets of the fields inside a block
//! are constants here, so that the CPU's kernels, the CUDA repacker and the generator of synthetic weights read one
//! table. How dot products are taken is each back end's business.

mod dequant;
mod quantize;

pub use dequant::dequantize;
pub use quantize::quantize;

/// Weights in a super-block of the K types.
pub const SUPER: usize = 256;

/// A tensor type that this engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)] // the names that every GGUF tool prints
pub enum BlockType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    BF16,
    /// 32 × 4 bits, one half scale: `d (q − 8)`.
    Q4_0,
    /// 32 × 4 bits, scale and minimum: `d q + m`.
    Q4_1,
    /// 32 × 5 bits, one half scale: `d (q − 16)`.
    Q5_0,
    /// 32 × 5 bits, scale and minimum: `d q + m`.
    Q5_1,
    /// 32 × signed 8 bits, one half scale.
    Q8_0,
    /// 256 × 2 bits; per 16 a 4-bit scale and a 4-bit minimum.
    Q2_K,
    /// 256 × 3 bits; per 16 a 6-bit scale.
    Q3_K,
    /// 256 × 4 bits; per 32 a 6-bit scale and a 6-bit minimum.
    Q4_K,
    /// 256 × 5 bits; per 32 a 6-bit scale and a 6-bit minimum.
    Q5_K,
    /// 256 × 6 bits; per 16 a signed 8-bit scale.
    Q6_K,
}

impl BlockType {
    /// All of them, in the order of their GGUF numbers.
    pub const ALL: [BlockType; 13] = [
        BlockType::F32,
        BlockType::F16,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2_K,
        BlockType::Q3_K,
        BlockType::Q4_K,
        BlockType::Q5_K,
        BlockType::Q6_K,
        BlockType::BF16,
    ];

    /// Its number in a GGUF file (`ggml_type`).
    #[must_use]
    pub const fn gguf_id(self) -> u32 {
        match self {
            BlockType::F32 => 0,
            BlockType::F16 => 1,
            BlockType::Q4_0 => 2,
            BlockType::Q4_1 => 3,
            BlockType::Q5_0 => 6,
            BlockType::Q5_1 => 7,
            BlockType::Q8_0 => 8,
            BlockType::Q2_K => 10,
            BlockType::Q3_K => 11,
            BlockType::Q4_K => 12,
            BlockType::Q5_K => 13,
            BlockType::Q6_K => 14,
            BlockType::BF16 => 30,
        }
    }

    /// The type with this number, if this engine runs it.
    #[must_use]
    pub fn from_gguf_id(id: u32) -> Option<BlockType> {
        Self::ALL.into_iter().find(|ty| ty.gguf_id() == id)
    }

    /// Its name, as every GGUF tool prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            BlockType::F32 => "F32",
            BlockType::F16 => "F16",
            BlockType::BF16 => "BF16",
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q5_1 => "Q5_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q2_K => "Q2_K",
            BlockType::Q3_K => "Q3_K",
            BlockType::Q4_K => "Q4_K",
            BlockType::Q5_K => "Q5_K",
            BlockType::Q6_K => "Q6_K",
        }
    }

    /// Weights in one block; a row's length is a multiple of it.
    #[must_use]
    pub const fn block_weights(self) -> usize {
        match self {
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => 1,
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => 32,
            BlockType::Q2_K | BlockType::Q3_K | BlockType::Q4_K | BlockType::Q5_K | BlockType::Q6_K => SUPER,
        }
    }

    /// Bytes in one block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            BlockType::F32 => 4,
            BlockType::F16 | BlockType::BF16 => 2,
            BlockType::Q4_0 => 18,  // d, 16 × two nibbles
            BlockType::Q4_1 => 20,  // d, m, 16 × two nibbles
            BlockType::Q5_0 => 22,  // d, 32 fifth bits, 16 × two nibbles
            BlockType::Q5_1 => 24,  // d, m, 32 fifth bits, 16 × two nibbles
            BlockType::Q8_0 => 34,  // d, 32 signed bytes
            BlockType::Q2_K => 84,  // 16 scale bytes, 64 × four 2-bit, d, dmin
            BlockType::Q3_K => 110, // 32 high bits, 64 × four 2-bit, 12 scale bytes, d
            BlockType::Q4_K => 144, // d, dmin, 12 scale bytes, 128 × two nibbles
            BlockType::Q5_K => 176, // d, dmin, 12 scale bytes, 32 high bits, 128 × two nibbles
            BlockType::Q6_K => 210, // 128 × two nibbles, 64 × four 2-bit, 16 scales, d
        }
    }

    /// Bytes of a row of `weights` weights; `None` if that is no whole number of blocks, or overflows.
    #[must_use]
    pub fn row_bytes(self, weights: u64) -> Option<u64> {
        let per_block = self.block_weights() as u64;
        if !weights.is_multiple_of(per_block) {
            return None;
        }
        (weights / per_block).checked_mul(self.block_bytes() as u64)
    }

    /// Mean bits a weight.
    #[must_use]
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_weights() as f64
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Names of the GGUF types that this engine does not run, for error messages.
#[must_use]
pub fn foreign_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}

/// The half-precision number whose little-endian bytes start at `bytes[at]`, as a single.
#[inline(always)]
#[must_use]
pub fn half_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Scale and minimum (6 bits each) of sub-block `j` of 8, from the 12 packed bytes of Q4_K and Q5_K.
#[inline(always)]
#[must_use]
pub fn scale_min_k4(j: usize, packed: &[u8]) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    }
}

/// Scale (6 bits, less 32) of sub-block `j` of 16, from the 12 packed bytes of Q3_K.
#[inline(always)]
#[must_use]
pub fn scale_q3k(j: usize, packed: &[u8]) -> i8 {
    let low = if j < 8 { packed[j] & 15 } else { packed[j - 8] >> 4 };
    let high = (packed[8 + (j & 3)] >> (2 * (j >> 2))) & 3;
    (low | (high << 4)) as i8 - 32
}
