//! A rule's row as evidence: figures that a person reads, from column names that carry their units.

use super::words::{duration, megabytes, utc};
use crate::model::mail::Evidence;
use crate::model::time::UnixMillis;
use serde_json::Value;

/// The figures of one row, in the row's order. `x_lo_UNIT` and `x_hi_UNIT` become the interval of `x_UNIT`; text columns
/// are labels and left out, as the summary already speaks of them.
#[must_use]
pub fn evidence_from_row<'a>(row: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Vec<Evidence> {
    let row: Vec<(&str, f64)> = row.into_iter().filter_map(|(k, v)| Some((k, v.as_f64()?))).collect();
    let find = |name: &str| row.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
    row.iter()
        .filter(|(name, _)| !is_bound(name, &find))
        .map(|&(name, value)| {
            let (stem, unit) = split_unit(name);
            let bounds = find(&format!("{stem}_lo{unit}")).zip(find(&format!("{stem}_hi{unit}")));
            Evidence {
                what: stem.replace('_', " "),
                value: figure(value, unit),
                interval: bounds.map(|(lo, hi)| format!("95 % interval {} to {}", figure(lo, unit), figure(hi, unit))),
            }
        })
        .collect()
}

/// Units that a column name may end in, longest first.
const UNITS: [&str; 16] = [
    "_bytes_per_request",
    "_bytes_per_hour",
    "_tokens_per_s",
    "_milliwatts",
    "_unix_ms",
    "_celsius",
    "_percent",
    "_unix_s",
    "_ratio",
    "_bytes",
    "_mhz",
    "_ms",
    "_us",
    "_mb",
    "_w",
    "_s",
];

fn split_unit(name: &str) -> (&str, &str) {
    let unit = UNITS.iter().find(|unit| name.len() > unit.len() && name.ends_with(**unit)).copied().unwrap_or("");
    (&name[..name.len() - unit.len()], unit)
}

/// Whether `name` is the lower or upper bound of another column of the row.
fn is_bound(name: &str, find: &dyn Fn(&str) -> Option<f64>) -> bool {
    let (stem, unit) = split_unit(name);
    ["_lo", "_hi"].iter().filter_map(|end| stem.strip_suffix(end)).any(|base| find(&format!("{base}{unit}")).is_some())
}

fn figure(value: f64, unit: &str) -> String {
    match unit {
        "_bytes" => megabytes(value),
        "_mb" => megabytes(value * 1e6),
        "_bytes_per_hour" => format!("{} per hour", megabytes(value)),
        "_bytes_per_request" => format!("{} bytes per request", plain(value)),
        "_unix_ms" => utc(UnixMillis(value as i64)),
        "_unix_s" => utc(UnixMillis((value * 1_000.0) as i64)),
        "_ms" if value >= 10_000.0 => duration(value as i64),
        "_ms" => format!("{} ms", plain(value)),
        "_us" => format!("{} ms", plain(value / 1_000.0)),
        "_s" if value >= 120.0 => duration((value * 1_000.0) as i64),
        "_s" => format!("{} s", plain(value)),
        "_celsius" => format!("{} °C", plain(value)),
        "_percent" => format!("{} %", plain(value)),
        "_ratio" => format!("{} %", plain(value * 100.0)),
        "_milliwatts" => format!("{} W", plain(value / 1_000.0)),
        "_w" => format!("{} W", plain(value)),
        "_mhz" => format!("{} MHz", plain(value)),
        "_tokens_per_s" => format!("{} tokens/s", plain(value)),
        _ => plain(value),
    }
}

/// Whole numbers as they are, others with three significant digits or so.
fn plain(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    let digits = match value.abs() {
        a if a >= 100.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}
