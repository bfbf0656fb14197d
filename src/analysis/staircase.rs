//! The run cut into lines anew, with all that is known by now: where its level changed for good.
//!
//! `blocks` rules as blocks come in, and names a step when three of them have confirmed a jump that no noise makes. A burst that takes half
//! an hour, or one of a few megabytes, it lets pass for growth. Looked back upon, such a change has hours of level before and after it:
//! each incarnation is cut into straight lines with free levels and slopes (dynamic programming over all ways to cut; Jackson et al.,
//! "An algorithm for optimal partitioning of data on an interval", IEEE Signal Processing Letters 2005), a few blocks between two lines
//! being left to the change itself. What then lies between the end of a line and the beginning of the next is a step. Growth that flattens
//! is cut into lines that meet: no steps.

use super::blocks::{Block, Ruling};
use super::ticks::quantile;

/// Blocks of a line at least.
const LINE_MIN: usize = 3;
/// Blocks that a change may take (half an hour).
const CHANGE_MAX: usize = 4;
const CHANGE_H: f64 = 0.7;
/// ... and what each of them costs, as squared deviations: more than a block that fits.
const CHANGE_COST: f64 = 3.0;
/// What a line more costs: two coefficients, a place among hundreds, and noise that remembers.
const LINE_COST: f64 = 30.0;
/// ... which takes this long at least, hours.
const LINE_H: f64 = 0.4;
/// Usual slope of a line, tolerances an hour (25 MB).
const SLOPE: f64 = 0.5;
/// Blocks on each side of a place that tell how much the level changes by itself.
const SIDE: usize = 3;
/// Places about one among which its change is usual.
const ABOUT: usize = 9;
/// Noise below this is not believed in, tolerances (0.5 MB).
const FLOOR: f64 = 0.01;
/// Changes of less than this are none, tolerances (2.5 MB): more than one of the 2 MiB pages that some counters count.
const STEP_MIN: f64 = 0.05;
/// ... or of less than so many usual ones.
const STEP_USUAL: f64 = 3.0;
/// ... or of less than the steeper of the lines beside it goes in so many hours: a start bends.
const STEEP_H: f64 = 0.75;

/// A line: its blocks, and where it begins and ends.
#[derive(Debug, Clone, Copy)]
struct Line {
    from: usize,
    to: usize,
    slope: f64,
    begins: f64,
    ends: f64,
}

/// What becomes of the blocks, looked back upon.
pub fn rulings(blocks: &[Block]) -> Vec<Ruling> {
    let usual = usual_change(blocks);
    let mut out = Vec::with_capacity(blocks.len() + 32);
    for (i, run) in blocks.chunk_by(|a, b| a.segment == b.segment).enumerate() {
        if i > 0 {
            out.push(Ruling::Restart(run[0].from_h));
        }
        of_one(run, usual, &mut out);
    }
    out
}

fn of_one(run: &[Block], usual: f64, out: &mut Vec<Ruling>) {
    let mut before: Option<Line> = None;
    for line in lines(run, usual) {
        if let Some(last) = before {
            let gap_h = run[line.from].t_h - run[last.to - 1].t_h;
            let size = line.begins - last.ends - 0.5 * (line.slope + last.slope) * gap_h;
            // Where the lines are steep, part of it is what lies between them anyway.
            let steep = STEEP_H * line.slope.abs().max(last.slope.abs());
            if size.abs() > STEP_MIN.max(STEP_USUAL * usual).max(steep) {
                out.push(Ruling::Step { t_h: run[last.to].from_h, size });
            } else {
                out.extend(run[last.to..line.from].iter().map(|b| Ruling::Use(*b)));
            }
        }
        out.extend(run[line.from..line.to].iter().map(|b| Ruling::Use(*b)));
        before = Some(line);
    }
}

/// How much the level usually changes from half an hour to the next, beside what it changes thereabouts anyway.
fn usual_change(blocks: &[Block]) -> f64 {
    let mut off = Vec::new();
    for run in blocks.chunk_by(|a, b| a.segment == b.segment) {
        if run.len() < 2 * SIDE {
            continue;
        }
        let level = |i: usize| quantile(&mut run[i..i + SIDE].iter().map(|b| b.y).collect::<Vec<_>>(), 0.5);
        let changes: Vec<f64> = (0..=run.len() - 2 * SIDE).map(|i| level(i + SIDE) - level(i)).collect();
        off.extend((0..changes.len()).map(|i| {
            let about = &changes[i.saturating_sub(ABOUT)..(i + ABOUT + 1).min(changes.len())];
            (changes[i] - quantile(&mut about.to_vec(), 0.5)).abs()
        }));
    }
    if off.is_empty() { FLOOR } else { (1.48 * quantile(&mut off, 0.5)).max(FLOOR) }
}

/// The best way to cut an incarnation into lines.
fn lines(run: &[Block], usual: f64) -> Vec<Line> {
    let n = run.len();
    if n < 2 * LINE_MIN || run[n - 1].to_h - run[0].from_h < 2.0 * LINE_H {
        return vec![fit(run, 0, n, usual)];
    }
    let sums = Sums::of(run);
    // Least cost of the blocks before `i`, and where the last line of it began and the change before that.
    let mut least = vec![f64::INFINITY; n + 1];
    let mut cut = vec![(0_usize, 0_usize); n + 1];
    // The same with the change after it.
    let mut ready = vec![f64::INFINITY; n + 1];
    let mut ended = vec![0_usize; n + 1];
    ready[0] = -LINE_COST;
    for to in LINE_MIN..=n {
        for from in 0..=to - LINE_MIN {
            let before = ready[from] + LINE_COST;
            if before >= least[to] || run[to - 1].to_h - run[from].from_h < LINE_H {
                continue;
            }
            let cost = before + sums.squares(from, to, usual) / (usual * usual);
            if cost < least[to] {
                (least[to], cut[to]) = (cost, (from, ended[from]));
            }
        }
        for change in 0..=CHANGE_MAX.min(to) {
            let cost = least[to - change] + CHANGE_COST * change as f64;
            let long_h = if change > 0 { run[to - 1].to_h - run[to - change].from_h } else { 0.0 };
            if cost < ready[to] && long_h < CHANGE_H {
                (ready[to], ended[to]) = (cost, to - change);
            }
        }
    }
    let mut out = Vec::new();
    let mut to = n;
    while to > 0 {
        let (from, before) = cut[to];
        out.push(fit(run, from, to, usual));
        to = before;
    }
    out.reverse();
    out
}

/// Running sums of powers of time and level, from which any line's residuals follow.
struct Sums(Vec<[f64; 6]>);

impl Sums {
    fn of(run: &[Block]) -> Sums {
        let mut sums = vec![[0.0; 6]];
        let mut at = [0.0; 6];
        for b in run {
            let (t, y) = (b.t_h - run[0].t_h, b.y - run[0].y);
            let w = weight(b);
            for (sum, x) in at.iter_mut().zip([1.0, t, y, t * t, t * y, y * y]) {
                *sum += w * x;
            }
            sums.push(at);
        }
        Sums(sums)
    }

    /// Sum of squares about the line through blocks `from..to`.
    fn squares(&self, from: usize, to: usize, usual: f64) -> f64 {
        let (a, b) = (&self.0[from], &self.0[to]);
        let [n, t, y, tt, ty, yy] = std::array::from_fn(|i| b[i] - a[i]);
        let (tt, ty, yy) = (tt - t * t / n, ty - t * y / n, yy - y * y / n);
        (yy - ty * ty / (tt + ridge(usual))).max(0.0)
    }
}

fn ridge(usual: f64) -> f64 {
    (usual / SLOPE).powi(2)
}

/// A block of few ticks says less.
fn weight(b: &Block) -> f64 {
    f64::from(b.ticks.clamp(1, 10)) / 10.0
}

/// The line through blocks `from..to`.
fn fit(run: &[Block], from: usize, to: usize, usual: f64) -> Line {
    let part = &run[from..to];
    let n: f64 = part.iter().map(weight).sum::<f64>().max(1e-9);
    let mean = |f: &dyn Fn(&Block) -> f64| part.iter().map(|b| weight(b) * f(b)).sum::<f64>() / n;
    let (t, y) = (mean(&|b| b.t_h), mean(&|b| b.y));
    let slope = mean(&|b| (b.t_h - t) * (b.y - y)) / (mean(&|b| (b.t_h - t).powi(2)) + ridge(usual) / n);
    let at = |b: Option<&Block>| b.map_or(y, |b| y + slope * (b.t_h - t));
    Line { from, to, slope, begins: at(part.first()), ends: at(part.last()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two days of blocks of ten minutes, with a scatter of half a megabyte.
    fn steps_of(tolerances: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        let block = |i: u32| {
            let t_h = f64::from(i) / 6.0;
            let scatter = f64::from((i * 7919) % 101) / 101.0 - 0.5;
            let y = tolerances(t_h) + 0.02 * scatter;
            Block { t_h, from_h: t_h - 0.08, to_h: t_h + 0.08, y, ticks: 10, ..Block::default() }
        };
        let rulings = rulings(&(1..288).map(block).collect::<Vec<_>>());
        let step = |ruling| match ruling {
            Ruling::Step { t_h, size } => Some((t_h, size)),
            _ => None,
        };
        rulings.into_iter().filter_map(step).collect()
    }

    #[test]
    fn bursts_of_half_an_hour_and_of_five_megabytes_are_found() {
        let bursts = [(5.0, 0.1), (9.3, 0.4), (20.1, 0.12), (33.0, 0.7), (41.2, 0.2)];
        let found = steps_of(|t| bursts.iter().map(|(at, size)| size * ((t - at) / 0.5).clamp(0.0, 1.0)).sum());
        assert_eq!(found.len(), bursts.len(), "{found:?}");
        for ((at, size), (found_h, found_size)) in bursts.iter().zip(&found) {
            assert!((at - found_h).abs() < 0.8 && (size - found_size).abs() < 0.03, "{found:?}");
        }
    }

    #[test]
    fn what_bends_or_comes_round_each_day_has_no_steps() {
        let warm = steps_of(|t| 6.0 * (1.0 - (-t / 2.0).exp()));
        let flattens = steps_of(|t| 4.0 * (1.0 - (-(t / 3.0).powf(0.6)).exp()));
        let day = steps_of(|t| 0.8 * (std::f64::consts::TAU * t / 24.0).sin());
        assert_eq!([warm, flattens, day], [vec![], vec![], vec![]]);
    }
}
