//! Gates as plain data: a bound on a figure, and how it was met. Which figures there are is decided where they are judged.

use serde::{Deserialize, Serialize};

/// A bound that a figure must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// What it stands for, such as `95 % of tokens within 50 ms`.
    pub name: String,
    /// Milestone that it belongs to; gates of one milestone are shown together.
    #[serde(default)]
    pub milestone: String,
    /// Which figure, such as `token_p95_ms`.
    pub metric: String,
    /// The largest value that passes.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// The smallest value that passes.
    #[serde(default)]
    pub at_least: Option<f64>,
}

/// How a gate was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateOutcome {
    /// The measured figure keeps the bound.
    Pass,
    /// It does not.
    Fail,
    /// What was measured cannot say.
    Inconclusive,
    /// Nothing was measured that the gate could be judged by.
    NotMeasured,
}

impl GateOutcome {
    /// As it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            GateOutcome::Pass => "pass",
            GateOutcome::Fail => "fail",
            GateOutcome::Inconclusive => "inconclusive",
            GateOutcome::NotMeasured => "not measured",
        }
    }
}

/// A gate, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateResult {
    /// Which gate.
    #[serde(flatten)]
    pub gate: Gate,
    /// The figure; `None` if not measured.
    pub measured: Option<f64>,
    /// How far inside the bound, in the figure's unit; negative is outside.
    pub margin: Option<f64>,
    /// How it was met.
    pub outcome: GateOutcome,
    /// Which run or bench the figure comes from, such as `run 3`.
    pub evidence: String,
    /// SQL that gives the figure again.
    pub query: String,
    /// One sentence where there is more to say: what is missing, or what the measurements do support.
    pub note: String,
}
