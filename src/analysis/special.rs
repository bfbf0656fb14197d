//! Functions that the analysis needs and the standard library has not.

/// Upper tail of the standard normal, P(Z > z), to about 1e-7 relative in the tails, where alarms are decided. W. J. Cody's rational approximations by way of `erfc` (Numerical Recipes,
/// 3rd edition, section 6.2.2: a Chebyshev fit, fractional error below 1.2e-7 everywhere).
pub fn normal_above(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let poly = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let sum = poly.iter().rev().fold(0.0, |acc, c| acc * t + c);
    let tail = 0.5 * t * (-x * x + sum).exp();
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// ln of the mean of two exponentials, of which the second has the weight `share`.
pub fn ln_weighed(a: f64, b: f64, share: f64) -> f64 {
    let top = a.max(b);
    top + ((1.0 - share) * (a - top).exp() + share * (b - top).exp()).ln()
}

/// ln of the mean of exponentials.
pub fn ln_mean(terms: impl Iterator<Item = f64>) -> f64 {
    let terms: Vec<f64> = terms.collect();
    let top = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = terms.iter().map(|t| (t - top).exp()).sum();
    top + (sum / terms.len() as f64).ln()
}
