//! Might a second warm-up be what is taken for a leak from the start? It rises like one, and bends only hours later.
//!
//! The model knows a segment's own start, but no start in the middle of it: too many hypotheses for every look. So the likeliest
//! leak alone is held against them, when an alarm is near in the first hours: level, start and day with the claimed growth, against
//! level, start and day with a bend at any time (time constants up to three hours) and a drift that would be tolerated. Plain least
//! squares, all blocks alike.

use super::bank::{WARM, eliminate, pair, warm_shape};
use super::blocks::Block;
use super::growth::Claim;
use super::regression::prior;

/// Time constants of late warm-ups, hours.
const TAUS_H: [f64; 3] = [0.5, 1.2, 2.8];
/// Onsets that are tried, evenly over the run; then some more about the best.
const ONSETS: usize = 14;
/// A drift that would be tolerated: its standard deviation, tolerances over the horizon.
const TOLERATED_SD: f64 = 0.3;
/// Warm-ups and bends: theirs.
const BEND_SD: f64 = 12.0;
/// Blocks in a row that say the same.
const ALIKE: f64 = 4.0;
/// Level and two warm-ups: a segment's own columns.
const OWN: usize = 3;
/// Day cycle (4), growth, bend, series.
const SHARED: usize = 7;
const N: usize = OWN + SHARED;
const GROWTH: usize = OWN + 4;
const BEND: usize = OWN + 5;
const Y: usize = OWN + 6;

type Row = [f64; N];
type Square = [f64; N * N];

/// Blocks as rows of a regression, by segment, with their times.
struct Design {
    segments: Vec<Vec<(f64, Row)>>,
    /// Products of the columns but the bend's, by segment.
    products: Vec<Square>,
    blocks: f64,
    noise: f64,
    worked: bool,
}

impl Design {
    /// From the growth of a block, and the figure of the one at a place.
    fn new(blocks: &[Block], claim: &Claim, growth: impl Fn(&Block) -> f64, y: impl Fn(usize) -> f64) -> Self {
        let kinds = pair(claim.warm).unwrap_or([claim.warm, WARM]);
        let mut segments: Vec<Vec<(f64, Row)>> = Vec::new();
        let (mut segment, mut from_h) = (None, 0.0);
        for (i, b) in blocks.iter().enumerate() {
            if segment.replace(b.segment) != Some(b.segment) {
                segments.push(Vec::new());
                from_h = b.from_h;
            }
            let warm = |k: usize| if k < WARM { warm_shape(k, b.age_h(from_h)) } else { 0.0 };
            let mut row = [0.0; N];
            row[..OWN].copy_from_slice(&[1.0, warm(kinds[0]), warm(kinds[1])]);
            if claim.day {
                row[OWN..OWN + 4].copy_from_slice(&b.cycle());
            }
            row[GROWTH] = growth(b);
            row[Y] = y(i);
            if let Some(rows) = segments.last_mut() {
                rows.push((b.t_h, row));
            }
        }
        let products = segments.iter().map(|rows| products(rows)).collect();
        let worked = blocks.first().is_some_and(|b| b.worked.is_some());
        Design { segments, products, blocks: blocks.len() as f64, noise: claim.noise, worked }
    }

    /// What is left of the squares with this growth (its prior standard deviation) and this bend (onset and time constant, hours).
    fn left(&self, growth_sd: f64, bend: Option<(f64, f64)>) -> f64 {
        let ridge = |sd: f64| (ALIKE.sqrt() * self.noise / sd).powi(2).max(1e-9);
        let mut all = [0.0; SHARED * SHARED];
        for (rows, products) in self.segments.iter().zip(&self.products) {
            let mut m = *products;
            if let Some((onset_h, tau_h)) = bend {
                for (t_h, row) in rows.iter().filter(|r| r.0 > onset_h) {
                    let shape = 1.0 - (-(t_h - onset_h) / tau_h).exp();
                    for c in 0..BEND {
                        m[c * N + BEND] += shape * row[c];
                    }
                    m[BEND * N + BEND] += shape * shape;
                    m[BEND * N + Y] += shape * row[Y];
                }
            }
            eliminate(&mut m, N, OWN, &[1e-9, ridge(BEND_SD), ridge(BEND_SD)]);
            for p in 0..SHARED {
                for q in p..SHARED {
                    all[p * SHARED + q] += m[(OWN + p) * N + OWN + q];
                }
            }
        }
        let [a, b, c, d] = prior::cycle(self.worked);
        let ridges = [a, b, c, d, growth_sd, BEND_SD].map(ridge);
        eliminate(&mut all, SHARED, SHARED - 1, &ridges);
        all[SHARED * SHARED - 1]
    }
}

fn products(rows: &[(f64, Row)]) -> Square {
    let mut m = [0.0; N * N];
    for (_, row) in rows {
        for p in 0..N {
            for q in p..N {
                m[p * N + q] += row[p] * row[q];
            }
        }
    }
    m
}

/// By how much the claimed growth is likelier than the best bend (twice the logarithm); negative where the bend is. `stepped` is what
/// steps have added to each block, `grown` the claimed growth by a block, `unit_h` the time over which a drift is tolerated.
pub fn straighter(blocks: &[Block], stepped: &[f64], claim: &Claim, unit_h: f64, grown: &dyn Fn(&Block) -> f64) -> f64 {
    let Some(now_h) = blocks.last().map(|b| b.t_h) else { return 0.0 };
    let of = |with_steps: bool| {
        let y = |i: usize| if with_steps { blocks[i].y } else { blocks[i].y - stepped[i] };
        let straight = Design::new(blocks, claim, grown, y).left(1e3, None);
        let other = Design::new(blocks, claim, |b| b.t_h / unit_h, y);
        let spacing_h = now_h / ONSETS as f64;
        let mut best = (f64::INFINITY, 0.0);
        let attempt = |onset_h: f64, best: &mut (f64, f64)| {
            for tau_h in TAUS_H {
                let left = other.left(TOLERATED_SD, Some((onset_h, tau_h)));
                if left < best.0 {
                    *best = (left, onset_h);
                }
            }
        };
        (0..ONSETS).for_each(|i| attempt(i as f64 * spacing_h, &mut best));
        let about = best.1;
        [-0.67, -0.33, 0.33, 0.67].iter().for_each(|part| attempt(about + part * spacing_h, &mut best));
        let floor = 1e-6 * other.blocks;
        ((best.0 + floor) / (straight + floor)).ln() * other.blocks / ALIKE
    };
    // A steep bend is partly taken for steps.
    let with_steps = if stepped.iter().any(|s| *s != 0.0) { of(true) } else { f64::INFINITY };
    of(false).min(with_steps)
}
