//! The event loop: wait, decide, act.
//!
//! [`reactor`] waits (children's pipes, signals, the tick) and performs effects; [`core`] decides, over `lifecycle`'s state
//! machines, `watch`'s series and `ledger`'s rows; [`start`] opens the database and finds out whether there is a run to
//! go on with; [`alive`] owns the child processes. Only `reactor`, `alive` and `start` touch the machine, so a
//! simulation can put itself in their place.

pub mod alarms;
pub mod alerting;
pub mod alive;
pub mod children;
pub mod closing;
pub mod core;
pub mod event;
pub mod history;
pub mod intake;
pub mod keeping;
pub mod ledger;
pub mod mismatches;
pub mod notify;
pub mod reactor;
pub mod roles;
pub mod start;
pub mod tally;
pub mod watch;

pub use closing::{Snapshot, Summary};
pub use reactor::run;
pub use start::{Options, StartError};
