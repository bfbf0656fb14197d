//! Small words and figures: sizes, durations, moments, and text made safe for one line.

use crate::model::mail::Table;
use crate::model::time::UnixMillis;
use chrono::{DateTime, Utc};

/// `+212 MB`, `-3.4 MB`, `+0.02 MB`: signed, in 10^6 bytes, three significant digits.
#[must_use]
pub fn megabytes(bytes: f64) -> String {
    let mb = bytes / 1e6;
    let digits = match mb.abs() {
        a if a >= 99.95 => 0,
        a if a >= 9.995 => 1,
        _ => 2,
    };
    format!("{mb:+.digits$} MB")
}

/// `3 h 12 min`, `48 s`: the two largest units, never negative.
#[must_use]
pub fn duration(ms: i64) -> String {
    let s = ms.max(0) / 1_000;
    match (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// `2026-03-01 03:04:05 UTC`.
#[must_use]
pub fn utc(at: UnixMillis) -> String {
    match DateTime::<Utc>::from_timestamp_millis(at.0) {
        Some(moment) => moment.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        None => format!("{} ms since 1970", at.0),
    }
}

/// True of a column whose cells are figures. The first column names the rows.
pub(super) fn is_of_figures(table: &Table, column: usize) -> bool {
    let is_figure = |cell: &String| cell.chars().all(|c| c.is_ascii_digit() || " .,:%+-–".contains(c));
    column > 0 && table.rows.iter().filter_map(|row| row.get(column)).all(is_figure)
}

/// One line: runs of white space become one space, control and direction-changing characters go.
pub(super) fn one_line(s: &str) -> String {
    printable(s).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Lines stay, other control characters become spaces. The bidirectional controls go too: in a subject they can make
/// text read backwards.
pub(super) fn printable(s: &str) -> String {
    let bidi =
        |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    s.chars()
        .filter(|&c| !bidi(c))
        .map(|c| match c {
            '\n' => '\n',
            '\u{2028}' | '\u{2029}' => ' ',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}

/// At most `max` characters; what is cut shows as an ellipsis.
pub(super) fn cut(s: &str, max: usize) -> String {
    if s.chars().count() <= max {
        return s.to_owned();
    }
    let kept: String = s.chars().take(max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}
