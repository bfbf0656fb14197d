//! The table of `docs/gpu-results.md`: decoding speed on the first CUDA device, beside the read ceiling of the same run.
//!
//!     cargo bench --bench cuda -- [--plain] [--windows] [--quick] [MODEL:VARIANT[:STREAMS,STREAMS,..]]...
//!
//! A case is a synthetic shape, a variant and the numbers of streams, such as `22b:q4_k:1,8,16`; without any, the shapes
//! and variants of the table. `--windows` tries the copy windows of the persistent kernel as well, `--plain` measures the kernels for older chips,
//! `--quick` times 24 steps instead of 64 and no prompt.

use soakd::engine::cuda::{self, CudaEngine, CudaOptions, Path, Tuning, bench};
use soakd::engine::weights::Model;
use soakd::engine::{Engine, EngineError, Feed};

/// Tokens in each stream's cache when timing starts, as the peers' figures have it. A short prompt and many steps before that: a card at its
/// power limit takes a second or two to find its clock, and a long prompt would leave it at another (`kernels/NOTES.md`).
const CACHED_TOKENS: usize = 512;
/// Of these, the prompt.
const OPENING_TOKENS: usize = 64;

struct Case {
    shape: String,
    variant: soakd::engine::Variant,
    streams: Vec<usize>,
}

fn parse(text: &str) -> Result<Case, String> {
    let mut parts = text.split(':');
    let (Some(shape), Some(variant)) = (parts.next(), parts.next()) else {
        return Err(format!("{text:?} is no MODEL:VARIANT[:STREAMS,..]"));
    };
    let streams = parts.next().unwrap_or("1,2,4,8,12,16").split(',');
    let streams =
        streams.map(|n| n.parse().map_err(|_| format!("{n:?} is no number of streams"))).collect::<Result<_, _>>()?;
    Ok(Case { shape: shape.into(), variant: variant.parse()?, streams })
}

fn main() {
    if let Err(message) = run() {
        eprintln!("{message}");
        std::process::exit(2);
    }
}

fn run() -> Result<(), String> {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut flag = |name: &str| {
        let before = arguments.len();
        arguments.retain(|argument| argument != name);
        arguments.len() < before
    };
    let (windows, plain, quick) = (flag("--windows"), flag("--plain"), flag("--quick"));
    let mut cases: Vec<Case> = arguments.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
    if cases.is_empty() {
        let all = [
            "22b:q4_k",
            "8b:q4_k",
            "8b:q2_k:1,8,16",
            "8b:q5_k_m:1,8,16",
            "8b:q6_k:1,8,16",
            "8b:q8_0:1,8,16",
            "8b:hybrid:1,8,16",
        ];
        cases = all.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
    }
    measure(&cases, windows, plain, quick).map_err(|error| error.to_string())
}

fn measure(cases: &[Case], windows: bool, plain: bool, quick: bool) -> Result<(), EngineError> {
    let devices = cuda::devices()?;
    let Some(device) = devices.first() else {
        return Err(EngineError::Request("the CUDA driver shows no device".into()));
    };
    let ceiling = bench::read_ceiling(0)?;
    println!(
        "{} · {} multiprocessors · CUDA {} · read ceiling {:.0} GB/s",
        device.name,
        device.multiprocessors,
        device.driver_version,
        ceiling / 1e9
    );
    println!(
        "| model | path | streams | tok/s, median | spread p5-p95 | ms a step, p50 / p95 | GB/s, weights | of the ceiling | with cache | scaling |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for case in cases {
        let model = Model::synthetic(&case.shape, case.variant, 1)?;
        let slots = case.streams.iter().copied().max().unwrap_or(1);
        let path = plain.then_some(Path::Plain);
        let options = CudaOptions { device: 0, slots, context_tokens: 1024, path, tuning: Tuning::default() };
        let started = std::time::Instant::now();
        let mut engine = CudaEngine::new(&model, options)?;
        let loaded = started.elapsed().as_secs_f64();
        rows(case, &model, &mut engine, ceiling, windows, if quick { 24 } else { 64 })?;
        if !quick {
            prompt(case, &mut engine)?;
        }
        let held = engine.held().device_bytes.unwrap_or(0);
        let (free, total) = engine.device_memory()?;
        let fixed = (total - free) as f64 - held as f64;
        println!(
            "<!-- {} {}: loaded in {loaded:.1} s; holds {held} B, the device has {:.0} MB more in use -->",
            case.shape,
            case.variant,
            fixed / 1e6
        );
    }
    Ok(())
}

fn rows(
    case: &Case,
    model: &Model,
    engine: &mut CudaEngine,
    ceiling: f64,
    windows: bool,
    steps: usize,
) -> Result<(), EngineError> {
    let tunings: Vec<Tuning> = if windows {
        let base = Tuning::default();
        let mut all: Vec<Tuning> =
            [24, 32, 40, 48, 64, 96].map(|kilobytes| Tuning { window_bytes: kilobytes << 10, ..base }).to_vec();
        if case.streams.contains(&1) {
            all.push(Tuning { prefetch: false, ..base }); // it is for one column alone
        }
        all
    } else {
        vec![Tuning::default()]
    };
    let bytes = model.weight_bytes_per_token() as f64;
    let cache = 2.0 * 2.0 * (model.arch.layers * model.arch.kv_width() * (CACHED_TOKENS + 40)) as f64;
    for tuning in tunings {
        engine.tune(tuning)?;
        let mut single = None;
        for &streams in &case.streams {
            let done = bench::decode(engine, streams, OPENING_TOKENS, CACHED_TOKENS - OPENING_TOKENS, steps)?;
            let (median, fast, slow) = (done.median(), done.quantile(0.05), done.quantile(0.95));
            let rate = |seconds: f64| streams as f64 / seconds;
            if streams == 1 {
                single = Some(rate(median));
            }
            let scaling =
                single.map_or(String::new(), |one| format!("{:.0} %", 100.0 * rate(median) / (streams as f64 * one)));
            let label = if windows {
                format!(" {} KiB{}", tuning.window_bytes >> 10, if tuning.prefetch { "" } else { " np" })
            } else {
                String::new()
            };
            println!(
                "| {} {}{label} | {} | {streams} | {:.1} | {:.1}-{:.1} | {:.3} / {:.3} | {:.0} | {:.1} % | {:.1} % | {scaling} |",
                case.shape,
                case.variant,
                engine.path().name(),
                rate(median),
                rate(slow),
                rate(fast),
                median * 1e3,
                slow * 1e3,
                bytes / median / 1e9,
                100.0 * bytes / median / ceiling,
                100.0 * (bytes + cache * streams as f64) / median / ceiling,
            );
        }
    }
    engine.tune(Tuning::default())
}

/// Prompt processing: 512 tokens into an empty slot, the best of three.
fn prompt(case: &Case, engine: &mut CudaEngine) -> Result<(), EngineError> {
    let tokens: Vec<u32> = (0..CACHED_TOKENS as u32).map(|i| i * 31 % engine.facts().vocab).collect();
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        engine.reset(0);
        let started = std::time::Instant::now();
        engine.step(&[Feed { slot: 0, tokens: &tokens }], &mut Vec::new())?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    println!(
        "| {} {} | prompt of {CACHED_TOKENS} | 1 | {:.0} | | {:.2} | | | | |",
        case.shape,
        case.variant,
        CACHED_TOKENS as f64 / best,
        best * 1e3
    );
    Ok(())
}
