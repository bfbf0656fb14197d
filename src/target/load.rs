//! Load against what is soaked: so many requests at a time, or so many a second, never more than asked for. Latencies under
//! a rate are counted from when a request was due, so that a server which stalls cannot hide it by slowing the load down.

use super::http::{self, Endpoint, HttpError};
use super::openai::{Events, Said, Style};
use crate::clock;
use crate::model::sample::{LatencyKind, WorkReading};
use crate::worker::latency::Latencies;
use crate::worker::protocol::{FromWorker, GoldenOutput, LoadPlan, Mismatch, TargetPlan};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Requests in flight under a rate. A server that is further behind than this is overloaded, and more would only pile up.
const IN_FLIGHT_MAX: usize = 256;
/// After a failed request, and up to this when one fails after the other.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// At most one event of a kind (empty answers, mismatches) in this time; the counters count all of them.
const EVENT_EVERY_US: i64 = 60_000_000;
/// Words that prompts are made of.
const WORDS: [&str; 16] = [
    "memory", "river", "seven", "green", "why", "engine", "night", "count", "letter", "stone", "under", "moving",
    "glass", "north", "answer", "slowly",
];

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load {
    /// Watch only.
    None,
    /// Drive an OpenAI-compatible endpoint.
    OpenAi(Endpoint, Style),
    /// Run a shell command again and again: one run is one request.
    Command(String),
}

impl Load {
    /// `none`, `openai:URL`, `openai-chat:URL` or `command:TEXT`.
    pub fn parse(text: &str) -> Result<Load, String> {
        if text == "none" {
            return Ok(Load::None);
        }
        match text.split_once(':') {
            Some(("openai", url)) => Ok(Load::OpenAi(Endpoint::parse(url)?, Style::Completion)),
            Some(("openai-chat", url)) => Ok(Load::OpenAi(Endpoint::parse(url)?, Style::Chat)),
            Some(("command", command)) if !command.trim().is_empty() => Ok(Load::Command(command.to_owned())),
            _ => Err(format!(
                "{text:?} is no load: write none, openai:http://127.0.0.1:8000/v1, openai-chat:URL or command:TEXT"
            )),
        }
    }
}

/// What the requests came to so far.
#[derive(Debug, Default)]
pub struct Stats {
    /// Rises with every token and every answer.
    pub progress: u64,
    /// Counters.
    pub reading: WorkReading,
    /// Since the last report.
    pub latencies: Latencies,
    /// What is to be said to the supervisor.
    pub messages: Vec<FromWorker>,
    golden: Vec<GoldenOutput>,
    down_since_us: Option<i64>,
    said_empty_us: Option<i64>,
    said_mismatch_us: Option<i64>,
}

/// What all requests share.
pub struct Job {
    load: Load,
    model: String,
    plan: LoadPlan,
    target: TargetPlan,
    next: Cell<i64>,
    in_flight: Cell<usize>,
    /// The results.
    pub stats: RefCell<Stats>,
}

impl Job {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(load: Load, model: String, plan: LoadPlan, target: TargetPlan) -> Rc<Job> {
        let stats = Stats { golden: plan.golden.clone(), ..Stats::default() };
        let (next, in_flight) = (Cell::new(0), Cell::new(0));
        Rc::new(Job { load, model, plan, target, next, in_flight, stats: RefCell::new(stats) })
    }

    /// Whether there is load at all.
    #[must_use]
    pub fn drives(&self) -> bool {
        self.load != Load::None
    }

    /// Starts the load on the present `LocalSet`; it goes on until that is dropped.
    pub fn start(self: &Rc<Job>) {
        match (&self.load, self.target.rate_per_s) {
            (Load::None, _) => {}
            (_, Some(rate)) => {
                tokio::task::spawn_local(Rc::clone(self).at_rate(rate));
            }
            (_, None) => {
                for stream in 0..self.plan.streams.max(1) {
                    tokio::task::spawn_local(Rc::clone(self).one_after_the_other(stream));
                }
            }
        }
    }

    async fn one_after_the_other(self: Rc<Job>, stream: usize) {
        let mut pause = PAUSE_FIRST;
        loop {
            if self.request(stream, clock::micros()).await {
                pause = PAUSE_FIRST;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    async fn at_rate(self: Rc<Job>, rate: f64) {
        let gap_us = (1e6 / rate) as i64;
        let mut due_us = clock::micros();
        loop {
            let wait_us = due_us - clock::micros();
            if wait_us > 0 {
                tokio::time::sleep(Duration::from_micros(wait_us.unsigned_abs())).await;
            }
            let down = self.stats.borrow().down_since_us.is_some();
            // One at a time knocks at a server that is down; its lost time is not made up for afterwards.
            if self.in_flight.get() >= if down { 1 } else { IN_FLIGHT_MAX } {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if down {
                    due_us = clock::micros();
                }
                continue;
            }
            let (job, started_us) = (Rc::clone(&self), due_us);
            due_us += gap_us;
            job.in_flight.set(job.in_flight.get() + 1);
            tokio::task::spawn_local(async move {
                let done = job.request(0, started_us).await;
                if !done {
                    tokio::time::sleep(PAUSE_FIRST).await;
                }
                job.in_flight.set(job.in_flight.get() - 1);
            });
        }
    }

    /// One request; true if there was an answer.
    async fn request(&self, stream: usize, started_us: i64) -> bool {
        let number = self.next.replace(self.next.get() + 1);
        let prompts = i64::from(self.plan.prompts.max(1));
        let prompt = (number % prompts) as u32;
        let answer = match &self.load {
            Load::None => return false,
            Load::OpenAi(endpoint, style) => self.ask(endpoint, *style, prompt, started_us).await,
            Load::Command(command) => run_command(command).await,
        };
        let mut stats = self.stats.borrow_mut();
        let now_us = clock::micros();
        match answer {
            Ok(answer) => {
                stats.up(now_us);
                stats.progress += 1;
                stats.reading.requests += 1;
                stats.reading.tokens += answer.tokens;
                stats.reading.prompt_tokens += answer.prompt_tokens;
                stats.reading.loops = stats.reading.requests / prompts;
                stats.latencies.record(LatencyKind::Request, now_us - started_us);
                if answer.tokens == 0 {
                    stats.empty(prompt, stream, now_us);
                } else if self.target.golden {
                    stats.compare(prompt, stream, &answer.text, now_us);
                }
                true
            }
            Err(reason) => {
                stats.down(reason, now_us);
                false
            }
        }
    }

    async fn ask(&self, endpoint: &Endpoint, style: Style, prompt: u32, started_us: i64) -> Result<Answer, String> {
        let text = self.prompt(prompt);
        let body = style.body(&self.model, &text, self.plan.answer_tokens, self.plan.seed);
        let stall = Duration::from_millis(self.target.stall_ms.max(1));
        let (mut events, mut answer, mut trouble) = (Events::default(), Answer::default(), None);
        let mut last_us = started_us;
        let mut take = |head: &http::Head, bytes: &[u8]| {
            if head.content_type != "text/event-stream" {
                trouble = Some(format!("it answers {:?} where a stream of tokens was asked for", head.content_type));
                return false;
            }
            let said = match events.push(bytes) {
                Ok(said) => said,
                Err(why) => {
                    trouble = Some(why);
                    return false;
                }
            };
            for one in said {
                match one {
                    Said::Token(piece) => {
                        let now_us = clock::micros();
                        let first = answer.pieces == 0;
                        let kind = if first { LatencyKind::FirstToken } else { LatencyKind::Token };
                        let mut stats = self.stats.borrow_mut();
                        stats.latencies.record(kind, now_us - last_us);
                        stats.progress += 1;
                        last_us = now_us;
                        answer.pieces += 1;
                        answer.text.push_str(&piece);
                    }
                    Said::Usage { prompt, answer: tokens } => answer.usage = Some((prompt, tokens)),
                    Said::Error(why) => trouble = Some(format!("the server says in its stream: {why}")),
                    Said::Done => return false,
                }
            }
            trouble.is_none()
        };
        let asked = http::ask(endpoint, "POST", style.path(), Some(&body), stall, &mut take).await;
        if let Some(why) = trouble {
            return Err(why);
        }
        asked.map_err(|error| error.to_string())?;
        Ok(answer.counted(text.split(' ').count() as i64))
    }

    /// The same words for the same seed and number; a quarter to all of the longest length.
    fn prompt(&self, prompt: u32) -> String {
        let mut state = self.plan.seed ^ (u64::from(prompt) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below.max(1)
        };
        let longest = u64::from(self.plan.prompt_tokens.max(1));
        let words = longest.div_ceil(4) + roll(longest - longest.div_ceil(4) + 1);
        (0..words).map(|_| WORDS[roll(WORDS.len() as u64) as usize]).collect::<Vec<_>>().join(" ")
    }
}

/// A whole answer.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    pieces: i64,
    usage: Option<(i64, i64)>,
    tokens: i64,
    prompt_tokens: i64,
}

impl Answer {
    /// The server's own count where it gives one, else pieces and words. No text and no count: an empty answer.
    fn counted(mut self, words: i64) -> Answer {
        (self.prompt_tokens, self.tokens) = match self.usage {
            Some((prompt, answer)) => (prompt, answer.max(self.pieces.min(1))),
            None => (words, self.pieces),
        };
        self
    }
}

impl Stats {
    fn down(&mut self, reason: String, now_us: i64) {
        if self.down_since_us.is_none() {
            self.down_since_us = Some(now_us);
            self.messages.push(FromWorker::EndpointDown { reason });
        }
    }

    fn up(&mut self, now_us: i64) {
        if let Some(since_us) = self.down_since_us.take() {
            self.messages.push(FromWorker::EndpointUp { down_ms: (now_us - since_us) / 1_000 });
        }
    }

    fn empty(&mut self, prompt: u32, stream: usize, now_us: i64) {
        if self.said_empty_us.is_none_or(|at| now_us - at >= EVENT_EVERY_US) {
            self.said_empty_us = Some(now_us);
            self.messages.push(FromWorker::Empty { prompt, stream });
        }
    }

    /// Compares with the first answer to this prompt, letter by letter.
    fn compare(&mut self, prompt: u32, stream: usize, text: &str, now_us: i64) {
        let tokens: Vec<u32> = text.chars().map(u32::from).collect();
        let hash = fnv1a(text.as_bytes());
        let Some(golden) = self.golden.iter().find(|golden| golden.prompt == prompt) else {
            let output = GoldenOutput { backend: "none".to_owned(), prompt, tokens, hash };
            self.golden.push(output.clone());
            self.messages.push(FromWorker::Golden(output));
            return;
        };
        if golden.hash == hash {
            return;
        }
        let at = golden
            .tokens
            .iter()
            .zip(&tokens)
            .position(|(a, b)| a != b)
            .unwrap_or(golden.tokens.len().min(tokens.len()));
        let mismatch = Mismatch {
            prompt,
            stream,
            at_loop: self.reading.loops,
            at_token: Some(at as u32),
            expected: golden.tokens.get(at).copied(),
            got: tokens.get(at).copied(),
            expected_hash: golden.hash,
            got_hash: hash,
        };
        self.reading.golden_mismatches += 1;
        if self.said_mismatch_us.is_none_or(|at| now_us - at >= EVENT_EVERY_US) {
            self.said_mismatch_us = Some(now_us);
            self.messages.push(FromWorker::Mismatch(mismatch));
        }
    }
}

async fn run_command(command: &str) -> Result<Answer, String> {
    let output = tokio::process::Command::new("sh")
        .args(["-c", command])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("sh: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: String = said.lines().last().unwrap_or("").chars().take(200).collect();
        return Err(format!("the load command failed ({}): {last}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let tokens = text.split_whitespace().count() as i64;
    Ok(Answer { text, tokens, ..Answer::default() })
}

/// Whether the server takes requests, and the first model that it names.
pub async fn ready(load: &Load) -> Result<Option<String>, HttpError> {
    let Load::OpenAi(endpoint, _) = load else { return Ok(None) };
    let mut body = Vec::new();
    let mut take = |_: &http::Head, bytes: &[u8]| {
        body.extend_from_slice(bytes);
        body.len() < 1 << 20
    };
    http::ask(endpoint, "GET", "/models", None, Duration::from_secs(5), &mut take).await?;
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(value["data"][0]["id"].as_str().map(str::to_owned))
}

/// FNV-1a, 64 bits: tells answers apart, guards nothing.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
