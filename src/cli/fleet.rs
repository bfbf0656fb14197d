//! `soakd fleet report`: many databases, one page. Each file is opened, boiled down to one line and closed again.

use super::{CannotStart, Done, Outcome};
use crate::analysis;
use crate::clock;
use crate::model::finding::Verdict;
use crate::model::fleet::{FleetFacts, HostSummary, Unreadable};
use crate::report;
use crate::store::{Mode, Store};
use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;

/// What to do with many databases.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd fleet report */soak.db                      a table in the terminal
  soakd fleet report */soak.db --out fleet.html     one self-contained page")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One page over many hosts: who leaks, who crashed, who differs from the fleet.
    #[command(after_help = "\
Examples:
  soakd fleet report */soak.db                              a table in the terminal
  soakd fleet report */soak.db --out fleet.html             one self-contained page
  soakd fleet report */soak.db --format json | jq '.hosts[] | select(.verdict == \"outside\") | .host'

Of each database the newest run counts. Hosts that do the same work (back end, model, variant, streams, \
scenario) are compared in throughput, latency, drift, VRAM and uptime; the chance of even one false \
accusation on the page is held under 1 %.

Exit codes: 0 all within and no crash, 1 a leak, a crash or a hang somewhere, 2 nothing could be read, \
3 otherwise.")]
    Report(Report),
}

#[derive(Debug, clap::Args)]
struct Report {
    /// Databases, one per host.
    #[arg(required = true, value_name = "DB")]
    databases: Vec<PathBuf>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: PageFormat,
    /// Write the page here instead of printing it (HTML unless --format says otherwise).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum PageFormat {
    /// A table (HTML when --out is given).
    #[default]
    Text,
    /// Everything, for programs.
    Json,
    /// One self-contained page.
    Html,
}

/// Runs `soakd fleet`.
pub fn execute(args: &Args) -> Done {
    let What::Report(args) = &args.what;
    let (mut hosts, mut unreadable) = (Vec::new(), Vec::new());
    for path in &args.databases {
        match read(path) {
            Ok(host) => hosts.push(host),
            Err(why) => unreadable.push(Unreadable { file: path.display().to_string(), why }),
        }
    }
    if hosts.is_empty() {
        let reasons: Vec<String> = unreadable.into_iter().map(|bad| bad.why).collect();
        return Err(CannotStart(format!("none of the databases could be read:\n  {}", reasons.join("\n  "))));
    }
    hosts.sort_by(|a, b| urgency(b).total_cmp(&urgency(a)).then_with(|| a.host.cmp(&b.host)));
    let (differences, comparisons) = analysis::fleet::differences(&hosts);
    let facts = FleetFacts { at: clock::now().wall, hosts, differences, comparisons, unreadable };
    publish(args, &facts)?;
    Ok(outcome(&facts))
}

fn read(path: &PathBuf) -> Result<HostSummary, String> {
    let store = Store::open(path, Mode::ReadOnly).map_err(|error| error.to_string())?;
    let host = store.host_summary().map_err(|error| error.to_string())?;
    host.ok_or_else(|| format!("{}: holds no run yet", path.display()))
}

/// Orders hosts by how soon someone should look at them.
fn urgency(host: &HostSummary) -> f64 {
    let verdict = match host.verdict {
        Verdict::Outside => 4.0,
        Verdict::Inconclusive => 1.0,
        Verdict::Within => 0.0,
    };
    let broken = if host.crashes + host.hangs + host.golden_mismatches > 0 { 2.0 } else { 0.0 };
    let drift = host.worst.as_ref().map_or(0.0, |worst| worst.drift_bytes.abs());
    verdict + broken + drift / (drift + 1e9)
}

fn publish(args: &Report, facts: &FleetFacts) -> Result<(), CannotStart> {
    let format = if args.out.is_some() && args.format == PageFormat::Text { PageFormat::Html } else { args.format };
    let page = match format {
        PageFormat::Text => report::fleet::text(facts),
        PageFormat::Json => format!("{}\n", serde_json::to_string_pretty(facts).expect("plain data serialises")),
        PageFormat::Html => report::fleet::html(facts),
    };
    let Some(out) = &args.out else {
        print!("{page}");
        return Ok(());
    };
    std::fs::write(out, page)
        .map_err(|error| CannotStart(format!("{}: cannot write the page: {error}", out.display())))?;
    println!("{}\n{}", report::fleet::headline(facts), out.display());
    Ok(())
}

fn outcome(facts: &FleetFacts) -> Outcome {
    let any = |test: fn(&HostSummary) -> bool| facts.hosts.iter().any(test);
    if any(|host| host.verdict == Verdict::Outside || host.crashes + host.hangs + host.golden_mismatches > 0) {
        Outcome::Failed
    } else if any(|host| host.verdict == Verdict::Inconclusive) || !facts.unreadable.is_empty() {
        Outcome::Inconclusive
    } else {
        Outcome::Passed
    }
}
