//! The picture of a series: samples (smallest to largest, and median), the fitted drift with its 95 % interval, what the
//! tolerance allows, warm-up, gaps and events, on one axis of time. Several panels share that axis.
//!
//! Pure: points, finding and events in; SVG, PNG or a terminal's lines out. Which samples belong into it, and what they
//! mean, is the caller's business.

use super::fits::{Fit, fits};
use super::scale::{Unit, bytes, duration, moment, signed_bytes, ticks, time_ticks};
use super::scene::{Anchor, Draw, Frame, Ink, Scene, text_width};
use super::{png, svg};
use crate::model::columns::{Column, thin};
use crate::model::event::EventSeverity;
use crate::model::finding::{CourseRow, Finding, Verdict};
use crate::model::series::Point;

/// What is judged: so many bytes, up or down, over so long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Bytes over the horizon, either way.
    pub bytes: f64,
    /// Seconds.
    pub horizon_s: f64,
}

/// An event on the axis of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// When.
    pub unix_s: f64,
    /// How bad.
    pub severity: EventSeverity,
    /// One line, shown when pointed at and read aloud.
    pub label: String,
}

/// A time in which something held: a gap, a warm-up.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// From, seconds since the epoch.
    pub from_s: f64,
    /// To.
    pub to_s: f64,
    /// What it was, such as `supervisor_down`.
    pub label: String,
}

/// One series in the picture.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Its name, such as `worker-0.anon_swap`.
    pub title: String,
    /// What y measures.
    pub unit: Unit,
    /// Its samples, thinned.
    pub columns: Vec<Column>,
    /// What the analysis says of it, if it was judged.
    pub finding: Option<Finding>,
    /// Against which tolerance.
    pub tolerance: Option<Tolerance>,
    /// How the finding's drift came about, where more than the finding is at hand.
    pub course: Vec<CourseRow>,
    /// Shown, not judged.
    pub warm_up: Option<Span>,
    /// More lines in the same panel: name and columns (medians are drawn).
    pub others: Vec<(String, Vec<Column>)>,
}

impl Panel {
    /// A judged series of bytes from its raw points (in order of time).
    #[must_use]
    pub fn of_points(title: &str, points: &[Point], finding: Option<Finding>, tolerance: Option<Tolerance>) -> Self {
        let samples = points.iter().map(|p| (p.unix_s, p.bytes, p.segment));
        Panel {
            title: title.to_owned(),
            unit: Unit::Bytes,
            columns: thin(samples, COLUMNS_MAX),
            finding,
            tolerance,
            course: Vec::new(),
            warm_up: None,
            others: Vec::new(),
        }
    }
}

/// As many columns as a picture of a usual width has pixels.
const COLUMNS_MAX: usize = 700;

/// One or more panels on one axis of time.
#[derive(Debug, Clone)]
pub struct Picture {
    /// From top to bottom.
    pub panels: Vec<Panel>,
    /// Events, drawn through all panels.
    pub marks: Vec<Mark>,
    /// Times in which nothing was watched.
    pub gaps: Vec<Span>,
    /// From and to, seconds since the epoch; `None`: as long as the samples.
    pub window: Option<(f64, f64)>,
    /// Logical pixels.
    pub width: f64,
    /// Height of each panel's plot, logical pixels.
    pub panel_height: f64,
    /// Name, finding and legend above each panel; off where the page around it says them.
    pub headed: bool,
}

impl Picture {
    /// One panel in the size that suits a mail.
    #[must_use]
    pub fn of(panel: Panel) -> Self {
        Picture {
            panels: vec![panel],
            marks: Vec::new(),
            gaps: Vec::new(),
            window: None,
            width: 760.0,
            panel_height: 210.0,
            headed: true,
        }
    }

    /// A file of its own: colours, dark mode and font names are in it.
    #[must_use]
    pub fn svg(&self) -> String {
        svg::document(&scene(self))
    }

    /// PNG bytes, `scale` device pixels a logical one; 2 suits sharp screens and mails.
    pub fn png(&self, scale: u32) -> Result<Vec<u8>, png::PngError> {
        png::encode(&scene(self), scale)
    }
}

/// One sentence on what was found, for captions and screen readers.
#[must_use]
pub fn sentence(finding: &Finding, tolerance: Option<Tolerance>) -> String {
    let beside = beside(finding).map_or_else(String::new, |beside| format!("; {beside}"));
    format!("{}{beside}", judged(finding, tolerance))
}

/// What is no part of the drift.
fn beside(finding: &Finding) -> Option<String> {
    let load = finding.load_swing_bytes.map(|swing| format!("{} come and go with the requests", bytes(swing)));
    let day = finding.day_swing_bytes.map(|swing| format!("{} with the hours of the day", bytes(swing)));
    match (load, day) {
        (Some(load), Some(day)) => Some(format!("{load}, {day}")),
        (None, Some(day)) => Some(day.replacen("with", "come and go with", 1)),
        (load, None) => load,
    }
}

/// The verdict, with its figures.
fn judged(finding: &Finding, tolerance: Option<Tolerance>) -> String {
    let [lo, hi] = finding.drift_ci95_bytes;
    let over = tolerance.map_or_else(String::new, |t| format!(" over {}", super::scale::duration(t.horizon_s)));
    let word = match finding.verdict {
        Verdict::Within => "within tolerance",
        Verdict::Outside => "outside tolerance",
        Verdict::Inconclusive => "inconclusive",
    };
    let shape = match finding.shape {
        crate::model::finding::Shape::None => String::new(),
        shape => format!(" ({})", shape.as_str().replace('_', " ")),
    };
    if !(lo.is_finite() && hi.is_finite()) {
        return format!("{word}{shape}: no interval yet, too little was seen");
    }
    let drift = signed_bytes(finding.drift_bytes);
    // Only of a leak: what a request seems to cost is noise as long as nothing was found.
    let each = finding.slope_bytes_per_request.filter(|bytes| bytes.is_finite() && finding.verdict == Verdict::Outside);
    let each = each.map_or_else(String::new, |bytes| format!(", {bytes:.0} bytes a request"));
    format!("{word}{shape}: {drift}{over}, 95 % interval {} to {}{each}", signed_bytes(lo), signed_bytes(hi))
}

/// Room around the plots, logical pixels.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 16.0;
const HEAD: f64 = 10.0;
/// A line of it.
const HEAD_LINE: f64 = 17.0;
/// Above a plot whose name and finding stand elsewhere.
const HEAD_BARE: f64 = 8.0;
const FOOT: f64 = 26.0;

/// Lays the picture out.
#[must_use]
pub fn scene(picture: &Picture) -> Scene {
    let window = window(picture);
    let mut items = Vec::new();
    let mut top = 0.0;
    for panel in &picture.panels {
        let head = if picture.headed { heading(&mut items, panel, picture, top) } else { HEAD_BARE };
        let frame = Frame {
            left: LEFT,
            top: top + head,
            width: (picture.width - LEFT - RIGHT).max(50.0),
            height: picture.panel_height.max(20.0),
            x: window,
            y: value_range(panel, window),
            unit: panel.unit,
            timed: true,
        };
        items.push(Draw::Axes { items: axes(&frame) });
        items.push(Draw::Plot { frame, items: contents(panel, picture, &frame) });
        top += head + frame.height + FOOT;
    }
    let names: Vec<&str> = picture.panels.iter().map(|p| p.title.as_str()).collect();
    Scene {
        width: picture.width,
        height: top.max(1.0),
        title: format!("{} from {} to {}", names.join(", "), moment(window.0), moment(window.1)),
        description: description(picture),
        items,
    }
}

fn description(picture: &Picture) -> String {
    let mut parts: Vec<String> = picture
        .panels
        .iter()
        .map(|p| match &p.finding {
            Some(finding) => format!("{}: {}.", p.title, sentence(finding, p.tolerance)),
            None => format!("{}: {}.", p.title, span_of(p)),
        })
        .collect();
    if !picture.marks.is_empty() {
        let errors = picture.marks.iter().filter(|m| m.severity == EventSeverity::Error).count();
        parts.push(format!("{} events, {errors} of them errors.", picture.marks.len()));
    }
    parts.join(" ")
}

fn span_of(panel: &Panel) -> String {
    let (lo, hi) = panel.columns.iter().fold((f64::MAX, f64::MIN), |(lo, hi), c| (lo.min(c.min), hi.max(c.max)));
    if lo > hi {
        "no samples".into()
    } else {
        format!("from {} to {}", panel.unit.write(lo, (hi - lo) / 10.0), panel.unit.write(hi, (hi - lo) / 10.0))
    }
}

fn window(picture: &Picture) -> (f64, f64) {
    let (from, to) = picture.window.unwrap_or_else(|| {
        let all = picture.panels.iter().flat_map(|p| p.columns.iter().chain(p.others.iter().flat_map(|(_, c)| c)));
        all.fold((f64::MAX, f64::MIN), |(lo, hi), c| (lo.min(c.unix_s), hi.max(c.unix_s)))
    });
    if from < to {
        (from, to)
    } else if from <= to {
        (from - 0.5, to + 0.5)
    } else {
        (0.0, 1.0) // no samples at all
    }
}

/// From the smallest to the largest sample, but not out to what lies far off the rest (a load that ramps from nothing,
/// one wild reading): such samples leave the picture at its edge rather than flatten everything else.
fn value_range(panel: &Panel, window: (f64, f64)) -> (f64, f64) {
    let inside = |c: &&Column| c.unix_s >= window.0 && c.unix_s <= window.1;
    let all = || panel.columns.iter().chain(panel.others.iter().flat_map(|(_, c)| c)).filter(inside);
    let mut medians: Vec<f64> = all().map(|c| c.median).collect();
    if medians.is_empty() {
        return (0.0, 1.0);
    }
    medians.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| medians[((medians.len() - 1) as f64 * q).round() as usize];
    let (q_lo, q_hi) = (quantile(0.03), quantile(0.97));
    let reach = 3.0 * (q_hi - q_lo) + if panel.unit == Unit::Bytes { 4.0 * 4096.0 } else { 0.0 };
    let (fence_lo, fence_hi) = (q_lo - reach, q_hi + reach);
    let (mut lo, mut hi) =
        all().fold((q_lo, q_hi), |(lo, hi), c| (lo.min(c.min.max(fence_lo)), hi.max(c.max.min(fence_hi))));
    let range = hi - lo;
    for fit in fits(panel) {
        // What the tolerance allows is always in the picture, so that a flat series looks flat and every chart of a long
        // run has the same scale; whoever wants the last kilobyte zooms.
        let allowed = fit.allowed() * 1.08;
        lo = lo.min(fit.level - allowed);
        hi = hi.max(fit.level + allowed);
        for (_, [least, _, most]) in &fit.points {
            hi = hi.max(most.min(fit.level + 2.0 * range));
            lo = lo.min(least.max(fit.level - 2.0 * range));
        }
    }
    let room = ((hi - lo) * 0.06).max(hi.abs().max(1.0) * 1e-6);
    // What cannot be negative has no axis below nothing.
    let floor = if q_lo >= 0.0 { 0.0 } else { f64::MIN };
    ((lo - room).max(floor), hi + room)
}

/// Name, what was found, what is no part of that, and the legend, a line each. Returns how high that is.
fn heading(items: &mut Vec<Draw>, panel: &Panel, picture: &Picture, top: f64) -> f64 {
    let mut text = |x: f64, y: f64, text: String, ink: Ink, size: f64, bold: bool| {
        items.push(Draw::Text { x, y, text, anchor: Anchor::Start, ink, size, bold });
    };
    let mut y = top + HEAD_LINE;
    text(LEFT, y, panel.title.clone(), Ink::Text, 13.0, true);
    let (caption, ink) = match &panel.finding {
        Some(finding) => (judged(finding, panel.tolerance), verdict_ink(finding.verdict)),
        None => (span_of(panel), Ink::Dim),
    };
    let wide = picture.width - LEFT - RIGHT;
    let beside = panel.finding.as_ref().and_then(beside).map(|beside| (beside, Ink::Dim));
    for (caption, ink) in [(caption, ink)].into_iter().chain(beside) {
        for line in wrapped(&caption, 12.0, wide) {
            y += HEAD_LINE;
            text(LEFT, y, line, ink, 12.0, false);
        }
    }
    let legend = legend(panel, picture);
    if !legend.is_empty() {
        y += HEAD_LINE;
    }
    let mut x = LEFT;
    for (name, ink) in legend {
        items.push(Draw::Line {
            points: vec![(x, y - 4.0), (x + 14.0, y - 4.0)],
            ink,
            width: if matches!(ink, Ink::WarmUp | Ink::Gap) { 9.0 } else { 2.5 },
            dashed: ink == Ink::Tolerance,
        });
        x += 19.0;
        items.push(Draw::Text {
            x,
            y,
            text: name.clone(),
            anchor: Anchor::Start,
            ink: Ink::Dim,
            size: 11.0,
            bold: false,
        });
        // A browser's own font is a little wider than the one that is measured.
        x += text_width(&name, 11.0) * 1.1 + 14.0;
    }
    y - top + HEAD
}

/// A sentence in lines that are no wider than that, logical pixels, cut between words.
fn wrapped(sentence: &str, size: f64, wide: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in sentence.split(' ') {
        match lines.last_mut() {
            // A browser's own font is a little wider than the one that is measured.
            Some(line) if text_width(&format!("{line} {word}"), size) * 1.1 <= wide => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What the lines of a panel are.
fn legend(panel: &Panel, picture: &Picture) -> Vec<(String, Ink)> {
    let (Some(finding), Some(t)) = (&panel.finding, panel.tolerance) else {
        let inks = [Ink::Second, Ink::Third].into_iter().cycle();
        return panel.others.iter().zip(inks).map(|((name, _), ink)| (name.clone(), ink)).collect();
    };
    let mut all = vec![("samples".to_owned(), Ink::Sample)];
    all.extend(panel.warm_up.is_some().then(|| ("warm-up".to_owned(), Ink::WarmUp)));
    if !fits(panel).is_empty() {
        all.push(("drift, 95 % interval".into(), Ink::Fit));
        all.push((format!("tolerance ±{} in {}", bytes(t.bytes), duration(t.horizon_s)), Ink::Tolerance));
    }
    all.extend((!picture.gaps.is_empty()).then(|| ("not watched".to_owned(), Ink::Gap)));
    let at = finding.first_alarm_unix_s.unwrap_or(f64::NAN);
    let rang = picture.marks.iter().any(|m| (m.unix_s - at).abs() < 1.0);
    let errors = picture.marks.iter().filter(|m| m.severity == EventSeverity::Error).count();
    if errors > 0 {
        let what = match (rang, errors) {
            (true, 1) => "alarm",
            (true, _) => "alarm and other errors",
            (false, _) => "errors",
        };
        all.push((what.into(), Ink::Error));
    }
    all
}

/// The colour of a verdict.
#[must_use]
pub fn verdict_ink(verdict: Verdict) -> Ink {
    match verdict {
        Verdict::Within => Ink::Good,
        Verdict::Outside => Ink::Error,
        Verdict::Inconclusive => Ink::Warning,
    }
}

fn axes(frame: &Frame) -> Vec<Draw> {
    let mut items = Vec::new();
    let label = |x: f64, y: f64, text: String, anchor: Anchor| Draw::Text {
        x,
        y,
        text,
        anchor,
        ink: Ink::Dim,
        size: 11.0,
        bold: false,
    };
    let grid = |points: Vec<(f64, f64)>| Draw::Line { points, ink: Ink::Grid, width: 1.0, dashed: false };
    let (values, step) = ticks(frame.y.0, frame.y.1, (frame.height / 42.0) as usize);
    for value in values {
        let (_, y) = frame.at(frame.x.0, value);
        items.push(grid(vec![(frame.left, y), (frame.left + frame.width, y)]));
        items.push(label(frame.left - 7.0, y + 4.0, frame.unit.write(value, step), Anchor::End));
    }
    let bottom = frame.top + frame.height;
    for (t, text) in time_ticks(frame.x.0, frame.x.1, (frame.width / 80.0) as usize) {
        let (x, _) = frame.at(t, frame.y.0);
        items.push(grid(vec![(x, frame.top), (x, bottom)]));
        items.push(label(x, bottom + 16.0, text, Anchor::Middle));
    }
    items
}

fn contents(panel: &Panel, picture: &Picture, frame: &Frame) -> Vec<Draw> {
    let mut items = Vec::new();
    let slab = |from: f64, to: f64, ink: Ink, hint: String| {
        let (x0, x1) = (frame.at(from, 0.0).0, frame.at(to, 0.0).0);
        let (top, bottom) = (frame.top, frame.top + frame.height);
        Draw::Area { points: vec![(x0, top), (x1, top), (x1, bottom), (x0, bottom)], ink, hint }
    };
    let fits = fits(panel);
    for fit in &fits {
        tolerance(&mut items, fit, frame);
    }
    if let Some(span) = &panel.warm_up {
        items.push(slab(span.from_s, span.to_s, Ink::WarmUp, format!("warm-up: {}", span.label)));
    }
    for gap in &picture.gaps {
        items.push(slab(gap.from_s, gap.to_s, Ink::Gap, format!("not watched: {}", gap.label)));
    }
    samples(&mut items, &panel.columns, frame, (Ink::Sample, Some(Ink::Envelope)));
    for ((_, columns), ink) in panel.others.iter().zip([Ink::Second, Ink::Third].into_iter().cycle()) {
        samples(&mut items, columns, frame, (ink, None));
    }
    for fit in &fits {
        drift(&mut items, fit, frame);
    }
    beyond(&mut items, &panel.columns, frame, panel.unit);
    for mark in &picture.marks {
        let x = frame.at(mark.unix_s, 0.0).0;
        // Only an error goes through the samples: bars for each warning would hide what the chart is for.
        let (ink, half, share) = match mark.severity {
            EventSeverity::Info => (Ink::Info, 0.5, 0.06),
            EventSeverity::Warning => (Ink::Warning, 1.0, 0.1),
            EventSeverity::Error => (Ink::Error, 0.8, 1.0),
        };
        let foot = frame.top + frame.height * share;
        let points = vec![(x - half, frame.top), (x + half, frame.top), (x + half, foot), (x - half, foot)];
        items.push(Draw::Area { points, ink, hint: format!("{} {}", moment(mark.unix_s), mark.label) });
    }
    items
}

/// Where the series may go from its level at the start without using the tolerance up faster than the horizon allows.
fn tolerance(items: &mut Vec<Draw>, fit: &Fit, frame: &Frame) {
    let start = frame.at(fit.from_s, fit.level);
    let up = frame.at(fit.to_s, fit.level + fit.allowed());
    let down = frame.at(fit.to_s, fit.level - fit.allowed());
    items.push(Draw::Area { points: vec![start, up, down], ink: Ink::Allowed, hint: String::new() });
    for end in [up, down] {
        items.push(Draw::Line { points: vec![start, end], ink: Ink::Tolerance, width: 1.4, dashed: true });
    }
}

fn drift(items: &mut Vec<Draw>, fit: &Fit, frame: &Frame) {
    let line = |which: usize| fit.points.iter().map(move |(unix_s, at)| frame.at(*unix_s, at[which]));
    items.push(Draw::Area { points: line(2).chain(line(0).rev()).collect(), ink: Ink::Band, hint: String::new() });
    items.push(Draw::Line { points: line(1).collect(), ink: Ink::Fit, width: 2.0, dashed: false });
}

/// How far the samples go that leave the picture, at its edge where they go farthest.
fn beyond(items: &mut Vec<Draw>, columns: &[Column], frame: &Frame, unit: Unit) {
    let highest = columns.iter().max_by(|a, b| a.max.total_cmp(&b.max)).map(|c| (c.unix_s, c.max));
    let lowest = columns.iter().min_by(|a, b| a.min.total_cmp(&b.min)).map(|c| (c.unix_s, c.min));
    let inside = |(unix_s, _): &(f64, f64)| (frame.x.0..=frame.x.1).contains(unix_s);
    let above = highest.filter(inside).filter(|far| far.1 > frame.y.1).map(|far| (far, frame.top + 12.0));
    let below = lowest.filter(inside).filter(|far| far.1 < frame.y.0).map(|far| (far, frame.top + frame.height - 5.0));
    for ((unix_s, value), y) in above.into_iter().chain(below) {
        let x = frame.at(unix_s, 0.0).0;
        // Beside the samples, on the side where there is room.
        let (x, anchor) =
            if x > frame.left + 0.5 * frame.width { (x - 4.0, Anchor::End) } else { (x + 4.0, Anchor::Start) };
        let text = format!("to {}", unit.write(value, value.abs() / 100.0));
        items.push(Draw::Text { x, y, text, anchor, ink: Ink::Dim, size: 11.0, bold: false });
    }
}

/// Runs of columns without a hole: neither another incarnation nor a time without samples between them.
fn unbroken(columns: &[Column]) -> impl Iterator<Item = &[Column]> {
    let mut steps: Vec<f64> = columns.windows(2).map(|w| w[1].unix_s - w[0].unix_s).collect();
    let usual = if steps.is_empty() {
        f64::MAX
    } else {
        let middle = steps.len() / 2;
        *steps.select_nth_unstable_by(middle, f64::total_cmp).1
    };
    columns.chunk_by(move |a, b| a.segment == b.segment && b.unix_s - a.unix_s <= 4.0 * usual)
}

fn samples(items: &mut Vec<Draw>, columns: &[Column], frame: &Frame, (ink, envelope): (Ink, Option<Ink>)) {
    for piece in unbroken(columns) {
        if let Some(envelope) = envelope {
            let upper = piece.iter().map(|c| frame.at(c.unix_s, c.max));
            let lower = piece.iter().rev().map(|c| frame.at(c.unix_s, c.min));
            items.push(Draw::Area { points: upper.chain(lower).collect(), ink: envelope, hint: String::new() });
        }
        let mut points: Vec<(f64, f64)> = piece.iter().map(|c| frame.at(c.unix_s, c.median)).collect();
        if let [(x, y)] = points[..] {
            points = vec![(x - 1.0, y), (x + 1.0, y)]; // a lone column is seen, too
        }
        items.push(Draw::Line { points, ink, width: 1.5, dashed: false });
    }
}
