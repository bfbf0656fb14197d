//! What is wrong with a configuration, said so that it can be put right: file, line, column, key, remedy.

use std::fmt;

/// Where something stands in the file; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    /// The place of byte `offset` in `text`.
    #[must_use]
    pub fn of(text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Such as `run.duration`, or the flag (`--duration`) that overrode it; empty when it is about the whole file.
    pub key: String,
    /// Where; `None` when the key is not in the file (a flag, or a default that clashes with another key).
    pub place: Option<Place>,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

/// All that is wrong, in the order of the file: one fix a round would be a poor joke at 18:00 on a Friday.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name, or `the command line`.
    pub source: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            if problem.key.starts_with("--") {
                write!(f, "{}", problem.key)?;
            } else {
                write!(f, "{}", self.source)?;
                if let Some(place) = problem.place {
                    write!(f, ":{}:{}", place.line, place.column)?;
                }
                if !problem.key.is_empty() {
                    write!(f, ": {}", problem.key)?;
                }
            }
            write!(f, ": {}; {}", problem.what, problem.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let text = "a = 1\nü = 2\n";
        for (offset, line, column) in [(0, 1, 1), (4, 1, 5), (6, 2, 1), (8, 2, 2), (99, 3, 1)] {
            assert_eq!(Place::of(text, offset), Place { line, column }, "byte {offset}");
        }
    }
}
