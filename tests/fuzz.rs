//! Nothing that comes from outside makes soakd panic, hang or grow: frames, configurations, rules, model files, databases.
//!
//! Seeds are real inputs, damaged by a generator that prints its case on failure. A few hundred cases in a test run;
//! `SOAKD_FUZZ_SECONDS=600 cargo test --test fuzz -- --nocapture --test-threads=1` goes on for ten minutes each, from
//! `SOAKD_SEED`; `SOAKD_FUZZ_CASE=N` plays one case again.

use rusqlite::Connection;
use soakd::config::load_text;
use soakd::engine::{Feed, LoadOptions, Variant, gguf, load, synth};
use soakd::model::run::Absence;
use soakd::model::sample::WorkReading;
use soakd::probe::protocol::{FromProbe, ToProbe};
use soakd::rules::{DEFAULT_RULES, RuleSet, Templates};
use soakd::store::generate::{Fill, fill};
use soakd::store::sql::{Limits, Reader};
use soakd::store::{Mode, Store};
use soakd::supervisor::alerting::check_rules;
use soakd::wire::{self, Decoder};
use soakd::worker::protocol::{FromWorker, GoldenOutput, Mismatch, Sabotage, ToWorker};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One case that takes this long hangs: each is meant to take milliseconds.
const HANG: Duration = Duration::from_secs(120);
/// More than any case needs, tests of this file side by side included.
const MEMORY_BYTES_MAX: u64 = 1_500_000_000;
/// Cases in an ordinary test run.
const CASES: u64 = 250;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// `bytes` with one to eight things done to it, within its first `reach` bytes.
fn damaged(dice: &mut Dice, bytes: &[u8], reach: usize, words: &[&[u8]]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=dice.below(8) {
        let reach = reach.min(out.len());
        let at = dice.below(reach);
        let end = at + dice.below(64).min(out.len() - at);
        match dice.below(9) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..end)),
            2 => {
                let piece = out[at..end].to_vec();
                let to = dice.below(out.len());
                drop(out.splice(to..to, piece));
            }
            3 | 4 if !words.is_empty() => {
                let word = words[dice.below(words.len())];
                let end = (at + if dice.below(2) == 0 { 0 } else { word.len() }).min(out.len());
                drop(out.splice(at..end, word.iter().copied()));
            }
            5 if at + 8 <= out.len() => {
                let extreme = [0, 1, u64::MAX, i64::MAX as u64, u64::from(u32::MAX), 1 << 40, 0x7fff, 0x8000];
                out[at..at + 8].copy_from_slice(&extreme[dice.below(8)].to_le_bytes());
            }
            6 if at < out.len() => out[at] = dice.next() as u8,
            _ if at < out.len() => out[at] ^= 1 << dice.below(8),
            _ => {}
        }
    }
    out
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// A figure of this process in bytes, such as `VmHWM`.
fn memory_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().expect("a figure") * 1024
}

/// Plays cases until the time or the count is over. `weight`: how many times dearer than usual a case is.
fn fuzz(what: &'static str, weight: u64, one: impl Fn(&mut Dice)) {
    let seed = number("SOAKD_SEED").unwrap_or(1);
    let seconds = number("SOAKD_FUZZ_SECONDS");
    let cases = match (number("SOAKD_FUZZ_CASE"), seconds) {
        (Some(case), _) => case..case + 1,
        (None, Some(_)) => 0..u64::MAX,
        (None, None) => 0..CASES.div_ceil(weight),
    };
    let began = Instant::now();
    // The case under way and when it began, for the watchdog.
    let under_way = Arc::new((AtomicU64::new(0), AtomicU64::new(u64::MAX)));
    let watched = Arc::clone(&under_way);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let since = watched.1.load(Ordering::Relaxed);
            if since != u64::MAX && began.elapsed().as_millis() as u64 > since + HANG.as_millis() as u64 {
                eprintln!("{what}: case {} of seed {seed} hangs", watched.0.load(Ordering::Relaxed));
                std::process::abort();
            }
        }
    });
    let mut played = 0;
    for case in cases {
        if seconds.is_some_and(|seconds| began.elapsed().as_secs() >= seconds) {
            break;
        }
        under_way.0.store(case, Ordering::Relaxed);
        under_way.1.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        let mut dice = Dice(seed.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ case.wrapping_mul(0x2545_f491_4f6c_dd1d));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| one(&mut dice))) {
            under_way.1.store(u64::MAX, Ordering::Relaxed); // what hangs is over, too
            eprintln!("{what}: SOAKD_SEED={seed} SOAKD_FUZZ_CASE={case} panics");
            std::panic::resume_unwind(panic);
        }
        played += 1;
        if case % 64 == 0 {
            let peak = memory_bytes("VmHWM");
            assert!(peak < MEMORY_BYTES_MAX, "{what}: {peak} bytes by case {case} of seed {seed}");
        }
    }
    under_way.1.store(u64::MAX, Ordering::Relaxed);
    println!(
        "{what}: {played} cases from seed {seed} in {} s; peak memory of the process {} MB",
        began.elapsed().as_secs(),
        memory_bytes("VmHWM") / 1_000_000
    );
}

#[test]
fn frames() {
    let golden = GoldenOutput { backend: "cpu".into(), prompt: 1, tokens: vec![1, 2, 3], hash: 9 };
    let mismatch = Mismatch {
        prompt: 1,
        stream: 0,
        at_loop: 2,
        at_token: Some(3),
        expected: None,
        got: Some(1),
        expected_hash: 1,
        got_hash: 2,
    };
    let seeds: Vec<Vec<u8>> = vec![
        wire::encode(&FromWorker::Beat { progress: 7, reading: WorkReading::default() }),
        wire::encode(&FromWorker::Golden(golden)),
        wire::encode(&FromWorker::Mismatch(mismatch)),
        wire::encode(&FromWorker::CannotLoad { reason: "none".into() }),
        wire::encode(&FromProbe::Ready { pid: 7 }),
        wire::encode(&ToWorker::Sabotage(Sabotage::FlipWeight)),
        wire::encode(&ToWorker::Stop),
    ];
    let deep = "[".repeat(100_000);
    let words: Vec<&[u8]> =
        vec![b"SKD", b"\xff\xff\xff\xff", b"\0\0\x10\0", b"{\"beat\":", b"1e999", b"-1", b"null", deep.as_bytes()];
    fuzz("frames", 1, |dice| {
        let mut stream = Vec::new();
        for _ in 0..=dice.below(4) {
            stream.extend_from_slice(&seeds[dice.below(seeds.len())]);
        }
        if dice.below(4) == 0 {
            // A frame that is well-formed around a payload that is not.
            let payload = damaged(dice, &seeds[0][12..], usize::MAX, &words);
            let text = String::from_utf8_lossy(&payload).into_owned();
            stream.extend_from_slice(&wire::encode(&text));
        }
        let bytes = damaged(dice, &stream, usize::MAX, &words);
        fed::<FromWorker>(dice, &bytes);
        fed::<FromProbe>(dice, &bytes);
        fed::<ToWorker>(dice, &bytes);
        fed::<ToProbe>(dice, &bytes);
    });
}

/// In pieces, until an error or the end.
fn fed<T: serde::de::DeserializeOwned>(dice: &mut Dice, bytes: &[u8]) {
    let (mut decoder, mut rest) = (Decoder::default(), bytes);
    while !rest.is_empty() {
        let (piece, more) = rest.split_at((1 + dice.below(5_000)).min(rest.len()));
        rest = more;
        decoder.push(piece);
        loop {
            match decoder.next::<T>() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    assert!(error.to_string().len() < 2_000, "an error is one line for a log");
                    return;
                }
            }
        }
    }
}

const CONFIG_WORDS: [&[u8]; 14] = [
    b"\"",
    b"[",
    b"]]",
    b"=",
    b"\n",
    b"#",
    b"\"48h\"",
    b"-1",
    b"9223372036854775807",
    b"nan",
    b"[[x]]",
    b"\xc3\x28",
    b"''' ",
    b"1979-05-27T07:32:00Z",
];

#[test]
fn configurations() {
    let example = include_str!("../soak.toml");
    fuzz("configurations", 1, |dice| {
        let bytes = damaged(dice, example.as_bytes(), usize::MAX, &CONFIG_WORDS);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match load_text("soak.toml", &text, Path::new("")) {
            Ok(config) => {
                let again = load_text("soak.toml", &config.to_toml(), Path::new(""));
                assert_eq!(again, Ok(config), "what is understood can be written and read back");
            }
            Err(error) => assert!(error.to_string().starts_with("soak.toml"), "{error}"),
        }
    });
}

fn a_database(folder: &Path, seconds: i64) -> std::path::PathBuf {
    let path = folder.join("seed.db");
    let mut store = Store::open(&path, Mode::Write).expect("store");
    fill(&mut store, &Fill { seconds, leak_bytes_per_hour: 4_000_000, finish: false, ..Fill::default() })
        .expect("filled");
    path
}

#[test]
fn rules_and_their_sql() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = a_database(folder.path(), 300);
    let reader = Reader::open(&path).expect("reader");
    let names: Vec<&[u8]> = reader.schema().keys().map(String::as_bytes).collect();
    let mut words = CONFIG_WORDS.to_vec();
    words.extend(names);
    words.extend::<[&[u8]; 9]>([
        b"SELECT",
        b"WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM r) SELECT * FROM r",
        b"randomblob(1e9)",
        b":run",
        b"{{ x }}",
        b"{% for a in range(99999) %}x{% endfor %}",
        b"{{ 'x' * 99999 }}",
        b"ATTACH",
        b"printf('%.*c', 99999999, 'x')",
    ]);
    let params: Vec<(&str, serde_json::Value)> =
        soakd::rules::PARAMETERS.iter().map(|(name, _)| (*name, serde_json::json!(1))).collect();
    let templates = Templates::default();
    // One rule of the shipped ones at a time, or most damage would hit the others' prose.
    let each: Vec<&str> = DEFAULT_RULES.split("[[rule]]").skip(1).collect();
    fuzz("rules", 4, |dice| {
        let one = format!("[[rule]]{}", each[dice.below(each.len())]);
        let bytes = damaged(dice, one.as_bytes(), usize::MAX, &words);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let rules = match RuleSet::parse("rules.toml", &text) {
            Ok(rules) => rules,
            Err(error) => return assert!(error.to_string().starts_with("rules.toml:"), "{error}"),
        };
        let _ = check_rules(&rules, &reader); // complaints are answers
        for rule in &rules.rules {
            let until = Instant::now() + Duration::from_millis(200);
            let limits = Limits { rows_max: 100, expired: Box::new(move || Instant::now() >= until) };
            let Ok(rows) = reader.query_rows(&rule.sql, &params, limits) else { continue };
            let row = rows.columns.into_iter().zip(rows.rows.into_iter().next().unwrap_or_default()).collect();
            for template in [&rule.summary, &rule.description, &rule.meaning, &rule.runbook] {
                assert!(templates.render(template, &row).len() < 100_000, "a template's text is bounded");
            }
        }
    });
}

#[test]
fn model_files() {
    let mut good = Vec::new();
    synth::write_gguf("tiny", Variant::Q4_K, 1, &mut good).expect("written");
    let header = good.windows(18).rposition(|window| window == b"output_norm.weight").map_or(8_000, |at| at + 64);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    let words: [&[u8]; 6] =
        [b"llama.context_length", b"general.alignment", b"token_embd.weight", b"GGUF", b"\x0c\0\0\0", b"\x09\0\0\0"];
    fuzz("model files", 4, |dice| {
        let bytes = damaged(dice, &good, header, &words);
        let Ok(_) = gguf::parse("model.gguf", &bytes) else { return };
        std::fs::write(&path, &bytes).expect("written");
        let options = LoadOptions { model: path.display().to_string(), threads: 1, ..LoadOptions::default() };
        match load(&options) {
            Ok(mut engine) => {
                let mut nexts = Vec::new();
                let _ = engine.step(&[Feed { slot: 0, tokens: &[1, 2] }], &mut nexts); // refused is as good as done
            }
            Err(error) => assert!(error.to_string().len() < 2_000, "{error}"),
        }
    });
}

#[test]
fn databases() {
    let folder = tempfile::tempdir().expect("a folder");
    let seed = a_database(folder.path(), 400);
    let good = std::fs::read(&seed).expect("read");
    // The same with its last transactions still in the WAL, as a killed supervisor leaves it.
    let open = Connection::open(&seed).expect("opened");
    open.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; UPDATE run SET scenario = 'churn'; DELETE FROM host_sample;")
        .expect("written");
    let beside = |suffix: &str| folder.path().join(format!("victim.db{suffix}"));
    let wal = std::fs::read(folder.path().join("seed.db-wal")).expect("a WAL");
    drop(open);
    let words: [&[u8]; 5] =
        [b"SQLite format 3\0", b"CREATE TABLE run", b"\x0d\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"v_runs"];
    fuzz("databases", 10, |dice| {
        for suffix in ["", "-wal", "-shm", "-lock", "-reserve"] {
            let _ = std::fs::remove_file(beside(suffix)); // not there is as good
        }
        // Half of the damage to the first pages, where the schema is.
        let reach = if dice.below(2) == 0 { 60_000 } else { usize::MAX };
        let bytes = damaged(dice, &good, reach, &words);
        std::fs::write(beside(""), &bytes).expect("written");
        if dice.below(3) == 0 {
            std::fs::write(beside("-wal"), damaged(dice, &wal, usize::MAX, &words)).expect("written");
        }
        if let Ok(reader) = Reader::open(beside("")) {
            let views: Vec<String> = reader.schema().keys().cloned().collect();
            for view in views {
                let until = Instant::now() + Duration::from_millis(300);
                let limits = Limits { rows_max: 5_000, expired: Box::new(move || Instant::now() >= until) };
                let _ = reader.query_rows(&format!("SELECT * FROM \"{view}\""), &[], limits); // an error is an answer
            }
        }
        if let Ok(store) = Store::open(beside(""), Mode::ReadOnly) {
            for run in [store.newest_run().ok().flatten().unwrap_or(1), 1] {
                if let Ok(Some(facts)) = store.run_facts(run, 50, soakd::model::time::UnixMillis(1_790_001_000_000)) {
                    let _ = soakd::report::json::render(&facts, &[]);
                }
            }
            let _ = store.host_summary();
            let _ = (
                store.outbox_heads(),
                store.outbox_counts(),
                store.golden(1, "cpu"),
                store.alerts(1, soakd::model::time::UnixMillis(0)),
            );
        }
        match Store::open(beside(""), Mode::Write) {
            Ok(mut store) => {
                if let Ok(Some(run)) = store.unfinished_run("gpu7") {
                    let _ = store.resume(
                        &run,
                        soakd::model::time::UnixMillis(1_790_001_000_000),
                        Absence::SupervisorDown,
                        "",
                    );
                }
            }
            Err(error) => {
                assert!(error.to_string().contains("victim.db"), "the message names the file: {error}");
                assert_eq!(std::fs::read(beside("")).expect("it is there"), bytes, "what is refused is left as it is");
            }
        }
    });
}
