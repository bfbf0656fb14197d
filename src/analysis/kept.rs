//! The blocks of a run, thinned to a bounded number, and what can be seen in them without a model: what was gained, what was given back, where the
//! run has been before.

use super::bank::touched_room;
use super::blocks::Block;
use super::floors;
use super::ticks::quantile;

/// Blocks that are kept, of those that are used and of those that were set aside.
const KEPT: usize = 640;
const ASIDE: usize = 320;
/// Blocks that a level takes.
const LEVEL_MIN: usize = 3;
/// How long beginning and end of a run are, hours.
const NEAR_H: f64 = 0.5;
/// How long a visit to another level is at most, hours.
const VISIT_H: f64 = 0.7;
/// Blocks tell of the run if they span so much of it.
const SPANS: f64 = 0.7;
/// Within so much, tolerances (25 MB), two incarnations hold the same.
const AS_BEFORE: f64 = 0.5;
/// What an evening takes of a busy day, or a day gives, is no more than this, tolerances (90 MB).
pub const EVENING: f64 = 1.8;
/// Ten minutes of an hour that must be there for it to count.
const HOUR_MIN: usize = 2;
/// For so many hours it must have been held: what is held for less may have come as suddenly.
const HELD: usize = 3;
/// What falls within the hour by such a share of the whole falls suddenly.
const SUDDENLY: f64 = 0.6;
/// What climbs back begins to within so many hours, with such a share of its mean pace.
const SOON_H: f64 = 3.0;
const AT_ONCE: f64 = 0.3;
/// ... and is back within so many hours.
const BACK_H: f64 = 24.0;
/// Hours that follow one another begin no more than so much apart, hours.
const ADJACENT_H: f64 = 1.8;

/// The blocks of the run, thinned to a bounded number: the older, the thinner.
#[derive(Debug, Clone)]
pub struct Kept {
    pub(super) blocks: Vec<Block>,
    /// What the steps of the block's segment have added by then, tolerances.
    pub(super) stepped: Vec<f64>,
    /// The same of what was set aside: of a slow saw-tooth whole teeth may be.
    aside: Vec<(Block, f64)>,
}

impl Default for Kept {
    /// Nothing kept yet, in all the room that it will ever take.
    fn default() -> Kept {
        Kept {
            blocks: touched_room(Block::default(), KEPT),
            stepped: touched_room(0.0, KEPT),
            aside: touched_room((Block::default(), 0.0), ASIDE),
        }
    }
}

impl Kept {
    /// Takes a block and what the steps of its segment sum to.
    pub fn push(&mut self, block: Block, stepped: f64) {
        if self.blocks.len() == KEPT {
            thin(&mut self.blocks);
            thin(&mut self.stepped);
        }
        self.blocks.push(block);
        self.stepped.push(stepped);
    }

    /// Takes a block that is used for nothing but to see a slow saw-tooth.
    pub fn set_aside(&mut self, block: Block, stepped: f64) {
        if self.aside.len() == ASIDE {
            thin(&mut self.aside);
        }
        self.aside.push((block, stepped));
    }

    /// The blocks but those of a level that came and went within the hour: too short for a line of its own.
    pub fn without_visits(&self) -> Vec<Block> {
        let mut out = Vec::with_capacity(self.blocks.len());
        for run in segments(&self.blocks) {
            let same = |i: usize, j: usize| (self.stepped[i] - self.stepped[j]).abs() < 1e-9;
            let mut i = run.start;
            while i < run.end {
                let until = (i..run.end).find(|j| !same(*j, i)).unwrap_or(run.end);
                let visit = i > run.start && until < run.end && same(i - 1, until);
                if !visit || self.blocks[until - 1].to_h - self.blocks[i].from_h > VISIT_H {
                    out.extend_from_slice(&self.blocks[i..until]);
                }
                i = until;
            }
        }
        out
    }

    /// The blocks of the later half of the run, without their steps.
    pub fn later_half(&self) -> impl Iterator<Item = Block> {
        let from_h = 0.5 * self.blocks.last().map_or(0.0, |b| b.t_h);
        let rows = self.blocks.iter().zip(&self.stepped).filter(move |(b, _)| b.t_h >= from_h);
        rows.map(|(b, stepped)| Block { y: b.y - stepped, ..*b })
    }

    /// The lowest and the highest that was ever seen, tolerances, of what was set aside, too.
    pub fn range(&self) -> (f64, f64) {
        let all = self.blocks.iter().chain(self.aside.iter().map(|(b, _)| b));
        all.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), b| (least.min(b.y), most.max(b.y)))
    }

    /// Where the level changed suddenly within an incarnation: when (hours), and by how much, tolerances.
    pub fn changes(&self) -> impl Iterator<Item = (f64, f64)> {
        let pairs = self.blocks.windows(2).zip(self.stepped.windows(2));
        let within =
            pairs.filter(|(blocks, stepped)| blocks[0].segment == blocks[1].segment && stepped[0] != stepped[1]);
        within.map(|(blocks, stepped)| (blocks[1].from_h, stepped[1] - stepped[0]))
    }

    /// How far the incarnations end above where they began, together, tolerances; of a slow saw-tooth, their troughs.
    pub fn risen(&self) -> f64 {
        let risen = |blocks: &[Block]| {
            let ends = |run: std::ops::Range<usize>| blocks[run.end - 1].y - blocks[run.start].y;
            segments(blocks).into_iter().map(ends).sum()
        };
        risen(self.floors().filter(|floors| self.spans(floors)).as_ref().unwrap_or(&self.blocks))
    }

    /// What was gained, end against beginning, at its pace over the horizon: by no model but that of the start, of which `started` says what it
    /// has given by some time (hours), and without the steps that are no leak, which sum to `others`. `None` across restarts: starts of
    /// several incarnations would be left in it.
    pub fn gained(&self, started: &dyn Fn(f64) -> f64, others: f64, horizon_h: f64) -> Option<Gained> {
        let (begins, ends) = (self.blocks.first()?, self.blocks.last()?);
        if begins.segment != ends.segment {
            return None;
        }
        // Troughs of a saw-tooth are far apart: three blocks at least.
        let first = self.blocks.iter().enumerate();
        let first = first.take_while(|(i, b)| *i < LEVEL_MIN || b.t_h <= begins.from_h + NEAR_H).map(|(_, b)| b);
        let last = self.blocks.iter().rev().enumerate();
        let last = last.take_while(|(i, b)| *i < LEVEL_MIN || b.t_h >= ends.to_h - NEAR_H).map(|(_, b)| b);
        let ((first_h, first), (last_h, last)) = (level(first)?, level(last)?);
        let (started, span_h) = (started(last_h) - started(first_h), (last_h - first_h).max(f64::MIN_POSITIVE));
        let rise = last - first - others - started;
        Some(Gained { drift: rise * horizon_h / span_h, by_start: started / rise })
    }

    /// Whether an earlier incarnation ended on the level of the end: then this one has only grown to what the last one was.
    pub fn has_been_here(&self) -> bool {
        let runs = segments(&self.blocks);
        let ended = |run: &std::ops::Range<usize>| level(self.blocks[run.clone()].iter().rev().take(LEVEL_MIN));
        let Some((now, before)) = runs.split_last() else { return false };
        let Some((_, end)) = ended(now) else { return false };
        before.iter().filter_map(ended).any(|(_, level)| (level - end).abs() < AS_BEFORE)
    }

    /// How far the start of an incarnation that began at `from_h` has got at `t_h`, hours.
    pub fn age_h(&self, t_h: f64, from_h: f64) -> f64 {
        let next = self.blocks.partition_point(|b| b.t_h < t_h).min(self.blocks.len().saturating_sub(1));
        let worked = self.blocks.get(next).and_then(|b| b.worked);
        worked.map_or(t_h - from_h, |worked| worked.age_h)
    }

    /// Whether there are several incarnations.
    pub fn restarted(&self) -> bool {
        self.blocks.first().zip(self.blocks.last()).is_some_and(|(first, last)| first.segment != last.segment)
    }

    /// How far the series lies below the highest that it was, tolerances.
    pub fn fallen(&self) -> f64 {
        let Some(last) = self.blocks.last() else { return 0.0 };
        self.blocks.iter().map(|b| b.y).fold(last.y, f64::max) - last.y
    }

    /// Whether this incarnation climbs back to where it suddenly fell from, by more than a day gives, has done so ever since, and at its pace will be there
    /// within a day: what is given back and taken again is no growth, until it is more than was held before by the tolerance. Levels that come and go
    /// are none of that, nor is a fall that leaves more than there ever was before, and of a slow saw-tooth the troughs tell.
    pub fn refills(&self) -> bool {
        let hours = self.hours();
        let Some(now) = hours.last() else { return false };
        let climbs_back = |at: usize| {
            let (before, since) = (&hours[at - HELD..at], &hours[at..]);
            let (held, fell) = (before[HELD - 1], &since[0]);
            let lowest = |hours: &[(f64, f64)]| hours.iter().map(|hour| hour.1).fold(f64::INFINITY, f64::min);
            let low = lowest(since);
            let suddenly = held.1 - fell.1 > (SUDDENLY * (held.1 - low)).max(EVENING) && fell.0 - held.0 < ADJACENT_H;
            let leaves_more = low - lowest(&hours[..at]) > 1.0;
            // What stays where it fell to and grows hours later is another matter, and so is what grows too slowly to have been that.
            let pace = (now.1 - fell.1) / (now.0 - fell.0).max(f64::MIN_POSITIVE);
            let soon = since.iter().find(|hour| hour.0 >= fell.0 + SOON_H);
            let at_once = soon.is_none_or(|soon| soon.1 - fell.1 > AT_ONCE * pace * (soon.0 - fell.0));
            let gets_there = soon.is_none() || pace * BACK_H > held.1 - fell.1;
            suddenly && !leaves_more && at_once && gets_there && before.iter().all(|hour| hour.1 > now.1 - 1.0)
        };
        (HELD..hours.len()).any(climbs_back) && self.floors().is_none()
    }

    /// What this incarnation held from hour to hour, but for levels that came and went: the lower quartile of each.
    fn hours(&self) -> Vec<(f64, f64)> {
        let Some(last) = self.blocks.last() else { return Vec::new() };
        let from = self.blocks.iter().rposition(|b| b.segment != last.segment).map_or(0, |i| i + 1);
        // What steps have added above the lowest that they reached, and what of it is still there at the end.
        let mut lowest = 0.0_f64;
        let mut added: Vec<f64> = Vec::with_capacity(self.blocks.len() - from);
        for stepped in &self.stepped[from..] {
            lowest = lowest.min(*stepped);
            added.push(stepped - lowest);
        }
        let mut stays = f64::INFINITY;
        for added in added.iter_mut().rev() {
            stays = stays.min(*added);
            *added -= stays;
        }
        let held: Vec<(f64, f64)> =
            self.blocks[from..].iter().zip(added).map(|(b, gone)| (b.t_h, b.y - gone)).collect();
        let hour = |(t_h, _): &(f64, f64)| t_h.floor();
        held.chunk_by(|a, b| hour(a) == hour(b))
            .filter_map(|blocks| {
                // Early blocks are short: each ten minutes count alike.
                let tenth = |(t_h, _): &(f64, f64)| (6.0 * t_h).floor();
                let mut levels: Vec<f64> = blocks
                    .chunk_by(|a, b| tenth(a) == tenth(b))
                    .map(|blocks| quantile(&mut blocks.iter().map(|b| b.1).collect::<Vec<_>>(), 0.5))
                    .collect();
                (levels.len() >= HOUR_MIN).then(|| (blocks[0].0, quantile(&mut levels, 0.25)))
            })
            .collect()
    }

    /// What the falls of a slow saw-tooth leave, if it is one. Of what was set aside whole teeth count, and neither what loads nor what dips for minutes.
    pub fn floors(&self) -> Option<Vec<Block>> {
        let used = self.blocks.iter().zip(&self.stepped).map(|(b, stepped)| (*b, *stepped, true));
        let mut all: Vec<(Block, f64, bool)> =
            used.chain(self.aside.iter().map(|(b, stepped)| (*b, *stepped, false))).collect();
        all.sort_by(|a, b| a.0.t_h.total_cmp(&b.0.t_h));
        let (mut blocks, mut stepped) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
        for run in all.chunk_by(|a, b| a.2 == b.2 && a.0.segment == b.0.segment) {
            let (first, last) = (&run[0], &run[run.len() - 1]);
            let follows = blocks.last().is_some_and(|b: &Block| b.segment == first.0.segment);
            if first.2 || follows && last.0.to_h - first.0.from_h > VISIT_H {
                blocks.extend(run.iter().map(|row| row.0));
                stepped.extend(run.iter().map(|row| row.1));
            }
        }
        floors::troughs(&blocks, &stepped)
    }

    /// Whether these blocks tell of most of the run.
    pub fn spans(&self, blocks: &[Block]) -> bool {
        let long = |b: &[Block]| b.first().zip(b.last()).map_or(0.0, |(first, last)| last.t_h - first.t_h);
        long(blocks) > SPANS * long(&self.blocks)
    }
}

/// What was gained, end against beginning.
#[derive(Debug, Clone, Copy)]
pub struct Gained {
    /// At its pace over the horizon, tolerances.
    pub drift: f64,
    /// What the start gave, as a share of it.
    pub by_start: f64,
}

/// Leaves every other one of the older half.
fn thin<T>(kept: &mut Vec<T>) {
    let (half, mut at) = (kept.len() / 2, 0);
    kept.retain(|_| (at >= half || at % 2 == 0, at += 1).0);
}

/// Mean time and median of some blocks; `None` of fewer than that.
fn level<'a>(blocks: impl Iterator<Item = &'a Block>) -> Option<(f64, f64)> {
    let (times_h, mut levels): (Vec<f64>, Vec<f64>) = blocks.map(|b| (b.t_h, b.y)).unzip();
    (levels.len() >= LEVEL_MIN)
        .then(|| (times_h.iter().sum::<f64>() / times_h.len() as f64, quantile(&mut levels, 0.5)))
}

/// Runs of blocks of one segment.
pub fn segments(blocks: &[Block]) -> Vec<std::ops::Range<usize>> {
    let mut out = Vec::new();
    let mut start = 0;
    for group in blocks.chunk_by(|a, b| a.segment == b.segment) {
        out.push(start..start + group.len());
        start += group.len();
    }
    out
}
