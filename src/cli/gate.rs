//! `soakd gate`: judges a run, a bench and a load test by bounds that are data. Which figures there are, and how they are judged, is in
//! `report::gates`; what a profile asks is in `gates/`.

use super::report::{print, read_run};
use super::{CannotStart, Done, Format, Outcome};
use crate::config::{self, GateProfile, Gates};
use crate::model::bench::BenchFacts;
use crate::model::facts::RunFacts;
use crate::model::gate::{Gate, GateOutcome};
use crate::report::gates::{Evidence, Metric};
use crate::report::{gates, text};
use crate::store::{Mode, Store};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Judge what was measured by gates: go or no-go.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd gate                         the newest run, bench and load test, by the profile `roadmap`
  soakd gate 3 --format json | jq '.[] | select(.outcome != \"pass\")'
  soakd gate --gates our-gates.toml  by bounds of your own
  soakd gate --list                  figures that a gate may name

A file of gates is TOML:
  [[gate]]
  milestone = \"2 concurrency and stability\"
  name = \"95 % of tokens within 50 ms\"
  metric = \"token_p95_ms\"
  at_most = 50

Without --gates the bounds are those of the configuration that the run was started with: a profile that ships and \
your own under [gates.bounds]. Figures of soakd bench and soakd load come from the newest of each.

Exit code: 0 all pass, 1 one fails, 2 could not start, 3 none fails but one is inconclusive or not measured.")]
pub struct Args {
    /// Which run, as `soakd runs` numbers them; the newest if left out
    run: Option<i64>,
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// Bounds of your own; if left out, those of the run's configuration
    #[arg(long, value_name = "FILE")]
    gates: Option<PathBuf>,
    /// Name the figures that a gate may bound, and end
    #[arg(long)]
    list: bool,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The profile that ships.
const ROADMAP: &str = include_str!("../../gates/roadmap.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    gate: Vec<Gate>,
}

/// Reads, judges, prints.
pub fn execute(args: &Args) -> Done {
    if args.list {
        let width = gates::METRICS.iter().map(|m| m.name.len()).max().unwrap_or(0);
        let lines: Vec<String> = gates::METRICS.iter().map(|m| format!("{:width$}  {}\n", m.name, m.meaning)).collect();
        print(&lines.concat())?;
        return Ok(Outcome::Passed);
    }
    let measured = Measured::read(&args.db, args.run)?;
    if measured.is_empty() {
        let db = args.db.display();
        return Err(CannotStart(format!(
            "{db} holds no run, bench or load test yet: `soakd run --db {db}` makes a run"
        )));
    }
    let results = gates::judge(&measured.evidence(), &asked(args.gates.as_deref(), measured.run.as_ref())?);
    match args.format {
        Format::Text => print(&text::gate_table(&results))?,
        Format::Json => print(&format!("{:#}\n", serde_json::json!(results)))?,
    }
    let any = |outcome: GateOutcome| results.iter().any(|r| r.outcome == outcome);
    Ok(if any(GateOutcome::Fail) {
        Outcome::Failed
    } else if results.is_empty() || any(GateOutcome::Inconclusive) || any(GateOutcome::NotMeasured) {
        Outcome::Inconclusive
    } else {
        Outcome::Passed
    })
}

/// What there is in a database to judge by.
pub(super) struct Measured {
    pub(super) run: Option<RunFacts>,
    pub(super) bench: Option<BenchFacts>,
    pub(super) load: Option<BenchFacts>,
}

impl Measured {
    /// The run asked for or the newest, the newest bench and the newest load test.
    pub(super) fn read(db: &Path, run: Option<i64>) -> Result<Measured, CannotStart> {
        let store = Store::open(db, Mode::ReadOnly).map_err(CannotStart::because)?;
        let any_run = store.newest_run().map_err(CannotStart::because)?.is_some();
        Ok(Measured {
            run: if any_run || run.is_some() { Some(read_run(db, run, 64)?) } else { None },
            bench: store.newest_bench("bench").map_err(CannotStart::because)?,
            load: store.newest_bench("load").map_err(CannotStart::because)?,
        })
    }

    fn is_empty(&self) -> bool {
        self.run.is_none() && self.bench.is_none() && self.load.is_none()
    }

    fn evidence(&self) -> Evidence<'_> {
        Evidence { run: self.run.as_ref(), bench: self.bench.as_ref(), load: self.load.as_ref() }
    }
}

/// The gates in a file; without one those that the run's configuration asks for, its profile `auto` being `roadmap`.
pub(super) fn asked(file: Option<&Path>, run: Option<&RunFacts>) -> Result<Vec<Gate>, CannotStart> {
    match file {
        Some(file) => read(file),
        None => configured(&run.map(gates_of).unwrap_or_default(), GateProfile::Roadmap),
    }
}

/// The gates on this run that its report shows: those of its configuration that are about a run, with `auto` for `roadmap` on a
/// GPU. The profile is about GPU servers, and says nothing of a run on a CPU.
pub(super) fn of_run(facts: &RunFacts) -> Result<Vec<Gate>, CannotStart> {
    let auto = if facts.plan.backend == "cuda" { GateProfile::Roadmap } else { GateProfile::None };
    let mut all = configured(&gates_of(facts), auto)?;
    all.retain(|gate| gates::metric(&gate.metric).is_some_and(Metric::is_of_a_run));
    Ok(all)
}

/// `[gates]` as the run was started with it; the default if an older soakd wrote a configuration without it.
fn gates_of(facts: &RunFacts) -> Gates {
    config::load_text("the run's configuration", &facts.plan.config_toml, Path::new(""))
        .map(|config| config.gates)
        .unwrap_or_default()
}

/// A profile with one's own bounds in place of its bounds on the same figures.
pub(super) fn configured(wanted: &Gates, auto: GateProfile) -> Result<Vec<Gate>, CannotStart> {
    let profile = if wanted.profile == GateProfile::Auto { auto } else { wanted.profile };
    let mut all = if profile == GateProfile::Roadmap { parse("the profile roadmap", ROADMAP)? } else { Vec::new() };
    for (metric, bound) in &wanted.bounds {
        let own =
            Gate::of_bound(metric, bound).map_err(|what| CannotStart(format!("gates.bounds.{metric}: {what}")))?;
        if gates::metric(metric).is_none() {
            return Err(CannotStart(format!(
                "gates.bounds.{metric}: there is no such figure; `soakd gate --list` names them"
            )));
        }
        all.retain(|gate| gate.metric != *metric);
        all.push(own);
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<Gate>, CannotStart> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| CannotStart(format!("cannot read the gates in {}: {e}", path.display())))?;
    parse(&path.display().to_string(), &text)
}

fn parse(name: &str, text: &str) -> Result<Vec<Gate>, CannotStart> {
    let file: File = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        CannotStart(format!("{name}:{line}: {}. `soakd gate --help` shows what a gate looks like", e.message()))
    })?;
    for gate in &file.gate {
        if gates::metric(&gate.metric).is_none() {
            return Err(CannotStart(format!(
                "{name}: gate {:?} names the figure {:?}, which there is not; `soakd gate --list` names them",
                gate.name, gate.metric
            )));
        }
        if gate.at_most.is_none() && gate.at_least.is_none() {
            return Err(CannotStart(format!("{name}: gate {:?} has no bound; give it at_most or at_least", gate.name)));
        }
    }
    Ok(file.gate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_profile_is_valid() {
        assert!(parse("roadmap", ROADMAP).expect("valid").len() >= 8);
    }

    #[test]
    fn a_wrong_gate_is_told_with_its_line_and_remedy() {
        let cases = [
            ("[[gate]]\nname = \"x\"\nmetric = \"token_p95_ms\"\nat_mots = 3\n", ":4:"),
            ("[[gate]]\nname = \"x\"\nmetric = \"speed\"\nat_most = 3\n", "--list"),
            ("[[gate]]\nname = \"x\"\nmetric = \"crashes\"\n", "at_most"),
        ];
        for (text, says) in cases {
            let error = parse("my.toml", text).expect_err("wrong").0;
            assert!(error.contains("my.toml") && error.contains(says), "{error}");
        }
    }
}
