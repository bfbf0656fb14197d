//! The README is true: its SQL runs, its commands exist with their flags, its links lead somewhere, its TOML is understood,
//! and every command that a user can see is in it.

use soakd::config;
use soakd::store::sql::Reader;
use soakd::store::{Mode, Store};
use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../README.md");

/// Fenced blocks of `language`.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    README.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_soakd")).args(args).arg("--help").output().expect("soakd starts");
    assert!(output.status.success(), "soakd {args:?} --help: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Names of the commands that `soakd --help` lists.
fn commands() -> Vec<String> {
    let help = help(&[]);
    let list = help.split("Commands:\n").nth(1).expect("a list of commands");
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn the_five_queries_run_on_an_empty_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("soak.db");
    drop(Store::open(&path, Mode::Write).expect("a database"));
    let reader = Reader::open(&path).expect("readable");
    let sql = blocks("sql").concat();
    let queries: Vec<&str> = sql.split(';').map(str::trim).filter(|query| !query.is_empty()).collect();
    assert_eq!(queries.len(), 5);
    for query in queries {
        let columns = reader.check(query, &[]).unwrap_or_else(|error| panic!("{query}\n{error}"));
        assert!(columns.len() >= 3, "{query}");
    }
}

#[test]
fn every_table_and_view_that_is_named_exists() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("soak.db");
    drop(Store::open(&path, Mode::Write).expect("a database"));
    let reader = Reader::open(&path).expect("readable");
    let section =
        README.split("## The database").nth(1).and_then(|rest| rest.split("```sql").next()).expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names: Vec<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        reader.check(&format!("SELECT * FROM {name}"), &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn datasette_is_told_what_each_view_is_and_its_queries_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("soak.db");
    drop(Store::open(&path, Mode::Write).expect("a database"));
    let reader = Reader::open(&path).expect("readable");
    let told: serde_json::Value = serde_json::from_str(include_str!("../docs/datasette.json")).expect("JSON");
    let soak = &told["databases"]["soak"];
    let described = soak["tables"].as_object().expect("views");
    let views: Vec<&str> = reader.schema().keys().map(String::as_str).filter(|name| name.starts_with("v_")).collect();
    assert_eq!(described.keys().map(String::as_str).collect::<Vec<_>>(), views, "left: docs/datasette.json");
    for (view, said) in described {
        let said = said["description"].as_str().unwrap_or_default();
        assert!(said.len() > 20 && said.ends_with('.'), "{view}: {said:?}");
        assert!(
            include_str!("../docs/database.md").contains(&format!("`{view}`")),
            "docs/database.md leaves {view} out"
        );
    }
    let queries = soak["queries"].as_object().expect("queries");
    assert_eq!(queries.len(), 5);
    for (name, query) in queries {
        let sql = query["sql"].as_str().expect("SQL");
        let columns = reader.check(sql, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(columns.len() >= 3, "{name}");
    }
}

#[test]
fn every_command_is_in_the_table_and_teaches_by_example() {
    for command in commands() {
        assert!(README.contains(&format!("| `soakd {command}` |")), "soakd {command} is not in the README's table");
        let help = help(&[&command]);
        // A command of commands leaves the examples to them.
        assert!(help.contains("Examples:") || help.contains("Commands:"), "soakd {command} --help has no examples");
    }
}

#[test]
fn commands_and_flags_that_are_shown_exist() {
    let known = commands();
    let spans = README.split('`').skip(1).step_by(2).filter(|span| span.starts_with("soakd ") && !span.contains('\n'));
    for span in spans {
        let words: Vec<&str> = span.split_whitespace().skip(1).collect();
        if words.iter().any(|word| word.starts_with('\'')) {
            continue; // `soakd query '...'` stands for any SQL
        }
        assert!(known.iter().any(|command| command == words[0]), "`{span}`: there is no such command");
        let help = help(&words[..1]);
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "`{span}`: {} has no {flag}", words[0]);
        }
    }
}

#[test]
fn links_lead_somewhere_and_settings_are_understood() {
    for link in README.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(link);
        assert!(link.starts_with("http") || path.exists(), "{link} leads nowhere");
    }
    for text in blocks("toml") {
        config::load_text("README.md", text, Path::new("")).unwrap_or_else(|error| panic!("{error}"));
    }
}
