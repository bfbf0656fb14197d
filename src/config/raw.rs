//! First stage: text to tables, with the place of every key; and the reader that takes typed values out of a table.
//!
//! A [`Section`] is asked for its keys one after the other. Asking is what makes a key known, so there is no second list
//! of keys to keep; what was never asked for is unknown, and [`Section::finish`] says so with the nearest known name.
//! What a value means, and whether it goes with the others, is the next stage's business.

use super::error::{ConfigError, Place, Problem};
use super::units;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// An enumeration of words in the configuration.
pub trait Choice: Copy + PartialEq + 'static {
    /// Every word and what it means; the first of equal meanings is the one that is written.
    const WORDS: &'static [(&'static str, Self)];

    /// The word for `self`.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// A parsed file: its tables, what is wrong so far, and where each key stands.
pub struct Document<'t> {
    text: &'t str,
    root: DeTable<'t>,
    asked: BTreeSet<&'static str>,
    /// What is wrong so far.
    pub problems: Vec<Problem>,
    /// `run.duration` → where its value stands.
    pub places: BTreeMap<String, Place>,
}

impl<'t> Document<'t> {
    /// Syntax only. Complaints call the text `name`.
    pub fn parse(name: &str, text: &'t str) -> Result<Self, ConfigError> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let problems: Vec<Problem> = errors
            .iter()
            .map(|error| Problem {
                key: String::new(),
                place: error.span().map(|span| Place::of(text, span.start)),
                what: error.message().replace('\n', ", "),
                remedy: "this is not TOML; a line is key = \"value\", a section is [name]".to_owned(),
            })
            .collect();
        if problems.is_empty() {
            let (asked, places) = (BTreeSet::new(), BTreeMap::new());
            Ok(Document { text, root: root.into_inner(), asked, problems: Vec::new(), places })
        } else {
            Err(ConfigError { source: name.to_owned(), problems })
        }
    }

    /// As much of a damaged text as can be read; what is wrong with it is not told.
    pub fn salvage(text: &'t str) -> Self {
        let (root, _) = DeTable::parse_recoverable(text);
        let (asked, places) = (BTreeSet::new(), BTreeMap::new());
        Document { text, root: root.into_inner(), asked, problems: Vec::new(), places }
    }

    /// Opens section `[name]`; a missing one reads as empty.
    pub fn section(&mut self, name: &'static str) -> Section<'_, 't> {
        self.asked.insert(name);
        let mut table = DeTable::new();
        if let Some((_, value)) = remove(&mut self.root, name) {
            let place = Place::of(self.text, value.span().start);
            match value.into_inner() {
                DeValue::Table(found) => table = found,
                other => self.problems.push(Problem {
                    key: name.to_owned(),
                    place: Some(place),
                    what: format!("expected a section, found a {}", other.type_str()),
                    remedy: format!("write [{name}] on a line of its own, and its keys below"),
                }),
            }
        }
        Section {
            name,
            text: self.text,
            table,
            asked: Vec::new(),
            problems: &mut self.problems,
            places: &mut self.places,
        }
    }

    /// Everything was asked for: what is left is unknown.
    pub fn finish(&mut self) {
        for (key, value) in &self.root {
            let name: &str = key.get_ref();
            let kind = if value.get_ref().is_table() { "section" } else { "key outside any section:" };
            self.problems.push(Problem {
                key: name.to_owned(),
                place: Some(Place::of(self.text, key.span().start)),
                what: format!("unknown {kind} {name:?}"),
                remedy: nearest(name, &self.asked.iter().copied().collect::<Vec<_>>(), "sections"),
            });
        }
        self.problems.sort_by_key(|problem| problem.place);
    }
}

/// One section, being read.
pub struct Section<'d, 't> {
    name: &'static str,
    text: &'t str,
    table: DeTable<'t>,
    asked: Vec<&'static str>,
    problems: &'d mut Vec<Problem>,
    places: &'d mut BTreeMap<String, Place>,
}

/// What is wrong with a value, and what to write.
type Refusal = (String, String);

impl<'t> Section<'_, 't> {
    /// Takes `key` if it is there and hands its value to `read`; a refusal becomes a problem with its place.
    fn take<T>(
        &mut self,
        key: &'static str,
        into: &mut T,
        read: impl FnOnce(DeValue<'t>, &'t str) -> Result<T, Refusal>,
    ) {
        self.asked.push(key);
        let Some((_, value)) = remove(&mut self.table, key) else { return };
        let full = format!("{}.{key}", self.name);
        let span = value.span();
        let place = Place::of(self.text, span.start);
        self.places.insert(full.clone(), place);
        let written = self.text.get(span).unwrap_or_default();
        match read(value.into_inner(), written) {
            Ok(read) => *into = read,
            Err((what, remedy)) => self.problems.push(Problem { key: full, place: Some(place), what, remedy }),
        }
    }

    /// `"48h"`.
    pub fn duration(&mut self, key: &'static str, into: &mut Duration) {
        self.take(key, into, |value, written| duration(&value, written));
    }

    /// `"48h"`, or `"none"`.
    pub fn duration_or_none(&mut self, key: &'static str, into: &mut Option<Duration>) {
        self.take(key, into, |value, written| {
            if value.as_str() == Some("none") { Ok(None) } else { duration(&value, written).map(Some) }
        });
    }

    /// `"50MB"`.
    pub fn bytes(&mut self, key: &'static str, into: &mut u64) {
        self.take(key, into, |value, written| bytes(&value, written));
    }

    /// A whole number within `range`.
    pub fn integer(&mut self, key: &'static str, range: std::ops::RangeInclusive<i64>, into: &mut i64) {
        self.take(key, into, |value, written| integer(&value, written, &range));
    }

    /// A whole number within `range`, or a word such as `"auto"` that stands for `None`.
    pub fn integer_or(
        &mut self,
        key: &'static str,
        word: &'static str,
        range: std::ops::RangeInclusive<i64>,
        into: &mut Option<i64>,
    ) {
        self.take(key, into, |value, written| {
            if value.as_str() == Some(word) {
                return Ok(None);
            }
            match integer(&value, written, &range) {
                Ok(number) => Ok(Some(number)),
                Err((what, remedy)) => Err((what, format!("{remedy}, or \"{word}\""))),
            }
        });
    }

    /// A number, whole or not, that is finite and not negative; or `"none"`.
    pub fn number_or_none(&mut self, key: &'static str, into: &mut Option<f64>) {
        self.take(key, into, |value, written| {
            if value.as_str() == Some("none") {
                return Ok(None);
            }
            let refusal = || {
                (format!("expected a number, found {written}"), "write a number such as 12.5, or \"none\"".to_owned())
            };
            if !(value.is_float() || value.is_integer()) {
                return Err(refusal());
            }
            let number: f64 = written.replace('_', "").parse().map_err(|_| refusal())?;
            if number.is_finite() && number >= 0.0 { Ok(Some(number)) } else { Err(refusal()) }
        });
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, into: &mut bool) {
        self.take(key, into, |value, written| {
            value.as_bool().ok_or_else(|| {
                (format!("expected true or false, found {written}"), "write it without quotes".to_owned())
            })
        });
    }

    /// One word of a list.
    pub fn choice<C: Choice>(&mut self, key: &'static str, into: &mut C) {
        self.take(key, into, |value, written| {
            let words: Vec<&str> = C::WORDS.iter().map(|(word, _)| *word).collect();
            let text = text(&value, written)?;
            C::WORDS
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, meaning)| *meaning)
                .ok_or_else(|| (format!("{text:?} is none of the choices"), nearest(&text, &words, "choices")))
        });
    }

    /// Any text that is not empty.
    pub fn text(&mut self, key: &'static str, into: &mut String) {
        self.take(key, into, |value, written| text(&value, written));
    }

    /// Any text, or `"none"`.
    pub fn text_or_none(&mut self, key: &'static str, into: &mut Option<String>) {
        self.take(key, into, |value, written| Ok(Some(text(&value, written)?).filter(|text| text != "none")));
    }

    /// A path, taken as it stands: for what soakd writes.
    pub fn path(&mut self, key: &'static str, into: &mut PathBuf) {
        self.take(key, into, |value, written| text(&value, written).map(PathBuf::from));
    }

    /// A path below `base` unless it is absolute, or `"none"`: for what soakd reads.
    pub fn path_or_none(&mut self, key: &'static str, base: &Path, into: &mut Option<PathBuf>) {
        self.take(key, into, |value, written| {
            Ok(Some(text(&value, written)?).filter(|text| text != "none").map(|text| beside(base, &text)))
        });
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str, into: &mut Vec<String>) {
        self.take(key, into, |value, written| list(&value, written, text));
    }

    /// A word that stands for `None`, or a list of whole numbers within `range`.
    pub fn integers_or(
        &mut self,
        key: &'static str,
        word: &'static str,
        range: std::ops::RangeInclusive<i64>,
        into: &mut Option<Vec<i64>>,
    ) {
        self.take(key, into, |value, written| {
            if value.as_str() == Some(word) {
                return Ok(None);
            }
            list(&value, written, |item, written| integer(item, written, &range))
                .map(Some)
                .map_err(|(what, remedy)| (what, format!("{remedy}, or \"{word}\"")))
        });
    }

    /// A table of lists of texts whose keys the user chooses, such as `[mail.routes]`.
    pub fn table_of_texts(&mut self, key: &'static str, into: &mut BTreeMap<String, Vec<String>>) {
        let (mut found, mut places) = (BTreeMap::new(), Vec::new());
        let text_of_file = self.text;
        let name = self.name;
        self.take(key, &mut found, |value, written| {
            let DeValue::Table(table) = value else {
                return Err((format!("expected a section, found {written}"), format!("write [{name}.{key}]")));
            };
            let mut out = BTreeMap::new();
            for (word, value) in table {
                let span = value.span();
                let written = text_of_file.get(span.clone()).unwrap_or_default();
                places.push((format!("{name}.{key}.{}", word.get_ref()), Place::of(text_of_file, span.start)));
                out.insert(word.into_inner().into_owned(), list(value.get_ref(), written, text)?);
            }
            Ok(out)
        });
        self.places.extend(places);
        if !found.is_empty() {
            *into = found;
        }
    }

    /// A table of texts whose keys the user chooses, such as `[gates.bounds]`; `check` says what is wrong with one.
    pub fn table_of_words(
        &mut self,
        key: &'static str,
        into: &mut BTreeMap<String, String>,
        check: fn(&str, &str) -> Result<(), String>,
    ) {
        let mut found = BTreeMap::new();
        let (text_of_file, name) = (self.text, self.name);
        self.take(key, &mut found, |value, written| {
            let DeValue::Table(table) = value else {
                return Err((format!("expected a section, found {written}"), format!("write [{name}.{key}]")));
            };
            let mut out = BTreeMap::new();
            for (word, value) in table {
                let written = text_of_file.get(value.span()).unwrap_or_default();
                let said = text(value.get_ref(), written)?;
                check(word.get_ref(), &said).map_err(|what| {
                    (format!("{}: {what}", word.get_ref()), "`soakd gate --list` names the figures".to_owned())
                })?;
                out.insert(word.into_inner().into_owned(), said);
            }
            Ok(out)
        });
        if !found.is_empty() {
            *into = found;
        }
    }

    /// Everything was asked for: what is left is unknown.
    pub fn finish(self) {
        for (key, _) in &self.table {
            let name: &str = key.get_ref();
            self.problems.push(Problem {
                key: format!("{}.{name}", self.name),
                place: Some(Place::of(self.text, key.span().start)),
                what: format!("unknown key {name:?} in [{}]", self.name),
                remedy: nearest(name, &self.asked, "keys"),
            });
        }
    }
}

/// `path` below `base` unless it is absolute.
pub fn beside(base: &Path, path: &str) -> PathBuf {
    base.join(path)
}

fn remove<'t>(table: &mut DeTable<'t>, name: &str) -> Option<(Spanned<()>, Spanned<DeValue<'t>>)> {
    let key = table.keys().find(|key| key.get_ref() == name)?.clone();
    let value = table.remove(&key)?;
    Some((Spanned::new(key.span(), ()), value))
}

fn text(value: &DeValue<'_>, written: &str) -> Result<String, Refusal> {
    match value.as_str() {
        Some("") => Err(("it is empty".to_owned(), "write a value, or remove the line for the default".to_owned())),
        Some(text) => Ok(text.to_owned()),
        None => Err((format!("expected text, found {written}"), "put it in quotes".to_owned())),
    }
}

fn duration(value: &DeValue<'_>, written: &str) -> Result<Duration, Refusal> {
    let Some(text) = value.as_str() else {
        let remedy = if value.is_integer() {
            format!("write it with a unit and in quotes: \"{written}h\", \"{written}m\" or \"{written}s\"")
        } else {
            "write a number and a unit in quotes, such as \"48h\"".to_owned()
        };
        return Err((format!("expected a duration, found {written}"), remedy));
    };
    units::parse_duration(text).map_err(|error| (error.what, error.remedy))
}

fn bytes(value: &DeValue<'_>, written: &str) -> Result<u64, Refusal> {
    let Some(text) = value.as_str() else {
        let remedy = if value.is_integer() {
            format!("write it with a unit and in quotes: \"{written}MB\", \"{written}MiB\" or \"{written}B\"")
        } else {
            "write a number and a unit in quotes, such as \"50MB\"".to_owned()
        };
        return Err((format!("expected a size, found {written}"), remedy));
    };
    units::parse_bytes(text).map_err(|error| (error.what, error.remedy))
}

fn integer(value: &DeValue<'_>, written: &str, range: &std::ops::RangeInclusive<i64>) -> Result<i64, Refusal> {
    let allowed = || {
        if *range.end() == i64::MAX {
            format!("write a whole number from {}", range.start())
        } else {
            format!("write a whole number from {} to {}", range.start(), range.end())
        }
    };
    let Some(integer) = value.as_integer() else {
        return Err((format!("expected a whole number, found {written}"), allowed()));
    };
    match i64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err((format!("{written} is out of range"), allowed())),
    }
}

fn list<T>(
    value: &DeValue<'_>,
    written: &str,
    item: impl Fn(&DeValue<'_>, &str) -> Result<T, Refusal>,
) -> Result<Vec<T>, Refusal> {
    let Some(array) = value.as_array() else {
        return Err((format!("expected a list, found {written}"), format!("write [{written}]")));
    };
    array
        .iter()
        .map(|entry| {
            // Spans are of the whole file; this entry's text is shown by its value, which is enough to find it.
            let shown = match entry.get_ref() {
                DeValue::String(text) => format!("{text:?}"),
                DeValue::Integer(number) => number.as_str().to_owned(),
                other => format!("a {}", other.type_str()),
            };
            item(entry.get_ref(), &shown)
        })
        .collect()
}

/// "did you mean X?" if something known is near, else all that is known.
pub fn nearest(word: &str, known: &[&str], what: &str) -> String {
    let near = known
        .iter()
        .map(|candidate| (distance(&word.to_lowercase(), candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 3);
    let all = known.join(", ");
    match near {
        Some((_, candidate)) => format!("did you mean {candidate}? The {what} are {all}"),
        None => format!("the {what} are {all}"),
    }
}

/// Levenshtein's edit distance. Both words are short: keys and choices; what is longer is cut.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("abc", "", 3), ("duraton", "duration", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        assert!(nearest("duraton", &["duration", "seed"], "keys").starts_with("did you mean duration?"));
        assert!(nearest("banana", &["duration", "seed"], "keys").starts_with("the keys are"));
    }
}
