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
    /// For a figure of the load test: at how many streams; the most that were measured if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
}

impl Gate {
    /// A bound as it is written in `[gates.bounds]` of the configuration: `<= 50`, `>= 800 at 12 streams`, `<= 14 GB`. The number
    /// is in the figure's own unit, or in bytes with KB, MB or GB. The error is what is wrong with the text.
    pub fn of_bound(metric: &str, text: &str) -> Result<Gate, String> {
        let wrong =
            || format!("{text:?} is no bound; write \"<= 50\", \">= 75\", \"<= 14 GB\" or \">= 800 at 12 streams\"");
        let (bound, streams) = match text.split_once(" at ") {
            None => (text, None),
            Some((bound, at)) => {
                let count = at.trim().strip_suffix("streams").or(at.trim().strip_suffix("stream")).ok_or_else(wrong)?;
                (bound, Some(count.trim().parse().map_err(|_| wrong())?))
            }
        };
        let (at_most, number) = match (bound.trim().strip_prefix("<="), bound.trim().strip_prefix(">=")) {
            (Some(number), _) => (true, number),
            (_, Some(number)) => (false, number),
            _ => return Err(wrong()),
        };
        let units = [("KB", 1e3), ("MB", 1e6), ("GB", 1e9)];
        let unit = units.into_iter().find_map(|(unit, factor)| Some((number.trim().strip_suffix(unit)?, factor)));
        let (number, factor) = unit.unwrap_or((number, 1.0));
        let value: f64 = number.trim().replace('_', "").parse().map_err(|_| wrong())?;
        if !value.is_finite() {
            return Err(wrong());
        }
        let bound = Some(value * factor);
        Ok(Gate {
            name: format!("{} {text}", metric.replace('_', " ")),
            milestone: "your own".into(),
            metric: metric.into(),
            at_most: bound.filter(|_| at_most),
            at_least: bound.filter(|_| !at_most),
            streams,
        })
    }
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

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn bounds_are_read_as_they_are_written() {
        let read = |text| Gate::of_bound("m", text).map(|g| (g.at_most, g.at_least, g.streams));
        assert_eq!(read("<= 50"), Ok((Some(50.0), None, None)));
        assert_eq!(read(">=0.75 at 12 streams"), Ok((None, Some(0.75), Some(12))));
        assert_eq!(read("<= 14 GB"), Ok((Some(14e9), None, None)));
        assert_eq!(read("<= 50_000"), Ok((Some(50_000.0), None, None)));
        for text in ["", "50", "< 50", "<= x", "<= 5 at x streams", "<= 5 at 12", "<= inf"] {
            let error = Gate::of_bound("m", text).expect_err(text);
            assert!(error.contains("write \"<= 50\""), "{error}");
        }
    }
}
