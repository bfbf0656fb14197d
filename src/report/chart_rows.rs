//! A chart as a table of a dozen rows: for those who do not see it, and for whoever wants the figures.

use super::scale::{Unit, moment};
use super::svg::escape;
use crate::model::columns::Column;
use std::fmt::Write;

/// Rows at most.
const ROWS_MAX: usize = 12;

/// The table as markup, closed until somebody opens it; nothing if there are no samples.
#[must_use]
pub fn table(name: &str, columns: &[Column], unit: Unit) -> String {
    let mut body = String::new();
    for [from, smallest, median, largest] in rows(columns, unit) {
        let _ = write!(body, "<tr><th scope=\"row\">{from}</th>"); // writing into a String cannot fail
        for figure in [smallest, median, largest] {
            let _ = write!(body, "<td class=\"n\">{figure}</td>");
        }
        body.push_str("</tr>");
    }
    if body.is_empty() {
        return body;
    }
    let head =
        ["Smallest", "Median", "Largest"].map(|word| format!("<th scope=\"col\" class=\"n\">{word}</th>")).concat();
    format!(
        "<details class=\"figures\"><summary>{} as a table</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">From</th>{head}</tr></thead><tbody>{body}</tbody></table></div></details>",
        escape(name)
    )
}

/// From when, smallest, median of the columns' medians, largest. The rows are equally long; those without samples are left out.
fn rows(columns: &[Column], unit: Unit) -> Vec<[String; 4]> {
    let (Some(first), Some(last)) = (columns.first(), columns.last()) else { return Vec::new() };
    let span_s = (last.unix_s - first.unix_s).max(1.0);
    let slot = |c: &Column| (((c.unix_s - first.unix_s) / span_s * ROWS_MAX as f64) as usize).min(ROWS_MAX - 1);
    let lowest = columns.iter().fold(f64::INFINITY, |m, c| m.min(c.min));
    let highest = columns.iter().fold(f64::NEG_INFINITY, |m, c| m.max(c.max));
    // Digits enough to tell a hundredth of what the series spans apart.
    let step = ((highest - lowest) / 100.0).max(highest.abs().max(lowest.abs()) * 1e-6).max(1e-3);
    columns
        .chunk_by(|a, b| slot(a) == slot(b))
        .map(|part| {
            let mut medians: Vec<f64> = part.iter().map(|c| c.median).collect();
            medians.sort_by(f64::total_cmp);
            let figures = [
                part.iter().fold(f64::INFINITY, |m, c| m.min(c.min)),
                medians[(medians.len() - 1) / 2],
                part.iter().fold(f64::NEG_INFINITY, |m, c| m.max(c.max)),
            ];
            let [smallest, median, largest] = figures.map(|value| unit.write(value, step));
            [moment(part[0].unix_s), smallest, median, largest]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_in_its_row_and_in_no_other() {
        let column = |i: u32| {
            let max = if i == 500 { 9e6 } else { 1e6 };
            Column {
                unix_s: f64::from(i) * 60.0,
                min: 0.9e6,
                median: 0.95e6,
                max,
                count: 60,
                segment: u32::from(i > 700),
            }
        };
        let rows = rows(&(0..1_000).map(column).collect::<Vec<_>>(), Unit::Bytes);
        assert_eq!(rows.len(), ROWS_MAX);
        let spiked: Vec<usize> = (0..ROWS_MAX).filter(|i| rows[*i][3].starts_with('9')).collect();
        assert_eq!(spiked, [6], "{rows:?}");
        assert_eq!(rows[0][..3], ["1970-01-01 00:00:00 UTC", "900 kB", "950 kB"]);
    }

    #[test]
    fn nothing_and_one_column_are_no_trouble() {
        assert!(rows(&[], Unit::Plain).is_empty());
        let one = Column { unix_s: 5.0, min: 1.0, median: 1.0, max: 1.0, count: 1, segment: 0 };
        assert_eq!(rows(&[one], Unit::Millis).len(), 1);
    }
}
