//! The child process that does the inference, and its protocol.
//!
//! [`protocol`] is what it says and hears; [`soak`] is the inference loop over any [`crate::engine::Engine`]; [`process`] is
//! the process around it: stdin, stdout, beats, damage on purpose; [`open`] makes the engine; [`heap`] is the C library's, the supervisor's too. Only this child owns an engine, so that a fault in a
//! driver kills it and never the supervisor.

pub mod bench;
pub mod heap;
pub mod latency;
pub mod open;
pub mod process;
pub mod prompts;
pub mod protocol;
pub mod sabotage;
pub mod soak;
