//! The line that a finding draws through the samples: its drift as it came about, at each incarnation's own level, between the ends of its interval.

use super::plot::Panel;
use crate::model::columns::Column;
use crate::model::finding::{CourseRow, Finding};

/// The fitted course of one incarnation.
pub struct Fit {
    /// First column, seconds since the epoch.
    pub from_s: f64,
    /// Last column.
    pub to_s: f64,
    /// Bytes at `from_s`.
    pub level: f64,
    /// When (seconds), and bytes by then: by the low end of the interval, the estimate, the high end.
    pub points: Vec<(f64, [f64; 3])>,
    /// Bytes per second that use up the tolerance exactly.
    pub allowed_per_s: f64,
}

impl Fit {
    /// Bytes that use the tolerance up by the end.
    pub fn allowed(&self) -> f64 {
        self.allowed_per_s * (self.to_s - self.from_s)
    }
}

/// What a finding says of the growth of an incarnation: sudden changes, growth and its share of the drift, in order of time.
fn course_of(panel: &Panel, finding: &Finding, horizon_s: f64, columns: &[&Column]) -> Vec<CourseRow> {
    let (first, last) = (columns[0], columns[columns.len() - 1]);
    let row = |unix_s: f64, share: f64| CourseRow {
        unix_s,
        segment: first.segment,
        stepped_bytes: 0.0,
        grown_bytes: share * finding.drift_bytes,
        share,
    };
    if panel.course.is_empty() {
        // What set in later drifts by its share of the horizon.
        let per_s = finding.slope_bytes_per_hour / 3600.0 / finding.drift_bytes;
        let onset_s = finding.onset_unix_s.filter(|_| per_s.is_finite() && per_s > 0.0);
        let share = |unix_s: f64| match onset_s {
            Some(onset_s) => (unix_s - onset_s).max(0.0) * per_s,
            None => (unix_s - first.unix_s) / horizon_s,
        };
        let bend = onset_s.filter(|onset_s| (first.unix_s..last.unix_s).contains(onset_s));
        let times = [first.unix_s].into_iter().chain(bend).chain([last.unix_s]);
        return times.map(|unix_s| row(unix_s, share(unix_s))).collect();
    }
    let within = panel.course.iter().filter(|row| row.segment == first.segment);
    let mut rows: Vec<CourseRow> = within.filter(|row| row.unix_s >= first.unix_s).copied().collect();
    // From the first column to the last, as it goes on at their ends.
    match (rows.first().copied(), rows.last().copied()) {
        (Some(begins), Some(ends)) => {
            rows.insert(0, CourseRow { unix_s: first.unix_s.min(begins.unix_s), ..begins });
            rows.push(CourseRow { unix_s: last.unix_s.max(ends.unix_s), ..ends });
            rows
        }
        _ => [first.unix_s, last.unix_s].map(|unix_s| row(unix_s, 0.0)).to_vec(),
    }
}

/// What has come about by some time: what has stepped and grown, and the share of the drift.
fn by(rows: &[CourseRow], unix_s: f64) -> (f64, f64) {
    let next = rows.partition_point(|row| row.unix_s <= unix_s).clamp(1, rows.len() - 1);
    let (a, b) = (rows[next - 1], rows[next]);
    let at = if b.unix_s > a.unix_s { ((unix_s - a.unix_s) / (b.unix_s - a.unix_s)).clamp(0.0, 1.0) } else { 1.0 };
    let between = |of: &dyn Fn(&CourseRow) -> f64| of(&a) + (of(&b) - of(&a)) * at;
    (between(&|row| row.stepped_bytes + row.grown_bytes), between(&|row| row.share))
}

/// A course through each incarnation that is long enough to carry one: the finding's drift, at that incarnation's level.
pub fn fits(panel: &Panel) -> Vec<Fit> {
    let (Some(finding), Some(tolerance)) = (&panel.finding, panel.tolerance) else { return Vec::new() };
    let [lo, hi] = finding.drift_ci95_bytes;
    if tolerance.horizon_s <= 0.0 || [finding.drift_bytes, lo, hi].iter().any(|f| !f.is_finite() || f.abs() > 1e18) {
        return Vec::new();
    }
    let aside = [lo - finding.drift_bytes, 0.0, hi - finding.drift_bytes];
    let warm_until = panel.warm_up.as_ref().map_or(f64::MIN, |s| s.to_s);
    let settled: Vec<&Column> = panel.columns.iter().filter(|c| c.unix_s >= warm_until).collect();
    let whole = settled.last().zip(settled.first()).map_or(0.0, |(l, f)| l.unix_s - f.unix_s);
    settled
        .chunk_by(|a, b| a.segment == b.segment)
        .filter(|chunk| chunk.len() >= 3 && chunk[chunk.len() - 1].unix_s - chunk[0].unix_s > 0.05 * whole)
        .map(|chunk| {
            let (from_s, to_s) = (chunk[0].unix_s, chunk[chunk.len() - 1].unix_s);
            let rows = course_of(panel, finding, tolerance.horizon_s, chunk);
            let (begins, share) = by(&rows, from_s);
            let mut levels: Vec<f64> = chunk.iter().map(|c| c.median - by(&rows, c.unix_s).0 + begins).collect();
            let middle = levels.len() / 2;
            let (_, level, _) = levels.select_nth_unstable_by(middle, f64::total_cmp);
            let at = |row: &CourseRow| {
                let risen = *level + row.stepped_bytes + row.grown_bytes - begins;
                (row.unix_s, aside.map(|aside| risen + aside * (row.share - share)))
            };
            let points = rows.iter().map(at).collect();
            Fit { from_s, to_s, level: *level, points, allowed_per_s: tolerance.bytes / tolerance.horizon_s }
        })
        .collect()
}
