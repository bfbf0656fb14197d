//! Matrices times activations, spread over the pool.
//!
//! A job is a list of matrices that meet the same activations (q, k and v; gate and up), cut into chunks of rows. Every
//! element of the result is one row's dot product, taken by one thread in one order, so neither the number of threads nor
//! the other columns of the batch can change a bit of it.

use super::acts::{ActRow, Acts};
use super::dot::Rows;
use super::isa;
use super::pool::Pool;
use crate::engine::block::BlockType;
use crate::engine::weights::{Model, Origin, Tensor};
use std::sync::Arc;

/// Rows of a chunk at most: results of a chunk are gathered on the stack first.
const CHUNK_ROWS_MAX: usize = 64;
/// Columns of a chunk at most, for the same reason.
const CHUNK_COLUMNS: usize = 16;
/// Chunks a thread, if there are rows enough: so that threads end together though one of them is disturbed.
const CHUNKS_PER_THREAD: usize = 8;

/// Bytes of a tensor: a part of a map, or memory of our own.
#[derive(Debug, Clone)]
enum Bytes {
    Mapped { map: Arc<memmap2::Mmap>, start: usize, len: usize },
    Owned(Arc<Vec<u8>>),
}

/// A quantized matrix on the CPU.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Weights in a row.
    pub cols: usize,
    /// Rows.
    pub rows: usize,
    /// How they are stored.
    pub ty: BlockType,
    row_bytes: usize,
    bytes: Bytes,
    kernel: Rows,
}

impl Matrix {
    /// Maps or generates `tensor`.
    pub fn new(model: &Model, tensor: &Tensor) -> Matrix {
        let bytes = match (&tensor.origin, model.file()) {
            (Origin::Mapped { start }, Some(file)) => {
                Bytes::Mapped { map: Arc::clone(file.map()), start: *start, len: tensor.bytes }
            }
            (Origin::Memory(bytes), _) => Bytes::Owned(Arc::clone(bytes)),
            _ => Bytes::Owned(Arc::new(model.bytes(tensor).into_owned())),
        };
        Matrix {
            cols: tensor.cols,
            rows: tensor.rows,
            ty: tensor.ty,
            row_bytes: tensor.bytes / tensor.rows,
            bytes,
            kernel: isa::rows_kernel(tensor.ty),
        }
    }

    fn all(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped { map, start, len } => &map[*start..*start + *len],
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Bytes of rows `from .. to`.
    pub fn rows_bytes(&self, from: usize, to: usize) -> &[u8] {
        &self.all()[from * self.row_bytes..to * self.row_bytes]
    }

    /// Flips bit 6 of the third byte of the middle row: part of a weight or of a block's scale, whatever the type. Mapped bytes
    /// are the file's and everybody's, so they are copied first.
    pub fn flip_a_bit(&mut self) {
        let at = self.rows / 2 * self.row_bytes + 2;
        let mut bytes = match &self.bytes {
            Bytes::Mapped { .. } => Arc::new(self.all().to_vec()),
            Bytes::Owned(bytes) => Arc::clone(bytes),
        };
        Arc::make_mut(&mut bytes)[at] ^= 0x40;
        self.bytes = Bytes::Owned(bytes);
    }

    /// Heap bytes it holds.
    pub fn held_bytes(&self) -> usize {
        match &self.bytes {
            Bytes::Mapped { .. } => 0,
            Bytes::Owned(bytes) => bytes.len(),
        }
    }
}

/// A float buffer that tasks write to in disjoint places.
pub struct Shared<'a> {
    start: *mut f32,
    len: usize,
    life: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `Shared` only gives out places through `slice`, whose callers promise that no two threads get overlapping ones.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Lends `buffer` to tasks.
    pub fn new(buffer: &'a mut [f32]) -> Self {
        Shared { start: buffer.as_mut_ptr(), len: buffer.len(), life: std::marker::PhantomData }
    }

    /// Floats `at .. at + len`.
    ///
    /// # Safety
    /// No two slices that live at the same time may overlap.
    #[allow(clippy::mut_from_ref)] // that is what it is for
    pub unsafe fn slice(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at + len <= self.len, "outside the buffer");
        // SAFETY: inside the buffer, which is lent for 'a; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// A matrix and where its result goes: element (column c, row r) at `c * stride + r` of the buffer.
pub struct Product<'a> {
    /// The weights.
    pub matrix: &'a Matrix,
    /// The results.
    pub out: Shared<'a>,
    /// Distance between columns in `out`.
    pub stride: usize,
}

/// Multiplies each matrix with rows `0 .. columns` of `acts`.
pub fn multiply(pool: &mut Pool, acts: &Acts, columns: usize, products: &[Product<'_>]) {
    let rows: usize = products.iter().map(|product| product.matrix.rows).sum();
    let chunk = rows.div_ceil(pool.threads() * CHUNKS_PER_THREAD).clamp(1, CHUNK_ROWS_MAX);
    let counts: Vec<usize> = products.iter().map(|product| product.matrix.rows.div_ceil(chunk)).collect();
    pool.run(counts.iter().sum(), &|_, mut task| {
        let mut which = 0;
        while task >= counts[which] {
            task -= counts[which];
            which += 1;
        }
        let Product { matrix, out, stride } = &products[which];
        let (from, to) = (task * chunk, ((task + 1) * chunk).min(matrix.rows));
        for_column_groups(matrix, from, to, acts, columns, |column, sums| {
            // SAFETY: chunks of rows are disjoint, and so are columns.
            unsafe { out.slice(column * stride + from, to - from) }.copy_from_slice(sums);
        });
    });
}

/// The feed-forward's first half: `out = silu(gate × acts) × (up × acts)`, columns `stride` apart.
pub fn gate_and_up(pool: &mut Pool, acts: &Acts, columns: usize, gate: &Matrix, up: &Matrix, out: &Product<'_>) {
    let chunk = gate.rows.div_ceil(pool.threads() * CHUNKS_PER_THREAD).clamp(1, CHUNK_ROWS_MAX);
    pool.run(gate.rows.div_ceil(chunk), &|_, task| {
        let (from, to) = (task * chunk, ((task + 1) * chunk).min(gate.rows));
        // SAFETY: chunks of rows are disjoint, and so are columns.
        let place = |column: usize| unsafe { out.out.slice(column * out.stride + from, to - from) };
        for_column_groups(gate, from, to, acts, columns, |column, sums| place(column).copy_from_slice(sums));
        for_column_groups(up, from, to, acts, columns, |column, sums| isa::silu_times(place(column), sums));
    });
}

/// Rows `from .. to` of `matrix` with all columns: calls `done(column, results)`.
fn for_column_groups(
    matrix: &Matrix,
    from: usize,
    to: usize,
    acts: &Acts,
    columns: usize,
    mut done: impl FnMut(usize, &[f32]),
) {
    let rows = to - from;
    let mut sums = [0.0; CHUNK_ROWS_MAX * CHUNK_COLUMNS];
    for first in (0..columns).step_by(CHUNK_COLUMNS) {
        let count = (columns - first).min(CHUNK_COLUMNS);
        let views: [ActRow<'_>; CHUNK_COLUMNS] =
            std::array::from_fn(|i| acts.row((first + i).min(columns - 1), matrix.cols));
        (matrix.kernel)(matrix.rows_bytes(from, to), matrix.cols, &views[..count], &mut sums[..rows * count]);
        for column in 0..count {
            done(first + column, &sums[column * rows..][..rows]);
        }
    }
}
