//! Axes: round ticks and how figures are written. Pure arithmetic; who draws them is `plot`'s and `scene`'s business.

use chrono::{DateTime, Utc};

/// What an axis measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, written in kB, MB or GB (powers of ten).
    Bytes,
    /// Milliseconds.
    Millis,
    /// A plain number, such as tokens per second.
    Plain,
}

impl Unit {
    /// `value` as people read it, with `step` (the distance between ticks) deciding the digits.
    #[must_use]
    pub fn write(self, value: f64, step: f64) -> String {
        match self {
            Unit::Bytes => bytes_with_step(value, step),
            Unit::Millis => format!("{} ms", digits(value, step)),
            Unit::Plain => digits(value, step),
        }
    }

    /// The name that scripts in the report know it by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Millis => "ms",
            Unit::Plain => "plain",
        }
    }
}

fn digits(value: f64, step: f64) -> String {
    let places = if step > 0.0 { (-step.log10().floor()).clamp(0.0, 9.0) as usize } else { 2 };
    let text = format!("{value:.places$}");
    let sign = if text.chars().any(|c| ('1'..='9').contains(&c)) { "−" } else { "" };
    text.replace('-', sign)
}

fn bytes_with_step(value: f64, step: f64) -> String {
    let (unit, name) = match value.abs().max(step) {
        v if v >= 1e9 && step >= 1e6 => (1e9, "GB"),
        v if v >= 1e6 && step >= 1e3 => (1e6, "MB"),
        v if v >= 1e3 => (1e3, "kB"),
        _ => (1.0, "B"),
    };
    format!("{} {name}", digits(value / unit, step / unit))
}

/// Bytes with three significant digits: `12.4 MB`, `-310 kB`, `0 B`.
#[must_use]
pub fn bytes(value: f64) -> String {
    let magnitude = value.abs();
    let (unit, name) = match magnitude {
        v if v >= 0.9995e9 => (1e9, "GB"),
        v if v >= 0.9995e6 => (1e6, "MB"),
        v if v >= 0.9995e3 => (1e3, "kB"),
        _ => (1.0, "B"),
    };
    let scaled = magnitude / unit;
    let places = match scaled {
        _ if name == "B" => 0,
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    let sign =
        if value < 0.0 && format!("{scaled:.places$}").chars().any(|c| ('1'..='9').contains(&c)) { "−" } else { "" };
    format!("{sign}{scaled:.places$} {name}")
}

/// As [`bytes`], with a plus sign on what is positive.
#[must_use]
pub fn signed_bytes(value: f64) -> String {
    let text = bytes(value);
    let zero = !text.chars().any(|c| ('1'..='9').contains(&c));
    if zero || text.starts_with('−') { text } else { format!("+{text}") }
}

/// A count with its thousands set apart by narrow spaces that do not break: `15 897 542`.
#[must_use]
pub fn grouped(count: impl TryInto<u64>) -> String {
    let digits = count.try_into().unwrap_or(0).to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for (i, digit) in digits[first..].chars().enumerate() {
        if i % 3 == 0 && !text.is_empty() {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A duration as people say it: `47 h 12 min`, `3 min 20 s`, `12 s`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as i64;
    match s {
        s if s >= 3600 && (s + 30) / 60 % 60 == 0 => format!("{} h", (s + 30) / 3600),
        s if s >= 3600 => format!("{} h {} min", (s + 30) / 3600, (s + 30) / 60 % 60),
        s if s >= 60 && s % 60 == 0 => format!("{} min", s / 60),
        s if s >= 60 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}

/// `2026-11-24 03:05:00 UTC`; a moment that no calendar has is written as seconds.
#[must_use]
pub fn moment(unix_s: f64) -> String {
    stamp(unix_s, "%Y-%m-%d %H:%M:%S UTC")
}

/// `2026-11-24 03:05 UTC`, for what is not known to the second.
#[must_use]
pub fn minute(unix_s: f64) -> String {
    stamp((unix_s / 60.0).round() * 60.0, "%Y-%m-%d %H:%M UTC")
}

fn stamp(unix_s: f64, format: &str) -> String {
    DateTime::<Utc>::from_timestamp_millis((unix_s * 1e3).round() as i64)
        .map_or_else(|| format!("{unix_s:.0} s"), |t| t.format(format).to_string())
}

/// About `count` round values from `lo` to `hi`, and the step between them. The step is 1, 2 or 5 times a power of ten.
#[must_use]
pub fn ticks(lo: f64, hi: f64, count: usize) -> (Vec<f64>, f64) {
    let rough = (hi - lo) / count.max(1) as f64;
    if !rough.is_finite() || rough <= 0.0 {
        return (vec![lo], 1.0);
    }
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999).unwrap_or(power * 10.0);
    let first = (lo / step - 1e-9).ceil() as i64;
    let last = (hi / step + 1e-9).floor() as i64;
    ((first..=last).map(|i| i as f64 * step).collect(), step)
}

/// Round moments (UTC) from `from_s` to `to_s`, at most about `count`, each with its label. Midnight carries the date.
#[must_use]
pub fn time_ticks(from_s: f64, to_s: f64, count: usize) -> Vec<(f64, String)> {
    const STEPS_S: [f64; 26] = [
        1.0,
        2.0,
        5.0,
        10.0,
        15.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        900.0,
        1800.0,
        3600.0,
        7200.0,
        10800.0,
        14400.0,
        21600.0,
        43200.0,
        86400.0,
        172_800.0,
        604_800.0,
        2_592_000.0,
        7_776_000.0,
        31_536_000.0,
        157_680_000.0,
        788_400_000.0,
    ];
    let rough = (to_s - from_s) / count.max(1) as f64;
    let step = STEPS_S.into_iter().find(|s| *s >= rough).unwrap_or_else(|| rough.ceil());
    let (first, last) = ((from_s / step).ceil() as i64, (to_s / step).floor() as i64);
    let label = |t: f64| {
        let midnight = t.rem_euclid(86_400.0) == 0.0;
        stamp(
            t,
            if step >= 7_776_000.0 {
                "%b %Y"
            } else if midnight {
                "%b %-d"
            } else if step < 60.0 {
                "%H:%M:%S"
            } else {
                "%H:%M"
            },
        )
    };
    (first..=last).take(200).map(|i| i as f64 * step).map(|t| (t, label(t))).collect()
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // round numbers of a few digits are exact
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let cases = [
            (0.0, "0 B"),
            (-0.2, "0 B"),
            (999.0, "999 B"),
            (1234.0, "1.23 kB"),
            (-50e6, "−50.0 MB"),
            (999_900.0, "1.00 MB"),
            (13.4e9, "13.4 GB"),
        ];
        for (value, text) in cases {
            assert_eq!(bytes(value), text, "{value}");
        }
        assert_eq!(signed_bytes(12e6), "+12.0 MB");
        assert_eq!(signed_bytes(0.0), "0 B");
        assert_eq!(duration(172_800.0), "48 h");
        assert_eq!(duration(3_599.6), "1 h");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(moment(0.0), "1970-01-01 00:00:00 UTC");
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let (at, step) = ticks(-3.2e6, 51.0e6, 5);
        assert_eq!(step, 20e6);
        assert_eq!(at, vec![0.0, 20e6, 40e6]);
        assert_eq!(Unit::Bytes.write(40e6, step), "40 MB");
        assert_eq!(Unit::Bytes.write(1.2345e9, 1e5), "1234.5 MB");
        assert_eq!(Unit::Plain.write(-0.0, 1.0), "0");
        assert_eq!(ticks(5.0, 5.0, 4).0, vec![5.0]);
    }

    #[test]
    fn a_day_is_ticked_by_the_clock_and_midnight_carries_the_date() {
        let at = time_ticks(1_700_000_000.0, 1_700_000_000.0 + 86_400.0, 8);
        let labels: Vec<&str> = at.iter().map(|(_, l)| l.as_str()).collect();
        assert_eq!(labels, ["Nov 15", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00"]);
        assert!(at.iter().all(|(t, _)| t % 10_800.0 == 0.0));
        assert!(time_ticks(0.0, 1e12, 8).len() <= 200, "bounded however long the span");
    }
}
