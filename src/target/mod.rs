//! The child that keeps what the user soaks: starts their command (or watches a process or unit that already runs), and
//! drives load against it. To the supervisor it is a worker and speaks the worker's protocol, so that crashes, hangs,
//! requests, latencies and golden outputs go where the built-in loop's go; the probe reads the memory of the whole tree
//! below it instead of its own.
//!
//! [`keeper`] is the process; [`kept`] is what it keeps; [`load`] makes requests of [`prompts`] and reads answers by
//! [`openai`]; [`http`] is the client that they use, [`tls`] its encryption.

pub mod http;
pub mod keeper;
pub mod kept;
pub mod load;
pub mod openai;
pub mod prompts;
pub mod tls;
