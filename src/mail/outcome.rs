//! What became of one attempt to hand a mail over.

use crate::model::mail::Fate;
use std::collections::BTreeMap;

/// What to do with the outbox row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every recipient is settled, at least one of them has it.
    Delivered {
        /// What the server said.
        answer: String,
    },
    /// Try again.
    Retry {
        /// Why, for people.
        reason: String,
        /// True when the message was handed over but the answer did not come: it may arrive twice, with one Message-ID.
        answer_lost: bool,
    },
    /// Set it aside: nobody will ever take it.
    Permanent {
        /// Why, for people.
        reason: String,
    },
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What to do next.
    pub outcome: Outcome,
    /// Recipients settled by this attempt; they are left out of the next one.
    pub settled: BTreeMap<String, Fate>,
}

impl Attempt {
    /// All recipients have it.
    pub(super) fn delivered(to: &[lettre::Address], answer: String) -> Self {
        let settled = to.iter().map(|a| (a.to_string(), Fate::Delivered)).collect();
        Attempt { outcome: Outcome::Delivered { answer }, settled }
    }

    /// Nobody has it, and everybody may yet get it.
    pub(super) fn retry(reason: impl Into<String>) -> Self {
        Attempt { outcome: Outcome::Retry { reason: reason.into(), answer_lost: false }, settled: BTreeMap::new() }
    }

    /// Nobody will ever get it.
    pub(super) fn permanent(reason: impl Into<String>) -> Self {
        Attempt { outcome: Outcome::Permanent { reason: reason.into() }, settled: BTreeMap::new() }
    }
}
