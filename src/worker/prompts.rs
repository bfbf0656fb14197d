//! The prompts of a run: token ids drawn from a seed, so that every loop, restart and machine asks the same.

use super::protocol::LoadPlan;

/// Prompt number `index`: between a quarter and all of `prompt_tokens` tokens, each below `vocab`.
#[must_use]
pub fn prompt(plan: &LoadPlan, vocab: u32, index: u32) -> Vec<u32> {
    let mut state = plan.seed ^ (u64::from(index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let longest = plan.prompt_tokens.max(1);
    let shortest = (longest / 4).max(1);
    let length = shortest + (split_mix(&mut state) % u64::from(longest - shortest + 1)) as u32;
    // The lowest ids are control tokens in every vocabulary that we know of; a tiny vocabulary has no room to be choosy.
    let (first, choices) = if vocab > 512 { (256, vocab - 256) } else { (0, vocab.max(1)) };
    (0..length).map(|_| first + (split_mix(&mut state) % u64::from(choices)) as u32).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): the next value.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::soak::tests::plan;

    #[test]
    fn prompts_are_in_range_differ_and_repeat() {
        let plan = plan(2);
        for vocab in [1, 7, 300, 32_000] {
            for index in 0..50 {
                let tokens = prompt(&plan, vocab, index);
                assert!((plan.prompt_tokens / 4..=plan.prompt_tokens).contains(&(tokens.len() as u32)));
                assert!(tokens.iter().all(|&t| t < vocab), "vocabulary of {vocab}");
                assert_eq!(tokens, prompt(&plan, vocab, index), "the same every time");
            }
        }
        assert_ne!(prompt(&plan, 32_000, 0), prompt(&plan, 32_000, 1));
    }
}
