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

/// Sudden changes of a series' level that were seen as such, restarts apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// How many, up and down.
    pub count: u32,
    /// What they sum to, bytes: near 0 where the level came back each time.
    pub sum_bytes: f64,
    /// The same whether up or down.
    pub moved_bytes: f64,
    /// The largest of them, bytes; negative if it went down.
    pub largest_bytes: f64,
    /// When that was.
    pub largest_unix_s: f64,
}

impl Steps {
    /// Whether the level goes to and fro: what is left is small beside all that it moved.
    #[must_use]
    pub fn come_back(&self) -> bool {
        self.count > 1 && self.sum_bytes.abs() < COME_BACK * self.moved_bytes
    }
}

/// How a drift came about, for a picture: what the analysis says of the level and of the growth at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CourseRow {
    /// When, seconds since the epoch.
    pub unix_s: f64,
    /// In which incarnation.
    pub segment: u32,
    /// What sudden changes have added to the level of the incarnation by then, bytes.
    pub stepped_bytes: f64,
    /// What has grown by then, bytes, summed over all incarnations; without what steps have added.
    pub grown_bytes: f64,
    /// What part of the drift over the horizon is there by then.
    pub share: f64,
}

/// What comes back leaves less than this share of all that it moved.
const COME_BACK: f64 = 0.3;

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
    /// Bytes per request, where requests are known and the growth goes with them, or, in a growth that is linear in time, came too evenly to tell.
    pub slope_bytes_per_request: Option<f64>,
    /// The smallest drift over the horizon that would stand out from none, with what this run has seen so far.
    pub minimum_detectable_drift_bytes: f64,
    /// Samples seen.
    pub samples: u64,
    /// Seconds from the first to the last.
    pub span_s: f64,
    /// Since when it grows, where that is not from the start: a leak in time that set in later.
    #[serde(default)]
    pub onset_unix_s: Option<f64>,
    /// When the tolerance was or will be used up, as time, requests or steps bring it about: `[earliest, latest]` of the 95 % interval; `None` if it
    /// will not within ten horizons.
    pub crossing_unix_s: Option<[f64; 2]>,
    /// Sudden changes of the level, if any.
    #[serde(default)]
    pub steps: Option<Steps>,
    /// How far the last minutes lie from where it was, if that is beyond the tolerance and all that there was before: too new to be judged.
    #[serde(default)]
    pub unsettled_bytes: Option<f64>,
    /// What comes and goes with the requests, from its least to its most so far (sessions, connections, buffers); no part of the drift. `None` where
    /// requests are not counted or come evenly, and where memory does not follow them.
    #[serde(default)]
    pub load_swing_bytes: Option<f64>,
    /// What comes and goes with the hours of the day, from its least to its most; no part of the drift. `None` where there is none, and before a day is over.
    #[serde(default)]
    pub day_swing_bytes: Option<f64>,
    /// Where a saturating series is heading.
    pub asymptote_bytes: Option<f64>,
    /// True once this series has rung (error controlled under continuous looking); it stays true.
    pub alarmed: bool,
    /// When it rang first.
    pub first_alarm_unix_s: Option<f64>,
}

impl Default for Finding {
    /// Nothing seen, nothing known.
    fn default() -> Self {
        Finding {
            verdict: Verdict::Inconclusive,
            shape: Shape::None,
            drift_bytes: 0.0,
            drift_ci95_bytes: [f64::NEG_INFINITY, f64::INFINITY],
            slope_bytes_per_hour: 0.0,
            slope_bytes_per_request: None,
            minimum_detectable_drift_bytes: f64::INFINITY,
            samples: 0,
            span_s: 0.0,
            onset_unix_s: None,
            crossing_unix_s: None,
            steps: None,
            unsettled_bytes: None,
            load_swing_bytes: None,
            day_swing_bytes: None,
            asymptote_bytes: None,
            alarmed: false,
            first_alarm_unix_s: None,
        }
    }
}

impl Finding {
    /// Whether enough was seen to state a drift at all; people are told "not known yet" otherwise.
    #[must_use]
    pub fn drift_is_known(&self) -> bool {
        self.drift_ci95_bytes.iter().all(|end| end.is_finite())
    }

    /// Its JSON: a drift that is not known yet, and its slope, are null there.
    #[must_use]
    pub fn fields(&self) -> serde_json::Map<String, serde_json::Value> {
        let Ok(serde_json::Value::Object(mut fields)) = serde_json::to_value(self) else {
            return serde_json::Map::new();
        };
        if !self.drift_is_known() {
            for name in ["drift_bytes", "drift_ci95_bytes", "slope_bytes_per_hour"] {
                fields.insert(name.into(), serde_json::Value::Null);
            }
        }
        fields
    }

    /// Why a drift is inconclusive though its whole interval lies on one side of the tolerance, bytes: beyond it, it has not rung, or what rang was given
    /// back since; inside it, its level has stepped, or just done so. `None` where nothing is to be explained.
    #[must_use]
    pub fn held_back(&self, tolerance_bytes: f64) -> Option<&'static str> {
        let [lo, hi] = self.drift_ci95_bytes;
        if self.verdict != Verdict::Inconclusive || !self.drift_is_known() {
            return None;
        }
        if lo > -tolerance_bytes && hi < tolerance_bytes {
            return match (self.unsettled_bytes, self.steps) {
                (Some(_), _) => {
                    Some("its last minutes lie far from all before, and whether they stay there is not known")
                }
                (None, Some(steps)) if steps.sum_bytes.abs() > 0.5 * tolerance_bytes => Some(
                    "its level has stepped by the tolerance, and whether more such steps follow nobody can tell from it",
                ),
                _ => None,
            };
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
