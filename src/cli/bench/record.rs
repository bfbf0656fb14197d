//! What `bench` and `load` share: the bench's row in the database, answers as cells, cells as summed-up rows.

use super::super::CannotStart;
use super::child::Child;
use super::heat::{self, Heat};
use crate::analysis::summary::{self, Summary};
use crate::model::measure::{BenchCell, BenchKind, Estimate, NewBench};
use crate::store::{Mode, Store};
use crate::worker::bench::protocol::{Answer, Measured, OpenedModel, Order};
use crate::{clock, probe};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use std::path::Path;

/// Longest latency told apart, microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// An open database with the bench that is being measured.
pub(in crate::cli) struct Book {
    pub(in crate::cli) store: Store,
    pub(in crate::cli) id: i64,
    pub(in crate::cli) bench: NewBench,
    /// Cells that an earlier start measured.
    pub(in crate::cli) done: Vec<BenchCell>,
}

/// Where to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Place {
    pub(in crate::cli) backend: String,
    pub(in crate::cli) device: u32,
    pub(in crate::cli) threads: usize,
}

impl Book {
    /// Goes on with the unfinished bench of the same settings, or begins one (measuring the ceiling). The model comes
    /// with its seed and the context of each stream.
    pub(in crate::cli) fn open(
        db: &Path,
        kind: BenchKind,
        settings: String,
        (model, seed, context_tokens): (&str, u64, usize),
        place: &mut Place,
        fresh: bool,
    ) -> Result<Book, CannotStart> {
        let mut store = Store::open(db, Mode::Write).map_err(CannotStart::because)?;
        let host = probe::host::hostname();
        let found = store.unfinished_bench(kind, &settings, &host).map_err(CannotStart::because)?;
        if let Some((id, bench)) = found.filter(|_| !fresh) {
            let done = store.bench_cells(id, kind).map_err(CannotStart::because)?;
            eprintln!("going on with bench {id}, which has {} of its measurements (--fresh begins anew)", done.len());
            place.backend.clone_from(&bench.backend);
            return Ok(Book { store, id, bench, done });
        }
        let (read, copy, device) = ceiling(place)?;
        let bench = NewBench {
            kind,
            started: clock::now().wall,
            settings,
            backend: place.backend.clone(),
            device,
            model: model.to_owned(),
            seed,
            context_tokens,
            host,
            driver: heat::read(place).driver,
            read_ceiling_bytes_per_s: Some(read),
            copy_bytes_per_s: copy,
        };
        let id = store.record(|tx| tx.start_bench(&bench)).map_err(CannotStart::because)?;
        Ok(Book { store, id, bench, done: Vec::new() })
    }

    /// Ends the bench.
    pub(in crate::cli) fn end(&mut self) -> Result<(), CannotStart> {
        let (id, now) = (self.id, clock::now().wall);
        self.store.record(|tx| tx.end_bench(id, now)).map_err(CannotStart::because)
    }
}

/// Measures the memory; turns `auto` into what there is.
fn ceiling(place: &mut Place) -> Result<(f64, Option<f64>, String), CannotStart> {
    let wanted: &[&str] = if place.backend == "auto" { &["cuda", "cpu"] } else { &[place.backend.as_str()] };
    let mut reasons = Vec::new();
    for backend in wanted.iter().map(ToString::to_string).collect::<Vec<_>>() {
        let order = Order::Ceiling { backend: backend.clone(), device: place.device, threads: place.threads };
        match Child::start()?.ask(&order) {
            Ok(Answer::Ceiling { read_bytes_per_s, copy_bytes_per_s, device }) => {
                place.backend = backend;
                return Ok((read_bytes_per_s, copy_bytes_per_s, device));
            }
            Ok(other) => reasons.push(format!("{backend}: unexpected answer {other:?}")),
            Err(reason) => reasons.push(format!("{backend}: {reason}")),
        }
    }
    Err(CannotStart(reasons.join("; ")))
}

/// Which measurement a cell is.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Named {
    pub(in crate::cli) variant: String,
    pub(in crate::cli) streams: usize,
    pub(in crate::cli) arrivals_per_s: Option<f64>,
    pub(in crate::cli) sequence: u32,
}

/// An answer as a cell that began at `at`. `None` if no token was timed.
pub(in crate::cli) fn cell(
    named: Named,
    at: crate::model::time::UnixMillis,
    opened: &OpenedModel,
    measured: &Measured,
    heat: &Heat,
) -> Option<BenchCell> {
    let Named { variant, streams, arrivals_per_s, sequence } = named;
    Some(BenchCell {
        variant,
        streams,
        arrivals_per_s,
        sequence,
        at,
        took_us: measured.took_us,
        tokens: measured.tokens,
        requests: measured.requests,
        tokens_per_s: measured.tokens as f64 / (measured.took_us.max(1) as f64 / 1e6),
        weight_bytes: opened.weight_bytes,
        weight_bytes_per_token: opened.weight_bytes_per_token,
        held_host_bytes: opened.held_host_bytes,
        held_device_bytes: opened.held_device_bytes,
        kernel: Some(opened.kernel.clone()),
        temperature_celsius: heat.temperature_celsius,
        sm_clock_mhz: heat.sm_clock_mhz,
        token_histogram: recorded(&measured.token_us)?,
        first_token_histogram: recorded(&measured.first_token_us),
        fairness: summary::fairness(&measured.stream_tokens),
        long_context: None,
    })
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the constant bounds are valid")
}

/// Latencies as a histogram's bytes. `None` if there are none.
fn recorded(us: &[u32]) -> Option<Vec<u8>> {
    let mut histogram = histogram();
    us.iter().for_each(|&us| histogram.saturating_record(u64::from(us.max(1))));
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(&histogram, &mut bytes).expect("a Vec takes every write");
    (!us.is_empty()).then_some(bytes)
}

/// Histograms merged: mean, standard deviation, p50, p95, p99, milliseconds.
pub(in crate::cli) fn merged_ms<'a>(histograms: impl Iterator<Item = &'a Vec<u8>>) -> [f64; 5] {
    let mut all = histogram();
    for bytes in histograms {
        if let Ok(one) = Deserializer::new().deserialize::<u64, _>(&mut bytes.as_slice()) {
            let _ = all.add(one); // the same bounds
        }
    }
    let at = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1e3;
    [all.mean() / 1e3, all.stdev() / 1e3, at(0.50), at(0.95), at(0.99)]
}

/// Median of repetitions with its interval.
pub(in crate::cli) fn median(values: &[f64]) -> Estimate {
    Summary::of(values).map_or(Estimate { value: 0.0, lo: 0.0, hi: 0.0, confidence: 0.0 }, |summed| summed.p50)
}

/// Says how far it is, on stderr.
pub(in crate::cli) struct Progress {
    began_us: i64,
    done: usize,
    total: usize,
}

impl Progress {
    pub(in crate::cli) fn new(total: usize) -> Progress {
        Progress { began_us: clock::micros(), done: 0, total }
    }

    pub(in crate::cli) fn step(&mut self, what: &str) {
        self.done += 1;
        let spent = (clock::micros() - self.began_us) as f64 / 1e6;
        let left = spent / self.done as f64 * (self.total - self.done) as f64;
        eprintln!("[{:>3}/{}] {what}   (about {left:.0} s left)", self.done, self.total);
    }
}
