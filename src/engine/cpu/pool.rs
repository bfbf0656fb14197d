//! A pool of threads for work that comes every few microseconds.
//!
//! A step of a small model is over a hundred jobs of some microseconds each, so threads wait by spinning first; but a
//! soak runs for days beside other work, so they spin for some tens of microseconds at most, and then sleep until
//! called. Tasks of a job are handed out by a counter: a thread that the system takes away delays its current task and
//! nothing else. Which thread does a task never changes a result: tasks write to places of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Spins before a waiting worker sleeps. A `pause` takes some 10 to 50 ns, so this is 20 to 100 µs: longer than the
/// serial stretches inside a step, shorter than anything a user would notice on a processor meter.
const SPINS_BEFORE_SLEEP: u32 = 2_000;
/// Spins before the caller, waiting for the last task, lets other threads run.
const SPINS_BEFORE_YIELD: u32 = 1_000;

/// In `state`: the job is open, workers may join.
const OPEN: u64 = 1 << 31;
/// In `state`: how many workers are inside the job.
const INSIDE: u64 = OPEN - 1;
/// In `state`: one more job.
const NEXT_JOB: u64 = 1 << 32;

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Shared {
    /// Job number, [`OPEN`] and the count of workers inside, in one word, so that joining a job and closing it exclude
    /// each other.
    state: AtomicU64,
    /// The open job: pointer and vtable of its closure. Written only while the job is closed and nobody is inside.
    task: std::cell::UnsafeCell<Option<*const Task<'static>>>,
    tasks: AtomicUsize,
    next: AtomicUsize,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: `task` is written by the caller only while `state` says closed and nobody inside, and read by workers only
// between joining and leaving an open job; the joining compare-exchange orders the two.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `task` is never followed outside a job (see above), whoever owns the struct.
unsafe impl Send for Shared {}

/// The calling thread and `threads − 1` workers.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

impl Pool {
    /// A pool in which `threads` threads work, the caller included.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let count = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            task: std::cell::UnsafeCell::new(None),
            tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            asleep: (0..count).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, workers: Vec::new(), handles: Vec::new() };
        for index in 0..count {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("engine-{}", index + 1))
                .spawn(move || work(&shared, index))?;
            pool.handles.push(worker.thread().clone());
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that work, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(thread, index)` for every index below `tasks`, and returns when all are done.
    ///
    /// # Panics
    /// If a task panicked.
    pub fn run(&mut self, tasks: usize, task: &Task<'_>) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|index| task(0, index));
            return;
        }
        let shared = &*self.shared;
        #[allow(clippy::transmute_ptr_to_ptr)] // a cast cannot change the lifetime
        // SAFETY: only the lifetime changes. The pointer is followed by workers inside this job only, and this function
        // does not return before the job is closed and they have left.
        let erased: *const Task<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        // SAFETY: the previous job is closed with nobody inside, so nobody reads `task`; `&mut self` keeps other callers out.
        unsafe { *shared.task.get() = Some(erased) };
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        let job = (shared.state.load(Ordering::Relaxed) & !(NEXT_JOB - 1)).wrapping_add(NEXT_JOB);
        shared.state.store(job | OPEN, Ordering::SeqCst);
        for (asleep, handle) in shared.asleep.iter().zip(&self.handles) {
            if asleep.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        let closing = Closing(shared);
        drain(shared, task, 0);
        drop(closing);
        assert!(!shared.panicked.load(Ordering::Relaxed), "a task of the engine's pool panicked");
    }
}

/// Closes the job and waits for the workers inside, also when the caller's own task panics.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.fetch_and(!OPEN, Ordering::AcqRel) & !OPEN;
        let mut spins = 0_u32;
        while state & INSIDE != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            state = self.0.state.load(Ordering::Acquire);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for handle in &self.handles {
            handle.unpark();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a panic in a task was reported by `run`
        }
    }
}

/// Takes tasks until none is left.
fn drain(shared: &Shared, task: &Task<'_>, thread: usize) {
    let tasks = shared.tasks.load(Ordering::Relaxed);
    loop {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        if index >= tasks {
            return;
        }
        task(thread, index);
    }
}

/// A worker's life.
fn work(shared: &Shared, index: usize) {
    let mut done = 0_u64; // number of the last job seen
    while let Some(job) = wait_for_job(shared, index, done) {
        done = job;
        if !join_job(shared, job) {
            continue;
        }
        // SAFETY: inside an open job `task` is set and its closure alive: `run` waits for `INSIDE` to become zero.
        let task = unsafe { (*shared.task.get()).map(|task| &*task) };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Some(task) = task {
                drain(shared, task, index + 1);
            }
        }));
        if outcome.is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.state.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits for a job other than `done`: its number, or `None` when the pool ends.
fn wait_for_job(shared: &Shared, index: usize, done: u64) -> Option<u64> {
    let ready = || {
        let state = shared.state.load(Ordering::SeqCst);
        (state & OPEN != 0 && state & !(NEXT_JOB - 1) != done).then_some(state & !(NEXT_JOB - 1))
    };
    for _ in 0..SPINS_BEFORE_SLEEP {
        if let Some(job) = ready() {
            return Some(job);
        }
        std::hint::spin_loop();
    }
    loop {
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        shared.asleep[index].store(true, Ordering::SeqCst);
        // A job opened before the flag was set is seen here; one opened after it finds the flag and unparks.
        if let Some(job) = ready() {
            shared.asleep[index].store(false, Ordering::SeqCst);
            return Some(job);
        }
        if !shared.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        shared.asleep[index].store(false, Ordering::SeqCst);
    }
}

/// Enters `job` if it is still open.
fn join_job(shared: &Shared, job: u64) -> bool {
    let mut state = shared.state.load(Ordering::Acquire);
    loop {
        if state & OPEN == 0 || state & !(NEXT_JOB - 1) != job {
            return false;
        }
        match shared.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return true,
            Err(now) => state = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once_however_many_threads_and_jobs() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads).unwrap();
            for tasks in (0..200).chain([1000]) {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|thread, index| {
                    assert!(thread < threads);
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {tasks} tasks"
                );
            }
        }
    }

    #[test]
    fn sleeping_workers_are_woken() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5)); // far beyond the spinning
            let barrier = std::sync::Barrier::new(3);
            pool.run(3, &|_, _| {
                barrier.wait(); // only three threads at once get past it
            });
        }
    }

    #[test]
    fn a_panicking_task_is_reported_and_the_pool_ends() {
        let mut pool = Pool::new(2).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(64, &|_, index| assert_ne!(index, 13, "on purpose"));
        }));
        assert!(outcome.is_err());
    }
}
