//! A finding as one honest paragraph and a small plot. Numbers are left to `analysis`, pictures to `report`.

use super::csv_points::Notes;
use crate::model::columns::Column;
use crate::model::finding::{Finding, Shape, Verdict};
use crate::report::scale::{Unit, bytes, duration, minute, signed_bytes};
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
    for note in unseen(c.columns).into_iter().chain(c.notes.sentences()) {
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
        let went: String = if lo <= 0.0 && hi >= 0.0 && f.verdict != Verdict::Outside {
            "neither grows nor shrinks measurably".into()
        } else {
            format!("{} by {}", if f.drift_bytes < 0.0 { "shrinks" } else { "grows" }, bytes(f.drift_bytes.abs()))
        };
        let lives = c.columns.chunk_by(|a, b| a.segment == b.segment).count();
        let lives = match lives {
            0 | 1 => String::new(),
            lives if went.starts_with("neither") => format!(" in its {lives} incarnations"),
            lives => format!(", summed over {lives} incarnations"),
        };
        s.push(format!(
            "{} {went} over {horizon}{lives} (95 % interval {} to {}): {word} ±{tolerance}.",
            c.name,
            signed_bytes(lo),
            signed_bytes(hi)
        ));
    }
    s.extend(shape(f));
    s.extend(levels(f, c));
    s.extend(f.unsettled_bytes.map(|off| {
        let lie = if off < 0.0 { "below" } else { "above" };
        format!("Its last minutes lie {} {lie} where it was.", bytes(off.abs()))
    }));
    s.extend(swings(f, c));
    s.extend(crossing(f, c));
    s.extend(lately(f, c.columns));
    if unknown {
        s.push(format!(
            "A run of {horizon} can be expected to tell a drift of {} from none.",
            bytes(f.minimum_detectable_drift_bytes)
        ));
    } else if let Some(what) = f.held_back(c.tolerance_bytes) {
        // Nothing is there to ring for inside the tolerance.
        let inside = lo > -c.tolerance_bytes && hi < c.tolerance_bytes;
        let waits = if f.alarmed || inside { "" } else { "; the alarm waits until that is ruled out" };
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
        Shape::Step if f.verdict == Verdict::Outside => "It comes in steps or bursts that go on.".into(),
        Shape::None | Shape::Step => return None, // steps are told apart
        Shape::Linear => {
            let since = f.onset_unix_s.map_or_else(String::new, |onset| format!(" since about {}", minute(onset)));
            let each = f.slope_bytes_per_request.filter(|_| f.verdict == Verdict::Outside);
            let each = each.map_or_else(String::new, |each| {
                format!("; if requests cost it, {} each: they came too evenly to tell", plain(each))
            });
            format!("Linear in time, {} an hour{since}{each}.", plain(f.slope_bytes_per_hour))
        }
        Shape::PerRequest => match f.slope_bytes_per_request {
            Some(slope) => format!("Linear in requests, {} each.", plain(slope)),
            None => "Linear in requests.".into(),
        },
        Shape::Saturating => match f.asymptote_bytes {
            Some(level) => format!("A warm-up or a cache fills and levels off at about {}.", bytes(level)),
            None => "A warm-up or a cache fills and levels off.".into(),
        },
        Shape::Sawtooth => "It rises and falls as a garbage collector's heap does; its floor is level.".into(),
    })
}

/// What grows has no sign, what shrinks has.
fn plain(value: f64) -> String {
    if value < 0.0 { signed_bytes(value) } else { bytes(value) }
}

/// Of a level that changed by less than this share of the tolerance nothing is said, unless that is all there is.
const TOLD: f64 = 0.2;
/// Larger than any arena of an allocator, bytes.
const ARENA_MOST_BYTES: f64 = 80e6;

/// What its level did suddenly.
fn levels(f: &Finding, c: &Context) -> Option<String> {
    let steps = f.steps?;
    let (largest, at) = (steps.largest_bytes, minute(steps.largest_unix_s));
    let by = bytes(largest.abs());
    let stepped = f.shape == Shape::Step;
    // A leak that is larger by far is not told by a step beside it.
    let least = if f.verdict == Verdict::Outside { TOLD * f.drift_bytes.abs() } else { 0.0 };
    if largest.abs() < least.max(TOLD * c.tolerance_bytes) && !stepped {
        return None;
    }
    let arenas = stepped && f.verdict != Verdict::Outside && largest > 0.0 && largest < ARENA_MOST_BYTES;
    let arenas = if arenas { ", as an allocator's arenas do" } else { "" };
    let sum = signed_bytes(steps.sum_bytes);
    Some(if steps.count == 1 {
        format!("Its level {} by {by} at {at} and stayed there{arenas}.", if largest < 0.0 { "fell" } else { "rose" })
    } else if steps.come_back() {
        format!("Its level goes to and fro: {} sudden changes of up to {by} ({at}), {sum} in all.", steps.count)
    } else {
        let most = signed_bytes(largest);
        format!(
            "Its level changed suddenly {} times, by {sum} in all and by {most} at most ({at}){arenas}.",
            steps.count
        )
    })
}

/// What comes and goes, and leaks nothing.
fn swings(f: &Finding, c: &Context) -> Option<String> {
    let told = |swing: Option<f64>| swing.filter(|swing| *swing >= TOLD * c.tolerance_bytes).map(bytes);
    let which = match (told(f.load_swing_bytes), told(f.day_swing_bytes)) {
        (Some(load), Some(day)) => format!("{load} come and go with the requests and {day} with the hours of the day"),
        (Some(load), None) => format!("{load} come and go with the requests"),
        (None, Some(day)) => format!("{day} come and go with the hours of the day"),
        (None, None) => return None,
    };
    Some(format!("{which} and are no part of that."))
}

/// What is told of the end of a run that is twice as long, seconds, and how long an end it is compared at.
const LATELY_S: f64 = 86_400.0;
const END_S: f64 = 1800.0;

/// What it grew in the last day, where that is less than half of what the whole run would have it grow: it may have stopped.
fn lately(f: &Finding, columns: &[Column]) -> Option<String> {
    let (first, last) = (columns.first()?, columns.last()?);
    let from_s = last.unix_s - LATELY_S;
    let near = |at_s: f64| {
        let within = columns.iter().filter(|c| (c.unix_s - at_s).abs() <= END_S && c.segment == last.segment);
        let mut medians: Vec<f64> = within.map(|c| c.median).collect();
        medians.sort_unstable_by(f64::total_cmp);
        medians.get(medians.len() / 2).copied()
    };
    let grew = near(last.unix_s)? - near(from_s)?;
    // What set in during that day gives the less.
    let since_s = f.onset_unix_s.map_or(from_s, |onset_s| onset_s.max(from_s));
    let pace = f.slope_bytes_per_hour * (last.unix_s - since_s) / 3600.0;
    let stops = f.verdict == Verdict::Outside && last.unix_s - first.unix_s >= 2.0 * LATELY_S - END_S;
    (stops && (grew / pace) < 0.5).then(|| {
        format!("In the last 24 h it went by {}, where that pace gives {}.", signed_bytes(grew), signed_bytes(pace))
    })
}

/// Gaps longer than this are told, seconds, if they are so many times as long as columns usually are apart.
const GAP_MIN_S: f64 = 1800.0;
const GAP_TIMES: f64 = 10.0;

/// Where nothing was sampled.
fn unseen(columns: &[Column]) -> Option<String> {
    let apart = columns.windows(2).map(|pair| (pair[1].unix_s - pair[0].unix_s, pair[0].unix_s));
    let apart: Vec<(f64, f64)> = apart.collect();
    let mut sorted: Vec<f64> = apart.iter().map(|gap| gap.0).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let least = (GAP_TIMES * sorted.get(sorted.len() / 2)?).max(GAP_MIN_S);
    let gaps: Vec<&(f64, f64)> = apart.iter().filter(|gap| gap.0 > least).collect();
    let longest = gaps.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0))?;
    let more = match gaps.len() - 1 {
        0 => String::new(),
        1 => ", and in one more gap".into(),
        more => format!(", and in {more} more gaps"),
    };
    Some(format!("nothing was sampled for {} from {} on{more}", duration(longest.0), minute(longest.1)))
}

fn crossing(f: &Finding, c: &Context) -> Option<String> {
    let ([early, late], first) = (f.crossing_unix_s?, c.first_unix_s?);
    if f.verdict == Verdict::Within {
        return None;
    }
    let tolerance = signed_bytes(if f.drift_bytes < 0.0 { -c.tolerance_bytes } else { c.tolerance_bytes });
    let (from, to) = (minute(early), minute(late));
    let when = if from == to { format!("at {from}") } else { format!("between {from} and {to}") };
    if late <= first + f.span_s {
        return Some(format!("It passed {tolerance} {when}."));
    }
    Some(format!("At this pace it passes {tolerance} {when}."))
}

fn alarm(f: &Finding, c: &Context) -> String {
    let (Some(at), Some(first)) = (f.first_alarm_unix_s, c.first_unix_s) else {
        return "A live run would not have rung.".into();
    };
    let rang = format!("A live run would have rung after {}, at {}", duration(at - first), minute(at));
    match f.verdict {
        Verdict::Outside => format!("{rang}."),
        _ => format!("{rang}; what came since does not bear that out."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Params, batch};
    use crate::model::series::Point;

    const START_UNIX_S: f64 = 1_790_000_000.0;

    /// The paragraph and the notes on a series of so many hours, a sample a minute: megabytes by the hour, incarnation and requests.
    fn said(hours: u32, of: impl Fn(f64) -> (f64, u32, Option<f64>)) -> String {
        let point = |minute: u32| {
            let (megabytes, segment, requests) = of(f64::from(minute) / 60.0);
            let noise = 3e5 * f64::from(minute * 7 % 11);
            Point { unix_s: START_UNIX_S + 60.0 * f64::from(minute), bytes: 1e6 * megabytes + noise, segment, requests }
        };
        let points: Vec<Point> = (0..hours * 60).map(point).filter(|p| p.bytes > 0.0).collect();
        let params = Params::default();
        let mut thinner = crate::model::columns::Thinner::new(START_UNIX_S, 60.0);
        points.iter().for_each(|p| thinner.push(p.unix_s, p.bytes, p.segment));
        let columns = thinner.finish();
        let context = Context {
            name: "leak.csv",
            tolerance_bytes: params.tolerance_bytes,
            horizon_s: params.horizon_s,
            first_unix_s: points.first().map(|p| p.unix_s),
            replay: true,
            columns: &columns,
            notes: &Notes::default(),
        };
        text(&batch(&points, params), &context)
    }

    fn says(text: &str, all: &[&str]) {
        for words in all {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn what_lies_outside_and_has_not_rung_is_told_why() {
        let leaks = |hours: u32| said(hours, |h| (900.0 + 90.0 * h, 0, None));
        let early =
            ["inconclusive against ±50.0 MB", "2 h 59 min seen so far: a start that goes on, a cache", "not have rung"];
        says(&leaks(3), &early);
        let late = leaks(8);
        says(&late, &["outside ±50.0 MB", "would have rung after", "It passed +50.0 MB"]);
        assert!(!late.contains("may yet explain") && !late.contains("bear that out"), "{late}");
    }

    #[test]
    fn what_sets_in_late_is_told_since_when_and_when_the_tolerance_was_passed() {
        // From hour 24 on 8 MB an hour: 50 MB are gone at hour 30.25, 2026-09-23 20:48.
        let late = said(72, |h| (900.0 + 8.0 * (h - 24.0).max(0.0), 0, None));
        says(
            &late,
            &["Linear in time, 8.0", "an hour since about 2026-09-22 14:", "It passed +50.0 MB between 2026-09-22"],
        );
    }

    #[test]
    fn levels_restarts_and_gaps_are_told() {
        let step = said(48, |h| (if h < 24.0 { 900.0 } else { 30_900.0 }, 0, None));
        says(
            &step,
            &[
                "neither grows nor shrinks",
                "inconclusive",
                "Its level rose by 30.0 GB at 2026-09-22 14:",
                "stepped by the tolerance",
            ],
        );
        assert!(!step.contains("allocator"), "{step}");
        let to_and_fro = said(48, |h| (if ((h / 6.0) as u32).is_multiple_of(2) { 900.0 } else { 5900.0 }, 0, None));
        says(&to_and_fro, &["within", "Its level goes to and fro: ", "up to 5.00 GB"]);
        let jumped = said(48, |h| (if h < 47.9 { 900.0 } else { 30_900.0 }, 0, None));
        says(&jumped, &["inconclusive", "Its last minutes lie 30.0 GB above"]);
        let restarts = said(48, |h| (900.0 + 5.0 * (h % 12.0), (h / 12.0) as u32, None));
        says(&restarts, &["grows by", "summed over 4 incarnations"]);
        let gap = said(48, |h| (if (10.0..16.0).contains(&h) { -100.0 } else { 900.0 }, 0, None));
        says(&gap, &["within", "note: nothing was sampled for 6 h 1 min from 2026-09-22 00:"]);
    }

    #[test]
    fn what_goes_with_the_requests_is_told() {
        // Twelve busy hours a day, each day later; 60 MB a share of the load, held for as long as it is served.
        let busy = |h: f64| 0.5 + 0.4 * (std::f64::consts::TAU * h / 17.0).sin() + 0.1 * (3.1 * h).cos();
        let mut served = vec![0.0];
        (0..48 * 60).for_each(|minute| served.push(served[minute] + 5e4 * busy(minute as f64 / 60.0)));
        let sessions = said(48, |h| (900.0 + 60.0 * busy(h), 0, Some(served[(60.0 * h).round() as usize].floor())));
        says(&sessions, &["within", "MB come and go with the requests and are no part of that."]);
        let by_day = said(48, |h| (900.0 + 30.0 * (std::f64::consts::TAU * h / 24.0).sin(), 0, None));
        says(&by_day, &["within", "MB come and go with the hours of the day and are no part of that."]);
        let evenly = said(48, |h| (900.0 + 5.0 * h, 0, Some((1e4 * h).floor())));
        let each = evenly.split(" B each").next().and_then(|before| before.rsplit(' ').next()?.parse::<f64>().ok());
        assert!(each.is_some_and(|each| (each - 500.0).abs() < 15.0), "{evenly}");
        let stopped = said(72, |h| (900.0 + 12.0 * h.min(55.0), 0, None));
        says(&stopped, &["outside", "In the last 24 h it went by +"]);
    }
}
