//! What the database costs: writing two days of samples, opening every view, and one evaluation of all alert rules.
//!
//! ```text
//! cargo bench --bench store
//! ```
//! Processor time is shown beside wall-clock time: on a busy machine it is the fairer one.

use nix::sys::resource::{UsageWho, getrusage};
use soakd::clock;
use soakd::model::time::{MonoMillis, Now, UnixMillis};
use soakd::rules::{Moment, RuleSet};
use soakd::store::generate::{Fill, fill};
use soakd::store::sql::{Limits, Reader};
use soakd::store::{Mode, Store};
use soakd::supervisor::alerting::{AlertContext, Alerting};
use std::path::Path;

/// Milliseconds of wall-clock and of processor time that `work` takes.
fn timed<T>(work: impl FnOnce() -> T) -> (T, i64, i64) {
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage");
        let (user, system) = (usage.user_time(), usage.system_time());
        (user.tv_sec() + system.tv_sec()) * 1_000 + (user.tv_usec() + system.tv_usec()) / 1_000
    };
    let (wall, busy) = (clock::now().mono, cpu());
    let done = work();
    (done, clock::now().mono.since(wall), cpu() - busy)
}

fn main() {
    let folder = tempfile::tempdir().expect("folder");
    let path = std::env::args()
        .skip(1)
        .find(|arg| Path::new(arg).extension().is_some_and(|e| e == "db"))
        .map_or(folder.path().join("soak.db"), Into::into);
    let mut store = Store::open(&path, Mode::Write).expect("store");
    let two_days = Fill { finish: false, ..Fill::default() };
    let (run_id, wall, cpu) = timed(|| fill(&mut store, &two_days).expect("fill"));
    let bytes = std::fs::metadata(&path).expect("file").len();
    println!("48 h written, a minute a transaction: {wall} ms, {cpu} ms of CPU, {:.1} MB", bytes as f64 / 1e6);
    rules(&mut store, run_id, &two_days);
    drop(store);
    let reader = Reader::open(&path).expect("reader");
    for view in reader.schema().keys().filter(|name| name.starts_with("v_")) {
        let limits = Limits { rows_max: 1_000_000, expired: Box::new(|| false) };
        let (rows, wall, cpu) =
            timed(|| reader.query_rows(&format!("SELECT * FROM {view}"), &[], limits).expect("view").rows.len());
        println!("{view:<20} {rows:>7} rows {wall:>6} ms, {cpu:>5} ms of CPU");
    }
}

/// All shipped rules against two days of samples, as the supervisor evaluates them every 15 s.
fn rules(store: &mut Store, run_id: i64, two_days: &Fill) {
    let context = AlertContext {
        run_id,
        host: "gpu7".into(),
        started: two_days.started,
        duration_ms: two_days.seconds * 1_000,
        horizon_ms: 172_800_000,
        tolerance_bytes: 50_000_000,
        what: "generated".into(),
        token_p95_max_us: Some(60_000),
        first_token_p95_max_us: Some(1_000_000),
        throughput_min: Some(10.0),
        canary_due_ms: Some(43_200_000),
        digest_every_ms: Some(86_400_000),
    };
    let mut alerting = Alerting::open(store, context, RuleSet::builtin()).expect("alerting");
    let end = two_days.started.0 + two_days.seconds * 1_000;
    let ticks = 40;
    let ((), wall, cpu) = timed(|| {
        for tick in 0..ticks {
            let now = Now { wall: UnixMillis(end + tick * 15_000), mono: MonoMillis(tick * 15_000) };
            let report = alerting.tick(store, now, Moment::Regular).expect("tick");
            assert!(report.failed.is_empty(), "{:?}", report.failed);
        }
    });
    println!(
        "all {} rules once, at hour 48: {:.1} ms, {:.1} ms of CPU ({:.3} % of a core every 15 s)",
        alerting.rules().rules.len(),
        wall as f64 / ticks as f64,
        cpu as f64 / ticks as f64,
        cpu as f64 / ticks as f64 / 150.0
    );
}
