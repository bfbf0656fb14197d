//! What is counted over a whole run: crashes, tokens, requests. Counting only; what it means is the verdict's business.

use super::core::CanaryState;
use crate::model::event::EventKind;
use crate::model::time::MonoMillis;
use std::collections::{BTreeMap, VecDeque};

/// Throughput is stated over this long: shorter jumps about, longer hides that a worker just stopped.
const RATE_WINDOW_MS: i64 = 10_000;

/// Counts of a run so far, earlier lives of the supervisor included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    by_kind: BTreeMap<EventKind, i64>,
}

impl Counts {
    /// One more of `kind`.
    pub fn add(&mut self, kind: EventKind) {
        self.add_many(kind, 1);
    }

    /// `n` more of `kind`, from an earlier life.
    pub fn add_many(&mut self, kind: EventKind, n: i64) {
        *self.by_kind.entry(kind).or_default() += n;
    }

    /// What became of the canary, if an event says so.
    #[must_use]
    pub fn canary(&self) -> Option<CanaryState> {
        let seen = |kind| self.of(&[kind]) > 0;
        let missed = seen(EventKind::CanaryMissed).then_some(CanaryState::Missed);
        seen(EventKind::CanaryFound).then_some(CanaryState::Found).or(missed)
    }

    fn of(&self, kinds: &[EventKind]) -> i64 {
        kinds.iter().filter_map(|kind| self.by_kind.get(kind)).sum()
    }

    /// Workers that died unasked, OOM kills included.
    #[must_use]
    pub fn crashes(&self) -> i64 {
        self.of(&[EventKind::WorkerCrash, EventKind::WorkerOom])
    }

    /// Workers that made no progress and were killed.
    #[must_use]
    pub fn hangs(&self) -> i64 {
        self.of(&[EventKind::WorkerHang])
    }

    /// Outputs that differed from the golden ones, and outputs that were not there.
    #[must_use]
    pub fn mismatches(&self) -> i64 {
        self.of(&[EventKind::GoldenMismatch, EventKind::EmptyOutput])
    }
}

/// Tokens and requests over all workers and incarnations since this supervisor began.
#[derive(Debug, Clone, Default)]
pub struct Work {
    tokens: i64,
    requests: i64,
    window: VecDeque<(MonoMillis, i64)>,
}

impl Work {
    /// A worker counted this many more.
    pub fn add(&mut self, now: MonoMillis, tokens: i64, requests: i64) {
        self.tokens += tokens.max(0);
        self.requests += requests.max(0);
        self.window.push_back((now, self.tokens));
        while self.window.front().is_some_and(|(at, _)| now.since(*at) > RATE_WINDOW_MS) {
            self.window.pop_front();
        }
    }

    /// Tokens so far.
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.tokens
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> i64 {
        self.requests
    }

    /// Tokens per second over the last ten seconds; `None` before there are two readings.
    #[must_use]
    pub fn tokens_per_second(&self, now: MonoMillis) -> Option<f64> {
        let (first, tokens) = self.window.front().copied()?;
        let span = now.since(first);
        (1_000..=2 * RATE_WINDOW_MS).contains(&span).then(|| (self.tokens - tokens) as f64 * 1_000.0 / span as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_seconds_and_survives_a_restarted_worker() {
        let mut work = Work::default();
        assert_eq!(work.tokens_per_second(MonoMillis(0)), None, "nothing is known yet");
        for second in 0..60 {
            work.add(MonoMillis(second * 1_000), if second < 30 { 10 } else { 50 }, 1);
        }
        assert_eq!(work.tokens_per_second(MonoMillis(59_000)), Some(50.0));
        assert_eq!(work.tokens(), 30 * 10 + 30 * 50);
        work.add(MonoMillis(60_000), -500, -3);
        assert_eq!(work.tokens(), 30 * 10 + 30 * 50, "a count never falls");
        assert!(work.window.len() < 20, "bounded");
    }
}
