//! Rule files: what is read, and what is refused with which words.

use crate::rules::{Row, RuleSet, Templates, millis_from};
use serde_json::json;

#[test]
fn the_built_in_rules_parse_and_say_all_that_a_mail_needs() {
    let set = RuleSet::builtin();
    assert!(set.rules.len() >= 30, "{}", set.rules.len());
    for rule in &set.rules {
        for (what, text) in [("description", &rule.description), ("meaning", &rule.meaning), ("runbook", &rule.runbook)]
        {
            assert!(!text.is_empty(), "{} has no {what}", rule.name);
        }
        assert!(rule.labels.is_some(), "{} names its labels, so that a changing text makes no new alert", rule.name);
    }
    let again = RuleSet::parse_all(&[("d".into(), crate::rules::DEFAULT_RULES.into())]).expect("references");
    assert_eq!(again.rules.len(), set.rules.len());
}

#[test]
fn durations_are_numbers_with_units() {
    let cases = [
        ("90s", Some(90_000)),
        ("5m", Some(300_000)),
        ("1h30m", Some(5_400_000)),
        ("1.5h", Some(5_400_000)),
        ("250ms", Some(250)),
        ("1d", Some(86_400_000)),
        ("0s", Some(0)),
        ("48", None),
        ("", None),
        ("5 minutes", None),
        ("-5m", None),
        ("m", None),
        ("99999999d", None),
    ];
    for (text, expected) in cases {
        assert_eq!(millis_from(text), expected, "{text}");
    }
}

const GOOD: &str = "[[rule]]\nname = \"a\"\nseverity = \"page\"\nsummary = \"{{ x }}\"\nsql = \"SELECT 1 AS x\"\n";

#[test]
fn what_is_wrong_is_said_with_its_line() {
    assert!(RuleSet::parse("r.toml", GOOD).is_ok());
    let cases = [
        ("severity = \"page\"", "severity = \"urgent\"", "r.toml:3: \"urgent\" is no severity"),
        ("severity = \"page\"", "", "r.toml:1: rule \"a\" has no severity"),
        ("sql = \"SELECT 1 AS x\"", "", "r.toml:1: rule \"a\" has no sql"),
        ("name = \"a\"", "name = \"A rule\"", "r.toml:2: \"A rule\" is no name"),
        ("{{ x }}", "{{ x ", "r.toml:4: summary"),
        ("sql =", "for = \"5\"\nsql =", "r.toml:5: for = \"5\" is no duration"),
        ("sql =", "forr = \"5s\"\nsql =", "r.toml:5: unknown field `forr`"),
        ("sql =", "kind = \"x\"\nsql =", "r.toml:5: \"x\" is no kind of mail"),
        ("name = \"a\"", "name = 3", "r.toml:2: invalid type"),
        ("[[rule]]", "[[rules]]", "r.toml:1: unknown field `rules`"),
    ];
    for (from, to, words) in cases {
        let error = RuleSet::parse("r.toml", &GOOD.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(error.starts_with(words), "{to}: {error}");
    }
    let twice = format!("{GOOD}{GOOD}");
    let error = RuleSet::parse("r.toml", &twice).expect_err("twice").to_string();
    assert!(error.contains("r.toml:7") && error.contains("line 2"), "{error}");
}

#[test]
fn a_later_file_replaces_and_takes_away() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let b = GOOD.replace("\"a\"", "\"b\"");
    let set = RuleSet::parse_all(&[file("1", &format!("{GOOD}{b}")), file("2", &GOOD.replace("page", "info"))]);
    let set = set.expect("valid");
    assert_eq!(set.rules.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(set.get("a").expect("a").file, "2");
    let off = "[[rule]]\nname = \"a\"\nenabled = false\n";
    let set = RuleSet::parse_all(&[file("1", GOOD), file("2", off)]).expect("valid");
    assert!(set.rules.is_empty());
    let error = RuleSet::parse_all(&[file("1", &GOOD.replace("sql =", "inhibits = [\"nobody\"]\nsql ="))]);
    assert!(error.expect_err("unknown").to_string().contains("inhibits \"nobody\", which is no rule"));
}

#[test]
fn templates_know_units_and_a_mistake_does_not_lose_the_mail() {
    let row = Row::from([
        ("bytes".into(), json!(-12_345_678)),
        ("ms".into(), json!(7_500_000)),
        ("at".into(), json!(1_790_000_000_000_i64)),
        ("share".into(), json!(0.975)),
        ("none".into(), json!(null)),
    ]);
    let templates = Templates::default();
    let cases = [
        ("{{ bytes|signed_mb }}", "−12.3 MB"),
        ("{{ ms|duration }}", "2 h 5 min"),
        ("{{ at|time }}", "2026-09-21 14:13:20 UTC"),
        ("{{ share|percent }}", "97.5 %"),
        ("{{ none|mb }}", "–"),
        ("{{ (ms / 1000)|round(1) }}", "7500.0"),
    ];
    for (source, expected) in cases {
        assert_eq!(templates.render(source, &row), expected, "{source}");
    }
    assert!(templates.render("{{ missing }}", &row).contains("[template failed"), "a flaw is shown");
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
    assert!(templates.render(endless, &row).contains("[template failed"), "bounded");
}

#[test]
fn the_documentation_names_every_parameter_and_key() {
    let text = include_str!("../../../docs/alert-rules.md");
    for (name, _) in crate::rules::PARAMETERS {
        assert!(text.contains(&format!("`{name}`")), "docs/alert-rules.md does not mention {name}");
    }
    // The parser itself lists its keys when it meets one that it does not know.
    let error = RuleSet::parse("r", "[[rule]]\nname = \"a\"\nnope = 1\n").expect_err("unknown key").to_string();
    let keys: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
    assert!(keys.len() >= 20, "{error}");
    for key in keys {
        assert!(text.contains(&format!("`{key}`")), "docs/alert-rules.md does not mention {key}");
    }
}
