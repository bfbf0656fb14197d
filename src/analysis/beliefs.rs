//! What is believed before anything is seen: how often which kind of start, day and noise occurs, and how large leaks, caches and days
//! are. These are choices, made of what public threads tell and of what the corpus is drawn from; `docs/verdict.md` argues for them.
//! The ridges of the regression, which are priors too, stand with it.

use super::bank::{FILL_H, Noise, PAIRS, WARM, WARM_EXP, warm_tau_h};
use super::posterior::Hypothesis;
use super::special::normal_above;

/// Priors on the size of a drift: weight and standard deviation in tolerances. Within the tolerance lies the little that
/// any process gains; beyond it most leaks are of one to thirty tolerances, few of hundreds, some of thousands: a tail as heavy as
/// that of real leaks keeps a straight line that nothing else explains from being disbelieved for its steepness.
pub const TOLERATED_SD: f64 = 0.3;
pub const LEAK_SIZES: [(f64, f64); 7] =
    [(0.25, 1.5), (0.28, 5.0), (0.25, 15.0), (0.1, 45.0), (0.06, 140.0), (0.04, 450.0), (0.02, 2000.0)];
/// Of leaks, those that shrink.
const P_SHRINKS: f64 = 0.1;

/// ln of twice the prior of the sign that a leak has, `z` being its size over its standard deviation: what leaks grows.
pub fn ln_prior_of_sign(z: f64) -> f64 {
    let grows = if z.is_finite() { 1.0 - normal_above(z) } else { 0.5 };
    (2.0 * (P_SHRINKS + (1.0 - 2.0 * P_SHRINKS) * grows)).ln()
}

/// The same for a claim that goes up or down for sure.
pub fn odds_of_sign(rate: f64) -> f64 {
    if rate > 0.0 { 2.0 * (1.0 - P_SHRINKS) } else { 2.0 * P_SHRINKS }
}

/// Prior probabilities of what rises during the run and is no leak: a second warm-up, ...
pub const P_SECOND_START: f64 = 0.2;
/// ... a day that is busier than the one before, ...
pub const P_BUSY_DAY: f64 = 0.2;
/// ... the edge of one, ...
pub const P_EDGE: f64 = 0.2;
/// ... the same as a straight ramp, ...
pub const P_RAMP: f64 = 0.2;
/// ... memory that follows the load, where requests tell that, ...
pub const P_FOLLOWS: f64 = 0.2;
/// ... a cache that requests fill, ...
pub const P_FILLING: f64 = 0.1;
/// ... starts in two parts, where a run has several, ...
pub const P_TWO_PARTS: f64 = 0.1;
/// ... growth that flattens more slowly than any warm-up, ...
pub const P_SLOW: f64 = 0.05;
/// ... and arenas that are too small to be seen as steps.
pub const P_ARENAS: f64 = 0.1;

/// Prior odds: nothing drifts, a little drifts, something leaks.
pub const P_NONE: f64 = 0.5;
pub const P_TOLERATED: f64 = 0.3;
pub const P_LEAK: f64 = 0.2;
/// Of leaks, those that are there from the start (in time or in requests), and those that set in later.
pub const P_FROM_START: f64 = 0.6;
/// ... and those that work in shifts.
pub const P_SHIFTS: f64 = 0.1;
/// Largest cache that is thought to fill at a steady rate, tolerances (325 MB), and how sharply that ends.
const CACHE_MAX: f64 = 6.5;
const CACHE_EDGE: f64 = 0.25;

/// ln of how plausible the size of a cache is, beyond what its normal prior says. A line that has come further than any usual cache
/// reaches is no cache that fills.
pub fn ln_plausible_cache(warm: usize, size: f64) -> f64 {
    if !(WARM_EXP..WARM).contains(&warm) {
        return 0.0;
    }
    let over = ((size.abs() - CACHE_MAX) / CACHE_EDGE).clamp(0.0, 7.0);
    -0.5 * over * over
}

/// Largest amplitude of a day cycle that is thought possible, tolerances (45 MB), and how sharply it ends.
const DAY_MAX: f64 = 0.9;
const DAY_EDGE: f64 = 0.08;
/// Prior probabilities of a day: none, a plain wave of 24 h, one with a second harmonic.
const P_DAYS: [f64; DAYS] = [0.7, 0.2, 0.1];

/// ln of how plausible a day cycle of this amplitude is, beyond what its normal prior says.
pub fn ln_plausible(day: f64) -> f64 {
    let over = ((day - DAY_MAX) / DAY_EDGE).clamp(0.0, 7.0);
    -0.5 * over * over
}

/// Kinds of day: none, 24 h, 24 h and 12 h.
pub const DAYS: usize = 3;

/// ln of the prior of a kind of day.
pub fn ln_prior_of_day(day: usize) -> f64 {
    P_DAYS[day].ln()
}

/// ln of the prior of a way of starting: a third starts level, half warms up, the rest fills a cache. Most warm-ups take
/// up to three hours' time constant. A cache that fills at a perfectly steady rate cannot be told from a leak until it is full;
/// most do so within an hour or two, and the longer it takes, the less it is believed in.
pub fn ln_prior_of_start(warm: usize) -> f64 {
    if warm == WARM {
        P_LEVEL.ln()
    } else if warm > WARM {
        (P_PAIR / PAIRS as f64).ln()
    } else if warm < WARM_EXP {
        let slow = if warm_tau_h(warm) > 3.2 { 0.1 } else { 1.0 };
        ((1.0 - P_LEVEL - P_CACHE - P_PAIR) * slow / WARM_EXP as f64).ln()
    } else {
        let slow = usual_filling(FILL_H[warm - WARM_EXP]);
        (P_CACHE * slow / (WARM - WARM_EXP) as f64).ln()
    }
}

/// How usual it is that a cache takes so many hours to fill steadily.
pub fn usual_filling(fill_h: f64) -> f64 {
    let odd = if fill_h < FILL_SHORT_H {
        0.1
    } else if fill_h > FILL_LONG_H {
        0.05
    } else {
        1.0
    };
    (FILL_USUAL_H / fill_h).min(1.0).powi(4) * odd
}

/// Longest time that it usually takes to fill a cache steadily, hours.
const FILL_USUAL_H: f64 = 1.0;
/// Longer than this is an exception: who loses 50 MB an hour wants to know it within two hours.
const FILL_LONG_H: f64 = 1.8;
/// ... and shorter too: what gains a dozen megabytes a minute is not waited for until it has gained hundreds.
const FILL_SHORT_H: f64 = 0.5;
/// Prior probabilities that a segment starts level, and that it fills a cache.
const P_LEVEL: f64 = 0.38;
const P_CACHE: f64 = 0.12;
/// ... and that two warm-ups follow one another.
const P_PAIR: f64 = 0.03;

/// ln of the prior of a kind of noise. Starts that nothing on the grid fits are rare; it takes evidence to believe in one.
pub fn ln_prior_of_noise(noise: &Noise) -> f64 {
    if noise.unsettled { (0.03_f64 / 8.0).ln() } else { (0.97_f64 / 19.0).ln() }
}

/// ln of twice the probability that the warm-up goes up: they nearly always do (one in fifty goes down).
pub fn ln_grows(h: &Hypothesis) -> f64 {
    if h.warm == WARM || !h.warm_z.is_finite() || h.warm_z == 0.0 {
        return 0.0;
    }
    (0.02 + 1.96 * (1.0 - normal_above(h.warm_z))).ln()
}
