//! `soakd check` and the failure hook, as a user and as systemd start them: real processes, exit codes, remedies.

use std::path::Path;
use std::process::{Command, Output};

fn soakd(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soakd"));
    command.args(args).current_dir(folder).env_remove("CREDENTIALS_DIRECTORY").env_remove("SSH_CONNECTION");
    command.output().expect("soakd starts")
}

/// What `soakd check` finds in `folder`, and its exit code.
fn check(folder: &Path, args: &[&str]) -> (serde_json::Value, i32) {
    let output = soakd(folder, &[&["check", "--format", "json"], args].concat());
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (document, output.status.code().expect("an exit code"))
}

/// The states and texts of one part of the machine.
fn of<'a>(document: &'a serde_json::Value, part: &str) -> Vec<(&'a str, String)> {
    let checks = document["checks"].as_array().expect("a list");
    let text =
        |one: &serde_json::Value| format!("{} -> {}", one["what"].as_str().unwrap(), one["remedy"].as_str().unwrap());
    checks
        .iter()
        .filter(|one| one["check"] == part)
        .map(|one| (one["state"].as_str().expect("a state"), text(one)))
        .collect()
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
}

#[test]
fn the_embedded_default_passes_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let (document, code) = check(folder.path(), &["--offline"]);
    assert_eq!((code, document["passed"].as_bool()), (0, Some(true)), "{document:#}");
    for part in ["configuration", "rules", "model", "memory", "database", "disk", "GPU", "mail", "limits"] {
        assert!(!of(&document, part).is_empty(), "nothing said of {part}: {document:#}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "nothing is changed");
}

#[test]
fn a_short_run_takes_its_reserve_and_its_log_too() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "soak.toml", "[run]\nduration = \"10m\"\n");
    let (document, _) = check(folder.path(), &["--offline"]);
    let disk = &of(&document, "disk")[0].1;
    let takes = disk.split("takes up to ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(takes.is_some_and(|megabytes| megabytes >= 12), "{disk}");
}

#[test]
fn what_would_stop_a_run_is_a_blocker_with_its_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write(here, "text.db", &"this is no database\n".repeat(100));
    write(here, "broken.gguf", "GGUF\x03\0\0\0 and then nothing");
    for (name, mode) in [("password", 0o600), ("open", 0o644)] {
        write(here, name, "hunter2\n");
        std::fs::set_permissions(here.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set");
    }
    write(here, "cut.toml", "[[rule]]\nname = \"x\"\n");
    write(
        here,
        "sql.toml",
        "[[rule]]\nname = \"x\"\nseverity = \"page\"\nsummary = \"x\"\nsql = \"SELECT x FROM nowhere\"\n",
    );
    let smtp = "[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\nport = 9\ntls = \"none\"\ntimeout = \"2s\"\n";
    let login = format!("{smtp}username = \"u\"\npassword_file = \"password\"\n");
    let open = format!("{smtp}username = \"u\"\npassword_file = \"open\"\n");
    for (what, config, args, part, words, code) in [
        ("no database", "", ["--db", "text.db"], "database", "not a SQLite database", 1),
        ("no folder", "", ["--db", "nowhere/soak.db"], "database", "mkdir -p nowhere", 1),
        ("a cut model", "[model]\nmodel = \"broken.gguf\"\n", ["--offline"; 2], "model", "broken.gguf", 1),
        ("an absent model", "[model]\nmodel = \"absent.gguf\"\n", ["--offline"; 2], "model", "absent.gguf", 1),
        ("an unknown model", "[model]\nmodel = \"synthetic:huge\"\n", ["--offline"; 2], "model", "synthetic:small", 1),
        ("no mail server", smtp, ["--db", "new.db"], "mail", "127.0.0.1:9", 1),
        ("a login without a server", &login, ["--db", "new.db"], "mail", "127.0.0.1:9", 1),
        ("a password for all to read", &open, ["--db", "new.db"], "mail", "chmod 600", 1),
        ("a rule without SQL", "[alerts]\nrules = [\"cut.toml\"]\n", ["--offline"; 2], "rules", "cut.toml:", 2),
        ("a rule with bad SQL", "[alerts]\nrules = [\"sql.toml\"]\n", ["--offline"; 2], "rules", "nowhere", 2),
        ("an absent rule file", "[alerts]\nrules = [\"gone.toml\"]\n", ["--offline"; 2], "rules", "gone.toml", 2),
        (
            "an unknown key",
            "[run]\nduraton = \"1h\"\n",
            ["--offline"; 2],
            "configuration",
            "soak.toml:2:1: run.duraton",
            2,
        ),
        ("no unit", "[run]\nduration = \"48\"\n", ["--offline"; 2], "configuration", "\"48h\"", 2),
    ] {
        write(here, "soak.toml", config);
        let args: &[&str] = if args[0] == args[1] { &args[..1] } else { &args };
        let (document, got) = check(here, args);
        let found = of(&document, part);
        let blocked = found.iter().any(|(state, text)| *state == "blocker" && text.contains(words));
        assert!(blocked, "{what}: no blocker of {part} says {words:?}: {document:#}");
        assert_eq!(got, code, "{what}: {document:#}");
    }
}

/// A target is looked for as a run would, and the built-in model is none of its business.
#[test]
fn a_target_that_cannot_be_soaked_is_a_blocker() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write(here, "odd.jsonl", "{\"promt\": \"hi\"}\n");
    write(here, "text", "no program\n");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let load = format!("load = \"openai:http://{}/v1\"", busy.local_addr().expect("an address"));
    for (target, part, state, words) in [
        ("command = [\"sleep\", \"60\"]", "target", "ok", "sleep 60"),
        ("command = [\"soakd-knows-none\"]", "target", "blocker", "command not found: soakd-knows-none"),
        ("command = [\"./text\"]", "target", "blocker", "not executable"),
        ("pid = 4194303", "target", "blocker", "there is no process 4194303"),
        ("unit = \"soakd-knows-none.service\"", "target", "blocker", "systemd"),
        (&format!("command = [\"sleep\", \"60\"]\n{load}"), "load", "warning", "already"),
        (
            &format!("command = [\"sleep\", \"60\"]\n{load}\nprompts_file = \"odd.jsonl\""),
            "load",
            "blocker",
            "odd.jsonl:1",
        ),
    ] {
        write(here, "soak.toml", &format!("[target]\n{target}\n"));
        let (document, code) = check(here, &[]);
        let found = of(&document, part);
        assert!(found.iter().any(|(is, text)| *is == state && text.contains(words)), "{target}: {document:#}");
        assert_eq!(code == 1, state == "blocker", "{target}: {document:#}");
        assert!(of(&document, "model").is_empty(), "{target}: {document:#}");
        assert!(!of(&document, "configuration")[0].1.contains("synthetic"), "{target}: {document:#}");
    }
}

#[test]
fn a_gpu_that_is_demanded_and_absent_is_a_blocker_and_otherwise_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    for (model, state) in [
        ("backend = \"cuda\"", "blocker"),
        ("backend = \"cuda\"\nfallback_to_cpu = true", "warning"),
        ("backend = \"auto\"", "ok"),
        ("backend = \"cpu\"", "ok"),
    ] {
        write(folder.path(), "soak.toml", &format!("[model]\n{model}\n[probe]\nnvml_library = \"/no/such/nvml.so\"\n"));
        let (document, _) = check(folder.path(), &["--offline"]);
        assert_eq!(of(&document, "GPU")[0].0, state, "{model}: {document:#}");
    }
}

#[test]
fn text_for_people_has_no_colours_in_a_pipe() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = soakd(folder.path(), &["check", "--offline"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("Nothing here would stop a run") && !text.contains('\x1b'), "{text}");
}

/// The one mail in `folder`, as text.
fn mail(folder: &Path) -> String {
    let mails: Vec<_> = std::fs::read_dir(folder).expect("mails").flatten().collect();
    assert_eq!(mails.len(), 1, "{mails:?}");
    std::fs::read_to_string(mails[0].path()).expect("a mail")
}

#[test]
fn the_failure_hook_mails_even_when_the_configuration_is_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write(
        here,
        "soak.toml",
        "[run]\nduraton = \"1h\"\n[mail]\nfolder = \"out\"\n[mail.routes]\ndefault = [\"ops@x.org\"]\n",
    );
    let output = soakd(here, &["unit-failed", "--config", "soak.toml", "soakd.service"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mail = mail(&here.join("out"));
    assert!(mail.contains("To: ops@x.org") && mail.contains("soakd.service has failed"), "{mail}");
    assert!(mail.contains("duraton"), "the mail names what is wrong: {mail}");
}

#[test]
fn a_failure_mail_that_cannot_leave_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write(here, "soak.toml", "[mail]\ntransport = \"none\"\n");
    let output = soakd(here, &["unit-failed", "--config", "soak.toml", "soakd.service"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(mail(&here.join("mail-unsent")).contains("soakd.service has failed"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("written to mail-unsent/") && !said.contains('{'), "prose, with the place: {said}");
    assert!(mail(&here.join("mail-unsent")).contains("    systemctl reset-failed soakd.service"));
}
