//! `soakd rules`: what the alert rules are, whether they are sound, and their unit tests.

mod testing;

use super::{CannotStart, Done, Outcome};
use crate::rules::{DEFAULT_RULE_TESTS, PARAMETERS, RuleSet};
use crate::store::sql::Sandbox;
use crate::supervisor::alerting::{RuleSources, check_rules, load_rules};
use std::path::{Path, PathBuf};

/// List, check and test alert rules.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd rules list
  soakd rules check my-rules.toml            built-in rules and this file: SQL, templates, names
  soakd rules test                           the tests of the built-in rules
  soakd rules test my-rules.toml             runs my-rules.test.toml beside it

Exit code: 0 all is well, 1 a test failed, 2 a rule is wrong (file, line and remedy are named).")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The rules in force, one a line
    #[command(after_help = "Examples:
  soakd rules list                    the built-in rules, and those that soak.toml names
  soakd rules list my-rules.toml      built-in rules and this file")]
    List(Files),
    /// Whether SQL, templates and references are sound
    #[command(after_help = "Examples:
  soakd rules check
  soakd rules check my-rules.toml --no-builtin")]
    Check(Files),
    /// Run unit tests: rows over virtual time in, alerts expected out
    #[command(after_help = "Examples:
  soakd rules test                    the tests of the built-in rules
  soakd rules test my-rules.toml      runs my-rules.test.toml beside it")]
    Test(Files),
    /// Print the built-in rules, to copy from
    #[command(after_help = "Examples:
  soakd rules show > my-rules.toml    a start for rules of your own")]
    Show,
}

#[derive(Debug, clap::Args)]
struct Files {
    /// Rule files, after the built-in rules; none: those of the configuration
    #[arg(value_name = "FILE")]
    named: Vec<PathBuf>,
    /// The configuration whose rule files are meant
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave the built-in rules out
    #[arg(long)]
    no_builtin: bool,
}

/// Lists, checks or tests.
pub fn execute(args: &Args) -> Done {
    match &args.action {
        Action::List(files) => {
            list(&sound(files)?);
            Ok(Outcome::Passed)
        }
        Action::Check(files) => {
            let rules = sound(files)?;
            println!("{} rules are sound.", rules.rules.len());
            Ok(Outcome::Passed)
        }
        Action::Test(files) => test(files),
        Action::Show => {
            print!("{}", crate::rules::DEFAULT_RULES);
            Ok(Outcome::Passed)
        }
    }
}

fn sources(files: &Files) -> Result<RuleSources, CannotStart> {
    if !files.named.is_empty() {
        return Ok(RuleSources { builtin: !files.no_builtin, files: files.named.clone() });
    }
    let config = crate::config::load(files.config.as_deref()).map_err(CannotStart::because)?;
    Ok(RuleSources { builtin: config.alerts.builtin && !files.no_builtin, files: config.alerts.rules })
}

/// Rules that parse and whose SQL and templates fit the schema.
fn sound(files: &Files) -> Result<RuleSet, CannotStart> {
    let rules = load_rules(&sources(files)?).map_err(CannotStart::because)?;
    let sandbox = Sandbox::new().map_err(CannotStart::because)?;
    let faults = check_rules(&rules, sandbox.reader());
    if faults.is_empty() {
        return Ok(rules);
    }
    Err(CannotStart(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

fn list(rules: &RuleSet) {
    let width = rules.rules.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
    for rule in &rules.rules {
        let meaning: String = rule.meaning.lines().next().unwrap_or("").chars().take(90).collect();
        println!("{:<width$}  {:<6}  {:<8}  {meaning}", rule.name, rule.severity.as_str(), rule.route);
    }
    println!("\nParameters that SQL may use:");
    for (name, what) in PARAMETERS {
        println!("  {name:<26} {what}");
    }
}

fn test(files: &Files) -> Done {
    let sources = sources(files)?;
    let rules = sound(files)?;
    let mut suites = Vec::new();
    if sources.builtin {
        suites.push(("alert-rules/default.test.toml (built in)".to_owned(), DEFAULT_RULE_TESTS.to_owned()));
    }
    for path in &sources.files {
        let beside = beside(path);
        let text = std::fs::read_to_string(&beside);
        match text {
            Ok(text) => suites.push((beside.display().to_string(), text)),
            Err(error) => eprintln!("soakd: {} has no tests: {}: {error}", path.display(), beside.display()),
        }
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, text) in suites {
        for result in testing::run_suite(&name, &text, &rules).map_err(CannotStart)? {
            if result.problems.is_empty() {
                passed += 1;
                continue;
            }
            failed += 1;
            println!("FAILED {name}:{}: {}", result.line, result.name);
            for problem in &result.problems {
                println!("  {problem}");
            }
        }
    }
    println!("{passed} tests passed, {failed} failed.");
    Ok(if failed == 0 { Outcome::Passed } else { Outcome::Failed })
}

/// `my-rules.toml` → `my-rules.test.toml`.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("test.toml")
}
