//! Alert rules: pending, firing, resolved; send or not, with the reason.
//!
//! A rule is SQL that returns one row per alert. [`RuleSet::parse`] reads rule files; [`Book`] holds what is known of every
//! alert and [`Book::step`] moves it on: what the rules found + now → new states, decisions with reasons, notices to be
//! mailed. The semantics of pending, firing, resolved, grouping and inhibition are Prometheus's and Alertmanager's, with
//! two differences: state survives restarts, and RESOLVED is never sent for what was never sent as FIRING.
//! Nothing here runs SQL, reads a clock or a file, or knows mail: `supervisor::alerting` composes that.

mod book;
mod notify;
mod parse;
mod step;
mod template;

#[cfg(test)]
mod tests;

pub use notify::STORM_GROUP;

pub use book::{Book, Notice, NoticeMember, Step};

pub use crate::model::alert::Row;
pub use parse::{Evidence, PARAMETERS, Rule, RuleError, RuleSet, millis_from};
pub use step::{Found, Moment};
pub use template::Templates;

/// The rules that every soakd carries.
pub const DEFAULT_RULES: &str = include_str!("../../alert-rules/default.toml");
/// Their name in messages.
pub const DEFAULT_RULES_NAME: &str = "alert-rules/default.toml (built in)";
/// The unit tests that stand beside them.
pub const DEFAULT_RULE_TESTS: &str = include_str!("../../alert-rules/default.test.toml");
