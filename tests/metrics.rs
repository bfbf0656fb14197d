//! Figures for others: what `soakd metrics` prints, held against the reference parser where there is one; the textfile that a
//! run leaves; the Grafana board, which may ask for nothing that is not there.
//!
//! The reference is prometheus_client of PyPI. SOAKD_TEST_PROMETHEUS names a Python that has it (CI installs one); without it
//! the last word is left to the checks below.

mod aim;

use soakd::store::generate::{Fill, fill};
use soakd::store::{Mode, Store};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

fn metrics(dir: &Path, args: &[&str]) -> String {
    let out =
        Command::new(env!("CARGO_BIN_EXE_soakd")).current_dir(dir).arg("metrics").args(args).output().expect("runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Names of samples, each with its values by labels.
fn samples(text: &str) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut found: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (whose, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = whose.split_once('{').unwrap_or((whose, ""));
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let before = found.entry(name.to_owned()).or_default().insert(labels.trim_end_matches('}').to_owned(), value);
        assert_eq!(before, None, "twice the same: {line}");
    }
    found
}

/// Parses by the reference: `open` for OpenMetrics, else Prometheus' own. The number of samples; `None`: there is none here.
fn reference(text: &str, open: bool) -> Option<usize> {
    let python = std::env::var("SOAKD_TEST_PROMETHEUS").ok().filter(|python| !python.is_empty())?;
    let module = if open { "prometheus_client.openmetrics.parser" } else { "prometheus_client.parser" };
    let script = format!(
        "import sys\nfrom {module} import text_string_to_metric_families as f\n\
         print(sum(len(m.samples) for m in f(sys.stdin.read())))"
    );
    let mut child = Command::new(&python)
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("SOAKD_TEST_PROMETHEUS={python}: {e}"));
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("taken");
    let out = child.wait_with_output().expect("ends");
    assert!(out.status.success(), "the reference parser refuses:\n{text}");
    Some(String::from_utf8_lossy(&out.stdout).trim().parse().expect("a number"))
}

fn held_to_the_reference(text: &str, open: bool) {
    let ours: usize = samples(text).values().map(BTreeMap::len).sum();
    match reference(text, open) {
        Some(theirs) => assert_eq!(theirs, ours, "{text}"),
        None => println!("not held to the reference: SOAKD_TEST_PROMETHEUS names no Python with prometheus_client"),
    }
}

#[test]
fn a_finished_run_in_both_forms() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(dir.path().join("soak.db"), Mode::Write).expect("a database");
    fill(&mut store, &Fill { seconds: 900, leak_bytes_per_hour: 40_000_000, ..Fill::default() }).expect("filled");
    drop(store);
    let open = metrics(dir.path(), &[]);
    assert!(open.ends_with("# EOF\n"), "{open}");
    held_to_the_reference(&open, true);
    let file = dir.path().join("soakd.prom");
    metrics(dir.path(), &["--textfile", file.to_str().expect("text")]);
    let text = std::fs::read_to_string(&file).expect("left there");
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    held_to_the_reference(&text, false);
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".tmp")), "{left:?}");
    let found = samples(&text);
    assert_eq!(found, samples(&open), "the same figures in both forms");
    let verdicts = &found["soakd_verdict"];
    assert_eq!((verdicts.len(), verdicts.values().sum::<f64>()), (4, 1.0), "one of four: {verdicts:?}");
    for name in ["soakd_anon_swap_bytes", "soakd_vram_bytes", "soakd_drift_low_bytes", "soakd_cpu_seconds_total"] {
        assert!(found.get(name).is_some_and(|all| !all.is_empty()), "{name} is missing after the run is over: {text}");
    }
}

#[test]
fn a_run_leaves_its_textfile_when_it_is_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "[metrics]\ntextfile = \"soakd.prom\"\n";
    let out = aim::soak_with(dir.path(), config, &["--duration", "9s"], &["sleep", "60"]);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read_to_string(dir.path().join("soakd.prom")).expect("left there");
    held_to_the_reference(&text, false);
    let found = samples(&text);
    let verdict = found["soakd_verdict"].iter().find(|(_, value)| **value == 1.0).expect("a verdict").0;
    assert!(!verdict.contains("none"), "it is over: {verdict}");
    assert!(found["soakd_run_elapsed_seconds"][""] >= 9.0, "{text}");
    let config = "[metrics]\ntextfile = \"nowhere/soakd.prom\"\n";
    let out = aim::soak_with(dir.path(), config, &["--duration", "2s", "--fresh"], &["sleep", "60"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(2) && said.contains("metrics.textfile nowhere/soakd.prom"), "{said}");
}

#[test]
fn the_grafana_board_asks_for_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("deploy/grafana/soakd.json")).expect("a board");
    let board: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let source = std::fs::read_to_string(root.join("src/cli/metrics.rs")).expect("the queries");
    let names: Vec<String> = source
        .split("name: \"")
        .skip(1)
        .map(|rest| {
            let name = rest.split('"').next().expect("a name");
            let kind = rest.split("Kind::").nth(1).expect("a kind");
            let suffix = ["Counter", "Info"].iter().zip(["_total", "_info"]).find(|(word, _)| kind.starts_with(**word));
            format!("{name}{}", suffix.map_or("", |(_, suffix)| suffix))
        })
        .collect();
    assert!(names.len() > 15 && names.contains(&"soakd_run_info".to_owned()), "{names:?}");
    let asked = text.split("soakd_").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        format!("soakd_{}", &rest[..end])
    });
    for name in asked {
        assert!(names.contains(&name), "the board asks for {name}, which is not among {names:?}");
    }
    let mut ids: Vec<i64> = panels.iter().filter_map(|panel| panel["id"].as_i64()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    for panel in panels {
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let place = |key: &str| panel["gridPos"][key].as_i64().expect("a place");
        assert!(place("x") + place("w") <= 24, "{} reaches out of the grid", panel["title"]);
        assert!(
            panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()),
            "{} asks nothing",
            panel["title"]
        );
    }
}
