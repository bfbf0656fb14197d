//! Requests through an engine: closed loop, or open loop with arrivals that wait for nobody.
//!
//! In an open loop requests arrive when a Poisson process says so, whether or not a stream is free; what waits, waits in
//! a queue, and its latency counts from its arrival. So a stall is felt by every request that would have arrived in it,
//! as by real users, and not only by the one that was being served (coordinated omission). Time is read through a
//! function, so that tests can hold the clock.

use super::protocol::{Load, Measured};
use crate::engine::{Engine, EngineError, Feed, Next};
use std::collections::VecDeque;

/// A clock that can be waited on.
pub trait Clock {
    /// Microseconds from any origin.
    fn now_us(&self) -> i64;
    /// Returns at that time, or a little later.
    fn wait_until(&self, us: i64);
}

/// The machine's clock.
pub struct RealClock;

impl Clock for RealClock {
    fn now_us(&self) -> i64 {
        crate::clock::micros()
    }

    fn wait_until(&self, us: i64) {
        let left = us - self.now_us();
        if left > 0 {
            std::thread::sleep(std::time::Duration::from_micros(left as u64));
        }
    }
}

/// A request on its way.
struct Request {
    arrived_us: i64,
    last_us: i64,
    prompt: Vec<u32>,
    answered: usize,
    last_token: u32,
    warm_up: bool,
}

/// Requests to come, those that wait, and those under way.
struct Desk<'a> {
    load: &'a Load,
    vocab: u32,
    random: u64,
    /// Arrival of the next request; open loop only.
    next_arrival_us: i64,
    created: usize,
    queue: VecDeque<Request>,
    streams: Vec<Option<Request>>,
    measured: Measured,
    /// When the first counted request arrived.
    began_us: Option<i64>,
}

/// Uniform on (0, 1].
fn uniform(random: &mut u64) -> f64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / 9_007_199_254_740_992.0 + f64::EPSILON / 2.0
}

impl Desk<'_> {
    fn total(&self) -> usize {
        self.load.requests + self.load.warm_up_requests
    }

    fn create(&mut self, arrived_us: i64) -> Request {
        let longest = self.load.prompt_tokens.max(1);
        let length = longest / 2 + (uniform(&mut self.random) * (longest - longest / 2) as f64) as usize;
        let token = |random: &mut u64| (uniform(random) * f64::from(self.vocab)) as u32 % self.vocab;
        let prompt = (0..length.clamp(1, longest)).map(|_| token(&mut self.random)).collect();
        let warm_up = self.created < self.load.warm_up_requests;
        self.created += 1;
        if !warm_up && self.began_us.is_none() {
            self.began_us = Some(arrived_us);
        }
        Request { arrived_us, last_us: arrived_us, prompt, answered: 0, last_token: 0, warm_up }
    }

    /// Lets everything arrive that is due, and gives free streams their next request.
    fn admit(&mut self, engine: &mut dyn Engine, now: i64) {
        if let Some(rate) = self.load.arrivals_per_s {
            while self.created < self.total() && self.next_arrival_us <= now {
                let request = self.create(self.next_arrival_us);
                self.queue.push_back(request);
                self.next_arrival_us += (-uniform(&mut self.random).ln() / rate * 1e6) as i64;
            }
        }
        for slot in 0..self.streams.len() {
            if self.streams[slot].is_some() {
                continue;
            }
            let closed = self.load.arrivals_per_s.is_none() && self.created < self.total();
            let request = if closed { Some(self.create(now)) } else { self.queue.pop_front() };
            if let Some(request) = request {
                engine.reset(slot);
                self.streams[slot] = Some(request);
            }
        }
    }

    /// Books a token.
    fn take(&mut self, next: Next, now: i64) {
        let Some(request) = self.streams[next.slot].as_mut() else { return };
        let since = |from: i64| u32::try_from(now - from).unwrap_or(u32::MAX);
        if !request.warm_up {
            if request.answered == 0 {
                self.measured.first_token_us.push(since(request.arrived_us));
            } else {
                self.measured.token_us.push(since(request.last_us));
            }
            self.measured.tokens += 1;
            self.measured.stream_tokens[next.slot] += 1;
        }
        request.answered += 1;
        request.last_us = now;
        request.last_token = next.token;
        if request.answered >= self.load.answer_tokens.max(1) {
            self.measured.requests += u64::from(!request.warm_up);
            self.streams[next.slot] = None;
        }
    }
}

/// Carries out a load. `seed` and the repetition decide prompts and arrivals.
pub fn serve(engine: &mut dyn Engine, load: &Load, seed: u64, clock: &dyn Clock) -> Result<Measured, EngineError> {
    let start = clock.now_us();
    let streams = load.streams.clamp(1, engine.slots());
    let mut desk = Desk {
        load,
        vocab: engine.facts().vocab,
        random: seed ^ load.repetition.wrapping_mul(0xd134_2543_de82_ef95),
        next_arrival_us: start,
        created: 0,
        queue: VecDeque::new(),
        streams: (0..streams).map(|_| None).collect(),
        measured: Measured { stream_tokens: vec![0; streams], ..Measured::default() },
        began_us: None,
    };
    let mut nexts = Vec::with_capacity(streams);
    loop {
        desk.admit(engine, clock.now_us());
        let feeds: Vec<Feed<'_>> = desk
            .streams
            .iter()
            .enumerate()
            .filter_map(|(slot, request)| {
                let request = request.as_ref()?;
                let tokens =
                    if request.answered == 0 { &request.prompt[..] } else { std::slice::from_ref(&request.last_token) };
                Some(Feed { slot, tokens })
            })
            .collect();
        if feeds.is_empty() {
            if desk.created >= desk.total() {
                break;
            }
            clock.wait_until(desk.next_arrival_us);
            continue;
        }
        nexts.clear();
        engine.step(&feeds, &mut nexts)?;
        let now = clock.now_us();
        for &next in &nexts {
            desk.take(next, now);
        }
    }
    desk.measured.took_us = clock.now_us() - desk.began_us.unwrap_or(start);
    Ok(desk.measured)
}

/// Decodes with all of `streams` together; every timed step is an entry.
pub fn decode(
    engine: &mut dyn Engine,
    streams: usize,
    prompt_tokens: usize,
    warm_up_steps: usize,
    steps: usize,
    clock: &dyn Clock,
) -> Result<Measured, EngineError> {
    let streams = streams.clamp(1, engine.slots());
    let vocab = engine.facts().vocab;
    let mut random = 7;
    let prompts: Vec<Vec<u32>> = (0..streams)
        .map(|_| (0..prompt_tokens.max(1)).map(|_| (uniform(&mut random) * f64::from(vocab)) as u32 % vocab).collect())
        .collect();
    let mut nexts = Vec::with_capacity(streams);
    for (slot, prompt) in prompts.iter().enumerate() {
        engine.reset(slot);
        engine.step(&[Feed { slot, tokens: prompt }], &mut nexts)?;
    }
    let mut tokens: Vec<u32> = nexts.iter().map(|next| next.token).collect();
    let mut measured = Measured { stream_tokens: vec![steps as u64; streams], ..Measured::default() };
    for step in 0..warm_up_steps + steps {
        let feeds: Vec<Feed<'_>> =
            tokens.iter().enumerate().map(|(slot, token)| Feed { slot, tokens: std::slice::from_ref(token) }).collect();
        nexts.clear();
        let from = clock.now_us();
        engine.step(&feeds, &mut nexts)?;
        let took = clock.now_us() - from;
        if step >= warm_up_steps {
            measured.token_us.push(u32::try_from(took).unwrap_or(u32::MAX));
            measured.took_us += took;
            measured.tokens += streams as u64;
        }
        for next in &nexts {
            tokens[next.slot] = next.token;
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Held, ModelFacts};
    use std::cell::Cell;

    /// An engine whose steps take a millisecond a fed token of a clock that it moves itself.
    struct Slow<'a> {
        clock: &'a Stopped,
        facts: ModelFacts,
    }

    #[derive(Default)]
    struct Stopped(Cell<i64>);

    impl Clock for Stopped {
        fn now_us(&self) -> i64 {
            self.0.get()
        }

        fn wait_until(&self, us: i64) {
            self.0.set(self.0.get().max(us));
        }
    }

    // SAFETY: the tests are single-threaded; nothing is sent anywhere.
    unsafe impl Send for Slow<'_> {}

    impl Engine for Slow<'_> {
        fn facts(&self) -> &ModelFacts {
            &self.facts
        }
        fn slots(&self) -> usize {
            4
        }
        fn held(&self) -> Held {
            Held::default()
        }
        fn step(&mut self, batch: &[Feed<'_>], out: &mut Vec<Next>) -> Result<(), EngineError> {
            self.clock
                .0
                .set(self.clock.0.get() + 1_000 * batch.iter().map(|feed| feed.tokens.len() as i64).sum::<i64>());
            out.extend(batch.iter().map(|feed| Next { slot: feed.slot, token: 1, logits_hash: 0 }));
            Ok(())
        }
        fn reset(&mut self, _: usize) {}
        fn logits(&mut self, _: usize) -> Result<Vec<f32>, EngineError> {
            Ok(vec![])
        }
    }

    fn slow(clock: &Stopped) -> Slow<'_> {
        let facts = ModelFacts {
            name: "slow".into(),
            vocab: 100,
            layers: 1,
            width: 1,
            context_tokens: 100,
            weight_bytes_per_token: 1,
            weight_bytes: 1,
            types: String::new(),
            kernel: "none".into(),
        };
        Slow { clock, facts }
    }

    fn load(arrivals_per_s: Option<f64>) -> Load {
        Load {
            streams: 4,
            arrivals_per_s,
            requests: 40,
            warm_up_requests: 4,
            prompt_tokens: 1,
            answer_tokens: 5,
            repetition: 1,
        }
    }

    #[test]
    fn a_closed_loop_finishes_what_was_asked_with_equal_shares() {
        let clock = Stopped::default();
        let measured = serve(&mut slow(&clock), &load(None), 1, &clock).unwrap();
        assert_eq!((measured.requests, measured.tokens), (40, 200));
        assert_eq!(measured.stream_tokens, [50; 4]);
        assert!(measured.token_us.iter().all(|&us| us == 4_000), "four streams, a millisecond each");
        assert_eq!(measured.first_token_us.len(), 40);
    }

    #[test]
    fn an_overloaded_open_loop_counts_the_waiting() {
        let clock = Stopped::default();
        // 5 ms of work a request: 200 a second can be served, 1000 arrive.
        let over = serve(&mut slow(&clock), &load(Some(1_000.0)), 1, &clock).unwrap();
        let clock = Stopped::default();
        let under = serve(&mut slow(&clock), &load(Some(20.0)), 1, &clock).unwrap();
        let worst = |measured: &Measured| *measured.first_token_us.iter().max().unwrap();
        assert!(worst(&over) > 100_000, "the last to arrive waits for most others: {}", worst(&over));
        assert!(worst(&under) < 30_000, "hardly anybody waits: {}", worst(&under));
        assert_eq!((over.requests, under.requests), (40, 40));
    }

    #[test]
    fn arrivals_have_the_rate_that_was_asked_for() {
        let clock = Stopped::default();
        let mut asked = load(Some(10.0));
        asked.requests = 2_000;
        let measured = serve(&mut slow(&clock), &asked, 3, &clock).unwrap();
        let rate = measured.requests as f64 / (measured.took_us as f64 / 1e6);
        assert!((rate - 10.0).abs() < 0.7, "{rate} a second"); // 2000 arrivals: a standard deviation is 0.22
    }

    #[test]
    fn decoding_times_every_step_but_the_warm_up() {
        let clock = Stopped::default();
        let measured = decode(&mut slow(&clock), 3, 5, 2, 7, &clock).unwrap();
        assert_eq!((measured.tokens, measured.took_us), (21, 21_000));
        assert_eq!(measured.token_us, [3_000; 7]);
    }
}
