//! The documents of phase 3: golden, honest about what was not measured, and changed by whoever brings templates.

#[path = "support/history.rs"]
mod history;

use history::Script;
use std::path::Path;
use std::process::Command;

const SHORT: Script = Script { seconds: 7_200, every: 10, leak_bytes: 4e6, crash: false, tokens_per_s: 81.0, seed: 1 };

fn soakd(args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_soakd")).args(args).output().expect("soakd starts");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// Phases 1 and 2 as `soakd bench` and `soakd load` would have written them.
fn measure(db: &Path) {
    let raw = rusqlite::Connection::open(db).expect("raw");
    let bench = |id: i64, kind: &str| {
        raw.execute(
            "INSERT INTO bench VALUES (?1, ?2, 'finished', 1789990000000, 1789990600000, 'gpu7', 'cuda', 'NVIDIA H100 80GB HBM3',
               '570.86.15', 'synthetic:22b', 7, 2048, 3.0e12, 2.9e12, '{}', '0.1.0')",
            rusqlite::params![id, kind],
        )
        .expect("bench");
    };
    bench(1, "bench");
    for (variant, speed, weights, kl) in
        [("q2_k", 141.0, 8.1e9, 0.21), ("q4_k", 96.0, 12.9e9, 0.031), ("hybrid", 110.0, 10.9e9, 0.08)]
    {
        let ms = 1e3 / speed;
        raw.execute(
            "INSERT INTO bench_variant VALUES (1, ?1, 5, 2560, ?2, ?2 - 1.5, ?2 + 1.5, ?3, 0.2, ?3, ?3 * 1.1, ?3 * 1.2, ?3 * 1.1, ?3 * 1.1,
               ?3 * 1.2, ?3 * 1.4, ?3 * 1.3, ?3 * 1.5, ?4, ?4, ?4 + 900000000, 52428800, 4.5, NULL, ?5, 41, 66, NULL, NULL, NULL, NULL, NULL,
               'persistent (compute_90) 0badcafe')",
            rusqlite::params![variant, speed, ms, weights as i64, kl],
        )
        .expect("variant");
    }
    bench(2, "load");
    for (streams, speed, p95) in [(1, 96.0, 11.0), (4, 350.0, 12.9), (12, 890.0, 19.5)] {
        raw.execute(
            "INSERT INTO load_point VALUES (2, 'q4_k', 'closed', ?1, NULL, 0, 60.0, ?2 * 60, 100, 0, ?2, ?3 * 0.9, ?3, ?3 * 1.3,
               180.0, 240.0, 300.0, 0.97, x'00', NULL, 'persistent (compute_90) 0badcafe')",
            rusqlite::params![streams, speed, p95],
        )
        .expect("point");
    }
}

#[test]
fn the_documents_are_the_golden_ones() {
    let folder = tempfile::tempdir().expect("folder");
    let db = folder.path().join("soak.db");
    history::write(&db, SHORT);
    measure(&db);
    let out = folder.path().join("out");
    let (code, error) = soakd(&["docs", "--db", text(&db), "--out", text(&out)]);
    assert_eq!(code, Some(0), "{error}");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/docs");
    let mut seen = 0;
    for (name, _) in soakd::report::docs::TEMPLATES {
        let written = std::fs::read_to_string(out.join(name)).expect("written");
        if std::env::var_os("SOAKD_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(&golden)
                .and_then(|()| std::fs::write(golden.join(name), &written))
                .expect("golden");
        }
        let expected = std::fs::read_to_string(golden.join(name)).expect("golden");
        assert_eq!(written, expected, "{name}: SOAKD_WRITE_GOLDEN=1 writes it anew");
        seen += 1;
    }
    assert_eq!(seen, 9);
}

#[test]
fn what_was_not_measured_is_never_a_guess() {
    let folder = tempfile::tempdir().expect("folder");
    let db = folder.path().join("soak.db");
    drop(soakd::store::Store::open(&db, soakd::store::Mode::Write).expect("an empty database"));
    let out = folder.path().join("out");
    let (code, error) = soakd(&["docs", "--db", text(&db), "--out", text(&out)]);
    assert_eq!(code, Some(0), "{error}");
    let summary = std::fs::read_to_string(out.join("EXECUTIVE_SUMMARY.md")).expect("written");
    assert!(summary.contains("Do not ship yet: nothing was soaked"), "{summary}");
    for line in
        summary.lines().filter(|l| l.starts_with("| Tokens") || l.starts_with("| Uptime") || l.starts_with("| Largest"))
    {
        assert!(line.ends_with("| not measured |"), "{line}");
    }
}

#[test]
fn templates_can_be_replaced_and_a_wrong_one_is_told_with_its_line() {
    let folder = tempfile::tempdir().expect("folder");
    let db = folder.path().join("soak.db");
    history::write(&db, SHORT);
    let (own, out) = (folder.path().join("own"), folder.path().join("out"));
    assert_eq!(soakd(&["docs", "--write-templates", text(&own)]).0, Some(0));
    let mine = own.join("EXECUTIVE_SUMMARY.md");
    std::fs::write(&mine, "We measured {{ fig(\"crashes\") }} crashes.\n").expect("mine");
    let args = ["docs", "--db", text(&db), "--out", text(&out), "--templates", text(&own)];
    assert_eq!(soakd(&args).0, Some(0));
    let said = std::fs::read_to_string(out.join("EXECUTIVE_SUMMARY.md")).expect("written");
    assert_eq!(said, "We measured 0 [run 1] crashes.\n");
    for wrong in ["one\n{{ fig(\"spede\") }}\n", "one\n{{ no_such_table }}\n", "one\n{% if %}\n"] {
        std::fs::write(&mine, wrong).expect("mine");
        let (code, error) = soakd(&args);
        assert_eq!(code, Some(2), "{wrong}");
        assert!(error.contains("EXECUTIVE_SUMMARY.md:2"), "{error}");
    }
}
