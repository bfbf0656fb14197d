//! The C library's heap, where it would look like a leak: what is free in it is given back, and what is large is not let in.
//!
//! Who needs how much of it is everybody's own business.

/// From this size on the supervisor has a block of memory from the kernel by itself, and gives it back when it is freed. Of its own
/// accord the C library raises this to as much as 32 MiB as soon as one large block is freed; then the megabytes that a look at all
/// series takes come from the heap and leave holes in it, of which no trim finds all: a quarter more memory, and a floor that rose
/// by 0.4 MB from hour 12 to hour 48 where it now rises by 0.1.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: i32 = 128 << 10;

/// Gives free pages of the heap back to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and may be called at any time from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Keeps large blocks out of the heap, for good. Meant for who lives for days and works now and then.
pub fn keep_large_blocks_out() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes the allocator's own locks; that it may fail is that it changes nothing.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}
