//! A finding as one honest paragraph and a small plot. Numbers are left to `analysis`, pictures to `report`.

use super::csv_points::Notes;
use crate::model::columns::Column;
use crate::model::finding::{Finding, Shape, Verdict};
use crate::report::scale::{Unit, bytes, duration, moment, signed_bytes};
use crate::report::term;

/// What is needed beside the finding.
pub struct Context<'a> {
    /// What was analysed, such as a file name or `worker-0.rss of run 3`.
    pub name: &'a str,
    /// Tolerance over the horizon, bytes.
    pub tolerance_bytes: f64,
    /// Horizon, seconds.
    pub horizon_s: f64,
    /// First sample, seconds since the epoch.
    pub first_unix_s: Option<f64>,
    /// Whether to say when a live run would have rung.
    pub replay: bool,
    /// Samples by the minute.
    pub columns: &'a [Column],
    /// What was mended in the input.
    pub notes: &'a Notes,
}

/// Fewer columns than this are no picture.
const COLUMNS_MIN: usize = 5;

/// The paragraph, the plot, the notes.
pub fn text(f: &Finding, c: &Context) -> String {
    let mut out = paragraph(f, c);
    out.push('\n');
    let (inside, beyond) = without_extremes(c.columns, c.tolerance_bytes);
    let plot = term::plot(&inside, Unit::Bytes, 78, 8);
    if inside.len() >= COLUMNS_MIN {
        out.push('\n');
        out.push_str(&plot);
        if !plot.ends_with('\n') {
            out.push('\n');
        }
    }
    if beyond > 0 {
        let minutes = if beyond == 1 { "minute lies" } else { "minutes lie" };
        out.push_str(&format!("note: {beyond} {minutes} beyond the plot\n"));
    }
    for note in c.notes.sentences() {
        out.push_str(&format!("note: {note}\n"));
    }
    out
}

/// The columns cut to a range in which the series can be seen, and how many lie beyond it: a few garbled readings must not make a
/// flat line of all the others.
fn without_extremes(columns: &[Column], tolerance_bytes: f64) -> (Vec<Column>, usize) {
    let mut medians: Vec<f64> = columns.iter().map(|c| c.median).collect();
    medians.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| medians.get(((medians.len().max(1) - 1) as f64 * q).round() as usize).copied();
    let (Some(low), Some(high)) = (quantile(0.03), quantile(0.97)) else { return (Vec::new(), 0) };
    let reach = 2.0 * (high - low).max(0.2 * tolerance_bytes);
    let (low, high) = (low - reach, high + reach);
    let inside = columns.iter().filter(|c| c.median >= low && c.median <= high);
    let cut = inside.map(|c| Column { min: c.min.max(low), max: c.max.min(high), ..*c });
    let cut: Vec<Column> = cut.collect();
    let beyond = columns.len() - cut.len();
    (cut, beyond)
}

/// A few sentences: what happened, how sure, against what, of which shape, until when.
pub fn paragraph(f: &Finding, c: &Context) -> String {
    let (tolerance, horizon) = (bytes(c.tolerance_bytes), duration(c.horizon_s));
    let [lo, hi] = f.drift_ci95_bytes;
    let unknown = hi - lo > 1e3 * c.tolerance_bytes;
    let mut s = vec![];
    if unknown {
        s.push(format!(
            "{}: {} over {} {} to say anything about the drift over {horizon}: inconclusive.",
            c.name,
            if f.samples == 1 { "1 sample".into() } else { format!("{} samples", f.samples) },
            duration(f.span_s),
            if f.samples == 1 { "is too little" } else { "are too few" }
        ));
    } else {
        let word = match f.verdict {
            Verdict::Within => "within",
            Verdict::Outside => "outside",
            Verdict::Inconclusive => "inconclusive against",
        };
        let went = if lo <= 0.0 && hi >= 0.0 && f.verdict == Verdict::Within {
            "neither grows nor shrinks measurably".into()
        } else {
            format!("{} by {}", if f.drift_bytes < 0.0 { "shrinks" } else { "grows" }, bytes(f.drift_bytes.abs()))
        };
        s.push(format!(
            "{} {went} over {horizon} (95 % interval {} to {}): {word} ±{tolerance}.",
            c.name,
            signed_bytes(lo),
            signed_bytes(hi)
        ));
    }
    s.extend(shape(f));
    s.extend(crossing(f, c));
    if unknown {
        s.push(format!(
            "A run of {horizon} can be expected to tell a drift of {} from none.",
            bytes(f.minimum_detectable_drift_bytes)
        ));
    } else if let Some(what) = f.held_back(c.tolerance_bytes) {
        let waits = if f.alarmed { "" } else { "; the alarm waits until that is ruled out" };
        s.push(format!("{} seen so far: {what}{waits}.", duration(f.span_s)));
    } else if f.verdict == Verdict::Inconclusive {
        s.push(format!(
            "{} seen so far; a drift of {} over {horizon} would stand out from none.",
            duration(f.span_s),
            bytes(f.minimum_detectable_drift_bytes)
        ));
    }
    if c.replay {
        s.push(alarm(f, c));
    }
    s.join(" ")
}

fn shape(f: &Finding) -> Option<String> {
    Some(match f.shape {
        Shape::None => return None,
        Shape::Linear => format!("Linear in time, {} an hour.", bytes(f.slope_bytes_per_hour)),
        Shape::PerRequest => match f.slope_bytes_per_request {
            Some(slope) => format!("Linear in requests, {} each.", bytes(slope)),
            None => "Linear in requests.".into(),
        },
        Shape::Saturating => match f.asymptote_bytes {
            Some(level) => format!("What grew is a warm-up or a cache that levels off at about {}.", bytes(level)),
            None => "What grew is a warm-up or a cache that levels off.".into(),
        },
        Shape::Step if f.verdict == Verdict::Outside => "It comes in steps or bursts that go on.".into(),
        Shape::Step => "It stepped and stayed, as an allocator's arenas do.".into(),
        Shape::Sawtooth => "It rises and falls with a garbage collector; the floor is level.".into(),
    })
}

fn crossing(f: &Finding, c: &Context) -> Option<String> {
    let ([early, late], first) = (f.crossing_unix_s?, c.first_unix_s?);
    if f.verdict == Verdict::Within {
        return None;
    }
    let tolerance = bytes(c.tolerance_bytes);
    if late <= first + f.span_s {
        return Some(format!("{tolerance} were gone between {} and {}.", moment(early), moment(late)));
    }
    Some(format!("At this pace {tolerance} are gone between {} and {}.", moment(early), moment(late)))
}

fn alarm(f: &Finding, c: &Context) -> String {
    match (f.first_alarm_unix_s, c.first_unix_s) {
        (Some(at), Some(first)) => format!("A live run would have reported it after {}.", duration(at - first)),
        _ => "A live run would not have rung.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Params, batch};
    use crate::model::series::Point;

    /// The paragraph on so many hours of 90 MB an hour, a sample a minute.
    fn said_of(hours: u32) -> String {
        let point = |minute: u32| Point {
            unix_s: 1_790_000_000.0 + f64::from(minute) * 60.0,
            bytes: 9e8 + 1.5e6 * f64::from(minute) + 3e5 * f64::from(minute * 7 % 11),
            segment: 0,
            requests: None,
        };
        let points: Vec<Point> = (0..hours * 60).map(point).collect();
        let params = Params::default();
        let context = Context {
            name: "leak.csv",
            tolerance_bytes: params.tolerance_bytes,
            horizon_s: params.horizon_s,
            first_unix_s: points.first().map(|p| p.unix_s),
            replay: true,
            columns: &[],
            notes: &Notes::default(),
        };
        paragraph(&batch(&points, params), &context)
    }

    #[test]
    fn what_lies_outside_and_has_not_rung_is_told_why() {
        let (early, late) = (said_of(3), said_of(8));
        for says in
            ["inconclusive against ±50.0 MB", "2 h 59 min seen so far: a start that goes on, a cache", "not have rung"]
        {
            assert!(early.contains(says), "{says}: {early}");
        }
        assert!(late.contains("outside ±50.0 MB") && late.contains("would have reported it after"), "{late}");
        assert!(!late.contains("may yet explain"), "{late}");
    }
}
