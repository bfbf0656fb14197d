//! Readings of processes, host and GPUs; "absent" (there is no such thing here) and "failed" (there is, and it did not
//! answer) are different outcomes.
//!
//! The readings are taken in a child, `soakd internal-probe`, because a call into a sick driver can hang in the kernel,
//! where not even SIGKILL reaches it. In that child the driver has a thread of its own, so that the memory of processes
//! is still sampled while the driver hangs. What a reading means, when a probe counts as hung, and what is written down
//! is the supervisor's business; so is the time: the probe has no clock, it is asked.

pub mod ask;
pub mod cgroup;
pub mod child;
pub mod gpu;
pub mod host;
mod namespace;
pub mod process;
pub mod protocol;
pub mod tree;

pub use protocol::{FromProbe, Outcome, ToProbe};
