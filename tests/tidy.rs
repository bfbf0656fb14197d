//! Conventions that are tests: the house table in `lib.rs` holds, every file says what it is, the real clock has one
//! home, files stay readable, and nothing in the repository is bound to one machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file that is longer has two subjects.
const LINES_MAX: usize = 650;
/// A kernel is one pipeline with its layouts; cutting it in two hides what it is.
const KERNEL_LINES_MAX: usize = 800;
/// `main.rs` turns arguments into an exit code and no more.
const MAIN_LINES_MAX: usize = 40;
/// Doors in the walls, each with its reason.
const DOORS: [(&str, &str, &str); 3] = [
    ("src/cli/model.rs", "engine", "`model logits` and `model inspect` are the engine's own commands"),
    ("src/cli/check/model.rs", "engine", "opens the model as the worker will"),
    ("src/cli/internal_devices.rs", "engine", "asks which kernels this machine would use"),
];

/// Files that measure durations and nothing else, where `clock` may not be imported.
const STOPWATCHES: [(&str, &str); 1] = [("src/engine/cuda/bench.rs", "a benchmark; the engine imports nothing")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with one of the `extensions`, by its path from the root, and its text.
fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) {
                let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.push((name, text));
            }
        }
    }
    found.sort();
    found
}

/// Source without comments, so that prose may name what code may not.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(at, line)| {
        let code = line.split("//").next().unwrap_or_default();
        (!code.trim().is_empty()).then_some((at + 1, code))
    })
}

/// `src/probe/gpu.rs` and `src/clock.rs` are in the rooms `probe` and `clock`.
fn room(path: &str) -> &str {
    let inner = path.strip_prefix("src/").expect("a source file");
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

/// The table of `lib.rs`: room → what it may import. "all but a and b" is spelt out.
fn house() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let rooms: BTreeSet<String> = rows.iter().map(|row| row[0].to_owned()).collect();
    let words = |text: &str| -> BTreeSet<String> {
        text.split([',', ' ']).filter(|word| rooms.contains(*word)).map(str::to_owned).collect()
    };
    rows.iter()
        .map(|row| {
            let allowed = match row[2].strip_prefix("all but ") {
                Some(not) => rooms.difference(&words(not)).cloned().collect(),
                None => words(row[2]),
            };
            (row[0].to_owned(), allowed)
        })
        .collect()
}

/// Rooms named after `crate::` in a line of code, also in `use crate::{a, b::c}`.
fn imports(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    line.split("crate::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split(',').map(|item| word(item.trim())).collect(),
            None => vec![word(rest)],
        })
        .collect()
}

fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn rooms_import_only_what_the_house_table_allows() {
    let house = house();
    assert!(house.len() > 12, "the table in lib.rs was not understood: {house:?}");
    let mut complaints = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        let room = room(&path);
        if matches!(room, "lib" | "main") {
            continue;
        }
        let Some(allowed) = house.get(room) else {
            complaints.push(format!("{path}: the room {room:?} is not in the table of lib.rs"));
            continue;
        };
        for (line, code) in code(&text) {
            for import in imports(code) {
                let door = DOORS.iter().any(|(file, to, _)| *file == path && *to == import);
                if house.contains_key(&import) && import != room && !allowed.contains(&import) && !door {
                    complaints
                        .push(format!("{path}:{line}: {room} may not import {import}; move the code, or the wall"));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn the_table_has_a_row_for_every_room_and_no_other() {
    let rooms: BTreeSet<String> = files("src", &["rs"])
        .iter()
        .map(|(path, _)| room(path).to_owned())
        .filter(|r| r != "lib" && r != "main")
        .collect();
    assert_eq!(house().into_keys().collect::<BTreeSet<_>>(), rooms, "left: the table, right: src/");
}

#[test]
fn each_outside_library_with_a_sick_side_has_one_home() {
    let homes = [("rusqlite", "store"), ("cudarc", "engine"), ("nvml_wrapper", "probe"), ("lettre", "mail")];
    let mut complaints = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        for (line, code) in code(&text) {
            for (library, home) in homes {
                let named = code.contains(&format!("{library}::")) || code.contains(&format!("use {library}"));
                if named && room(&path) != home {
                    complaints.push(format!("{path}:{line}: only {home} uses {library}"));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    let rust = ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, &["rs"]));
    let complaints: Vec<String> = rust
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| format!("{path}:1: open with //! and a sentence"))
        .collect();
    report(&complaints);
}

#[test]
fn the_real_clock_has_one_home() {
    let clocks = ["SystemTime::now", "Instant::now", "Utc::now", "Local::now", "clock_gettime", "gettimeofday"];
    let mut complaints = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        if path == "src/clock.rs" || STOPWATCHES.iter().any(|(file, _)| *file == path) {
            continue;
        }
        for (line, code) in code(&text) {
            // The runtime's timers are set by its own clock, which tests can pause.
            let code = code.replace("tokio::time::Instant::now", "");
            for clock in clocks.iter().filter(|clock| code.contains(*clock)) {
                complaints.push(format!("{path}:{line}: {clock} outside clock.rs; take `now` as an argument"));
            }
        }
    }
    report(&complaints);
}

#[test]
fn files_stay_readable() {
    let mut complaints = Vec::new();
    for (path, text) in
        ["src", "tests", "benches", "kernels"].into_iter().flat_map(|f| files(f, &["rs", "cu", "cuh", "c"]))
    {
        let limit = match path.as_str() {
            "src/main.rs" => MAIN_LINES_MAX,
            kernel if Path::new(kernel).extension().is_some_and(|e| e == "cu") => KERNEL_LINES_MAX,
            _ => LINES_MAX,
        };
        let lines = text.lines().count();
        if lines > limit {
            complaints.push(format!("{path}: {lines} lines, more than {limit}; it has two subjects"));
        }
    }
    report(&complaints);
}

#[test]
fn nothing_is_left_half_done() {
    // Spelt apart, so that this file does not find itself.
    let banned = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!("), concat!("#[ign", "ore")];
    let mut complaints = Vec::new();
    for (path, text) in ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, &["rs"])) {
        for (line, code) in code(&text) {
            for word in banned.iter().filter(|word| code.contains(*word)) {
                complaints.push(format!("{path}:{line}: {word}"));
            }
        }
    }
    report(&complaints);
}

#[test]
fn nothing_is_bound_to_one_machine() {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut complaints = Vec::new();
    let texts = ["rs", "toml", "sql", "md", "cu", "cuh", "c", "service", "conf", "sh"];
    let folders = ["src", "tests", "benches", "kernels", "migrations", "systemd", "alert-rules", "docs", ".ci"];
    let top = ["README.md", "CHANGELOG.md", "soak.toml", "Cargo.toml"]
        .map(|name| (name.to_owned(), std::fs::read_to_string(root().join(name)).unwrap_or_default()));
    for (path, text) in folders.into_iter().flat_map(|folder| files(folder, &texts)).chain(top) {
        for (line, text) in text.lines().enumerate() {
            for place in places.iter().filter(|place| text.contains(*place)) {
                complaints.push(format!("{path}:{}: {place} is a path of one machine", line + 1));
            }
        }
    }
    report(&complaints);
}
