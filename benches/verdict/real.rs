//! Real programs: what 127 of them, in thirteen languages and four servers, under four allocators and what runtimes bring, held in 48 hours of a clock that was sped up sixty times.
//!
//! `real/README.md` tells how they were run and by whom. Two sets, by two authors; one file a program, as `soakd analyze` reads it; `truth.csv` tells what each
//! does, and of a planted leak what the program itself counted: MB over the 48 hours, when it set in and when 50 MB were gone.

use crate::series::Trace;
use soakd::model::series::Point;
use std::path::{Path, PathBuf};

/// All of a set (`real`, `real2`), with their names.
pub fn traces(set: &str) -> Vec<(String, Trace)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/verdict").join(set);
    lines(&folder.join("truth.csv")).iter().map(|row| trace(&folder, row)).collect()
}

fn trace(folder: &Path, row: &[String]) -> (String, Trace) {
    let [name, language, _, class, leak_mb, _, breach_h] = row else {
        panic!("truth.csv: {row:?} has not seven columns")
    };
    let points = lines(&folder.join(format!("{name}.csv")));
    let class: u8 = class.parse().expect("a class");
    let trace = Trace {
        points: points.iter().map(|row| point(row)).collect(),
        class,
        parts: language.split([' ', '/']).next().unwrap_or_default().to_string(),
        leak: (class == 2).then_some("planted"),
        drift_bytes: 1e6 * number(leak_mb),
        breach_h: breach_h.parse().ok(),
        interval_s: 120.0,
    };
    (name.clone(), trace)
}

fn point(row: &[String]) -> Point {
    let [unix_s, bytes, segment, requests] = row else { panic!("{row:?} has not four columns") };
    Point {
        unix_s: number(unix_s),
        bytes: number(bytes),
        segment: segment.parse().expect("a segment"),
        requests: Some(number(requests)),
    }
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

/// The rows of a CSV file without quotes, but for its header.
fn lines(path: &PathBuf) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().skip(1).map(|line| line.split(',').map(Into::into).collect()).collect()
}
