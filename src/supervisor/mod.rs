//! The event loop: wait, decide, act.

pub mod alerting;
