//! A finding is a verdict with its evidence and its shape. The JSON field names are a contract (`soakd analyze`).

use serde::{Deserialize, Serialize};

/// The three answers of an equivalence test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval lies inside the tolerance.
    Within,
    /// The alarm has rung, the drift lies beyond the tolerance, and its interval does not hold 0.
    Outside,
    /// Neither can be said.
    Inconclusive,
}

impl Verdict {
    /// As it is stored and printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Within => "within",
            Verdict::Outside => "outside",
            Verdict::Inconclusive => "inconclusive",
        }
    }
}

/// What the growth looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// No growth that could be told from noise.
    None,
    /// A leak linear in time.
    Linear,
    /// A leak linear in requests.
    PerRequest,
    /// A cache or warm-up with an asymptote.
    Saturating,
    /// One or a few jumps that stayed.
    Step,
    /// A garbage collector's ramp and fall, with a level floor.
    Sawtooth,
}

impl Shape {
    /// As it is stored and printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::None => "none",
            Shape::Linear => "linear",
            Shape::PerRequest => "per_request",
            Shape::Saturating => "saturating",
            Shape::Step => "step",
            Shape::Sawtooth => "sawtooth",
        }
    }
}

/// What the analysis says of one series at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The answer.
    pub verdict: Verdict,
    /// The growth's shape.
    pub shape: Shape,
    /// Best estimate of the bytes gained over the horizon (48 h unless configured).
    pub drift_bytes: f64,
    /// 95 % interval of it, `[lo, hi]`.
    pub drift_ci95_bytes: [f64; 2],
    /// Bytes per hour, at the present rate.
    pub slope_bytes_per_hour: f64,
    /// Bytes per request, where requests are known and the growth goes with them.
    pub slope_bytes_per_request: Option<f64>,
    /// The smallest drift over the horizon that would stand out from none, with what this run has seen so far.
    pub minimum_detectable_drift_bytes: f64,
    /// Samples seen.
    pub samples: u64,
    /// Seconds from the first to the last.
    pub span_s: f64,
    /// When the tolerance will have been used up: `[earliest, latest]` of the 95 % interval; `None` if it will not within ten horizons.
    pub crossing_unix_s: Option<[f64; 2]>,
    /// Where a saturating series is heading.
    pub asymptote_bytes: Option<f64>,
    /// True once this series has rung (error controlled under continuous looking); it stays true.
    pub alarmed: bool,
    /// When it rang first.
    pub first_alarm_unix_s: Option<f64>,
}

impl Finding {
    /// Whether enough was seen to state a drift at all; people are told "not known yet" otherwise.
    #[must_use]
    pub fn drift_is_known(&self) -> bool {
        self.drift_ci95_bytes.iter().all(|end| end.is_finite())
    }

    /// What may yet explain a drift that is inconclusive though its whole interval lies beyond the tolerance, bytes: it has not rung, or what rang was
    /// given back since. `None` where there is none to explain.
    #[must_use]
    pub fn held_back(&self, tolerance_bytes: f64) -> Option<&'static str> {
        let [lo, hi] = self.drift_ci95_bytes;
        if self.verdict != Verdict::Inconclusive || !self.drift_is_known() {
            return None;
        }
        if lo > tolerance_bytes && self.alarmed {
            Some("it had held as much before, gave that back and takes it again")
        } else if lo > tolerance_bytes {
            Some(
                "a start that goes on, a cache that fills, an allocator's arenas, a busy day or memory that follows the load may yet explain it",
            )
        } else if hi < -tolerance_bytes && !self.alarmed {
            Some("the evening after a busy day or a cache that empties may yet explain it")
        } else {
            None
        }
    }
}
