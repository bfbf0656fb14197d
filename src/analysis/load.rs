//! The load, as requests tell it: memory that follows it rises and falls as it does, and leaks nothing.
//!
//! What is counted is requests so far; what is wanted here is their rate, smoothed as memory that is held for a while smooths it.

use super::blocks::Block;

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
        let (mut served, mut long_h) = (0.0, 0.0);
        for run in blocks.chunk_by(|a, b| a.segment == b.segment) {
            let last = run.last()?;
            served += last.requests?;
            long_h += last.t_h - run[0].from_h;
        }
        let mut hours = Vec::with_capacity(blocks.len());
        for run in blocks.chunk_by(|a, b| a.segment == b.segment) {
            for b in run {
                hours.push((b.t_h, run[0].from_h + b.requests? * long_h / served));
            }
        }
        (served > 0.0).then_some(Work { hours })
    }

    /// That time at the block that was seen at `t_h`, hours since the beginning of the run, had each incarnation begun when it did.
    pub fn at(&self, t_h: f64) -> f64 {
        let next = self.hours.partition_point(|r| r.0 < t_h).min(self.hours.len() - 1);
        self.hours[next].1
    }
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
        let mut counted = blocks(&[Some(0.0), Some(10.0), Some(60.0), Some(0.0), Some(20.0), Some(40.0)]);
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
