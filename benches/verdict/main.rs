//! How good is the verdict? Simulated series of 48 hours, watched throughout, for soakd and for what people use.
//!
//! `cargo bench --bench verdict -- [SEED [TRACES]] [all|held|large]`: TRACES series of each nuisance and class (default 5). With `held`, the
//! nuisances that were held out while tuning; with `large`, what servers of models do by the gigabyte; with `all`, all of them.
//! `-- SEED curves|processes|parts|programs|servers` runs the series of
//! an independent judge instead: each was written by an author who had seen neither the detector nor the corpus it was tuned on. `curves` and
//! `processes` take the question literally (the nuisances, ranges and leaks that it names, no others); `parts` and `programs` bring what else
//! their authors would expect of real servers; `servers` are servers of models at their true scale, with the leaks of public
//! threads. `-- real` and `-- real2` take no seed: what real programs held, sped up sixty times. Prints tables by nuisance and by leak, each series that was called wrongly, and the seed.

mod corpus;
mod judge_curves;
mod judge_parts;
mod judge_processes;
mod judge_programs;
mod judge_servers;
mod peers;
mod real;
mod series;

use corpus::{HELD, NUISANCES, TUNED};
use series::Trace;
use soakd::analysis::{Detector, Params};
use soakd::model::finding::Verdict;

/// What one series came to.
struct Outcome {
    class: u8,
    /// Its nuisances.
    parts: Vec<String>,
    leak: Option<&'static str>,
    breach_h: f64,
    alarm_h: Option<f64>,
    within: bool,
    covered: bool,
    peers: Vec<Option<f64>>,
    /// What it is made of, for the list of those called wrongly.
    what: String,
}

fn main() {
    // `cargo bench` passes --bench; `cargo test --benches` passes nothing of ours.
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let numbers: Vec<u64> = words.iter().filter_map(|w| w.parse().ok()).collect();
    let seed = numbers.first().copied().unwrap_or(20_261_124);
    let each = numbers.get(1).copied().unwrap_or(5);
    let which = words.iter().find(|w| w.parse::<u64>().is_err()).map(String::as_str);
    let mut outcomes = Vec::new();
    let mut seconds = 0.0;
    match which {
        None | Some("all" | "held" | "large") => {
            let kinds = match which {
                Some("all") => 0..NUISANCES.len(),
                Some("large") => HELD..NUISANCES.len(),
                Some(_) => TUNED..HELD,
                None => 0..TUNED,
            };
            for kind in kinds.clone() {
                // A table that takes minutes says that it is coming.
                eprintln!("{} ({} of {})", NUISANCES[kind], kind + 1 - kinds.start, kinds.len());
                for class in 0..3 {
                    for i in (0..each).map(|i| i + 1000 * kind as u64) {
                        let trace = corpus::trace(seed, i, class, kind);
                        let of = Outcome { parts: vec![NUISANCES[kind].into()], ..run(i, &trace, &mut seconds) };
                        outcomes.push(of);
                    }
                }
            }
        }
        Some(judge @ ("curves" | "processes" | "parts" | "programs" | "servers")) => {
            let (series, trace): (u64, fn(u64, u64) -> Trace) = match judge {
                "curves" => (judge_curves::SERIES, judge_curves::trace),
                "processes" => (judge_processes::SERIES, judge_processes::trace),
                "parts" => (judge_parts::SERIES, judge_parts::trace),
                "programs" => (judge_programs::SERIES, judge_programs::trace),
                _ => (judge_servers::SERIES, judge_servers::trace),
            };
            for i in 0..series {
                if i % 31 == 0 {
                    eprintln!("{i} of {series}");
                }
                outcomes.push(run(i, &trace(seed, i), &mut seconds));
            }
        }
        Some(set @ ("real" | "real2")) => {
            for (i, (name, trace)) in real::traces(set).iter().enumerate() {
                let of = run(i as u64, trace, &mut seconds);
                outcomes.push(Outcome { what: format!("{name}, {}", of.what), ..of });
            }
        }
        Some(word) => {
            eprintln!("{word:?} is none of all, held, large, curves, processes, parts, programs, servers, real, real2");
            std::process::exit(2);
        }
    }
    println!("seed {seed}, {} series of 48 h, {:.3} s each to judge", outcomes.len(), seconds / outcomes.len() as f64);
    table("soakd", &outcomes, |o| o.alarm_h);
    println!();
    wrong(&outcomes);
    head();
    summary("soakd", &outcomes, |o| o.alarm_h);
    for (i, (name, _)) in peers::PEERS.iter().enumerate() {
        summary(name, &outcomes, |o| o.peers[i]);
    }
}

fn run(index: u64, t: &Trace, seconds: &mut f64) -> Outcome {
    let mut detector = Detector::new(Params::default());
    let start = std::time::Instant::now();
    t.points.iter().for_each(|p| detector.push(*p));
    let f = detector.look();
    *seconds += start.elapsed().as_secs_f64();
    let first = t.points[0].unix_s;
    let levels = peers::levels(&t.points);
    Outcome {
        class: t.class,
        parts: t.parts.split('+').map(Into::into).collect(),
        leak: t.leak.filter(|_| t.class == 2),
        breach_h: t.breach_h.unwrap_or(f64::NAN),
        alarm_h: f.first_alarm_unix_s.map(|at| (at - first) / 3600.0),
        within: f.verdict == Verdict::Within,
        covered: f.drift_ci95_bytes[0] <= t.drift_bytes && t.drift_bytes <= f.drift_ci95_bytes[1],
        what: format!(
            "trace {index}: {}{}, a sample every {:.0} s, true drift {:.0} MB, said {:.0} ({:.0} to {:.0})",
            t.parts,
            t.leak.map_or(String::new(), |leak| format!(", {leak}")),
            t.interval_s,
            t.drift_bytes / 1e6,
            f.drift_bytes / 1e6,
            f.drift_ci95_bytes[0] / 1e6,
            f.drift_ci95_bytes[1] / 1e6
        ),
        peers: peers::PEERS.iter().map(|(_, peer)| peers::first_alarm(*peer, &levels)).collect(),
    }
}

/// False alarms and leaks that were missed, one a line.
fn wrong(outcomes: &[Outcome]) {
    for o in outcomes {
        match (o.class, o.alarm_h) {
            (2, None) => println!("missed: {}", o.what),
            (0 | 1, Some(at)) => println!("false alarm after {at:.1} h: {}", o.what),
            _ => {}
        }
    }
}

fn percent(of: &[&Outcome], is: impl Fn(&Outcome) -> bool) -> f64 {
    100.0 * of.iter().filter(|o| is(o)).count() as f64 / of.len() as f64
}

/// One row; `own` tells soakd's, with its verdict and interval, from that of a peer, which states neither.
fn line(name: &str, of: &[&Outcome], own: bool, alarm: impl Fn(&Outcome) -> Option<f64>) {
    let class = |c: u8| of.iter().copied().filter(|o| o.class == c).collect::<Vec<_>>();
    let (clean, tolerated, leaking) = (class(0), class(1), class(2));
    let mut ratios: Vec<f64> = leaking.iter().map(|o| alarm(o).unwrap_or(f64::INFINITY) / o.breach_h).collect();
    ratios.sort_by(f64::total_cmp);
    let cell = |value: f64| if value.is_nan() { "-".into() } else { format!("{value:.1}") };
    let stated = |value: f64| if own { cell(value) } else { "-".into() };
    println!(
        "{name:24} {:>6} {:>6} {:>7} {:>7} {:>7} {:7.2} {:>7} {:>7}",
        cell(percent(&clean, |o| alarm(o).is_some())),
        cell(percent(&tolerated, |o| alarm(o).is_some())),
        stated(percent(&clean, |o| o.within)),
        cell(percent(&leaking, |o| alarm(o).is_some())),
        cell(percent(&leaking, |o| alarm(o).is_some_and(|a| a < o.breach_h))),
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN),
        stated(percent(&[clean, tolerated].concat(), |o| o.covered)),
        stated(percent(&leaking, |o| o.covered)),
    );
}

fn head() {
    println!(
        "\n{:24} {:>6} {:>6} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "per cent", "false", "(tol)", "within", "found", "early", "ratio", "cover", "(leak)"
    );
}

fn table(name: &str, outcomes: &[Outcome], alarm: impl Fn(&Outcome) -> Option<f64> + Copy) {
    println!("\n{name}, by nuisance and by leak");
    head();
    // In the order in which they come up first.
    let mut parts: Vec<&str> = Vec::new();
    let mut leaks: Vec<&str> = Vec::new();
    for o in outcomes {
        parts.extend(o.parts.iter().map(String::as_str));
        leaks.extend(o.leak);
    }
    for names in [&mut parts, &mut leaks] {
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(*name));
    }
    for part in parts {
        let of: Vec<&Outcome> = outcomes.iter().filter(|o| o.parts.iter().any(|p| p == part)).collect();
        line(part, &of, true, alarm);
    }
    println!();
    for leak in leaks {
        let of: Vec<&Outcome> = outcomes.iter().filter(|o| o.leak == Some(leak)).collect();
        line(leak, &of, true, alarm);
    }
}

fn summary(name: &str, outcomes: &[Outcome], alarm: impl Fn(&Outcome) -> Option<f64>) {
    line(name, &outcomes.iter().collect::<Vec<_>>(), name == "soakd", alarm);
}
