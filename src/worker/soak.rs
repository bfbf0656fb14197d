//! The inference loop: prompts go round over all streams, each output is timed and compared with the golden one.
//!
//! [`Soak::turn`] is one step of the engine for every busy stream (a prompt for one that begins, one token for one that
//! goes on), so streams overlap as they do in a server. Any stream may run any prompt: the engine promises that a slot's
//! tokens do not depend on its company. Time comes in as a function, what happened goes out as messages; threads,
//! pipes and loading are left to `process`.

use super::latency::Latencies;
use super::prompts;
use super::protocol::{FromWorker, GoldenOutput, LatencyReport, LoadPlan, Mismatch};
use crate::engine::{Engine, EngineError, Feed, Next};
use crate::model::sample::{LatencyKind, WorkReading};

/// One prompt on its way through a stream.
#[derive(Debug)]
struct Request {
    prompt: u32,
    at_loop: i64,
    prompt_tokens: Vec<u32>,
    answer: Vec<u32>,
    hash: u64,
    started_us: i64,
    last_us: i64,
}

/// The loop's state. Bounded: one request a stream, one golden output a prompt.
#[derive(Debug)]
pub struct Soak {
    plan: LoadPlan,
    backend: String,
    prompts: Vec<Vec<u32>>,
    golden: Vec<Option<GoldenOutput>>,
    streams: Vec<Option<Request>>,
    started: i64,
    reading: WorkReading,
    latencies: Latencies,
    nexts: Vec<Next>,
    draining: bool,
    corrupt_next: bool,
}

impl Soak {
    /// A loop for `plan` on `backend`, whose model has `vocab` tokens.
    #[must_use]
    pub fn new(plan: LoadPlan, backend: &str, vocab: u32) -> Soak {
        let count = plan.prompts.max(1);
        let mut golden = vec![None; count as usize];
        for output in &plan.golden {
            if output.backend == backend && output.prompt < count {
                golden[output.prompt as usize] = Some(output.clone());
            }
        }
        Soak {
            prompts: (0..count).map(|index| prompts::prompt(&plan, vocab, index)).collect(),
            golden,
            streams: (0..plan.streams.max(1)).map(|_| None).collect(),
            started: 0,
            reading: WorkReading::default(),
            latencies: Latencies::default(),
            nexts: Vec::new(),
            draining: false,
            corrupt_next: false,
            backend: backend.to_owned(),
            plan,
        }
    }

    /// The counters so far.
    #[must_use]
    pub fn reading(&self) -> WorkReading {
        self.reading
    }

    /// Latencies of the interval that ends now.
    pub fn take_latencies(&mut self, interval_ms: i64) -> Vec<LatencyReport> {
        self.latencies.take(interval_ms)
    }

    /// Latencies of the interval so far.
    #[must_use]
    pub fn latencies_so_far(&self, interval_ms: i64) -> Vec<LatencyReport> {
        self.latencies.so_far(interval_ms)
    }

    /// From now on no stream begins a new prompt (`true`), or they do again (`false`).
    pub fn drain(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// True when no stream is busy.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.streams.iter().all(Option::is_none)
    }

    /// Damages one token of the next output: the comparison must see it.
    pub fn corrupt_next_output(&mut self) {
        self.corrupt_next = true;
    }

    /// One step of every busy stream. `now_us` is read before and after the engine's step.
    pub fn turn(
        &mut self,
        engine: &mut dyn Engine,
        now_us: &dyn Fn() -> i64,
        out: &mut Vec<FromWorker>,
    ) -> Result<(), EngineError> {
        self.begin_requests(engine, now_us());
        let feeds: Vec<Feed<'_>> = self
            .streams
            .iter()
            .enumerate()
            .filter_map(|(slot, stream)| {
                let request = stream.as_ref()?;
                let tokens = request.answer.last().map_or(request.prompt_tokens.as_slice(), std::slice::from_ref);
                Some(Feed { slot, tokens })
            })
            .collect();
        if feeds.is_empty() {
            return Ok(());
        }
        let fed = feeds.len();
        self.nexts.clear();
        engine.step(&feeds, &mut self.nexts)?;
        let now = now_us();
        let nexts = std::mem::take(&mut self.nexts);
        for next in &nexts {
            self.take_token(*next, now, out);
        }
        if nexts.len() < fed {
            self.drop_unanswered(&nexts, out);
        }
        self.nexts = nexts;
        let held = engine.held();
        self.reading.held_host_bytes = held.host_bytes as i64;
        self.reading.held_device_bytes = held.device_bytes.map(|bytes| bytes as i64);
        Ok(())
    }

    fn begin_requests(&mut self, engine: &mut dyn Engine, now: i64) {
        if self.draining {
            return;
        }
        let count = self.prompts.len() as i64;
        for slot in 0..self.streams.len() {
            if self.streams[slot].is_some() {
                continue;
            }
            let prompt = (self.started % count) as u32;
            engine.reset(slot);
            self.streams[slot] = Some(Request {
                prompt,
                at_loop: self.started / count,
                prompt_tokens: self.prompts[prompt as usize].clone(),
                answer: Vec::with_capacity(self.plan.answer_tokens as usize),
                hash: 0xcbf2_9ce4_8422_2325,
                started_us: now,
                last_us: now,
            });
            self.started += 1;
        }
    }

    fn take_token(&mut self, next: Next, now: i64, out: &mut Vec<FromWorker>) {
        let Some(request) = self.streams.get_mut(next.slot).and_then(Option::as_mut) else { return };
        if request.answer.is_empty() {
            self.reading.prompt_tokens += request.prompt_tokens.len() as i64;
            self.latencies.record(LatencyKind::FirstToken, now - request.started_us);
        } else {
            self.latencies.record(LatencyKind::Token, now - request.last_us);
        }
        request.last_us = now;
        // FNV-1a over the logits' hashes: order matters, and a flipped bit anywhere changes it.
        request.hash = (request.hash ^ next.logits_hash).wrapping_mul(0x0000_0100_0000_01b3);
        request.answer.push(next.token);
        self.reading.tokens += 1;
        if request.answer.len() >= self.plan.answer_tokens.max(1) as usize {
            self.finish_request(next.slot, now, out);
        }
    }

    fn finish_request(&mut self, stream: usize, now: i64, out: &mut Vec<FromWorker>) {
        let Some(mut request) = self.streams[stream].take() else { return };
        self.latencies.record(LatencyKind::Request, now - request.started_us);
        self.reading.requests += 1;
        self.reading.loops = self.reading.requests / self.prompts.len() as i64;
        let golden = &mut self.golden[request.prompt as usize];
        if self.corrupt_next && golden.is_some() {
            self.corrupt_next = false;
            request.answer[0] ^= 1;
        }
        match golden {
            None => {
                let output = GoldenOutput {
                    backend: self.backend.clone(),
                    prompt: request.prompt,
                    tokens: request.answer,
                    hash: request.hash,
                };
                *golden = Some(output.clone());
                out.push(FromWorker::Golden(output));
            }
            Some(golden) if golden.tokens != request.answer || golden.hash != request.hash => {
                self.reading.golden_mismatches += 1;
                out.push(FromWorker::Mismatch(mismatch(golden, &request, stream)));
            }
            Some(_) => {}
        }
    }

    /// A stream that was fed and got no token back is reported and begins another prompt.
    fn drop_unanswered(&mut self, nexts: &[Next], out: &mut Vec<FromWorker>) {
        for (stream, request) in self.streams.iter_mut().enumerate() {
            if nexts.iter().any(|next| next.slot == stream) {
                continue;
            }
            if let Some(request) = request.take() {
                out.push(FromWorker::Empty { prompt: request.prompt, stream });
            }
        }
    }
}

fn mismatch(golden: &GoldenOutput, request: &Request, stream: usize) -> Mismatch {
    let longest = golden.tokens.len().max(request.answer.len());
    let at = (0..longest).find(|&i| golden.tokens.get(i) != request.answer.get(i));
    Mismatch {
        prompt: request.prompt,
        stream,
        at_loop: request.at_loop,
        at_token: at.map(|i| i as u32),
        expected: at.and_then(|i| golden.tokens.get(i).copied()),
        got: at.and_then(|i| request.answer.get(i).copied()),
        expected_hash: golden.hash,
        got_hash: request.hash,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::{Held, ModelFacts};
    use crate::worker::protocol::Scenario;
    use std::cell::Cell;

    pub(crate) fn plan(streams: usize) -> LoadPlan {
        LoadPlan {
            backend: "cpu".into(),
            fallback_to_cpu: false,
            model: "synthetic:test".into(),
            variant: "q4_k".into(),
            streams,
            context_tokens: 128,
            threads: 1,
            device: 0,
            seed: 7,
            prompts: 5,
            prompt_tokens: 16,
            answer_tokens: 4,
            scenario: Scenario::Steady,
            beat_ms: 100,
            golden: vec![],
            target: None,
        }
    }

    /// An engine by script: its next token is a hash of all that a slot was fed, or what a fault makes of it.
    pub(crate) struct Scripted {
        facts: ModelFacts,
        state: Vec<u64>,
        pub(crate) flip_bit_at_step: Option<u64>,
        pub(crate) mute_slot: Option<usize>,
        pub(crate) fail_at_step: Option<u64>,
        steps: u64,
    }

    impl Scripted {
        pub(crate) fn new(slots: usize) -> Scripted {
            let facts = ModelFacts {
                name: "scripted".into(),
                vocab: 1000,
                layers: 1,
                width: 1,
                context_tokens: 128,
                weight_bytes_per_token: 1,
                weight_bytes: 1,
                types: "F32: 1".into(),
                kernel: "none".into(),
            };
            Scripted {
                facts,
                state: vec![0; slots],
                flip_bit_at_step: None,
                mute_slot: None,
                fail_at_step: None,
                steps: 0,
            }
        }
    }

    impl Engine for Scripted {
        fn facts(&self) -> &ModelFacts {
            &self.facts
        }
        fn slots(&self) -> usize {
            self.state.len()
        }
        fn held(&self) -> Held {
            Held { host_bytes: 4096, device_bytes: None }
        }
        fn step(&mut self, batch: &[Feed<'_>], out: &mut Vec<Next>) -> Result<(), EngineError> {
            self.steps += 1;
            if self.fail_at_step == Some(self.steps) {
                let (operation, name) = ("a step".to_owned(), "by script".to_owned());
                return Err(EngineError::Device { operation, code: 700, name });
            }
            for feed in batch {
                let state = &mut self.state[feed.slot];
                for &token in feed.tokens {
                    assert!(token < self.facts.vocab);
                    *state = (*state ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
                }
                let flipped = u64::from(self.flip_bit_at_step == Some(self.steps)) << 3;
                if self.mute_slot != Some(feed.slot) {
                    let token = (*state % 1000) as u32;
                    out.push(Next { slot: feed.slot, token, logits_hash: *state ^ flipped });
                }
            }
            Ok(())
        }
        fn reset(&mut self, slot: usize) {
            self.state[slot] = 0;
        }
        fn logits(&mut self, _slot: usize) -> Result<Vec<f32>, EngineError> {
            Ok(vec![])
        }
    }

    fn turns(soak: &mut Soak, engine: &mut Scripted, turns: usize) -> Vec<FromWorker> {
        let (clock, mut out) = (Cell::new(0), Vec::new());
        let now = || {
            clock.set(clock.get() + 500);
            clock.get()
        };
        for _ in 0..turns {
            soak.turn(engine, &now, &mut out).expect("the scripted engine does not fail");
        }
        out
    }

    #[test]
    fn every_prompt_gets_one_golden_output_and_then_silence() {
        for streams in [1, 2, 3, 7] {
            let (mut soak, mut engine) = (Soak::new(plan(streams), "cpu", 1000), Scripted::new(streams));
            let out = turns(&mut soak, &mut engine, 200);
            let prompts: Vec<u32> =
                out.iter().map(|m| if let FromWorker::Golden(g) = m { g.prompt } else { panic!("{m:?}") }).collect();
            assert_eq!(prompts, vec![0, 1, 2, 3, 4], "{streams} streams");
            let reading = soak.reading();
            assert_eq!(reading.tokens, 200 * streams as i64, "one token a stream and turn");
            assert_eq!(reading.requests, 50 * streams as i64);
            assert_eq!(reading.loops, reading.requests / 5);
            assert_eq!(reading.held_host_bytes, 4096);
            assert_eq!(reading.held_device_bytes, None, "absent is not zero");
        }
    }

    #[test]
    fn golden_outputs_survive_a_restart_and_do_not_depend_on_the_number_of_streams() {
        let record = |streams| {
            let (mut soak, mut engine) = (Soak::new(plan(streams), "cpu", 1000), Scripted::new(streams));
            turns(&mut soak, &mut engine, 100)
        };
        assert_eq!(record(1), record(3));
        let golden = record(1).into_iter().map(|m| if let FromWorker::Golden(g) = m { g } else { panic!("{m:?}") });
        let again = LoadPlan { golden: golden.collect(), ..plan(2) };
        let (mut soak, mut engine) = (Soak::new(again, "cpu", 1000), Scripted::new(2));
        assert_eq!(turns(&mut soak, &mut engine, 100), vec![], "nothing to record, nothing to complain of");
    }

    #[test]
    fn a_flipped_bit_in_the_logits_is_reported_even_if_the_token_is_the_same() {
        let (mut soak, mut engine) = (Soak::new(plan(1), "cpu", 1000), Scripted::new(1));
        engine.flip_bit_at_step = Some(30);
        let out = turns(&mut soak, &mut engine, 100);
        let found: Vec<&Mismatch> =
            out.iter().filter_map(|m| if let FromWorker::Mismatch(m) = m { Some(m) } else { None }).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].at_token, found[0].expected), (None, None), "only the logits differ");
        assert_ne!(found[0].expected_hash, found[0].got_hash);
        assert_eq!(soak.reading().golden_mismatches, 1);
    }

    #[test]
    fn a_corrupted_token_is_named_with_what_it_should_have_been() {
        let (mut soak, mut engine) = (Soak::new(plan(1), "cpu", 1000), Scripted::new(1));
        turns(&mut soak, &mut engine, 20);
        soak.corrupt_next_output();
        let out = turns(&mut soak, &mut engine, 20);
        let [FromWorker::Mismatch(found)] = out.as_slice() else { panic!("one mismatch: {out:?}") };
        assert_eq!(found.at_token, Some(0));
        assert_ne!(found.expected, found.got);
    }

    #[test]
    fn a_stream_without_an_answer_is_reported_and_goes_on() {
        let (mut soak, mut engine) = (Soak::new(plan(2), "cpu", 1000), Scripted::new(2));
        engine.mute_slot = Some(1);
        let out = turns(&mut soak, &mut engine, 1);
        assert_eq!(out, vec![FromWorker::Empty { prompt: 1, stream: 1 }]);
        engine.mute_slot = None;
        turns(&mut soak, &mut engine, 100);
        assert!(soak.reading().requests > 40, "both streams work again");
    }

    #[test]
    fn draining_ends_in_idleness_and_work_goes_on_after_it() {
        let (mut soak, mut engine) = (Soak::new(plan(3), "cpu", 1000), Scripted::new(3));
        turns(&mut soak, &mut engine, 2);
        soak.drain(true);
        turns(&mut soak, &mut engine, 2);
        assert!(soak.is_idle());
        let tokens = soak.reading().tokens;
        turns(&mut soak, &mut engine, 5);
        assert_eq!(soak.reading().tokens, tokens, "idle");
        soak.drain(false);
        turns(&mut soak, &mut engine, 1);
        assert_eq!(soak.reading().tokens, tokens + 3);
    }
}
