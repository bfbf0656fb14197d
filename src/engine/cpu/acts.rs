//! Activations as the dot products want them: floats, and the same in 8 bits.
//!
//! A row is cut into blocks of 32. With `a` the greatest magnitude in a block: `scale = a / 127`, and each quant is
//! `x × (127 / a)` rounded to nearest, ties to even (all 0 where `a` is 0). For weights with minima, the sums of the
//! quants of each 32 and each 16, times the scale, are kept beside them. All in single precision; this definition is
//! what the tests emulate.

/// Weights in a block of activations.
pub const BLOCK: usize = 32;

/// Rows of activations, allocated once.
#[derive(Debug)]
pub struct Acts {
    cols_max: usize,
    floats: Vec<f32>,
    quants: Vec<i8>,
    scales: Vec<f32>,
    sums32: Vec<f32>,
    sums16: Vec<f32>,
}

/// One row, `cols` wide: `cols` floats and quants, `cols / 32` scales and sums.
#[derive(Debug, Clone, Copy)]
pub struct ActRow<'a> {
    /// As they are.
    pub floats: &'a [f32],
    /// In 8 bits. Empty where `cols` is no multiple of 32.
    pub quants: &'a [i8],
    /// One a block of 32.
    pub scales: &'a [f32],
    /// Scale × sum of the quants, one a block of 32.
    pub sums32: &'a [f32],
    /// Scale × sum of the quants, two a block of 32.
    pub sums16: &'a [f32],
}

impl Acts {
    /// Room for `rows` rows of up to `cols_max` floats.
    pub fn new(rows: usize, cols_max: usize) -> Acts {
        let blocks = cols_max.div_ceil(BLOCK);
        Acts {
            cols_max,
            floats: vec![0.0; rows * cols_max],
            quants: vec![0; rows * blocks * BLOCK],
            scales: vec![0.0; rows * blocks],
            sums32: vec![0.0; rows * blocks],
            sums16: vec![0.0; rows * blocks * 2],
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.quants.len() + 4 * (self.floats.len() + self.scales.len() + self.sums32.len() + self.sums16.len())
    }

    /// Row `row` as floats, to be written before [`Acts::quantize`].
    pub fn floats_mut(&mut self, row: usize, cols: usize) -> &mut [f32] {
        &mut self.floats[row * self.cols_max..][..cols]
    }

    /// Quantises the first `cols` floats of `row`.
    pub fn quantize(&mut self, row: usize, cols: usize) {
        if !cols.is_multiple_of(BLOCK) {
            return; // only float weights have such rows
        }
        let stride = self.cols_max.div_ceil(BLOCK);
        let blocks = cols / BLOCK;
        let floats = &self.floats[row * self.cols_max..][..cols];
        let quants = &mut self.quants[row * stride * BLOCK..][..cols];
        let scales = &mut self.scales[row * stride..][..blocks];
        let sums32 = &mut self.sums32[row * stride..][..blocks];
        let sums16 = &mut self.sums16[row * stride * 2..][..blocks * 2];
        super::isa::quantize(floats, quants, scales, sums32, sums16);
    }

    /// Row `row`, `cols` wide.
    pub fn row(&self, row: usize, cols: usize) -> ActRow<'_> {
        let stride = self.cols_max.div_ceil(BLOCK);
        let blocks = if cols.is_multiple_of(BLOCK) { cols / BLOCK } else { 0 };
        ActRow {
            floats: &self.floats[row * self.cols_max..][..cols],
            quants: &self.quants[row * stride * BLOCK..][..blocks * BLOCK],
            scales: &self.scales[row * stride..][..blocks],
            sums32: &self.sums32[row * stride..][..blocks],
            sums16: &self.sums16[row * stride * 2..][..blocks * 2],
        }
    }
}
