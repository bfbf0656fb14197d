//! What people use to call a leak, as plainly as its users do: each looks at the ten-minute medians so far, every half hour
//! from the second hour on, and projects its slope over 48 hours.

use soakd::model::series::Point;

/// Time (hours) and level (MB).
pub type Level = (f64, f64);

/// A peer: a name and a rule that says whether what was seen so far is a leak of more than 50 MB over 48 hours.
pub type Peer = (&'static str, fn(&[Level]) -> bool);

pub const PEERS: [Peer; 6] = [
    ("first against last", first_last),
    ("ordinary least squares", ols),
    ("Newey-West", newey_west),
    ("Mann-Kendall + Sen", mann_kendall),
    ("Hamed-Rao + Sen", hamed_rao),
    ("predict_linear", predict_linear),
];

const TOLERANCE_MB: f64 = 50.0;
const HORIZON_H: f64 = 48.0;

/// Ten-minute medians.
pub fn levels(points: &[Point]) -> Vec<Level> {
    let mut out = Vec::new();
    let first = points[0].unix_s;
    for chunk in points.chunk_by(|a, b| ((a.unix_s - first) / 600.0).floor() == ((b.unix_s - first) / 600.0).floor()) {
        let mut y: Vec<f64> = chunk.iter().map(|p| p.bytes / 1e6).collect();
        y.sort_by(f64::total_cmp);
        let t = chunk.iter().map(|p| p.unix_s - first).sum::<f64>() / chunk.len() as f64 / 3600.0;
        out.push((t, y[y.len() / 2]));
    }
    out
}

/// When the peer first rings, hours.
pub fn first_alarm(peer: fn(&[Level]) -> bool, levels: &[Level]) -> Option<f64> {
    (12..=levels.len()).step_by(3).find(|n| peer(&levels[..*n])).map(|n| levels[n - 1].0)
}

fn first_last(l: &[Level]) -> bool {
    let mean = |s: &[Level]| s.iter().map(|x| x.1).sum::<f64>() / s.len() as f64;
    let k = 6.min(l.len() / 2);
    (mean(&l[l.len() - k..]) - mean(&l[..k])).abs() > TOLERANCE_MB
}

/// Slope, residuals, sum of squares of time about its mean.
fn fit(l: &[Level]) -> (f64, Vec<f64>, f64) {
    let n = l.len() as f64;
    let (mt, my) = (l.iter().map(|x| x.0).sum::<f64>() / n, l.iter().map(|x| x.1).sum::<f64>() / n);
    let stt: f64 = l.iter().map(|x| (x.0 - mt).powi(2)).sum();
    let slope = l.iter().map(|x| (x.0 - mt) * (x.1 - my)).sum::<f64>() / stt;
    (slope, l.iter().map(|x| x.1 - my - slope * (x.0 - mt)).collect(), stt)
}

fn drifts(slope: f64) -> bool {
    (slope * HORIZON_H).abs() > TOLERANCE_MB
}

fn ols(l: &[Level]) -> bool {
    let (slope, r, stt) = fit(l);
    let s2 = r.iter().map(|x| x * x).sum::<f64>() / (l.len() - 2) as f64;
    drifts(slope) && slope.abs() > 1.96 * (s2 / stt).sqrt()
}

/// Bartlett weights, Newey and West's rule of thumb for the lag: 4 (n/100)^(2/9).
fn newey_west(l: &[Level]) -> bool {
    let (slope, r, stt) = fit(l);
    let n = l.len();
    let mt = l.iter().map(|x| x.0).sum::<f64>() / n as f64;
    let u: Vec<f64> = l.iter().zip(&r).map(|(x, r)| (x.0 - mt) * r).collect();
    let lags = (4.0 * (n as f64 / 100.0).powf(2.0 / 9.0)).floor() as usize;
    let cov = |k: usize| u[k..].iter().zip(&u).map(|(a, b)| a * b).sum::<f64>();
    let s: f64 = cov(0) + 2.0 * (1..=lags).map(|k| (1.0 - k as f64 / (lags + 1) as f64) * cov(k)).sum::<f64>();
    drifts(slope) && slope.abs() > 1.96 * s.max(0.0).sqrt() / stt
}

fn sen(l: &[Level]) -> f64 {
    let mut s: Vec<f64> = Vec::with_capacity(l.len() * l.len() / 2);
    for (i, a) in l.iter().enumerate() {
        s.extend(l[i + 1..].iter().map(|b| (b.1 - a.1) / (b.0 - a.0)));
    }
    let m = s.len() / 2;
    *s.select_nth_unstable_by(m, f64::total_cmp).1
}

/// Kendall's S and its variance under independence.
fn kendall(l: &[Level]) -> (f64, f64) {
    let mut s = 0.0;
    for (i, a) in l.iter().enumerate() {
        s += l[i + 1..].iter().map(|b| (b.1 - a.1).partial_cmp(&0.0).map_or(0.0, |o| f64::from(o as i32))).sum::<f64>();
    }
    let n = l.len() as f64;
    (s, n * (n - 1.0) * (2.0 * n + 5.0) / 18.0)
}

fn mann_kendall(l: &[Level]) -> bool {
    let (s, v) = kendall(l);
    s.abs() > 1.96 * v.sqrt() && drifts(sen(l))
}

/// Variance corrected by the autocorrelation of the ranks of the detrended series (Hamed and Rao 1998), lags that are significant.
fn hamed_rao(l: &[Level]) -> bool {
    let (s, v) = kendall(l);
    if s.abs() <= 1.96 * v.sqrt() {
        return false;
    }
    let slope = sen(l);
    let n = l.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| (l[*a].1 - slope * l[*a].0).total_cmp(&(l[*b].1 - slope * l[*b].0)));
    let mut rank = vec![0.0; n];
    order.iter().enumerate().for_each(|(r, i)| rank[*i] = r as f64 - (n - 1) as f64 / 2.0);
    let c0: f64 = rank.iter().map(|r| r * r).sum();
    let nf = n as f64;
    let mut sum = 0.0;
    for k in 1..n.min(60) {
        let rho = rank[k..].iter().zip(&rank).map(|(a, b)| a * b).sum::<f64>() / c0;
        if rho.abs() > 1.96 / nf.sqrt() {
            let m = nf - k as f64;
            sum += m * (m - 1.0) * (m - 2.0) * rho;
        }
    }
    let factor = (1.0 + 2.0 / (nf * (nf - 1.0) * (nf - 2.0)) * sum).max(0.05);
    s.abs() > 1.96 * (v * factor).sqrt() && drifts(slope)
}

/// Prometheus' least squares over the last six hours, true for an hour.
fn predict_linear(l: &[Level]) -> bool {
    let now = l[l.len() - 1].0;
    now >= 7.0
        && (0..=6).all(|back| {
            let until = now - f64::from(back) / 6.0;
            let window: Vec<Level> = l.iter().copied().filter(|x| x.0 <= until && x.0 > until - 6.0).collect();
            window.len() > 3 && drifts(fit(&window).0)
        })
}
