//! How long to wait before the next attempt: a pure function of how often it failed and of a seed.

/// Between which bounds to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure, milliseconds.
    pub first_ms: i64,
    /// At most, milliseconds.
    pub max_ms: i64,
}

impl Default for Backoff {
    /// A server that restarts is back in a few seconds, and an alert is urgent: 5 s at first. After an outage of any
    /// length mail should come soon after the server does: 5 min at most.
    fn default() -> Self {
        Backoff { first_ms: 5_000, max_ms: 300_000 }
    }
}

impl Backoff {
    /// Milliseconds to wait after the `attempts`-th failure (from 1): doubling from `first_ms` to `max_ms`, less a random
    /// part of up to half, so that the mailers of a hundred hosts do not come back at the same moment.
    #[must_use]
    pub fn wait_ms(self, attempts: u32, seed: u64) -> i64 {
        let doubled = self.first_ms.max(1).saturating_mul(1 << attempts.saturating_sub(1).min(32));
        let full = doubled.min(self.max_ms.max(1));
        let share = (mix(seed ^ u64::from(attempts).rotate_left(32)) >> 11) as f64 / (1u64 << 53) as f64;
        full - (full as f64 / 2.0 * share) as i64
    }
}

/// SplitMix64's finaliser: every bit of the seed reaches every bit of the result.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use proptest::prelude::*;

    #[test]
    fn doubles_up_to_five_minutes() {
        for (attempts, full) in [(1, 5_000), (2, 10_000), (3, 20_000), (6, 160_000), (7, 300_000), (u32::MAX, 300_000)]
        {
            for seed in 0..200 {
                let wait = Backoff::default().wait_ms(attempts, seed);
                assert!((full / 2..=full).contains(&wait), "attempt {attempts}, seed {seed}: {wait} ms of {full}");
            }
        }
    }

    #[test]
    fn a_hundred_hosts_spread_out() {
        let waits: std::collections::BTreeSet<i64> =
            (0..100).map(|seed| Backoff::default().wait_ms(7, seed) / 1_000).collect();
        assert!(waits.len() > 50, "100 seeds fall on {} different seconds", waits.len());
    }

    proptest! {
        #[test]
        fn bounded_and_repeatable(attempts in any::<u32>(), seed in any::<u64>()) {
            prop_assert!((2_500..=300_000).contains(&Backoff::default().wait_ms(attempts, seed)));
            prop_assert_eq!(Backoff::default().wait_ms(attempts, seed), Backoff::default().wait_ms(attempts, seed));
        }
    }
}
