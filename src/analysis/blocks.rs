//! Ticks to blocks: the floor of some minutes, with outliers set aside and lasting jumps named.
//!
//! A floor (lower quartile) is what a process holds when its transient work is done. A block that lies far from where its
//! predecessors point is held back: if the series returns, it was an excursion and is dropped; if it stays, it is a step,
//! and gets a coefficient of its own. Whether steps are a leak is decided in `posterior`.

use super::loading::{Beginning, LOADING, may_load, pace};
use super::ticks::{Tick, quantile};
use std::collections::VecDeque;

/// How long the blocks are, and which quantile of their ticks is the floor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Longest block, seconds.
    pub block_s: f64,
    /// A block lasts this share of the segment's age, so that a warm-up's first minutes are resolved.
    pub share: f64,
    /// Quantile that is the floor.
    pub floor: f64,
}

/// Ten minutes, lower quartile: what most series are judged by.
pub const FINE: Scale = Scale { block_s: 600.0, share: 0.05, floor: 0.25 };
/// Samples that a block waits for, if it need not wait longer than a full one.
const SAMPLES_MIN: u32 = 3;
/// Ticks of which a lower quartile is more than the lowest.
const TICKS_MIN: usize = 6;
/// How many periods a block spans that must hold a trough: the periods of a collector differ by up to 40 %.
const UNEVEN: f64 = 1.1;
/// Length of such a block at least: twenty minutes, so that a fraction of a tick more or less does not matter.
const WHOLE_S: f64 = 1200.0;
/// Blocks beyond the gate that make a step of an excursion.
const LASTING: usize = 3;
/// Blocks beyond the gate that do not agree are noise after all.
const PENDING_MAX: usize = 8;
/// Beyond so many gates a block that no other confirms is an excursion.
const NOISE_MAX: f64 = 4.0;
/// Blocks that the local prediction looks back on.
const BACK: usize = 6;
/// How many usual deviations lie between a block and its prediction before it is held back.
const GATE: f64 = 5.5;
/// ... and how much at least, in tolerances (5 MB): more than two of the 2 MiB pages that some counters count.
const GATE_MIN: f64 = 0.1;
/// Blocks after a step agree on its size if they differ by less than a quarter of it, and this, tolerances (100 MB), unless they never do.
const SPREAD_MAX: f64 = 2.0;
/// Two steps are of one size if they differ by less than this share.
const SAME: f64 = 0.2;
/// An incarnation younger than this may have begun on a level that it falls back from, hours.
const YOUNG_H: f64 = 3.0;
/// ... by so much at least, tolerances (15 MB).
const FALL_MIN: f64 = 0.3;
/// A fall is as large as it looks from where the series was heading if it is so much of that from where it was.
const FALL_WHOLE: f64 = 0.7;
/// A jump smaller than this (50 MB in tolerances) is as large as it looks, whatever went before, but for falls after a restart.
const BEND_MIN: f64 = 1.0;
/// Sizes of levels that are remembered.
const RETURNED: usize = 8;

/// One block, in units of the tolerance, relative to the first.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Block {
    /// Middle, hours since the first sample.
    pub t_h: f64,
    /// First and last tick, hours.
    pub from_h: f64,
    /// Last tick, hours.
    pub to_h: f64,
    /// Seconds since the epoch, middle.
    pub unix_s: f64,
    /// Floor, tolerances above the first tick of the series.
    pub y: f64,
    /// Ticks in it.
    pub ticks: u32,
    /// Incarnation.
    pub segment: u32,
    /// Requests by then.
    pub requests: Option<f64>,
    /// How it is seen where memory goes by requests.
    pub worked: Option<Worked>,
}

/// Where memory goes by requests: what a start has been filled by, and what is held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worked {
    /// Hours of work since the incarnation began: requests served at the run's mean rate.
    pub age_h: f64,
    /// Requests that are held for a shorter and a longer time, as shares of the most.
    pub held: [f64; 2],
}

impl Block {
    /// How far its incarnation's start has got, hours; `from_h` is when that began.
    pub fn age_h(&self, from_h: f64) -> f64 {
        self.worked.map_or(self.t_h - from_h, |worked| worked.age_h)
    }

    /// What comes and goes: cosine and sine of 24 h, then of 12 h; where memory goes by requests, what is held of them, then 24 h.
    pub fn cycle(&self) -> [f64; 4] {
        let harmonic = |n: f64| (n * std::f64::consts::TAU * self.t_h / 24.0).sin_cos();
        let (day, half) = (harmonic(1.0), harmonic(2.0));
        match self.worked {
            Some(Worked { held: [short, long], .. }) => [short, long, day.1, day.0],
            None => [day.1, day.0, half.1, half.0],
        }
    }
}

/// What becomes of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ruling {
    /// A new incarnation begins at this time (hours).
    Restart(f64),
    /// The series jumped and stayed there, from this time (hours) on.
    Step {
        /// Hours since the first sample.
        t_h: f64,
        /// Size, tolerances.
        size: f64,
    },
    /// The series fell so from a level that it began on: another level, and no step of a leak.
    Level {
        /// Hours since the first sample.
        t_h: f64,
        /// Size, tolerances.
        size: f64,
    },
    /// Part of the series.
    Use(Block),
    /// An excursion, set aside.
    Drop(Block),
}

impl Ruling {
    /// From when on it holds, hours.
    pub fn since_h(&self) -> f64 {
        match self {
            Ruling::Restart(t_h) | Ruling::Step { t_h, .. } | Ruling::Level { t_h, .. } => *t_h,
            Ruling::Use(block) | Ruling::Drop(block) => block.from_h,
        }
    }
}

/// Makes blocks of ticks and rules on them.
#[derive(Debug, Clone)]
pub struct Blocker {
    tolerance_bytes: f64,
    scale: Scale,
    period_h: Option<f64>,
    base_bytes: Option<f64>,
    open: Vec<Tick>,
    segment: Option<u32>,
    segment_start_h: f64,
    due_s: f64,
    /// The first blocks of an incarnation, until they are through.
    beginning: Option<Beginning>,
    recent: VecDeque<Block>,
    deviations: VecDeque<f64>,
    pending: Vec<Block>,
    floor: f64,
    steps_up: VecDeque<f64>,
    /// Sizes of levels that have come and gone.
    returned: VecDeque<f64>,
    /// Whether the incarnation has fallen already.
    fallen: bool,
    /// Whether it is not the first.
    restarted: bool,
}

impl Blocker {
    /// Nothing seen.
    pub fn new(tolerance_bytes: f64, scale: Scale) -> Self {
        Blocker {
            tolerance_bytes,
            scale,
            period_h: None,
            base_bytes: None,
            open: Vec::new(),
            segment: None,
            segment_start_h: 0.0,
            due_s: 0.0,
            beginning: None,
            recent: VecDeque::new(),
            deviations: VecDeque::new(),
            pending: Vec::new(),
            floor: f64::INFINITY,
            steps_up: VecDeque::new(),
            returned: VecDeque::new(),
            fallen: false,
            restarted: false,
        }
    }

    /// From now on a block is a trough: there is a saw-tooth, and so long it takes from one to the next.
    pub fn set_period(&mut self, period_h: f64) {
        self.period_h = Some(period_h);
    }

    /// Long enough that each block holds a trough, however unevenly they come.
    fn with_trough_s(&self) -> Option<f64> {
        Some((UNEVEN * self.period_h? * 3600.0).max(WHOLE_S))
    }

    /// Bytes at which the figures of the blocks are zero.
    pub fn base_bytes(&self) -> f64 {
        self.base_bytes.unwrap_or(0.0)
    }

    /// Median of the last blocks that were used, bytes.
    pub fn level_bytes(&self) -> Option<f64> {
        let mut last: Vec<f64> = self.recent.iter().map(|b| b.y).collect();
        (!last.is_empty()).then(|| quantile(&mut last, 0.5) * self.tolerance_bytes + self.base_bytes())
    }

    /// How far the last minutes lie from where the blocks before them point, tolerances, and where that is; `None` where they do not all lie on the same side. Of
    /// a saw-tooth, whose troughs are used, only what has held a block back.
    pub fn unsettled(&self) -> Option<(f64, f64)> {
        if self.period_h.is_some() && self.pending.is_empty() {
            return None;
        }
        let open = self.open.iter().map(|t| (t.t_s / 3600.0, (t.bytes - self.base_bytes()) / self.tolerance_bytes));
        let all: Vec<(f64, f64)> = self.pending.iter().map(|b| (b.t_h, b.y)).chain(open).collect();
        let off = |(t_h, y): &(f64, f64)| self.predict(*t_h).map(|(predicted, _)| (y - predicted, *y));
        let last: Vec<(f64, f64)> = all[all.len().checked_sub(LASTING)?..].iter().filter_map(off).collect();
        let side = last.first()?.0.signum();
        last.into_iter().min_by(|a, b| (side * a.0).total_cmp(&(side * b.0))).filter(|(off, _)| off * side > 0.0)
    }

    /// Takes a tick; rulings that follow are appended to `out`.
    pub fn push(&mut self, tick: Tick, out: &mut Vec<Ruling>) {
        self.base_bytes.get_or_insert(tick.bytes);
        let t_h = tick.t_s / 3600.0;
        if self.segment != Some(tick.segment) {
            self.close(out);
            self.begin(tick.segment, t_h, out);
        } else if let Some(first) = self.open.first() {
            let whole = self.with_trough_s();
            let long = whole.unwrap_or_else(|| {
                (self.scale.share * (tick.t_s - self.segment_start_h * 3600.0)).clamp(55.0, self.scale.block_s - 1.0)
            });
            // Blocks of whole periods follow one another without gaps, to a fraction of a tick.
            let from_s = if whole.is_some() { self.due_s.max(first.t_s - long) } else { first.t_s };
            // Fewer than three figures cannot outvote a bad one.
            let samples: u32 = self.open.iter().map(|t| t.samples).fold(0, u32::saturating_add);
            let few = whole.is_none() && samples < SAMPLES_MIN && tick.t_s - from_s < self.scale.block_s - 1.0;
            if tick.t_s - from_s > long && !few {
                self.close(out);
                self.due_s = if tick.t_s - from_s > 2.0 * long { tick.t_s } else { from_s + long };
            }
        }
        self.open.push(tick);
    }

    fn begin(&mut self, segment: u32, t_h: f64, out: &mut Vec<Ruling>) {
        if self.segment.is_some() {
            if let Some(beginning) = self.beginning.take() {
                self.settle(beginning.cut_off(), out);
            }
            for block in std::mem::take(&mut self.pending) {
                out.push(Ruling::Drop(block));
            }
            out.push(Ruling::Restart(t_h));
            self.restarted = true;
        }
        self.segment = Some(segment);
        self.segment_start_h = t_h;
        self.due_s = t_h * 3600.0;
        self.beginning = Some(Beginning::new(t_h));
        self.recent.clear();
        self.pending.clear();
        self.floor = f64::INFINITY;
        self.fallen = false;
    }

    fn close(&mut self, out: &mut Vec<Ruling>) {
        let (Some(first), Some(last)) = (self.open.first(), self.open.last()) else { return };
        let n = self.open.len() as f64;
        let mut t_h = self.open.iter().map(|t| t.t_s).sum::<f64>() / n / 3600.0;
        // What grows steeply has its floor at the block's beginning: the floor is taken of what is left beside the growth, or
        // blocks that grow longer would bend a straight line.
        let slope = self.slope() * self.tolerance_bytes;
        let mut values: Vec<f64> = self.open.iter().map(|t| t.bytes - slope * (t.t_s / 3600.0 - t_h)).collect();
        let bytes = if self.period_h.is_some() {
            // Of a saw-tooth the trough: what is held after a collection, at the time when it was seen.
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
            let lowest = &order[..order.len().min(if values.len() < TICKS_MIN { 1 } else { 2 })];
            let mean =
                |f: &dyn Fn(&Tick) -> f64| lowest.iter().map(|i| f(&self.open[*i])).sum::<f64>() / lowest.len() as f64;
            t_h = mean(&|t| t.t_s / 3600.0);
            mean(&|t| t.bytes)
        } else {
            // Of so few ticks that a quartile would be the lowest of them, the median.
            quantile(&mut values, if self.open.len() < TICKS_MIN { 0.5 } else { self.scale.floor })
        };
        let block = Block {
            t_h,
            from_h: first.t_s / 3600.0,
            to_h: last.t_s / 3600.0,
            unix_s: last.unix_s,
            y: (bytes - self.base_bytes()) / self.tolerance_bytes,
            ticks: self.open.len() as u32,
            segment: first.segment,
            requests: mean_requests(&self.open),
            worked: None,
        };
        self.open.clear();
        let Some(beginning) = &mut self.beginning else { return self.rule(block, out) };
        if beginning.push(block, self.period_h.is_some())
            && let Some(beginning) = self.beginning.take()
        {
            self.settle(beginning, out);
        }
    }

    /// Ends the beginning of an incarnation: what it sets aside is not used.
    fn settle(&mut self, beginning: Beginning, out: &mut Vec<Ruling>) {
        let (set_aside, used) = beginning.end();
        out.extend(set_aside.into_iter().map(Ruling::Drop));
        used.into_iter().for_each(|block| self.accept(block, out));
    }

    fn rule(&mut self, block: Block, out: &mut Vec<Ruling>) {
        let Some((predicted, scale)) = self.predict(block.t_h) else { return self.accept(block, out) };
        let off = block.y - predicted;
        let gate = (GATE * scale).max(GATE_MIN);
        if off.abs() <= gate {
            for excursion in std::mem::take(&mut self.pending) {
                out.push(Ruling::Drop(excursion));
            }
            self.note(off);
            return self.accept(block, out);
        }
        self.pending.push(block);
        if self.pending.len() >= self.lasting() && !self.is_rising(gate) {
            self.rule_on_pending(gate, out);
        }
    }

    /// Blocks of whole periods are few: two of them must do.
    fn lasting(&self) -> usize {
        if self.period_h.is_some() { LASTING - 1 } else { LASTING }
    }

    /// The last blocks lie beyond the gate: a step if they agree; if not, wait; noise if that goes on.
    fn rule_on_pending(&mut self, gate: f64, out: &mut Vec<Ruling>) {
        let tail = self.pending.len() - self.lasting();
        let raw: Vec<f64> = self.pending.iter().map(|b| b.y - self.predict(b.t_h).map_or(b.y, |p| p.0)).collect();
        let off = quantile(&mut raw[tail..].to_vec(), 0.5);
        let (size, whole) = self.size(off, gate, &self.pending[tail]);
        let last = &raw[tail..];
        let spread = last.iter().fold(f64::MIN, |a, b| a.max(*b)) - last.iter().fold(f64::MAX, |a, b| a.min(*b));
        // A ramp is no step, however far it has come.
        let spread_max = if self.pending.len() < PENDING_MAX { SPREAD_MAX } else { f64::INFINITY };
        let agree = last.iter().all(|o| o * size > 0.0) && spread < gate.max((0.25 * off.abs()).min(spread_max));
        let level = agree && self.is_level(size, &self.pending[tail]);
        let step = level || agree && self.is_step(size, self.pending[tail].y);
        if !step && self.pending.len() < if self.period_h.is_some() { LASTING } else { PENDING_MAX } {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let skip = if step { tail } else { 0 };
        if step {
            let t_h = pending[tail].from_h;
            out.push(if level { Ruling::Level { t_h, size } } else { Ruling::Step { t_h, size } });
            if size > 0.0 {
                if self.steps_up.len() == 64 {
                    self.steps_up.pop_front();
                }
                self.steps_up.push_back(size);
            }
            self.recent.iter_mut().for_each(|b| b.y += size);
            if level && !self.fallen {
                self.fallen = true;
                self.note_return(-size);
            }
            if level || !whole {
                // What came before says nothing of how it goes on.
                self.recent.clear();
            }
        } else {
            raw.iter().rev().take(PENDING_MAX).for_each(|o| self.note(o.abs().min(3.0 * gate)));
        }
        for (i, block) in pending.into_iter().enumerate() {
            // Noise has no blocks that lie several gates off; an excursion that is over has.
            let over = !step && raw[i].abs() > NOISE_MAX * gate && raw[raw.len() - 1].abs() < NOISE_MAX * gate;
            if i < skip || over {
                out.push(Ruling::Drop(block));
            } else {
                self.accept(block, out);
            }
        }
    }

    /// Whether the blocks held back are still loading: how far that goes is not to be seen as long as the last of them rise by more than the
    /// gate.
    fn is_rising(&self, gate: f64) -> bool {
        let all = || self.recent.back().into_iter().chain(&self.pending);
        let loads = all().zip(all().skip(1)).any(|(a, b)| pace(a, b) > LOADING);
        let tail = &self.pending[self.pending.len().saturating_sub(self.lasting())..];
        let first = &self.pending[0];
        loads && tail.windows(2).any(|pair| pair[1].y - pair[0].y > gate && may_load(first, &pair[0], &pair[1]))
    }

    /// Size of a jump to this block, which lies so far off its prediction, and whether that is all of it. Where the series went up steeply it
    /// falls less than it falls short of what was foretold; what hardly falls at all is a warm-up that slackens, and no jump. Nor does what went
    /// down steeply jump up where it goes down no more.
    fn size(&self, off: f64, gate: f64, to: &Block) -> (f64, bool) {
        let falls = off < 0.0 && self.restarted;
        let slope = self.slope() * self.ahead_h(to.t_h);
        let change = if falls { self.recent.back().map_or(0.0, |last| to.y - last.y) } else { off + slope };
        let small = off.abs() < BEND_MIN && !falls;
        if small || change / off > FALL_WHOLE {
            return (off, true);
        }
        (if change * off > gate * off.abs() { change } else { 0.0 }, false)
    }

    /// Whether it falls from a level that comes and goes and that it began on: as far as one that has come and gone before, or once, while it is
    /// young. Not in the first incarnation, of whose collector nothing is known yet.
    fn is_level(&self, size: f64, to: &Block) -> bool {
        let known = self.returned.iter().any(|r| (r + size).abs() < SAME * r);
        let young = !self.fallen && to.from_h - self.segment_start_h < YOUNG_H && size < -FALL_MIN;
        self.restarted && !self.undoes(size) && (known || young)
    }

    /// Whether steps up that are still there make up for most of this fall.
    fn undoes(&self, size: f64) -> bool {
        size < 0.0 && self.steps_up.iter().sum::<f64>() > -0.6 * size
    }

    /// A jump up is a step. A fall is one only if it undoes a step or reaches below everything so far: a fall back to the floor is what a
    /// garbage collector does, and must not turn its ramps into a leak.
    fn is_step(&mut self, size: f64, y: f64) -> bool {
        if size > 0.0 {
            return true;
        }
        if self.undoes(size) {
            self.undo(-size);
            return true;
        }
        y < self.floor + 0.3 * size
    }

    /// Takes back steps up of this size.
    fn undo(&mut self, size: f64) {
        let mut left = size;
        while left > 0.0
            && let Some(last) = self.steps_up.pop_back()
        {
            if (last - size).abs() < SAME * last {
                self.note_return(last);
            }
            if last > left * 1.3 {
                self.steps_up.push_back(last - left);
            }
            left -= last;
        }
    }

    fn note_return(&mut self, size: f64) {
        if self.returned.len() == RETURNED {
            self.returned.pop_front();
        }
        self.returned.push_back(size);
    }

    fn accept(&mut self, block: Block, out: &mut Vec<Ruling>) {
        self.floor = self.floor.min(block.y);
        if self.recent.len() == BACK {
            self.recent.pop_front();
        }
        self.recent.push_back(block);
        out.push(Ruling::Use(block));
    }

    fn note(&mut self, off: f64) {
        if self.deviations.len() == 32 {
            self.deviations.pop_front();
        }
        self.deviations.push_back(off.abs());
    }

    /// The slope that most pairs of the last blocks agree on, tolerances an hour; a slope that they do not agree on is none, and
    /// extrapolating it would only add noise.
    fn slope(&self) -> f64 {
        let n = self.recent.len();
        if n < 4 {
            return 0.0;
        }
        let mut slopes = Vec::with_capacity(n * n / 2);
        for (i, a) in self.recent.iter().enumerate() {
            for b in self.recent.iter().skip(i + 1) {
                slopes.push((b.y - a.y) / (b.t_h - a.t_h).max(1e-6));
            }
        }
        let (low, high) = (quantile(&mut slopes, 0.2), quantile(&mut slopes, 0.8));
        if low < 0.0 && high > 0.0 { 0.0 } else { quantile(&mut slopes, 0.5) }
    }

    /// How far ahead of the last blocks this is, hours: a slope is trusted for half an hour, not across a gap.
    fn ahead_h(&self, t_h: f64) -> f64 {
        self.recent.back().map_or(0.0, |last| (t_h - last.t_h).min(0.5))
    }

    /// Where the last blocks point at `t_h` (median slope and level), and the usual deviation from such predictions.
    fn predict(&self, t_h: f64) -> Option<(f64, f64)> {
        let n = self.recent.len();
        // After a fall to another level there are fewer than at first.
        if n < if self.restarted { LASTING } else { 4 } {
            return None;
        }
        let slope = self.slope();
        let last_h = self.recent[n - 1].t_h;
        let mut levels: Vec<f64> = self.recent.iter().map(|b| b.y + slope * (last_h - b.t_h)).collect();
        let level = quantile(&mut levels, 0.5);
        let ahead = self.ahead_h(t_h);
        let mut usual: Vec<f64> = self.deviations.iter().copied().collect();
        let scale = if usual.len() < 4 { 0.05 } else { 1.48 * quantile(&mut usual, 0.5) };
        Some((level + slope * ahead, scale))
    }
}

/// Requests finished by the middle of some ticks; `None` if unknown.
fn mean_requests(ticks: &[Tick]) -> Option<f64> {
    let known: Vec<f64> = ticks.iter().filter_map(|t| t.requests).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the first block that is used begins, hours, in two hours of this, a tick a minute, MB by minutes.
    fn used_from_h(megabytes: impl Fn(usize) -> f64) -> Option<f64> {
        let (mut blocker, mut out) = (Blocker::new(50e6, FINE), Vec::new());
        for i in 0..120 {
            let t_s = 60.0 * i as f64;
            let tick = Tick { t_s, unix_s: t_s, bytes: 1e6 * megabytes(i), samples: 12, segment: 0, requests: None };
            blocker.push(tick, &mut out);
        }
        out.iter().find(|r| matches!(r, Ruling::Use(_))).map(Ruling::since_h)
    }

    #[test]
    fn what_scatters_by_hundreds_of_megabytes_does_not_load_and_what_rises_and_stays_does() {
        // Two levels a minute apart, in no order.
        let flips = |i: usize| if (i * i + i / 3) % 5 < 2 { 2050.0 } else { 1600.0 };
        assert!(used_from_h(flips).is_some_and(|from_h| from_h < 0.1), "{:?}", used_from_h(flips));
        // 20 GB in twelve minutes.
        let loads = |i: usize| 900.0 + 20e3 * (i as f64 / 12.0).min(1.0);
        assert!(used_from_h(loads).is_some_and(|from_h| (0.18..0.3).contains(&from_h)), "{:?}", used_from_h(loads));
    }
}
