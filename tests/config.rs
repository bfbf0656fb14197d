//! The configuration as users meet it: the shipped example, complaints with place and remedy, flags over the file.

use proptest::prelude::*;
use soakd::config::{Backend, Config, Overrides, Source, Transport, load, load_text};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLE: &str = include_str!("../soak.toml");

fn parse(text: &str) -> Result<Config, String> {
    load_text("soak.toml", text, Path::new("")).map_err(|error| error.to_string())
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text)
}

/// Every `section.key` of a TOML text, leaves only.
fn keys(table: &toml::Table, prefix: &str, into: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => keys(inner, &format!("{prefix}{key}."), into),
            _ => into.push(format!("{prefix}{key}")),
        }
    }
}

#[test]
fn the_shipped_example_is_the_embedded_default() {
    assert_eq!(parse(EXAMPLE), Ok(Config::default()));
}

#[test]
fn the_shipped_example_names_every_key_and_describes_it() {
    let (mut shipped, mut known) = (Vec::new(), Vec::new());
    keys(&EXAMPLE.parse().expect("TOML"), "", &mut shipped);
    keys(&Config::default().to_toml().parse().expect("TOML"), "", &mut known);
    shipped.sort();
    known.sort();
    assert_eq!(shipped, known, "left: soak.toml, right: what soakd knows");
}

#[test]
fn what_is_written_into_the_run_row_reads_back() {
    let text = "[run]\nduration = \"1h30m\"\ntolerance = \"64MiB\"\n[model]\nthreads = 2\ndevices = [1, 0]\n\
        [alerts]\nthroughput_min = 12\ntoken_p95_max = \"200ms\"\n[mail]\nusername = \"x\"\npassword_file = \"/p\"\n\
        [mail.routes]\ndefault = [\"a@b.c\"]\npager = [\"Night <n@b.c>\", \"d@e.f\"]\n";
    let config = parse(text).expect("valid");
    assert_ne!(config, Config::default());
    assert_eq!(parse(&config.to_toml()), Ok(config));
}

#[test]
fn complaints_name_the_place_and_the_remedy() {
    let cases = [
        ("a bare number for a duration", "[run]\nduration = \"48\"\n", "soak.toml:2:12: run.duration", "\"48h\""),
        ("a number without quotes", "[run]\nduration = 48\n", "soak.toml:2:12: run.duration", "\"48h\""),
        (
            "a typing error in a key",
            "[run]\nduraton = \"48h\"\n",
            "soak.toml:2:1: run.duraton",
            "did you mean duration?",
        ),
        ("a typing error in a section", "[rum]\n", "soak.toml:1:2: rum", "did you mean run?"),
        ("a key outside any section", "duration = \"1h\"\n", "soak.toml:1:1: duration", "the sections are"),
        ("a section that is a value", "run = 3\n", "soak.toml:1:7: run", "write [run]"),
        ("no TOML", "[run\nduration\n", "soak.toml:1:", "not TOML"),
        ("a key twice", "[run]\nseed = 1\nseed = 2\n", "soak.toml:3:1", "duplicate"),
        ("a wrong unit", "[run]\ntolerance = \"50Mb\"\n", "soak.toml:2:13", "did you mean MB?"),
        ("a size where a time is due", "[run]\nduration = \"50MB\"\n", "soak.toml:2:12", "the units are w, d, h"),
        ("an unknown choice", "[model]\nvariant = \"q4k\"\n", "soak.toml:2:11: model.variant", "did you mean q4_k?"),
        ("too many streams", "[model]\nstreams = 17\n", "soak.toml:2:11", "from 1 to 16"),
        ("a huge number", "[model]\nstreams = 99999999999999999999\n", "soak.toml:2:11", "from 1 to 16"),
        ("text where a number is due", "[model]\nthreads = \"two\"\n", "soak.toml:2:11", "or \"auto\""),
        ("a context that is too small", "[model]\ncontext_tokens = 10\n", "soak.toml:2:18", "write 96 or more"),
        ("hung before it could beat", "[worker]\nhang_after = \"1s\"\n", "soak.toml:2:14", "write 3s or more"),
        ("an empty value", "[run]\ndatabase = \"\"\n", "soak.toml:2:12", "remove the line"),
        ("quoted truth", "[model]\nfallback_to_cpu = \"true\"\n", "soak.toml:2:19", "without quotes"),
        ("no mail address", "[mail]\nfrom = \"me\"\n", "soak.toml:2:8: mail.from", "oncall@example.org"),
        ("no default route", "[mail.routes]\npager = [\"a@b.c\"]\n", "mail.routes", "add default"),
        ("an empty route", "[mail.routes]\ndefault = []\n", "soak.toml:2:11: mail.routes.default", "at least one"),
        (
            "a password without a name",
            "[mail]\npassword_file = \"/p\"\n",
            "soak.toml:2:17: mail.password_file",
            "give both",
        ),
        (
            "mails in clear text",
            "[mail]\ntransport = \"smtp\"\nhost = \"m.example.org\"\ntls = \"none\"\nusername = \"u\"\npassword_file = \"/p\"\n",
            "soak.toml:4:7: mail.tls",
            "starttls",
        ),
        ("a GPU twice", "[model]\ndevices = [0, 0]\n", "soak.toml:2:11: model.devices", "[0, 1]"),
        ("a canary that cannot be found", "[canary]\nleak = \"50MB\"\n", "soak.toml:2:8: canary.leak", "twice"),
        (
            "a bound that is none",
            "[gates.bounds]\ncrashes = \"0\"\n",
            "soak.toml:1:1: gates.bounds: crashes",
            "write \"<= 50\"",
        ),
        ("an unknown profile", "[gates]\nprofile = \"road\"\n", "soak.toml:2:11: gates.profile", "roadmap"),
        ("a not-a-number", "[alerts]\nthroughput_min = nan\n", "soak.toml:2:18", "12.5"),
    ];
    for (what, text, place, remedy) in cases {
        let message = refusal(text);
        assert!(message.contains(place), "{what}: no {place:?} in: {message}");
        assert!(message.contains(remedy), "{what}: no {remedy:?} in: {message}");
    }
}

#[test]
fn all_complaints_come_at_once_in_the_order_of_the_file() {
    let message = refusal("[run]\nduration = \"48\"\nsead = 2\n\n[model]\nstreams = 0\n");
    let lines: Vec<&str> = message.lines().map(|line| &line[..11]).collect();
    assert_eq!(lines, ["soak.toml:2", "soak.toml:3", "soak.toml:6"], "{message}");
}

#[test]
fn flags_go_through_the_same_validation_and_are_named() {
    let with = |overrides| Config::default().with(overrides).map_err(|error| error.to_string());
    let config = with(Overrides { duration: Some(Duration::from_secs(600)), streams: Some(4), ..Overrides::default() })
        .expect("valid");
    assert_eq!((config.run.duration.as_secs(), config.model.streams), (600, 4));
    let error = with(Overrides { streams: Some(0), ..Overrides::default() }).expect_err("no streams");
    assert!(error.starts_with("--streams: 0 is out of range"), "{error}");
    let error = with(Overrides { duration: Some(Duration::ZERO), ..Overrides::default() }).expect_err("no time");
    assert!(error.starts_with("--duration: it is zero"), "{error}");
    let error = with(Overrides { tolerance_bytes: Some(1 << 30), ..Overrides::default() }).expect_err("canary");
    assert!(error.contains("canary.leak"), "a flag that clashes with a default names the default: {error}");
}

#[test]
fn inputs_lie_beside_the_file_and_outputs_in_the_working_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.toml");
    let text = "[run]\ndatabase = \"d.db\"\n[model]\nmodel = \"m.gguf\"\nbackend = \"cpu\"\n[alerts]\nrules = [\"r.toml\", \"/etc/r.toml\"]\n\
        [mail]\ntransport = \"smtp\"\nusername = \"u\"\npassword_file = \"pw\"\n";
    std::fs::write(&file, text).expect("written");
    let config = load(Some(&file)).expect("valid");
    assert_eq!(config.source, Source::File(file));
    assert_eq!((config.model.backend, config.mail.transport), (Backend::Cpu, Transport::Smtp));
    assert_eq!(config.run.database, PathBuf::from("d.db"));
    assert_eq!(config.model.model, folder.path().join("m.gguf").display().to_string());
    assert_eq!(config.alerts.rules, [folder.path().join("r.toml"), PathBuf::from("/etc/r.toml")]);
    assert_eq!(config.mail.password_path(None), Ok(Some(folder.path().join("pw"))));
}

#[test]
fn a_systemd_credential_is_looked_up_where_systemd_puts_it() {
    let config = parse("[mail]\nusername = \"u\"\npassword_file = \"credential:smtp\"\n").expect("valid");
    assert_eq!(config.mail.password_path(Some("/run/c".as_ref())), Ok(Some(PathBuf::from("/run/c/smtp"))));
    let error = config.mail.password_path(None).expect_err("not under systemd");
    assert!(error.contains("LoadCredential=smtp"), "{error}");
}

#[test]
fn mail_settings_are_saved_from_a_file_that_is_wrong_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("soak.toml");
    let mail = "[mail]\nfrom = \"soakd@x.org\"\n[mail.routes]\ndefault = [\"ops@x.org\"]\n";
    for (what, text, saved) in [
        ("an unknown key", format!("[run]\nduraton = \"1h\"\n{mail}"), true),
        ("no TOML", format!("[run\nduration ==\n{mail}"), true),
        ("wrong in itself", mail.replace("from", "form"), false),
        ("not there", "[run]\nduration = 1\n".to_owned(), false),
    ] {
        std::fs::write(&file, text).expect("written");
        assert!(load(Some(&file)).is_err(), "{what}");
        let from = soakd::config::salvage_mail(&file).map(|mail| mail.from);
        assert_eq!(from.as_deref(), saved.then_some("soakd@x.org"), "{what}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = folder.path().join("model.gguf");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).expect("written");
    for (path, reason) in [
        (folder.path().join("absent.toml"), "cannot be read"),
        (folder.path().to_path_buf(), "is not a file"),
        (binary, "not UTF-8"),
    ] {
        let message = load(Some(&path)).expect_err("unreadable").to_string();
        assert!(message.starts_with(&path.display().to_string()) && message.contains(reason), "{message}");
    }
}

proptest! {
    /// Any text is either a configuration or a complaint; a configuration reads back from what it writes.
    #[test]
    fn no_text_panics(lines in prop::collection::vec(line(), 0..12)) {
        let text = lines.join("\n");
        if let Ok(config) = parse(&text) {
            prop_assert_eq!(parse(&config.to_toml()), Ok(config));
        }
    }

    /// The shipped example with a few bytes changed.
    #[test]
    fn no_damage_to_the_example_panics(edits in prop::collection::vec((0..EXAMPLE.len(), "\\PC"), 1..6)) {
        let mut text = EXAMPLE.to_owned();
        for (at, with) in edits {
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) && at < text.len() {
                text.replace_range(at..=at, &with);
            }
        }
        if let Err(message) = parse(&text) {
            prop_assert!(message.starts_with("soak.toml"), "{}", message);
        }
    }
}

/// A line that is nearly configuration.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("[run]".to_owned()),
        Just("[model]".to_owned()),
        Just("[mail]".to_owned()),
        Just("[mail.routes]".to_owned()),
        Just("[alerts]".to_owned()),
        ("(duration|horizon|tolerance|seed|database|streams|threads|devices|rules|from|default|port|throughput_min)",
         "(\"(48h|50MB|auto|none|all|a@b|x|)\"|-?[0-9]{1,20}|[0-9]\\.[0-9]e[0-9]|true|\\[[0-9]?\\]|\\[\"a@b\"\\]|\\{\\}|nan|1979-05-27)")
            .prop_map(|(key, value)| format!("{key} = {value}")),
        "\\PC{0,30}",
    ]
}
