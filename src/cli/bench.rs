//! `soakd bench`: the variants side by side. Measuring happens in a child, statistics in `analysis`, words in `report`.

pub(super) mod child;
pub(super) mod heat;
pub(super) mod record;

use super::{CannotStart, Done, Format, Outcome};
use crate::clock;
use crate::model::bench::Expectation;
use crate::model::measure::{BenchCell, BenchKind, BenchQuality, LongContext, VariantRow};
use crate::report::bench as report;
use crate::worker::bench::protocol::{Answer, BenchPlan, Order};
use child::Child;
use record::{Book, Named, Place, Progress, cell, median, merged_ms};
use std::path::PathBuf;

/// The variants, in the order in which they are shown.
const VARIANTS: [&str; 6] = ["q2_k", "q4_k", "q5_k_m", "q6_k", "q8_0", "hybrid"];
/// Ships inside the program; `--expectations` replaces it.
const EXPECTATIONS: &str = include_str!("../../gates/expectations.toml");
/// How much longer the second context is that shows what attention costs.
const LONG_CONTEXT_FACTOR: usize = 4;

/// Measure variants side by side: speed, memory, precision, and where the time goes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd bench --model synthetic:22b --backend cuda
  soakd bench --model synthetic:tiny --variants q4_k,q8_0 --repetitions 2 --tokens 16
  soakd bench --format json | jq '.decisions'

Repetitions go round over the variants, each time in another order, so that a machine that warms up or is disturbed \
favours none. Every measurement is stored when it is made: the same command goes on where it was cut short. Precision is \
measured on the CPU against the same weights unquantised (--quality-model; none to leave it out).")]
pub struct Args {
    /// synthetic:NAME; variants of a file's weights are measured for precision with --quality-model
    #[arg(long, default_value = "synthetic:small")]
    model: String,
    /// Which variants
    #[arg(long, value_delimiter = ',', default_values_t = VARIANTS.map(String::from))]
    variants: Vec<String>,
    /// auto, cpu or cuda
    #[arg(long, default_value = "auto")]
    backend: String,
    /// Which GPU, from 0
    #[arg(long, default_value_t = 0)]
    device: u32,
    /// CPU threads; 0: one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Streams that decode together
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Repetitions of each variant; six give the median a 95 % interval
    #[arg(long, default_value_t = 6)]
    repetitions: u32,
    /// Timed tokens of each stream in each repetition
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Untimed tokens before them
    #[arg(long, default_value_t = 16)]
    warm_up: usize,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 128)]
    prompt_tokens: usize,
    /// Whose weights precision is measured on: synthetic:NAME, a file, or none
    #[arg(long, default_value = "synthetic:tiny")]
    quality_model: String,
    /// Positions at which it is measured
    #[arg(long, default_value_t = 256)]
    quality_positions: usize,
    /// What to set beside the measurements (TOML); default: the roadmap's figures
    #[arg(long, value_name = "FILE")]
    expectations: Option<PathBuf>,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Database
    #[arg(long, default_value = "soak.db")]
    db: PathBuf,
    /// Do not go on with an unfinished bench
    #[arg(long)]
    fresh: bool,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Measures what is not yet measured, then shows all of it.
pub fn execute(args: &Args) -> Done {
    check(args)?;
    let expectations = read_expectations(args)?;
    let mut place = Place { backend: args.backend.clone(), device: args.device, threads: args.threads };
    let mut book = Book::open(
        &args.db,
        BenchKind::Bench,
        settings(args),
        (&args.model, args.seed, context(args)),
        &mut place,
        args.fresh,
    )?;
    measure(args, &mut book, &place)?;
    measure_quality(args, &mut book)?;
    book.end()?;
    let quality = book.store.bench_quality(book.id).map_err(CannotStart::because)?;
    let rows = rows(args, &book, &quality);
    match args.format {
        Format::Json => println!("{}", report::variants_json(book.id, &book.bench, &rows, &expectations)),
        Format::Text => {
            print!("{}", report::variants_text(&book.bench, &rows, &expectations, args.streams));
            println!("stored as bench {} in {} (view v_bench)", book.id, args.db.display());
        }
    }
    Ok(Outcome::Passed)
}

fn check(args: &Args) -> Result<(), CannotStart> {
    if let Some(unknown) = args.variants.iter().find(|variant| !VARIANTS.contains(&variant.as_str())) {
        return Err(CannotStart(format!("no variant is called {unknown:?}; there are {}", VARIANTS.join(", "))));
    }
    if !args.model.starts_with("synthetic:") {
        let reason = "has one set of types; variants are measured on synthetic:NAME shapes, and a file's precision with --quality-model";
        return Err(CannotStart(format!("{}: a file {reason}", args.model)));
    }
    if args.repetitions == 0 || args.tokens == 0 || args.streams == 0 || args.variants.is_empty() {
        return Err(CannotStart("--repetitions, --tokens, --streams and --variants must not be zero".into()));
    }
    if !["auto", "cpu", "cuda"].contains(&args.backend.as_str()) {
        return Err(CannotStart(format!("no back end is called {:?}; there are auto, cpu and cuda", args.backend)));
    }
    Ok(())
}

/// Everything that decides what is measured.
fn settings(args: &Args) -> String {
    serde_json::json!({
        "model": args.model, "variants": args.variants, "backend": args.backend, "device": args.device, "threads": args.threads,
        "streams": args.streams, "repetitions": args.repetitions, "tokens": args.tokens, "warm_up": args.warm_up,
        "prompt_tokens": args.prompt_tokens, "quality_model": args.quality_model, "quality_positions": args.quality_positions,
        "seed": args.seed,
    })
    .to_string()
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectationFile {
    expect: Vec<Expectation>,
}

fn read_expectations(args: &Args) -> Result<Vec<Expectation>, CannotStart> {
    let (name, text) = match &args.expectations {
        None => ("the shipped expectations".to_string(), EXPECTATIONS.to_string()),
        Some(path) => {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| CannotStart(format!("{shown}: cannot be read: {error}; check --expectations")))?;
            (shown, text)
        }
    };
    let file: ExpectationFile = toml::from_str(&text).map_err(|error| CannotStart(format!("{name}: {error}")))?;
    Ok(file.expect)
}

/// Tokens that the long context has.
fn long_prompt(args: &Args) -> usize {
    (args.prompt_tokens + args.warm_up + args.tokens) * LONG_CONTEXT_FACTOR
}

fn measure(args: &Args, book: &mut Book, place: &Place) -> Result<(), CannotStart> {
    let mut plan = Vec::new();
    for repetition in 1..=args.repetitions {
        // Each round begins with another variant, and every other one goes backwards.
        let count = args.variants.len();
        let mut order: Vec<&String> = (0..count).map(|i| &args.variants[(i + repetition as usize) % count]).collect();
        if repetition % 2 == 0 {
            order.reverse();
        }
        plan.extend(order.into_iter().cloned());
    }
    let mut plan: Vec<(u32, String)> = (0..).zip(plan).collect();
    plan.retain(|(sequence, _)| !book.done.iter().any(|done| done.sequence == *sequence));
    let mut progress = Progress::new(plan.len());
    let long = long_prompt(args);
    for (sequence, variant) in plan {
        let failed = |reason: String| CannotStart(format!("{} as {variant}: {reason}", args.model));
        let mut child = Child::start()?;
        let opened = child
            .open(&Order::Open(BenchPlan {
                backend: place.backend.clone(),
                device: place.device,
                model: args.model.clone(),
                variant: variant.clone(),
                streams: args.streams,
                context_tokens: context(args),
                threads: place.threads,
                seed: args.seed,
            }))
            .map_err(failed)?;
        let at = clock::now().wall;
        let decode = |prompt_tokens: usize, steps: usize| Order::Decode {
            streams: args.streams,
            prompt_tokens,
            warm_up_steps: args.warm_up,
            steps,
        };
        let measured = child.measure(&decode(args.prompt_tokens, args.tokens)).map_err(failed)?;
        let heat = heat::read(place);
        let with_long = child.measure(&decode(long, args.tokens.min(16))).map_err(failed)?;
        let named = Named { variant: variant.clone(), streams: args.streams, arrivals_per_s: None, sequence };
        let mut cell = cell(named, at, &opened, &measured, &heat).ok_or_else(|| failed("nothing was timed".into()))?;
        let mut steps = with_long.token_us;
        steps.sort_unstable();
        cell.long_context = Some(LongContext {
            short_tokens: (args.prompt_tokens + args.warm_up + args.tokens / 2) as u32,
            long_tokens: (long + args.warm_up + args.tokens.min(16) / 2) as u32,
            step_us: i64::from(steps[steps.len() / 2]),
        });
        progress.step(&format!("{variant}: {:.1} tok/s", cell.tokens_per_s));
        book.done.push(cell);
        store_variant(args, book, &variant, None)?;
    }
    Ok(())
}

/// Context that each stream has room for.
fn context(args: &Args) -> usize {
    long_prompt(args) + args.tokens + args.warm_up
}

/// Puts the newest repetition (if it is of this variant) and the variant's sums on the disk, together.
fn store_variant(
    args: &Args,
    book: &mut Book,
    variant: &str,
    quality: Option<BenchQuality>,
) -> Result<(), CannotStart> {
    let known = book.store.bench_quality(book.id).map_err(CannotStart::because)?;
    let quality: Vec<BenchQuality> = quality.into_iter().chain(known).collect();
    let Some(row) = rows(args, book, &quality).into_iter().find(|row| row.variant == variant) else { return Ok(()) };
    let cells = || book.done.iter().filter(|cell| cell.variant == variant);
    let tokens = cells().map(|cell| cell.tokens).sum();
    let held = cells().next().map_or((0, None), |cell| (cell.held_host_bytes, cell.held_device_bytes));
    let newest = book.done.last().filter(|cell| cell.variant == variant).cloned();
    let id = book.id;
    let stored = book.store.record(|tx| {
        if let Some(cell) = &newest {
            tx.add_repetition(id, cell)?;
        }
        tx.put_variant(id, &row, tokens, held)
    });
    stored.map_err(CannotStart::because)
}

fn measure_quality(args: &Args, book: &mut Book) -> Result<(), CannotStart> {
    if args.quality_model == "none" {
        return Ok(());
    }
    let known = book.store.bench_quality(book.id).map_err(CannotStart::because)?;
    let mut child = Child::start()?;
    for variant in args.variants.iter().filter(|variant| !known.iter().any(|known| known.variant == **variant)) {
        eprintln!("precision of {variant} on {}", args.quality_model);
        let order = Order::Quality {
            model: args.quality_model.clone(),
            variant: variant.clone(),
            seed: args.seed,
            positions: args.quality_positions,
            threads: args.threads,
        };
        let answer = child.ask(&order).map_err(|reason| CannotStart(format!("precision of {variant}: {reason}")))?;
        let Answer::Quality { kl_mean_nats, kl_p95_nats, same_top_ratio, bits_per_weight } = answer else {
            return Err(CannotStart(format!("precision of {variant}: unexpected answer {answer:?}")));
        };
        let quality = BenchQuality {
            variant: variant.clone(),
            reference: args.quality_model.clone(),
            positions: args.quality_positions,
            kl_mean_nats,
            kl_p95_nats,
            same_top_ratio,
            bits_per_weight,
        };
        store_variant(args, book, variant, Some(quality))?;
    }
    Ok(())
}

/// What computed these cells: one, unless soakd or the driver changed between two parts of a resumed bench.
fn kernels(cells: &[&BenchCell]) -> Option<String> {
    let mut names: Vec<&str> = cells.iter().filter_map(|cell| cell.kernel.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Cells summed up, in the order of the variants asked for.
fn rows(args: &Args, book: &Book, quality: &[BenchQuality]) -> Vec<VariantRow> {
    let row = |variant: &String| {
        let cells: Vec<_> = book.done.iter().filter(|cell| cell.variant == *variant).collect();
        let first = cells.first()?;
        let speeds: Vec<f64> = cells.iter().map(|cell| cell.tokens_per_s).collect();
        let step_ms = merged_ms(cells.iter().map(|cell| &cell.token_histogram));
        // Milliseconds that attention adds a token of context: from the difference of the two contexts.
        let slopes: Vec<f64> = cells
            .iter()
            .filter_map(|cell| {
                let long = cell.long_context?;
                let more = f64::from(long.long_tokens) - f64::from(long.short_tokens);
                let short_ms = merged_ms(std::iter::once(&cell.token_histogram))[2];
                Some((long.step_us as f64 / 1e3 - short_ms) / more)
            })
            .collect();
        let slope = (!slopes.is_empty()).then(|| median(&slopes).value.max(0.0));
        let short = first.long_context.map(|long| f64::from(long.short_tokens));
        Some(VariantRow {
            variant: variant.clone(),
            repetitions: cells.len(),
            weight_bytes: first.weight_bytes,
            weight_bytes_per_token: first.weight_bytes_per_token,
            held_bytes: first.held_device_bytes.unwrap_or(first.held_host_bytes),
            tokens_per_s: median(&speeds),
            step_ms,
            attention_ms_per_1000_tokens: slope.map(|slope| slope * 1e3),
            attention_ms: slope.zip(short).map(|(slope, tokens)| slope * tokens),
            quality: quality.iter().find(|quality| quality.variant == *variant).cloned(),
            temperature_celsius: cells
                .first()
                .and_then(|cell| cell.temperature_celsius)
                .zip(cells.last().and_then(|cell| cell.temperature_celsius))
                .map(|(first, last)| [first, last]),
            kernel: kernels(&cells),
        })
    };
    args.variants.iter().filter_map(row).collect()
}
