//! Slow saw-tooths: what goes up for an hour or six and is taken back at once, again and again (a page cache under a limit, a collector of an old
//! generation, workers that are replaced in turn). A block is shorter than a tooth there, so that the blocks themselves go up and down, and what
//! is held is what the falls leave: the troughs.

use super::blocks::Block;
use super::ticks::quantile;

/// Falls that make a saw-tooth.
const FALLS_MIN: usize = 4;
/// Swings smaller than this are none, tolerances (5 MB), ...
const SWING_MIN: f64 = 0.1;
/// ... or than this share of the usual one.
const SWING: f64 = 0.5;
/// How much of the time that it rose a fall may take, how much of the rise one block, and how many of the teeth must be so.
const QUICK: f64 = 0.5;
const LEAP: f64 = 0.6;
const SLOW_SHARE: f64 = 0.75;
/// A step so many times as large as the usual fall is none of a tooth.
const STEP: f64 = 2.0;
/// Longest tooth, hours.
const TOOTH_MAX_H: f64 = 6.5;

/// The troughs of a run's blocks, if they go up slowly and fall quickly, again and again, to its end; `stepped` is what the steps of each one's
/// incarnation have added. What follows a step that no tooth is as large as counts as another incarnation: what a tooth falls by may be named a step,
/// too, or part of one, so that its size says little.
pub fn troughs(blocks: &[Block], stepped: &[f64]) -> Option<Vec<Block>> {
    let most = STEP * usual_fall(blocks, 0.5)?;
    let mut out: Vec<Block> = Vec::with_capacity(blocks.len());
    let mut segment = 0;
    for (i, b) in blocks.iter().enumerate() {
        let same = |before: usize| blocks[before].segment == b.segment && (stepped[i] - stepped[before]).abs() <= most;
        if i > 0 && !same(i - 1) {
            segment += 1;
        }
        out.push(Block { segment, ..*b });
    }
    troughs_of(&out)
}

fn troughs_of(blocks: &[Block]) -> Option<Vec<Block>> {
    let teeth = teeth(blocks, (SWING * usual_fall(blocks, 0.75)?).max(SWING_MIN));
    let slow = teeth.iter().filter(|tooth| tooth.is_tooth()).count();
    if teeth.len() < FALLS_MIN || (slow as f64) < SLOW_SHARE * teeth.len() as f64 {
        return None;
    }
    let mut lengths: Vec<f64> = teeth
        .windows(2)
        .filter(|w| w[0].low.segment == w[1].low.segment)
        .map(|w| w[1].low.t_h - w[0].low.t_h)
        .collect();
    if lengths.is_empty() {
        return None;
    }
    let longest = quantile(&mut lengths, 0.9);
    let since = blocks.last()?.t_h - teeth.last()?.low.t_h;
    (longest < TOOTH_MAX_H && since < 2.0 * longest.max(1.0)).then(|| teeth.iter().map(|tooth| tooth.low).collect())
}

/// Such a quantile of what it falls by, tolerances, if it falls often enough.
fn usual_fall(blocks: &[Block], share: f64) -> Option<f64> {
    let mut sizes: Vec<f64> = teeth(blocks, SWING_MIN).iter().map(Tooth::fall).collect();
    (sizes.len() >= FALLS_MIN).then(|| quantile(&mut sizes, share))
}

/// A rise and the fall after it.
struct Tooth {
    begin: Block,
    high: Block,
    low: Block,
    /// The most that it rose from one block to the next.
    leap: f64,
}

impl Tooth {
    fn fall(&self) -> f64 {
        self.high.y - self.low.y
    }

    /// Whether it rose slowly, and not in a leap as levels do that come and go, and fell quickly.
    fn is_tooth(&self) -> bool {
        let slowly = self.leap <= LEAP * (self.high.y - self.begin.y);
        slowly && self.low.t_h - self.high.t_h <= QUICK * (self.high.t_h - self.begin.t_h)
    }
}

/// Rises and falls by at least so much, each within one incarnation; the last one may still be falling.
fn teeth(blocks: &[Block], least: f64) -> Vec<Tooth> {
    let mut teeth = Vec::new();
    for run in blocks.chunk_by(|a, b| a.segment == b.segment) {
        let (mut begin, mut high, mut leap) = (run[0], run[0], 0.0_f64);
        let mut low: Option<Block> = None;
        for (i, b) in run.iter().enumerate() {
            let Some(lowest) = low else {
                if b.y >= high.y {
                    high = *b;
                    leap = leap.max(b.y - run[i.saturating_sub(1)].y);
                } else if b.y < high.y - least {
                    low = Some(*b);
                }
                continue;
            };
            // Falling, until it rises again by as much.
            if b.y < lowest.y {
                low = Some(*b);
            } else if b.y > lowest.y + least {
                teeth.push(Tooth { begin, high, low: lowest, leap });
                (begin, high, low, leap) = (lowest, *b, None, b.y - run[i - 1].y);
            }
        }
        // What is falling still has no trough.
        if let Some(lowest) = low.filter(|lowest| run.last().is_some_and(|last| last.t_h > lowest.t_h)) {
            teeth.push(Tooth { begin, high, low: lowest, leap });
        }
    }
    teeth
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(y: impl Fn(f64) -> f64) -> Vec<Block> {
        let at = |i: u32| f64::from(i) / 6.0;
        (0..288)
            .map(|i| Block { t_h: at(i), from_h: at(i) - 0.08, to_h: at(i) + 0.08, y: y(at(i)), ..Block::default() })
            .collect()
    }

    #[test]
    fn slow_teeth_have_troughs_and_what_comes_and_goes_has_none() {
        let saw = |t: f64| 1.4 * (t / 2.4).fract();
        let found = troughs_of(&blocks(|t| saw(t) + 0.02 * t)).expect("a slow saw-tooth");
        assert!((18..=20).contains(&found.len()), "{}", found.len());
        let rise = found[found.len() - 1].y - found[0].y;
        assert!((rise - 0.02 * (found[found.len() - 1].t_h - found[0].t_h)).abs() < 0.15, "{rise}");
        assert!(troughs_of(&blocks(|t| if (t / 3.0).fract() < 0.4 { 2.0 } else { 0.0 })).is_none());
        assert!(troughs_of(&blocks(|t| (t * std::f64::consts::TAU / 3.0).sin())).is_none());
        assert!(troughs_of(&blocks(|t| 0.1 * t)).is_none());
    }
}
