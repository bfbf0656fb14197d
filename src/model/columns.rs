//! Thins a series to one column per pixel (or per minute): smallest, largest and median sample, so that a spike of one
//! second is still seen in a picture of 48 hours. Where samples come from is the store's business.

use serde::{Deserialize, Serialize};

/// Samples of one column of the picture. A column never mixes two incarnations of a process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Mean time of the samples in it, seconds since the epoch.
    pub unix_s: f64,
    /// Smallest.
    pub min: f64,
    /// Median (the lower one of an even number).
    pub median: f64,
    /// Largest.
    pub max: f64,
    /// How many samples it stands for.
    pub count: u32,
    /// Which incarnation.
    pub segment: u32,
}

/// Takes samples in order of time and gives columns of a fixed width. Holds one column's samples at a time.
#[derive(Debug)]
pub struct Thinner {
    from_s: f64,
    width_s: f64,
    open: Option<(i64, u32)>,
    seconds_sum: f64,
    values: Vec<f64>,
    columns: Vec<Column>,
}

impl Thinner {
    /// Columns of `width_s` seconds (at least a millisecond), the first of which starts at `from_s`.
    #[must_use]
    pub fn new(from_s: f64, width_s: f64) -> Self {
        Thinner {
            from_s,
            width_s: width_s.max(0.001),
            open: None,
            seconds_sum: 0.0,
            values: Vec::new(),
            columns: Vec::new(),
        }
    }

    /// One sample. What is not finite is not a sample.
    pub fn push(&mut self, unix_s: f64, value: f64, segment: u32) {
        if !(unix_s.is_finite() && value.is_finite()) {
            return;
        }
        let slot = (((unix_s - self.from_s) / self.width_s).floor() as i64, segment);
        if self.open != Some(slot) {
            self.close();
            self.open = Some(slot);
        }
        self.seconds_sum += unix_s - self.from_s;
        self.values.push(value);
    }

    /// The columns, in order of time.
    #[must_use]
    pub fn finish(mut self) -> Vec<Column> {
        self.close();
        self.columns
    }

    fn close(&mut self) {
        let (Some((_, segment)), count @ 1..) = (self.open, self.values.len()) else { return };
        let middle = (count - 1) / 2;
        let (_, median, _) = self.values.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        let (min, max) = self.values.iter().fold((median, median), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let unix_s = self.from_s + self.seconds_sum / count as f64;
        self.columns.push(Column { unix_s, min, median, max, count: count as u32, segment });
        self.values.clear();
        self.seconds_sum = 0.0;
    }
}

/// Thins `(unix_s, value, segment)` samples to at most about `columns_max` columns over their own span.
pub fn thin(samples: impl Iterator<Item = (f64, f64, u32)> + Clone, columns_max: usize) -> Vec<Column> {
    let (from, to) =
        samples.clone().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), (t, _, _)| (lo.min(t), hi.max(t)));
    if from > to {
        return Vec::new();
    }
    let mut thinner = Thinner::new(from, (to - from) * (1.0 + 1e-9) / columns_max.max(1) as f64);
    samples.for_each(|(t, v, segment)| thinner.push(t, v, segment));
    thinner.finish()
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // samples are copied, never computed: they stay equal to the bit
mod tests {
    use super::*;

    #[test]
    fn a_spike_of_one_sample_survives_and_segments_do_not_mix() {
        let samples = (0..10_000).map(|i| {
            let value = if i == 4_321 { 900.0 } else { f64::from(i % 3) };
            (f64::from(i), value, u32::from(i >= 5_000))
        });
        let columns = thin(samples, 100);
        assert!(columns.len() <= 102, "{} columns", columns.len());
        assert_eq!(columns.iter().map(|c| c.count).sum::<u32>(), 10_000);
        assert_eq!(columns.iter().map(|c| c.max).fold(0.0, f64::max), 900.0);
        assert!(columns.iter().all(|c| c.median == 1.0), "the median ignores the spike");
        assert!(columns.iter().all(|c| c.segment == u32::from(c.unix_s >= 5_000.0)));
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(thin(std::iter::empty(), 10).is_empty());
        let mut thinner = Thinner::new(0.0, 1.0);
        thinner.push(0.0, f64::NAN, 0);
        assert!(thinner.finish().is_empty());
        assert_eq!(thin(std::iter::once((5.0, 7.0, 1)), 10).len(), 1);
    }
}
