//! The load, as requests tell it: memory that follows it rises and falls as it does, and leaks nothing.
//!
//! What is counted is requests so far; what is wanted here is their rate, smoothed as memory that is held for a while smooths it.

use super::blocks::{Block, Worked};
use super::kept::segments;

/// A load whose lowest rate is no lower than such a share of its highest is steady.
const STEADY: f64 = 0.9;

/// Rate of requests at each block, as a share of the highest.
#[derive(Debug, Clone)]
pub struct Load {
    rates: Vec<(f64, f64)>,
}

impl Load {
    /// The rate between successive blocks, smoothed exponentially over `held_h` hours; `anew` where each incarnation begins with nothing held.
    /// `None` where requests are not known throughout, and where their rate does not vary.
    pub fn of(blocks: &[Block], held_h: f64, anew: bool) -> Option<Load> {
        let mut rates = Vec::with_capacity(blocks.len());
        let mut held = anew.then_some(0.0);
        for pair in blocks.windows(2) {
            let (before, now) = (&pair[0], &pair[1]);
            let (from, to) = (before.requests?, now.requests?);
            let over_h = now.t_h - before.t_h;
            if before.segment != now.segment && anew {
                held = Some(0.0);
            } else if to >= from && over_h > 0.0 {
                // A counter that starts anew says nothing of the time between.
                let rate = (to - from) / over_h;
                let keep = (-over_h / held_h).exp();
                held = Some(held.map_or(rate, |held| keep * held + (1.0 - keep) * rate));
            }
            if rates.is_empty() {
                rates.push((before.t_h, if anew { 0.0 } else { held.unwrap_or(0.0) }));
            }
            rates.push((now.t_h, held.unwrap_or(0.0)));
        }
        let (least, most) = rates.iter().fold((f64::INFINITY, 0.0_f64), |(l, m), r| (l.min(r.1), m.max(r.1)));
        (most > 0.0 && least < STEADY * most).then(|| {
            rates.iter_mut().for_each(|r| r.1 /= most);
            Load { rates }
        })
    }

    /// The rate at the block that was seen at `t_h`.
    pub fn at(&self, t_h: f64) -> f64 {
        let next = self.rates.partition_point(|r| r.0 < t_h).min(self.rates.len() - 1);
        self.rates[next].1
    }
}

/// Hours of work: the time at each block as requests measure it, at their mean rate. What a cache has been filled by is requests, not time.
#[derive(Debug, Clone)]
pub struct Work {
    hours: Vec<(f64, f64)>,
}

impl Work {
    /// `None` where requests are not known throughout.
    pub fn of(blocks: &[Block]) -> Option<Work> {
        let requests: Vec<f64> = blocks.iter().map(|b| b.requests).collect::<Option<_>>()?;
        let ages_h = ages_h(blocks, &requests, &|first| first.from_h)?;
        let mut hours = Vec::with_capacity(blocks.len());
        let mut from_h = 0.0;
        for (i, (b, age_h)) in blocks.iter().zip(ages_h).enumerate() {
            if i == 0 || blocks[i - 1].segment != b.segment {
                from_h = b.from_h;
            }
            hours.push((b.t_h, from_h + age_h));
        }
        Some(Work { hours })
    }

    /// That time at the block that was seen at `t_h`, hours since the beginning of the run, had each incarnation begun when it did.
    pub fn at(&self, t_h: f64) -> f64 {
        let next = self.hours.partition_point(|r| r.0 < t_h).min(self.hours.len() - 1);
        self.hours[next].1
    }
}

/// Hours of work of each block since its incarnation began, at the run's mean rate; `began_h` tells that time by its first block. Requests are counted
/// through all incarnations. `None` where there were none.
fn ages_h(blocks: &[Block], requests: &[f64], began_h: &dyn Fn(&Block) -> f64) -> Option<Vec<f64>> {
    let (mut served, mut long_h) = (0.0, 0.0);
    let mut ages = Vec::with_capacity(blocks.len());
    for run in segments(blocks) {
        let (from, first) = (requests[run.start], &blocks[run.start]);
        let since_h = first.t_h - began_h(first);
        let until = first_rate(&blocks[run.clone()], &requests[run.clone()]) * since_h;
        long_h += blocks[run.end - 1].t_h - first.t_h + since_h;
        ages.extend(requests[run].iter().map(|now| until + now - from));
        served += ages.last().copied().unwrap_or(0.0);
    }
    (served > 0.0).then(|| {
        ages.iter_mut().for_each(|age| *age *= long_h / served);
        ages
    })
}

/// Requests an hour when an incarnation began.
fn first_rate(run: &[Block], requests: &[f64]) -> f64 {
    match (run, requests) {
        ([first, second, ..], [from, to, ..]) if second.t_h > first.t_h => {
            ((to - from) / (second.t_h - first.t_h)).max(0.0)
        }
        _ => 0.0,
    }
}

/// What is held of requests at each block, as a share of the most, where each is held for so many hours. Incarnations begin with nothing held, the first
/// one only if all is `anew`.
fn held(blocks: &[Block], requests: &[f64], began_h: &dyn Fn(&Block) -> f64, held_h: f64, anew: bool) -> Vec<f64> {
    let mut out: Vec<f64> = Vec::with_capacity(blocks.len());
    for run in segments(blocks) {
        let first = &blocks[run.start];
        let rate = first_rate(&blocks[run.clone()], &requests[run.clone()]);
        // Blocks may begin some time after the incarnation did.
        let filled = if run.start == 0 && !anew { 1.0 } else { 1.0 - (-(first.t_h - began_h(first)) / held_h).exp() };
        let mut held = filled * rate;
        out.push(held);
        for i in run.start + 1..run.end {
            let over_h = blocks[i].t_h - blocks[i - 1].t_h;
            if over_h > 0.0 {
                let keep = (-over_h / held_h).exp();
                held = keep * held + (1.0 - keep) * ((requests[i] - requests[i - 1]) / over_h).max(0.0);
            }
            out.push(held);
        }
    }
    let most = out.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    out.iter_mut().for_each(|held| *held /= most);
    out
}

/// For how long requests are held, hours: in pairs, of which what lies between is a mixture.
const HELD_H: [[f64; 2]; 3] = [[0.12, 0.7], [0.5, 2.5], [1.5, 6.0]];
/// Where the rate over an hour never falls below such a share of its highest, memory may as well go by time.
const EVEN: f64 = 0.7;
/// Until when requests may begin to be counted, hours.
const COUNTED_H: f64 = 1.0;

/// How memory may go by requests: for how long they are held, hours, and whether nothing was held when the run began.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    held_h: [f64; 2],
    anew: bool,
}

impl Way {
    /// All that are thought of.
    pub fn all() -> impl Iterator<Item = Way> {
        HELD_H.into_iter().flat_map(|held_h| [true, false].map(|anew| Way { held_h, anew }))
    }

    /// The blocks as they are seen so: `requests` by each, and when an incarnation began by its first block, hours. `None` where there were no requests.
    pub fn see(self, blocks: &[Block], requests: &[f64], began_h: &dyn Fn(&Block) -> f64) -> Option<Vec<Block>> {
        let ages_h = ages_h(blocks, requests, began_h)?;
        let [short, long] = self.held_h.map(|held_h| held(blocks, requests, began_h, held_h, self.anew));
        let seen = blocks.iter().zip(ages_h).zip(short.into_iter().zip(long));
        Some(seen.map(|((b, age_h), (a, c))| Block { worked: Some(Worked { age_h, held: [a, c] }), ..*b }).collect())
    }
}

/// Requests by each block, if they are known and come unevenly within incarnations.
pub fn uneven(blocks: &[Block]) -> Option<Vec<f64>> {
    let known = blocks.iter().position(|b| b.requests.is_some())?;
    let first = blocks[known].requests.filter(|_| blocks[known].from_h < COUNTED_H)?;
    let counted = |(i, b): (usize, &Block)| if i < known { Some(first) } else { b.requests };
    let requests: Vec<f64> = blocks.iter().enumerate().map(counted).collect::<Option<_>>()?;
    // A rate that is as high as ever from the first minute on.
    let held = held(blocks, &requests, &|_| f64::NEG_INFINITY, 1.0, false);
    held.iter().any(|held| *held < EVEN).then_some(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(requests: &[Option<f64>]) -> Vec<Block> {
        let block = |(i, requests): (usize, &Option<f64>)| Block {
            t_h: i as f64 * 0.1,
            requests: *requests,
            ..Block::default()
        };
        requests.iter().enumerate().map(block).collect()
    }

    #[test]
    fn the_rate_is_that_of_the_counter() {
        let counted = blocks(&[Some(0.0), Some(10.0), Some(20.0), Some(60.0), Some(100.0)]);
        let load = Load::of(&counted, 1e-6, false).expect("a load that varies");
        for (t_h, rate) in [(0.0, 0.25), (0.2, 0.25), (0.3, 1.0), (0.4, 1.0)] {
            assert!((load.at(t_h) - rate).abs() < 1e-9, "{t_h}: {load:?}");
        }
        let held = Load::of(&counted, 0.1, false).expect("a load that varies");
        assert!(held.at(0.3) < 0.9 && held.at(0.2) < held.at(0.3), "{held:?}");
        let anew = Load::of(&counted, 0.1, true).expect("a load that varies");
        assert!(anew.at(0.0) == 0.0 && anew.at(0.1) > 0.0 && anew.at(0.1) < anew.at(0.2), "{anew:?}");
    }

    #[test]
    fn hours_of_work_pass_as_requests_do_and_each_incarnation_begins_when_it_did() {
        // Two incarnations of 0.2 hours, in which 100 requests were served: 0.4 hours of work in all.
        let mut counted = blocks(&[Some(0.0), Some(10.0), Some(60.0), Some(60.0), Some(80.0), Some(100.0)]);
        counted[3..].iter_mut().for_each(|b| (b.segment, b.from_h) = (1, 0.3));
        let work = Work::of(&counted).expect("requests are known");
        for (i, hours) in [0.0, 0.04, 0.24, 0.3, 0.38, 0.46].into_iter().enumerate() {
            assert!((work.at(counted[i].t_h) - hours).abs() < 1e-9, "{i}: {work:?}");
        }
        assert!(Work::of(&blocks(&[Some(0.0), None])).is_none());
    }

    #[test]
    fn what_is_not_counted_or_steady_is_no_load() {
        assert!(Load::of(&blocks(&[Some(0.0), None, Some(2.0)]), 0.1, false).is_none());
        assert!(Load::of(&blocks(&[Some(0.0), Some(1.0), Some(2.0)]), 0.1, false).is_none());
        assert!(Load::of(&[], 0.1, true).is_none());
    }
}
