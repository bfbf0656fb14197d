//! How fast this machine's memory can be read and copied by the engine's own threads: what decoding is measured against.

use super::pool::Pool;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the buffer: far beyond any cache but the largest servers' (whose caches then count as their memory).
const BUFFER_BYTES: usize = 512 << 20;
/// Bytes of a task.
const TASK_BYTES: usize = 4 << 20;
/// Passes; the best counts, for anything else that runs can only slow one down.
const PASSES: usize = 5;

/// `(read, copied)` bytes a second, the best of a few passes; copying counts what is read and what is written. `now_us` is
/// a clock in microseconds.
pub fn ceiling(threads: usize, now_us: &dyn Fn() -> i64) -> std::io::Result<(f64, f64)> {
    let mut pool = Pool::new(threads)?;
    let words = BUFFER_BYTES / 8;
    let mut buffer: Vec<u64> = (0..words as u64).collect(); // touched, and not all zero
    let per_task = TASK_BYTES / 8;
    let tasks = words / per_task;
    let total = AtomicU64::new(0);
    let read = best(now_us, || {
        pool.run(tasks, &|_, task| {
            let mut lanes = [0_u64; 16];
            for chunk in buffer[task * per_task..(task + 1) * per_task].chunks_exact(16) {
                for (lane, word) in lanes.iter_mut().zip(chunk) {
                    *lane = lane.wrapping_add(*word);
                }
            }
            total.fetch_add(lanes.iter().fold(0, |sum, &lane| sum.wrapping_add(lane)), Ordering::Relaxed);
        });
    });
    std::hint::black_box(total.load(Ordering::Relaxed));
    let (from, to) = buffer.split_at_mut(words / 2);
    let parts: Vec<std::sync::Mutex<(&[u64], &mut [u64])>> =
        from.chunks(per_task).zip(to.chunks_mut(per_task)).map(std::sync::Mutex::new).collect();
    let copied = best(now_us, || {
        pool.run(parts.len(), &|_, task| {
            let mut part = parts[task].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let (from, to) = &mut *part;
            to.copy_from_slice(from);
        });
    });
    Ok((BUFFER_BYTES as f64 / read, BUFFER_BYTES as f64 / copied))
}

/// Seconds of the fastest of [`PASSES`].
fn best(now_us: &dyn Fn() -> i64, mut pass: impl FnMut()) -> f64 {
    let mut time = || {
        let from = now_us();
        pass();
        (now_us() - from).max(1) as f64 / 1e6
    };
    (0..PASSES).map(|_| time()).fold(f64::INFINITY, f64::min)
}
