//! State machines of a run and of its children: `step(state, event, now) -> effects`. Pure: no IO and no clock.
//!
//! [`child`] is one machine for every child process (worker, probe, mailer, canary), each with its own [`child::Policy`].
//! [`run`] is the run itself: how much of it has been watched, and how it ends. Spawning, killing and writing rows are left
//! to the supervisor, which performs the effects returned here.

pub mod child;
pub mod run;
