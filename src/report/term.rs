//! A plot for terminals: braille dots, two by four to a cell, with the range and the times at its edges. No colours:
//! what a pipe gets is what a screen shows.

use super::scale::{Unit, time_ticks};
use crate::model::columns::Column;
use std::fmt::Write;

/// Dots of a braille cell by column and row, as Unicode numbers them.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// Draws the columns' medians and extremes into `width` × `height` cells (labels included in the width). Empty for no
/// samples.
#[must_use]
pub fn plot(columns: &[Column], unit: Unit, width: usize, height: usize) -> String {
    let (Some(first), Some(last)) = (columns.first(), columns.last()) else { return String::new() };
    let (lo, hi) = columns.iter().fold((f64::MAX, f64::MIN), |(lo, hi), c| (lo.min(c.min), hi.max(c.max)));
    let step = ((hi - lo) / 10.0).max(hi.abs() * 1e-6);
    let labels = [unit.write(hi, step), unit.write(lo, step)];
    let margin = labels.iter().map(|l| l.chars().count()).max().unwrap_or(0) + 1;
    let (across, down) = (width.saturating_sub(margin + 1).clamp(8, 400), height.clamp(2, 60));
    let mut cells = vec![0u32; across * down];
    let span = (last.unix_s - first.unix_s).max(1e-9);
    let range = (hi - lo).max(1e-9);
    for c in columns {
        let x = ((c.unix_s - first.unix_s) / span * (across * 2 - 1) as f64).round() as usize;
        let row = |v: f64| ((hi - v) / range * (down * 4 - 1) as f64).round() as usize;
        for y in row(c.max)..=row(c.min).min(down * 4 - 1) {
            cells[y / 4 * across + x / 2] |= DOTS[x % 2][y % 4];
        }
    }
    let mut out = String::new();
    for (i, row) in cells.chunks(across).enumerate() {
        let label = if i == 0 {
            &labels[0]
        } else if i == down - 1 {
            &labels[1]
        } else {
            ""
        };
        let dots: String = row.iter().map(|bits| char::from_u32(0x2800 + bits).unwrap_or(' ')).collect();
        let _ = writeln!(out, "{label:>margin$}┤{}", dots.trim_end_matches('\u{2800}'));
    }
    out.push_str(&times(first.unix_s, last.unix_s, margin + 1, across));
    out
}

fn times(from_s: f64, to_s: f64, margin: usize, across: usize) -> String {
    let mut line: Vec<char> = vec![' '; margin + across + 12];
    for (t, label) in time_ticks(from_s, to_s, across / 14) {
        let at = margin + ((t - from_s) / (to_s - from_s).max(1e-9) * (across - 1) as f64) as usize;
        if line[at.saturating_sub(1)..(at + label.len() + 1).min(line.len())].iter().all(|c| *c == ' ') {
            for (slot, c) in line[at..].iter_mut().zip(label.chars()) {
                *slot = c;
            }
        }
    }
    let text: String = line.into_iter().collect();
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_rises_from_the_lower_left_to_the_upper_right() {
        let columns: Vec<Column> = (0..100)
            .map(f64::from)
            .map(|i| Column { unix_s: i * 60.0, min: i, median: i, max: i, count: 60, segment: 0 })
            .collect();
        let text = plot(&columns, Unit::Plain, 40, 5);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 6, "{text}");
        assert!(rows[0].starts_with(" 99") && rows[4].starts_with("  0"), "{text}");
        assert!(rows[0].chars().count() > rows[4].chars().count(), "the top row's dots lie to the right\n{text}");
        assert!(rows[5].contains("01:00"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 42), "{text}");
        assert_eq!(plot(&[], Unit::Plain, 40, 5), "");
    }
}
