//! Load against what is soaked: so many requests at a time, or so many a second, never more than asked for. Latencies under
//! a rate are counted from when a request was due, so that a server which stalls cannot hide it by slowing the load down.

use super::http::{Client, Endpoint, HttpError, Question, Taken};
use super::openai::{Events, Said, Style};
use super::prompts::Prompts;
use super::tls::Tls;
use crate::clock;
use crate::model::sample::{LatencyKind, WorkReading};
use crate::worker::latency::Latencies;
use crate::worker::protocol::{FromWorker, GoldenOutput, LoadPlan, Mismatch, TargetPlan};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Requests in flight under a rate. A server that is further behind than this is overloaded, and more would only pile up.
const IN_FLIGHT_MAX: usize = 256;
/// After a failed request, and up to this when one fails after the other.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// So many failures in a row, with no answer in between, and the server counts as down.
const DOWN_AFTER: u32 = 3;
/// At most one event of a kind (failures, empty answers, mismatches) in this time; the counters count all of them.
const EVENT_EVERY_US: i64 = 60_000_000;
/// Requests that were due while this process itself did not run (suspended, stopped) for longer than this are not made up
/// for: that would be a flood which nobody asked for.
const OVERSLEPT_US: i64 = 2_000_000;
/// Prompts whose first answers are kept to compare with.
const GOLDEN_MAX: u32 = 4_096;
/// A server that streams so many times what it was asked for will not end by itself.
const PIECES_OVER: i64 = 4;
/// Longest key of an API; a larger file is some other file.
const KEY_BYTES_MAX: usize = 4_096;

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

/// A load with what it needs to be made: certificates and a key.
pub enum Means {
    /// Watch only.
    None,
    /// A server.
    Server(Client, Style),
    /// A shell command.
    Command(String),
}

impl Means {
    /// Reads what `plan` names. The error is prose with its remedy.
    pub fn of(plan: &TargetPlan) -> Result<Means, String> {
        Ok(match Load::parse(&plan.load)? {
            Load::None => Means::None,
            Load::Command(command) => Means::Command(command),
            Load::OpenAi(endpoint, style) => {
                let tls = endpoint.tls.then(|| Tls::new(plan.ca_file.as_deref())).transpose()?;
                let key = plan.api_key_file.as_deref().map(read_key).transpose()?;
                Means::Server(Client::new(endpoint, tls, key.as_deref()), style)
            }
        })
    }

    /// Whether there is load at all.
    #[must_use]
    pub fn drives(&self) -> bool {
        !matches!(self, Means::None)
    }

    /// Whether the server takes requests, and the first model that it names. One that has no list of models is ready when
    /// it says so.
    pub async fn ready(&self) -> Result<Option<String>, String> {
        let Means::Server(client, _) = self else { return Ok(None) };
        let mut body = Vec::new();
        let mut take = |_: &super::http::Head, bytes: &[u8]| {
            body.extend_from_slice(bytes);
            if body.len() < 1 << 20 { Taken::Nothing } else { Taken::Enough }
        };
        let question = Question { method: "GET", path: "/models", body: "", patience: Duration::from_secs(5) };
        match client.ask(question, &mut take).await {
            Err(HttpError::Status(404 | 405 | 501, _)) => return Ok(None),
            Err(error) => return Err(error.to_string()),
            Ok(head) if head.content_type == "text/html" => {
                return Err(
                    "GET /models answers with a page of HTML: this is no OpenAI-compatible API, or its base is \
                            another (usually .../v1)"
                        .to_owned(),
                );
            }
            Ok(_) => {}
        }
        let value: serde_json::Value = serde_json::from_slice(&body)
            .map_err(|error| format!("GET /models answers with what is no JSON: {error}"))?;
        Ok(value["data"][0]["id"].as_str().map(str::to_owned))
    }
}

fn read_key(path: &Path) -> Result<String, String> {
    use std::os::unix::fs::MetadataExt as _;
    let name = format!("target.api_key_file {}", path.display());
    let mode = std::fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{name} is open to others (mode {mode:04o}): chmod 600 {}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let key = text.trim();
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.chars().all(|c| c.is_ascii_graphic()) {
        return Err(format!("{name} does not hold one key on one line"));
    }
    Ok(key.to_owned())
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
    failures_in_a_row: u32,
    down_since_us: Option<i64>,
    /// Whether the present trouble was told.
    told_down: bool,
    said_down_us: Option<i64>,
    said_empty_us: Option<i64>,
    said_mismatch_us: Option<i64>,
}

/// What all requests share.
pub struct Job {
    means: Means,
    model: String,
    prompts: Prompts,
    streams: usize,
    seed: u64,
    target: TargetPlan,
    next: Cell<i64>,
    in_flight: Cell<usize>,
    /// Load commands that run, by process id: their ends are theirs who wait for them.
    pub commands: RefCell<BTreeSet<u32>>,
    /// The results.
    pub stats: RefCell<Stats>,
}

impl Job {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(means: Means, model: String, prompts: Prompts, plan: LoadPlan, target: TargetPlan) -> Rc<Job> {
        let stats = Stats { golden: plan.golden, ..Stats::default() };
        let (next, in_flight) = (Cell::new(0), Cell::new(0));
        let (streams, seed) = (plan.streams, plan.seed);
        let (commands, stats) = (RefCell::default(), RefCell::new(stats));
        Rc::new(Job { means, model, prompts, streams, seed, target, next, in_flight, commands, stats })
    }

    /// Whether there is load at all.
    #[must_use]
    pub fn drives(&self) -> bool {
        self.means.drives()
    }

    /// Starts the load on the present `LocalSet`; it goes on until that is dropped.
    pub fn start(self: &Rc<Job>) {
        match (self.drives(), self.target.rate_per_s) {
            (false, _) => {}
            (true, Some(rate)) => {
                tokio::task::spawn_local(Rc::clone(self).at_rate(rate));
            }
            (true, None) => {
                for stream in 0..self.streams.max(1) {
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
        let (mut due_us, mut pause) = (clock::micros(), PAUSE_FIRST);
        loop {
            let wait_us = due_us - clock::micros();
            if wait_us > 0 {
                tokio::time::sleep(Duration::from_micros(wait_us.unsigned_abs())).await;
                if clock::micros() - due_us > OVERSLEPT_US {
                    due_us = clock::micros();
                }
            }
            if self.is_down() {
                // One at a time knocks at a server that is down; its lost time is not made up for afterwards.
                if !self.request(0, clock::micros()).await {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                due_us = clock::micros();
                continue;
            }
            pause = PAUSE_FIRST;
            if self.in_flight.get() >= IN_FLIGHT_MAX {
                tokio::time::sleep(Duration::from_millis(5)).await; // those that are due meanwhile count from when they were
                continue;
            }
            let (job, started_us) = (Rc::clone(&self), due_us);
            due_us += gap_us;
            job.in_flight.set(job.in_flight.get() + 1);
            tokio::task::spawn_local(async move {
                job.request(0, started_us).await;
                job.in_flight.set(job.in_flight.get() - 1);
            });
        }
    }

    /// Nothing is asked that has no answer yet, and nothing is due: only time goes on. A server that is down is not idle.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.target.rate_per_s.is_some() && self.in_flight.get() == 0 && !self.is_down()
    }

    fn is_down(&self) -> bool {
        self.stats.borrow().failures_in_a_row >= DOWN_AFTER
    }

    /// One request; true if there was an answer.
    async fn request(&self, stream: usize, started_us: i64) -> bool {
        let number = self.next.replace(self.next.get() + 1);
        let prompts = i64::from(self.prompts.count());
        let prompt = (number % prompts) as u32;
        let asked_us = clock::micros();
        let answer = match &self.means {
            Means::None => return false,
            Means::Server(client, style) => self.ask(client, *style, prompt, started_us).await,
            Means::Command(command) => self.run_command(command).await,
        };
        let mut stats = self.stats.borrow_mut();
        let now_us = clock::micros();
        match answer {
            Ok(answer) => {
                stats.up(asked_us, now_us);
                stats.progress += 1;
                stats.reading.requests += 1;
                stats.reading.tokens += answer.tokens;
                stats.reading.prompt_tokens += answer.prompt_tokens;
                stats.reading.loops = stats.reading.requests / prompts;
                stats.latencies.record(LatencyKind::Request, now_us - started_us);
                if answer.text.is_empty() {
                    stats.empty(prompt, stream, now_us);
                } else if self.target.golden && prompt < GOLDEN_MAX {
                    stats.compare(prompt, stream, &answer.text, now_us);
                }
                true
            }
            Err(reason) => {
                stats.failed(reason, now_us);
                false
            }
        }
    }

    async fn run_command(&self, command: &str) -> Result<Answer, String> {
        use std::process::Stdio;
        let patience = Duration::from_millis(self.target.stall_ms.max(1));
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = shell.kill_on_drop(true).spawn().map_err(|error| format!("sh: {error}"))?;
        let pid = child.id();
        self.commands.borrow_mut().extend(pid);
        let output = tokio::time::timeout(patience, child.wait_with_output()).await;
        if let Some(pid) = pid {
            self.commands.borrow_mut().remove(&pid);
        }
        let output = output
            .map_err(|_| format!("the load command did not end within {} s and was killed", patience.as_secs()))?
            .map_err(|error| format!("sh: {error}"))?;
        answer_of(&output)
    }

    async fn ask(&self, client: &Client, style: Style, prompt: u32, started_us: i64) -> Result<Answer, String> {
        let request = self.prompts.request(prompt);
        let body = style.body(&self.model, &request, self.seed);
        let patience = Duration::from_millis(self.target.stall_ms.max(1));
        let pieces_max = PIECES_OVER * i64::from(request.answer_tokens) + 64;
        let (mut events, mut answer, mut trouble) = (Events::default(), Answer::default(), None);
        let mut last_us = started_us;
        let mut take = |head: &super::http::Head, bytes: &[u8]| {
            if head.content_type != "text/event-stream" {
                trouble = Some(format!("it answers {:?} where a stream of tokens was asked for", head.content_type));
                return Taken::Enough;
            }
            let said = match events.push(bytes) {
                Ok(said) => said,
                Err(why) => {
                    trouble = Some(why);
                    return Taken::Enough;
                }
            };
            let before = answer.pieces;
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
                    Said::Done => return Taken::Enough,
                }
            }
            if answer.pieces > pieces_max {
                let asked = request.answer_tokens;
                trouble =
                    Some(format!("the answer does not end: {asked} tokens were asked for, {} came", answer.pieces));
            }
            match trouble {
                Some(_) => Taken::Enough,
                None if answer.pieces > before => Taken::Useful,
                None => Taken::Nothing,
            }
        };
        let question = Question { method: "POST", path: style.path(), body: &body, patience };
        let asked = client.ask(question, &mut take).await;
        if let Some(why) = trouble {
            return Err(why);
        }
        asked.map_err(|error| match (&error, style) {
            (HttpError::Status(404 | 405, _), Style::Completion) => {
                format!("{error}; a server of chats alone is driven by --load openai-chat:URL")
            }
            _ => error.to_string(),
        })?;
        Ok(answer.counted(request.words))
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
    /// The server's own count where it gives one, else pieces and words. No text is an empty answer, whatever was counted.
    fn counted(mut self, words: i64) -> Answer {
        (self.prompt_tokens, self.tokens) = match self.usage {
            Some((prompt, answer)) => (prompt, answer.max(self.pieces.min(1))),
            None => (words, self.pieces),
        };
        self
    }
}

impl Stats {
    /// A failure is told when it is the first for a while; that the server is down, when nothing else has come of it.
    fn failed(&mut self, reason: String, now_us: i64) {
        self.reading.failures += 1;
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.down_since_us.get_or_insert(now_us);
        if !self.told_down && self.said_down_us.is_none_or(|at| now_us - at >= EVENT_EVERY_US) {
            self.said_down_us = Some(now_us);
            self.told_down = true;
            self.messages.push(FromWorker::EndpointDown { reason });
        }
    }

    /// An answer. To what was asked before the trouble began it says nothing about the end of it.
    fn up(&mut self, asked_us: i64, now_us: i64) {
        if self.down_since_us.is_some_and(|since_us| asked_us <= since_us) {
            return;
        }
        self.failures_in_a_row = 0;
        if let Some(since_us) = self.down_since_us.take()
            && std::mem::take(&mut self.told_down)
        {
            self.messages.push(FromWorker::EndpointUp { down_ms: (now_us - since_us) / 1_000 });
        }
    }

    /// HTTP 200 and not one token: as failed as any other failure, and harder to see.
    fn empty(&mut self, prompt: u32, stream: usize, now_us: i64) {
        self.reading.failures += 1;
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

/// What a load command answered.
fn answer_of(output: &std::process::Output) -> Result<Answer, String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: String = said.lines().last().unwrap_or("").chars().take(200).collect();
        return Err(format!("the load command failed ({}): {last}", output.status));
    }
    // A command that says nothing is no empty answer: it did what it was asked to.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let tokens = text.split_whitespace().count() as i64;
    Ok(Answer { text: if text.is_empty() { " ".to_owned() } else { text }, tokens, ..Answer::default() })
}

/// FNV-1a, 64 bits: tells answers apart, guards nothing.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
