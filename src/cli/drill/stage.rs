//! One fault from beginning to end: start a soak, break something in it, and wait until its database says what should be
//! said. Everything that counts is read from that database; the drill itself measures nothing but its own SIGKILL.

use super::fault::{Fault, Played};
use super::scratch::{LEAK_TOLERANCES, PACE, SILENCE_MAX, Scratch};
use super::way::Way;
use crate::clock;
use crate::config::units::format_duration;
use crate::config::{Backend, Config};
use crate::store::sql::{Limits, QueryError, Reader};
use crate::supervisor::watch::signed_megabytes;
use crate::worker::protocol::Sabotage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Uptime at which a soak's worker is broken: it has made its first tokens by then, or is waited for.
const BREAK_AT: &str = "3s";
/// Between two looks at the database.
const LOOK: Duration = Duration::from_millis(150);
/// From SIGINT to the end of a run, its last mails included; after it, SIGKILL.
const END_MS: i64 = 40_000;
/// No rule asks for this long; a database that is busy does.
const QUERY_MS: i64 = 5_000;

/// When all workers' first loop is over and tokens flow.
const WORKING: &str =
    "SELECT min(unix_ms) FROM work_sample JOIN process USING (process_id) WHERE role = 'worker' AND tokens > 0";

/// Plays one fault. `say` is told what is waited for.
pub fn play(fault: Fault, scratch: &Scratch, no_gpu: Option<&str>, say: &dyn Fn(&str)) -> Played {
    let mut played = Played::new(fault);
    if let (Fault::LeakVram, Some(why)) = (fault, no_gpu) {
        played.skipped = Some(why.to_owned());
        return played;
    }
    let mut stage = match Stage::new(fault, scratch, say) {
        Ok(stage) => stage,
        Err(error) => {
            played.seen = error.to_string();
            return played;
        }
    };
    match stage.perform(fault, &mut played) {
        Ok(()) => played.rang = played.skipped.is_none(),
        Err(why) => {
            let before = if played.seen.is_empty() { String::new() } else { format!("{}; ", played.seen) };
            played.seen = format!("{before}{why}");
        }
    }
    stage.stop();
    played.mails = stage.subjects();
    played
}

struct Stage<'a> {
    folder: PathBuf,
    config: Config,
    patience_ms: i64,
    run: Option<Child>,
    hide_gpus: bool,
    say: &'a dyn Fn(&str),
}

impl Stage<'_> {
    fn new<'a>(fault: Fault, scratch: &Scratch, say: &'a dyn Fn(&str)) -> std::io::Result<Stage<'a>> {
        let (folder, config) = scratch.room(fault)?;
        // A hang is only a hang when its time is over; everything else has its patience, too.
        let patience = scratch.patience + config.worker.hang_after;
        Ok(Stage { folder, config, patience_ms: patience.as_millis() as i64, run: None, hide_gpus: false, say })
    }

    fn perform(&mut self, fault: Fault, played: &mut Played) -> Result<(), String> {
        match fault {
            Fault::Crash => self.worker_fault(fault, Sabotage::Segfault, played),
            Fault::Hang => self.worker_fault(fault, Sabotage::Deadlock, played),
            Fault::Corruption => self.corruption(played),
            Fault::LeakRss | Fault::LeakVram => self.leak(fault, played),
            Fault::Outage => self.outage(played),
            Fault::Supervisor => self.supervisor(played),
            Fault::Fallback => self.fallback(played),
        }
    }

    /// Crash and hang: recorded, mailed, replaced.
    fn worker_fault(&mut self, fault: Fault, what: Sabotage, played: &mut Played) -> Result<(), String> {
        self.start(Some(what), None)?;
        let from = self.until_broken()?;
        self.until_recorded(fault, from, played)?;
        self.until_replaced(from, played)?;
        self.until_mailed(fault, from, played)?;
        self.must_fail()
    }

    fn corruption(&mut self, played: &mut Played) -> Result<(), String> {
        self.start(Some(Sabotage::FlipWeight), None)?;
        let from = self.until_broken()?;
        self.until_recorded(Fault::Corruption, from, played)?;
        self.until_mailed(Fault::Corruption, from, played)?;
        self.must_fail()
    }

    fn leak(&mut self, fault: Fault, played: &mut Played) -> Result<(), String> {
        let (tolerance, horizon) = (self.config.run.tolerance_bytes, self.config.run.horizon);
        let truth = LEAK_TOLERANCES * tolerance;
        let bytes_per_second = (truth as f64 / horizon.as_secs_f64()) as u64;
        played.speeded_up = Some(format!(
            "48 h are {}: the detector takes each second for {PACE}; the leak is {:.1} MB/s",
            format_duration(horizon),
            bytes_per_second as f64 / 1e6
        ));
        let what = match fault {
            Fault::LeakVram => Sabotage::LeakDevice { bytes_per_second },
            _ => Sabotage::Leak { bytes_per_second },
        };
        self.start(Some(what), Some(PACE))?;
        let from = self.until_broken()?;
        let ours = |series: &str| match fault {
            Fault::LeakVram => format!("({series} LIKE '%vram' OR {series} LIKE '%engine_held')"),
            _ => format!("{series} LIKE 'worker-%.anon_swap'"),
        };
        let found = format!(
            "SELECT min(unix_ms) FROM event WHERE kind = 'drift_alarm' AND unix_ms >= {from} AND {}",
            ours("detail ->> '$.series'")
        );
        played.recorded_s = Some(self.until("the drift alarm", &found)?.since(from));
        let drift = format!(
            "SELECT s.name, f.drift_bytes FROM series AS s JOIN finding AS f USING (series_id)
             WHERE f.alarmed = 1 AND {} ORDER BY f.unix_ms LIMIT 1",
            ours("s.name")
        );
        if let Some(row) = self.row(&drift) {
            let name = row[0].as_str().unwrap_or_default().to_owned();
            let told = row[1].as_f64().map(signed_megabytes).unwrap_or_default();
            let truth = signed_megabytes(truth as f64);
            played.seen = format!("{name}: {told} over {} (truly {truth})", format_duration(horizon));
        }
        self.until_mailed(fault, from, played)?;
        self.must_fail()
    }

    /// The mail must wait and be tried again; then the way is opened, and it must arrive.
    fn outage(&mut self, played: &mut Played) -> Result<(), String> {
        let way = Way::close(&mut self.config.mail, &self.folder).map_err(|error| error.to_string())?;
        let Some(way) = way else {
            played.skipped = Some("sendmail has a queue of its own, which is not soakd's to close".to_owned());
            return Ok(());
        };
        self.start(Some(Sabotage::Exit { code: 42 }), None)?;
        let from = self.until_broken()?;
        self.until_recorded(Fault::Outage, from, played)?;
        let tried =
            "SELECT min(attempts) FROM outbox WHERE labels ->> '$.rule' = 'worker_crash' HAVING min(attempts) >= 1";
        self.until("a failed attempt to deliver", tried)?;
        let opened = clock::now().wall.0;
        way.open().map_err(|error| format!("the way to the mail server could not be opened again: {error}"))?;
        self.until_mailed(Fault::Outage, from, played)?;
        let attempts = self.row("SELECT max(attempts), max(last_error) FROM outbox WHERE state = 'sent'");
        let attempts = attempts.and_then(|row| row[0].as_i64()).unwrap_or(0);
        let after = played.mailed_s.map_or(0.0, |mailed_s| mailed_s - (opened - from) as f64 / 1e3);
        played.recovered_s = played.mailed_s;
        played.seen = format!("{attempts} attempts failed; delivered {after:.0} s after the server was back");
        self.must_fail()
    }

    fn supervisor(&mut self, played: &mut Played) -> Result<(), String> {
        played.speeded_up = Some(format!(
            "the mailer misses soakd after {} here; its own limit may be longer",
            format_duration(self.config.mailer.supervisor_silent_after.min(SILENCE_MAX))
        ));
        self.start(None, None)?;
        self.until("the worker to work", WORKING)?;
        // A beat that promises the next one, so that its absence means something.
        self.until(
            "a sign of life",
            "SELECT unix_ms FROM heartbeat WHERE role = 'supervisor' AND expects_unix_ms IS NOT NULL",
        )?;
        let children = self.pids("SELECT pid FROM process WHERE role IN ('worker', 'probe') AND ended_unix_ms IS NULL");
        let from = clock::now().wall.0;
        if let Some(mut run) = self.run.take() {
            let _ = run.kill(); // SIGKILL; gone already is what is wanted
            let _ = run.wait();
        }
        self.until_true("its children to end", || children.iter().all(|pid| !is_alive(*pid)))?;
        let lost = "SELECT min(sent_unix_ms) FROM outbox WHERE kind = 'heartbeat' AND state = 'sent'";
        played.mailed_s = Some(self.until("the mail that tells of its death", lost)?.since(from));
        let written = "SELECT min(created_unix_ms) FROM outbox WHERE kind = 'heartbeat'";
        played.recorded_s = Some(self.until("its death on record", written)?.since(from));
        let again = clock::now().wall.0;
        self.start(None, None)?;
        self.until("the run to be resumed", "SELECT min(unix_ms) FROM event WHERE kind = 'run_resumed'")?;
        let working = format!("{WORKING} AND incarnation > 1 AND unix_ms >= {again}");
        played.recovered_s = Some(self.until("the new worker to work", &working)?.since(from));
        let back = "SELECT min(b.sent_unix_ms) FROM outbox AS b JOIN outbox AS a ON b.in_reply_to = a.message_id
                    WHERE a.kind = 'heartbeat' AND b.kind = 'resolved' AND b.state = 'sent'";
        self.until("the mail that takes the first one back", back)?;
        let gap = self.row("SELECT sum(to_unix_ms - from_unix_ms), (SELECT count(*) FROM run) FROM gap WHERE reason = 'supervisor_down'");
        let (gap_ms, runs) = gap.map_or((0, 0), |row| (row[0].as_i64().unwrap_or(0), row[1].as_i64().unwrap_or(0)));
        if gap_ms == 0 || runs != 1 {
            return Err(format!("{runs} runs, and a gap of {gap_ms} ms: the run was not gone on with as it should"));
        }
        played.seen = format!(
            "{} children gone with it; run 1 resumed, {:.0} s booked as a gap; both mails in one thread",
            children.len(),
            gap_ms as f64 / 1e3
        );
        Ok(())
    }

    fn fallback(&mut self, played: &mut Played) -> Result<(), String> {
        (self.config.model.backend, self.config.model.fallback_to_cpu) = (Backend::Cuda, true);
        self.hide_gpus = true;
        let from = clock::now().wall.0;
        self.start(None, None)?;
        self.until_recorded(Fault::Fallback, from, played)?;
        played.recovered_s = Some(self.until("the worker to work on the CPU", WORKING)?.since(from));
        self.until_mailed(Fault::Fallback, from, played)
    }

    // --- steps -------------------------------------------------------------------------------------------------------

    /// Starts `soakd run` in the stage's folder; it dies with the drill.
    fn start(&mut self, what: Option<Sabotage>, pace: Option<u32>) -> Result<(), String> {
        let trouble = |error: std::io::Error| format!("the soak could not be started: {error}");
        let file = self.folder.join("soak.toml");
        std::fs::write(&file, self.config.to_toml()).map_err(trouble)?;
        let log = |name: &str| std::fs::File::options().create(true).append(true).open(self.folder.join(name));
        let mut command = Command::new(std::env::current_exe().map_err(trouble)?);
        command.arg("run").arg("--config").arg(&file);
        if let Some(what) = what {
            let what = serde_json::to_string(&what).map_err(|error| error.to_string())?;
            command.arg("--inject").arg(format!("{what}@{BREAK_AT}"));
        }
        if let Some(pace) = pace {
            command.arg("--pace").arg(pace.to_string());
        }
        if self.hide_gpus {
            command.env("CUDA_VISIBLE_DEVICES", "");
        }
        command.current_dir(&self.folder).stdin(Stdio::null()).env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        command.stdout(log("stdout").map_err(trouble)?).stderr(log("stderr").map_err(trouble)?);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe. The thread that starts the
        // process waits for its end, so that the signal comes with the drill's death and not before.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from));
        }
        self.run = Some(command.spawn().map_err(trouble)?);
        Ok(())
    }

    fn until_broken(&mut self) -> Result<i64, String> {
        let sql = "SELECT min(unix_ms) FROM event WHERE kind = 'note' AND summary LIKE 'damage on purpose%'";
        self.until("the damage to be done", sql).map(|at| at.0)
    }

    fn until_recorded(&mut self, fault: Fault, from: i64, played: &mut Played) -> Result<(), String> {
        let (kind, _) = fault.event_and_rule();
        let sql = format!("SELECT min(unix_ms) FROM event WHERE kind = '{kind}' AND unix_ms >= {from}");
        played.recorded_s = Some(self.until("it to be recorded", &sql)?.since(from));
        let summary = self.row(&format!("SELECT summary FROM event WHERE kind = '{kind}' ORDER BY event_id LIMIT 1"));
        played.seen = summary.and_then(|row| row[0].as_str().map(str::to_owned)).unwrap_or_default();
        Ok(())
    }

    fn until_replaced(&mut self, from: i64, played: &mut Played) -> Result<(), String> {
        let working = format!("{WORKING} AND incarnation > 1");
        played.recovered_s = Some(self.until("the next worker to work", &working)?.since(from));
        Ok(())
    }

    fn until_mailed(&mut self, fault: Fault, from: i64, played: &mut Played) -> Result<(), String> {
        let (_, rule) = fault.event_and_rule();
        // The built-in rule, or, where the user has replaced those, any alert.
        let whose = if self.config.alerts.builtin { format!("labels ->> '$.rule' = '{rule}'") } else { "1".to_owned() };
        let sql = format!("SELECT min(sent_unix_ms) FROM outbox WHERE kind = 'alert' AND state = 'sent' AND {whose}");
        played.mailed_s = Some(self.until("the mail to leave", &sql)?.since(from));
        Ok(())
    }

    /// Ends the run, whose exit code must say that something was wrong.
    fn must_fail(&mut self) -> Result<(), String> {
        (self.say)("ending the soak");
        match self.stop() {
            Some(1) => Ok(()),
            Some(code) => Err(format!("but the run ended with exit code {code} instead of 1")),
            None => Err("but the run did not end when it was asked to".to_owned()),
        }
    }

    /// SIGINT, and the exit code; SIGKILL if it takes too long.
    fn stop(&mut self) -> Option<i32> {
        let mut run = self.run.take()?;
        let _ = kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT); // gone already is as good
        let until = clock::now().mono.plus(END_MS);
        while clock::now().mono < until {
            if let Ok(Some(status)) = run.try_wait() {
                return status.code();
            }
            std::thread::sleep(LOOK);
        }
        let _ = run.kill();
        let _ = run.wait();
        None
    }

    /// Waits until `sql` gives a number.
    fn until(&mut self, what: &str, sql: &str) -> Result<Moment, String> {
        let database = self.config.run.database.clone();
        let (mut found, mut trouble) = (None, None);
        self.until_true(what, || {
            match query(&database, sql) {
                Ok(rows) => found = rows.first().and_then(|row| row[0].as_i64()),
                Err(error) => trouble = Some(error),
            }
            found.is_some() || trouble.is_some()
        })?;
        match trouble {
            Some(error) => Err(format!("the drill's database does not answer: {error}")),
            None => found.map(Moment).ok_or_else(|| what.to_owned()),
        }
    }

    fn until_true(&mut self, what: &str, mut done: impl FnMut() -> bool) -> Result<(), String> {
        (self.say)(&format!("waiting for {what}"));
        let until = clock::now().mono.plus(self.patience_ms);
        while clock::now().mono < until {
            if done() {
                return Ok(());
            }
            if let Some(status) = self.run.as_mut().and_then(|run| run.try_wait().ok().flatten()) {
                self.run = None;
                return Err(format!(
                    "the soak ended ({status}) while the drill waited for {what}: {}",
                    self.last_words()
                ));
            }
            std::thread::sleep(LOOK);
        }
        Err(format!("waited {} in vain for {what}", format_duration(Duration::from_millis(self.patience_ms as u64))))
    }

    fn last_words(&self) -> String {
        let said = std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
        said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
    }

    fn row(&self, sql: &str) -> Option<Vec<Value>> {
        query(&self.config.run.database, sql).ok()?.into_iter().next()
    }

    fn pids(&self, sql: &str) -> Vec<i32> {
        let rows = query(&self.config.run.database, sql).unwrap_or_default();
        rows.iter().filter_map(|row| row[0].as_i64()).filter_map(|pid| i32::try_from(pid).ok()).collect()
    }

    fn subjects(&self) -> Vec<String> {
        let sql = "SELECT subject FROM outbox WHERE state = 'sent' ORDER BY outbox_id";
        let rows = query(&self.config.run.database, sql).unwrap_or_default();
        let prefix = self.config.mail.subject_prefix.as_deref().unwrap_or_default();
        rows.iter().filter_map(|row| row[0].as_str()).map(|subject| format!("{prefix} {subject}")).collect()
    }
}

/// A moment in the database's own time.
#[derive(Debug, Clone, Copy)]
struct Moment(i64);

impl Moment {
    fn since(self, from: i64) -> f64 {
        (self.0 - from).max(0) as f64 / 1e3
    }
}

/// No rows also while there is no database yet, or it is busy.
fn query(database: &Path, sql: &str) -> Result<Vec<Vec<Value>>, QueryError> {
    let Ok(reader) = Reader::open(database) else { return Ok(Vec::new()) };
    let until = clock::now().mono.plus(QUERY_MS);
    let limits = Limits { rows_max: 1_000, expired: Box::new(move || clock::now().mono >= until) };
    match reader.query_rows(sql, &[], limits) {
        Ok(rows) => Ok(rows.rows),
        Err(QueryError::Store(_) | QueryError::TimedOut) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether there is such a process that still runs: a zombie that nobody buries is as good as gone.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
