//! Where rules come from, and what is wrong with them: files are read and parsed, their SQL is prepared against the real
//! schema, and their templates are compared with the columns that the SQL returns.

use crate::rules::{DEFAULT_RULES, DEFAULT_RULES_NAME, PARAMETERS, Rule, RuleError, RuleSet, Templates};
use crate::store::sql::Reader;
use std::path::PathBuf;

/// What is wrong with a rule: prose with file, line and remedy.
pub type Fault = RuleError;

/// Which rules are in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSources {
    /// Whether the built-in rules apply.
    pub builtin: bool,
    /// More rule files, in order; a later rule replaces an earlier one of the same name.
    pub files: Vec<PathBuf>,
}

impl Default for RuleSources {
    fn default() -> Self {
        RuleSources { builtin: true, files: Vec::new() }
    }
}

/// Reads and parses all rules.
pub fn load_rules(sources: &RuleSources) -> Result<RuleSet, Fault> {
    let mut texts = Vec::new();
    if sources.builtin {
        texts.push((DEFAULT_RULES_NAME.to_owned(), DEFAULT_RULES.to_owned()));
    }
    for path in &sources.files {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| RuleError {
            file: file.clone(),
            line: 1,
            what: format!("cannot read this rule file: {error}"),
            remedy: "Check `rules` under [alerts] in soak.toml, and the permissions of the file".into(),
        })?;
        texts.push((file, text));
    }
    RuleSet::parse_all(&texts)
}

/// Everything that only a database can judge; empty if all is well.
#[must_use]
pub fn check_rules(rules: &RuleSet, reader: &Reader) -> Vec<Fault> {
    let templates = Templates::default();
    rules.rules.iter().flat_map(|rule| check_rule(rule, reader, &templates)).collect()
}

fn check_rule(rule: &Rule, reader: &Reader, templates: &Templates) -> Vec<Fault> {
    let fault = |what: String, remedy: &str| RuleError {
        file: rule.file.clone(),
        line: rule.line,
        what: format!("rule {:?}: {what}", rule.name),
        remedy: remedy.to_owned(),
    };
    let names: Vec<&str> = PARAMETERS.iter().map(|(name, _)| *name).collect();
    let columns = match reader.check(&rule.sql, &names) {
        Ok(columns) => columns,
        Err(error) => return vec![fault(format!("its SQL fails: {error}"), "Try it with `soakd query`")],
    };
    let mut faults = Vec::new();
    for (template, column) in templates.unknown_columns(rule, &columns) {
        let what = format!("the template {template:?} uses {column}, which its SQL does not return");
        faults.push(fault(what, &format!("Its columns are {}", columns.join(", "))));
    }
    let labels = rule.labels.iter().flatten().chain(&rule.group_by);
    for label in labels.filter(|label| !columns.contains(label)) {
        let what = format!("the label {label:?} is no column of its SQL");
        faults.push(fault(what, &format!("Its columns are {}", columns.join(", "))));
    }
    faults
}
