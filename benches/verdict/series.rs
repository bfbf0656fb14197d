//! What all simulated series are: points, and the truth about them. And the dice that they are thrown with.

use soakd::model::series::Point;

/// SplitMix64: small, seedable, good enough for noise.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03);
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [lo, hi).
    pub fn range(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * ((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// Log-uniform in [lo, hi).
    pub fn log_range(&mut self, lo: f64, hi: f64) -> f64 {
        self.range(lo.ln(), hi.ln()).exp()
    }

    /// A whole number in lo..=hi.
    pub fn whole(&mut self, lo: u64, hi: u64) -> u64 {
        lo + self.next() % (hi - lo + 1)
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.range(0.0, 1.0) < p
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let u = self.range(1e-12, 1.0);
        let v = self.range(0.0, std::f64::consts::TAU);
        (-2.0 * u.ln()).sqrt() * v.cos()
    }
}

/// One simulated series and the truth about it.
pub struct Trace {
    pub points: Vec<Point>,
    /// 0 clean, 1 tolerated (a true drift of 5 to 25 MB), 2 leaking (75 MB and more).
    pub class: u8,
    /// What disturbs it, parts joined by '+'.
    pub parts: String,
    /// The kind of leak, where there is one.
    pub leak: Option<&'static str>,
    /// Bytes leaked by the end, over all incarnations.
    pub drift_bytes: f64,
    /// Hours until 50 MB were gone, where that is a leak.
    pub breach_h: Option<f64>,
    /// Seconds between samples.
    pub interval_s: f64,
}
