//! The one special function the analysis needs. Accurate to about 1e-7 relative in the tails, where alarms are decided.

/// Upper tail of the standard normal, P(Z > z). W. J. Cody's rational approximations by way of `erfc` (Numerical Recipes,
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
