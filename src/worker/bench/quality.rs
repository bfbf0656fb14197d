//! What a variant costs in precision: its next-token distributions beside those of the unquantised weights.
//!
//! The reference is a model's weights as floats: a file's, dequantised, or a synthetic shape's, drawn as floats. The
//! variant is the same weights quantised by this program. Both read the same tokens on the CPU, and at every position the
//! Kullback-Leibler divergence of the variant's distribution from the reference's is taken, in nats. On random weights
//! the figure orders the variants by precision; how much a real model suffers, only a real model's file can say.

use super::protocol::Answer;
use crate::engine::cpu::{CpuEngine, CpuOptions};
use crate::engine::weights::Model;
use crate::engine::{Engine, EngineError, Feed, Variant, greedy, synth};

/// Sequences that are read side by side.
const SEQUENCES: usize = 8;

/// Compares `variant` with the unquantised weights of `model` at `positions` positions.
pub fn compare(
    model: &str,
    variant: Variant,
    seed: u64,
    positions: usize,
    threads: usize,
) -> Result<Answer, EngineError> {
    let reference = Model::open_unquantised(model, seed)?;
    let quantised = reference.requantised(variant);
    let steps = positions.div_ceil(SEQUENCES).max(1);
    let options = CpuOptions { slots: SEQUENCES, context_tokens: steps.min(reference.arch.context_tokens), threads };
    let (mut a, mut b) = (CpuEngine::new(&reference, options)?, CpuEngine::new(&quantised, options)?);
    let vocab = reference.arch.vocab as u64;
    let (mut divergences, mut same) = (Vec::new(), 0_usize);
    let (mut nexts, mut last) = (Vec::new(), [0_u32; SEQUENCES]);
    for step in 0..options.context_tokens {
        // Half of the tokens are drawn, half are what the reference would say: neither noise alone nor a loop.
        let token = |slot: usize| {
            if step % 2 == 0 {
                (synth::mix(seed ^ ((step * SEQUENCES + slot) as u64)) % vocab) as u32
            } else {
                last[slot]
            }
        };
        let tokens: [[u32; 1]; SEQUENCES] = std::array::from_fn(|slot| [token(slot)]);
        let feeds: Vec<Feed<'_>> = (0..SEQUENCES).map(|slot| Feed { slot, tokens: &tokens[slot] }).collect();
        nexts.clear();
        a.step(&feeds, &mut nexts)?;
        b.step(&feeds, &mut nexts)?;
        for (slot, last) in last.iter_mut().enumerate() {
            let (expected, got) = (a.logits(slot)?, b.logits(slot)?);
            *last = greedy(&expected);
            same += usize::from(*last == greedy(&got));
            divergences.push(divergence(&expected, &got));
        }
    }
    let count = divergences.len();
    divergences.sort_by(f64::total_cmp);
    let (bits, weights) = quantised
        .tensors
        .iter()
        .filter(|tensor| tensor.rows > 1)
        .fold((0.0, 0.0), |(bits, all), t| (bits + t.bytes as f64 * 8.0, all + (t.cols * t.rows) as f64));
    Ok(Answer::Quality {
        kl_mean_nats: divergences.iter().sum::<f64>() / count as f64,
        kl_p95_nats: divergences[(count - 1) * 95 / 100],
        same_top_ratio: same as f64 / count as f64,
        bits_per_weight: bits / weights,
    })
}

/// Kullback-Leibler divergence of softmax(got) from softmax(expected), nats.
fn divergence(expected: &[f32], got: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(top) + logits.iter().map(|&x| f64::from(x - top).exp()).sum::<f64>().ln()
    };
    let (p, q) = (log_sum(expected), log_sum(got));
    let terms = expected.iter().zip(got).map(|(&x, &y)| {
        let log_p = f64::from(x) - p;
        log_p.exp() * (log_p - (f64::from(y) - q))
    });
    terms.sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_zero_for_equals_and_right_for_two_outcomes() {
        assert!(divergence(&[1.0, 2.0, 3.0], &[2.0, 3.0, 4.0]) < 1e-12, "a shift of all logits changes nothing");
        // p = (1/2, 1/2), q = (1/4, 3/4): ½ ln 2 + ½ ln ⅔.
        let expected = 0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
        assert!((divergence(&[0.0, 0.0], &[0.0, 3.0_f32.ln()]) - expected).abs() < 1e-6);
    }

    #[test]
    fn more_bits_are_more_precise() {
        let kl = |variant| match compare("synthetic:tiny", variant, 1, 16, 2).unwrap() {
            Answer::Quality { kl_mean_nats, .. } => kl_mean_nats,
            other => panic!("{other:?}"),
        };
        let [two, four, eight] = [Variant::Q2_K, Variant::Q4_K, Variant::Q8_0].map(kl);
        assert!(two > 2.0 * four && four > 2.0 * eight && eight < 0.01, "{two} {four} {eight}");
    }
}
