//! Latencies of one interval in HDR histograms, and their report. Memory is bounded whatever is recorded.

use super::protocol::LatencyReport;
use crate::model::sample::LatencyKind;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};

/// Longest latency told apart, microseconds: an hour. What is longer counts as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Two significant digits: 1 % of a latency, and a histogram of 30 kB rather than 200.
const SIGNIFICANT_DIGITS: u8 = 2;

/// The three histograms of the present interval.
#[derive(Debug)]
pub struct Latencies {
    token: Histogram<u64>,
    first_token: Histogram<u64>,
    request: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        let new = || {
            Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS).expect("the constant bounds are valid")
        };
        Latencies { token: new(), first_token: new(), request: new() }
    }
}

impl Latencies {
    /// Records one latency.
    pub fn record(&mut self, kind: LatencyKind, micros: i64) {
        let histogram = match kind {
            LatencyKind::Token => &mut self.token,
            LatencyKind::FirstToken => &mut self.first_token,
            LatencyKind::Request => &mut self.request,
        };
        histogram.saturating_record(micros.max(1) as u64);
    }

    /// Reports what was recorded in the last `interval_ms` and starts afresh.
    pub fn take(&mut self, interval_ms: i64) -> Vec<LatencyReport> {
        let reports = self.so_far(interval_ms);
        [&mut self.token, &mut self.first_token, &mut self.request].into_iter().for_each(Histogram::reset);
        reports
    }

    /// Reports what was recorded in the last `interval_ms`, and goes on.
    #[must_use]
    pub fn so_far(&self, interval_ms: i64) -> Vec<LatencyReport> {
        let kinds = [
            (LatencyKind::Token, &self.token),
            (LatencyKind::FirstToken, &self.first_token),
            (LatencyKind::Request, &self.request),
        ];
        let mut reports = Vec::new();
        for (kind, histogram) in kinds {
            if histogram.is_empty() {
                continue;
            }
            let mut bytes = Vec::new();
            V2Serializer::new().serialize(histogram, &mut bytes).expect("a Vec takes every write");
            reports.push(LatencyReport {
                kind,
                interval_ms,
                count: histogram.len(),
                p50_us: histogram.value_at_quantile(0.50),
                p95_us: histogram.value_at_quantile(0.95),
                p99_us: histogram.value_at_quantile(0.99),
                max_us: histogram.max(),
                histogram: bytes,
            });
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_histogram_agree() {
        let mut latencies = Latencies::default();
        for micros in 1..=10_000 {
            latencies.record(LatencyKind::Token, micros);
        }
        let so_far = latencies.so_far(60_000);
        let reports = latencies.take(60_000);
        assert_eq!(reports.len(), 1, "kinds without values are not reported");
        assert_eq!(so_far, reports, "what was told in between is not gone");
        let report = &reports[0];
        assert_eq!(report.count, 10_000);
        assert!((4_950..=5_050).contains(&report.p50_us), "median {} of 1..=10000", report.p50_us);
        assert!((9_800..=10_000).contains(&report.p99_us), "p99 {} of 1..=10000", report.p99_us);
        let read: Histogram<u64> = hdrhistogram::serialization::Deserializer::new()
            .deserialize(&mut report.histogram.as_slice())
            .expect("V2 reads back");
        assert_eq!(read.value_at_quantile(0.95), report.p95_us);
        assert!(latencies.take(1).is_empty(), "taken once");
    }

    #[test]
    fn what_is_out_of_range_is_kept_at_its_end() {
        let mut latencies = Latencies::default();
        latencies.record(LatencyKind::Request, -5);
        latencies.record(LatencyKind::Request, i64::MAX);
        assert_eq!(latencies.take(1)[0].count, 2);
    }
}
