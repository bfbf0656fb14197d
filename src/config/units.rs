//! Durations and sizes as people write them: a number and a unit, never a bare number.
//!
//! `48h`, `1h30m`, `500ms`; `50MB` (10^6), `64MiB` (2^20). The unit is asked for because "48" has meant seconds, minutes
//! and hours to three readers of the same file.

use std::time::Duration;

/// Units of time and their length in milliseconds, longest first.
const TIME_UNITS_MS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Units of size: decimal as on disks and in the tolerance, binary as in memory.
const SIZE_UNITS_BYTES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];
/// Ten years: longer is a typing error, and sums of a few of them stay far from overflow.
const DURATION_MS_MAX: u64 = 10 * 366 * 86_400_000;
/// 1 PB: no machine has it, and it fits an i64 with room.
const SIZE_BYTES_MAX: u64 = 1_000_000_000_000_000;

/// What is wrong with a quantity, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct UnitError {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl UnitError {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        UnitError { what: what.into(), remedy: remedy.into() }
    }
}

/// `48h`, `90s`, `1h30m`, `1.5h`, `500ms`, `2d`. Also clap's value parser for flags.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let trimmed = text.trim();
    if trimmed.starts_with('-') {
        return Err(UnitError::new(format!("{text:?} is negative"), "a duration such as \"48h\" is wanted"));
    }
    let mut rest = trimmed;
    let mut total_ms = 0u64;
    let mut longest_allowed = u64::MAX;
    if rest.is_empty() {
        return Err(UnitError::new("it is empty", "write a duration such as \"48h\", \"90s\" or \"1h30m\""));
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let after = after.trim_start();
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').unwrap_or(after.len());
        let (unit, tail) = after.split_at(unit_end);
        let Some(value) = number else {
            return Err(UnitError::new(
                format!("{text:?} is not a duration"),
                "write a number and a unit, such as \"48h\", \"90s\" or \"1h30m\"",
            ));
        };
        if unit.is_empty() {
            return Err(UnitError::new(
                format!("{text:?} has no unit"),
                format!("write \"{trimmed}h\", \"{trimmed}m\" or \"{trimmed}s\""),
            ));
        }
        let Some(&(_, unit_ms)) = TIME_UNITS_MS.iter().find(|(name, _)| *name == unit) else {
            return Err(UnitError::new(
                format!("{text:?} has the unknown unit {unit:?}"),
                "the units are w, d, h, m, s and ms",
            ));
        };
        if unit_ms >= longest_allowed {
            return Err(UnitError::new(format!("{text:?} repeats or reorders units"), "write it like \"1h30m\""));
        }
        longest_allowed = unit_ms;
        let ms = value * unit_ms as f64;
        if ms.fract() != 0.0 {
            return Err(UnitError::new(format!("{text:?} is finer than a millisecond"), "round it to milliseconds"));
        }
        total_ms = total_ms.saturating_add(ms as u64);
        if total_ms > DURATION_MS_MAX {
            return Err(UnitError::new(format!("{text:?} is more than ten years"), "write a shorter duration"));
        }
        rest = tail.trim_start();
    }
    Ok(Duration::from_millis(total_ms))
}

/// `50MB`, `1.5GB`, `64MiB`, `0B`. Also clap's value parser for flags.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let trimmed = text.trim();
    let (number, unit) = split_number(trimmed);
    let unit = unit.trim();
    let Some(value) = number else {
        return Err(UnitError::new(
            format!("{text:?} is not a size"),
            "write a number and a unit, such as \"50MB\" or \"64MiB\"",
        ));
    };
    if unit.is_empty() {
        return Err(UnitError::new(
            format!("{text:?} has no unit"),
            format!("write \"{trimmed}MB\" (10^6 bytes), \"{trimmed}MiB\" (2^20) or \"{trimmed}B\""),
        ));
    }
    let Some(&(_, unit_bytes)) = SIZE_UNITS_BYTES.iter().find(|(name, _)| *name == unit) else {
        let close = SIZE_UNITS_BYTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let remedy = match close {
            Some((name, _)) => format!("did you mean {name}? The units are B, kB, MB, GB, TB, KiB, MiB, GiB and TiB"),
            None => {
                "the units are B, kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024)".to_owned()
            }
        };
        return Err(UnitError::new(format!("{text:?} has the unknown unit {unit:?}"), remedy));
    };
    let bytes = value * unit_bytes as f64;
    if bytes.fract() != 0.0 {
        return Err(UnitError::new(format!("{text:?} is no whole number of bytes"), "round it"));
    }
    if bytes > SIZE_BYTES_MAX as f64 {
        return Err(UnitError::new(format!("{text:?} is more than 1000 TB"), "write a smaller size"));
    }
    Ok(bytes as u64)
}

/// The number that `text` starts with, and the rest. No exponent and no sign: nobody writes `5e1h`.
fn split_number(text: &str) -> (Option<f64>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let plausible = digits.chars().any(|c| c.is_ascii_digit()) && digits.len() <= 18;
    (if plausible { digits.parse().ok() } else { None }, rest)
}

/// The shortest text that [`parse_duration`] reads as `duration`; whole milliseconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest_ms = duration.as_millis() as u64;
    if rest_ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    // Weeks and days are for reading only: "48h" is how people say it.
    for (unit, unit_ms) in TIME_UNITS_MS.iter().skip(2) {
        if rest_ms >= *unit_ms {
            out.push_str(&format!("{}{unit}", rest_ms / unit_ms));
            rest_ms %= unit_ms;
        }
    }
    out
}

/// The shortest exact text that [`parse_bytes`] reads as `bytes`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    SIZE_UNITS_BYTES
        .iter()
        .filter(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
        .map(|(name, unit)| format!("{}{name}", bytes / unit))
        .min_by_key(String::len)
        .unwrap_or_else(|| format!("{bytes}B"))
}

/// serde: a duration as its text.
pub fn serialize_duration<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format_duration(*duration))
}

/// serde: a duration as its text, or `none`.
pub fn serialize_duration_or_none<S: serde::Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&duration.map_or("none".to_owned(), format_duration))
}

/// serde: a size as its text.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
pub fn serialize_bytes<S: serde::Serializer>(bytes: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_that_people_write() {
        for (text, ms) in [
            ("48h", 172_800_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("2d", 172_800_000),
            ("1w", 604_800_000),
            ("0s", 0),
            (" 90s ", 90_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn durations_that_are_refused_say_what_to_write() {
        for (text, hint) in [
            ("48", "\"48h\""),
            ("", "48h"),
            ("h", "48h"),
            ("-5s", "negative"),
            ("48 hours", "h, m, s"),
            ("48 30m", "no unit"),
            ("30m1h", "1h30m"),
            ("1h1h", "1h30m"),
            ("1e9h", "units are"),
            ("999999999h", "ten years"),
            ("0.3ms", "millisecond"),
            ("1.2.3s", "number and a unit"),
            ("∞", "number and a unit"),
        ] {
            let error = parse_duration(text).expect_err(text).to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("50MB", 50_000_000), ("64MiB", 67_108_864), ("1.5 GB", 1_500_000_000), ("0B", 0), ("7kB", 7_000)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for (text, hint) in [
            ("50", "50MB"),
            ("50mb", "did you mean MB"),
            ("50 bananas", "units are"),
            ("MB", "number"),
            ("0.5B", "whole"),
            ("9999999TB", "1000 TB"),
        ] {
            let error = parse_bytes(text).expect_err(text).to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_is_read_back(ms in 0..DURATION_MS_MAX, bytes in 0..SIZE_BYTES_MAX) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}") {
            let _ = parse_duration(&text);
            let _ = parse_bytes(&text);
        }
    }
}
