//! soakd: the soak daemon that an engineer leaves running for 48 hours before trusting a GPU server.
//!
//! # How to read this
//!
//! Data flows one way: config → supervisor → worker/probe → store → analysis → rules → outbox → mail → report.
//! Stages import [`model`], never one another; only [`worker`], [`supervisor`] and [`cli`] compose. Pure modules take
//! time as an argument and do no IO. The modules below stand in reading order.
//!
//! | room | what it is | may import |
//! |---|---|---|
//! | `model` | plain types: time, sample, event, series, finding, alert | nothing |
//! | `config` | text → raw → resolved; nothing invalid gets past resolved | model |
//! | `lifecycle` | state machines of a run and of a worker: `step(state, event, now) → (state, effects)` | model |
//! | `analysis` | samples → findings: the drift regression and its verdict | model |
//! | `rules` | pending → firing → resolved; send or not, with the reason | model |
//! | `report` | facts → text, HTML, plots | model |
//! | `clock` | the only real clock | model |
//! | `wire` | the framed, versioned protocol between soakd and its children | nothing |
//! | `engine` | GGUF, one forward pass, a CPU and a CUDA back end (sole user of cudarc) | nothing |
//! | `worker` | the child process and its protocol | engine, wire, clock, model |
//! | `probe` | NVML, /proc and cgroup readings; absent and failed are different outcomes | wire, model |
//! | `target` | the child that keeps the user's own process under soak, and the load on it | worker, probe, wire, clock, model |
//! | `store` | the only user of SQLite; one writer | model |
//! | `mail` | outbox row → delivered, retry or permanent failure | model |
//! | `supervisor` | the event loop: wait, decide, act | all but cli and engine |
//! | `cli` | one file a subcommand | all but engine |

pub mod model;

pub mod config;

pub mod lifecycle;

pub mod analysis;

pub mod rules;

pub mod report;

pub mod clock;

pub mod wire;

pub mod engine;

pub mod worker;

pub mod probe;

pub mod target;

pub mod store;

pub mod mail;

pub mod supervisor;

pub mod cli;

pub use cli::run;
