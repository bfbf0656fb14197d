//! What a user can get wrong in `soakd run`: each ends with exit code 2 and a sentence that names the file and what to do,
//! before anything is soaked.

use std::path::Path;
use std::process::{Command, Output};

fn soakd(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soakd"));
    command.args(args).current_dir(folder).env_remove("CREDENTIALS_DIRECTORY");
    command.output().expect("soakd starts")
}

/// `soakd run` with `args`: it must refuse, and say each of `words`.
fn refused(what: &str, folder: &Path, args: &[&str], words: &[&str]) {
    let output = soakd(folder, &[&["run", "--duration", "2s"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{what}: {output:?}");
    for word in words {
        assert!(said.contains(word), "{what}: does not say {word:?}: {said}");
    }
    assert!(!said.contains("panicked"), "{what}: {said}");
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), bytes).expect("written");
}

/// A good model, and from it a cut one and one whose first tensor has a type that nobody knows.
fn models(folder: &Path) {
    let output = soakd(folder, &["model", "synth", "synthetic:tiny", "--variant", "q4_k", "--out", "good.gguf"]);
    assert!(output.status.success(), "{output:?}");
    let good = std::fs::read(folder.join("good.gguf")).expect("a model");
    write(folder, "cut.gguf", &good[..5_000]);
    let name = b"token_embd.weight";
    let at = good.windows(name.len()).position(|window| window == name).expect("the first tensor") + name.len();
    let dimensions = u32::from_le_bytes(good[at..at + 4].try_into().expect("four bytes")) as usize;
    let mut odd = good.clone();
    odd[at + 4 + 8 * dimensions] = 77;
    write(folder, "odd.gguf", odd);
    write(folder, "text.gguf", "this is no model\n".repeat(100));
}

#[test]
fn models_that_are_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    models(here);
    for (what, model, words) in [
        ("a truncated file", "cut.gguf", ["cut.gguf", "token_embd.weight", "download it again"]),
        ("no GGUF", "text.gguf", ["text.gguf", "no GGUF file", "check the path"]),
        ("an unknown tensor type", "odd.gguf", ["odd.gguf", "type 77", "requantize"]),
        ("no file", "gone.gguf", ["gone.gguf", "cannot open", "check the path"]),
        ("an unknown shape", "synthetic:huge", ["synthetic:huge", "synthetic:tiny", "synthetic:22b"]),
    ] {
        refused(what, here, &["--model", model], &words);
    }
}

#[test]
fn databases_that_cannot_be_used_are_left_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write(here, "text.db", "this is no database\n".repeat(1_000));
    assert!(
        soakd(here, &["run", "--duration", "1s", "--model", "synthetic:tiny", "--db", "newer.db"]).status.code()
            != Some(2)
    );
    let newer = rusqlite::Connection::open(here.join("newer.db")).expect("SQLite");
    newer.execute_batch("PRAGMA user_version = 999;").expect("of tomorrow");
    drop(newer);
    for (what, database, words) in [
        ("no SQLite file", "text.db", ["text.db", "not a SQLite database", "--db"]),
        ("a newer soakd's", "newer.db", ["newer.db", "newer soakd", "--db"]),
        ("no folder", "nowhere/soak.db", ["nowhere", "mkdir -p nowhere", ""]),
        ("a folder that nobody can write to", "/proc/soak.db", ["/proc", "--db", ""]),
    ] {
        let before = std::fs::read(here.join(database)).ok();
        refused(what, here, &["--db", database], &words);
        assert_eq!(std::fs::read(here.join(database)).ok(), before, "{what}: it was changed");
    }
}

/// A file system of 64 KiB that is unmounted again; nothing where this user may not mount one.
#[test]
fn a_full_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "soakd"]).arg(folder.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a full disk (no right to mount one)");
        return;
    }
    write(folder.path(), "filler", vec![0x55; 60 << 10]);
    let beside = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("soak.db");
    let refuse =
        || refused("a full disk", beside.path(), &["--db", &database.display().to_string()], &["full", "free"]);
    let result = std::panic::catch_unwind(refuse);
    drop(Command::new("umount").arg("-l").arg(folder.path()).status());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs in a database that may not be there.
fn runs(database: &Path) -> i64 {
    let Ok(open) = rusqlite::Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY) else {
        return 0;
    };
    open.query_row("SELECT count(*) FROM run", [], |row| row.get(0)).expect("a table of runs")
}

#[test]
fn settings_rules_and_secrets() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write(here, "password", "hunter2\n");
    std::fs::set_permissions(here.join("password"), PermissionsExt::from_mode(0o644)).expect("opened to others");
    write(
        here,
        "rules.toml",
        "[[rule]]\nname = \"x\"\nseverity = \"page\"\nsummary = \"x\"\nsql = \"SELECT x FROM nowhere\"\n",
    );
    let login = "[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\nfrom = \"a@b.org\"\nusername = \"u\"\n\
                 password_file = \"password\"\n[mail.routes]\ndefault = [\"ops@x.org\"]\n";
    for (what, config, words) in [
        ("an unknown key", "[run]\nduraton = \"1h\"\n", ["soak.toml:2:1", "duraton", "did you mean duration?"]),
        ("a time without a unit", "[run]\nduration = \"48\"\n", ["soak.toml:2:12", "no unit", "\"48h\""]),
        ("bad SQL", "[alerts]\nrules = [\"rules.toml\"]\n", ["rules.toml:5", "nowhere", "soakd query"]),
        ("a password that others can read", login, ["password", "open to others", "chmod 600"]),
    ] {
        write(here, "soak.toml", config);
        refused(what, here, &[], &words);
        assert_eq!(runs(&here.join("soak.db")), 0, "{what}: a run was begun");
    }
}

#[test]
fn a_duration_without_a_unit_on_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = soakd(folder.path(), &["run", "--duration", "48"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("write \"48h\""), "{output:?}");
}

#[test]
fn a_duration_of_nothing_is_one_mistake_and_not_two() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = soakd(folder.path(), &["run", "--duration", "0s"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--duration: it is zero") && !said.contains("warm_up"), "{said}");
}

#[test]
fn a_silence_of_no_rule_and_figures_for_a_full_disk_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    soakd(here, &["run", "--duration", "1s", "--model", "synthetic:tiny", "--threads", "1"]);
    let silence = |rule| soakd(here, &["silence", "--rule", rule, "--for", "2h", "--why", "a test"]);
    let output = silence("wroker_crash");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("did you mean worker_crash?"), "{output:?}");
    assert!(silence("worker_crash").status.success(), "that one is there");

    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux");
    let mut command = Command::new(env!("CARGO_BIN_EXE_soakd"));
    let output = command.arg("metrics").current_dir(here).stdout(full).output().expect("soakd starts");
    assert!(output.status.code() == Some(2) && !output.stderr.is_empty(), "{output:?}");
}
