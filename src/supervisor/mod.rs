//! The event loop: wait, decide, act.
