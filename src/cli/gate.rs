//! `soakd gate`: judges a run by bounds that are data. Which figures there are, and how they are judged, is in
//! `report::gates`; what a profile asks is in `gates/`.

use super::report::{print, read_run};
use super::{CannotStart, Done, Format, Outcome};
use crate::model::facts::RunFacts;
use crate::model::gate::{Gate, GateOutcome};
use crate::report::{gates, text};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Judge a run by gates: go or no-go.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd gate                         the newest run, by the profile `roadmap`
  soakd gate 3 --format json | jq '.[] | select(.outcome != \"pass\")'
  soakd gate --gates our-gates.toml  by bounds of your own
  soakd gate --list                  figures that a gate may name

A file of gates is TOML:
  [[gate]]
  milestone = \"2 concurrency and stability\"
  name = \"95 % of tokens within 50 ms\"
  metric = \"token_p95_ms\"
  at_most = 50

Exit code: 0 all pass, 1 one fails, 2 could not start, 3 none fails but one is inconclusive or not measured.")]
pub struct Args {
    /// Which run, as `soakd runs` numbers them; the newest if left out
    run: Option<i64>,
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// Bounds of your own; the profile `roadmap` if left out
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
    let asked = asked(args.gates.as_deref())?;
    let facts = read_run(&args.db, args.run, 64)?;
    let results = gates::judge(&facts, &asked);
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

/// The gates in a file, or the profile that ships.
pub(super) fn asked(file: Option<&Path>) -> Result<Vec<Gate>, CannotStart> {
    file.map_or_else(|| parse("the profile roadmap", ROADMAP), read)
}

/// The gates that a report on this run shows: the profile is about GPU servers, and says nothing of a run on a CPU.
pub(super) fn of_run(facts: &RunFacts) -> Result<Vec<Gate>, CannotStart> {
    if facts.plan.backend == "cuda" { parse("the profile roadmap", ROADMAP) } else { Ok(Vec::new()) }
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
