//! How an incarnation begins: what loads, and the jumps of its first minutes, are set aside before its blocks are ruled on.
//!
//! A model's weights are tens of gigabytes within minutes. No warm-up on the grid is as steep, and of gigabytes the nearest one would leave more
//! than the tolerance.

use super::blocks::Block;
use super::ticks::quantile;

/// Blocks held back until start-up jumps can be told from noise.
const START: usize = 8;
/// What rises faster than this, tolerances an hour (3 GB an hour), is loading: a model's weights, ...
pub const LOADING: f64 = 60.0;
/// ... until it is slower than this (150 MB an hour), ...
const LOADED: f64 = 3.0;
/// ... if it has come so far, tolerances (100 MB); ...
const LOADED_MIN: f64 = 2.0;
/// ... for so long at most, hours, where it goes on as fast as it began, ...
const LOADING_H: f64 = 0.5;
/// ... and for so long where it has slowed down to such a share of its mean pace.
const LOADING_SLOWER_H: f64 = 1.0;
const SLOWER: f64 = 0.5;
/// ... or goes by so much an hour, tolerances (50 GB): no leak is worth a word there.
const LOADING_FAST: f64 = 1000.0;

/// The first blocks of an incarnation.
#[derive(Debug, Clone)]
pub struct Beginning {
    blocks: Vec<Block>,
    began_h: f64,
    /// The last block before it began to load, while it does.
    loads_since: Option<Block>,
    /// How many blocks came before a load had ended.
    loaded: usize,
}

impl Beginning {
    /// Of an incarnation that begins at this time, hours.
    pub fn new(began_h: f64) -> Self {
        Beginning { blocks: Vec::new(), began_h, loads_since: None, loaded: 0 }
    }

    /// Takes a block. True once the beginning is over; blocks of whole periods of a saw-tooth are few, and half as many must do.
    pub fn push(&mut self, block: Block, of_periods: bool) -> bool {
        self.loads_since = self.loading(&block);
        self.blocks.push(block);
        let after = self.blocks.len() - self.before_loaded();
        (self.loads_since.is_none() || self.scatters()) && after >= if of_periods { START / 2 } else { START }
    }

    /// The same of an incarnation that has ended: what died before it had loaded has loaded so far, but what did not slow down may have leaked.
    pub fn cut_off(mut self) -> Self {
        if let (Some(since), [.., before, last]) = (self.loads_since, self.blocks.as_slice())
            && is_slower(&since, before, last)
        {
            self.note_load(&since);
        }
        self
    }

    /// The blocks that are set aside, because they loaded or lie far from all that follow, and those that are not.
    pub fn end(mut self) -> (Vec<Block>, Vec<Block>) {
        let loaded = self.before_loaded();
        let until = self.blocks.len().min(loaded + START);
        let mut skip = loaded;
        while skip < loaded + START / 2 && skip + 3 < until {
            let mut rest: Vec<f64> = self.blocks[skip + 1..until].iter().map(|b| b.y).collect();
            let (low, middle, high) = (quantile(&mut rest, 0.25), quantile(&mut rest, 0.5), quantile(&mut rest, 0.75));
            if (self.blocks[skip].y - middle).abs() <= (4.0 * (high - low)).max(0.5) {
                break;
            }
            skip += 1;
        }
        let used = self.blocks.split_off(skip);
        (self.blocks, used)
    }

    /// The last block before it began to load, if it still does with this one. What goes on as it began is a leak, and no load.
    fn loading(&mut self, block: &Block) -> Option<Block> {
        let last = *self.blocks.last()?;
        let Some(since) = self.loads_since else {
            let young = block.from_h - self.began_h < LOADING_SLOWER_H;
            return (young && pace(&last, block) > LOADING).then_some(last);
        };
        let long = !may_load(&since, &last, block);
        if !long && pace(&last, block) > LOADED {
            return Some(since);
        }
        if !long || is_slower(&since, &last, block) {
            self.note_load(&since);
        }
        None
    }

    /// Notes that all blocks so far came before or in a load, which began after this one, if that came far enough.
    fn note_load(&mut self, since: &Block) {
        if self.blocks.last().is_some_and(|last| last.y - since.y > LOADED_MIN) {
            self.loaded = self.blocks.len();
        }
    }

    /// How many blocks came before a load had ended.
    fn before_loaded(&self) -> usize {
        if self.scatters() { 0 } else { self.loaded }
    }

    /// Whether the blocks fall by half as much as they rise, all their falls together: what scatters does not load.
    fn scatters(&self) -> bool {
        let (mut risen, mut fallen) = (0.0, 0.0);
        for change in self.blocks.windows(2).map(|pair| pair[1].y - pair[0].y) {
            if change > 0.0 { risen += change } else { fallen -= change }
        }
        fallen >= 0.5 * risen
    }
}

/// Whether what has risen since the first of these blocks, and from the second to the third, may be loading still.
pub fn may_load(first: &Block, last: &Block, block: &Block) -> bool {
    let longer = is_slower(first, last, block) || pace(first, block) > LOADING_FAST;
    block.from_h - first.from_h <= if longer { LOADING_SLOWER_H } else { LOADING_H }
}

/// Whether it rises more slowly by now than in the mean since the first of these blocks.
fn is_slower(first: &Block, last: &Block, block: &Block) -> bool {
    pace(last, block) < SLOWER * pace(first, block)
}

/// From one block to another, tolerances an hour.
pub fn pace(from: &Block, to: &Block) -> f64 {
    (to.y - from.y) / (to.t_h - from.t_h).max(1e-6)
}
