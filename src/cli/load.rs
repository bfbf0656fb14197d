//! `soakd load`: concurrency, closed loop and open loop. Measuring happens in a child, words in `report`.

use super::bench::child::Child;
use super::bench::heat::Heat;
use super::bench::record::{Book, Named, Place, Progress, cell, median, merged_ms};
use super::{CannotStart, Done, Format, Outcome};
use crate::analysis::summary;
use crate::clock;
use crate::model::measure::{BenchCell, BenchKind, LoadRow};
use crate::report::bench as report;
use crate::worker::bench::protocol::{BenchPlan, Load, Order};
use std::path::PathBuf;

/// Shares of the closed loop's capacity at which requests arrive unless rates are given.
const LOAD_FACTORS: [f64; 3] = [0.5, 0.7, 0.9];

/// Measure concurrency: 1 to 16 streams, closed loop and Poisson arrivals.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd load --model synthetic:22b --backend cuda
  soakd load --model synthetic:tiny --streams 1,2,4 --requests 8 --repetitions 2
  soakd load --rates 2,4,8 --format json | jq '.levels[] | select(.arrivals_per_s)'

Closed loop: each stream begins its next request when it has ended one. Open loop: requests arrive at random at a given \
mean rate and wait if no stream is free; latencies count from the arrival. Every measurement is stored when it is made:
the same command goes on where it was cut short.

Exit code: 0 targets kept, 1 a target missed, 2 could not start, 3 a target not measured.")]
pub struct Args {
    /// A GGUF file or synthetic:NAME
    #[arg(long, default_value = "synthetic:small")]
    model: String,
    /// Of a synthetic model
    #[arg(long, default_value = "q4_k")]
    variant: String,
    /// Levels of concurrency for the closed loop, rising
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 12, 16])]
    streams: Vec<usize>,
    /// Arrivals a second for the open loop; default: 50, 70 and 90 % of what the closed loop served
    #[arg(long, value_delimiter = ',')]
    rates: Vec<f64>,
    /// Closed loop only
    #[arg(long)]
    closed_only: bool,
    /// Requests of each stream in each repetition
    #[arg(long, default_value_t = 6)]
    requests: usize,
    /// Longest prompt, tokens
    #[arg(long, default_value_t = 64)]
    prompt_tokens: usize,
    /// Tokens decoded for each request
    #[arg(long, default_value_t = 64)]
    answer_tokens: usize,
    /// Repetitions; six give the median a 95 % interval
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// auto, cpu or cuda
    #[arg(long, default_value = "auto")]
    backend: String,
    /// Which GPU, from 0
    #[arg(long, default_value_t = 0)]
    device: u32,
    /// CPU threads; 0: one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Targets for token latency, milliseconds: p50,p95,p99
    #[arg(long, value_delimiter = ',', num_args = 1, default_values_t = [13.0, 50.0, 100.0])]
    target_ms: Vec<f64>,
    /// Streams at which throughput and efficiency are asked for
    #[arg(long, default_value_t = 12)]
    target_streams: usize,
    /// Tokens a second asked for there
    #[arg(long, default_value_t = 800.0)]
    target_tokens_per_s: f64,
    /// Efficiency asked for there
    #[arg(long, default_value_t = 0.75)]
    target_efficiency: f64,
    /// Seed of weights, prompts and arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Database
    #[arg(long, default_value = "soak.db")]
    db: PathBuf,
    /// Do not go on with an unfinished load
    #[arg(long)]
    fresh: bool,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Measures what is not yet measured, then shows all of it.
pub fn execute(args: &Args) -> Done {
    let targets = check(args)?;
    let mut place = Place { backend: args.backend.clone(), device: args.device, threads: args.threads };
    let mut book = Book::open(
        &args.db,
        BenchKind::Load,
        settings(args),
        (&args.model, args.seed, context(args)),
        &mut place,
        args.fresh,
    )?;
    closed_loop(args, &mut book, &place)?;
    if !args.closed_only {
        open_loop(args, &mut book, &place)?;
    }
    book.end()?;
    let rows = rows(&book.done, args.seed);
    match args.format {
        Format::Json => println!("{}", report::load_json(book.id, &book.bench, &rows, &targets)),
        Format::Text => {
            print!("{}", report::load_text(&book.bench, &rows, &targets));
            println!("stored as bench {} in {} (view v_load)", book.id, args.db.display());
        }
    }
    let judged = report::against(&rows, &targets);
    Ok(if judged.iter().any(|(_, measured, kept)| measured.is_some() && !kept) {
        Outcome::Failed
    } else if judged.iter().any(|(_, measured, _)| measured.is_none()) {
        Outcome::Inconclusive
    } else {
        Outcome::Passed
    })
}

fn check(args: &Args) -> Result<report::Targets, CannotStart> {
    let rising = args.streams.windows(2).all(|pair| pair[0] < pair[1]);
    if args.streams.is_empty() || args.streams[0] == 0 || !rising || args.streams.iter().any(|&n| n > 1024) {
        return Err(CannotStart("--streams must rise and lie between 1 and 1024, such as 1,2,4,8".into()));
    }
    if args.requests == 0 || args.repetitions == 0 || args.answer_tokens < 2 || args.prompt_tokens == 0 {
        let reason = "--requests, --repetitions and --prompt-tokens must not be zero, and --answer-tokens at least 2";
        return Err(CannotStart(reason.into()));
    }
    if args.rates.iter().any(|rate| !rate.is_finite() || *rate <= 0.0) {
        return Err(CannotStart("--rates must be positive numbers of arrivals a second".into()));
    }
    // One answer carries every latency, in a frame of at most a megabyte.
    let most = args.streams.iter().max().unwrap_or(&1) * args.requests * args.answer_tokens;
    if most > 100_000 {
        let reason =
            "a repetition may have 100000 tokens at most; lower --requests or --answer-tokens, and raise --repetitions";
        return Err(CannotStart(format!("{most} tokens: {reason}")));
    }
    let [p50, p95, p99] = args.target_ms[..] else {
        return Err(CannotStart("--target-ms takes three numbers: p50,p95,p99".into()));
    };
    Ok(report::Targets {
        token_ms: [p50, p95, p99],
        streams: args.target_streams,
        tokens_per_s: args.target_tokens_per_s,
        efficiency: args.target_efficiency,
    })
}

/// Everything that decides what is measured.
fn settings(args: &Args) -> String {
    serde_json::json!({
        "model": args.model, "variant": args.variant, "streams": args.streams, "rates": args.rates, "closed_only": args.closed_only,
        "requests": args.requests, "prompt_tokens": args.prompt_tokens, "answer_tokens": args.answer_tokens,
        "repetitions": args.repetitions, "backend": args.backend, "device": args.device, "threads": args.threads, "seed": args.seed,
    })
    .to_string()
}

/// A level to be measured: streams, arrivals a second, requests.
type Level = (usize, Option<f64>, usize);

fn closed_loop(args: &Args, book: &mut Book, place: &Place) -> Result<(), CannotStart> {
    let levels: Vec<Level> = args.streams.iter().map(|&streams| (streams, None, streams * args.requests)).collect();
    measure(args, book, place, &levels)
}

fn open_loop(args: &Args, book: &mut Book, place: &Place) -> Result<(), CannotStart> {
    let most = args.streams.last().copied().unwrap_or(1);
    let rates = if args.rates.is_empty() {
        let served: Vec<f64> = book
            .done
            .iter()
            .filter(|cell| cell.arrivals_per_s.is_none() && cell.streams == most)
            .map(|cell| cell.requests as f64 / (cell.took_us.max(1) as f64 / 1e6))
            .collect();
        // Three digits: the rate names the cell, and must be the same when the load is resumed.
        let capacity = median(&served).value;
        LOAD_FACTORS.map(|factor| format!("{:.2e}", factor * capacity).parse().unwrap_or(capacity)).to_vec()
    } else {
        args.rates.clone()
    };
    let levels: Vec<Level> = rates.into_iter().map(|rate| (most, Some(rate), most * args.requests)).collect();
    measure(args, book, place, &levels)
}

/// Context that each stream has room for.
fn context(args: &Args) -> usize {
    args.prompt_tokens + args.answer_tokens
}

fn measure(args: &Args, book: &mut Book, place: &Place, levels: &[Level]) -> Result<(), CannotStart> {
    // Rates share their number of streams, and so a run of sequence numbers.
    let sequence = |place: usize, repetition: u32| match levels[place].1 {
        None => repetition - 1,
        Some(_) => place as u32 * args.repetitions + repetition - 1,
    };
    // Repetitions go round over the levels, every other round backwards, so that drift favours none.
    let mut plan: Vec<(usize, u32)> = Vec::new();
    for repetition in 1..=args.repetitions {
        let mut round: Vec<(usize, u32)> =
            (0..levels.len()).map(|place| (place, sequence(place, repetition))).collect();
        if repetition % 2 == 0 {
            round.reverse();
        }
        plan.extend(round);
    }
    let same = |cell: &BenchCell, (streams, rate, _): Level, sequence: u32| {
        cell.streams == streams && cell.arrivals_per_s.is_some() == rate.is_some() && cell.sequence == sequence
    };
    plan.retain(|&(place, sequence)| !book.done.iter().any(|cell| same(cell, levels[place], sequence)));
    if plan.is_empty() {
        return Ok(());
    }
    let failed = |reason: String| CannotStart(format!("{}: {reason}", args.model));
    let mut child = Child::start()?;
    let opened = child
        .open(&Order::Open(BenchPlan {
            backend: place.backend.clone(),
            device: place.device,
            model: args.model.clone(),
            variant: args.variant.clone(),
            streams: args.streams.last().copied().unwrap_or(1),
            context_tokens: context(args),
            threads: place.threads,
            seed: args.seed,
        }))
        .map_err(failed)?;
    let mut progress = Progress::new(plan.len());
    for (place, sequence) in plan {
        let (streams, arrivals_per_s, requests) = levels[place];
        let at = clock::now().wall;
        let order = Order::Serve(Load {
            streams,
            arrivals_per_s,
            requests,
            warm_up_requests: streams,
            prompt_tokens: args.prompt_tokens,
            answer_tokens: args.answer_tokens,
            repetition: u64::from(sequence),
        });
        let measured = child.measure(&order).map_err(failed)?;
        let named = Named { variant: args.variant.clone(), streams, arrivals_per_s, sequence };
        let cell =
            cell(named, at, &opened, &measured, &Heat::default()).ok_or_else(|| failed("nothing was timed".into()))?;
        let what = arrivals_per_s.map_or("closed loop".to_string(), |rate| format!("{rate} arrivals/s"));
        progress.step(&format!("{streams} streams, {what}: {:.1} tok/s", cell.tokens_per_s));
        let percentiles = |histogram: &Vec<u8>| {
            let [_, _, p50, p95, p99] = merged_ms(std::iter::once(histogram));
            [p50, p95, p99]
        };
        let token = percentiles(&cell.token_histogram);
        let first = cell.first_token_histogram.as_ref().map(percentiles);
        let id = book.id;
        book.store.record(|tx| tx.add_load_point(id, &cell, token, first)).map_err(CannotStart::because)?;
        book.done.push(cell);
    }
    Ok(())
}

/// Cells summed up: closed loop by streams, then open loop by rate.
fn rows(cells: &[BenchCell], seed: u64) -> Vec<LoadRow> {
    let mut levels: Vec<(Option<f64>, usize)> = Vec::new();
    for cell in cells {
        if !levels.contains(&(cell.arrivals_per_s, cell.streams)) {
            levels.push((cell.arrivals_per_s, cell.streams));
        }
    }
    levels.sort_by(|a, b| a.0.unwrap_or(0.0).total_cmp(&b.0.unwrap_or(0.0)).then(a.1.cmp(&b.1)));
    let at = |level: (Option<f64>, usize)| -> Vec<&BenchCell> {
        cells.iter().filter(|cell| (cell.arrivals_per_s, cell.streams) == level).collect()
    };
    let speeds = |cells: &[&BenchCell]| -> Vec<f64> { cells.iter().map(|cell| cell.tokens_per_s).collect() };
    let single = speeds(&at((None, 1)));
    let row = |level: (Option<f64>, usize)| {
        let cells = at(level);
        let all = speeds(&cells);
        let per_stream: Vec<f64> = all.iter().map(|speed| speed / level.1 as f64).collect();
        let efficiency = level.0.is_none().then(|| summary::ratio_of_medians(&per_stream, &single, seed)).flatten();
        let token = merged_ms(cells.iter().map(|cell| &cell.token_histogram));
        let first = merged_ms(cells.iter().filter_map(|cell| cell.first_token_histogram.as_ref()));
        LoadRow {
            streams: level.1,
            arrivals_per_s: level.0,
            repetitions: cells.len(),
            tokens_per_s: median(&all),
            efficiency,
            token_ms: [token[2], token[3], token[4]],
            first_token_ms: [first[2], first[3], first[4]],
            fairness: cells.iter().filter_map(|cell| cell.fairness).min_by(f64::total_cmp),
        }
    };
    levels.into_iter().map(row).collect()
}
