//! A stream's bits depend on nothing but its own tokens: not on the batch, the threads, or how a prompt is cut.

use proptest::prelude::*;
use soakd::engine::{Engine, EngineError, Feed, LoadOptions, Next, Variant, load};

fn tiny(slots: usize, threads: usize, variant: Variant) -> Box<dyn Engine> {
    let model = "synthetic:tiny".into();
    load(&LoadOptions { model, slots, threads, variant, context_tokens: Some(96), ..LoadOptions::default() }).unwrap()
}

fn step(engine: &mut dyn Engine, batch: &[Feed<'_>]) -> Vec<Next> {
    let mut out = Vec::new();
    engine.step(batch, &mut out).unwrap();
    out
}

/// One stream by itself: a prompt, then `decoded` greedy tokens.
fn alone(prompt: &[u32], decoded: usize, variant: Variant) -> Vec<(u32, u64)> {
    let mut engine = tiny(1, 1, variant);
    let mut tokens = prompt.to_vec();
    (0..=decoded)
        .map(|_| {
            let next = step(&mut *engine, &[Feed { slot: 0, tokens: &tokens }])[0];
            tokens = vec![next.token];
            (next.token, next.logits_hash)
        })
        .collect()
}

#[test]
fn streams_that_join_and_leave_keep_their_bits() {
    for variant in [Variant::Q4_K, Variant::Hybrid] {
        let prompts: [&[u32]; 4] = [&[1, 2, 3], &[500], &[7; 40], &[9, 8, 7, 6, 5]];
        let starts = [0, 3, 1, 5]; // stream s joins at this step
        let expected: Vec<_> = prompts.iter().map(|prompt| alone(prompt, 8, variant)).collect();
        for threads in [1, 3] {
            let mut engine = tiny(4, threads, variant);
            let mut seen = vec![Vec::new(); 4];
            let mut pending: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
            for now in 0..14 {
                let busy: Vec<usize> = (0..4).filter(|&s| starts[s] <= now && seen[s].len() < 9).collect();
                // Every other step the streams are fed in the opposite order.
                let order: Vec<usize> = if now % 2 == 0 { busy } else { busy.into_iter().rev().collect() };
                let batch: Vec<Feed<'_>> = order.iter().map(|&slot| Feed { slot, tokens: &pending[slot] }).collect();
                for next in step(&mut *engine, &batch) {
                    seen[next.slot].push((next.token, next.logits_hash));
                    pending[next.slot] = vec![next.token];
                }
            }
            assert_eq!(seen, expected, "{variant}, {threads} threads");
        }
    }
}

#[test]
fn a_reset_stream_starts_afresh() {
    let mut engine = tiny(2, 2, Variant::Q4_K);
    let first = step(&mut *engine, &[Feed { slot: 1, tokens: &[3, 1, 4] }]);
    step(&mut *engine, &[Feed { slot: 1, tokens: &[1, 5] }]);
    engine.reset(1);
    assert_eq!(step(&mut *engine, &[Feed { slot: 1, tokens: &[3, 1, 4] }]), first);
}

#[test]
fn requests_that_cannot_be_are_refused_and_change_nothing() {
    let mut engine = tiny(2, 1, Variant::Q4_K);
    let before = step(&mut *engine, &[Feed { slot: 0, tokens: &[1, 2] }]);
    let long = [1; 95];
    let cases: [(&[Feed<'_>], &str); 5] = [
        (&[Feed { slot: 2, tokens: &[1] }], "stream 2 of 2"),
        (&[Feed { slot: 0, tokens: &[1] }, Feed { slot: 0, tokens: &[1] }], "fed twice"),
        (&[Feed { slot: 1, tokens: &[] }], "no token"),
        (&[Feed { slot: 1, tokens: &[512] }], "vocabulary of 512"),
        (&[Feed { slot: 0, tokens: &long }], "context of 96"),
    ];
    for (batch, expected) in cases {
        let mut out = Vec::new();
        let error = engine.step(batch, &mut out).unwrap_err();
        assert!(matches!(&error, EngineError::Request(message) if message.contains(expected)), "{error}");
        assert!(out.is_empty());
    }
    engine.reset(0);
    assert_eq!(step(&mut *engine, &[Feed { slot: 0, tokens: &[1, 2] }]), before);
}

#[test]
fn what_it_holds_does_not_grow() {
    let mut engine = tiny(2, 2, Variant::Q6_K);
    let held = engine.held();
    for _ in 0..3 {
        step(&mut *engine, &[Feed { slot: 0, tokens: &[1; 90] }, Feed { slot: 1, tokens: &[2; 90] }]);
        engine.reset(0);
        engine.reset(1);
    }
    assert_eq!(engine.held(), held);
    assert!(held.host_bytes > engine.facts().weight_bytes && held.device_bytes.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// A prompt at once, or in two parts, or token by token: the same bits.
    #[test]
    fn how_a_prompt_is_cut_changes_nothing(tokens in prop::collection::vec(0_u32..512, 2..45), cut in 1_usize..44) {
        let cut = cut.min(tokens.len() - 1);
        let mut engine = tiny(2, 2, Variant::Q5_K_M);
        let whole = step(&mut *engine, &[Feed { slot: 0, tokens: &tokens }])[0];
        step(&mut *engine, &[Feed { slot: 1, tokens: &tokens[..cut] }]);
        let parts = step(&mut *engine, &[Feed { slot: 1, tokens: &tokens[cut..] }])[0];
        prop_assert_eq!((whole.token, whole.logits_hash), (parts.token, parts.logits_hash));
    }
}
