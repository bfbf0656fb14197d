//! The beginning of a run: the database, an unfinished run to go on with or a new one, and all that is known of it.

use super::alarms::Alarms;
use super::core::{Beginning, Core, millis, params};
use super::history;
use super::ledger::{Entry, Ledger};
use super::roles::Roles;
use super::tally::Counts;
use super::watch::Watch;
use crate::config::{self, Config};
use crate::lifecycle::run::stepped_unseen;
use crate::model::finding::Verdict;
use crate::model::run::{RunEnd, RunPlan, RunState, UnfinishedRun};
use crate::model::time::Now;
use crate::probe::host;
use crate::store::sql::QueryError;
use crate::store::{Mode, Store, StoreError};
use crate::worker::heap::keep_large_blocks_out;
use crate::worker::protocol::{GoldenOutput, Sabotage};
use std::path::Path;

/// A row that is newer than the last heartbeat by more than this was written before the clock was stepped back: beats are
/// 10 s apart.
const BEATS_APART_MS: i64 = 15_000;

/// How a run is to be made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What, how long, and what about it.
    pub config: Config,
    /// Begin a new run even if there is an unfinished one.
    pub fresh: bool,
    /// Damage on purpose: uptime from which on, milliseconds, and what.
    pub sabotage: Vec<(i64, Sabotage)>,
    /// How many seconds each second counts as for the analysis; `None`: one. A drill is in a hurry, and says so.
    pub pace: Option<u32>,
    /// The run of a process that died, whose restart this is: if that run is over, none is wanted.
    pub soaked_before: Option<i64>,
}

/// Why a run could not begin. `Display` is prose with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// What the database holds of an unfinished run.
    #[error("run {run_id} is unfinished and cannot be gone on with: {why}. Begin a new one with --fresh")]
    Resume {
        /// Its row.
        run_id: i64,
        /// Why.
        why: String,
    },
    /// The alert rules.
    #[error("{0}")]
    Rules(String),
    /// The machine refuses something that every machine has.
    #[error("{0}")]
    Machine(String),
}

/// How the past of a run that goes on is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPast {
    /// Beside the event loop, which turns meanwhile.
    Beside,
    /// Before anything else: where time stands still until it is done.
    First,
}

/// Opens the database and makes a core for the unfinished run in it, for one that has its verdict but was cut off before
/// that was told, or for a new one.
pub fn begin(options: Options, now: Now, suspended_ms: i64, past: ReadPast) -> Result<Core, StartError> {
    keep_large_blocks_out();
    let mut store = Store::open(&options.config.run.database, Mode::Write)?;
    let hostname = host::hostname();
    let (unfinished, untold) = (store.unfinished_run(&hostname)?, store.untold_run(&hostname, options.soaked_before)?);
    if options.fresh {
        if let Some(run) = &unfinished {
            give_up(&mut store, run, now)?;
        }
        if let Some((run, _)) = &untold {
            store.close_processes(run)?;
        }
    }
    let found = Found { unfinished, untold };
    let beginning = match found {
        Found { unfinished: Some(run), .. } if !options.fresh => go_on(options, store, run, past, now, suspended_ms)?,
        Found { untold: Some((run, end)), .. } if !options.fresh => tell(options, store, &run, end, now, suspended_ms)?,
        _ => anew(options, store, hostname, now, suspended_ms)?,
    };
    Ok(Core::new(beginning))
}

struct Found {
    unfinished: Option<UnfinishedRun>,
    untold: Option<(UnfinishedRun, RunEnd)>,
}

/// All that is known of a run that nothing has happened in yet.
fn blank(options: Options, ledger: Ledger, alarms: Alarms, now: Now, suspended_ms: i64) -> Beginning {
    let Options { config, sabotage, pace, .. } = options;
    Beginning {
        alarms,
        served_ms: 0,
        resumed: false,
        ended: None,
        golden: Vec::new(),
        counts: Counts::default(),
        ledger,
        watch: Watch::new(params(&config), pace).with_known_caches(config.target.known_caches),
        roles: Roles::default(),
        pid: std::process::id().cast_signed(),
        now,
        suspended_ms,
        sabotage,
        config,
    }
}

fn anew(
    options: Options,
    mut store: Store,
    hostname: String,
    now: Now,
    suspended_ms: i64,
) -> Result<Beginning, StartError> {
    let plan = plan(&options.config, hostname, now);
    Alarms::open(&store, &options.config, 0, &plan)?; // a bad rule is found before there is a run
    let run_id = store.start_run(&plan)?;
    let alarms = Alarms::open(&store, &options.config, run_id, &plan)?;
    Ok(blank(options, Ledger::new(store, run_id), alarms, now, suspended_ms))
}

fn go_on(
    options: Options,
    mut store: Store,
    mut run: UnfinishedRun,
    how: ReadPast,
    now: Now,
    suspended_ms: i64,
) -> Result<Beginning, StartError> {
    let (database, run_id) = (options.config.run.database.clone(), run.run_id);
    let unreadable = |error: QueryError| StartError::Resume { run_id, why: error.to_string() };
    // The newest row may be later than the last one: the clock may have been stepped back since.
    let beat = store.heartbeat_of("supervisor")?.filter(|beat| beat.run_id == Some(run_id));
    if let Some(beat) = beat.filter(|beat| run.last_seen.0 - beat.at.0 > BEATS_APART_MS) {
        run.last_seen = beat.at;
    }
    let boot = host::boot();
    let clocks = if beat.is_some() { store.clocks_of("supervisor", &boot)? } else { None };
    run.stepped_ms = stepped_unseen(clocks, run.last_seen, now);
    let known = history::known(&database, run_id).map_err(unreadable)?;
    let config = go_on_as_before(options.config, &run)?;
    let golden = golden(&store, run_id)?;
    let absence = run.absence(&boot);
    store.resume(&run, now.wall, absence, &boot)?;
    // With the gap up to now taken off, which begins at the last sample and not at whatever was written last.
    let served_ms = (now.wall.0 - run.plan.started.0 - store.unwatched_ms(run_id)?).max(0);
    let roles = Roles::known_before(known.roles);
    let ago_s = (now.wall.0 - run.stepped_ms - run.last_seen.0) as f64 / 1e3;
    tracing::info!("run {run_id} goes on; it was last watched {ago_s:.1} s ago: {}", absence.in_words());
    let alarms = Alarms::open(&store, &config, run_id, &run.plan)?;
    let warm_up_ms = millis(config.target.warm_up);
    let mut going = blank(Options { config, ..options }, Ledger::new(store, run_id), alarms, now, suspended_ms);
    let new = || Watch::new(params(&going.config), options.pace).with_known_caches(going.config.target.known_caches);
    going.watch = match how {
        ReadPast::First => history::replay(&database, run_id, warm_up_ms, new()).map_err(unreadable)?,
        ReadPast::Beside => {
            let reading = history::beside(database, run_id, warm_up_ms, new());
            new().awaiting(reading.map_err(|error| StartError::Machine(format!("no thread can be started: {error}")))?)
        }
    };
    roles.names().for_each(|(ordinal, name)| going.watch.name_role(ordinal, name));
    Ok(Beginning { served_ms, resumed: true, golden, counts: known.counts, roles, ..going })
}

/// A run has its verdict, but its supervisor was killed before all of that was told: it is told now, and nothing is soaked
/// once more. Whoever started us (systemd, after a failure) wanted this run.
fn tell(
    options: Options,
    store: Store,
    run: &UnfinishedRun,
    end: RunEnd,
    now: Now,
    suspended_ms: i64,
) -> Result<Beginning, StartError> {
    let run_id = run.run_id;
    tracing::warn!(
        "run {run_id} has its verdict already; soakd was killed before it had left. No new run is begun: start again, or with \
         --fresh, for that"
    );
    let config = go_on_as_before(options.config, run)?;
    let known =
        history::known(store.path(), run_id).map_err(|error| StartError::Resume { run_id, why: error.to_string() })?;
    let alarms = Alarms::open(&store, &config, run_id, &run.plan)?;
    let mut ledger = Ledger::new(store, run_id);
    // With our own row, or not at all: killed in between, the next start must still see that this is untold.
    ledger.put(Entry::Left { seen: run.last_seen });
    let told = blank(Options { config, ..options }, ledger, alarms, now, suspended_ms);
    Ok(Beginning { served_ms: run.served_ms(), resumed: true, ended: Some(end), counts: known.counts, ..told })
}

fn plan(config: &Config, host: String, now: Now) -> RunPlan {
    RunPlan {
        started: now.wall,
        duration_ms: millis(config.run.duration),
        horizon_ms: millis(config.run.horizon),
        tolerance_bytes: i64::try_from(config.run.tolerance_bytes).unwrap_or(i64::MAX),
        backend: if config.target.is_set() { "none" } else { config.model.backend.as_str() }.to_owned(),
        model: if config.target.is_set() { config.target.describe() } else { config.model.model.clone() },
        variant: if config.target.is_set() { "none" } else { config.model.variant.as_str() }.to_owned(),
        streams: config.model.streams,
        scenario: config.run.scenario.as_str().to_owned(),
        seed: config.run.seed,
        host,
        facts: host::facts(),
        config_toml: config.to_toml(),
    }
}

/// A run goes on as it was begun, or its samples would not be of one thing: what soaks, and what is asked of it, come
/// from its row. How it is watched and who is told come from the configuration of today.
fn go_on_as_before(today: Config, run: &UnfinishedRun) -> Result<Config, StartError> {
    let name = format!("the configuration stored with run {}", run.run_id);
    let before = config::load_text(&name, &run.plan.config_toml, Path::new(""))
        .map_err(|error| StartError::Resume { run_id: run.run_id, why: error.to_string() })?;
    let run_before = config::Run { database: today.run.database.clone(), ..before.run };
    let differs = today.run != run_before || today.model != before.model || today.target != before.target;
    if differs {
        tracing::warn!(
            "run {} goes on as it was begun: {} for {}. What was asked for now ({} for {}) applies to a new run: --fresh",
            run.run_id,
            before.soaks(),
            config::units::format_duration(run_before.duration),
            today.soaks(),
            config::units::format_duration(today.run.duration)
        );
    }
    Ok(Config {
        run: run_before,
        model: before.model,
        churn: before.churn,
        burst: before.burst,
        target: before.target,
        ..today
    })
}

fn golden(store: &Store, run_id: i64) -> Result<Vec<GoldenOutput>, StartError> {
    let mut outputs = Vec::new();
    for backend in ["cpu", "cuda", "none"] {
        outputs.extend(store.golden(run_id, backend)?.into_iter().map(|golden| GoldenOutput {
            backend: golden.backend,
            prompt: golden.prompt as u32,
            tokens: golden.tokens,
            hash: golden.hash,
        }));
    }
    Ok(outputs)
}

/// Ends a run that the user does not want to go on with.
fn give_up(store: &mut Store, run: &UnfinishedRun, now: Now) -> Result<(), StartError> {
    let end = RunEnd {
        at: run.last_seen,
        state: RunState::Interrupted,
        verdict: Verdict::Inconclusive,
        reason: "left unfinished; a new run was begun with --fresh".to_owned(),
    };
    store.close_processes(run)?;
    store.finish_run(run.run_id, &end)?;
    tracing::info!(
        "run {} is closed as interrupted: it was last seen {} ago; a new one begins",
        run.run_id,
        super::watch::duration((now.wall.0 - run.last_seen.0).max(0) as f64 / 1e3)
    );
    Ok(())
}
