//! Plain types that every room speaks: time, samples, processes, events, series, findings, alerts, mails, runs.
//!
//! No IO, no clock, no SQL. A raw reading and what is derived from it are different types.

pub mod alert;
pub mod bench;
pub mod columns;
pub mod event;
pub mod facts;
pub mod finding;
pub mod fleet;
pub mod gate;
pub mod mail;
pub mod measure;
pub mod process;
pub mod run;
pub mod sample;
pub mod series;
pub mod time;
