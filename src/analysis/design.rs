//! A series of blocks as a regression that can be asked again and again: whitened, its own columns taken out, so that one more column
//! costs no more than its products with the rest.
//!
//! Columns: in each incarnation level, start and steps; shared by all, a day, the growth that is claimed, growth from the start.
//! All are whitened by the noise under which the claim was the likeliest. What the columns are weighed by is left to `rivals`.

use super::bank::{Gains, WARM, Whitener, eliminate, pair, warm_shape};
use super::blocks::Block;
use super::growth::Claim;
use super::regression::{NOISE_FLOOR, prior};

/// Steps that are free in an incarnation; older ones are taken out as they were seen.
const STEPS: usize = 8;
/// Level, two warm-ups as claimed and one more, steps: an incarnation's own columns.
const OWN: usize = 4 + STEPS;
/// Columns of the day.
const DAY: usize = 4;
/// Day, the claimed growth, growth from the start, the series.
const SHARED: usize = DAY + 3;
const N: usize = OWN + SHARED;
const Y: usize = N - 1;

/// Which growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// As it is claimed.
    Claimed = 0,
    /// Steady, from the start of the run.
    Steady = 1,
}

/// What is left of a column, all that is taken out already: its products with both kinds of growth, with the series, with itself.
#[derive(Debug, Clone, Copy)]
pub struct Products {
    /// With [`Column::Claimed`] and [`Column::Steady`].
    pub growth: [f64; 2],
    /// With the series.
    pub y: f64,
    /// With itself.
    pub own: f64,
}

/// One block: when, how it is whitened, and its whitened columns.
struct Whitened {
    t_h: f64,
    gains: Gains,
    row: [f64; N],
}

/// One incarnation.
pub struct Incarnation {
    /// When it began, hours.
    pub from_h: f64,
    /// Until when it went on.
    pub until_h: f64,
    rows: Vec<Whitened>,
    /// Products of the columns, its own eliminated.
    m: Vec<f64>,
}

/// A step, or a level that comes and goes: its size, and at which blocks it turns on and off.
struct Turning {
    size: f64,
    turns: Vec<usize>,
    on: bool,
}

/// The steps that these sums are made of, those that turned last at the end.
fn steps_of(stepped: &[f64]) -> Vec<Turning> {
    // One that is taken back, or comes again, is of the very same size but for rounding.
    const SAME: f64 = 1e-9;
    let mut steps: Vec<Turning> = Vec::new();
    for i in 1..stepped.len() {
        let size = stepped[i] - stepped[i - 1];
        if size.abs() < SAME {
            continue;
        }
        let at = steps.iter().position(|s| (s.size.abs() - size.abs()).abs() < SAME);
        let mut step = at.map_or(Turning { size, turns: Vec::new(), on: false }, |at| steps.remove(at));
        step.turns.push(i);
        steps.push(step);
    }
    steps
}

/// See the module.
pub struct Design {
    /// All incarnations that have blocks.
    pub incarnations: Vec<Incarnation>,
    own_ridge: [f64; OWN],
    day_ridge: [f64; DAY],
    /// Products of the shared columns, the day eliminated.
    m: Vec<f64>,
    /// Logarithm of what the elimination of own columns and day leaves.
    ln_det: f64,
    noise: f64,
    blocks: f64,
    ln_s: f64,
    has_extra: bool,
}

/// A column beside those of the claim: its shape by time (hours), where it is, and the standard deviation of its prior (tolerances).
#[derive(Clone, Copy)]
pub struct Extra<'a> {
    /// Time, hours: since the beginning of the run, or, where each incarnation has it, of that.
    pub shape: &'a dyn Fn(f64) -> f64,
    /// See above.
    pub place: Place,
    /// See above.
    pub sd: f64,
}

/// Where a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In every incarnation, from its beginning.
    Each,
    /// In one incarnation, counted from the first.
    One(usize),
    /// In all of them, whenever they began.
    All,
}

impl Design {
    /// Of these blocks, of which the steps have added `stepped` by then; `extra` one more column, if there is one;
    /// `grown` what the claim says has leaked by a block.
    pub fn new(
        blocks: &[Block],
        stepped: &[f64],
        claim: &Claim,
        extra: Option<Extra>,
        horizon_h: f64,
        grown: &dyn Fn(&Block) -> f64,
    ) -> Self {
        let square = |sd: f64| (claim.noise / sd).powi(2).max(1e-12);
        let mut own_ridge = [square(prior::STEP); OWN];
        own_ridge[0] = square(prior::LEVEL);
        own_ridge[1..3].fill(square(prior::of_start(0)));
        own_ridge[3] = square(extra.map_or(1.0, |e| e.sd));
        // A column that takes no part has a ridge that lets nothing through.
        let day = |sd: f64| if claim.day { square(sd) } else { 1e30 };
        let day_ridge = prior::cycle(blocks.first().is_some_and(|b| b.worked.is_some())).map(day);
        let mut design = Design {
            incarnations: Vec::new(),
            own_ridge,
            day_ridge,
            m: vec![0.0; SHARED * SHARED],
            ln_det: 0.0,
            noise: claim.noise,
            blocks: blocks.len() as f64,
            ln_s: 0.0,
            has_extra: extra.is_some(),
        };
        let mut at = 0;
        for group in blocks.chunk_by(|a, b| a.segment == b.segment) {
            design.add(group, &stepped[at..at + group.len()], claim, extra, horizon_h, grown);
            at += group.len();
            if let Some(next) = blocks.get(at)
                && let Some(last) = design.incarnations.last_mut()
            {
                last.until_h = next.from_h;
            }
        }
        design.ln_det += eliminate(&mut design.m, SHARED, DAY, &design.day_ridge);
        design
    }

    fn add(
        &mut self,
        group: &[Block],
        stepped: &[f64],
        claim: &Claim,
        extra: Option<Extra>,
        horizon_h: f64,
        grown: &dyn Fn(&Block) -> f64,
    ) {
        let kinds = pair(claim.warm).unwrap_or([claim.warm, WARM]);
        let from_h = group[0].from_h;
        let mut steps = steps_of(stepped);
        let fixed = steps.len().saturating_sub(STEPS);
        let mut whitener = Whitener::new(claim.kind);
        let mut mean = [0.0; N];
        let mut m = vec![0.0; N * N];
        let mut rows = Vec::with_capacity(group.len());
        for (i, b) in group.iter().enumerate() {
            let since_h = b.t_h - from_h;
            let age_h = b.age_h(from_h);
            let warm = |k: usize| if k < WARM { warm_shape(k, age_h) } else { 0.0 };
            let mut row = [0.0; N];
            row[..3].copy_from_slice(&[1.0, warm(kinds[0]), warm(kinds[1])]);
            row[3] = extra.map_or(0.0, |e| match e.place {
                Place::Each => (e.shape)(age_h),
                Place::One(i) if i != self.incarnations.len() => 0.0,
                Place::One(_) | Place::All => (e.shape)(b.t_h),
            });
            steps.iter_mut().for_each(|step| step.on ^= step.turns.contains(&i));
            for (c, step) in steps[fixed..].iter().enumerate() {
                row[4 + c] = f64::from(u8::from(step.on));
            }
            let taken_out: f64 = steps.iter().filter(|s| s.on).map(|s| s.size).sum();
            if claim.day {
                row[OWN..OWN + DAY].copy_from_slice(&b.cycle());
            }
            row[OWN + DAY] = grown(b) / claim.drift;
            row[OWN + DAY + 1] = b.t_h / horizon_h;
            row[Y] = b.y - taken_out;
            let white = (10.0 / f64::from(b.ticks.clamp(1, 10))).sqrt();
            let gains = whitener.advance(b.t_h, since_h, white);
            self.ln_s += gains.ln_s;
            for (value, mean) in row.iter_mut().zip(&mut mean) {
                *value = gains.whiten(*value, mean);
            }
            for p in (0..N).filter(|p| row[*p] != 0.0) {
                for q in p..N {
                    m[p * N + q] += row[p] * row[q];
                }
            }
            rows.push(Whitened { t_h: b.t_h, gains, row });
        }
        self.ln_det += eliminate(&mut m, N, OWN, &self.own_ridge);
        for p in 0..SHARED {
            for q in p..SHARED {
                self.m[p * SHARED + q] += m[(OWN + p) * N + OWN + q];
            }
        }
        let until_h = group[group.len() - 1].t_h;
        self.incarnations.push(Incarnation { from_h, until_h, rows, m });
    }

    /// Whether the design has no extra column.
    pub fn extra_is_free(&self) -> bool {
        !self.has_extra
    }

    /// Ridge of a prior standard deviation.
    pub fn ridge(&self, sd: f64) -> f64 {
        (self.noise / sd).powi(2).max(1e-12)
    }

    /// ln of the likelihood of a sum of squares that is left, all else integrated out (`ln_det`: of what was eliminated beside own
    /// columns and day), up to what all have in common.
    pub fn ln_likelihood(&self, left: f64, ln_det: f64) -> f64 {
        -self.shape() * self.scale(left).ln() - 0.5 * (self.ln_det + ln_det)
    }

    /// Variance of the whitened noise, a sum of squares being left.
    pub fn variance(&self, left: f64) -> f64 {
        self.scale(left) / self.shape()
    }

    /// The same where kinds of noise are compared.
    pub fn ln_likelihood_of_noise(&self, left: f64, ln_det: f64) -> f64 {
        self.ln_likelihood(left, ln_det) - 0.5 * self.ln_s
    }

    fn shape(&self) -> f64 {
        1.5 + 0.5 * self.blocks
    }

    fn scale(&self, left: f64) -> f64 {
        let innovation = (self.ln_s / self.blocks.max(1.0)).exp();
        self.shape() * NOISE_FLOOR * NOISE_FLOOR / innovation + 0.5 * left.max(0.0)
    }

    /// What is left of a growth column (its product with itself and with the series).
    pub fn growth(&self, column: Column) -> (f64, f64) {
        let c = DAY + column as usize;
        (self.m[c * SHARED + c], self.m[c * SHARED + SHARED - 1])
    }

    /// What is left of the series' squares.
    pub fn squares(&self) -> f64 {
        self.m[SHARED * SHARED - 1]
    }

    /// What is left of a column that has this shape in one incarnation and is naught in all others.
    pub fn column(&self, of: &Incarnation, shape: impl Fn(f64) -> f64) -> Products {
        let (mut c, mut own) = ([0.0; N], 0.0);
        self.add_products(of, &shape, &mut c, &mut own);
        self.products(c, own)
    }

    /// The same of a column that has this shape in all incarnations.
    pub fn shared(&self, shape: impl Fn(f64) -> f64) -> Products {
        let (mut all, mut own) = ([0.0; N], 0.0);
        for of in &self.incarnations {
            let mut c = [0.0; N];
            self.add_products(of, &shape, &mut c, &mut own);
            (OWN..N).for_each(|q| all[q] += c[q]);
        }
        self.products(all, own)
    }

    /// A column's products with an incarnation's own, which are taken out.
    fn add_products(&self, of: &Incarnation, shape: &impl Fn(f64) -> f64, c: &mut [f64; N], own: &mut f64) {
        let mut mean = 0.0;
        for w in &of.rows {
            let value = shape(w.t_h);
            if value == 0.0 && mean == 0.0 {
                continue;
            }
            let e = w.gains.whiten(value, &mut mean);
            *own += e * e;
            for (c, x) in c.iter_mut().zip(&w.row) {
                *c += e * x;
            }
        }
        self.take_own(of, c, &mut |f, lead| *own -= f * lead);
    }

    fn products(&self, mut c: [f64; N], mut own: f64) -> Products {
        self.take_day(&mut c, &mut |f, lead| own -= f * lead);
        let [claimed, steady, y] = [c[OWN + DAY], c[OWN + DAY + 1], c[Y]];
        Products { growth: [claimed, steady], y, own: own.max(0.0) }
    }

    /// Takes an incarnation's own columns out of a column's products; `each` is told the column's share of a pivot and its product with it.
    fn take_own(&self, of: &Incarnation, c: &mut [f64; N], each: &mut impl FnMut(f64, f64)) {
        for p in 0..OWN {
            let f = c[p] / (of.m[p * N + p] + self.own_ridge[p]);
            each(f, c[p]);
            if f != 0.0 {
                (p + 1..N).for_each(|q| c[q] -= f * of.m[p * N + q]);
            }
        }
    }

    /// The same with the day.
    fn take_day(&self, c: &mut [f64; N], each: &mut impl FnMut(f64, f64)) {
        for p in 0..DAY {
            let f = c[OWN + p] / (self.m[p * SHARED + p] + self.day_ridge[p]);
            each(f, c[OWN + p]);
            (p + 1..SHARED).for_each(|q| c[OWN + q] -= f * self.m[p * SHARED + q]);
        }
    }

    /// What is left of steps at places `at` (blocks of the last incarnation), and of their products with one another (upper triangle).
    pub fn steps(&self, at: &[usize]) -> (Vec<Products>, Vec<f64>) {
        let n = at.len();
        let mut products = Vec::with_capacity(n);
        let mut gram = vec![0.0; n * n];
        let Some(of) = self.incarnations.last() else { return (products, gram) };
        let mut shares: Vec<Vec<(f64, f64)>> = Vec::with_capacity(n);
        let mut whitened: Vec<Vec<f64>> = Vec::with_capacity(n);
        for from in at {
            let (mut c, mut mean) = ([0.0; N], 0.0);
            let mut column = vec![0.0; of.rows.len()];
            for (w, e) in of.rows.iter().zip(&mut column).skip(*from) {
                *e = w.gains.whiten(1.0, &mut mean);
                for (c, x) in c.iter_mut().zip(&w.row) {
                    *c += *e * x;
                }
            }
            let mut taken = Vec::with_capacity(OWN + DAY);
            let mut each = |f, lead| taken.push((f, lead));
            self.take_own(of, &mut c, &mut each);
            self.take_day(&mut c, &mut each);
            products.push(Products { growth: [c[OWN + DAY], c[OWN + DAY + 1]], y: c[Y], own: 0.0 });
            shares.push(taken);
            whitened.push(column);
        }
        for i in 0..n {
            for j in i..n {
                let later = at[i].max(at[j]);
                let all: f64 = whitened[i][later..].iter().zip(&whitened[j][later..]).map(|(a, b)| a * b).sum();
                let taken: f64 = shares[i].iter().zip(&shares[j]).map(|(a, b)| a.0 * b.1).sum();
                gram[i * n + j] = all - taken;
            }
            products[i].own = gram[i * n + i].max(0.0);
        }
        (products, gram)
    }

    /// Times of the blocks of the last incarnation, hours.
    pub fn times_h(&self) -> Vec<f64> {
        self.incarnations.last().map_or(Vec::new(), |of| of.rows.iter().map(|w| w.t_h).collect())
    }
}
