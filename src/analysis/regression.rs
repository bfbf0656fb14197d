//! Blocks to whitened sums: keeps the bank of filters fed with the columns that could explain the series.
//!
//! This file knows what the columns are at a given time; what is made of the sums is left to `posterior`.

use super::bank::{
    CLASSES, COLUMNS, DAY_0, Filter, HINGE_0, HINGES, Noise, ONSET_IN_SHARED, REQ, SHARED, STEP_0, STEPS, STILL, WARM,
    WARM_0, WARM_EXP, Y, eliminate, warm_shape,
};
use super::blocks::Block;
use super::starts::{Start, Starts, Sums, ln_alike};

/// Prior standard deviations of the coefficients, in tolerances (50 MB). Levels are anything; warm-ups mostly below 300 MB; a day cycle
/// of up to ±40 MB, its second harmonic a third of that.
pub mod prior {
    /// Level of a segment.
    pub const LEVEL: f64 = 1e4;
    /// A step: by how much it may differ from the size that was seen.
    pub const STEP: f64 = 3.0;
    /// 24 h.
    pub const DAY: f64 = 0.3;
    /// 12 h.
    pub const HALF_DAY: f64 = 0.07;
    /// A warm-up, or a cache that fills ever more slowly: mostly below 300 MB, some of gigabytes.
    const WARM: f64 = 12.0;
    /// A cache that fills steadily.
    const CACHE: f64 = 2.5;

    /// What is held of requests, where memory goes by them.
    pub const HELD: [f64; 2] = [1.0, 0.6];

    /// What leaks, where it is only asked how a segment started.
    pub const LEAK: f64 = 3.0;

    /// What comes and goes: see [`Block::cycle`](super::Block::cycle).
    pub fn cycle(worked: bool) -> [f64; 4] {
        if worked { [HELD[0], HELD[1], DAY, DAY] } else { [DAY, DAY, HALF_DAY, HALF_DAY] }
    }

    /// The way in which a segment starts.
    pub fn of_start(k: usize) -> f64 {
        if k < super::WARM_EXP { WARM } else { CACHE }
    }
}

/// A step in the present segment. One that a later step takes back, and that comes again, is a level that comes and goes: all its times
/// share one coefficient, so that what lies before and after them can be compared.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Size when it was first seen, tolerances; `NaN` if it is not known.
    pub size: f64,
    /// Whether it is part of the level now.
    pub on: bool,
}

impl Step {
    /// What it adds now by the size that was seen, tolerances: its coefficient says by how much that was wrong.
    fn adds(&self) -> f64 {
        if self.on && self.size.is_finite() { self.size } else { 0.0 }
    }
}

/// Two steps are of the same size, or one takes the other back, if they differ by less than this share, and by less than this, tolerances (100 MB).
const SAME: f64 = 0.2;
const SAME_MOST: f64 = 2.0;

/// The whole regression of one series.
#[derive(Debug, Clone)]
pub struct Regression {
    /// One filter a kind of noise.
    pub filters: Vec<Filter>,
    /// Estimate of the noise variance under each, in squared tolerances; turns priors into ridges.
    pub variance: Vec<f64>,
    /// Ways of starting that are worth weighing under each noise, as bits; refreshed now and then.
    pub live: Vec<u64>,
    /// Looks until everything is weighed again.
    pub refresh_in: u32,
    /// Onsets on the grid, hours.
    pub onsets_h: Vec<f64>,
    /// Steps that are free in the present segment.
    pub steps: Vec<Step>,
    /// All blocks used.
    pub blocks: u64,
    /// True once a segment has ended.
    pub restarted: bool,
    /// Requests known.
    pub requests: Option<f64>,
    /// Whether memory is seen as going by requests.
    pub worked: bool,
    /// Latest block, hours.
    pub now_h: f64,
    horizon_h: f64,
    onset_spacing_h: f64,
    segment_start_h: f64,
    shift: f64,
}

impl Regression {
    /// Nothing seen.
    pub fn new(horizon_h: f64, noises: Vec<Noise>) -> Self {
        Self::since(0.0, horizon_h, noises)
    }

    /// Nothing seen, and nothing to come before this time (hours).
    pub fn since(from_h: f64, horizon_h: f64, noises: Vec<Noise>) -> Self {
        let filters: Vec<Filter> = noises.into_iter().map(Filter::new).collect();
        Regression {
            variance: vec![1e-3; filters.len()],
            live: vec![u64::MAX; filters.len()],
            refresh_in: 0,
            filters,
            onsets_h: vec![from_h],
            steps: Vec::new(),
            blocks: 0,
            restarted: false,
            requests: None,
            worked: false,
            now_h: 0.0,
            horizon_h,
            onset_spacing_h: horizon_h / HINGES as f64,
            segment_start_h: from_h,
            shift: 0.0,
        }
    }

    /// Requests per unit of their column: keeps it near one.
    pub const REQUEST_UNIT: f64 = 1e5;

    /// Takes a block.
    pub fn push(&mut self, b: &Block) {
        self.advance_onsets(b.t_h);
        let mut values = [0.0; COLUMNS];
        values[0] = 1.0;
        for (i, step) in self.steps.iter().enumerate() {
            values[STEP_0 + i] = f64::from(u8::from(step.on));
        }
        values[DAY_0..DAY_0 + 4].copy_from_slice(&b.cycle());
        self.worked = b.worked.is_some();
        let in_segment = (b.t_h - self.segment_start_h).max(0.0);
        let age_h = b.age_h(self.segment_start_h).max(0.0);
        for k in 0..WARM {
            values[WARM_0 + k] = warm_shape(k, age_h);
        }
        for (k, onset) in self.onsets_h.iter().enumerate() {
            values[HINGE_0 + k] = (b.t_h - onset).max(0.0) / self.horizon_h;
        }
        if let Some(r) = b.requests {
            self.requests = Some(r);
            values[REQ] = r / Self::REQUEST_UNIT;
        }
        values[Y] = b.y - self.shift - self.steps.iter().map(Step::adds).sum::<f64>();
        let (steps, onsets) = (self.steps.len(), self.onsets_h.len());
        let white = (10.0 / f64::from(b.ticks.clamp(1, 10))).sqrt();
        for f in &mut self.filters {
            f.push(b.t_h, in_segment, white, &values, steps, onsets);
        }
        self.blocks += 1;
        self.now_h = b.t_h;
    }

    /// A lasting jump: from here on the level has another free coefficient, unless an earlier jump is taken back or comes again. Returns
    /// by how much the level is said to change.
    pub fn step(&mut self, size: f64) -> f64 {
        self.refresh_in = 0;
        let same = |a: f64, b: f64| (a - b).abs() < (SAME * a.abs()).min(SAME_MOST);
        if let Some(back) = self.steps.iter_mut().rev().find(|s| s.on && same(s.size, -size)) {
            back.on = false;
            return -back.size;
        }
        if let Some(again) = self.steps.iter_mut().rev().find(|s| !s.on && same(s.size, size)) {
            again.on = true;
            return again.size;
        }
        if self.steps.len() == STEPS {
            self.fix_oldest_step();
        }
        self.steps.push(Step { size, on: true });
        size
    }

    /// A new incarnation at `t_h`: levels, steps and warm-ups end, what they say of the shared columns is kept.
    pub fn restart(&mut self, t_h: f64) {
        self.refresh_in = 0;
        let steps = self.steps.len();
        for (f, variance) in self.filters.iter_mut().zip(&self.variance) {
            close_segment(f, *variance, steps);
        }
        self.restarted = true;
        self.steps.clear();
        self.segment_start_h = t_h;
        self.shift = 0.0;
    }

    /// When the present incarnation began, hours.
    pub fn segment_start_h(&self) -> f64 {
        self.segment_start_h
    }

    /// Standard deviations of the priors of the common columns: steps, then level.
    pub fn ridges_of_segment(&self, variance: f64) -> Vec<f64> {
        let mut out = vec![variance / (prior::LEVEL * prior::LEVEL)];
        out.resize(1 + self.steps.len(), variance / (prior::STEP * prior::STEP));
        out
    }

    /// New onsets as time goes by; when the grid is full, every second one goes and the spacing doubles.
    fn advance_onsets(&mut self, t_h: f64) {
        while let Some(last) = self.onsets_h.last().copied()
            && t_h >= last + self.onset_spacing_h
        {
            if self.onsets_h.len() == HINGES {
                self.thin_onsets();
                continue;
            }
            // After a long gap the grid goes on from now, not through every hour of the gap.
            let next = last + self.onset_spacing_h;
            self.onsets_h.push(if t_h - next > self.horizon_h { t_h } else { next });
        }
    }

    fn thin_onsets(&mut self) {
        for f in &mut self.filters {
            for k in 1..HINGES / 2 {
                f.clear_column(HINGE_0 + k);
                f.move_column(HINGE_0 + 2 * k, HINGE_0 + k);
                f.history.move_onset(2 * k, k);
            }
            for k in HINGES / 2..HINGES {
                f.clear_column(HINGE_0 + k);
                f.history.clear_onset(k);
            }
        }
        self.onsets_h = self.onsets_h.iter().copied().step_by(2).collect();
        self.onset_spacing_h *= 2.0;
    }

    /// Fixes the oldest free step at its estimate, so that its slot is free again.
    fn fix_oldest_step(&mut self) {
        let wrong = self.correction_of_oldest_step();
        for f in &mut self.filters {
            f.subtract(STEP_0, wrong);
            f.clear_column(STEP_0);
            for i in 1..STEPS {
                f.move_column(STEP_0 + i, STEP_0 + i - 1);
            }
        }
        let step = self.steps.remove(0);
        if step.on {
            self.shift += step.adds() + wrong;
        }
    }

    /// By how much the oldest free step differs from the size that was seen, tolerances, estimated with levels and steps alone under middling
    /// noise.
    fn correction_of_oldest_step(&self) -> f64 {
        let n = self.steps.len() + 1;
        let f = &self.filters[self.filters.len() / 3];
        // All but that step are eliminated: the level, then the other steps.
        let order: Vec<usize> = (0..n).filter(|i| *i != STEP_0).chain([STEP_0, Y]).collect();
        let m = n + 1;
        let mut a = vec![0.0; m * m];
        for (i, &c) in order.iter().enumerate() {
            for (j, &d) in order.iter().enumerate().skip(i) {
                a[i * m + j] = f.at(c, d);
            }
        }
        eliminate(&mut a, m, n - 1, &vec![1e-9; n]);
        a[(n - 1) * m + n] / (a[(n - 1) * m + n - 1] + 1e-9)
    }
}

/// Noise below this is not believed in, tolerances (0.6 MB): shapes on a grid and floors of blocks are no better than that.
pub const NOISE_FLOOR: f64 = 0.006;

/// Eliminates a closing segment's own columns for each way it may have started, adds what is left to the history.
fn close_segment(f: &mut Filter, variance: f64, steps: usize) {
    let own: Vec<usize> = (0..=steps).collect();
    let n = own.len() + WARM + SHARED.len();
    let order: Vec<usize> = own.iter().copied().chain(WARM_0..WARM_0 + WARM).chain(SHARED).collect();
    let mut m = vec![0.0; n * n];
    for (i, &c) in order.iter().enumerate() {
        for (j, &d) in order.iter().enumerate().skip(i) {
            m[i * n + j] = f.at(c, d);
        }
    }
    let mut ridge = vec![variance / (prior::STEP * prior::STEP); own.len()];
    ridge[0] = variance / (prior::LEVEL * prior::LEVEL);
    let ln_det = eliminate(&mut m, n, own.len(), &ridge);
    let size = SHARED.len();
    if f.history.is_empty() {
        f.history.begin();
    }
    let shared = own.len() + WARM;
    let sums = Sums { m: &m, n, first: own.len(), steady: shared + ONSET_IN_SHARED };
    let starts = Starts::new(&sums, variance);
    for class in 0..CLASSES {
        let extra = |s: &Start| s.ln_det - 2.0 * ln_alike(class, s.place());
        let start = starts.best(class, 1);
        let products: Vec<f64> = (shared..n).map(|c| start.map_or(0.0, |s| s.product(&sums, c))).collect();
        f.history.ln_det[class] += ln_det + start.map_or(0.0, extra);
        let pivot = start.map_or(f64::INFINITY, |s| s.pivot);
        for i in 0..size {
            let a = products[i] / pivot;
            let all = &m[(shared + i) * n + shared..][i..size];
            f.history.add_row(class, i, all.iter().zip(&products[i..]).map(|(all, start)| all - a * start));
        }
        let start = starts.best(class, 0);
        let kept = &mut f.history.still[class];
        kept.ln_det += ln_det + start.map_or(0.0, extra);
        let place = |i: usize| if i + 1 < STILL { shared + i } else { n - 1 };
        let products = [0, 1, 2, 3, 4].map(|i| start.map_or(0.0, |s| s.product(&sums, place(i))));
        let pivot = start.map_or(f64::INFINITY, |s| s.pivot);
        for i in 0..STILL {
            for j in i..STILL {
                kept.products[i][j] += m[place(i) * n + place(j)] - products[i] / pivot * products[j];
            }
        }
    }
    f.restart();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_comes_and_goes_has_one_coefficient() {
        let mut r = Regression::new(48.0, super::super::bank::few_noises());
        assert_eq!([r.step(0.8), r.step(-0.9), r.step(0.75), r.step(-0.8)], [0.8, -0.8, 0.8, -0.8]);
        assert_eq!(r.steps.len(), 1);
        // Half as large is another.
        assert_eq!([r.step(0.4), r.step(0.8), r.step(-0.78)], [0.4, 0.8, -0.8]);
        assert_eq!(r.steps.iter().map(|s| s.on).collect::<Vec<_>>(), [false, true]);
    }
}
