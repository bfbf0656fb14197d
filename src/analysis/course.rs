//! How a drift came about: what of it was there by when, and since when it grows. It is told beside a finding, and drawn; nothing is decided by it.

use super::blocks::Block;
use super::posterior::{Hypothesis, Leak};
use super::steps::Step;
use super::track::Track;

/// The drift's way through the run.
#[derive(Debug, Clone)]
pub struct Course {
    /// Hours, and what share of the drift over the horizon was there by then.
    rows: Vec<(f64, f64)>,
    /// What is added to that share an hour, later on.
    pace: f64,
    /// Since when it grows, hours, where that is not from the start.
    pub onset_h: Option<f64>,
}

impl Course {
    /// The way of the likeliest leak by `judged`, `best` if there is any, of a run that `whole` has seen from its beginning: in its steps where these are a leak,
    /// else in requests or in time.
    pub fn of(judged: &Track, best: Option<Hypothesis>, whole: &Track, by_steps: bool, horizon_h: f64) -> Course {
        let by_steps = by_steps.then(|| Course::in_steps(judged, horizon_h)).flatten();
        let in_requests = || {
            best.filter(|h| h.leak == Leak::Requests).and_then(|_| Course::in_requests(&whole.kept.blocks, horizon_h))
        };
        by_steps.or_else(in_requests).unwrap_or_else(|| {
            let onset_h = match best.map(|h| h.leak) {
                Some(Leak::Since(k)) if k > 0 => judged.regression.onsets_h.get(k).copied(),
                _ => None,
            };
            let share = best.filter(|_| onset_h.is_some()).map_or(1.0, |h| h.factor).max(f64::MIN_POSITIVE);
            Course { rows: vec![(onset_h.unwrap_or(0.0), 0.0)], pace: 1.0 / (share * horizon_h), onset_h }
        })
    }

    /// What has stepped so far, and on at the mean pace.
    fn in_steps(track: &Track, horizon_h: f64) -> Option<Course> {
        let now_h = track.regression.now_h;
        let within = |step: &&Step| step.0 >= now_h - horizon_h;
        let sum: f64 = track.steps.iter().filter(within).map(|step| step.1).sum();
        let whole = sum * (horizon_h / now_h.min(horizon_h));
        let mut rows = vec![(0.0, 0.0)];
        let mut stepped = 0.0;
        for (t_h, size) in &track.steps {
            rows.push((*t_h, stepped / whole));
            stepped += size;
            rows.push((*t_h, stepped / whole));
        }
        (sum.abs() > f64::EPSILON && now_h > 0.0).then(|| {
            rows.push((now_h, stepped / whole));
            Course { rows, pace: 1.0 / horizon_h, onset_h: None }
        })
    }

    /// As requests came in, and on at their mean pace.
    fn in_requests(blocks: &[Block], horizon_h: f64) -> Option<Course> {
        let (first, last) = (blocks.first()?, blocks.last()?);
        let (from, all) = (first.requests?, last.requests? - first.requests?);
        let share = |b: &Block| Some((b.t_h, (b.requests? - from) / all * last.t_h / horizon_h));
        let rows: Vec<(f64, f64)> = blocks.iter().filter_map(share).collect();
        (all > 0.0).then_some(Course { rows, pace: 1.0 / horizon_h, onset_h: None })
    }

    /// What share of the drift over the horizon was there at `t_h`; after the end of the run, what share is to be expected.
    pub fn share(&self, t_h: f64) -> f64 {
        let next = self.rows.partition_point(|row| row.0 <= t_h);
        match (next.checked_sub(1).map(|at| self.rows[at]), self.rows.get(next)) {
            (None, _) => 0.0,
            (Some(last), None) => last.1 + (t_h - last.0) * self.pace,
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (t_h - a.0) / (b.0 - a.0),
        }
    }

    /// When so large a share was there first, hours; after the end of the run, when it is to be expected.
    pub fn when(&self, share: f64) -> f64 {
        let Some(at) = self.rows.iter().position(|row| row.1 >= share) else {
            let last = self.rows[self.rows.len() - 1];
            return last.0 + (share - last.1) / self.pace;
        };
        let b = self.rows[at];
        match at.checked_sub(1).map(|before| self.rows[before]) {
            Some(a) if b.1 > a.1 => a.0 + (b.0 - a.0) * (share - a.1) / (b.1 - a.1),
            _ => b.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{START_UNIX_S, series};
    use super::super::{Detector, Params};
    use super::*;
    use crate::model::series::Point;

    /// What is found of a series in MB by the hour, with requests by the hour, and how far its course is from the series at most, MB.
    fn found(hours: f64, megabytes: impl Fn(f64) -> f64, requests: impl Fn(f64) -> f64) -> (Detector, f64) {
        let mut detector = Detector::new(Params::default());
        for p in series(hours, 60.0, &megabytes) {
            detector.push(Point { requests: Some(requests((p.unix_s - START_UNIX_S) / 3600.0).floor()), ..p });
        }
        let course = detector.course();
        let off = |row: &crate::model::finding::CourseRow| {
            let risen = (row.stepped_bytes + row.grown_bytes) / 1e6;
            megabytes((row.unix_s - START_UNIX_S) / 3600.0) - megabytes(0.0) - risen
        };
        assert!(course.len() > 50);
        (detector, course.iter().map(|row| off(row).abs()).fold(0.0, f64::max))
    }

    #[test]
    fn a_leak_that_sets_in_late_is_told_and_drawn_so() {
        let (d, off) = found(72.0, |h| 900.0 + 8.0 * (h - 30.0).max(0.0), |h| 1e4 * h);
        let f = d.look();
        let hours = |unix_s: f64| (unix_s - START_UNIX_S) / 3600.0;
        let (onset, [early, late]) =
            (f.onset_unix_s.map(hours).expect("it set in"), f.crossing_unix_s.expect("it passed").map(hours));
        assert!(
            (onset - 30.0).abs() < 2.1 && early < 36.25 && late > 36.25 && early > 33.0,
            "{onset} {early} {late}: {f:?}"
        );
        // Onsets that are asked for are four hours apart here.
        assert!(off < 17.0, "{off}");
    }

    #[test]
    fn a_leak_by_request_goes_as_requests_do() {
        // Twelve hours of rest, then twelve of work.
        let served = |h: f64| 12.0 * (h / 24.0).floor() + (h % 24.0 - 12.0).max(0.0);
        let (d, off) = found(48.0, |h| 900.0 + 9.0 * served(h), |h| 1e4 * served(h));
        let f = d.look();
        let [early, late] = f.crossing_unix_s.expect("it passed").map(|unix_s| (unix_s - START_UNIX_S) / 3600.0);
        // 50 MB are gone 5.6 hours into the first day's work.
        assert!(
            f.onset_unix_s.is_none() && early > 16.0 && early < 17.56 && late > 17.56 && late < 19.0,
            "{early} {late}: {f:?}"
        );
        assert!(off < 6.0, "{off}");
    }

    #[test]
    fn a_level_that_steps_is_told_and_drawn_so() {
        let (d, off) = found(48.0, |h| if h < 30.0 { 900.0 } else { 1300.0 }, |h| 1e4 * h);
        let steps = d.look().steps.expect("it stepped");
        assert!(steps.count == 1 && (steps.largest_bytes / 1e6 - 400.0).abs() < 5.0, "{steps:?}");
        assert!(((steps.largest_unix_s - START_UNIX_S) / 3600.0 - 30.0).abs() < 0.25, "{steps:?}");
        assert!(off < 5.0, "{off}");
    }

    #[test]
    fn a_share_is_there_when_it_came() {
        // Nothing until hour 10, half of it by hour 20, nothing more until the end at 40, then at the mean pace of 48 hours.
        let course =
            Course { rows: vec![(10.0, 0.0), (20.0, 0.5), (40.0, 0.5)], pace: 1.0 / 48.0, onset_h: Some(10.0) };
        for (share, t_h) in [(0.25, 15.0), (0.5, 20.0), (0.75, 52.0)] {
            assert!((course.when(share) - t_h).abs() < 1e-9, "{share}: {}", course.when(share));
        }
        for (t_h, share) in [(0.0, 0.0), (10.0, 0.0), (15.0, 0.25), (30.0, 0.5), (52.0, 0.75)] {
            assert!((course.share(t_h) - share).abs() < 1e-9, "{t_h}: {}", course.share(t_h));
        }
    }

    #[test]
    fn requests_tell_the_way_and_what_was_counted_before_the_run_is_none_of_it() {
        let block = |t_h: f64, requests: f64| Block { t_h, requests: Some(requests), ..Block::default() };
        let course =
            Course::in_requests(&[block(0.0, 70.0), block(12.0, 70.0), block(24.0, 80.0)], 48.0).expect("known");
        assert!((course.when(0.25) - 18.0).abs() < 1e-9 && (course.share(24.0) - 0.5).abs() < 1e-9, "{course:?}");
        assert!((course.when(1.0) - 48.0).abs() < 1e-9, "{course:?}");
        assert!(Course::in_requests(&[block(0.0, 1.0), block(1.0, 1.0)], 48.0).is_none());
    }
}
