//! How an incarnation may have started, as far as others of the same program tell: alike, give or take.
//!
//! Each class of starts stands for a program; each of its incarnations may have started a little otherwise. Which way suits an incarnation
//! best is decided when it ends, from its own sums alone, twice: where nothing leaks, and whatever leaks. A start that was chosen without a
//! leak is a slower one, and hides it. Between two time constants of the grid lie others: of a warm-up of hundreds of megabytes the nearest
//! one on the grid would leave several, which look like growth or like noise.

use super::bank::{WARM, WARM_EXP};
use super::regression::{NOISE_FLOOR, prior};

/// Places between two time constants of the grid.
const PARTS: usize = 8;

/// The class that a way of starting belongs to, as far as other incarnations are concerned; pairs have none.
pub fn class_of(k: usize) -> Option<usize> {
    (k <= WARM).then_some(k / 2)
}

/// Ways of starting that another incarnation of the same program may have had, where one had a start of class `class`: time
/// constants up to 40 % apart. None for no warm-up at all.
pub fn alike(class: usize) -> std::ops::Range<usize> {
    let first = 2 * class;
    if first < WARM_EXP { first.saturating_sub(2)..(first + 4).min(WARM_EXP) } else { first..(first + 2).min(WARM) }
}

/// ln of how much rarer a start at this place of the grid is than one of the class's own: give or take one place.
pub fn ln_alike(class: usize, place: f64) -> f64 {
    let off = place - 2.0 * class as f64 - 0.5;
    if 2 * class < WARM_EXP { 0.5 * (0.25 - off * off).min(0.0) } else { 0.0 }
}

/// One way in which an incarnation may have started: so much of a shape of the grid, the rest of the next.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    k: usize,
    part: f64,
    /// What its column's square comes to, with its ridge.
    pub pivot: f64,
    /// ln of that over the ridge: the Occam factor of the column.
    pub ln_det: f64,
    /// By how much it explains the incarnation better, ln: where nothing leaks, and whatever leaks.
    gains: [f64; 2],
}

impl Start {
    /// Its place on the grid.
    pub fn place(&self) -> f64 {
        self.k as f64 + self.part
    }

    /// The product of its column and column `c`, of sums in which the shapes' columns begin at `first`.
    pub fn product(&self, sums: &Sums, c: usize) -> f64 {
        let row = |k: usize| sums.m[(sums.first + k) * sums.n + c];
        if self.part == 0.0 { row(self.k) } else { (1.0 - self.part) * row(self.k) + self.part * row(self.k + 1) }
    }
}

/// An incarnation's sums of products (upper triangle of a square of width `n`), its level and steps eliminated; the series comes last.
#[derive(Debug, Clone, Copy)]
pub struct Sums<'a> {
    /// The products.
    pub m: &'a [f64],
    /// How many columns there are.
    pub n: usize,
    /// Where the shapes' columns begin.
    pub first: usize,
    /// The column of what leaks from the start of the run on.
    pub steady: usize,
}

/// All ways in which an incarnation may have started.
pub struct Starts(Vec<Start>);

impl Starts {
    /// Of an incarnation in noise of this variance.
    pub fn new(sums: &Sums, variance: f64) -> Self {
        let between = (0..WARM_EXP - 1).flat_map(|k| (0..PARTS).map(move |part| (k, part as f64 / PARTS as f64)));
        let places = between.chain((WARM_EXP - 1..WARM).map(|k| (k, 0.0)));
        Starts(places.map(|(k, part)| start(sums, variance, k, part)).collect())
    }

    /// The likeliest of a class, if it has any: where nothing leaks (0), whatever leaks (1).
    pub fn best(&self, class: usize, leaks: usize) -> Option<&Start> {
        let all = alike(class);
        let of_class = self.0.iter().filter(|s| s.k >= all.start && s.place() <= all.end as f64 - 1.0);
        let ln = |s: &Start| s.gains[leaks] + ln_alike(class, s.place());
        of_class.max_by(|a, b| ln(a).total_cmp(&ln(b)))
    }
}

fn start(sums: &Sums, variance: f64, k: usize, part: f64) -> Start {
    let ridge = variance / (prior::of_start(k) * prior::of_start(k));
    let of_leak = variance / (prior::LEAK * prior::LEAK);
    let mut start = Start { k, part, pivot: 0.0, ln_det: 0.0, gains: [0.0; 2] };
    let at = |i: usize, j: usize| sums.m[i * sums.n + j];
    let (a, b) = (sums.first + k, sums.first + k + 1);
    let mixed = if part == 0.0 { 0.0 } else { 2.0 * (1.0 - part) * part * at(a, b) + part * part * at(b, b) };
    start.pivot = (1.0 - part) * (1.0 - part) * at(a, a) + mixed + ridge;
    start.ln_det = (start.pivot / ridge).ln();
    let (y, tied) = (start.product(sums, sums.n - 1), start.product(sums, sums.steady));
    let own = at(sums.steady, sums.steady) - tied * tied / start.pivot + of_leak;
    let leak = at(sums.steady, sums.n - 1) - tied * y / start.pivot;
    let variance = variance.max(NOISE_FLOOR * NOISE_FLOOR);
    let squares = y * y / start.pivot;
    start.gains[0] = 0.5 * (squares / variance - start.ln_det);
    start.gains[1] = 0.5 * ((squares + leak * leak / own) / variance - start.ln_det - (own / of_leak).ln());
    start
}
