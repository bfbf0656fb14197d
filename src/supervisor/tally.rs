//! What is counted over a whole run: crashes, tokens, requests. Counting only; what it means is the verdict's business.

use super::core::CanaryState;
use super::event::ChildId;
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
    paces: BTreeMap<ChildId, Pace>,
}

impl Work {
    /// A worker counted this many more.
    pub fn add(&mut self, worker: ChildId, now: MonoMillis, tokens: i64, requests: i64) {
        self.tokens += tokens.max(0);
        self.requests += requests.max(0);
        self.paces.entry(worker).or_default().add(now, tokens.max(0));
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

    /// Tokens per second over the last ten seconds, all workers together; `None` before there are two readings of one.
    #[must_use]
    pub fn tokens_per_second(&self, now: MonoMillis) -> Option<f64> {
        self.paces.values().filter_map(|pace| pace.per_second(now)).reduce(|sum, rate| sum + rate)
    }
}

/// One worker's last readings: when, and tokens so far.
#[derive(Debug, Clone, Default)]
struct Pace {
    tokens: i64,
    readings: VecDeque<(MonoMillis, i64)>,
}

impl Pace {
    fn add(&mut self, now: MonoMillis, tokens: i64) {
        self.tokens += tokens;
        self.readings.push_back((now, self.tokens));
        while self.readings.front().is_some_and(|(at, _)| now.since(*at) > RATE_WINDOW_MS) {
            self.readings.pop_front();
        }
    }

    /// From the first reading to the last: what was done since the last is not known yet. A worker that is silent for longer than it
    /// was between any two readings has done nothing since.
    fn per_second(&self, now: MonoMillis) -> Option<f64> {
        let ((first, before), (last, tokens)) = (*self.readings.front()?, *self.readings.back()?);
        let between = self.readings.iter().zip(self.readings.iter().skip(1)).map(|((a, _), (b, _))| b.since(*a));
        let silent_ms = (now.since(last) - between.max()?).max(0);
        let span_ms = last.since(first) + silent_ms;
        (1_000..=2 * RATE_WINDOW_MS).contains(&span_ms).then(|| (tokens - before) as f64 * 1_000.0 / span_ms as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample::Role;

    const WORKER: ChildId = ChildId { role: Role::Worker, ordinal: 0 };

    #[test]
    fn a_rate_is_of_the_last_seconds_and_survives_a_restarted_worker() {
        let mut work = Work::default();
        assert_eq!(work.tokens_per_second(MonoMillis(0)), None, "nothing is known yet");
        for second in 0..60 {
            work.add(WORKER, MonoMillis(second * 1_000), if second < 30 { 10 } else { 50 }, 1);
        }
        assert_eq!(work.tokens_per_second(MonoMillis(59_000)), Some(50.0));
        assert_eq!(work.tokens(), 30 * 10 + 30 * 50);
        work.add(WORKER, MonoMillis(60_000), -500, -3);
        assert_eq!(work.tokens(), 30 * 10 + 30 * 50, "a count never falls");
        assert!(work.paces[&WORKER].readings.len() < 20, "bounded");
    }

    #[test]
    fn when_a_rate_is_asked_for_between_two_readings_does_not_change_it() {
        let mut work = Work::default();
        let other = ChildId { ordinal: 1, ..WORKER };
        for second in 0..20 {
            work.add(WORKER, MonoMillis(second * 1_000), 100, 1);
            work.add(other, MonoMillis(second * 1_000 + 3), 40, 1);
        }
        for later_ms in [3, 500, 999] {
            assert_eq!(work.tokens_per_second(MonoMillis(19_000 + later_ms)), Some(140.0), "{later_ms} ms later");
        }
        let slower = work.tokens_per_second(MonoMillis(25_000)).expect("still known");
        assert!(slower < 100.0, "{slower}: six silent seconds are no work");
        assert_eq!(work.tokens_per_second(MonoMillis(60_000)), None, "nobody has said anything for long");
    }
}
