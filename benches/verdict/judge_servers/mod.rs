//! Judge "servers": simulated memory of servers of models on GPU machines over two days, at their true scale, from 300 MB to 140 GB.
//! Written without knowledge of the detector it judges.
//!
//! There are eleven kinds of server ([`KINDS`]): vLLM, TGI, SGLang, llama.cpp's server, ollama, Triton, PyTorch behind FastAPI,
//! ComfyUI, whisper, servers of embeddings, and a training job. A series is one figure of one of them: the VRAM used of the device or of
//! the process, or on the host RSS, RssAnon + VmSwap, PSS, or a cgroup's memory.current. Three servers in ten do next to nothing but
//! serve; the others have up to three habits of their kind, and whatever comes from outside. Half are started with the run and load
//! their weights; half have been up for a while.
//!
//! What they do, and what they lose, was taken from public threads: vLLM #44175 (90 bytes a request), #52089 and #50150, SGLang #6914,
//! llama.cpp #27725, TGI #801 (VRAM by the hour), ollama #18106 (gigabytes in swap, none of them in VmRSS) and #10597 (300 MB of VRAM a
//! reload), Triton #6270, ComfyUI #11617 (850 MB a change of models), TEI #156, faster-whisper #390 (peaks of VRAM). And what looks like
//! a leak and is none: llama.cpp #25740 (a prompt cache on its way to the limit), PyTorch #98688 (a cache by shapes of input).
//!
//! It is meant to be fair. The true drift is what the leak takes for good, over all incarnations; that of everything else is 0: what
//! fills is full, and what warms up is warm, within 30 hours (or three of a restart that comes later). And each series can be decided by
//! a careful engineer who sees all of its 48 hours and knows such servers: leaks in steps or by events have enough of them, late ones go
//! on for hours, and what comes and goes by the gigabyte leaves quiet times in which the floor is seen.

mod habits;
mod leak;
mod sampling;

use super::series::{Rng, Trace};

/// Series in one seed.
pub const SERIES: u64 = 310;
const MB: f64 = 1e6;
const MIB: f64 = 1_048_576.0;
const GB: f64 = 1e9;
/// Hours of a series.
const HOURS: f64 = 48.02;
/// Minutes of a series, on which load and leak are laid out.
const MINUTES: usize = 2882;
/// Tens of seconds of a series, on which visits are laid out.
const TENS: usize = 17_300;

/// Figures of the device's memory, as often as they occur.
const VRAM: [&str; 3] = ["vram-device", "vram-device", "vram-process"];
/// Figures of the host's memory, as often as they occur.
const HOST: [&str; 9] = ["rss", "rss", "rss", "anon-swap", "anon-swap", "pss", "cgroup", "cgroup", "cgroup"];
/// Seconds between samples, as often as they occur.
const INTERVALS: [f64; 16] =
    [1.0, 10.0, 10.0, 10.0, 15.0, 15.0, 15.0, 30.0, 30.0, 30.0, 30.0, 60.0, 60.0, 60.0, 60.0, 300.0];
/// Kinds of day, as often as they occur.
const DAYS: [Day; 7] = [Day::Steady, Day::Steady, Day::Office, Day::Office, Day::Evening, Day::Evening, Day::Night];

/// Kinds of server, one a line: name, share in per cent, chance of a VRAM figure, GB of VRAM, GB of host memory, requests an hour (from
/// and to); what they do besides serving ([`habits`]); by what they leak ([`leak`]). What is frequent comes twice.
const KINDS: [&str; 11] = [
    "vllm 18 .45 14 130 2.5 14 2e3 5e5;warm-up lazy cache day adapters arenas;request request abort steps unusual",
    "tgi 8 .5 10 76 1.5 9 1e3 1e5;lazy reserve warm-up arenas adapters;request time steps abort",
    "sglang 9 .35 20 130 3 30 2e3 4e5;cache warm-up lazy day;request request abort steps",
    "llama.cpp 11 .45 1.5 46 .4 40 20 2e3;cache cache lazy arenas;request steps steps swap unusual",
    "ollama 12 .5 2 46 .3 12 10 600;on-demand on-demand on-demand cache lazy;reload reload swap request",
    "triton 10 .4 1 38 .8 22 2e3 4e5;arenas lazy warm-up day on-demand autoscale;request time unusual reload steps",
    "fastapi 11 .35 .9 30 .5 14 200 4e4;warm-up workers workers autoscale reserve gc day arenas lazy;request unusual time office",
    "comfyui 6 .45 .5 14 1 40 6 60;jobs jobs lazy arenas;request reload unusual steps",
    "whisper 5 .45 .6 11 .4 6 20 900;jobs lazy warm-up arenas;request session session abort",
    "embed 6 .35 .7 12 .5 9 5e3 6e5;lazy warm-up arenas day reserve;request request unusual time",
    "training 4 .4 12 78 4 60 600 2e4;checkpoints warm-up lazy gc;time request steps",
];

/// A line of [`KINDS`].
struct Kind {
    name: &'static str,
    share: u64,
    vram_chance: f64,
    vram_gb: [f64; 2],
    host_gb: [f64; 2],
    requests_an_hour: [f64; 2],
    habits: Vec<&'static str>,
    drives: Vec<&'static str>,
}

impl Kind {
    /// Reads a line of the table.
    fn read(line: &'static str) -> Self {
        let fields: Vec<Vec<&str>> = line.split(';').map(|field| field.split(' ').collect()).collect();
        let numbers: Vec<f64> = fields[0][1..].iter().map(|x| x.parse().expect("a figure")).collect();
        Kind {
            name: fields[0][0],
            share: numbers[0] as u64,
            vram_chance: numbers[1],
            vram_gb: [numbers[2], numbers[3]],
            host_gb: [numbers[4], numbers[5]],
            requests_an_hour: [numbers[6], numbers[7]],
            habits: fields[1].clone(),
            drives: fields[2].clone(),
        }
    }

    /// Draws one by its share.
    fn draw(rng: &mut Rng) -> Self {
        let mut left = rng.next() % 100;
        let mut all = KINDS.iter().map(|line| Kind::read(line));
        let mut hit = |kind: &Kind| {
            let hit = left < kind.share;
            left = left.saturating_sub(kind.share);
            hit
        };
        all.find(|kind| hit(kind)).expect("shares of 100 per cent in all")
    }
}

/// When the server is busy.
#[derive(Default, Clone, Copy, PartialEq)]
enum Day {
    #[default]
    Steady,
    Office,
    Evening,
    /// Batches by night.
    Night,
}

/// How it starts: weights come in shards, then memory is profiled and graphs are captured.
#[derive(Default)]
struct Loading {
    seconds: f64,
    shards: f64,
    /// What is held when the weights are there, as a share of the level; more than 1 is given back.
    share: f64,
    /// Seconds of profiling and capture.
    capture_s: f64,
}

/// Growth that saturates.
struct WarmUp {
    bytes: f64,
    /// Its time constant, hours.
    tau_h: f64,
}

/// Bytes that are taken once (or given back) at an age of the incarnation.
struct Step {
    age_h: f64,
    bytes: f64,
}

/// A cache that requests fill up to its limit.
struct Cache {
    limit: f64,
    /// Hours after which it is full in the slowest incarnation.
    hours: f64,
    /// What is free at most once it is full: an entry goes before another comes.
    entry: f64,
}

/// A saw-tooth.
struct Saw {
    bytes: f64,
    period_h: f64,
    phase: f64,
}

/// Processes that come and go with the load.
#[derive(Default)]
struct Replicas {
    /// How many there are at the peak.
    most: f64,
    bytes: f64,
}

/// Noise of the figure: from sample to sample, and slow.
#[derive(Default)]
struct Noise {
    white: f64,
    slow: f64,
    /// The slow one's time constant, hours.
    slow_h: f64,
}

/// A death and the start after it.
#[derive(Clone, Copy)]
struct Restart {
    dead_h: f64,
    back_h: f64,
}

/// Everything that one series is made of.
#[derive(Default)]
struct Server {
    /// Which memory figure is recorded.
    figure: &'static str,
    /// Kind, figure, cause of restarts, habits.
    parts: Vec<&'static str>,
    /// Bytes that leak in all, negative where it shrinks, 0 where it is clean.
    drift: f64,
    /// Bytes held once it has loaded.
    level: f64,
    loading: Loading,
    /// Hours after a start within which everything has settled.
    settled_h: f64,
    /// Hours that the first incarnation had been up; 0 if it starts with the run.
    age_h: f64,
    warm_ups: Vec<WarmUp>,
    steps: Vec<Step>,
    caches: Vec<Cache>,
    saws: Vec<Saw>,
    /// Bytes that follow the load.
    swing: f64,
    replicas: Replicas,
    /// Bytes that come and go, every ten seconds.
    visits: Vec<f64>,
    /// Hours when sessions and jobs start.
    visits_at: Vec<f64>,
    noise: Noise,
    day: Day,
    /// Hour of the day at the start.
    clock_h: f64,
    /// Requests in each minute, and until then.
    requests: Vec<f64>,
    requests_done: Vec<f64>,
    restarts: Vec<Restart>,
    /// Bytes leaked until each minute, as if nothing were given back.
    lost: Vec<f64>,
    /// What a leak in steps takes at once; 0 for all others.
    block: f64,
}

impl Server {
    /// Whether the figure is one of the device's memory.
    fn is_vram(&self) -> bool {
        self.figure.starts_with("vram")
    }

    /// Hours of the start of the incarnation that runs at an hour, and its number.
    fn incarnation(&self, h: f64) -> (f64, usize) {
        let n = self.restarts.iter().filter(|r| h >= r.dead_h).count();
        (if n == 0 { 0.0 } else { self.restarts[n - 1].back_h }, n)
    }
}

/// One or the other. Both are there before one is chosen: what is drawn for them is drawn always.
fn either(first: bool, a: f64, b: f64) -> f64 {
    if first { a } else { b }
}

/// Running sum, one longer than its input.
fn running_sum(of: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0];
    for x in of {
        sums.push(sums[sums.len() - 1] + x);
    }
    sums
}

/// What is laid out by the minute at an hour, between its minutes.
fn at_hour(minutes: &[f64], h: f64) -> f64 {
    let x = (h * 60.0).clamp(0.0, (minutes.len() - 1) as f64);
    let i = (x as usize).min(minutes.len() - 2);
    minutes[i] + (minutes[i + 1] - minutes[i]) * (x - i as f64)
}

/// The class by the index, so that every seed has the same number of each.
fn class(seed: u64, index: u64) -> u8 {
    match (index * 131 + seed % SERIES * 7) % SERIES {
        0..=124 => 0,
        125..=184 => 1,
        _ => 2,
    }
}

/// The `index`-th series under `seed`.
pub fn trace(seed: u64, index: u64) -> Trace {
    let mut rng = Rng::new(Rng::new(seed ^ 0x5EED_0E00).next() ^ index.wrapping_mul(0xA24B_AED4_963E_E407));
    let class = class(seed, index);
    let kind = Kind::draw(&mut rng);
    let figures: &[&str] = if rng.chance(kind.vram_chance) { &VRAM } else { &HOST };
    let figure = figures[rng.next() as usize % figures.len()];
    let (drift, drive) = leak::draw(&mut rng, class, figure, &kind.drives);
    let day = match drive {
        Some("night") => Day::Night,
        Some("office") => Day::Office,
        _ => DAYS[rng.next() as usize % DAYS.len()],
    };
    let small = class == 2 && drift.abs() < 300.0 * MB;
    let mut server = Server {
        figure,
        parts: vec![kind.name, figure],
        drift,
        settled_h: rng.log_range(2.0, if small { 14.0 } else { 27.0 }),
        age_h: if rng.chance(0.5) { 0.0 } else { rng.log_range(3.0, 300.0) },
        clock_h: rng.range(0.0, 24.0),
        day,
        visits: vec![0.0; TENS],
        lost: vec![0.0; 2],
        ..Server::default()
    };
    let [vram_gb, host_gb] = [kind.vram_gb, kind.host_gb].map(|gb| rng.log_range(gb[0], gb[1]));
    server.level = GB * either(server.is_vram(), vram_gb, host_gb);
    let per_hour = rng.log_range(kind.requests_an_hour[0], kind.requests_an_hour[1]);
    let plain = rng.chance(0.3);
    server.serve(&mut rng, per_hour);
    server.restart(&mut rng, drive);
    server.live(&mut rng, &kind.habits, plain);
    server.temper(&mut rng, plain);
    server.account();
    let leak = drive.map(|drive| server.leak(&mut rng, drive));
    let counted = matches!(leak, Some("request" | "unusual" | "steps" | "swap"))
        || rng.chance([0.5, 0.3, 0.2][usize::from(class)]);
    let interval_s = INTERVALS[rng.next() as usize % INTERVALS.len()];
    let points = server.sample(&mut rng, interval_s, counted);
    let gone = |h: &f64| class == 2 && server.total(*h).abs() >= 50.0 * MB;
    Trace {
        points,
        class,
        breach_h: (0..28_800).map(|k| f64::from(k) / 600.0).find(gone),
        drift_bytes: if class == 0 { 0.0 } else { server.total(HOURS) },
        parts: server.parts.join("+"),
        leak,
        interval_s,
    }
}
