//! A bank of noise models, and under each the whitened Gram matrix of everything that could explain a series.
//!
//! The series of block floors is a sum of columns (level, steps, day cycle, warm-ups, leaks) with unknown coefficients plus
//! Ornstein-Uhlenbeck and white noise. For given noise, a scalar Kalman filter with the same gains whitens the series and
//! every column at once, and the sums of their products are all that any regression on any subset of columns ever needs.
//! So one more block costs the same however long the run, and memory does not grow. Which columns take part, with which
//! prior, is decided afterwards, in `posterior`.

/// Columns for steps within a segment that are still free; the oldest is fixed at its estimate when more come.
pub const STEPS: usize = 12;
/// First column of the steps.
pub const STEP_0: usize = 1;
/// Day cycle: cosine and sine of 24 h, then of 12 h.
pub const DAY_0: usize = STEP_0 + STEPS;
/// First column of the warm-ups; those below are shared by all segments or common to all models.
pub const WARM_0: usize = DAY_0 + 4;
/// Time constants on the grid.
pub const WARM_EXP: usize = 24;
/// Caches that fill at a steady rate and stay.
pub const WARM_FILL: usize = 14;
/// Ways in which a segment can start.
pub const WARM: usize = WARM_EXP + WARM_FILL;
/// Requests served.
pub const REQ: usize = WARM_0 + WARM;
/// First of the leak columns: time since an onset.
pub const HINGE_0: usize = REQ + 1;
/// Onsets kept at a time; 24 of them over a horizon are two hours apart.
pub const HINGES: usize = 24;
/// The series itself, always the last column.
pub const Y: usize = HINGE_0 + HINGES;
/// All columns.
pub const COLUMNS: usize = Y + 1;

/// Columns that outlive a segment: day, requests, hinges, series.
pub const SHARED: [usize; 4 + 1 + HINGES + 1] = shared();

/// Where the onsets begin within [`SHARED`].
pub const ONSET_IN_SHARED: usize = 5;

const fn shared() -> [usize; 6 + HINGES] {
    let mut out = [0; 6 + HINGES];
    let mut i = 0;
    while i < 4 {
        out[i] = DAY_0 + i;
        i += 1;
    }
    while i < 6 + HINGES {
        out[i] = REQ + i - 4;
        i += 1;
    }
    out
}

/// Shortest and longest time constant of a warm-up, hours. Wider than the 20 minutes to 3 hours that are common.
const WARM_TAU_H: [f64; 2] = [0.1, 4.0];
/// Durations over which a cache fills at a steady rate, hours.
pub const FILL_H: [f64; WARM_FILL] = [0.3, 0.4, 0.5, 0.65, 0.85, 1.1, 1.4, 1.8, 2.3, 2.9, 3.6, 4.3, 5.1, 6.0];

/// The `k`-th time constant, hours.
pub fn warm_tau_h(k: usize) -> f64 {
    let ratio = (WARM_TAU_H[1] / WARM_TAU_H[0]).ln() / (WARM_EXP - 1) as f64;
    WARM_TAU_H[0] * (ratio * k as f64).exp()
}

/// How long a start of kind `k` takes, hours: until 95 % of it is over, or until it is full; 0 for none.
pub fn warm_up_h(k: usize) -> f64 {
    match k {
        k if k < WARM_EXP => 3.0 * warm_tau_h(k),
        k if k < WARM => FILL_H[k - WARM_EXP],
        _ => 0.0,
    }
}

/// How a segment starts: the shape of kind `k` at `t_h` hours after the start, from 0 to 1.
pub fn warm_shape(k: usize, t_h: f64) -> f64 {
    if k < WARM_EXP { 1.0 - (-t_h / warm_tau_h(k)).exp() } else { (t_h / FILL_H[k - WARM_EXP]).min(1.0) }
}

/// Two warm-ups one after the other, as places on the grid: a quick one and a slow one.
pub const PAIRS: usize = 25;
/// All ways of starting: single ones, none, pairs. They fit the bits of a word.
pub const STARTS: usize = WARM + 1 + PAIRS;
const QUICK: [usize; 5] = [3, 6, 9, 12, 14];
const SLOW: [usize; 5] = [15, 17, 19, 21, 23];

/// The two warm-ups of way of starting `k`, if it is a pair.
pub fn pair(k: usize) -> Option<[usize; 2]> {
    let p = k.checked_sub(WARM + 1)?;
    Some([QUICK[p / SLOW.len()], SLOW[p % SLOW.len()]])
}

/// One kind of noise: a share of white noise, the rest Ornstein-Uhlenbeck.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Time constant of the Ornstein-Uhlenbeck part, hours.
    pub tau_h: f64,
    /// White variance of a full block as a share of all.
    pub white: f64,
    /// True if the time constant is so long that this is a random walk: what it gains stays gained.
    pub walk: bool,
    /// True if each segment's first hours wander more than the rest: no shape on the grid fits its start.
    pub unsettled: bool,
}

/// The grid: white alone, five time constants with three shares of white noise, the same with an unsettled start, and
/// random walks.
pub fn noises() -> Vec<Noise> {
    let steady = Noise { tau_h: 1.0, white: 1.0, walk: false, unsettled: false };
    let mut out = vec![steady];
    for tau_h in [0.15, 0.5, 1.5, 4.0, 12.0] {
        for white in [0.7, 0.2, 0.02] {
            out.push(Noise { tau_h, white, ..steady });
        }
    }
    for tau_h in [0.5, 1.5, 4.0, 12.0] {
        for white in [0.3, 0.02] {
            out.push(Noise { tau_h, white, unsettled: true, ..steady });
        }
    }
    // Ten minutes of the walk are about 1e-3 of its variance: white noise above, near and below that.
    for white in [2e-2, 2e-3, 1e-4] {
        out.push(Noise { tau_h: WALK_H, white, walk: true, ..steady });
    }
    out
}

/// A coarser grid, for a second look at part of a run.
pub fn few_noises() -> Vec<Noise> {
    let noise = |tau_h, white| Noise { tau_h, white, walk: false, unsettled: false };
    let walk = Noise { tau_h: WALK_H, white: 2e-3, walk: true, unsettled: false };
    vec![noise(1.0, 1.0), noise(0.5, 0.3), noise(1.5, 0.3), noise(1.5, 0.02), noise(4.0, 0.1), noise(12.0, 0.02), walk]
}

/// An unsettled start wanders by this much more variance an hour (in units of the noise's own) ...
const WANDER: f64 = 3000.0;
/// ... which dies away with this time constant, hours.
const WANDER_TAU_H: f64 = 1.2;

/// Time constant that stands for a random walk, hours.
const WALK_H: f64 = 300.0;

/// Entries of the upper triangle of a symmetric matrix of size `n`.
const fn triangle(n: usize) -> usize {
    n * (n + 1) / 2
}

/// Where entry `i`, `j` (i ≤ j) of a symmetric matrix of size `n` is kept: its upper triangle, row by row.
const fn packed(n: usize, i: usize, j: usize) -> usize {
    i * (2 * n - i + 1) / 2 + j - i
}

/// Zeroes whose pages are there from the start. The columns of onsets come into use one after another through two days, and
/// pages that the kernel gives only then would look like growth of the supervisor's own.
fn touched_zeroes(len: usize) -> Vec<f64> {
    let mut zeroes = vec![1.0; len];
    zeroes.iter_mut().for_each(|zero| *zero = std::hint::black_box(0.0));
    zeroes
}

/// Room for so many, of which the same is true: an empty vector that never has to grow.
pub fn touched_room<T: Clone>(of: T, len: usize) -> Vec<T> {
    let mut room = vec![of; len];
    std::hint::black_box(&mut room).clear();
    room
}

/// Ways of starting that closed segments are told apart by: neighbours on the grid share one, and none has its own.
pub const CLASSES: usize = WARM / 2 + 1;

/// What closed segments say of the shared columns (see [`SHARED`]), for each class of starts. There are many of these, so they are
/// kept small: only the series' own column, whose small remainders are what everything is judged by, has its full precision.
#[derive(Debug, Clone, Default)]
pub struct History {
    columns: Vec<f32>,
    series: Vec<f64>,
    /// Logarithm of the determinants left by the elimination of closed segments, for each class.
    pub ln_det: Vec<f64>,
    /// The same, and what is said of the day's columns and the series, where nothing leaks: each segment may then have started otherwise.
    pub still: Vec<Still>,
}

/// Columns of the day and the series: all that is shared where nothing leaks.
pub const STILL: usize = 5;

/// See [`History::still`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Still {
    /// Products of the shared columns, upper triangle.
    pub products: [[f64; STILL]; STILL],
    /// Logarithm of the determinants.
    pub ln_det: f64,
}

impl History {
    const SIZE: usize = SHARED.len();
    const OTHERS: usize = Self::SIZE - 1;

    /// True before the first restart.
    pub fn is_empty(&self) -> bool {
        self.ln_det.is_empty()
    }

    /// Makes room.
    pub fn begin(&mut self) {
        self.columns = vec![0.0; CLASSES * triangle(Self::OTHERS)];
        self.series = vec![0.0; CLASSES * Self::SIZE];
        self.ln_det = vec![0.0; CLASSES];
        self.still = vec![Still::default(); CLASSES];
    }

    /// The entry of class `class` for shared columns `i` ≤ `j`.
    pub fn at(&self, class: usize, i: usize, j: usize) -> f64 {
        if j < Self::OTHERS {
            f64::from(self.columns[class * triangle(Self::OTHERS) + packed(Self::OTHERS, i, j)])
        } else {
            self.series[class * Self::SIZE + i]
        }
    }

    /// Adds to the entries of class `class` for shared column `i` and those from it on.
    pub fn add_row(&mut self, class: usize, i: usize, mut values: impl Iterator<Item = f64>) {
        if i < Self::OTHERS {
            let start = class * triangle(Self::OTHERS) + packed(Self::OTHERS, i, i);
            for (entry, value) in self.columns[start..start + Self::OTHERS - i].iter_mut().zip(&mut values) {
                *entry = (f64::from(*entry) + value) as f32;
            }
        }
        self.series[class * Self::SIZE + i] += values.next().unwrap_or(0.0);
    }

    fn set(&mut self, class: usize, i: usize, j: usize, value: f64) {
        if j < Self::OTHERS {
            self.columns[class * triangle(Self::OTHERS) + packed(Self::OTHERS, i, j)] = value as f32;
        } else {
            self.series[class * Self::SIZE + i] = value;
        }
    }

    /// Moves onset `from` into slot `to`, leaving `from` empty.
    pub fn move_onset(&mut self, from: usize, to: usize) {
        let (a, b) = (ONSET_IN_SHARED + from, ONSET_IN_SHARED + to);
        for class in 0..self.ln_det.len() {
            let own = self.at(class, a, a);
            for i in (0..Self::SIZE).filter(|i| *i != a && *i != b) {
                self.set(class, i.min(b), i.max(b), self.at(class, i.min(a), i.max(a)));
            }
            self.set(class, b, b, own);
        }
        self.clear_onset(from);
    }

    /// Zeroes onset `k`.
    pub fn clear_onset(&mut self, k: usize) {
        let c = ONSET_IN_SHARED + k;
        for class in 0..self.ln_det.len() {
            for i in 0..Self::SIZE {
                self.set(class, i.min(c), i.max(c), 0.0);
            }
        }
    }
}

/// The scalar Kalman filter of one kind of noise: turns a series, or a column, into innovations of variance one, block by block.
#[derive(Debug, Clone, Copy)]
pub struct Whitener {
    noise: Noise,
    variance: f64,
    last_h: Option<f64>,
}

/// What the filter does with one block.
#[derive(Debug, Clone, Copy)]
pub struct Gains {
    phi: f64,
    gain: f64,
    scale: f64,
    /// Logarithm of the innovation's variance.
    pub ln_s: f64,
}

impl Gains {
    /// The innovation of a column, of which `mean` is the state.
    #[inline]
    pub fn whiten(&self, value: f64, mean: &mut f64) -> f64 {
        let predicted = self.phi * *mean;
        let innovation = value - predicted;
        *mean = predicted + self.gain * innovation;
        innovation * self.scale
    }
}

impl Whitener {
    /// At the beginning of an incarnation.
    pub fn new(noise: Noise) -> Self {
        Whitener { noise, variance: 1.0 - noise.white, last_h: None }
    }

    /// Goes on to the block at `t_h`, `in_segment_h` hours into its segment, which has `white_factor` times the white noise of a full one.
    pub fn advance(&mut self, t_h: f64, in_segment_h: f64, white_factor: f64) -> Gains {
        let stationary = 1.0 - self.noise.white;
        let phi = self.last_h.map_or(0.0, |last| (-(t_h - last) / self.noise.tau_h).exp());
        let wander = if self.noise.unsettled {
            let since = self.last_h.map_or(0.0, |last| t_h - last).min(1.0);
            WANDER * since * (-in_segment_h / WANDER_TAU_H).exp()
        } else {
            0.0
        };
        self.last_h = Some(t_h);
        let prior = phi * phi * self.variance + (1.0 - phi * phi) * stationary + wander;
        let s = prior + self.noise.white * white_factor;
        let gain = prior / s;
        self.variance = prior - gain * prior;
        Gains { phi, gain, scale: 1.0 / s.sqrt(), ln_s: s.ln() }
    }
}

/// One whitened regression under one kind of noise.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Which noise.
    pub noise: Noise,
    mean: [f64; COLUMNS],
    whitener: Whitener,
    /// Upper triangle, row by row.
    gram: Vec<f64>,
    /// Sum of the logarithms of the innovation variances.
    pub ln_s: f64,
    /// What closed segments say.
    pub history: History,
}

impl Filter {
    /// A filter that has seen nothing.
    pub fn new(noise: Noise) -> Self {
        Filter {
            noise,
            mean: [0.0; COLUMNS],
            whitener: Whitener::new(noise),
            gram: touched_zeroes(triangle(COLUMNS)),
            ln_s: 0.0,
            history: History::default(),
        }
    }

    /// Takes one block, `in_segment_h` hours into its segment; `steps` and `onsets` say how many of those columns are in use.
    pub fn push(
        &mut self,
        t_h: f64,
        in_segment_h: f64,
        white_factor: f64,
        values: &[f64; COLUMNS],
        steps: usize,
        onsets: usize,
    ) {
        let gains = self.whitener.advance(t_h, in_segment_h, white_factor);
        self.ln_s += gains.ln_s;
        let mut e = [0.0; COLUMNS];
        for ((e, mean), value) in e.iter_mut().zip(&mut self.mean).zip(values) {
            *e = gains.whiten(*value, mean);
        }
        // Columns in use lie in two runs and the series itself; whole runs are what a compiler can make fast.
        let runs = [0..STEP_0 + steps, DAY_0..HINGE_0 + onsets, Y..COLUMNS];
        for c in runs.iter().cloned().flatten() {
            let f = e[c];
            if f == 0.0 {
                continue;
            }
            let start = packed(COLUMNS, c, c);
            let row = &mut self.gram[start..start + COLUMNS - c];
            for run in &runs {
                let from = run.start.max(c);
                if from < run.end {
                    for (g, v) in row[from - c..run.end - c].iter_mut().zip(&e[from..run.end]) {
                        *g += f * v;
                    }
                }
            }
        }
    }

    /// A new incarnation: all sums and its noise start anew.
    pub fn restart(&mut self) {
        self.gram.fill(0.0);
        self.mean = [0.0; COLUMNS];
        self.whitener = Whitener::new(self.noise);
    }

    /// The Gram entry of two columns.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.gram[packed(COLUMNS, i.min(j), i.max(j))]
    }

    /// Zeroes everything about column `c`, so that its slot can be used anew.
    pub fn clear_column(&mut self, c: usize) {
        for i in 0..COLUMNS {
            self.gram[packed(COLUMNS, i.min(c), i.max(c))] = 0.0;
        }
        self.mean[c] = 0.0;
    }

    /// Moves column `from` into the empty slot `to`, leaving `from` empty.
    pub fn move_column(&mut self, from: usize, to: usize) {
        let column: Vec<f64> = (0..COLUMNS).map(|i| self.at(i, from)).collect();
        let mean = self.mean[from];
        self.clear_column(from);
        for (i, v) in column.iter().enumerate() {
            let i_new = if i == from { to } else { i };
            if i == to {
                continue;
            }
            self.gram[packed(COLUMNS, i_new.min(to), i_new.max(to))] = *v;
        }
        self.mean[to] = mean;
    }

    /// Replaces the series by the series less `coefficient` times column `c`.
    pub fn subtract(&mut self, c: usize, coefficient: f64) {
        let column: Vec<f64> = (0..COLUMNS).map(|i| self.at(i, c)).collect();
        for (i, v) in column.iter().enumerate().take(Y) {
            self.gram[packed(COLUMNS, i, Y)] -= coefficient * v;
        }
        let yc = column[Y];
        self.gram[packed(COLUMNS, Y, Y)] += coefficient * (coefficient * column[c] - 2.0 * yc);
        self.mean[Y] -= coefficient * self.mean[c];
    }
}

/// Eliminates the first `count` rows of a symmetric matrix of size `n` (upper triangle, row-major, stride `n`) in place, after
/// adding `ridge` to their diagonals. Returns the sum of ln(pivot / ridge): the Occam factor of those columns.
pub fn eliminate(m: &mut [f64], n: usize, count: usize, ridge: &[f64]) -> f64 {
    eliminate_rows(m, n, 0..count, ridge)
}

/// As [`eliminate`], from where an earlier elimination ended.
pub fn eliminate_rows(m: &mut [f64], n: usize, rows: std::ops::Range<usize>, ridge: &[f64]) -> f64 {
    let mut ln_det = 0.0;
    for (p, ridge) in rows.zip(ridge) {
        let pivot = m[p * n + p] + ridge;
        ln_det += (pivot / ridge).ln();
        let (head, tail) = m.split_at_mut((p + 1) * n);
        let row = &head[p * n..];
        for i in p + 1..n {
            let f = row[i];
            if f == 0.0 {
                continue;
            }
            let f = f / pivot;
            let target = &mut tail[(i - p - 1) * n..(i - p) * n];
            for j in i..n {
                target[j] -= f * row[j];
            }
        }
    }
    ln_det
}
